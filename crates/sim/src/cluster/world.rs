//! The loop: what happens next, what an operator and clients do, and how a run ends.

use std::collections::{BTreeMap, BTreeSet};

use raft::{ConfChangeKind, ConfState, Role, Transition};

use super::check::{Violation, broken, names};
use super::env::{Env, Event, Life};
use super::marks::Mark;
use super::member::Heard;
use super::node::{Node, State, several, single};
use super::plant::Plant;
use super::swarm::{Fault, Swarm};
use crate::rng::Stream;

/// Members at most, learners included.
const MEMBERS_MAX: usize = 8;

/// Names of nodes are never used again, so that many may come and go.
const NODES_MAX: u64 = 40;

/// Once all is healed, the group must have recovered within this virtual time.
const RECOVERY_US: u64 = 60_000_000;

/// How often it is looked whether it has.
const WATCH_US: u64 = 200_000;

/// Between two proposals that try whether a node is of use again.
const PROBE_US: u64 = 2_000_000;

/// Removed nodes end for good this long after all was healed, if the others have learned of the removal by then.
const RETIRE_US: u64 = 15_000_000;

/// A group, from its founding to its recovery.
pub(super) struct World {
    pub(super) env: Env,
    nodes: BTreeMap<u64, Node>,
    founders: Vec<u64>,
    /// Names given to nodes that are to be added.
    next_node: u64,
    healed_us: Option<u64>,
    partition: u64,
    has_ended: bool,
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant, keep_trace: bool, inspects_sends: bool) -> Self {
        let swarm = Swarm::draw(&mut Stream::new(seed, "swarm"));
        let mut env = Env::new(seed, swarm, plant, keep_trace, inspects_sends);
        let founders: Vec<u64> = (1..=env.swarm.founders).collect();
        let nodes = founders.iter().map(|&id| (id, Node::new(id, true, &mut env))).collect();
        let next_node = env.swarm.founders + 1;
        let mut world = Self {
            env,
            nodes,
            founders,
            next_node,
            healed_us: None,
            partition: 0,
            has_ended: false,
        };
        for id in world.founders.clone() {
            let span = world.env.schedule.below(300_000);
            world.env.after(span, Event::Start(id));
        }
        world.env.after(1_000_000, Event::Fault);
        world.env.after(500_000, Event::Propose);
        world.env.after(500_000, Event::Read);
        world.env.after(world.env.swarm.chaos_us, Event::Watch);
        world
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        while !self.has_ended {
            let Some(event) = self.env.next() else {
                return broken("time goes on", "nothing happens any more".to_owned());
            };
            self.happen(event)?;
            while let Some((node, index, conf)) = self.env.to_verify.pop() {
                self.verify_durable(node, index, &conf)?;
            }
        }
        Ok(())
    }

    /// The node, if it still lives the life that the event belongs to.
    fn living(&mut self, life: Life) -> Option<&mut Node> {
        self.nodes.get_mut(&life.node).filter(|node| node.life() == life && node.live.is_some())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Tick(life) => match self.nodes.get_mut(&life.node) {
                Some(node) if node.life() == life && node.live.is_some() => {
                    node.tick(&mut self.env)
                }
                _ => Ok(()),
            },
            Event::Deliver { sent_by, message } => self.deliver(sent_by, message),
            Event::WriteDone(life) | Event::ApplyDone(life) | Event::Wake(life) => {
                let Some(node) = self.nodes.get_mut(&life.node).filter(|node| node.life() == life)
                else {
                    return Ok(());
                };
                match node.holds_back(event) {
                    Some(Event::WriteDone(_)) => node.written(&mut self.env),
                    Some(Event::ApplyDone(_)) => node.apply(&mut self.env),
                    Some(Event::Wake(_)) => node.wake(&mut self.env),
                    _ => Ok(()),
                }
            }
            Event::Resume(life) => self.resume(life),
            Event::Retire(life) => {
                if self.healed_us.is_none()
                    && let Some(node) = self.nodes.get_mut(&life.node)
                    && node.life() == life
                    && node.live.is_some()
                {
                    node.crash(&mut self.env);
                    node.state = State::Retired;
                    self.env.trace(life.node, "retire", [0; 3]);
                }
                Ok(())
            }
            Event::Start(id) => self.start(id),
            Event::Unreachable(life, _) | Event::SnapshotSent { sent_by: life, .. } => {
                let Some(node) = self.nodes.get_mut(&life.node).filter(|node| node.life() == life)
                else {
                    return Ok(());
                };
                match node.holds_back(event) {
                    Some(Event::Unreachable(_, to)) => {
                        node.hear(Heard::Unreachable(to), &mut self.env)
                    }
                    Some(Event::SnapshotSent { to, is_taken, .. }) => {
                        node.hear(Heard::SnapshotSent { to, is_taken }, &mut self.env)
                    }
                    _ => Ok(()),
                }
            }
            Event::Fault => self.fault(),
            Event::Propose => self.propose(),
            Event::Read => self.read(),
            Event::Heal(partition) => {
                if partition == self.partition {
                    self.env.net.heal();
                    self.env.trace(0, "heal", [0; 3]);
                }
                Ok(())
            }
            Event::Watch => self.watch(),
        }
    }

    fn start(&mut self, id: u64) -> Result<(), Violation> {
        match self.nodes.get_mut(&id) {
            Some(node) if node.state == State::Down => node.start(&self.founders, &mut self.env),
            _ => Ok(()),
        }
    }

    fn deliver(&mut self, sent_by: Life, message: Box<raft::Message>) -> Result<(), Violation> {
        let to = message.to.0;
        let is_snapshot = matches!(message.body, raft::Body::Snapshot(_));
        let is_orphan = !self.env.swarm.outlives_sender && self.living(sent_by).is_none();
        // One that is to join may be known to others before it is there.
        let node = self.nodes.get_mut(&to).filter(|node| node.live.is_some());
        let is_lost = is_orphan || self.env.net.is_blocked(sent_by.node, to) || node.is_none();
        if is_snapshot {
            // The receiver says so once it has the snapshot on disk and has handed it to raft.
            let span = self.env.workload.around(20_000);
            self.env.after(span, Event::SnapshotSent { sent_by, to, is_taken: !is_lost });
        }
        let Some(node) = node.filter(|_| !is_lost) else {
            self.env.mark(if is_snapshot { Mark::SnapshotLost } else { Mark::MessageLost });
            return Ok(());
        };
        match node.holds_back(Event::Deliver { sent_by, message }) {
            Some(Event::Deliver { message, .. }) => node.receive(*message, &mut self.env),
            _ => Ok(()),
        }
    }

    fn resume(&mut self, life: Life) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&life.node).filter(|node| node.life() == life) else {
            return Ok(());
        };
        for event in node.resume(&mut self.env)? {
            self.happen(event)?;
        }
        Ok(())
    }

    /// An entry that somebody knows to be committed must be on the disks of a quorum, whatever happens next.
    fn verify_durable(&self, id: u64, index: u64, conf: &ConfState) -> Result<(), Violation> {
        if !self.env.check.inspects_sends {
            return Ok(());
        }
        self.env.check.is_durable(id, index, conf, |node, index, term| {
            self.nodes.get(&node).is_some_and(|node| node.disk.holds(index, term))
        })
    }

    // -- Clients.

    fn propose(&mut self) -> Result<(), Violation> {
        let span = self.env.workload.around(self.env.swarm.propose_us);
        self.env.after(span, Event::Propose);
        let count = 1 + self.env.workload.below(self.env.swarm.burst);
        let Some(id) = self.any(|node| node.serves()) else { return Ok(()) };
        for _ in 0..count {
            let value = self.env.name();
            if let Some(node) = self.nodes.get_mut(&id) {
                node.propose(value, &mut self.env)?;
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), Violation> {
        let span = self.env.workload.around(self.env.swarm.read_us);
        self.env.after(span, Event::Read);
        let Some(id) = self.any(|node| node.serves()) else { return Ok(()) };
        match self.nodes.get_mut(&id) {
            Some(node) => node.read(&mut self.env),
            None => Ok(()),
        }
    }

    /// One of the nodes that are so, by chance of the workload.
    fn any(&mut self, is_so: impl Fn(&Node) -> bool) -> Option<u64> {
        let ids: Vec<u64> =
            self.nodes.values().filter(|node| is_so(node)).map(|node| node.id).collect();
        self.env.workload.pick(&ids)
    }

    // -- Faults and operators.

    fn fault(&mut self) -> Result<(), Violation> {
        if self.healed_us.is_some() {
            return Ok(());
        }
        let span = self.env.schedule.around(self.env.swarm.fault_us);
        self.env.after(span, Event::Fault);
        let Some(place) = self.env.schedule.weighted(&self.env.swarm.weights) else {
            return Ok(());
        };
        let fault = Fault::ALL[place];
        self.env.faults += 1;
        self.env.trace(0, "fault", [place as u64, 0, 0]);
        self.admit_new_nodes();
        match fault {
            Fault::CrashAny | Fault::FailDisk => {
                let id = self.some(|node| node.live.is_some());
                if fault == Fault::FailDisk && id.is_some() {
                    self.env.mark(Mark::FsyncFailed);
                }
                self.crash(id, if fault == Fault::FailDisk { 4 } else { 1 });
            }
            Fault::CrashLeader => {
                let id = self.leader();
                self.crash(id, 1);
            }
            Fault::CrashAll => {
                self.env.mark(Mark::CrashedAll);
                let all: Vec<u64> = self.nodes.keys().copied().collect();
                for id in all {
                    self.crash(Some(id), 1);
                }
            }
            Fault::Pause | Fault::PauseLeader => {
                let id = match fault {
                    Fault::Pause => self.some(Node::serves),
                    _ => self.leader(),
                };
                if let Some(node) = id.and_then(|id| self.nodes.get_mut(&id))
                    && node.serves()
                {
                    node.pause(&mut self.env);
                    let span = self.env.schedule.around(self.env.swarm.downtime_us);
                    self.env.after(span, Event::Resume(node.life()));
                }
            }
            Fault::Split
            | Fault::Isolate
            | Fault::IsolateLeader
            | Fault::OneWay
            | Fault::Bridge => self.partition(fault),
            Fault::Heal => self.env.net.heal(),
            Fault::Loss => {
                self.env.net.extra_loss_ppm = self.env.schedule.below(500_000);
                self.heal_later();
            }
            Fault::StallDisk => {
                let id = self.some(|node| node.live.is_some());
                let span = self.env.schedule.around(self.env.swarm.downtime_us);
                if let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) {
                    node.stalled_until_us = self.env.now_us + span;
                }
            }
            Fault::Transfer => {
                let (at, to) = (self.leader(), self.some(|node| node.live.is_some()));
                if let (Some(at), Some(to)) = (at, to)
                    && at != to
                {
                    self.env.mark(Mark::TransferAsked);
                    self.env.transferee = (to, self.env.now_us + 2_000_000);
                    self.env.trace(at, "transfer", [to, 0, 0]);
                    return self.tell(at, Heard::Transfer(to));
                }
            }
            Fault::Campaign => {
                if let Some(id) = self.some(Node::serves) {
                    self.env.trace(id, "campaign", [0; 3]);
                    return self.tell(id, Heard::Campaign);
                }
            }
            Fault::AddLearner
            | Fault::AddVoter
            | Fault::Promote
            | Fault::Demote
            | Fault::Remove
            | Fault::RemoveLeader
            | Fault::JointImplicit
            | Fault::JointExplicit
            | Fault::LeaveJoint => return self.change(fault),
        }
        Ok(())
    }

    fn tell(&mut self, id: u64, heard: Heard) -> Result<(), Violation> {
        match self.nodes.get_mut(&id) {
            Some(node) if node.serves() => node.hear(heard, &mut self.env),
            _ => Ok(()),
        }
    }

    /// One of the nodes that are so, by chance of the schedule.
    fn some(&mut self, is_so: impl Fn(&Node) -> bool) -> Option<u64> {
        let ids: Vec<u64> =
            self.nodes.values().filter(|node| is_so(node)).map(|node| node.id).collect();
        self.env.schedule.pick(&ids)
    }

    fn leader(&mut self) -> Option<u64> {
        self.some(|node| node.role() == Some(Role::Leader))
    }

    fn crash(&mut self, id: Option<u64>, times_longer: u64) {
        let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) else { return };
        if node.live.is_none() {
            return;
        }
        node.crash(&mut self.env);
        let span = self.env.schedule.around(self.env.swarm.downtime_us * times_longer);
        self.env.after(span, Event::Start(node.id));
    }

    fn partition(&mut self, fault: Fault) {
        let ids: Vec<u64> = self
            .nodes
            .values()
            .filter(|node| node.state != State::Retired)
            .map(|node| node.id)
            .collect();
        let leader = self.leader();
        let env = &mut self.env;
        env.mark(Mark::Partitioned);
        let one = match fault {
            Fault::IsolateLeader => leader.or_else(|| env.schedule.pick(&ids)),
            _ => env.schedule.pick(&ids),
        };
        let Some(one) = one else { return };
        let is_there: Vec<bool> = ids.iter().map(|_| env.schedule.percent(50)).collect();
        for (a, &from) in ids.iter().enumerate() {
            for (b, &to) in ids.iter().enumerate() {
                let is_cut = match fault {
                    Fault::Split => is_there[a] != is_there[b],
                    Fault::OneWay => from == one && is_there[b],
                    // Two sides that only one node sees both of.
                    Fault::Bridge => is_there[a] != is_there[b] && from != one && to != one,
                    _ => from == one || to == one,
                };
                if is_cut && from != to {
                    env.net.block(from, to);
                }
            }
        }
        if fault == Fault::OneWay {
            env.mark(Mark::OneWay);
        }
        self.env.trace(0, "partition", [one, 0, 0]);
        self.heal_later();
    }

    fn heal_later(&mut self) {
        self.partition += 1;
        let span = self.env.schedule.around(2 * self.env.swarm.downtime_us);
        self.env.after(span, Event::Heal(self.partition));
    }

    /// Proposes a change of the membership at some node.
    fn change(&mut self, fault: Fault) -> Result<(), Violation> {
        let conf = self.conf();
        let leader = self.leader();
        let Some(at) = self.some(Node::serves) else { return Ok(()) };
        let voters: Vec<u64> = conf.voters.iter().map(|id| id.0).collect();
        let learners: Vec<u64> = conf.learners.iter().map(|id| id.0).collect();
        let members: Vec<u64> = voters.iter().chain(&learners).copied().collect();
        let can_grow = members.len() < MEMBERS_MAX && self.next_node < NODES_MAX;
        let new = self.next_node;
        let env = &mut self.env;
        let heard = match fault {
            Fault::AddLearner | Fault::AddVoter => {
                if !can_grow {
                    return Ok(());
                }
                self.next_node += 1;
                let kind = match fault {
                    Fault::AddLearner => ConfChangeKind::AddLearnerNode,
                    _ => ConfChangeKind::AddNode,
                };
                Heard::Change(single(kind, new))
            }
            Fault::Promote => {
                let Some(id) = env.schedule.pick(&learners) else { return Ok(()) };
                Heard::Change(single(ConfChangeKind::AddNode, id))
            }
            Fault::Demote => {
                let Some(id) = env.schedule.pick(&voters) else { return Ok(()) };
                Heard::Change(single(ConfChangeKind::AddLearnerNode, id))
            }
            Fault::Remove => {
                let Some(id) = env.schedule.pick(&members) else { return Ok(()) };
                Heard::Change(single(ConfChangeKind::RemoveNode, id))
            }
            Fault::RemoveLeader => {
                let Some(id) = leader else { return Ok(()) };
                Heard::Change(single(ConfChangeKind::RemoveNode, id))
            }
            Fault::JointImplicit | Fault::JointExplicit => {
                let mut changes = Vec::new();
                for &voter in &voters {
                    if env.schedule.percent(30) {
                        let kind = [ConfChangeKind::RemoveNode, ConfChangeKind::AddLearnerNode];
                        let kind = kind[usize::from(env.schedule.percent(50))];
                        changes.push((kind, voter));
                    }
                }
                for &learner in &learners {
                    if env.schedule.percent(50) {
                        changes.push((ConfChangeKind::AddNode, learner));
                    }
                }
                if can_grow && env.schedule.percent(70) {
                    self.next_node += 1;
                    changes.push((ConfChangeKind::AddNode, new));
                }
                let transition = match fault {
                    Fault::JointImplicit => Transition::JointImplicit,
                    _ => Transition::JointExplicit,
                };
                Heard::ChangeV2(several(transition, &changes))
            }
            _ => Heard::ChangeV2(several(Transition::Auto, &[])),
        };
        self.env.trace(at, "change", [new, voters.len() as u64, learners.len() as u64]);
        self.tell(at, heard)
    }

    /// The newest configuration that anybody has applied, or that of the founding.
    fn conf(&self) -> ConfState {
        self.env.check.newest_conf().cloned().unwrap_or_default()
    }

    /// Members that were added are started, by somebody who sees that they are members.
    fn admit_new_nodes(&mut self) {
        let conf = self.conf();
        for id in self.env.swarm.founders + 1..self.next_node {
            if names(&conf, id) && !self.nodes.contains_key(&id) {
                let node = Node::new(id, false, &mut self.env);
                self.nodes.insert(id, node);
                let span = self.env.schedule.below(500_000);
                self.env.after(span, Event::Start(id));
            }
        }
    }

    // -- Recovery.

    fn watch(&mut self) -> Result<(), Violation> {
        self.env.after(WATCH_US, Event::Watch);
        let Some(healed_us) = self.healed_us else { return self.heal_all() };
        self.admit_new_nodes();
        let conf = self.conf();
        let now = self.env.now_us;
        if self.has_recovered(&conf) {
            self.env.mark(Mark::Recovered);
            self.env.trace(0, "recovered", [now - healed_us, 0, 0]);
            self.has_ended = true;
            return Ok(());
        }
        if now - healed_us > RECOVERY_US {
            if self.is_stranded() {
                self.env.mark(Mark::Stranded);
                self.has_ended = true;
                return Ok(());
            }
            return broken("liveness", self.describe(&conf));
        }
        let counted = self.counted_by_members(&conf);
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if now - healed_us > RETIRE_US
                && !names(&conf, id)
                && !counted.contains(&id)
                && node.state != State::Retired
            {
                node.crash(&mut self.env);
                node.state = State::Retired;
            }
            if names(&conf, id) && !node.is_probed && now >= node.probed_us && node.serves() {
                node.probed_us = now + PROBE_US;
                let value = self.env.name();
                node.propose(value, &mut self.env)?;
            }
        }
        Ok(())
    }

    /// Voters in the eyes of a member of `conf` that may not know `conf` yet. Their removal is not over: that member needs
    /// their votes until it has learned of it, so nobody takes them away for good before.
    fn counted_by_members(&self, conf: &ConfState) -> BTreeSet<u64> {
        let members = self.nodes.values().filter(|node| names(conf, node.id));
        let known = members.filter_map(|node| node.live.as_ref()).map(|live| &live.conf);
        known
            .flat_map(|conf| conf.voters.iter().chain(&conf.voters_outgoing))
            .map(|id| id.0)
            .collect()
    }

    /// Ends all faults. Removed nodes come back too: a group that just removed one may need it to learn of that.
    fn heal_all(&mut self) -> Result<(), Violation> {
        let now = self.env.now_us;
        self.healed_us = Some(now);
        self.env.trace(0, "heal all", [0; 3]);
        self.env.healed_from = self.env.newest_name() + 1;
        self.env.net.calm();
        let swarm = &mut self.env.swarm;
        swarm.write_us = (100, 5_000);
        swarm.apply_us = (100, 1_000);
        swarm.downtime_us = 100_000;
        swarm.propose_us = swarm.propose_us.max(300_000);
        swarm.burst = 1;
        self.admit_new_nodes();
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            node.calm(self.env.swarm.write_us);
            if node.state == State::Retired {
                node.state = State::Down;
            }
            let life = node.life();
            if node.live.as_ref().is_some_and(|live| live.is_paused) {
                self.resume(life)?;
            }
            self.start(id)?;
        }
        Ok(())
    }

    /// One leader, known to all; each member's proposal was acknowledged; all applied the same.
    fn has_recovered(&self, conf: &ConfState) -> bool {
        let members = conf.voters.iter().chain(&conf.learners).chain(&conf.voters_outgoing);
        let last = self.env.check.last_committed();
        let mut leader = None;
        for id in members {
            let Some(node) = self.nodes.get(&id.0) else { return false };
            let Some(live) = &node.live else { return false };
            let is_settled = live.machine.applied == last
                && node.is_probed
                && live.status.leader.is_member()
                && *leader.get_or_insert(live.status.leader) == live.status.leader;
            if !is_settled {
                return false;
            }
        }
        leader.is_some_and(|leader| {
            self.nodes.get(&leader.0).is_some_and(|node| node.role() == Some(Role::Leader))
        })
    }

    /// Whether a node that cannot lead, since it does not know itself for a voter, has a longer log than all that can,
    /// and one of these needs its vote.
    ///
    /// Either it joined, got entries, and lost the commit index that came with them, so that it has not applied its own
    /// addition; or it led, was removed or demoted, and stopped before the others learned that its removal is committed. etcd-io/raft
    /// has the same gap, because configurations count from when they are applied. No promise is broken, but it takes an
    /// operator to go on. Only groups in which a single member makes the quorum get there, and only by crashes.
    fn is_stranded(&self) -> bool {
        let shown = |node: &Node| {
            let term =
                node.disk.entries.back().map_or(node.disk.snapshot.metadata.term, |e| e.term);
            (term.0, node.disk.last_index())
        };
        let can_lead = |node: &&Node| {
            node.live.as_ref().is_some_and(|live| {
                let mut voters = live.conf.voters.iter().chain(&live.conf.voters_outgoing);
                voters.any(|voter| voter.0 == node.id)
            })
        };
        let able = || self.nodes.values().filter(can_lead);
        let best = able().map(shown).max();
        let is_needed = |id: u64| {
            able().filter_map(|node| node.live.as_ref()).any(|live| {
                let voters = live.conf.voters.iter().chain(&live.conf.voters_outgoing);
                voters.into_iter().any(|voter| voter.0 == id)
            })
        };
        self.nodes
            .values()
            .any(|node| !can_lead(&node) && Some(shown(node)) > best && is_needed(node.id))
    }

    fn describe(&self, conf: &ConfState) -> String {
        let nodes: Vec<String> = self
            .nodes
            .values()
            .map(|node| match &node.live {
                Some(live) => {
                    let status = live.status;
                    format!(
                        "n{} {} term {} leader {} commit {} applied {} probed {}",
                        node.id,
                        status.role,
                        status.term,
                        status.leader,
                        status.commit,
                        live.machine.applied,
                        node.is_probed
                    )
                }
                None => format!("n{} {:?}", node.id, node.state),
            })
            .collect();
        format!(
            "{} s after all was healed: committed {}, {conf:?}; {}",
            RECOVERY_US / 1_000_000,
            self.env.check.last_committed(),
            nodes.join("; ")
        )
    }
}
