//! A queue between two stages, taken a whole batch at a time.
//!
//! A sender pays one short lock; the receiver takes everything that gathered while it worked, which is what makes group
//! commit structural: the slower the disk, the larger the next batch. A bounded mailbox refuses when full, and the sender
//! tells its client so.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// The sending side; clones share the queue.
#[derive(Debug)]
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

/// Why something was not queued; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SendError<T> {
    /// The queue holds as much as it may.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

#[derive(Debug)]
struct Shared<T> {
    capacity: usize,
    /// Guards the queue; held for a push or a swap, never while working.
    state: Mutex<State<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    is_receiver_waiting: bool,
    /// Of a receiver that waits as a task; without one, it waits in its thread.
    task: Option<Waker>,
    is_receiver_gone: bool,
    senders: usize,
}

/// What a wait ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Something is there.
    Ready,
    /// The deadline passed.
    TimedOut,
    /// All senders are gone and the queue is empty.
    Closed,
}

/// Makes a mailbox of that capacity.
pub(crate) fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        capacity,
        state: Mutex::new(State {
            queue: VecDeque::new(),
            is_receiver_waiting: false,
            task: None,
            is_receiver_gone: false,
            senders: 1,
        }),
        arrived: Condvar::new(),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

impl<T> Shared<T> {
    /// A panic of another thread while it held this lock ends the process (`panic = "abort"`, and in tests the state is
    /// whole between any two statements), so a poisoned lock is as good as a sound one.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the receiver, outside the lock.
    fn rouse(&self, mut state: MutexGuard<'_, State<T>>) {
        let task = state.task.take();
        drop(state);
        match task {
            Some(task) => task.wake(),
            None => self.arrived.notify_one(),
        }
    }
}

impl<T> Sender<T> {
    /// Queues one, if there is room.
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut state = self.shared.lock();
        if state.is_receiver_gone {
            return Err(SendError::Closed(item));
        }
        if state.queue.len() >= self.shared.capacity {
            return Err(SendError::Full(item));
        }
        state.queue.push_back(item);
        self.wake(state);
        Ok(())
    }

    /// Queues all, beyond the capacity if need be: for what answers work that the receiver itself handed out, whose amount
    /// is bounded there. Does nothing when the receiver is gone, since then nobody waits for the answer.
    pub(crate) fn send_all(&self, items: impl IntoIterator<Item = T>) {
        let mut state = self.shared.lock();
        if state.is_receiver_gone {
            return;
        }
        state.queue.extend(items);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        // In this order: nothing sent leaves the receiver waiting.
        if !state.queue.is_empty() && mem::take(&mut state.is_receiver_waiting) {
            self.shared.rouse(state);
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.shared.rouse(state);
        }
    }
}

impl<T> Receiver<T> {
    /// Waits until something is queued, the deadline passes, or nobody can send any more, and takes all there is.
    pub(crate) fn take(&self, into: &mut VecDeque<T>, deadline: Option<Instant>) -> Wait {
        debug_assert!(into.is_empty(), "the last batch is worked off before the next is taken");
        let mut state = self.shared.lock();
        loop {
            if !state.queue.is_empty() {
                mem::swap(&mut state.queue, into);
                return Wait::Ready;
            }
            if state.senders == 0 {
                return Wait::Closed;
            }
            state.is_receiver_waiting = true;
            state = match deadline {
                None => self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let Some(left) = deadline
                        .checked_duration_since(Instant::now())
                        .filter(|left| !left.is_zero())
                    else {
                        state.is_receiver_waiting = false;
                        return Wait::TimedOut;
                    };
                    self.shared
                        .arrived
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// Like [`Receiver::take`], for a receiver that is a task; the deadline is the caller's.
    pub(crate) fn poll_take(&self, into: &mut VecDeque<T>, context: &Context<'_>) -> Poll<Wait> {
        debug_assert!(into.is_empty(), "the last batch is worked off before the next is taken");
        let mut state = self.shared.lock();
        if !state.queue.is_empty() {
            mem::swap(&mut state.queue, into);
            return Poll::Ready(Wait::Ready);
        }
        if state.senders == 0 {
            return Poll::Ready(Wait::Closed);
        }
        state.is_receiver_waiting = true;
        match &mut state.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether nothing is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.shared.lock().queue.is_empty()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_receiver_gone = true;
        let left = mem::take(&mut state.queue);
        drop(state);
        // What nobody will work on is dropped outside the lock: it may hold other senders.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[test]
    fn sending_nothing_does_not_hide_the_receiver_from_the_next_sender() {
        let (sender, receiver) = mailbox(10);
        let taken = std::thread::spawn(move || {
            let mut batch = VecDeque::new();
            receiver.take(&mut batch, None);
            batch
        });
        while !sender.shared.lock().is_receiver_waiting {
            std::thread::yield_now();
        }
        sender.send_all([]);
        sender.send(7).unwrap();
        assert_eq!(taken.join().unwrap(), [7]);
    }

    #[tokio::test]
    async fn a_receiver_that_is_a_task_is_woken() {
        let (sender, receiver) = mailbox(10);
        let mut batch = VecDeque::new();
        let mut take = async || poll_fn(|context| receiver.poll_take(&mut batch, context)).await;
        let (waited, sent) = tokio::join!(biased; take(), async { sender.send(7) });
        assert_eq!((waited, sent), (Wait::Ready, Ok(())));
        batch.clear();
        let leaving = std::thread::spawn(|| drop(sender));
        let waited = poll_fn(|context| receiver.poll_take(&mut batch, context)).await;
        assert_eq!(waited, Wait::Closed);
        leaving.join().unwrap();
    }

    #[test]
    fn all_that_gathered_comes_at_once_and_in_order() {
        let (sender, receiver) = mailbox(10);
        for n in 0..3 {
            sender.send(n).unwrap();
        }
        let mut batch = VecDeque::new();
        assert_eq!(receiver.take(&mut batch, None), Wait::Ready);
        assert_eq!(batch, [0, 1, 2]);
    }

    #[test]
    fn a_full_mailbox_gives_back_what_it_cannot_hold() {
        let (sender, _receiver) = mailbox(1);
        sender.send(1).unwrap();
        assert_eq!(sender.send(2), Err(SendError::Full(2)));
    }

    #[test]
    fn either_side_learns_that_the_other_is_gone() {
        let (sender, receiver) = mailbox::<u8>(1);
        drop(receiver);
        assert_eq!(sender.send(1), Err(SendError::Closed(1)));
        let (sender, receiver) = mailbox::<u8>(1);
        sender.clone().send(7).unwrap();
        drop(sender);
        let mut batch = VecDeque::new();
        assert_eq!(receiver.take(&mut batch, None), Wait::Ready);
        batch.clear();
        assert_eq!(receiver.take(&mut batch, None), Wait::Closed);
    }

    #[test]
    fn a_waiting_receiver_is_woken_by_another_thread() {
        let (sender, receiver) = mailbox(1);
        let thread = std::thread::spawn(move || {
            let mut batch = VecDeque::new();
            let wait = receiver.take(&mut batch, Some(Instant::now() + Duration::from_secs(60)));
            (wait, batch)
        });
        sender.send(5).unwrap();
        assert_eq!(thread.join().unwrap(), (Wait::Ready, VecDeque::from([5])));
    }
}
