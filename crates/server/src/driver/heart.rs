//! The heart: one thread that runs consensus, the log and the state machine, one after another.
//!
//! Takes everything that has gathered, hands it to the [`Replica`], and carries out what comes back until nothing more does:
//! write and sync, apply, answer. What gathers meanwhile is the next batch, so that the slower the disk, the larger the
//! batches.
//!
//! A member that is alone has all of it in one thread: there are no heartbeats that an fsync could hold up, and each
//! hand-over to another thread costs two context switches and, on a busy machine, a wait for a processor. As soon as it knows
//! of another member, log and state machine get threads of their own ([`Heart::split`]), so that heartbeats, votes and
//! elections wait neither for the disk nor for a large transaction:
//!
//! ```text
//! alone:       heart ── write ── apply ── write ── apply ─►
//! in company:  heart ──► log writer ──┐        (Persisted comes back as input)
//!                 ▲  └──► apply stage ─┼─► …    (Applied comes back as input)
//!                 └────────────────────┘
//! ```
//!
//! In company this thread is an executor too: it reads the streams from the other members and writes those to them, between its
//! turns. A message then takes one wake-up from socket to socket where it would take three, each with a switch of threads, and
//! waits for no client's request. Everything else that has to do with members (handshakes with strangers, posted messages,
//! databases, probes) stays with the executor of the clients' requests.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use proto::walpb;
use raft::Append;
use replica::{Effect, Input, Replica};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep_until;

use super::Failures;
use super::apply::{self, ApplyStage};
use super::log_writer::{self, LogWriter};
use super::mailbox::{Receiver, Sender, mailbox};
use crate::board::Board;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::proposals::Waiters;
use crate::reads::Reads;
use crate::request::Outcome;
use crate::told;

/// Most inputs that clients may have waiting: at 256 bytes each some megabytes, and more than any number of clients on two
/// cores keeps in flight. Beyond it a client is told that there are too many requests.
pub(crate) const INBOX_CAPACITY: usize = 20_000;

/// After a pause (a stopped process, a suspended machine) at most this many ticks are made up for at once: enough to notice
/// that leadership is in doubt, too few to count a pause as many timeouts.
const TICKS_AT_ONCE_MAX: u32 = 10;

/// A leader that was held up for more ticks than this proves that it still leads before it answers alone: etcd's number.
pub(crate) const TICKS_UNTIL_DOUBT: u32 = 3;

/// What comes in.
#[derive(Debug)]
pub(crate) enum Work {
    /// For consensus.
    Replica(Input),
    /// For the state machine.
    Apply(apply::Work),
    /// A raft snapshot file is complete: the log vouches for it.
    SnapshotSaved(walpb::Snapshot),
    /// The apply stage has made its last commit.
    ApplyEnded,
    /// How far the members have followed; answered by the leader alone.
    Progress(oneshot::Sender<Vec<replica::Follower>>),
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
    /// A stage cannot have a thread of its own.
    #[error("start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Where a stage runs.
pub(crate) enum Seat<S, W> {
    /// In the heart's thread.
    Here(S),
    /// In a thread of its own, with this inbox.
    Away(Sender<W>, JoinHandle<()>),
    /// It has ended, or failed on its way out.
    Gone,
}

/// What a settling has to do together.
#[derive(Default)]
struct Together {
    appends: Vec<Append>,
    applies: Vec<replica::Apply>,
}

/// What one turn leaves to the next.
struct Pass {
    /// Taken from the inbox; empty between turns, as the effects are.
    batch: VecDeque<Work>,
    effects: Vec<Effect>,
    next_tick: Instant,
    is_stopping: bool,
}

impl Pass {
    fn new(next_tick: Instant) -> Self {
        Self { batch: VecDeque::new(), effects: Vec::new(), next_tick, is_stopping: false }
    }
}

/// The heart's belongings.
pub(crate) struct Heart {
    pub(crate) replica: Replica,
    /// This member.
    pub(crate) member_id: u64,
    pub(crate) log: Seat<LogWriter, log_writer::Work>,
    pub(crate) apply: Seat<ApplyStage, apply::Order>,
    pub(crate) inbox: Receiver<Work>,
    /// The other end of the inbox, for the stages.
    pub(crate) sender: Sender<Work>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) failures: Failures,
    pub(crate) board: Arc<Board>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) waiters: Arc<Waiters<Outcome>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) heartbeat: Duration,
    pub(crate) election: Duration,
    /// When the writes were handed over that are not durable yet, oldest first. Empty while the log is here.
    pub(crate) unpersisted: VecDeque<Instant>,
}

impl Heart {
    /// Runs until it is told to stop, then lets the state machine make its last commit, and closes the log. The executor is
    /// this thread's, for the streams from and to other members.
    pub(crate) fn run(mut self, streams: Runtime) -> Result<(), HeartFailure> {
        let mut pass = Pass::new(Instant::now() + self.heartbeat);
        self.settle(&mut pass.effects)?;
        while self.is_alone() {
            let deadline = match &mut self.apply {
                Seat::Here(stage) => stage.deadline(),
                Seat::Away(..) | Seat::Gone => None,
            };
            let deadline = deadline.map_or(pass.next_tick, |due| due.min(pass.next_tick));
            // The heart itself can send to its inbox, so it is never closed.
            self.inbox.take(&mut pass.batch, Some(deadline));
            if self.turn(&mut pass)?.is_break() {
                return self.finish();
            }
        }
        streams.block_on(self.accompany(pass))?;
        // A name that is being resolved keeps nobody waiting.
        streams.shutdown_background();
        Ok(())
    }

    /// The rest of it, in company: the tasks of this thread's executor run while nothing is in the inbox, and in between.
    async fn accompany(mut self, mut pass: Pass) -> Result<(), HeartFailure> {
        let mut ticking = pin!(sleep_until(pass.next_tick.into()));
        loop {
            if !self.inbox.is_empty() {
                // What was given to the streams leaves, however busy the inbox is.
                yield_now().await;
            }
            poll_fn(|context| match self.inbox.poll_take(&mut pass.batch, context) {
                Poll::Pending => ticking.as_mut().poll(context),
                // The heart itself can send to its inbox, so it is never closed.
                Poll::Ready(_) => Poll::Ready(()),
            })
            .await;
            if self.turn(&mut pass)?.is_break() {
                return self.finish();
            }
            if ticking.deadline().into_std() != pass.next_tick {
                ticking.as_mut().reset(pass.next_tick.into());
            }
        }
    }

    /// Works off the batch, and carries out what follows from it. Breaks when the last commit is made.
    fn turn(&mut self, pass: &mut Pass) -> Result<ControlFlow<()>, HeartFailure> {
        let Pass { batch, effects, next_tick, is_stopping } = pass;
        let mut has_ended = false;
        for work in batch.drain(..) {
            match work {
                Work::Replica(input) => {
                    if matches!(input, Input::Persisted(_)) {
                        self.unpersisted.pop_front();
                    }
                    self.replica.handle(input, effects);
                }
                Work::Apply(work) => self.ask(work),
                Work::SnapshotSaved(snapshot) => self.vouch(snapshot)?,
                Work::ApplyEnded => has_ended = true,
                // Whoever has gone needs no answer.
                Work::Progress(reply) => drop(reply.send(self.replica.followers())),
                Work::Stop => {
                    *is_stopping = true;
                    self.order(apply::Order::Stop);
                }
            }
        }
        self.tick(next_tick, effects);
        self.doubt(effects);
        self.settle(effects)?;
        if let Seat::Here(log) = &mut self.log {
            log.purge()?;
        }
        match &mut self.apply {
            Seat::Here(stage) if !*is_stopping => stage.look_after()?,
            // A job that still runs tells of its end; after it comes the last commit.
            Seat::Here(stage) => has_ended = !stage.is_busy(),
            Seat::Away(..) | Seat::Gone => {}
        }
        Ok(if has_ended { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    fn tick(&mut self, next_tick: &mut Instant, effects: &mut Vec<Effect>) {
        let now = Instant::now();
        if *next_tick > now {
            return;
        }
        // Before anything that waits is served: a leader that was stopped may lead no more.
        let since_last = self.heartbeat + now.duration_since(*next_tick);
        let had_paused = since_last > TICKS_UNTIL_DOUBT * self.heartbeat;
        self.board.ticked(had_paused);
        let late = now.duration_since(*next_tick);
        if self.board.is_leader() && !self.is_alone() && tell_late(late, self.heartbeat) {
            self.metrics.consensus.late_heartbeats.count();
        }
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

    /// Whether there has never been another member.
    fn is_alone(&self) -> bool {
        matches!(self.log, Seat::Here(_))
    }

    /// Gives up leadership when the disk has not taken a write for an election timeout: the others can commit without
    /// this member, but only another leader can answer for what they commit.
    fn doubt(&mut self, effects: &mut Vec<Effect>) {
        let Some(oldest) = self.unpersisted.front_mut() else { return };
        if !self.board.is_leader() || oldest.elapsed() < self.election {
            return;
        }
        tracing::warn!(
            waiting = ?self.election,
            "the write-ahead log has not become durable for an election timeout; giving up leadership"
        );
        // Once an election timeout; a hand-over that comes to nothing is tried again.
        *oldest = Instant::now();
        self.replica.handle(Input::YieldLeadership, effects);
    }

    /// Carries out everything that follows from the inputs taken, in rounds: what is written may be committed, what is
    /// committed is applied, what is applied may let reads go on. Where the stages are away, it hands over and ends.
    fn settle(&mut self, effects: &mut Vec<Effect>) -> Result<(), HeartFailure> {
        let mut together = Together::default();
        let mut inputs = Vec::new();
        loop {
            self.replica.flush(effects);
            if effects.is_empty() {
                return Ok(());
            }
            for effect in effects.drain(..) {
                self.carry_out(effect, &mut together)?;
            }
            if let Seat::Here(log) = &mut self.log
                && !together.appends.is_empty()
            {
                log.write(&together.appends)?;
                inputs.extend(together.appends.drain(..).map(Input::Persisted));
            }
            if let Seat::Here(stage) = &mut self.apply {
                for apply in together.applies.drain(..) {
                    let answers = stage.apply(apply, &mut inputs)?;
                    stage.answer(answers);
                }
            }
            for input in inputs.drain(..) {
                self.replica.handle(input, effects);
            }
        }
    }

    /// Carries out one effect; writes and entries to apply are collected where the stages are here, to be done together.
    fn carry_out(&mut self, effect: Effect, together: &mut Together) -> Result<(), HeartFailure> {
        match effect {
            Effect::Persist(append) => match &self.log {
                Seat::Away(log, _) => {
                    self.unpersisted.push_back(Instant::now());
                    log.send_all([log_writer::Work::Write(append)]);
                }
                Seat::Here(_) | Seat::Gone => together.appends.push(append),
            },
            Effect::Apply(apply) => match &self.apply {
                Seat::Away(stage, _) => stage.send_all([apply::Order::Apply(apply)]),
                Seat::Here(_) | Seat::Gone => together.applies.push(apply),
            },
            Effect::ConfState(Ok(state)) => {
                tracing::debug!(voters = ?state.voters, learners = ?state.learners, "switched configuration");
                if state.voters.len() + state.learners.len() > 1 {
                    self.split_with(together)?;
                }
            }
            // The state machine validates changes before; raft knows of none that it then refuses.
            Effect::ConfState(Err(error)) => {
                tracing::error!(error = %error, "raft refused a committed configuration change");
                // Whoever it was about may have streams, which are this thread's.
                self.split_with(together)?;
            }
            Effect::ReadReady { index, context } => self.reads.confirm(&context, index),
            Effect::Dropped { request_id } => self.waiters.give_up(request_id, Outcome::Dropped),
            Effect::Status(status) => {
                let leader_before = self.board.leader();
                let was_leader = self.board.is_leader();
                self.board.update(&status);
                if leader_before != status.leader {
                    self.tell_leader(leader_before, &status);
                    self.reads.leader_changed();
                    if status.leader != raft::NodeId::NONE {
                        self.metrics.consensus.leader_changes.count();
                    }
                }
                if was_leader != self.board.is_leader() {
                    self.order(apply::Order::Leadership(self.board.is_leader()));
                }
            }
            Effect::Send(messages) => self.peers.send(messages),
            Effect::SendSnapshot(message) => self.ask(apply::Work::SendSnapshot(message)),
            Effect::Install(snapshot) => {
                // Who sends snapshots is company, whether this member has heard of him or not.
                self.split_with(together)?;
                self.order(apply::Order::Install(snapshot));
            }
            Effect::Rejected(error) => {
                tracing::warn!(error = %error, "refused a message of another member");
            }
        }
        Ok(())
    }

    /// Tells who leads now, in the words of etcd's raft.
    fn tell_leader(&self, before: raft::NodeId, status: &replica::Status) {
        let (own, now, term) = (self.member_id, status.leader.0, status.term.0);
        match (before, status.leader) {
            (before, raft::NodeId::NONE) => tracing::info!(
                logger = "raft",
                "raft.node: {own:x} lost leader {:x} at term {term}",
                before.0
            ),
            (raft::NodeId::NONE, _) => tracing::info!(
                logger = "raft",
                "raft.node: {own:x} elected leader {now:x} at term {term}"
            ),
            (before, _) => tracing::info!(
                logger = "raft",
                "raft.node: {own:x} changed leader from {:x} to {now:x} at term {term}",
                before.0
            ),
        }
    }

    /// Gives log and state machine threads of their own.
    pub(crate) fn split(&mut self) -> std::io::Result<()> {
        self.split_with(&mut Together::default())
    }

    /// Gives them threads of their own, with what is collected for them.
    fn split_with(&mut self, together: &mut Together) -> std::io::Result<()> {
        match std::mem::replace(&mut self.log, Seat::Gone) {
            Seat::Here(log) => {
                let (sender, inbox) = mailbox(usize::MAX);
                let heart = self.sender.clone();
                let thread = self.failures.spawn("wal", move || log.run(&inbox, &heart))?;
                self.unpersisted.extend(together.appends.iter().map(|_| Instant::now()));
                sender.send_all(together.appends.drain(..).map(log_writer::Work::Write));
                self.log = Seat::Away(sender, thread);
            }
            seat @ (Seat::Away(..) | Seat::Gone) => self.log = seat,
        }
        match std::mem::replace(&mut self.apply, Seat::Gone) {
            Seat::Here(stage) => {
                let (sender, inbox) = mailbox(usize::MAX);
                let heart = self.sender.clone();
                let thread = self.failures.spawn("apply", move || stage.run(&inbox, &heart))?;
                sender.send_all(together.applies.drain(..).map(apply::Order::Apply));
                self.apply = Seat::Away(sender, thread);
            }
            seat @ (Seat::Away(..) | Seat::Gone) => self.apply = seat,
        }
        Ok(())
    }

    fn ask(&mut self, work: apply::Work) {
        self.order(apply::Order::Work(work));
    }

    /// Hands an order over, or carries it out. What is to be applied goes another way, see [`Heart::carry_out`].
    fn order(&mut self, order: apply::Order) {
        match (&mut self.apply, order) {
            (Seat::Away(stage, _), order) => stage.send_all([order]),
            (Seat::Here(stage), apply::Order::Work(work)) => stage.take(work),
            (Seat::Here(stage), apply::Order::Leadership(is_leader)) => stage.leadership(is_leader),
            (Seat::Here(_) | Seat::Gone, _) => {}
        }
    }

    fn vouch(&mut self, snapshot: walpb::Snapshot) -> Result<(), HeartFailure> {
        match &mut self.log {
            Seat::Here(log) => log.vouch(&snapshot)?,
            Seat::Away(log, _) => log.send_all([log_writer::Work::Vouch(snapshot)]),
            Seat::Gone => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<(), HeartFailure> {
        match self.apply {
            Seat::Here(mut stage) => stage.last_commit()?,
            Seat::Away(stage, thread) => end(stage, thread),
            Seat::Gone => {}
        }
        match self.log {
            Seat::Here(log) => log.close()?,
            // It works off what it has, and closes the log.
            Seat::Away(log, thread) => end(log, thread),
            Seat::Gone => {}
        }
        Ok(())
    }
}

/// Waits for a stage that gets no more work. One that failed has said so itself.
fn end<W>(inbox: Sender<W>, thread: JoinHandle<()>) {
    drop(inbox);
    let _ = thread.join();
}

/// Whether a leader's heartbeat is so late that the others may doubt it: by more than an interval. That is told.
fn tell_late(late: Duration, heartbeat: Duration) -> bool {
    let is_late = late > heartbeat;
    if is_late {
        tracing::warn!(
            heartbeat_interval = told::go_duration(heartbeat),
            expected_duration = told::go_duration(2 * heartbeat),
            exceeded_duration = told::go_duration(late - heartbeat),
            "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
        );
    }
    is_late
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::lines::Lines;

    #[test]
    fn a_heartbeat_that_an_interval_was_left_out_before_is_told() {
        let (lines, _told) = Lines::gather();
        let heartbeat = Duration::from_millis(100);
        assert!(!tell_late(heartbeat, heartbeat));
        assert_eq!(lines.with(&[]), 0);
        assert!(tell_late(Duration::from_millis(130), heartbeat));
        let told = [
            "WARN",
            "heartbeat_interval=100ms expected_duration=200ms exceeded_duration=30ms",
            "leader failed to send out heartbeat on time",
        ];
        assert_eq!(lines.with(&told), 1);
    }
}
