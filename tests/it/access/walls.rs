//! Teams are walls: another team's thing answers like one that does not exist, byte for byte and as quickly.

use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use keepbest_proto::v1;
use prost::Message;
use tonic::Code;

use crate::support::calls;
use crate::support::calls::Names;
use crate::support::requests::reason;
use crate::support::teams;
use crate::support::teams::Guarded;

/// All that an answer says, with the team's name made the same.
async fn told(guarded: &Guarded, token: &str, method: &str, name: &str, team: &str) -> String {
    let answer = guarded.send(Some(token), method, calls::request(method, name, 1)).await;
    let status = answer.unwrap_err();
    let mut metadata = status.metadata().clone();
    // Each request has another id, and an answer its time.
    metadata.remove("x-request-id");
    metadata.remove("date");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    let text = format!("{:?} {} {details} {metadata:?}", status.code(), status.message());
    text.replace(&format!("teams/{team}/"), "teams/*/")
        .replace(&format!("teams/{team}`"), "teams/*`")
        .replace(&format!("teams/{team}"), "teams/*")
}

#[tokio::test]
async fn a_foreign_thing_answers_as_one_that_nobody_made() {
    let guarded = teams::start().await;
    let pending = guarded.saved("b", "p").await;
    let uid = pending.rsplit('/').next().unwrap();
    let token = guarded.token("a", "team-admin").await;
    let mut compared = Vec::new();
    for method in calls::methods() {
        let name = |team: &str| {
            let project = format!("teams/{team}/projects/p");
            match calls::names(&method) {
                Names::Team => format!("teams/{team}"),
                Names::Project => project,
                Names::Run => format!("{project}/runs/first"),
                Names::Checkpoint => format!("{project}/runs/first/checkpoints/{uid}"),
                Names::Artifact => format!("{project}/artifacts/run-first-model"),
                Names::Version => format!("{project}/artifacts/run-first-model/versions/v0"),
            }
        };
        let foreign = told(&guarded, &token, &method, &name("b"), "b").await;
        let missing = told(&guarded, &token, &method, &name("c"), "c").await;
        assert_eq!(foreign, missing, "{method}");
        // And as one of the own team that is not there, where the method looks for that one thing.
        let own = guarded.send(Some(&token), &method, calls::request(&method, &name("a"), 1)).await;
        let looks = own.is_err_and(|it| it.message().contains(&format!("`{}` was not found", name("a"))));
        if looks {
            let own = told(&guarded, &token, &method, &name("a"), "a").await;
            assert_eq!(foreign, own, "{method}");
            compared.push(method);
        }
    }
    assert!(compared.len() > 15, "{compared:?}");
}

#[tokio::test]
async fn it_takes_as_long_to_hear_of_a_foreign_thing_as_of_a_missing_one() {
    const PAIRS: usize = 2_000;
    let guarded = teams::start().await;
    guarded.saved("b", "p").await;
    let token = guarded.token("a", "reader").await;
    let mut times = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        // In turns, and each first as often as the other.
        for place in [pair % 2, 1 - pair % 2] {
            let name = ["teams/b/projects/p/runs/first", "teams/b/projects/p/runs/missing"][place];
            let begun = Instant::now();
            let answer =
                guarded.ask(Some(&token), "Runs/GetRun", v1::GetRunRequest { name: name.to_owned() }).await;
            times[place].push(begun.elapsed());
            assert_eq!(answer.unwrap_err().code(), Code::NotFound);
        }
    }
    let medians = times.map(|mut times| {
        times.sort();
        times[PAIRS / 2]
    });
    println!("a foreign run {:?}, a missing one {:?}", medians[0], medians[1]);
    // The only time in these tests that is a promise: a difference tells strangers what exists.
    assert!(medians[0].abs_diff(medians[1]) < Duration::from_millis(1), "{medians:?}");
}

/// A digest, as a client names a chunk.
fn digest(data: &[u8]) -> Bytes {
    Bytes::copy_from_slice(blake3::hash(data).as_bytes())
}

#[tokio::test]
async fn a_digest_alone_opens_no_chunk_of_another_project() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    let pending = guarded.saved("a", "q").await;
    let secret = b"weights of teams/a/projects/p/runs/first";
    let own = b"weights of teams/a/projects/q/runs/first";
    let missing = async |token: &str| {
        let request = v1::FindMissingChunksRequest {
            checkpoint: pending.clone(),
            digests: vec![digest(secret), digest(own)],
        };
        let answer = guarded.ask(Some(token), "Checkpoints/FindMissingChunks", request).await.unwrap();
        v1::FindMissingChunksResponse::decode(answer).unwrap().missing
    };
    let write = async |token: &str, data: &[u8], path: &str| {
        let size_bytes = i32::try_from(data.len()).unwrap();
        let prepare = v1::PrepareFileRequest {
            checkpoint: pending.clone(),
            attempt: 1,
            path: path.to_owned(),
            size_bytes: size_bytes.into(),
            ..Default::default()
        };
        guarded.ask(Some(token), "Checkpoints/PrepareFile", prepare).await.unwrap();
        let request = v1::WriteFileRequest {
            checkpoint: pending.clone(),
            attempt: 1,
            path: path.to_owned(),
            known: vec![v1::KnownChunk { size_bytes, digest: digest(data) }],
            finish: true,
            ..Default::default()
        };
        guarded.ask(Some(token), "Checkpoints/WriteFile", request).await
    };
    let of_project = guarded.token("a/q", "trainer").await;
    assert_eq!(missing(&of_project).await, [0]);
    let status = write(&of_project, secret, "taken").await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Aborted, "CHUNK_MISSING"), "{status:?}");
    write(&of_project, own, "own").await.unwrap();
    // Who may read all of the team may share all of it.
    let of_team = guarded.token("a", "trainer").await;
    assert_eq!(missing(&of_team).await, [0_i32; 0]);
    write(&of_team, secret, "taken").await.unwrap();
}
