//! All orders of events in a group of three, as far as a budget of states goes, nearest first.
//!
//! Two members campaign, one entry is proposed, writes become durable or are lost in a crash, messages arrive in any
//! order or never. The core cannot be copied (its source of chance cannot), so each state is reached by running its
//! events once more from the start; states that look the same are visited once.
//!
//! `RETCD_RAFT_STATES=n` sets the budget. Checked in every state: one leader a term; what is committed anywhere is the
//! same everywhere and in the log of every later leader; votes and acknowledgements that left are on disk.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "all of this is a test")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    env::var,
    fmt::Write,
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use raft::{
    Append, Body, Config, Core, Entry, HardState, LogIndex, MemoryStorage, Message, NodeId, Rng,
    Snapshot, Storage, Term,
};

/// Reaches into the second election, in a few seconds.
const DEFAULT_STATES: usize = 4_000;

const MEMBERS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const CAMPAIGNS_MAX: usize = 2;
const PROPOSALS_MAX: usize = 1;
const CRASHES_MAX: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Campaign(NodeId),
    Propose(NodeId),
    /// The oldest write of a member becomes durable.
    Persist(NodeId),
    /// A member starts again from its disk.
    Crash(NodeId),
    /// A message arrives: the place in the network, which is kept sorted.
    Deliver(usize),
}

struct NoChance;

impl Rng for NoChance {
    fn below(&mut self, _bound: u32) -> u32 {
        0
    }
}

#[derive(Default)]
struct Disk {
    hard_state: HardState,
    entries: Vec<Entry>,
}

struct Member {
    core: Core<MemoryStorage>,
    disk: Disk,
    writing: VecDeque<Append>,
}

struct World {
    members: BTreeMap<NodeId, Member>,
    network: Vec<Message>,
    campaigns: usize,
    proposals: usize,
    crashes: usize,
    committed: BTreeMap<LogIndex, Term>,
    leaders: BTreeMap<Term, NodeId>,
}

fn start(id: NodeId, disk: &Disk) -> Core<MemoryStorage> {
    let mut snapshot = Snapshot::default();
    snapshot.metadata.index = LogIndex(1);
    snapshot.metadata.term = Term(1);
    snapshot.metadata.conf_state.voters = MEMBERS.to_vec();
    let mut storage = MemoryStorage::new();
    storage.apply_snapshot(snapshot).unwrap();
    storage.append(disk.entries.iter().cloned());
    let mut hard_state = disk.hard_state;
    hard_state.commit = hard_state.commit.max(LogIndex(1));
    storage.set_hard_state(hard_state);
    let mut config = Config::new(id, Box::new(NoChance));
    config.applied = LogIndex(1);
    config.pre_vote = false;
    config.check_quorum = false;
    Core::new(config, storage).unwrap()
}

impl World {
    fn new() -> Self {
        let member = |id| Member {
            core: start(id, &Disk::default()),
            disk: Disk::default(),
            writing: VecDeque::new(),
        };
        Self {
            members: MEMBERS.into_iter().map(|id| (id, member(id))).collect(),
            network: Vec::new(),
            campaigns: 0,
            proposals: 0,
            crashes: 0,
            committed: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (&id, member) in &self.members {
            if self.campaigns < CAMPAIGNS_MAX && id != NodeId(3) && !member.core.is_leader() {
                events.push(Event::Campaign(id));
            }
            if self.proposals < PROPOSALS_MAX && member.core.is_leader() {
                events.push(Event::Propose(id));
            }
            if !member.writing.is_empty() {
                events.push(Event::Persist(id));
            }
            // A crash with nothing to lose differs only by what is not asked for here.
            if self.crashes < CRASHES_MAX && !member.writing.is_empty() {
                events.push(Event::Crash(id));
            }
        }
        events.extend((0..self.network.len()).map(Event::Deliver));
        events
    }

    fn happen(&mut self, event: Event) {
        let id = match event {
            Event::Campaign(id) => {
                self.campaigns += 1;
                self.members.get_mut(&id).unwrap().core.campaign();
                id
            }
            Event::Propose(id) => {
                self.proposals += 1;
                self.members.get_mut(&id).unwrap().core.propose(Bytes::from_static(b"x")).unwrap();
                id
            }
            Event::Persist(id) => {
                self.persist(id);
                id
            }
            Event::Crash(id) => {
                self.crashes += 1;
                let member = self.members.get_mut(&id).unwrap();
                member.writing.clear();
                member.core = start(id, &member.disk);
                id
            }
            Event::Deliver(place) => {
                let message = self.network.remove(place);
                let id = message.to;
                self.members.get_mut(&id).unwrap().core.step(message).unwrap();
                id
            }
        };
        self.take_ready(id);
        self.check(id);
        self.network.sort_by_cached_key(|message| format!("{message:?}"));
    }

    fn persist(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).unwrap();
        let append = member.writing.pop_front().unwrap();
        if let Some(state) = append.hard_state {
            member.disk.hard_state = state;
        }
        if let Some(first) = append.entries.first() {
            member.disk.entries.truncate(first.index.since(LogIndex(2)));
            member.disk.entries.extend(append.entries.iter().cloned());
        }
        for response in append.responses {
            check_promise(&member.disk, &response);
            self.network.push(response);
        }
        member.core.storage_mut().append(append.entries);
        member.core.persisted(append.done);
    }

    fn take_ready(&mut self, id: NodeId) {
        let member = self.members.get_mut(&id).unwrap();
        while member.core.has_ready() {
            let ready = member.core.ready();
            self.network.extend(ready.messages);
            member.writing.extend(ready.append);
            if let Some(apply) = ready.apply {
                member.core.applied(apply.done);
            }
        }
    }

    fn check(&mut self, id: NodeId) {
        let core = &self.members[&id].core;
        for index in (2..=core.commit().0).map(LogIndex) {
            let term = core.log_term(index).unwrap();
            assert_eq!(
                *self.committed.entry(index).or_insert(term),
                term,
                "two entries committed at {index}"
            );
        }
        if core.is_leader() {
            let leader = *self.leaders.entry(core.term()).or_insert(id);
            assert_eq!(leader, id, "two leaders in term {}", core.term());
            for (&index, &term) in &self.committed {
                let holds = core.log_term(index) == Ok(term);
                assert!(holds || core.term() < term, "leader {id} lacks committed entry {index}");
            }
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut text =
            format!("{:?} {} {} {}", self.network, self.campaigns, self.proposals, self.crashes);
        for member in self.members.values() {
            write!(text, "{:?} {:?}", member.core, member.writing).unwrap();
            write!(text, "{:?} {:?}", member.disk.hard_state, member.disk.entries).unwrap();
            for index in (1..=member.core.last_index().0).map(LogIndex) {
                write!(text, " {:?}", member.core.log_term(index)).unwrap();
            }
            write!(text, " {}", member.core.storage().last_index()).unwrap();
        }
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }
}

fn check_promise(disk: &Disk, message: &Message) {
    assert!(disk.hard_state.term >= message.term);
    if let Body::AppendResponse { index, rejection: None } = &message.body {
        assert!(disk.entries.len() >= index.since(LogIndex(1)), "acknowledged and not stored");
    }
    if let Body::VoteResponse { reject: false } = &message.body
        && disk.hard_state.term == message.term
    {
        assert_eq!(disk.hard_state.vote, message.to, "voted and not stored");
    }
}

fn replay(path: &[Event]) -> World {
    let mut world = World::new();
    for &event in path {
        world.happen(event);
    }
    world
}

/// Names the events when a check fails.
struct Announce<'a>(&'a [Event]);

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("after {:?}", self.0);
        }
    }
}

/// Returns the events that make node 1 the leader, each as soon as it can happen.
fn first_election() -> Vec<Event> {
    let mut path = vec![Event::Campaign(NodeId(1))];
    loop {
        let world = replay(&path);
        if world.members[&NodeId(1)].core.is_leader() {
            return path;
        }
        let is_orderly = |event: &Event| matches!(event, Event::Persist(_) | Event::Deliver(_));
        path.push(world.events().into_iter().find(is_orderly).unwrap());
    }
}

fn explore(start: Vec<Event>) {
    let budget = var("RETCD_RAFT_STATES").map_or(DEFAULT_STATES, |count| count.parse().unwrap());
    let mut seen = BTreeSet::from([replay(&start).fingerprint()]);
    let mut frontier = VecDeque::from([start]);
    let (mut depth, mut commits, mut elections) = (0, 0, 0);
    'search: while let Some(path) = frontier.pop_front() {
        for event in replay(&path).events() {
            let mut path = path.clone();
            path.push(event);
            let announce = Announce(&path);
            let world = replay(&path);
            drop(announce);
            if seen.insert(world.fingerprint()) {
                depth = path.len();
                commits = commits.max(world.committed.len());
                elections = elections.max(world.leaders.len());
                frontier.push_back(path);
            }
            if seen.len() >= budget {
                break 'search;
            }
        }
    }
    println!(
        "{} states, up to {depth} events, {elections} elections won, {commits} entries committed",
        seen.len()
    );
    assert!(elections > 0);
}

#[test]
fn histories_near_the_beginning_keep_raft_promises() {
    explore(Vec::new());
}

#[test]
fn histories_behind_an_election_keep_raft_promises() {
    let mut start = first_election();
    start.push(Event::Propose(NodeId(1)));
    explore(start);
}
