//! A log on a disk: what is durable, and what a crash keeps of the rest.
//!
//! Writes become durable in the order in which they were made. A crash keeps the durable ones, any number of those that
//! follow, and perhaps a part of the one behind: some entries, without the hard state that stands behind them in the log.

use std::collections::VecDeque;

use raft::{Append, Entry, HardState, Snapshot};

use super::plant::Plant;
use crate::rng::Stream;

/// A write on its way.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) kind: Kind,
    /// When it is done: durable if it is one to be synced.
    pub(super) done_at_us: u64,
}

/// What is written.
#[derive(Debug)]
pub(super) enum Kind {
    /// What raft asked for.
    Append(Append),
    /// A snapshot that this node took.
    Snapshot(Snapshot),
}

/// What survives.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) hard_state: HardState,
    pub(super) snapshot: Snapshot,
    /// Behind the snapshot.
    pub(super) entries: VecDeque<Entry>,
    /// Written and not synced: a commit index that moved.
    cached: Option<HardState>,
}

/// What a crash did.
#[derive(Debug, Default)]
pub(super) struct Damage {
    pub(super) unsynced_entries: usize,
    pub(super) lost_writes: usize,
    pub(super) is_torn: bool,
    pub(super) lost_commit: bool,
}

impl Disk {
    pub(super) fn last_index(&self) -> u64 {
        self.snapshot.metadata.index.0 + self.entries.len() as u64
    }

    /// Whether it has the entry, or a snapshot that covers it.
    pub(super) fn holds(&self, index: u64, term: u64) -> bool {
        let first = self.snapshot.metadata.index.0;
        if index <= first {
            return true;
        }
        let place = usize::try_from(index - first - 1).unwrap_or(usize::MAX);
        self.entries.get(place).is_some_and(|entry| entry.term.0 == term)
    }

    /// Carries out a write.
    pub(super) fn apply(&mut self, kind: &Kind, plant: Plant) {
        match kind {
            Kind::Append(append) => {
                if let Some(state) = append.hard_state {
                    if !append.must_sync {
                        self.cached = Some(self.as_written(state, plant));
                        return;
                    }
                } else if !append.must_sync {
                    return;
                }
                self.sync();
                if let Some(snapshot) = &append.snapshot {
                    self.receive(snapshot, plant);
                }
                self.write_entries(&append.entries, plant);
                if let Some(state) = append.hard_state {
                    self.hard_state = self.as_written(state, plant);
                }
            }
            Kind::Snapshot(snapshot) => {
                self.sync();
                let index = snapshot.metadata.index.0;
                if index > self.snapshot.metadata.index.0 {
                    let covered = index - self.snapshot.metadata.index.0;
                    let covered = usize::try_from(covered).unwrap_or(usize::MAX);
                    self.entries.drain(..covered.min(self.entries.len()));
                    self.snapshot = snapshot.clone();
                }
            }
        }
    }

    fn sync(&mut self) {
        if let Some(state) = self.cached.take() {
            self.hard_state = state;
        }
    }

    fn as_written(&self, mut state: HardState, plant: Plant) -> HardState {
        match plant {
            Plant::VoteNotPersisted => state.vote = raft::NodeId::NONE,
            Plant::TermNotPersisted if self.hard_state.term.0 > 0 => {
                state.term = self.hard_state.term;
                state.vote = self.hard_state.vote;
            }
            _ => {}
        }
        state
    }

    fn receive(&mut self, snapshot: &Snapshot, plant: Plant) {
        if plant != Plant::SnapshotKeepsLog {
            self.entries.clear();
        }
        self.snapshot = snapshot.clone();
    }

    fn write_entries(&mut self, entries: &[Entry], plant: Plant) {
        for entry in entries {
            let Some(place) = entry.index.0.checked_sub(self.snapshot.metadata.index.0 + 1) else {
                // A snapshot of this node's own covers it meanwhile.
                continue;
            };
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            if plant == Plant::OverwriteKeepsTail && place < self.entries.len() {
                self.entries[place] = entry.clone();
                continue;
            }
            self.entries.truncate(place);
            self.entries.push_back(entry.clone());
        }
    }

    /// The power goes.
    pub(super) fn crash(
        &mut self,
        writes: &VecDeque<Write>,
        now_us: u64,
        plant: Plant,
        rng: &mut Stream,
    ) -> Damage {
        let certain = writes.iter().take_while(|write| write.done_at_us <= now_us).count();
        let at_risk = writes.len() - certain;
        let lucky = match rng.below(4) {
            0 => 0,
            1 => at_risk,
            _ => usize::try_from(rng.below(at_risk as u64 + 1)).unwrap_or(0),
        };
        let kept = certain + lucky;
        let mut damage = Damage { lost_writes: writes.len() - kept, ..Damage::default() };
        for write in writes.iter().skip(certain) {
            if let Kind::Append(append) = &write.kind {
                damage.unsynced_entries += append.entries.len();
            }
        }
        for write in writes.iter().take(kept) {
            self.apply(&write.kind, plant);
        }
        if let Some(Write { kind: Kind::Append(append), .. }) = writes.get(kept)
            && append.snapshot.is_none()
            && append.entries.len() > 1
            && rng.percent(50)
        {
            damage.is_torn = true;
            let part = 1 + rng.below(append.entries.len() as u64 - 1);
            self.sync();
            self.write_entries(&append.entries[..usize::try_from(part).unwrap_or(1)], plant);
        }
        if rng.percent(50) {
            self.sync();
        } else if self.cached.take().is_some() {
            damage.lost_commit = true;
        }
        damage
    }
}
