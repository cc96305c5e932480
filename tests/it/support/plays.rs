//! A recorded trace as a training that talks to a server: it reports, uploads, commits or gives up, and compares.

use keepbest::domain::event::Event;
use keepbest::domain::event::EventKind;
use keepbest::domain::metric::Direction;
use keepbest::domain::metric::DirectionInference;
use keepbest::domain::metric::MetricValue;
use keepbest::domain::metric::Mode;
use keepbest::domain::strategy::InitialBest;
use keepbest::domain::strategy::SaveFrequency;
use keepbest::domain::strategy::Strategy;
use keepbest::domain::strategy::WhenKeyMissing;
use keepbest::domain::strategy::WhenUnusable;
use keepbest_proto::v1;
use keepbest_proto::v1::checkpoints_client::CheckpointsClient;
use keepbest_proto::v1::metric_value::Kind;
use keepbest_proto::v1::runs_client::RunsClient;
use keepbest_proto::v1::strategy::SaveFrequency as WireFrequency;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::requests::Trainer;
use crate::support::requests::start_request;
use crate::support::traces::Exception;
use crate::support::traces::Outcome;
use crate::support::traces::Step;
use crate::support::traces::Trace;
use crate::support::transfers::write_small;

/// A trace under way.
pub(crate) struct Play {
    trace: Trace,
    pub(crate) run: String,
    attempt: i64,
    next: usize,
    /// How many saves were committed.
    pub(crate) saves: usize,
    /// Whether each call is made twice.
    repeats: bool,
    wrong_start: Option<String>,
}

impl Play {
    /// Starts the trace's run.
    pub(crate) async fn start(channel: Channel, trace: &Trace) -> Result<v1::StartRunResponse, Status> {
        let strategy = trace.strategy.as_ref().expect("only an agreed trace is played");
        let mut request = start_request(&trace.id, wire_strategy(strategy));
        request.metric_directions =
            trace.directions.iter().map(|(name, it)| (name.clone(), wire_direction(*it))).collect();
        Ok(RunsClient::new(channel).start_run(request).await?.into_inner())
    }

    /// The same, and compares the value to begin with.
    pub(crate) async fn begin(channel: Channel, trace: &Trace, repeats: bool) -> Play {
        let started = Self::start(channel, trace).await.unwrap();
        let run = started.run.unwrap();
        let best = run.monitor_state.unwrap().best;
        let wrong_start = (best != trace.init_best).then(|| format!("{}: begins at {best:?}", trace.id));
        let (run, attempt) = (run.name, started.attempt);
        Play { trace: trace.clone(), run, attempt, next: 0, saves: 0, repeats, wrong_start }
    }

    /// Plays on until before the step; answers what was not as recorded.
    pub(crate) async fn go_on(&mut self, channel: Channel, until: usize) -> Vec<String> {
        let mut complaints: Vec<String> = self.wrong_start.take().into_iter().collect();
        while self.next < self.trace.steps.len().min(until) {
            let step = self.trace.steps[self.next].clone();
            let ours = self.step(&channel, &step).await;
            let fields = step.expected.differences(&ours);
            if !fields.is_empty() {
                let (id, event, keras) = (&self.trace.id, &step.event, &step.expected);
                complaints
                    .push(format!("{id} differs in {fields:?}\n{event:?}\nKeras: {keras:?}\nours: {ours:?}"));
            }
            self.next += 1;
        }
        complaints
    }

    /// Whether all steps were played.
    pub(crate) fn is_over(&self) -> bool {
        self.next == self.trace.steps.len()
    }

    async fn step(&mut self, channel: &Channel, step: &Step) -> Outcome {
        let mut runs = RunsClient::new(channel.clone());
        let request = v1::ReportEventsRequest {
            run: self.run.clone(),
            attempt: self.attempt,
            writer: String::new(),
            first_sequence: i64::try_from(self.next).unwrap(),
            events: vec![wire_event(&step.event)],
        };
        let mut answer = runs.report_events(request.clone()).await.unwrap().into_inner();
        if self.repeats {
            let again = runs.report_events(request).await.unwrap().into_inner();
            assert_eq!(again.duplicate_count, 1);
            let told = v1::ReportEventsResponse { duplicate_count: 0, ..again };
            assert_eq!(told.encode_to_vec(), answer.encode_to_vec(), "{}", self.trace.id);
        }
        let mut outcome = match answer.decisions.pop() {
            Some(decision) => self.carry_out(channel, step, decision).await,
            None => Outcome::default(),
        };
        let run = v1::GetRunRequest { name: self.run.clone() };
        let state = runs.get_run(run).await.unwrap().into_inner().monitor_state.unwrap();
        outcome.seen = state.batches_since_save;
        // Keras leaves its `best` alone when all is saved; ours follows, and no save depends on it.
        let compares = self.trace.strategy.as_ref().is_some_and(|it| it.save_best_only);
        outcome.best = if compares { state.best } else { step.expected.best };
        outcome
    }

    /// Saves what is to be saved, or fails as the trace does.
    async fn carry_out(&mut self, channel: &Channel, step: &Step, decision: v1::Decision) -> Outcome {
        let fails = decision.action() == v1::Action::Fail;
        let raised =
            || Exception { type_name: decision.error_type.clone(), text: decision.reason_text.clone() };
        let mut outcome = Outcome {
            attempt: true,
            path: Some(decision.path.clone()).filter(|it| !it.is_empty()),
            messages: vec![decision.message.clone()],
            warnings: decision.warnings.clone(),
            error: fails.then(raised),
            aliases: step.expected.aliases.clone(),
            ..Outcome::default()
        };
        if decision.action() == v1::Action::Save {
            match &step.save_raises {
                Some(raised) => {
                    self.abandon(channel, &decision.checkpoint).await;
                    outcome.error = Some(raised.clone());
                }
                None => {
                    let version = self.save(channel, &decision.checkpoint).await;
                    outcome.saved = true;
                    let kind = if version.weights_only { "weights" } else { "model" };
                    outcome.kind = Some(kind.to_owned());
                    outcome.aliases = Some(same_aliases(&version, step.expected.aliases.as_deref()));
                    outcome.messages.push(decision.finished_message.clone());
                    // The only file is the one that was saved, whatever the template made of its name.
                    assert_eq!((&*version.path, version.weights_only), ("weights", decision.weights_only));
                }
            }
        }
        outcome.messages.retain(|it| !it.is_empty());
        outcome
    }

    async fn save(&mut self, channel: &Channel, checkpoint: &str) -> v1::Version {
        let (run, attempt) = (self.run.clone(), self.attempt);
        let trainer = Trainer { channel: channel.clone(), run, attempt, sequence: 0 };
        let data = format!("{} {}", self.trace.id, self.next);
        let times = if self.repeats { 2 } else { 1 };
        let mut version = None;
        for _ in 0..times {
            if version.is_none() {
                write_small(&trainer, checkpoint, &[("weights", data.as_bytes())]).await.unwrap();
            }
            let committed = trainer.commit(checkpoint).await.unwrap();
            assert_eq!(version.get_or_insert_with(|| committed.clone()), &committed);
        }
        let version = version.unwrap();
        assert_eq!(usize::try_from(version.number).unwrap(), self.saves, "{}", self.trace.id);
        self.saves += 1;
        version
    }

    async fn abandon(&self, channel: &Channel, checkpoint: &str) {
        let request =
            v1::AbandonCheckpointRequest { checkpoint: checkpoint.to_owned(), attempt: self.attempt };
        for _ in 0..if self.repeats { 2 } else { 1 } {
            CheckpointsClient::new(channel.clone()).abandon_checkpoint(request.clone()).await.unwrap();
        }
    }
}

/// The version's aliases without `best`, which the W&B callback does not know; in the recorded order if they are the same.
fn same_aliases(version: &v1::Version, expected: Option<&[String]>) -> Vec<String> {
    let mut ours: Vec<String> = version.aliases.iter().filter(|it| *it != "best").cloned().collect();
    ours.sort();
    let mut sorted = expected.unwrap_or_default().to_vec();
    sorted.sort();
    if sorted == ours { expected.unwrap_or_default().to_vec() } else { ours }
}

fn wire_direction(direction: Option<Direction>) -> i32 {
    match direction {
        None => v1::MetricDirection::Unspecified,
        Some(Direction::Min) => v1::MetricDirection::Down,
        Some(Direction::Max) => v1::MetricDirection::Up,
    }
    .into()
}

fn wire_unusable(when: WhenUnusable) -> i32 {
    match when {
        WhenUnusable::Skip => v1::WhenMissing::Skip,
        WhenUnusable::Save => v1::WhenMissing::Save,
        WhenUnusable::Fail => v1::WhenMissing::Fail,
    }
    .into()
}

/// A strategy as a client writes it out, each choice of the dialect in its field.
fn wire_strategy(strategy: &Strategy) -> v1::Strategy {
    let mode = match strategy.mode {
        Mode::Auto => v1::Mode::Unspecified,
        Mode::Min => v1::Mode::Min,
        Mode::Max => v1::Mode::Max,
    };
    let save_frequency = match strategy.save_frequency {
        SaveFrequency::Epoch => WireFrequency::EveryEpoch(true),
        SaveFrequency::Batches(every) => WireFrequency::EveryBatches(every),
    };
    let key_missing = match strategy.when_template_key_missing {
        WhenKeyMissing::PrintNone => v1::WhenTemplateKeyMissing::PrintNone,
        WhenKeyMissing::Fail => v1::WhenTemplateKeyMissing::Fail,
    };
    let initial_best = match strategy.initial_best {
        InitialBest::None => v1::InitialBest::None,
        InitialBest::Worst => v1::InitialBest::Worst,
    };
    let inference = match strategy.direction_inference {
        DirectionInference::Default => v1::DirectionInference::Unspecified,
        DirectionInference::MetricDirections => v1::DirectionInference::MetricDirections,
        DirectionInference::Name => v1::DirectionInference::Name,
    };
    v1::Strategy {
        filepath: strategy.filepath.clone(),
        monitor: strategy.monitor.clone(),
        verbose: i32::try_from(strategy.verbose).unwrap(),
        save_best_only: strategy.save_best_only,
        save_weights_only: strategy.save_weights_only,
        mode: mode.into(),
        save_frequency: Some(save_frequency),
        options: None,
        initial_value_threshold: strategy.initial_value_threshold,
        min_delta: strategy.min_delta,
        when_monitor_missing: wire_unusable(strategy.when_monitor_missing),
        when_monitor_not_scalar: wire_unusable(strategy.when_monitor_not_scalar),
        when_template_key_missing: key_missing.into(),
        initial_best: initial_best.into(),
        announce_finished: strategy.announce_finished,
        local_directory: strategy.local_directory.clone(),
        direction_inference: inference.into(),
    }
}

fn wire_event(event: &Event) -> v1::Event {
    let kind = match event.kind {
        EventKind::BatchEnd => v1::EventKind::BatchEnd,
        EventKind::EpochEnd => v1::EventKind::EpochEnd,
        EventKind::TrainEnd => v1::EventKind::TrainEnd,
    };
    let mut wire =
        v1::Event { kind: kind.into(), epoch: event.epoch, batch: event.batch, ..v1::Event::default() };
    for (name, value) in event.metrics.clone() {
        let kind = match value {
            MetricValue::Number(number) => {
                wire.metrics.insert(name, number);
                continue;
            }
            MetricValue::Integer(integer) => Kind::Integer(integer),
            MetricValue::Text(text) => Kind::Text(text),
            MetricValue::NotScalar(printed) => Kind::NotScalar(printed),
            MetricValue::Missing => Kind::Missing(true),
        };
        wire.typed_metrics.insert(name, v1::MetricValue { kind: Some(kind) });
    }
    wire
}
