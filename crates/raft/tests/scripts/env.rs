//! Scripts about whole groups: nodes with storage and work queues, and one network between them.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use raft::{
    Append, Applied, Apply, Body, CompatMode, ConfChange, ConfChangeV2, ConfState, Config, Core,
    Entry, EntryId, HardState, LogIndex, MemoryStorage, Message, NO_LIMIT, NodeId, ReadMode,
    Rejection, Snapshot, SplitMix64, Stable, Storage, StorageError, Term, Transition, VoteRequest,
    codec,
};

use crate::{
    datadriven::Case,
    describe::{self, APPEND_THREAD, APPLY_THREAD, Flat},
    output::{LEVELS, Output},
};

/// Returns a runner with no nodes. Scripts of our own run the core as it is in production unless they say otherwise.
pub(crate) fn runner(is_own: bool) -> impl FnMut(&Case) -> String {
    let mut env = Env { is_own, ..Env::default() };
    move |case| env.handle(case)
}

#[derive(Default)]
struct Env {
    is_own: bool,
    nodes: Vec<Node>,
    /// The network and the way back from the storage threads, in order of sending.
    flying: Vec<Flying>,
    output: Output,
}

struct Node {
    core: Core<History>,
    settings: Settings,
    append_work: VecDeque<Append>,
    apply_work: VecDeque<Apply>,
}

/// Memory storage whose snapshot is always the newest state that was applied.
struct History {
    memory: MemoryStorage,
    snapshots: Vec<Snapshot>,
}

impl History {
    fn newest(&self) -> &Snapshot {
        self.snapshots.last().unwrap()
    }
}

impl Storage for History {
    fn initial_state(&self) -> (HardState, ConfState) {
        self.memory.initial_state()
    }

    fn entries(
        &self,
        low: LogIndex,
        high: LogIndex,
        max_bytes: u64,
        into: &mut Vec<Entry>,
    ) -> Result<(), StorageError> {
        self.memory.entries(low, high, max_bytes, into)
    }

    fn term(&self, index: LogIndex) -> Result<Term, StorageError> {
        self.memory.term(index)
    }

    fn first_index(&self) -> LogIndex {
        self.memory.first_index()
    }

    fn last_index(&self) -> LogIndex {
        self.memory.last_index()
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.newest().clone())
    }
}

/// Something on its way to a node.
enum Flying {
    Peer(Message),
    Own(Message),
    Stable { node: NodeId, stable: Stable, snapshot: Option<Snapshot> },
    Applied { node: NodeId, done: Applied, entries: Vec<Entry> },
}

impl Flying {
    fn flat(&self) -> Flat<'_> {
        match self {
            Self::Peer(message) | Self::Own(message) => Flat::of(message),
            Self::Stable { node, stable, snapshot } => {
                Flat::of_stable(*node, stable, snapshot.as_ref())
            }
            Self::Applied { node, entries, .. } => Flat::of_applied(*node, entries),
        }
    }

    fn is_local(&self) -> bool {
        let flat = self.flat();
        flat.from == flat.to || flat.from == APPEND_THREAD || flat.from == APPLY_THREAD
    }
}

/// What `add-nodes` can say, kept to start a node again.
#[derive(Clone)]
struct Settings {
    inflight: usize,
    is_async: bool,
    pre_vote: bool,
    check_quorum: bool,
    max_applying_bytes: u64,
    max_uncommitted_bytes: u64,
    max_message_bytes: u64,
    max_inflight_bytes: u64,
    disable_conf_change_validation: bool,
    read_mode: ReadMode,
    step_down_on_removal: bool,
    applied: LogIndex,
    compat: CompatMode,
}

impl Settings {
    fn config(&self, id: NodeId, output: &Output) -> Config {
        let mut config = Config::new(id, Box::new(SplitMix64::new(id.0)));
        config.election_ticks = ELECTION_TICKS;
        config.heartbeat_ticks = HEARTBEAT_TICKS;
        config.max_message_bytes = self.max_message_bytes;
        config.max_uncommitted_bytes = self.max_uncommitted_bytes;
        config.max_inflight_bytes = self.max_inflight_bytes;
        config.max_inflight_messages = self.inflight;
        config.async_storage_writes = self.is_async;
        config.pre_vote = self.pre_vote;
        config.check_quorum = self.check_quorum;
        config.max_applying_bytes = self.max_applying_bytes;
        config.disable_conf_change_validation = self.disable_conf_change_validation;
        config.read_mode = self.read_mode;
        config.step_down_on_removal = self.step_down_on_removal;
        config.applied = self.applied;
        config.compat = self.compat;
        config.trace = Arc::new(output.clone());
        config
    }
}

const ELECTION_TICKS: u32 = 3;
const HEARTBEAT_TICKS: u32 = 1;

impl Env {
    fn handle(&mut self, case: &Case) -> String {
        self.output.take();
        if let Err(error) = self.run(case) {
            if self.output.is_quiet() {
                return error;
            }
            self.output.print(error);
        }
        let text = self.output.take();
        if text.is_empty() { "ok".to_owned() } else { text }
    }

    fn run(&mut self, case: &Case) -> Result<(), String> {
        match case.command.as_str() {
            "_breakpoint" => {}
            "add-nodes" => self.add_nodes(case)?,
            "campaign" => self.first(case).core.campaign(),
            "compact" => self.compact(case)?,
            "deliver-msgs" => self.deliver_some(case),
            "forget-leader" => self.first(case).core.forget_leader(),
            "log-level" => self.set_level(&case.args[0].key)?,
            "process-ready" => self.for_each(case, "handling Ready", Self::process_ready)?,
            "process-append-thread" => {
                self.for_each(case, "processing append thread", Self::process_append)?
            }
            "process-apply-thread" => {
                self.for_each(case, "processing apply thread", Self::process_apply)?
            }
            "propose" => {
                let data = Bytes::from(case.args[1].key.clone());
                self.first(case).core.propose(data).map_err(|error| error.to_string())?;
            }
            "propose-conf-change" => self.propose_conf_change(case)?,
            "raft-log" => self.raft_log(case.numbers()[0]),
            "raft-state" => self.raft_state(),
            "report-unreachable" => {
                let id = NodeId(case.numbers()[1]);
                self.first(case).core.report_unreachable(id);
            }
            "send-snapshot" => self.send_snapshot(case),
            "set-randomized-election-timeout" => {
                let ticks = case.value("timeout").unwrap().parse().unwrap();
                self.first(case).core.set_election_timeout(ticks);
            }
            "stabilize" => self.stabilize(case)?,
            "status" => self.status(case),
            "tick-election" => self.tick(case, ELECTION_TICKS),
            "tick-heartbeat" => self.tick(case, HEARTBEAT_TICKS),
            "transfer-leadership" => {
                let id = |key| NodeId(case.value(key).unwrap().parse().unwrap());
                self.node(id("from")).core.transfer_leader(id("to"));
            }
            // Not in etcd-io/raft's harness.
            "read-index" if self.is_own => {
                let context = Bytes::from(case.args[1].key.clone());
                self.first(case).core.read_index(context);
            }
            "report-snapshot" if self.is_own => {
                let id = NodeId(case.numbers()[1]);
                self.first(case).core.report_snapshot(id, case.value("sent") == Some("true"));
            }
            "restart" if self.is_own => self.restart(case)?,
            "inject" if self.is_own => self.inject(case),
            _ => return Err("unknown command".to_owned()),
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[usize::try_from(id.0).unwrap() - 1]
    }

    fn first(&mut self, case: &Case) -> &mut Node {
        self.node(NodeId(case.args[0].key.parse().unwrap()))
    }

    fn set_level(&self, name: &str) -> Result<(), String> {
        let level = LEVELS.iter().position(|level| level.eq_ignore_ascii_case(name));
        let level =
            level.ok_or_else(|| format!("log levels must be either of [{}]", LEVELS.join(" ")))?;
        self.output.set_level(level);
        Ok(())
    }

    fn add_nodes(&mut self, case: &Case) -> Result<(), String> {
        let ids =
            |key| case.values(key).iter().map(|id| NodeId(id.parse().unwrap())).collect::<Vec<_>>();
        let flag = |key| case.value(key) == Some("true");
        let mut snapshot = Snapshot::default();
        snapshot.metadata.conf_state.voters = ids("voters");
        snapshot.metadata.conf_state.learners = ids("learners");
        snapshot.metadata.index =
            LogIndex(case.value("index").map_or(0, |index| index.parse().unwrap()));
        snapshot.data = Bytes::from(case.value("content").unwrap_or_default().to_owned());
        let is_bootstrapped = snapshot != Snapshot::default();
        if is_bootstrapped {
            if snapshot.metadata.index <= LogIndex(1) {
                return Err("index must be specified as > 1 due to bootstrap".to_owned());
            }
            snapshot.metadata.term = Term(1);
        }
        let is_upstream = !self.is_own || flag("upstream");
        let bytes = |key, default| case.value(key).map_or(default, |bytes| bytes.parse().unwrap());
        let settings = Settings {
            inflight: case
                .value("inflight")
                .map_or(i32::MAX as usize, |count| count.parse().unwrap()),
            is_async: flag("async-storage-writes"),
            pre_vote: flag("prevote"),
            check_quorum: flag("checkquorum"),
            max_applying_bytes: bytes("max-committed-size-per-ready", 0),
            max_uncommitted_bytes: bytes("max-uncommitted-size", 0),
            max_message_bytes: bytes("max-size-per-msg", NO_LIMIT),
            max_inflight_bytes: bytes("max-inflight-bytes", 0),
            disable_conf_change_validation: flag("disable-conf-change-validation"),
            read_mode: match case.value("read-only") {
                None | Some("safe") => ReadMode::Safe,
                Some("lease-based") => ReadMode::LeaseBased,
                Some(other) => return Err(format!("invalid read-only option \"{other}\"")),
            },
            step_down_on_removal: flag("step-down-on-removal"),
            applied: snapshot.metadata.index,
            compat: if is_upstream { CompatMode::Upstream } else { CompatMode::Hardened },
        };
        for _ in 0..case.numbers()[0] {
            let id = NodeId(self.nodes.len() as u64 + 1);
            let mut memory = MemoryStorage::new();
            if is_bootstrapped {
                memory.apply_snapshot(snapshot.clone()).map_err(|error| error.to_string())?;
            }
            let history = History { memory, snapshots: vec![snapshot.clone()] };
            let core = Core::new(settings.config(id, &self.output), history)
                .map_err(|error| error.to_string())?;
            self.nodes.push(Node {
                core,
                settings: settings.clone(),
                append_work: VecDeque::new(),
                apply_work: VecDeque::new(),
            });
        }
        Ok(())
    }

    /// Stops a node and starts it on what its storage holds; what was not written is lost. `commit=N` puts an older
    /// commit index there, as after a crash: it is not synced by itself. `lose-after=N` loses a part of the log.
    fn restart(&mut self, case: &Case) -> Result<(), String> {
        let id = NodeId(case.args[0].key.parse().unwrap());
        let output = self.output.clone();
        let node = self.node(id);
        let mut memory = MemoryStorage::new();
        let old = &node.core.storage().memory;
        let start = node.core.storage().snapshots[0].clone();
        if !start.is_empty() {
            memory.apply_snapshot(start).map_err(|error| error.to_string())?;
        }
        let mut entries = Vec::new();
        if old.first_index() <= old.last_index() {
            old.entries(old.first_index(), old.last_index().next(), NO_LIMIT, &mut entries)
                .map_err(|error| error.to_string())?;
        }
        if let Some(last) = case.value("lose-after") {
            entries.retain(|entry| entry.index <= LogIndex(last.parse().unwrap()));
        }
        let mut hard_state = old.hard_state();
        if let Some(commit) = case.value("commit") {
            hard_state.commit = LogIndex(commit.parse().unwrap());
        }
        memory.append(entries);
        memory.set_hard_state(hard_state);
        let history = History { memory, snapshots: vec![node.core.storage().snapshots[0].clone()] };
        node.append_work.clear();
        node.apply_work.clear();
        node.core = Core::new(node.settings.config(id, &output), history)
            .map_err(|error| error.to_string())?;
        self.flying.retain(|flying| !(flying.is_local() && flying.flat().to == id));
        Ok(())
    }

    /// Queues a message as a faulty peer could send it.
    fn inject(&mut self, case: &Case) {
        let number = |key| case.value(key).map_or(0, |value| value.parse::<u64>().unwrap());
        let context = Bytes::from(case.value("context").unwrap_or_default().to_owned());
        let index = LogIndex(number("index"));
        let id = EntryId { term: Term(number("log-term")), index };
        let commit = LogIndex(number("commit"));
        let entry = |index: &String| Entry {
            term: Term(number("entry-term")),
            index: LogIndex(index.parse().unwrap()),
            ..Entry::default()
        };
        let entries = case.values("entries").iter().map(entry).collect();
        let body = match case.value("type").unwrap() {
            "MsgProp" => Body::Propose { entries },
            "MsgApp" => Body::Append { prev: id, entries, commit },
            "MsgAppResp" => {
                let rejection = case.value("hint").map(|hint| Rejection {
                    hint: LogIndex(hint.parse().unwrap()),
                    hint_term: Term(number("log-term")),
                });
                Body::AppendResponse { index, rejection }
            }
            "MsgHeartbeat" => Body::Heartbeat { commit, context },
            "MsgHeartbeatResp" => Body::HeartbeatResponse { context },
            "MsgVote" => Body::Vote(VoteRequest { last: id, transfer: false }),
            "MsgVoteResp" => Body::VoteResponse { reject: false },
            "MsgSnap" => {
                let mut snapshot = Snapshot::default();
                snapshot.metadata.index = index;
                snapshot.metadata.term = id.term;
                let voters = case.values("voters").iter().map(|id| NodeId(id.parse().unwrap()));
                snapshot.metadata.conf_state.voters = voters.collect();
                Body::Snapshot(Box::new(snapshot))
            }
            other => panic!("cannot inject {other}"),
        };
        let message = Message {
            to: NodeId(number("to")),
            from: NodeId(number("from")),
            term: Term(number("term")),
            body,
        };
        self.output.line(Flat::of(&message).describe());
        self.flying.push(Flying::Peer(message));
    }

    fn compact(&mut self, case: &Case) -> Result<(), String> {
        let [id, index] = case.numbers()[..] else { panic!("compact needs a node and an index") };
        let memory = &mut self.node(NodeId(id)).core.storage_mut().memory;
        memory.compact(LogIndex(index)).map_err(|error| error.to_string())?;
        self.raft_log(id);
        Ok(())
    }

    fn raft_log(&mut self, id: u64) {
        let memory = &self.node(NodeId(id)).core.storage().memory;
        let (first, last) = (memory.first_index(), memory.last_index());
        let text = if last < first {
            format!("log is empty: first index={first}, last index={last}")
        } else {
            let mut entries = Vec::new();
            memory.entries(first, last.next(), NO_LIMIT, &mut entries).unwrap();
            describe::describe_entries(&entries)
        };
        self.output.print(text);
    }

    fn raft_state(&self) {
        for node in &self.nodes {
            let status = node.core.status();
            let is_voter = node.core.configuration().voters.contains(status.id);
            self.output.line(format!(
                "{}: {} {} Term:{} Lead:{}",
                status.id.0,
                status.soft_state.role,
                if is_voter { "(Voter)" } else { "(Non-Voter)" },
                status.hard_state.term,
                status.soft_state.leader.0
            ));
        }
    }

    fn status(&mut self, case: &Case) {
        let output = self.output.clone();
        for (id, progress) in self.first(case).core.progress() {
            output.line(format!("{}: {progress}", id.0));
        }
    }

    fn tick(&mut self, case: &Case, count: u32) {
        for _ in 0..count {
            self.first(case).core.tick();
        }
    }

    fn propose_conf_change(&mut self, case: &Case) -> Result<(), String> {
        let transition = match case.value("transition") {
            None | Some("auto") => Transition::Auto,
            Some("implicit") => Transition::JointImplicit,
            Some("explicit") => Transition::JointExplicit,
            Some(other) => return Err(format!("unknown transition {other}")),
        };
        let changes = describe::parse_conf_changes(&case.input)?;
        let id = NodeId(case.args[0].key.parse().unwrap());
        let core = &mut self.node(id).core;
        let result = if case.value("v1") == Some("true") {
            let ([change], Transition::Auto) = (&changes[..], transition) else {
                return Err(
                    "v1 conf change can only have one operation and no transition".to_owned()
                );
            };
            core.propose_conf_change(&ConfChange {
                kind: change.kind,
                node_id: change.node_id,
                ..ConfChange::default()
            })
        } else {
            core.propose_conf_change_v2(&ConfChangeV2 {
                transition,
                changes,
                context: Bytes::new(),
            })
        };
        result.map_err(|error| error.to_string())
    }

    fn send_snapshot(&mut self, case: &Case) {
        let [from, to] = case.numbers()[..] else { panic!("send-snapshot needs two nodes") };
        let core = &self.node(NodeId(from)).core;
        let message = Message {
            to: NodeId(to),
            from: NodeId(from),
            term: core.term(),
            body: Body::Snapshot(Box::new(core.storage().newest().clone())),
        };
        self.output.print(Flat::of(&message).describe());
        self.flying.push(Flying::Peer(message));
    }

    /// Runs a step for each node that the command names, with a headline if there are several.
    fn for_each(
        &mut self,
        case: &Case,
        headline: &str,
        step: fn(&mut Self, NodeId) -> Result<(), String>,
    ) -> Result<(), String> {
        let ids = case.numbers();
        let output = self.output.clone();
        for &id in &ids {
            if ids.len() > 1 {
                output.line(format!("> {id} {headline}"));
                output.indented(|| step(self, NodeId(id)))?;
            } else {
                step(self, NodeId(id))?;
            }
        }
        Ok(())
    }

    fn process_ready(&mut self, id: NodeId) -> Result<(), String> {
        let output = self.output.clone();
        let node = self.node(id);
        let is_async = node.settings.is_async;
        let ready = node.core.ready();
        output.print(describe::describe_ready(id, &ready, is_async));
        if is_async {
            node.append_work.extend(ready.append);
            node.apply_work.extend(ready.apply);
            self.flying.extend(ready.messages.into_iter().map(Flying::Peer));
        } else {
            if let Some(append) = ready.append {
                write(node, append.hard_state, append.entries, append.snapshot)?;
            }
            if let Some(apply) = &ready.apply {
                apply_entries(node, &apply.entries)?;
            }
            self.flying.extend(ready.messages.into_iter().map(Flying::Peer));
            self.node(id).core.advance();
        }
        Ok(())
    }

    fn process_append(&mut self, id: NodeId) -> Result<(), String> {
        let output = self.output.clone();
        let node = self.node(id);
        let Some(append) = node.append_work.pop_front() else {
            output.print("no append work to perform");
            return Ok(());
        };
        output.line(format!("Processing:\n{}", Flat::of_append(id, &append).describe()));
        let mut responses: Vec<_> = describe::in_order(&append.responses, &append.done.acks)
            .into_iter()
            .cloned()
            .map(
                |message| {
                    if message.to == id { Flying::Own(message) } else { Flying::Peer(message) }
                },
            )
            .collect();
        if let Some(stable) = append.done.stable {
            responses.push(Flying::Stable { node: id, stable, snapshot: append.snapshot.clone() });
        }
        write(node, append.hard_state, append.entries, append.snapshot)?;
        self.respond(responses);
        Ok(())
    }

    fn process_apply(&mut self, id: NodeId) -> Result<(), String> {
        let output = self.output.clone();
        let node = self.node(id);
        let Some(apply) = node.apply_work.pop_front() else {
            output.print("no apply work to perform");
            return Ok(());
        };
        output.line(format!("Processing:\n{}", Flat::of_apply(id, &apply.entries).describe()));
        apply_entries(node, &apply.entries)?;
        self.respond(vec![Flying::Applied { node: id, done: apply.done, entries: apply.entries }]);
        Ok(())
    }

    fn respond(&mut self, responses: Vec<Flying>) {
        self.output.line("Responses:");
        for response in &responses {
            self.output.line(response.flat().describe());
        }
        self.flying.extend(responses);
    }

    fn deliver_some(&mut self, case: &Case) {
        let kind = case.value("type");
        let mut count = 0;
        for arg in &case.args {
            match arg.key.as_str() {
                "type" => {}
                "drop" => {
                    for id in &arg.values {
                        count += self.deliver(NodeId(id.parse().unwrap()), kind, true);
                    }
                }
                id => count += self.deliver(NodeId(id.parse().unwrap()), kind, false),
            }
        }
        if count == 0 {
            self.output.line("no messages");
        }
    }

    /// Delivers or drops what is on its way to a node; returns how much that was.
    fn deliver(&mut self, to: NodeId, kind: Option<&str>, drop: bool) -> usize {
        let is_meant = |flying: &mut Flying| {
            let flat = flying.flat();
            flat.to == to
                && !(drop && flying.is_local())
                && kind.is_none_or(|kind| flat.kind == kind)
        };
        let delivered: Vec<_> = self.flying.extract_if(.., is_meant).collect();
        let count = delivered.len();
        for flying in delivered {
            let description = flying.flat().describe();
            if drop {
                self.output.line(format!("dropped: {description}"));
                continue;
            }
            self.output.line(description);
            let core = &mut self.node(to).core;
            match flying {
                Flying::Peer(message) => {
                    if let Err(error) = core.step(message) {
                        self.output.line(error.to_string());
                    }
                }
                Flying::Own(message) => {
                    let ack = raft::SelfAck { position: 0, message };
                    core.persisted(raft::Appended { acks: vec![ack], stable: None });
                }
                Flying::Stable { stable, .. } => {
                    core.persisted(raft::Appended { acks: Vec::new(), stable: Some(stable) });
                }
                Flying::Applied { done, .. } => core.applied(done),
            }
        }
        count
    }

    fn stabilize(&mut self, case: &Case) -> Result<(), String> {
        let level = self.output.level();
        if let Some(name) = case.value("log-level") {
            self.set_level(name)?;
        }
        let mut ids: Vec<_> = case.numbers().into_iter().map(NodeId).collect();
        if ids.is_empty() {
            ids = (1..=self.nodes.len() as u64).map(NodeId).collect();
        }
        while self.stabilize_round(&ids)? {}
        self.output.set_level(level);
        Ok(())
    }

    /// Gives each node one turn of each kind. Returns whether there was anything to do.
    fn stabilize_round(&mut self, ids: &[NodeId]) -> Result<bool, String> {
        let output = self.output.clone();
        let mut is_busy = false;
        for &id in ids {
            if self.node(id).core.has_ready() {
                is_busy = true;
                output.line(format!("> {} handling Ready", id.0));
                output.indented(|| self.process_ready(id))?;
            }
        }
        for &id in ids {
            if self.flying.iter().any(|flying| flying.flat().to == id) {
                is_busy = true;
                output.line(format!("> {} receiving messages", id.0));
                output.indented(|| self.deliver(id, None, false));
            }
        }
        for &id in ids {
            if !self.node(id).append_work.is_empty() {
                is_busy = true;
                output.line(format!("> {} processing append thread", id.0));
                while !self.node(id).append_work.is_empty() {
                    output.indented(|| self.process_append(id))?;
                }
            }
        }
        for &id in ids {
            if !self.node(id).apply_work.is_empty() {
                is_busy = true;
                output.line(format!("> {} processing apply thread", id.0));
                while !self.node(id).apply_work.is_empty() {
                    output.indented(|| self.process_apply(id))?;
                }
            }
        }
        Ok(is_busy)
    }
}

fn write(
    node: &mut Node,
    hard_state: Option<HardState>,
    entries: Vec<Entry>,
    snapshot: Option<Snapshot>,
) -> Result<(), String> {
    let memory = &mut node.core.storage_mut().memory;
    if let Some(state) = hard_state {
        memory.set_hard_state(state);
    }
    if let Some(snapshot) = snapshot {
        if !entries.is_empty() {
            return Err("can't apply snapshot and entries at the same time".to_owned());
        }
        memory.apply_snapshot(snapshot).map_err(|error| error.to_string())?;
    }
    memory.append(entries);
    Ok(())
}

/// The state machine: it appends each payload to its state.
fn apply_entries(node: &mut Node, entries: &[Entry]) -> Result<(), String> {
    for entry in entries {
        let change = codec::conf_change_of(entry).map_err(|error| error.to_string())?;
        let mut snapshot = node.core.storage().newest().clone();
        let mut data = BytesMut::from(&snapshot.data[..]);
        if let Some(change) = change {
            snapshot.metadata.conf_state = node
                .core
                .apply_conf_change_at(entry.index, &change)
                .map_err(|error| error.to_string())?;
            data.extend_from_slice(&change.context);
        } else {
            data.extend_from_slice(&entry.data);
        }
        snapshot.data = data.freeze();
        (snapshot.metadata.index, snapshot.metadata.term) = (entry.index, entry.term);
        node.core.storage_mut().snapshots.push(snapshot);
    }
    Ok(())
}
