//! Tokens of attempts: what a worker of a training holds, so that it need not hold its team's.

use keepbest_proto::v1;
use prost::Message;
use tonic::Code;

use crate::support::calls;
use crate::support::calls::Names;
use crate::support::requests::best_only;
use crate::support::requests::reason;
use crate::support::teams;
use crate::support::teams::Guarded;

const PROJECT: &str = "teams/a/projects/p";

/// Starts an attempt of a run and answers its token.
async fn start(guarded: &Guarded, token: &str, run: &str) -> v1::StartRunResponse {
    let start = v1::StartRunRequest {
        parent: PROJECT.to_owned(),
        run_id: run.to_owned(),
        strategy: Some(best_only()),
        mint_run_token: true,
        ..Default::default()
    };
    v1::StartRunResponse::decode(guarded.ask(Some(token), "Runs/StartRun", start).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_worker_saves_for_its_attempt_and_does_nothing_else() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    let trainer = guarded.token("a", "trainer").await;
    let started = start(&guarded, &trainer, "second").await;
    start(&guarded, &trainer, "third").await;
    let worker = started.run_token.as_str();
    assert!(worker.starts_with("kb_"));
    let (own, uid) = (format!("{PROJECT}/runs/second"), "0198c0ffee0198c0ffee0198c0ffee01");
    for method in calls::methods() {
        let name = |run: &str| match calls::names(&method) {
            Names::Team => "teams/a".to_owned(),
            Names::Project => PROJECT.to_owned(),
            Names::Run => format!("{PROJECT}/runs/{run}"),
            Names::Checkpoint => format!("{PROJECT}/runs/{run}/checkpoints/{uid}"),
            Names::Artifact => format!("{PROJECT}/artifacts/run-{run}-model"),
            Names::Version => format!("{PROJECT}/artifacts/run-{run}-model/versions/v0"),
        };
        let ask = async |run: &str, attempt| {
            let answer =
                guarded.send(Some(worker), &method, calls::request(&method, &name(run), attempt)).await;
            answer.map_or_else(|it| it.code(), |_| Code::Ok)
        };
        let is_of_runs = matches!(calls::names(&method), Names::Run | Names::Checkpoint);
        if !is_of_runs || method.ends_with("/DeleteRun") {
            assert_eq!(ask("second", 1).await, Code::PermissionDenied, "{method}");
            continue;
        }
        assert_ne!(ask("second", 1).await, Code::PermissionDenied, "{method}");
        assert_eq!(ask("third", 1).await, Code::PermissionDenied, "{method}");
        if calls::is_fenced(&method) {
            assert_eq!(ask("second", 2).await, Code::PermissionDenied, "{method}");
        }
    }
    // FinishRun was among them, and the team's own token goes on: from then on the worker's is of an older attempt.
    start(&guarded, &trainer, "second").await;
    let beat = v1::HeartbeatRequest { run: own, attempt: 1 };
    let status = guarded.ask(Some(worker), "Runs/Heartbeat", beat).await.unwrap_err();
    assert_eq!(reason(&status), "STALE_ATTEMPT");
}

#[tokio::test]
async fn a_run_of_the_same_name_is_another_one() {
    let guarded = teams::start().await;
    let maintainer = guarded.token("a", "maintainer").await;
    let old = start(&guarded, &maintainer, "first").await.run_token;
    let name = format!("{PROJECT}/runs/first");
    let delete = v1::DeleteRunRequest { name: name.clone(), force: true, ..Default::default() };
    guarded.ask(Some(&maintainer), "Runs/DeleteRun", delete).await.unwrap();
    let new = start(&guarded, &maintainer, "first").await;
    assert_eq!(new.attempt, 1);
    let beat = || v1::HeartbeatRequest { run: name.clone(), attempt: 1 };
    guarded.ask(Some(&new.run_token), "Runs/Heartbeat", beat()).await.unwrap();
    // Another server, or this one after what it knows of the token is old, finds whose it was.
    let mut guarded = guarded;
    guarded.restart().await;
    let status = guarded.ask(Some(&old), "Runs/Heartbeat", beat()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

#[tokio::test]
async fn a_workers_token_ends_with_the_one_that_made_it() {
    let guarded = teams::start().await;
    let trainer = guarded.token_of("a", "trainer").await;
    let worker = start(&guarded, &trainer.text, "first").await.run_token;
    let beat = || v1::HeartbeatRequest { run: format!("{PROJECT}/runs/first"), attempt: 1 };
    guarded.ask(Some(&worker), "Runs/Heartbeat", beat()).await.unwrap();
    guarded.revoke(&trainer.token.unwrap().name).await;
    let status = guarded.ask(Some(&worker), "Runs/Heartbeat", beat()).await.unwrap_err();
    assert_eq!(reason(&status), "TOKEN_REVOKED");
}

#[tokio::test]
async fn tokens_of_attempts_stand_in_no_list() {
    let guarded = teams::start().await;
    let admin = guarded.token("a", "team-admin").await;
    start(&guarded, &admin, "first").await;
    let request = v1::ListTokensRequest { parent: "teams/a".to_owned(), ..Default::default() };
    let answer = guarded.ask(Some(&admin), "Admin/ListTokens", request).await.unwrap();
    let tokens = v1::ListTokensResponse::decode(answer).unwrap().tokens;
    assert_eq!(tokens.len(), 1, "{tokens:?}");
}
