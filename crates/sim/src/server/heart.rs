//! The heart, as in the server: takes what gathered, hands it to the replica, and carries out what comes back.

use proto::walpb;
use raft::{NodeId, Role};
use replica::{Effect, Input, Status};

use super::client::Answer;
use super::env::{Actor, Env, Step};
use super::marks::Mark;
use super::node::Live;
use super::plant::Plant;
use super::stage::Order;
use super::storage::LogWork;
use super::witness::HEARTBEAT;
use crate::violation::broken;

/// After a pause at most this many ticks are made up for, as in the server.
const TICKS_AT_ONCE_MAX: u32 = 10;

/// What comes in.
#[derive(Debug)]
pub(super) enum HeartWork {
    Replica(Input),
    Apply(Order),
    SnapshotSaved(walpb::Snapshot),
}

impl Live {
    /// Gives something to the heart.
    pub(super) fn tell(&mut self, work: HeartWork, env: &mut Env) {
        self.heart_in.push_back(work);
        self.wake(Actor::Heart, env);
    }

    pub(super) fn hear(&mut self, input: Input, env: &mut Env) {
        self.tell(HeartWork::Replica(input), env);
    }

    /// The clock beats. Returns when it does so next.
    pub(super) fn tick(&mut self, env: &mut Env) -> u64 {
        let beat = self.span_us(HEARTBEAT);
        let now = env.now_us();
        let mut ticks = 0;
        while self.next_tick_us <= now {
            self.hear(Input::Tick, env);
            self.next_tick_us += beat;
            ticks += 1;
            if ticks == TICKS_AT_ONCE_MAX {
                self.next_tick_us = now + beat;
            }
        }
        self.ask_reads_again(env);
        self.next_tick_us
    }

    pub(super) fn run_heart(&mut self, env: &mut Env) -> Step {
        let mut effects = Vec::new();
        for work in std::mem::take(&mut self.heart_in) {
            match work {
                HeartWork::Replica(input) => {
                    if matches!(input, Input::Persisted(_)) {
                        self.unpersisted.pop_front();
                    }
                    self.replica.handle(input, &mut effects);
                }
                HeartWork::Apply(order) => self.order(order, env),
                HeartWork::SnapshotSaved(record) => self.log(LogWork::Vouch(record), env),
            }
        }
        self.doubt(&mut effects, env);
        loop {
            self.replica.flush(&mut effects);
            if effects.is_empty() {
                return Ok(());
            }
            for effect in std::mem::take(&mut effects) {
                self.carry_out(effect, env)?;
            }
        }
    }

    /// Gives up leadership when the disk has not taken a write for an election timeout.
    fn doubt(&mut self, effects: &mut Vec<Effect>, env: &mut Env) {
        let election = self.span_us(HEARTBEAT * env.swarm.election_ticks);
        let now = env.now_us();
        let Some(oldest) = self.unpersisted.front_mut() else { return };
        if self.status.role != Role::Leader || now - *oldest < election {
            return;
        }
        *oldest = now;
        env.mark(Mark::LeadershipYielded);
        env.trace(self.life.node, "yield", [0; 3]);
        self.replica.handle(Input::YieldLeadership, effects);
    }

    fn carry_out(&mut self, effect: Effect, env: &mut Env) -> Step {
        match effect {
            Effect::Persist(append) => {
                self.unpersisted.push_back(env.now_us());
                self.log(LogWork::Write(append), env);
            }
            Effect::Apply(apply) => self.order(Order::Apply(apply), env),
            Effect::ConfState(Ok(state)) => {
                let counts = [state.voters.len() as u64, state.learners.len() as u64, 0];
                env.trace(self.id(), "conf", counts);
            }
            Effect::ConfState(Err(error)) => {
                // The state machine validates changes before.
                return Ok(broken("raft takes committed changes", error.to_string())?);
            }
            Effect::ReadReady { index, context } => self.confirm_read(&context, index, env)?,
            Effect::Dropped { request_id } => {
                env.trace(self.id(), "dropped", [request_id, 0, 0]);
                env.mark(Mark::WriteDropped);
                env.witness.drops(request_id)?;
                if let Some((client, number)) = self.waiters.remove(&request_id) {
                    self.answer(client, number, Answer::Unavailable, env);
                }
            }
            Effect::Status(status) => self.status_is(status, env)?,
            Effect::Send(messages) => {
                for message in messages {
                    env.witness.sends(self.id(), &message, &self.durable)?;
                    let to = message.to;
                    // A transport notices some losses.
                    if !env.send(self.id(), message) && env.workload.percent(20) {
                        self.hear(Input::Unreachable(to), env);
                    }
                }
            }
            Effect::SendSnapshot(message) => {
                env.witness.sends(self.id(), &message, &self.durable)?;
                self.order(Order::SendSnapshot(message), env);
            }
            Effect::Install(snapshot) => self.order(Order::Install(snapshot), env),
            Effect::Rejected(error) => {
                let why = error.to_string();
                env.trace(self.id(), "refused", [0; 3]);
                // A leader that was deposed while it sent a snapshot may send one of a later term than its own.
                let is_late = why.contains("snapshot is out of reach");
                if (why.contains("malformed") && !is_late) || why.contains("out of range") {
                    return Ok(broken("messages of correct peers are taken", why)?);
                }
            }
        }
        Ok(())
    }

    fn order(&mut self, order: Order, env: &mut Env) {
        self.apply_in.push_back(order);
        self.wake(Actor::Apply, env);
    }

    fn log(&mut self, work: LogWork, env: &mut Env) {
        let work = match work {
            LogWork::Write(append) if env.plant == Plant::AckBeforeFsync => {
                let copy = super::storage::copy_without_responses(&append);
                self.hear(Input::Persisted(append), env);
                LogWork::Silent(copy)
            }
            work => work,
        };
        self.log_in.push_back(work);
        self.wake(Actor::Log, env);
    }

    fn status_is(&mut self, status: Status, env: &mut Env) -> Step {
        let before = std::mem::replace(&mut self.status, status);
        let leader = env.routes.get(&status.leader.0).copied().unwrap_or(0);
        env.trace(self.id(), "status", [status.term.0, leader, status.commit.0]);
        if status.term < before.term || status.commit < before.commit {
            let detail = format!("n{} goes from {before:?} to {status:?}", self.id());
            return Ok(broken("term and commit only grow", detail)?);
        }
        let (leads, led) = (status.role == Role::Leader, before.role == Role::Leader);
        if leads && !(led && status.term == before.term) {
            env.mark(Mark::Elected);
            if env.transferee.0 == self.id() && env.now_us() < env.transferee.1 {
                env.mark(Mark::TransferDone);
            }
            env.witness.leads(self.id(), status.term.0)?;
            if !env.witness.live_leases().is_empty() {
                env.mark(Mark::LeaderChangedWithLeases);
            }
        }
        if led && !leads {
            env.mark(Mark::Deposed);
        }
        if before.leader != status.leader {
            self.void_reads(env);
            if status.leader == NodeId::NONE {
                env.trace(self.id(), "leaderless", [status.term.0, 0, 0]);
            }
        }
        if led != leads {
            self.order(Order::Leadership(leads), env);
        }
        Ok(())
    }
}
