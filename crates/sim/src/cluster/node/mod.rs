//! One node: a replica with its disk, its state machine and its clients, and the ways in which it can stop.

mod apply;
mod clients;
mod send;
mod write;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::{
    Applied, ConfChangeKind, ConfState, Entry, Message, NodeId, Role, Snapshot, Transition,
};

use crate::cluster::check::{Mirror, Violation, broken};
use crate::cluster::disk::{Disk, Write};
use crate::cluster::env::{Env, Event, Life};
use crate::cluster::marks::Mark;
use crate::cluster::member::{Asked, Heard, Member, Start, Status, decode};
use crate::cluster::plant::Plant;

/// The state machine: it knows what it was given, in which order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) applied: u64,
    pub(super) hash: u64,
    pub(super) conf: ConfState,
}

impl Machine {
    fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(16);
        bytes.extend(self.applied.to_le_bytes());
        bytes.extend(self.hash.to_le_bytes());
        bytes.into()
    }

    /// The state in a snapshot, which says itself where it stands.
    fn restore(snapshot: &Snapshot) -> Self {
        let word = |range| snapshot.data.get(range).and_then(decode).unwrap_or(0);
        Self { applied: word(0..8), hash: word(8..16), conf: snapshot.metadata.conf_state.clone() }
    }
}

/// Ticks that are made up for after a pause; the server's driver does the same.
const TICKS_AT_ONCE_MAX: u32 = 10;

/// Reads of one node that nobody answered; older ones are given up.
const READS_WAITING_MAX: usize = 200;

/// Entries on the way to the state machine.
struct Applying {
    entries: VecDeque<(Entry, Option<u64>)>,
    done: Applied,
}

/// What ends with a crash.
pub(super) struct Live {
    member: Member,
    pub(super) status: Status,
    pub(super) machine: Machine,
    /// The configuration that raft has.
    pub(super) conf: ConfState,
    conf_result: Option<Result<ConfState, String>>,
    /// Whether the state machine is at a change of the configuration that it did not have.
    is_changing: bool,
    log: Mirror,
    /// The last snapshot that replaced the log in this life.
    restored: u64,
    /// The last entry that raft was told to be applied.
    told_applied: u64,
    writes: VecDeque<Write>,
    applies: VecDeque<Applying>,
    is_applying: bool,
    is_saving: bool,
    last_snapshot: u64,
    inbox: Vec<Heard>,
    is_waking: bool,
    pub(super) is_paused: bool,
    stalled: Vec<Event>,
    stalled_ticks: u32,
    /// What each read must see.
    reads: BTreeMap<u64, u64>,
    /// Reads that wait for an index: the index, and what they must see.
    waiting: Vec<(u64, u64)>,
    /// Proposals that clients wait for, and whether this node led when they were made.
    proposals: BTreeMap<u64, bool>,
    asked: Vec<Asked>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Up,
    Down,
    /// Removed, and stopped for that.
    Retired,
}

/// A node.
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) state: State,
    is_founder: bool,
    pub(super) disk: Disk,
    /// The state machine's own durable state.
    durable: Machine,
    tick_us: u64,
    write_us: (u64, u64),
    /// Writes do not get done before this.
    pub(super) stalled_until_us: u64,
    number: u32,
    pub(super) live: Option<Live>,
    /// Whether a proposal made here after all was healed was acknowledged.
    pub(super) is_probed: bool,
    pub(super) probed_us: u64,
}

/// etcd's heartbeat interval.
const TICK_US: u64 = 100_000;

impl Node {
    pub(super) fn new(id: u64, is_founder: bool, env: &mut Env) -> Self {
        let drift = env.swarm.drift_ppm;
        let rate = 1_000_000 - drift + env.clock.below(2 * drift + 1);
        let slower = [1, 1, 1, 4][usize::try_from(env.disk.below(4)).unwrap_or(0)];
        let (low, high) = env.swarm.write_us;
        Self {
            id,
            state: State::Down,
            is_founder,
            disk: Disk::default(),
            durable: Machine::default(),
            tick_us: TICK_US * rate / 1_000_000,
            write_us: (low * slower, high * slower),
            stalled_until_us: 0,
            number: 0,
            live: None,
            is_probed: false,
            probed_us: 0,
        }
    }

    pub(super) fn life(&self) -> Life {
        Life { node: self.id, number: self.number }
    }

    pub(super) fn role(&self) -> Option<Role> {
        self.live.as_ref().map(|live| live.status.role)
    }

    /// Whether it takes requests of clients.
    pub(super) fn serves(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.is_paused)
    }

    /// Makes clock and disk as good as they are in a healthy group.
    pub(super) fn calm(&mut self, write_us: (u64, u64)) {
        self.write_us = write_us;
        self.stalled_until_us = 0;
        self.tick_us = TICK_US;
    }

    // -- Starting and stopping.

    pub(super) fn start(&mut self, founders: &[u64], env: &mut Env) -> Result<(), Violation> {
        if self.live.is_some() {
            return Ok(());
        }
        self.number += 1;
        self.state = State::Up;
        self.spoil(env);
        let disk = &mut self.disk;
        let is_new = disk.hard_state.is_empty() && disk.snapshot.is_empty();
        let mut bootstrap = &[][..];
        if is_new && self.is_founder {
            // Entries without a hard state are a part of those of the bootstrap, and are written over.
            disk.entries.clear();
            bootstrap = founders;
        }
        let metadata = &disk.snapshot.metadata;
        let (index, term) = (metadata.index.0, metadata.term.0);
        let machine = if self.durable.applied >= index {
            self.durable.clone()
        } else {
            Machine::restore(&disk.snapshot)
        };
        if machine.applied > index {
            env.mark(Mark::RestartedReplaying);
        }
        env.trace(self.id, "start", [index, disk.last_index(), machine.applied]);
        let entries: Vec<Entry> = disk.entries.iter().cloned().collect();
        let log = env.check.started(self.id, (index, term), &entries)?;
        let mut conf = metadata.conf_state.clone();
        conf.voters.extend(bootstrap.iter().map(|&id| NodeId(id)));
        let start = Start {
            id: self.id,
            snapshot: disk.snapshot.clone(),
            hard_state: disk.hard_state,
            entries,
            founders: bootstrap.to_vec(),
            election_ticks: env.swarm.election_ticks,
            pre_vote: env.swarm.pre_vote,
            seed: env.clock.bits(),
        };
        let member = match Member::start(start) {
            Ok(member) => member,
            Err(error) => {
                return broken("restart", format!("n{} does not start: {error}", self.id));
            }
        };
        self.live = Some(Live {
            member,
            status: Status::default(),
            machine,
            conf,
            conf_result: None,
            is_changing: false,
            log,
            restored: index,
            told_applied: index,
            writes: VecDeque::new(),
            applies: VecDeque::new(),
            is_applying: false,
            is_saving: false,
            last_snapshot: index,
            inbox: Vec::new(),
            is_waking: false,
            is_paused: false,
            stalled: Vec::new(),
            stalled_ticks: 0,
            reads: BTreeMap::new(),
            waiting: Vec::new(),
            proposals: BTreeMap::new(),
            asked: Vec::new(),
        });
        let phase = env.clock.below(self.tick_us);
        env.after(phase, Event::Tick(self.life()));
        self.pump(env)
    }

    /// Mistakes that are made between two lives.
    fn spoil(&mut self, env: &mut Env) {
        let commit = self.disk.hard_state.commit.0;
        match env.plant {
            Plant::TruncatedOnRestart => {
                let at_risk = self.disk.last_index().saturating_sub(commit);
                let lost = env.disk.below(at_risk.min(3) + 1);
                for _ in 0..lost {
                    self.disk.entries.pop_back();
                }
            }
            Plant::Amnesia if self.number > 1 && env.disk.percent(30) => {
                self.disk = Disk::default();
                self.durable = Machine::default();
            }
            _ => {}
        }
    }

    /// The process ends, or the power.
    pub(super) fn crash(&mut self, env: &mut Env) {
        let Some(live) = self.live.take() else { return };
        self.state = State::Down;
        let damage = self.disk.crash(&live.writes, env.now_us, env.plant, &mut env.disk);
        env.trace(
            self.id,
            "crash",
            [live.writes.len() as u64, damage.lost_writes as u64, u64::from(damage.is_torn)],
        );
        let is_leader = live.status.role == Role::Leader;
        env.mark(Mark::CrashedNode);
        for (is_so, mark) in [
            (is_leader, Mark::CrashedLeader),
            (damage.unsynced_entries > 0, Mark::CrashedUnsynced),
            (is_leader && damage.unsynced_entries > 0, Mark::CrashedLeaderUnsynced),
            (damage.lost_writes > 0, Mark::LostWrites),
            (damage.is_torn, Mark::TornWrite),
            (damage.lost_commit, Mark::LostCommit),
        ] {
            if is_so {
                env.mark(mark);
            }
        }
        // What a snapshot that became durable in the crash holds, the state machine finds at the next start.
    }

    pub(super) fn pause(&mut self, env: &mut Env) {
        let Some(live) = &mut self.live else { return };
        live.is_paused = true;
        env.trace(self.id, "pause", [0; 3]);
        env.mark(Mark::Paused);
    }

    /// Goes on, and gives back what waited meanwhile.
    pub(super) fn resume(&mut self, env: &mut Env) -> Result<Vec<Event>, Violation> {
        let Some(live) = &mut self.live else { return Ok(Vec::new()) };
        live.is_paused = false;
        let stalled = std::mem::take(&mut live.stalled);
        let ticks = std::mem::take(&mut live.stalled_ticks);
        env.trace(self.id, "resume", [stalled.len() as u64, u64::from(ticks), 0]);
        for _ in 0..ticks {
            self.hear(Heard::Tick, env)?;
        }
        Ok(stalled)
    }

    /// Keeps an event for later if the node is paused.
    pub(super) fn holds_back(&mut self, event: Event) -> Option<Event> {
        match &mut self.live {
            Some(live) if live.is_paused => {
                live.stalled.push(event);
                None
            }
            _ => Some(event),
        }
    }

    // -- What happens to it.

    pub(super) fn tick(&mut self, env: &mut Env) -> Result<(), Violation> {
        env.after(self.tick_us, Event::Tick(self.life()));
        match &mut self.live {
            Some(live) if live.is_paused => {
                live.stalled_ticks = (live.stalled_ticks + 1).min(TICKS_AT_ONCE_MAX);
                Ok(())
            }
            _ => self.hear(Heard::Tick, env),
        }
    }

    pub(super) fn receive(&mut self, message: Message, env: &mut Env) -> Result<(), Violation> {
        let numbers = [message.from.0, message.term.0, send::detail(&message.body)];
        env.trace(self.id, send::kind_name(&message.body), numbers);
        self.hear(Heard::Message(message), env)
    }

    pub(super) fn propose(&mut self, value: u64, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let is_leader = live.status.role == Role::Leader;
        live.proposals.insert(value, is_leader);
        env.trace(self.id, "propose", [value, 0, 0]);
        env.proposals += 1;
        self.hear(Heard::Propose(value), env)
    }

    pub(super) fn read(&mut self, env: &mut Env) -> Result<(), Violation> {
        let floor = env.check.floor;
        let mut name = env.name();
        let Some(live) = &mut self.live else { return Ok(()) };
        env.reads += 1;
        if live.status.reads_locally && env.workload.percent(50) {
            env.mark(Mark::ReadLocally);
            return env.check.read(self.id, live.machine.applied, floor);
        }
        if env.plant == Plant::ReadContextReused {
            name = name % 2 + 1;
        }
        live.reads.insert(name, floor);
        if live.reads.len() > READS_WAITING_MAX {
            live.reads.pop_first();
        }
        env.trace(self.id, "read", [name, floor, 0]);
        if env.plant == Plant::ReadWithoutRound && live.status.role == Role::Leader {
            let index = live.status.commit.0;
            return self.read_ready(index, name, env);
        }
        self.hear(Heard::Read(name), env)
    }

    /// Takes what happened, now or with what follows soon.
    pub(super) fn hear(&mut self, heard: Heard, env: &mut Env) -> Result<(), Violation> {
        let life = self.life();
        let Some(live) = &mut self.live else { return Ok(()) };
        live.inbox.push(heard);
        if env.swarm.gather_us == 0 {
            return self.wake(env);
        }
        if !live.is_waking {
            live.is_waking = true;
            let span = env.disk.below(env.swarm.gather_us);
            env.after(span, Event::Wake(life));
        }
        Ok(())
    }

    /// Takes all that gathered.
    pub(super) fn wake(&mut self, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.is_waking = false;
        for heard in live.inbox.drain(..) {
            live.member.hear(heard);
        }
        self.pump(env)
    }

    /// Carries out what is asked for, until nothing is.
    fn pump(&mut self, env: &mut Env) -> Result<(), Violation> {
        loop {
            let Some(live) = &mut self.live else { return Ok(()) };
            let mut asked = std::mem::take(&mut live.asked);
            live.member.flush(&mut asked);
            if asked.is_empty() {
                live.asked = asked;
                return Ok(());
            }
            let next = asked.iter().rev().find_map(|asked| match asked {
                Asked::Status(status) => Some(*status),
                _ => None,
            });
            let status = next.unwrap_or(live.status);
            for asked in asked.drain(..) {
                match asked {
                    Asked::Send(messages) => {
                        for message in messages {
                            self.send(message, env)?;
                        }
                    }
                    Asked::SendSnapshot(message) => self.send_snapshot(message, env)?,
                    Asked::Install(snapshot) => self.install(&snapshot, env)?,
                    Asked::Persist(append) => self.persist(append, status, env)?,
                    Asked::Apply(entries, done) => {
                        if let Some(live) = &mut self.live {
                            let entries = entries.into();
                            live.applies.push_back(Applying { entries, done });
                        }
                        self.start_apply(env);
                    }
                    Asked::Conf(result) => {
                        if let Some(live) = &mut self.live {
                            if let Ok(conf) = &result {
                                live.conf = conf.clone();
                                if live.is_changing {
                                    // Before a snapshot is made of what follows.
                                    live.machine.conf = conf.clone();
                                }
                            }
                            live.conf_result = Some(result);
                        }
                    }
                    Asked::ReadReady { index, read } => {
                        let Some(read) = read else {
                            return broken("reads", "a read has a strange context".to_owned());
                        };
                        self.read_ready(index, read, env)?;
                    }
                    Asked::Dropped(value) => {
                        if let Some(live) = &mut self.live {
                            live.proposals.remove(&value);
                        }
                        env.trace(self.id, "dropped", [value, 0, 0]);
                        env.mark(Mark::ProposalDropped);
                    }
                    Asked::Refused(why) => self.refused(&why, env)?,
                    Asked::Status(status) => self.status_is(status, env)?,
                }
            }
            if let Some(live) = &mut self.live {
                live.asked = asked;
            }
        }
    }

    fn refused(&mut self, why: &str, env: &mut Env) -> Result<(), Violation> {
        env.trace(self.id, "refused", [0; 3]);
        env.mark(Mark::MessageRefused);
        if why.contains("malformed") || why.contains("out of range") {
            // All nodes are correct ones here.
            return broken("messages of correct peers are taken", format!("n{}: {why}", self.id));
        }
        Ok(())
    }
}

/// Shorthand for the world: a change of one member.
pub(super) fn single(kind: ConfChangeKind, node: u64) -> raft::ConfChange {
    raft::ConfChange { id: 0, kind, node_id: NodeId(node), context: Bytes::new() }
}

/// Shorthand for the world: a change of several.
pub(super) fn several(
    transition: Transition,
    changes: &[(ConfChangeKind, u64)],
) -> raft::ConfChangeV2 {
    let changes = changes
        .iter()
        .map(|&(kind, node)| raft::ConfChangeSingle { kind, node_id: NodeId(node) })
        .collect();
    raft::ConfChangeV2 { transition, changes, context: Bytes::new() }
}
