//! Opening the database and the object store that the settings name: for the server, and for commands that may run
//! beside it.

mod folder;
mod mark;

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::num::NonZeroU32;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;

use crate::app::App;
use crate::app::Audit;
use crate::app::Limits;
use crate::app::keys;
use crate::app::rates::Most;
use crate::config::Config;
use crate::config::ConfirmWrites;
use crate::db;
use crate::db::Db;
use crate::db::Graces;
use crate::db::Postgres;
use crate::store;
use crate::store::Confirm;
use crate::store::ProbeError;
use crate::store::Store;

pub use crate::app::causes;
pub use crate::app::check::CheckReport;
pub use crate::app::check::ReadData;
pub use crate::app::check::Subset;
pub use crate::app::collect::GcReport;
pub use crate::app::rebuild::RebuildReport;
use crate::app::rebuild::has_manifests;

/// The database within the data folder.
const DATABASE: &str = "keepbest.db";
const OBJECTS: &str = "objects";
/// Held by the server for life.
const LOCK: &str = "server.lock";

fn micros(seconds: u64) -> i64 {
    i64::try_from(Duration::from_secs(seconds).as_micros()).unwrap_or(i64::MAX)
}

fn limits(config: &Config) -> Limits {
    Limits {
        upload_buffer_bytes: config.limits.upload_buffers_bytes,
        download_buffer_bytes: config.limits.download_buffers_bytes,
        upload_idle: Duration::from_secs(config.limits.upload_idle_seconds),
        pending_expiry: Duration::from_secs(config.collector.pending_expiry_seconds),
        parts_expiry: Duration::from_secs(config.collector.parts_expiry_seconds),
        keys_at_once: keys::AT_ONCE,
        requires_authentication: config.auth.required,
        audit: Audit {
            kept: match config.audit.retention_days {
                0 => None,
                days => Some(Duration::from_secs(days * 86_400)),
            },
            reads_one_in: config.audit.reads_one_in,
        },
        rates: Most {
            requests: NonZeroU32::new(config.rates.team_requests_per_second),
            events: NonZeroU32::new(config.rates.team_events_per_second),
        },
        graces: Graces {
            deleted_us: micros(config.collector.deleted_grace_seconds),
            chunk_us: micros(config.collector.chunk_grace_seconds),
            object_us: micros(config.collector.object_grace_seconds),
        },
    }
}

/// The SQLite file, unless the database is Postgres.
fn sqlite_file(config: &Config) -> Option<PathBuf> {
    match &config.database_url {
        None => Some(config.data_dir.join(DATABASE)),
        Some(url) => url.sqlite_path().map(Path::to_owned),
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// For a program that is about to write to a data folder: what it makes there is for whoever may read the folder. Nothing to do
/// where all is on servers.
pub fn keep_private(config: &Config) -> anyhow::Result<()> {
    let database = sqlite_file(config);
    let objects = config.store_url.is_none().then_some(config.data_dir.as_path());
    let Some(folder) = database.as_deref().map(folder_of).or(objects) else { return Ok(()) };
    folder::keep_rights(folder)
}

/// Keeps a second server away from a SQLite database; the lock goes with the process, however it ends. Nothing to lock on
/// Postgres, where any number of servers may work.
pub fn lock(config: &Config) -> anyhow::Result<Option<File>> {
    let Some(database) = sqlite_file(config) else { return Ok(None) };
    let folder = folder_of(&database);
    folder::make(folder)?;
    let path = folder.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => bail!(
            "data folder `{}` is in use by another keepbest server: stop that one, or choose another folder with --data",
            folder.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock `{}`", path.display())),
    }
}

/// What a command does to the schema of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// Brings it up to date.
    Migrate,
    /// Refuses a database that is behind.
    Expect,
}

async fn open_db(config: &Config, schema: Schema) -> anyhow::Result<Db> {
    if let Some(file) = sqlite_file(config) {
        return open_sqlite(&file).await.with_context(|| format!("open the database `{}`", file.display()));
    }
    let url = config.database_url.as_ref().context("there is an address, since there is no file")?;
    let options = Postgres {
        connections: config.database.connections,
        migrate: schema == Schema::Migrate || config.database.migrate,
    };
    let db = Db::open_postgres(url.expose(), options).await;
    db.with_context(|| format!("open the database `{url}`"))
}

/// A full disk must not keep from reading what it holds: where not even the log's index finds room, what was kept back is it.
async fn open_sqlite(file: &Path) -> anyhow::Result<Db> {
    let folder = folder_of(file);
    let db = match Db::open_sqlite(file).await {
        Err(db::Error::Full(_)) if folder::release(folder)? => {
            tracing::warn!("The disk of the database is full: took the room that was kept back to read it");
            Db::open_sqlite(file).await?
        }
        opened => opened?,
    };
    folder::reserve(folder);
    Ok(db)
}

/// Opens the object store without asking anything of it.
pub fn open_store(config: &Config) -> anyhow::Result<Store> {
    let confirm = match config.confirm_writes {
        ConfirmWrites::Nothing => Confirm::Nothing,
        ConfirmWrites::Size => Confirm::Size,
        ConfirmWrites::Bytes => Confirm::Bytes,
    };
    let Some(url) = &config.store_url else {
        let objects = config.data_dir.join(OBJECTS);
        fs::create_dir_all(&objects).with_context(|| format!("make the folder `{}`", objects.display()))?;
        let store = Store::open_folder(&objects);
        let store = store.with_context(|| format!("open the folder `{}`", objects.display()))?;
        return Ok(store.confirming(confirm));
    };
    let named: Vec<_> = config.store.file().collect();
    let found: Vec<_> = config.store.environment().collect();
    let store = Store::open(url.as_str(), &named, &found);
    Ok(store.with_context(|| format!("open the object store `{url}`"))?.confirming(confirm))
}

/// What `check-config` can tell of the database and the object store without a connection: whether they could be asked.
pub fn check_places(config: &Config) -> anyhow::Result<()> {
    if let (Some(url), None) = (&config.database_url, sqlite_file(config)) {
        Db::check_postgres_url(url.expose()).with_context(|| format!("the database `{url}`"))?;
    }
    match &config.store_url {
        // A folder may come into being only where the server runs.
        Some(url) if url.folder().is_none() => open_store(config).map(drop),
        _ => Ok(()),
    }
}

/// The folder of the objects, unless they are in a store on servers.
fn objects_folder(config: &Config) -> Option<PathBuf> {
    match &config.store_url {
        None => Some(config.data_dir.join(OBJECTS)),
        Some(url) => url.folder().map(Path::to_owned),
    }
}

/// The folders in which something is kept, by what that is.
pub fn folders(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let database = sqlite_file(config).map(|it| folder_of(&it).to_owned());
    let folders = [("database", database), ("objects", objects_folder(config))];
    folders.into_iter().filter_map(|(of, folder)| Some((of, folder?))).collect()
}

/// The object store, as messages name it.
fn place(config: &Config) -> String {
    config.store_url.as_ref().map_or_else(
        || format!("the folder `{}`", config.data_dir.join(OBJECTS).display()),
        |url| format!("the object store `{url}`"),
    )
}

/// For the server: opens both, makes what is missing of a data folder, and asks the object store to write, read and delete.
pub async fn open(config: &Config) -> anyhow::Result<App> {
    let db = open_db(config, Schema::Expect).await?;
    let store = open_store(config)?;
    let place = place(config);
    match store.probe().await {
        Err(ProbeError::Write { source: store::Error::Full(_), .. }) => {
            tracing::warn!(
                "{place} is full: what it holds is served, and nothing is written until there is room"
            );
        }
        probed => probed.with_context(|| format!("{place} does not work"))?,
    }
    let store = mark::belong(&db, store, &place, true).await?;
    App::open(db, store, limits(config)).await.context("ask the database for its time")
}

/// Refuses a data folder that no server has used: a name that was mistyped must not become an empty service.
fn expect_file(config: &Config) -> anyhow::Result<()> {
    let Some(file) = sqlite_file(config).filter(|file| !file.is_file()) else { return Ok(()) };
    bail!(
        "`{}` is no data folder of keepbest: name the one that `keepbest serve` uses with --data",
        file.parent().unwrap_or(&file).display()
    );
}

/// For a command: the database must be one that a server made.
async fn open_existing(config: &Config) -> anyhow::Result<App> {
    expect_file(config)?;
    let db = open_db(config, Schema::Expect).await?;
    let store = mark::belong(&db, open_store(config)?, &place(config), false).await?;
    App::open(db, store, limits(config)).await.context("ask the database for its time")
}

/// Brings the schema up to date and answers its version.
pub async fn migrate(config: &Config) -> anyhow::Result<i64> {
    expect_file(config)?;
    let db = open_db(config, Schema::Migrate).await?;
    db.close().await;
    Ok(Db::schema_version())
}

/// One pass of the collector; `now`: without waiting for the graces.
pub async fn gc(config: &Config, now: bool) -> anyhow::Result<GcReport> {
    let app = open_existing(config).await?;
    let report = if now { app.collect_now().await } else { app.collect().await };
    app.close().await;
    report.context("collect")
}

/// Makes a token of the service for whoever may read its database; answers its name and its text.
pub async fn mint_admin_token(config: &Config, lifetime: Duration) -> anyhow::Result<(String, String)> {
    let app = open_existing(config).await?;
    let minted = app.mint_first_token(i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX)).await;
    app.close().await;
    let (token, text) = minted.context("make the token")?;
    Ok((token.name(), text))
}

/// Checks all committed versions and reads what is asked for.
pub async fn check(config: &Config, read: ReadData) -> anyhow::Result<CheckReport> {
    let app = open_existing(config).await?;
    let report = app.check_with(read).await;
    app.close().await;
    report.context("check")
}

/// Fills an empty database from the object store. No server may run on either. Nothing is made where the store has nothing to
/// rebuild from: a name that was mistyped must not become an empty service.
pub async fn rebuild(config: &Config) -> anyhow::Result<RebuildReport> {
    if let Some(objects) = objects_folder(config).filter(|it| !it.is_dir()) {
        bail!(
            "there is no folder `{}` to rebuild from: name the data folder whose database was lost with --data",
            objects.display()
        );
    }
    if !has_manifests(&open_store(config)?).await.context("look for manifests")? {
        bail!("{} has no manifests: name the one that the lost database belonged to", place(config));
    }
    let _lock = lock(config)?;
    // The database is empty, so its schema is nobody's yet; and nothing is written to the store, not even a probe.
    let db = open_db(config, Schema::Migrate).await?;
    let app = App::open(db, open_store(config)?, limits(config)).await;
    let app = app.context("ask the database for its time")?;
    let report = app.rebuild().await;
    app.close().await;
    report.context("rebuild")
}
