//! A server's metrics as Prometheus reads them, over a bare connection.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use keepbest::config::Config;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::ports::free_port;
use crate::support::server::TestServer;

/// How long a test waits for a number that must come: a request is counted when its answer has ended, which its caller may hear
/// before.
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives a server a port for its metrics.
pub(crate) fn with_port(config: &mut Config) {
    config.metrics.listen = Some(([127, 0, 0, 1], free_port()).into());
}

/// Sends bytes to the port and answers the head and the body of what comes back.
pub(crate) async fn send(server: &TestServer, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server.config().metrics.listen.unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
    (head.to_owned(), body.to_owned())
}

/// What a server tells.
pub(crate) struct Scrape {
    pub(crate) text: String,
}

/// A family: its kind, its help, and the labels of its series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) labels: BTreeSet<String>,
    pub(crate) series: usize,
}

pub(crate) async fn scrape(server: &TestServer) -> Scrape {
    let (head, text) = send(server, "GET /metrics HTTP/1.1\r\nhost: keepbest\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    Scrape { text }
}

impl Scrape {
    /// The value of a series, as it is written; none: it is not told.
    pub(crate) fn value(&self, series: &str) -> Option<f64> {
        let line = self.text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    /// The series of a family, with their values.
    pub(crate) fn series(&self, family: &str) -> Vec<&str> {
        let is_of = |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
        self.text.lines().filter(is_of).collect()
    }

    /// All families by name. A line that is of none of them is no line that may be there.
    pub(crate) fn families(&self) -> BTreeMap<String, Family> {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut name = "";
        for line in self.text.lines() {
            if let Some((named, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
                name = named;
                let known =
                    families.insert(name.to_owned(), Family { help: help.to_owned(), ..Family::default() });
                assert_eq!(known, None, "{name} is told twice");
                continue;
            }
            let family = families.get_mut(name).unwrap_or_else(|| panic!("{line} is of no family"));
            if let Some((named, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
                assert_eq!(named, name);
                family.kind = kind.to_owned();
                continue;
            }
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (named, labels) = series.split_once('{').unwrap_or((series, "}"));
            let suffix = named.strip_prefix(name).unwrap_or_else(|| panic!("{line} is not of {name}"));
            assert!(suffix.is_empty() || (family.kind == "histogram" && suffix.starts_with('_')), "{line}");
            // No value of ours has a comma or an equals sign.
            let labels = labels.trim_end_matches('}').split(',').filter_map(|it| it.split_once('='));
            family.labels.extend(labels.map(|(label, _)| label.to_owned()).filter(|it| it != "le"));
            family.series += 1;
        }
        families
    }
}

/// Asks until a series has this value, and answers all that is told then.
pub(crate) async fn until(server: &TestServer, series: &str, expected: f64) -> Scrape {
    let asking = async {
        loop {
            let told = scrape(server).await;
            let value = told.value(series);
            if value == Some(expected) {
                return told;
            }
            let is_beyond = series.contains("_total") && value.is_some_and(|it| it > expected);
            assert!(!is_beyond, "{series} is {value:?}, and not {expected}");
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{series} never is {expected}"))
}
