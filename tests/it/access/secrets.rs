//! Secrets show nowhere: canaries of each kind go in, and every sink is searched for them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use keepbest::config::Config;
use keepbest::config::Flags;
use keepbest::maintenance;
use keepbest_client::Client;
use keepbest_proto::v1;
use keepbest_proto::v1::runs_client::RunsClient;
use tonic::Request;
use tonic::transport::Channel;

use crate::support::raw;
use crate::support::server::ServerProcess;

const PAYLOAD: &str = "canary-in-the-payload";
const HEADER: &str = "canary-in-a-header";
const PASSWORD: &str = "canary-in-an-address";
const FOREIGN: &str = "canary-of-another-scheme";

#[tokio::test]
async fn a_canary_of_each_kind_is_in_no_log_error_or_entry() {
    let folder = tempfile::tempdir().unwrap();
    // Everything that our own code has to say; and of libraries what says what they send and receive.
    let settings =
        [("KEEPBEST_AUTH_REQUIRED", "true"), ("KEEPBEST_LOG_FILTER", "trace,h2=debug,hyper=debug")];
    let mut server = ServerProcess::start_with(folder.path(), &settings);
    let config = Config { data_dir: folder.path().to_owned(), ..Config::default() };
    let (_, admin) = maintenance::mint_admin_token(&config, Duration::from_secs(600)).await.unwrap();
    let client = Client::builder(server.address()).token(&admin).unwrap().connect_lazy().unwrap();
    client.create_team(v1::CreateTeamRequest { team_id: "a".to_owned() }).await.unwrap();
    let made = v1::CreateTokenRequest {
        scope: "teams/a".to_owned(),
        role: "trainer".to_owned(),
        ..Default::default()
    };
    let made = client.create_token(made).await.unwrap();
    let (_, nobodys) = keepbest_rules::token::mint([9; 9], [9; 32]);
    let trainer = Client::builder(server.address()).token(&made.text).unwrap().connect_lazy().unwrap();
    let mut tokens = vec![admin.clone(), made.text.clone(), nobodys.clone()];
    let mut seen = vec![format!("{client:?} {trainer:?} {:?}", made.token)];
    seen.extend(train(&trainer, &mut tokens).await);
    seen.extend(refused(&server, &[&nobodys, &made.text[..made.text.len() - 1], FOREIGN]).await);
    for parent in ["", "teams/a"] {
        let entries = v1::ListAuditEntriesRequest { parent: parent.to_owned(), ..Default::default() };
        seen.push(format!("{:?}", client.list_audit_entries(entries).await.unwrap()));
        let tokens = v1::ListTokensRequest { parent: parent.to_owned(), ..Default::default() };
        seen.push(format!("{:?}", client.list_tokens(tokens).await.unwrap()));
    }
    server.terminate();
    seen.push(server.whole_log());

    seen.extend(of_settings(folder.path(), &made.text).await);

    let secret = |text: &str| text.rsplit('_').next().unwrap()[..43].to_owned();
    let mut canaries = vec![PAYLOAD.to_owned(), HEADER.to_owned(), PASSWORD.to_owned(), FOREIGN.to_owned()];
    canaries.extend(tokens.iter().map(|it| secret(it)));
    for text in &seen {
        for canary in &canaries {
            let place = text.find(canary.as_str());
            let around = place.map(|at| &text[at.saturating_sub(200)..(at + canary.len()).min(text.len())]);
            assert_eq!(around, None, "{canary}");
        }
    }
    // The log was written, and tells of what was asked.
    assert!(seen.iter().any(|it| it.contains("Answered") && it.contains("WriteSmallFiles")));
}

/// What succeeds, and what is refused for what it says; adds the token of the attempt.
async fn train(trainer: &Client, tokens: &mut Vec<String>) -> Vec<String> {
    let mut seen = Vec::new();
    let start = v1::StartRunRequest {
        parent: "teams/a/projects/p".to_owned(),
        run_id: "first".to_owned(),
        strategy: Some(v1::Strategy {
            filepath: "m.bin".to_owned(),
            monitor: "loss".to_owned(),
            ..Default::default()
        }),
        mint_run_token: true,
        ..Default::default()
    };
    tokens.push(trainer.start_run(start.clone()).await.unwrap().run_token);
    let event = v1::Event {
        kind: v1::EventKind::EpochEnd.into(),
        metrics: [("loss".to_owned(), 0.5)].into(),
        ..Default::default()
    };
    let report = v1::ReportEventsRequest {
        run: "teams/a/projects/p/runs/first".to_owned(),
        attempt: 1,
        events: vec![event],
        ..Default::default()
    };
    let answer = trainer.report_events(report).await.unwrap();
    let checkpoint = answer.decisions[0].checkpoint.clone();
    let file = v1::SmallFile {
        path: "m.bin".to_owned(),
        data: Bytes::from_static(PAYLOAD.as_bytes()),
        ..Default::default()
    };
    let write =
        v1::WriteSmallFilesRequest { checkpoint: checkpoint.clone(), attempt: 1, files: vec![file.clone()] };
    trainer.write_small_files(write).await.unwrap();
    let damaged = v1::SmallFile { path: "n.bin".to_owned(), sha256: vec![7; 32].into(), ..file };
    let write =
        v1::WriteSmallFilesRequest { checkpoint: checkpoint.clone(), attempt: 1, files: vec![damaged] };
    seen.push(format!("{:?}", trainer.write_small_files(write).await.unwrap_err()));
    let commit = v1::CommitCheckpointRequest { checkpoint, attempt: 1, ..Default::default() };
    trainer.commit_checkpoint(commit).await.unwrap();
    let elsewhere = v1::StartRunRequest { parent: "teams/b/projects/p".to_owned(), ..start.clone() };
    seen.push(format!("{:?}", trainer.start_run(elsewhere).await.unwrap_err()));
    seen
}

/// What is refused because nobody is known by it.
async fn refused(server: &ServerProcess, wrong: &[&str]) -> Vec<String> {
    let mut seen = Vec::new();
    let channel = Channel::from_shared(server.address()).unwrap().connect_lazy();
    for wrong in wrong {
        for method in raw::methods() {
            let answer = raw::call_as(&channel, Some(wrong), &method, Bytes::from_static(b"\xff")).await;
            seen.push(format!("{:?}", answer.unwrap_err()));
        }
    }
    let mut request = Request::new(v1::GetRunRequest { name: "teams/a/projects/p/runs/first".to_owned() });
    request.metadata_mut().insert("x-canary", HEADER.parse().unwrap());
    request.metadata_mut().insert("authorization", format!("Basic {FOREIGN}").parse().unwrap());
    seen.push(format!("{:?}", RunsClient::new(channel).get_run(request).await.unwrap_err()));
    seen
}

/// What the settings hold, and what commands say of them.
async fn of_settings(folder: &Path, token: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let url = format!("postgres://keepbest:{PASSWORD}@127.0.0.1:1/none");
    let environment = [("KEEPBEST_DATABASE_URL".to_owned(), url.clone())];
    let config = Config::from_sources(None, environment, &Flags::default()).unwrap();
    seen.push(format!("{config:?} {:?} {}", config.settings(), config.database()));
    for arguments in
        [vec!["check-config"], vec!["serve", "--listen", "127.0.0.1:0"], vec!["gc"], vec!["runs"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keepbest"));
        command.args(&arguments).env("KEEPBEST_DATABASE_URL", &url).env("KEEPBEST_TOKEN", token);
        command.env("KEEPBEST_ADDRESS", "http://127.0.0.1:1").current_dir(folder);
        let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        seen.push(String::from_utf8_lossy(&done.stdout).into_owned());
        seen.push(String::from_utf8_lossy(&done.stderr).into_owned());
    }
    seen
}
