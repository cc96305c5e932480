//! Uploads that hold the server's memory: idle ones end, and who finds no room is told when to come back.

use std::time::Duration;

use keepbest_proto::v1;
use tonic::Code;
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::prepare;
use crate::support::transfers::until_durable;
use crate::support::transfers::versions;
use crate::support::transfers::write_small;

const MODEL: &str = "model.keras";

#[tokio::test]
async fn an_upload_that_falls_silent_ends_and_keeps_what_is_durable() {
    let server = server::start_with(|config| config.limits.upload_idle_seconds = 1).await;
    let mut trainer = Trainer::start(&server, "silent", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(1, CHUNK + 100);
    for path in [MODEL, "trickle"] {
        prepare(&trainer, &checkpoint, path, data.len()).await.unwrap();
    }
    let silent = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    silent.send(&data[..CHUNK + 50]).await;
    until_durable(&trainer, &checkpoint, MODEL, data.len(), CHUNK).await;
    // One that sends a little now and then holds buffers just as well.
    let trickle = OpenUpload::begin(server.channel(), &trainer, &checkpoint, "trickle", 0).await;
    let trickling = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        let mut bytes = data.iter().take(50);
        while !trickle.is_over() {
            ticks.tick().await;
            trickle.send(&[*bytes.next().expect("it is ended while it trickles")]).await;
        }
        trickle.answer().await
    };
    let (silent, trickle) = tokio::join!(silent.answer(), trickling);
    for (what, answer) in [("silent", silent), ("trickling", trickle)] {
        refusal(what, answer, Code::DeadlineExceeded, "IDLE_TIMEOUT");
    }
    refusal("half", trainer.commit(&checkpoint).await, Code::FailedPrecondition, "FILES_INCOMPLETE");
    assert_eq!(versions(&server, &trainer.run).await, []);
    let file = prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    assert_eq!(file.durable_bytes, CHUNK as i64);
    for path in [MODEL, "trickle"] {
        trainer.upload(&checkpoint, path, &data).await.unwrap();
    }
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data);
}

/// A refusal that says when to come back.
fn assert_overloaded<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>) {
    let status = refusal(what, answer, Code::ResourceExhausted, "OVERLOADED");
    let retry = status.get_details_retry_info().and_then(|it| it.retry_delay);
    assert!(retry.is_some_and(|it| !it.is_zero()), "{what}: {status:?}");
}

#[tokio::test]
async fn who_finds_no_buffers_is_told_when_to_come_back() {
    let server = server::start_with(|config| config.limits.upload_buffers_bytes = 16 << 20).await;
    let mut trainer = Trainer::start(&server, "full", best_only()).await;
    let version = trainer.save(0, 0.5, b"earlier").await;
    let checkpoint = trainer.epoch(1, 0.4).await.checkpoint;
    let data = noise(2, 3 * CHUNK + 1);
    for path in ["first", "second"] {
        prepare(&trainer, &checkpoint, path, data.len()).await.unwrap();
    }
    let mut uploads = Vec::new();
    for path in ["first", "second"] {
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, path, 0).await;
        // A chunk that is stored, and one that has room for all of it: for that of the other stream there is none.
        upload.send(&data[..CHUNK + (2 << 20)]).await;
        uploads.push((path, upload));
    }
    let refused = loop {
        if let Some(over) = uploads.iter().position(|(_, upload)| upload.is_over()) {
            break uploads.remove(over);
        }
        prepare(&trainer, &checkpoint, "first", data.len()).await.unwrap();
    };
    assert_overloaded(refused.0, refused.1.answer().await);
    // Small files have room of their own.
    write_small(&trainer, &checkpoint, &[("small", b"x")]).await.unwrap();
    // Who reads is not in their way.
    assert_eq!(read(&server, &version.name, MODEL).await.unwrap(), b"earlier");
    let run = v1::GetRunRequest { name: trainer.run.clone() };
    assert_eq!(server.runs().get_run(run).await.unwrap().get_ref().event_count, 2);
    let (_, other) = uploads.remove(0);
    other.send(&data[CHUNK + (2 << 20)..]).await;
    other.finish().await.unwrap();
    trainer.upload(&checkpoint, refused.0, &data).await.unwrap();
    assert_eq!(trainer.commit(&checkpoint).await.unwrap().file_count, 3);
}

#[tokio::test]
async fn a_cancelled_upload_gives_its_buffers_back() {
    let server = server::start_with(|config| config.limits.upload_buffers_bytes = 16 << 20).await;
    let mut trainer = Trainer::start(&server, "cancelled", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(3, CHUNK + 1);
    prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    for _ in 0..20 {
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
        upload.send(&data[..1 << 20]).await;
        upload.cancel().await;
    }
    // The last of them may still be taking the file over: then we are told so, and go on.
    while let Err(status) = trainer.upload(&checkpoint, MODEL, &data).await {
        assert_eq!(reason(&status), "UPLOAD_SUPERSEDED", "{status}");
    }
    trainer.commit(&checkpoint).await.unwrap();
}

#[tokio::test]
async fn uploads_that_hold_all_buffers_stop_no_small_save() {
    let server = server::start_with(|config| config.limits.upload_buffers_bytes = 64 << 20).await;
    let mut trainer = Trainer::start(&server, "slow", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(4, 3 * CHUNK + 1);
    let mut slow = Vec::new();
    // Each has a chunk that is stored and one that has room for all of it, until one finds none.
    while !slow.iter().any(OpenUpload::is_over) {
        let path = format!("slow-{}", slow.len());
        prepare(&trainer, &checkpoint, &path, data.len()).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, &path, 0).await;
        upload.send(&data[..CHUNK + (2 << 20)]).await;
        while !upload.is_over() {
            let file = prepare(&trainer, &checkpoint, &path, data.len()).await.unwrap();
            if file.durable_bytes == CHUNK as i64 {
                break;
            }
        }
        slow.push(upload);
    }
    let mut other = Trainer::start(&server, "small", best_only()).await;
    for epoch in 0..3 {
        let checkpoint = other.epoch(epoch, 0.5 / (epoch + 1) as f64).await.checkpoint;
        let files: [(&str, &[u8]); 2] = [("weights", &data[..2 << 20]), ("optimizer", &data[..1 << 20])];
        write_small(&other, &checkpoint, &files).await.unwrap();
        other.commit(&checkpoint).await.unwrap();
    }
    drop(slow);
}

#[tokio::test]
async fn uploads_whose_senders_are_slow_give_way_to_one_that_waits() {
    // Chunks of uploads begin in 4 MiB of them.
    let server = server::start_with(|config| config.limits.upload_buffers_bytes = 24 << 20).await;
    let mut trainer = Trainer::start(&server, "slow", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(5, 3 * CHUNK + 1);
    let mut slow = Vec::new();
    for path in ["0", "1", "2", "3", "4"] {
        prepare(&trainer, &checkpoint, path, data.len()).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, path, 0).await;
        upload.send(&data[..10]).await;
        slow.push((path, upload));
    }
    trainer.upload(&checkpoint, "other", &data).await.unwrap();
    let (over, held): (Vec<_>, Vec<_>) = slow.into_iter().partition(|(_, upload)| upload.is_over());
    assert!(!over.is_empty());
    for (path, upload) in over {
        let status = refusal(path, upload.answer().await, Code::ResourceExhausted, "OVERLOADED");
        assert!(status.get_error_details().retry_info().is_some(), "{status}");
        trainer.upload(&checkpoint, path, &data).await.unwrap();
    }
    for (_, upload) in held {
        upload.cancel().await;
    }
}

/// Eleven are more than had room once, when each took 24 MiB before its first byte.
#[tokio::test]
async fn uploads_that_have_sent_little_hold_little() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "slow", best_only()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let data = noise(6, 3 * CHUNK + 1);
    let mut slow = Vec::new();
    for path in (0..11).map(|number| format!("slow-{number}")) {
        prepare(&trainer, &checkpoint, &path, data.len()).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, &path, 0).await;
        upload.send(&data[..10]).await;
        slow.push(upload);
    }
    let mut other = Trainer::start(&server, "quick", best_only()).await;
    other.save(0, 0.5, &data).await;
    assert!(slow.iter().all(|upload| !upload.is_over()), "nobody had to give way");
    for upload in slow {
        upload.cancel().await;
    }
}
