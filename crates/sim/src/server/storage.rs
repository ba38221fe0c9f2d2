//! What writes to the disk, as in the server: the log writer and the committer.

use backend::{CommitJob, DefragJob};
use proto::{raftpb, walpb};
use raft::{Append, LogIndex};
use replica::Input;
use wal::Batch;

use super::env::{Actor, Env, Step};
use super::heart::HeartWork;
use super::marks::Mark;
use super::node::Live;
use super::plant::Plant;
use super::stage::Order;

/// For the log writer.
#[derive(Debug)]
pub(super) enum LogWork {
    /// Make this durable, and tell the heart.
    Write(Append),
    /// The same, and nobody waits: a mistake.
    Silent(Append),
    /// A raft snapshot file is complete.
    Vouch(walpb::Snapshot),
}

/// For the committer.
#[derive(Debug)]
pub(super) enum Job {
    Commit(Box<Commit>),
    Defragment(DefragJob),
}

/// A commit, and what follows it.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) job: CommitJob,
    /// The state of the commit.
    pub(super) point: raftpb::Snapshot,
    /// It is to be saved as a raft snapshot.
    pub(super) takes_snapshot: bool,
    /// Who is to be sent it.
    pub(super) receivers: Vec<raft::Message>,
    /// The snapshot of another member that was installed since the last commit: databases of older ones may go.
    pub(super) installed: Option<u64>,
}

impl Live {
    pub(super) fn run_log(&mut self, env: &mut Env) -> Step {
        let mut appends = Vec::new();
        let mut silent = false;
        let mut vouched = None;
        for work in std::mem::take(&mut self.log_in) {
            match work {
                LogWork::Write(append) => appends.push(append),
                LogWork::Silent(append) => {
                    silent = true;
                    appends.push(append);
                }
                LogWork::Vouch(snapshot) => vouched = Some(snapshot),
            }
        }
        if !appends.is_empty() {
            self.write(&appends, env)?;
            if !silent {
                for append in appends {
                    self.hear(Input::Persisted(append), env);
                }
            }
        }
        if let Some(snapshot) = vouched {
            self.log.save_snapshot(&snapshot)?;
            // Taken of what was applied: whatever was received before it is installed, or overtaken.
            wal::snap::remove_orphan_dbs(&self.dirs.snap, snapshot.index)?;
            self.release(snapshot.index, env)?;
        }
        Ok(())
    }

    /// Writes all; what it holds is durable on return.
    fn write(&mut self, appends: &[Append], env: &mut Env) -> Step {
        let mut durable = self.durable;
        let mut received = None;
        for append in appends {
            if let Some(snapshot) = &append.snapshot {
                self.stage_snapshot(snapshot)?;
                received = Some(snapshot.metadata.index.0);
                durable.last = snapshot.metadata.index.0;
            }
            let entries: Vec<raftpb::Entry> =
                append.entries.iter().map(raft::codec::entry_to_proto).collect();
            let hard_state = append.hard_state.as_ref().map(raft::codec::hard_state_to_proto);
            if let Some(state) = &hard_state {
                (durable.term, durable.vote) = (state.term, state.vote);
            }
            if let Some(last) = entries.last() {
                durable.last = last.index;
            }
            self.log.stage(&Batch { entries: &entries, hard_state });
        }
        if let Some(index) = received {
            self.log.sync()?;
            self.release(index, env)?;
            if env.plant == Plant::ReceivedGoesEarly {
                wal::snap::remove_orphan_dbs(&self.dirs.snap, index)?;
            }
        }
        if self.log.commit()?.cut {
            self.log.preallocator().run()?;
        }
        self.durable = durable;
        env.trace(self.id(), "durable", [durable.term, durable.last, appends.len() as u64]);
        Ok(())
    }

    fn stage_snapshot(&mut self, snapshot: &raft::Snapshot) -> Step {
        self.log.commit()?;
        let snapshot = raft::codec::snapshot_to_proto(snapshot);
        wal::snap::save(&self.dirs.snap, &snapshot)?;
        let raftpb::SnapshotMetadata { conf_state, index, term } = snapshot.metadata;
        self.log.save_snapshot(&walpb::Snapshot { index, term, conf_state: Some(conf_state) })?;
        Ok(())
    }

    /// Lets go of what a snapshot covers. Not of databases that were received: the state machine may not have come to the
    /// installation of one although the log is at a later one already.
    fn release(&mut self, index: u64, env: &Env) -> Step {
        let kept = env.swarm.files_kept;
        self.log.release_to(index);
        wal::purge(&self.dirs.wal_parent, &self.dirs.wal_name, kept)?;
        wal::snap::purge(&self.dirs.snap, kept, index)?;
        Ok(())
    }

    /// Does one job.
    pub(super) fn run_committer(&mut self, env: &mut Env) -> Step {
        let Some(job) = self.committer_in.pop_front() else { return Ok(()) };
        match job {
            Job::Commit(commit)
                if commit.takes_snapshot && env.plant == Plant::SnapshotBeforeCommit =>
            {
                self.save_snapshot(commit.point.clone(), env)?;
                let rest = Commit { takes_snapshot: false, ..*commit };
                self.committer_in.push_front(Job::Commit(Box::new(rest)));
                self.wake(Actor::Committer, env);
                return Ok(());
            }
            Job::Commit(commit) => self.commit_all(*commit, env)?,
            Job::Defragment(job) => {
                job.run()?;
                env.mark(Mark::Defragmented);
            }
        }
        self.tell(HeartWork::Apply(Order::JobEnded), env);
        if !self.committer_in.is_empty() {
            self.wake(Actor::Committer, env);
        }
        Ok(())
    }

    fn commit_all(&mut self, commit: Commit, env: &mut Env) -> Step {
        let Commit { job, point, takes_snapshot, receivers, installed } = commit;
        if env.plant == Plant::SnapshotDataStale && self.stale.is_none() {
            self.stale = Some(self.backend.view());
        }
        let stats = job.run()?;
        env.trace(self.id(), "commit", [stats.consistent_index, stats.ops, 0]);
        if let Some(index) = installed {
            wal::snap::remove_orphan_dbs(&self.dirs.snap, index)?;
        }
        if takes_snapshot {
            self.save_snapshot(point.clone(), env)?;
        }
        self.send_state(receivers, &point, env);
        Ok(())
    }

    /// Sends the committed state, under the index that it stands for.
    fn send_state(
        &mut self,
        receivers: Vec<raft::Message>,
        point: &raftpb::Snapshot,
        env: &mut Env,
    ) {
        for message in receivers {
            let snapshot = raft::codec::snapshot_from_proto(point.clone());
            let message =
                raft::Message { body: raft::Body::Snapshot(Box::new(snapshot)), ..message };
            let stale = self.stale.take().filter(|_| env.plant == Plant::SnapshotDataStale);
            let view = stale.unwrap_or_else(|| self.backend.view());
            env.mark(Mark::SnapshotSent);
            self.outgoing.push((message, view.snapshot()));
        }
    }

    /// The file first, then the record that vouches for it; last, the log's memory lets go of what the snapshot covers.
    fn save_snapshot(&mut self, snapshot: raftpb::Snapshot, env: &mut Env) -> Step {
        wal::snap::save(&self.dirs.snap, &snapshot)?;
        let raftpb::SnapshotMetadata { conf_state, index, term } = snapshot.metadata;
        env.mark(Mark::SnapshotTaken);
        env.trace(self.id(), "snapshot", [index, term, 0]);
        let record = walpb::Snapshot { index, term, conf_state: Some(conf_state.clone()) };
        self.tell(HeartWork::SnapshotSaved(record), env);
        let taken = Input::SnapshotTaken {
            index: LogIndex(index),
            conf_state: raft::codec::conf_state_from_proto(conf_state),
            data: snapshot.data.unwrap_or_default(),
            compact: LogIndex(index.saturating_sub(env.swarm.catch_up).max(1)),
        };
        self.hear(taken, env);
        Ok(())
    }
}

/// What is written, for a log writer that nobody waits for.
pub(super) fn copy_without_responses(append: &Append) -> Append {
    Append {
        hard_state: append.hard_state,
        snapshot: append.snapshot.clone(),
        entries: append.entries.clone(),
        must_sync: append.must_sync,
        responses: Vec::new(),
        done: append.done.clone(),
    }
}
