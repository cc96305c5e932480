//! Calls that a browser could be made to send: a page of another site must not act through it.
//!
//! A server that asks nobody who calls is safe behind loopback only as long as no foreign name leads there (DNS rebinding).

use http::HeaderMap;
use http::Request;
use http::StatusCode;
use http::header;
use http::uri::Authority;

use crate::layers::proxies::CallerAddress;

/// Why a request is not answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    pub(super) status: StatusCode,
    pub(super) line: &'static str,
}

const NAME: Foreign = Foreign {
    status: StatusCode::MISDIRECTED_REQUEST,
    line: "this server listens at loopback alone: call it by an IP address or `localhost`, not by another name\n",
};
const ORIGIN: Foreign = Foreign {
    status: StatusCode::FORBIDDEN,
    line: "a page of another origin asked for this (see the header `origin`): this server answers its own pages alone\n",
};

/// Looks whether a request names this server, and comes from no page of another.
pub(super) fn check<B>(request: &Request<B>, is_loopback: bool) -> Result<(), Foreign> {
    let host = request.uri().authority().cloned().or_else(|| host_of(request.headers()));
    // A trusted proxy is called by a name of its own.
    let is_told = request.extensions().get::<CallerAddress>().is_some_and(|it| it.is_told);
    if is_loopback && !is_told && host.as_ref().is_some_and(|it| !is_local(it.host())) {
        return Err(NAME);
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
    match (origin, host) {
        (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host.as_str()) => Ok(()),
        _ => Err(ORIGIN),
    }
}

fn host_of(headers: &HeaderMap) -> Option<Authority> {
    headers.get(header::HOST)?.to_str().ok()?.parse().ok()
}

fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_site_does_nothing() {
        for (host, origin, is_loopback, expected) in [
            ("localhost:7400", None, true, Ok(())),
            ("127.0.0.1:7400", None, true, Ok(())),
            ("[::1]:7400", None, true, Ok(())),
            ("models.localhost", None, true, Ok(())),
            ("evil.example:7400", None, true, Err(NAME)),
            ("localhost.evil.example", None, true, Err(NAME)),
            ("keepbest.example", None, false, Ok(())),
            ("localhost:7400", Some("http://localhost:7400"), true, Ok(())),
            ("localhost:7400", Some("http://localhost:8000"), true, Err(ORIGIN)),
            ("keepbest.example", Some("https://keepbest.example"), false, Ok(())),
            ("keepbest.example", Some("https://evil.example"), false, Err(ORIGIN)),
            ("keepbest.example", Some("null"), false, Err(ORIGIN)),
        ] {
            let mut request = Request::builder().uri("/").header(header::HOST, host);
            if let Some(origin) = origin {
                request = request.header(header::ORIGIN, origin);
            }
            let checked = check(&request.body(()).unwrap(), is_loopback);
            assert_eq!(checked, expected, "{host} {origin:?}");
        }
        let told = CallerAddress { ip: [10, 0, 0, 1].into(), is_told: true };
        let request = Request::builder().uri("/").header(header::HOST, "keepbest.example").extension(told);
        assert_eq!(check(&request.body(()).unwrap(), true), Ok(()));
    }
}
