//! The log writer: owns the write-ahead log, and turns whatever gathered during one fdatasync into the next.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::{raftpb, walpb};
use raft::Append;
use replica::Input;
use vfs::Dir;
use wal::{Batch, Wal};

use super::mailbox::{Receiver, Sender, Wait};
use super::node::NodeInput;

/// What comes in.
#[derive(Debug)]
pub(crate) enum Work {
    /// A write.
    Append(Append),
    /// A snapshot file is complete: vouch for it in the log, and let old segments go.
    SnapshotSaved(walpb::Snapshot),
    /// The node loop has ended: make durable what is there, and end.
    Stop,
}

/// The log writer's belongings.
pub(crate) struct LogWriter {
    pub(crate) wal: Wal,
    /// Where the log's directory lies, and its name there.
    pub(crate) parent: Arc<dyn Dir>,
    pub(crate) name: String,
    pub(crate) segments_max: usize,
    pub(crate) inbox: Receiver<Work>,
    pub(crate) node: Sender<NodeInput>,
    /// Wakes the thread that makes the next segment ready.
    pub(crate) preallocate: Sender<()>,
}

impl LogWriter {
    /// Runs until the node loop is gone and everything it handed over is durable.
    pub(crate) fn run(mut self) -> Result<(), wal::Error> {
        let mut batch = VecDeque::new();
        let mut entries = Vec::new();
        let mut is_stopping = false;
        loop {
            if is_stopping || self.inbox.take(&mut batch, None) == Wait::Closed {
                return self.wal.close();
            }
            for work in &batch {
                match work {
                    Work::Append(append) => {
                        entries.clear();
                        entries.extend(append.entries.iter().map(to_record));
                        self.wal.stage(&Batch { entries: &entries, hard_state: append.hard_state.map(hard_state) });
                    }
                    Work::SnapshotSaved(snapshot) => {
                        self.commit()?;
                        self.vouch(snapshot)?;
                    }
                    Work::Stop => is_stopping = true,
                }
            }
            self.commit()?;
            let persisted = batch.drain(..).filter_map(|work| match work {
                Work::Append(append) => Some(NodeInput::Replica(Input::Persisted(append))),
                Work::SnapshotSaved(_) | Work::Stop => None,
            });
            self.node.send_all(persisted);
        }
    }

    fn commit(&mut self) -> Result<(), wal::Error> {
        if self.wal.commit()?.cut {
            self.preallocate.send_all([()]);
        }
        Ok(())
    }

    fn vouch(&mut self, snapshot: &walpb::Snapshot) -> Result<(), wal::Error> {
        self.wal.save_snapshot(snapshot)?;
        self.wal.release_to(snapshot.index);
        for name in wal::purge(&self.parent, &self.name, self.segments_max)? {
            tracing::info!(path = name, "purged");
        }
        Ok(())
    }
}

/// The entry as the log's records hold it; the payload is shared.
pub(crate) fn to_record(entry: &raft::Entry) -> raftpb::Entry {
    raft::codec::entry_to_proto(entry)
}

fn hard_state(state: raft::HardState) -> raftpb::HardState {
    raft::codec::hard_state_to_proto(&state)
}
