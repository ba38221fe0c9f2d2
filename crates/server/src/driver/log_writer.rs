//! The log writer: owns the write-ahead log, and makes a batch durable with one write and one fdatasync.

use std::sync::Arc;

use proto::{raftpb, walpb};
use raft::Append;
use vfs::Dir;
use wal::{Batch, Wal};

use super::mailbox::Sender;

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
    /// Wakes the thread that makes the next segment ready.
    pub(crate) preallocate: Sender<()>,
    /// Kept between calls for its memory.
    pub(crate) records: Vec<raftpb::Entry>,
}

impl LogWriter {
    /// Writes all, and returns when they are durable.
    pub(crate) fn write(&mut self, appends: &[Append]) -> Result<(), wal::Error> {
        for append in appends {
            self.records.clear();
            self.records.extend(append.entries.iter().map(raft::codec::entry_to_proto));
            let hard_state = append.hard_state.as_ref().map(raft::codec::hard_state_to_proto);
            self.wal.stage(&Batch { entries: &self.records, hard_state });
        }
        // The payloads are shared with the raft core; what is kept here would keep them alive.
        self.records.clear();
        if self.wal.commit()?.cut {
            self.preallocate.send_all([()]);
        }
        Ok(())
    }

    /// Records that a snapshot file is complete, and removes what nobody needs any more.
    ///
    /// In this order: files that a crash left without a record count among those that are kept, so removing older ones
    /// before the record is durable could remove the last one that has a record.
    pub(crate) fn vouch(&mut self, snapshot: &walpb::Snapshot) -> Result<(), wal::Error> {
        self.wal.save_snapshot(snapshot)?;
        self.wal.release_to(snapshot.index);
        let segments = wal::purge(&self.parent, &self.name, self.segments_max)?;
        wal::snap::remove_orphan_dbs(&self.snap_dir, snapshot.index)?;
        let snapshots = wal::snap::purge(&self.snap_dir, self.snapshots_max)?;
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
