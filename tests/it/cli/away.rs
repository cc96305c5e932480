//! Addresses at which there is no server: a person is told at once, and what to do.

use std::io::Read as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::time::Duration;
use std::time::Instant;

use super::keepbest;

#[test]
fn a_server_that_does_not_run_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    // Takes connections, and answers nothing that is gRPC.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other_address = format!("http://{}", other.local_addr().unwrap());
    std::thread::spawn(move || {
        for connection in other.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    for (server, says) in [
        ("http://127.0.0.1:1", "`keepbest serve --listen 127.0.0.1:1`"),
        ("http://no..host:7400", "the host of `http://no..host:7400` is not known"),
        (&*other_address, "is no Keepbest server"),
    ] {
        let begun = Instant::now();
        let done = keepbest(&["runs", "--server", server], folder.path());
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(done.stderr.contains(server) && done.stderr.contains(says), "{}", done.stderr);
        // Of which most is for a machine that does much else; before, it was half a minute.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
