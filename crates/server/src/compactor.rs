//! Auto-compaction: by time or by number of revisions, as `--auto-compaction-mode` and `-retention` say.
//!
//! Periodic: notes the revision ten times in a period (or once an hour, for longer ones), and compacts at the one that is a
//! period old. By revisions: looks every five minutes. A compaction that was done already, perhaps by a client, is no error.
//!
//! Upstream: `server/etcdserver/api/v3compactor` (3.5).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proto::etcdserverpb::CompactionRequest;
use proto::etcdserverpb::internal_raft_request::Request as Op;

use crate::config::AutoCompaction;
use crate::request::{Core, Refusal};

/// How often the number of revisions is looked at.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Notes taken in a period.
const NOTES: u32 = 10;

/// Runs for as long as the member does.
pub(crate) async fn run(core: Arc<Core>) {
    match core.config.auto_compaction {
        AutoCompaction::Off => {}
        AutoCompaction::Periodic(period) => periodic(&core, period).await,
        AutoCompaction::Revision(retention) => by_revision(&core, retention).await,
    }
}

async fn periodic(core: &Core, period: Duration) {
    let mut history = History::new(period);
    loop {
        tokio::time::sleep(history.interval).await;
        if let Some(revision) = history.note(core.store.current_revision())
            && core.board.is_leader()
        {
            compact(core, revision).await;
        }
    }
}

async fn by_revision(core: &Core, retention: i64) {
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let revision = core.store.current_revision().saturating_sub(retention);
        if revision > 0 && core.board.is_leader() {
            compact(core, revision).await;
        }
    }
}

async fn compact(core: &Core, revision: i64) {
    if revision <= core.store.compact_revision() {
        return;
    }
    tracing::info!(revision, "starting auto compaction");
    match core.propose(Op::Compaction(CompactionRequest { revision, physical: false })).await {
        Ok(_)
        | Err(
            Refusal::Request(machine::RequestError::Store(mvcc::RequestError::Compacted {
                ..
            }))
            | Refusal::Stopped,
        ) => {
            tracing::info!(revision, "completed auto compaction");
        }
        Err(error) => tracing::warn!(revision, error = %error, "failed auto compaction"),
    }
}

/// Revisions of the last period.
#[derive(Debug)]
struct History {
    interval: Duration,
    /// Notes that make up a period.
    notes_max: usize,
    notes: VecDeque<i64>,
    compacted: i64,
}

impl History {
    fn new(period: Duration) -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        // A period above an hour is worked off hour by hour, as etcd does.
        let interval = period.min(HOUR) / NOTES;
        let notes = period.as_nanos() / interval.as_nanos().max(1);
        Self {
            interval,
            notes_max: usize::try_from(notes).unwrap_or(usize::MAX),
            notes: VecDeque::new(),
            compacted: 0,
        }
    }

    /// Notes the revision of now; returns the one that is a period old, if it is a new one.
    fn note(&mut self, revision: i64) -> Option<i64> {
        self.notes.push_back(revision);
        if self.notes.len() <= self.notes_max {
            return None;
        }
        let old = self.notes.pop_front()?;
        let is_new = old > self.compacted;
        self.compacted = self.compacted.max(old);
        is_new.then_some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_compacted_when_it_is_a_period_old() {
        let mut history = History::new(Duration::from_secs(600));
        assert_eq!(history.interval, Duration::from_secs(60));
        let compacted: Vec<_> = (1..=12).map(|minute| history.note(minute * 100)).collect();
        assert_eq!(compacted[..10], [None; 10]);
        assert_eq!(compacted[10..], [Some(100), Some(200)]);
    }

    #[test]
    fn an_idle_store_is_not_compacted_again() {
        let mut history = History::new(Duration::from_secs(10));
        let compacted: Vec<_> = (0..15).filter_map(|_| history.note(7)).collect();
        assert_eq!(compacted, [7]);
    }
}
