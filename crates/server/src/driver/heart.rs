//! The node loop: the only place where consensus meets the world.
//!
//! Takes all inputs that have gathered, hands them to the [`Replica`], and carries out what comes back. It waits for inputs
//! and for the next tick, and for nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use replica::{Effect, Input, Replica};

use super::apply;
use super::log_writer;
use super::mailbox::{Receiver, Sender, Wait};
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
pub(crate) enum NodeInput {
    /// For the replica.
    Replica(Input),
    /// End the loop.
    Stop,
}

/// The node loop's belongings.
pub(crate) struct Node {
    pub(crate) replica: Replica,
    pub(crate) inbox: Receiver<NodeInput>,
    pub(crate) log: Sender<log_writer::Work>,
    pub(crate) apply: Sender<apply::Work>,
    pub(crate) board: Arc<Board>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) waiters: Arc<Waiters<Outcome>>,
    pub(crate) heartbeat: Duration,
}

impl Node {
    /// Runs until it is told to stop, and then tells the next stages.
    pub(crate) fn run(mut self) {
        self.work();
        self.log.send_all([log_writer::Work::Stop]);
        self.apply.send_all([apply::Work::Stop]);
    }

    fn work(&mut self) {
        let mut batch = VecDeque::new();
        let mut effects = Vec::new();
        let mut next_tick = Instant::now() + self.heartbeat;
        self.turn(&mut effects);
        loop {
            match self.inbox.take(&mut batch, Some(next_tick)) {
                Wait::Closed => return,
                Wait::Ready | Wait::TimedOut => {}
            }
            for input in batch.drain(..) {
                match input {
                    NodeInput::Replica(input) => self.replica.handle(input, &mut effects),
                    NodeInput::Stop => return,
                }
            }
            let mut ticks = 0;
            while next_tick <= Instant::now() {
                next_tick += self.heartbeat;
                ticks += 1;
                if ticks <= TICKS_AT_ONCE_MAX {
                    self.replica.handle(Input::Tick, &mut effects);
                } else {
                    next_tick = Instant::now() + self.heartbeat;
                }
            }
            self.turn(&mut effects);
        }
    }

    fn turn(&mut self, effects: &mut Vec<Effect>) {
        self.replica.flush(effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
    }

    fn carry_out(&self, effect: Effect) {
        match effect {
            // How much these two hold is bounded by the core: by the uncommitted and the applying bytes.
            Effect::Persist(append) => self.log.send_all([log_writer::Work::Append(append)]),
            Effect::Apply(apply) => self.apply.send_all([apply::Work::Committed(apply)]),
            Effect::ConfState(Ok(state)) => tracing::info!(voters = ?state.voters, learners = ?state.learners, "switched configuration"),
            // The state machine validates changes before; raft knows of none that it then refuses.
            Effect::ConfState(Err(error)) => tracing::error!(error = %error, "raft refused a committed configuration change"),
            Effect::ReadReady { index, context } => self.reads.confirm(&context, index),
            Effect::Dropped { request_id } => self.waiters.finish(request_id, Outcome::Dropped),
            Effect::Status(status) => {
                let leader_before = self.board.leader();
                self.board.update(&status);
                if leader_before != status.leader {
                    self.reads.leader_changed();
                    self.apply.send_all([apply::Work::Leadership { is_leader: self.board.is_leader() }]);
                    tracing::info!(
                        leader = %status.leader, term = status.term.0, "raft.node: leader changed"
                    );
                }
            }
            Effect::Send(messages) => {
                // There are no other members yet: a cluster of one sends nothing.
                tracing::debug!(count = messages.len(), "no transport for messages to other members");
            }
            Effect::Rejected(error) => tracing::warn!(error = %error, "refused a message of another member"),
        }
    }
}
