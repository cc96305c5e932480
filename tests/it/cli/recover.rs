//! The commands for a bad day: `rebuild` and `check --read-data-subset`.

use std::fs;

use serde_json::Value;

use super::Desk;
use super::bytes;

#[test]
fn a_lost_database_is_rebuilt_and_a_damaged_version_is_named() {
    let mut desk = Desk::new();
    let data = bytes(300_000);
    desk.push(&data, "0.25", "1");
    let second = desk.push(b"second", "0.5", "2");
    let folder = desk.data.path().display().to_string();
    let rebuild = ["rebuild", "--data", &folder];
    let busy = desk.run(&rebuild);
    assert!(busy.code == 1 && busy.stderr.contains("in use by another keepbest server"), "{}", busy.stderr);
    desk.server.kill();
    let refused = desk.run(&rebuild);
    assert!(refused.code == 1 && refused.stderr.contains("the database has rows"), "{}", refused.stderr);

    let lose = || {
        for file in ["keepbest.db", "keepbest.db-wal", "keepbest.db-shm"] {
            drop(fs::remove_file(desk.data.path().join(file)));
        }
    };
    lose();
    let report = desk.json(&rebuild);
    assert_eq!(
        (&report["versions"], &report["files"], &report["skipped"]),
        (&2.into(), &2.into(), &Value::Array(vec![]))
    );
    for subset in ["1/2", "2/2"] {
        desk.ok(&["check", "--data", &folder, "--read-data-subset", subset]);
    }
    let both = desk.run(&["check", "--data", &folder, "--read-data", "--read-data-subset", "1/2"]);
    let none = desk.run(&["check", "--data", &folder, "--read-data-subset", "3/2"]);
    assert_eq!((both.code, none.code), (2, 2));

    lose();
    let manifests = desk.data.path().join("objects/manifests");
    let day = fs::read_dir(manifests).unwrap().next().unwrap().unwrap().path();
    let mut names: Vec<_> = fs::read_dir(day).unwrap().map(|it| it.unwrap().path()).collect();
    names.sort();
    fs::write(&names[1], b"not what it was").unwrap();
    let skipped = desk.run(&rebuild);
    assert_eq!(skipped.code, 1);
    assert!(skipped.stdout.contains("skipped: manifest `manifests/"), "{}", skipped.stdout);
    assert!(skipped.stderr.contains("1 manifest gave no version"), "{}", skipped.stderr);

    desk.server.kill_and_restart();
    desk.ok(&["pull", "cnn:best", "back"]);
    assert!(desk.read("back/model.bin") == data);
    assert_eq!(desk.run(&["show", "cnn:v1"]).code, 3, "{second}");
}
