//! Every statement of `src/db`, found in its source, is prepared by both databases: one that only one of them takes, or that
//! names a column that is gone, fails here even if no test walks through it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proc_macro2::TokenStream;
use proc_macro2::TokenTree;
use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::SqlSafeStr as _;

use crate::support::databases::TestDatabase;
use crate::support::databases::on_both_databases;

on_both_databases! { every_statement_is_prepared }

const FIRST_WORDS: [&str; 5] = ["SELECT ", "INSERT ", "UPDATE ", "DELETE ", "WITH {v: "];
/// Writes the sets of statements out, so its own texts are pieces.
const WRITES_SETS_OUT: &str = "tx.rs";
/// What is put behind or into a statement.
const FRAGMENT_WORDS: [&str; 4] = [" AND ", " JOIN ", " ORDER ", " WHERE "];

/// What stands for the `{...}` of a template, by a part of the template: what the code puts there.
const COMPLETIONS: &[(&str, &str, &[&str])] = &[
    ("FROM chunks WHERE team = $1 AND digest IN", "{}", &["$2, $3"]),
    ("f.file_uid IN", "{}", &["$1, $2"]),
    ("FROM aliases WHERE checkpoint_uid IN", "{}", &["$1, $2"]),
    (
        "AS part_{n}",
        "({sql} ORDER BY position{order} LIMIT $3) AS part_{n}",
        &[
            "(SELECT {COLUMNS} WHERE run_uid = $1 AND position >= $2 AND epoch = $4 AND action = $5 ORDER BY position \
           LIMIT $3) AS part_0 UNION ALL SELECT * FROM (SELECT {COLUMNS} WHERE run_uid = $1 AND position >= $2 AND epoch = $6 \
           AND action = $7 ORDER BY position LIMIT $3) AS part_1",
        ],
    ),
    (
        "FROM feed WHERE {scope}",
        "{scope}",
        &["run_uid = $3", "artifact_uid = $3", "team = $3 AND project = $4", "team = $3"],
    ),
    ("SELECT 1 FROM {table} LIMIT 1", "{table}", &["artifacts", "doomed_objects"]),
    ("SELECT 1 FROM {table} WHERE uid", "{table}", &["artifacts", "runs"]),
    (
        "{SELECT_RUN} WHERE r.team = $1 AND",
        "{after}",
        &["(r.create_time_us, r.uid) < ($2, $3) ORDER BY r.create_time_us DESC, r.uid DESC LIMIT $4"],
    ),
    (
        "{SELECT_VERSION} WHERE a.team",
        "{which}",
        &[
            "c.version = $4",
            "c.uid = (SELECT l.checkpoint_uid FROM aliases l WHERE l.artifact_uid = a.uid AND l.alias = $4)",
        ],
    ),
    (
        "FROM version_metrics m WHERE m.name = $1 AND {scope}",
        "{scope}",
        &["m.run_uid = $2", "m.artifact_uid = $2", "m.team = $2 AND m.project = $3", "m.team = $2"],
    ),
    ("FROM version_metrics m WHERE m.name = $1 AND {scope}", "{direction}", &["ASC", "DESC"]),
    (
        "FROM version_metrics m WHERE m.name = $1 AND",
        "{first}",
        &["m.commit_time_us", "m.commit_time_us, m.checkpoint_uid"],
    ),
    (
        "{SELECT_ARTIFACT} WHERE team = $1 AND",
        "{place}",
        &["project = $2 AND id > $3", "(project, id) > ($2, $3)"],
    ),
    (
        "SELECT c.uid, {key}, {tied}",
        "{key}, {tied}, c.version, c.commit_time_us FROM {from}",
        &[
            "m.value, m.commit_time_us, c.version, c.commit_time_us FROM version_metrics m \
             JOIN checkpoints c ON c.uid = m.checkpoint_uid WHERE m.artifact_uid = $1 AND m.name = $2",
            "c.epoch, c.version, c.version, c.commit_time_us FROM checkpoints c WHERE c.run_uid = $1 AND c.state = 'COMMITTED'",
        ],
    ),
    ("FROM artifacts WHERE {place}", "{place}", &["team = $1", "team = $1 AND project = $2"]),
    ("FROM artifacts WHERE {place}", "{end}", &["monitor, direction", "monitor DESC, direction DESC"]),
    ("WHERE run_uid = $1 AND attempt = $2 AND epoch = $3{which}", "{which}", &["", " AND batch = $4"]),
    ("SELECT {COLUMNS} WHERE run_uid = $1 AND position {from} $2", "{from}", &[">=", "<"]),
    ("UPDATE {table} SET id = $1 WHERE uid", "{table}", &["runs", "artifacts"]),
    ("WHERE c.{column} = $2 AND c.state", "{column}", &["run_uid", "artifact_uid"]),
    ("UPDATE {table} SET id = '~' || uid", "{table}", &["runs", "artifacts"]),
    ("UPDATE {table} SET id = '~' || uid", "{column}", &["run_uid", "artifact_uid"]),
    ("UPDATE {table} SET id = $1, delete_time_us = NULL", "{table}", &["runs", "artifacts"]),
    ("FROM {table} WHERE delete_time_us IS NOT NULL", "{table}", &["runs", "artifacts"]),
    ("DELETE FROM {table} WHERE run_uid = $1 AND position IN", "{table}", &["events", "decisions"]),
    ("DELETE FROM {table} WHERE run_uid = $1", "{table}", &["run_writers", "run_attempts"]),
    ("WHERE c.{column} = $1 AND c.state", "{column}", &["run_uid", "artifact_uid"]),
    ("SELECT MIN(a.project) FROM artifacts a", "{after}", &["$2"]),
    ("SELECT MIN(m.name) FROM version_metrics m", "{scope}", &["m.run_uid = $1", "m.artifact_uid = $1"]),
    ("SELECT MIN(m.name) FROM version_metrics m", "{after}", &["''"]),
    ("FROM runs r WHERE r.team = $1{project}", "{project}", &["", " AND r.project = $5"]),
];

/// Statements that grow piece by piece, with every piece in one of them.
const GROWN: &[&str] = &[
    "SELECT {COLUMNS} WHERE run_uid = $1 AND position >= $2 AND epoch = $4 AND action = $5 ORDER BY position LIMIT $3",
    "SELECT {COLUMNS} WHERE run_uid = $1 AND attempt = $2 AND epoch = $3 AND batch = $4 \
     ORDER BY batch DESC, position DESC LIMIT 1",
    "SELECT c.uid, m.value, m.commit_time_us, c.version, c.commit_time_us FROM version_metrics m \
     JOIN checkpoints c ON c.uid = m.checkpoint_uid WHERE m.artifact_uid = $1 AND m.name = $2 AND m.value >= $3 \
     AND (m.value, m.commit_time_us) > ($4, $5) ORDER BY m.value ASC, m.commit_time_us ASC LIMIT $6",
    "SELECT c.uid, c.version, c.version, c.version, c.commit_time_us FROM checkpoints c WHERE c.artifact_uid = $1 \
     AND c.state = 'COMMITTED' AND c.version < $2 ORDER BY c.version DESC LIMIT $3",
    "SELECT c.uid, c.version, c.version, c.version, c.commit_time_us FROM checkpoints c WHERE c.run_uid = $1 \
     AND c.state = 'COMMITTED' AND c.version > $2 ORDER BY c.version ASC LIMIT $3",
    "SELECT c.uid, c.epoch, c.version, c.version, c.commit_time_us FROM checkpoints c WHERE c.artifact_uid = $1 \
     AND c.state = 'COMMITTED' AND c.epoch = $2 AND c.version > $3 ORDER BY c.epoch DESC, c.version DESC LIMIT $4",
    "WITH {v: uid text, o0 bigint, o1 real, o2 text, o3 text} SELECT c.uid FROM v CROSS JOIN checkpoints c \
     JOIN runs r ON r.uid = c.run_uid WHERE c.uid = v.uid AND (c.size_bytes >= v.o0 \
     AND EXISTS (SELECT 1 FROM version_metrics f WHERE f.checkpoint_uid = c.uid AND f.name = v.o2 AND f.value IN (v.o1)) \
     OR LOWER(r.config) LIKE LOWER(v.o3) ESCAPE '\\')",
    "SELECT r.uid, r.create_time_us FROM runs r WHERE r.team = $1 AND r.project = $5 AND r.delete_time_us IS NULL \
     AND (r.create_time_us, r.uid) < ($2, $3) ORDER BY r.create_time_us DESC, r.uid DESC LIMIT $4",
];

/// Asked of Postgres alone: SQLite has no server with a state, and no clock of its own.
const POSTGRES_ONLY: [&str; 3] = [
    "SELECT pg_is_in_recovery()",
    "SELECT to_regclass('_sqlx_migrations') IS NOT NULL",
    "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
];

/// What the source says: constants and literals that are statements, templates of statements, and their pieces.
#[derive(Default)]
struct Found {
    constants: BTreeMap<String, String>,
    literals: BTreeSet<String>,
}

impl Found {
    /// Texts of a file, wherever they stand: also within macros.
    fn read(&mut self, tokens: TokenStream, name: &str) {
        let mut constant = None;
        let mut after_const = false;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if after_const => constant = Some(ident.to_string()),
                TokenTree::Punct(end) if end.as_char() == ';' => constant = None,
                TokenTree::Group(group) => self.read(group.stream(), name),
                TokenTree::Literal(literal) => {
                    let Ok(text) = syn::parse_str::<syn::LitStr>(&literal.to_string()) else { continue };
                    if let Some(constant) = constant.take() {
                        let old = self.constants.insert(format!("{name}:{constant}"), text.value());
                        assert_eq!(old, None, "{name} has two constants {constant}");
                    }
                    self.literals.insert(format!("{name}:{}", text.value()));
                }
                TokenTree::Ident(ident) => {
                    after_const = ident == "const";
                    continue;
                }
                TokenTree::Punct(_) => {}
            }
            after_const = false;
        }
    }

    /// The text with the constants of its file, or of the only file that has one of this name, put in.
    fn with_constants(&self, file: &str, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.constants {
            let (home, name) = name.split_once(':').unwrap();
            let place = format!("{{{name}}}");
            let is_here = home == file || !self.constants.contains_key(&format!("{file}:{name}"));
            if is_here && text.contains(&place) {
                text = text.replace(&place, value);
            }
        }
        text
    }
}

/// All statements that a text of the source stands for.
fn statements(found: &Found, file: &str, text: &str) -> Vec<String> {
    let mut statements = vec![text.to_owned()];
    for (part, place, values) in COMPLETIONS {
        if text.contains(part) {
            statements = statements
                .iter()
                .flat_map(|it| values.iter().map(|value| it.replace(place, value)))
                .collect();
        }
    }
    statements.iter().map(|it| found.with_constants(file, it)).collect()
}

fn store_statements() -> BTreeSet<String> {
    let mut found = Found::default();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/db")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !["tests.rs", WRITES_SETS_OUT].map(Some).contains(&path.file_name().unwrap().to_str()) {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                found.read(fs::read_to_string(&path).unwrap().parse().unwrap(), &name);
            }
        }
    }
    let homes = |text: &str| if text.contains("{COLUMNS}") { "decisions" } else { "versions" };
    let mut all: BTreeSet<String> =
        GROWN.iter().map(|text| found.with_constants(homes(text), text)).collect();
    for literal in &found.literals {
        let (file, text) = literal.split_once(':').unwrap();
        if FRAGMENT_WORDS.iter().any(|word| text.starts_with(word)) {
            // Pieces with places in them have them numbered in the statement.
            let piece = text.split(['$', '{']).next().unwrap().trim_end_matches('(');
            assert!(
                GROWN.iter().any(|it| it.contains(piece)),
                "a new piece of a statement, {text:?}: add it to GROWN"
            );
        }
        let is_template = text.starts_with("{SELECT_") || text.starts_with("{FILES_");
        if is_template || FIRST_WORDS.iter().any(|word| text.starts_with(word)) {
            all.extend(statements(&found, file, text));
        }
    }
    for statement in &all {
        assert!(
            !with_set(statement, false).contains(['{', '}']),
            "what stands in its braces? Add it to COMPLETIONS: {statement}"
        );
    }
    all
}

/// A statement with a set of two rows written out, and with the locks that it takes.
fn with_set(statement: &str, on_postgres: bool) -> String {
    let mut text = statement.to_owned();
    while let Some((start, end)) = text.find('{').zip(text.find('}')) {
        let place = &text[start + 1..end];
        let written = match place.split_once([':', ' ']) {
            Some(("v", columns)) => {
                let columns: Vec<_> =
                    columns.split(',').map(|it| it.trim().split_once(' ').unwrap()).collect();
                let names: Vec<_> = columns.iter().map(|it| it.0).collect();
                let rows = if on_postgres {
                    let kind = |it: &str| it.replace("real", "float8").replace("bytes", "bytea");
                    let arrays =
                        columns.iter().enumerate().map(|(n, it)| format!("${}::{}[]", n + 1, kind(it.1)));
                    format!("SELECT * FROM UNNEST({})", arrays.collect::<Vec<_>>().join(", "))
                } else {
                    let row = format!("({})", vec!["?"; columns.len()].join(", "));
                    format!("VALUES {row}, {row}")
                };
                format!("v({}) AS ({rows})", names.join(", "))
            }
            Some(("take" | "lock", alias)) if on_postgres => format!("FOR UPDATE OF {alias} SKIP LOCKED"),
            Some(("take" | "lock", _)) => String::new(),
            _ => return text,
        };
        text.replace_range(start..=end, &written);
    }
    text
}

async fn every_statement_is_prepared(database: TestDatabase) {
    database.open().await.close().await;
    let statements = store_statements();
    assert!(statements.len() > 100, "only {} statements found", statements.len());
    let mut refused = Vec::new();
    for statement in &statements {
        let on_postgres = matches!(database, TestDatabase::Postgres(_));
        let sql = AssertSqlSafe(with_set(statement, on_postgres)).into_sql_str();
        let prepared = match &database {
            TestDatabase::Sqlite(_) if POSTGRES_ONLY.contains(&statement.as_str()) => continue,
            TestDatabase::Sqlite(folder) => {
                let url = format!("sqlite:{}", folder.path().join("test.db").display());
                let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
                connection.prepare(sql).await.map(drop)
            }
            TestDatabase::Postgres(_) => database.postgres_connection().await.prepare(sql).await.map(drop),
        };
        if let Err(error) = prepared {
            refused.push(format!("{error}: {statement}"));
        }
    }
    println!("{} statements prepared", statements.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
