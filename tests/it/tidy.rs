//! The plan of the house as a test: which room may name which, how long a file may be, that a merged migration stands, and
//! that the papers name files that exist. `ARCHITECTURE.md` gives the reasons.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Each room of `src/` with the rooms that it may import, floor by floor from below. `lib` only lists them.
const ROOMS: [(&str, &[&str]); 20] = [
    ("domain", &[]),
    ("failpoint", &[]),
    ("turns", &[]),
    ("near", &[]),
    ("figures", &[]),
    ("metrics", &[]),
    ("clock", &[]),
    ("db", &["domain", "failpoint", "turns", "metrics"]),
    ("store", &["domain", "metrics"]),
    ("app", &["domain", "clock", "failpoint", "near", "turns", "metrics", "db", "store"]),
    ("grpc", &["domain", "turns", "metrics", "app"]),
    ("layers", &["domain", "turns", "metrics", "app", "grpc"]),
    ("background", &["app"]),
    ("config", &["domain", "near"]),
    ("telemetry", &["near"]),
    ("maintenance", &["db", "store", "app", "config"]),
    // Neither `app` nor `db`: it is a client. Of `layers` it knows what a connection is.
    ("page", &["clock", "figures", "layers"]),
    ("server", &["clock", "metrics", "app", "grpc", "layers", "background", "config", "maintenance", "page"]),
    ("cli", &["clock", "config", "failpoint", "figures", "maintenance", "near", "server", "telemetry"]),
    ("main", &["cli"]),
];

/// Words that only some rooms may say.
const WORDS: [(&str, &[&str]); 27] = [
    ("SystemTime::now", &["clock"]),
    ("TcpListener", &["server"]),
    ("anyhow", &["maintenance", "server", "cli"]),
    ("axum", &["grpc", "page", "server"]),
    ("blake3", &["domain"]),
    ("clap", &["cli"]),
    ("crc_fast", &["app"]),
    ("getrandom", &["app"]),
    ("hyper", &["server", "telemetry"]), // telemetry: whose log lines there are
    ("hyper_util", &["server"]),
    ("keepbest_client", &["cli"]),
    ("keepbest_proto", &["grpc", "page"]),
    ("keepbest_rules", &["domain"]),
    ("maud", &["page"]),
    ("object_store", &["store", "telemetry"]), // telemetry: whose log lines there are
    ("prost_reflect", &["grpc"]),
    ("prost_types", &["grpc", "page"]),
    ("rmp_serde", &["db"]),
    ("rustls", &["server", "store", "telemetry"]), // store: which provider its driver takes
    ("sqlx", &["db", "telemetry"]),
    ("std::env", &["config"]),
    ("tokio::spawn", &["app", "db", "layers", "server"]),
    ("toml", &["config"]),
    ("tonic", &["grpc", "layers", "page", "server", "telemetry"]),
    ("tonic_web", &["layers"]),
    ("tracing_subscriber", &["telemetry"]),
    ("x509_parser", &["server"]),
];

/// What would make the rules depend on more than their arguments.
const IMPURE: [&str; 10] = [
    "async",
    "await",
    "tokio",
    "tracing",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::io",
    "std::net",
    "std::thread",
];

/// A file that is longer holds two things.
const MOST_LINES: usize = 400;

/// Every migration with its checksum. A line is only ever added.
const MIGRATIONS: [(&str, u64); 13] = [
    ("0001_init.sql", 0x3acf_efaf_e279_2bb2),
    ("0002_parts.sql", 0x38fe_27e2_19ba_b6ec),
    ("0003_manifests.sql", 0x9a6b_6304_d156_0c30),
    ("0004_store_mark.sql", 0x9364_ec0f_83f0_3137),
    ("0006_suspects.sql", 0x6977_02ff_3846_0e12),
    ("0007_read_indexes.sql", 0x24ce_d318_62c8_c269),
    ("0008_lost_versions.sql", 0x14bc_5b74_d1fa_3292),
    ("0009_superseded_indexes.sql", 0x8a67_1eb8_9223_cc81),
    ("0010_deletions.sql", 0xbfd0_487a_2685_a869),
    ("0011_superseded_lists.sql", 0x92e3_84a5_b558_5d19),
    ("0012_failures.sql", 0x5865_c4ed_0ce9_76b6),
    ("0013_access.sql", 0xe723_6401_ddf5_2ea0),
    ("0014_feed.sql", 0x7436_b870_cc9c_ac7a),
];

/// Folders of our own Rust code.
const RUST: [&str; 7] = [
    "src",
    "tests/it",
    "proto/src",
    "clients/rules/src",
    "clients/rust/src",
    "clients/rust/examples",
    "clients/examples/rust",
];

/// Papers whose paths must exist.
const PAPERS: [&str; 11] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "migrations",
    "docs/adr",
    "docs/operations.md",
    "docs/teams.md",
    "SECURITY.md",
    "docs/any-language.md",
    "clients/examples/README.md",
    "clients/rust/README.md",
];

#[test]
fn rooms_name_only_what_they_may() {
    let mut findings = Vec::new();
    for path in files("src", "rs") {
        let Some((room, may_import)) = room_of(&path) else {
            findings.push(format!("{path}: this room is not in the plan (`ROOMS` in tests/it/tidy.rs)"));
            continue;
        };
        let code = code_of(&path);
        if code.contains("crate::{") {
            findings.push(format!(
                "{path}: no `crate::{{...}}`: each arrow between rooms is a line to search for"
            ));
        }
        for import in imports(&code) {
            if import != room && !may_import.contains(&import) {
                findings.push(format!("{path}: `{room}` must not import `{import}`"));
            }
        }
        for (word, rooms) in WORDS {
            if says(&code, word) && !rooms.contains(&room) {
                findings.push(format!("{path}: only `{}` may name `{word}`", rooms.join("`, `")));
            }
        }
        for word in IMPURE {
            if room == "domain" && says(&code, word) {
                findings.push(format!("{path}: `domain` is pure: no `{word}`"));
            }
        }
    }
    none(&findings);
}

/// Tests go through the list: a point that is only in the code would never be tried, one that is only in the list would
/// be waited for.
#[cfg(debug_assertions)]
#[test]
fn every_failpoint_of_the_code_is_in_the_list() {
    let mut found = std::collections::BTreeSet::new();
    let mut findings = Vec::new();
    for path in files("src", "rs").iter().filter(|path| *path != "src/failpoint.rs") {
        let code = code_of(path);
        found.extend(
            code.split("failpoint!(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned),
        );
        if code.contains("failpoint::reach") {
            findings.push(format!("{path}: pass a point with `failpoint!`, which a release build has not"));
        }
    }
    let listed = keepbest::failpoint::POINTS.iter().map(|point| (*point).to_owned()).collect();
    findings.extend(found.symmetric_difference(&listed).map(|point| {
        format!("failpoint `{point}` is not both in `POINTS` of src/failpoint.rs and in the code")
    }));
    none(&findings);
}

#[test]
fn every_rust_file_says_what_it_is_for_and_is_short() {
    let mut findings = Vec::new();
    for path in RUST.iter().flat_map(|folder| files(folder, "rs")) {
        let text = read(&path);
        if !text.starts_with("//! ") {
            findings.push(format!("{path}: must open with a `//!` line that says what the file is for"));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            findings.push(format!(
                "{path}: has {lines} lines, at most {MOST_LINES} are allowed: split it by noun"
            ));
        }
    }
    none(&findings);
}

#[test]
fn migrations_are_only_ever_added() {
    let mut findings = Vec::new();
    let list = read("src/db/schema.rs");
    let found = files("migrations", "sql");
    for path in &found {
        let (name, checksum) = (path.trim_start_matches("migrations/"), fnv1a(&read(path)));
        match MIGRATIONS.iter().find(|(known, _)| *known == name) {
            None => findings.push(format!("{path}: add (\"{name}\", {checksum:#018x}) to `MIGRATIONS`")),
            Some((_, known)) if *known != checksum => findings.push(format!(
                "{path}: is {checksum:#018x} and was {known:#018x}: a merged migration is never edited, add another one"
            )),
            Some(_) => {}
        }
        if !list.contains(&format!("../../{path}")) {
            findings.push(format!("{path}: is not in `MIGRATIONS` of src/db/schema.rs, so it never runs"));
        }
    }
    if found.len() < MIGRATIONS.len() {
        findings.push("a migration was removed, but databases remember it".to_owned());
    }
    none(&findings);
}

#[test]
fn the_papers_name_files_that_exist() {
    let mut findings = Vec::new();
    for paper in PAPERS.iter().flat_map(|paper| files(paper, "md")) {
        let text = read(&paper);
        let quoted = text.split('`').skip(1).step_by(2).map(|path| root().join(path.trim_end_matches('/')));
        let folder = Path::new(&paper).parent().unwrap_or(Path::new(""));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let links = links
            .filter(|link| !link.is_empty() && !link.contains(':'))
            .map(|link| root().join(folder).join(link));
        for path in quoted.filter(|path| is_of_the_repository(path)).chain(links) {
            if !path.exists() {
                findings.push(format!("{paper}: there is no {}", path.display()));
            }
        }
    }
    none(&findings);
}

fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a folder whose names end so, or the one file, as paths from the root in their order.
fn files(path: &str, extension: &str) -> Vec<String> {
    let full = root().join(path);
    if full.is_file() {
        return vec![path.to_owned()];
    }
    let mut names: Vec<String> = fs::read_dir(&full)
        .unwrap_or_else(|error| panic!("{path}: {error}"))
        .map(|entry| format!("{path}/{}", entry.expect("a folder is read").file_name().to_string_lossy()))
        .filter(|name| root().join(name).is_dir() || name.ends_with(&format!(".{extension}")))
        .collect();
    names.sort();
    names.iter().flat_map(|name| files(name, extension)).collect()
}

/// The room of a file of `src/`, and what it may import.
fn room_of(path: &str) -> Option<(&str, Vec<&'static str>)> {
    let first = path.split('/').nth(1)?.trim_end_matches(".rs");
    if first == "lib" {
        return Some((first, ROOMS.iter().map(|(room, _)| *room).collect()));
    }
    ROOMS.iter().find(|(room, _)| *room == first).map(|(room, may)| (*room, may.to_vec()))
}

/// The text without comments. What follows a `//` in a string goes too, which hides nothing that matters.
fn code_of(path: &str) -> String {
    read(path).lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The rooms that the code names: `main.rs` sees the library from outside.
fn imports(code: &str) -> Vec<&str> {
    let name = |rest: &'static str| code.split(rest).skip(1);
    let rooms = name("crate::").chain(name("keepbest::"));
    let end = |c: char| !c.is_alphanumeric() && c != '_';
    rooms.filter_map(|rest| rest.split(end).next()).filter(|it| !it.is_empty()).collect()
}

/// Whether the code has the word, not as a part of a longer one.
fn says(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + word.len()..]);
        !before.ends_with(part) && !after.starts_with(part)
    })
}

/// Paths that begin with a folder of ours and hold no placeholder.
fn is_of_the_repository(path: &Path) -> bool {
    let Ok(path) = path.strip_prefix(root()) else { return false };
    let text = path.to_string_lossy();
    let ours =
        ["benches", "clients", "demo", "deploy", "docs", "migrations", "proto", "scripts", "src", "tests"];
    let first = path.iter().next().unwrap_or_default().to_string_lossy();
    text.contains('/')
        && ours.contains(&&*first)
        && !text.contains(['*', '{', ' ', ':'])
        && !text.contains("NNNN")
}

/// A checksum without a dependency (FNV-1a): it guards against slips, not against malice.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
