//! The keys of the settings: their names, kinds and ranges. One function sets them all, wherever they come from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

use super::tls;
use super::{Config, ConfigError, ConfirmWrites, DatabaseUrl, LogFormat, StoreUrl};

/// Every key, as it stands in errors: a dot separates section and key.
pub const KEYS: &[&str] = &[
    "data_dir",
    "listen",
    "allow_remote",
    "tls.certificate",
    "tls.key",
    "tls.client_ca",
    "tls.require_client_certificate",
    "proxy.trusted",
    "database_url",
    "store_url",
    "confirm_writes",
    "database.connections",
    "database.migrate",
    "auth.required",
    "auth.open_reflection",
    "audit.retention_days",
    "audit.reads_one_in",
    "rates.team_requests_per_second",
    "rates.team_events_per_second",
    "log.format",
    "log.filter",
    "metrics.listen",
    "limits.max_connections",
    "limits.max_connections_per_peer",
    "limits.handshake_seconds",
    "limits.header_bytes",
    "limits.max_streams_per_connection",
    "limits.upload_buffers_bytes",
    "limits.download_buffers_bytes",
    "limits.request_buffers_bytes",
    "limits.answer_buffers_bytes",
    "limits.upload_idle_seconds",
    "limits.request_seconds",
    "limits.drain_seconds",
    "collector.interval_seconds",
    "collector.pending_expiry_seconds",
    "collector.parts_expiry_seconds",
    "collector.deleted_grace_seconds",
    "collector.chunk_grace_seconds",
    "collector.object_grace_seconds",
];

/// What must be right of a key that names one.
const FILE: &str = "the path of a file";
/// What gRPC itself sends with a call, and a token of ours.
const LEAST_HEADER_BYTES: u32 = 2 << 10;

/// A year: a grace that is longer is a slip of the unit.
const YEAR_SECONDS: u64 = 366 * 86_400;

/// Three chunks of 8 MiB, what one upload needs.
const LEAST_UPLOAD_BUFFERS_BYTES: u64 = 24 << 20;
/// The same for a download.
const LEAST_DOWNLOAD_BUFFERS_BYTES: u64 = 24 << 20;

/// Half of it is the most that one connection has, and the largest message has 4 MiB. The same for answers.
const LEAST_REQUEST_BUFFERS_BYTES: u64 = 16 << 20;

/// The words of `confirm_writes`.
const CONFIRM_WRITES: [(&str, ConfirmWrites); 3] =
    [("nothing", ConfirmWrites::Nothing), ("size", ConfirmWrites::Size), ("bytes", ConfirmWrites::Bytes)];

/// Whether the file may have a section of this name.
pub(super) fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.split_once('.').is_some_and(|(section, _)| section == name))
}

/// A value as its source gives it.
#[derive(Debug)]
pub(super) enum Value {
    /// From the environment or a flag.
    Text(String),
    Toml(toml::Value),
}

/// A value as `check-config` prints it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum SettingValue {
    Text(String),
    Number(u64),
    Flag(bool),
}

impl fmt::Display for SettingValue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingValue::Text(text) => formatter.write_str(text),
            SettingValue::Number(number) => write!(formatter, "{number}"),
            SettingValue::Flag(flag) => write!(formatter, "{flag}"),
        }
    }
}

/// A value with what its errors must say.
struct Setting<'a> {
    key: &'a str,
    value: &'a Value,
    origin: &'a str,
}

impl Config {
    pub(super) fn set(&mut self, key: &str, value: &Value, origin: &str) -> Result<(), ConfigError> {
        let setting = Setting { key, value, origin };
        let limits = &mut self.limits;
        let collector = &mut self.collector;
        match key {
            "data_dir" => self.data_dir = setting.path("the path of a folder")?,
            "listen" => self.listen = setting.address()?,
            "allow_remote" => self.allow_remote = setting.flag()?,
            "tls.certificate" => self.tls.certificate = Some(setting.path(FILE)?),
            "tls.key" => self.tls.key = Some(setting.path(FILE)?),
            "tls.client_ca" => self.tls.client_ca = Some(setting.path(FILE)?),
            "tls.require_client_certificate" => self.tls.require_client_certificate = setting.flag()?,
            "proxy.trusted" => self.proxy.trusted = setting.networks()?,
            "database_url" => self.database_url = Some(setting.database_url()?),
            "store_url" => self.store_url = Some(setting.store_url()?),
            "confirm_writes" => self.confirm_writes = setting.confirm_writes()?,
            "database.connections" => self.database.connections = setting.small(4..=1_000)?,
            "database.migrate" => self.database.migrate = setting.flag()?,
            "log.format" => self.log.format = setting.log_format()?,
            "log.filter" => self.log.filter = setting.text("directives as `info`")?.to_owned(),
            "metrics.listen" => self.metrics.listen = Some(setting.address()?),
            "limits.max_connections" => limits.max_connections = setting.small(1..=1_000_000)?,
            "limits.max_connections_per_peer" => {
                limits.max_connections_per_peer = setting.small(1..=1_000_000)?;
            }
            "limits.handshake_seconds" => limits.handshake_seconds = setting.number(1..=300)?,
            "limits.header_bytes" => limits.header_bytes = setting.small(LEAST_HEADER_BYTES..=1 << 20)?,
            "limits.max_streams_per_connection" => {
                limits.max_streams_per_connection = setting.small(1..=10_000)?;
            }
            "limits.upload_buffers_bytes" => {
                limits.upload_buffers_bytes = setting.number(LEAST_UPLOAD_BUFFERS_BYTES..=1 << 40)?;
            }
            "limits.download_buffers_bytes" => {
                limits.download_buffers_bytes = setting.number(LEAST_DOWNLOAD_BUFFERS_BYTES..=1 << 40)?;
            }
            "limits.request_buffers_bytes" => {
                limits.request_buffers_bytes = setting.number(LEAST_REQUEST_BUFFERS_BYTES..=1 << 40)?;
            }
            "limits.answer_buffers_bytes" => {
                limits.answer_buffers_bytes = setting.number(LEAST_REQUEST_BUFFERS_BYTES..=1 << 40)?;
            }
            "limits.upload_idle_seconds" => limits.upload_idle_seconds = setting.number(1..=3_600)?,
            "limits.request_seconds" => limits.request_seconds = setting.number(1..=3_600)?,
            "limits.drain_seconds" => limits.drain_seconds = setting.number(0..=3_600)?,
            "collector.interval_seconds" => collector.interval_seconds = setting.number(1..=86_400)?,
            "collector.pending_expiry_seconds" => {
                collector.pending_expiry_seconds = setting.number(60..=YEAR_SECONDS)?;
            }
            "collector.parts_expiry_seconds" => {
                collector.parts_expiry_seconds = setting.number(1..=YEAR_SECONDS)?;
            }
            "collector.deleted_grace_seconds" => {
                collector.deleted_grace_seconds = setting.number(0..=YEAR_SECONDS)?;
            }
            "collector.chunk_grace_seconds" => {
                collector.chunk_grace_seconds = setting.number(0..=YEAR_SECONDS)?
            }
            "collector.object_grace_seconds" => {
                collector.object_grace_seconds = setting.number(0..=YEAR_SECONDS)?;
            }
            _ => return self.set_access(key, &setting),
        }
        Ok(())
    }

    /// Who is let in, and how much they may ask for.
    fn set_access(&mut self, key: &str, setting: &Setting<'_>) -> Result<(), ConfigError> {
        match key {
            "auth.required" => self.auth.required = setting.flag()?,
            "auth.open_reflection" => self.auth.open_reflection = setting.flag()?,
            "audit.retention_days" => self.audit.retention_days = setting.number(0..=36_600)?,
            "audit.reads_one_in" => self.audit.reads_one_in = setting.number(0..=1_000_000)?,
            "rates.team_requests_per_second" => {
                self.rates.team_requests_per_second = setting.small(0..=1_000_000)?;
            }
            "rates.team_events_per_second" => {
                self.rates.team_events_per_second = setting.small(0..=10_000_000)?;
            }
            _ => return Err(unknown(key, setting.origin)),
        }
        Ok(())
    }
}

impl Config {
    /// What every key comes to, in the order of [`KEYS`], then the store's options; without those that have no value.
    /// Passwords are not in it.
    pub fn settings(&self) -> Vec<(String, SettingValue)> {
        let options = self.store.shown().map(|(key, value)| (key, SettingValue::Text(value)));
        self.keyed().into_iter().map(|(key, value)| (key.to_owned(), value)).chain(options).collect()
    }

    fn keyed(&self) -> Vec<(&'static str, SettingValue)> {
        let number = |number: u64| Some(SettingValue::Number(number));
        let text = |text: String| Some(SettingValue::Text(text));
        let path = |path: Option<&PathBuf>| path.and_then(|path| text(path.display().to_string()));
        let (limits, collector) = (&self.limits, &self.collector);
        let value = |key: &str| match key {
            "data_dir" => text(self.data_dir.display().to_string()),
            "listen" => text(self.listen.to_string()),
            "allow_remote" => Some(SettingValue::Flag(self.allow_remote)),
            "tls.certificate" => path(self.tls.certificate.as_ref()),
            "tls.key" => path(self.tls.key.as_ref()),
            "tls.client_ca" => path(self.tls.client_ca.as_ref()),
            "tls.require_client_certificate" => Some(SettingValue::Flag(self.tls.require_client_certificate)),
            "proxy.trusted" => text(self.proxy.to_string()),
            "database_url" => self.database_url.as_ref().and_then(|url| text(url.to_string())),
            "store_url" => self.store_url.as_ref().and_then(|url| text(url.to_string())),
            "confirm_writes" => {
                let word = CONFIRM_WRITES.iter().find(|(_, value)| *value == self.confirm_writes);
                word.and_then(|(word, _)| text((*word).to_owned()))
            }
            "database.connections" => number(self.database.connections.into()),
            "database.migrate" => Some(SettingValue::Flag(self.database.migrate)),
            "auth.required" => Some(SettingValue::Flag(self.auth.required)),
            "auth.open_reflection" => Some(SettingValue::Flag(self.auth.open_reflection)),
            "audit.retention_days" => number(self.audit.retention_days),
            "audit.reads_one_in" => number(self.audit.reads_one_in),
            "rates.team_requests_per_second" => number(self.rates.team_requests_per_second.into()),
            "rates.team_events_per_second" => number(self.rates.team_events_per_second.into()),
            "log.format" => text(if self.log.format == LogFormat::Text { "text" } else { "json" }.to_owned()),
            "log.filter" => text(self.log.filter.clone()),
            "metrics.listen" => self.metrics.listen.and_then(|it| text(it.to_string())),
            "limits.max_connections" => number(limits.max_connections.into()),
            "limits.max_connections_per_peer" => number(limits.max_connections_per_peer.into()),
            "limits.handshake_seconds" => number(limits.handshake_seconds),
            "limits.header_bytes" => number(limits.header_bytes.into()),
            "limits.max_streams_per_connection" => number(limits.max_streams_per_connection.into()),
            "limits.upload_buffers_bytes" => number(limits.upload_buffers_bytes),
            "limits.download_buffers_bytes" => number(limits.download_buffers_bytes),
            "limits.request_buffers_bytes" => number(limits.request_buffers_bytes),
            "limits.answer_buffers_bytes" => number(limits.answer_buffers_bytes),
            "limits.upload_idle_seconds" => number(limits.upload_idle_seconds),
            "limits.request_seconds" => number(limits.request_seconds),
            "limits.drain_seconds" => number(limits.drain_seconds),
            "collector.interval_seconds" => number(collector.interval_seconds),
            "collector.pending_expiry_seconds" => number(collector.pending_expiry_seconds),
            "collector.parts_expiry_seconds" => number(collector.parts_expiry_seconds),
            "collector.deleted_grace_seconds" => number(collector.deleted_grace_seconds),
            "collector.chunk_grace_seconds" => number(collector.chunk_grace_seconds),
            "collector.object_grace_seconds" => number(collector.object_grace_seconds),
            _ => None,
        };
        KEYS.iter().filter_map(|key| Some((*key, value(key)?))).collect()
    }
}

/// Names the keys that stand in the same place.
fn unknown(key: &str, origin: &str) -> ConfigError {
    let section = key.split_once('.').map(|(section, _)| section).filter(|section| is_section(section));
    let mut known: Vec<String> = Vec::new();
    for candidate in KEYS {
        match (section, candidate.split_once('.')) {
            (Some(section), Some((of, name))) if section == of => known.push(format!("`{name}`")),
            (None, None) => known.push(format!("`{candidate}`")),
            (None, Some((of, _))) if known.last() != Some(&format!("[{of}]")) => {
                known.push(format!("[{of}]"))
            }
            _ => {}
        }
    }
    if section.is_none() {
        known.push(format!("[{}]", super::store::SECTION));
    }
    ConfigError::UnknownKey { key: key.to_owned(), origin: origin.to_owned(), known: known.join(", ") }
}

impl Setting<'_> {
    fn refuse(&self, right: impl Into<String>) -> ConfigError {
        let found = match self.value {
            // An address may hold a password wherever it was put by mistake.
            Value::Toml(value) if self.key.ends_with("_url") => format!("a {}", value.type_str()),
            Value::Text(text) => format!("`{text}`"),
            Value::Toml(value) => format!("`{value}`"),
        };
        self.refuse_found(found, right)
    }

    fn refuse_found(&self, found: String, right: impl Into<String>) -> ConfigError {
        ConfigError::Refused {
            key: self.key.to_owned(),
            origin: self.origin.to_owned(),
            found,
            right: right.into(),
        }
    }

    fn text(&self, right: &str) -> Result<&str, ConfigError> {
        match self.value {
            Value::Text(text) | Value::Toml(toml::Value::String(text)) if !text.trim().is_empty() => {
                Ok(text.trim())
            }
            _ => Err(self.refuse(right)),
        }
    }

    fn number(&self, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let number = match self.value {
            Value::Text(text) => text.trim().replace('_', "").parse().ok(),
            Value::Toml(toml::Value::Integer(number)) => u64::try_from(*number).ok(),
            Value::Toml(_) => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.refuse(format!("a whole number from {} to {}", range.start(), range.end())))
    }

    fn small(&self, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let number = self.number(u64::from(*range.start())..=u64::from(*range.end()))?;
        Ok(u32::try_from(number).expect("the range ends at a u32"))
    }

    fn flag(&self) -> Result<bool, ConfigError> {
        match self.value {
            Value::Toml(toml::Value::Boolean(flag)) => Ok(*flag),
            Value::Text(text) if text == "true" => Ok(true),
            Value::Text(text) if text == "false" => Ok(false),
            _ => Err(self.refuse("`true` or `false`")),
        }
    }

    fn path(&self, right: &str) -> Result<PathBuf, ConfigError> {
        self.text(right).map(PathBuf::from)
    }

    /// From a file a list, from the environment the same with commas between.
    fn networks(&self) -> Result<Vec<IpNet>, ConfigError> {
        let right = "networks, as `[\"10.0.0.0/8\", \"192.0.2.7\"]`";
        let words: Option<Vec<&str>> = match self.value {
            Value::Text(text) if !text.trim().is_empty() => Some(text.split(',').collect()),
            Value::Toml(toml::Value::Array(values)) => values.iter().map(toml::Value::as_str).collect(),
            _ => None,
        };
        let network = |word: &str| tls::network(word.trim());
        let networks = words.and_then(|words| words.into_iter().map(network).collect());
        networks.ok_or_else(|| self.refuse(right))
    }

    fn address(&self) -> Result<SocketAddr, ConfigError> {
        let right = "an address with a port, as `127.0.0.1:7400`";
        let text = self.text(right)?;
        if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
            return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        }
        text.parse().map_err(|_| self.refuse(right))
    }

    fn database_url(&self) -> Result<DatabaseUrl, ConfigError> {
        let right = "`sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`";
        DatabaseUrl::parse(self.text(right)?).map_err(|found| self.refuse_found(found, right))
    }

    fn store_url(&self) -> Result<StoreUrl, ConfigError> {
        let right =
            "`file:PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `memory:`";
        StoreUrl::parse(self.text(right)?).map_err(|found| self.refuse_found(found, right))
    }

    fn confirm_writes(&self) -> Result<ConfirmWrites, ConfigError> {
        let right = "`nothing`, `size` or `bytes`";
        let found = self.text(right)?;
        let known = CONFIRM_WRITES.iter().find(|(word, _)| *word == found);
        known.map(|(_, value)| *value).ok_or_else(|| self.refuse(right))
    }

    fn log_format(&self) -> Result<LogFormat, ConfigError> {
        let right = "`text` or `json`";
        match self.text(right)? {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(self.refuse(right)),
        }
    }
}
