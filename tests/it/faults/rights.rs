//! Who may read a data folder: its owner, and whom its owner lets in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::support::probed::Probed;
use crate::support::requests::every_epoch;
use crate::support::requests::start_request;

/// The rights of group and others on the folder and on all in it.
fn open_to_others(folder: &Path) -> Vec<(PathBuf, u32)> {
    let (mut found, mut paths) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(path) = paths.pop() {
        let metadata = fs::metadata(&path).unwrap();
        if metadata.is_dir() {
            paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((path, metadata.permissions().mode() & 0o077));
    }
    found.retain(|(_, mode)| *mode != 0);
    found
}

/// Whatever writes to a data folder: a server with a save, and the commands that open it themselves.
async fn work_on(folder: &Path) {
    let mut server = Probed::start(folder);
    let mut trainer = server.trainer(start_request("first", every_epoch())).await.unwrap();
    trainer.save(0, 0.5, b"model").await;
    assert!(folder.join("keepbest.db-wal").is_file());
    let (first, second) = (open_to_others(folder), folder.metadata().unwrap().permissions().mode() & 0o077);
    assert!(first.iter().all(|(_, mode)| mode & !second == 0), "{first:?}");
    trainer.channel = server.channel();
    assert_eq!(server.terminate().await, Some(0));
    for command in ["gc", "check"] {
        let done =
            Command::new(env!("CARGO_BIN_EXE_keepbest")).args([command, "--data"]).arg(folder).output();
        assert!(done.unwrap().status.success(), "{command}");
    }
}

#[tokio::test]
async fn a_new_data_folder_is_its_owners_alone() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let folder = home.path().join("some/data");
    work_on(&folder).await;
    assert_eq!(open_to_others(&folder), []);
    assert_eq!(open_to_others(&home.path().join("some")), []);
}

#[tokio::test]
async fn a_folder_that_everybody_may_write_to_holds_nothing_that_others_may_write() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    work_on(folder.path()).await;
    let open = open_to_others(folder.path());
    assert!(open.iter().all(|(path, mode)| path == folder.path() || mode & 0o022 == 0), "{open:?}");
}

#[tokio::test]
async fn a_folder_that_its_owner_opened_to_a_group_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).unwrap();
    work_on(folder.path()).await;
    let open = open_to_others(folder.path());
    assert!(open.len() > 5 && open.iter().all(|(_, mode)| mode & !0o050 == 0), "{open:?}");
    for name in ["keepbest.db", "objects"] {
        assert!(open.iter().any(|(path, _)| path.ends_with(name)), "{name}: {open:?}");
    }
}
