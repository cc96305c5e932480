//! For whom a call is made: its connection's address, or what a trusted proxy says.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use ipnet::IpNet;

/// Each proxy adds to it the address that it was called from.
const FORWARDED: &str = "x-forwarded-for";

/// The proxies that are believed; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Proxies(Arc<[IpNet]>);

/// The address that a call comes from, in its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerAddress {
    pub ip: IpAddr,
    /// Whether a proxy has told it.
    pub is_told: bool,
}

/// Marks numbers that are of addresses: connections count from 1, and never come so far.
const OF_ADDRESS: u64 = 1 << 63;

impl CallerAddress {
    /// Whose turn it is at what callers share: behind a proxy an address', for there a connection carries calls of many.
    pub(super) fn turn(self, connection: u64) -> u64 {
        if !self.is_told {
            return connection;
        }
        let mut hasher = DefaultHasher::new();
        self.ip.hash(&mut hasher);
        hasher.finish() | OF_ADDRESS
    }
}

impl Proxies {
    /// Those in these networks.
    pub fn new(networks: &[IpNet]) -> Proxies {
        Proxies(networks.into())
    }

    /// Whether what this address says is believed.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// Whom a call on a connection from `peer` is for: the last hop that is none of ours. What stands before it in the header
    /// was written by strangers.
    pub(super) fn caller(&self, peer: IpAddr, headers: &HeaderMap) -> CallerAddress {
        let mut ip = peer.to_canonical();
        let mut is_told = false;
        let values = headers.get_all(FORWARDED).iter().rev();
        let mut hops = values.flat_map(|it| it.to_str().unwrap_or_default().rsplit(',')).map(hop);
        // The newest hop was told by the connection's own end, the next one by that hop.
        while self.trusts(ip)
            && let Some(Some(hop)) = hops.next()
        {
            (ip, is_told) = (hop, true);
        }
        CallerAddress { ip, is_told }
    }
}

/// An address, perhaps with a port, as some proxies write it.
fn hop(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<std::net::SocketAddr>().map(|it| it.ip());
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().or_else(|_| with_port()).ok().map(|it: IpAddr| it.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{CallerAddress, Proxies};

    fn caller(peer: &str, forwarded: &[&str]) -> (String, bool) {
        let proxies = Proxies::new(&["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let CallerAddress { ip, is_told } = proxies.caller(peer.parse().unwrap(), &headers);
        (ip.to_string(), is_told)
    }

    #[test]
    fn only_a_trusted_proxy_says_for_whom_it_calls() {
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &["198.51.100.7"][..], ("192.0.2.1", false)),
            ("10.1.2.3", &[], ("10.1.2.3", false)),
            ("10.1.2.3", &["198.51.100.7"], ("198.51.100.7", true)),
            ("::ffff:10.1.2.3", &["198.51.100.7"], ("198.51.100.7", true)),
            ("fd00::1", &["2001:db8::7"], ("2001:db8::7", true)),
        ] {
            assert_eq!(caller(peer, forwarded), (expected.0.to_owned(), expected.1), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn the_last_hop_that_is_no_proxy_counts_whatever_stands_before_it() {
        for (forwarded, expected) in [
            (&["203.0.113.1, 198.51.100.7"][..], "198.51.100.7"),
            (&["203.0.113.1, 198.51.100.7, 10.9.9.9"], "198.51.100.7"),
            (&["203.0.113.1", "198.51.100.7 ,10.9.9.9"], "198.51.100.7"),
            (&["10.8.8.8, 10.9.9.9"], "10.8.8.8"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["[2001:db8::7]:4711"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["198.51.100.7, unknown"], "10.1.2.3"),
            (&["198.51.100.7, , 10.9.9.9"], "10.9.9.9"),
        ] {
            assert_eq!(caller("10.1.2.3", forwarded).0, expected, "{forwarded:?}");
        }
    }
}
