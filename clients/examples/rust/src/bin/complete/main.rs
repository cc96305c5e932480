//! A training that loses nothing when the server or it itself is killed: complete ADDRESS RUN FOLDER.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is what it is for")]

mod retry;
mod transfer;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use keepbest_trainer::v1;
use keepbest_trainer::v1::artifacts_client::ArtifactsClient;
use keepbest_trainer::v1::checkpoints_client::CheckpointsClient;
use keepbest_trainer::v1::runs_client::RunsClient;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::retry::describe;
use crate::retry::unary;

const PROJECT: &str = "teams/demo/projects/languages";
/// What the epochs of this training come to.
const LOSSES: [f64; 5] = [0.9, 0.7, 0.8, 0.5, 0.3];

struct Training {
    runs: RunsClient<Channel>,
    checkpoints: CheckpointsClient<Channel>,
    artifacts: ArtifactsClient<Channel>,
    run: String,
    attempt: i64,
    next_sequence: i64,
    first_epoch: usize,
}

/// What a training needs of its channel. It has no reconnect backoff: each try of a call connects at once.
fn connect(address: String) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address)?
        .connect_timeout(Duration::from_secs(5))
        // A server that is gone without a word is found, instead of waited for.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    Ok(endpoint.connect_lazy())
}

impl Training {
    /// Begins the run or goes on with it behind the newest version, whose weights a real training would load now.
    async fn start(address: String, run: String) -> Result<Training, Box<dyn Error>> {
        let channel = connect(address)?;
        let runs = RunsClient::new(channel.clone());
        let request = v1::StartRunRequest {
            parent: PROJECT.to_owned(),
            run_id: run,
            // New in each start of the process, and the same when the call is repeated.
            request_id: uuid::Uuid::new_v4().to_string(),
            strategy: Some(v1::Strategy {
                filepath: "model-{epoch:02d}.bin".to_owned(),
                save_best_only: true,
                ..v1::Strategy::default()
            }),
            ..v1::StartRunRequest::default()
        };
        let started = unary(request, |it| {
            let mut runs = runs.clone();
            async move { runs.start_run(it).await }
        })
        .await?;
        let first_epoch = match &started.resume_from {
            Some(version) => {
                println!("resume from {}", version.name);
                usize::try_from(version.epoch)? + 1
            }
            None => 0,
        };
        Ok(Training {
            runs,
            checkpoints: CheckpointsClient::new(channel.clone()),
            artifacts: ArtifactsClient::new(channel),
            run: started.run.unwrap_or_default().name,
            attempt: started.attempt,
            next_sequence: started.next_sequence,
            first_epoch,
        })
    }

    async fn train(&mut self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let file = folder.join("model.bin");
        for epoch in self.first_epoch..LOSSES.len() {
            fit(epoch, &file).await?;
            self.end_of_epoch(epoch, &file).await?;
        }
        let finish =
            v1::FinishRunRequest { name: self.run.clone(), attempt: self.attempt, ..Default::default() };
        unary(finish, |it| {
            let mut runs = self.runs.clone();
            async move { runs.finish_run(it).await }
        })
        .await?;
        let ask =
            v1::GetBestVersionRequest { parent: self.run.clone(), include_files: true, ..Default::default() };
        let best = unary(ask, |it| {
            let mut artifacts = self.artifacts.clone();
            async move { artifacts.get_best_version(it).await }
        })
        .await?;
        let digest = transfer::download(&self.artifacts, &best, &folder.join("best.bin")).await?;
        println!("best {} {}", best.name, transfer::hex(&digest));
        Ok(())
    }

    async fn end_of_epoch(&mut self, epoch: usize, file: &Path) -> Result<(), Box<dyn Error>> {
        let event = v1::Event {
            kind: v1::EventKind::EpochEnd.into(),
            epoch: i64::try_from(epoch)?,
            metrics: [("val_loss".to_owned(), LOSSES[epoch])].into(),
            ..v1::Event::default()
        };
        for decision in self.report(vec![event]).await? {
            match decision.action() {
                v1::Action::Save => {
                    transfer::upload(&self.checkpoints, &decision.checkpoint, self.attempt, file).await?;
                    let commit = v1::CommitCheckpointRequest {
                        checkpoint: decision.checkpoint,
                        attempt: self.attempt,
                        file_count: 1,
                        ..Default::default()
                    };
                    let version = unary(commit, |it| {
                        let mut checkpoints = self.checkpoints.clone();
                        async move { checkpoints.commit_checkpoint(it).await }
                    })
                    .await?;
                    println!("epoch {epoch} saved as {}", version.name);
                }
                v1::Action::Fail => return Err(format!("epoch {epoch}: {}", decision.reason_text).into()),
                _ => println!("epoch {epoch} not saved: {}", decision.reason_text),
            }
        }
        Ok(())
    }

    /// Sends events until all are taken, and answers what was decided.
    async fn report(&mut self, mut events: Vec<v1::Event>) -> Result<Vec<v1::Decision>, Box<dyn Error>> {
        let mut decisions = Vec::new();
        while !events.is_empty() {
            let request = v1::ReportEventsRequest {
                run: self.run.clone(),
                attempt: self.attempt,
                first_sequence: self.next_sequence,
                events: events.clone(),
                ..Default::default()
            };
            let answer = unary(request, |it| {
                let mut runs = self.runs.clone();
                async move { runs.report_events(it).await }
            })
            .await?;
            decisions.extend(answer.decisions);
            events.drain(..usize::try_from(answer.next_sequence - self.next_sequence)?);
            self.next_sequence = answer.next_sequence;
        }
        Ok(decisions)
    }
}

/// Stands for the training of an epoch: it leaves 20 MiB of weights.
async fn fit(epoch: usize, file: &Path) -> std::io::Result<()> {
    let weights: Vec<u8> =
        (0_usize..20 << 20).map(|at| ((at >> 20) ^ (epoch << 5) ^ at).to_le_bytes()[0]).collect();
    tokio::fs::write(file, weights).await
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, run, folder] = arguments.as_slice() else {
        eprintln!("usage: complete ADDRESS RUN FOLDER");
        return ExitCode::from(2);
    };
    let trained = async {
        let mut training = Training::start(address.clone(), run.clone()).await?;
        training.train(Path::new(folder)).await
    };
    match trained.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", describe(&*error));
            ExitCode::FAILURE
        }
    }
}
