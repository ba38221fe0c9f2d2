//! The order of things in one member: what is persisted before it is sent, sent before it counts, committed before it is
//! applied, and applied before it is read.
//!
//! [`Replica`] wraps the raft core and speaks in two closed enumerations. Whatever happens to the member comes in as an
//! [`Input`]; whatever has to be done comes out as an [`Effect`], which the caller carries out and whose end it reports as
//! another input. Nothing here blocks, reads a clock or starts a thread, so that the server and the simulator drive the same
//! code.
//!
//! ```text
//!  Propose ──► raft core ──► Persist ─────► (log writer) ──► Persisted ──┐
//!                 │  │                                                    │
//!                 │  └─────► Send ────────► (peers) ───────► Received ────┤
//!                 ▼                                                       ▼
//!               Apply ◄───────────────── committed ◄───────────────── raft core
//!                 └────────────────────► (state machine) ──► Applied
//! ```
//!
//! Invariants
//! - `Persist` effects are carried out in the order in which they come, and so are `Apply` effects;
//! - a message in [`Append::responses`] is in a `Send` only after that write is durable; what is in `Send` may leave at
//!   once (Raft thesis, section 10.2.1);
//! - a request that this member proposed reaches the state machine as the value that was proposed, without being decoded
//!   again, and only if the entry that committed is the very entry it was proposed as;
//! - [`Status::reads_locally`] is set only while a read of the applied state is linearizable without asking anybody.

mod proposed;

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::InternalRaftRequest;
use raft::{
    Append, Applied, Body, ConfChange, ConfChangeError, ConfChangeV2, ConfState, Config,
    ConfigError, Core, Entry, EntryId, HardState, LogIndex, MemoryStorage, Message, NodeId, Peer,
    Ready, Role, SharedTrace, Snapshot, SplitMix64, StepError, Storage as _, Term,
};

use proposed::Proposed;

/// What a member starts from.
pub struct Setup {
    /// This member.
    pub id: NodeId,
    /// What the log holds: its snapshot (only the metadata counts here), and the entries behind it.
    pub snapshot: Snapshot,
    /// Term, vote and commit index of the log.
    pub hard_state: HardState,
    /// The entries behind the snapshot.
    pub entries: Vec<Entry>,
    /// The last entry whose effect the state machine has already; entries up to it are not handed out again.
    pub applied: LogIndex,
    /// The founding members, if the log is new.
    pub bootstrap: Vec<Peer>,
    /// Ticks without a leader after which the member campaigns.
    pub election_ticks: u32,
    /// Whether to ask for votes before raising the term.
    pub pre_vote: bool,
    /// Seed of the jitter of elections; different for each member.
    pub seed: u64,
    /// Where the raft core reports to.
    pub trace: SharedTrace,
}

/// A request on its way into the log.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Names the request to whoever waits for its outcome.
    pub request_id: u64,
    /// The encoded request, as it stands in the log.
    pub data: Bytes,
    /// The request itself.
    pub request: Arc<InternalRaftRequest>,
}

/// What happens to a member.
#[derive(Debug)]
pub enum Input {
    /// One heartbeat interval passed.
    Tick,
    /// A client's request that changes something.
    Propose(Proposal),
    /// A request that only a leader may make, such as the revocation of a lease that ran out on its clock: dropped if this
    /// member does not lead when it comes to it, instead of being passed on to who leads then.
    ProposeAsLeader(Proposal),
    /// A change of the membership.
    ProposeConfChange {
        /// Names the request to whoever waits for its outcome.
        request_id: u64,
        /// The change.
        change: ConfChange,
    },
    /// A message from another member.
    Received(Message),
    /// A write to the log is durable. Comes once for each [`Effect::Persist`], in order.
    Persisted(Append),
    /// Entries are applied. Comes once for each [`Effect::Apply`], in order.
    Applied(Applied),
    /// The state machine applied a change of the membership (without effect if it found it invalid: then the change names
    /// nobody). Answered with [`Effect::ConfState`].
    ConfChangeApplied {
        /// The entry that held it.
        index: LogIndex,
        /// The change as it took effect.
        change: ConfChangeV2,
    },
    /// Somebody wants to read what is committed now. Answered with [`Effect::ReadReady`], or never: ask again.
    ReadIndex {
        /// Names the request.
        context: Bytes,
    },
    /// The state machine's state up to `index` can be had from a snapshot on disk; entries up to `compact` are not needed.
    SnapshotTaken {
        /// The last entry in the snapshot.
        index: LogIndex,
        /// The configuration there.
        conf_state: ConfState,
        /// The document that goes into messages to other members.
        data: Bytes,
        /// The last entry to forget.
        compact: LogIndex,
    },
    /// Campaign without waiting for the timeout.
    Campaign,
    /// Hand leadership over to that member, if this one leads; else ask the leader to.
    TransferLeader(NodeId),
    /// Hand leadership over to whoever is fittest, if this member leads and there is anybody: it stops, or cannot do a
    /// leader's work.
    YieldLeadership,
    /// A message to that member was lost.
    Unreachable(NodeId),
    /// Sending an [`Effect::SendSnapshot`] has ended. Comes once for each.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// Whether it has taken the snapshot.
        is_taken: bool,
    },
}

/// What has to be done.
#[derive(Debug)]
pub enum Effect {
    /// Send to other members, at once. Never snapshots.
    Send(Vec<Message>),
    /// Send this member's state to one that needs entries which are forgotten: the message with the metadata of whatever is
    /// applied when it is made, its document, and the database. Report its end with [`Input::SnapshotSent`].
    SendSnapshot(Message),
    /// Put the state that came with a snapshot in place of the state machine's, before anything that comes after it is
    /// applied. The log vouches for it already.
    Install(Snapshot),
    /// Write to the log; when it is durable, give it back with [`Input::Persisted`], which sends the responses in it.
    Persist(Append),
    /// Apply to the state machine, and report it with [`Input::Applied`].
    Apply(Apply),
    /// The configuration after the change that was reported with [`Input::ConfChangeApplied`].
    ConfState(Result<ConfState, ConfChangeError>),
    /// A read may go on once `index` is applied.
    ReadReady {
        /// The index to wait for.
        index: LogIndex,
        /// Names the request.
        context: Bytes,
    },
    /// The request did not get into the log, and will not: there is no leader to take it.
    Dropped {
        /// The request.
        request_id: u64,
    },
    /// A peer sent something that this member does not take.
    Rejected(StepError),
    /// Something in the status changed.
    Status(Status),
}

/// Committed entries on the way to the state machine.
#[derive(Debug)]
pub struct Apply {
    /// The entries, in order.
    pub entries: Vec<Committed>,
    /// To be given back with [`Input::Applied`].
    pub done: Applied,
}

/// A committed entry.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// The request in it, if this member proposed it.
    pub request: Option<Arc<InternalRaftRequest>>,
}

/// What others may want to know about consensus at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Status {
    /// The current term.
    pub term: Term,
    /// The leader, or nobody.
    pub leader: NodeId,
    /// This member's role.
    pub role: Role,
    /// How far the log is committed.
    pub commit: LogIndex,
    /// Whether a read of this member's applied state is linearizable as it is: this member is the only one, leads, and has
    /// applied an entry of its own term and all that was committed while there were others, hence everything that was ever
    /// acknowledged.
    pub reads_locally: bool,
    /// Whether this member is a learner.
    pub is_learner: bool,
}

/// What a leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follower {
    /// The member.
    pub id: NodeId,
    /// The last entry that is known to be in its log.
    pub match_index: LogIndex,
    /// Whether it is a learner.
    pub is_learner: bool,
}

/// The consensus of one member, with its order of effects.
pub struct Replica {
    core: Core<MemoryStorage>,
    proposed: Proposed,
    status: Status,
    /// What was committed when this member began to lead without others; none while there are others, or another leads.
    alone_since: Option<LogIndex>,
}

impl Replica {
    /// Starts a member.
    ///
    /// # Errors
    /// What it starts from contradicts itself.
    pub fn new(setup: Setup) -> Result<Self, ConfigError> {
        let mut storage = MemoryStorage::new();
        if !setup.snapshot.is_empty() {
            // An empty storage takes any snapshot.
            storage
                .apply_snapshot(setup.snapshot)
                .map_err(|_| ConfigError::Bootstrap("snapshot is out of date"))?;
        }
        storage.set_hard_state(setup.hard_state);
        storage.append(setup.entries);
        let mut config = Config::new(setup.id, Box::new(SplitMix64::new(setup.seed)));
        config.election_ticks = setup.election_ticks;
        config.pre_vote = setup.pre_vote;
        config.applied = setup.applied;
        config.trace = setup.trace;
        // Batches towards the state machine: large enough that a replay after a restart is not paced by hand-overs.
        config.max_applying_bytes = APPLYING_BYTES_MAX;
        let mut core = Core::new(config, storage)?;
        if !setup.bootstrap.is_empty() {
            core.bootstrap(&setup.bootstrap)?;
        }
        Ok(Self {
            core,
            proposed: Proposed::default(),
            status: Status::default(),
            alone_since: None,
        })
    }

    /// Takes one input and adds what follows from it to `effects`. After a batch of inputs, call [`Replica::flush`].
    ///
    /// Splitting the two is what lets a batch of proposals become one write: the core is asked for work once a batch.
    pub fn handle(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.core.tick(),
            Input::Propose(proposal) => self.propose(proposal, effects),
            Input::ProposeAsLeader(proposal) if !self.core.is_leader() => {
                effects.push(Effect::Dropped { request_id: proposal.request_id });
            }
            Input::ProposeAsLeader(proposal) => self.propose(proposal, effects),
            Input::ProposeConfChange { request_id, change } => {
                if self.core.propose_conf_change(&change).is_err() {
                    effects.push(Effect::Dropped { request_id });
                }
            }
            Input::Received(message) => {
                if let Err(error) = self.core.step(message) {
                    effects.push(Effect::Rejected(error));
                }
            }
            Input::Persisted(append) => self.persisted(append, effects),
            Input::Applied(done) => {
                self.core.applied(done);
                self.shed();
            }
            Input::ConfChangeApplied { index, change } => {
                effects.push(Effect::ConfState(self.core.apply_conf_change_at(index, &change)));
            }
            Input::ReadIndex { context } => self.core.read_index(context),
            Input::SnapshotTaken { index, conf_state, data, compact } => {
                self.snapshot_taken(index, conf_state, data, compact);
            }
            Input::Campaign => self.core.campaign(),
            Input::TransferLeader(to) => self.core.transfer_leader(to),
            Input::YieldLeadership => self.yield_leadership(),
            Input::Unreachable(id) => self.core.report_unreachable(id),
            Input::SnapshotSent { to, is_taken } => self.core.report_snapshot(to, is_taken),
        }
    }

    /// Takes the work that the inputs since the last call gave rise to.
    pub fn flush(&mut self, effects: &mut Vec<Effect>) {
        while self.core.has_ready() {
            let ready = self.core.ready();
            self.carry_out(ready, effects);
        }
        let status = self.current_status();
        if status != self.status {
            if status.term != self.status.term || status.leader != self.status.leader {
                // What was proposed under another leader commits as somebody else's entry, if at all.
                self.proposed.forget_before(status.term);
            }
            self.status = status;
            effects.push(Effect::Status(status));
        }
    }

    /// The status as of the last [`Replica::flush`].
    #[must_use]
    pub fn status(&self) -> Status {
        self.status
    }

    /// How far the members have followed this one, itself among them; empty unless it leads.
    #[must_use]
    pub fn followers(&self) -> Vec<Follower> {
        if !self.core.is_leader() {
            return Vec::new();
        }
        let follower = |(id, progress): (NodeId, &raft::Progress)| Follower {
            id,
            match_index: progress.match_index,
            is_learner: progress.is_learner,
        };
        self.core.progress().map(follower).collect()
    }

    fn yield_leadership(&mut self) {
        if !self.core.is_leader() {
            return;
        }
        let own = self.core.id();
        let fittest = self
            .core
            .progress()
            .filter(|(id, progress)| *id != own && !progress.is_learner && progress.recent_active)
            .max_by_key(|(_, progress)| progress.match_index)
            .map(|(id, _)| id);
        if let Some(to) = fittest {
            self.core.transfer_leader(to);
        }
    }

    fn propose(&mut self, proposal: Proposal, effects: &mut Vec<Effect>) {
        let was_leader = self.core.is_leader();
        if self.core.propose(proposal.data).is_err() {
            effects.push(Effect::Dropped { request_id: proposal.request_id });
            return;
        }
        // A follower's proposal travels to the leader, and its place is not known here.
        if was_leader {
            let id = EntryId { term: self.core.term(), index: self.core.last_index() };
            self.proposed.push(id, proposal.request);
        }
    }

    fn persisted(&mut self, append: Append, effects: &mut Vec<Effect>) {
        let Append { hard_state, snapshot, entries, responses, done, .. } = append;
        send(responses, effects);
        let storage = self.core.storage_mut();
        if let Some(hard_state) = hard_state {
            storage.set_hard_state(hard_state);
        }
        if let Some(snapshot) = snapshot {
            // A snapshot that is older than what is there changes nothing, and the core learns so from `done`.
            if storage.apply_snapshot(snapshot.clone()).is_ok() {
                effects.push(Effect::Install(snapshot));
            }
        }
        storage.append(entries);
        self.core.persisted(done);
    }

    fn snapshot_taken(
        &mut self,
        index: LogIndex,
        conf_state: ConfState,
        data: Bytes,
        compact: LogIndex,
    ) {
        // A batch that is applied in part is confirmed as a whole: until then consensus may look at all of it again.
        let compact = compact.min(self.core.applied_index());
        let storage = self.core.storage_mut();
        // Both refuse what is done already, which is no harm: a newer snapshot was taken or received meanwhile.
        if storage.create_snapshot(index, Some(conf_state), data).is_ok()
            && compact > LogIndex::ZERO
        {
            let _ = storage.compact(compact);
        }
    }

    /// Forgets entries that are applied, when those in memory hold too many bytes.
    ///
    /// etcd forgets at each snapshot on disk: with 100,000 entries between two of them, large values fill the memory.
    /// Entries that a member which is keeping up has not confirmed yet stay whatever they hold; one that was away and needs what
    /// is forgotten gets the state machine's snapshot.
    fn shed(&mut self) {
        if self.core.storage().payload_bytes() <= RETAINED_BYTES_MAX {
            return;
        }
        let applied = self.core.applied_index();
        let followed = self
            .core
            .progress()
            .filter(|(_, progress)| self.core.is_leader() && progress.recent_active)
            .map(|(_, progress)| progress.match_index)
            .min();
        let conf_state = self.core.conf_state();
        let storage = self.core.storage_mut();
        // A good part at once: forgetting is not to be asked for with every entry.
        let not_needed = applied.min(followed.unwrap_or(applied));
        let compact = storage.excess(RETAINED_BYTES_MAX / 4 * 3, not_needed);
        if compact < storage.first_index() {
            return;
        }
        // Its content is made when it is sent; that there is one behind which the log goes on is what counts here.
        let _ = storage.create_snapshot(applied, Some(conf_state), Bytes::new());
        let _ = storage.compact(compact);
    }

    fn carry_out(&mut self, ready: Ready, effects: &mut Vec<Effect>) {
        let Ready { soft_state: _, read_states, messages, append, apply } = ready;
        send(messages, effects);
        if let Some(append) = append {
            effects.push(Effect::Persist(append));
        }
        if let Some(apply) = apply {
            let entries = apply
                .entries
                .into_iter()
                .map(|entry| Committed { request: self.proposed.take(entry.id()), entry })
                .collect();
            effects.push(Effect::Apply(Apply { entries, done: apply.done }));
        }
        for read in read_states {
            effects.push(Effect::ReadReady { index: read.index, context: read.context });
        }
    }

    fn current_status(&mut self) -> Status {
        let status = self.core.status();
        Status {
            term: status.hard_state.term,
            leader: status.soft_state.leader,
            role: status.soft_state.role,
            commit: status.hard_state.commit,
            reads_locally: self.reads_locally(),
            is_learner: self.core.is_learner(),
        }
    }

    fn reads_locally(&mut self) -> bool {
        // A learner may apply faster than this member, and tell its clients; so it must be alone, not only decide alone.
        let is_alone = self.core.is_sole_voter() && self.core.progress().take(2).count() == 1;
        if !is_alone {
            self.alone_since = None;
            return false;
        }
        // What was committed together with others, they may have applied and told before they left.
        let since = *self.alone_since.get_or_insert(self.core.commit());
        let applied = self.core.applied_index();
        applied >= since
            && self.core.storage().term(applied).is_ok_and(|term| term == self.core.term())
    }
}

/// Sorts out the snapshots, which go another way than the rest.
fn send(messages: Vec<Message>, effects: &mut Vec<Effect>) {
    let is_snapshot = |message: &Message| matches!(message.body, Body::Snapshot(_));
    if messages.iter().any(is_snapshot) {
        let (snapshots, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_snapshot);
        if !others.is_empty() {
            effects.push(Effect::Send(others));
        }
        effects.extend(snapshots.into_iter().map(Effect::SendSnapshot));
    } else if !messages.is_empty() {
        effects.push(Effect::Send(messages));
    }
}

/// Most bytes of committed entries that are handed to the state machine and not yet applied.
///
/// Sixteen of the largest default requests: the state machine always has work, and memory in flight stays bounded.
const APPLYING_BYTES_MAX: u64 = 24 * 1024 * 1024;

/// Most bytes of entries kept in memory behind what is needed, see [`Replica::shed`].
const RETAINED_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests;
