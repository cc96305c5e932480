//! What a load balancer and a supervisor hear from a server.

use std::time::Duration;

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How long a test waits for a change that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the server at the address says of a service.
pub(crate) async fn health(address: &str, service: &str) -> ServingStatus {
    let channel = Channel::from_shared(address.to_owned()).unwrap().connect_lazy();
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
}

/// Asks until all services are ready, or none is. The process says that it lives all the while.
pub(crate) async fn until_ready(address: &str, ready: bool) {
    let wanted = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    let asking = async {
        for service in ["", "keepbest.v1.Runs", "keepbest.v1.Checkpoints", "keepbest.v1.Artifacts"] {
            while health(address, service).await != wanted {
                assert_eq!(health(address, "liveness").await, ServingStatus::Serving);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(health(address, "liveness").await, ServingStatus::Serving);
    };
    let why = format!("{address} comes to be {wanted:?}");
    tokio::time::timeout(PATIENCE, asking).await.expect(&why);
}
