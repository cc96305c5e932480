//! Uploads and downloads that are cut, go on, and are verified.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use keepbest_client::{CHUNK_BYTES, Client, Error, PullOptions, Retry, UploadOptions, pull, upload};

use crate::fake::{MIB, VERSION, bytes, start};

fn write_tree(folder: &Path) {
    fs::create_dir_all(folder.join("variables")).unwrap();
    fs::write(folder.join("variables/large.bin"), bytes(70 * MIB + 5)).unwrap();
    fs::write(folder.join("model.pb"), bytes(1_000)).unwrap();
    fs::write(folder.join("empty"), "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_it_was_cut() {
    let (fake, client) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.bin");
    let data = bytes(9 * MIB + 1);
    fs::write(&source, &data).unwrap();
    fake.cut_after(4);
    let uploaded = upload(&client, "c", 1, &source, &UploadOptions::default()).await.unwrap();
    assert_eq!((uploaded.file_count, uploaded.size_bytes), (1, data.len() as u64));
    assert!(fake.files.lock().unwrap()["model.bin"].1 == data);
    assert_eq!(fake.messages_written.load(Ordering::SeqCst), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_goes_on_from_another_files_bytes_is_refused() {
    let (fake, client) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.bin");
    fs::write(&source, bytes(9 * MIB)).unwrap();
    fake.files.lock().unwrap().insert("model.bin".into(), (9 * MIB, vec![7; 8 * MIB]));
    let error = upload(&client, "c", 1, &source, &UploadOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_complete_is_compared_and_not_sent_again() {
    let (fake, client) = start().await;
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("model.bin");
    fs::write(&source, bytes(2 * MIB)).unwrap();
    for _ in 0..2 {
        upload(&client, "c", 1, &source, &UploadOptions::default()).await.unwrap();
        assert_eq!(fake.messages_written.load(Ordering::SeqCst), 2);
    }
    fs::write(&source, vec![1; 2 * MIB]).unwrap();
    let error = upload(&client, "c", 1, &source, &UploadOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("other bytes need another save"), "{error}");
    assert!(fake.files.lock().unwrap()["model.bin"].1 == bytes(2 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_as_it_was() {
    let (fake, client) = start().await;
    let source = tempfile::tempdir().unwrap();
    write_tree(source.path());
    let uploaded = upload(&client, "c", 1, source.path(), &UploadOptions::default()).await.unwrap();
    assert_eq!(uploaded.file_count, 3);

    let folder = tempfile::tempdir().unwrap();
    fake.cut_after(3);
    let pulled = pull(&client, VERSION, folder.path(), &PullOptions::default()).await.unwrap();
    assert_eq!((pulled.received_bytes, pulled.skipped_files), (uploaded.size_bytes, 0));
    for path in ["variables/large.bin", "model.pb", "empty"] {
        assert!(fs::read(folder.path().join(path)).unwrap() == fs::read(source.path().join(path)).unwrap());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    let again = pull(&client, VERSION, folder.path(), &PullOptions::default()).await.unwrap();
    assert_eq!((again.received_bytes, again.skipped_files), (0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_after_its_process_ended() {
    let (fake, client) = start().await;
    let data = bytes(30 * MIB);
    fake.files.lock().unwrap().insert("model.bin".into(), (data.len(), data.clone()));
    let folder = tempfile::tempdir().unwrap();
    fake.cut_after(20);
    let hasty = Client::builder(client.address()).retry(Retry::never()).connect_lazy().unwrap();
    let error = pull(&hasty, VERSION, folder.path(), &PullOptions::default()).await.unwrap_err();
    assert_eq!(error.to_string(), "cut");
    assert!(!folder.path().join("model.bin").exists());

    fake.cut_after(0);
    let pulled = pull(&client, VERSION, folder.path(), &PullOptions::default()).await.unwrap();
    assert_eq!(pulled.received_bytes, data.len() as u64 - 2 * CHUNK_BYTES);
    assert!(fs::read(folder.path().join("model.bin")).unwrap() == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_pulled_whatever_their_names_are() {
    let (fake, client) = start().await;
    let longest = "n".repeat(255);
    let paths = [
        "x.keepbest-part/y",
        "x.keepbest-part-state",
        "z.keepbest-part",
        "x",
        ".keepbest-pull/a",
        ".keepbest-pull-2",
        &longest,
    ];
    for path in paths {
        fake.files.lock().unwrap().insert(path.into(), (path.len(), path.into()));
    }
    let folder = tempfile::tempdir().unwrap();
    for skipped_files in [0, paths.len() as u64] {
        let pulled = pull(&client, VERSION, folder.path(), &PullOptions::default()).await.unwrap();
        assert_eq!(pulled.skipped_files, skipped_files);
        for path in paths {
            assert_eq!(fs::read_to_string(folder.path().join(path)).unwrap(), path);
        }
    }
    assert!(!folder.path().join(".keepbest-pull-3").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_get_the_name() {
    let (fake, client) = start().await;
    fake.files.lock().unwrap().insert("model.bin".into(), (5, b"bytes".to_vec()));
    fake.corrupt.store(1, Ordering::SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&client, VERSION, folder.path(), &PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_files_that_does_not_match_the_versions_digest_is_not_pulled() {
    let (fake, client) = start().await;
    for path in ["a", "b"] {
        fake.files.lock().unwrap().insert(path.into(), (5, b"bytes".to_vec()));
    }
    fake.other_list.store(true, Ordering::SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("inner");
    let error = pull(&client, VERSION, &target, &PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt(_)), "{error}");
    assert!(!target.exists(), "nothing was written");
    fake.other_list.store(false, Ordering::SeqCst);
    pull(&client, VERSION, &target, &PullOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_leads_out_is_not_pulled() {
    let (fake, client) = start().await;
    fake.files.lock().unwrap().insert("../escaped".into(), (5, b"bytes".to_vec()));
    let folder = tempfile::tempdir().unwrap();
    let error =
        pull(&client, VERSION, &folder.path().join("inner"), &PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
