//! Databases on their way out of this member, to clients and to other members: while one is held for a reader that is slow, the file
//! grows.

use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::{go_duration, human_bytes};

/// A connection of a gigabit a second brings about as much.
const BYTES_PER_SECOND: f64 = (100 * 1024 * 1024) as f64;
/// However small the database is, nothing is told before.
const LEAST: Duration = Duration::from_secs(30);

/// A transfer; it has ended when this is dropped. Upstream: `Snapshot` of server/storage/backend/backend.go.
#[derive(Debug)]
pub(crate) struct Transfer {
    watcher: AbortHandle,
}

impl Transfer {
    /// Tells of a transfer that takes longer than is usual for its size, and goes on telling while it lasts. Called within the
    /// executor; the value may go anywhere.
    pub(crate) fn begin(total_bytes: u64) -> Self {
        Self::expected_within(total_bytes, usual(total_bytes))
    }

    fn expected_within(total_bytes: u64, limit: Duration) -> Self {
        let begun = Instant::now();
        let watcher = tokio::spawn(async move {
            loop {
                tokio::time::sleep(limit).await;
                tracing::warn!(
                    taking = go_duration(begun.elapsed()),
                    bytes = total_bytes,
                    size = human_bytes(total_bytes),
                    "snapshotting taking too long to transfer"
                );
            }
        });
        Self { watcher: watcher.abort_handle() }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// How long it may take.
fn usual(total_bytes: u64) -> Duration {
    Duration::from_secs_f64(total_bytes as f64 / BYTES_PER_SECOND).max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::lines::Lines;

    #[test]
    fn what_is_large_may_take_longer() {
        for (mib, seconds) in [(0, 30), (1, 30), (3_000, 30), (8_000, 80)] {
            assert_eq!(usual(mib << 20), Duration::from_secs(seconds), "{mib} MiB");
        }
    }

    #[tokio::test]
    async fn a_slow_transfer_is_told_again_and_again_until_it_ends() {
        let (lines, _told) = Lines::gather();
        let told = || lines.with(&["WARN", "bytes=24576", "size=25 kB", "snapshotting taking"]);
        let transfer = Transfer::expected_within(24_576, Duration::from_millis(1));
        while told() < 2 {
            tokio::task::yield_now().await;
        }
        let watcher = transfer.watcher.clone();
        drop(transfer);
        while !watcher.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
