//! Linearizable reads without the log.
//!
//! The leader notes its commit index for each request, and answers once a quorum has confirmed, after the request came,
//! that it still leads. Requests are counted; each heartbeat carries the count so far, and a follower's echo of it
//! vouches for all requests counted until then:
//!
//! ```text
//!   requests   1   2   3   4          follower acknowledged   A: 3   B: 2   leader: 4
//!   confirmed ─────►│                 a quorum of three acknowledged 3 => requests 1..=3 are confirmed
//! ```
//!
//! The count belongs to one term of one leader and never repeats within it, so a delayed or duplicated echo cannot
//! vouch for a request that came after it. (Using the clients' own contexts here let a retried context be confirmed by
//! the echo of its first attempt: etcd #20418.)
//!
//! Upstream: read_only.go (3.7).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{
    config::ReadMode,
    quorum::Joint,
    types::{LogIndex, NodeId},
};

/// Most read requests that wait at once. A member asks again for what was dropped; etcd has one request per member under
/// way, so only an attacker gets near.
pub(crate) const WAITING_READS_MAX: usize = 16 * 1024;

/// A request for a read index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadRequest {
    /// Who asks; [`NodeId::NONE`] for the leader itself.
    pub(crate) from: NodeId,
    /// Names the request towards whoever asks.
    pub(crate) context: Bytes,
}

/// Requests that wait for a quorum. Lives for one term.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    pub(crate) mode: ReadMode,
    /// The highest count that each member echoed.
    acks: BTreeMap<NodeId, u64>,
    waiting: VecDeque<(ReadRequest, LogIndex)>,
    /// How many requests were answered and removed from `waiting`.
    confirmed: u64,
    /// The count that the last heartbeats carried.
    asked: u64,
}

impl ReadOnly {
    pub(crate) fn new(mode: ReadMode) -> Self {
        Self { mode, acks: BTreeMap::new(), waiting: VecDeque::new(), confirmed: 0, asked: 0 }
    }

    /// Forgets everything, for a new term.
    pub(crate) fn reset(&mut self) {
        self.acks.clear();
        self.waiting.clear();
        self.confirmed = 0;
        self.asked = 0;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_READS_MAX
    }

    /// Notes a request that came while the commit index was `index`.
    pub(crate) fn add(&mut self, index: LogIndex, request: ReadRequest) {
        self.waiting.push_back((request, index));
    }

    /// Returns how many requests were ever counted.
    pub(crate) fn issued(&self) -> u64 {
        self.confirmed + self.waiting.len() as u64
    }

    /// Returns the context for heartbeats that are about to be sent: the count, or nothing while nobody waits.
    pub(crate) fn heartbeat_context(&mut self) -> Bytes {
        if self.waiting.is_empty() {
            return Bytes::new();
        }
        self.asked = self.issued();
        Bytes::copy_from_slice(&self.asked.to_le_bytes())
    }

    /// Whether somebody waits, and no heartbeats are under way whose echo will say something new. What is lost of those is
    /// made good by the regular ones.
    pub(crate) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.asked <= self.confirmed
    }

    /// Notes that a member echoed `count`, or that the leader itself vouches for it.
    pub(crate) fn acknowledge(&mut self, from: NodeId, count: u64) {
        let acked = self.acks.entry(from).or_default();
        *acked = count.max(*acked);
    }

    /// Removes and returns the requests that a quorum has confirmed.
    pub(crate) fn advance(
        &mut self,
        voters: &Joint,
    ) -> impl Iterator<Item = (ReadRequest, LogIndex)> + use<> {
        let confirmed = voters.acked_by_quorum(|id| self.acks.get(&id).copied()).min(self.issued());
        let count = usize::try_from(confirmed.saturating_sub(self.confirmed)).unwrap_or(usize::MAX);
        self.confirmed = self.confirmed.max(confirmed);
        let rest = self.waiting.split_off(count.min(self.waiting.len()));
        std::mem::replace(&mut self.waiting, rest).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: &'static str) -> ReadRequest {
        ReadRequest { from: NodeId::NONE, context: Bytes::from_static(name.as_bytes()) }
    }

    fn voters(ids: &[u64]) -> Joint {
        Joint {
            incoming: ids.iter().copied().map(NodeId).collect(),
            outgoing: std::iter::empty().collect(),
        }
    }

    fn confirmed(reads: &mut ReadOnly, voters: &Joint) -> Vec<Bytes> {
        reads.advance(voters).map(|(request, _)| request.context).collect()
    }

    #[test]
    fn an_echo_vouches_only_for_what_was_counted_before_it() {
        let mut reads = ReadOnly::new(ReadMode::Safe);
        let voters = voters(&[1, 2, 3]);
        assert!(reads.heartbeat_context().is_empty());
        reads.add(LogIndex(5), request("a"));
        assert_eq!(&reads.heartbeat_context()[..], 1u64.to_le_bytes());
        reads.acknowledge(NodeId(1), 1);
        assert!(confirmed(&mut reads, &voters).is_empty());
        reads.add(LogIndex(6), request("b"));
        reads.acknowledge(NodeId(1), 2);
        reads.acknowledge(NodeId(2), 1);
        assert_eq!(confirmed(&mut reads, &voters), ["a"]);
        // The same echo once more, and one from a member that does not vote.
        reads.acknowledge(NodeId(2), 1);
        reads.acknowledge(NodeId(9), 2);
        assert!(confirmed(&mut reads, &voters).is_empty());
        reads.acknowledge(NodeId(3), 2);
        assert_eq!(confirmed(&mut reads, &voters), ["b"]);
        assert!(reads.heartbeat_context().is_empty());
        reads.add(LogIndex(7), request("c"));
        assert_eq!(&reads.heartbeat_context()[..], 3u64.to_le_bytes());
    }

    #[test]
    fn one_round_is_under_way_at_a_time() {
        let mut reads = ReadOnly::new(ReadMode::Safe);
        let voters = voters(&[1, 2, 3]);
        assert!(!reads.wants_round());
        reads.add(LogIndex(5), request("a"));
        assert!(reads.wants_round());
        let _ = reads.heartbeat_context();
        reads.add(LogIndex(5), request("b"));
        assert!(!reads.wants_round(), "the echo is awaited");
        reads.acknowledge(NodeId(1), 2);
        reads.acknowledge(NodeId(2), 1);
        assert_eq!(confirmed(&mut reads, &voters), ["a"]);
        assert!(reads.wants_round(), "for the second");
        let _ = reads.heartbeat_context();
        reads.acknowledge(NodeId(3), 2);
        assert_eq!(confirmed(&mut reads, &voters), ["b"]);
        assert!(!reads.wants_round());
    }
}
