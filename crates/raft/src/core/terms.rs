//! What the term of a message means (thesis section 3.3): a newer one deposes whoever led before, an older one is stale.
//! PreVote and CheckQuorum each need an exception.

use std::fmt;

use super::Core;
use crate::{
    message::{Body, Message, MessageKind, VoteRequest},
    storage::Storage,
    trace::trace,
    types::{LogIndex, NodeId, Role, Term},
};

impl<S: Storage> Core<S> {
    /// Compares the message's term with ours. Returns whether the message is to be handled, in the same term from here
    /// on, or for pre-votes in a future one.
    pub(super) fn accept_term(&mut self, message: &Message) -> bool {
        if message.term > self.term {
            self.accept_higher_term(message)
        } else if message.term < self.term {
            self.answer_lower_term(message);
            false
        } else {
            true
        }
    }

    pub(super) fn accept_higher_term(&mut self, message: &Message) -> bool {
        let Message { from, term, ref body, .. } = *message;
        if let Body::Vote(request) | Body::PreVote(request) = body
            && !request.transfer
            && self.is_in_lease()
        {
            self.trace_vote(
                "ignored",
                body.kind(),
                from,
                request,
                format_args!(
                    ": lease is not expired (remaining ticks: {})",
                    self.config.election_ticks - self.election_elapsed
                ),
            );
            return false;
        }
        let leader = match body {
            // A pre-vote is about a future term, and so is the consent to one: nobody has entered it yet.
            Body::PreVote(_) | Body::PreVoteResponse { reject: false } => return true,
            Body::Append { .. } | Body::Snapshot(_) | Body::Heartbeat { .. } => from,
            Body::Propose { .. }
            | Body::AppendResponse { .. }
            | Body::Vote(_)
            | Body::VoteResponse { .. }
            | Body::HeartbeatResponse { .. }
            | Body::TransferLeader
            | Body::TimeoutNow
            | Body::ReadIndex { .. }
            | Body::ReadIndexResponse { .. }
            | Body::PreVoteResponse { reject: true } => NodeId::NONE,
        };
        trace!(
            self.config.trace,
            Info,
            "{} [term: {}] received a {} message with higher term from {from} [term: {term}]",
            self.config.id,
            self.term,
            body.kind()
        );
        self.become_follower(term, leader);
        true
    }

    pub(super) fn answer_lower_term(&mut self, message: &Message) {
        let from = message.from;
        match &message.body {
            // A leader of the past, or one that we left behind while we were cut off. With CheckQuorum or PreVote our
            // votes are ignored while it leads, so only hearing of our term makes it stand for election again.
            Body::Append { .. } | Body::Heartbeat { .. }
                if self.config.check_quorum || self.config.pre_vote =>
            {
                self.send(from, Body::AppendResponse { index: LogIndex::ZERO, rejection: None });
            }
            // Members that learn PreVote one by one could otherwise wait for each other: a candidate that is behind in
            // term must hear of it.
            Body::PreVote(request) => {
                self.trace_vote("rejected", MessageKind::PreVote, from, request, format_args!(""));
                self.send(from, Body::PreVoteResponse { reject: true });
            }
            Body::Propose { .. }
            | Body::Append { .. }
            | Body::AppendResponse { .. }
            | Body::Vote(_)
            | Body::VoteResponse { .. }
            | Body::Snapshot(_)
            | Body::Heartbeat { .. }
            | Body::HeartbeatResponse { .. }
            | Body::TransferLeader
            | Body::TimeoutNow
            | Body::ReadIndex { .. }
            | Body::ReadIndexResponse { .. }
            | Body::PreVoteResponse { .. } => trace!(
                self.config.trace,
                Info,
                "{} [term: {}] ignored a {} message with lower term from {from} [term: {}]",
                self.config.id,
                self.term,
                message.body.kind(),
                message.term
            ),
        }
    }

    /// Returns whether a leader was heard of so recently that its followers do not vote for anybody else.
    pub(super) fn is_in_lease(&self) -> bool {
        self.config.check_quorum
            && self.leader != NodeId::NONE
            && self.election_elapsed < self.config.election_ticks
    }

    /// Takes whoever speaks as the leader of this term speaks for it. Returns false if this member leads itself.
    pub(super) fn follow(&mut self, term: Term, leader: NodeId) -> bool {
        match self.role {
            Role::Leader => return false,
            Role::Candidate | Role::PreCandidate => self.become_follower(term, leader),
            Role::Follower => {
                self.election_elapsed = 0;
                self.leader = leader;
            }
        }
        true
    }

    /// Reports a decision on a vote.
    pub(super) fn trace_vote(
        &self,
        verdict: &str,
        kind: MessageKind,
        from: NodeId,
        request: &VoteRequest,
        reason: fmt::Arguments<'_>,
    ) {
        let last = self.log.last_id();
        trace!(
            self.config.trace,
            Info,
            "{} [logterm: {}, index: {}, vote: {}] {verdict} {kind} {} {from} [logterm: {}, index: {}] at term {}{reason}",
            self.config.id,
            last.term,
            last.index,
            self.vote,
            if verdict == "cast" { "for" } else { "from" },
            request.last.term,
            request.last.index,
            self.term
        );
    }
}
