//! Uploads whose replica dies once it has made some of their bytes durable: another one goes on behind these.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use keepbest_client::Client;
use keepbest_client::FileDigest;
use keepbest_client::Run;
use keepbest_client::UploadOptions;
use keepbest_client::v1;

use super::ledger::Acked;
use super::ledger::Ledger;
use crate::support::front::Front;
use crate::support::replicas::Replicas;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::start_request;

/// One of three times the front sends the rest to the replica that was killed and is back.
const UPLOADS: usize = 40;
/// Of contents that no other trainer has.
const FIRST_SEED: u64 = 1 << 40;
const PATH: &str = "model.bin";
const MESSAGE_BYTES: usize = 1 << 20;
const CHUNK_BYTES: usize = 8 << 20;
/// Two chunks, of which the second is sent in part.
const BYTES: usize = CHUNK_BYTES + 3 * MESSAGE_BYTES;

/// Saves until the rest of an upload went to another replica than its begin.
pub(super) async fn until_one_goes_on_elsewhere(
    client: &Client,
    front: &Front,
    replicas: &mut Replicas,
) -> Ledger {
    let strategy = every_epoch();
    let mut run = Run::start(client, start_request("halfway", strategy.clone())).await.unwrap();
    let artifact = run.started().run.as_ref().unwrap().artifact.clone();
    let mut ledger = Ledger { run: run.name().to_owned(), artifact, strategy, ..Ledger::default() };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join(PATH);
    for upload in 0..UPLOADS {
        let before = front.resumes();
        let content = Bytes::from(noise(FIRST_SEED + upload as u64, BYTES));
        fs::write(&source, &content).unwrap();
        let decision = run.report(vec![ledger.event(upload, 1.0)]).await.unwrap().remove(0);
        ledger.values.push(1.0);
        let at = begin(client, front, &decision.checkpoint, run.attempt(), &content).await;
        tokio::task::block_in_place(|| replicas.kill_and_restart(&[at]));
        let uploaded = run.upload(&decision.checkpoint, &source, &UploadOptions::default()).await.unwrap();
        let version = run.commit(&decision.checkpoint, uploaded.file_count).await.unwrap();
        let mut digest = FileDigest::default();
        digest.update(&content);
        let files = [(PATH.to_owned(), digest.finish().to_vec())].into();
        ledger.acked.push(Acked { version, files });
        ledger.decisions.push(decision);
        let after = front.resumes();
        assert!(after.spared_bytes >= before.spared_bytes + CHUNK_BYTES as i64, "{before:?} {after:?}");
        if after.elsewhere > before.elsewhere {
            return ledger;
        }
    }
    panic!("no replica of another number was chosen {UPLOADS} times");
}

/// Sends more than a chunk and then nothing, until the chunk is durable; answers the replica that has it.
async fn begin(client: &Client, front: &Front, checkpoint: &str, attempt: i64, content: &Bytes) -> usize {
    let file = v1::PrepareFileRequest {
        checkpoint: checkpoint.to_owned(),
        attempt,
        path: PATH.to_owned(),
        size_bytes: content.len() as i64,
        ..Default::default()
    };
    client.prepare_file(file.clone()).await.unwrap();
    let first = v1::WriteFileRequest {
        checkpoint: checkpoint.to_owned(),
        attempt,
        path: PATH.to_owned(),
        ..Default::default()
    };
    let sent: Vec<_> = (0..CHUNK_BYTES / MESSAGE_BYTES + 1)
        .map(|number| {
            let data = content.slice(number * MESSAGE_BYTES..(number + 1) * MESSAGE_BYTES);
            let head = if number == 0 { first.clone() } else { v1::WriteFileRequest::default() };
            v1::WriteFileRequest { data, ..head }
        })
        .collect();
    // It ends when its replica dies, and begins again where a busy one refused it.
    let write = || {
        let (client, sent) = (client.clone(), sent.clone());
        tokio::spawn(async move { client.write_file(stream::iter(sent).chain(stream::pending())).await })
    };
    let mut writing = write();
    while client.prepare_file(file.clone()).await.unwrap().durable_bytes < CHUNK_BYTES as i64 {
        if writing.is_finished() {
            writing = write();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    front.writes_at(checkpoint, PATH).unwrap()
}
