//! Where the chunks are kept and how that place is reached: its address, and the options of the object store's driver.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use super::ConfigError;
use super::url;

/// The section of the file whose keys are the driver's own.
pub(super) const SECTION: &str = "store";

/// What begins the names of environment variables that the drivers know: `AWS_REGION` is the option `aws_region`.
const ENVIRONMENT: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Whether an environment variable may be an option.
pub(super) fn is_option(name: &str) -> bool {
    ENVIRONMENT.iter().any(|it| name.starts_with(it))
}

/// Options that tell no secret: only their values are printed.
const PUBLIC: [&str; 14] = [
    "aws_endpoint",
    "aws_endpoint_url",
    "aws_endpoint_url_s3",
    "aws_region",
    "aws_default_region",
    "aws_virtual_hosted_style_request",
    "aws_allow_http",
    "aws_unsigned_payload",
    "aws_checksum_algorithm",
    "azure_storage_account_name",
    "azure_storage_endpoint",
    "azure_storage_use_emulator",
    "allow_http",
    "google_base_url",
];

/// `file:PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, or `memory:` for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// # Errors
    /// What was found instead, without anything that may be a secret.
    pub fn parse(text: &str) -> Result<StoreUrl, String> {
        let (scheme, rest) = url::split(text)?;
        let bucket = rest.strip_prefix("//").is_some_and(|it| !it.is_empty() && !it.starts_with('/'));
        match scheme {
            "file" if rest.trim_start_matches('/').is_empty() => Err("`file:` without a path".to_owned()),
            "s3" | "gs" | "az" if !bucket => Err(format!("`{scheme}:` without `//` and a bucket")),
            "s3" | "gs" | "az" if rest.contains(['?', '#', '@']) => {
                Err(format!("`{scheme}://` with a user or parameters, which belong into [{SECTION}]"))
            }
            "memory" if !rest.is_empty() => Err("`memory:` with something behind it".to_owned()),
            "file" | "s3" | "gs" | "az" | "memory" => Ok(StoreUrl(text.to_owned())),
            other => Err(format!("of the scheme `{other}`")),
        }
    }

    /// Whether a driver with options of its own reaches it.
    pub(super) fn has_driver(&self) -> bool {
        self.0.contains("://") && self.folder().is_none()
    }

    /// The folder of `file:PATH`; also of `file:///PATH`, as other tools write it.
    pub fn folder(&self) -> Option<&Path> {
        let rest = self.0.strip_prefix("file:")?;
        Some(Path::new(rest.strip_prefix("//").unwrap_or(rest)))
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Options of the object store's driver, by its own names in lower case. `Debug` prints no value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    file: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
}

impl StoreOptions {
    /// Sets an option from the file. Whether the driver knows it is asked when the store is opened.
    pub(super) fn set(&mut self, key: &str, value: &toml::Value, origin: &str) -> Result<(), ConfigError> {
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Boolean(flag) => flag.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            _ => {
                return Err(ConfigError::Refused {
                    key: format!("{SECTION}.{key}"),
                    origin: origin.to_owned(),
                    found: format!("a {}", value.type_str()),
                    right: "a text, a number, `true` or `false`".to_owned(),
                });
            }
        };
        self.file.insert(key.to_ascii_lowercase(), text);
        Ok(())
    }

    /// Takes what drivers usually find in the environment. The file wins.
    pub(super) fn take_environment(&mut self, environment: &BTreeMap<String, String>) {
        let known = environment.iter().filter(|(name, _)| is_option(name));
        self.environment = known.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    }

    /// From the file: the driver must know all of them.
    pub fn file(&self) -> impl Iterator<Item = (&str, &str)> {
        self.file.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// From the environment: the driver takes what it knows, others are meant for other programs.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Those of the file as they may be printed.
    pub(super) fn shown(&self) -> impl Iterator<Item = (String, String)> {
        let value = |key: &str, value: &str| if PUBLIC.contains(&key) { value } else { "***" }.to_owned();
        self.file().map(move |(key, text)| (format!("{SECTION}.{key}"), value(key, text)))
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.file.keys().chain(self.environment.keys())).finish()
    }
}
