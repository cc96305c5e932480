//! A manifest reads as it was written, to the last bit of each number, and anything else is noticed.

use proptest::prop_assert_eq;
use proptest::proptest;

use super::*;
use crate::domain::metric::MetricValue;

fn id(text: &str) -> Id {
    Id::parse("test", text).unwrap()
}

fn chunk(offset_bytes: i64, data: &[u8]) -> ManifestChunk {
    let digest = Digest::of_pieces([data]);
    let size_bytes = i64::try_from(data.len()).unwrap();
    ManifestChunk { offset_bytes, size_bytes, digest, object_key: format!("chunks/2026-11-23/{digest}") }
}

fn file(path: &str, chunks: Vec<ManifestChunk>) -> ManifestFile {
    let chunks: Vec<ManifestChunk> = chunks.into_iter().filter(|it| it.size_bytes > 0).collect();
    ManifestFile {
        path: path.to_owned(),
        size_bytes: chunks.iter().map(|it| it.size_bytes).sum(),
        digest: Digest::of_file(chunks.iter().map(|it| it.digest)),
        sha256: path.starts_with('s').then_some(Digest([7; 32])),
        chunks,
    }
}

fn manifest(metrics: Metrics, value: Option<f64>, files: Vec<ManifestFile>) -> Manifest {
    let artifact = ManifestArtifact {
        uid: "a1".to_owned(),
        team: id("vision"),
        project: id("mnist"),
        id: id("run-first-model"),
        kind: "model".to_owned(),
        monitor: "val_loss".to_owned(),
        direction: Direction::Min,
        create_time_us: 1,
    };
    let monitor_state = MonitorState { best: value.filter(|it| !it.is_nan()), ..MonitorState::default() };
    let run = ManifestRun {
        uid: "r1".to_owned(),
        id: id("first"),
        strategy: Strategy { initial_value_threshold: Some(f64::INFINITY), ..Strategy::default() },
        direction: Direction::Min,
        monitor_state,
        attempt: 3,
        state: "ACTIVE".to_owned(),
        revision: 17,
        last_epoch: Some(4),
        config_json: Some("{\"rate\":1e-3,\"text\":\"\\\"}]\"}".to_owned()),
        create_time_us: 1,
        update_time_us: i64::MAX,
        finish_time_us: None,
    };
    let parts = files.iter().map(|it| (it.path.as_str(), u64::try_from(it.size_bytes).unwrap(), it.digest));
    let version = ManifestVersion {
        state: ManifestState::Committed,
        number: 4,
        checkpoint: "c1".to_owned(),
        attempt: 2,
        epoch: 4,
        batch: None,
        step: Some(-1),
        path: "model-{epoch}.keras".to_owned(),
        weights_only: true,
        value,
        reason: "BEST".to_owned(),
        reason_text: "val_loss \u{2028} improved".to_owned(),
        aliases: vec!["epoch_4".to_owned()],
        metrics,
        metadata_json: None,
        size_bytes: files.iter().map(|it| it.size_bytes).sum(),
        file_count: i64::try_from(files.len()).unwrap(),
        part_count: None,
        digest: Digest::of_version(parts),
        create_time_us: 2,
        commit_time_us: 3,
        delete_time_us: None,
    };
    Manifest { head: ManifestHead { artifact, run, version }, files }
}

fn directory() -> Vec<ManifestFile> {
    vec![
        file("a \"quoted\" name", vec![chunk(0, b"")]),
        file("sub/ü", vec![chunk(0, b"one"), chunk(3, b"two")]),
        file("whole", vec![chunk(0, b"whole")]),
    ]
}

fn written(manifest: &Manifest) -> Vec<u8> {
    let mut writer = ManifestWriter::new(&manifest.head).unwrap();
    for file in &manifest.files {
        writer.file(file).unwrap();
    }
    let (pieces, digest) = writer.finish();
    assert_eq!(digest, manifest.head.version.digest);
    pieces.concat()
}

#[test]
fn a_manifest_is_json_that_says_what_it_is() {
    for files in [vec![], directory()] {
        let manifest = manifest([("loss".to_owned(), MetricValue::Integer(3))].into(), Some(0.1), files);
        let data = written(&manifest);
        assert_eq!(Manifest::read(&data), Ok(manifest.clone()));
        let json: serde_json::Value = serde_json::from_slice(&data).unwrap();
        assert_eq!(json["format"], "keepbest.manifest/1");
        assert_eq!(json["version"]["number"], 4);
        assert_eq!(json["files"].as_array().unwrap().len(), manifest.files.len());
    }
}

#[test]
fn a_flipped_bit_or_a_missing_byte_is_noticed() {
    let data = written(&manifest(Metrics::new(), None, directory()));
    for bit in 0..data.len() * 8 {
        let mut wrong = data.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::read(&wrong).is_err(), "bit {bit}");
    }
    for length in 0..data.len() {
        assert!(Manifest::read(&data[..length]).is_err(), "{length} bytes");
    }
}

/// The text with the digest that belongs to it.
fn sealed(text: &str) -> Vec<u8> {
    let (before, _) = text.rsplit_once(BEFORE_DIGEST).unwrap();
    let before = format!("{before}{BEFORE_DIGEST}");
    format!("{before}{}{END}", Digest::of_pieces([before.as_bytes()])).into_bytes()
}

#[test]
fn what_does_not_fit_together_is_refused_with_the_reason() {
    let text = String::from_utf8(written(&manifest(Metrics::new(), None, directory()))).unwrap();
    assert!(Manifest::read(&sealed(&text)).is_ok());
    let said = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        Manifest::read(&sealed(&text.replacen(from, to, 1))).unwrap_err().to_string()
    };
    let digest = |data: &[u8]| Digest::of_file([Digest::of_pieces([data])]).to_string();
    let (whole, other) = (digest(b"whole"), digest(b"other"));
    let cases = [
        ("keepbest.manifest/1", "keepbest.manifest/2", "its format is `keepbest.manifest/2`"),
        ("\"number\":4,", "", "missing field `number`"),
        ("\"vision\"", "\"../vision\"", "is not valid"),
        ("\"sub/ü\"", "\"../ü\"", "segment"),
        ("\"sub/ü\"", "\"sub/o\"", "the version is not the sum of its files"),
        (
            "\"size_bytes\":6,\"digest\"",
            "\"size_bytes\":7,\"digest\"",
            "file `sub/ü` is not the sum of its chunks",
        ),
        (&whole, &other, "file `whole` is not the sum of its chunks"),
    ];
    for (from, to, why) in cases {
        let said = said(from, to);
        assert!(said.contains(why), "{from}: {said}");
    }
}

proptest! {
    #[test]
    fn every_number_survives(
        values in proptest::collection::vec(proptest::num::f64::ANY, 0..20),
        whole in proptest::num::i64::ANY,
    ) {
        let mut metrics: Metrics =
            (0..).map(|number: i32| number.to_string()).zip(values.iter().copied().map(MetricValue::Number)).collect();
        metrics.insert("whole".to_owned(), MetricValue::Integer(whole));
        let manifest = manifest(metrics, values.first().copied(), vec![]);
        let read = Manifest::read(&written(&manifest)).unwrap();
        // NaN is not equal to itself, but the bits are.
        let bits = |manifest: &Manifest| -> Vec<u64> {
            let metrics = manifest.head.version.metrics.values();
            metrics.filter_map(MetricValue::as_f64).map(|it| if it.is_nan() { 1 } else { it.to_bits() }).collect()
        };
        prop_assert_eq!(bits(&read), bits(&manifest));
        prop_assert_eq!(format!("{read:?}"), format!("{manifest:?}"));
    }
}

/// A writer asks for so much room before it begins.
#[test]
fn its_size_is_known_before_from_its_files_and_chunks() {
    let chunk_bytes = 8 << 20;
    for (files, chunks) in [(2_000, 1), (1, 5_000), (30, 100)] {
        let whole = |number: i64| ManifestChunk {
            offset_bytes: number * chunk_bytes,
            size_bytes: chunk_bytes,
            digest: Digest([7; 32]),
            object_key: format!("chunks/2026-11-23/{:08x}-{number:032x}", 7),
        };
        let file = |number: i64| file(&format!("{number:0100}"), (0..chunks).map(whole).collect());
        let files: Vec<ManifestFile> = (0..files).map(file).collect();
        let mut head = manifest(Metrics::default(), None, vec![]).head;
        head.version.file_count = i64::try_from(files.len()).unwrap();
        head.version.size_bytes = files.iter().map(|it| it.size_bytes).sum();
        let mut writer = ManifestWriter::new(&head).unwrap();
        files.iter().for_each(|it| writer.file(it).unwrap());
        let written: usize = writer.finish().0.iter().map(Vec::len).sum();
        let about = head.about_bytes(files.len() as u64 * chunks as u64) as f64 / written as f64;
        assert!((0.9..1.5).contains(&about), "{} files of {chunks}: {about} of {written}", files.len());
    }
}
