//! The hub: streams, their watchers and queues; live events, progress, cancellation.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    Body, Event, EventBatch, EventKind, Events, History, Message, NO_WATCH_ID, Refusal, WatchSpec,
    groups::{GroupId, Groups},
};
use crate::StorageError;

/// Bounds of the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages that wait in a stream's queue; etcd's number is 128. A stream of many watchers may have more.
    pub queue_messages: usize,
    /// Bytes of events that wait in a stream's queue; the last message may exceed it.
    pub queue_bytes: usize,
    /// Distinct revisions in a message from history; etcd's number is 1000.
    pub message_revisions: usize,
    /// A message from history ends with the revision that reaches this size.
    pub message_bytes: usize,
    /// Watchers brought forward by one call of [`Hub::catch_up`]; etcd's number is 512.
    pub watchers_per_round: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queue_messages: 128,
            // 8 MiB: five puts of the largest default size (1.5 MiB) fit, and ten thousand stuck streams that
            // all missed different things hold less than what a server of that size has.
            queue_bytes: 8 << 20,
            message_revisions: 1000,
            message_bytes: 2 << 20,
            watchers_per_round: 4096,
        }
    }
}

/// Names a stream of a hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    slot: u32,
    /// Tells a stream from a closed one that had the same slot.
    serial: u32,
}

/// How much there is of everything, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Open streams.
    pub streams: usize,
    /// Watchers.
    pub watchers: usize,
    /// Watchers that have not been given everything yet.
    pub lagging: usize,
    /// Events queued so far, each counted for each watcher.
    pub events: u64,
}

/// See [`crate::watch`].
#[derive(Debug)]
pub struct Hub {
    pub(super) limits: Limits,
    /// Everything up to this revision has been published here.
    pub(super) current: i64,
    streams: Vec<Slot>,
    free_streams: Vec<u32>,
    pub(super) watchers: Vec<Option<Watcher>>,
    free_watchers: Vec<u32>,
    pub(super) groups: Groups,
    /// Lagging watchers whose stream has room: next revision and slot.
    pub(super) lagging: BTreeSet<(i64, u32)>,
    /// When streams want to be told that there was nothing: due time and slot.
    ticks: BTreeSet<(Duration, u32)>,
    /// Streams whose request for progress came when the store was at a revision that has not been published yet.
    progress_at: BTreeSet<(i64, StreamId)>,
    ready: Vec<StreamId>,
    stats: Stats,
}

#[derive(Debug)]
struct Slot {
    serial: u32,
    stream: Option<Stream>,
}

#[derive(Debug)]
pub(super) struct Stream {
    /// Every id in use, with the watcher's slot; `None` for one that compaction ended: its id stays taken until the client
    /// cancels it, as in etcd.
    watchers: BTreeMap<i64, Option<u32>>,
    next_id: i64,
    /// Messages, each with what it adds to `queued_bytes`.
    queue: VecDeque<(Message, usize)>,
    queued_bytes: usize,
    /// Lagging watchers, whether they wait for room or not.
    lagging: BTreeSet<u32>,
    /// The lagging watchers wait until the queue has room.
    is_parked: bool,
    /// Named by `take_ready` since the queue was last found empty.
    is_ready: bool,
    progress_every: Duration,
    next_tick: Duration,
}

#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: u32,
    pub(super) id: i64,
    pub(super) group: GroupId,
    /// Place in the group's list, while synced.
    place: u32,
    pub(super) is_synced: bool,
    /// The next revision that it needs; events below are not for it.
    pub(super) next: i64,
    /// What the client asked for; 0 is from now on.
    start: i64,
    pub(super) variant: Variant,
    wants_progress: bool,
    /// Tell it at the next tick: nothing was sent since the last one.
    is_progress_due: bool,
    may_fragment: bool,
}

/// The options that change which bytes a watcher gets for the same events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Variant {
    pub(super) wants_previous: bool,
    drops_puts: bool,
    drops_deletes: bool,
}

impl Variant {
    pub(super) fn wants(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put { .. } => !self.drops_puts,
            EventKind::Delete => !self.drops_deletes,
        }
    }
}

impl Hub {
    /// A hub without streams, at the store's present revision.
    #[must_use]
    pub fn new(current_revision: i64, limits: Limits) -> Self {
        Hub {
            limits,
            current: current_revision,
            streams: Vec::new(),
            free_streams: Vec::new(),
            watchers: Vec::new(),
            free_watchers: Vec::new(),
            groups: Groups::default(),
            lagging: BTreeSet::new(),
            ticks: BTreeSet::new(),
            progress_at: BTreeSet::new(),
            ready: Vec::new(),
            stats: Stats::default(),
        }
    }

    /// The last revision published here.
    #[must_use]
    pub fn current_revision(&self) -> i64 {
        self.current
    }

    /// How much there is of everything.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Messages that wait to be taken, of all streams. Looks at each stream.
    #[must_use]
    pub fn pending_messages(&self) -> usize {
        self.streams.iter().filter_map(|slot| slot.stream.as_ref()).map(|s| s.queue.len()).sum()
    }

    /// Opens a stream. Its watchers that want progress are told every `progress_every` from `now` on; the caller adds the
    /// jitter that keeps streams apart (etcd: 10 minutes and up to a tenth of it).
    pub fn open_stream(&mut self, now: Duration, progress_every: Duration) -> StreamId {
        let next_tick = now.saturating_add(progress_every);
        let stream = Stream {
            watchers: BTreeMap::new(),
            next_id: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            lagging: BTreeSet::new(),
            is_parked: false,
            is_ready: false,
            progress_every,
            next_tick,
        };
        let slot = match self.free_streams.pop() {
            Some(slot) => slot,
            None => {
                self.streams.push(Slot { serial: 0, stream: None });
                u32::try_from(self.streams.len() - 1)
                    .expect("fewer than 2^32 streams fit in memory")
            }
        };
        let entry = &mut self.streams[slot as usize];
        entry.serial = entry.serial.wrapping_add(1);
        entry.stream = Some(stream);
        self.ticks.insert((next_tick, slot));
        self.stats.streams += 1;
        StreamId { slot, serial: entry.serial }
    }

    /// Closes a stream and drops its watchers and what is queued.
    pub fn close_stream(&mut self, id: StreamId) {
        let Some(stream) = self.stream_mut(id) else { return };
        let watchers: Vec<u32> = stream.watchers.values().filter_map(|slot| *slot).collect();
        let next_tick = stream.next_tick;
        for watcher in watchers {
            self.remove_watcher(watcher);
        }
        self.ticks.remove(&(next_tick, id.slot));
        self.streams[id.slot as usize].stream = None;
        self.free_streams.push(id.slot);
        self.stats.streams -= 1;
    }

    /// Whether the stream's queue is below its bounds. Answers to the client's own requests are queued whatever this
    /// says: stop reading requests from a stream without room.
    #[must_use]
    pub fn has_room(&self, id: StreamId) -> bool {
        self.stream(id).is_some_and(|stream| stream.has_room(&self.limits))
    }

    /// Creates a watcher, or queues a refusal. `store_revision` is the store's revision now, which the hub may not have
    /// reached yet.
    pub fn create(&mut self, stream_id: StreamId, spec: &WatchSpec, store_revision: i64) {
        let Some(stream) = self.stream_mut(stream_id) else { return };
        if spec.range().is_empty() {
            return self.refuse(stream_id, Refusal::EmptyRange, store_revision);
        }
        let id = if spec.watch_id == 0 {
            while stream.watchers.contains_key(&stream.next_id) {
                stream.next_id += 1;
            }
            stream.next_id += 1;
            stream.next_id - 1
        } else if stream.watchers.contains_key(&spec.watch_id) {
            return self.refuse(stream_id, Refusal::DuplicateId, store_revision);
        } else {
            spec.watch_id
        };
        let next = if spec.start_revision == 0 { store_revision + 1 } else { spec.start_revision };
        let watcher = Watcher {
            stream: stream_id.slot,
            id,
            group: self.groups.group(&spec.key, &spec.range_end),
            place: 0,
            is_synced: false,
            next,
            start: spec.start_revision,
            variant: Variant {
                wants_previous: spec.wants_previous,
                drops_puts: spec.drops_puts,
                drops_deletes: spec.drops_deletes,
            },
            wants_progress: spec.wants_progress,
            is_progress_due: true,
            may_fragment: spec.may_fragment,
        };
        let slot = match self.free_watchers.pop() {
            Some(slot) => {
                self.watchers[slot as usize] = Some(watcher);
                slot
            }
            None => {
                self.watchers.push(Some(watcher));
                u32::try_from(self.watchers.len() - 1)
                    .expect("fewer than 2^32 watchers fit in memory")
            }
        };
        self.stats.watchers += 1;
        if let Some(stream) = self.stream_mut(stream_id) {
            stream.watchers.insert(id, Some(slot));
        }
        self.enqueue(
            stream_id.slot,
            Message {
                watch_id: id,
                revision: store_revision,
                may_fragment: false,
                body: Body::Created,
            },
        );
        if next > self.current {
            self.make_synced(slot);
        } else {
            self.make_lagging(slot);
        }
    }

    /// Queues the answer to a create request that is refused: `created` and `canceled` at once.
    pub fn refuse(
        &mut self,
        stream: StreamId,
        reason: impl Into<Cow<'static, str>>,
        store_revision: i64,
    ) {
        if self.stream(stream).is_some() {
            let body = Body::Refused { reason: reason.into() };
            let message = Message {
                watch_id: NO_WATCH_ID,
                revision: store_revision,
                may_fragment: false,
                body,
            };
            self.enqueue(stream.slot, message);
        }
    }

    /// Ends a watcher. Unknown ids are ignored, as in etcd. Events already queued are sent first.
    pub fn cancel(&mut self, stream_id: StreamId, watch_id: i64, store_revision: i64) {
        let Some(stream) = self.stream_mut(stream_id) else { return };
        let Some(watcher) = stream.watchers.remove(&watch_id) else { return };
        if let Some(slot) = watcher {
            self.remove_watcher(slot);
        }
        let message = Message {
            watch_id,
            revision: store_revision,
            may_fragment: false,
            body: Body::Canceled,
        };
        self.enqueue(stream_id.slot, message);
    }

    /// Answers a progress request: one message for the whole stream if all its watchers are synced, else nothing. The client
    /// may have seen `store_revision`, so that the answer speaks of nothing older: it may come when that is published.
    pub fn request_progress(&mut self, stream_id: StreamId, store_revision: i64) {
        if store_revision > self.current {
            self.progress_at.insert((store_revision, stream_id));
            return;
        }
        let (current, limits) = (self.current, self.limits);
        let Some(stream) = self.stream(stream_id) else { return };
        let mut watchers = stream.watchers.values().filter_map(|slot| *slot).peekable();
        let can_tell = watchers.peek().is_some()
            && stream.lagging.is_empty()
            && stream.has_room(&limits)
            && watchers
                .all(|slot| self.watcher(slot).is_some_and(|watcher| watcher.start <= current));
        if can_tell {
            let body = Body::Progress;
            let message =
                Message { watch_id: NO_WATCH_ID, revision: current, may_fragment: false, body };
            self.enqueue(stream_id.slot, message);
        }
    }

    /// When [`Hub::tick`] has something to do next.
    #[must_use]
    pub fn next_tick(&self) -> Option<Duration> {
        self.ticks.first().map(|(due, _)| *due)
    }

    /// Sends progress to the watchers that asked for it and had no event since their stream's last tick.
    pub fn tick(&mut self, now: Duration) {
        while let Some(&(due, slot)) = self.ticks.first()
            && due <= now
        {
            self.ticks.pop_first();
            let Some(stream) = self.streams[slot as usize].stream.as_mut() else { continue };
            // At least a millisecond, so that a period of zero does not loop for ever.
            let every = stream.progress_every.max(Duration::from_millis(1));
            stream.next_tick = now.saturating_add(every);
            let (next_tick, watchers): (_, Vec<u32>) =
                (stream.next_tick, stream.watchers.values().filter_map(|slot| *slot).collect());
            self.ticks.insert((next_tick, slot));
            for watcher in watchers {
                self.tick_watcher(watcher);
            }
        }
    }

    fn tick_watcher(&mut self, slot: u32) {
        let current = self.current;
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        if !watcher.wants_progress {
            return;
        }
        let is_due = std::mem::replace(&mut watcher.is_progress_due, true);
        let message = Message {
            watch_id: watcher.id,
            revision: current,
            may_fragment: false,
            body: Body::Progress,
        };
        let (stream, is_synced, start) = (watcher.stream, watcher.is_synced, watcher.start);
        if is_due && is_synced && start <= current && self.stream_has_room(stream) {
            self.enqueue(stream, message);
        }
    }

    /// Gives the events of the next revision to the synced watchers. `history` is asked for the pairs before, once for each
    /// event that some watcher wants it for.
    ///
    /// A batch that the hub knows already (after [`Hub::resync`]) is ignored. After a gap, all watchers catch up from
    /// history.
    ///
    /// # Errors
    /// `history` could not be read. Fatal.
    pub fn publish(
        &mut self,
        batch: &EventBatch,
        history: &dyn History,
    ) -> Result<(), StorageError> {
        if batch.revision <= self.current {
            return Ok(());
        }
        if batch.revision > self.current + 1 {
            self.resync(batch.revision - 1);
        }
        self.current = batch.revision;
        let mut touched = Vec::new();
        for (number, event) in (0u32..).zip(&batch.events) {
            self.groups.note(&event.key, number, |group| !group.synced.is_empty(), &mut touched);
        }
        let mut previous = PreviousForms::default();
        // Watchers that fall behind leave the list; they are collected so that it can be walked.
        let mut fallen = Vec::new();
        for group_id in touched {
            let group = self.groups.get_mut(group_id);
            let matched = std::mem::take(&mut group.matched);
            let synced = std::mem::take(&mut group.synced);
            let mut shared: Vec<(Variant, Arc<Events>)> = Vec::new();
            for &slot in &synced {
                let Some(watcher) = self.watchers[slot as usize].as_mut() else { continue };
                if watcher.next > batch.revision {
                    continue;
                }
                let variant = watcher.variant;
                let known = shared.iter().find(|(known, _)| *known == variant);
                let events = match known {
                    Some((_, events)) => Arc::clone(events),
                    None => {
                        let mut events = Events::default();
                        for &number in &matched {
                            let event = &batch.events[number as usize];
                            if variant.wants(event.kind) {
                                let form = if variant.wants_previous && event.kind.has_previous() {
                                    previous.form(number, event, batch.revision, history)?
                                } else {
                                    event.encoded().clone()
                                };
                                events.push(form);
                            }
                        }
                        let events = Arc::new(events);
                        shared.push((variant, Arc::clone(&events)));
                        events
                    }
                };
                watcher.next = batch.revision;
                let event_count = events.len() as u64;
                if events.is_empty() {
                    watcher.next = batch.revision + 1;
                } else if !Self::deliver(
                    &mut self.streams,
                    &mut self.ready,
                    &self.limits,
                    watcher,
                    batch.revision,
                    events,
                ) {
                    fallen.push(slot);
                } else {
                    watcher.next = batch.revision + 1;
                    self.stats.events += event_count;
                }
            }
            // The buffers are kept for the next revision.
            let group = self.groups.get_mut(group_id);
            group.synced = synced;
            group.matched = matched;
            group.matched.clear();
        }
        for slot in fallen {
            self.leave_synced(slot);
            self.make_lagging(slot);
        }
        self.answer_progress();
        Ok(())
    }

    /// Answers the requests for progress that waited for what is published by now.
    fn answer_progress(&mut self) {
        while let Some(&(revision, stream_id)) = self.progress_at.first()
            && revision <= self.current
        {
            self.progress_at.pop_first();
            self.request_progress(stream_id, revision);
        }
    }

    /// Makes every watcher lagging: the content of the store was replaced by a snapshot, and is now at this revision.
    pub fn resync(&mut self, current_revision: i64) {
        let delivered = std::mem::replace(&mut self.current, current_revision);
        for slot in 0..self.watchers.len() {
            let slot = u32::try_from(slot).expect("fewer than 2^32 watchers fit in memory");
            let Some(watcher) = self.watchers[slot as usize].as_mut() else { continue };
            if !watcher.is_synced {
                continue;
            }
            // The cursor of a synced watcher stands at its last event; it has all that was published since.
            watcher.next = watcher.next.max(delivered.saturating_add(1));
            if watcher.next <= current_revision {
                self.leave_synced(slot);
                self.make_lagging(slot);
            }
        }
        self.answer_progress();
    }

    /// Appends the streams that have something queued and were not named since they were last found empty.
    pub fn take_ready(&mut self, ready: &mut Vec<StreamId>) {
        ready.append(&mut self.ready);
    }

    /// Takes the next message of a stream. After `None`, [`Hub::take_ready`] names the stream when there is one again.
    pub fn poll(&mut self, id: StreamId) -> Option<Message> {
        let limits = self.limits;
        let stream = self.stream_mut(id)?;
        let Some((message, cost)) = stream.queue.pop_front() else {
            stream.is_ready = false;
            return None;
        };
        stream.queued_bytes -= cost;
        if stream.is_parked && stream.has_half_room(&limits) {
            stream.is_parked = false;
            let watchers: Vec<u32> = stream.lagging.iter().copied().collect();
            for slot in watchers {
                if let Some(watcher) = self.watcher(slot) {
                    let next = watcher.next;
                    self.lagging.insert((next, slot));
                }
            }
        }
        Some(message)
    }

    /// Whether [`Hub::catch_up`] has something to do.
    #[must_use]
    pub fn needs_catch_up(&self) -> bool {
        !self.lagging.is_empty()
    }

    fn stream(&self, id: StreamId) -> Option<&Stream> {
        let slot = self.streams.get(id.slot as usize)?;
        if slot.serial == id.serial { slot.stream.as_ref() } else { None }
    }

    fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        let slot = self.streams.get_mut(id.slot as usize)?;
        if slot.serial == id.serial { slot.stream.as_mut() } else { None }
    }

    pub(super) fn watcher(&self, slot: u32) -> Option<&Watcher> {
        self.watchers.get(slot as usize)?.as_ref()
    }

    fn stream_has_room(&self, slot: u32) -> bool {
        let stream = self.streams.get(slot as usize).and_then(|slot| slot.stream.as_ref());
        stream.is_some_and(|stream| stream.has_room(&self.limits))
    }

    /// Queues a message, whatever the queue holds.
    fn enqueue(&mut self, stream: u32, message: Message) {
        Self::enqueue_on(&mut self.streams, &mut self.ready, stream, message);
    }

    fn enqueue_on(streams: &mut [Slot], ready: &mut Vec<StreamId>, slot: u32, message: Message) {
        let entry = &mut streams[slot as usize];
        let Some(stream) = entry.stream.as_mut() else { return };
        // Neighbours with the same events share them; they are counted once.
        let is_shared =
            stream.queue.back().is_some_and(|(last, _)| last.shares_events_with(&message));
        let cost = message.cost_bytes(is_shared);
        stream.queued_bytes += cost;
        stream.queue.push_back((message, cost));
        if !stream.is_ready {
            stream.is_ready = true;
            ready.push(StreamId { slot, serial: entry.serial });
        }
    }

    /// Queues events for a watcher, if its stream has room.
    fn deliver(
        streams: &mut [Slot],
        ready: &mut Vec<StreamId>,
        limits: &Limits,
        watcher: &mut Watcher,
        revision: i64,
        events: Arc<Events>,
    ) -> bool {
        let stream = streams.get(watcher.stream as usize).and_then(|slot| slot.stream.as_ref());
        if !stream.is_some_and(|stream| stream.has_room(limits)) {
            return false;
        }
        watcher.is_progress_due = false;
        let message = Message {
            watch_id: watcher.id,
            revision,
            may_fragment: watcher.may_fragment,
            body: Body::Events(events),
        };
        Self::enqueue_on(streams, ready, watcher.stream, message);
        true
    }

    /// Queues events from history for a lagging watcher, if its stream has room.
    pub(super) fn deliver_late(&mut self, slot: u32, events: Arc<Events>) -> bool {
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return false };
        let count = events.len() as u64;
        let is_queued = Self::deliver(
            &mut self.streams,
            &mut self.ready,
            &self.limits,
            watcher,
            self.current,
            events,
        );
        if is_queued {
            self.stats.events += count;
        }
        is_queued
    }

    /// Adds a watcher that is in no list to the synced ones of its group.
    fn make_synced(&mut self, slot: u32) {
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        let group = self.groups.get_mut(watcher.group);
        watcher.is_synced = true;
        watcher.place =
            u32::try_from(group.synced.len()).expect("fewer than 2^32 watchers fit in memory");
        group.synced.push(slot);
    }

    /// Takes a watcher off the list of the synced ones of its group.
    fn leave_synced(&mut self, slot: u32) {
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        watcher.is_synced = false;
        let place = watcher.place;
        let group = self.groups.get_mut(watcher.group);
        group.synced.swap_remove(place as usize);
        if let Some(&moved) = group.synced.get(place as usize)
            && let Some(moved) = self.watchers[moved as usize].as_mut()
        {
            moved.place = place;
        }
    }

    /// Adds a watcher that is in no list to the lagging ones.
    fn make_lagging(&mut self, slot: u32) {
        let Some(watcher) = self.watchers[slot as usize].as_ref() else { return };
        let (stream_slot, next, group) = (watcher.stream, watcher.next, watcher.group);
        self.groups.get_mut(group).lagging += 1;
        self.stats.lagging += 1;
        let limits = self.limits;
        if let Some(stream) = self.streams[stream_slot as usize].stream.as_mut() {
            stream.lagging.insert(slot);
            if !stream.is_parked && !stream.has_room(&limits) {
                Self::park(&mut self.lagging, &self.watchers, stream);
            } else if !stream.is_parked {
                self.lagging.insert((next, slot));
            }
        }
    }

    /// Lets the lagging watchers of a full stream wait until it has room.
    fn park(lagging: &mut BTreeSet<(i64, u32)>, watchers: &[Option<Watcher>], stream: &mut Stream) {
        stream.is_parked = true;
        for &slot in &stream.lagging {
            if let Some(watcher) = &watchers[slot as usize] {
                lagging.remove(&(watcher.next, slot));
            }
        }
    }

    /// Makes a lagging watcher synced, with everything below `next` queued.
    pub(super) fn finish_lagging(&mut self, slot: u32, next: i64) {
        self.leave_lagging(slot);
        if let Some(watcher) = self.watchers[slot as usize].as_mut() {
            watcher.next = next;
        }
        self.make_synced(slot);
    }

    /// Takes a watcher off the lagging ones.
    fn leave_lagging(&mut self, slot: u32) {
        let Some(watcher) = self.watchers[slot as usize].as_ref() else { return };
        let (stream, next, group) = (watcher.stream, watcher.next, watcher.group);
        self.lagging.remove(&(next, slot));
        self.groups.get_mut(group).lagging -= 1;
        self.stats.lagging -= 1;
        if let Some(stream) = self.streams[stream as usize].stream.as_mut() {
            stream.lagging.remove(&slot);
        }
    }

    /// Moves the cursor of a lagging watcher; parks its stream if that is full.
    pub(super) fn move_lagging(&mut self, slot: u32, next: i64) {
        let limits = self.limits;
        let Some(watcher) = self.watchers[slot as usize].as_mut() else { return };
        let was_waiting = self.lagging.remove(&(watcher.next, slot));
        watcher.next = next;
        let Some(stream) = self.streams[watcher.stream as usize].stream.as_mut() else { return };
        if stream.is_parked {
            return;
        }
        if was_waiting {
            self.lagging.insert((next, slot));
        }
        if !stream.has_room(&limits) {
            Self::park(&mut self.lagging, &self.watchers, stream);
        }
    }

    /// Ends a lagging watcher because of a compaction. Its id stays taken until the client cancels it.
    pub(super) fn end_compacted(&mut self, slot: u32, compact_revision: i64) {
        let Some(watcher) = self.watcher(slot) else { return };
        let (stream, id) = (watcher.stream, watcher.id);
        let body = Body::Compacted { compact_revision };
        self.remove_watcher(slot);
        if let Some(stream) = self.streams[stream as usize].stream.as_mut() {
            stream.watchers.insert(id, None);
        }
        self.enqueue(stream, Message { watch_id: id, revision: 0, may_fragment: false, body });
    }

    /// Removes a watcher from every list but its stream's.
    fn remove_watcher(&mut self, slot: u32) {
        let Some(watcher) = self.watchers[slot as usize].as_ref() else { return };
        let group = watcher.group;
        if watcher.is_synced {
            self.leave_synced(slot);
        } else {
            self.leave_lagging(slot);
        }
        self.watchers[slot as usize] = None;
        self.free_watchers.push(slot);
        self.groups.release(group);
        self.stats.watchers -= 1;
    }
}

impl Stream {
    /// Four messages for each watcher always fit: one revision may concern all watchers of a stream at once.
    fn has_room(&self, limits: &Limits) -> bool {
        let messages = limits.queue_messages.max(self.watchers.len().saturating_mul(4));
        self.queue.len() < messages && self.queued_bytes < limits.queue_bytes
    }

    /// Waking lagging watchers for every message taken would read history for one message each time.
    fn has_half_room(&self, limits: &Limits) -> bool {
        self.queue.len() <= limits.queue_messages / 2 && self.queued_bytes <= limits.queue_bytes / 2
    }
}

/// Forms of the events of one revision that carry the pair before; each made once, when first asked for.
#[derive(Default)]
struct PreviousForms(Vec<Option<Bytes>>);

impl PreviousForms {
    fn form(
        &mut self,
        number: u32,
        event: &Event,
        revision: i64,
        history: &dyn History,
    ) -> Result<Bytes, StorageError> {
        let place = number as usize;
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        if let Some(form) = &self.0[place] {
            return Ok(form.clone());
        }
        let form = match history.previous(&event.key, revision - 1)? {
            Some(previous) => event.encode_with_previous(&previous),
            None => event.encoded().clone(),
        };
        self.0[place] = Some(form.clone());
        Ok(form)
    }
}
