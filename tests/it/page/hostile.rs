//! Names and texts are strangers': they are shown and not obeyed.

use http::StatusCode;
use keepbest_proto::v1;
use prost_types::Struct;
use prost_types::Value;
use prost_types::value::Kind;

use crate::support::browser::Browser;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::start_request;
use crate::support::server;

/// An element, an end of an attribute, a turn of the direction, and an escape of terminals.
const TEXT: &str = "\"><script>alert(1)</script>\u{202e}\u{1b}[31m'&";
/// The same for a metric, of which the API takes no control characters.
const METRIC: &str = "\"><script>alert(1)</script>\u{202e}'&";

#[tokio::test]
async fn hostile_texts_stand_harmlessly_on_every_page() {
    let server = server::start().await;
    let value = Value { kind: Some(Kind::StringValue(TEXT.to_owned())) };
    let strategy = v1::Strategy { monitor: METRIC.to_owned(), mode: v1::Mode::Min.into(), ..best_only() };
    let request = v1::StartRunRequest {
        config: Some(Struct { fields: [(TEXT.to_owned(), value)].into() }),
        ..start_request("first", strategy)
    };
    let mut trainer = Trainer::start_as(&server, request).await.unwrap();
    let metrics = [(METRIC.to_owned(), 0.5), (format!("val_{METRIC}"), 0.4)].into();
    let event = v1::Event { kind: v1::EventKind::EpochEnd.into(), metrics, ..Default::default() };
    let decision = trainer.report(vec![event]).await.unwrap().pop().unwrap();
    crate::page::save(&trainer, &decision, "weights").await;
    let browser = Browser::new(&server.address());
    let project = "/teams/default/projects/digits";
    for path in [
        format!("{project}?filter={}", "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E"),
        format!("{project}/runs/first"),
        format!("{project}/runs/first/decisions"),
        format!("{project}/artifacts/run-first-model"),
        format!("{project}/artifacts/run-first-model/versions/v0"),
        "/-/login?next=%22%3E%3Cscript%3E".to_owned(),
        "/%3Cscript%3E".to_owned(),
    ] {
        let shown = browser.get(&path).await;
        let text = &shown.text;
        // The one script is the page's own.
        assert_eq!(
            text.matches("<script").count(),
            text.matches("<script src=\"/-/static/").count(),
            "{path}: {text}"
        );
        // What a form sends back is as it was; it is not shown.
        let is_value = |part: &&str| part.ends_with(" value=");
        let shown_parts = text.split('"').scan(false, |skips, part| {
            let skipped = std::mem::replace(skips, is_value(&part));
            Some((skipped, part))
        });
        let turned =
            shown_parts.filter(|(is_value, part)| !is_value && part.contains(['\u{202e}', '\u{1b}']));
        assert_eq!(turned.map(|(_, part)| part).collect::<Vec<_>>(), Vec::<&str>::new(), "{path}");
        assert!(
            !text.contains("style=") && !text.contains(" onerror") && !text.contains("javascript:"),
            "{path}"
        );
        let policy = shown.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(shown.header("x-content-type-options"), "nosniff");
        assert_eq!(shown.header("referrer-policy"), "same-origin");
    }
    let shown = browser.get(&format!("{project}/runs/first")).await;
    assert!(shown.text.contains("&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}"), "{}", shown.text);
}

#[tokio::test]
async fn what_the_pages_are_made_of_is_kept_and_named_by_its_content() {
    let server = server::start().await;
    let browser = Browser::new(&server.address());
    let page = browser.get("/").await;
    assert_eq!(page.header("cache-control"), "no-store");
    for (file, media_type) in
        [("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg")]
    {
        let address = page.text.split('"').find(|it| it.ends_with(file)).unwrap();
        let shown = browser.get(address).await;
        assert_eq!(shown.status, StatusCode::OK);
        assert!(shown.header("content-type").starts_with(media_type), "{file}");
        assert!(shown.header("cache-control").contains("immutable"), "{file}");
        let other = browser.get(&format!("/-/static/0/{file}")).await;
        assert_eq!((other.status, other.header("cache-control")), (StatusCode::OK, "no-store"));
    }
    assert_eq!(browser.get("/-/static/0/Cargo.toml").await.status, StatusCode::NOT_FOUND);
}
