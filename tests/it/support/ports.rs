//! Ports for servers that are started again where they were, or that cannot choose one themselves.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// Below those that the system gives to whoever asks for any (from 32,768 on Linux). One of those may be taken by another test
/// while its server is away, and then the server cannot come back.
const PORTS: Range<u32> = 10_240..32_768;

/// A port that nobody has at this moment, and that no other test of this process is given.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Test binaries that run beside each other begin at different places.
    let first = std::process::id().wrapping_mul(101);
    PORTS
        .map(|_| {
            let at = first.wrapping_add(GIVEN.fetch_add(1, Ordering::SeqCst));
            u16::try_from(PORTS.start + at % (PORTS.end - PORTS.start)).unwrap()
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

/// Several of them.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    [(); N].map(|()| free_port())
}
