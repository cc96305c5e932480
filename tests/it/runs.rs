//! A run over the wire: start, report, save, commit, find again.

use keepbest_proto::v1;

use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::server;

#[tokio::test]
async fn a_save_is_decided_uploaded_committed_and_read_back() {
    let mut server = server::start().await;
    let mut trainer = Trainer::start(&server, "first", best_only()).await;
    let data = noise(1, (20 << 20) + 17);
    let version = trainer.save(0, 0.5, &data).await;
    assert_eq!(version.name, "teams/default/projects/digits/artifacts/run-first-model/versions/v0");
    let mut aliases = version.aliases.clone();
    aliases.sort();
    assert_eq!(aliases, ["best", "epoch_0", "latest"]);

    let worse = trainer.epoch(1, 0.6).await;
    assert_eq!(worse.action(), v1::Action::Skip);
    assert_eq!(worse.message, "\nEpoch 2: val_loss did not improve from 0.50000");

    server.restart().await;
    let name = "teams/default/projects/digits/artifacts/run-first-model/versions/best";
    assert!(read(&server, name, "model.keras").await.unwrap() == data);
    let best = v1::GetBestVersionRequest { parent: trainer.run.clone(), ..Default::default() };
    let best = server.artifacts().get_best_version(best).await.unwrap().into_inner();
    assert_eq!(best.name, version.name);
}
