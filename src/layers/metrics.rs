//! What is counted of requests: by their methods, how many, how they ended, how long they took, and their bytes.
//!
//! A path that is no method's is counted as `other`: whoever asks for ten thousand paths that do not exist makes one series.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tonic::Code;

use crate::metrics::Counter;
use crate::metrics::Gauge;
use crate::metrics::Seconds;
use crate::metrics::Text;

/// All that is no method.
const OTHER: &str = "other";
/// The codes as the papers of gRPC write them, by their numbers.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Codes that are told of each method from the start: what begins with its first failure has no increase that could be seen, and
/// these are the ones at which somebody is woken.
const ALWAYS: [Code; 3] = [Code::Ok, Code::Internal, Code::DataLoss];

/// Of all requests.
#[derive(Debug)]
pub struct Requests {
    /// By their names, in their order.
    methods: Box<[Method]>,
    other: Method,
}

#[derive(Debug)]
struct Method {
    name: String,
    codes: [Counter; CODES.len()],
    seconds: Seconds,
    received_bytes: Counter,
    sent_bytes: Counter,
    open: Gauge,
}

impl Method {
    fn new(name: String) -> Method {
        Method {
            name,
            codes: Default::default(),
            seconds: Seconds::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            open: Gauge::default(),
        }
    }
}

impl Requests {
    /// Of these methods, as `keepbest.v1.Runs/StartRun`.
    pub fn new(mut methods: Vec<String>) -> Requests {
        methods.sort_unstable();
        methods.dedup();
        let methods = methods.into_iter().map(Method::new).collect();
        Requests { methods, other: Method::new(OTHER.to_owned()) }
    }

    /// A request begins.
    pub(super) fn begin(self: &Arc<Requests>, method: &str) -> OpenRequest {
        let place = self.methods.binary_search_by(|it| it.name.as_str().cmp(method)).ok();
        let open = OpenRequest {
            requests: Arc::clone(self),
            place,
            begin: Instant::now(),
            received: Counter::default(),
        };
        open.method().open.add(1);
        open
    }

    /// Tells what was counted.
    pub fn tell(&self, text: &mut Text) {
        for method in self.methods.iter().chain([&self.other]) {
            let labels = [("method", method.name.as_str())];
            for (code, (word, count)) in CODES.into_iter().zip(&method.codes).enumerate() {
                if count.get() > 0 || ALWAYS.iter().any(|it| *it as usize == code) {
                    text.counter("keepbest_requests_total", "Requests that were answered.")
                        .put(&[labels[0], ("code", word)], count);
                }
            }
            text.gauge("keepbest_requests_open", "Requests and streams that are open.")
                .put(&labels, &method.open);
            let mut seconds = text.histogram(
                "keepbest_request_seconds",
                "How long requests took, to the last byte that was handed over; streams as long as they stood.",
            );
            // Two dozen lines a method, most of which a server never hears of.
            if method.seconds.count() > 0 {
                seconds.put_all(&labels, &method.seconds);
            }
            text.counter("keepbest_request_bytes_total", "Bytes of bodies that came or were handed over.")
                .put(&[labels[0], ("direction", "received")], &method.received_bytes)
                .put(&[labels[0], ("direction", "sent")], &method.sent_bytes);
        }
    }
}

/// A request that has begun. Its line of the log counts the same.
#[derive(Debug)]
pub(super) struct OpenRequest {
    requests: Arc<Requests>,
    /// None: it is no method.
    place: Option<usize>,
    begin: Instant,
    received: Counter,
}

impl OpenRequest {
    fn method(&self) -> &Method {
        self.place.and_then(|it| self.requests.methods.get(it)).unwrap_or(&self.requests.other)
    }

    pub(super) fn receive(&self, bytes: u64) {
        self.received.add(bytes);
        self.method().received_bytes.add(bytes);
    }

    /// Bytes of its body that have come so far.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received.get()
    }

    pub(super) fn send(&self, bytes: u64) {
        self.method().sent_bytes.add(bytes);
    }

    /// Its answer has ended, once; answers how long it took.
    pub(super) fn end(&self, code: Code) -> Duration {
        let (method, took) = (self.method(), self.begin.elapsed());
        method.open.add(-1);
        if let Some(count) = method.codes.get(code as usize) {
            count.add(1);
        }
        method.seconds.took(took);
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_at_their_numbers() {
        for (place, word) in CODES.iter().enumerate() {
            let code = Code::from_i32(i32::try_from(place).unwrap());
            let spelled = format!("{code:?}").to_uppercase();
            assert_eq!(word.replace('_', ""), spelled);
        }
        assert_eq!(Code::from_i32(17), Code::Unknown, "there are no more");
    }

    #[test]
    fn ten_thousand_paths_are_one_series() {
        let requests = Arc::new(Requests::new(vec!["b.B/B".to_owned(), "a.A/A".to_owned()]));
        for number in 0..10_000 {
            requests.begin(&format!("a.A/A{number}")).end(Code::Unimplemented);
        }
        requests.begin("a.A/A").end(Code::NotFound);
        let open = requests.begin("b.B/B");
        open.receive(5);
        let mut text = Text::default();
        requests.tell(&mut text);
        let text = text.to_string();
        let counts: Vec<&str> = text
            .lines()
            .filter(|it| it.starts_with("keepbest_requests_total{") && !it.ends_with(" 0"))
            .collect();
        assert_eq!(
            counts,
            [
                "keepbest_requests_total{method=\"a.A/A\",code=\"NOT_FOUND\"} 1",
                "keepbest_requests_total{method=\"other\",code=\"UNIMPLEMENTED\"} 10000",
            ]
        );
        assert!(text.contains("keepbest_requests_open{method=\"b.B/B\"} 1\n"), "{text}");
        assert!(
            text.contains("keepbest_request_bytes_total{method=\"b.B/B\",direction=\"received\"} 5\n"),
            "{text}"
        );
    }
}
