//! Log lines as etcd's operators know them: one JSON object a line, `level`, `ts`, `logger`, `caller`, `msg`, then the fields;
//! or the same between tabs (`--log-format=console`).
//!
//! `tracing` events come from everywhere; this layer writes them. A line is built whole and written with one call, so that
//! lines of different threads never mix. `line` makes a line of an event, `sample` thins floods of equal ones, `output` writes
//! it, `rotate` keeps files small.
//!
//! Lines before [`install`] has been called are lost; the program calls it first of all that logs. What cannot be written
//! has nobody to tell, and stops nothing.

mod journal;
mod line;
mod output;
mod rotate;
mod sample;

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use line::without_passwords;
pub use rotate::Rotation;

/// The least severe events that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Debug,
    /// The default.
    Info,
    /// Warnings and errors.
    Warn,
    /// Errors only.
    Error,
}

impl Level {
    /// Reads zap's names; those above `error` are as rare as `error` here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "debug" | "DEBUG" => Self::Debug,
            "info" | "INFO" | "" => Self::Info,
            "warn" | "WARN" => Self::Warn,
            "error" | "ERROR" | "dpanic" | "DPANIC" | "panic" | "PANIC" | "fatal" | "FATAL" => {
                Self::Error
            }
            _ => return None,
        })
    }

    fn of(self) -> tracing::Level {
        match self {
            Self::Debug => tracing::Level::DEBUG,
            Self::Info => tracing::Level::INFO,
            Self::Warn => tracing::Level::WARN,
            Self::Error => tracing::Level::ERROR,
        }
    }
}

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object.
    Json,
    /// Columns between tabs, the fields as a JSON object at the end.
    Console,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The default.
    Stderr,
    /// `--log-outputs=stdout`.
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
    /// `--log-outputs=systemd/journal`.
    Journal,
}

/// How and where to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The least severe events that are written.
    pub level: Level,
    /// The form of a line.
    pub format: Format,
    /// Where lines go; `/dev/null` among them discards all.
    pub outputs: Vec<Output>,
    /// How files are kept small.
    pub rotation: Option<Rotation>,
}

impl Default for Settings {
    /// etcd's, which also holds for what goes wrong before the flags are read.
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: Format::Json,
            outputs: vec![Output::Stderr],
            rotation: None,
        }
    }
}

/// Installs the layer for the whole process; later calls change nothing.
///
/// # Errors
/// A file cannot be opened, or there is no journal.
pub fn install(settings: &Settings) -> Result<(), String> {
    let mut sinks = Vec::new();
    let discards = settings.outputs.contains(&Output::File("/dev/null".into()));
    for output in settings.outputs.iter().filter(|_| !discards) {
        sinks.push(output::open(output, settings.rotation.as_ref())?);
    }
    let level = settings.level.of();
    // Only our own events: what libraries log is not etcd's.
    let filter = tracing_subscriber::filter::filter_fn(move |meta| {
        *meta.level() <= level
            && OUR_CRATES.contains(&meta.target().split("::").next().unwrap_or_default())
    });
    let sampler = sample::Sampler::new();
    let lines = Lines { format: settings.format, sampler, sinks: Mutex::new(sinks) };
    // A second installation (there is none in the program) keeps the first.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    Ok(())
}

/// Crates whose events are written.
const OUR_CRATES: &[&str] = &[
    "etcd",
    "etcd_program",
    "server",
    "proxy",
    "bootstrap",
    "replica",
    "machine",
    "mvcc",
    "lease",
    "auth",
    "backend",
    "bolt",
    "wal",
    "raft",
    "tls",
    "otlp",
];

struct Lines {
    format: Format,
    sampler: sample::Sampler,
    /// Guards the order of lines; held while one is written.
    sinks: Mutex<Vec<output::Sink>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = SystemTime::now();
        let line = line::Line::of(event);
        if !self.sampler.lets_pass(line.level, &line.message, now) {
            return;
        }
        let text = line.text(self.format, now);
        for sink in self.sinks.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            sink.write(&line, &text, now);
        }
    }
}
