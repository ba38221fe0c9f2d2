//! A member among peers that send whatever they like: it may refuse, be misled, or be deposed, but never panic.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use raft::{
    Body, Config, Core, Entry, EntryId, EntryKind, LogIndex, MemoryStorage, Message, NodeId, Peer,
    Rejection, Snapshot, SplitMix64, Term, VoteRequest, codec,
};

/// Small numbers meet the member's own state, large ones the ends of arithmetic.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..12u64,
        1 => select(vec![1 << 31, 1 << 62, (1 << 62) + 1, u64::MAX - 1, u64::MAX]),
    ]
}

fn any_id() -> impl Strategy<Value = NodeId> {
    prop_oneof![8 => (1..=3u64).prop_map(NodeId), 1 => any_number().prop_map(NodeId)]
}

fn any_index() -> impl Strategy<Value = LogIndex> {
    any_number().prop_map(LogIndex)
}

fn any_term() -> impl Strategy<Value = Term> {
    any_number().prop_map(Term)
}

fn any_entry_id() -> impl Strategy<Value = EntryId> {
    (any_term(), any_index()).prop_map(|(term, index)| EntryId { term, index })
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        vec(any::<u8>(), 0..10).prop_map(Bytes::from),
        any_number().prop_map(|number| Bytes::copy_from_slice(&number.to_le_bytes())),
        // A change of membership.
        (0..4u8, 0..6u8).prop_map(|(kind, id)| Bytes::from(vec![0x08, 0, 0x10, kind, 0x18, id])),
    ]
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    select(vec![EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2])
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let entry = (any_kind(), any_term(), any_index(), any_bytes())
        .prop_map(|(kind, term, index, data)| Entry { kind, term, index, data });
    vec(entry, 0..3)
}

/// Entries that follow each other, so that some get past the first check.
fn fitting_entries() -> impl Strategy<Value = (EntryId, Vec<Entry>)> {
    (any_entry_id(), any_entries(), 0..3u64).prop_map(|(prev, mut entries, raise)| {
        let mut id = prev;
        for entry in &mut entries {
            id = EntryId { term: Term(id.term.0.saturating_add(raise)), index: id.index.next() };
            (entry.term, entry.index) = (id.term, id.index);
        }
        (prev, entries)
    })
}

prop_compose! {
    fn any_snapshot()(
        id in any_entry_id(),
        data in any_bytes(),
        voters in vec(any_id(), 0..4),
        learners in vec(any_id(), 0..2),
        voters_outgoing in vec(any_id(), 0..3),
        auto_leave: bool,
    ) -> Snapshot {
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        snapshot.metadata.index = id.index;
        snapshot.metadata.term = id.term;
        snapshot.metadata.conf_state.voters = voters;
        snapshot.metadata.conf_state.learners = learners;
        snapshot.metadata.conf_state.voters_outgoing = voters_outgoing;
        snapshot.metadata.conf_state.auto_leave = auto_leave;
        snapshot
    }
}

fn any_body() -> impl Strategy<Value = Body> {
    let request = || {
        (any_entry_id(), any::<bool>()).prop_map(|(last, transfer)| VoteRequest { last, transfer })
    };
    let rejection =
        (any_index(), any_term()).prop_map(|(hint, hint_term)| Rejection { hint, hint_term });
    prop_oneof![
        any_entries().prop_map(|entries| Body::Propose { entries }),
        (any_entry_id(), any_entries(), any_index())
            .prop_map(|(prev, entries, commit)| Body::Append { prev, entries, commit }),
        (fitting_entries(), any_index()).prop_map(|((prev, entries), commit)| Body::Append {
            prev,
            entries,
            commit
        }),
        (any_index(), proptest::option::of(rejection))
            .prop_map(|(index, rejection)| Body::AppendResponse { index, rejection }),
        request().prop_map(Body::Vote),
        request().prop_map(Body::PreVote),
        any::<bool>().prop_map(|reject| Body::VoteResponse { reject }),
        any::<bool>().prop_map(|reject| Body::PreVoteResponse { reject }),
        any_snapshot().prop_map(|snapshot| Body::Snapshot(Box::new(snapshot))),
        (any_index(), any_bytes())
            .prop_map(|(commit, context)| Body::Heartbeat { commit, context }),
        any_bytes().prop_map(|context| Body::HeartbeatResponse { context }),
        Just(Body::TransferLeader),
        Just(Body::TimeoutNow),
        any_bytes().prop_map(|context| Body::ReadIndex { context }),
        (any_index(), any_bytes())
            .prop_map(|(index, context)| Body::ReadIndexResponse { index, context }),
    ]
}

#[derive(Clone, Debug)]
enum Input {
    Message(NodeId, NodeId, Option<Term>, Body),
    Tick,
    Propose,
    Read,
    Campaign,
    Elect,
    Settle,
}

fn any_input() -> impl Strategy<Value = Input> {
    let message = (any_id(), any_id(), proptest::option::of(any_term()), any_body());
    prop_oneof![
        12 => message.prop_map(|(to, from, term, body)| Input::Message(to, from, term, body)),
        2 => Just(Input::Tick),
        1 => Just(Input::Propose),
        1 => Just(Input::Read),
        1 => Just(Input::Campaign),
        2 => Just(Input::Elect),
        4 => Just(Input::Settle),
    ]
}

fn settle(core: &mut Core<MemoryStorage>) {
    while core.has_ready() {
        let ready = core.ready();
        if let Some(append) = ready.append {
            if let Some(snapshot) = append.snapshot {
                core.storage_mut().apply_snapshot(snapshot).unwrap();
            }
            core.storage_mut().append(append.entries);
            core.persisted(append.done);
        }
        if let Some(apply) = ready.apply {
            for entry in &apply.entries {
                // A driver stops on a change that cannot be; here it must do without it.
                if let Ok(Some(change)) = codec::conf_change_of(entry) {
                    let _ = core.apply_conf_change_at(entry.index, &change);
                }
            }
            core.applied(apply.done);
        }
    }
}

/// Lets two peers give their votes, if they are asked.
fn elect(core: &mut Core<MemoryStorage>) {
    core.campaign();
    for body in [Body::PreVoteResponse { reject: false }, Body::VoteResponse { reject: false }] {
        settle(core);
        let term = if matches!(body, Body::PreVoteResponse { .. }) {
            core.term().next()
        } else {
            core.term()
        };
        for from in [NodeId(2), NodeId(3)] {
            let _ = core.step(Message { to: core.id(), from, term, body: body.clone() });
        }
    }
}

fn run(inputs: Vec<Input>, pre_vote: bool, seed: u64) {
    let mut config = Config::new(NodeId(1), Box::new(SplitMix64::new(seed)));
    config.pre_vote = pre_vote;
    config.max_message_bytes = 30;
    let mut core = Core::new(config, MemoryStorage::new()).unwrap();
    let peers: Vec<_> = (1..=3).map(|id| Peer { id: NodeId(id), context: Bytes::new() }).collect();
    core.bootstrap(&peers).unwrap();
    settle(&mut core);
    for input in inputs {
        match input {
            Input::Message(to, from, term, body) => {
                let is_without_term = matches!(body, Body::Propose { .. } | Body::ReadIndex { .. });
                let fitting = if is_without_term { Term::ZERO } else { core.term() };
                let message = Message { to, from, term: term.unwrap_or(fitting), body };
                let before = core.hard_state();
                if core.step(message).is_err() {
                    assert!(core.hard_state().commit >= before.commit);
                }
            }
            Input::Tick => core.tick(),
            Input::Propose => drop(core.propose(Bytes::from_static(b"x"))),
            Input::Read => core.read_index(Bytes::from_static(b"r")),
            Input::Campaign => core.campaign(),
            Input::Elect => elect(&mut core),
            Input::Settle => settle(&mut core),
        }
    }
    settle(&mut core);
}

proptest! {
    // `PROPTEST_CASES` replaces the number.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    #[test]
    fn no_message_panics_a_member(inputs in vec(any_input(), 0..60), pre_vote: bool, seed: u64) {
        run(inputs, pre_vote, seed);
    }
}
