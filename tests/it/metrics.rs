//! What a server tells of itself at its port for Prometheus: exact counts after known work, a bounded number of series, no names, and
//! the table of docs/operations.md.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use keepbest_proto::v1;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::raw;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::scrape::Family;
use crate::support::scrape::scrape;
use crate::support::scrape::send;
use crate::support::scrape::until;
use crate::support::scrape::with_port;
use crate::support::server::TestServer;
use crate::support::server::start_with;
use crate::support::teams;

const MODEL: usize = 300_000;

async fn start() -> TestServer {
    start_with(with_port).await
}

/// Two epochs of which one is saved, the same report again, the same bytes under another run, and a read.
async fn work(server: &TestServer) {
    let model = noise(1, MODEL);
    let mut first = Trainer::start(server, "first", best_only()).await;
    let version = first.save(0, 0.5, &model).await;
    let worse = first.epoch(1, 0.7).await;
    assert_eq!(worse.action(), v1::Action::Skip);
    first.sequence -= 1;
    assert_eq!(first.epoch(1, 0.7).await, worse, "the same report again");
    let mut second = Trainer::start(server, "second", every_epoch()).await;
    second.save(0, 0.9, &model).await;
    let given_up = second.epoch(1, 0.8).await.checkpoint;
    for _ in 0..2 {
        let request = v1::AbandonCheckpointRequest { checkpoint: given_up.clone(), attempt: second.attempt };
        server.checkpoints().abandon_checkpoint(request).await.unwrap();
    }
    assert_eq!(read(server, &version.name, "model.keras").await.unwrap(), model);
    let missing = v1::GetRunRequest { name: "teams/default/projects/digits/runs/nobody".to_owned() };
    assert_eq!(server.runs().get_run(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn known_work_is_counted_exactly() {
    let server = start().await;
    work(&server).await;
    let read = "keepbest_requests_total{method=\"keepbest.v1.Artifacts/ReadFile\",code=\"OK\"}";
    until(&server, read, 1.0).await;
    let missed = "keepbest_requests_total{method=\"keepbest.v1.Runs/GetRun\",code=\"NOT_FOUND\"}";
    let told = until(&server, missed, 1.0).await;
    let request =
        |method: &str| format!("keepbest_requests_total{{method=\"keepbest.v1.{method}\",code=\"OK\"}}");
    for (series, expected) in [
        (request("Runs/StartRun"), 2.0),
        (request("Runs/ReportEvents"), 5.0),
        (request("Runs/GetRun"), 0.0),
        (request("Checkpoints/WriteFile"), 2.0),
        (request("Checkpoints/CommitCheckpoint"), 2.0),
        (request("Checkpoints/AbandonCheckpoint"), 2.0),
        ("keepbest_requests_open{method=\"keepbest.v1.Runs/ReportEvents\"}".to_owned(), 0.0),
        ("keepbest_events_total".to_owned(), 4.0),
        ("keepbest_repeated_events_total".to_owned(), 1.0),
        ("keepbest_decisions_total{action=\"SAVE\"}".to_owned(), 3.0),
        ("keepbest_decisions_total{action=\"SKIP\"}".to_owned(), 1.0),
        ("keepbest_decisions_total{action=\"FAIL\"}".to_owned(), 0.0),
        ("keepbest_commits_total".to_owned(), 2.0),
        ("keepbest_checkpoints_given_up_total{reason=\"abandoned\"}".to_owned(), 1.0),
        ("keepbest_chunks_total{stored=\"new\"}".to_owned(), 1.0),
        ("keepbest_chunks_total{stored=\"shared\"}".to_owned(), 1.0),
        ("keepbest_chunk_bytes_total{stored=\"new\"}".to_owned(), 300_000.0),
        ("keepbest_chunk_bytes_total{stored=\"shared\"}".to_owned(), 300_000.0),
        ("keepbest_buffer_used_bytes{buffers=\"uploads\"}".to_owned(), 0.0),
        ("keepbest_ready".to_owned(), 1.0),
    ] {
        assert_eq!(told.value(&series), Some(expected), "{series}");
    }
    let received =
        "keepbest_request_bytes_total{method=\"keepbest.v1.Checkpoints/WriteFile\",direction=\"received\"}";
    let sent = "keepbest_request_bytes_total{method=\"keepbest.v1.Artifacts/ReadFile\",direction=\"sent\"}";
    for (series, least) in [(received, 600_000.0), (sent, 300_000.0)] {
        let bytes = told.value(series).unwrap();
        assert!((least..least * 1.01).contains(&bytes), "{series} is {bytes}");
    }
    // The probe of the start, its mark, the chunk, and a manifest for each version.
    assert!(told.value("keepbest_store_seconds_count{operation=\"put\"}").unwrap() >= 4.0);
    assert!(told.value("keepbest_store_bytes_total{direction=\"read\"}").unwrap() >= 300_000.0);
    assert!(told.value("keepbest_database_set_writes_count{kind=\"report\"}").unwrap() >= 5.0);
}

#[tokio::test]
async fn a_commit_that_is_repeated_is_counted_once() {
    let server = start().await;
    let mut trainer = Trainer::start(&server, "run", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    trainer.upload(&checkpoint, "model.keras", b"weights").await.unwrap();
    for _ in 0..3 {
        trainer.commit(&checkpoint).await.unwrap();
    }
    let calls = "keepbest_requests_total{method=\"keepbest.v1.Checkpoints/CommitCheckpoint\",code=\"OK\"}";
    let told = until(&server, calls, 3.0).await;
    assert_eq!(told.value("keepbest_commits_total"), Some(1.0));
}

#[tokio::test]
async fn whoever_asks_for_what_does_not_exist_makes_one_series() {
    let server = start().await;
    let channel = server.channel();
    let before = scrape(&server).await.text.lines().count();
    for number in 0..1_000 {
        let path = format!("/keepbest.v1.Runs/Start{number}Run");
        raw::call(&channel, &path, Bytes::new()).await.unwrap_err();
    }
    let told =
        until(&server, "keepbest_requests_total{method=\"other\",code=\"UNIMPLEMENTED\"}", 1_000.0).await;
    assert!(!told.text.contains("Start7Run"), "{}", told.text);
    // The count, and the buckets of one histogram.
    assert!(told.text.lines().count() - before < 40, "{}", told.text);
}

#[tokio::test]
async fn two_servers_in_one_process_do_not_mix() {
    let (busy, idle) = (start().await, start().await);
    work(&busy).await;
    let told = scrape(&idle).await;
    for family in ["keepbest_events_total", "keepbest_commits_total", "keepbest_connections_total"] {
        assert_eq!(told.value(family), Some(0.0), "{family}");
    }
    assert!(told.series("keepbest_requests_total").iter().all(|it| it.ends_with(" 0")), "{}", told.text);
    assert_eq!(scrape(&busy).await.value("keepbest_commits_total"), Some(2.0));
}

#[tokio::test]
async fn no_name_and_no_secret_is_told() {
    let guarded = teams::start_with(with_port).await;
    let (server, admin) = (&guarded.server, guarded.admin.as_str());
    let request = v1::CreateTeamRequest { team_id: "team-orchid".to_owned() };
    guarded.ask(Some(admin), "Admin/CreateTeam", request).await.unwrap();
    let named = v1::GetRunRequest { name: "teams/team-orchid/projects/peony/runs/tulip".to_owned() };
    guarded.ask(Some(admin), "Runs/GetRun", named.clone()).await.unwrap_err();
    guarded.ask(Some("kb_wrong_lily"), "Runs/GetRun", named).await.unwrap_err();
    let refused = "keepbest_requests_total{method=\"keepbest.v1.Runs/GetRun\",code=\"UNAUTHENTICATED\"}";
    let told = until(server, refused, 1.0).await;
    let folder = server.data_dir().to_str().unwrap();
    for name in ["orchid", "peony", "tulip", "lily", admin, folder, "127.0.0.1"] {
        assert!(!told.text.contains(name), "{name} is in\n{}", told.text);
    }
}

#[tokio::test]
async fn the_port_has_nothing_but_the_metrics() {
    let server = start().await;
    for (request, expected) in [
        ("GET / HTTP/1.1\r\nhost: k\r\n\r\n", "HTTP/1.1 404 "),
        ("GET /metrics/x HTTP/1.1\r\nhost: k\r\n\r\n", "HTTP/1.1 404 "),
        ("POST /metrics HTTP/1.1\r\nhost: k\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 405 "),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let (head, _) = send(&server, request).await;
        assert!(head.starts_with(expected), "{request:?}: {head}");
    }
    let (head, body) = send(&server, "GET /metrics?x=1 HTTP/1.1\r\nhost: k\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.ends_with('\n'), "{head}");
    let (head, body) = send(&server, "HEAD /metrics HTTP/1.1\r\nhost: k\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.is_empty(), "{head}{body}");
}

#[tokio::test]
async fn whoever_fills_the_port_with_silence_keeps_it_only_for_a_while() {
    const MOST: usize = 16;
    let server = start().await;
    let address = server.config().metrics.listen.unwrap();
    let mut silent = Vec::new();
    for _ in 0..MOST {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /met").await.unwrap();
        silent.push(stream);
    }
    // Connections are accepted in their order, so by now all places are taken.
    let mut further = TcpStream::connect(address).await.unwrap();
    // It may be closed before it has said a word, or while it does.
    drop(further.write_all(b"GET /metrics HTTP/1.1\r\nhost: k\r\n\r\n").await);
    let mut answer = Vec::new();
    let ended = further.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{ended:?} {answer:?}");
    // The server ends them by itself; only then is there room.
    for mut stream in silent {
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{ended:?} {answer:?}");
    }
    assert_eq!(scrape(&server).await.value("keepbest_ready"), Some(1.0));
}

#[tokio::test]
async fn what_tls_refuses_and_when_its_certificate_ends_is_told() {
    let authority = Authority::new();
    let pair = authority.issue_expired("server", &LOCAL);
    let server = start_with(|config| {
        config.tls = pair.settings();
        with_port(config);
    })
    .await;
    // The first moment of 2002.
    let expiry = "keepbest_certificate_expiry_timestamp_seconds";
    assert_eq!(scrape(&server).await.value(expiry), Some(1_009_843_200.0));
    let address = server.address().replace("http://", "");
    let mut plain = TcpStream::connect(&address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    until(&server, "keepbest_connections_refused_total{reason=\"protocol\"}", 1.0).await;
    let mut broken = TcpStream::connect(&address).await.unwrap();
    broken.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    let told = until(&server, "keepbest_connections_refused_total{reason=\"tls\"}", 1.0).await;
    assert_eq!(told.value("keepbest_connections_total"), Some(2.0));
    until(&server, "keepbest_connections_open", 0.0).await;
}

/// The rows of the table of all metrics.
fn documented() -> BTreeMap<String, Family> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let (_, rest) = text.split_once("### All metrics").expect("docs/operations.md has a section for them");
    let table = rest.split("\n#").next().unwrap();
    // The labels stand in a table of two columns.
    let rows = table.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 3);
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else { panic!("{line}") };
        let labels = labels.split(',').map(|it| it.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|it| !it.is_empty()).collect();
        let family = Family { kind: kind.to_owned(), help: help.to_owned(), labels, series: 0 };
        (name.trim_matches('`').to_owned(), family)
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_table_in_the_runbook_is_what_a_server_tells() {
    let server = start().await;
    work(&server).await;
    // Disks are looked at on a thread of their own.
    let told = loop {
        let told = scrape(&server).await;
        if !told.series("keepbest_disk_bytes").is_empty() || server.config().store_url.is_some() {
            break told.families();
        }
    };
    let documented = documented();
    let mut findings = Vec::new();
    for (name, family) in &told {
        let labels: Vec<&str> = family.labels.iter().map(String::as_str).collect();
        let row = format!("| `{name}` | {} | {} | {} |", family.kind, labels.join(", "), family.help);
        match documented.get(name) {
            // What has no series here has its labels elsewhere: on Postgres, with TLS.
            Some(row) if family.series == 0 && (&row.kind, &row.help) == (&family.kind, &family.help) => {}
            Some(row) if Family { series: family.series, ..row.clone() } == *family => {}
            _ => findings.push(row),
        }
    }
    findings
        .extend(documented.keys().filter(|it| !told.contains_key(*it)).map(|it| format!("{it} is not told")));
    assert!(findings.is_empty(), "docs/operations.md lacks\n{}\n", findings.join("\n"));
}
