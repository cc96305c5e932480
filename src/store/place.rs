//! Opening an object store by its address: a folder, S3, GCS, Azure, or memory for tests.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::BackoffConfig;
use object_store::ClientConfigKey;
use object_store::ClientOptions;
use object_store::ObjectStore;
use object_store::RetryConfig;
use object_store::aws::AmazonS3Builder;
use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::gcp::GoogleConfigKey;
use object_store::prefix::PrefixStore;

use crate::store::Store;

/// To reach the store's address at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// One request, bytes included: a chunk of 8 MiB in this time is 280 KB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A request that failed is not begun again after this: the caller, who repeats whole calls, hears of it in time.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a request is begun again: with pauses of 0.1, 0.2, 0.4, 0.8 and 1.6 s, about 3 s of a store that says 503.
const RETRIES: usize = 5;
/// The longest of those pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why an address was not opened; nothing was asked of the store yet.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not one of ours.
    #[error(
        "`{0}` is no address of an object store: `file:`, `s3://`, `gs://`, `az://` and `memory:` are known"
    )]
    Scheme(String),
    /// The folder of `file:` is missing.
    #[error("the folder `{0}` does not exist: make it, or mount what belongs there")]
    NoFolder(String),
    /// An option that the driver does not know.
    #[error(
        "option `{option}` is not known to the driver of `{scheme}`: it takes those of the crate object_store"
    )]
    Option {
        /// As it was given.
        option: String,
        /// Of the address.
        scheme: &'static str,
    },
    /// An option has a wrong value, or one is missing.
    #[error("its options are not right")]
    Options(#[source] object_store::Error),
}

/// What all three drivers are given.
struct Options<'a> {
    url: &'a str,
    named: &'a [(&'a str, &'a str)],
    found: &'a [(&'a str, &'a str)],
}

impl Store {
    /// Opens the store at `url`. `named` are options of its driver that it must know, `found` those of the environment, of
    /// which it takes what it knows; `named` wins.
    pub fn open(url: &str, named: &[(&str, &str)], found: &[(&str, &str)]) -> Result<Store, OpenError> {
        // Of this process; whoever was first has set the same.
        drop(rustls::crypto::ring::default_provider().install_default());
        let options = Options { url, named, found };
        let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
        let objects: Arc<dyn ObjectStore> = match scheme {
            "file" => {
                let folder = Path::new(rest.strip_prefix("//").unwrap_or(rest));
                if !folder.is_dir() {
                    return Err(OpenError::NoFolder(folder.display().to_string()));
                }
                return Store::open_folder(folder).map_err(|error| match error {
                    super::Error::Unavailable(source) | super::Error::Full(source) => {
                        OpenError::Options(source)
                    }
                    super::Error::Missing(path) => OpenError::NoFolder(path),
                });
            }
            "memory" => return Ok(Store::in_memory()),
            "s3" => Arc::new(s3(&options)?.build().map_err(OpenError::Options)?),
            "gs" => Arc::new(gcs(&options)?.build().map_err(OpenError::Options)?),
            "az" => Arc::new(azure(&options)?.build().map_err(OpenError::Options)?),
            _ => return Err(OpenError::Scheme(url.to_owned())),
        };
        let prefix = rest.trim_start_matches('/').split_once('/').map_or("", |(_, prefix)| prefix);
        match prefix.trim_matches('/') {
            "" => Ok(Store::over(objects)),
            prefix => Ok(Store::over(Arc::new(PrefixStore::new(objects, prefix)))),
        }
    }
}

fn s3(options: &Options<'_>) -> Result<AmazonS3Builder, OpenError> {
    let settings = options.settings::<AmazonS3ConfigKey>("s3")?;
    let endpoint = settings.iter().any(|(key, value)| {
        matches!(key, AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint) && is_plain(value)
    });
    let mut builder =
        AmazonS3Builder::new().with_client_options(client()).with_retry(retry()).with_url(options.url);
    builder = if endpoint {
        // Whoever writes `http://` means it. The signature then covers the bytes, which costs a SHA-256.
        builder.with_allow_http(true)
    } else {
        // TLS guards the bytes on the way; what arrives is checked against the checksum.
        builder.with_unsigned_payload(true)
    };
    // The store refuses bytes that are not these: nothing is acknowledged that was damaged on the way.
    builder = builder.with_config(AmazonS3ConfigKey::Checksum, "crc64nvme");
    Ok(settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

fn gcs(options: &Options<'_>) -> Result<GoogleCloudStorageBuilder, OpenError> {
    let settings = options.settings::<GoogleConfigKey>("gs")?;
    let plain = settings.iter().any(|(key, value)| *key == GoogleConfigKey::BaseUrl && is_plain(value));
    let client = client().with_allow_http(plain);
    let builder = GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retry());
    let builder = builder.with_url(options.url);
    Ok(settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

fn azure(options: &Options<'_>) -> Result<MicrosoftAzureBuilder, OpenError> {
    let settings = options.settings::<AzureConfigKey>("az")?;
    let plain = settings.iter().any(|(key, value)| *key == AzureConfigKey::Endpoint && is_plain(value));
    let client = client().with_allow_http(plain);
    let builder = MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retry());
    let builder = builder.with_url(options.url);
    Ok(settings.into_iter().fold(builder, |builder, (key, value)| builder.with_config(key, value)))
}

impl Options<'_> {
    /// The driver's options by its keys: those found first, so that the named ones win.
    fn settings<K: FromStr>(&self, scheme: &'static str) -> Result<Vec<(K, String)>, OpenError> {
        let found =
            self.found.iter().filter_map(|(name, value)| Some((name.parse().ok()?, (*value).to_owned())));
        let mut settings: Vec<(K, String)> = found.collect();
        for (name, value) in self.named {
            let Ok(key) = name.parse() else {
                return Err(OpenError::Option { option: (*name).to_owned(), scheme });
            };
            settings.push((key, (*value).to_owned()));
        }
        Ok(settings)
    }
}

fn is_plain(url: &str) -> bool {
    url.starts_with("http://")
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_timeout(REQUEST_TIMEOUT)
        .with_config(ClientConfigKey::UserAgent, concat!("keepbest/", env!("CARGO_PKG_VERSION")))
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig { max_backoff: LONGEST_PAUSE, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_TIMEOUT }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, named: &[(&str, &str)]) -> String {
        let error = Store::open(url, named, &[]).unwrap_err();
        let cause = std::error::Error::source(&error).map(|it| format!(": {it}")).unwrap_or_default();
        format!("{error}{cause}")
    }

    #[test]
    fn an_option_must_be_known_when_it_was_named() {
        let said = refusal("s3://bucket", &[("aws_endpiont", "x")]);
        assert_eq!(
            said,
            "option `aws_endpiont` is not known to the driver of `s3`: it takes those of the crate object_store"
        );
        assert!(Store::open("s3://bucket", &[("aws_region", "eu-1")], &[("aws_profile", "x")]).is_ok());
        assert!(refusal("az://container", &[]).contains("Account"), "{}", refusal("az://container", &[]));
        assert!(refusal("s3://bucket", &[("aws_allow_http", "perhaps")]).contains("perhaps"));
    }

    #[test]
    fn a_folder_must_be_there() {
        assert!(refusal("file:/nowhere/at/all", &[]).contains("`/nowhere/at/all` does not exist"));
        assert!(refusal("ftp://host", &[]).contains("`ftp://host` is no address"));
        let folder = tempfile::tempdir().unwrap();
        assert!(Store::open(&format!("file:{}", folder.path().display()), &[], &[]).is_ok());
        assert!(Store::open(&format!("file://{}", folder.path().display()), &[], &[]).is_ok());
    }
}
