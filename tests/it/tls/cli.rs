//! The command line over TLS, from the server's settings to a model that comes back.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::https;
use crate::support::authority::text;
use crate::support::server::ServerProcess;

/// Runs a command with variables; its exit code, and what it said.
fn keepbest(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepbest"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KEEPBEST_") {
            command.env_remove(name);
        }
    }
    let done = command.envs(variables.iter().copied()).args(arguments).current_dir(folder).output().unwrap();
    let said = [done.stdout, done.stderr].map(|it| String::from_utf8(it).unwrap()).concat();
    (done.status.code().unwrap(), said)
}

#[test]
fn a_model_is_pushed_and_pulled_over_tls_with_a_certificate_of_the_clients() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let pair = authority.issue("server", &LOCAL);
    let own = clients.issue("own", &["trainer.example"]);
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let client_ca = clients.file();
    let more =
        [("KEEPBEST_TLS_CLIENT_CA", text(&client_ca)), ("KEEPBEST_TLS_REQUIRE_CLIENT_CERTIFICATE", "true")];
    let server = ServerProcess::start_with(data.path(), &[&pair.environment()[..], &more].concat());
    let (address, ca) = (https(&server.address()), authority.file());
    fs::write(folder.path().join("model.bin"), b"weights").unwrap();

    let typed = ["--ca", text(&ca), "--client-cert", text(&own.certificate), "--client-key", text(&own.key)];
    let push = [
        &["push", "model.bin", "cnn", "--metric", "auc=0.5", "--mode", "max", "--server", &address][..],
        &typed,
    ];
    let (code, said) = keepbest(folder.path(), &[], &push.concat());
    assert_eq!(code, 0, "{said}");
    let variables = [
        ("KEEPBEST_ADDRESS", &*address),
        ("KEEPBEST_CA", text(&ca)),
        ("KEEPBEST_CLIENT_CERT", text(&own.certificate)),
        ("KEEPBEST_CLIENT_KEY", text(&own.key)),
    ];
    let (code, said) = keepbest(folder.path(), &variables, &["pull", "cnn:best"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(fs::read(folder.path().join("cnn-v0/model.bin")).unwrap(), b"weights");

    let http = server.address();
    for (variables, server, expected) in [
        (&variables[..1], &*address, "name the file of its authority with `--ca` or `KEEPBEST_CA`"),
        (&variables[..2], &*address, "name one of its authority with `--client-cert` and `--client-key`"),
        (&variables[..], &*http, &*format!("it speaks TLS: write `{address}`")),
    ] {
        let (code, said) = keepbest(folder.path(), variables, &["runs", "--server", server]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(server) && said.contains(expected), "{said}");
    }
    let (code, said) = keepbest(folder.path(), &[("KEEPBEST_CA", "")], &["runs", "--server", &address]);
    assert!(code == 2 && said.contains("`KEEPBEST_CA` is empty"), "{said}");
}

#[test]
fn a_server_without_tls_is_told_with_its_address() {
    let (data, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = ServerProcess::start(data.path());
    let (code, said) = keepbest(folder.path(), &[], &["runs", "--server", &https(&server.address())]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&format!("it does not speak TLS: write `{}`", server.address())), "{said}");
}

#[test]
fn the_check_of_the_settings_reads_the_files_and_tells_the_term() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", &LOCAL), authority.issue("other", &LOCAL));
    let expired = authority.issue_expired("expired", &LOCAL);
    let folder = tempfile::tempdir().unwrap();
    let check = |certificate: &Path, key: &Path| {
        let variables = [("KEEPBEST_TLS_CERTIFICATE", text(certificate)), ("KEEPBEST_TLS_KEY", text(key))];
        keepbest(folder.path(), &variables, &["check-config"])
    };
    let (code, said) = check(&one.certificate, &one.key);
    assert!(code == 0 && said.contains("the certificate is good until 4096-01-01T00:00:00Z"), "{said}");
    let secret = fs::read_to_string(&one.key).unwrap();
    assert!(!said.contains(secret.lines().nth(1).unwrap()), "{said}");

    let missing = folder.path().join("missing.pem");
    for ((code, said), parts) in [
        (check(&missing, &one.key), [text(&missing), "`tls.certificate` cannot be read"]),
        (check(&one.certificate, &missing), [text(&missing), "`tls.key` cannot be read"]),
        (check(&one.key, &one.key), [text(&one.key), "`tls.certificate` has no certificate"]),
        (check(&one.certificate, &one.certificate), [text(&one.certificate), "`tls.key` has no private key"]),
        (check(&one.certificate, &other.key), [text(&other.key), "does not belong to the certificate"]),
        (
            check(&expired.certificate, &expired.key),
            [text(&expired.certificate), "has expired at 2002-01-01T00:00:00Z"],
        ),
    ] {
        assert_eq!(code, 2, "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}: {parts:?}");
    }
    let (code, said) = keepbest(folder.path(), &[], &["serve", "--listen", "0.0.0.0:0"]);
    assert!(
        code == 2 && said.contains("`tls.certificate` and `tls.key`") && said.contains("allow_remote = true"),
        "{said}"
    );
}
