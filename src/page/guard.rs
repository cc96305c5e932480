//! What every answer of the page passes: requests of other sites are refused, whoever is not known is sent to the login, and
//! headers tell the browser what such a page may do: nothing but show itself.

use axum::extract::Request;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::response::Redirect;
use axum::response::Response;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use maud::html;

use crate::page::Site;
use crate::page::layout::Frame;
use crate::page::query::address;
use crate::page::trouble::LoginFirst;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// `connect-src` is for the script that looks for what is new; nothing comes from elsewhere, and nothing stands in a page's text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

pub(super) async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let here = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let visit = Visit::of(&parts, &site);
    let is_look = matches!(parts.method, Method::GET | Method::HEAD);
    let site_of_link = parts.headers.get("sec-fetch-site").and_then(|it| it.to_str().ok());
    let came_from_elsewhere = matches!(site_of_link, Some("cross-site" | "same-site"));
    let mut response =
        if parts.method != Method::POST || is_of_this_site(&parts.headers, visit.host.as_deref()) {
            next.run(Request::from_parts(parts, body)).await
        } else {
            let text = "this form was sent by another site: open the page itself and send it from there";
            Trouble::forbidden(text).into_response()
        };
    if response.extensions_mut().remove::<LoginFirst>().is_some() {
        let back = if is_look { here.as_str() } else { "" };
        let login = address("/-/login", &[("next", back)]);
        // Whoever follows a link on another site comes without the session, which is shown once this site itself goes on.
        let may_have_session = is_look && came_from_elsewhere && visit.token.is_none();
        response = match may_have_session {
            true => Frame { title: "Log in", refresh: Some(&login), ..Frame::default() }
                .page(&html! { p.narrow { a href=(login) { "Go on" } } })
                .into_response(),
            false => Redirect::to(&login).into_response(),
        };
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Whether a form was sent from a page of this server. Browsers say so with every POST in `sec-fetch-site`, older ones in `origin`, and
/// no page can write either. What says neither is no browser, and has a better way to call than by forms. With the session's
/// `SameSite=Strict` that is two locks on one door: this one holds where there is no session, too. (A foreign name for a server at
/// loopback is refused before: `layers/origin.rs`.)
fn is_of_this_site(headers: &HeaderMap, host: Option<&str>) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|it| it.to_str().ok());
    match text(HeaderName::from_static("sec-fetch-site")) {
        Some(site) => site == "same-origin",
        None => text(header::ORIGIN)
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(_, named)| Some(named) == host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn forms_come_from_this_site_alone() {
        for (sent, expected) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "https://kb.example")], true),
            (&[("origin", "https://evil.example")], false),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://kb.example")], false),
            (&[("origin", "null")], false),
            (&[], false),
        ] {
            assert_eq!(is_of_this_site(&headers(sent), Some("kb.example")), expected, "{sent:?}");
        }
    }
}
