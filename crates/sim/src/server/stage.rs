//! The apply stage, as in the server: applies, answers, hands events to watchers, and looks after what is due.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use lease::Lessor;
use machine::Effect;
use prost::Message as _;
use raft::LogIndex;
use replica::Input;

use super::client::Answer;
use super::env::{Actor, Env, Event, Step, Stop};
use super::marks::Mark;
use super::node::Live;
use super::plant::Plant;
use super::storage::{Commit, Job};
use super::watching::WatchWork;
use super::witness::{HEARTBEAT, of_outcome};
use crate::solo::lock;

/// Pause between two steps of a compaction.
const COMPACTION_PAUSE_US: u64 = 10_000;

/// A removed member stops when its removal had time to reach the others.
const RETIRE_US: u64 = 1_000_000;

/// What the heart hands over.
#[derive(Debug)]
pub(super) enum Order {
    Apply(replica::Apply),
    Install(raft::Snapshot),
    Leadership(bool),
    SendSnapshot(raft::Message),
    Defragment,
    /// The committer has done its last job.
    JobEnded,
}

impl Order {
    /// May overtake an installation, which waits for the end of a job.
    fn is_work(&self) -> bool {
        matches!(self, Self::SendSnapshot(_) | Self::Defragment | Self::JobEnded)
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pending_since_us: Option<u64>,
    is_commit_wanted: bool,
    defrags: u32,
    compactions: VecDeque<mvcc::Compaction>,
    next_step_us: Option<u64>,
    last_snapshot: u64,
    is_snapshot_wanted: bool,
    is_leader: bool,
    installed: Option<u64>,
    /// When the stage wakes by itself.
    alarm_us: Option<u64>,
    receivers: Vec<raft::Message>,
}

impl Stage {
    pub(super) fn new(last_snapshot: u64, compaction: Option<mvcc::Compaction>) -> Self {
        Self { last_snapshot, compactions: compaction.into_iter().collect(), ..Self::default() }
    }

    pub(super) fn is_compacting(&self) -> bool {
        !self.compactions.is_empty()
    }
}

impl Live {
    pub(super) fn run_apply(&mut self, env: &mut Env) -> Step {
        while let Some(order) = self.next_order() {
            match order {
                Order::Apply(batch) => self.apply(batch, env)?,
                Order::Install(snapshot) => self.install(&snapshot, env)?,
                Order::Leadership(is_leader) => self.leadership(is_leader, env),
                Order::SendSnapshot(message) => self.stage.receivers.push(message),
                Order::Defragment => self.stage.defrags += 1,
                Order::JobEnded => {}
            }
        }
        self.step_compaction(env)?;
        self.start_jobs(env);
        // What is due later wakes the stage then.
        let is_busy = self.machine.writer().is_busy();
        let commit = self.stage.pending_since_us.map(|since| since + env.swarm.commit_interval_us);
        let due =
            [commit.filter(|_| !is_busy), self.stage.next_step_us].into_iter().flatten().min();
        self.stage.alarm_us = self.stage.alarm_us.filter(|&at| at > env.now_us());
        if let Some(due) = due
            && self.stage.alarm_us.is_none_or(|at| due < at)
        {
            self.stage.alarm_us = Some(due);
            env.queue.at(due, Event::Run(self.life, Actor::Apply));
        }
        Ok(())
    }

    fn next_order(&mut self) -> Option<Order> {
        let orders = &mut self.apply_in;
        // The database cannot be replaced under a commit, whose end is an order too.
        if matches!(orders.front(), Some(Order::Install(_))) && self.machine.writer().is_busy() {
            return orders.iter().position(Order::is_work).and_then(|place| orders.remove(place));
        }
        orders.pop_front()
    }

    fn apply(&mut self, apply: replica::Apply, env: &mut Env) -> Step {
        let replica::Apply { entries, done } = apply;
        let (now, id) = (self.local(env), self.id());
        let mut answers = Vec::new();
        let mut events = Vec::new();
        let mut last = 0;
        for committed in entries {
            let index = committed.entry.index.0;
            last = index;
            env.witness.applies(id, &committed.entry, env.queue.now_us())?;
            for mark in env.witness.take_seen() {
                env.mark(mark);
            }
            let is_new = index > self.machine.writer().consistent().index;
            let entry = to_machine(committed, id, env)?;
            let applied = self.machine.apply(&entry, now)?;
            env.witness.answers(id, index, is_new, applied.outcome.as_ref())?;
            if let Some(batch) = applied.events {
                env.witness.publishes(id, &batch)?;
                events.push(batch);
            }
            for effect in applied.effects {
                self.carry_out_effect(LogIndex(index), effect, env)?;
            }
            if let Some(outcome) = applied.outcome {
                answers.push((applied.request_id, outcome));
            }
        }
        self.machine.writer().publish();
        self.hear(Input::Applied(done), env);
        env.trace(id, "apply", [last, self.machine.revision().unsigned_abs(), 0]);
        if last.saturating_sub(self.stage.last_snapshot) > env.swarm.snapshot_count {
            self.stage.is_snapshot_wanted = true;
        }
        if env.disk.chance_ppm(10_000) {
            self.check_state(env)?;
        }
        self.release_reads(env)?;
        for (name, outcome) in answers {
            self.answer_write(name, &outcome, env)?;
        }
        if !events.is_empty() && self.streams > 0 {
            self.watch_in.extend(events.into_iter().map(WatchWork::Events));
            self.wake(Actor::Watch, env);
        }
        Ok(())
    }

    fn answer_write(&mut self, name: u64, outcome: &machine::Outcome, env: &mut Env) -> Step {
        let Some((client, number)) = self.waiters.remove(&name) else { return Ok(()) };
        if matches!(outcome, Ok(answer) if matches!(answer.response, machine::Response::Members(_)))
        {
            return Ok(());
        }
        let told = of_outcome(outcome);
        env.witness.acknowledged(name, &told)?;
        if told.is_refused {
            env.mark(Mark::WriteRefused);
        } else {
            env.mark(Mark::Acknowledged);
            if self.status.role != raft::Role::Leader {
                env.mark(Mark::AcknowledgedByFollower);
            }
        }
        env.trace(self.id(), "ack", [name, told.revision.unsigned_abs(), number]);
        self.answer(client, number, Answer::Written(told), env);
        Ok(())
    }

    fn carry_out_effect(&mut self, index: LogIndex, effect: Effect, env: &mut Env) -> Step {
        match effect {
            Effect::ConfChange(change) => {
                let change = raft::codec::decode_conf_change(Bytes::from(change.encode_to_vec()))
                    .map_err(|error| Stop::Failed(error.to_string()))?;
                self.hear(Input::ConfChangeApplied { index, change: change.into() }, env);
            }
            Effect::EmptyEntry => self.count_leases(env),
            Effect::Compact(compaction) => {
                env.mark(Mark::Compacted);
                if env.plant == Plant::CompactionTakesLive {
                    let kept = backend::schema::Revision::first_of(compaction.revision());
                    self.machine.writer().delete_row(backend::schema::RowKey::put(kept));
                }
                self.stage.compactions.push_back(compaction);
                self.stage.is_commit_wanted = true;
            }
            Effect::Snapshot => self.stage.is_snapshot_wanted = true,
            Effect::SelfRemoved => {
                env.mark(Mark::MemberRemoved);
                env.after(RETIRE_US, Event::Retire(self.life));
            }
            Effect::Peer(_)
            | Effect::RaiseAlarm(_)
            | Effect::ClusterVersion { .. }
            | Effect::PromotedBefore { .. }
            | Effect::Auth(_) => {}
        }
        Ok(())
    }

    fn count_leases(&mut self, env: &Env) {
        let lessor = self.machine.lessor();
        let mut lessor = lock(&lessor);
        let keeps = env.plant == Plant::ExpiryKeptAtPromotion && lessor.is_primary();
        if self.stage.is_leader && !keeps {
            let extend = HEARTBEAT * env.swarm.election_ticks;
            lessor.promote(extend, self.local(env));
        } else if env.plant == Plant::ExpiryKeptAtPromotion && !lessor.is_primary() {
            // Counts from the start, leader or not.
            lessor.promote(Duration::ZERO, self.local(env));
        }
    }

    fn leadership(&mut self, is_leader: bool, env: &Env) {
        self.stage.is_leader = is_leader;
        let keeps = matches!(env.plant, Plant::DeposedLeaderRevokes | Plant::ExpiryKeptAtPromotion);
        if !is_leader && !keeps {
            lock(&self.machine.lessor()).demote();
        }
    }

    /// Takes over the state that came with a snapshot.
    fn install(&mut self, snapshot: &raft::Snapshot, env: &mut Env) -> Step {
        if !env.is_calm && env.schedule.percent(8) {
            // The log has the snapshot, the database lies ready.
            return Err(Stop::Power);
        }
        let index = snapshot.metadata.index;
        env.trace(self.id(), "install", [index.0, self.machine.applied(), 0]);
        env.mark(Mark::SnapshotInstalled);
        if self.hub.stats().watchers > 0 {
            env.mark(Mark::WatchOverInstall);
        }
        let lessor = self.machine.lessor();
        let kept = (env.plant == Plant::LeasesKeptAtInstall)
            .then(|| std::mem::replace(&mut *lock(&lessor), Lessor::new(lease::Config::default())));
        let compaction = self.machine.install(&raft::codec::snapshot_to_proto(snapshot))?;
        if let Some(kept) = kept {
            *lock(&self.machine.lessor()) = kept;
        }
        let stage = &mut self.stage;
        stage.compactions = compaction.into_iter().collect();
        stage.next_step_us = None;
        stage.pending_since_us = None;
        stage.last_snapshot = index.0;
        stage.is_snapshot_wanted = false;
        stage.is_commit_wanted = true;
        stage.installed = Some(index.0);
        self.check_state(env)?;
        self.release_reads(env)?;
        let work = if env.plant == Plant::WatchOverInstall {
            WatchWork::Forgotten(self.machine.revision())
        } else {
            WatchWork::Reloaded(self.machine.revision())
        };
        self.watch_in.push_back(work);
        self.wake(Actor::Watch, env);
        Ok(())
    }

    fn step_compaction(&mut self, env: &Env) -> Step {
        if self.stage.next_step_us.is_some_and(|at| at > env.now_us()) {
            return Ok(());
        }
        self.stage.next_step_us = None;
        let Some(compaction) = self.stage.compactions.front_mut() else { return Ok(()) };
        let step = compaction.step(env.swarm.compaction_batch)?;
        let pause = if step.wants_pause() { COMPACTION_PAUSE_US } else { 0 };
        if step.apply(self.machine.writer()).is_break() {
            self.stage.compactions.pop_front();
            self.stage.is_commit_wanted = true;
        }
        if self.stage.is_compacting() {
            self.stage.next_step_us = Some(env.now_us() + pause);
        }
        Ok(())
    }

    /// Gives the committer what is due, one job at a time.
    fn start_jobs(&mut self, env: &mut Env) {
        let now = env.now_us();
        if self.machine.writer().pending_ops() == 0 {
            self.stage.pending_since_us = None;
        } else if self.stage.pending_since_us.is_none() {
            self.stage.pending_since_us = Some(now);
        }
        if self.machine.writer().is_busy() {
            return;
        }
        let interval = env.swarm.commit_interval_us;
        let is_due = self.stage.pending_since_us.is_some_and(|since| now >= since + interval);
        let is_forced = self.stage.is_commit_wanted
            || self.stage.is_snapshot_wanted
            || !self.stage.receivers.is_empty();
        if is_due || is_forced {
            self.commit(env);
        } else if self.stage.defrags > 0
            && let Some(job) = self.machine.writer().take_defrag()
        {
            self.stage.defrags -= 1;
            self.committer_in.push_back(Job::Defragment(job));
            self.wake(Actor::Committer, env);
        }
    }

    fn commit(&mut self, env: &mut Env) {
        if env.plant == Plant::IndexAheadOfData && env.disk.percent(10) {
            let writer = self.machine.writer();
            let backend::Consistent { index, term } = writer.consistent();
            writer.set_consistent_index(index + 1, term);
        }
        let Some(job) = self.machine.writer().take_commit() else { return };
        self.stage.pending_since_us = None;
        self.stage.is_commit_wanted = false;
        let point = self.machine.snapshot();
        let takes_snapshot = std::mem::take(&mut self.stage.is_snapshot_wanted);
        if takes_snapshot {
            self.stage.last_snapshot = point.metadata.index;
        }
        let receivers = std::mem::take(&mut self.stage.receivers);
        let installed = self.stage.installed.take();
        let commit = Commit { job, point, takes_snapshot, receivers, installed };
        self.committer_in.push_back(Job::Commit(Box::new(commit)));
        self.wake(Actor::Committer, env);
    }
}

/// The entry as the state machine takes it.
fn to_machine(
    committed: replica::Committed,
    node: u64,
    env: &mut Env,
) -> Result<machine::Committed, Stop> {
    let replica::Committed { entry, request } = committed;
    let (index, term) = (entry.index.0, entry.term.0);
    let committed = match request {
        Some(request) => {
            machine::Committed { index, term, payload: machine::Payload::Request(request) }
        }
        None => machine::Committed::from_entry(raft::codec::entry_to_proto(&entry))?,
    };
    if env.plant == Plant::DivergentApply && node == 1 && env.disk.percent(2) {
        return Ok(super::client::diverge(committed));
    }
    Ok(committed)
}
