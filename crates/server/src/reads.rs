//! Linearizable reads: from "may I read now?" to the index that must be applied first.
//!
//! One round through consensus serves every read that waits for it (Raft thesis, section 6.4). Reads that come while a round
//! is under way wait for the next, since its index may be older than they are. A member that is its cluster's only voter
//! needs no round: see [`replica::Status::reads_locally`].

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::LogIndex;
use replica::Input;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::board::Board;
use crate::driver::heart::Work;
use crate::driver::mailbox::Sender;
use crate::{told, waking};

/// etcd asks again after this time, since a request or its answer may be lost.
const RETRY: Duration = Duration::from_millis(500);

/// Why a read cannot be confirmed. The client may try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    /// Another member leads now; what the old leader would have said is void.
    #[error("leader changed")]
    LeaderChanged,
    /// No answer in time.
    #[error("timed out")]
    Timeout,
    /// The member stops.
    #[error("stopped")]
    Stopped,
}

type Waiter = oneshot::Sender<Result<LogIndex, ReadError>>;

/// The rounds.
#[derive(Debug)]
pub(crate) struct Reads {
    heart: Sender<Work>,
    /// Where those who wait are tasks.
    runtime: Handle,
    /// Held to join or end a round, never while waiting.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Counts the requests sent; each has another context, since the answer to an old one proves less.
    last_context: u64,
    round: Option<Round>,
    /// Who wants the next round.
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Round {
    /// The contexts under which it was asked for; an answer to any of them ends it.
    contexts: BTreeSet<u64>,
    asked_at: Instant,
    /// When it was last told that nobody answers.
    given_up_at: Option<Instant>,
    waiters: Vec<Waiter>,
}

impl Reads {
    /// `first_context` must differ from what this member sent before it restarted.
    /// Called by a task of the executor whose other tasks will wait.
    pub(crate) fn new(heart: Sender<Work>, first_context: u64) -> Self {
        Self {
            heart,
            runtime: Handle::current(),
            state: Mutex::new(State {
                last_context: first_context,
                round: None,
                waiting: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the state that this member has applied is new enough for a linearizable read.
    pub(crate) async fn linearizable(
        &self,
        board: &Board,
        timeout: Duration,
    ) -> Result<(), ReadError> {
        if board.reads_locally() {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + timeout;
        let Ok(index) = tokio::time::timeout_at(deadline, self.round()).await else {
            self.give_up(timeout);
            return Err(ReadError::Timeout);
        };
        let applied = tokio::time::timeout_at(deadline, board.wait_applied(index?)).await;
        applied.map_err(|_| ReadError::Timeout)
    }

    async fn round(&self) -> Result<LogIndex, ReadError> {
        let (sender, mut receiver) = oneshot::channel();
        {
            let mut state = self.lock();
            state.waiting.push(sender);
            if state.round.is_none() {
                self.begin(&mut state);
            }
        }
        loop {
            match tokio::time::timeout(RETRY, &mut receiver).await {
                Ok(answer) => return answer.unwrap_or(Err(ReadError::Stopped)),
                Err(_) => self.ask_again(),
            }
        }
    }

    fn begin(&self, state: &mut State) {
        state.round = Some(Round {
            contexts: BTreeSet::new(),
            asked_at: Instant::now(),
            given_up_at: None,
            waiters: std::mem::take(&mut state.waiting),
        });
        self.ask(state);
    }

    fn ask(&self, state: &mut State) {
        let Some(round) = &mut state.round else { return };
        state.last_context += 1;
        round.contexts.insert(state.last_context);
        round.asked_at = Instant::now();
        let context = Bytes::copy_from_slice(&state.last_context.to_be_bytes());
        self.heart.send_all([Work::Replica(Input::ReadIndex { context })]);
    }

    fn ask_again(&self) {
        let mut state = self.lock();
        if state.round.as_ref().is_some_and(|round| round.asked_at.elapsed() >= RETRY) {
            tracing::warn!(
                sent_request_id = state.last_context,
                retry_timeout = ?RETRY,
                "waiting for ReadIndex response took too long, retrying"
            );
            self.ask(&mut state);
        }
    }

    /// Tells that nobody answers: once for all who wait as long, since they are one request to the leader.
    fn give_up(&self, timeout: Duration) {
        let mut state = self.lock();
        let Some(round) = &mut state.round else { return };
        if round.given_up_at.is_none_or(|at| at.elapsed() >= timeout) {
            round.given_up_at = Some(Instant::now());
            tracing::warn!(
                timeout = told::go_duration(timeout),
                "timed out waiting for read index response (local node might have slow network)"
            );
        }
    }

    /// Takes the answer of consensus.
    pub(crate) fn confirm(&self, context: &[u8], index: LogIndex) {
        let Ok(context) = <[u8; 8]>::try_from(context).map(u64::from_be_bytes) else { return };
        if !self.end_round(Ok(index), |round| round.contexts.contains(&context)) {
            tracing::warn!(
                received_request_id = context,
                "ignored out-of-date read index response; local node read indexes queueing up and waiting to be in sync with leader"
            );
        }
    }

    /// Another member leads: the round's answer will not come.
    pub(crate) fn leader_changed(&self) {
        // Without a round there is nothing to void.
        let _ = self.end_round(Err(ReadError::LeaderChanged), |_| true);
    }

    /// Answers those who wait for the round, if it is meant; returns whether it was.
    fn end_round(
        &self,
        answer: Result<LogIndex, ReadError>,
        is_meant: impl FnOnce(&Round) -> bool,
    ) -> bool {
        let mut state = self.lock();
        if !state.round.as_ref().is_some_and(is_meant) {
            return false;
        }
        let waiters = state.round.take().map(|round| round.waiters).unwrap_or_default();
        if !state.waiting.is_empty() {
            self.begin(&mut state);
        }
        drop(state);
        waking::tell(waiters.len(), &self.runtime, move || {
            for waiter in waiters {
                // Whoever has gone needs no answer.
                let _ = waiter.send(answer);
            }
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::driver::mailbox::{Receiver, mailbox};
    use crate::told::lines::Lines;

    fn asked(inbox: &Receiver<Work>) -> Vec<Bytes> {
        let mut batch = VecDeque::new();
        inbox.take(&mut batch, Some(Instant::now()));
        batch
            .into_iter()
            .map(|work| {
                let Work::Replica(Input::ReadIndex { context }) = work else {
                    panic!("unexpected {work:?}")
                };
                context
            })
            .collect()
    }

    #[tokio::test]
    async fn one_round_serves_all_who_wait_and_late_ones_get_the_next() {
        let (lines, _told) = Lines::gather();
        let (sender, inbox) = mailbox(10);
        let reads = Reads::new(sender, 0);
        let answers = async { tokio::join!(biased; reads.round(), reads.round(), reads.round()) };
        let drive = async {
            tokio::task::yield_now().await;
            let first = asked(&inbox);
            assert_eq!(first.len(), 1, "the first read asks, the others wait");
            reads.confirm(&first[0], LogIndex(5));
            let second = asked(&inbox);
            assert_eq!(second.len(), 1);
            reads.confirm(&first[0], LogIndex(6));
            reads.confirm(&second[0], LogIndex(7));
        };
        let ((a, b, c), ()) = tokio::join!(biased; answers, drive);
        assert_eq!((a, b, c), (Ok(LogIndex(5)), Ok(LogIndex(7)), Ok(LogIndex(7))));
        let told = ["WARN", "received_request_id=1", "ignored out-of-date read index response"];
        assert_eq!(lines.with(&told), 1, "the first round's second answer");
        assert_eq!(lines.with(&["WARN"]), 1);
    }

    #[tokio::test]
    async fn a_new_leader_voids_the_round() {
        let (sender, inbox) = mailbox(10);
        let reads = Reads::new(sender, 0);
        let drive = async {
            tokio::task::yield_now().await;
            assert_eq!(asked(&inbox).len(), 1);
            reads.leader_changed();
        };
        let (answer, ()) = tokio::join!(biased; reads.round(), drive);
        assert_eq!(answer, Err(ReadError::LeaderChanged));
    }

    #[tokio::test]
    async fn all_who_wait_in_vain_are_told_as_one() {
        let (sender, _inbox) = mailbox(10);
        let reads = Reads::new(sender, 0);
        let board = Board::new(0);
        let (lines, _told) = Lines::gather();
        let timeout = Duration::from_millis(20);
        let answers =
            tokio::join!(reads.linearizable(&board, timeout), reads.linearizable(&board, timeout));
        assert_eq!(answers, (Err(ReadError::Timeout), Err(ReadError::Timeout)));
        let told = ["WARN", "timeout=20ms", "timed out waiting for read index response"];
        assert_eq!(lines.with(&told), 1);
        // One that is confirmed, and waits for what is to be applied, waits for no answer.
        let confirm = async {
            tokio::task::yield_now().await;
            reads.confirm(&1_u64.to_be_bytes(), LogIndex(5));
        };
        let (answer, ()) =
            tokio::join!(biased; reads.linearizable(&board, Duration::from_millis(1)), confirm);
        assert_eq!(answer, Err(ReadError::Timeout));
        assert_eq!(lines.with(&told), 1);
    }
}
