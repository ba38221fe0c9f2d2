//! The loop: what happens next, and to whom.

use std::collections::BTreeMap;

use bootstrap::{Beginning, FoundingOptions};
use machine::bootstrap::Founding;
use raft::Message;
use replica::Input;

use super::client::Client;
use super::env::{Actor, Env, Event, Life, Step, Stop};
use super::marks::Mark;
use super::node::{Live, Node, State, Stopping};
use super::operator::Operator;
use super::plant::Plant;
use super::transfer::Transfer;
use super::watching::Watcher;
use crate::violation::{Violation, broken};

/// How often a member looks for leases that ran out, on its own clock.
const EXPIRY_US: u64 = 500_000;

/// More cannot happen at one moment, unless something runs in circles.
const EVENTS_AT_ONCE_MAX: u64 = 100_000;

/// A cluster, from its founding to its recovery.
pub(super) struct World {
    pub(super) env: Env,
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) clients: Vec<Client>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) transfers: BTreeMap<u64, Transfer>,
    pub(super) operator: Operator,
    /// Writes of the recovery, and through whom they go.
    pub(super) probes: BTreeMap<u64, u64>,
    pub(super) healed_us: Option<u64>,
    pub(super) partition: u64,
    pub(super) has_ended: bool,
}

/// The URL of a member.
pub(super) fn url(id: u64) -> String {
    format!("http://n{id}:2380")
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant, keep_trace: bool) -> Self {
        let mut env = Env::new(seed, plant, keep_trace);
        let count = env.swarm.founders;
        let members: Vec<(String, Vec<String>)> =
            (1..=count).map(|id| (format!("n{id}"), vec![url(id)])).collect();
        let founding = Founding::new(members.iter().cloned(), "sim");
        let mut nodes = BTreeMap::new();
        for id in 1..=count {
            let name = format!("n{id}");
            let raft_id = founding.member(&name).map_or(0, |member| member.id);
            let beginning = Beginning::Found(FoundingOptions {
                name,
                members: members.clone(),
                cluster_token: "sim".to_owned(),
            });
            env.routes.insert(raft_id, id);
            nodes.insert(id, Node::new(id, raft_id, beginning, &mut env));
            let span = env.schedule.below(300_000);
            env.after(span, Event::Start(id));
        }
        let clients = (0..env.swarm.clients).map(|_| Client::default()).collect::<Vec<_>>();
        let watchers: Vec<Watcher> =
            (0..env.swarm.watchers).map(|_| Watcher::draw(&mut env)).collect();
        for place in 0..clients.len() {
            env.after(500_000, Event::Think(place));
        }
        for place in 0..watchers.len() {
            env.after(500_000, Event::Poll(place));
        }
        env.after(1_500_000, Event::Fault);
        env.after(1_500_000, Event::Operate);
        env.after(env.swarm.chaos_us, Event::Look);
        Self {
            operator: Operator::new(founding.cluster_id, count + 1),
            env,
            nodes,
            clients,
            watchers,
            transfers: BTreeMap::new(),
            probes: BTreeMap::new(),
            healed_us: None,
            partition: 0,
            has_ended: false,
        }
    }

    /// Runs to the end.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        let (mut moment, mut count) = (0, 0);
        while !self.has_ended {
            let Some(event) = self.env.queue.next() else {
                return broken("time goes on", "nothing happens any more".to_owned());
            };
            if self.env.now_us() > moment {
                (moment, count) = (self.env.now_us(), 0);
            }
            count += 1;
            if count > EVENTS_AT_ONCE_MAX {
                return broken("time goes on", format!("for ever {event:?} at {moment} us"));
            }
            match self.happen(event) {
                Ok(()) => {}
                Err(Stop::Broken(violation)) => return Err(violation),
                Err(Stop::Failed(why)) => return broken("no stage fails", why),
                Err(Stop::Power) => return broken("no stage fails", "power".to_owned()),
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Step {
        let Some(event) = self.unless_paused(event) else { return Ok(()) };
        match event {
            Event::Run(life, actor) => return self.run_actor(life, actor),
            Event::Deliver { from, message } => self.deliver(from, *message),
            Event::Start(id) => return self.start(id),
            Event::Retire(life) => {
                if let Some(node) = self.nodes.get_mut(&life.node)
                    && node.live.as_ref().is_some_and(|live| live.life == life)
                {
                    node.stop(Stopping::Kill, &mut self.env);
                    node.state = State::Gone;
                }
            }
            Event::Piece(number) => self.piece(number),
            Event::Think(client) => self.think(client),
            Event::Arrive { client, number, at, op } => {
                let step = self.arrive(client, number, at, *op);
                return self.unless_disk(at, step);
            }
            Event::Answer { client, number, answer } => self.answered(client, number, &answer),
            Event::GiveUp { client, number } => self.give_up(client, number),
            Event::Poll(watcher) => return self.poll(watcher),
            Event::Fault => self.fault(),
            Event::Heal(partition) => {
                if partition == self.partition {
                    self.env.net.heal();
                    self.env.trace(0, "heal", [0; 3]);
                }
            }
            Event::Operate => self.operate(),
            Event::Look => return self.look(),
        }
        Ok(())
    }

    /// What comes for a member that stands still comes when it goes on.
    fn unless_paused(&mut self, event: Event) -> Option<Event> {
        let id = match &event {
            Event::Run(life, _) | Event::Retire(life) => life.node,
            Event::Deliver { message, .. } => *self.env.routes.get(&message.to.0)?,
            Event::Arrive { at, .. } => *at,
            _ => return Some(event),
        };
        let until = self.nodes.get(&id).map_or(0, |node| node.paused_until_us);
        if until > self.env.now_us() {
            // Who goes on first is open; messages keep their order.
            let span = match &event {
                Event::Run(..) if self.env.schedule.percent(70) => self.env.schedule.below(20_000),
                _ => 0,
            };
            self.env.queue.at(until + span, event);
            return None;
        }
        Some(event)
    }

    fn living(&mut self, life: Life) -> Option<(&mut Live, &mut Env)> {
        let live = self.nodes.get_mut(&life.node).and_then(|node| node.live.as_mut());
        live.filter(|live| live.life == life).map(|live| (&mut **live, &mut self.env))
    }

    fn run_actor(&mut self, life: Life, actor: Actor) -> Step {
        let touches_disk = matches!(actor, Actor::Log | Actor::Committer | Actor::Apply);
        let is_armed = touches_disk
            && self.nodes.get(&life.node).is_some_and(|node| {
                node.is_armed && node.live.as_ref().is_some_and(|live| live.life == life)
            });
        if is_armed && let Some(node) = self.nodes.get(&life.node) {
            node.disk.record();
        }
        let Some((live, env)) = self.living(life) else { return Ok(()) };
        live.has_woken(actor);
        let step = match actor {
            Actor::Heart => live.run_heart(env),
            Actor::Log => live.run_log(env),
            Actor::Apply => live.run_apply(env),
            Actor::Committer => live.run_committer(env),
            Actor::Watch => live.run_watch(env),
            Actor::Tick => {
                let next = live.tick(env);
                env.queue.at(next, Event::Run(life, Actor::Tick));
                Ok(())
            }
            Actor::Expiry => {
                live.expire(env);
                env.after(EXPIRY_US, Event::Run(life, Actor::Expiry));
                Ok(())
            }
        };
        if is_armed && step.is_ok() && self.tear(life.node) {
            return Ok(());
        }
        self.unless_disk(life.node, step)?;
        self.begin_transfers(life.node);
        Ok(())
    }

    /// The power goes in the middle of what was just done, if that touched the disk.
    fn tear(&mut self, id: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let is_torn = node.stop_torn(&mut self.env);
        if is_torn {
            self.env.mark(Mark::CrashedTorn);
            self.restart_later(id, 1);
        }
        is_torn
    }

    /// A stage that fails ends its member. Only a bad disk may make it fail.
    pub(super) fn unless_disk(&mut self, id: u64, step: Step) -> Step {
        let why = match step {
            Err(Stop::Failed(why)) => why,
            Err(Stop::Power) => {
                self.crash(Some(id), Stopping::Power);
                return Ok(());
            }
            step => return step,
        };
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.has_bad_disk) else {
            return Err(Stop::Failed(format!("n{id}: {why}")));
        };
        self.env.trace(id, "failed", [0; 3]);
        let how = if why.contains("No space") || why.contains("os error 28") {
            self.env.mark(Mark::DiskFull);
            Stopping::Kill
        } else {
            self.env.mark(Mark::FsyncFailed);
            Stopping::Power
        };
        node.stop(how, &mut self.env);
        self.restart_later(id, 2);
        Ok(())
    }

    pub(super) fn restart_later(&mut self, id: u64, times_longer: u64) {
        let span = self.env.schedule.around(self.env.swarm.downtime_us * times_longer);
        self.env.after(span, Event::Start(id));
    }

    pub(super) fn start(&mut self, id: u64) -> Step {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.state != State::Down {
            return Ok(());
        }
        let is_cut = !self.env.is_calm && self.env.disk.percent(5);
        if is_cut {
            node.disk.record();
        }
        node.start(&mut self.env)?;
        if is_cut {
            if node.stop_torn(&mut self.env) {
                self.env.mark(Mark::CrashedOpening);
                self.restart_later(id, 1);
            } else {
                let _ = node.disk.take_journal();
            }
        }
        Ok(())
    }

    fn deliver(&mut self, from: u64, message: Message) {
        let Some(&to) = self.env.routes.get(&message.to.0) else { return };
        if self.env.net.is_blocked(from, to) {
            return;
        }
        let sender = self.nodes.get(&from).map_or(0, |node| node.raft_id);
        let Some(live) = self.nodes.get_mut(&to).and_then(|node| node.live.as_mut()) else {
            return;
        };
        // The transport does not speak with members that were removed.
        if !live.machine.membership().is_removed(sender) {
            live.hear(Input::Received(message), &mut self.env);
        }
    }

    /// A member that runs and does not stand still, by chance of the workload.
    pub(super) fn pick_serving(&mut self) -> Option<u64> {
        let now = self.env.now_us();
        let serves = |node: &&Node| node.live.is_some() && node.paused_until_us <= now;
        let ids: Vec<u64> = self.nodes.values().filter(serves).map(|node| node.id).collect();
        self.env.workload.pick(&ids)
    }
}
