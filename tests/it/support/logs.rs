//! What the service logs on this thread, as lines.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Once;

use tracing::Event;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::span::Attributes;
use tracing::span::Id;
use tracing::span::Record;
use tracing::subscriber::DefaultGuard;
use tracing::subscriber::Interest;
use tracing::subscriber::set_global_default;
use tracing_subscriber::fmt::MakeWriter;

/// Takes lines until it is dropped; only for a test whose runtime has one thread.
pub(crate) struct Logs {
    lines: Lines,
    _guard: DefaultGuard,
}

/// Takes no line, and has every place that writes one ask each time. tracing remembers of a place whether anybody listens, and goes by
/// the thread that comes there first when there is but one listener: the lines of a test would be lost whenever another test, which
/// listens to nothing, was there before.
struct Asked;

impl Subscriber for Asked {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Logs {
    /// From here on.
    pub(crate) fn begin() -> Logs {
        static ASKED: Once = Once::new();
        ASKED.call_once(|| set_global_default(Asked).expect("no test has one of its own"));
        let lines = Lines::default();
        let subscriber =
            tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).without_time().finish();
        Logs { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines that say this.
    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let lines = self.lines.0.lock().unwrap();
        String::from_utf8_lossy(&lines).lines().filter(|it| it.contains(text)).map(str::to_owned).collect()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}
