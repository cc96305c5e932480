//! Members: who shows a certificate instead of a token.

use std::time::Duration;

use keepbest::maintenance;
use keepbest_client::Client;
use keepbest_client::Error;
use keepbest_client::Tls;
use keepbest_proto::v1;

use crate::support::authority::Authority;
use crate::support::authority::LOCAL;
use crate::support::authority::https;
use crate::support::server;
use crate::support::server::TestServer;

/// A server over TLS that takes certificates of the authority and asks who calls, and a client that is its admin.
async fn start(authority: &Authority) -> (TestServer, Client) {
    let pair = authority.issue("server", &LOCAL);
    let server = server::start_with(|config| {
        config.auth.required = true;
        config.tls = pair.settings();
        config.tls.client_ca = Some(authority.file());
    })
    .await;
    let minted = maintenance::mint_admin_token(server.config(), Duration::from_secs(3_600)).await;
    let builder = Client::builder(https(&server.address())).tls(authority.trusted());
    let admin = builder.token(&minted.unwrap().1).unwrap().connect_lazy().unwrap();
    for team_id in ["a", "b"] {
        admin.create_team(v1::CreateTeamRequest { team_id: team_id.to_owned() }).await.unwrap();
    }
    (server, admin)
}

fn client(server: &TestServer, tls: Tls) -> Client {
    Client::builder(https(&server.address())).tls(tls).connect_lazy().unwrap()
}

fn list(team: &str) -> v1::ListRunsRequest {
    v1::ListRunsRequest { parent: format!("teams/{team}/projects/-"), ..Default::default() }
}

fn reason(error: Error) -> String {
    error.reason().to_owned()
}

#[tokio::test]
async fn a_certificate_shows_who_calls_as_a_token_does() {
    let authority = Authority::new();
    let (server, admin) = start(&authority).await;
    let trainer = client(&server, authority.trusted_with(&authority.issue("trainer", &["trainer.example"])));
    // Known by its authority, and member of nothing.
    assert_eq!(reason(trainer.list_runs(list("a")).await.unwrap_err()), "MEMBER_UNKNOWN");
    assert_eq!(
        reason(client(&server, authority.trusted()).list_runs(list("a")).await.unwrap_err()),
        "TOKEN_MISSING"
    );
    let identity = "certificate:dns:trainer.example".to_owned();
    let set = |scope: &str, role: &str| v1::SetMemberRequest {
        scope: scope.to_owned(),
        identity: identity.clone(),
        role: role.to_owned(),
    };
    admin.set_member(set("teams/a", "reader")).await.unwrap();
    trainer.list_runs(list("a")).await.unwrap();
    let who = trainer.who_am_i().await.unwrap();
    assert_eq!((who.principal.as_str(), who.grants[0].role.as_str()), (identity.as_str(), "reader"));
    assert!(trainer.list_runs(list("b")).await.unwrap_err().is_not_found());
    // In each of its teams it has the role that it has there, and another one when it is given that.
    admin.set_member(set("teams/b/projects/p", "trainer")).await.unwrap();
    let start = |team: &str| v1::StartRunRequest {
        parent: format!("teams/{team}/projects/p"),
        strategy: Some(v1::Strategy {
            filepath: "m.bin".to_owned(),
            monitor: "loss".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    trainer.start_run(start("b")).await.unwrap();
    assert_eq!(reason(trainer.start_run(start("a")).await.unwrap_err()), "ROLE_MISSING");
    admin.set_member(set("teams/a", "trainer")).await.unwrap();
    trainer.start_run(start("a")).await.unwrap();
    let listed = v1::ListMembersRequest { parent: "teams/b".to_owned(), ..Default::default() };
    let members = admin.list_members(listed).await.unwrap().members;
    let grant = members[0].grant.clone().unwrap();
    assert_eq!((members.len(), grant.scope.as_str()), (1, "teams/b/projects/p"));
    for scope in ["teams/a", "teams/b/projects/p"] {
        for _ in 0..2 {
            let delete = v1::DeleteMemberRequest { scope: scope.to_owned(), identity: identity.clone() };
            admin.delete_member(delete).await.unwrap();
        }
    }
    assert_eq!(reason(trainer.list_runs(list("a")).await.unwrap_err()), "MEMBER_UNKNOWN");
}

/// What a team does with an identity is nothing to another team's role of it.
#[tokio::test]
async fn no_team_crowds_another_ones_member_out() {
    let authority = Authority::new();
    let (server, admin) = start(&authority).await;
    let identity = "certificate:dns:trainer.example".to_owned();
    let set =
        |scope: String| v1::SetMemberRequest { scope, identity: identity.clone(), role: "reader".to_owned() };
    admin.set_member(set("teams/b".to_owned())).await.unwrap();
    for number in 0..100 {
        admin.set_member(set(format!("teams/a/projects/p{number}"))).await.unwrap();
    }
    let more = admin.set_member(set("teams/a/projects/more".to_owned())).await.unwrap_err();
    assert_eq!(reason(more), "LIMIT_EXCEEDED");
    // One that it has may be given again.
    admin.set_member(set("teams/a/projects/p7".to_owned())).await.unwrap();
    let trainer = client(&server, authority.trusted_with(&authority.issue("trainer", &["trainer.example"])));
    trainer.list_runs(list("b")).await.unwrap();
    assert_eq!(trainer.who_am_i().await.unwrap().grants.len(), 101);
}

#[tokio::test]
async fn a_token_goes_before_a_certificate() {
    let authority = Authority::new();
    let (server, admin) = start(&authority).await;
    let identity = "certificate:dns:trainer.example".to_owned();
    let set = v1::SetMemberRequest { scope: "teams/a".to_owned(), identity, role: "reader".to_owned() };
    admin.set_member(set).await.unwrap();
    let made = v1::CreateTokenRequest {
        scope: "teams/b".to_owned(),
        role: "reader".to_owned(),
        ..Default::default()
    };
    let made = admin.create_token(made).await.unwrap();
    let shown = authority.trusted_with(&authority.issue("trainer", &["trainer.example"]));
    let builder = Client::builder(https(&server.address())).tls(shown);
    let both = builder.token(&made.text).unwrap().connect_lazy().unwrap();
    assert_eq!(both.who_am_i().await.unwrap().principal, made.token.unwrap().name);
    both.list_runs(list("b")).await.unwrap();
    assert!(both.list_runs(list("a")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn only_what_a_certificate_can_say_is_an_identity() {
    let authority = Authority::new();
    let (_server, admin) = start(&authority).await;
    for (scope, identity, role, expected) in [
        ("teams/a", "trainer.example", "reader", "BAD_IDENTITY"),
        ("teams/a", "certificate:cn:trainer", "reader", "BAD_IDENTITY"),
        ("teams/a", "certificate:dns:t.example", "service-admin", "BAD_ROLE"),
        ("teams/a/projects/p", "certificate:dns:t.example", "team-admin", "BAD_ROLE"),
        ("", "certificate:dns:t.example", "service-admin", "BAD_ROLE"),
        ("teams/c", "certificate:dns:t.example", "reader", "NOT_FOUND"),
    ] {
        let request = v1::SetMemberRequest {
            scope: scope.to_owned(),
            identity: identity.to_owned(),
            role: role.to_owned(),
        };
        assert_eq!(
            reason(admin.set_member(request).await.unwrap_err()),
            expected,
            "{scope} {identity} {role}"
        );
    }
}
