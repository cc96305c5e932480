//! Names: malformed ones, and names of what is not there or stands elsewhere.

use keepbest_proto::v1;
use tonic::Code;
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::calls::Names;
use crate::support::calls::is_fenced;
use crate::support::calls::methods;
use crate::support::calls::names;
use crate::support::calls::request;
use crate::support::raw;
use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::PROJECT;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::detail;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::artifact_of;

const UID: &str = "0198c0ffee0198c0ffee0198c0ffee01";

/// A well-formed name of each kind.
fn example(kind: Names) -> String {
    match kind {
        Names::Team => "teams/default".to_owned(),
        Names::Project => PROJECT.to_owned(),
        Names::Run => format!("{PROJECT}/runs/first"),
        Names::Checkpoint => format!("{PROJECT}/runs/first/checkpoints/{UID}"),
        Names::Artifact => format!("{PROJECT}/artifacts/run-first-model"),
        Names::Version => format!("{PROJECT}/artifacts/run-first-model/versions/v0"),
    }
}

/// The name with each of its ids made bad, and with its form broken.
fn malformed(name: &str) -> Vec<String> {
    let long = "x".repeat(129);
    let ids = ["", ".", "..", "-", "ü", "a b", "a/b", "a\0", "%2e%2e", "a\n", "{a}", long.as_str()];
    let segments: Vec<&str> = name.split('/').collect();
    let mut bad = Vec::new();
    for place in (1..segments.len()).step_by(2) {
        for id in ids {
            let mut segments = segments.clone();
            segments[place] = id;
            bad.push(segments.join("/"));
        }
    }
    let without_last_id = segments[..segments.len() - 1].join("/");
    let forms = [String::new(), "/".to_owned(), "first".to_owned(), without_last_id];
    bad.extend(forms);
    bad.extend([format!("/{name}"), format!("{name}/"), format!("{name}/x"), format!("{name}/runs/x")]);
    bad.extend([name.to_uppercase(), name.replacen('s', "", 1), format!(" {name}")]);
    bad
}

/// A server with a run that has a version, and a second save that is pending.
async fn with_a_run() -> (TestServer, Trainer, String) {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    trainer.save(0, 0.5, b"weights").await;
    let pending = trainer.epoch(1, 0.4).await.checkpoint;
    (server, trainer, pending)
}

#[tokio::test]
async fn a_malformed_name_is_refused_by_every_method() {
    let (server, ..) = with_a_run().await;
    let channel = server.channel();
    let witness = Witness::of(&server).await;
    for method in methods() {
        let mut malformed = malformed(&example(names(&method)));
        if method.ends_with("/ListRuns") || method.ends_with("/ListArtifacts") {
            // To them alone `-` is a word: all projects.
            malformed.retain(|it| it != "teams/default/projects/-");
        }
        for name in malformed {
            let answer = raw::call(&channel, &method, request(&method, &name, 1)).await;
            refusal(format!("{method} {name:?}"), answer, Code::InvalidArgument, "BAD_NAME");
        }
        witness.nothing_stored(method).await;
    }
}

#[tokio::test]
async fn a_name_with_a_wrong_word_is_not_taken_for_another_kind() {
    let (server, ..) = with_a_run().await;
    let channel = server.channel();
    for method in methods() {
        for kind in [Names::Project, Names::Run, Names::Checkpoint, Names::Artifact, Names::Version] {
            let best = ["GetBestVersion", "WatchVersions"].iter().any(|it| method.ends_with(it))
                && !matches!(kind, Names::Checkpoint | Names::Version);
            let files = method.ends_with("/ListFiles") && kind == Names::Checkpoint;
            if kind == names(&method) || best || files {
                continue;
            }
            let answer = raw::call(&channel, &method, request(&method, &example(kind), 1)).await;
            refusal(format!("{method} {kind:?}"), answer, Code::InvalidArgument, "BAD_NAME");
        }
    }
}

#[tokio::test]
async fn ids_and_labels_beside_the_name_are_checked_too() {
    let server = server::start().await;
    let mut runs = server.runs();
    let witness = Witness::of(&server).await;
    let long = "x".repeat(129);
    for bad in [".", "..", "-", "a/b", "ü", "a\0", long.as_str()] {
        let mut start = start_request(bad, best_only());
        let answer = runs.start_run(start.clone()).await;
        witness.refused(format!("run {bad:?}"), answer, Code::InvalidArgument, "BAD_NAME").await;
        (start.run_id, start.artifact_id) = ("fine".to_owned(), bad.to_owned());
        let answer = runs.start_run(start).await;
        witness.refused(format!("artifact {bad:?}"), answer, Code::InvalidArgument, "BAD_NAME").await;
    }
    let trainer = Trainer::start(&server, "writers", best_only()).await;
    let witness = Witness::of(&server).await;
    for bad in ["-", "a/b"] {
        let report = v1::ReportEventsRequest {
            run: trainer.run.clone(),
            attempt: trainer.attempt,
            writer: bad.to_owned(),
            ..Default::default()
        };
        let answer = runs.report_events(report).await;
        witness.refused(format!("writer {bad:?}"), answer, Code::InvalidArgument, "BAD_NAME").await;
        let alias = v1::SetAliasRequest {
            artifact: artifact_of(&trainer.run),
            alias: bad.to_owned(),
            version: "v0".to_owned(),
            ..Default::default()
        };
        let answer = server.artifacts().set_alias(alias).await;
        witness.refused(format!("alias {bad:?}"), answer, Code::InvalidArgument, "BAD_ALIAS").await;
    }
    for bad in ["a\nb", "\0", long.as_str()] {
        let start = start_request("fine", best_only());
        let labels = [
            v1::StartRunRequest { artifact_type: bad.to_owned(), ..start.clone() },
            v1::StartRunRequest { request_id: bad.to_owned(), ..start },
        ];
        for start in labels {
            let answer = runs.start_run(start).await;
            witness.refused(format!("label {bad:?}"), answer, Code::InvalidArgument, "BAD_LABEL").await;
        }
    }
    let start = v1::StartRunRequest { resume: 9, ..start_request("fine", best_only()) };
    witness.refused("resume 9", runs.start_run(start).await, Code::InvalidArgument, "BAD_RESUME").await;
    let must = v1::Resume::Must.into();
    let start = v1::StartRunRequest { resume: must, ..start_request("fine", best_only()) };
    witness.refused("resume MUST", runs.start_run(start).await, Code::NotFound, "NOT_FOUND").await;
}

/// Everything of a refusal but the name that it tells.
fn without_name(status: &Status, name: &str) -> (Code, String, String) {
    // Of a version it may be the artifact that is not there.
    let artifact = name.split("/versions/").next().unwrap();
    let message = status.message().replace(name, "NAME").replace(artifact, "NAME");
    let details = status.get_error_details();
    (status.code(), message, format!("{details:?}").replace(name, "NAME"))
}

#[tokio::test]
async fn what_stands_elsewhere_answers_like_what_does_not_exist() {
    let (server, ..) = with_a_run().await;
    let parent = "teams/other/projects/digits".to_owned();
    let start = v1::StartRunRequest { parent, ..start_request("theirs", best_only()) };
    let mut theirs = Trainer::start_as(&server, start).await.unwrap();
    theirs.save(0, 0.1, b"their weights").await;
    let pending = theirs.epoch(1, 0.05).await.checkpoint;
    let uid = pending.rsplit('/').next().unwrap();
    // The same ids under our team's names, beside ids of nothing.
    let foreign = |kind| match kind {
        Names::Run => (format!("{PROJECT}/runs/theirs"), format!("{PROJECT}/runs/nobody")),
        Names::Checkpoint => (format!("{PROJECT}/runs/first/checkpoints/{uid}"), example(Names::Checkpoint)),
        Names::Artifact => {
            (artifact_of(&format!("{PROJECT}/runs/theirs")), artifact_of(&format!("{PROJECT}/runs/nobody")))
        }
        Names::Version => {
            let version =
                |run: &str| format!("{}/versions/v0", artifact_of(&format!("{PROJECT}/runs/{run}")));
            (version("theirs"), version("nobody"))
        }
        Names::Team | Names::Project => unreachable!("these need no making"),
    };
    let channel = server.channel();
    let witness = Witness::of(&server).await;
    let mut asked = 0;
    for method in methods().into_iter().filter(|it| ![Names::Team, Names::Project].contains(&names(it))) {
        let (theirs, nobodys) = foreign(names(&method));
        let mut seen = Vec::new();
        for name in [&theirs, &nobodys] {
            let answer = raw::call(&channel, &method, request(&method, name, 1)).await;
            let status = refusal(format!("{method} {name}"), answer, Code::NotFound, "NOT_FOUND");
            seen.push(without_name(&status, name));
        }
        assert_eq!(seen[0], seen[1], "{method} tells that {theirs} exists");
        asked += 1;
    }
    assert_eq!(asked, 29);
    witness.nothing_stored("asking for what is not there").await;
}

#[tokio::test]
async fn a_checkpoint_of_another_run_is_not_there() {
    let (server, _, pending) = with_a_run().await;
    let second = Trainer::start(&server, "second", best_only()).await;
    let uid = pending.rsplit('/').next().unwrap();
    let name = format!("{}/checkpoints/{uid}", second.run);
    let channel = server.channel();
    let witness = Witness::of(&server).await;
    for method in methods().into_iter().filter(|it| names(it) == Names::Checkpoint) {
        let answer = raw::call(&channel, &method, request(&method, &name, 1)).await;
        refusal(&method, answer, Code::NotFound, "NOT_FOUND");
    }
    witness.nothing_stored("asking under another run").await;
}

#[tokio::test]
async fn a_stale_attempt_changes_nothing() {
    let (server, mut old, abandoned) = with_a_run().await;
    let mut new = Trainer::start(&server, "first", best_only()).await;
    let pending = new.epoch(2, 0.3).await.checkpoint;
    assert_eq!((old.attempt, new.attempt), (1, 2));
    let channel = server.channel();
    let witness = Witness::of(&server).await;
    let fenced: Vec<String> = methods().into_iter().filter(|it| is_fenced(it)).collect();
    assert_eq!(fenced.len(), 10);
    for method in fenced {
        let name = if names(&method) == Names::Run { &old.run } else { &pending };
        for attempt in [1, 0, -1, 3, i64::MAX] {
            let answer = raw::call(&channel, &method, request(&method, name, attempt)).await;
            let what = format!("{method} by attempt {attempt}");
            let status = refusal(&what, answer, Code::FailedPrecondition, "STALE_ATTEMPT");
            assert_eq!(detail(&status, "attempt"), "2", "{what}");
            assert_eq!(status.message().contains("is not set"), attempt == 0, "{what}: {status:?}");
            witness.nothing_stored(what).await;
        }
    }
    // Nor does the newest attempt go on with what an older one left.
    let answer = new.upload(&abandoned, "model.keras", b"late").await;
    refusal("the old checkpoint", answer, Code::FailedPrecondition, "STALE_ATTEMPT");
    // And what the old one reported before is not told to it either: it must stop.
    old.sequence = 0;
    let answer = old.report(vec![crate::support::requests::epoch_end(0, 0.5)]).await;
    refusal("a repeated report", answer, Code::FailedPrecondition, "STALE_ATTEMPT");
    witness.nothing_stored("the old attempt").await;
}
