//! Who sees what: sessions, logins, other teams' things, and forms of other sites.

use http::StatusCode;

use crate::support::browser::Browser;
use crate::support::server;
use crate::support::teams;

#[tokio::test]
async fn whoever_is_not_known_logs_in_and_comes_back() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    let mut browser = Browser::new(&guarded.server.address());
    let run = "/teams/a/projects/p/runs/first?scale=log";
    let shown = browser.get(run).await;
    assert_eq!(shown.status, StatusCode::SEE_OTHER);
    let login = shown.header("location").to_owned();
    assert_eq!(login, "/-/login?next=%2Fteams%2Fa%2Fprojects%2Fp%2Fruns%2Ffirst%3Fscale%3Dlog");
    let form = browser.get(&login).await;
    assert!(
        form.text.contains("name=\"next\" value=\"/teams/a/projects/p/runs/first?scale=log\""),
        "{}",
        form.text
    );
    let wrong = browser.log_in("kb_nobody").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (StatusCode::OK, ""));
    assert!(wrong.text.contains("role=\"alert\""), "{}", wrong.text);
    let token = guarded.token_of("a", "reader").await;
    let known = browser.log_in(&token.text).await;
    assert_eq!(known.status, StatusCode::SEE_OTHER);
    let cookie = known.header("set-cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let shown = browser.get(run).await;
    assert!(shown.status == StatusCode::OK && shown.text.contains("class=\"mark best\""), "{}", shown.text);
    assert!(!shown.text.contains(&token.text), "the token is in no page");
    // It is at the start that one finds the only team that one has.
    assert_eq!(browser.get("/").await.header("location"), "/teams/a");
    // A token of one project leads there.
    let mut other = Browser::new(&guarded.server.address());
    other.log_in(&guarded.token("a/p", "reader").await).await;
    assert_eq!(other.get("/").await.header("location"), "/teams/a/projects/p");
    guarded.revoke(&token.token.unwrap().name).await;
    assert_eq!(browser.get(run).await.status, StatusCode::SEE_OTHER, "a session ends with its token");
    let out = browser.post("/-/logout", "").await;
    assert!(out.header("set-cookie").contains("Max-Age=0"), "{out:?}");
}

#[tokio::test]
async fn a_link_on_another_site_finds_the_session() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    let mut browser = Browser::new(&guarded.server.address());
    browser.log_in(&guarded.token("a", "reader").await).await;
    let cookie = browser.cookie.take();
    // A cookie that is strict does not come along with a stranger's link; with what this site itself asks for it does.
    let run = "/teams/a/projects/p/runs/first";
    let first = browser.send("GET", run, &[("sec-fetch-site", "cross-site")], "").await;
    assert_eq!(first.status, StatusCode::OK);
    let next = first.text.split("0; url=").nth(1).unwrap().split('"').next().unwrap();
    browser.cookie = cookie;
    assert_eq!(browser.get(next).await.header("location"), run);
}

#[tokio::test]
async fn what_is_anothers_looks_like_what_is_not_there() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    guarded.saved("b", "p").await;
    let mut browser = Browser::new(&guarded.server.address());
    browser.log_in(&guarded.token("a", "maintainer").await).await;
    for rest in [
        "projects/p/runs/first",
        "projects/p/runs/first/decisions",
        "projects/p/artifacts/run-first-model",
        "projects/p/artifacts/run-first-model/versions/v0",
        "projects/p/artifacts/run-first-model/versions/v0/delete",
    ] {
        assert_eq!(browser.get(&format!("/teams/a/{rest}")).await.status, StatusCode::OK, "{rest}");
        let foreign = browser.get(&format!("/teams/b/{rest}")).await;
        let missing = browser.get(&format!("/teams/nobody/{rest}")).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND, "{rest}");
        assert_eq!((foreign.status, &foreign.text), (missing.status, &missing.text), "{rest}");
        assert_eq!(foreign.text, browser.get("/no/such/page").await.text);
        let removed = browser.post(&format!("/teams/b/{rest}"), "names=go").await;
        assert_ne!(removed.status, StatusCode::SEE_OTHER, "{rest}");
    }
    let mut of_b = Browser::new(&guarded.server.address());
    of_b.log_in(&guarded.token("b", "reader").await).await;
    let version = "/teams/b/projects/p/artifacts/run-first-model/versions/v0";
    assert_eq!(of_b.get(version).await.status, StatusCode::OK);
    // Whose role does not suffice is told so.
    let refused = of_b.post(&format!("{version}/delete"), "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert!(refused.text.contains("ROLE_MISSING"), "{}", refused.text);
}

#[tokio::test]
async fn forms_of_other_sites_do_nothing() {
    let guarded = teams::start().await;
    guarded.saved("a", "p").await;
    let mut browser = Browser::new(&guarded.server.address());
    browser.log_in(&guarded.token("a", "maintainer").await).await;
    let version = "/teams/a/projects/p/artifacts/run-first-model/versions/v0";
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        let shown = browser.send("POST", &format!("{version}/delete"), headers, "").await;
        assert_eq!(shown.status, StatusCode::FORBIDDEN, "{headers:?}");
    }
    assert_eq!(browser.get(version).await.status, StatusCode::OK);
    let own = format!("http://{}", guarded.server.address().trim_start_matches("http://"));
    let shown = browser.send("POST", &format!("{version}/delete"), &[("origin", &own)], "").await;
    assert_eq!(shown.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_server_that_asks_nobody_shows_no_login() {
    let server = server::start().await;
    let browser = Browser::new(&server.address());
    let shown = browser.get("/-/login?next=%2Fteams%2Ft").await;
    assert_eq!((shown.status, shown.header("location")), (StatusCode::SEE_OTHER, "/teams/t"));
    assert!(!browser.get("/").await.text.contains("Log out"));
    let taken = Browser::new(&server.address()).log_in("anything").await;
    assert_eq!((taken.status, taken.header("set-cookie")), (StatusCode::SEE_OTHER, ""));
    // Nor does it lead to another server.
    assert_eq!(browser.get("/-/login?next=%2F%2Fevil.example").await.header("location"), "/");
}
