//! Places for connections: how many there are, for one address too, and who makes room when all are taken.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config::Limits;
use crate::layers::Peer;
use crate::layers::Proxies;
use crate::server::counts::Connections;
use crate::server::counts::Refused;

/// A connection without a call for so long gives its place to a new one: longer than a client needs for its first call.
const IDLE: Duration = Duration::from_secs(1);
/// How long a connection that was idle may take to make room for another.
const LEAVING: Duration = Duration::from_secs(1);
/// Connections beyond the limit that are accepted all the same, one after the other: a supervisor that finds no place for its
/// probe restarts a server that is only busy.
const SHORT: usize = 16;
/// That an address has as many as it may is told so often at most: it may come again a thousand times a second.
const TELLS_AGAIN: Duration = Duration::from_secs(10);
/// Of an IPv6 address the part that is a customer's: the rest they choose themselves.
const NETWORK_BITS: u32 = 64;

pub(super) struct Places {
    lasting: Arc<Semaphore>,
    short: Arc<Semaphore>,
    /// Who has one, to find who is idle.
    peers: Vec<Peer>,
    /// How many of these one address may have.
    per_peer: usize,
    proxies: Proxies,
    told: Option<Instant>,
    counts: Arc<Connections>,
    /// Connections so far.
    accepted: u64,
}

impl Places {
    pub(super) fn new(limits: &Limits, proxies: Proxies, counts: Arc<Connections>) -> Places {
        let count = |number| usize::try_from(number).unwrap_or(usize::MAX);
        Places {
            lasting: Arc::new(Semaphore::new(count(limits.max_connections).min(Semaphore::MAX_PERMITS))),
            short: Arc::new(Semaphore::new(SHORT)),
            peers: Vec::new(),
            per_peer: count(limits.max_connections_per_peer),
            proxies,
            told: None,
            counts,
            accepted: 0,
        }
    }

    /// A new connection, unless its address has as many as it may. One of its own that is idle makes room first: those that
    /// a broken line has left behind are found dead only after a minute.
    pub(super) fn admit(&mut self, address: SocketAddr) -> Option<Peer> {
        // Many callers share the address of a proxy, or that of a tunnel on this machine; and who has a process here may do
        // worse than connect.
        let ip = address.ip();
        if !ip.to_canonical().is_loopback() && !self.proxies.trusts(ip) && !self.has_room(ip) {
            self.counts.refuse(Refused::Address);
            return None;
        }
        self.accepted += 1;
        Some(Peer::connected(self.accepted, address))
    }

    fn has_room(&mut self, ip: IpAddr) -> bool {
        let is_same = |peer: &&Peer| peer.address().is_some_and(|it| network(it.ip()) == network(ip));
        let stays = |peer: &&Peer| !peer.is_closed() && !peer.is_leaving();
        let theirs: Vec<_> = self.peers.iter().filter(is_same).filter(stays).collect();
        if theirs.len() < self.per_peer || idle_longest(theirs.into_iter()).is_some_and(Peer::leave) {
            return true;
        }
        if self.told.is_none_or(|it| it.elapsed() >= TELLS_AGAIN) {
            self.told = Some(Instant::now());
            let most = self.per_peer;
            tracing::warn!(
                peer.address = %ip,
                "Refused connections of an address that has {most} (`limits.max_connections_per_peer`)"
            );
        }
        false
    }

    /// From now on it may be asked to make room. Not for one with a short place: that ends by itself, and would give nothing
    /// to one that wants a lasting one.
    pub(super) fn keep(&mut self, peer: &Peer) {
        self.peers.retain(|it| !it.is_closed());
        self.peers.push(peer.clone());
    }

    /// The next place, and whether it is a short one. When all are taken, the connection that has been idle longest makes room.
    pub(super) async fn take(&mut self) -> Option<(OwnedSemaphorePermit, bool)> {
        if let Ok(place) = Arc::clone(&self.lasting).try_acquire_owned() {
            return Some((place, false));
        }
        if idle_longest(self.peers.iter()).is_some_and(Peer::leave)
            && let Ok(place) = tokio::time::timeout(LEAVING, Arc::clone(&self.lasting).acquire_owned()).await
        {
            return Some((place.ok()?, false));
        }
        tokio::select! {
            biased;
            place = Arc::clone(&self.lasting).acquire_owned() => Some((place.ok()?, false)),
            place = Arc::clone(&self.short).acquire_owned() => Some((place.ok()?, true)),
        }
    }
}

/// Of some connections the one that has been idle longest, if it was long enough.
fn idle_longest<'a>(peers: impl Iterator<Item = &'a Peer>) -> Option<&'a Peer> {
    let idle = peers.filter_map(|it| Some((it.idle_since()?, it)));
    let longest = idle.filter(|(since, _)| since.elapsed() >= IDLE).min_by_key(|(since, _)| *since);
    longest.map(|(_, it)| it)
}

/// What is one machine's, or one customer's.
fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits() >> (u128::BITS - NETWORK_BITS) << (u128::BITS - NETWORK_BITS),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::time::advance;

    use super::Arc;
    use super::Connections;
    use super::IDLE;
    use super::Places;
    use super::Proxies;
    use crate::config::Config;
    use crate::layers::Peer;

    fn places() -> Places {
        let mut limits = Config::default().limits;
        limits.max_connections_per_peer = 2;
        let proxies = Proxies::new(&["10.0.0.0/8".parse().unwrap()]);
        Places::new(&limits, proxies, Arc::new(Connections::new(2)))
    }

    fn comes(places: &mut Places, address: &str) -> Option<Peer> {
        let peer = places.admit(SocketAddr::new(address.parse().unwrap(), 1_000))?;
        places.keep(&peer);
        Some(peer)
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_only_its_share_and_others_theirs() {
        let places = &mut places();
        for (address, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("192.0.2.2", true),
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(comes(places, address).is_some(), expected, "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.1.2.3"] {
            assert!((0..20).all(|_| comes(places, address).is_some()), "{address}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_address_with_its_share_the_idle_one_makes_room() {
        let places = &mut places();
        let first = comes(places, "192.0.2.1").unwrap();
        advance(IDLE / 2).await;
        let second = comes(places, "192.0.2.1").unwrap();
        assert!(comes(places, "192.0.2.1").is_none());
        advance(IDLE / 2).await;
        assert!(comes(places, "192.0.2.1").is_some());
        assert!(first.is_leaving() && !second.is_leaving());
        assert!(comes(places, "192.0.2.1").is_none());
        second.closed();
        assert!(comes(places, "192.0.2.1").is_some());
    }
}
