//! What goes to a node's disk, and what follows when it is there.

use raft::{Append, Body, Message, Role};

use super::{Machine, Node};
use crate::cluster::check::{Checker, Digest, Violation, chain};
use crate::cluster::disk::{Kind, Write};
use crate::cluster::env::{Env, Event};
use crate::cluster::marks::Mark;
use crate::cluster::member::{Heard, Status, decode};
use crate::cluster::plant::Plant;

impl Node {
    pub(super) fn persist(
        &mut self,
        append: Append,
        status: Status,
        env: &mut Env,
    ) -> Result<(), Violation> {
        let life = self.life();
        let id = self.id;
        let Some(live) = &mut self.live else { return Ok(()) };
        if let Some(snapshot) = &append.snapshot {
            let at = snapshot.metadata.id();
            env.trace(id, "restore", [at.index.0, at.term.0, 0]);
            if !live.applies.is_empty() {
                env.mark(Mark::SnapshotOverApply);
            }
            env.check.restored(id, &mut live.log, (at.index.0, at.term.0))?;
            live.restored = at.index.0;
            live.conf = snapshot.metadata.conf_state.clone();
        }
        if let (Some(first), Some(last)) = (append.entries.first(), append.entries.last()) {
            env.trace(id, "append", [first.index.0, last.index.0, last.term.0]);
            let pending = Checker::last_conf_change(&live.log);
            if env.check.appended(id, &mut live.log, &append.entries)? {
                env.mark(Mark::Overwritten);
            }
            if status.role == Role::Leader {
                let own = append.entries.partition_point(|entry| entry.term < status.term);
                let told = live.told_applied.max(live.restored);
                env.check.one_change_pending(id, &append.entries[own..], pending, told)?;
            }
        }
        let now = env.now_us.max(self.stalled_until_us);
        let span = if append.must_sync { env.disk.between(self.write_us) } else { 0 };
        let last = live.writes.back().map_or(0, |write| write.done_at_us);
        let done_at_us = last.max(now + span);
        env.at(done_at_us, Event::WriteDone(life));
        let mut early = Vec::new();
        let mut append = append;
        match env.plant {
            Plant::AckBeforeFsync => {
                live.member.hear(Heard::Persisted(copy(&append)));
                append.responses.clear();
            }
            Plant::ResponsesBeforeDurable => early = std::mem::take(&mut append.responses),
            Plant::VoteAskedEarly => {
                let is_request = |message: &Message| matches!(message.body, Body::Vote(_));
                (early, append.responses) =
                    std::mem::take(&mut append.responses).into_iter().partition(is_request);
            }
            Plant::AckOnAppend if status.role == Role::Leader => {
                for entry in &append.entries {
                    if let Some(value) = decode(&entry.data)
                        && live.proposals.remove(&value).is_some()
                    {
                        env.check.acknowledged(id, entry.index.0)?;
                    }
                }
            }
            _ => {}
        }
        live.writes.push_back(Write { kind: Kind::Append(append), done_at_us });
        for message in early {
            self.send(message, env)?;
        }
        Ok(())
    }

    /// The first of the writes under way is done.
    pub(in crate::cluster) fn written(&mut self, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let Some(write) = live.writes.pop_front() else { return Ok(()) };
        self.disk.apply(&write.kind, env.plant);
        match write.kind {
            Kind::Append(append) => {
                if let Some(last) = append.entries.last() {
                    env.trace(self.id, "durable", [last.index.0, last.term.0, 0]);
                }
                if env.plant == Plant::ApplyBeforeCommit {
                    for entry in &append.entries {
                        if entry.index.0 == live.machine.applied + 1
                            && entry.kind == raft::EntryKind::Normal
                        {
                            let digest = Digest::of(entry);
                            let machine = &mut live.machine;
                            machine.applied = entry.index.0;
                            machine.hash = chain(machine.hash, entry.index.0, &digest);
                        }
                    }
                }
                env.check.state_is(self.id, live.machine.applied, live.machine.hash)?;
                if env.plant == Plant::AckBeforeFsync {
                    return Ok(());
                }
                self.hear(Heard::Persisted(append), env)
            }
            Kind::Snapshot(snapshot) => {
                live.is_saving = false;
                let index = snapshot.metadata.index.0;
                env.trace(self.id, "snapshot", [index, 0, 0]);
                env.mark(Mark::SnapshotTaken);
                let machine = Machine::restore(&snapshot);
                if machine.applied > self.durable.applied {
                    self.durable = machine;
                }
                let compact = index.saturating_sub(env.swarm.catch_up);
                live.log.trim(compact);
                self.hear(
                    Heard::SnapshotTaken {
                        index,
                        conf_state: snapshot.metadata.conf_state,
                        data: snapshot.data,
                        compact,
                    },
                    env,
                )
            }
        }
    }
}

fn copy(append: &Append) -> Append {
    Append {
        hard_state: append.hard_state,
        snapshot: append.snapshot.clone(),
        entries: append.entries.clone(),
        must_sync: append.must_sync,
        responses: append.responses.clone(),
        done: append.done.clone(),
    }
}
