//! What a browser sends and reads, without one: requests of HTTP/1.1, a connection each, with the cookie that it was given.

use std::fmt::Write as _;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::StatusCode;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Shown {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|it| it.to_str().unwrap()).unwrap_or_default()
    }
}

pub(crate) struct Browser {
    /// `HOST:PORT`
    host: String,
    pub(crate) cookie: Option<String>,
}

impl Browser {
    /// Of a server at `http://HOST:PORT`.
    pub(crate) fn new(address: &str) -> Browser {
        Browser { host: address.trim_start_matches("http://").to_owned(), cookie: None }
    }

    pub(crate) async fn get(&self, path: &str) -> Shown {
        self.send("GET", path, &[], "").await
    }

    /// A form as a page of this server sends it.
    pub(crate) async fn post(&self, path: &str, form: &str) -> Shown {
        self.send("POST", path, &[("sec-fetch-site", "same-origin")], form).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Shown {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.host);
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        if let Some(cookie) = &self.cookie {
            write!(head, "cookie: {cookie}\r\n").unwrap();
        }
        if method == "POST" {
            write!(head, "content-type: application/x-www-form-urlencoded\r\n").unwrap();
        }
        write!(head, "content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut stream = TcpStream::connect(&self.host).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        read(&answer)
    }

    /// Logs in, and keeps the cookie.
    pub(crate) async fn log_in(&mut self, token: &str) -> Shown {
        let shown = self.post("/-/login", &format!("token={token}")).await;
        let cookie = shown.header("set-cookie").split(';').next().unwrap_or_default();
        self.cookie = Some(cookie.to_owned()).filter(|it| !it.is_empty());
        shown
    }
}

fn read(answer: &[u8]) -> Shown {
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").expect("a head ends");
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|it| it.split_once(':')) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
    let body = &answer[end + 4..];
    let is_chunked = headers.get("transfer-encoding").is_some_and(|it| it == "chunked");
    let body = if is_chunked { joined(body) } else { body.to_vec() };
    Shown { status, headers, text: String::from_utf8(body).unwrap() }
}

fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|it| it == b"\r\n").expect("a chunk has a length");
        let length = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap().trim(), 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&chunks[end + 2..end + 2 + length]);
        chunks = &chunks[end + 4 + length..];
    }
}
