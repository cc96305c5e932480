//! A training that goes on after a kill: `train ADDRESS RUN FOLDER EPOCHS`, as `train http://127.0.0.1:7400 line-1 out 60`.
//!
//! It fits a plane to points with noise, by stochastic gradient descent, and keeps the weights that do best on points which it
//! does not learn from. Started again with the same run it goes on behind the newest weights that are saved. Needs a server:
//! `keepbest serve`.
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::error::Error;
use std::path::Path;

use keepbest_client::{Client, PullOptions, Run, pull, v1};

const PROJECT: &str = "teams/demo/projects/rust";
/// How far a step goes down the gradient. Each epoch has new points, so near the optimum not every one is better.
const LEARNING_RATE: f64 = 0.03;
const POINTS_IN_EPOCH: usize = 20;

/// y = w[0] * x[0] + w[1] * x[1] + w[2]
type Weights = [f64; 3];

struct Point {
    x: [f64; 2],
    y: f64,
}

fn predict(weights: &Weights, x: [f64; 2]) -> f64 {
    weights[0] * x[0] + weights[1] * x[1] + weights[2]
}

/// Points about the plane 3, -2, 1; the same for the same seed.
fn points(count: usize, mut seed: u32) -> Vec<Point> {
    // A linear congruential generator, which is random enough for this: numbers from -1 to 1.
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(seed >> 8) / f64::from(1 << 23) - 1.0
    };
    let mut point = || {
        let x = [random(), random()];
        Point { x, y: predict(&[3.0, -2.0, 1.0], x) + 0.3 * random() }
    };
    (0..count).map(|_| point()).collect()
}

/// One epoch: a step for each point.
fn fit(weights: &mut Weights, points: &[Point]) {
    for point in points {
        let step = LEARNING_RATE * (point.y - predict(weights, point.x));
        weights[0] += step * point.x[0];
        weights[1] += step * point.x[1];
        weights[2] += step;
    }
}

/// The mean squared error.
fn loss(weights: &Weights, points: &[Point]) -> f64 {
    let squares = points.iter().map(|point| (point.y - predict(weights, point.x)).powi(2));
    squares.sum::<f64>() / points.len() as f64
}

fn write(weights: &Weights, path: &Path) -> std::io::Result<()> {
    std::fs::write(path, weights.map(f64::to_le_bytes).concat())
}

fn read(path: &Path) -> Result<Weights, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let numbers = bytes.chunks_exact(8).map(|number| number.try_into().map(f64::from_le_bytes));
    let numbers: Vec<f64> = numbers.collect::<Result<_, _>>()?;
    Ok(numbers.try_into().map_err(|_| format!("`{}` holds no three weights", path.display()))?)
}

/// The weights to begin with, and the epoch: those of the newest version, and the one behind it.
async fn resume(client: &Client, run: &Run, folder: &Path) -> Result<(Weights, i64), Box<dyn Error>> {
    let Some(version) = run.resume_from() else { return Ok(([0.0; 3], 0)) };
    println!("going on behind epoch {}, {}", version.epoch, version.name);
    let pulled = pull(client, &version.name, folder, &PullOptions::default()).await?;
    Ok((read(&folder.join(&pulled.version.path))?, version.epoch + 1))
}

async fn train(address: &str, run: &str, folder: &Path, epochs: i64) -> Result<(), Box<dyn Error>> {
    let client = Client::connect_lazy(address)?;
    let request = v1::StartRunRequest {
        parent: PROJECT.to_owned(),
        run_id: run.to_owned(),
        strategy: Some(v1::Strategy {
            filepath: "weights.bin".to_owned(),
            monitor: "val_loss".to_owned(),
            save_best_only: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut run = Run::start(&client, request).await?;
    let (mut weights, first) = resume(&client, &run, &folder.join("resumed")).await?;
    let validation = points(200, 0);
    let file = folder.join("weights.bin");
    for epoch in first..epochs {
        let training =
            points(POINTS_IN_EPOCH, u32::try_from(epoch)?.wrapping_add(1).wrapping_mul(2_654_435_761));
        fit(&mut weights, &training);
        let (loss, val_loss) = (loss(&weights, &training), loss(&weights, &validation));
        let event = v1::Event {
            kind: v1::EventKind::EpochEnd.into(),
            epoch,
            metrics: [("loss".to_owned(), loss), ("val_loss".to_owned(), val_loss)].into(),
            ..Default::default()
        };
        for decision in run.report(vec![event]).await? {
            match decision.action() {
                v1::Action::Save => {
                    write(&weights, &file)?;
                    println!("epoch {epoch} saved as {}", run.save(&decision, &file).await?.name);
                }
                v1::Action::Fail => return Err(decision.reason_text.into()),
                _ => println!("epoch {epoch} not saved: {}", decision.reason_text),
            }
        }
    }
    run.finish(v1::RunState::Finished).await?;
    let ask = v1::GetBestVersionRequest { parent: run.name().to_owned(), ..Default::default() };
    let best = client.get_best_version(ask).await?;
    println!("best is epoch {}, {}: val_loss {:.6}", best.epoch, best.name, best.metrics["val_loss"]);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, run, folder, epochs] = arguments.as_slice() else {
        return Err("usage: train ADDRESS RUN FOLDER EPOCHS".into());
    };
    std::fs::create_dir_all(folder)?;
    train(address, run, Path::new(folder), epochs.parse()?).await
}
