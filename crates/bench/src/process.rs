//! What the kernel counts for the servers' processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// The processes of the server: one for each member.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    folders: Vec<PathBuf>,
}

/// What was counted up to one moment, over all of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sample {
    /// CPU time of all its threads, user and system, in seconds (resolution: a clock tick, 10 ms).
    pub(crate) cpu_seconds: f64,
    /// Bytes sent to the disk (pages it made dirty; direct writes too).
    pub(crate) write_bytes: u64,
    /// Resident memory now, in bytes.
    pub(crate) rss_bytes: u64,
    /// The most resident memory ever, in bytes.
    pub(crate) rss_peak_bytes: u64,
}

impl Processes {
    /// Takes processes by their ids.
    pub(crate) fn new(pids: &[u32]) -> Self {
        Self { folders: pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}"))).collect() }
    }

    /// Reads the counters.
    pub(crate) fn sample(&self) -> Result<Sample> {
        let mut all = Sample::default();
        for folder in &self.folders {
            let one = Sample::of(folder)?;
            all.cpu_seconds += one.cpu_seconds;
            all.write_bytes += one.write_bytes;
            all.rss_bytes += one.rss_bytes;
            all.rss_peak_bytes += one.rss_peak_bytes;
        }
        Ok(all)
    }
}

impl Sample {
    fn of(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let stat = read("stat")?;
        let ticks = cpu_ticks(&stat).context("parse /proc/PID/stat")?;
        let io = read("io")?;
        let status = read("status")?;
        let kib = |key| {
            field(&status, key).map(|kib| kib * 1024).with_context(|| format!("{key} is missing"))
        };
        Ok(Self {
            // Seconds and bytes far below 2^52: the conversion is exact.
            cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            write_bytes: field(&io, "write_bytes:").context("write_bytes is missing")?,
            rss_bytes: kib("VmRSS:")?,
            rss_peak_bytes: kib("VmHWM:")?,
        })
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`; the second field is a name in brackets that may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 120 30 0 0";
        assert_eq!(cpu_ticks(stat), Some(150));
    }

    #[test]
    fn the_own_process_can_be_read() {
        let sample = Processes::new(&[std::process::id()]).sample().unwrap();
        assert!(sample.rss_bytes > 0 && sample.rss_peak_bytes >= sample.rss_bytes, "{sample:?}");
    }
}
