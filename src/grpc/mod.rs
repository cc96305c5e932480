//! The gRPC face: one file a service, each method three steps (convert in, call `app`, convert out).

/// A service whose methods are those of [`Face`] with the same names: they take a request and return an answer or the app's error,
/// and here alone that becomes a status.
macro_rules! service {
    ($service:ident { $($method:ident: $request:ty => $answer:ty,)* } $($types:item)*) => {
        #[tonic::async_trait]
        impl $service for Face {
            $($types)*

            $(async fn $method(
                &self,
                request: tonic::Request<$request>,
            ) -> Result<tonic::Response<$answer>, tonic::Status> {
                let admitted = self.admitted(&request).map_err($crate::grpc::status::status)?;
                let face = admitted.as_ref().unwrap_or(self);
                let place = self.large.place(stringify!($method)).await;
                let place = place.map_err(|it| $crate::grpc::status::refused(&it))?;
                // The face's own method, which goes before that of the trait.
                let answer = Face::$method(face, request.into_inner()).await;
                let mut answer = answer.map(tonic::Response::new).map_err($crate::grpc::status::status)?;
                if let Some(place) = place {
                    answer.extensions_mut().insert(place);
                }
                Ok(answer)
            })*
        }
    };
}

mod admin;
mod artifacts;
mod asks;
mod checkpoints;
mod convert;
mod counts;
mod door;
mod health;
mod json;
mod large;
mod lists;
mod openapi;
mod pages;
mod projects;
mod runs;
mod status;

use std::pin::Pin;
use std::sync::Arc;

use axum::routing::get;
use futures::Stream;
use http::header::CONTENT_TYPE;
use keepbest_proto::FILE_DESCRIPTOR_SET;
use keepbest_proto::v1::admin_server::AdminServer;
use keepbest_proto::v1::artifacts_server::ArtifactsServer;
use keepbest_proto::v1::checkpoints_server::CheckpointsServer;
use keepbest_proto::v1::projects_server::ProjectsServer;
use keepbest_proto::v1::runs_server::RunsServer;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Status;
use tonic::server::NamedService;
use tonic::service::Routes;

use crate::app::App;
use crate::domain::ids::MAX_ID_BYTES;
use crate::domain::token::masked;
use crate::grpc::large::Large;

pub(crate) use counts::Counts;
pub(crate) use door::Call;
pub use health::Health;
pub use health::LIVENESS;
pub(crate) use json::JsonMethod;
pub(crate) use json::error as json_error;
pub(crate) use large::Place;
pub(crate) use status::internal;
pub(crate) use status::of_transport;
pub(crate) use status::refused_body;
pub(crate) use status::status as status_of;

/// Largest message in or out, which is what gRPC's clients take by default. In: 1 MiB of data is best, 3 MiB of small files are
/// taken, and names need room. Out: 3 MiB of a list (`grpc/pages.rs`) leave room for the resource that it stands in.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// The methods whose requests are streams; of every other one the request is one message.
const STREAMS: [&str; 4] = [
    "/keepbest.v1.Runs/StreamEvents",
    "/keepbest.v1.Checkpoints/WriteFile",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The methods whose answers are streams of ours.
const ANSWER_STREAMS: [&str; 3] = [
    "/keepbest.v1.Runs/StreamEvents",
    "/keepbest.v1.Artifacts/ReadFile",
    "/keepbest.v1.Artifacts/WatchVersions",
];

/// Whether the answers of a method are a stream.
pub(crate) fn streams_answers(path: &str) -> bool {
    ANSWER_STREAMS.contains(&path)
}

/// Whether the requests of a method are a stream.
pub(crate) fn streams_requests(path: &str) -> bool {
    STREAMS.contains(&path)
}

/// Where the contract is told as a document of `OpenAPI`.
pub(crate) const OPENAPI: &str = "/openapi.json";
/// All methods that are served, those of health and reflection among them, as `keepbest.v1.Runs/StartRun`.
pub fn methods() -> Vec<String> {
    let mut methods: Vec<String> =
        STREAMS.iter().map(|path| path.trim_start_matches('/').to_owned()).collect();
    for set in [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        let set = FileDescriptorSet::decode(set).expect("a build made it, whose code serves it");
        for file in &set.file {
            for service in &file.service {
                let name = |method: &str| format!("{}.{}/{method}", file.package(), service.name());
                methods.extend(service.method.iter().map(|method| name(method.name())));
            }
        }
    }
    methods.sort_unstable();
    methods.dedup();
    methods
}

/// The answers of a stream.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A service of this API; cheap to clone.
#[derive(Clone, Debug)]
struct Face {
    app: App,
    large: Large,
    /// What the door let in; none: of the service itself, which every call begins with.
    call: Option<Arc<Call>>,
}

/// All services, health and reflection among them, and what tells whether they are ready.
pub async fn routes(app: App) -> Result<(Routes, Health), tonic_reflection::server::Error> {
    let face = Face { app, large: Large::default(), call: None };
    let (reporter, service) = tonic_health::server::health_reporter();
    let ours = [
        RunsServer::<Face>::NAME,
        CheckpointsServer::<Face>::NAME,
        ArtifactsServer::<Face>::NAME,
        ProjectsServer::<Face>::NAME,
        AdminServer::<Face>::NAME,
    ];
    let health = Health::new(reporter, [""].into_iter().chain(ours).collect()).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let mut routes = Routes::builder();
    routes
        .add_service(service)
        .add_service(reflection().build_v1()?)
        // Older grpcurl asks for this one.
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            RunsServer::new(face.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            CheckpointsServer::new(face.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            ArtifactsServer::new(face.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            ProjectsServer::new(face.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            AdminServer::new(face)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        );
    // Behind the door as the methods are; what it tells is what reflection tells.
    let document = || async { ([(CONTENT_TYPE, "application/json")], openapi::text()) };
    let routes = routes.routes().into_axum_router().route(OPENAPI, get(document));
    Ok((Routes::from(routes), health))
}

/// The longest resource name has four ids, with words between them. What is longer names nothing.
const LONGEST_NAME: usize = 4 * MAX_ID_BYTES + 64;

/// Puts the name of the thing into the request's log line: whole, so that it can be searched for, and escaped.
fn record(name: &str) {
    let name = masked(name);
    let shown: String = name.chars().take(LONGEST_NAME).flat_map(char::escape_debug).collect();
    tracing::Span::current().record("resource", tracing::field::display(shown));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_streams_are_those_of_the_contract() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert_eq!(streams_requests(&path), method.client_streaming(), "{path}");
                    assert_eq!(streams_answers(&path), method.server_streaming(), "{path}");
                }
            }
        }
    }
}
