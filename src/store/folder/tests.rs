//! The folder's store, on the file system of the machine and on one that refuses to pass its cache by.

use object_store::ObjectStoreExt;

use super::*;

/// Around what a page and a chunk hold, and what goes directly.
const SIZES: [usize; 12] = [
    0,
    1,
    ALIGN - 1,
    ALIGN,
    BLOCK_FROM - 1,
    BLOCK_FROM,
    BLOCK_FROM + 1,
    5 << 20,
    BLOCK_BYTES - ALIGN,
    BLOCK_BYTES - 1,
    BLOCK_BYTES,
    BLOCK_BYTES + 1,
];

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at.wrapping_mul(31) ^ (at >> 8).wrapping_mul(7) ^ size) as u8).collect()
}

/// The bytes in one piece that a disk takes as it is, as far as a block holds them.
fn aligned(blocks: &Blocks, bytes: &[u8]) -> PutPayload {
    if bytes.len() > BLOCK_BYTES {
        return bytes.to_vec().into();
    }
    let mut block = blocks.take();
    block.extend_from_slice(bytes);
    block.freeze().into()
}

fn pieces(bytes: &[u8]) -> PutPayload {
    bytes.chunks(700_001).map(Bytes::copy_from_slice).collect()
}

async fn keeps_what_it_is_given(folder: Folder, root: &Path) {
    for size in SIZES {
        let bytes = content(size);
        for (name, payload) in [("aligned", aligned(&folder.blocks, &bytes)), ("pieces", pieces(&bytes))] {
            let key = Key::from(format!("a/{size}/{name}"));
            folder.put(&key, payload).await.unwrap();
            let on_disk = std::fs::read(root.join(key.as_ref())).unwrap();
            assert!(on_disk == bytes, "{key}");
            // Past the page cache, and through it.
            for _ in 0..2 {
                assert!(folder.get(&key).await.unwrap().bytes().await.unwrap() == bytes, "{key}");
            }
            assert_eq!(folder.head(&key).await.unwrap().size, size as u64);
            if size > 10 {
                assert!(folder.get_range(&key, 5..9).await.unwrap() == bytes[5..9], "{key}");
            }
        }
        let key = Key::from(format!("a/{size}/aligned"));
        folder.put(&key, aligned(&folder.blocks, b"other")).await.unwrap();
        assert_eq!(folder.get(&key).await.unwrap().bytes().await.unwrap(), "other", "written again");
        folder.put(&key, aligned(&folder.blocks, &bytes)).await.unwrap();
        assert!(folder.get(&key).await.unwrap().bytes().await.unwrap() == bytes, "and again: {key}");
    }
    let left: Vec<String> = folder.list(None).map(|it| it.unwrap().location.to_string()).collect().await;
    assert_eq!(left.len(), 2 * SIZES.len(), "{left:?}");
}

#[tokio::test]
async fn objects_of_any_size_are_kept_past_the_page_cache() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), Blocks::default()).unwrap();
    let direct = Arc::clone(&folder.direct);
    keeps_what_it_is_given(folder, root.path()).await;
    assert_eq!(direct.is_taken(), takes_direct(root.path()));
}

#[tokio::test]
async fn objects_of_any_size_are_kept_where_the_file_system_refuses_to_pass_its_cache_by() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), Blocks::default()).unwrap().without_direct();
    keeps_what_it_is_given(folder, root.path()).await;
}

/// Whether a file can be written past the page cache there, asked with nothing of ours.
fn takes_direct(folder: &Path) -> bool {
    let done = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=4096", "count=1", "oflag=direct", "status=none"])
        .arg(format!("of={}", folder.join("probe").display()))
        .status();
    done.unwrap().success()
}

#[test]
fn pages_are_written_past_the_page_cache_and_what_it_refuses_is_not_written_at_all() {
    let root = tempfile::tempdir().unwrap();
    let bytes = content(BLOCK_FROM);
    let mut block = Blocks::default().take();
    block.extend_from_slice(&bytes);
    let direct = Direct(AtomicBool::new(true));
    let open = |name: &str| {
        OpenOptions::new().read(true).write(true).create_new(true).open(root.path().join(name)).unwrap()
    };
    let written = write_pages(&mut open("pages"), block.filled(), &direct).unwrap();
    if takes_direct(root.path()) {
        assert_eq!(written, BLOCK_FROM - BLOCK_FROM % ALIGN);
    }
    // Not at a page: as a file system says that takes the flag and not the bytes.
    let (mut file, shifted) = (open("shifted"), &block.filled()[1..]);
    if direct.is_taken() {
        assert_eq!(write_pages(&mut file, shifted, &direct).unwrap(), 0);
        assert!(!direct.is_taken(), "and it is not tried again");
    }
    file.write_all(shifted).unwrap();
    assert!(std::fs::read(root.path().join("shifted")).unwrap() == bytes[1..]);
}

#[tokio::test]
async fn the_first_objects_of_a_day_may_come_at_once() {
    let root = tempfile::tempdir().unwrap();
    let folder = Arc::new(Folder::open(root.path(), Blocks::default()).unwrap());
    for day in 0..50 {
        let puts = (0..8).map(|number| {
            let folder = Arc::clone(&folder);
            async move { folder.put(&Key::from(format!("chunks/{day}/a/b/{number}")), "x".into()).await }
        });
        for put in futures::future::join_all(puts).await {
            put.unwrap();
        }
    }
}

#[tokio::test]
async fn what_cannot_be_written_leaves_nothing_and_says_where() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), Blocks::default()).unwrap();
    std::fs::create_dir_all(root.path().join("a/taken")).unwrap();
    let refused = folder.put(&Key::from("a/taken"), aligned(&folder.blocks, &content(BLOCK_FROM))).await;
    let said = format!("{:?}", refused.unwrap_err());
    assert!(said.contains("rename") && said.contains("a/taken#1"), "{said}");
    assert_eq!(std::fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    let missing = folder.get(&Key::from("b")).await.unwrap_err();
    assert!(matches!(missing, object_store::Error::NotFound { .. }), "{missing:?}");
}

#[tokio::test]
async fn an_object_that_is_cut_between_two_looks_is_read_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a");
    std::fs::write(&path, content(BLOCK_FROM + 10)).unwrap();
    let mut block = Blocks::default().take();
    let direct = Direct(AtomicBool::new(true));
    read(&mut File::open(&path).unwrap(), BLOCK_BYTES, &mut block, Some(&direct)).unwrap();
    assert!(block.filled() == content(BLOCK_FROM + 10));
}
