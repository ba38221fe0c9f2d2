//! The group, its network and its disks.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::{
    Append, Apply, Body, ConfChangeKind, ConfChangeSingle, ConfChangeV2, Config, Core, Entry,
    EntryKind, HardState, LogIndex, MemoryStorage, Message, NodeId, Peer, ReadState, Rng, Role,
    Snapshot, SplitMix64, Term, Transition, codec,
};

/// Members that may ever exist.
const MEMBERS_MAX: u64 = 6;
const STEPS: usize = 3_000;

/// What happened, to see that the histories are worth anything.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    leaders: u64,
    committed: u64,
    crashes: u64,
    conf_changes: u64,
    joint: u64,
    snapshots: u64,
    reads: u64,
    dropped: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.leaders += other.leaders;
        self.committed += other.committed;
        self.crashes += other.crashes;
        self.conf_changes += other.conf_changes;
        self.joint += other.joint;
        self.snapshots += other.snapshots;
        self.reads += other.reads;
        self.dropped += other.dropped;
    }
}

/// What survives a crash.
#[derive(Clone, Default)]
struct Disk {
    hard_state: HardState,
    snapshot: Snapshot,
    /// Behind the snapshot.
    entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, append: &Append) {
        if let Some(snapshot) = &append.snapshot {
            self.snapshot = snapshot.clone();
            self.entries.clear();
        }
        if let Some(first) = append.entries.first() {
            let keep = first.index.since(self.snapshot.metadata.index) - 1;
            assert!(keep <= self.entries.len(), "hole in the log on disk");
            self.entries.truncate(keep);
            self.entries.extend(append.entries.iter().cloned());
        }
        if let Some(state) = append.hard_state {
            self.hard_state = state;
        }
    }

    fn last_index(&self) -> LogIndex {
        self.snapshot.metadata.index.plus(self.entries.len())
    }
}

/// A member, running or not.
struct Member {
    core: Option<Core<MemoryStorage>>,
    disk: Disk,
    /// Handed out and not durable yet.
    writing: VecDeque<Append>,
    applying: VecDeque<Apply>,
    /// Hash over all applied entries, and where it stands.
    state: (LogIndex, u64),
    /// The last snapshot that it took over from a leader.
    installed: LogIndex,
    /// How far its commit index was checked.
    checked: LogIndex,
}

/// Drawn once for a seed.
struct Weather {
    loss_percent: u32,
    double_percent: u32,
    crash_permille: u32,
    conf_change_permille: u32,
    compact_permille: u32,
    campaign_permille: u32,
    pre_vote: bool,
    check_quorum: bool,
    step_down_on_removal: bool,
    max_message_bytes: u64,
    max_applying_bytes: u64,
    max_inflight: usize,
}

pub(crate) struct Sim {
    rng: SplitMix64,
    founders: Vec<Peer>,
    weather: Weather,
    members: BTreeMap<NodeId, Member>,
    network: Vec<Message>,
    /// Pairs that cannot reach each other.
    cut: Vec<(NodeId, NodeId)>,
    /// What is committed, and the state after it: the one truth that all members must share.
    history: Vec<(Term, Bytes, u64)>,
    leaders: BTreeMap<Term, NodeId>,
    /// For each read under way, by context, what was committed when it was asked for.
    reads: BTreeMap<Bytes, LogIndex>,
    next_payload: u64,
    pub(crate) fingerprint: u64,
    pub(crate) totals: Totals,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        let weather = Weather {
            loss_percent: [0, 2, 10, 30][rng.below(4) as usize],
            double_percent: [0, 5, 20][rng.below(3) as usize],
            crash_permille: [0, 2, 10][rng.below(3) as usize],
            conf_change_permille: [0, 5, 20][rng.below(3) as usize],
            compact_permille: [0, 5, 20][rng.below(3) as usize],
            campaign_permille: [1, 5, 30][rng.below(3) as usize],
            pre_vote: rng.below(2) == 0,
            check_quorum: rng.below(2) == 0,
            step_down_on_removal: rng.below(2) == 0,
            max_message_bytes: [0, 64, 1 << 20][rng.below(3) as usize],
            max_applying_bytes: [1, 100, 1 << 20][rng.below(3) as usize],
            max_inflight: [1, 3, 256][rng.below(3) as usize],
        };
        let count = 1 + u64::from(rng.below(5));
        let mut sim = Self {
            rng,
            founders: (1..=count)
                .map(|id| Peer { id: NodeId(id), context: Bytes::new() })
                .collect(),
            weather,
            members: BTreeMap::new(),
            network: Vec::new(),
            cut: Vec::new(),
            history: Vec::new(),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_payload: 0,
            fingerprint: 0,
            totals: Totals::default(),
        };
        for id in (1..=MEMBERS_MAX).map(NodeId) {
            sim.members.insert(
                id,
                Member {
                    core: None,
                    disk: Disk::default(),
                    writing: VecDeque::new(),
                    applying: VecDeque::new(),
                    state: (LogIndex::ZERO, 0),
                    installed: LogIndex::ZERO,
                    checked: LogIndex::ZERO,
                },
            );
            sim.start(id);
        }
        sim
    }

    /// Runs the storm.
    pub(crate) fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
    }

    fn step(&mut self) {
        let id = NodeId(1 + u64::from(self.rng.below(u32::try_from(MEMBERS_MAX).unwrap())));
        let chance = self.rng.below(1000);
        if self.members[&id].core.is_none() {
            if chance < 50 {
                self.start(id);
            }
            return;
        }
        let weather = &self.weather;
        let rare = [
            weather.crash_permille,
            weather.conf_change_permille,
            weather.compact_permille,
            weather.campaign_permille,
        ];
        let mut below = 0;
        let mut is_within = |permille: u32| {
            below += permille;
            chance < below
        };
        if is_within(rare[0]) {
            self.crash(id);
            return;
        } else if is_within(rare[1]) {
            self.change_membership(id);
        } else if is_within(rare[2]) {
            self.compact(id);
        } else if is_within(3) {
            self.cut_or_mend();
        } else if is_within(3) {
            let to = NodeId(1 + self.rng.next_u64() % MEMBERS_MAX);
            self.core(id).transfer_leader(to);
        } else if is_within(2) {
            self.core(id).forget_leader();
        } else if is_within(2) {
            let to = NodeId(1 + self.rng.next_u64() % MEMBERS_MAX);
            self.core(id).report_unreachable(to);
        } else if is_within(rare[3]) {
            self.core(id).campaign();
        } else if is_within(30) {
            self.propose(id);
        } else if is_within(15) {
            self.read(id);
        } else if is_within(120) {
            self.core(id).tick();
        } else if is_within(150) {
            self.write_some(id);
        } else if is_within(100) {
            self.apply_some(id);
        } else {
            self.deliver_one();
        }
        self.take_ready(id);
        self.check(id);
    }

    fn core(&mut self, id: NodeId) -> &mut Core<MemoryStorage> {
        self.members.get_mut(&id).unwrap().core.as_mut().unwrap()
    }

    /// Starts a member on its disk.
    fn start(&mut self, id: NodeId) {
        let jitter = self.rng.next_u64();
        let mut config = Config::new(id, Box::new(SplitMix64::new(jitter)));
        config.election_ticks = 4;
        config.pre_vote = self.weather.pre_vote;
        config.check_quorum = self.weather.check_quorum;
        config.step_down_on_removal = self.weather.step_down_on_removal;
        config.max_message_bytes = self.weather.max_message_bytes;
        config.max_applying_bytes = self.weather.max_applying_bytes;
        config.max_inflight_messages = self.weather.max_inflight;
        if std::env::var_os("RETCD_RAFT_TRACE").is_some() {
            config.trace = std::sync::Arc::new(Print);
        }
        let member = self.members.get_mut(&id).unwrap();
        let disk = &member.disk;
        config.applied = disk.snapshot.metadata.index;
        let mut storage = MemoryStorage::new();
        if !disk.snapshot.is_empty() {
            storage.apply_snapshot(disk.snapshot.clone()).unwrap();
        }
        storage.append(disk.entries.iter().cloned());
        storage.set_hard_state(disk.hard_state);
        member.state = (disk.snapshot.metadata.index, state_of(&disk.snapshot));
        member.checked = disk.snapshot.metadata.index;
        let mut core = Core::new(config, storage).unwrap();
        // Again, if the first write did not reach the disk. A founder that began with an empty log could take the first
        // few of the founding entries for the whole group.
        let is_founder = self.founders.iter().any(|peer| peer.id == id);
        if is_founder && core.last_index() == LogIndex::ZERO {
            core.bootstrap(&self.founders).unwrap();
        }
        member.core = Some(core);
    }

    /// Stops a member. Of what was being written, any part from the beginning may have reached the disk.
    fn crash(&mut self, id: NodeId) {
        self.totals.crashes += 1;
        let member = self.members.get_mut(&id).unwrap();
        let bound = u32::try_from(member.writing.len()).unwrap() + 1;
        for _ in 0..self.rng.below(bound) {
            let append = member.writing.pop_front().unwrap();
            member.disk.write(&append);
        }
        member.writing.clear();
        member.applying.clear();
        member.core = None;
    }

    fn propose(&mut self, id: NodeId) {
        self.next_payload += 1;
        let count = 1 + self.rng.below(3);
        let entry = |part: u32| Entry::normal(Bytes::from(format!("{}.{part}", self.next_payload)));
        let entries = (0..count).map(entry).collect();
        if self.core(id).propose_entries(entries).is_err() {
            self.totals.dropped += 1;
        }
    }

    fn read(&mut self, id: NodeId) {
        self.next_payload += 1;
        let context = Bytes::from(self.next_payload.to_string());
        self.reads.insert(context.clone(), LogIndex(self.history.len() as u64));
        self.core(id).read_index(context);
    }

    fn change_membership(&mut self, id: NodeId) {
        let count = self.rng.below(4);
        let step = |rng: &mut SplitMix64| {
            let kind = match rng.below(5) {
                0 | 1 => ConfChangeKind::AddNode,
                2 => ConfChangeKind::AddLearnerNode,
                3 => ConfChangeKind::UpdateNode,
                _ => ConfChangeKind::RemoveNode,
            };
            ConfChangeSingle { kind, node_id: NodeId(1 + rng.next_u64() % MEMBERS_MAX) }
        };
        let changes: Vec<_> = (0..count).map(|_| step(&mut self.rng)).collect();
        let transition = match self.rng.below(4) {
            0 => Transition::JointExplicit,
            1 => Transition::JointImplicit,
            _ => Transition::Auto,
        };
        let change = ConfChangeV2 { transition, changes, context: Bytes::new() };
        let _ = self.core(id).propose_conf_change_v2(&change);
    }

    fn cut_or_mend(&mut self) {
        if self.rng.below(3) == 0 {
            self.cut.clear();
        } else {
            let mut any = || NodeId(1 + self.rng.next_u64() % MEMBERS_MAX);
            self.cut.push((any(), any()));
        }
    }

    /// Takes a snapshot of what is applied and forgets a part of the log before it.
    fn compact(&mut self, id: NodeId) {
        let keep = self.rng.next_u64() % 5;
        let member = self.members.get_mut(&id).unwrap();
        let core = member.core.as_mut().unwrap();
        // Only what the core was told to be applied and stored: else the snapshot could be newer than the log.
        let (index, hash) = member.state;
        let last_stored = raft::Storage::last_index(core.storage());
        if index != core.applied_index() || index > last_stored || !member.writing.is_empty() {
            return;
        }
        let conf_state = core.conf_state();
        let data = Bytes::copy_from_slice(&hash.to_le_bytes());
        let storage = core.storage_mut();
        let Ok(snapshot) = storage.create_snapshot(index, Some(conf_state), data) else { return };
        let snapshot = snapshot.clone();
        let _ = storage.compact(LogIndex(index.0.saturating_sub(keep)));
        // The disk keeps what is behind the snapshot.
        let disk = &mut member.disk;
        let gone = index.since(disk.snapshot.metadata.index);
        disk.entries.drain(..gone.min(disk.entries.len()));
        disk.snapshot = snapshot;
    }

    /// Returns the state that a member has applied. Like etcd, members send that instead of the snapshot that raft names:
    /// it may be newer, and knows members that joined since.
    fn snapshot_of(&mut self, id: NodeId) -> Snapshot {
        let (index, hash) = self.members[&id].state;
        let core = self.core(id);
        let mut snapshot =
            Snapshot { data: Bytes::copy_from_slice(&hash.to_le_bytes()), ..Snapshot::default() };
        snapshot.metadata.conf_state = core.conf_state();
        snapshot.metadata.index = index;
        snapshot.metadata.term = core.log_term(index).unwrap();
        snapshot
    }

    /// Makes some of what was handed out durable, oldest first, and keeps the promises that hang on it.
    fn write_some(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).unwrap();
        let bound = u32::try_from(member.writing.len()).unwrap() + 1;
        for _ in 0..self.rng.below(bound) {
            let member = self.members.get_mut(&id).unwrap();
            let append = member.writing.pop_front().unwrap();
            member.disk.write(&append);
            for message in append.responses {
                self.check_promise(&message);
                self.network.push(message);
            }
            let member = self.members.get_mut(&id).unwrap();
            let core = member.core.as_mut().unwrap();
            if let Some(snapshot) = append.snapshot {
                self.totals.snapshots += 1;
                member.installed = snapshot.metadata.index;
                member.state = (snapshot.metadata.index, state_of(&snapshot));
                core.storage_mut().apply_snapshot(snapshot).unwrap();
            }
            core.storage_mut().append(append.entries);
            core.persisted(append.done);
        }
    }

    fn apply_some(&mut self, id: NodeId) {
        while self.rng.below(3) != 0 {
            let member = self.members.get_mut(&id).unwrap();
            let Some(apply) = member.applying.pop_front() else { return };
            let core = member.core.as_mut().unwrap();
            for entry in &apply.entries {
                let (at, hash) = member.state;
                if entry.index <= member.installed {
                    continue; // Covered by a snapshot that came in between.
                }
                assert_eq!(entry.index, at.next(), "applied out of order");
                if let Some(change) = codec::conf_change_of(entry).unwrap()
                    && core.apply_conf_change_at(entry.index, &change).is_ok()
                {
                    self.totals.conf_changes += 1;
                    self.totals.joint += u64::from(core.configuration().voters.is_joint());
                }
                member.state = (entry.index, next_state(hash, entry));
                let (term, data, expected) = &self.history[entry.index.since(LogIndex(1))];
                assert_eq!(
                    (entry.term, &entry.data),
                    (*term, data),
                    "applied something else at {}",
                    entry.index
                );
                assert_eq!(member.state.1, *expected);
            }
            core.applied(apply.done);
        }
    }

    /// Delivers any message, or loses it, or delivers it and keeps it for once more.
    fn deliver_one(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let place = self.rng.below(u32::try_from(self.network.len()).unwrap()) as usize;
        let message = if self.rng.below(100) < self.weather.double_percent {
            self.network[place].clone()
        } else {
            self.network.swap_remove(place)
        };
        let (to, from) = (message.to, message.from);
        let is_cut = self.cut.contains(&(from, to)) || self.cut.contains(&(to, from));
        if is_cut || self.rng.below(100) < self.weather.loss_percent {
            self.after_snapshot(&message, false);
            return;
        }
        self.deliver(message);
        if self.members.get(&to).is_some_and(|member| member.core.is_some()) {
            self.take_ready(to);
            self.check(to);
        }
    }

    fn deliver(&mut self, message: Message) {
        self.fingerprint =
            self.fingerprint.rotate_left(5) ^ hash(format!("{message:?}").as_bytes());
        if self.members.get(&message.to).is_none_or(|member| member.core.is_none()) {
            self.after_snapshot(&message, false);
            return;
        }
        self.after_snapshot_probe(&message);
        let result = self.core(message.to).step(message);
        if let Err(error) = result {
            // No faulty peers here: only what a correct group can bring about.
            use raft::StepError::{Dropped, PeerNotFound};
            assert!(matches!(error, Dropped(_) | PeerNotFound), "{error}");
        }
    }

    /// Half of the delivered snapshots are reported, as a transport that lost its connection would.
    fn after_snapshot_probe(&mut self, message: &Message) {
        if matches!(message.body, Body::Snapshot(_)) {
            let is_sent = self.rng.below(2) == 0;
            self.after_snapshot(message, is_sent);
        }
    }

    fn after_snapshot(&mut self, message: &Message, is_sent: bool) {
        if matches!(message.body, Body::Snapshot(_))
            && let Some(core) =
                self.members.get_mut(&message.from).and_then(|member| member.core.as_mut())
        {
            core.report_snapshot(message.to, is_sent);
        }
    }

    fn take_ready(&mut self, id: NodeId) {
        while self.core(id).has_ready() {
            let ready = self.core(id).ready();
            for mut message in ready.messages {
                if let Body::Snapshot(snapshot) = &mut message.body {
                    **snapshot = self.snapshot_of(id);
                }
                self.network.push(message);
            }
            for ReadState { index, context } in ready.read_states {
                self.totals.reads += 1;
                if let Some(committed) = self.reads.remove(&context) {
                    assert!(
                        index >= committed,
                        "read at {index} misses what was committed up to {committed}"
                    );
                }
            }
            let member = self.members.get_mut(&id).unwrap();
            member.writing.extend(ready.append);
            if let Some(apply) = ready.apply {
                assert!(
                    member.disk.last_index() >= apply.done.index,
                    "applies what is not stored here"
                );
                member.applying.push_back(apply);
            }
        }
        // A network that never forgets would only slow the test down.
        if self.network.len() > 200 {
            let place = self.rng.below(u32::try_from(self.network.len()).unwrap()) as usize;
            let message = self.network.swap_remove(place);
            self.after_snapshot(&message, false);
        }
    }

    /// A vote or an acknowledgement that leaves a member is on its disk.
    fn check_promise(&self, message: &Message) {
        let disk = &self.members[&message.from].disk;
        assert!(
            disk.hard_state.term >= message.term
                || matches!(message.body, Body::PreVoteResponse { .. })
        );
        if let Body::AppendResponse { index, rejection: None } = &message.body {
            assert!(
                disk.last_index() >= *index,
                "acknowledged {index}, stored {}",
                disk.last_index()
            );
        }
        if let Body::VoteResponse { reject: false } = &message.body
            && disk.hard_state.term == message.term
        {
            assert_eq!(disk.hard_state.vote, message.to, "vote left before it was stored");
        }
    }

    fn check(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).unwrap();
        let core = member.core.as_ref().unwrap();
        // Whatever a member holds to be committed is, and nothing else ever will be at that place.
        while member.checked < core.commit() {
            let index = member.checked.next();
            member.checked = index;
            if index < core.first_index() {
                continue;
            }
            let mut entries = Vec::new();
            let term = core.log_term(index).unwrap();
            if let Some(entry) = find_entry(member, index) {
                entries.push(entry);
            }
            if let Some((known, ..)) = self.history.get(index.since(LogIndex(1))) {
                assert_eq!(*known, term, "member {id} committed something else at {index}");
            } else {
                let entry = entries.pop().unwrap();
                assert_eq!(index.0, self.history.len() as u64 + 1, "committed with a gap");
                let before = self.history.last().map_or(0, |(_, _, hash)| *hash);
                let state = next_state(before, &entry);
                self.history.push((term, entry.data, state));
                self.totals.committed += 1;
            }
        }
        if core.role() == Role::Leader {
            let term = core.term();
            if let Some(&leader) = self.leaders.get(&term) {
                assert_eq!(leader, id, "two leaders in term {term}");
            } else {
                self.totals.leaders += 1;
                self.leaders.insert(term, id);
                for (place, (known, ..)) in self.history.iter().enumerate() {
                    let index = LogIndex(place as u64 + 1);
                    if index >= core.first_index() {
                        assert_eq!(
                            core.log_term(index),
                            Ok(*known),
                            "leader {id} lacks committed entry {index}"
                        );
                    }
                }
            }
        }
    }

    /// Ends all faults, and demands that the group gets going: a leader, a new entry, the same state everywhere.
    pub(crate) fn heal_and_agree(&mut self) {
        self.cut.clear();
        self.weather.loss_percent = 0;
        self.weather.double_percent = 0;
        let ids: Vec<_> = self.members.keys().copied().collect();
        for &id in &ids {
            if self.members[&id].core.is_none() {
                self.start(id);
            }
        }
        let mut target = None;
        for round in 0..2_000 {
            // Members that were removed answer, but do not campaign any more: etcd stops them.
            let newest = self.members.values().max_by_key(|member| member.state.0).unwrap();
            let config = newest.core.as_ref().unwrap().configuration().clone();
            for &id in &ids {
                if config.voters.contains(id)
                    || config.learners.contains(&id)
                    || self.core(id).is_leader()
                {
                    self.core(id).tick();
                }
                self.take_ready(id);
                self.write_some(id);
                self.apply_some(id);
                self.take_ready(id);
                self.check(id);
            }
            for message in std::mem::take(&mut self.network) {
                let to = message.to;
                self.deliver(message);
                self.take_ready(to);
                self.check(to);
            }
            let running =
                self.members.iter().filter_map(|(&id, member)| Some((id, member.core.as_ref()?)));
            let leader = running
                .filter(|(_, core)| core.is_leader())
                .max_by_key(|(_, core)| core.term())
                .map(|(id, _)| id);
            let Some(leader) = leader else { continue };
            let core = self.core(leader);
            if !core.progress().any(|(id, _)| id == leader) {
                // Removed while it led, and it goes on. etcd stops such a member, after a while; too early, and nobody
                // may be left who can win the votes of those that do not know of the removal yet.
                let commit = core.commit();
                let fed: Vec<_> = core.progress().map(|(id, _)| id).collect();
                if fed.into_iter().all(|id| self.core(id).commit() >= commit) {
                    self.crash(leader);
                    self.start(leader);
                }
                continue;
            }
            // What another leader took may be lost with it.
            target = target.filter(|&(term, _)| term == self.core(leader).term());
            if target.is_none() && round > 100 {
                let core = self.core(leader);
                if core.propose(Bytes::from_static(b"after the storm")).is_ok() {
                    target = Some((core.term(), core.last_index()));
                }
            }
            if let Some((_, index)) = target
                && self.has_agreed(leader, index)
            {
                return;
            }
        }
        if self.weather.step_down_on_removal && self.weather.conf_change_permille > 0 {
            // A leader that steps down the moment it is removed leaves too early, see above.
            return;
        }
        for (id, member) in &self.members {
            let core = member.core.as_ref().unwrap();
            println!(
                "{id}: {:?} last {} at term {:?} state {:?} {} writing {} applying {}",
                core.status(),
                core.last_index(),
                core.log_term(core.last_index()),
                member.state,
                core.configuration(),
                member.writing.len(),
                member.applying.len()
            );
            for (other, progress) in core.progress() {
                println!("    {other}: {progress}");
            }
        }
        panic!("the group does not get going again ({target:?} of {})", self.history.len());
    }

    /// Returns whether all members that the leader feeds have applied the entry.
    fn has_agreed(&self, leader: NodeId, index: LogIndex) -> bool {
        let core = self.members[&leader].core.as_ref().unwrap();
        core.progress().all(|(id, _)| {
            let member = &self.members[&id];
            member.state.0 >= index
                && self.history[member.state.0.since(LogIndex(1))].2 == member.state.1
        })
    }
}

/// Finds an entry that a member holds, on its disk or on the way there.
fn find_entry(member: &Member, index: LogIndex) -> Option<Entry> {
    let term = member.core.as_ref()?.log_term(index).ok()?;
    let written = member.writing.iter().flat_map(|append| &append.entries);
    let matches = |entry: &&Entry| entry.index == index && entry.term == term;
    written.chain(&member.disk.entries).find(matches).cloned()
}

fn state_of(snapshot: &Snapshot) -> u64 {
    <[u8; 8]>::try_from(&snapshot.data[..]).map_or(0, u64::from_le_bytes)
}

fn next_state(state: u64, entry: &Entry) -> u64 {
    let kind = match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    };
    state.rotate_left(7) ^ hash(&entry.data) ^ kind ^ entry.term.0 << 32
}

/// Prints what the members report, to see how a seed fails.
struct Print;

impl raft::Trace for Print {
    fn enabled(&self, level: raft::Level) -> bool {
        level > raft::Level::Debug
    }

    fn line(&self, _level: raft::Level, text: std::fmt::Arguments<'_>) {
        println!("{text}");
    }
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
