//! Watching versions: each once, in order, whatever dies meanwhile.

mod replicas;

use keepbest_client::Client;
use keepbest_client::Watch;
use keepbest_client::v1;
use tonic::Code;

use crate::support::refusals::refusal;
use crate::support::requests::PROJECT;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::every_epoch;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::teams;

/// A watch of `parent` from its first version on.
fn from_start(parent: &str) -> v1::WatchVersionsRequest {
    v1::WatchVersionsRequest { parent: parent.to_owned(), from_start: true, ..Default::default() }
}

fn client(server: &TestServer) -> Client {
    Client::connect_lazy(server.address()).unwrap()
}

/// The next version, as `artifact/vN` with a star if it became best, and where to go on.
async fn next(watch: &mut Watch<'_>) -> (String, String) {
    loop {
        let seen = watch.next().await.unwrap();
        if let Some(version) = seen.version {
            let (_, name) = version.name.split_once("/artifacts/").unwrap();
            let star = if seen.is_best { "*" } else { "" };
            return (format!("{}{star}", name.replace("/versions", "")), seen.cursor);
        }
    }
}

async fn names(watch: &mut Watch<'_>, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(next(watch).await.0);
    }
    names
}

#[tokio::test]
async fn versions_come_once_and_in_order_wherever_a_watch_goes_on() {
    let server = server::start().await;
    let client = client(&server);
    let mut first = Trainer::start(&server, "first", every_epoch()).await;
    let mut second = Trainer::start(&server, "second", every_epoch()).await;
    first.save(0, 0.5, b"a").await;
    first.save(1, 0.7, b"b").await;
    second.save(0, 0.9, b"c").await;

    let mut all = client.watch_versions(from_start("teams/default"));
    let stands = all.next().await.unwrap();
    assert!(stands.version.is_none() && !stands.cursor.is_empty(), "{stands:?}");
    let mut found = names(&mut all, 2).await;
    // Another watch goes on where this one stands, and this one goes on, too.
    let (third, cursor) = next(&mut all).await;
    found.push(third);
    let (artifact, other) = ("run-first-model", "run-second-model");
    let expected = [format!("{artifact}/v0*"), format!("{artifact}/v1"), format!("{other}/v0*")];
    assert_eq!(found, expected);
    first.save(2, 0.4, b"d").await;
    let again = v1::WatchVersionsRequest { cursor, ..from_start(PROJECT) };
    let mut again = client.watch_versions(again);
    for watch in [&mut all, &mut again] {
        assert_eq!(next(watch).await.0, format!("{artifact}/v2*"));
    }

    // Of one run, of one artifact, and of the best alone.
    let run = format!("{PROJECT}/runs/second");
    let mut of_run = client.watch_versions(from_start(&run));
    let artifact_name = format!("{PROJECT}/artifacts/{artifact}");
    let best = v1::WatchVersionsRequest { best_only: true, ..from_start(&artifact_name) };
    let mut of_best = client.watch_versions(best);
    assert_eq!(names(&mut of_best, 2).await, [format!("{artifact}/v0*"), format!("{artifact}/v2*")]);
    assert_eq!(names(&mut of_run, 1).await, [format!("{other}/v0*")]);
    first.save(3, 0.6, b"e").await;
    first.save(4, 0.1, b"f").await;
    second.save(1, 0.8, b"g").await;
    assert_eq!(names(&mut of_best, 1).await, [format!("{artifact}/v4*")]);
    assert_eq!(names(&mut of_run, 1).await, [format!("{other}/v1*")]);
}

#[tokio::test]
async fn a_watch_from_now_on_sees_what_comes_and_no_more() {
    let server = server::start().await;
    let client = client(&server);
    let mut trainer = Trainer::start(&server, "r", best_only()).await;
    trainer.save(0, 0.5, b"a").await;
    let mut watch =
        client.watch_versions(v1::WatchVersionsRequest { parent: PROJECT.to_owned(), ..Default::default() });
    assert!(watch.next().await.unwrap().version.is_none());
    trainer.save(1, 0.4, b"b").await;
    assert_eq!(next(&mut watch).await.0, "run-r-model/v1*");
    // A version that was deleted meanwhile is left out.
    let gone = trainer.save(2, 0.3, b"c").await;
    trainer.save(3, 0.2, b"d").await;
    let delete = v1::DeleteVersionRequest { name: gone.name, delete_aliases: true, ..Default::default() };
    server.artifacts().delete_version(delete).await.unwrap();
    let mut later = client.watch_versions(from_start(PROJECT));
    assert_eq!(names(&mut later, 3).await, ["run-r-model/v0*", "run-r-model/v1*", "run-r-model/v3*"]);
}

#[tokio::test]
async fn a_cursor_of_another_feed_is_refused() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", best_only()).await;
    trainer.save(0, 0.5, b"a").await;
    for (cursor, code, reason) in
        [("x", Code::InvalidArgument, "BAD_CURSOR"), ("0f.1", Code::FailedPrecondition, "CURSOR_UNKNOWN")]
    {
        let request = v1::WatchVersionsRequest { cursor: cursor.to_owned(), ..from_start(PROJECT) };
        refusal(cursor, server.artifacts().watch_versions(request).await, code, reason);
    }
    let none = from_start(&format!("{PROJECT}/runs/none"));
    refusal("a run", server.artifacts().watch_versions(none).await, Code::NotFound, "NOT_FOUND");
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops_and_goes_on_after_its_restart() {
    let mut server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", best_only()).await;
    trainer.save(0, 0.5, b"a").await;
    let mut stream = server.artifacts().watch_versions(from_start(PROJECT)).await.unwrap().into_inner();
    let mut cursor = String::new();
    while let Some(seen) = stream.message().await.unwrap() {
        cursor.clone_from(&seen.cursor);
        if seen.version.is_some() {
            break;
        }
    }
    server.restart().await;
    let ended = loop {
        match stream.message().await {
            Ok(seen) => assert!(seen.is_some(), "a watch that ends says why"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let mut trainer = Trainer::start(&server, "r", best_only()).await;
    trainer.save(1, 0.4, b"b").await;
    let client = client(&server);
    let mut watch = client.watch_versions(v1::WatchVersionsRequest { cursor, ..from_start(PROJECT) });
    assert_eq!(next(&mut watch).await.0, "run-r-model/v1*");
}

#[tokio::test]
async fn a_watch_ends_when_its_token_does() {
    let guarded = teams::start().await;
    let token = guarded.token("a", "reader").await;
    let client = Client::builder(guarded.server.address()).token(&token).unwrap().connect_lazy().unwrap();
    let mut watch = client.watch_versions(from_start("teams/a"));
    assert!(watch.next().await.unwrap().version.is_none());
    let (_, rest) = token.split_once("kb_").unwrap();
    let id = rest.split('_').next().unwrap();
    let revoke = v1::RevokeTokenRequest { name: format!("teams/a/tokens/{id}") };
    guarded.ask(Some(&guarded.admin), "Admin/RevokeToken", revoke).await.unwrap();
    let refused = loop {
        if let Err(error) = watch.next().await {
            break error;
        }
    };
    assert_eq!(refused.reason(), "TOKEN_REVOKED", "{refused}");
    let foreign = client.watch_versions(from_start("teams/b")).next().await.unwrap_err();
    assert_ne!(foreign.reason(), "", "{foreign}");
}
