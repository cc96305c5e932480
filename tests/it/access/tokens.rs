//! API tokens: made, shown once, used, revoked.

use std::time::Duration;

use futures::StreamExt;
use keepbest::maintenance;
use keepbest_client::Client;
use keepbest_proto::v1;
use prost::Message;
use tonic::Code;
use tonic::Request;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::https;
use crate::support::requests::best_only;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::teams;

#[tokio::test]
async fn each_way_of_not_showing_who_one_is_is_told_apart() {
    let guarded = teams::start().await;
    let token = guarded.token("a", "reader").await;
    let mut typo = token.clone().into_bytes();
    let last = typo.last_mut().unwrap();
    *last = if *last == b'0' { b'1' } else { b'0' };
    let typo = String::from_utf8(typo).unwrap();
    let (_, nobodys) = keepbest_rules::token::mint([7; 9], [7; 32]);
    let revoked = guarded.token_of("a", "reader").await;
    let name = revoked.token.unwrap().name;
    guarded.revoke(&name).await;
    for (token, expected) in [
        (None, "TOKEN_MISSING"),
        (Some("secret"), "TOKEN_MALFORMED"),
        (Some(&*typo), "TOKEN_MALFORMED"),
        (Some(&*nobodys), "TOKEN_UNKNOWN"),
        (Some(&*revoked.text), "TOKEN_REVOKED"),
    ] {
        let status = guarded.ask(token, "Admin/WhoAmI", v1::WhoAmIRequest {}).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, expected));
        if let Some(token) = token {
            assert!(!format!("{status:?}").contains(token), "{status:?}");
        }
    }
    let answer = guarded.ask(Some(&token), "Admin/WhoAmI", v1::WhoAmIRequest {}).await.unwrap();
    let who = v1::WhoAmIResponse::decode(answer).unwrap();
    assert!(who.auth_required);
    assert_eq!((who.grants[0].role.as_str(), who.grants[0].scope.as_str()), ("reader", "teams/a"));
}

#[tokio::test]
async fn a_list_of_tokens_shows_what_they_are_and_not_their_texts() {
    let guarded = teams::start().await;
    let token = guarded.token_of("a/p", "trainer").await;
    let of_another = guarded.token_of("b", "trainer").await;
    let request = v1::ListTokensRequest { parent: "teams/a".to_owned(), ..Default::default() };
    let answer = guarded.ask(Some(&guarded.admin), "Admin/ListTokens", request).await.unwrap();
    let secret = token.text.rsplit('_').next().unwrap();
    assert!(!String::from_utf8_lossy(&answer).contains(secret));
    let tokens = v1::ListTokensResponse::decode(answer).unwrap().tokens;
    let of = token.token.unwrap();
    let listed = tokens.iter().find(|it| it.name == of.name).unwrap();
    assert_eq!(listed.grant.as_ref().unwrap().scope, "teams/a/projects/p");
    assert!(tokens.iter().all(|it| it.name != of_another.token.as_ref().unwrap().name));
    // Nothing that is kept holds the text.
    for entry in std::fs::read_dir(guarded.server.data_dir()).unwrap().map(|it| it.unwrap().path()) {
        if entry.is_file() {
            let bytes = std::fs::read(&entry).unwrap();
            let found = bytes.windows(secret.len()).any(|it| it == secret.as_bytes());
            assert!(!found, "{}", entry.display());
        }
    }
}

#[tokio::test]
async fn a_role_that_does_not_fit_its_scope_is_refused() {
    let guarded = teams::start().await;
    for (scope, role, expected) in [
        ("", "reader", "BAD_ROLE"),
        ("teams/a", "service-admin", "BAD_ROLE"),
        ("teams/a/projects/p", "team-admin", "BAD_ROLE"),
        ("teams/a", "owner", "BAD_ROLE"),
        ("teams/c", "reader", "NOT_FOUND"),
        ("teams", "reader", "BAD_NAME"),
    ] {
        let request =
            v1::CreateTokenRequest { scope: scope.to_owned(), role: role.to_owned(), ..Default::default() };
        let status = guarded.ask(Some(&guarded.admin), "Admin/CreateToken", request).await.unwrap_err();
        assert_eq!(reason(&status), expected, "{scope} {role}");
    }
}

/// An admin of a team cannot make more of itself than it is.
#[tokio::test]
async fn nobody_gives_what_it_does_not_have() {
    let guarded = teams::start().await;
    let admin = guarded.token("a", "team-admin").await;
    let ask = async |scope: &str, role: &str| {
        let request =
            v1::CreateTokenRequest { scope: scope.to_owned(), role: role.to_owned(), ..Default::default() };
        guarded.ask(Some(&admin), "Admin/CreateToken", request).await.map_err(|it| it.code())
    };
    assert!(ask("teams/a", "team-admin").await.is_ok());
    assert_eq!(ask("", "service-admin").await.unwrap_err(), Code::PermissionDenied);
    assert_eq!(ask("teams/b", "reader").await.unwrap_err(), Code::NotFound);
}

#[tokio::test]
async fn a_stream_that_is_open_ends_when_its_token_is_revoked() {
    let guarded = teams::start().await;
    let token = guarded.token_of("a", "trainer").await;
    let start = v1::StartRunRequest {
        parent: "teams/a/projects/p".to_owned(),
        run_id: "first".to_owned(),
        strategy: Some(best_only()),
        ..Default::default()
    };
    guarded.ask(Some(&token.text), "Runs/StartRun", start).await.unwrap();
    // A stream on which nothing is said.
    let mut request = Request::new(futures::stream::pending().boxed());
    request.metadata_mut().insert("authorization", format!("Bearer {}", token.text).parse().unwrap());
    let mut runs = guarded.server.runs();
    let answers = runs.stream_events(request).await.unwrap();
    guarded.revoke(&token.token.unwrap().name).await;
    // Far longer than the promise of 20 s, for a machine that is slow.
    let ended = tokio::time::timeout(Duration::from_secs(120), answers.into_inner().message()).await.unwrap();
    assert_eq!(reason(&ended.unwrap_err()), "TOKEN_REVOKED");
}

#[tokio::test]
async fn a_stream_ends_when_its_caller_may_do_something_else() {
    let authority = Authority::new();
    let pair = authority.issue("server", &LOCAL);
    let server = server::start_with(|config| {
        config.auth.required = true;
        config.tls = pair.settings();
        config.tls.client_ca = Some(authority.file());
    })
    .await;
    let minted = maintenance::mint_admin_token(server.config(), Duration::from_secs(600)).await.unwrap();
    let builder = Client::builder(https(&server.address())).tls(authority.trusted());
    let admin = builder.token(&minted.1).unwrap().connect_lazy().unwrap();
    admin.create_team(v1::CreateTeamRequest { team_id: "a".to_owned() }).await.unwrap();
    let set = |role: &str| v1::SetMemberRequest {
        scope: "teams/a".to_owned(),
        identity: "certificate:dns:t.example".to_owned(),
        role: role.to_owned(),
    };
    admin.set_member(set("trainer")).await.unwrap();
    let shown = authority.trusted_with(&authority.issue("t", &["t.example"]));
    let trainer = Client::builder(https(&server.address())).tls(shown).connect_lazy().unwrap();
    let mut answers = trainer.stream_events(futures::stream::pending()).await.unwrap();
    admin.set_member(set("reader")).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(120), answers.message()).await.unwrap();
    assert_eq!(reason(&ended.unwrap_err()), "ROLES_CHANGED");
}

#[tokio::test]
async fn a_whole_token_is_no_name_and_stands_nowhere() {
    let guarded = teams::start().await;
    let token = guarded.token_of("a", "reader").await;
    let secret = token.text.rsplit('_').next().unwrap();
    let revoke = v1::RevokeTokenRequest { name: format!("teams/a/tokens/{}", token.text) };
    let status = guarded.ask(Some(&guarded.admin), "Admin/RevokeToken", revoke).await.unwrap_err();
    assert_eq!(reason(&status), "BAD_NAME");
    assert!(!format!("{status:?}").contains(secret), "{status:?}");
    let get = v1::GetRunRequest { name: token.text.clone() };
    let status = guarded.ask(Some(&token.text), "Runs/GetRun", get).await.unwrap_err();
    assert!(!format!("{status:?}").contains(secret), "{status:?}");
}

#[tokio::test]
async fn a_server_that_does_not_ask_needs_no_set_up_and_has_no_tokens() {
    let server = server::start().await;
    let mut admin = keepbest_proto::v1::admin_client::AdminClient::new(server.channel());
    let who = admin.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!((who.principal.as_str(), who.auth_required), ("anybody", false));
    let status = admin.create_team(v1::CreateTeamRequest { team_id: "a".to_owned() }).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "AUTH_NOT_REQUIRED"));
}
