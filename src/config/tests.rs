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
    let mut uncommented = EXAMPLE.to_owned();
    for key in ["database_url", "store_url", "certificate", "key", "client_ca", "listen"] {
        uncommented = uncommented.replace(&format!("# {key} = "), &format!("{key} = "));
    }
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
    let text = "database_url = 'postgres://a:s3cr@host/db'\nstore_url = 's3://bucket'\n\
                [tls]\ncertificate = 'c.pem'\nkey = 'k.pem'\nclient_ca = 'ca.pem'\n\
                [metrics]\nlisten = '127.0.0.1:9464'";
    let config = from_file(text).unwrap();
    let settings = config.settings();
    assert_eq!(settings.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), KEYS);
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
         [tls], [proxy], `database_url`, `store_url`, `confirm_writes`, [database], [auth], [audit], [rates], [log], [metrics], [limits], [collector], [store]"
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
    for text in [
        "confirm_writes = true",
        "confirm_writes = 'all'",
        "listen = 7400",
        "listen = '7400'",
        "allow_remote = 'yes'",
        "log = 'text'",
        "[log]\nformat = 'xml'",
    ] {
        assert!(from_file(text).is_err(), "{text}");
    }
}

#[test]
fn only_loopback_is_listened_on_unless_allowed() {
    let error = from_file("listen = '0.0.0.0:7400'").unwrap_err();
    assert!(error.contains("`auth.required = true`") && error.contains("allow_remote = true"), "{error}");
    assert!(error.contains("read along") && error.contains("`tls.certificate` and `tls.key`"), "{error}");
    // Encrypted is not authenticated, nor the other way round.
    let encrypted = "listen = '0.0.0.0:7400'\n[tls]\ncertificate = 'c.pem'\nkey = 'k.pem'";
    let error = from_file(encrypted).unwrap_err();
    assert!(!error.contains("read along") && error.contains("allow_remote = true"), "{error}");
    assert!(from_file(&format!("{encrypted}\n[auth]\nrequired = true")).is_ok());
    let error = from_file("listen = '0.0.0.0:7400'\n[auth]\nrequired = true").unwrap_err();
    assert!(error.contains("read along") && !error.contains("auth.required"), "{error}");
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
fn a_database_is_a_file_or_postgres() {
    let path = |text: &str| {
        let url = from_file(&format!("database_url = '{text}'")).unwrap().database_url.unwrap();
        url.sqlite_path().map(|path| path.display().to_string())
    };
    assert_eq!(path("sqlite:meta.db").as_deref(), Some("meta.db"));
    assert_eq!(path("sqlite:///var/meta.db").as_deref(), Some("/var/meta.db"));
    assert_eq!(path("postgres://keeper@db/keepbest"), None);
    let config = from_file("database_url = 'postgres://keeper:s3cr@t@db/keepbest?password=s3cr'").unwrap();
    assert!(!format!("{config:?} {}", config.database()).contains("s3cr"), "{config:?}");
}

#[test]
fn the_plain_variable_of_platforms_is_the_last_resort() {
    let url = |environment: &[(&str, &str)], file: &str| {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let config = Config::from_sources(Some((Path::new("f"), file)), environment, &Flags::default());
        config.unwrap().database_url.map(|url| url.to_string())
    };
    let plain = ("DATABASE_URL", "postgres://plain/db");
    assert_eq!(url(&[plain], "").as_deref(), Some("postgres://plain/db"));
    assert_eq!(url(&[plain], "database_url = 'postgres://file/db'").as_deref(), Some("postgres://file/db"));
    let own = ("KEEPBEST_DATABASE_URL", "postgres://own/db");
    assert_eq!(url(&[plain, own], "").as_deref(), Some("postgres://own/db"));
    // What is not used may be of another program.
    assert_eq!(url(&[("DATABASE_URL", "mysql://x/y"), own], "").as_deref(), Some("postgres://own/db"));
}

#[test]
fn an_object_store_has_an_address_and_options_of_its_driver() {
    for right in
        ["file:objects", "file:///objects", "s3://bucket", "s3://bucket/a/b", "gs://b", "az://c/p", "memory:"]
    {
        let config = from_file(&format!("store_url = '{right}'")).unwrap();
        assert_eq!(config.store_url.unwrap().as_str(), right);
    }
    for (wrong, found) in [
        ("s3:bucket", "`s3:` without `//` and a bucket"),
        ("s3://", "`s3:` without `//` and a bucket"),
        ("s3:///prefix", "`s3:` without `//` and a bucket"),
        ("ftp://host", "of the scheme `ftp`"),
        ("file:", "`file:` without a path"),
        ("memory:x", "`memory:` with something behind it"),
        ("s3://key:secret@bucket", "`s3://` with a user or parameters, which belong into [store]"),
        ("s3://b?x=1", "`s3://` with a user or parameters, which belong into [store]"),
        ("/secret/path:a", "without a scheme"),
        ("bucket", "without a scheme"),
    ] {
        let error = from_file(&format!("store_url = '{wrong}'")).unwrap_err();
        let said =
            format!("key `store_url` from `keepbest.toml` is {found}, but it must be `file:PATH`, `s3://");
        assert!(error.starts_with(&said) && !error.contains("secret"), "{error}");
    }
    let text = "store_url = 's3://b'\n[store]\naws_endpoint = 'http://127.0.0.1:1'\naws_secret_access_key = 'hush'\n\
        timeout = 5\naws_virtual_hosted_style_request = false";
    let config = from_file(text).unwrap();
    let named: Vec<_> = config.store.file().collect();
    assert_eq!(
        named,
        [
            ("aws_endpoint", "http://127.0.0.1:1"),
            ("aws_secret_access_key", "hush"),
            ("aws_virtual_hosted_style_request", "false"),
            ("timeout", "5")
        ]
    );
    assert!(!format!("{config:?} {:?}", config.settings()).contains("hush"));
    let shown = config.settings().into_iter().find(|(key, _)| key == "store.aws_endpoint").unwrap();
    assert_eq!(shown.1.to_string(), "http://127.0.0.1:1");
    assert!(from_file("[store]\naws_region = []").unwrap_err().contains("`store.aws_region`"));
    let config = from_environment("AWS_SECRET_ACCESS_KEY", "hush").unwrap();
    assert_eq!(config.store.environment().collect::<Vec<_>>(), [("aws_secret_access_key", "hush")]);
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn an_option_of_the_store_that_nobody_takes_is_refused() {
    for place in ["", "store_url = 'file:objects'\n", "store_url = 'memory:'\n"] {
        let error = from_file(&format!("{place}[store]\naws_region = 'eu-1'")).unwrap_err();
        assert!(
            error.starts_with("key `store.aws_region` is an option of an object store's driver"),
            "{error}"
        );
        assert!(
            error.ends_with("set `store_url` to an address as `s3://BUCKET/PREFIX`, or remove the option")
        );
    }
    from_environment("AWS_REGION", "eu-1").unwrap();
}

#[test]
fn a_password_is_never_printed() {
    let table = [
        ("postgres://a:b@host/db", "postgres://a:***@host/db"),
        ("postgresql://a@host:1/db", "postgresql://a@host:1/db"),
        ("sqlite:data/keepbest.db", "sqlite:data/keepbest.db"),
        ("postgres://a:b@host/db?sslmode=require&password=c", "postgres://a:***@host/db?***"),
        ("postgres://a:b?c@host/db", "postgres://***"),
        ("postgres://a:b#c@host/db", "postgres://***"),
    ];
    for (url, printed) in table {
        assert_eq!(format!("{:?}", DatabaseUrl::parse(url).unwrap()), printed);
    }
    for error in [
        from_environment("KEEPBEST_DATABASE_URL", "mysql://a:hunter2@host/db").unwrap_err(),
        from_file("database_url = ['postgres://a:hunter2@host/db']").unwrap_err(),
        from_file("[database_url]\nurl = 'postgres://a:hunter2@host/db'").unwrap_err(),
    ] {
        assert!(error.contains("database_url") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn what_is_half_set_of_tls_is_refused_with_what_is_missing() {
    for (text, key, says) in [
        ("certificate = 'c.pem'", "tls.certificate", "set `tls.key`"),
        ("key = 'k.pem'", "tls.key", "set `tls.certificate`"),
        ("client_ca = 'ca.pem'", "tls.client_ca", "nothing is encrypted"),
        (
            "certificate = 'c.pem'\nkey = 'k.pem'\nrequire_client_certificate = true",
            "tls.require_client_certificate",
            "set `tls.client_ca`",
        ),
        ("require_client_certificate = true", "tls.require_client_certificate", "set `tls.client_ca`"),
    ] {
        let error = from_file(&format!("[tls]\n{text}")).unwrap_err();
        assert!(error.starts_with(&format!("key `{key}` is ")) && error.contains(says), "{error}");
    }
}

#[test]
fn trusted_proxies_are_networks_or_addresses() {
    let config = from_file("[proxy]\ntrusted = ['10.1.2.3/8', '192.0.2.7', 'fd00::/8']").unwrap();
    assert_eq!(config.proxy.to_string(), "10.0.0.0/8, 192.0.2.7/32, fd00::/8");
    assert_eq!(
        from_environment("KEEPBEST_PROXY_TRUSTED", "10.0.0.0/8, 192.0.2.7").unwrap().proxy.trusted.len(),
        2
    );
    for wrong in ["'10.0.0.0/8'", "['10.0.0.0/33']", "['proxy.example']", "[10]", "true"] {
        let error = from_file(&format!("[proxy]\ntrusted = {wrong}")).unwrap_err();
        assert!(error.contains("but it must be networks, as `[\"10.0.0.0/8\""), "{error}");
    }
}
