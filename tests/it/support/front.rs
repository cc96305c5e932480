//! What stands before replicas: it sends each call to one of them at random, whether it is alive or not, as a load balancer
//! does that has not heard of a death yet. And it watches how uploads go on: from where, and at which replica.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use http::Request;
use http::Response;
use http_body::Frame;
use keepbest_proto::v1;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic::transport::Endpoint;
use tonic::transport::Server;
use tower::ServiceExt;

use crate::support::random::Random;

/// As of the client: smaller ones cost more than the bytes.
const FRAME_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A front on a port of its own; it ends when it is dropped.
pub(crate) struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    replicas: Vec<Channel>,
    random: Mutex<Random>,
    watch: Mutex<Watch>,
}

/// How uploads went on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resumes {
    /// Streams that began behind bytes which were durable.
    pub(crate) resumed: usize,
    /// Of these: at another replica than the stream before.
    pub(crate) elsewhere: usize,
    /// Bytes that they did not send again.
    pub(crate) spared_bytes: i64,
    /// Durable bytes that were sent again, or that a replica did not know of any more.
    pub(crate) wrong: Vec<String>,
}

#[derive(Default)]
struct Watch {
    files: HashMap<(String, String), Place>,
    resumes: Resumes,
}

/// Where the upload of a file stands.
#[derive(Default)]
struct Place {
    /// What was said last to be durable, by whichever replica.
    durable_bytes: i64,
    /// Which one has had the last stream.
    replica: Option<usize>,
}

impl Front {
    /// Starts one in front of `http://ADDRESS`es.
    pub(crate) async fn start(replicas: Vec<String>, random: Random) -> Front {
        let channel = |address: String| {
            let endpoint = Endpoint::from_shared(address).unwrap().tcp_nodelay(true);
            let endpoint = endpoint.initial_stream_window_size(STREAM_WINDOW_BYTES);
            endpoint.initial_connection_window_size(CONNECTION_WINDOW_BYTES).connect_lazy()
        };
        let shared = Arc::new(Shared {
            replicas: replicas.into_iter().map(channel).collect(),
            random: Mutex::new(random),
            watch: Mutex::default(),
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let forwarding = Arc::clone(&shared);
        // Over no service at all: every call is another's.
        let layer = tower::layer::layer_fn(move |_: Routes| {
            let shared = Arc::clone(&forwarding);
            tower::service_fn(move |request| forward(Arc::clone(&shared), request))
        });
        let serving = Server::builder()
            .layer(layer)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_routes(Routes::default())
            .serve_with_incoming(TcpListenerStream::new(listener));
        Front { address, shared, serving: tokio::spawn(async move { serving.await.unwrap() }) }
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How uploads went on until now.
    pub(crate) fn resumes(&self) -> Resumes {
        self.shared.watch.lock().unwrap().resumes.clone()
    }

    /// Which replica has had the last stream of a checkpoint's file.
    pub(crate) fn writes_at(&self, checkpoint: &str, path: &str) -> Option<usize> {
        let watch = self.shared.watch.lock().unwrap();
        watch.files.get(&(checkpoint.to_owned(), path.to_owned()))?.replica
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A replica that is dead, or dies before it answers, makes the call UNAVAILABLE. One that dies in its answer cuts it.
async fn forward(shared: Arc<Shared>, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let replica = shared.random.lock().unwrap().below(shared.replicas.len());
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let asked = Arc::new(OnceLock::new());
    let (heard, watching) = (Arc::clone(&asked), Arc::clone(&shared));
    let request = match method.as_str() {
        "PrepareFile" => request.map(|body| {
            let told = move |message: v1::PrepareFileRequest| drop(heard.set(message));
            Body::new(Head::of(body, told))
        }),
        "WriteFile" => request.map(|body| {
            let told = move |message| watching.watch.lock().unwrap().writes(replica, message);
            Body::new(Head::of(body, told))
        }),
        _ => request,
    };
    let response = match shared.replicas[replica].clone().oneshot(request).await {
        Ok(response) => response,
        Err(error) => return Ok(Status::unavailable(format!("replica {replica}: {error}")).into_http()),
    };
    Ok(match method.as_str() {
        "PrepareFile" => response.map(|body| {
            let told = move |file| {
                let asked = asked.get().expect("the question comes before the answer");
                shared.watch.lock().unwrap().told(replica, asked, &file);
            };
            Body::new(Head::of(body, told))
        }),
        _ => response,
    })
}

impl Watch {
    fn told(&mut self, replica: usize, asked: &v1::PrepareFileRequest, file: &v1::File) {
        let place = self.files.entry((asked.checkpoint.clone(), asked.path.clone())).or_default();
        if file.durable_bytes < place.durable_bytes {
            let (path, now, before) = (&asked.path, file.durable_bytes, place.durable_bytes);
            self.resumes.wrong.push(format!("replica {replica}: `{path}` had {before} bytes and has {now}"));
        }
        place.durable_bytes = file.durable_bytes;
    }

    fn writes(&mut self, replica: usize, first: v1::WriteFileRequest) {
        let place = self.files.entry((first.checkpoint, first.path.clone())).or_default();
        if first.offset_bytes != place.durable_bytes {
            let (path, offset, durable) = (first.path, first.offset_bytes, place.durable_bytes);
            let wrong = format!("`{path}` goes on at {offset}, and {durable} bytes are durable");
            self.resumes.wrong.push(wrong);
        }
        let before = place.replica.replace(replica);
        if first.offset_bytes > 0 {
            self.resumes.resumed += 1;
            self.resumes.elsewhere += usize::from(before.is_some_and(|it| it != replica));
            self.resumes.spared_bytes += first.offset_bytes;
        }
    }
}

/// A body whose first message is told.
struct Head<T> {
    body: Body,
    head: Vec<u8>,
    told: Option<T>,
}

impl<T> Head<T> {
    fn of<M>(body: Body, told: T) -> Head<impl FnOnce(&[u8]) + Unpin + Send + 'static>
    where
        M: Message + Default,
        T: FnOnce(M) + Send + 'static,
    {
        // A box may move, whatever is in it.
        let told = Box::new(move |message: &[u8]| told(M::decode(message).unwrap()));
        Head { body, head: Vec::new(), told: Some(told) }
    }
}

impl<T: FnOnce(&[u8]) + Unpin> http_body::Body for Head<T> {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && self.told.is_some()
        {
            self.head.extend_from_slice(data);
            let length = self.head.get(1..PREFIX_BYTES).map(|it| u32::from_be_bytes(it.try_into().unwrap()));
            let end = length.map(|it| PREFIX_BYTES + it as usize);
            if let Some(end) = end.filter(|end| *end <= self.head.len()) {
                let head = std::mem::take(&mut self.head);
                self.told.take().unwrap()(&head[PREFIX_BYTES..end]);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
