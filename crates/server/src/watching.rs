//! The watch stage: gives every batch of events to the hub, and wakes the streams that have something to send.
//!
//! The hub is a plain value behind a lock; this module decides who touches it when. A thread of its own feeds it, brings
//! lagging watchers forward and sends progress; the streams' tasks take their messages out of it. The apply stage is never
//! kept waiting: its batches go through a mailbox, and while there is no stream at all they are not even sent.
//!
//! Lock order: the hub's lock is held for one batch, one round of catching up or one poll; wakers are called after it is
//! released.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use mvcc::EventBatch;
use mvcc::watch::{Hub, Limits, Message, StreamId, WatchSpec};
use proto::etcdserverpb::WatchCreateRequest;

use crate::driver::mailbox::{Receiver, Sender, Wait};
use crate::request::Core;

/// Rows of history that are read before live events get their turn again: some two milliseconds' worth.
const CATCH_UP_ROWS: usize = 4096;

/// Messages that a stream takes out of the hub at once.
const POLL_MESSAGES: usize = 64;

/// What the watch stage is told.
#[derive(Debug)]
pub(crate) enum Work {
    /// Events of one revision.
    Events(Arc<EventBatch>),
    /// The whole content of the store was replaced by that of this revision.
    Reloaded(i64),
    /// There may be lagging watchers, or another next tick.
    Look,
    /// End.
    Stop,
}

/// The hub with everything around it.
#[derive(Debug)]
pub(crate) struct Watching {
    core: Arc<Core>,
    inbox: Sender<Work>,
    /// Open streams. The apply stage sends nothing while there are none.
    streams: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    hub: Hub,
    /// Streams that wait for a message.
    wakers: HashMap<StreamId, Waker>,
}

/// Where the apply stage leaves its events.
#[derive(Debug)]
pub(crate) struct Outlet {
    inbox: Sender<Work>,
    streams: Arc<AtomicUsize>,
}

impl Outlet {
    /// Makes the outlet, before there is a hub.
    pub(crate) fn new(inbox: Sender<Work>) -> Self {
        Self { inbox, streams: Arc::new(AtomicUsize::new(0)) }
    }

    /// Hands over events that are visible to readers by now.
    pub(crate) fn send(&self, events: impl IntoIterator<Item = Arc<EventBatch>>) {
        // Pairs with the fence in `open`: either we see the stream, or it sees our revision and wants only what follows.
        fence(Ordering::SeqCst);
        if self.streams.load(Ordering::Relaxed) > 0 {
            self.inbox.send_all(events.into_iter().map(Work::Events));
        }
    }

    /// Says that the whole content of the store was replaced: everybody has to catch up.
    pub(crate) fn reloaded(&self, revision: i64) {
        self.inbox.send_all([Work::Reloaded(revision)]);
    }

    /// Ends the stage.
    pub(crate) fn stop(&self) {
        self.inbox.send_all([Work::Stop]);
    }
}

impl Watching {
    pub(crate) fn new(core: &Arc<Core>, outlet: &Outlet) -> Self {
        let hub = Hub::new(core.store.current_revision(), Limits::default());
        Self {
            core: Arc::clone(core),
            inbox: outlet.inbox.clone(),
            streams: Arc::clone(&outlet.streams),
            state: Mutex::new(State { hub, wakers: HashMap::new() }),
        }
    }

    /// A panic with the lock held ends the process, so a poisoned lock is as good as a sound one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there is of everything, and how many messages wait for their streams.
    pub(crate) fn stats(&self) -> (mvcc::watch::Stats, usize) {
        let state = self.lock();
        (state.hub.stats(), state.hub.pending_messages())
    }

    /// The stage: runs until it is told to stop.
    pub(crate) fn run(&self, inbox: &Receiver<Work>) -> Result<(), mvcc::StorageError> {
        let mut batch = VecDeque::new();
        let mut needs_catch_up = false;
        loop {
            let deadline = if needs_catch_up { Some(Instant::now()) } else { self.next_tick() };
            if inbox.take(&mut batch, deadline) == Wait::Closed {
                return Ok(());
            }
            let mut state = self.lock();
            for work in batch.drain(..) {
                match work {
                    Work::Events(events) => state.hub.publish(&events, &self.core.store)?,
                    Work::Reloaded(revision) => state.hub.resync(revision),
                    Work::Look => {}
                    Work::Stop => return Ok(()),
                }
            }
            state.hub.tick(self.core.now());
            needs_catch_up = state.hub.needs_catch_up()
                && state.hub.catch_up(&self.core.store, CATCH_UP_ROWS)?;
            let woken = state.take_woken();
            drop(state);
            for waker in woken {
                waker.wake();
            }
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        self.lock().hub.next_tick().map(|due| self.core.epoch + due)
    }

    /// Opens a stream.
    pub(crate) fn open(self: &Arc<Self>) -> OpenStream {
        let interval = self.core.config.watch_progress_interval;
        // Up to a tenth more, different for each stream, keeps their progress messages apart.
        let jitter = interval.mul_f64(0.1 * spread(self.core.ids.next()));
        let mut state = self.lock();
        let before = self.streams.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if before == 0 {
            // What was applied while nobody watched was not sent.
            let revision = self.core.store.current_revision();
            state.hub.resync(revision);
        }
        let id = state.hub.open_stream(self.core.now(), interval + jitter);
        drop(state);
        self.inbox.send_all([Work::Look]);
        OpenStream { watching: Arc::clone(self), id }
    }
}

/// A number in 0..1 from an id (Fibonacci hashing).
fn spread(id: u64) -> f64 {
    (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24)
}

impl State {
    /// The wakers of the streams that have something to send now.
    fn take_woken(&mut self) -> Vec<Waker> {
        let mut ready = Vec::new();
        self.hub.take_ready(&mut ready);
        ready.iter().filter_map(|id| self.wakers.remove(id)).collect()
    }
}

/// One client's stream in the hub; closed when dropped.
#[derive(Debug)]
pub(crate) struct OpenStream {
    watching: Arc<Watching>,
    id: StreamId,
}

impl OpenStream {
    /// Carries out a client's request and wakes the stream's sender.
    fn with_hub(&self, act: impl FnOnce(&mut Hub, StreamId, i64)) {
        let revision = self.watching.core.store.current_revision();
        let mut state = self.watching.lock();
        act(&mut state.hub, self.id, revision);
        let needs_catch_up = state.hub.needs_catch_up();
        let woken = state.take_woken();
        drop(state);
        for waker in woken {
            waker.wake();
        }
        if needs_catch_up {
            self.watching.inbox.send_all([Work::Look]);
        }
    }

    pub(crate) fn create(&self, request: &WatchCreateRequest) {
        self.with_hub(|hub, id, revision| match WatchSpec::new(request) {
            Ok(spec) => hub.create(id, &spec, revision),
            Err(refusal) => hub.refuse(id, refusal, revision),
        });
    }

    /// Refuses a watcher, for what is said.
    pub(crate) fn refuse(&self, reason: String) {
        self.with_hub(|hub, id, revision| hub.refuse(id, reason, revision));
    }

    pub(crate) fn cancel(&self, watch_id: i64) {
        self.with_hub(|hub, id, revision| hub.cancel(id, watch_id, revision));
    }

    pub(crate) fn request_progress(&self) {
        self.with_hub(Hub::request_progress);
    }

    /// Whether the client's next request may be read: its answers are queued whatever the queue holds.
    pub(crate) fn has_room(&self) -> bool {
        self.watching.lock().hub.has_room(self.id)
    }

    /// Takes what is queued, up to a bound; when there is nothing, the waker is called as soon as there is.
    pub(crate) fn poll(&self, into: &mut VecDeque<Message>, waker: &Waker) {
        let mut state = self.watching.lock();
        let needed_catch_up = state.hub.needs_catch_up();
        while into.len() < POLL_MESSAGES {
            let Some(message) = state.hub.poll(self.id) else { break };
            into.push_back(message);
        }
        if into.is_empty() {
            state.wakers.insert(self.id, waker.clone());
        }
        let wakes_catch_up = !needed_catch_up && state.hub.needs_catch_up();
        drop(state);
        if wakes_catch_up {
            // The queue has room again for what did not fit.
            self.watching.inbox.send_all([Work::Look]);
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut state = self.watching.lock();
        state.hub.close_stream(self.id);
        state.wakers.remove(&self.id);
        self.watching.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
