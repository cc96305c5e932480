//! Every recorded trace of Keras' `ModelCheckpoint` through a real server: saves are uploaded and committed, the server is
//! restarted in the middle, and everything is said twice.

use futures::StreamExt;
use keepbest_proto::v1;

use crate::support::plays::Play;
use crate::support::requests::noise;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::traces::Dialect;
use crate::support::traces::Trace;
use crate::support::traces::load;
use crate::traces::DIFFERENCES;

/// Trainings at the same time.
const AT_ONCE: usize = 16;
/// How often the server is restarted; each training lives through one restart.
const RESTARTS: usize = 4;

/// The traces of which the rules make the same as Keras; the others are compared by the rules' own test.
fn agreed(dialect: Dialect) -> Vec<Trace> {
    let differs = |trace: &Trace| DIFFERENCES.iter().any(|it| it.0 == dialect && it.1 == trace.id);
    let traces: Vec<Trace> = load(dialect).into_iter().filter(|trace| !differs(trace)).collect();
    assert!(traces.len() >= 80, "only {} traces agree", traces.len());
    traces
}

/// Begins all trainings; each is a run of its own.
async fn begin(server: &TestServer, traces: &[Trace], repeats: bool) -> Vec<Play> {
    let mut plays = Vec::new();
    for trace in traces {
        plays.push(Play::begin(server.channel(), trace, repeats).await);
    }
    plays
}

/// Lets trainings go on at once, each up to its step, and answers what was not as in the traces.
async fn go_on(server: &TestServer, plays: Vec<(&mut Play, usize)>) -> Vec<String> {
    let channel = server.channel();
    let playing = plays.into_iter().map(|(play, until)| {
        let channel = channel.clone();
        async move { play.go_on(channel, until).await }
    });
    futures::stream::iter(playing).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.concat()
}

async fn with_restarts(dialect: Dialect) -> Vec<String> {
    let mut server = server::start().await;
    let traces = agreed(dialect);
    let mut plays = begin(&server, &traces, false).await;
    // Each is interrupted between two of its events, in one of the restarts; a seed chose which.
    let dice = noise(1, 2 * traces.len());
    let cuts: Vec<(usize, usize)> = traces
        .iter()
        .zip(dice.chunks(2))
        .map(|(trace, dice)| {
            (usize::from(dice[0]) % RESTARTS, usize::from(dice[1]) % trace.steps.len().max(1))
        })
        .collect();
    let mut complaints = Vec::new();
    for restart in 0..=RESTARTS {
        let due = plays.iter_mut().zip(&cuts).filter_map(|(play, (of, step))| {
            if *of == restart {
                Some((play, *step))
            } else if *of + 1 == restart {
                Some((play, usize::MAX))
            } else {
                None
            }
        });
        complaints.extend(go_on(&server, due.collect()).await);
        if restart < RESTARTS {
            server.restart().await;
        }
    }
    assert!(plays.iter().all(Play::is_over));
    assert!(plays.iter().map(|it| it.saves).sum::<usize>() > 100, "too little was saved to prove anything");
    complaints
}

async fn said_twice(dialect: Dialect) -> Vec<String> {
    let server = server::start().await;
    let traces = agreed(dialect);
    let mut plays = begin(&server, &traces, true).await;
    let all = plays.iter_mut().map(|play| (play, usize::MAX));
    let complaints = go_on(&server, all.collect()).await;
    for (play, trace) in plays.iter().zip(&traces) {
        let run = v1::GetRunRequest { name: play.run.clone() };
        let run = server.runs().get_run(run).await.unwrap().into_inner();
        assert_eq!(usize::try_from(run.event_count).unwrap(), trace.steps.len(), "{}", trace.id);
    }
    complaints
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agreed_keras_3_trace_survives_a_restart() {
    let complaints = with_restarts(Dialect::Keras3).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agreed_tf_keras_2_trace_survives_a_restart() {
    let complaints = with_restarts(Dialect::TfKeras2).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agreed_keras_3_trace_may_be_said_twice() {
    let complaints = said_twice(Dialect::Keras3).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_agreed_tf_keras_2_trace_may_be_said_twice() {
    let complaints = said_twice(Dialect::TfKeras2).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[tokio::test]
async fn what_is_listed_as_refused_at_the_start_is_refused_over_the_wire() {
    let server = server::start().await;
    let mut refused = 0;
    for dialect in [Dialect::Keras3, Dialect::TfKeras2] {
        for trace in load(dialect) {
            let listed = DIFFERENCES.iter().find(|it| it.0 == dialect && it.1 == trace.id);
            let Some(what) = listed.map(|it| it.2).filter(|it| it[0].starts_with("refused")) else {
                continue;
            };
            let status = Play::start(server.channel(), &trace).await.unwrap_err();
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (tonic::Code::InvalidArgument, "BAD_STRATEGY")
            );
            if what == ["refused at the start, same text"] {
                let raised = trace.steps.iter().find_map(|step| step.expected.error.as_ref()).unwrap();
                assert_eq!(status.message(), raised.text, "{}", trace.id);
            }
            refused += 1;
        }
    }
    let listed = DIFFERENCES.iter().filter(|it| it.2[0].starts_with("refused")).count();
    assert_eq!(refused, listed);
}
