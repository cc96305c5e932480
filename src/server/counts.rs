//! What is counted of connections.

use crate::metrics::Counter;
use crate::metrics::Each;
use crate::metrics::Gauge;
use crate::metrics::Text;

/// Why a connection came to nothing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Refused {
    /// Its address has as many as it may.
    Address,
    /// A handshake of TLS failed.
    Tls,
    /// It speaks something else.
    Protocol,
    /// It had not begun in time.
    Late,
    /// It broke before it had begun, as one does that only looks whether the port is open.
    Broken,
}

const REFUSED: [&str; 5] = ["address", "tls", "protocol", "late", "broken"];

/// Of one server.
#[derive(Debug)]
pub(super) struct Connections {
    most: u64,
    accepted: Counter,
    open: Gauge,
    /// Beyond the limit: they soon end.
    short: Counter,
    refused: Each<Counter, 5>,
}

impl Connections {
    /// Of which there are at most so many.
    pub(super) fn new(most: u64) -> Connections {
        Connections {
            most,
            accepted: Counter::default(),
            open: Gauge::default(),
            short: Counter::default(),
            refused: Each::of(&REFUSED),
        }
    }

    pub(super) fn opened(&self, is_short: bool) {
        self.accepted.add(1);
        self.open.add(1);
        self.short.add(u64::from(is_short));
    }

    pub(super) fn closed(&self) {
        self.open.add(-1);
    }

    pub(super) fn refuse(&self, why: Refused) {
        self.refused.at(why as usize).add(1);
    }

    pub(super) fn tell(&self, text: &mut Text) {
        text.gauge("keepbest_connections_open", "Connections that are open.").put(&[], &self.open);
        text.gauge("keepbest_connections_limit", "Connections that may be open (limits.max_connections).")
            .put(&[], self.most);
        text.counter("keepbest_connections_total", "Connections that were accepted and got a place.")
            .put(&[], &self.accepted);
        text.counter(
            "keepbest_connections_short_total",
            "Connections beyond the limit, which are cut after some seconds.",
        )
        .put(&[], &self.short);
        for (word, count) in self.refused.iter() {
            text.counter("keepbest_connections_refused_total", "Connections that came to nothing.")
                .put(&[("reason", word)], count);
        }
    }
}
