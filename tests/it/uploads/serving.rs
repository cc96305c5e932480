//! The server around uploads: it stops in time, one of it owns a folder, and it tells what it is.

use std::time::Duration;
use std::time::Instant;

use keepbest::server::serve_until;
use keepbest_proto::v1;
use prost::Message;
use prost_types::FileDescriptorProto;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::server;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::prepare;
use crate::support::transfers::until_durable;

const MODEL: &str = "model.keras";

#[tokio::test]
async fn a_stop_ends_within_the_drain_limit_though_streams_are_open() {
    let mut server = server::start().await;
    let drain = Duration::from_secs(server.config().limits.drain_seconds);
    let data = noise(1, CHUNK + 1);
    let mut trainer = Trainer::start(&server, "stopped", best_only()).await;
    let version = trainer.save(0, 0.5, &data).await;
    let checkpoint = trainer.epoch(1, 0.4).await.checkpoint;
    prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, MODEL, 0).await;
    upload.send(&data[..CHUNK]).await;
    until_durable(&trainer, &checkpoint, MODEL, data.len(), CHUNK).await;
    let silence = futures::stream::pending::<v1::ReportEventsRequest>();
    let events = server.runs().stream_events(silence).await.unwrap();
    let unread =
        v1::ReadFileRequest { version: version.name.clone(), path: MODEL.to_owned(), ..Default::default() };
    let unread = server.artifacts().read_file(unread).await.unwrap();

    let stopping = Instant::now();
    tokio::time::timeout(drain + Duration::from_secs(3), server.stop()).await.expect("the stop ends");
    assert!(stopping.elapsed() >= drain, "open calls may finish until then");
    drop((events, unread));
    upload.cancel().await;

    server.restart().await;
    trainer.channel = server.channel();
    let file = prepare(&trainer, &checkpoint, MODEL, data.len()).await.unwrap();
    assert_eq!(file.durable_bytes, CHUNK as i64);
    trainer.upload(&checkpoint, MODEL, &data).await.unwrap();
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(read(&server, &version.name, MODEL).await.unwrap() == data);
}

#[tokio::test]
async fn a_stop_without_open_calls_does_not_wait() {
    let mut server = server::start_with(|config| config.limits.drain_seconds = 60).await;
    let mut trainer = Trainer::start(&server, "quick", best_only()).await;
    trainer.save(0, 0.5, b"weights").await;
    // The client's connection stays open all the while.
    tokio::time::timeout(Duration::from_secs(10), server.stop()).await.expect("the stop ends at once");
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_refuses_to_start() {
    let mut server = server::start().await;
    let config = server.config().clone();
    let second = serve_until(config.clone(), |_| panic!("it listens"), CancellationToken::new());
    let error = second.await.unwrap_err().to_string();
    assert!(error.contains("in use by another"), "{error}");
    assert!(error.contains(&server.data_dir().display().to_string()), "{error}");
    // The first one is not harmed, and the folder is free when it stops.
    Trainer::start(&server, "first", best_only()).await;
    server.restart().await;
    Trainer::start(&server, "first", best_only()).await;
}

#[tokio::test]
async fn health_tells_of_each_service() {
    let server = server::start().await;
    let mut health = HealthClient::new(server.channel());
    for service in ["", "keepbest.v1.Runs", "keepbest.v1.Checkpoints", "keepbest.v1.Artifacts"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let unknown = HealthCheckRequest { service: "keepbest.v1.Nothing".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
}

/// What either version of reflection answers to both questions: the services, and the file that has a symbol.
macro_rules! reflected {
    ($version:ident, $server:expr, $symbol:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

        let asks =
            [MessageRequest::ListServices(String::new()), MessageRequest::FileContainingSymbol($symbol)];
        let asks = asks.map(|it| ServerReflectionRequest { host: String::new(), message_request: Some(it) });
        let mut client = ServerReflectionClient::new($server.channel());
        let mut answers =
            client.server_reflection_info(futures::stream::iter(asks)).await.unwrap().into_inner();
        let listed = answers.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
        let found = answers.message().await.unwrap().unwrap().message_response;
        let Some(MessageResponse::FileDescriptorResponse(found)) = found else { panic!("{found:?}") };
        let services: Vec<String> = listed.service.into_iter().map(|it| it.name).collect();
        (services, found.file_descriptor_proto)
    }};
}

#[tokio::test]
async fn both_reflections_know_the_services_and_what_stands_in_errors() {
    let server = server::start().await;
    for (symbol, file) in [
        ("keepbest.v1.Runs", "keepbest/v1/runs.proto"),
        ("google.rpc.Status", "google/rpc/status.proto"),
        ("google.rpc.ErrorInfo", "google/rpc/error_details.proto"),
        ("google.rpc.RetryInfo", "google/rpc/error_details.proto"),
    ] {
        let answers =
            [reflected!(v1, server, symbol.to_owned()), reflected!(v1alpha, server, symbol.to_owned())];
        for (services, files) in answers {
            for service in [
                "keepbest.v1.Runs",
                "keepbest.v1.Checkpoints",
                "keepbest.v1.Artifacts",
                "grpc.health.v1.Health",
            ] {
                assert!(services.iter().any(|it| it == service), "{service} is not in {services:?}");
            }
            let found = FileDescriptorProto::decode(files[0].as_slice()).unwrap();
            assert_eq!(found.name(), file, "{symbol}");
        }
    }
}
