//! Who looks at the page: a session is a token that the browser keeps and scripts cannot read. The server remembers nothing, and the
//! door looks at the token at each call, so one that is revoked or expires ends its session.

use axum::extract::Request;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::Redirect;
use axum::response::Response;
use http::HeaderMap;
use http::HeaderValue;
use http::header;
use keepbest_proto::v1;
use maud::html;
use tonic::Code;

use crate::layers::Peer;
use crate::page::Site;
use crate::page::layout::Frame;
use crate::page::query::Query;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

const COOKIE: &str = "keepbest_session";
/// A working day, and a long one: whoever comes back the next day logs in again.
const SESSION_SECONDS: u32 = 12 * 60 * 60;
/// A form has a few names; ids are 128 bytes at most, and a token is shorter.
const MAX_FORM_BYTES: usize = 16 << 10;

/// The token of the session, if there is one.
pub(super) fn token(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|it| it.to_str().ok());
    let mut pairs = cookies.flat_map(|it| it.split(';')).filter_map(|it| it.trim().split_once('='));
    pairs.find(|(name, value)| *name == COOKIE && !value.is_empty()).map(|(_, value)| value.to_owned())
}

/// The fields of a form that was sent.
pub(super) async fn fields(request: Request) -> Result<Query, Trouble> {
    let bytes = axum::body::to_bytes(request.into_body(), MAX_FORM_BYTES).await;
    let bytes = bytes.map_err(|_| Trouble::bad("the form is too long, or did not arrive whole"))?;
    Ok(Query::of(&bytes))
}

/// The login, unless the server does not ask who calls.
pub(super) async fn form(visit: Visit) -> Result<Response, Trouble> {
    let next = local(visit.query.first("next"));
    let who = visit.admin().who_am_i(visit.ask(v1::WhoAmIRequest {})).await;
    match who {
        // A server that asks nobody, a certificate that is known, or a session that holds: there is nothing to log in for.
        Ok(_) => Ok(Redirect::to(next).into_response()),
        Err(status) if status.code() == Code::Unauthenticated => Ok(page(next, None).into_response()),
        Err(status) => Err(status.into()),
    }
}

fn page(next: &str, wrong: Option<&str>) -> maud::Markup {
    Frame { title: "Log in", ..Frame::default() }.page(&html! {
        section.narrow.login {
            h1 { "Log in" }
            p { "With an API token: the text that begins with " code { "kb_" } "." }
            form method="post" action="/-/login" {
                input type="hidden" name="next" value=(next);
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="current-password" spellcheck="false"
                    autofocus aria-describedby=[wrong.map(|_| "wrong")];
                @if let Some(wrong) = wrong { p #wrong.wrong role="alert" { (wrong) } }
                button.primary type="submit" { "Log in" }
            }
            p.soft { "The token stays in this browser for 12 hours, where scripts cannot read it. "
                "Ask an admin of your team for one: " code { "keepbest admin create-token" } "." }
        }
    })
}

pub(super) async fn log_in(State(site): State<Site>, request: Request) -> Result<Response, Trouble> {
    let (parts, body) = request.into_parts();
    let visit = Visit::of(&parts, &site);
    let form = fields(Request::from_parts(parts.clone(), body)).await?;
    let (token, next) = (form.first("token").trim(), local(form.first("next")));
    if token.is_empty()
        || token.contains([';', ',', '"', '\\'])
        || !token.bytes().all(|it| it.is_ascii_graphic())
    {
        return Ok(
            page(next, Some("This is no token: one begins with kb_ and has no spaces.")).into_response()
        );
    }
    match visit.admin().who_am_i(visit.ask_as(Some(token), v1::WhoAmIRequest {})).await {
        // Whoever asks nobody knows no session either.
        Ok(who) if !who.get_ref().auth_required => Ok(Redirect::to(next).into_response()),
        Ok(_) => {
            let is_secure = is_secure(&parts.extensions, &parts.headers);
            Ok(with_cookie(Redirect::to(next), token, SESSION_SECONDS, is_secure))
        }
        Err(status) if status.code() == Code::Unauthenticated => {
            Ok(page(next, Some(status.message())).into_response())
        }
        Err(status) => Err(status.into()),
    }
}

pub(super) async fn log_out(State(_): State<Site>, request: Request) -> Response {
    let is_secure = is_secure(request.extensions(), request.headers());
    with_cookie(Redirect::to("/-/login"), "", 0, is_secure)
}

/// Whether the browser reached the server over TLS. A proxy that ends TLS says so; who writes that of itself keeps only its own
/// cookie from itself.
pub(super) fn is_secure(extensions: &http::Extensions, headers: &HeaderMap) -> bool {
    let is_told = headers.get("x-forwarded-proto").is_some_and(|it| it == "https");
    is_told || extensions.get::<Peer>().is_some_and(Peer::is_encrypted)
}

fn with_cookie(answer: Redirect, value: &str, seconds: u32, is_secure: bool) -> Response {
    let secure = if is_secure { "; Secure" } else { "" };
    let text = format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let mut response = answer.into_response();
    if let Ok(mut cookie) = HeaderValue::from_str(&text) {
        cookie.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Where to go after the login: an address on this server, and no other.
fn local(next: &str) -> &str {
    let is_local = next.starts_with('/')
        && !next.starts_with("//")
        && !next.starts_with("/-/")
        && !next.contains('\\')
        && next.bytes().all(|it| it.is_ascii_graphic());
    if is_local { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{local, token};

    #[test]
    fn a_login_leads_to_no_other_server() {
        for (next, expected) in [
            ("/teams/t?m=a%20b", "/teams/t?m=a%20b"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/-/logout", "/"),
            ("/a\r\nb", "/"),
            ("", "/"),
        ] {
            assert_eq!(local(next), expected, "{next}");
        }
    }

    #[test]
    fn a_session_is_found_among_cookies() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", "a=b; keepbest_session=kb_x; keepbest_sessions=no".parse().unwrap());
        assert_eq!(token(&headers).as_deref(), Some("kb_x"));
        assert_eq!(token(&HeaderMap::new()), None);
    }
}
