//! etcd-io/raft's way of printing messages, entries and ready structs.

use std::fmt::Write;

use raft::{
    Append, Apply, Body, ConfChangeKind, ConfChangeSingle, ConfState, Entry, EntryKind, HardState,
    Message, NodeId, Ready, SelfAck, Snapshot, Stable, codec,
};

/// Whom etcd-io/raft's local storage messages are addressed to.
pub(crate) const APPEND_THREAD: NodeId = NodeId(u64::MAX);
pub(crate) const APPLY_THREAD: NodeId = NodeId(u64::MAX - 1);

/// A message in etcd-io/raft's one shape for all kinds.
#[derive(Default)]
pub(crate) struct Flat<'a> {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) kind: String,
    term: u64,
    log_term: u64,
    index: u64,
    reject_hint: Option<u64>,
    commit: u64,
    vote: u64,
    entries: &'a [Entry],
    snapshot: Option<&'a Snapshot>,
    responses: Vec<Flat<'a>>,
}

impl<'a> Flat<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        let mut flat = Self {
            from: message.from,
            to: message.to,
            kind: message.body.kind().to_string(),
            term: message.term.0,
            ..Self::default()
        };
        match &message.body {
            Body::Propose { entries } => flat.entries = entries,
            Body::Append { prev, entries, commit } => {
                (flat.log_term, flat.index) = (prev.term.0, prev.index.0);
                flat.entries = entries;
                flat.commit = commit.0;
            }
            Body::AppendResponse { index, rejection } => {
                flat.index = index.0;
                if let Some(rejection) = rejection {
                    flat.log_term = rejection.hint_term.0;
                    flat.reject_hint = Some(rejection.hint.0);
                }
            }
            Body::Vote(request) | Body::PreVote(request) => {
                (flat.log_term, flat.index) = (request.last.term.0, request.last.index.0);
            }
            Body::VoteResponse { reject } | Body::PreVoteResponse { reject } => {
                flat.reject_hint = reject.then_some(0);
            }
            Body::Snapshot(snapshot) => flat.snapshot = Some(snapshot),
            Body::Heartbeat { commit, .. } => flat.commit = commit.0,
            Body::ReadIndexResponse { index, .. } => flat.index = index.0,
            Body::HeartbeatResponse { .. }
            | Body::TransferLeader
            | Body::TimeoutNow
            | Body::ReadIndex { .. } => {}
        }
        flat
    }

    /// The work for the append thread, without its responses.
    pub(crate) fn of_append(node: NodeId, append: &'a Append) -> Self {
        let state = append.hard_state.unwrap_or_default();
        Self {
            from: node,
            to: APPEND_THREAD,
            kind: "MsgStorageAppend".to_owned(),
            term: state.term.0,
            commit: state.commit.0,
            vote: state.vote.0,
            entries: &append.entries,
            snapshot: append.snapshot.as_ref(),
            ..Self::default()
        }
    }

    pub(crate) fn of_stable(node: NodeId, stable: &Stable, snapshot: Option<&'a Snapshot>) -> Self {
        let last = stable.last.unwrap_or_default();
        Self {
            from: APPEND_THREAD,
            to: node,
            kind: "MsgStorageAppendResp".to_owned(),
            term: stable.term.0,
            log_term: last.term.0,
            index: last.index.0,
            snapshot,
            ..Self::default()
        }
    }

    pub(crate) fn of_apply(node: NodeId, entries: &'a [Entry]) -> Self {
        let kind = "MsgStorageApply".to_owned();
        Self { from: node, to: APPLY_THREAD, kind, entries, ..Self::default() }
    }

    pub(crate) fn of_applied(node: NodeId, entries: &'a [Entry]) -> Self {
        let kind = "MsgStorageApplyResp".to_owned();
        Self { from: APPLY_THREAD, to: node, kind, entries, ..Self::default() }
    }

    pub(crate) fn describe(&self) -> String {
        self.indented("")
    }

    fn indented(&self, indent: &str) -> String {
        let mut text = format!(
            "{indent}{}->{} {} Term:{} Log:{}/{}",
            target(self.from),
            target(self.to),
            self.kind,
            self.term,
            self.log_term,
            self.index
        );
        if let Some(hint) = self.reject_hint {
            write!(text, " Rejected (Hint: {hint})").unwrap();
        }
        if self.commit != 0 {
            write!(text, " Commit:{}", self.commit).unwrap();
        }
        if self.vote != 0 {
            write!(text, " Vote:{}", self.vote).unwrap();
        }
        match self.entries {
            [] => {}
            [entry] => write!(text, " Entries:[{}]", describe_entry(entry)).unwrap(),
            entries => {
                text += " Entries:[";
                for entry in entries {
                    write!(text, "\n{indent}  {}", describe_entry(entry)).unwrap();
                }
                write!(text, "\n{indent}]").unwrap();
            }
        }
        if let Some(snapshot) = self.snapshot.filter(|snapshot| !snapshot.is_empty()) {
            write!(text, "\n{indent}  Snapshot: {}", describe_snapshot(snapshot)).unwrap();
        }
        if !self.responses.is_empty() {
            text += " Responses:[";
            for response in &self.responses {
                write!(text, "\n{}", response.indented(&format!("{indent}  "))).unwrap();
            }
            write!(text, "\n{indent}]").unwrap();
        }
        text
    }
}

/// Returns responses and self-acknowledgements in the order in which the core queued them.
pub(crate) fn in_order<'a>(responses: &'a [Message], acks: &'a [SelfAck]) -> Vec<&'a Message> {
    let mut acks = acks.iter().peekable();
    let mut ordered = Vec::new();
    for place in 0..=responses.len() {
        while let Some(ack) = acks.next_if(|ack| ack.position <= place) {
            ordered.push(&ack.message);
        }
        ordered.extend(responses.get(place));
    }
    ordered
}

fn target(id: NodeId) -> String {
    match id {
        NodeId::NONE => "None".to_owned(),
        APPEND_THREAD => "AppendThread".to_owned(),
        APPLY_THREAD => "ApplyThread".to_owned(),
        id => id.to_string(),
    }
}

pub(crate) fn describe_entry(entry: &Entry) -> String {
    let (kind, data) = match entry.kind {
        EntryKind::Normal => ("EntryNormal", go_quote(&entry.data)),
        EntryKind::ConfChange => ("EntryConfChange", describe_conf_change(entry)),
        EntryKind::ConfChangeV2 => ("EntryConfChangeV2", describe_conf_change(entry)),
    };
    let space = if data.is_empty() { "" } else { " " };
    format!("{}/{} {kind}{space}{data}", entry.term, entry.index)
}

pub(crate) fn describe_entries(entries: &[Entry]) -> String {
    entries.iter().map(|entry| describe_entry(entry) + "\n").collect()
}

fn describe_conf_change(entry: &Entry) -> String {
    match codec::conf_change_of(entry) {
        Ok(change) => {
            let changes = change.unwrap_or_default().changes;
            changes.iter().map(describe_step).collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    }
}

fn describe_step(change: &ConfChangeSingle) -> String {
    let letter = match change.kind {
        ConfChangeKind::AddNode => 'v',
        ConfChangeKind::AddLearnerNode => 'l',
        ConfChangeKind::RemoveNode => 'r',
        ConfChangeKind::UpdateNode => 'u',
    };
    format!("{letter}{}", change.node_id.0)
}

/// Parses `v1 l2 r3 u4`.
pub(crate) fn parse_conf_changes(input: &str) -> Result<Vec<ConfChangeSingle>, String> {
    let step = |token: &str| {
        let mut letters = token.chars();
        let kind = match letters.next() {
            Some('v') => ConfChangeKind::AddNode,
            Some('l') => ConfChangeKind::AddLearnerNode,
            Some('r') => ConfChangeKind::RemoveNode,
            Some('u') => ConfChangeKind::UpdateNode,
            _ => return Err(format!("unknown input: {token}")),
        };
        let id = letters.as_str().parse().map_err(|_| format!("unknown input: {token}"))?;
        Ok(ConfChangeSingle { kind, node_id: NodeId(id) })
    };
    input.split_whitespace().map(step).collect()
}

/// Go's `%q` of a byte string, for the texts that scripts use.
fn go_quote(data: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in data {
        match byte {
            b'"' => text += "\\\"",
            b'\\' => text += "\\\\",
            b'\n' => text += "\\n",
            b' '..=b'~' => text.push(char::from(byte)),
            byte => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    text + "\""
}

fn describe_hard_state(state: &HardState) -> String {
    let vote =
        if state.vote == NodeId::NONE { String::new() } else { format!(" Vote:{}", state.vote.0) };
    format!("Term:{}{vote} Commit:{}", state.term, state.commit)
}

fn describe_conf_state(state: &ConfState) -> String {
    fn list(ids: &[NodeId]) -> String {
        ids.iter().map(|id| id.0.to_string()).collect::<Vec<_>>().join(" ")
    }
    format!(
        "Voters:[{}] VotersOutgoing:[{}] Learners:[{}] LearnersNext:[{}] AutoLeave:{}",
        list(&state.voters),
        list(&state.voters_outgoing),
        list(&state.learners),
        list(&state.learners_next),
        state.auto_leave
    )
}

fn describe_snapshot(snapshot: &Snapshot) -> String {
    let metadata = &snapshot.metadata;
    format!(
        "Index:{} Term:{} ConfState:{}",
        metadata.index,
        metadata.term,
        describe_conf_state(&metadata.conf_state)
    )
}

/// Prints a ready struct; in asynchronous mode the work for the storage threads appears among its messages.
pub(crate) fn describe_ready(node: NodeId, ready: &Ready, is_async: bool) -> String {
    let mut text = String::new();
    if let Some(state) = ready.soft_state {
        writeln!(text, "Lead:{} State:{}", state.leader.0, state.role).unwrap();
    }
    let append = ready.append.as_ref();
    if let Some(state) = append.and_then(|append| append.hard_state) {
        writeln!(text, "HardState {}", describe_hard_state(&state)).unwrap();
    }
    if !ready.read_states.is_empty() {
        let states: Vec<_> = ready
            .read_states
            .iter()
            .map(|state| format!("{{Index:{} Context:{}}}", state.index, go_quote(&state.context)))
            .collect();
        writeln!(text, "ReadStates [{}]", states.join(" ")).unwrap();
    }
    if let Some(append) = append.filter(|append| !append.entries.is_empty()) {
        write!(text, "Entries:\n{}", describe_entries(&append.entries)).unwrap();
    }
    if let Some(snapshot) = append.and_then(|append| append.snapshot.as_ref()) {
        writeln!(text, "Snapshot {}", describe_snapshot(snapshot)).unwrap();
    }
    if let Some(apply) = &ready.apply {
        write!(text, "CommittedEntries:\n{}", describe_entries(&apply.entries)).unwrap();
    }
    let mut messages: Vec<_> = ready.messages.iter().map(Flat::of).collect();
    if is_async {
        messages.extend(append.map(|append| append_with_responses(node, append)));
        messages.extend(ready.apply.as_ref().map(|apply| apply_with_response(node, apply)));
    }
    if !messages.is_empty() {
        text += "Messages:\n";
        for message in messages {
            writeln!(text, "{}", message.describe()).unwrap();
        }
    }
    if text.is_empty() {
        return "<empty Ready>".to_owned();
    }
    let must_sync = append.is_some_and(|append| append.must_sync);
    format!("Ready MustSync={must_sync}:\n{text}")
}

fn append_with_responses(node: NodeId, append: &Append) -> Flat<'_> {
    let mut flat = Flat::of_append(node, append);
    flat.responses =
        in_order(&append.responses, &append.done.acks).into_iter().map(Flat::of).collect();
    let stable = append.done.stable.as_ref();
    flat.responses
        .extend(stable.map(|stable| Flat::of_stable(node, stable, append.snapshot.as_ref())));
    flat
}

fn apply_with_response(node: NodeId, apply: &Apply) -> Flat<'_> {
    let mut flat = Flat::of_apply(node, &apply.entries);
    flat.responses = vec![Flat::of_applied(node, &apply.entries)];
    flat
}
