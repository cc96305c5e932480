//! Tests of the settings: precedence, strictness, ranges, redaction, and the example file.

use std::path::{Path, PathBuf};

use super::{Config, DatabaseUrl, Flags, KEYS, LogFormat, environment_name};

const EXAMPLE: &str = include_str!("../../deploy/config.example.toml");

fn from_file(text: &str) -> Result<Config, String> {
    Config::from_sources(Some((Path::new("keepbest.toml"), text)), [], &Flags::default())
        .map_err(|error| error.to_string())
}

fn from_environment(name: &str, value: &str) -> Result<Config, String> {
    Config::from_sources(None, [(name.to_owned(), value.to_owned())], &Flags::default())
        .map_err(|error| error.to_string())
}

#[test]
fn without_any_source_the_defaults_hold() {
    assert_eq!(from_file("").unwrap(), Config::default());
}

#[test]
fn the_example_file_holds_the_defaults() {
    assert_eq!(from_file(EXAMPLE).unwrap(), Config::default());
}

#[test]
fn the_example_file_shows_every_key() {
    let uncommented = EXAMPLE.replace("# database_url", "database_url");
    let table: toml::Table = uncommented.parse().unwrap();
    for key in KEYS {
        let found = match key.split_once('.') {
            Some((section, name)) => table[section].get(name).is_some(),
            None => table.contains_key(*key),
        };
        assert!(found, "`{key}` is not in deploy/config.example.toml");
    }
    assert!(from_file(&uncommented).unwrap().database_url.is_some());
}

#[test]
fn later_sources_win() {
    let file = "listen = '127.0.0.1:1'\ndata_dir = 'from-file'\n[limits]\ndrain_seconds = 1";
    let environment = [
        ("KEEPBEST_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("KEEPBEST_DATA_DIR".to_owned(), "from-environment".to_owned()),
    ];
    let flags = Flags { listen: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
    let config = Config::from_sources(Some((Path::new("keepbest.toml"), file)), environment, &flags).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data_dir, PathBuf::from("from-environment"));
    assert_eq!(config.limits.drain_seconds, 1);
}

#[test]
fn every_key_can_be_set() {
    for key in KEYS {
        let error = from_environment(&environment_name(key), "").unwrap_err();
        assert!(error.starts_with(&format!("key `{key}` from `KEEPBEST_")), "{error}");
    }
}

#[test]
fn every_key_is_told() {
    let config = from_environment("KEEPBEST_DATABASE_URL", "postgres://a:s3cr@host/db").unwrap();
    let settings = config.settings();
    assert_eq!(settings.iter().map(|(key, _)| *key).collect::<Vec<_>>(), KEYS);
    assert!(!format!("{settings:?}").contains("s3cr"));
}

#[test]
fn variables_of_others_are_left_alone() {
    assert_eq!(from_environment("KEEPBEST_SERVICE_HOST", "10.0.0.1").unwrap(), Config::default());
}

#[test]
fn an_unknown_key_is_refused_with_the_known_ones() {
    assert_eq!(
        from_file("[log]\nlevel = 'info'").unwrap_err(),
        "key `log.level` in `keepbest.toml` is unknown; the keys there are `format`, `filter`"
    );
    assert_eq!(
        from_file("datadir = 'x'").unwrap_err(),
        "key `datadir` in `keepbest.toml` is unknown; the keys there are `data_dir`, `listen`, `allow_remote`, \
         `database_url`, [log], [limits], [collector]"
    );
    assert!(from_file("[logs]\nformat = 'text'").unwrap_err().starts_with("key `logs` in"));
}

#[test]
fn broken_toml_is_refused_with_its_line() {
    let error = from_file("listen = '127.0.0.1:1'\ndata_dir =").unwrap_err();
    assert!(error.starts_with("line 2 of `keepbest.toml` is not TOML: "), "{error}");
}

#[test]
fn a_value_out_of_range_is_refused_with_the_range() {
    assert_eq!(
        from_file("[limits]\nmax_connections = 0").unwrap_err(),
        "key `limits.max_connections` from `keepbest.toml` is `0`, but it must be a whole number from 1 to 1000000"
    );
    assert_eq!(
        from_environment("KEEPBEST_LIMITS_UPLOAD_BUFFERS_BYTES", "1").unwrap_err(),
        "key `limits.upload_buffers_bytes` from `KEEPBEST_LIMITS_UPLOAD_BUFFERS_BYTES` is `1`, but it must be a whole \
         number from 25165824 to 1099511627776"
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_refused() {
    for text in
        ["listen = 7400", "listen = '7400'", "allow_remote = 'yes'", "log = 'text'", "[log]\nformat = 'xml'"]
    {
        assert!(from_file(text).is_err(), "{text}");
    }
}

#[test]
fn only_loopback_is_listened_on_unless_allowed() {
    let error = from_file("listen = '0.0.0.0:7400'").unwrap_err();
    assert!(error.contains("not authenticated") && error.contains("allow_remote = true"), "{error}");
    assert!(from_file("listen = '0.0.0.0:7400'\nallow_remote = true").is_ok());
    for loopback in ["127.0.0.2:1", "[::1]:1", "localhost:1"] {
        assert!(from_file(&format!("listen = '{loopback}'")).is_ok(), "{loopback}");
    }
}

#[test]
fn the_environment_is_read_as_text() {
    let config = from_environment("KEEPBEST_LOG_FORMAT", "json").unwrap();
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(from_environment("KEEPBEST_ALLOW_REMOTE", "true").unwrap().allow_remote);
    assert_eq!(
        from_environment("KEEPBEST_LIMITS_MAX_CONNECTIONS", "2_000").unwrap().limits.max_connections,
        2000
    );
}

#[test]
fn postgres_is_read_and_not_served_yet() {
    let config = from_file("database_url = 'postgres://keeper:s3cr@t@db/keepbest?password=s3cr'").unwrap();
    let error = config.check_served().unwrap_err().to_string();
    assert!(error.contains("Postgres is not served yet"), "{error}");
    assert!(!error.contains("s3cr") && !format!("{config:?}").contains("s3cr"), "{error} {config:?}");
    assert!(from_file("database_url = 'sqlite:meta.db'").unwrap().check_served().is_ok());
}

#[test]
fn a_password_is_never_printed() {
    let table = [
        ("postgres://a:b@host/db", "postgres://a:***@host/db"),
        ("postgresql://a@host:1/db", "postgresql://a@host:1/db"),
        ("sqlite:data/keepbest.db", "sqlite:data/keepbest.db"),
    ];
    for (url, printed) in table {
        assert_eq!(format!("{:?}", DatabaseUrl::parse(url).unwrap()), printed);
    }
    let error = from_environment("KEEPBEST_DATABASE_URL", "mysql://a:hunter2@host/db").unwrap_err();
    assert!(!error.contains("hunter2"), "{error}");
}
