//! Artifacts and versions: shown, named, compared and deleted.

use http::StatusCode;
use keepbest_proto::v1;

use crate::page::save;
use crate::support::browser::Browser;
use crate::support::requests::Trainer;
use crate::support::requests::every_epoch;
use crate::support::server;
use crate::support::server::TestServer;

const ARTIFACT: &str = "/teams/default/projects/digits/artifacts/run-first-model";

/// Three versions of a run.
async fn saved() -> (TestServer, Browser) {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", every_epoch()).await;
    for epoch in 0..3 {
        let decision = trainer.epoch(epoch, 0.5 - epoch as f64 / 10.0).await;
        save(&trainer, &decision, &format!("weights of {epoch}")).await;
    }
    let browser = Browser::new(&server.address());
    (server, browser)
}

async fn alias(server: &TestServer, alias: &str) -> Option<String> {
    let request =
        v1::GetVersionRequest { name: format!("{}/versions/{alias}", &ARTIFACT[1..]), ..Default::default() };
    let found = server.artifacts().get_version(request).await.ok()?.into_inner().name;
    Some(found.rsplit('/').next().unwrap().to_owned())
}

#[tokio::test]
async fn a_name_moves_only_from_where_it_was_seen() {
    let (server, browser) = saved().await;
    let form = |name: &str| format!("{ARTIFACT}/{name}");
    let made = browser.post(&form("alias"), "alias=prod&version=v0&expected=none").await;
    assert_eq!((made.status, made.header("location")), (StatusCode::SEE_OTHER, ARTIFACT));
    assert_eq!(alias(&server, "prod").await.as_deref(), Some("v0"));
    // Somebody else has moved it since the page was looked at.
    let late = browser.post(&form("alias"), "alias=prod&version=v2&expected=v1&do=move").await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert!(late.text.contains("ALIAS_MOVED"), "{}", late.text);
    let blind = browser.post(&form("alias"), "alias=prod&version=v2&do=move").await;
    assert_eq!(blind.status, StatusCode::BAD_REQUEST);
    assert_eq!(alias(&server, "prod").await.as_deref(), Some("v0"));
    browser.post(&form("alias"), "alias=prod&version=v2&expected=v0&do=move").await;
    assert_eq!(alias(&server, "prod").await.as_deref(), Some("v2"));
    let shown = browser.get(ARTIFACT).await;
    assert!(shown.text.contains("name=\"expected\" value=\"v2\""), "{}", shown.text);
    // The same form twice is once; to a version that is not there is no move; and a name goes only from where it was seen.
    let again = browser.post(&form("alias"), "alias=prod&version=v2&expected=v0&do=move").await;
    assert_eq!(again.status, StatusCode::SEE_OTHER);
    let nowhere = browser.post(&form("alias"), "alias=prod&version=v99&expected=v2&do=move").await;
    assert_eq!(nowhere.status, StatusCode::BAD_REQUEST);
    assert!(nowhere.text.contains("there is no version `v99` here"), "{}", nowhere.text);
    let late = browser.post(&form("alias"), "alias=prod&expected=v0&do=remove").await;
    assert_eq!(late.status, StatusCode::CONFLICT);
    assert_eq!(alias(&server, "prod").await.as_deref(), Some("v2"));
    browser.post(&form("alias"), "alias=prod&expected=v2&do=remove").await;
    assert_eq!(alias(&server, "prod").await, None);
}

#[tokio::test]
async fn a_deletion_says_first_what_it_frees() {
    let (server, browser) = saved().await;
    let page = format!("{ARTIFACT}/versions/v1/delete");
    let asked = browser.get(&page).await;
    assert!(asked.text.contains("Frees") && asked.text.contains("12 B"), "{}", asked.text);
    assert_eq!(alias(&server, "v1").await.as_deref(), Some("v1"), "looking deletes nothing");
    let done = browser.post(&page, "").await;
    assert_eq!((done.status, done.header("location")), (StatusCode::SEE_OTHER, ARTIFACT));
    assert_eq!(alias(&server, "v1").await, None);
    // What has a name goes only with it, and the page says so.
    browser.post(&format!("{ARTIFACT}/alias"), "alias=prod&version=v0&expected=none").await;
    let named = browser.get(&format!("{ARTIFACT}/versions/v0/delete")).await;
    assert!(named.text.contains("These names go with it") && named.text.contains("prod"), "{}", named.text);
    let refused = browser.post(&format!("{ARTIFACT}/versions/v0/delete"), "").await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let shown = named.text.split("name=\"names\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let form = format!("names={}", shown.replace(',', "%2C"));
    // Somebody else gives it a name meanwhile, which nobody has been shown.
    browser.post(&format!("{ARTIFACT}/alias"), "alias=live&version=v0&expected=none").await;
    let changed = browser.post(&format!("{ARTIFACT}/versions/v0/delete"), &form).await;
    assert!(changed.text.contains("its names have changed"), "{}", changed.text);
    assert_eq!(alias(&server, "live").await.as_deref(), Some("v0"));
    browser.post(&format!("{ARTIFACT}/alias"), "alias=live&expected=v0&do=remove").await;
    browser.post(&format!("{ARTIFACT}/versions/v0/delete"), &form).await;
    assert_eq!(alias(&server, "v0").await, None);
}

#[tokio::test]
async fn versions_are_shown_sorted_and_compared() {
    let (_server, browser) = saved().await;
    let list = browser.get(&format!("{ARTIFACT}?order=metrics.%22val_loss%22")).await;
    let at = |text: &str| list.text.find(text).unwrap_or_else(|| panic!("{text} in {}", list.text));
    assert!(at("/versions/v2\"") < at("/versions/v1\"") && at("/versions/v1\"") < at("/versions/v0\""));
    assert!(list.text.contains("aria-sort=\"ascending\""));
    let version = browser.get(&format!("{ARTIFACT}/versions/best")).await;
    for part in ["<h1><bdi>v2</bdi>", "model-03.keras", "keepbest --server", "GetVersion", "runs/first"] {
        assert!(version.text.contains(part), "{part} in {}", version.text);
    }
    let both = browser.get(&format!("{ARTIFACT}/compare?v=v0&v=v2")).await;
    assert!(both.text.contains("class=\"differs\"") && both.text.contains("model-01.keras"), "{}", both.text);
    let one = browser.get(&format!("{ARTIFACT}/compare?v=v0")).await;
    assert_eq!(one.status, StatusCode::BAD_REQUEST);
}
