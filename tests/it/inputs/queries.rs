//! Questions: pages, tokens, filters, orders, aliases, ranges, and which metric.

use keepbest_proto::v1;
use tonic::Code;

use crate::support::refusals::Witness;
use crate::support::refusals::refusal;
use crate::support::requests::PROJECT;
use crate::support::requests::Trainer;
use crate::support::requests::every_epoch;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::artifact_of;

/// A server with three versions of one run.
async fn with_versions() -> (TestServer, Trainer, String) {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", every_epoch()).await;
    for epoch in 0..3 {
        trainer.save(epoch, 0.5, b"0123456789").await;
    }
    let artifact = artifact_of(&trainer.run);
    (server, trainer, artifact)
}

#[tokio::test]
async fn page_sizes_and_tokens_that_are_not_ours_are_refused() {
    let (server, trainer, artifact) = with_versions().await;
    Trainer::start(&server, "second", every_epoch()).await;
    let (mut runs, mut artifacts) = (server.runs(), server.artifacts());
    let project = || PROJECT.to_owned();
    let list = |page_size, page_token: &str, order_by: &str| v1::ListVersionsRequest {
        parent: artifact.clone(),
        page_size,
        page_token: page_token.to_owned(),
        order_by: order_by.to_owned(),
        ..Default::default()
    };
    let of_versions =
        artifacts.list_versions(list(1, "", "epoch")).await.unwrap().into_inner().next_page_token;
    let of_runs = v1::ListRunsRequest { parent: project(), page_size: 1, ..Default::default() };
    let of_runs = runs.list_runs(of_runs).await.unwrap().into_inner().next_page_token;
    let of_decisions =
        v1::ListDecisionsRequest { parent: trainer.run.clone(), page_size: 1, ..Default::default() };
    let of_decisions = runs.list_decisions(of_decisions).await.unwrap().into_inner().next_page_token;
    for token in [&of_versions, &of_runs, &of_decisions] {
        assert!(!token.is_empty(), "there is a second page");
    }
    assert!(artifacts.list_versions(list(1, &of_versions, "epoch")).await.is_ok());
    let query = of_versions.split('.').next().unwrap();
    let forged = ["x", ".", "0", "../..", &format!("{query}.-1"), &format!("{query}.x"), query];
    let forged: Vec<String> =
        forged.iter().map(|it| (*it).to_owned()).chain([of_runs, of_decisions]).collect();
    let what = "a token of something else";
    for token in &forged {
        let answer = artifacts.list_versions(list(1, token, "epoch")).await;
        refusal(format!("{what}: {token}"), answer, Code::InvalidArgument, "BAD_PAGE_TOKEN");
    }
    for token in forged.iter().take(7).chain([&of_versions]) {
        let token = || token.to_owned();
        let (invalid, reason) = (Code::InvalidArgument, "BAD_PAGE_TOKEN");
        let request = v1::ListRunsRequest { parent: project(), page_token: token(), ..Default::default() };
        refusal(what, runs.list_runs(request).await, invalid, reason);
        let request =
            v1::ListArtifactsRequest { parent: project(), page_token: token(), ..Default::default() };
        refusal(what, artifacts.list_artifacts(request).await, invalid, reason);
        let parent = || trainer.run.clone();
        let request = v1::ListEventsRequest { parent: parent(), page_token: token(), ..Default::default() };
        refusal(what, runs.list_events(request).await, invalid, reason);
        let request =
            v1::ListDecisionsRequest { parent: parent(), page_token: token(), ..Default::default() };
        refusal(what, runs.list_decisions(request).await, invalid, reason);
    }
    refusal(
        "another order",
        artifacts.list_versions(list(1, &of_versions, "")).await,
        Code::InvalidArgument,
        "BAD_PAGE_TOKEN",
    );
    // A place far behind the end is an empty page.
    let list = |page_token| v1::ListEventsRequest {
        parent: trainer.run.clone(),
        page_size: 1,
        page_token,
        ..Default::default()
    };
    let token = runs.list_events(list(String::new())).await.unwrap().into_inner().next_page_token;
    let far = format!("{}.{}", token.split('.').next().unwrap(), i64::MAX);
    assert_eq!(runs.list_events(list(far)).await.unwrap().into_inner(), v1::ListEventsResponse::default());
}

#[tokio::test]
async fn negative_page_sizes_are_refused_and_large_ones_clamped() {
    let (server, trainer, artifact) = with_versions().await;
    let (mut runs, mut artifacts) = (server.runs(), server.artifacts());
    for page_size in [-1, i32::MIN] {
        let (invalid, reason) = (Code::InvalidArgument, "BAD_PAGE_SIZE");
        let parent = || trainer.run.clone();
        let request = v1::ListRunsRequest { parent: PROJECT.to_owned(), page_size, ..Default::default() };
        refusal(page_size, runs.list_runs(request).await, invalid, reason);
        let request = v1::ListEventsRequest { parent: parent(), page_size, ..Default::default() };
        refusal(page_size, runs.list_events(request).await, invalid, reason);
        let request = v1::ListDecisionsRequest { parent: parent(), page_size, ..Default::default() };
        refusal(page_size, runs.list_decisions(request).await, invalid, reason);
        let request = v1::ListVersionsRequest { parent: artifact.clone(), page_size, ..Default::default() };
        refusal(page_size, artifacts.list_versions(request).await, invalid, reason);
        let request =
            v1::ListArtifactsRequest { parent: PROJECT.to_owned(), page_size, ..Default::default() };
        refusal(page_size, artifacts.list_artifacts(request).await, invalid, reason);
    }
    let request = v1::ListVersionsRequest { parent: artifact, page_size: i32::MAX, ..Default::default() };
    assert_eq!(artifacts.list_versions(request).await.unwrap().get_ref().versions.len(), 3);
    let request = v1::ListDecisionsRequest { parent: trainer.run, action: 9, ..Default::default() };
    refusal("action 9", runs.list_decisions(request).await, Code::InvalidArgument, "BAD_FILTER");
}

#[tokio::test]
async fn a_filter_that_is_none_is_refused() {
    let (server, _, artifact) = with_versions().await;
    let mut artifacts = server.artifacts();
    let many = vec!["epoch = 1"; 17].join(" AND ");
    let long = format!("metrics.{} = 1", "m".repeat(4_096));
    let filters = [
        "epoch",
        "epoch =",
        "= 1",
        "epoch == 1",
        "epoch = 'x'",
        "epoch = 1 OR",
        "epoch = 1 XOR epoch = 2",
        "epoch = 1 AND",
        "AND",
        "(epoch = 1",
        "epoch = 1)",
        "epoch = 1;",
        "1 = 1",
        "1 = 1; DROP TABLE runs; --",
        "epoch = 1 -- x",
        "owner = \"x\"",
        "epoch = 99999999999999999999",
        "metrics. = 1",
        "metrics.a = nan",
        "metrics.a = \"1\"",
        "run = \"a",
        "run > \"a\"",
        "create_time > \"yesterday\"",
        "create_time > 5",
        "epoch = \"1\"",
        "epoch\0= 1",
        "número = 1",
        &many,
        &long,
        "run = \"a\0b\"",
        "metrics.a\0b < 1",
    ];
    for filter in filters {
        let request = v1::ListVersionsRequest {
            parent: artifact.clone(),
            filter: filter.to_owned(),
            ..Default::default()
        };
        let answer = artifacts.list_versions(request).await;
        refusal(format!("{filter:?}"), answer, Code::InvalidArgument, "BAD_FILTER");
    }
    // A name is a value, never a part of the statement.
    for filter in ["metrics.a'b < 1", "metrics.a\"b > 0", "run = \"x' OR '1'='1\""] {
        let request = v1::ListVersionsRequest {
            parent: artifact.clone(),
            filter: filter.to_owned(),
            ..Default::default()
        };
        match artifacts.list_versions(request).await {
            Ok(listed) => assert_eq!(listed.get_ref().versions, [], "{filter}"),
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{filter}: {status:?}"),
        }
    }
}

#[tokio::test]
async fn an_order_that_is_none_is_refused() {
    let (server, _, artifact) = with_versions().await;
    let mut artifacts = server.artifacts();
    let orders = [
        "color",
        "epoch up",
        "epoch desc desc",
        "epoch, number",
        "metrics.",
        "epoch;",
        "1",
        "-epoch",
        "random()",
        "number desc; DROP TABLE runs",
    ];
    for order_by in orders {
        let request = v1::ListVersionsRequest {
            parent: artifact.clone(),
            order_by: order_by.to_owned(),
            ..Default::default()
        };
        let answer = artifacts.list_versions(request).await;
        refusal(format!("{order_by:?}"), answer, Code::InvalidArgument, "BAD_ORDER");
    }
}

#[tokio::test]
async fn the_servers_aliases_and_malformed_ones_are_refused() {
    let (server, _, artifact) = with_versions().await;
    let mut artifacts = server.artifacts();
    let witness = Witness::of(&server).await;
    let long = "a".repeat(129);
    for alias in [
        "latest",
        "best",
        "epoch_0",
        "epoch_7_batch_3",
        "epoch_x",
        "v0",
        "v7",
        "v007",
        "",
        "..",
        "a/b",
        "ü",
        &long,
    ] {
        let set = v1::SetAliasRequest {
            artifact: artifact.clone(),
            alias: alias.to_owned(),
            version: "v0".to_owned(),
            ..Default::default()
        };
        let answer = artifacts.set_alias(set).await;
        witness.refused(format!("set {alias:?}"), answer, Code::InvalidArgument, "BAD_ALIAS").await;
        let delete = v1::DeleteAliasRequest {
            artifact: artifact.clone(),
            alias: alias.to_owned(),
            ..Default::default()
        };
        let answer = artifacts.delete_alias(delete).await;
        witness.refused(format!("delete {alias:?}"), answer, Code::InvalidArgument, "BAD_ALIAS").await;
    }
    for (version, expected, code, reason) in [
        ("v3", "", Code::NotFound, "NOT_FOUND"),
        ("nobody", "", Code::NotFound, "NOT_FOUND"),
        ("", "", Code::InvalidArgument, "BAD_NAME"),
        ("v 0", "", Code::InvalidArgument, "BAD_NAME"),
        ("v0", "best", Code::InvalidArgument, "BAD_NAME"),
        ("v0", "0", Code::InvalidArgument, "BAD_NAME"),
        ("v0", "v1", Code::FailedPrecondition, "ALIAS_MOVED"),
    ] {
        let set = v1::SetAliasRequest {
            artifact: artifact.clone(),
            alias: "mine".to_owned(),
            version: version.to_owned(),
            expected_version: expected.to_owned(),
        };
        let answer = artifacts.set_alias(set).await;
        witness.refused(format!("{version:?} if {expected:?}"), answer, code, reason).await;
    }
    for name in ["best", "latest", "epoch_1"] {
        let delete = v1::DeleteVersionRequest {
            name: format!("{artifact}/versions/{name}"),
            delete_aliases: true,
            ..Default::default()
        };
        let answer = artifacts.delete_version(delete).await;
        witness.refused(name, answer, Code::InvalidArgument, "BAD_NAME").await;
    }
}

#[tokio::test]
async fn a_range_beyond_the_end_is_out_of_range() {
    let (server, _, artifact) = with_versions().await;
    let mut artifacts = server.artifacts();
    let (invalid, beyond) = (Code::InvalidArgument, Code::OutOfRange);
    for (offset_bytes, length_bytes, code, reason) in [
        (11, 0, beyond, "OUT_OF_RANGE"),
        (10, 1, beyond, "OUT_OF_RANGE"),
        (0, 11, beyond, "OUT_OF_RANGE"),
        (i64::MAX, 1, beyond, "OUT_OF_RANGE"),
        (1, i64::MAX, beyond, "OUT_OF_RANGE"),
        (i64::MAX, i64::MAX, beyond, "OUT_OF_RANGE"),
        (-1, 0, invalid, "BAD_RANGE"),
        (0, -1, invalid, "BAD_RANGE"),
        (i64::MIN, i64::MIN, invalid, "BAD_RANGE"),
    ] {
        let version = format!("{artifact}/versions/best");
        let path = "model.keras".to_owned();
        let read = v1::ReadFileRequest { version, path, offset_bytes, length_bytes };
        let answer = artifacts.read_file(read).await.map(|_| ());
        refusal(format!("{offset_bytes} {length_bytes}"), answer, code, reason);
    }
    let missing = v1::ReadFileRequest {
        version: format!("{artifact}/versions/v0"),
        path: "other.keras".to_owned(),
        ..Default::default()
    };
    refusal("a file", artifacts.read_file(missing).await.map(|_| ()), Code::NotFound, "NOT_FOUND");
}

#[tokio::test]
async fn best_asks_for_what_it_cannot_know() {
    let (server, trainer, artifact) = with_versions().await;
    let accuracy = v1::Strategy { monitor: "val_accuracy".to_owned(), ..every_epoch() };
    Trainer::start(&server, "second", accuracy).await;
    let mut artifacts = server.artifacts();
    let (max, team) = (v1::Mode::Max.into(), "teams/default");
    for (parent, metric, mode, code, reason) in [
        (PROJECT, "", 0, Code::InvalidArgument, "METRIC_REQUIRED"),
        (team, "", 0, Code::InvalidArgument, "METRIC_REQUIRED"),
        ("teams/nobody", "", 0, Code::NotFound, "NOT_FOUND"),
        (&trainer.run, "loss", 0, Code::InvalidArgument, "METRIC_REQUIRED"),
        (&artifact, "val_loss", 9, Code::InvalidArgument, "BAD_MODE"),
        (&artifact, "loss", max, Code::NotFound, "NOT_FOUND"),
        (team, "no metric", max, Code::NotFound, "NOT_FOUND"),
    ] {
        let (parent, metric) = (parent.to_owned(), metric.to_owned());
        let request = v1::GetBestVersionRequest { parent, metric, mode, ..Default::default() };
        let what = format!("{request:?}");
        refusal(what, artifacts.get_best_version(request).await, code, reason);
    }
}
