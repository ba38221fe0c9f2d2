//! What clients see of a node: reads, and who leads.

use raft::Role;

use super::Node;
use crate::cluster::check::{Violation, broken};
use crate::cluster::env::Env;
use crate::cluster::marks::Mark;
use crate::cluster::member::Status;
use crate::cluster::plant::Plant;

impl Node {
    pub(super) fn read_ready(
        &mut self,
        index: u64,
        read: u64,
        env: &mut Env,
    ) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        // A message that came twice answers twice.
        let Some(floor) = live.reads.remove(&read) else { return Ok(()) };
        env.trace(self.id, "readready", [read, index, floor]);
        if index > live.machine.applied && env.plant != Plant::ReadBeforeApply {
            env.mark(Mark::ReadWaited);
            live.waiting.push((index, floor));
            return Ok(());
        }
        self.serve(floor, env)
    }

    pub(super) fn serve(&mut self, floor: u64, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &self.live else { return Ok(()) };
        env.mark(if live.status.role == Role::Leader {
            Mark::ReadByLeader
        } else {
            Mark::ReadByFollower
        });
        env.check.read(self.id, live.machine.applied, floor)
    }

    pub(super) fn serve_waiting(&mut self, env: &mut Env) -> Result<(), Violation> {
        let Some(live) = &mut self.live else { return Ok(()) };
        let applied = live.machine.applied;
        let mut ready = Vec::new();
        live.waiting.retain(|&(index, floor)| {
            let is_ready = index <= applied;
            if is_ready {
                ready.push(floor);
            }
            !is_ready
        });
        for floor in ready {
            self.serve(floor, env)?;
        }
        Ok(())
    }

    pub(super) fn status_is(&mut self, status: Status, env: &mut Env) -> Result<(), Violation> {
        let id = self.id;
        let Some(live) = &mut self.live else { return Ok(()) };
        let before = std::mem::replace(&mut live.status, status);
        env.trace(id, "status", [status.term.0, status.leader.0, status.commit.0]);
        if status.term < before.term || status.commit < before.commit {
            return broken(
                "term and commit only grow",
                format!("n{id} goes from {before:?} to {status:?}"),
            );
        }
        let (leads, led) = (status.role == Role::Leader, before.role == Role::Leader);
        if leads && !(led && status.term == before.term) {
            env.mark(Mark::Elected);
            if env.transferee.0 == id && env.now_us < env.transferee.1 {
                env.mark(Mark::TransferDone);
            }
            env.check.leads(id, status.term.0, &live.log)?;
        }
        if led && !leads {
            env.mark(Mark::Deposed);
        }
        let commit = status.commit.0;
        let fresh = env.check.commits(id, &mut live.log, status.term.0, commit)?;
        if !fresh.is_empty() {
            env.mark(Mark::Committed);
            if env.net.is_partitioned() {
                env.mark(Mark::CommitUnderPartition);
            }
            env.to_verify.push((id, *fresh.end(), live.conf.clone()));
        }
        Ok(())
    }
}
