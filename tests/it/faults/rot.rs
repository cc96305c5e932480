//! Objects that rot in the folder: every damage is found where it is, by readers and by the check.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use keepbest::app::Error;
use keepbest::app::check::CheckReport;
use keepbest::domain::digest::Digest;
use tempfile::TempDir;

use super::CHUNK;
use crate::support::apps::TestApp;
use crate::support::apps::Trainer;
use crate::support::apps::every_epoch;
use crate::support::apps::shown;
use crate::support::databases;
use crate::support::disk::files_below;
use crate::support::faults::Damage;
use crate::support::random::Random;
use crate::support::requests::noise;

/// So many bits are flipped, each in its turn.
const FLIPS: usize = 200;
/// Of the file that two versions share: a chunk, and a bit.
const BACKBONE: usize = CHUNK + 4_321;

/// A file of a version, by the version's number.
type Place = (i64, &'static str);

/// Six versions: a small file that is the same in all, one of its own for each, and in two of them a large one that they share.
async fn six_versions(test: &TestApp) -> (Trainer, BTreeMap<Place, Vec<u8>>) {
    let mut trainer = test.start("first", every_epoch()).await;
    let mut files = BTreeMap::new();
    for epoch in 0..6 {
        let checkpoint = trainer.saved(epoch, 0.5).await;
        files.insert((epoch, "config"), b"same".to_vec());
        files.insert((epoch, "weights"), noise(u64::try_from(epoch).unwrap(), 5_000));
        let small = [("config", &files[&(epoch, "config")][..]), ("weights", &files[&(epoch, "weights")])];
        trainer.write(&checkpoint, &small).await.unwrap();
        if epoch < 2 {
            files.insert((epoch, "backbone"), noise(99, BACKBONE));
            trainer.stream(&checkpoint, "backbone", &files[&(epoch, "backbone")]).await.unwrap();
        }
        trainer.commit(&checkpoint).await.unwrap();
    }
    (trainer, files)
}

/// The store with its objects, and what is known of it.
struct Rotten {
    test: TestApp,
    trainer: Trainer,
    files: BTreeMap<Place, Vec<u8>>,
    folder: TempDir,
    sound: CheckReport,
}

impl Rotten {
    async fn new() -> Rotten {
        let folder = tempfile::tempdir().unwrap();
        let objects = keepbest::store::objects_in(folder.path()).unwrap();
        let test = TestApp::with(databases::sqlite().await, objects).await;
        let (trainer, files) = six_versions(&test).await;
        // Each chunk is read once, however many versions share it.
        let chunks: BTreeSet<&[u8]> = files.values().flat_map(|data| data.chunks(CHUNK)).collect();
        let sound = CheckReport {
            versions: 6,
            files: 14,
            chunks: chunks.len() as u64,
            bytes_read: chunks.iter().map(|it| it.len() as u64).sum(),
            manifests: 6,
            ..CheckReport::default()
        };
        assert_eq!(test.app.check(true).await.unwrap(), sound);
        Rotten { test, trainer, files, folder, sound }
    }

    fn objects(&self) -> Vec<PathBuf> {
        let chunks = self.folder.path().join("chunks");
        let objects = files_below(&chunks);
        assert_eq!(objects.len(), 9);
        objects.iter().map(|it| chunks.join(it)).collect()
    }

    /// Damages one object, asks for everything, and mends it. Answers how many files it hit.
    async fn damage(&self, object: &Path, damage: Damage) -> usize {
        let right = fs::read(object).unwrap();
        let key = object.strip_prefix(self.folder.path()).unwrap().display();
        let was = Digest::of_pieces([&*right]);
        let why = match damage.to(&right) {
            Some(wrong) => {
                fs::write(object, &wrong).unwrap();
                let (size, is) = (wrong.len(), Digest::of_pieces([&*wrong]));
                format!("object `{key}` has {size} bytes with digest {is}, not {} with {was}", right.len())
            }
            None => {
                fs::remove_file(object).unwrap();
                format!("object `{key}` is missing")
            }
        };
        // Where these bytes stand in each file, if they do.
        let mut hit = BTreeMap::new();
        for (place, data) in &self.files {
            if let Some(chunk) = data.chunks(CHUNK).position(|chunk| chunk == right) {
                hit.insert(*place, chunk * CHUNK);
            }
        }
        self.check_names(&hit, &why, right.len()).await;
        self.readers_see(&hit, damage).await;
        fs::write(object, &right).unwrap();
        hit.len()
    }

    /// The check names exactly the versions and files that are hit, and reads all others.
    async fn check_names(&self, hit: &BTreeMap<Place, usize>, why: &str, lost: usize) {
        let problem = |((version, file), at): (&Place, &usize)| {
            format!("default/digits/run-first-model:v{version} file `{file}` at byte {at}: {why}")
        };
        let problems: Vec<String> = hit.iter().map(problem).collect();
        let bytes_read = self.sound.bytes_read - lost as u64;
        let expected = CheckReport { problems, bytes_read, ..self.sound.clone() };
        assert_eq!(self.test.app.check(true).await.unwrap(), expected);
    }

    /// A file that is hit ends in `DATA_LOSS` before the damaged chunk, every other one reads as it was written. Of large ones
    /// that are not hit the check has read every byte.
    async fn readers_see(&self, hit: &BTreeMap<Place, usize>, damage: Damage) {
        let asked = |(place, data): &(&Place, &Vec<u8>)| hit.contains_key(place) || data.len() < CHUNK;
        for ((version, file), data) in self.files.iter().filter(asked) {
            let (read, end) = self.trainer.read(&format!("v{version}"), file).await;
            match hit.get(&(*version, *file)) {
                Some(at) => {
                    assert!(matches!(end, Err(Error::DataLoss(_))), "{damage:?} v{version} {file}: {end:?}");
                    assert!(read == data[..*at], "{damage:?} v{version} {file}: {} bytes left", read.len());
                }
                None => assert!(end.is_ok() && read == *data, "{damage:?} v{version} {file}: {end:?}"),
            }
        }
    }
}

#[tokio::test]
async fn each_of_two_hundred_flipped_bits_is_found_where_it_is() {
    let rotten = Rotten::new().await;
    let objects = rotten.objects();
    let mut random = Random::new(7);
    let mut hit = BTreeMap::<usize, usize>::new();
    for _ in 0..FLIPS {
        let object = random.below(objects.len());
        let files = rotten.damage(&objects[object], Damage::Flip(random.below(usize::MAX))).await;
        *hit.entry(files).or_default() += 1;
    }
    // In one file, in both that share the large one, and in all six of the same small one.
    println!("flips by the number of files they hit: {hit:?}");
    assert_eq!(hit.keys().copied().collect::<Vec<_>>(), [1, 2, 6]);
    assert_eq!(hit.values().sum::<usize>(), FLIPS);
    assert_eq!(shown(&rotten.test.app.check(true).await.unwrap()), shown(&rotten.sound));
}

#[tokio::test]
async fn an_object_that_is_cut_gone_or_longer_is_found_where_it_is() {
    let rotten = Rotten::new().await;
    for object in rotten.objects() {
        let length = usize::try_from(object.metadata().unwrap().len()).unwrap();
        let damages = [Damage::Short(0), Damage::Short(length - 1), Damage::Long, Damage::Missing];
        for damage in damages {
            assert!(rotten.damage(&object, damage).await > 0);
        }
    }
    assert_eq!(shown(&rotten.test.app.check(true).await.unwrap()), shown(&rotten.sound));
}
