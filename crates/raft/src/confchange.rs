//! Changes of the group's membership: what is proposed, and how a configuration turns into the next.
//!
//! A change that touches one voter is simple: old and new majorities overlap anyway. Anything else goes through a joint
//! configuration, in which both the outgoing and the incoming majority must agree (thesis section 4.3).
//!
//! ```text
//!   (1 2 3) ── simple: v4 ──► (1 2 3 4)
//!   (1 2 3) ── joint: r1 v4 ─► (2 3 4)&&(1 2 3) ── leave ──► (2 3 4)
//! ```
//!
//! Nothing here changes a configuration in place: [`Changer`] computes the next one or says why there is none.
//!
//! Upstream: confchange/confchange.go, confchange/restore.go (3.7).

use std::fmt;

use bytes::Bytes;

use crate::{
    error::ConfChangeError,
    progress::Progress,
    tracker::{Configuration, ProgressMap, Tracker},
    types::{ConfState, LogIndex, NodeId},
};

/// What happens to one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConfChangeKind {
    /// Becomes a voter, from nothing or from learner.
    #[default]
    AddNode,
    /// Leaves.
    RemoveNode,
    /// Nothing, for raft; etcd changes the member's peer URLs so.
    UpdateNode,
    /// Becomes a learner, from nothing or from voter.
    AddLearnerNode,
}

/// One step of a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeSingle {
    /// What happens.
    pub kind: ConfChangeKind,
    /// To whom. [`NodeId::NONE`] makes it a step that does nothing.
    pub node_id: NodeId,
}

/// The change of one member that etcd proposes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChange {
    /// etcd's request id; raft ignores it.
    pub id: u64,
    /// What happens.
    pub kind: ConfChangeKind,
    /// To whom.
    pub node_id: NodeId,
    /// etcd's description of the member as JSON; raft ignores it.
    pub context: Bytes,
}

/// Whether a change goes through a joint configuration, and who ends that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transition {
    /// Joint only if there is more than one step; the leader ends it.
    #[default]
    Auto,
    /// Joint; the leader ends it.
    JointImplicit,
    /// Joint until an empty change is proposed.
    JointExplicit,
}

/// A change of any number of members at once. Without steps it means: leave the joint configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfChangeV2 {
    /// How to get there.
    pub transition: Transition,
    /// The steps, in order.
    pub changes: Vec<ConfChangeSingle>,
    /// Opaque to raft.
    pub context: Bytes,
}

/// Prints the change as etcd-io/raft's log does, without the context: that is the driver's, and may be long.
impl fmt::Display for ConfChangeV2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transition:{}", self.transition)?;
        for change in &self.changes {
            write!(f, " changes:{{type:{} node_id:{}}}", change.kind, change.node_id.0)?;
        }
        Ok(())
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "ConfChangeTransitionAuto",
            Self::JointImplicit => "ConfChangeTransitionJointImplicit",
            Self::JointExplicit => "ConfChangeTransitionJointExplicit",
        })
    }
}

impl fmt::Display for ConfChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddNode => "ConfChangeAddNode",
            Self::RemoveNode => "ConfChangeRemoveNode",
            Self::UpdateNode => "ConfChangeUpdateNode",
            Self::AddLearnerNode => "ConfChangeAddLearnerNode",
        })
    }
}

impl From<ConfChange> for ConfChangeV2 {
    fn from(change: ConfChange) -> Self {
        Self {
            transition: Transition::Auto,
            changes: vec![ConfChangeSingle { kind: change.kind, node_id: change.node_id }],
            context: change.context,
        }
    }
}

impl ConfChangeV2 {
    /// Returns whether the change leaves a joint configuration.
    pub fn leaves_joint(&self) -> bool {
        self.transition == Transition::Auto && self.changes.is_empty()
    }

    /// Returns `Some(auto_leave)` if the change goes through a joint configuration.
    pub fn enters_joint(&self) -> Option<bool> {
        match self.transition {
            Transition::Auto if self.changes.len() > 1 => Some(true),
            Transition::Auto => None,
            Transition::JointImplicit => Some(true),
            Transition::JointExplicit => Some(false),
        }
    }
}

/// A configuration with the progress of its members.
pub type Changed = (Configuration, ProgressMap);

/// Computes the configuration that follows the tracker's.
#[derive(Clone, Copy, Debug)]
pub struct Changer<'a> {
    /// The present.
    pub tracker: &'a Tracker,
    /// The last entry of the log: where new members are probed first.
    pub last_index: LogIndex,
}

impl Changer<'_> {
    /// Carries out whatever the change asks for.
    ///
    /// # Errors
    /// Returns why the change does not fit the present configuration.
    pub fn change(self, change: &ConfChangeV2) -> Result<Changed, ConfChangeError> {
        if change.leaves_joint() {
            self.leave_joint()
        } else if let Some(auto_leave) = change.enters_joint() {
            self.enter_joint(auto_leave, &change.changes)
        } else {
            self.simple(&change.changes)
        }
    }

    /// Makes the present voters the outgoing half and applies the changes to the incoming one.
    ///
    /// # Errors
    /// Refuses if the configuration is joint already or has no voters, or if none would be left.
    pub fn enter_joint(
        self,
        auto_leave: bool,
        changes: &[ConfChangeSingle],
    ) -> Result<Changed, ConfChangeError> {
        let mut next = self.start()?;
        if next.config.voters.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if next.config.voters.incoming.0.is_empty() {
            // Members may be added to nothing, one by one; that is how a group begins. It takes no joint state.
            return Err(ConfChangeError::NoVotersToJoin);
        }
        next.config.voters.outgoing = next.config.voters.incoming.clone();
        next.apply(changes)?;
        next.config.auto_leave = auto_leave;
        next.finish()
    }

    /// Drops the outgoing half. Members of whom nothing is left go; waiting learners become learners.
    ///
    /// # Errors
    /// Refuses if the configuration is not joint.
    pub fn leave_joint(self) -> Result<Changed, ConfChangeError> {
        let mut next = self.start()?;
        if !next.config.voters.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        for id in std::mem::take(&mut next.config.learners_next) {
            if let Some(progress) = next.progress.get_mut(&id) {
                progress.is_learner = true;
            }
            next.config.learners.insert(id);
        }
        for id in std::mem::take(&mut next.config.voters.outgoing.0) {
            if !next.config.voters.incoming.0.contains(&id) && !next.config.learners.contains(&id) {
                next.progress.remove(&id);
            }
        }
        next.config.auto_leave = false;
        next.finish()
    }

    /// Applies the changes at once, which is sound if at most one voter comes or goes.
    ///
    /// # Errors
    /// Refuses in a joint configuration, if more voters change, or if none would be left.
    pub fn simple(self, changes: &[ConfChangeSingle]) -> Result<Changed, ConfChangeError> {
        let mut next = self.start()?;
        if next.config.voters.is_joint() {
            return Err(ConfChangeError::SimpleInJoint);
        }
        next.apply(changes)?;
        let before = &self.tracker.config.voters.incoming.0;
        if before.symmetric_difference(&next.config.voters.incoming.0).count() > 1 {
            return Err(ConfChangeError::MoreThanOneVoter);
        }
        next.finish()
    }

    fn start(&self) -> Result<Draft<'_>, ConfChangeError> {
        check_invariants(&self.tracker.config, &self.tracker.progress)?;
        Ok(Draft {
            config: self.tracker.config.clone(),
            progress: self.tracker.progress.clone(),
            from: self,
        })
    }
}

/// A configuration in the making.
struct Draft<'a> {
    config: Configuration,
    progress: ProgressMap,
    from: &'a Changer<'a>,
}

impl Draft<'_> {
    fn apply(&mut self, changes: &[ConfChangeSingle]) -> Result<(), ConfChangeError> {
        for change in changes {
            if change.node_id == NodeId::NONE {
                // etcd blanks the id of a change that it decides, at apply, not to carry out.
                continue;
            }
            match change.kind {
                ConfChangeKind::AddNode => self.make_voter(change.node_id),
                ConfChangeKind::AddLearnerNode => self.make_learner(change.node_id),
                ConfChangeKind::RemoveNode => self.remove(change.node_id),
                ConfChangeKind::UpdateNode => {}
            }
        }
        if self.config.voters.incoming.0.is_empty() {
            return Err(ConfChangeError::RemovedAllVoters);
        }
        Ok(())
    }

    fn make_voter(&mut self, id: NodeId) {
        match self.progress.get_mut(&id) {
            Some(progress) => progress.is_learner = false,
            None => self.add_member(id, false),
        }
        self.config.learners.remove(&id);
        self.config.learners_next.remove(&id);
        self.config.voters.incoming.0.insert(id);
    }

    fn make_learner(&mut self, id: NodeId) {
        let Some(progress) = self.progress.get(&id) else {
            self.add_member(id, true);
            self.config.learners.insert(id);
            return;
        };
        if progress.is_learner {
            return;
        }
        // What is known about the member stays, whatever becomes of it.
        let mut progress = progress.clone();
        self.remove(id);
        if self.config.voters.outgoing.0.contains(&id) {
            self.config.learners_next.insert(id);
        } else {
            progress.is_learner = true;
            self.config.learners.insert(id);
        }
        self.progress.insert(id, progress);
    }

    fn remove(&mut self, id: NodeId) {
        self.config.voters.incoming.0.remove(&id);
        self.config.learners.remove(&id);
        self.config.learners_next.remove(&id);
        // A voter of the outgoing half still has to be replicated to and counted.
        if !self.config.voters.outgoing.0.contains(&id) {
            self.progress.remove(&id);
        }
    }

    fn add_member(&mut self, id: NodeId, is_learner: bool) {
        // Optimistic: a new member usually has no log. Its first rejection says where it is.
        let next = self.from.last_index.max(LogIndex(1));
        let mut progress = Progress::new(next, is_learner, self.from.tracker.new_inflights());
        // Else CheckQuorum could depose the leader before the member had a chance to say anything.
        progress.recent_active = true;
        self.progress.insert(id, progress);
    }

    fn finish(self) -> Result<Changed, ConfChangeError> {
        check_invariants(&self.config, &self.progress)?;
        Ok((self.config, self.progress))
    }
}

/// Checks what every configuration must satisfy. The empty one is allowed: all others are made from it.
fn check_invariants(config: &Configuration, progress: &ProgressMap) -> Result<(), ConfChangeError> {
    let invalid = |&id: &NodeId, problem| Err(ConfChangeError::Invalid { id, problem });
    for id in config.voters.ids().iter().chain(&config.learners).chain(&config.learners_next) {
        if !progress.contains_key(id) {
            return invalid(id, "has no progress");
        }
    }
    let is_learner = |id| progress.get(id).is_some_and(|progress| progress.is_learner);
    for id in &config.learners_next {
        if !config.voters.outgoing.0.contains(id) {
            return invalid(id, "is to become a learner, but is not an outgoing voter");
        }
        if is_learner(id) {
            return invalid(id, "is to become a learner, but is one already");
        }
    }
    for id in &config.learners {
        if config.voters.contains(*id) {
            return invalid(id, "is both voter and learner");
        }
        if !is_learner(id) {
            return invalid(id, "is a learner, but not marked as one");
        }
    }
    if !config.voters.is_joint() && config.auto_leave {
        return invalid(
            &NodeId::NONE,
            "is to be left automatically, but the configuration is not joint",
        );
    }
    Ok(())
}

/// Returns the tracker with the stored configuration in place of its own.
///
/// # Errors
/// Fails if what is stored does not describe a configuration, for example because it names a member twice.
pub(crate) fn restore(
    tracker: &Tracker,
    last_index: LogIndex,
    stored: &ConfState,
) -> Result<Changed, ConfChangeError> {
    fn add(kind: ConfChangeKind, ids: &[NodeId]) -> impl Iterator<Item = ConfChangeSingle> {
        ids.iter().map(move |&node_id| ConfChangeSingle { kind, node_id })
    }
    let mut tracker = tracker.clone();
    tracker.config = Configuration::default();
    tracker.progress.clear();

    // The way to a joint configuration: first the outgoing voters, then the one step that replaces them all.
    //
    //   voters=(1 2 3) outgoing=(1 2 4 6) learners=(5) learners_next=(4):
    //   v1 v2 v4 v6, each simple   => (1 2 4 6)
    //   r1 r2 r4 r6 v1 v2 v3 l5 l4 => (1 2 3)&&(1 2 4 6) learners=(5) learners_next=(4)
    let incoming: Vec<_> = add(ConfChangeKind::RemoveNode, &stored.voters_outgoing)
        .chain(add(ConfChangeKind::AddNode, &stored.voters))
        .chain(add(ConfChangeKind::AddLearnerNode, &stored.learners))
        .chain(add(ConfChangeKind::AddLearnerNode, &stored.learners_next))
        .collect();
    let is_joint = !stored.voters_outgoing.is_empty();
    let outgoing: Vec<_> = add(ConfChangeKind::AddNode, &stored.voters_outgoing).collect();
    for change in if is_joint { &outgoing } else { &incoming } {
        (tracker.config, tracker.progress) =
            Changer { tracker: &tracker, last_index }.simple(std::slice::from_ref(change))?;
    }
    if is_joint {
        (tracker.config, tracker.progress) =
            Changer { tracker: &tracker, last_index }.enter_joint(stored.auto_leave, &incoming)?;
    }
    if !tracker.conf_state().is_equivalent(stored) {
        return Err(ConfChangeError::NotEquivalent);
    }
    Ok((tracker.config, tracker.progress))
}
