//! Whom clients trust and whom servers let in, and what is said where it is not so.

use keepbest_client::Client;
use keepbest_client::Error;
use keepbest_client::Fault;
use keepbest_client::Tls;
use tempfile::TempDir;

use super::NOBODY;
use super::ask;
use super::encrypted;
use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::bare;
use crate::support::authority::https;
use crate::support::authority::text;
use crate::support::server::ServerProcess;
use crate::support::server::start;
use crate::support::server::start_with;

fn told(answer: Result<(), (Fault, String)>, expected: Fault, parts: &[&str]) {
    let (fault, text) = answer.unwrap_err();
    assert_eq!(fault, expected, "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[tokio::test]
async fn a_client_that_knows_the_authority_gets_in_by_each_name_of_the_server() {
    let (authority, server) = encrypted().await;
    ask(&https(&server.address()), authority.trusted()).await.unwrap();
    let (_, port) = server.address().rsplit_once(':').map(|(_, port)| ((), port.to_owned())).unwrap();
    ask(&format!("https://localhost:{port}"), authority.trusted()).await.unwrap();
    let client = Client::builder(https(&server.address())).tls(authority.trusted()).gives_up_soon(true);
    assert!(client.connect().await.unwrap().get_run(NOBODY).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_told_with_its_fault() {
    let (authority, server) = encrypted().await;
    let address = https(&server.address());
    told(
        ask(&address, Tls::default()).await,
        Fault::UnknownAuthority,
        &[&address, "of an authority that this system does not trust"],
    );
    let other = Authority::new();
    let file = other.file().display().to_string();
    told(ask(&address, other.trusted()).await, Fault::UnknownAuthority, &["of no authority in", &file]);
    let (one, other) = (Authority::named("The same name"), Authority::named("The same name"));
    let pair = one.issue("server", &LOCAL);
    let server = start_with(|config| config.tls = pair.settings()).await;
    let answer = ask(&https(&server.address()), other.trusted()).await;
    told(answer, Fault::UnknownAuthority, &["of no authority in"]);

    let elsewhere = authority.issue("elsewhere", &["gpu7.example"]);
    let server = start_with(|config| config.tls = elsewhere.settings()).await;
    told(
        ask(&https(&server.address()), authority.trusted()).await,
        Fault::Certificate,
        &["is of `gpu7.example`, and not of `127.0.0.1`"],
    );
    let expired = authority.issue_expired("expired", &LOCAL);
    let server = start_with(|config| config.tls = expired.settings()).await;
    told(
        ask(&https(&server.address()), authority.trusted()).await,
        Fault::Certificate,
        &["has expired ", " days ago"],
    );
}

#[tokio::test]
async fn an_address_with_the_wrong_scheme_is_told_with_the_right_one() {
    let (authority, with) = encrypted().await;
    let right = format!("write `{}`", https(&with.address()));
    told(ask(&with.address(), Tls::default()).await, Fault::WantsTls, &[&right]);
    let without = start().await;
    let right = format!("write `{}`", without.address());
    told(ask(&https(&without.address()), authority.trusted()).await, Fault::NoTls, &[&right]);

    for (address, expected) in
        [(bare(&with.address()).to_owned(), Fault::WantsTls), (https(&without.address()), Fault::NoTls)]
    {
        for soon in [false, true] {
            let client =
                Client::builder(&address).tls(authority.trusted()).gives_up_soon(soon).connect().await;
            // Without TLS a connection is only found to be none of ours by its first call.
            let error = match client {
                Ok(client) => client.get_run(NOBODY).await.unwrap_err(),
                Err(error) => error,
            };
            assert!(matches!(error, Error::Unreachable { fault, .. } if fault == expected), "{error:?}");
        }
    }
}

/// One that asks callers for a certificate of `clients`.
fn asking(authority: &Authority, clients: &Authority, is_required: bool) -> (TempDir, ServerProcess) {
    let (pair, client_ca) = (authority.issue("server", &LOCAL), clients.file());
    let more = [
        ("KEEPBEST_TLS_CLIENT_CA", text(&client_ca)),
        ("KEEPBEST_TLS_REQUIRE_CLIENT_CERTIFICATE", if is_required { "true" } else { "false" }),
    ];
    let data = tempfile::tempdir().unwrap();
    let server = ServerProcess::start_with(data.path(), &[&pair.environment()[..], &more].concat());
    (data, server)
}

#[tokio::test]
async fn a_certificate_that_is_required_must_be_shown() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_data, server) = asking(&authority, &clients, true);
    let address = https(&server.address());
    told(
        ask(&address, authority.trusted()).await,
        Fault::ClientCertificate,
        &["lets in only callers that show a certificate"],
    );
    let foreign = authority.issue("foreign", &["trainer.example"]);
    let file = foreign.certificate.display().to_string();
    told(
        ask(&address, authority.trusted_with(&foreign)).await,
        Fault::ClientCertificate,
        &["does not trust the authority of the certificate", &file],
    );
    let expired = clients.issue_expired("expired", &["trainer.example"]);
    let file = expired.certificate.display().to_string();
    told(
        ask(&address, authority.trusted_with(&expired)).await,
        Fault::ClientCertificate,
        &[&format!("the certificate `{file}` has expired")],
    );
    server.until_logged("A handshake of TLS failed", 3).await;
    assert_eq!(server.logged("Answered"), 0, "none of them got in");

    let own = clients.issue("own", &["spiffe://vision/trainer", "trainer.example"]);
    ask(&address, authority.trusted_with(&own)).await.unwrap();
    server.until_logged("peer.certificate=\"spiffe://vision/trainer\"", 1).await;
}

#[tokio::test]
async fn a_certificate_that_is_only_asked_for_may_be_missing_but_not_be_foreign() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let (_data, server) = asking(&authority, &clients, false);
    let address = https(&server.address());
    ask(&address, authority.trusted()).await.unwrap();
    server.until_logged("Answered", 1).await;
    assert_eq!(server.logged("peer.certificate"), 0);
    let own = clients.issue("own", &["trainer.example"]);
    ask(&address, authority.trusted_with(&own)).await.unwrap();
    server.until_logged("peer.certificate=\"trainer.example\"", 1).await;
    let foreign = authority.issue("foreign", &["trainer.example"]);
    let answer = ask(&address, authority.trusted_with(&foreign)).await;
    told(answer, Fault::ClientCertificate, &["does not trust"]);
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anything_is_sent() {
    let authority = Authority::new();
    let (one, other) = (authority.issue("one", &LOCAL), authority.issue("other", &LOCAL));
    let missing = authority.file().with_extension("missing");
    let made = |tls: Tls| {
        let client = Client::builder("https://localhost:7400").tls(tls).connect_lazy();
        client.map(drop).unwrap_err().to_string()
    };
    let pair = |cert: &std::path::PathBuf, key: &std::path::PathBuf| Tls {
        client_cert: Some(cert.clone()),
        client_key: Some(key.clone()),
        ..authority.trusted()
    };
    let shown = |path: &std::path::Path| format!("`{}`", path.display());
    for (said, parts) in [
        (made(Tls { ca: Some(missing.clone()), ..Tls::default() }), vec![shown(&missing), "read".into()]),
        (
            made(Tls { ca: Some(one.key.clone()), ..Tls::default() }),
            vec![shown(&one.key), "has no certificate".into()],
        ),
        (
            made(Tls { client_cert: Some(one.certificate.clone()), ..authority.trusted() }),
            vec![shown(&one.certificate), "without its key".into()],
        ),
        (
            made(Tls { client_key: Some(one.key.clone()), ..authority.trusted() }),
            vec![shown(&one.key), "without its client certificate".into()],
        ),
        (
            made(pair(&one.certificate, &other.key)),
            vec![shown(&other.key), format!("is not the key of the certificate {}", shown(&one.certificate))],
        ),
        (
            made(pair(&one.certificate, &one.certificate)),
            vec![shown(&one.certificate), "has no private key".into()],
        ),
    ] {
        assert!(parts.iter().all(|part| said.contains(part)), "{said}: {parts:?}");
    }
}
