//! The state machine of one member: what it holds, how time and messages reach it.
//!
//! This file decides which message goes to which part. The parts compute, one concern a file:
//!
//! | file | concern |
//! | --- | --- |
//! | `terms` | what the term of a message means |
//! | `check` | what no correct peer sends |
//! | `election` | timeouts, campaigns, votes, changes of role |
//! | `propose` | taking or forwarding proposals |
//! | `append` | replicating the log, heartbeats, committing |
//! | `snapshot` | followers that are too far behind |
//! | `read` | linearizable reads |
//! | `membership` | configuration changes, bootstrap |
//! | `transfer` | handing leadership over |
//! | `outbox` | when a message may leave |
//! | `ready` | work for the driver, and its confirmation |
//! | `inspect` | looking at it from outside |

use crate::{
    confchange,
    config::Config,
    error::{ConfigError, StepError},
    log::RaftLog,
    message::{Body, Message, MessageKind},
    read_only::{ReadOnly, ReadRequest},
    ready::SelfAck,
    storage::Storage,
    trace::trace,
    tracker::Tracker,
    types::{HardState, LogIndex, NodeId, ReadState, Role, Term},
};

mod append;
mod check;
mod election;
mod inspect;
mod membership;
mod outbox;
mod propose;
mod read;
mod ready;
mod snapshot;
mod terms;
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
    unsent: outbox::Unsent,
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
            unsent: outbox::Unsent::default(),
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
}

#[cfg(test)]
mod tests;
