//! Log lines as etcd's operators know them: one JSON object a line, `level`, `ts`, `caller`, `msg`, then the fields.
//!
//! `tracing` events come from everywhere; this layer writes them. A line is built whole and written with one call, so that
//! lines of different threads never mix.

use std::fmt;
use std::io::Write;
use std::time::SystemTime;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// The default.
    Stderr,
    /// `--log-outputs=stdout`.
    Stdout,
}

/// Installs the layer for the whole process; later calls change nothing.
pub(crate) fn install(level: &str, output: Output) {
    let level = match level {
        "debug" => Level::DEBUG,
        "warn" => Level::WARN,
        "error" | "dpanic" | "panic" | "fatal" => Level::ERROR,
        _ => Level::INFO,
    };
    // Only our own events: what libraries log is not etcd's.
    let filter = tracing_subscriber::filter::filter_fn(move |meta| {
        *meta.level() <= level
            && OUR_CRATES.contains(&meta.target().split("::").next().unwrap_or_default())
    });
    // A second installation (there is none in the program) keeps the first.
    let _ = tracing_subscriber::registry().with(Lines { output }.with_filter(filter)).try_init();
}

/// Crates whose events are written.
const OUR_CRATES: &[&str] =
    &["etcd", "server", "replica", "machine", "mvcc", "lease", "backend", "bolt", "wal", "raft"];

struct Lines {
    output: Output,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line(event, SystemTime::now());
        // A log that cannot be written has nobody to tell.
        let _ = match self.output {
            Output::Stderr => std::io::stderr().lock().write_all(line.as_bytes()),
            Output::Stdout => std::io::stdout().lock().write_all(line.as_bytes()),
        };
    }
}

/// One event as a line, newline included.
fn line(event: &Event<'_>, now: SystemTime) -> String {
    let meta = event.metadata();
    let level = match *meta.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    };
    let mut fields = Fields { message: String::new(), rest: Vec::new() };
    event.record(&mut fields);
    let mut line = String::with_capacity(256);
    line.push_str("{\"level\":\"");
    line.push_str(level);
    line.push_str("\",\"ts\":\"");
    line.push_str(&humantime::format_rfc3339_micros(now).to_string());
    line.push_str("\",\"caller\":");
    line.push_str(&Value::from(caller(meta.file(), meta.line())).to_string());
    line.push_str(",\"msg\":");
    line.push_str(&Value::from(fields.message).to_string());
    for (key, value) in fields.rest {
        line.push(',');
        line.push_str(&Value::from(key).to_string());
        line.push(':');
        line.push_str(&value.to_string());
    }
    line.push_str("}\n");
    line
}

/// The file with its directory, as zap shortens it.
fn caller(file: Option<&str>, line: Option<u32>) -> String {
    let file = file.unwrap_or("unknown");
    let short = file.rmatch_indices('/').nth(1).map_or(file, |(at, _)| &file[at + 1..]);
    format!("{short}:{}", line.unwrap_or(0))
}

/// Collects an event's fields. A name with `_` is written with `-`, as etcd's keys are.
struct Fields {
    message: String,
    rest: Vec<(String, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.rest.push((field.name().replace('_', "-"), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_a_file_with_its_directory() {
        assert_eq!(caller(Some("crates/server/src/driver/node.rs"), Some(7)), "driver/node.rs:7");
        assert_eq!(caller(Some("main.rs"), Some(1)), "main.rs:1");
    }
}
