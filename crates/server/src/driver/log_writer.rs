//! The log writer: owns the write-ahead log, and makes a batch durable with one write and one fdatasync.
//!
//! Called by the heart where a member is alone; in a cluster it runs in a thread of its own, so that nothing else waits for
//! the disk: see [`super::heart`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::{raftpb, walpb};
use raft::Append;
use replica::Input;
use vfs::Dir;
use wal::{Batch, Wal};

use super::heart;
use super::mailbox::{Receiver, Sender, Wait};
use crate::metrics::Metrics;
use crate::told;

/// etcd warns of a slower write.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// As etcd, which leaves files that nobody needs for about as long: backups of a directory are made by copying files.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);

/// What comes in where the log has a thread of its own.
#[derive(Debug)]
pub(crate) enum Work {
    /// Make this durable, and tell the heart.
    Write(Append),
    /// A raft snapshot file is complete.
    Vouch(walpb::Snapshot),
}

/// The log writer's belongings.
pub(crate) struct LogWriter {
    pub(crate) wal: Wal,
    /// Where the log's directory lies, and its name there.
    pub(crate) parent: Arc<dyn Dir>,
    pub(crate) name: String,
    pub(crate) segments_max: usize,
    /// Where the raft snapshot files lie.
    pub(crate) snap_dir: Arc<dyn Dir>,
    pub(crate) snapshots_max: usize,
    /// When files were last looked for that nobody needs any more; at first, when the member started.
    pub(crate) purged: Instant,
    /// The index of the last snapshot, if it may have made files superfluous that are still there.
    pub(crate) purge_to: Option<u64>,
    /// Wakes the thread that makes the next segment ready.
    pub(crate) preallocate: Sender<()>,
    /// Kept between calls for its memory.
    pub(crate) records: Vec<raftpb::Entry>,
    pub(crate) metrics: Arc<Metrics>,
}

impl LogWriter {
    /// Runs until nobody can give it work any more, then closes the log.
    pub(crate) fn run(
        mut self,
        inbox: &Receiver<Work>,
        heart: &Sender<heart::Work>,
    ) -> Result<(), wal::Error> {
        let mut batch = VecDeque::new();
        let mut appends = Vec::new();
        loop {
            if inbox.take(&mut batch, None) == Wait::Closed {
                return self.close();
            }
            let mut vouched = None;
            for work in batch.drain(..) {
                match work {
                    Work::Write(append) => appends.push(append),
                    // A newer one covers what an older one does. It vouches for entries that are written already, so that
                    // it may wait for the writes that gathered with it.
                    Work::Vouch(snapshot) => vouched = Some(snapshot),
                }
            }
            if !appends.is_empty() {
                self.write(&appends)?;
                let persisted = appends.drain(..).map(Input::Persisted).map(heart::Work::Replica);
                heart.send_all(persisted);
            }
            if let Some(snapshot) = vouched {
                self.vouch(&snapshot)?;
            }
            self.purge()?;
        }
    }

    /// Writes all, and returns when they are durable.
    pub(crate) fn write(&mut self, appends: &[Append]) -> Result<(), wal::Error> {
        let begin = Instant::now();
        let mut received = None;
        for append in appends {
            if let Some(snapshot) = &append.snapshot {
                self.stage_snapshot(snapshot)?;
                received = Some(snapshot.metadata.index.0);
            }
            self.records.clear();
            self.records.extend(append.entries.iter().map(raft::codec::entry_to_proto));
            let hard_state = append.hard_state.as_ref().map(raft::codec::hard_state_to_proto);
            self.wal.stage(&Batch { entries: &self.records, hard_state });
        }
        let metrics = &self.metrics.log;
        let encoded = Instant::now();
        metrics.write.observe(encoded.duration_since(begin));
        metrics.written_bytes.add(self.wal.staged_bytes() as u64);
        // The payloads are shared with the raft core; what is kept here would keep them alive.
        self.records.clear();
        if let Some(index) = received {
            // The record of a snapshot counts only with a commit index that covers it.
            self.wal.sync()?;
            self.forget_before(index);
        }
        let begun = Instant::now();
        let committed = self.wal.commit()?;
        if committed.synced {
            self.metrics.log.fsync.observe(encoded.elapsed());
        }
        if committed.cut {
            self.preallocate.send_all([()]);
        }
        tell_slow(begun.elapsed());
        Ok(())
    }

    /// Puts a snapshot that came from the leader in place of the log so far: the file first, then the record that vouches
    /// for it. Its database lies ready already.
    fn stage_snapshot(&mut self, snapshot: &raft::Snapshot) -> Result<(), wal::Error> {
        // What was handed out before stays before it.
        self.wal.commit()?;
        let snapshot = raft::codec::snapshot_to_proto(snapshot);
        self.metrics.committing.save_snapshot(&self.snap_dir, &snapshot)?;
        let raftpb::SnapshotMetadata { conf_state, index, term } = snapshot.metadata;
        tracing::info!(snapshot_index = index, snapshot_term = term, "saved received snapshot");
        self.wal.save_snapshot(&walpb::Snapshot { index, term, conf_state: Some(conf_state) })
    }

    /// Records that a snapshot file is complete. What nobody needs any more is for [`Self::purge`].
    ///
    /// In this order: removing older files before the record is durable could remove the last one that has a record.
    pub(crate) fn vouch(&mut self, snapshot: &walpb::Snapshot) -> Result<(), wal::Error> {
        self.wal.save_snapshot(snapshot)?;
        self.forget_before(snapshot.index);
        // The state machine took it, so it is past all that was received before.
        wal::snap::remove_orphan_dbs(&self.snap_dir, snapshot.index)?;
        Ok(())
    }

    /// Lets go of what a snapshot covers. Not of databases that were received: the state machine may not have come to the
    /// installation of one although the log is at a later one already (see [`super::committer`]).
    fn forget_before(&mut self, index: u64) {
        self.wal.release_to(index);
        self.purge_to = Some(index);
    }

    /// Removes what nobody needs any more, if it is time. Not before what was written is answered: it takes a while.
    pub(crate) fn purge(&mut self) -> Result<(), wal::Error> {
        let Some(index) = self.purge_to else { return Ok(()) };
        if self.purged.elapsed() < PURGE_INTERVAL {
            return Ok(());
        }
        self.purged = Instant::now();
        self.purge_to = None;
        let segments = wal::purge(&self.parent, &self.name, self.segments_max)?;
        let snapshots = wal::snap::purge(&self.snap_dir, self.snapshots_max, index)?;
        for name in segments.into_iter().chain(snapshots) {
            tracing::info!(path = name, "purged");
        }
        Ok(())
    }

    /// Makes everything durable and gives up the locks.
    pub(crate) fn close(self) -> Result<(), wal::Error> {
        self.wal.close()
    }
}

/// Tells of a write that took longer than etcd expects.
fn tell_slow(took: Duration) {
    if took > SLOW_SYNC {
        tracing::warn!(
            took = told::go_duration(took),
            expected_duration = told::go_duration(SLOW_SYNC),
            "slow fdatasync"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::lines::Lines;

    #[test]
    fn a_write_of_more_than_a_second_is_told() {
        let (lines, _told) = Lines::gather();
        tell_slow(SLOW_SYNC);
        assert_eq!(lines.with(&[]), 0);
        tell_slow(Duration::from_millis(1_500));
        let told = ["WARN", "took=1.5s", "expected_duration=1s", "message=slow fdatasync"];
        assert_eq!(lines.with(&told), 1);
    }
}
