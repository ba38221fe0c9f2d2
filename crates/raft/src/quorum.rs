//! Majorities, and pairs of majorities while the configuration is joint.

use std::{collections::BTreeSet, fmt};

use crate::types::NodeId;

/// Groups up to this size are counted without allocating. etcd recommends at most seven voters.
const VOTERS_ON_STACK: usize = 7;

/// The outcome of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Votes that are still missing decide.
    Pending,
    /// A majority cannot be reached any more.
    Lost,
    /// A majority agreed.
    Won,
}

impl fmt::Display for VoteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "VotePending",
            Self::Lost => "VoteLost",
            Self::Won => "VoteWon",
        })
    }
}

/// Voters of whom more than half decide.
///
/// The empty set agrees to everything, so that half of a joint configuration may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Majority(pub BTreeSet<NodeId>);

impl Majority {
    /// Returns how many voters it takes.
    fn quorum(&self) -> usize {
        self.0.len() / 2 + 1
    }

    /// Returns the largest number that a majority has acknowledged; `u64::MAX` if there are no voters.
    ///
    /// `acked` gives what a voter acknowledged, if anything.
    pub fn acked_by_quorum(&self, acked: impl Fn(NodeId) -> Option<u64>) -> u64 {
        let count = self.0.len();
        if count == 0 {
            return u64::MAX;
        }
        let mut on_stack = [0u64; VOTERS_ON_STACK];
        let mut on_heap;
        let numbers = if let Some(numbers) = on_stack.get_mut(..count) {
            numbers
        } else {
            on_heap = vec![0u64; count];
            &mut on_heap[..]
        };
        for (number, &id) in numbers.iter_mut().zip(&self.0) {
            *number = acked(id).unwrap_or(0);
        }
        // In ascending order, the last `quorum` numbers belong to a majority; the first of those is what all of it has.
        numbers.sort_unstable();
        numbers[count - self.quorum()]
    }

    /// Returns how the vote stands; `vote` gives a voter's vote, if it was cast.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        if self.0.is_empty() {
            return VoteResult::Won;
        }
        let (mut granted, mut missing) = (0, 0);
        for &id in &self.0 {
            match vote(id) {
                Some(true) => granted += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        if granted >= self.quorum() {
            VoteResult::Won
        } else if granted + missing >= self.quorum() {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }
}

impl FromIterator<NodeId> for Majority {
    fn from_iter<I: IntoIterator<Item = NodeId>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl fmt::Display for Majority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_ids(f, &self.0)
    }
}

/// Prints `(1 2 a)`.
pub(crate) fn write_ids(f: &mut fmt::Formatter<'_>, ids: &BTreeSet<NodeId>) -> fmt::Result {
    f.write_str("(")?;
    for (place, id) in ids.iter().enumerate() {
        if place > 0 {
            f.write_str(" ")?;
        }
        write!(f, "{id}")?;
    }
    f.write_str(")")
}

/// Two majorities that must both agree. Outside a transition `outgoing` is empty and `incoming` decides alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joint {
    /// The configuration that is, or will be, in force.
    pub incoming: Majority,
    /// The configuration that is being left.
    pub outgoing: Majority,
}

impl Joint {
    /// Returns whether a transition is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.0.is_empty()
    }

    /// Returns whether exactly one voter decides everything.
    pub fn is_singleton(&self) -> bool {
        self.incoming.0.len() == 1 && !self.is_joint()
    }

    /// Returns whether the member votes in either half.
    pub fn contains(&self, id: NodeId) -> bool {
        self.incoming.0.contains(&id) || self.outgoing.0.contains(&id)
    }

    /// Returns all voters, in order.
    pub fn ids(&self) -> BTreeSet<NodeId> {
        self.incoming.0.union(&self.outgoing.0).copied().collect()
    }

    /// Returns the largest number that both majorities have acknowledged.
    pub fn acked_by_quorum(&self, acked: impl Fn(NodeId) -> Option<u64>) -> u64 {
        self.incoming.acked_by_quorum(&acked).min(self.outgoing.acked_by_quorum(&acked))
    }

    /// Returns how the vote stands: both majorities have to win it, either can lose it.
    pub fn vote_result(&self, vote: impl Fn(NodeId) -> Option<bool>) -> VoteResult {
        match (self.incoming.vote_result(&vote), self.outgoing.vote_result(&vote)) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            (VoteResult::Pending, _) | (_, VoteResult::Pending) => VoteResult::Pending,
        }
    }
}

impl fmt::Display for Joint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.incoming)?;
        if self.is_joint() {
            write!(f, "&&{}", self.outgoing)?;
        }
        Ok(())
    }
}
