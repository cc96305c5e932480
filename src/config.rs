//! The settings of the server, read once: defaults, then the TOML file, then the environment, then flags.
//!
//! Every source goes through the same function, so each key has one type, one range and one error text whatever it came
//! from. `deploy/config.example.toml` shows all keys. What the settings do is left to the rooms that take them.

mod access;
mod environment;
mod error;
mod keys;
mod listen;
mod store;
mod tls;
mod url;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use self::access::{Audit, Auth, Rates};
pub use self::environment::check_names;
use self::environment::check_not_empty;
use self::environment::is_ours;
pub use self::error::ConfigError;
use self::keys::Value;
pub use self::keys::{KEYS, SettingValue};
pub use self::store::{StoreOptions, StoreUrl};
pub use self::tls::{Proxy, Tls};
pub use self::url::DatabaseUrl;

/// Where many platforms put the address of the database; used when `database_url` is not set otherwise.
const PLAIN_DATABASE_URL: &str = "DATABASE_URL";

/// What begins the name of each environment variable: `limits.max_connections` is `KEEPBEST_LIMITS_MAX_CONNECTIONS`.
const ENVIRONMENT_PREFIX: &str = "KEEPBEST_";

/// All settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The folder that holds the database and the chunks. `./keepbest-data`: a first try needs no rights and leaves one
    /// folder to delete.
    pub data_dir: PathBuf,
    /// Where the server listens; port 0 lets the system choose. `127.0.0.1:7400`: only this machine can reach it.
    pub listen: SocketAddr,
    /// Allows `listen` to be more than loopback. False: callers are not authenticated yet, so whoever reaches the port may
    /// read and delete every model.
    pub allow_remote: bool,
    /// Whether connections are encrypted, and whose certificates are asked for.
    pub tls: Tls,
    /// Who may say for whom it calls.
    pub proxy: Proxy,
    /// The metadata database. `None`: `SQLite` in `data_dir`, which needs no set-up.
    pub database_url: Option<DatabaseUrl>,
    /// Where the chunks are kept. `None`: the folder `objects` in `data_dir`.
    pub store_url: Option<StoreUrl>,
    /// What the object store must show before an object counts as stored. Size: a store that says that it has stored
    /// something and has nothing, or a part, is found before a commit is answered, for one small call an object.
    pub confirm_writes: ConfirmWrites,
    /// How the object store is reached and by whose rights.
    pub store: StoreOptions,
    pub database: Database,
    pub auth: Auth,
    pub audit: Audit,
    pub rates: Rates,
    pub log: Log,
    pub metrics: Metrics,
    pub limits: Limits,
    pub collector: Collector,
}

/// How a server uses Postgres; `SQLite` needs neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Connections of one server. 24: 16 reach 11,000 commits a second, and four replicas stay below Postgres' usual 100.
    pub connections: u32,
    /// Whether `serve` brings the schema up to date. False: with several replicas `keepbest migrate` does it once, before.
    pub migrate: bool,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Text: the first reader is a person at a terminal.
    pub format: LogFormat,
    /// Directives of `tracing`, for example `info,keepbest=debug`; `telemetry` parses them. `info`: one line for each event
    /// that matters in production.
    pub filter: String,
}

/// What is asked of the object store after each write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfirmWrites {
    /// Its answer is believed.
    Nothing,
    /// How large the object is.
    Size,
    Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where the server's metrics are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// A port of their own, for Prometheus. `None`: there is none, for whoever reaches it learns how much is done here.
    pub listen: Option<SocketAddr>,
}

/// What one server takes at most, so that its memory is bounded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. 1,024: with 64 streams of a few KiB each even idle floods stay below 1 GiB.
    pub max_connections: u32,
    /// Of these, connections of one address. 256, a quarter: no single machine fills them all, and a node of eight ranks has
    /// 32. Loopback and `proxy.trusted` are not counted: there many callers share an address.
    pub max_connections_per_peer: u32,
    /// How long a connection may take to begin: the handshake of TLS, and the first line of HTTP/2. 10 s: three round trips on
    /// a bad line to a busy client, and a caller that says nothing gives its place to another.
    pub handshake_seconds: u64,
    /// The headers of one call. 8 KiB: names and a token of an identity provider need less than half.
    pub header_bytes: u32,
    /// Calls at once on one connection. 64: a client has few calls in flight; without a limit, 50,000 half-open streams on
    /// one connection took 384 MB.
    pub max_streams_per_connection: u32,
    /// Bytes of chunks in memory over all uploads. 256 MiB: eight uploads of four 8 MiB chunks each (one fills
    /// while three are stored), far more than one disk can take at full speed; small files take only what they have.
    pub upload_buffers_bytes: u64,
    /// Bytes of chunks in memory over all downloads, apart from the uploads' so that slow readers stop no trainer. 192 MiB:
    /// five downloads at full speed.
    pub download_buffers_bytes: u64,
    /// Bytes of requests in memory that arrive or are worked on, over all calls, apart from chunks. 64 MiB: sixteen of the
    /// largest at once, and most are below 1 KiB.
    pub request_buffers_bytes: u64,
    /// Bytes of answers in memory that their readers have not taken, over all calls, apart from chunks. 64 MiB: as for
    /// requests.
    pub answer_buffers_bytes: u64,
    /// How long an upload stream may send nothing, or a reader take nothing. 60 s: longer than any pause of a living trainer's disk or network, short
    /// enough that dead peers do not hold buffers.
    pub upload_idle_seconds: u64,
    /// How long a request may take to arrive whole, and a message of a stream from its first byte to its last. 60 s: the
    /// largest message at 70 KB/s.
    pub request_seconds: u64,
    /// How long a stop waits for calls to end. 10 s: uploads go on at another time from where they were, and supervisors
    /// kill after 30 s.
    pub drain_seconds: u64,
}

/// When the collector works and how long things stay that nobody can see any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    /// Pause between passes. 300 s: a pass with nothing to do is a few indexed queries.
    pub interval_seconds: u64,
    /// When a checkpoint that was decided and never committed is given up. 86,400 s: a trainer that lost its network in the
    /// evening can finish its upload the next morning.
    pub pending_expiry_seconds: u64,
    /// When a checkpoint of several parts is given up, after the last sign of life of any of them. 3,600 s: far longer than
    /// ranks of one training are apart, and the others learn of a dead one in the same hour.
    pub parts_expiry_seconds: u64,
    /// How long a deleted version keeps its bytes. 3,600 s: downloads that began before can end.
    pub deleted_grace_seconds: u64,
    /// How long a chunk that no file uses stays. 3,600 s: the next checkpoint of a run often has it again.
    pub chunk_grace_seconds: u64,
    /// How long an object stays after its chunk was forgotten. 3,600 s: longer than any read that looked its key up before.
    pub object_grace_seconds: u64,
}

/// What the command line says; it wins over every other source.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The TOML file. `None`: no file, only defaults, environment and flags.
    pub config: Option<PathBuf>,
    pub data_dir: Option<PathBuf>,
    pub listen: Option<String>,
    /// Bring the schema up to date.
    pub migrate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data_dir: PathBuf::from("./keepbest-data"),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400),
            allow_remote: false,
            tls: Tls::default(),
            proxy: Proxy::default(),
            database_url: None,
            store_url: None,
            confirm_writes: ConfirmWrites::Size,
            store: StoreOptions::default(),
            database: Database { connections: 24, migrate: false },
            auth: Auth { required: false, open_reflection: false },
            rates: Rates { team_requests_per_second: 0, team_events_per_second: 0 },
            audit: Audit { retention_days: 365, reads_one_in: 1 },
            log: Log { format: LogFormat::Text, filter: "info".to_owned() },
            metrics: Metrics { listen: None },
            limits: Limits {
                max_connections: 1024,
                max_connections_per_peer: 256,
                handshake_seconds: 10,
                header_bytes: 8 << 10,
                max_streams_per_connection: 64,
                upload_buffers_bytes: 256 << 20,
                download_buffers_bytes: 192 << 20,
                request_buffers_bytes: 64 << 20,
                answer_buffers_bytes: 64 << 20,
                upload_idle_seconds: 60,
                request_seconds: 60,
                drain_seconds: 10,
            },
            collector: Collector {
                interval_seconds: 300,
                pending_expiry_seconds: 86_400,
                parts_expiry_seconds: 3_600,
                deleted_grace_seconds: 3_600,
                chunk_grace_seconds: 3_600,
                object_grace_seconds: 3_600,
            },
        }
    }
}

impl Config {
    /// Reads all sources of this process.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown, or a value is of the wrong kind or out of its range.
    pub fn load(flags: &Flags) -> Result<Config, ConfigError> {
        let text = match &flags.config {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?,
            ),
        };
        let file = flags.config.as_deref().zip(text.as_deref());
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            // What cannot be read as a text has the name of no key.
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => environment.push((name, value)),
                Err(_) if is_ours(&name) => return Err(ConfigError::NotText { name }),
                Err(_) => {}
            }
        }
        Config::from_sources(file, environment, flags)
    }

    /// The same from sources in hand: the file as its path and text, the environment as names and values.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_sources(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some((path, text)) = file {
            config.apply_file(path, text)?;
        }
        config.apply_environment(environment)?;
        if let Some(data_dir) = &flags.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        if let Some(listen) = &flags.listen {
            config.set("listen", &Value::Text(listen.clone()), "`--listen`")?;
        }
        config.database.migrate |= flags.migrate;
        config.check_tls()?;
        config.check_listen()?;
        config.check_store()?;
        Ok(config)
    }

    /// Where the metadata is, without passwords.
    pub fn database(&self) -> String {
        self.database_url
            .as_ref()
            .map_or_else(|| format!("sqlite in {}", self.data_dir.display()), DatabaseUrl::to_string)
    }

    /// Where the chunks are.
    pub fn objects(&self) -> String {
        self.store_url
            .as_ref()
            .map_or_else(|| format!("folder in {}", self.data_dir.display()), StoreUrl::to_string)
    }

    fn apply_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Malformed {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1)),
            problem: error.message().to_owned(),
        })?;
        let origin = format!("`{}`", path.display());
        for (name, value) in table {
            match value {
                toml::Value::Table(options) if name == store::SECTION => {
                    for (key, value) in options {
                        self.store.set(&key, &value, &origin)?;
                    }
                }
                toml::Value::Table(section) if keys::is_section(&name) => {
                    for (key, value) in section {
                        self.set(&format!("{name}.{key}"), &Value::Toml(value), &origin)?;
                    }
                }
                value => self.set(&name, &Value::Toml(value), &origin)?,
            }
        }
        Ok(())
    }

    /// What else begins with `KEEPBEST_` is left to [`check_environment`].
    fn apply_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        self.store.take_environment(&environment);
        let own = environment.contains_key(&environment_name("database_url"));
        if let (None, false, Some(url)) = (&self.database_url, own, environment.get(PLAIN_DATABASE_URL)) {
            self.set("database_url", &Value::Text(url.clone()), &format!("`{PLAIN_DATABASE_URL}`"))?;
        }
        for key in KEYS {
            let name = environment_name(key);
            if let Some(value) = environment.get(&name) {
                self.set(key, &Value::Text(value.clone()), &format!("`{name}`"))?;
            }
        }
        Ok(())
    }

    /// Options that nobody takes are a slip that would put every model into the wrong place.
    fn check_store(&self) -> Result<(), ConfigError> {
        let driver = self.store_url.as_ref().is_some_and(StoreUrl::has_driver);
        let Some((option, _)) = self.store.file().next().filter(|_| !driver) else { return Ok(()) };
        Err(ConfigError::NotServed {
            key: format!("{}.{option}", store::SECTION),
            problem: format!(
                "is an option of an object store's driver, but the chunks are in: {}",
                self.objects()
            ),
            remedy: "set `store_url` to an address as `s3://BUCKET/PREFIX`, or remove the option".to_owned(),
        })
    }
}

/// The environment variable of a key.
pub fn environment_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Refuses variables of this process that look like ours and are none, and those that are empty and must not be.
///
/// # Errors
/// Names the variable.
pub fn check_environment() -> Result<(), ConfigError> {
    check_names(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
    check_not_empty(|name| std::env::var_os(name))
}

/// The arguments of this process, without its name.
pub fn arguments() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip(1)
}

/// The API token of whoever runs a command, if the environment has one.
pub fn token() -> Option<String> {
    std::env::var_os("KEEPBEST_TOKEN")?.into_string().ok()
}

/// Whether the user wants no colours anywhere (<https://no-color.org>).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// The script of failpoints, in a build for tests. No setting: `check-config` does not show it, and no file can have it.
#[cfg(debug_assertions)]
pub fn failpoints() -> Option<String> {
    std::env::var_os("KEEPBEST_FAILPOINTS")?.into_string().ok()
}

#[cfg(test)]
mod tests;
