//! The audit log: an entry for each call that changed something, in a chain that shows what is done to it.

use std::time::Duration;

use keepbest::maintenance;
use keepbest::maintenance::ReadData;
use keepbest_proto::v1;
use prost::Message;

use crate::support::teams;
use crate::support::teams::Guarded;

/// The log of a team, oldest first, once it has so many entries.
async fn entries(guarded: &Guarded, team: &str, count: usize) -> Vec<v1::AuditEntry> {
    loop {
        let request = v1::ListAuditEntriesRequest {
            parent: if team.is_empty() { String::new() } else { format!("teams/{team}") },
            page_size: 1_000,
            ..Default::default()
        };
        let answer = guarded.ask(Some(&guarded.admin), "Admin/ListAuditEntries", request).await.unwrap();
        let mut entries = v1::ListAuditEntriesResponse::decode(answer).unwrap().entries;
        if entries.len() >= count {
            entries.reverse();
            return entries;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn told(entries: &[v1::AuditEntry]) -> Vec<(&str, &str)> {
    entries.iter().map(|it| (it.method.as_str(), it.resource.as_str())).collect()
}

#[tokio::test]
async fn what_was_done_is_told_once_and_what_was_refused_is_not() {
    let guarded = teams::start().await;
    let pending = guarded.saved("a", "p").await;
    let maintainer = guarded.token_of("a", "maintainer").await;
    let artifact = "teams/a/projects/p/artifacts/run-first-model";
    let set = |alias: &str, expected: &str| v1::SetAliasRequest {
        artifact: artifact.to_owned(),
        alias: alias.to_owned(),
        version: "v0".to_owned(),
        expected_version: expected.to_owned(),
    };
    let token = Some(maintainer.text.as_str());
    guarded.ask(token, "Artifacts/SetAlias", set("production", "")).await.unwrap();
    guarded.ask(token, "Artifacts/SetAlias", set("production", "v7")).await.unwrap_err();
    let delete = v1::DeleteArtifactRequest { name: artifact.to_owned(), force: true, ..Default::default() };
    guarded
        .ask(
            token,
            "Artifacts/DeleteArtifact",
            v1::DeleteArtifactRequest { validate_only: true, ..delete.clone() },
        )
        .await
        .unwrap();
    let all = v1::DeleteVersionsRequest {
        parent: artifact.to_owned(),
        filter: "number >= 0".to_owned(),
        delete_aliases: true,
        delete_best: true,
        ..Default::default()
    };
    guarded.ask(token, "Artifacts/DeleteVersions", all).await.unwrap();
    guarded.ask(token, "Artifacts/DeleteArtifact", delete).await.unwrap();
    // `saved` made a token, a run and a version, and then two were made here.
    let entries = entries(&guarded, "a", 7).await;
    let commit = pending.rsplit_once('/').unwrap().0;
    let told = told(&entries);
    assert_eq!(told[0], ("Admin/CreateToken", "teams/a"));
    assert_eq!(told[1], ("Runs/StartRun", "teams/a/projects/p"));
    assert_eq!(told[2].0, "Checkpoints/CommitCheckpoint");
    assert!(told[2].1.starts_with(commit), "{told:?}");
    assert_eq!(told[3], ("Admin/CreateToken", "teams/a"));
    let methods = ["Artifacts/SetAlias", "Artifacts/DeleteVersions", "Artifacts/DeleteArtifact"];
    assert_eq!(told[4..], methods.map(|it| (it, artifact)));
    assert_eq!(entries[4].principal, maintainer.token.unwrap().name);
    assert!(
        entries.iter().all(|it| !it.request_id.is_empty() && it.address.starts_with("127.0.0.1:")),
        "{entries:?}"
    );
    let positions: Vec<i64> = entries.iter().map(|it| it.position).collect();
    assert_eq!(positions, (0..7).collect::<Vec<i64>>());
}

#[tokio::test]
async fn who_reads_weights_is_noted() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    let reader = guarded.token_of("a", "reader").await;
    let version = "teams/a/projects/p/artifacts/run-first-model/versions/v0";
    let read = |path: &str| v1::ReadFileRequest {
        version: version.to_owned(),
        path: path.to_owned(),
        ..Default::default()
    };
    guarded.ask(Some(&reader.text), "Artifacts/ReadFile", read("nothing")).await.unwrap_err();
    guarded.ask(Some(&reader.text), "Artifacts/ReadFile", read("model.keras")).await.unwrap();
    let entries = entries(&guarded, "a", 5).await;
    assert_eq!(told(&entries)[4], ("Artifacts/ReadFile", version));
    assert_eq!(entries[4].principal, reader.token.unwrap().name);
}

#[tokio::test]
async fn each_team_reads_its_own_log() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    guarded.saved("b", "p").await;
    for team in ["a", "b"] {
        let entries = entries(&guarded, team, 3).await;
        let of_team = format!("teams/{team}");
        assert!(entries.iter().all(|it| it.resource.starts_with(&of_team)), "{entries:?}");
    }
    let service = entries(&guarded, "", 3).await;
    let methods: Vec<&str> = service.iter().map(|it| it.method.as_str()).collect();
    assert_eq!(methods, ["Admin/CreateToken", "Admin/CreateTeam", "Admin/CreateTeam"]);
}

#[tokio::test]
async fn check_tells_where_a_log_was_changed() {
    let mut guarded = teams::start().await;
    guarded.saved("a", "p").await;
    entries(&guarded, "a", 3).await;
    entries(&guarded, "", 3).await;
    guarded.server.stop().await;
    let config = guarded.server.config().clone();
    let problems = async || maintenance::check(&config, ReadData::Nothing).await.unwrap().problems;
    assert_eq!(problems().await, Vec::<String>::new());
    if config.database_url.is_some() {
        return;
    }
    let database = config.data_dir.join("keepbest.db");
    for (change, expected) in [
        (
            "UPDATE audit_entries SET body = '{}' WHERE team = 'a' AND position = 1",
            "entry 1 is not what was written",
        ),
        ("DELETE FROM audit_entries WHERE team = 'a' AND position = 1", "entry 1 is missing"),
        ("DELETE FROM audit_entries WHERE team = 'a' AND position > 0", "the entries from 1 on are missing"),
    ] {
        let url = format!("sqlite:{}", database.display());
        let mut connection = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
        let problems = problems().await;
        assert!(problems.len() == 1 && problems[0].contains(expected), "{change}: {problems:?}");
    }
}
