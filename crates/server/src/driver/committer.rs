//! The committer: everything slow that the state machine gives rise to, off its thread.
//!
//! Commits of the database come first of all: each is one bolt transaction over what gathered since the last. Raft snapshots
//! follow the commit that they rest on, since the database must hold what the log forgets. A defragmentation takes the
//! place of a commit; writes gather meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use backend::{CommitJob, DefragJob, DefragStats};
use proto::{raftpb, walpb};
use raft::{ConfState, LogIndex};
use replica::Input;
use tokio::sync::oneshot;
use vfs::Dir;

use super::mailbox::{Receiver, Sender, Wait};
use super::{apply, heart};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::told;

/// What comes in.
#[derive(Debug)]
pub(crate) enum Work {
    /// Commit, then do what waits for it.
    Commit {
        /// The commit.
        job: CommitJob,
        /// What may be done once it is durable.
        then: Vec<AfterCommit>,
    },
    /// Defragment, and tell whoever asked.
    Defragment {
        /// The job.
        job: DefragJob,
        /// Who asked.
        reply: oneshot::Sender<Result<DefragStats, String>>,
    },
}

/// What waits for a commit.
#[derive(Debug)]
pub(crate) enum AfterCommit {
    /// A raft snapshot at or below the commit's consistent index.
    Snapshot(SnapshotPoint),
    /// A received database was installed, and those received before it are of no more use.
    Installed(LogIndex),
    /// Somebody who must see the effects on disk.
    Reply(oneshot::Sender<()>),
    /// Members that are too far behind are to get this state.
    Send {
        /// The messages that consensus wants to send them.
        receivers: Vec<raft::Message>,
        /// The state as of the commit.
        point: SnapshotPoint,
    },
}

/// A point of the log at which to take a raft snapshot.
#[derive(Debug)]
pub(crate) struct SnapshotPoint {
    /// The last entry that it covers.
    pub(crate) index: LogIndex,
    /// That entry's term.
    pub(crate) term: u64,
    /// The configuration after it.
    pub(crate) conf_state: raftpb::ConfState,
    /// The members as etcd 3.5's snapshot document.
    pub(crate) document: bytes::Bytes,
}

impl SnapshotPoint {
    fn to_snapshot(&self) -> raftpb::Snapshot {
        raftpb::Snapshot {
            data: Some(self.document.clone()),
            metadata: raftpb::SnapshotMetadata {
                conf_state: self.conf_state.clone(),
                index: self.index.0,
                term: self.term,
            },
        }
    }
}

/// Why the committer cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitFailure {
    /// The database.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A snapshot file.
    #[error(transparent)]
    Snapshot(#[from] wal::Error),
}

/// The committer's belongings.
pub(crate) struct Committer {
    pub(crate) inbox: Receiver<Work>,
    pub(crate) heart: Sender<heart::Work>,
    pub(crate) snap_dir: Arc<dyn Dir>,
    pub(crate) backend: backend::Reader,
    pub(crate) peers: Arc<Peers>,
    pub(crate) metrics: Arc<Metrics>,
    /// Entries that stay in memory behind a snapshot.
    pub(crate) catchup_entries: u64,
    /// The database's file, to name it.
    pub(crate) db_path: std::path::PathBuf,
    /// The version that the member stands for.
    pub(crate) version: machine::Version,
}

impl Committer {
    /// Runs until the apply stage is gone and all that it handed over is done.
    pub(crate) fn run(self) -> Result<(), CommitFailure> {
        let mut batch = VecDeque::new();
        loop {
            if self.inbox.take(&mut batch, None) == Wait::Closed {
                return Ok(());
            }
            for work in batch.drain(..) {
                self.carry_out(work)?;
                self.heart.send_all([heart::Work::Apply(apply::Work::JobEnded)]);
            }
        }
    }

    fn carry_out(&self, work: Work) -> Result<(), CommitFailure> {
        match work {
            Work::Commit { job, then } => {
                self.commit(job)?;
                for after in then {
                    match after {
                        AfterCommit::Snapshot(point) => self.save_snapshot(point)?,
                        AfterCommit::Installed(index) => {
                            wal::snap::remove_orphan_dbs(&self.snap_dir, index.0)?;
                        }
                        // Whoever has gone needs no answer.
                        AfterCommit::Reply(reply) => drop(reply.send(())),
                        AfterCommit::Send { receivers, point } => {
                            self.send_state(receivers, &point);
                        }
                    }
                }
            }
            Work::Defragment { job, reply } => {
                tracing::info!("starting defragment");
                let metrics = &self.metrics.committing;
                let start = Instant::now();
                told::defragmenting(&self.db_path, self.backend.view().size());
                let result = {
                    let _running = metrics.defragmenting.enter();
                    job.run()
                };
                metrics.defrag.observe(start.elapsed());
                if let Ok(stats) = &result {
                    told::defragmented(&self.db_path, stats, start.elapsed());
                    tracing::info!("finished defragment");
                }
                // One that failed before it swapped the files left all as it was; else the next commit fails.
                let _ = reply.send(result.map_err(|error| error.to_string()));
            }
        }
        Ok(())
    }

    fn commit(&self, job: CommitJob) -> Result<(), CommitFailure> {
        let start = Instant::now();
        let stats = job.run_timed(&|| start.elapsed())?;
        let metrics = &self.metrics.committing;
        let took = start.elapsed();
        metrics.commit.observe(took);
        tracing::debug!(took = told::go_duration(took), "committed to the database");
        metrics.rebalance.observe(stats.times.rebalance);
        metrics.spill.observe(stats.times.spill);
        metrics.write.observe(stats.times.write);
        Ok(())
    }

    /// Sends the committed state, under the index that it stands for instead of the one that consensus remembered.
    fn send_state(&self, receivers: Vec<raft::Message>, point: &SnapshotPoint) {
        let snapshot = raft::codec::snapshot_from_proto(point.to_snapshot());
        for message in receivers {
            let body = raft::Body::Snapshot(Box::new(snapshot.clone()));
            let message = raft::Message { body, ..message };
            self.peers.send_snapshot(message, self.backend.view().snapshot());
        }
    }

    /// The file first, then the record that vouches for it (and only then do older files go, see [`super::log_writer`]);
    /// last, the log's memory lets go of what the snapshot covers.
    fn save_snapshot(&self, point: SnapshotPoint) -> Result<(), CommitFailure> {
        self.metrics.committing.save_snapshot(&self.snap_dir, &point.to_snapshot())?;
        let SnapshotPoint { index, term, conf_state, document } = point;
        if self.version.minor < 6 {
            tracing::info!(snapshot_index = index.0, "saved snapshot");
        } else {
            tracing::info!(snapshot_index = index.0, "saved snapshot to disk");
        }
        let record = walpb::Snapshot { index: index.0, term, conf_state: Some(conf_state.clone()) };
        let compact = LogIndex(index.0.saturating_sub(self.catchup_entries).max(1));
        if self.version.minor < 6 {
            tracing::info!(compact_index = compact.0, "compacted Raft logs");
        } else {
            tracing::debug!(compact_index = compact.0, "compacted Raft logs");
        }
        let taken = Input::SnapshotTaken {
            index,
            conf_state: from_record(&conf_state),
            data: document,
            compact,
        };
        self.heart.send_all([heart::Work::SnapshotSaved(record), heart::Work::Replica(taken)]);
        Ok(())
    }
}

/// The configuration as the raft core knows it.
pub(crate) fn from_record(state: &raftpb::ConfState) -> ConfState {
    raft::codec::conf_state_from_proto(state.clone())
}
