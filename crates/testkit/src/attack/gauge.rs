//! What a process takes up, read from `/proc`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Between two looks.
pub(super) const PERIOD: Duration = Duration::from_millis(20);

/// One look.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gauge {
    /// Resident memory.
    pub(super) rss_kib: u64,
    /// Open files and sockets.
    pub(super) descriptors: u64,
    /// User and system time.
    pub(super) cpu: Duration,
    /// Size of the log.
    pub(super) log_bytes: u64,
}

impl Gauge {
    /// Looks at a process and its log.
    pub(super) fn read(pid: u32, log: &Path) -> Result<Self> {
        let proc = |name: &str| format!("/proc/{pid}/{name}");
        let status = std::fs::read_to_string(proc("status")).context("the member is gone")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib = rss
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .context("no VmRSS: the member is gone")?;
        let stat = std::fs::read_to_string(proc("stat")).context("the member is gone")?;
        // After the name in parentheses: state is field 3, utime and stime are 14 and 15.
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 =
            fields.iter().skip(11).take(2).filter_map(|text| text.parse::<u64>().ok()).sum();
        let descriptors = std::fs::read_dir(proc("fd")).context("the member is gone")?.count();
        Ok(Self {
            rss_kib,
            descriptors: u64::try_from(descriptors).unwrap_or(u64::MAX),
            cpu: Duration::from_millis(
                ticks * 1000 / rustix::param::clock_ticks_per_second().max(1),
            ),
            log_bytes: std::fs::metadata(log).map_or(0, |found| found.len()),
        })
    }

    /// Keeps the higher memory of the two.
    pub(super) fn rise(&mut self, other: Self) {
        self.rss_kib = self.rss_kib.max(other.rss_kib);
    }
}
