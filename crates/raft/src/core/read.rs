//! Linearizable reads: see [`crate::read_only`] for the counting.

use bytes::Bytes;

use super::Core;
use crate::{
    config::{CompatMode, ReadMode},
    error::StepError,
    message::{Body, Message},
    read_only::{ReadRequest, WAITING_READS_MAX},
    storage::Storage,
    trace::trace,
    types::{LogIndex, NodeId, ReadState, Role, Term},
};

impl<S: Storage> Core<S> {
    /// Takes a read request of this member. The answer comes in [`Ready::read_states`](crate::Ready::read_states) with
    /// the same context, or never: without a leader, or when messages are lost, the request is lost too. Ask again
    /// after a while, with a context never used before, as members older than etcd 3.7 need it to tell requests apart.
    pub fn read_index(&mut self, context: Bytes) {
        self.handle_read_index(ReadRequest { from: NodeId::NONE, context });
    }

    pub(super) fn handle_read_index(&mut self, request: ReadRequest) {
        match self.role {
            Role::Leader => self.take_read(request),
            Role::Follower if self.leader != NodeId::NONE => {
                let from = if request.from == NodeId::NONE { self.config.id } else { request.from };
                let body = Body::ReadIndex { context: request.context };
                self.queue(Message { to: self.leader, from, term: Term::ZERO, body });
            }
            Role::Follower | Role::Candidate | Role::PreCandidate => trace!(
                self.config.trace,
                Info,
                "{} no leader at term {}; dropping index reading msg",
                self.config.id,
                self.term
            ),
        }
    }

    fn take_read(&mut self, request: ReadRequest) {
        if self.config.compat == CompatMode::Upstream && self.tracker.config.voters.is_singleton() {
            self.answer_read(request, self.log.committed);
        } else if !self.has_committed_in_term() {
            // What earlier leaders committed, and even what this member itself acknowledged before it crashed, may lie
            // beyond the commit index that it knows of.
            if self.early_reads.len() < WAITING_READS_MAX {
                self.early_reads.push(request);
            }
        } else {
            self.start_reads([request]);
        }
    }

    /// Answers the requests that waited for the first commit of the term.
    pub(super) fn release_early_reads(&mut self) {
        if !self.early_reads.is_empty() && self.has_committed_in_term() {
            let requests = std::mem::take(&mut self.early_reads);
            self.start_reads(requests);
        }
    }

    /// Answers requests, or asks a quorum to confirm them all in one round.
    fn start_reads(&mut self, requests: impl IntoIterator<Item = ReadRequest>) {
        let index = self.log.committed;
        let needs_quorum = self.reads.mode == ReadMode::Safe && !self.is_sole_voter();
        for request in requests {
            if !needs_quorum {
                self.answer_read(request, index);
            } else if !self.reads.is_full() {
                self.reads.add(index, request);
            }
        }
        if needs_quorum {
            self.reads.acknowledge(self.config.id, self.reads.issued());
            if self.config.compat == CompatMode::Upstream {
                self.broadcast_heartbeat();
            } else {
                self.ask_for_reads();
            }
        }
    }

    /// Asks the quorum, unless it is being asked: those who come meanwhile share the next round.
    fn ask_for_reads(&mut self) {
        if self.config.compat == CompatMode::Hardened && self.reads.wants_round() {
            self.unsent.heartbeat = true;
        }
    }

    /// Returns the count in a heartbeat response, if it has one that matters.
    pub(super) fn read_count(
        &self,
        from: NodeId,
        context: &[u8],
    ) -> Result<Option<u64>, StepError> {
        if self.reads.mode != ReadMode::Safe || context.is_empty() {
            return Ok(None);
        }
        let malformed = StepError::Malformed { from, what: "heartbeat context was never sent" };
        match <[u8; 8]>::try_from(context).map(u64::from_le_bytes) {
            Ok(count) if count <= self.reads.issued() => Ok(Some(count)),
            Ok(_) | Err(_) => Err(malformed),
        }
    }

    /// Notes that a follower confirmed the leader after `count` requests, and answers those that a quorum confirmed.
    pub(super) fn confirm_reads(&mut self, from: NodeId, count: u64) {
        self.reads.acknowledge(from, count);
        self.answer_confirmed_reads();
    }

    /// Answers what a quorum of the present configuration has confirmed.
    pub(super) fn answer_confirmed_reads(&mut self) {
        for (request, index) in self.reads.advance(&self.tracker.config.voters) {
            self.answer_read(request, index);
        }
        self.ask_for_reads();
    }

    fn answer_read(&mut self, request: ReadRequest, index: LogIndex) {
        let ReadRequest { from, context } = request;
        if from == NodeId::NONE || from == self.config.id {
            self.read_states.push(ReadState { index, context });
        } else {
            self.send(from, Body::ReadIndexResponse { index, context });
        }
    }
}
