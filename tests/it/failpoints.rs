//! At every step of an event, a chunk and a commit the server dies, fails, or its caller goes away. Whoever repeats the call
//! gets the one right answer, and nothing is lost, doubled, half or left behind.

mod audit;
mod lane;
mod tally;
mod trainer;

use std::collections::HashMap;

use keepbest::failpoint::ACTIONS;
use keepbest::failpoint::POINTS;
use keepbest::failpoint::Step;

use crate::support::databases;
use crate::support::databases::TestDatabase;
use crate::support::random::Random;
use crate::support::soak::Rounds;

use lane::Supervisor;
use tally::Tally;
use trainer::Trainer;

/// Repeats the steps of an earlier run, in their order.
const SEED: &str = "KEEPBEST_FAILPOINTS_SEED";
/// How often each action happens at each point.
const ROUNDS: Rounds = Rounds { usual: 8, soak: 200 };
/// Servers that share the steps between them, each with a database of its own.
const LANES: usize = 2;
/// Trainers of a server: their writes share commits on SQLite, and wait for each other's.
const TRAINERS: usize = 2;
/// Steps that stand in the order of a save: each meets it at another place, and a save meets some of them.
const GROUP: usize = 8;
/// The writer commits this often while two trainers save: its points are met in each kind of write.
const COMMITS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_may_die_fail_or_be_cancelled_on_sqlite() {
    let lanes = [databases::sqlite().await, databases::sqlite().await];
    let seed = Random::seed(SEED);
    println!("failpoints with {SEED}={seed}");
    println!("{}", every_step(lanes, seed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_may_die_fail_or_be_cancelled_on_postgres() {
    let lanes = [databases::postgres().await, databases::postgres().await];
    let seed = Random::seed(SEED);
    println!("failpoints with {SEED}={seed}");
    println!("{}", every_step(lanes, seed).await);
}

/// Goes through all steps and tells what it came to.
async fn every_step(databases: [TestDatabase; LANES], seed: u64) -> String {
    let mut random = Random::new(seed);
    let steps = steps(ROUNDS.now(), &mut random);
    let lanes = databases.iter().zip(steps.chunks(steps.len().div_ceil(LANES)));
    let lanes = lanes.map(|(database, script)| {
        run(database, script.to_vec(), [random.next(), random.next()].map(Random::new))
    });
    let mut fired = HashMap::new();
    let mut tally = Tally::default();
    let mut told = String::new();
    for (steps, lane, left) in futures::future::join_all(lanes).await {
        told += &left;
        for step in steps {
            *fired.entry((step.point, step.action)).or_insert(0) += 1;
        }
        tally += lane;
    }
    for point in POINTS {
        for action in ACTIONS {
            assert_eq!(fired.get(&(point, action)), Some(&ROUNDS.now()), "{point}={action}");
        }
    }
    assert!(tally.unavailable > 0 && tally.broken > 0 && tally.cancelled > 0);
    format!("{told}{tally:?}")
}

/// Each action at each point so many times, mixed.
fn steps(rounds: usize, random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for _ in 0..rounds {
        for point in POINTS {
            for action in ACTIONS {
                let reach = if point.starts_with("writer.") { 1 + random.below(COMMITS) } else { 1 };
                steps.push(Step { point, action, reach: reach as u32 });
            }
        }
    }
    for at in (1..steps.len()).rev() {
        steps.swap(at, random.below(at + 1));
    }
    for group in steps.chunks_mut(GROUP) {
        group.sort_by_key(|step| POINTS.iter().position(|point| *point == step.point));
    }
    steps
}

/// Goes through a script, audits what it left, and answers the steps that happened.
async fn run(
    database: &TestDatabase,
    script: Vec<Step>,
    randoms: [Random; TRAINERS],
) -> (Vec<Step>, Tally, String) {
    let folder = tempfile::tempdir().unwrap();
    // A server that shares its database does not change the schema unasked.
    database.open().await.close().await;
    let (supervisor, lane) = Supervisor::start(folder.path(), &audit::url(database), script);
    let mut training = tokio::task::JoinSet::new();
    for (number, random) in randoms.into_iter().enumerate() {
        let lane = lane.clone();
        training
            .spawn(async move { Trainer::start(lane, &format!("run-{number}"), random).await.train().await });
    }
    // A trainer that finds something wrong ends the test, also while its server goes on.
    let following = tokio::spawn(supervisor.follow());
    let mut trainers = Vec::new();
    while let Some(trainer) = training.join_next().await {
        trainers.push(trainer.unwrap());
    }
    let server = following.await.unwrap();
    let mut tally = Tally::default();
    audit::no_session_waits(database).await;
    for trainer in &mut trainers {
        audit::answers(trainer).await;
        tally += trainer.tally;
    }
    drop(server);
    let left = audit::nothing_is_left(database, &folder.path().join("objects")).await;
    let fired = lane.progress.borrow().fired;
    (lane.script[..fired].to_vec(), tally, left)
}
