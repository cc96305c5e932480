//! A TCP proxy between a client and the server that cuts connections, holds bytes back or loses answers.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// What becomes of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All bytes pass.
    Pass,
    /// After so many bytes from the client a connection is reset, on both sides.
    CutAfter(u64),
    /// What comes from the client after so many bytes is lost, and the connection stays.
    HoldAfter(u64),
    /// What the server answers is lost.
    Mute,
    /// A cable is cut: connections carry nothing more, and nobody is told. They stay so; new ones have the fate of their time.
    Silent,
    /// All connections are reset, and new ones too.
    Cut,
}

/// A proxy that listens on a port of its own; its connections are reset when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    fate: watch::Sender<Fate>,
    passed: watch::Sender<Passed>,
    accepting: JoinHandle<()>,
}

/// What came through, all connections together.
#[derive(Clone, Copy, Debug, Default)]
struct Passed {
    from_client: u64,
    limit_reached: bool,
    open_connections: usize,
}

impl Proxy {
    /// Starts one in front of `http://ADDRESS`.
    pub(crate) async fn start(server: &str, fate: Fate) -> Proxy {
        let server: SocketAddr = server.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (fate, _) = watch::channel(fate);
        let (passed, _) = watch::channel(Passed::default());
        let (fates, counter) = (fate.clone(), passed.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let (fate, counter) = (fates.subscribe(), counter.clone());
                tokio::spawn(async move {
                    counter.send_modify(|it| it.open_connections += 1);
                    carry(client, server, fate, counter.clone()).await;
                    counter.send_modify(|it| it.open_connections -= 1);
                });
            }
        });
        Proxy { address, fate, passed, accepting }
    }

    /// From now on.
    pub(crate) fn set(&self, fate: Fate) {
        self.fate.send_replace(fate);
    }

    /// Resets every connection, and each new one until the next `set`; returns when none is left.
    pub(crate) async fn cut_all(&self) {
        self.set(Fate::Cut);
        self.passed.subscribe().wait_for(|it| it.open_connections == 0).await.unwrap();
    }

    /// Waits until a connection has come to the limit of its fate.
    pub(crate) async fn limit_reached(&self) {
        self.passed.subscribe().wait_for(|it| it.limit_reached).await.unwrap();
    }

    /// Bytes from clients that came through.
    pub(crate) fn passed_bytes(&self) -> u64 {
        self.passed.borrow().from_client
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A bare channel through it.
    pub(crate) fn channel(&self) -> Channel {
        Channel::from_shared(self.address()).unwrap().connect_lazy()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Fate::Cut);
        self.accepting.abort();
    }
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    mut fate: watch::Receiver<Fate>,
    counter: watch::Sender<Passed>,
) {
    let (mut asked, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut passed = 0;
    loop {
        let now = *fate.borrow_and_update();
        if now == Fate::Cut {
            break;
        }
        if now == Fate::Silent {
            drop(fate.wait_for(|it| *it == Fate::Cut).await);
            break;
        }
        tokio::select! {
            changed = fate.changed() => if changed.is_err() { break },
            read = client.read(&mut asked) => {
                let Ok(count @ 1..) = read else { break };
                let room = match now {
                    Fate::CutAfter(most) | Fate::HoldAfter(most) => most.saturating_sub(passed),
                    _ => u64::MAX,
                };
                let keep = count.min(usize::try_from(room).unwrap_or(usize::MAX));
                if server.write_all(&asked[..keep]).await.is_err() {
                    break;
                }
                passed += keep as u64;
                let limit_reached = keep < count || keep as u64 == room;
                counter.send_modify(|it| {
                    it.from_client += keep as u64;
                    it.limit_reached |= limit_reached;
                });
                if limit_reached && matches!(now, Fate::CutAfter(_)) {
                    break;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { break };
                if now != Fate::Mute && client.write_all(&answered[..count]).await.is_err() {
                    break;
                }
            }
        }
    }
    // A reset, as of a process that died or a network that lost its state.
    drop(client.set_zero_linger());
    drop(server.set_zero_linger());
}
