//! What goes to a node's state machine: entries, changes of the configuration, snapshots.

use raft::{ConfChangeKind, ConfState, Entry, Role, Snapshot, SnapshotMetadata, Term, codec};

use super::{Machine, Node};
use crate::cluster::check::{Digest, Violation, broken, chain, index_of, names};
use crate::cluster::disk::{Kind, Write};
use crate::cluster::env::{Env, Event};
use crate::cluster::marks::Mark;
use crate::cluster::member::{Heard, decode};
use crate::cluster::plant::Plant;

impl Node {
    pub(super) fn start_apply(&mut self, env: &mut Env) {
        let life = self.life();
        let Some(live) = &mut self.live else { return };
        if live.is_applying || live.applies.is_empty() {
            return;
        }
        live.is_applying = true;
        let span = env.disk.between(env.swarm.apply_us);
        env.after(span, Event::ApplyDone(life));
    }

    /// Applies entries up to the next change of the configuration.
    pub(in crate::cluster) fn apply(&mut self, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        live.is_applying = false;
        let Some(mut batch) = live.applies.pop_front() else { return Ok(()) };
        let mut last = 0;
        while let Some((entry, value)) = batch.entries.pop_front() {
            last = entry.index.0;
            if value.is_some() && value != decode(&entry.data) {
                return broken(
                    "the entry is the one proposed",
                    format!("n{} gets its proposal {value:?} back with entry {last}", self.id),
                );
            }
            if entry.kind != raft::EntryKind::Normal {
                // What gathered came before.
                self.wake(env)?;
            }
            let is_new = self.apply_entry(&entry, env)?;
            if self.apply_change(&entry, is_new, env)? {
                break;
            }
        }
        let Some(live) = &mut self.live else { return Ok(()) };
        env.trace(self.id, "apply", [last, live.machine.applied, 0]);
        env.check.state_is(self.id, live.machine.applied, live.machine.hash)?;
        if last == live.machine.applied && env.disk.chance_ppm(env.swarm.checkpoint_ppm) {
            self.durable = live.machine.clone();
        }
        self.take_snapshot(last, env);
        self.serve_waiting(env)?;
        let Some(live) = &mut self.live else { return Ok(()) };
        if batch.entries.is_empty() {
            live.told_applied = live.told_applied.max(batch.done.index.0);
            self.hear(Heard::Applied(batch.done), env)?;
        } else {
            live.applies.push_front(batch);
        }
        self.start_apply(env);
        Ok(())
    }

    /// Returns whether the state machine did not have the entry yet.
    pub(super) fn apply_entry(&mut self, entry: &Entry, env: &mut Env) -> Result<bool, Violation> {
        let id = self.id;
        let index = entry.index.0;
        let Some(live) = &mut self.live else { return Ok(false) };
        if !self.disk.holds(index, entry.term.0) && env.check.inspects_sends {
            return broken("durable before applied", format!("n{id} applies entry {index}"));
        }
        let is_new = index > live.machine.applied;
        if !is_new && env.plant != Plant::AppliedTwice {
            return Ok(false);
        }
        if is_new && index != live.machine.applied + 1 {
            return broken(
                "entries are applied in order",
                format!("n{id} applies {index} behind {}", live.machine.applied),
            );
        }
        let machine = &mut live.machine;
        machine.applied = machine.applied.max(index);
        machine.hash = chain(machine.hash, index, &Digest::of(entry));
        if is_new
            && let Some(value) = decode(&entry.data)
            && let Some(was_leader) = live.proposals.remove(&value)
        {
            env.trace(id, "ack", [value, index, 0]);
            env.check.acknowledged(id, index)?;
            env.mark(Mark::Acknowledged);
            if !was_leader {
                env.mark(Mark::AcknowledgedForwarded);
            }
            self.is_probed |= value >= env.healed_from;
        }
        Ok(is_new)
    }

    /// Puts a change of the configuration in force. Returns whether the entry is one.
    pub(super) fn apply_change(
        &mut self,
        entry: &Entry,
        is_new: bool,
        env: &mut Env,
    ) -> Result<bool, Violation> {
        let id = self.id;
        let index = entry.index.0;
        let mut change = match codec::conf_change_of(entry) {
            Ok(Some(change)) => change,
            Ok(None) => return Ok(false),
            Err(error) => return broken("changes can be read", format!("entry {index}: {error}")),
        };
        let learners = change
            .changes
            .iter_mut()
            .filter(|single| single.kind == ConfChangeKind::AddLearnerNode);
        if env.plant == Plant::LearnerCounted && id == 1 {
            learners.for_each(|single| single.kind = ConfChangeKind::AddNode);
        }
        if env.plant == Plant::ConfChangeNotReplayed && !is_new {
            return Ok(true);
        }
        let Some(live) = &mut self.live else { return Ok(true) };
        live.is_changing = is_new;
        let before = live.conf.clone();
        let times = if env.plant == Plant::ConfChangeTwice { 2 } else { 1 };
        for _ in 0..times {
            let Some(live) = &mut self.live else { return Ok(true) };
            live.member.hear(Heard::ConfChanged { index, change: change.clone() });
            self.pump(env)?;
        }
        let Some(live) = &mut self.live else { return Ok(true) };
        live.is_changing = false;
        match live.conf_result.take() {
            Some(Ok(conf)) => {
                if index > live.restored {
                    env.check.conf_changed(id, index, &conf)?;
                }
            }
            // All must refuse it: what stays is compared.
            Some(Err(_)) => {
                env.mark(Mark::ConfChangeRefused);
                if index > live.restored {
                    env.check.conf_changed(id, index, &before)?;
                }
            }
            None => {
                return broken(
                    "changes are answered",
                    format!("n{id} hears nothing of the change at {index}"),
                );
            }
        }
        let conf = live.conf.clone();
        env.trace(id, "conf", [index, conf.voters.len() as u64, conf.learners.len() as u64]);
        self.mark_change(&change, &before, &conf, index, env);
        if names(&before, id) && !names(&conf, id) && index > env.swarm.founders {
            let role = self.role();
            env.mark(Mark::NodeRemoved);
            if role == Some(Role::Leader) {
                env.mark(Mark::LeaderRemoved);
            }
            let span = env.schedule.around(2_000_000);
            env.after(span, Event::Retire(self.life()));
        }
        Ok(true)
    }

    pub(super) fn mark_change(
        &self,
        change: &raft::ConfChangeV2,
        before: &ConfState,
        after: &ConfState,
        index: u64,
        env: &mut Env,
    ) {
        if index <= env.swarm.founders {
            return;
        }
        let (was_joint, is_joint) =
            (!before.voters_outgoing.is_empty(), !after.voters_outgoing.is_empty());
        let is_promotion = before.learners.iter().any(|id| after.voters.contains(id));
        for (is_so, mark) in [
            (true, Mark::ConfChanged),
            (env.net.is_partitioned(), Mark::ConfChangeUnderPartition),
            (is_joint, Mark::Joint),
            (was_joint && !is_joint, Mark::LeftJoint),
            (after.learners.len() > before.learners.len(), Mark::LearnerAdded),
            (is_promotion, Mark::LearnerPromoted),
            (
                change.changes.iter().any(|single| single.node_id.0 == self.id)
                    && self.id > env.swarm.founders,
                Mark::NodeAdded,
            ),
        ] {
            if is_so {
                env.mark(mark);
            }
        }
    }

    pub(super) fn take_snapshot(&mut self, last: u64, env: &mut Env) {
        let life = self.life();
        let Some(live) = &mut self.live else { return };
        let applied = live.machine.applied;
        let is_due = applied.saturating_sub(live.last_snapshot) >= env.swarm.snapshot_every;
        if !is_due || live.is_saving || last != applied {
            return;
        }
        let Some(snapshot) = self.snapshot(env) else { return };
        let Some(live) = &mut self.live else { return };
        live.is_saving = true;
        live.last_snapshot = applied;
        let now = env.now_us.max(self.stalled_until_us);
        let span = 3 * env.disk.between(self.write_us);
        let behind = live.writes.back().map_or(0, |write| write.done_at_us);
        let done_at_us = behind.max(now + span);
        live.writes.push_back(Write { kind: Kind::Snapshot(snapshot), done_at_us });
        env.at(done_at_us, Event::WriteDone(life));
    }

    /// The state machine as of now.
    pub(super) fn snapshot(&self, env: &Env) -> Option<Snapshot> {
        let machine = &self.live.as_ref()?.machine;
        let applied = machine.applied;
        let metadata = SnapshotMetadata {
            conf_state: machine.conf.clone(),
            index: index_of(applied),
            term: Term(env.check.committed_at(applied)?.digest.term),
        };
        let data = match env.plant {
            Plant::SnapshotDataStale if self.durable.applied > 0 => {
                Machine { applied, ..self.durable.clone() }.to_bytes()
            }
            _ => machine.to_bytes(),
        };
        Some(Snapshot { data, metadata })
    }

    /// Puts the state of a received snapshot in place of the state machine's.
    pub(super) fn install(&mut self, snapshot: &Snapshot, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let machine = Machine::restore(snapshot);
        env.trace(self.id, "install", [machine.applied, live.machine.applied, 0]);
        env.mark(Mark::SnapshotInstalled);
        if snapshot.metadata.index.0 <= live.machine.applied {
            return broken(
                "a snapshot leads forward",
                format!(
                    "n{} is to install {} over {}",
                    self.id, snapshot.metadata.index, live.machine.applied
                ),
            );
        }
        live.machine = machine;
        live.last_snapshot = live.machine.applied;
        self.durable = live.machine.clone();
        env.check.state_is(self.id, live.machine.applied, live.machine.hash)?;
        self.serve_waiting(env)
    }
}
