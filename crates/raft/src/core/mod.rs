//! The state machine of one member: what it holds, how time and messages reach it.
//!
//! This file decides: which message goes to which part, and what a term in a message means. The parts compute, one
//! concern a file:
//!
//! | file | concern |
//! | --- | --- |
//! | `check` | what no correct peer sends |
//! | `election` | timeouts, campaigns, votes, changes of role |
//! | `propose` | taking or forwarding proposals |
//! | `append` | replicating the log, heartbeats, committing |
//! | `snapshot` | followers that are too far behind |
//! | `read` | linearizable reads |
//! | `membership` | configuration changes, bootstrap |
//! | `transfer` | handing leadership over |
//! | `ready` | work for the driver, and its confirmation |

use std::fmt;

use bytes::Bytes;

use crate::{
    confchange,
    config::{CompatMode, Config},
    error::{ConfigError, StepError},
    log::RaftLog,
    message::{Body, Message, MessageKind, VoteRequest},
    progress::Progress,
    read_only::{ReadOnly, ReadRequest},
    ready::SelfAck,
    storage::Storage,
    trace::trace,
    tracker::{Configuration, Tracker},
    types::{
        BasicStatus, ConfState, HardState, LogIndex, NodeId, ReadState, Role, SoftState, Term,
    },
};

mod append;
mod check;
mod election;
mod membership;
mod propose;
mod read;
mod ready;
mod snapshot;
mod transfer;

pub use membership::{Peer, bootstrap_entries};

/// One member's consensus. The [crate documentation](crate) shows how to drive it.
pub struct Core<S> {
    config: Config,

    term: Term,
    vote: NodeId,
    role: Role,
    leader: NodeId,
    is_learner: bool,

    log: RaftLog<S>,
    tracker: Tracker,
    /// The last snapshot that replaced log and configuration. Changes up to it are in the configuration already.
    restored_index: LogIndex,

    /// For others, to be sent at once.
    messages: Vec<Message>,
    /// What is still to be sent to all followers with the next ready: one message each for any number of causes.
    unsent: Unsent,
    /// For others, to be sent when everything that is not stable now has become durable.
    after_append: Vec<Message>,
    /// For this member, to be stepped at the same point.
    self_acks: Vec<SelfAck>,

    /// Ticks since the leader was heard of; on the leader, since the last check of the quorum.
    election_elapsed: u32,
    /// Ticks since the last heartbeat was sent.
    heartbeat_elapsed: u32,
    /// Ticks after which this member campaigns: drawn anew at each change of role.
    election_timeout: u32,

    /// To whom leadership is being handed.
    transferee: NodeId,
    /// No configuration change is in the log behind this index. A new one is taken only when it is applied.
    pending_conf_index: LogIndex,
    /// Payload bytes that this leader appended and that are not known to be applied. An estimate that never exceeds the
    /// truth: what earlier leaders left is not in it.
    uncommitted_bytes: u64,

    reads: ReadOnly,
    /// Requests that came before this leader committed anything.
    early_reads: Vec<ReadRequest>,
    read_states: Vec<ReadState>,

    /// Set when the leader proved that this member's log lost entries.
    lost_log: Option<StepError>,

    ready: ready::Bookkeeping,
}

/// Broadcasts that wait for the next ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unsent {
    /// Entries were proposed.
    entries: bool,
    /// Reads wait for a round of heartbeats.
    heartbeat: bool,
}

impl<S: Storage> Core<S> {
    /// Starts a member on what its storage holds.
    ///
    /// # Errors
    /// Fails if the settings make no sense, or if storage contradicts itself or `config.applied`.
    pub fn new(mut config: Config, storage: S) -> Result<Self, ConfigError> {
        config.validate()?;
        let (hard_state, conf_state) = storage.initial_state();
        let log = RaftLog::new(storage, config.max_applying_bytes, config.trace.clone());
        let tracker = Tracker::new(config.max_inflight_messages, config.max_inflight_bytes);
        let restored = confchange::restore(&tracker, log.last_index(), &conf_state)?;

        let mut core = Self {
            term: Term::ZERO,
            vote: NodeId::NONE,
            role: Role::Follower,
            leader: NodeId::NONE,
            is_learner: false,
            log,
            tracker,
            restored_index: LogIndex::ZERO,
            messages: Vec::new(),
            unsent: Unsent::default(),
            after_append: Vec::new(),
            self_acks: Vec::new(),
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: config.election_ticks,
            transferee: NodeId::NONE,
            pending_conf_index: LogIndex::ZERO,
            uncommitted_bytes: 0,
            reads: ReadOnly::new(config.read_mode),
            early_reads: Vec::new(),
            read_states: Vec::new(),
            lost_log: None,
            ready: ready::Bookkeeping::default(),
            config,
        };
        core.switch_to(restored);
        if !hard_state.is_empty() {
            core.load(hard_state)?;
        }
        let applied = core.config.applied;
        if applied > LogIndex::ZERO {
            // What was applied was committed. The commit index on disk may lag behind a state machine that syncs more
            // often than it.
            let (first, last) = (core.log.applied, core.log.last_index());
            if applied < first || last < applied {
                return Err(ConfigError::AppliedOutOfRange { applied, first, last });
            }
            core.log.commit_to(applied);
            core.log.applied_to(applied, 0);
        }
        core.become_follower(core.term, NodeId::NONE);

        let last = core.log.last_id();
        trace!(
            core.config.trace,
            Info,
            "newRaft {} [peers: [{}], term: {}, commit: {}, applied: {}, lastindex: {}, lastterm: {}]",
            core.config.id,
            core.tracker
                .config
                .voters
                .ids()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(","),
            core.term,
            core.log.committed,
            core.log.applied,
            last.index,
            last.term
        );
        core.ready.start(core.soft_state(), core.hard_state());
        Ok(core)
    }

    fn load(&mut self, stored: HardState) -> Result<(), ConfigError> {
        let (first, last) = (self.log.committed, self.log.last_index());
        if stored.commit < first || last < stored.commit {
            return Err(ConfigError::CommitOutOfRange {
                id: self.config.id,
                commit: stored.commit,
                first,
                last,
            });
        }
        self.log.committed = stored.commit;
        self.term = stored.term;
        self.vote = stored.vote;
        Ok(())
    }

    /// Returns the stable log.
    pub fn storage(&self) -> &S {
        &self.log.storage
    }

    /// Returns the stable log for the driver to append to, before it calls [`Core::persisted`] or [`Core::advance`].
    ///
    /// In asynchronous mode it may append as early as it takes an [`Append`](crate::Append): what is not confirmed is
    /// never read from storage. Appends must keep their order.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.log.storage
    }

    /// Returns this member.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Returns the current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Returns the current role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// Returns the leader, or [`NodeId::NONE`] while it is not known.
    pub fn leader(&self) -> NodeId {
        self.leader
    }

    /// Returns whether this member receives the log without voting.
    pub fn is_learner(&self) -> bool {
        self.is_learner
    }

    /// Returns the commit index.
    pub fn commit(&self) -> LogIndex {
        self.log.committed
    }

    /// Returns how far the state machine is confirmed to have applied.
    pub fn applied_index(&self) -> LogIndex {
        self.log.applied
    }

    /// Returns the last index of the log, stable or not.
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// Returns the first index of the log that is not compacted.
    pub fn first_index(&self) -> LogIndex {
        self.log.first_index()
    }

    /// Returns term, vote and commit index as of now.
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed }
    }

    /// Returns leader and role as of now.
    pub fn soft_state(&self) -> SoftState {
        SoftState { leader: self.leader, role: self.role }
    }

    /// Returns the active configuration in the form that snapshots hold.
    pub fn conf_state(&self) -> ConfState {
        self.tracker.conf_state()
    }

    /// Returns the active configuration.
    pub fn configuration(&self) -> &Configuration {
        &self.tracker.config
    }

    /// Returns whether this member decides alone. A group with one voter is not enough for that: it may be another one,
    /// and this member a leader that was removed and does not know yet that the other has elected itself.
    pub fn is_sole_voter(&self) -> bool {
        self.tracker.config.voters.is_singleton()
            && self.tracker.config.voters.contains(self.config.id)
    }

    /// Returns whether the leader has committed an entry of its own term, so that it knows everything that earlier
    /// leaders committed.
    pub fn has_committed_in_term(&self) -> bool {
        self.log.term_or_zero(self.log.committed) == self.term
    }

    /// Returns whether the leader found out that this member's log lost entries. The member takes no part any more.
    pub fn has_lost_log(&self) -> bool {
        self.lost_log.is_some()
    }

    /// Returns a summary.
    pub fn status(&self) -> BasicStatus {
        BasicStatus {
            id: self.config.id,
            hard_state: self.hard_state(),
            soft_state: self.soft_state(),
            applied: self.log.applied,
            transferee: self.transferee,
        }
    }

    /// Returns what the leader knows about each member, in id order, itself included. Empty unless this member leads.
    pub fn progress(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        let leads = self.is_leader();
        self.tracker.progress.iter().filter(move |_| leads).map(|(&id, progress)| (id, progress))
    }

    /// Moves the logical clock on by one tick.
    pub fn tick(&mut self) {
        match self.role {
            Role::Leader => self.tick_leader(),
            Role::Follower | Role::Candidate | Role::PreCandidate => self.tick_election(),
        }
    }

    /// Takes a message from another member.
    ///
    /// # Errors
    /// Returns why the message was not processed. A message that no correct peer sends changes nothing, except that a
    /// newer term in it may have been adopted. None of the errors ends the member; see each for what to do.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.check(&message)?;
        self.dispatch(message)
    }

    /// Takes a message from another member that was checked, or from this member itself.
    fn dispatch(&mut self, message: Message) -> Result<(), StepError> {
        if message.term > Term::ZERO && !self.accept_term(&message) {
            return Ok(());
        }
        let Message { from, term, body, .. } = message;
        match body {
            Body::Propose { entries } => self.handle_propose(from, entries),
            Body::Append { prev, entries, commit } => {
                if self.follow(term, from) {
                    self.handle_append(from, prev, entries, commit);
                }
                Ok(())
            }
            Body::AppendResponse { index, rejection: None } => self.handle_accepted(from, index),
            Body::AppendResponse { index, rejection: Some(rejection) } => {
                self.handle_rejected(from, index, rejection);
                Ok(())
            }
            Body::Snapshot(snapshot) => {
                if self.follow(term, from) {
                    self.handle_snapshot(from, *snapshot)?;
                }
                Ok(())
            }
            Body::Heartbeat { commit, context } => {
                if self.follow(term, from) {
                    self.handle_heartbeat(from, commit, context)?;
                }
                Ok(())
            }
            Body::HeartbeatResponse { context } => self.handle_heartbeat_response(from, &context),
            Body::Vote(request) => {
                self.handle_vote(MessageKind::Vote, from, term, request);
                Ok(())
            }
            Body::PreVote(request) => {
                self.handle_vote(MessageKind::PreVote, from, term, request);
                Ok(())
            }
            Body::VoteResponse { reject } => {
                self.handle_vote_response(MessageKind::VoteResponse, from, reject);
                Ok(())
            }
            Body::PreVoteResponse { reject } => {
                self.handle_vote_response(MessageKind::PreVoteResponse, from, reject);
                Ok(())
            }
            Body::TransferLeader => {
                self.handle_transfer(from);
                Ok(())
            }
            Body::TimeoutNow => {
                self.handle_timeout_now(from);
                Ok(())
            }
            Body::ReadIndex { context } => {
                self.handle_read_index(ReadRequest { from, context });
                Ok(())
            }
            Body::ReadIndexResponse { index, context } => {
                if self.role == Role::Follower {
                    self.read_states.push(ReadState { index, context });
                }
                Ok(())
            }
        }
    }

    /// Compares the message's term with ours. Returns whether the message is to be handled, in the same term from here
    /// on, or for pre-votes in a future one.
    fn accept_term(&mut self, message: &Message) -> bool {
        if message.term > self.term {
            self.accept_higher_term(message)
        } else if message.term < self.term {
            self.answer_lower_term(message);
            false
        } else {
            true
        }
    }

    fn accept_higher_term(&mut self, message: &Message) -> bool {
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

    fn answer_lower_term(&mut self, message: &Message) {
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
    fn is_in_lease(&self) -> bool {
        self.config.check_quorum
            && self.leader != NodeId::NONE
            && self.election_elapsed < self.config.election_ticks
    }

    /// Takes whoever speaks as the leader of this term speaks for it. Returns false if this member leads itself.
    fn follow(&mut self, term: Term, leader: NodeId) -> bool {
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

    /// Queues a message in the current term.
    fn send(&mut self, to: NodeId, body: Body) {
        let term = match body.kind() {
            // Forwarded as if they had been made at the leader.
            MessageKind::Propose | MessageKind::ReadIndex => Term::ZERO,
            MessageKind::Append
            | MessageKind::AppendResponse
            | MessageKind::Vote
            | MessageKind::VoteResponse
            | MessageKind::Snapshot
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResponse
            | MessageKind::TransferLeader
            | MessageKind::TimeoutNow
            | MessageKind::ReadIndexResponse
            | MessageKind::PreVote
            | MessageKind::PreVoteResponse => self.term,
        };
        self.queue(Message { to, from: self.config.id, term, body });
    }

    /// Queues a message. Answers that vouch for this member's state wait until that state is durable (thesis section
    /// 3.8); rejections wait too, which is more than they need, but they are rare.
    fn queue(&mut self, message: Message) {
        match message.body.kind() {
            MessageKind::AppendResponse
            | MessageKind::VoteResponse
            | MessageKind::PreVoteResponse => {
                let is_own = message.to == self.config.id;
                if self.config.compat == CompatMode::Hardened {
                    let previous = if is_own {
                        self.self_acks.last_mut().map(|ack| &mut ack.message)
                    } else {
                        self.after_append.last_mut()
                    };
                    if previous.is_some_and(|previous| absorb(previous, &message)) {
                        return;
                    }
                }
                if is_own {
                    self.self_acks.push(SelfAck { position: self.after_append.len(), message });
                } else {
                    self.after_append.push(message);
                }
            }
            MessageKind::Propose
            | MessageKind::Append
            | MessageKind::Vote
            | MessageKind::Snapshot
            | MessageKind::Heartbeat
            | MessageKind::HeartbeatResponse
            | MessageKind::TransferLeader
            | MessageKind::TimeoutNow
            | MessageKind::ReadIndex
            | MessageKind::ReadIndexResponse
            | MessageKind::PreVote => {
                assert!(message.to != self.config.id, "message to itself: {}", message.body.kind());
                self.messages.push(message);
            }
        }
    }

    /// Reports a decision on a vote.
    fn trace_vote(
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

    /// Takes a read request of this member. The answer comes in [`Ready::read_states`](crate::Ready::read_states) with
    /// the same context, or never: without a leader, or when messages are lost, the request is lost too. Ask again
    /// after a while, with a context never used before, as members older than etcd 3.7 need it to tell requests apart.
    pub fn read_index(&mut self, context: Bytes) {
        self.handle_read_index(ReadRequest { from: NodeId::NONE, context });
    }
}

/// Shows what decides the behaviour from here on, storage and settings apart.
impl<S> fmt::Debug for Core<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("id", &self.config.id)
            .field("term", &self.term)
            .field("vote", &self.vote)
            .field("role", &self.role)
            .field("leader", &self.leader)
            .field("log", &format_args!("{}", self.log))
            .field("tracker", &self.tracker)
            .field("restored_index", &self.restored_index)
            .field("messages", &self.messages)
            .field("unsent", &self.unsent)
            .field("after_append", &self.after_append)
            .field("self_acks", &self.self_acks)
            .field("election_elapsed", &self.election_elapsed)
            .field("heartbeat_elapsed", &self.heartbeat_elapsed)
            .field("election_timeout", &self.election_timeout)
            .field("transferee", &self.transferee)
            .field("pending_conf_index", &self.pending_conf_index)
            .field("uncommitted_bytes", &self.uncommitted_bytes)
            .field("reads", &self.reads)
            .field("early_reads", &self.early_reads)
            .field("read_states", &self.read_states)
            .field("lost_log", &self.lost_log)
            .field("ready", &self.ready)
            .finish_non_exhaustive()
    }
}

/// Makes the earlier of two acknowledgements stand for both, if they go to the same member in the same term: within a
/// term the leader never takes back what it sent.
fn absorb(earlier: &mut Message, later: &Message) -> bool {
    if earlier.to != later.to || earlier.term != later.term {
        return false;
    }
    let (
        Body::AppendResponse { index: earlier, rejection: None },
        Body::AppendResponse { index: later, rejection: None },
    ) = (&mut earlier.body, &later.body)
    else {
        return false;
    };
    *earlier = later.max(earlier).to_owned();
    true
}

#[cfg(test)]
mod tests;
