//! Settings of one member.

use std::sync::Arc;

use crate::{
    error::ConfigError,
    rng::Rng,
    trace::{SharedTrace, Silent},
    types::{LogIndex, NodeId},
};

/// Stands for "no limit" wherever a limit in bytes is asked for.
pub const NO_LIMIT: u64 = u64::MAX;

/// How linearizable reads are confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// A quorum acknowledges the leader for each batch of reads. Safe whatever the clocks do.
    #[default]
    Safe,
    /// The leader trusts its lease. Needs `check_quorum`, and clocks that run at about the same rate.
    LeaseBased,
}

/// Whether the core behaves exactly as etcd-io/raft, or mends what is known to be wrong there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompatMode {
    /// The mode of production:
    /// - a group with one voter answers a read only when an entry of the current term is committed, since after a crash
    ///   the commit index it finds may lag behind what it acknowledged (etcd-io/raft #105);
    /// - a leader that was removed from a group with one voter left does not take itself for that voter, and does not
    ///   answer reads (found by `tests/cluster`);
    /// - of two members that ask for pre-votes at the same moment, the one with the lower id gives way to the other if it would vote
    ///   for it, so that they do not split the votes;
    /// - a heartbeat that shows that this member's log lost data stops the member from taking part instead of crashing it;
    /// - what is proposed between two calls of [`Core::ready`](crate::Core::ready) goes out in one append to each follower,
    ///   reads share one round of heartbeats, of which one is under way at a time, and acknowledgements that a newer one covers are not sent.
    #[default]
    Hardened,
    /// etcd-io/raft v3.7 to the letter, as far as its test files can see. For those tests only.
    Upstream,
}

/// Settings of one member. Start from [`Config::new`] and change what differs.
pub struct Config {
    /// The member.
    pub id: NodeId,
    /// Ticks without a leader after which a follower campaigns; the actual time is drawn from `[n, 2n)`.
    pub election_ticks: u32,
    /// Ticks between heartbeats; less than `election_ticks`.
    pub heartbeat_ticks: u32,
    /// The last entry that the state machine holds already. Entries up to it are not handed out again, so the stored
    /// configuration ([`Storage::initial_state`](crate::Storage::initial_state)) must be the one after this entry.
    pub applied: LogIndex,
    /// Hand storage work out as effects that are confirmed later ([`Core::persisted`](crate::Core::persisted),
    /// [`Core::applied`](crate::Core::applied)) instead of waiting for [`Core::advance`](crate::Core::advance).
    pub async_storage_writes: bool,
    /// Most bytes of entries in one append message; zero means one entry a message.
    pub max_message_bytes: u64,
    /// Most bytes of committed entries that may be handed out and not yet confirmed as applied. Zero takes
    /// `max_message_bytes`.
    pub max_applying_bytes: u64,
    /// Most payload bytes that a leader keeps uncommitted before it drops proposals; zero means no limit.
    pub max_uncommitted_bytes: u64,
    /// Most append messages in flight to one follower.
    pub max_inflight_messages: usize,
    /// Most bytes in flight to one follower; zero means no limit.
    pub max_inflight_bytes: u64,
    /// The leader steps down when it does not hear from a quorum for an election time, and followers do not vote while
    /// they hear from a leader.
    pub check_quorum: bool,
    /// A candidate first asks whether it would win, so that a member that was cut off does not disturb the group.
    pub pre_vote: bool,
    /// How reads are confirmed.
    pub read_mode: ReadMode,
    /// Followers drop proposals instead of forwarding them.
    pub disable_proposal_forwarding: bool,
    /// Configuration changes are taken as proposed. Only sound if whoever proposes serialises and checks them.
    pub disable_conf_change_validation: bool,
    /// A leader that is removed or made a learner steps down at once.
    pub step_down_on_removal: bool,
    /// See [`CompatMode`].
    pub compat: CompatMode,
    /// Jitter of election timeouts.
    pub rng: Box<dyn Rng>,
    /// Where to report to.
    pub trace: SharedTrace,
}

impl Config {
    /// Returns etcd's settings for a member: PreVote and CheckQuorum on, 1 MiB of entries a message, 512 messages in
    /// flight, a heartbeat each tick, elections after 10, asynchronous storage.
    pub fn new(id: NodeId, rng: Box<dyn Rng>) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            applied: LogIndex::ZERO,
            async_storage_writes: true,
            max_message_bytes: 1024 * 1024,
            max_applying_bytes: 0,
            max_uncommitted_bytes: 0,
            max_inflight_messages: 512,
            max_inflight_bytes: 0,
            check_quorum: true,
            pre_vote: true,
            read_mode: ReadMode::Safe,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: false,
            compat: CompatMode::Hardened,
            rng,
            trace: Arc::new(Silent),
        }
    }

    /// Checks the settings and replaces each zero that stands for a default or for "no limit".
    pub(crate) fn validate(&mut self) -> Result<(), ConfigError> {
        if !self.id.is_member() {
            return Err(ConfigError::Setting("cannot use none or a local target as id"));
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::Setting("heartbeat tick must be greater than 0"));
        }
        if self.election_ticks <= self.heartbeat_ticks {
            return Err(ConfigError::Setting("election tick must be greater than heartbeat tick"));
        }
        if self.max_inflight_messages == 0 {
            return Err(ConfigError::Setting("max inflight messages must be greater than 0"));
        }
        if self.max_uncommitted_bytes == 0 {
            self.max_uncommitted_bytes = NO_LIMIT;
        }
        if self.max_applying_bytes == 0 {
            self.max_applying_bytes = self.max_message_bytes;
        }
        if self.max_inflight_bytes == 0 {
            self.max_inflight_bytes = NO_LIMIT;
        } else if self.max_inflight_bytes < self.max_message_bytes {
            return Err(ConfigError::Setting("max inflight bytes must be >= max message size"));
        }
        if self.read_mode == ReadMode::LeaseBased && !self.check_quorum {
            return Err(ConfigError::Setting(
                "check_quorum must be enabled when reads are lease based",
            ));
        }
        Ok(())
    }
}
