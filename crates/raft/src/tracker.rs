//! The group as this member sees it: the active configuration and each member's progress and vote.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Bound::{Excluded, Unbounded},
};

use crate::{
    inflights::Inflights,
    progress::Progress,
    quorum::{Joint, VoteResult, write_ids},
    types::{ConfState, LogIndex, NodeId},
};

/// Who takes part, and as what.
///
/// No member is voter and learner at once. A voter of the outgoing half that shall become a learner therefore waits in
/// `learners_next` until the joint configuration is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Who votes.
    pub voters: Joint,
    /// The leader ends the joint configuration by itself.
    pub auto_leave: bool,
    /// Who only receives the log.
    pub learners: BTreeSet<NodeId>,
    /// Who becomes a learner when the joint configuration is left.
    pub learners_next: BTreeSet<NodeId>,
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.voters)?;
        if !self.learners.is_empty() {
            f.write_str(" learners=")?;
            write_ids(f, &self.learners)?;
        }
        if !self.learners_next.is_empty() {
            f.write_str(" learners_next=")?;
            write_ids(f, &self.learners_next)?;
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}

/// The progress of all members, in id order.
pub type ProgressMap = BTreeMap<NodeId, Progress>;

/// Configuration, progress and votes.
#[derive(Clone, Debug)]
pub struct Tracker {
    /// The active configuration.
    pub config: Configuration,
    /// One for each member of the configuration.
    pub progress: ProgressMap,
    votes: BTreeMap<NodeId, bool>,
    inflight_messages_max: usize,
    inflight_bytes_max: u64,
}

impl Tracker {
    /// Returns a tracker of nobody.
    pub fn new(inflight_messages_max: usize, inflight_bytes_max: u64) -> Self {
        Self {
            config: Configuration::default(),
            progress: ProgressMap::new(),
            votes: BTreeMap::new(),
            inflight_messages_max,
            inflight_bytes_max,
        }
    }

    /// Returns a window with the configured limits.
    pub(crate) fn new_inflights(&self) -> Inflights {
        Inflights::new(self.inflight_messages_max, self.inflight_bytes_max)
    }

    /// Returns the active configuration in the form that snapshots hold.
    pub fn conf_state(&self) -> ConfState {
        fn list(ids: &BTreeSet<NodeId>) -> Vec<NodeId> {
            ids.iter().copied().collect()
        }
        ConfState {
            voters: list(&self.config.voters.incoming.0),
            learners: list(&self.config.learners),
            voters_outgoing: list(&self.config.voters.outgoing.0),
            learners_next: list(&self.config.learners_next),
            auto_leave: self.config.auto_leave,
        }
    }

    /// Returns the smallest member above `id`. Visits everybody without borrowing the tracker for the whole time:
    /// start from [`NodeId::NONE`].
    pub(crate) fn member_after(&self, id: NodeId) -> Option<NodeId> {
        self.progress.range((Excluded(id), Unbounded)).next().map(|(&id, _)| id)
    }

    /// Returns the last index that a quorum is known to hold. Means something on the leader only.
    pub(crate) fn quorum_index(&self) -> LogIndex {
        LogIndex(
            self.config.voters.acked_by_quorum(|id| {
                self.progress.get(&id).map(|progress| progress.match_index.0)
            }),
        )
    }

    /// Returns whether the leader has recently heard from a quorum.
    pub(crate) fn quorum_active(&self) -> bool {
        let active = |id| self.progress.get(&id).map(|progress| progress.recent_active);
        self.config.voters.vote_result(active) == VoteResult::Won
    }

    /// Starts an election.
    pub(crate) fn reset_votes(&mut self) {
        self.votes.clear();
    }

    /// Notes a vote. A member's first word counts.
    pub(crate) fn record_vote(&mut self, id: NodeId, granted: bool) {
        self.votes.entry(id).or_insert(granted);
    }

    /// Returns how many granted and how many rejected, and how the election stands.
    pub(crate) fn tally_votes(&self) -> (usize, usize, VoteResult) {
        let (mut granted, mut rejected) = (0, 0);
        for (id, progress) in &self.progress {
            match self.votes.get(id) {
                Some(_) if progress.is_learner => {}
                Some(true) => granted += 1,
                Some(false) => rejected += 1,
                None => {}
            }
        }
        (granted, rejected, self.config.voters.vote_result(|id| self.votes.get(&id).copied()))
    }
}
