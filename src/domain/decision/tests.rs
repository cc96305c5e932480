//! The rules of a decision as tables and properties. That they equal Keras' is tested against its
//! recorded traces.

use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::domain::metric::{DirectionInference, MetricValue, Metrics};
use crate::domain::strategy::{InitialBest, Validated, WhenKeyMissing, WhenUnusable};

const NAN: f64 = f64::NAN;
const INF: f64 = f64::INFINITY;

fn best_only() -> Strategy {
    Strategy { filepath: "m-{epoch}.h5".to_owned(), verbose: 1, save_best_only: true, ..Strategy::default() }
}

fn by_batches(every: i64) -> Strategy {
    Strategy {
        filepath: "m.h5".to_owned(),
        save_frequency: SaveFrequency::Batches(every),
        ..Strategy::default()
    }
}

fn epoch_end(epoch: i64, val_loss: MetricValue) -> Event {
    Event {
        kind: EventKind::EpochEnd,
        epoch,
        batch: None,
        step: None,
        wall_time_us: None,
        metrics: Metrics::from([("val_loss".to_owned(), val_loss)]),
    }
}

fn batch_end(epoch: i64, batch: i64) -> Event {
    let kind = EventKind::BatchEnd;
    Event { kind, batch: Some(batch), ..epoch_end(epoch, MetricValue::Number(1.0)) }
}

/// A run whose saves are committed at once, unless told otherwise.
struct Run {
    strategy: Strategy,
    checked: Validated,
    state: MonitorState,
    saves: usize,
}

impl Run {
    fn start(strategy: Strategy) -> Self {
        let checked = strategy.validate(&Default::default()).unwrap();
        let state = MonitorState::start(&strategy, checked.direction);
        Self { strategy, checked, state, saves: 0 }
    }

    fn decide(&mut self, event: &Event) -> Option<Decision> {
        let Validated { template, direction } = &self.checked;
        let (state, decision) = decide(&self.strategy, template, *direction, &self.state, event);
        self.state = state;
        decision
    }

    fn report(&mut self, event: &Event) -> Option<Decision> {
        let decision = self.decide(event)?;
        if decision.action == Action::Save {
            self.saves += 1;
            let checkpoint = self.saves.to_string();
            self.state.save_started(&checkpoint, decision.improved_value());
            self.state.committed(&checkpoint, self.checked.direction);
        }
        Some(decision)
    }

    fn epoch(&mut self, epoch: i64, value: f64) -> Decision {
        self.report(&epoch_end(epoch, MetricValue::Number(value))).unwrap()
    }
}

#[test]
fn only_improvements_are_saved_and_nan_never_becomes_best() {
    let table = [
        (NAN, Action::Skip, Reason::MonitorNan, None),
        (INF, Action::Save, Reason::Improved, Some(INF)),
        (0.5, Action::Save, Reason::Improved, Some(0.5)),
        (0.5, Action::Skip, Reason::NotImproved, Some(0.5)),
        (NAN, Action::Skip, Reason::MonitorNan, Some(0.5)),
        (0.75, Action::Skip, Reason::NotImproved, Some(0.5)),
        (0.25, Action::Save, Reason::Improved, Some(0.25)),
        (-INF, Action::Save, Reason::Improved, Some(-INF)),
        (-INF, Action::Skip, Reason::NotImproved, Some(-INF)),
    ];
    let mut run = Run::start(best_only());
    for (epoch, (value, action, reason, best)) in table.into_iter().enumerate() {
        let decision = run.epoch(i64::try_from(epoch).unwrap(), value);
        assert_eq!((decision.action, decision.reason), (action, reason), "{value} at {epoch}");
        assert_eq!(run.state.best, best, "after {value} at {epoch}");
    }
}

#[test]
fn a_worst_start_value_makes_an_infinite_first_value_no_improvement() {
    let mut run = Run::start(Strategy { initial_best: InitialBest::Worst, ..best_only() });
    assert_eq!(run.epoch(0, INF).message, "\nEpoch 1: val_loss did not improve from inf");
    let message = run.epoch(1, 0.015625).message;
    assert_eq!(message, "\nEpoch 2: val_loss improved from inf to 0.01562, saving model to m-2.h5");
}

#[test]
fn the_lines_are_those_of_keras_and_show_the_local_path() {
    let local_directory = "/home/ada".to_owned();
    let mut run = Run::start(Strategy { local_directory, ..best_only() });
    let decision = run.epoch(0, 0.5);
    assert_eq!(
        decision.message,
        "\nEpoch 1: val_loss improved from None to 0.50000, saving model to /home/ada/m-1.h5"
    );
    assert_eq!(decision.finished_message, "\nEpoch 1: finished saving model to /home/ada/m-1.h5");
    assert_eq!(decision.path.as_deref(), Some("m-1.h5"));
    assert_eq!(decision.aliases, ["epoch_0"]);
    assert_eq!(
        decision.reason_text,
        "`val_loss` improved: it is 0.5 and there is no best yet (lower is better)."
    );
    for typed in ["./a//b/", "models\\", "e:"] {
        let mut run = Run::start(Strategy { local_directory: typed.to_owned(), ..best_only() });
        let line = format!("\nEpoch 1: finished saving model to {typed}m-1.h5");
        assert_eq!(run.epoch(0, 0.5).finished_message, line);
    }
    let decision = run.epoch(1, 0.5);
    assert_eq!(decision.message, "\nEpoch 2: val_loss did not improve from 0.50000");
    assert_eq!((decision.finished_message.as_str(), decision.path.as_deref()), ("", Some("m-2.h5")));
    assert_eq!(
        decision.reason_text,
        "`val_loss` did not improve: it is 0.5 and the value to beat is 0.5 (lower is better)."
    );
    let mut silent = Run::start(Strategy { verbose: 0, ..best_only() });
    let decision = silent.epoch(0, 0.5);
    assert_eq!((decision.message, decision.finished_message), (String::new(), String::new()));
}

#[test]
fn a_decision_in_flight_is_the_value_to_beat_until_it_is_abandoned() {
    let mut run = Run::start(best_only());
    run.epoch(0, 0.5);
    let decision = run.decide(&epoch_end(1, MetricValue::Number(0.25))).unwrap();
    run.state.save_started("slow", decision.improved_value());
    let later = run.epoch(2, 0.375);
    assert_eq!((later.action, later.best_before), (Action::Skip, Some(0.25)));
    run.state.abandoned("slow");
    let later = run.epoch(3, 0.375);
    assert_eq!((later.action, later.best_before), (Action::Save, Some(0.5)));
    assert_eq!(run.state.best, Some(0.375));
}

#[test]
fn an_unusable_monitor_is_skipped_saved_or_fails_as_the_strategy_says() {
    use WhenUnusable::{Fail, Save, Skip};
    let missing = MetricValue::Missing;
    let array = MetricValue::NotScalar("[1. 2.]".to_owned());
    let table = [
        (&missing, Skip, Action::Skip, "Can save best model only with val_loss available, skipping."),
        (&missing, Save, Action::Save, "Can save best model only with val_loss available."),
        (&missing, Fail, Action::Fail, "Can save best model only with val_loss available."),
        (
            &array,
            Skip,
            Action::Skip,
            "Can save best model only when `monitor` is a scalar value. Received: [1. 2.]. Skipping.",
        ),
        (
            &array,
            Save,
            Action::Save,
            "Can save best model only when `monitor` is a scalar value. Received: [1. 2.]. \
             Falling back to `save_best_only=False`.",
        ),
        (
            &array,
            Fail,
            Action::Fail,
            "Can save best model only when `monitor` is a scalar value. Received: [1. 2.].",
        ),
    ];
    for (value, when, action, text) in table {
        let mut run =
            Run::start(Strategy { when_monitor_missing: when, when_monitor_not_scalar: when, ..best_only() });
        let decision = run.report(&epoch_end(0, value.clone())).unwrap();
        assert_eq!(decision.action, action);
        assert_eq!(decision.error_type.is_some(), action == Action::Fail);
        let said = decision.error_text.iter().chain(&decision.warnings);
        assert_eq!(said.collect::<Vec<_>>(), [text]);
        assert_eq!((decision.message.as_str(), decision.improvement), ("", false));
        assert_eq!(run.state.best, None);
    }
}

#[test]
fn saving_everything_moves_best_only_where_the_strategy_lets_it() {
    for follows in [true, false] {
        let strategy = Strategy {
            save_best_only: false,
            best_follows_every_save: follows,
            direction_inference: DirectionInference::Name,
            ..best_only()
        };
        let mut run = Run::start(strategy);
        for (epoch, value) in [(0, 0.5), (1, NAN), (2, 0.75)] {
            let decision = run.epoch(epoch, value);
            assert_eq!((decision.action, decision.reason), (Action::Save, Reason::EveryEpoch));
        }
        assert_eq!(run.state.best, follows.then_some(0.5));
    }
}

#[test]
fn batches_count_across_epochs_groups_and_gaps() {
    let table = [
        (3, vec![(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)], vec![2, 5]),
        (3, vec![(0, 2), (0, 5), (0, 6), (1, 2)], vec![0, 1, 3]),
        (1, vec![(0, 0), (0, 1)], vec![0, 1]),
        (0, vec![(0, 0), (0, 1)], vec![0, 1]),
        (-5, vec![(0, 0), (0, 1)], vec![0, 1]),
        (4, vec![(0, 0), (0, 0), (0, 0), (0, 0)], vec![3]),
        (10, vec![(0, 24), (0, 25)], vec![0]),
        (i64::MAX, vec![(0, i64::MAX), (0, 0)], vec![0]),
    ];
    for (every, batches, due) in table {
        let mut run = Run::start(by_batches(every));
        let decided = batches.iter().map(|(epoch, batch)| run.report(&batch_end(*epoch, *batch)));
        let found: Vec<usize> = decided.enumerate().filter_map(|(n, d)| d.map(|_| n)).collect();
        assert_eq!(found, due, "every {every} of {batches:?}");
    }
    let mut run = Run::start(by_batches(1));
    assert_eq!(run.report(&batch_end(3, 7)).unwrap().aliases, ["epoch_3_batch_7"]);
    assert_eq!(run.report(&epoch_end(3, MetricValue::Missing)), None);
    let train_end = Event { kind: EventKind::TrainEnd, ..batch_end(3, 8) };
    assert_eq!(run.report(&train_end), None);
}

#[test]
fn next_due_says_how_many_batches_are_free() {
    let mut run = Run::start(by_batches(3));
    let mut told = Vec::new();
    for batch in 0..4 {
        told.push(next_due(&run.strategy, &run.state));
        run.report(&batch_end(0, batch));
    }
    let expected = [3, 2, 1, 3].map(NextDue::Batches);
    assert_eq!(told, expected);
    assert_eq!(next_due(&by_batches(0), &run.state), NextDue::EveryBatch);
    assert_eq!(next_due(&best_only(), &run.state), NextDue::EpochEnd);
}

#[test]
fn a_missing_key_warns_or_fails_after_the_counter_was_reset() {
    let filepath = "m-{val_acc}.h5".to_owned();
    let mut lenient = Run::start(Strategy { filepath: filepath.clone(), ..by_batches(1) });
    let decision = lenient.report(&batch_end(0, 0)).unwrap();
    assert_eq!((decision.action, decision.path.as_deref()), (Action::Save, Some("m-none.h5")));
    assert_eq!(decision.warnings, ["`val_acc` is not in the event: printed as `none` in the path"]);

    let when_template_key_missing = WhenKeyMissing::Fail;
    let mut strict = Run::start(Strategy { filepath, when_template_key_missing, ..by_batches(2) });
    assert_eq!(strict.report(&batch_end(0, 0)), None);
    let decision = strict.report(&batch_end(0, 1)).unwrap();
    assert_eq!((decision.action, decision.reason), (Action::Fail, Reason::TemplateKeyMissing));
    assert_eq!(decision.error_type.as_deref(), Some("KeyError"));
    assert_eq!(
        decision.error_text.as_deref(),
        Some("Failed to format this callback filepath: \"m-{val_acc}.h5\". Reason: 'val_acc'")
    );
    assert_eq!((decision.path, strict.state.batches_since_save), (None, 0));
}

#[test]
fn a_value_that_cannot_be_printed_never_loses_a_checkpoint_unless_asked() {
    let filepath = "a/m-{val_loss:d}.weights.h5".to_owned();
    let mut lenient = Run::start(Strategy { filepath: filepath.clone(), ..best_only() });
    let decision = lenient.epoch(4, 0.5);
    assert_eq!(decision.action, Action::Save);
    assert_eq!(decision.path.as_deref(), Some("checkpoint-5.weights.h5"));
    assert_eq!(decision.warnings.len(), 1);
    let when_template_key_missing = WhenKeyMissing::Fail;
    let mut strict = Run::start(Strategy { filepath, when_template_key_missing, ..best_only() });
    let decision = strict.epoch(4, 0.5);
    assert_eq!((decision.action, decision.reason), (Action::Fail, Reason::TemplateError));
    assert_eq!(decision.error_type.as_deref(), Some("ValueError"));
}

#[test]
fn a_decision_survives_storage() {
    let mut run = Run::start(Strategy { initial_best: InitialBest::Worst, ..best_only() });
    let decision = run.epoch(0, -INF);
    let stored = serde_json::to_string(&decision).unwrap();
    assert_eq!(serde_json::from_str::<Decision>(&stored).unwrap(), decision);
    let code = serde_json::to_string(&decision.reason).unwrap();
    assert_eq!(code, format!("\"{}\"", decision.reason.code()));
}

proptest! {
    #[test]
    fn replaying_events_gives_the_same_decisions_and_best_is_monotone(
        batches in proptest::collection::vec((0i64..4, 0i64..9, proptest::num::f64::ANY), 0..60),
        every in -1i64..6,
        follows in proptest::bool::ANY,
        min_delta in 0.0..1.0f64,
    ) {
        let strategy = Strategy {
            save_best_only: !follows,
            best_follows_every_save: follows,
            min_delta,
            ..by_batches(every)
        };
        let (mut once, mut again) = (Run::start(strategy.clone()), Run::start(strategy));
        for (epoch, batch, value) in batches {
            let metrics = Metrics::from([("val_loss".to_owned(), MetricValue::Number(value))]);
            let event = Event { metrics, ..batch_end(epoch, batch) };
            let before = once.state.best;
            let decision = once.report(&event);
            prop_assert_eq!(&decision, &again.report(&event));
            prop_assert_eq!(&once.state, &again.state);
            prop_assert!(!once.state.best.is_some_and(f64::is_nan));
            prop_assert!(before.is_none() || once.state.best <= before);
            let improved = decision.and_then(|decision| decision.improved_value());
            prop_assert_eq!(improved.or(before), once.state.best);
        }
    }
}
