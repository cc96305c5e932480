//! The schema: which migrations there are, and whether a database has them.

use sqlx::PgConnection;
use sqlx::migrate::Migrate;
use sqlx::migrate::MigrateError;
use sqlx::migrate::Migration;
use sqlx::migrate::MigrationType;
use sqlx::migrate::Migrator;

use crate::db::Db;
use crate::db::Error;

/// The migrations, oldest first. One is only ever added.
const MIGRATIONS: [(i64, &str, &str); 13] = [
    (1, "init", include_str!("../../migrations/0001_init.sql")),
    (2, "parts", include_str!("../../migrations/0002_parts.sql")),
    (3, "manifests", include_str!("../../migrations/0003_manifests.sql")),
    (4, "store_mark", include_str!("../../migrations/0004_store_mark.sql")),
    (6, "suspects", include_str!("../../migrations/0006_suspects.sql")),
    (7, "read_indexes", include_str!("../../migrations/0007_read_indexes.sql")),
    (8, "lost_versions", include_str!("../../migrations/0008_lost_versions.sql")),
    (9, "superseded_indexes", include_str!("../../migrations/0009_superseded_indexes.sql")),
    (10, "deletions", include_str!("../../migrations/0010_deletions.sql")),
    (11, "superseded_lists", include_str!("../../migrations/0011_superseded_lists.sql")),
    (12, "failures", include_str!("../../migrations/0012_failures.sql")),
    (13, "access", include_str!("../../migrations/0013_access.sql")),
    (14, "feed", include_str!("../../migrations/0014_feed.sql")),
];

/// Where sqlx records what was applied.
const RECORD: &str = "_sqlx_migrations";

impl Db {
    /// The newest migration that this version knows.
    pub fn schema_version() -> i64 {
        MIGRATIONS.last().map_or(0, |(version, _, _)| *version)
    }
}

/// A migrator that leaves a newer schema alone: while replicas are replaced one by one the old ones go on, and migrations
/// first expand (`migrations/README.md`).
pub(super) fn migrator() -> Migrator {
    let migration = |(version, name, sql): (i64, &'static str, &'static str)| {
        let sql = sqlx::SqlSafeStr::into_sql_str(sql);
        Migration::new(version, name.into(), MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.into_iter().map(migration).collect());
    migrator.set_ignore_missing(true);
    migrator
}

/// Refuses a Postgres database that lacks a migration, and changes nothing.
pub(super) async fn expect(connection: &mut PgConnection) -> Result<(), Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    let applied = match exists {
        true => connection.list_applied_migrations(RECORD).await.map_err(from_migration)?,
        false => Vec::new(),
    };
    let missing: Vec<String> = migrator()
        .iter()
        .filter(|it| !applied.iter().any(|applied| applied.version == it.version))
        .map(|it| format!("{:04}_{}", it.version, it.description))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!("lacks the migrations {}: run `keepbest migrate`", missing.join(", "));
    Err(Error::Schema(why))
}

pub(super) fn from_migration(error: MigrateError) -> Error {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Error::from(error),
        MigrateError::VersionMismatch(version) => Error::Schema(format!(
            "has another migration {version:04} than this version of keepbest: it was made by a program that differs"
        )),
        other => Error::unreadable("schema", other),
    }
}
