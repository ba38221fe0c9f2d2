//! The heart: one thread that runs consensus, the log and the state machine, one after another.
//!
//! Takes everything that has gathered, hands it to the [`Replica`], and carries out what comes back until nothing more does:
//! write and sync, apply, answer. What gathers meanwhile is the next batch, so that the slower the disk, the larger the
//! batches.
//!
//! Why one thread: a cluster of one has no heartbeats that an fsync could hold up, and each hand-over to another thread costs
//! two context switches and, on a busy machine, a wait for a processor. Log and
//! state machine are values of their own ([`LogWriter`], [`ApplyStage`]), which get threads of their own when there
//! are other members to keep in touch with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::walpb;
use raft::Append;
use replica::{Effect, Input, Replica};

use super::apply::{self, ApplyStage};
use super::log_writer::LogWriter;
use super::mailbox::{Receiver, Wait};
use crate::board::Board;
use crate::proposals::Waiters;
use crate::reads::Reads;
use crate::request::Outcome;

/// Most inputs that clients may have waiting: at 256 bytes each some megabytes, and more than any number of clients on two
/// cores keeps in flight. Beyond it a client is told that there are too many requests.
pub(crate) const INBOX_CAPACITY: usize = 20_000;

/// After a pause (a stopped process, a suspended machine) at most this many ticks are made up for at once: enough to notice
/// that leadership is in doubt, too few to count a pause as many timeouts.
const TICKS_AT_ONCE_MAX: u32 = 10;

/// What comes in.
#[derive(Debug)]
pub(crate) enum Work {
    /// For consensus.
    Replica(Input),
    /// For the state machine.
    Apply(apply::Work),
    /// A raft snapshot file is complete: the log vouches for it.
    SnapshotSaved(walpb::Snapshot),
    /// Work off what is there, and end.
    Stop,
}

/// Why the heart cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeartFailure {
    /// The log cannot be written.
    #[error("write-ahead log: {0}")]
    Log(#[from] wal::Error),
    /// The state machine cannot go on.
    #[error("apply: {0}")]
    Machine(#[from] machine::Fatal),
}

/// The heart's belongings.
pub(crate) struct Heart {
    pub(crate) replica: Replica,
    pub(crate) log: LogWriter,
    pub(crate) apply: ApplyStage,
    pub(crate) inbox: Receiver<Work>,
    pub(crate) board: Arc<Board>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) waiters: Arc<Waiters<Outcome>>,
    pub(crate) heartbeat: Duration,
}

impl Heart {
    /// Runs until it is told to stop, then makes the last commit and closes the log.
    pub(crate) fn run(mut self) -> Result<(), HeartFailure> {
        let mut batch = VecDeque::new();
        let mut effects = Vec::new();
        let mut next_tick = Instant::now() + self.heartbeat;
        let mut is_stopping = false;
        self.settle(&mut effects)?;
        loop {
            let deadline = self.apply.deadline().map_or(next_tick, |due| due.min(next_tick));
            if self.inbox.take(&mut batch, Some(deadline)) == Wait::Closed {
                return self.finish();
            }
            for work in batch.drain(..) {
                match work {
                    Work::Replica(input) => self.replica.handle(input, &mut effects),
                    Work::Apply(work) => self.apply.take(work),
                    Work::SnapshotSaved(snapshot) => self.log.vouch(&snapshot)?,
                    Work::Stop => is_stopping = true,
                }
            }
            self.tick(&mut next_tick, &mut effects);
            self.settle(&mut effects)?;
            if !is_stopping {
                self.apply.look_after()?;
            } else if !self.apply.is_busy() {
                // A job that still runs tells of its end; after it comes the last commit.
                return self.finish();
            }
        }
    }

    fn tick(&mut self, next_tick: &mut Instant, effects: &mut Vec<Effect>) {
        let now = Instant::now();
        let mut ticks = 0;
        while *next_tick <= now {
            self.replica.handle(Input::Tick, effects);
            *next_tick += self.heartbeat;
            ticks += 1;
            if ticks == TICKS_AT_ONCE_MAX {
                *next_tick = now + self.heartbeat;
            }
        }
    }

    /// Carries out everything that follows from the inputs taken, in rounds: what is written may be committed, what is
    /// committed is applied, what is applied may let reads go on.
    fn settle(&mut self, effects: &mut Vec<Effect>) -> Result<(), HeartFailure> {
        let mut appends = Vec::new();
        let mut applies = Vec::new();
        let mut inputs = Vec::new();
        loop {
            self.replica.flush(effects);
            if effects.is_empty() {
                return Ok(());
            }
            for effect in effects.drain(..) {
                self.carry_out(effect, &mut appends, &mut applies);
            }
            if !appends.is_empty() {
                self.log.write(&appends)?;
                inputs.extend(appends.drain(..).map(Input::Persisted));
            }
            for apply in applies.drain(..) {
                self.apply.apply(apply, &mut inputs)?;
            }
            for input in inputs.drain(..) {
                self.replica.handle(input, effects);
            }
        }
    }

    /// Carries out one effect; writes and entries to apply are collected, to be done together.
    fn carry_out(
        &mut self,
        effect: Effect,
        appends: &mut Vec<Append>,
        applies: &mut Vec<replica::Apply>,
    ) {
        match effect {
            Effect::Persist(append) => appends.push(append),
            Effect::Apply(apply) => applies.push(apply),
            Effect::ConfState(Ok(state)) => {
                tracing::info!(voters = ?state.voters, learners = ?state.learners, "switched configuration");
            }
            // The state machine validates changes before; raft knows of none that it then refuses.
            Effect::ConfState(Err(error)) => {
                tracing::error!(error = %error, "raft refused a committed configuration change");
            }
            Effect::ReadReady { index, context } => self.reads.confirm(&context, index),
            Effect::Dropped { request_id } => self.waiters.finish(request_id, Outcome::Dropped),
            Effect::Status(status) => {
                let leader_before = self.board.leader();
                self.board.update(&status);
                if leader_before != status.leader {
                    self.reads.leader_changed();
                    self.apply.leadership(self.board.is_leader());
                }
            }
            Effect::Send(messages) => {
                // There are no other members yet: a cluster of one sends nothing.
                tracing::debug!(
                    count = messages.len(),
                    "no transport for messages to other members"
                );
            }
            Effect::Rejected(error) => {
                tracing::warn!(error = %error, "refused a message of another member")
            }
        }
    }

    fn finish(mut self) -> Result<(), HeartFailure> {
        self.apply.last_commit()?;
        Ok(self.log.close()?)
    }
}
