//! When a member may answer a read from what it has applied, without asking anybody.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a failed step is the failure, and most effects are of no interest"
)]

use std::sync::Arc;

use bytes::Bytes;
use raft::{
    Body, ConfChange, ConfChangeKind, HardState, LogIndex, Message, NodeId, Peer, Snapshot, codec,
};
use replica::{Apply, Effect, Input, Proposal, Replica, Setup};

/// A member whose disk is perfect, and whose state machine waits to be told to apply.
struct Member {
    replica: Replica,
    applies: Vec<Apply>,
}

impl Member {
    fn alone() -> Self {
        let replica = Replica::new(Setup {
            id: NodeId(1),
            snapshot: Snapshot::default(),
            hard_state: HardState::default(),
            entries: Vec::new(),
            applied: LogIndex::ZERO,
            bootstrap: vec![Peer { id: NodeId(1), context: Bytes::new() }],
            election_ticks: 10,
            pre_vote: true,
            seed: 7,
            trace: Arc::new(raft::Silent),
        });
        let mut member = Self { replica: replica.unwrap(), applies: Vec::new() };
        member.settle(Vec::new());
        member.apply();
        member.hear(Input::Campaign);
        member.apply();
        member
    }

    fn hear(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.replica.handle(input, &mut effects);
        self.settle(effects);
    }

    fn settle(&mut self, mut effects: Vec<Effect>) {
        self.replica.flush(&mut effects);
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Persist(append) => {
                        self.replica.handle(Input::Persisted(append), &mut effects);
                    }
                    Effect::Apply(apply) => self.applies.push(apply),
                    _ => {}
                }
            }
            self.replica.flush(&mut effects);
        }
    }

    /// Applies what waits.
    fn apply(&mut self) {
        for Apply { entries, done } in std::mem::take(&mut self.applies) {
            for committed in entries {
                let index = committed.entry.index;
                if let Some(change) = codec::conf_change_of(&committed.entry).unwrap() {
                    self.hear(Input::ConfChangeApplied { index, change });
                }
            }
            self.hear(Input::Applied(done));
        }
    }

    fn change(&mut self, kind: ConfChangeKind) {
        let change = ConfChange { id: 0, kind, node_id: NodeId(2), context: Bytes::new() };
        self.hear(Input::ProposeConfChange { request_id: 1, change });
    }

    fn propose(&mut self) {
        let (data, request) = (Bytes::from_static(b"x"), Arc::default());
        self.hear(Input::Propose(Proposal { request_id: 2, data, request }));
    }

    fn reads_locally(&self) -> bool {
        self.replica.status().reads_locally
    }
}

/// The learner may have applied more, and have told its clients.
#[test]
fn not_beside_a_learner() {
    let mut member = Member::alone();
    assert!(member.reads_locally());
    member.change(ConfChangeKind::AddLearnerNode);
    member.apply();
    assert!(!member.reads_locally());
    member.change(ConfChangeKind::RemoveNode);
    member.apply();
    assert!(member.reads_locally());
}

/// What was committed together with the other may be known to its clients, before this member has applied it.
#[test]
fn not_before_all_that_was_shared_is_applied() {
    let mut member = Member::alone();
    member.change(ConfChangeKind::AddNode);
    member.apply();
    member.change(ConfChangeKind::RemoveNode);
    member.propose();
    let last = LogIndex(5);
    let body = Body::AppendResponse { index: last, rejection: None };
    let term = member.replica.status().term;
    member.hear(Input::Received(Message { to: NodeId(1), from: NodeId(2), term, body }));
    assert_eq!(member.replica.status().commit, last);

    // The removal at 4 is applied, the proposal at 5 is not.
    let apply = member.applies.pop().unwrap();
    assert!(member.applies.is_empty());
    let removal = apply.entries.first().unwrap();
    let change = codec::conf_change_of(&removal.entry).unwrap().unwrap();
    member.hear(Input::ConfChangeApplied { index: removal.entry.index, change });
    assert!(!member.reads_locally());
    member.hear(Input::Applied(apply.done));
    assert!(member.reads_locally());
}
