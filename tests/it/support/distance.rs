//! A database that is far away: a proxy in front of Postgres that holds every byte back, on its way there and on its way back.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What a round trip takes longer.
pub(crate) const ROUND_TRIP: Duration = Duration::from_millis(5);
/// The name of Postgres' socket in its folder.
const SOCKET: &str = ".s.PGSQL.5432";

/// The same database, seen through a proxy that lives as long as the runtime.
pub(crate) fn distant(url: &str) -> String {
    let (before, after) = url.split_once("host=").unwrap();
    let near = after.split('&').next().unwrap();
    let folder = tempfile::Builder::new().prefix("keepbest-distance-").tempdir().unwrap().keep();
    let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
    let server = Path::new(near).join(SOCKET);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = UnixStream::connect(&server).await else { continue };
            let ((from_client, to_client), (from_server, to_server)) =
                (tokio::io::split(client), tokio::io::split(server));
            tokio::spawn(carry(from_client, to_server));
            tokio::spawn(carry(from_server, to_client));
        }
    });
    format!("{before}host={}&port=5432", folder.display())
}

/// Carries bytes in their order, each half a round trip late.
async fn carry(mut from: ReadHalf<UnixStream>, mut to: WriteHalf<UnixStream>) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = under_way.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if sender.send((Instant::now() + ROUND_TRIP / 2, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}
