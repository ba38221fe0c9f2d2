//! The only place that touches [`replica`]: what a node hears goes in, what is asked of it comes out.

use std::sync::Arc;

use bytes::Bytes;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use raft::{
    Append, Applied, Body, ConfChange, ConfChangeV2, ConfState, Entry, EntryKind, HardState,
    LogIndex, Message, NodeId, Peer, Snapshot, Term, codec,
};
pub(super) use replica::Status;
use replica::{Effect, Input, Proposal, Replica, Setup};

/// What a member starts from.
pub(super) struct Start {
    pub(super) id: u64,
    pub(super) snapshot: Snapshot,
    pub(super) hard_state: HardState,
    pub(super) entries: Vec<Entry>,
    pub(super) founders: Vec<u64>,
    pub(super) election_ticks: u32,
    pub(super) pre_vote: bool,
    pub(super) seed: u64,
}

/// What happens to a node.
#[derive(Debug)]
pub(super) enum Heard {
    Tick,
    Propose(u64),
    Change(ConfChange),
    ChangeV2(ConfChangeV2),
    Message(Message),
    Persisted(Append),
    Applied(Applied),
    ConfChanged { index: u64, change: ConfChangeV2 },
    Read(u64),
    SnapshotTaken { index: u64, conf_state: ConfState, data: Bytes, compact: u64 },
    Campaign,
    Transfer(u64),
    Unreachable(u64),
    SnapshotSent { to: u64, is_taken: bool },
}

/// What a node is to do.
#[derive(Debug)]
pub(super) enum Asked {
    Send(Vec<Message>),
    SendSnapshot(Message),
    Install(Snapshot),
    Persist(Append),
    /// Entries, each with the value that this node proposed in it.
    Apply(Vec<(Entry, Option<u64>)>, Applied),
    Conf(Result<ConfState, String>),
    ReadReady {
        index: u64,
        read: Option<u64>,
    },
    Dropped(u64),
    Refused(String),
    Status(Status),
}

/// A replica.
pub(super) struct Member {
    id: NodeId,
    replica: Replica,
    effects: Vec<Effect>,
}

/// Names proposals of configuration changes, which nobody waits for.
const NOBODY: u64 = 0;

impl Member {
    pub(super) fn start(start: Start) -> Result<Self, String> {
        let id = NodeId(start.id);
        let peer = |&id: &u64| Peer { id: NodeId(id), context: Bytes::new() };
        let replica = Replica::new(Setup {
            id,
            applied: start.snapshot.metadata.index,
            snapshot: start.snapshot,
            hard_state: start.hard_state,
            entries: start.entries,
            bootstrap: start.founders.iter().map(peer).collect(),
            election_ticks: start.election_ticks,
            pre_vote: start.pre_vote,
            seed: start.seed,
            trace: Arc::new(raft::Silent),
        });
        let replica = replica.map_err(|error| error.to_string())?;
        Ok(Self { id, replica, effects: Vec::new() })
    }

    /// Takes one thing that happened.
    pub(super) fn hear(&mut self, heard: Heard) {
        let input = match heard {
            Heard::Tick => Input::Tick,
            Heard::Propose(value) => Input::Propose(Proposal {
                request_id: value,
                data: encode(value),
                request: Arc::new(InternalRaftRequest {
                    header: Some(RequestHeader { id: value, ..RequestHeader::default() }),
                    ..InternalRaftRequest::default()
                }),
            }),
            Heard::Change(change) => Input::ProposeConfChange { request_id: NOBODY, change },
            Heard::ChangeV2(change) => {
                // A replica proposes changes of one member only, as etcd does; others can come from a peer.
                let data = codec::encode_conf_change_v2(&change);
                let entry = Entry { kind: EntryKind::ConfChangeV2, data, ..Entry::default() };
                let body = Body::Propose { entries: vec![entry] };
                Input::Received(Message { to: self.id, from: self.id, term: Term::ZERO, body })
            }
            Heard::Message(message) => Input::Received(message),
            Heard::Persisted(append) => Input::Persisted(append),
            Heard::Applied(done) => Input::Applied(done),
            Heard::ConfChanged { index, change } => {
                Input::ConfChangeApplied { index: LogIndex(index), change }
            }
            Heard::Read(read) => Input::ReadIndex { context: encode(read) },
            Heard::SnapshotTaken { index, conf_state, data, compact } => Input::SnapshotTaken {
                index: LogIndex(index),
                conf_state,
                data,
                compact: LogIndex(compact),
            },
            Heard::Campaign => Input::Campaign,
            Heard::Transfer(to) => Input::TransferLeader(NodeId(to)),
            Heard::Unreachable(to) => Input::Unreachable(NodeId(to)),
            Heard::SnapshotSent { to, is_taken } => {
                Input::SnapshotSent { to: NodeId(to), is_taken }
            }
        };
        self.replica.handle(input, &mut self.effects);
    }

    /// Takes what is to be done.
    pub(super) fn flush(&mut self, asked: &mut Vec<Asked>) {
        self.replica.flush(&mut self.effects);
        asked.extend(self.effects.drain(..).map(|effect| {
            match effect {
                Effect::Send(messages) => Asked::Send(messages),
                Effect::SendSnapshot(message) => Asked::SendSnapshot(message),
                Effect::Install(snapshot) => Asked::Install(snapshot),
                Effect::Persist(append) => Asked::Persist(append),
                Effect::Apply(apply) => Asked::Apply(
                    apply
                        .entries
                        .into_iter()
                        .map(|committed| {
                            let request = committed.request.as_ref();
                            let header = request.and_then(|request| request.header.as_ref());
                            let value = header.map(|header| header.id);
                            (committed.entry, value)
                        })
                        .collect(),
                    apply.done,
                ),
                Effect::ConfState(result) => Asked::Conf(result.map_err(|error| error.to_string())),
                Effect::ReadReady { index, context } => {
                    Asked::ReadReady { index: index.0, read: decode(&context) }
                }
                Effect::Dropped { request_id } => Asked::Dropped(request_id),
                Effect::Rejected(error) => Asked::Refused(error.to_string()),
                Effect::Status(status) => Asked::Status(status),
            }
        }));
    }
}

fn encode(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

/// The value in the data of an entry, or the name of a read; none in what is not one of ours.
pub(super) fn decode(data: &[u8]) -> Option<u64> {
    data.try_into().ok().map(u64::from_le_bytes)
}
