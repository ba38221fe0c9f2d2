//! Reachability: what a large number of runs must have seen at least once, or they prove less than they seem to.

/// Declares the marks with their texts.
macro_rules! marks {
    ($($name:ident: $text:literal,)+) => {
        /// Something that is to happen sometimes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mark {
            $(#[doc = $text] $name,)+
        }

        impl Mark {
            /// Every mark.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What it stands for.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

marks! {
    Elected: "a leader was elected",
    Deposed: "a leader stepped down while it was up",
    Committed: "an entry was committed",
    Acknowledged: "a proposal was acknowledged",
    AcknowledgedForwarded: "a proposal that a follower took was acknowledged",
    ProposalDropped: "a proposal was dropped",
    CrashedNode: "a node crashed",
    CrashedLeader: "a leader crashed",
    CrashedUnsynced: "a node crashed with entries that were not synced",
    CrashedLeaderUnsynced: "a leader crashed with entries that were not synced",
    LostWrites: "a crash lost writes",
    TornWrite: "a crash kept a part of a write",
    LostCommit: "a crash lost a commit index",
    CrashedAll: "all nodes crashed at once",
    FsyncFailed: "an fsync failed and the node stopped",
    RestartedReplaying: "a node restarted with a state machine that was ahead of its raft snapshot",
    Overwritten: "a follower's entries were overwritten",
    Paused: "a node was paused",
    Partitioned: "the network was partitioned",
    OneWay: "a link worked in one direction only",
    CommitUnderPartition: "an entry was committed under a partition",
    MessageLost: "a message was lost",
    MessageDuplicated: "a message came twice",
    MessageRefused: "a node refused a message",
    SnapshotTaken: "a snapshot was taken",
    SnapshotSent: "a snapshot was sent",
    SnapshotLost: "a snapshot got lost on its way",
    SnapshotInstalled: "a snapshot was installed",
    SnapshotOverApply: "a snapshot was installed while entries waited to be applied",
    ConfChanged: "a configuration change was applied",
    ConfChangeRefused: "raft refused a committed configuration change",
    ConfChangeUnderPartition: "a configuration change was committed under a partition",
    Joint: "a joint configuration was in force",
    LeftJoint: "a joint configuration was left",
    LearnerAdded: "a learner was added",
    LearnerPromoted: "a learner became a voter",
    NodeAdded: "a node joined and applied entries",
    NodeRemoved: "a node applied its own removal",
    LeaderRemoved: "a leader applied its own removal",
    TransferAsked: "leadership was to be handed over",
    TransferDone: "leadership was handed over",
    ReadByLeader: "a leader answered a read",
    ReadByFollower: "a follower answered a read",
    ReadLocally: "a sole voter answered a read at once",
    ReadWaited: "a read waited for its index to be applied",
    Stranded: "a group could not recover because one that cannot lead had the longest log",
    Recovered: "the group recovered when all was healed",
}

/// How often each was seen.
#[derive(Debug, Clone)]
pub struct Marks {
    counts: [u64; Mark::ALL.len()],
}

impl Default for Marks {
    fn default() -> Self {
        Self { counts: [0; Mark::ALL.len()] }
    }
}

impl Marks {
    pub(super) fn hit(&mut self, mark: Mark) {
        self.counts[mark as usize] += 1;
    }

    /// How often it was seen.
    #[must_use]
    pub fn count(&self, mark: Mark) -> u64 {
        self.counts[mark as usize]
    }

    /// Adds what another run saw.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// Those never seen. What is a gap and not a goal does not count.
    #[must_use]
    pub fn missed(&self) -> Vec<Mark> {
        let is_missed = |mark: &Mark| *mark != Mark::Stranded && self.count(*mark) == 0;
        Mark::ALL.iter().copied().filter(is_missed).collect()
    }
}
