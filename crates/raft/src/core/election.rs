//! Elections: timeouts, campaigns, votes, and what a change of role resets.
//!
//! ```text
//!              timeout            quorum would          quorum does
//!   Follower ──────────► PreCandidate ──────► Candidate ──────────► Leader
//!      ▲                      │                   │                   │
//!      └── leader or newer term heard of, or election lost ───────────┘
//! ```
//!
//! Without PreVote, and when the leader itself asks (TimeoutNow), the first step is left out.

use super::{Core, outbox::Unsent};
use crate::{
    config::CompatMode,
    error::StepError,
    message::{Body, Message, MessageKind, VoteRequest},
    progress::Progress,
    quorum::VoteResult,
    storage::Storage,
    trace::trace,
    types::{Entry, LogIndex, NodeId, Role, Term},
};

/// How a campaign begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Campaign {
    /// Asks first, in the present term.
    PreElection,
    /// Raises the term and asks for votes.
    Election,
    /// The same, on behalf of the leader, whose lease voters then disregard.
    Transfer,
}

impl<S: Storage> Core<S> {
    /// Campaigns now, whatever the time. Does nothing on a leader, and on a member that may not lead.
    pub fn campaign(&mut self) {
        self.start_campaign(if self.config.pre_vote {
            Campaign::PreElection
        } else {
            Campaign::Election
        });
    }

    /// Forgets the leader without waiting for its lease to run out, so that this member may vote for another at once.
    /// The driver knows that the leader is gone. Does nothing unless this member follows one.
    pub fn forget_leader(&mut self) {
        if self.role != Role::Follower {
            return;
        }
        if self.config.read_mode == crate::ReadMode::LeaseBased {
            // The leader answers reads because its followers promised not to vote for a while.
            trace!(self.config.trace, Error, "ignoring MsgForgetLeader due to ReadOnlyLeaseBased");
        } else if self.leader != NodeId::NONE {
            trace!(
                self.config.trace,
                Info, "{} forgetting leader {} at term {}", self.config.id, self.leader, self.term
            );
            self.leader = NodeId::NONE;
        }
    }

    /// Replaces the jittered election timeout until the next change of role. For tests that script elections.
    #[doc(hidden)]
    pub fn set_election_timeout(&mut self, ticks: u32) {
        self.election_timeout = ticks;
    }

    pub(super) fn tick_election(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.is_promotable() && self.election_elapsed >= self.election_timeout {
            self.election_elapsed = 0;
            self.campaign();
        }
    }

    pub(super) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if self.config.check_quorum {
                self.check_quorum();
            }
            // A transfer that takes longer than an election has failed.
            self.transferee = NodeId::NONE;
        }
        if self.role == Role::Leader && self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
    }

    /// Steps down if no quorum was heard of since the last check.
    fn check_quorum(&mut self) {
        if !self.tracker.quorum_active() {
            trace!(
                self.config.trace,
                Warn, "{} stepped down to follower since quorum is not active", self.config.id
            );
            self.become_follower(self.term, NodeId::NONE);
        }
        for (&id, progress) in &mut self.tracker.progress {
            if id != self.config.id {
                progress.recent_active = false;
            }
        }
    }

    /// Returns whether this member may lead: a voter, not waiting for a snapshot to be written, its log sound.
    pub(super) fn is_promotable(&self) -> bool {
        let is_voter =
            self.tracker.progress.get(&self.config.id).is_some_and(|progress| !progress.is_learner);
        is_voter && self.log.unstable.snapshot().is_none() && self.lost_log.is_none()
    }

    pub(super) fn start_campaign(&mut self, campaign: Campaign) {
        let id = self.config.id;
        if self.role == Role::Leader {
            trace!(self.config.trace, Debug, "{id} ignoring MsgHup because already leader");
        } else if !self.is_promotable() {
            trace!(self.config.trace, Warn, "{id} is unpromotable and can not campaign");
        } else if self.log.has_unapplied_conf_change() {
            trace!(
                self.config.trace,
                Warn,
                "{id} cannot campaign at term {} since there are still pending configuration changes to apply",
                self.term
            );
        } else {
            trace!(
                self.config.trace,
                Info, "{id} is starting a new election at term {}", self.term
            );
            self.run_campaign(campaign);
        }
    }

    fn run_campaign(&mut self, campaign: Campaign) {
        let is_pre_vote = campaign == Campaign::PreElection;
        let term = if is_pre_vote {
            self.become_pre_candidate();
            self.term.next()
        } else {
            self.become_candidate();
            self.term
        };
        let last = self.log.last_id();
        for to in self.tracker.config.voters.ids() {
            if to == self.config.id {
                // Our own vote counts when it is durable, like anybody's.
                let body = if is_pre_vote {
                    Body::PreVoteResponse { reject: false }
                } else {
                    Body::VoteResponse { reject: false }
                };
                self.queue(Message { to, from: to, term, body });
                continue;
            }
            let request = VoteRequest { last, transfer: campaign == Campaign::Transfer };
            let body = if is_pre_vote { Body::PreVote(request) } else { Body::Vote(request) };
            trace!(
                self.config.trace,
                Info,
                "{} [logterm: {}, index: {}] sent {} request to {to} at term {}",
                self.config.id,
                last.term,
                last.index,
                body.kind(),
                self.term
            );
            self.queue(Message { to, from: self.config.id, term, body });
        }
    }

    /// Answers a request for a vote in `term`, which is ours, or for pre-votes a future one.
    pub(super) fn handle_vote(
        &mut self,
        kind: MessageKind,
        from: NodeId,
        term: Term,
        request: VoteRequest,
    ) {
        let is_pre_vote = kind == MessageKind::PreVote;
        let is_free = self.vote == from
            || (self.vote == NodeId::NONE && self.leader == NodeId::NONE)
            || (is_pre_vote && term > self.term);
        // Learners vote too: the candidate may know better that this member was promoted, and may need its vote to become
        // the leader that tells it so.
        let grant = is_free && self.log.is_up_to_date(request.last);
        self.trace_vote(
            if grant { "cast" } else { "rejected" },
            kind,
            from,
            &request,
            format_args!(""),
        );

        let reject = !grant;
        let body = if is_pre_vote {
            Body::PreVoteResponse { reject }
        } else {
            Body::VoteResponse { reject }
        };
        // Consent names the term that was asked about, which the candidate waits for. A refusal names ours.
        let term = if grant { term } else { self.term };
        self.queue(Message { to: from, from: self.config.id, term, body });
        if grant && !is_pre_vote {
            self.election_elapsed = 0;
            self.vote = from;
        }
        // Two that would both win and both stand split the votes, and nobody leads for another election time.
        let would_split = grant && is_pre_vote && self.role == Role::PreCandidate;
        if would_split && from > self.config.id && self.config.compat == CompatMode::Hardened {
            self.become_follower(self.term, NodeId::NONE);
        }
    }

    pub(super) fn handle_vote_response(&mut self, kind: MessageKind, from: NodeId, reject: bool) {
        let awaited = match self.role {
            Role::PreCandidate => MessageKind::PreVoteResponse,
            Role::Candidate => MessageKind::VoteResponse,
            Role::Follower | Role::Leader => return,
        };
        if kind != awaited {
            return;
        }
        let id = self.config.id;
        let rejection = if reject { " rejection" } else { "" };
        trace!(
            self.config.trace,
            Info, "{id} received {kind}{rejection} from {from} at term {}", self.term
        );
        self.tracker.record_vote(from, !reject);
        let (granted, rejected, result) = self.tracker.tally_votes();
        trace!(
            self.config.trace,
            Info, "{id} has received {granted} {kind} votes and {rejected} vote rejections"
        );
        match result {
            VoteResult::Pending => {}
            VoteResult::Lost => self.become_follower(self.term, NodeId::NONE),
            VoteResult::Won if self.role == Role::PreCandidate => {
                self.run_campaign(Campaign::Election)
            }
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append();
            }
        }
    }

    /// The leader wants this member to take over.
    pub(super) fn handle_timeout_now(&mut self, from: NodeId) {
        let id = self.config.id;
        match self.role {
            Role::Follower => {
                trace!(
                    self.config.trace,
                    Info,
                    "{id} [term {}] received MsgTimeoutNow from {from} and starts an election to get leadership.",
                    self.term
                );
                // No pre-vote: the leader knows that this member is up to date and connected.
                self.start_campaign(Campaign::Transfer);
            }
            Role::Candidate | Role::PreCandidate => trace!(
                self.config.trace,
                Debug,
                "{id} [term {} state {}] ignored MsgTimeoutNow from {from}",
                self.term,
                self.role
            ),
            Role::Leader => {}
        }
    }

    pub(super) fn become_follower(&mut self, term: Term, leader: NodeId) {
        self.reset(term);
        self.leader = leader;
        self.role = Role::Follower;
        trace!(self.config.trace, Info, "{} became follower at term {}", self.config.id, self.term);
    }

    fn become_candidate(&mut self) {
        assert!(self.role != Role::Leader, "invalid transition [leader -> candidate]");
        self.reset(self.term.next());
        self.vote = self.config.id;
        self.role = Role::Candidate;
        trace!(
            self.config.trace,
            Info, "{} became candidate at term {}", self.config.id, self.term
        );
    }

    /// Unlike the others this changes neither term nor vote, and no timer.
    fn become_pre_candidate(&mut self) {
        assert!(self.role != Role::Leader, "invalid transition [leader -> pre-candidate]");
        self.tracker.reset_votes();
        self.leader = NodeId::NONE;
        self.role = Role::PreCandidate;
        trace!(
            self.config.trace,
            Info, "{} became pre-candidate at term {}", self.config.id, self.term
        );
    }

    fn become_leader(&mut self) {
        assert!(self.role == Role::Candidate, "invalid transition [{} -> leader]", self.role);
        self.reset(self.term);
        self.leader = self.config.id;
        self.role = Role::Leader;
        if let Some(own) = self.tracker.progress.get_mut(&self.config.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        // There may be a configuration change somewhere in the log that is not applied. Looking for it costs more than
        // to wait until all of the log is applied before a new one is taken.
        self.pending_conf_index = self.log.last_index();
        let is_taken = self.append_own(vec![Entry::default()]);
        assert!(is_taken, "an empty entry weighs nothing and is never refused");
        trace!(self.config.trace, Info, "{} became leader at term {}", self.config.id, self.term);
    }

    /// Forgets what belongs to a term or a role.
    fn reset(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.vote = NodeId::NONE;
        }
        self.leader = NodeId::NONE;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        let ticks = self.config.election_ticks;
        self.election_timeout = ticks.saturating_add(self.config.rng.below(ticks));
        self.transferee = NodeId::NONE;
        self.tracker.reset_votes();
        let last = self.log.last_index();
        let inflights = self.tracker.new_inflights();
        for (&id, progress) in &mut self.tracker.progress {
            *progress = Progress::new(last.next(), progress.is_learner, inflights.clone());
            if id == self.config.id {
                progress.match_index = last;
            }
        }
        self.pending_conf_index = LogIndex::ZERO;
        self.uncommitted_bytes = 0;
        self.unsent = Unsent::default();
        self.reads.reset();
        self.early_reads.clear();
    }

    /// Notes that the leader proved this member's log to have lost entries, and refuses to take part from now on: a vote
    /// or an acknowledgement of a member that forgot one could undo a commit.
    pub(super) fn stop_taking_part(&mut self, error: StepError) -> StepError {
        trace!(self.config.trace, Error, "{} {error}", self.config.id);
        self.lost_log = Some(error.clone());
        error
    }
}
