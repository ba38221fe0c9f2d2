//! Requests on their way through the log: their ids, and who waits for what becomes of them.
//!
//! A request is registered before it is proposed; whoever applies it hands the outcome to [`Waiters::finish`]. A waiter that
//! gave up (its client went away, or time ran out) is forgotten: the request may still take effect.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

/// Makes request ids that this member does not repeat after a restart.
///
/// Two bytes of the member's id, then forty bits of the time at start in milliseconds, then a counter of eight bits which may
/// run over into the time: etcd's layout (pkg/idutil). Members whose ids end alike and that start together make the same ones: an id
/// finds a waiter, and the proposal itself says whether it is the right one ([`Waiters::finish`]).
#[derive(Debug)]
pub(crate) struct RequestIds {
    next: AtomicU64,
}

/// Bits below the member's part.
const LOW_BITS: u32 = 48;

impl RequestIds {
    pub(crate) fn new(member_id: u64, unix_ms: u64) -> Self {
        let low = (unix_ms & 0xff_ffff_ffff) << 8;
        Self { next: AtomicU64::new(member_id << LOW_BITS | low) }
    }

    pub(crate) fn next(&self) -> u64 {
        // Uniqueness is all that is asked of it, so no ordering with other memory.
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Waiters in as many parts as keep the stages from meeting at one lock.
const SHARDS: usize = 16;

/// Who waits for the outcome of which request.
#[derive(Debug)]
pub(crate) struct Waiters<T> {
    /// Each guards its map for an insert or a remove. Never more than one is held.
    shards: [Mutex<HashMap<u64, Waiter<T>>>; SHARDS],
}

#[derive(Debug)]
struct Waiter<T> {
    /// What was proposed; empty for a change of the membership, whose bytes consensus makes.
    data: Bytes,
    sender: oneshot::Sender<T>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashMap::new())) }
    }
}

impl<T> Waiters<T> {
    fn shard(&self, request_id: u64) -> MutexGuard<'_, HashMap<u64, Waiter<T>>> {
        let index = usize::try_from(request_id % SHARDS as u64).unwrap_or(0);
        // An insert or a remove leaves the map whole, so a poisoned lock is as good as a sound one.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a waiter. It is forgotten when the returned guard is dropped.
    pub(crate) fn register(&self, request_id: u64, data: Bytes) -> Waiting<'_, T> {
        let (sender, receiver) = oneshot::channel();
        self.shard(request_id).insert(request_id, Waiter { data, sender });
        Waiting { waiters: self, request_id, receiver }
    }

    /// Hands over the outcome of a committed entry; nobody may be there to take it, or somebody whose proposal is another one under
    /// the same id.
    pub(crate) fn finish(&self, request_id: u64, data: &Bytes, outcome: T) {
        let mut shard = self.shard(request_id);
        let Some(waiter) = shard.get(&request_id) else { return };
        // A leader's own proposal comes back as the same bytes in the same place.
        let is_same = waiter.data.is_empty()
            || (waiter.data.as_ptr(), waiter.data.len()) == (data.as_ptr(), data.len())
            || waiter.data == data;
        if is_same && let Some(waiter) = shard.remove(&request_id) {
            drop(shard);
            // Fails when the waiter has just gone.
            let _ = waiter.sender.send(outcome);
        }
    }

    /// Hands over what became of a proposal of this member that did not get into the log.
    pub(crate) fn give_up(&self, request_id: u64, outcome: T) {
        let waiter = self.shard(request_id).remove(&request_id);
        if let Some(waiter) = waiter {
            let _ = waiter.sender.send(outcome);
        }
    }

    /// Number of those who wait.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    /// Forgets everybody; their waits end as if the member had stopped.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// A wait for an outcome.
#[derive(Debug)]
pub(crate) struct Waiting<'a, T> {
    waiters: &'a Waiters<T>,
    request_id: u64,
    receiver: oneshot::Receiver<T>,
}

impl<T> Waiting<'_, T> {
    /// The outcome; `None` when the member stops before there is one.
    pub(crate) async fn outcome(&mut self) -> Option<T> {
        (&mut self.receiver).await.ok()
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        // Finished ones are out of the map already.
        self.waiters.shard(self.request_id).remove(&self.request_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_start_with_the_member_and_never_repeat() {
        let ids = RequestIds::new(0x508e_d529_2be9_39a9, 1_700_000_000_000);
        let (first, second) = (ids.next(), ids.next());
        assert_eq!(first >> 48, 0x39a9);
        assert_eq!(second, first + 1);
        let later = RequestIds::new(0x508e_d529_2be9_39a9, 1_700_000_000_100);
        assert!(later.next() > second);
    }

    #[tokio::test]
    async fn an_outcome_reaches_its_waiter() {
        let waiters = Waiters::default();
        let data = Bytes::from_static(b"proposal");
        let mut waiting = waiters.register(7, data.clone());
        waiters.finish(7, &data, "done");
        waiters.finish(8, &data, "nobody asked");
        assert_eq!(waiting.outcome().await, Some("done"));
        let mut waiting = waiters.register(9, data);
        waiters.give_up(9, "dropped");
        assert_eq!(waiting.outcome().await, Some("dropped"));
    }

    /// Two members whose ids end alike make the same ids for their requests.
    #[tokio::test]
    async fn another_member_s_proposal_under_the_same_id_wakes_nobody() {
        let waiters = Waiters::default();
        let mut waiting = waiters.register(7, Bytes::from_static(b"ours"));
        waiters.finish(7, &Bytes::from_static(b"theirs"), "theirs");
        waiters.finish(7, &Bytes::from_static(b"ours"), "ours");
        assert_eq!(waiting.outcome().await, Some("ours"));
    }

    #[tokio::test]
    async fn whoever_gives_up_is_forgotten() {
        let waiters: Waiters<()> = Waiters::default();
        drop(waiters.register(7, Bytes::new()));
        assert!(waiters.shard(7).is_empty());
        let mut waiting = waiters.register(8, Bytes::new());
        waiters.clear();
        assert_eq!(waiting.outcome().await, None);
    }
}
