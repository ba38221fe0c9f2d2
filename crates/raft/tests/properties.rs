//! Quorums and configurations against models that are too simple to be wrong.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*};
use raft::{
    ConfChangeKind, ConfChangeSingle, ConfState, Config, Core, LogIndex, MemoryStorage, NO_LIMIT,
    NodeId, Snapshot, SplitMix64, Term,
    confchange::Changer,
    quorum::{Joint, Majority, VoteResult},
    tracker::{Configuration, Tracker},
};

fn any_id() -> impl Strategy<Value = NodeId> {
    (1..=9u64).prop_map(NodeId)
}

fn any_majority() -> impl Strategy<Value = Majority> {
    proptest::collection::btree_set(any_id(), 0..=9).prop_map(Majority)
}

fn any_joint() -> impl Strategy<Value = Joint> {
    (any_majority(), any_majority()).prop_map(|(incoming, outgoing)| Joint { incoming, outgoing })
}

/// More than half of the voters, by the definition.
fn has_quorum(voters: &Majority, agrees: impl Fn(NodeId) -> bool) -> bool {
    voters.0.is_empty() || 2 * voters.0.iter().filter(|&&id| agrees(id)).count() > voters.0.len()
}

fn both_have_quorum(joint: &Joint, agrees: impl Fn(NodeId) -> bool) -> bool {
    has_quorum(&joint.incoming, &agrees) && has_quorum(&joint.outgoing, &agrees)
}

proptest! {
    #[test]
    fn what_is_acked_by_quorum_is_the_most_that_both_majorities_have(
        joint in any_joint(),
        acked in proptest::collection::btree_map(any_id(), 0..6u64, 0..9),
    ) {
        let result = joint.acked_by_quorum(|id| acked.get(&id).copied());
        let reached = |number: u64| both_have_quorum(&joint, |id| acked.get(&id).copied().unwrap_or(0) >= number);
        if joint.ids().is_empty() {
            prop_assert_eq!(result, u64::MAX);
        } else {
            prop_assert!(reached(result));
            prop_assert!(!reached(result + 1));
        }
    }

    #[test]
    fn a_vote_is_decided_when_missing_votes_cannot_change_it(
        joint in any_joint(),
        votes in proptest::collection::btree_map(any_id(), any::<bool>(), 0..9),
    ) {
        let result = joint.vote_result(|id| votes.get(&id).copied());
        let if_missing = |vote: bool| both_have_quorum(&joint, |id| votes.get(&id).copied().unwrap_or(vote));
        let expected = match (if_missing(false), if_missing(true)) {
            (true, _) => VoteResult::Won,
            (false, true) => VoteResult::Pending,
            (false, false) => VoteResult::Lost,
        };
        prop_assert_eq!(result, expected);
    }
}

/// A configuration as nothing but sets.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    incoming: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    learners_next: BTreeSet<NodeId>,
    auto_leave: bool,
}

impl Model {
    fn members(&self) -> BTreeSet<NodeId> {
        &(&self.incoming | &self.outgoing) | &self.learners
    }

    fn apply(&mut self, changes: &[ConfChangeSingle]) {
        for &ConfChangeSingle { kind, node_id: id } in changes {
            if kind == ConfChangeKind::UpdateNode
                || (kind == ConfChangeKind::AddLearnerNode && self.learners.contains(&id))
            {
                continue;
            }
            self.incoming.remove(&id);
            self.learners.remove(&id);
            self.learners_next.remove(&id);
            match kind {
                ConfChangeKind::AddNode => self.incoming.insert(id),
                ConfChangeKind::AddLearnerNode if self.outgoing.contains(&id) => {
                    self.learners_next.insert(id)
                }
                ConfChangeKind::AddLearnerNode => self.learners.insert(id),
                ConfChangeKind::RemoveNode | ConfChangeKind::UpdateNode => false,
            };
        }
    }

    fn of(config: &Configuration) -> Self {
        Self {
            incoming: config.voters.incoming.0.clone(),
            outgoing: config.voters.outgoing.0.clone(),
            learners: config.learners.clone(),
            learners_next: config.learners_next.clone(),
            auto_leave: config.auto_leave,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Simple(Vec<ConfChangeSingle>),
    EnterJoint(bool, Vec<ConfChangeSingle>),
    LeaveJoint,
}

fn any_changes() -> impl Strategy<Value = Vec<ConfChangeSingle>> {
    let kind = prop_oneof![
        3 => Just(ConfChangeKind::AddNode),
        2 => Just(ConfChangeKind::AddLearnerNode),
        2 => Just(ConfChangeKind::RemoveNode),
        1 => Just(ConfChangeKind::UpdateNode),
    ];
    vec((kind, any_id()).prop_map(|(kind, node_id)| ConfChangeSingle { kind, node_id }), 0..4)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_changes().prop_map(Step::Simple),
        (any::<bool>(), any_changes())
            .prop_map(|(auto_leave, changes)| Step::EnterJoint(auto_leave, changes)),
        Just(Step::LeaveJoint),
    ]
}

/// What the step makes of the configuration, if it is allowed.
fn expected_after(before: &Model, step: &Step) -> Option<Model> {
    let mut after = before.clone();
    let is_joint = !before.outgoing.is_empty();
    match step {
        Step::Simple(changes) => {
            after.apply(changes);
            let changed = before.incoming.symmetric_difference(&after.incoming).count();
            (!is_joint && changed <= 1 && !after.incoming.is_empty()).then_some(after)
        }
        Step::EnterJoint(auto_leave, changes) => {
            after.outgoing.clone_from(&before.incoming);
            after.auto_leave = *auto_leave;
            after.apply(changes);
            (!is_joint && !before.incoming.is_empty() && !after.incoming.is_empty())
                .then_some(after)
        }
        Step::LeaveJoint => {
            after.learners.append(&mut after.learners_next);
            after.outgoing.clear();
            after.auto_leave = false;
            is_joint.then_some(after)
        }
    }
}

proptest! {
    #[test]
    fn configurations_change_like_sets(steps in vec(any_step(), 0..20)) {
        let mut tracker = Tracker::new(1, NO_LIMIT);
        let mut model = Model::default();
        for step in steps {
            let changer = Changer { tracker: &tracker, last_index: LogIndex(7) };
            let changed = match &step {
                Step::Simple(changes) => changer.simple(changes),
                Step::EnterJoint(auto_leave, changes) => changer.enter_joint(*auto_leave, changes),
                Step::LeaveJoint => changer.leave_joint(),
            };
            let expected = expected_after(&model, &step);
            prop_assert_eq!(changed.is_ok(), expected.is_some(), "{:?} on {:?}", step, model);
            let (Ok(changed), Some(expected)) = (changed, expected) else { continue };
            model = expected;
            (tracker.config, tracker.progress) = changed;
            prop_assert_eq!(Model::of(&tracker.config), model.clone());
            let tracked: BTreeSet<_> = tracker.progress.keys().copied().collect();
            prop_assert_eq!(tracked, model.members());
            let learners: BTreeMap<_, _> = tracker.progress.iter().map(|(id, p)| (*id, p.is_learner)).collect();
            prop_assert!(learners.iter().all(|(id, is_learner)| *is_learner == model.learners.contains(id)));
            check_restore(&tracker.conf_state());
        }
    }

    #[test]
    fn a_stored_configuration_is_restored_or_refused(
        voters in vec(any_id(), 0..4),
        learners in vec(any_id(), 0..3),
        voters_outgoing in vec(any_id(), 0..4),
        learners_next in vec(any_id(), 0..3),
        auto_leave: bool,
    ) {
        let conf_state = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
        if let Some(restored) = restore(&conf_state) {
            prop_assert!(restored.is_equivalent(&conf_state));
        }
    }
}

fn restore(conf_state: &ConfState) -> Option<ConfState> {
    let mut snapshot = Snapshot::default();
    snapshot.metadata.index = LogIndex(5);
    snapshot.metadata.term = Term(1);
    snapshot.metadata.conf_state = conf_state.clone();
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot).unwrap();
    let config = Config::new(NodeId(1), Box::new(SplitMix64::new(1)));
    Core::new(config, storage).ok().map(|core| core.conf_state())
}

#[track_caller]
fn check_restore(conf_state: &ConfState) {
    assert_eq!(restore(conf_state).as_ref(), Some(conf_state));
}
