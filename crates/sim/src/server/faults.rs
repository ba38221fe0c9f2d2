//! What goes wrong.

use raft::{NodeId, Role};
use replica::Input;
use vfs::sim::{Fault as DiskFault, FaultKind};

use super::env::Event;
use super::heart::HeartWork;
use super::marks::Mark;
use super::node::{Node, State, Stopping};
use super::stage::Order;
use super::swarm::Fault;
use super::world::World;

impl World {
    pub(super) fn fault(&mut self) {
        if self.env.is_calm {
            return;
        }
        let span = self.env.schedule.around(self.env.swarm.fault_us);
        self.env.after(span, Event::Fault);
        let Some(place) = self.env.schedule.weighted(&self.env.swarm.weights) else { return };
        let fault = Fault::ALL[place];
        self.env.faults += 1;
        self.env.trace(0, "fault", [place as u64, 0, 0]);
        let live = self.some(|node| node.live.is_some());
        let leader = self.some(Node::is_leader);
        match fault {
            Fault::CrashAny => self.crash(live, Stopping::Power),
            Fault::CrashLeader => self.crash(leader, Stopping::Power),
            Fault::Kill => self.crash(live, Stopping::Kill),
            Fault::CrashAll => {
                self.env.mark(Mark::CrashedAll);
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.crash(Some(id), Stopping::Power);
                }
            }
            Fault::CrashTorn => {
                if let Some(node) = live.and_then(|id| self.nodes.get_mut(&id)) {
                    node.is_armed = true;
                }
            }
            Fault::FailFsync => {
                let skip = self.env.disk.below(6);
                if let Some(node) = live.and_then(|id| self.nodes.get_mut(&id)) {
                    node.has_bad_disk = true;
                    node.disk.inject(DiskFault::once(FaultKind::Sync, skip));
                }
            }
            Fault::FillDisk => {
                let room = self.env.disk.below(20_000);
                if let Some(node) = live.and_then(|id| self.nodes.get_mut(&id)) {
                    node.has_bad_disk = true;
                    node.disk.set_capacity(Some(node.disk.used_bytes() + room));
                }
            }
            Fault::SlowDisk => self.slow(live),
            Fault::Pause => self.pause(live),
            Fault::PauseLeader => self.pause(leader),
            Fault::Split | Fault::Isolate | Fault::IsolateLeader | Fault::OneWay => {
                self.split(fault, leader);
            }
            Fault::Loss => {
                self.env.net.extra_loss_ppm = self.env.schedule.below(400_000);
                self.heal_later();
            }
            Fault::Transfer => self.transfer(leader, live),
            Fault::Defragment => {
                let env = &mut self.env;
                if let Some(live) = live.and_then(|id| self.nodes.get_mut(&id)?.live.as_mut()) {
                    live.tell(HeartWork::Apply(Order::Defragment), env);
                }
            }
            Fault::AddLearner | Fault::Remove | Fault::Replace => self.reconfigure(fault),
        }
    }

    /// One of the members that are so, by chance of the schedule.
    pub(super) fn some(&mut self, is_so: impl Fn(&Node) -> bool) -> Option<u64> {
        let ids: Vec<u64> =
            self.nodes.values().filter(|node| is_so(node)).map(|node| node.id).collect();
        self.env.schedule.pick(&ids)
    }

    pub(super) fn crash(&mut self, id: Option<u64>, how: Stopping) {
        let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) else { return };
        if node.live.is_none() {
            return;
        }
        self.env.mark(match how {
            Stopping::Power => Mark::CrashedPower,
            Stopping::Kill => Mark::Killed,
        });
        node.stop(how, &mut self.env);
        let id = node.id;
        self.restart_later(id, 1);
    }

    fn slow(&mut self, id: Option<u64>) {
        let span = self.env.schedule.around(self.env.swarm.downtime_us);
        let until = self.env.now_us() + span;
        if let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) {
            node.slow_until_us = until;
            if let Some(live) = &mut node.live {
                live.slow_until_us = until;
            }
            self.env.mark(Mark::DiskSlow);
        }
    }

    fn pause(&mut self, id: Option<u64>) {
        let span = self.env.schedule.around(self.env.swarm.downtime_us * 3);
        let until = self.env.now_us() + span;
        if let Some(node) = id.and_then(|id| self.nodes.get_mut(&id)) {
            node.paused_until_us = until;
            self.env.mark(Mark::Paused);
            self.env.trace(node.id, "pause", [span, 0, 0]);
        }
    }

    fn transfer(&mut self, leader: Option<u64>, to: Option<u64>) {
        let number = to.unwrap_or(0);
        let to = to.and_then(|to| self.nodes.get(&to)).map(|node| node.raft_id);
        let env = &mut self.env;
        let live = leader.and_then(|id| self.nodes.get_mut(&id)?.live.as_mut());
        if let (Some(live), Some(to)) = (live, to)
            && live.status.role == Role::Leader
        {
            if leader != Some(number) {
                env.transferee = (number, env.now_us() + 2_000_000);
            }
            live.hear(Input::TransferLeader(NodeId(to)), env);
        }
    }

    fn split(&mut self, fault: Fault, leader: Option<u64>) {
        let present = self.nodes.values().filter(|node| node.state != State::Gone);
        let ids: Vec<u64> = present.map(|node| node.id).collect();
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
        env.trace(0, "partition", [one, 0, 0]);
        self.heal_later();
    }

    fn heal_later(&mut self) {
        self.partition += 1;
        let span = self.env.schedule.around(2 * self.env.swarm.downtime_us);
        self.env.after(span, Event::Heal(self.partition));
    }
}
