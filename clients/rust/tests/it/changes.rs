//! Files that are written to while they are uploaded: what may be of two states is never acknowledged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use keepbest_client::{Client, Error, UploadOptions, upload};
use tempfile::TempDir;

use crate::fake::{Fake, MIB, bytes, start};

/// Far more than is read ahead of the network.
const SIZE: usize = 16 * MIB;

struct Desk {
    fake: Arc<Fake>,
    client: Client,
    folder: TempDir,
    source: PathBuf,
}

impl Desk {
    async fn new() -> Desk {
        let (fake, client) = start().await;
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("model.bin");
        fs::write(&source, bytes(SIZE)).unwrap();
        Desk { fake, client, folder, source }
    }

    async fn upload(&self, sha256: bool) -> Result<(), Error> {
        let options = UploadOptions { sha256, ..UploadOptions::default() };
        upload(&self.client, "c", 1, &self.source, &options).await.map(drop)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_written_to_behind_the_reader_is_not_acknowledged() {
    let desk = Desk::new().await;
    let source = desk.source.clone();
    desk.fake.do_meanwhile(move || {
        File::options().write(true).open(source).unwrap().write_all_at(b"new", 0).unwrap();
    });
    let error = desk.upload(false).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)) && error.to_string().contains("was written to"), "{error}");
    assert!(desk.fake.complete.lock().unwrap().is_empty());

    // What was sent of the state before is not gone on from.
    desk.upload(false).await.unwrap();
    assert!(desk.fake.files.lock().unwrap()["model.bin"].1 == fs::read(&desk.source).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_on_its_way_is_not_acknowledged() {
    let desk = Desk::new().await;
    let (source, other) = (desk.source.clone(), desk.folder.path().join("other"));
    desk.fake.do_meanwhile(move || {
        fs::write(&other, bytes(SIZE)).unwrap();
        fs::rename(other, source).unwrap();
    });
    let error = desk.upload(false).await.unwrap_err();
    assert!(error.to_string().contains("is another file now"), "{error}");
    assert!(desk.fake.complete.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_between_two_streams_is_not_acknowledged() {
    let desk = Desk::new().await;
    desk.fake.cut_after(10);
    let source = desk.source.clone();
    desk.fake.do_meanwhile(move || {
        File::options().write(true).open(source).unwrap().write_all_at(b"new", SIZE as u64 - 3).unwrap();
    });
    let error = desk.upload(true).await.unwrap_err();
    assert!(error.to_string().contains("was written to"), "{error}");
    assert!(desk.fake.complete.lock().unwrap().is_empty());
}
