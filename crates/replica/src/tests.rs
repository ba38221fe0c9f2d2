//! One member, driven by hand: what waits for what.

use raft::{ConfChangeKind, Silent};

use super::*;

fn start() -> Replica {
    Replica::new(Setup {
        id: NodeId(1),
        snapshot: Snapshot::default(),
        hard_state: HardState::default(),
        entries: Vec::new(),
        applied: LogIndex::ZERO,
        bootstrap: vec![Peer { id: NodeId(1), context: Bytes::from_static(b"{}") }],
        election_ticks: 10,
        pre_vote: true,
        seed: 7,
        trace: Arc::new(Silent),
    })
    .unwrap()
}

fn proposal(number: u64) -> Proposal {
    Proposal {
        request_id: number,
        data: Bytes::from(vec![u8::try_from(number).unwrap()]),
        request: Arc::new(InternalRaftRequest { id: number, ..InternalRaftRequest::default() }),
    }
}

/// Carries out everything at once, as a perfect disk and state machine would; returns what was applied and read.
fn settle(replica: &mut Replica, applied: &mut Vec<Committed>, reads: &mut Vec<LogIndex>) {
    let mut effects = Vec::new();
    replica.flush(&mut effects);
    while !effects.is_empty() {
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Persist(append) => replica.handle(Input::Persisted(append), &mut effects),
                Effect::Apply(apply) => {
                    for committed in &apply.entries {
                        if committed.entry.kind == raft::EntryKind::ConfChange {
                            let change =
                                raft::codec::decode_conf_change(committed.entry.data.clone())
                                    .unwrap();
                            let (index, change) = (committed.entry.index, change.into());
                            replica
                                .handle(Input::ConfChangeApplied { index, change }, &mut effects);
                        }
                    }
                    applied.extend(apply.entries);
                    replica.handle(Input::Applied(apply.done), &mut effects);
                }
                Effect::ReadReady { index, .. } => reads.push(index),
                Effect::ConfState(state) => assert_eq!(state.unwrap().voters, [NodeId(1)]),
                Effect::Status(_) => {}
                Effect::Send(_)
                | Effect::SendSnapshot(_)
                | Effect::Install(_)
                | Effect::Dropped { .. }
                | Effect::Rejected(_) => {
                    panic!("unexpected {effect:?}")
                }
            }
        }
        replica.flush(&mut effects);
    }
}

fn lead() -> (Replica, Vec<Committed>) {
    let mut replica = start();
    let (mut applied, mut reads) = (Vec::new(), Vec::new());
    settle(&mut replica, &mut applied, &mut reads);
    replica.handle(Input::Campaign, &mut Vec::new());
    settle(&mut replica, &mut applied, &mut reads);
    (replica, applied)
}

#[test]
fn a_founder_applies_its_own_addition_and_leads() {
    let (replica, applied) = lead();
    assert_eq!(applied.len(), 2, "the conf change and the leader's empty entry");
    assert_eq!(replica.status().role, Role::Leader);
    assert!(replica.status().reads_locally);
}

#[test]
fn nothing_is_applied_before_it_is_durable() {
    let (mut replica, _) = lead();
    let mut effects = Vec::new();
    replica.handle(Input::Propose(proposal(9)), &mut effects);
    replica.flush(&mut effects);
    let Some(Effect::Persist(append)) =
        effects.iter().position(|e| matches!(e, Effect::Persist(_))).map(|at| effects.remove(at))
    else {
        panic!("no write: {effects:?}")
    };
    assert!(append.must_sync);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Apply(_))), "{effects:?}");
    replica.handle(Input::Persisted(append), &mut effects);
    replica.flush(&mut effects);
    assert!(effects.iter().any(|e| matches!(e, Effect::Apply(_))), "{effects:?}");
}

#[test]
fn a_batch_of_proposals_is_one_write_and_keeps_its_requests() {
    let (mut replica, _) = lead();
    let mut effects = Vec::new();
    for number in 1..=5 {
        replica.handle(Input::Propose(proposal(number)), &mut effects);
    }
    replica.flush(&mut effects);
    let writes: Vec<usize> = effects
        .iter()
        .filter_map(
            |e| if let Effect::Persist(append) = e { Some(append.entries.len()) } else { None },
        )
        .collect();
    assert_eq!(writes, [5]);
    let (mut applied, mut reads) = (Vec::new(), Vec::new());
    for effect in effects {
        if let Effect::Persist(append) = effect {
            replica.handle(Input::Persisted(append), &mut Vec::new());
        }
    }
    settle(&mut replica, &mut applied, &mut reads);
    let requests: Vec<u64> = applied.iter().map(|c| c.request.as_ref().unwrap().id).collect();
    assert_eq!(requests, [1, 2, 3, 4, 5]);
}

#[test]
fn a_proposal_without_a_leader_is_given_back() {
    let mut replica = start();
    let mut effects = Vec::new();
    replica.handle(Input::Propose(proposal(3)), &mut effects);
    assert!(matches!(effects[..], [Effect::Dropped { request_id: 3 }]), "{effects:?}");
}

#[test]
fn a_read_waits_for_the_commit_index() {
    let (mut replica, _) = lead();
    replica.handle(Input::ReadIndex { context: Bytes::from_static(b"r") }, &mut Vec::new());
    let (mut applied, mut reads) = (Vec::new(), Vec::new());
    settle(&mut replica, &mut applied, &mut reads);
    assert_eq!(reads, [replica.status().commit]);
}

#[test]
fn reads_stop_being_local_with_a_second_voter() {
    let (mut replica, _) = lead();
    let change = ConfChange {
        id: 1,
        kind: ConfChangeKind::AddNode,
        node_id: NodeId(2),
        context: Bytes::new(),
    };
    let mut effects = Vec::new();
    replica.handle(
        Input::ConfChangeApplied { index: LogIndex(9), change: change.into() },
        &mut effects,
    );
    replica.flush(&mut effects);
    assert!(!replica.status().reads_locally);
}

#[test]
fn entries_in_memory_hold_a_bounded_number_of_bytes() {
    let (mut replica, mut applied) = lead();
    let (mut reads, before) = (Vec::new(), applied.len());
    let large = Bytes::from(vec![1; 1 << 20]);
    for number in 0..200 {
        let proposal = Proposal { data: large.clone(), ..proposal(number) };
        replica.handle(Input::Propose(proposal), &mut Vec::new());
        settle(&mut replica, &mut applied, &mut reads);
        assert!(replica.core.storage().payload_bytes() <= RETAINED_BYTES_MAX);
    }
    assert_eq!(applied.len() - before, 200);
    let storage = replica.core.storage();
    assert!(storage.payload_bytes() >= RETAINED_BYTES_MAX / 2, "not more is forgotten than must");
    // Who needs what is gone gets a snapshot behind which the log goes on.
    assert!(storage.snapshot().unwrap().metadata.index >= storage.first_index().prev());
}

/// A leader that stood still would propose to revoke leases that ran out on its clock, and pass that on to a successor under
/// whom they were renewed.
#[test]
fn what_only_a_leader_may_propose_is_not_passed_on() {
    let mut replica = start();
    let mut effects = Vec::new();
    replica.handle(Input::ProposeAsLeader(proposal(5)), &mut effects);
    assert!(matches!(effects[..], [Effect::Dropped { request_id: 5 }]), "{effects:?}");
    let (mut applied, mut reads) = (Vec::new(), Vec::new());
    settle(&mut replica, &mut applied, &mut reads);
    replica.handle(Input::Campaign, &mut effects);
    settle(&mut replica, &mut applied, &mut reads);
    effects.clear();
    replica.handle(Input::ProposeAsLeader(proposal(6)), &mut effects);
    assert!(effects.is_empty(), "{effects:?}");
    settle(&mut replica, &mut applied, &mut reads);
    let request = applied.last().and_then(|committed| committed.request.as_ref());
    assert_eq!(request.map(|request| request.id), Some(6));
}

/// Seed 4422 of the simulator: the member campaigned, looked for configuration changes that are not applied, and did not find
/// the entries.
#[test]
fn a_snapshot_within_a_batch_forgets_nothing_of_the_batch() {
    let (mut replica, _) = lead();
    let mut effects = Vec::new();
    for number in 1..=3 {
        replica.handle(Input::Propose(proposal(number)), &mut effects);
    }
    replica.flush(&mut effects);
    for effect in std::mem::take(&mut effects) {
        if let Effect::Persist(append) = effect {
            replica.handle(Input::Persisted(append), &mut effects);
        }
    }
    replica.flush(&mut effects);
    let batch = effects.iter().find_map(|e| if let Effect::Apply(a) = e { Some(a) } else { None });
    let [first, second, _] = &batch.unwrap().entries[..] else { panic!("{batch:?}") };
    let (first, second) = (first.entry.index, second.entry.index);
    let taken = Input::SnapshotTaken {
        index: second,
        conf_state: ConfState { voters: vec![NodeId(1)], ..ConfState::default() },
        data: Bytes::new(),
        compact: second,
    };
    replica.handle(taken, &mut Vec::new());
    let storage = replica.core.storage();
    assert_eq!(storage.snapshot().unwrap().metadata.index, second);
    assert!(storage.first_index() <= first, "{} is gone", first);
}
