//! To and from raftpb, on the way to disk and peers. The only module that knows its shapes.
//!
//! We write what etcd 3.5 and 3.6 write: every scalar, zero or not, and an empty snapshot in every message. We read that
//! and what 3.7 writes, where absent means zero. Kinds of messages that never cross the network cannot be decoded, so no
//! peer can speak for this member's timers or storage.
//!
//! The byte layouts are pinned by the golden tests below.

use bytes::Bytes;
use prost::Message as _;
use proto::raftpb as pb;

use crate::{
    confchange::{ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeV2, Transition},
    error::CodecError,
    message::{Body, Message, Rejection, VoteRequest},
    types::{
        ConfState, Entry, EntryId, EntryKind, HardState, LogIndex, NodeId, Snapshot,
        SnapshotMetadata, Term,
    },
};

/// Context of a vote request that the leader itself asked for.
const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";

/// Encodes a message for a peer.
pub fn encode_message(message: &Message) -> Vec<u8> {
    message_to_proto(message).encode_to_vec()
}

/// Decodes a message from a peer. Payloads share the buffer.
///
/// # Errors
/// Fails on bytes that are not raftpb, and on what no peer may send.
pub fn decode_message(bytes: Bytes) -> Result<Message, CodecError> {
    message_from_proto(pb::Message::decode(bytes).map_err(not_protobuf)?)
}

/// Returns the message as raftpb. Payloads are shared.
pub fn message_to_proto(message: &Message) -> pb::Message {
    let mut proto = pb::Message {
        to: message.to.0,
        from: message.from.0,
        term: message.term.0,
        ..pb::Message::default()
    };
    let kind = match &message.body {
        Body::Propose { entries } => {
            proto.entries = entries.iter().map(entry_to_proto).collect();
            pb::MessageType::MsgProp
        }
        Body::Append { prev, entries, commit } => {
            proto.log_term = prev.term.0;
            proto.index = prev.index.0;
            proto.entries = entries.iter().map(entry_to_proto).collect();
            proto.commit = commit.0;
            pb::MessageType::MsgApp
        }
        Body::AppendResponse { index, rejection } => {
            proto.index = index.0;
            if let Some(rejection) = rejection {
                proto.reject = true;
                proto.reject_hint = rejection.hint.0;
                proto.log_term = rejection.hint_term.0;
            }
            pb::MessageType::MsgAppResp
        }
        Body::Vote(request) => {
            vote_request_to_proto(request, &mut proto);
            pb::MessageType::MsgVote
        }
        Body::VoteResponse { reject } => {
            proto.reject = *reject;
            pb::MessageType::MsgVoteResp
        }
        Body::Snapshot(snapshot) => {
            proto.snapshot = snapshot_to_proto(snapshot);
            pb::MessageType::MsgSnap
        }
        Body::Heartbeat { commit, context } => {
            proto.commit = commit.0;
            proto.context = some_unless_empty(context);
            pb::MessageType::MsgHeartbeat
        }
        Body::HeartbeatResponse { context } => {
            proto.context = some_unless_empty(context);
            pb::MessageType::MsgHeartbeatResp
        }
        Body::TransferLeader => pb::MessageType::MsgTransferLeader,
        Body::TimeoutNow => pb::MessageType::MsgTimeoutNow,
        Body::ReadIndex { context } => {
            proto.entries = vec![read_context_to_proto(context)];
            pb::MessageType::MsgReadIndex
        }
        Body::ReadIndexResponse { index, context } => {
            proto.index = index.0;
            proto.entries = vec![read_context_to_proto(context)];
            pb::MessageType::MsgReadIndexResp
        }
        Body::PreVote(request) => {
            vote_request_to_proto(request, &mut proto);
            pb::MessageType::MsgPreVote
        }
        Body::PreVoteResponse { reject } => {
            proto.reject = *reject;
            pb::MessageType::MsgPreVoteResp
        }
    };
    proto.set_type(kind);
    proto
}

/// Returns the message that a peer sent as raftpb.
///
/// # Errors
/// Fails on what no peer may send.
pub fn message_from_proto(proto: pb::Message) -> Result<Message, CodecError> {
    let kind = pb::MessageType::try_from(proto.r#type)
        .map_err(|_| CodecError::UnknownEnum { what: "message type", value: proto.r#type })?;
    if proto.vote.unwrap_or(0) != 0 || !proto.responses.is_empty() {
        return Err(CodecError::Malformed {
            what: "message from a peer with fields for storage threads",
        });
    }
    let (to, from, term) = (NodeId(proto.to), NodeId(proto.from), Term(proto.term));
    let index = LogIndex(proto.index);
    let body = match kind {
        pb::MessageType::MsgProp => Body::Propose { entries: entries_from_proto(proto.entries)? },
        pb::MessageType::MsgApp => Body::Append {
            prev: EntryId { term: Term(proto.log_term), index },
            entries: entries_from_proto(proto.entries)?,
            commit: LogIndex(proto.commit),
        },
        pb::MessageType::MsgAppResp => {
            let rejection =
                Rejection { hint: LogIndex(proto.reject_hint), hint_term: Term(proto.log_term) };
            Body::AppendResponse { index, rejection: proto.reject.then_some(rejection) }
        }
        pb::MessageType::MsgVote => Body::Vote(vote_request_from_proto(&proto)),
        pb::MessageType::MsgVoteResp => Body::VoteResponse { reject: proto.reject },
        pb::MessageType::MsgSnap => {
            let snapshot = snapshot_from_proto(proto.snapshot);
            if snapshot.is_empty() {
                return Err(CodecError::Malformed { what: "snapshot message without a snapshot" });
            }
            Body::Snapshot(Box::new(snapshot))
        }
        pb::MessageType::MsgHeartbeat => Body::Heartbeat {
            commit: LogIndex(proto.commit),
            context: proto.context.unwrap_or_default(),
        },
        pb::MessageType::MsgHeartbeatResp => {
            Body::HeartbeatResponse { context: proto.context.unwrap_or_default() }
        }
        pb::MessageType::MsgTransferLeader => Body::TransferLeader,
        pb::MessageType::MsgTimeoutNow => Body::TimeoutNow,
        pb::MessageType::MsgReadIndex => {
            Body::ReadIndex { context: read_context_from_proto(proto.entries)? }
        }
        pb::MessageType::MsgReadIndexResp => {
            Body::ReadIndexResponse { index, context: read_context_from_proto(proto.entries)? }
        }
        pb::MessageType::MsgPreVote => Body::PreVote(vote_request_from_proto(&proto)),
        pb::MessageType::MsgPreVoteResp => Body::PreVoteResponse { reject: proto.reject },
        // Absent is zero is MsgHup, so an empty message ends here too.
        pb::MessageType::MsgHup
        | pb::MessageType::MsgBeat
        | pb::MessageType::MsgUnreachable
        | pb::MessageType::MsgSnapStatus
        | pb::MessageType::MsgCheckQuorum
        | pb::MessageType::MsgStorageAppend
        | pb::MessageType::MsgStorageAppendResp
        | pb::MessageType::MsgStorageApply
        | pb::MessageType::MsgStorageApplyResp
        | pb::MessageType::MsgForgetLeader => {
            return Err(CodecError::LocalKind { kind: proto.r#type });
        }
    };
    Ok(Message { to, from, term, body })
}

/// Returns the entry as raftpb. The payload is shared.
pub fn entry_to_proto(entry: &Entry) -> pb::Entry {
    let kind = match entry.kind {
        EntryKind::Normal => pb::EntryType::EntryNormal,
        EntryKind::ConfChange => pb::EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => pb::EntryType::EntryConfChangeV2,
    };
    pb::Entry {
        r#type: kind.into(),
        term: entry.term.0,
        index: entry.index.0,
        data: some_unless_empty(&entry.data),
    }
}

/// Returns the entry that stood on disk or in a message.
///
/// # Errors
/// Fails on an unknown kind of entry.
pub fn entry_from_proto(proto: pb::Entry) -> Result<Entry, CodecError> {
    let kind = match pb::EntryType::try_from(proto.r#type) {
        Ok(pb::EntryType::EntryNormal) => EntryKind::Normal,
        Ok(pb::EntryType::EntryConfChange) => EntryKind::ConfChange,
        Ok(pb::EntryType::EntryConfChangeV2) => EntryKind::ConfChangeV2,
        Err(_) => return Err(CodecError::UnknownEnum { what: "entry type", value: proto.r#type }),
    };
    Ok(Entry {
        kind,
        term: Term(proto.term),
        index: LogIndex(proto.index),
        data: proto.data.unwrap_or_default(),
    })
}

/// Returns the hard state as raftpb.
pub fn hard_state_to_proto(state: &HardState) -> pb::HardState {
    pb::HardState { term: state.term.0, vote: state.vote.0, commit: state.commit.0 }
}

/// Returns the hard state that stood on disk.
pub fn hard_state_from_proto(proto: &pb::HardState) -> HardState {
    HardState { term: Term(proto.term), vote: NodeId(proto.vote), commit: LogIndex(proto.commit) }
}

/// Returns the configuration as raftpb.
pub fn conf_state_to_proto(state: &ConfState) -> pb::ConfState {
    fn ids(ids: &[NodeId]) -> Vec<u64> {
        ids.iter().map(|id| id.0).collect()
    }
    pb::ConfState {
        voters: ids(&state.voters),
        learners: ids(&state.learners),
        voters_outgoing: ids(&state.voters_outgoing),
        learners_next: ids(&state.learners_next),
        auto_leave: state.auto_leave,
    }
}

/// Returns the configuration that stood on disk or in a snapshot.
pub fn conf_state_from_proto(proto: pb::ConfState) -> ConfState {
    fn ids(ids: Vec<u64>) -> Vec<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }
    ConfState {
        voters: ids(proto.voters),
        learners: ids(proto.learners),
        voters_outgoing: ids(proto.voters_outgoing),
        learners_next: ids(proto.learners_next),
        auto_leave: proto.auto_leave,
    }
}

/// Returns the snapshot as raftpb. The data are shared.
pub fn snapshot_to_proto(snapshot: &Snapshot) -> pb::Snapshot {
    pb::Snapshot {
        data: some_unless_empty(&snapshot.data),
        metadata: pb::SnapshotMetadata {
            conf_state: conf_state_to_proto(&snapshot.metadata.conf_state),
            index: snapshot.metadata.index.0,
            term: snapshot.metadata.term.0,
        },
    }
}

/// Returns the snapshot that stood on disk or in a message.
pub fn snapshot_from_proto(proto: pb::Snapshot) -> Snapshot {
    Snapshot {
        data: proto.data.unwrap_or_default(),
        metadata: SnapshotMetadata {
            conf_state: conf_state_from_proto(proto.metadata.conf_state),
            index: LogIndex(proto.metadata.index),
            term: Term(proto.metadata.term),
        },
    }
}

/// Encodes the payload of an entry of kind [`EntryKind::ConfChange`].
pub fn encode_conf_change(change: &ConfChange) -> Bytes {
    let proto = pb::ConfChange {
        id: change.id,
        r#type: conf_change_kind_to_proto(change.kind).into(),
        node_id: change.node_id.0,
        context: some_unless_empty(&change.context),
    };
    proto.encode_to_vec().into()
}

/// Decodes the payload of an entry of kind [`EntryKind::ConfChange`].
///
/// # Errors
/// Fails on bytes that are not one.
pub fn decode_conf_change(data: Bytes) -> Result<ConfChange, CodecError> {
    let proto = pb::ConfChange::decode(data).map_err(not_protobuf)?;
    Ok(ConfChange {
        id: proto.id,
        kind: conf_change_kind_from_proto(proto.r#type)?,
        node_id: NodeId(proto.node_id),
        context: proto.context.unwrap_or_default(),
    })
}

/// Encodes the payload of an entry of kind [`EntryKind::ConfChangeV2`]. What says nothing but "leave" is empty, so that
/// it weighs nothing.
pub fn encode_conf_change_v2(change: &ConfChangeV2) -> Bytes {
    if change.leaves_joint() && change.context.is_empty() {
        return Bytes::new();
    }
    let transition = match change.transition {
        Transition::Auto => pb::ConfChangeTransition::Auto,
        Transition::JointImplicit => pb::ConfChangeTransition::JointImplicit,
        Transition::JointExplicit => pb::ConfChangeTransition::JointExplicit,
    };
    let step = |change: &ConfChangeSingle| pb::ConfChangeSingle {
        r#type: conf_change_kind_to_proto(change.kind).into(),
        node_id: change.node_id.0,
    };
    let proto = pb::ConfChangeV2 {
        transition: transition.into(),
        changes: change.changes.iter().map(step).collect(),
        context: some_unless_empty(&change.context),
    };
    proto.encode_to_vec().into()
}

/// Decodes the payload of an entry of kind [`EntryKind::ConfChangeV2`].
///
/// # Errors
/// Fails on bytes that are not one.
pub fn decode_conf_change_v2(data: Bytes) -> Result<ConfChangeV2, CodecError> {
    let proto = pb::ConfChangeV2::decode(data).map_err(not_protobuf)?;
    let transition = match pb::ConfChangeTransition::try_from(proto.transition) {
        Ok(pb::ConfChangeTransition::Auto) => Transition::Auto,
        Ok(pb::ConfChangeTransition::JointImplicit) => Transition::JointImplicit,
        Ok(pb::ConfChangeTransition::JointExplicit) => Transition::JointExplicit,
        Err(_) => {
            return Err(CodecError::UnknownEnum { what: "transition", value: proto.transition });
        }
    };
    let step = |change: &pb::ConfChangeSingle| {
        let kind = conf_change_kind_from_proto(change.r#type)?;
        Ok(ConfChangeSingle { kind, node_id: NodeId(change.node_id) })
    };
    Ok(ConfChangeV2 {
        transition,
        changes: proto.changes.iter().map(step).collect::<Result<_, CodecError>>()?,
        context: proto.context.unwrap_or_default(),
    })
}

/// Returns the change that an entry asks for, of whichever kind, or `None` for a normal entry.
///
/// # Errors
/// Fails if the payload is not a configuration change.
pub fn conf_change_of(entry: &Entry) -> Result<Option<ConfChangeV2>, CodecError> {
    Ok(match entry.kind {
        EntryKind::Normal => None,
        EntryKind::ConfChange => Some(decode_conf_change(entry.data.clone())?.into()),
        EntryKind::ConfChangeV2 => Some(decode_conf_change_v2(entry.data.clone())?),
    })
}

fn entries_from_proto(entries: Vec<pb::Entry>) -> Result<Vec<Entry>, CodecError> {
    entries.into_iter().map(entry_from_proto).collect()
}

fn vote_request_to_proto(request: &VoteRequest, proto: &mut pb::Message) {
    proto.index = request.last.index.0;
    proto.log_term = request.last.term.0;
    proto.context = request.transfer.then_some(Bytes::from_static(TRANSFER_CONTEXT));
}

fn vote_request_from_proto(proto: &pb::Message) -> VoteRequest {
    VoteRequest {
        last: EntryId { term: Term(proto.log_term), index: LogIndex(proto.index) },
        transfer: proto.context.as_deref() == Some(TRANSFER_CONTEXT),
    }
}

/// Read requests carry their context as the payload of an entry that is none.
fn read_context_to_proto(context: &Bytes) -> pb::Entry {
    pb::Entry { data: some_unless_empty(context), ..pb::Entry::default() }
}

fn read_context_from_proto(entries: Vec<pb::Entry>) -> Result<Bytes, CodecError> {
    let mut entries = entries.into_iter();
    match (entries.next(), entries.next()) {
        (Some(entry), None) => Ok(entry.data.unwrap_or_default()),
        (None, _) | (Some(_), Some(_)) => {
            Err(CodecError::Malformed { what: "read request without exactly one context" })
        }
    }
}

fn conf_change_kind_to_proto(kind: ConfChangeKind) -> pb::ConfChangeType {
    match kind {
        ConfChangeKind::AddNode => pb::ConfChangeType::ConfChangeAddNode,
        ConfChangeKind::RemoveNode => pb::ConfChangeType::ConfChangeRemoveNode,
        ConfChangeKind::UpdateNode => pb::ConfChangeType::ConfChangeUpdateNode,
        ConfChangeKind::AddLearnerNode => pb::ConfChangeType::ConfChangeAddLearnerNode,
    }
}

fn conf_change_kind_from_proto(value: i32) -> Result<ConfChangeKind, CodecError> {
    match pb::ConfChangeType::try_from(value) {
        Ok(pb::ConfChangeType::ConfChangeAddNode) => Ok(ConfChangeKind::AddNode),
        Ok(pb::ConfChangeType::ConfChangeRemoveNode) => Ok(ConfChangeKind::RemoveNode),
        Ok(pb::ConfChangeType::ConfChangeUpdateNode) => Ok(ConfChangeKind::UpdateNode),
        Ok(pb::ConfChangeType::ConfChangeAddLearnerNode) => Ok(ConfChangeKind::AddLearnerNode),
        Err(_) => Err(CodecError::UnknownEnum { what: "configuration change type", value }),
    }
}

/// Go writes a byte field unless it is nil, and has nil where we have nothing.
fn some_unless_empty(bytes: &Bytes) -> Option<Bytes> {
    (!bytes.is_empty()).then(|| bytes.clone())
}

fn not_protobuf(error: prost::DecodeError) -> CodecError {
    CodecError::Protobuf(error.to_string())
}

#[cfg(test)]
mod tests;
