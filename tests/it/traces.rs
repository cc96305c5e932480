//! Every recorded trace of Keras' `ModelCheckpoint`, in both dialects, through the rules: whatever
//! is not in the table of deliberate differences must be equal, word for word.

use std::collections::BTreeSet;

use keepbest::domain::decision::{Action, Decision, decide};
use keepbest::domain::metric::Direction;
use keepbest::domain::monitor::MonitorState;
use keepbest::domain::strategy::Strategy;
use keepbest::domain::template::Template;

use crate::support::traces::{Dialect, Exception, Outcome, Step, Trace, load};

const KERAS3: Dialect = Dialect::Keras3;
const TF_KERAS2: Dialect = Dialect::TfKeras2;

/// A trace whose outcome is not ours, the fields in which it is not, and why.
pub(crate) struct Difference(
    pub(crate) Dialect,
    pub(crate) &'static str,
    pub(crate) &'static [&'static str],
    pub(crate) &'static str,
);

const EXTENSION: &str = "the client checks the extension, for it knows what its framework can write";
const FREQUENCY: &str = "the client checks the type of save_freq: a strategy cannot even say this one";
const MODE: &str = "the client warns of an unknown mode and sends auto";
const DIRECTION: &str = "an unknown direction is refused at the start, not at the end of the first epoch";
const TEMPLATE: &str = "a template that can never be rendered is refused at the start";
const NO_COMPARISON: &str =
    "Keras cannot compare before its first epoch ends and raises a TypeError; the rules can";
const NO_EPOCH: &str = "Keras needs the begin of an epoch first; an event carries its epoch";
const TEXT_VALUE: &str = "Keras computes with a text and raises a TypeError; a text is no scalar";

const NOT_AT_ALL: &[&str] = &["attempt", "best", "error", "kind", "messages", "path", "saved"];
const AT_START: &[&str] = &["refused at the start"];
const AT_START_AS_KERAS: &[&str] = &["refused at the start, same text"];

/// Everything in which we differ on purpose, as far as the traces show it.
pub(crate) const DIFFERENCES: &[Difference] = &[
    // The arguments that the constructor checks: the client's.
    Difference(KERAS3, "s00004", &["init"], MODE),
    Difference(TF_KERAS2, "s00004", &["init"], MODE),
    Difference(KERAS3, "s00018", &["init"], FREQUENCY),
    Difference(TF_KERAS2, "s00018", &["init"], FREQUENCY),
    Difference(KERAS3, "s00064", &["init"], EXTENSION),
    Difference(KERAS3, "s00073", &["init"], EXTENSION),
    Difference(KERAS3, "s00090", &["init"], EXTENSION),
    // What is refused at the start and not later.
    Difference(KERAS3, "s00013", AT_START_AS_KERAS, DIRECTION),
    Difference(KERAS3, "s00031", AT_START_AS_KERAS, DIRECTION),
    Difference(KERAS3, "s00036", AT_START_AS_KERAS, DIRECTION),
    Difference(KERAS3, "s00057", AT_START_AS_KERAS, DIRECTION),
    Difference(KERAS3, "s00058", AT_START_AS_KERAS, DIRECTION),
    Difference(KERAS3, "s00052", AT_START, TEMPLATE),
    Difference(TF_KERAS2, "s00052", AT_START, TEMPLATE),
    Difference(KERAS3, "s00088", AT_START, TEMPLATE),
    Difference(TF_KERAS2, "s00088", AT_START, TEMPLATE),
    // What Keras breaks at.
    Difference(KERAS3, "s00056", &["error", "messages"], NO_COMPARISON),
    Difference(KERAS3, "s00029", NOT_AT_ALL, NO_EPOCH),
    Difference(TF_KERAS2, "s00029", NOT_AT_ALL, NO_EPOCH),
    Difference(KERAS3, "s00077", &["error", "kind", "messages", "saved", "warnings"], TEXT_VALUE),
    Difference(TF_KERAS2, "s00077", &["error"], TEXT_VALUE),
];

/// Carries the traces' events through the rules, with a commit after every save that succeeds.
struct Simulation<'a> {
    strategy: &'a Strategy,
    template: Template,
    direction: Direction,
    state: MonitorState,
    saves: usize,
}

impl Simulation<'_> {
    fn step(&mut self, step: &Step) -> Outcome {
        step.event.validate().expect("recorded events are within the limits");
        let (state, decision) =
            decide(self.strategy, &self.template, self.direction, &self.state, &step.event);
        self.state = state;
        let mut outcome = decision.map_or_else(Outcome::default, |d| self.carry_out(step, &d));
        outcome.best = self.state.best;
        outcome.seen = self.state.batches_since_save;
        outcome
    }

    fn carry_out(&mut self, step: &Step, decision: &Decision) -> Outcome {
        let mut messages = vec![decision.message.clone()];
        let mut error = decision
            .error_type
            .clone()
            .map(|type_name| Exception { type_name, text: decision.error_text.clone().unwrap_or_default() });
        let mut saved = false;
        if decision.action == Action::Save {
            self.saves += 1;
            let checkpoint = format!("c{}", self.saves);
            self.state.save_started(&checkpoint, decision.improved_value());
            if step.save_raises.is_some() {
                error.clone_from(&step.save_raises);
                self.state.abandoned(&checkpoint);
            } else {
                saved = true;
                self.state.committed(&checkpoint, self.direction);
                messages.push(decision.finished_message.clone());
            }
        }
        messages.retain(|message| !message.is_empty());
        let kind = if decision.weights_only { "weights" } else { "model" };
        let latest = std::iter::once("latest".to_owned());
        Outcome {
            attempt: true,
            path: decision.path.clone(),
            saved,
            kind: saved.then(|| kind.to_owned()),
            messages,
            warnings: decision.warnings.clone(),
            error,
            aliases: Some(latest.chain(decision.aliases.iter().cloned()).collect()),
            ..Outcome::default()
        }
    }
}

/// The names of everything in which we differ from the trace, and the first difference in full.
fn compare(trace: &Trace, strategy: Option<&Strategy>) -> (BTreeSet<&'static str>, String) {
    let mut differing = BTreeSet::new();
    let Some(strategy) = strategy else {
        return (BTreeSet::from(["init"]), format!("{:?}", trace.init_error));
    };
    let validated = match strategy.validate(&trace.directions) {
        Ok(validated) => validated,
        Err(error) => {
            let raised = trace.steps.iter().find_map(|step| step.expected.error.clone());
            let same = raised.is_some_and(|raised| raised.text == error.to_string());
            let what = if same { "refused at the start, same text" } else { "refused at the start" };
            return (BTreeSet::from([what]), error.to_string());
        }
    };
    if trace.init_error.is_some() || !trace.init_warnings.is_empty() {
        differing.insert("init");
    }
    let state = MonitorState::start(strategy, validated.direction);
    if state.best != trace.init_best {
        differing.insert("best");
    }
    let mut simulation = Simulation {
        strategy,
        template: validated.template,
        direction: validated.direction,
        state,
        saves: 0,
    };
    let mut first = String::new();
    for step in &trace.steps {
        let ours = simulation.step(step);
        let fields = step.expected.differences(&ours);
        if !fields.is_empty() && first.is_empty() {
            first = format!("{:#?}\nKeras: {:#?}\nours: {ours:#?}", step.event, step.expected);
        }
        differing.extend(fields);
    }
    (differing, first)
}

fn check(dialect: Dialect) -> Vec<String> {
    let mut complaints = Vec::new();
    let traces = load(dialect);
    assert_eq!(traces.len(), 100);
    for trace in &traces {
        let listed = DIFFERENCES.iter().find(|d| d.0 == dialect && d.1 == trace.id);
        let expected: BTreeSet<&str> = listed.iter().flat_map(|d| d.2.iter().copied()).collect();
        let (found, first) = compare(trace, trace.strategy.as_ref());
        if found != expected {
            let why = listed.map_or("", |d| d.3);
            complaints.push(format!(
                "{} ({}, {dialect:?}) differs in {found:?}, listed are {expected:?} {why}\n{first}",
                trace.id, trace.tier
            ));
        }
    }
    complaints
}

#[test]
fn every_keras_3_trace_is_ours_or_a_listed_difference() {
    let complaints = check(KERAS3);
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[test]
fn every_tf_keras_2_trace_is_ours_or_a_listed_difference() {
    let complaints = check(TF_KERAS2);
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

#[test]
fn each_listed_difference_names_a_trace_and_a_reason() {
    for Difference(dialect, id, fields, reason) in DIFFERENCES {
        let listed = DIFFERENCES.iter().filter(|d| d.0 == *dialect && d.1 == *id).count();
        assert_eq!(listed, 1, "{id} is listed more than once");
        assert!(load(*dialect).iter().any(|trace| trace.id == *id), "{id} is no trace");
        assert!(!fields.is_empty() && !reason.is_empty(), "{id} says nothing");
    }
}

#[test]
fn letting_best_follow_every_save_changes_no_save() {
    for dialect in [KERAS3, TF_KERAS2] {
        for trace in load(dialect) {
            let follows = |strategy| Strategy { best_follows_every_save: true, ..strategy };
            let strategy = trace.strategy.clone().map(follows);
            let (usual, _) = compare(&trace, trace.strategy.as_ref());
            let (following, first) = compare(&trace, strategy.as_ref());
            let best_only = strategy.is_some_and(|strategy| strategy.save_best_only);
            let more: Vec<_> = following.difference(&usual).collect();
            assert!(more.is_empty() || (!best_only && more == [&"best"]), "{}: {first}", trace.id);
        }
    }
}
