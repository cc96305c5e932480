//! Opening a data folder: for the server, which locks it, and for `gc` and `check`, which may run beside one.

use std::fs;
use std::fs::File;
use std::fs::TryLockError;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;

use crate::app::App;
use crate::app::Limits;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::Graces;
use crate::store::Store;

pub use crate::app::check::CheckReport;
pub use crate::app::collect::GcReport;

/// The database within the data folder.
const DATABASE: &str = "keepbest.db";
/// Its objects.
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
        graces: Graces {
            deleted_us: micros(config.collector.deleted_grace_seconds),
            chunk_us: micros(config.collector.chunk_grace_seconds),
            object_us: micros(config.collector.object_grace_seconds),
        },
    }
}

/// Locks the data folder for this server; the lock goes with the process, however it ends.
pub fn lock(data_dir: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(data_dir).with_context(|| format!("make the data folder `{}`", data_dir.display()))?;
    let path = data_dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "data folder `{}` is in use by another keepbest server: stop that one, or choose another folder with --data",
            data_dir.display()
        ),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock `{}`", path.display())),
    }
}

/// Opens the data folder's database and objects, and makes them where they are missing.
pub async fn open(config: &Config) -> anyhow::Result<App> {
    let objects = config.data_dir.join(OBJECTS);
    fs::create_dir_all(&objects).with_context(|| format!("make the folder `{}`", objects.display()))?;
    let database = config.data_dir.join(DATABASE);
    let store = Store::open_sqlite(&database).await;
    let store = store.with_context(|| format!("open the database `{}`", database.display()))?;
    let blobs =
        Blobs::open_folder(&objects).with_context(|| format!("open the folder `{}`", objects.display()))?;
    Ok(App::new(store, blobs, Clock::System, limits(config)))
}

/// The same for a command: the folder must be one that a server made.
async fn open_existing(config: &Config) -> anyhow::Result<App> {
    if !config.data_dir.join(DATABASE).is_file() {
        bail!(
            "`{}` is no data folder of keepbest: name the one that `keepbest serve` uses with --data",
            config.data_dir.display()
        );
    }
    open(config).await
}

/// One pass of the collector; `now`: without waiting for the graces.
pub async fn gc(config: &Config, now: bool) -> anyhow::Result<GcReport> {
    let app = open_existing(config).await?;
    let report = if now { app.collect_now().await } else { app.collect().await };
    app.close().await;
    report.context("collect")
}

/// Checks all committed versions; with `read_data` every byte.
pub async fn check(config: &Config, read_data: bool) -> anyhow::Result<CheckReport> {
    let app = open_existing(config).await?;
    let report = app.check(read_data).await;
    app.close().await;
    report.context("check")
}
