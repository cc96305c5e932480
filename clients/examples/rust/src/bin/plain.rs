//! One save with nothing but the stubs: plain ADDRESS FILE, as `plain http://127.0.0.1:7400 model.bin`.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;

use keepbest_trainer::v1;
use keepbest_trainer::v1::checkpoints_client::CheckpointsClient;
use keepbest_trainer::v1::runs_client::RunsClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (address, path) = arguments.next().zip(arguments.next()).ok_or("usage: plain ADDRESS FILE")?;
    let data = std::fs::read(&path)?;
    let path = path.rsplit('/').next().unwrap_or(&path).to_owned();
    let channel = tonic::transport::Endpoint::from_shared(address)?.connect().await?;
    let (mut runs, mut checkpoints) = (RunsClient::new(channel.clone()), CheckpointsClient::new(channel));

    let strategy =
        v1::Strategy { filepath: "model-{epoch:02d}.bin".into(), save_best_only: true, ..Default::default() };
    let (parent, strategy) = ("teams/demo/projects/rust".into(), Some(strategy));
    let start = v1::StartRunRequest { parent, strategy, ..Default::default() };
    let started = runs.start_run(start).await?.into_inner();
    let (run, attempt) = (started.run.ok_or("no run")?.name, started.attempt);
    let (kind, metrics) = (v1::EventKind::EpochEnd.into(), [("val_loss".into(), 0.25)].into());
    let event = v1::Event { kind, epoch: 0, metrics, ..Default::default() };
    let first_sequence = started.next_sequence;
    let report =
        v1::ReportEventsRequest { run, attempt, first_sequence, events: vec![event], ..Default::default() };
    let decision = runs.report_events(report).await?.into_inner().decisions.remove(0);
    if decision.action() == v1::Action::Save {
        let (checkpoint, size_bytes) = (decision.checkpoint, i64::try_from(data.len())?);
        let mut prepare = v1::PrepareFileRequest { attempt, size_bytes, ..Default::default() };
        (prepare.checkpoint, prepare.path) = (checkpoint.clone(), path.clone());
        checkpoints.prepare_file(prepare).await?;
        // An empty file has one message, too.
        let last = data.len().saturating_sub(1) >> 20;
        let mut messages: Vec<_> = (0..=last)
            .map(|piece| v1::WriteFileRequest {
                data: data[piece << 20..data.len().min((piece + 1) << 20)].to_vec(),
                finish: piece == last,
                ..Default::default()
            })
            .collect();
        (messages[0].checkpoint, messages[0].attempt, messages[0].path) = (checkpoint.clone(), attempt, path);
        checkpoints.write_file(tokio_stream::iter(messages)).await?;
        let commit = v1::CommitCheckpointRequest { checkpoint, attempt, ..Default::default() };
        println!("{}", checkpoints.commit_checkpoint(commit).await?.into_inner().name);
    }
    Ok(())
}
