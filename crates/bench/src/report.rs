//! Results, for people and for programs.

use std::fmt::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::Measured;

/// The result of one run of one workload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    /// The workload's name.
    pub(crate) workload: String,
    /// Callers.
    pub(crate) clients: usize,
    /// Measured seconds.
    pub(crate) seconds: f64,
    /// Operations that ended in that time.
    pub(crate) operations: u64,
    /// Operations that failed.
    pub(crate) errors: u64,
    /// What the first failure said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    /// Operations a second.
    pub(crate) throughput: f64,
    /// Latencies in microseconds.
    pub(crate) latency_us: Latency,
    /// What the server used, when its process id is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<ServerUse>,
}

/// Points of a latency distribution, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// What the server used for the measured operations.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ServerUse {
    /// CPU seconds for 1000 operations (so milliseconds for one).
    pub(crate) cpu_seconds_per_1000: f64,
    /// Bytes to the disk for one operation.
    pub(crate) write_bytes_per_operation: f64,
    /// Resident memory at the end.
    pub(crate) rss_bytes: u64,
    /// The most resident memory since its start.
    pub(crate) rss_peak_bytes: u64,
}

impl Outcome {
    /// Sums up a run.
    pub(crate) fn new(workload: &str, clients: usize, measured: &Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        // Counts far below 2^52: exact.
        let operations = measured.operations as f64;
        let server = measured.server.map(|(before, after)| ServerUse {
            cpu_seconds_per_1000: (after.cpu_seconds - before.cpu_seconds) * 1000.0 / operations,
            write_bytes_per_operation: (after.write_bytes - before.write_bytes) as f64 / operations,
            rss_bytes: after.rss_bytes,
            rss_peak_bytes: after.rss_peak_bytes,
        });
        Self {
            workload: workload.to_owned(),
            clients,
            seconds,
            operations: measured.operations,
            errors: measured.errors,
            first_error: measured.first_error.clone(),
            throughput: operations / seconds,
            latency_us: Latency::new(&measured.latencies),
            server,
        }
    }

    /// The result as lines for people.
    pub(crate) fn human(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{}: {} operations in {:.2} s, {:.0}/s, {} clients, {} errors",
            self.workload,
            self.operations,
            self.seconds,
            self.throughput,
            self.clients,
            self.errors
        );
        if let Some(error) = &self.first_error {
            let _ = writeln!(out, "  first error: {error}");
        }
        let l = &self.latency_us;
        let _ = writeln!(
            out,
            "  latency: mean {} p50 {} p90 {} p99 {} p99.9 {} max {}",
            time(l.mean),
            time(l.p50),
            time(l.p90),
            time(l.p99),
            time(l.p999),
            time(l.max)
        );
        if let Some(server) = &self.server {
            let _ = writeln!(
                out,
                "  server: {:.4} CPU s for 1000 operations, {:.0} bytes written for one, resident {:.1} MiB, peak {:.1} MiB",
                server.cpu_seconds_per_1000,
                server.write_bytes_per_operation,
                server.rss_bytes as f64 / 1_048_576.0,
                server.rss_peak_bytes as f64 / 1_048_576.0
            );
        }
        out
    }
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// A time in microseconds, in the unit that reads best.
pub(crate) fn time(micros: f64) -> String {
    if micros < 1000.0 {
        format!("{micros:.0}µs")
    } else if micros < 1_000_000.0 {
        format!("{:.2}ms", micros / 1000.0)
    } else {
        format!("{:.2}s", micros / 1_000_000.0)
    }
}

/// Writes a result to standard output; progress and remarks go to standard error.
#[allow(clippy::print_stdout, reason = "the result of a command line program")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
