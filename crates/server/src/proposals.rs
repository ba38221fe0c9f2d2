//! Requests on their way through the log: their ids, and who waits for what becomes of them.
//!
//! A request is registered before it is proposed; whoever applies it hands the outcome to [`Waiters::finish`]. A waiter that
//! gave up (its client went away, or time ran out) is forgotten: the request may still take effect.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Makes request ids that no other member makes, and that this member does not repeat after a restart.
///
/// Two bytes of the member's id, then forty bits of the time at start in milliseconds, then a counter of eight bits which may
/// run over into the time: etcd's layout (pkg/idutil).
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
    shards: [Mutex<HashMap<u64, oneshot::Sender<T>>>; SHARDS],
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(HashMap::new())) }
    }
}

impl<T> Waiters<T> {
    fn shard(&self, request_id: u64) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<T>>> {
        let index = usize::try_from(request_id % SHARDS as u64).unwrap_or(0);
        // An insert or a remove leaves the map whole, so a poisoned lock is as good as a sound one.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a waiter. It is forgotten when the returned guard is dropped.
    pub(crate) fn register(&self, request_id: u64) -> Waiting<'_, T> {
        let (sender, receiver) = oneshot::channel();
        self.shard(request_id).insert(request_id, sender);
        Waiting { waiters: self, request_id, receiver }
    }

    /// Hands over an outcome; nobody may be there to take it.
    pub(crate) fn finish(&self, request_id: u64, outcome: T) {
        if let Some(sender) = self.shard(request_id).remove(&request_id) {
            // Fails when the waiter has just gone.
            let _ = sender.send(outcome);
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
        let mut waiting = waiters.register(7);
        waiters.finish(7, "done");
        waiters.finish(8, "nobody asked");
        assert_eq!(waiting.outcome().await, Some("done"));
    }

    #[tokio::test]
    async fn whoever_gives_up_is_forgotten() {
        let waiters: Waiters<()> = Waiters::default();
        drop(waiters.register(7));
        assert!(waiters.shard(7).is_empty());
        let mut waiting = waiters.register(8);
        waiters.clear();
        assert_eq!(waiting.outcome().await, None);
    }
}
