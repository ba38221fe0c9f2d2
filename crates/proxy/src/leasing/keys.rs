//! Which keys are owned, what they hold, and what may be answered from that.
//!
//! ```text
//!   read ─► Acquiring ──► Held ──revoked, least used, unknown outcome──► Releasing ──lease key deleted──► gone
//!               └─ not ours ─► cooling for a while ─► gone
//! ```
//!
//! A key's content is there or not; each write that begins takes it away, and changes the key's generation. What was learned in an earlier
//! generation is not put back. So content that is there is what the cluster has.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::prefix_end;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as Answer;
use proto::etcdserverpb::{
    Compare, RangeRequest, RangeResponse, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;

use crate::cache::Interval;

/// Most keys that are owned. Each is a key of the cluster too, and 8192 of them come and go with a lease at bearable cost.
const KEYS_MAX: usize = 8192;

/// Most bytes of keys and values that are held. Room for 8192 values of 8 KiB.
const BYTES_MAX: usize = 64 << 20;

/// How long a key that was given up or belongs to another is not asked for; upstream's number.
const COOLING: Duration = Duration::from_secs(2);

/// Keys that cool at once; a further one takes the place of the oldest, which may be asked for early.
const COOLING_MAX: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Below it are the lease keys, which nobody owns.
    prefix: Bytes,
    session: Option<Session>,
    /// Sessions so far.
    sessions: u64,
    entries: BTreeMap<Bytes, Entry>,
    /// Keys that may be given up by the time of their last use.
    uses: BTreeMap<u64, Bytes>,
    last_use: u64,
    /// Of all keys: one that comes again does not begin with a generation that it has had.
    last_generation: u64,
    size_bytes: usize,
    /// What is being written.
    writes: BTreeMap<u64, Vec<Interval>>,
    last_write: u64,
    /// Until when keys are not asked for, and the same by time.
    cooling: BTreeMap<Bytes, Instant>,
    cooling_by_time: VecDeque<(Instant, Bytes)>,
    /// Lease keys that are to be deleted, each with its create revision. As many as there are entries, and revocations not worked off.
    releases: BTreeMap<Bytes, i64>,
    /// The latest that the cluster has said.
    header: Option<ResponseHeader>,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    lease: i64,
    valid_until: Instant,
    /// The watch has been asked for progress, up to this revision at least, and has not said so yet.
    unheard: Option<i64>,
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    /// Another with each write that begins.
    generation: u64,
    /// The one it began with. Who asked in an earlier one asked for an entry that is gone.
    first_generation: u64,
    content: Option<Content>,
    /// Its place in `uses`; 0 for none.
    used: u64,
}

/// The pair at a key; `None` where there is none.
type Content = Option<KeyValue>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Being asked for. A lease key older than this revision is known to be gone or revoked.
    Acquiring { void_before: i64 },
    /// The lease key's create revision.
    Held { revision: i64, is_refreshing: bool },
    /// The lease key is being deleted.
    Releasing { revision: i64 },
}

/// What to do with a read.
#[derive(Debug)]
pub(super) enum Read {
    /// Answered.
    Answer(RangeResponse),
    /// Ask the cluster for the key and its ownership, with this session's lease; say what came of it to [`Keys::acquired`].
    Acquire { lease: i64, ticket: Acquisition },
    /// Ask the cluster, and nothing else.
    Pass,
}

/// A key that is being asked for.
#[derive(Debug)]
pub(super) struct Acquisition {
    key: Bytes,
    session: u64,
    generation: u64,
}

/// What the cluster says of a key that is this session's: its lease key's create revision, and its content.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) revision: i64,
    pub(super) content: Option<KeyValue>,
}

/// A write under way. Must be given back to [`Keys::written`], [`Keys::not_written`] or [`Keys::perhaps_written`].
#[derive(Debug)]
pub(super) struct Writing {
    id: u64,
    session: u64,
    intervals: Vec<Interval>,
    /// These, and keys whose lease keys are in them.
    touched: Vec<Interval>,
    /// What was known of keys that are owned, with their generations.
    known: BTreeMap<Bytes, (u64, Option<Content>)>,
}

impl Writing {
    pub(super) fn intervals(&self) -> &[Interval] {
        &self.intervals
    }
}

/// What a write did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Put {
        key: Bytes,
        /// `None` for the value that was there.
        value: Option<Bytes>,
        /// `None` for the lease that was there.
        lease: Option<i64>,
    },
    Delete(Interval),
}

impl Keys {
    pub(super) fn new(prefix: Bytes) -> Self {
        Self { prefix, ..Self::default() }
    }

    // Sessions ------------------------------------------------------------------------------------------------------------

    pub(super) fn start(&mut self, lease: i64, valid_until: Instant) {
        self.forget();
        self.sessions += 1;
        self.session = Some(Session { lease, valid_until, unheard: None });
    }

    /// The lease lives until then. Says whether the session does: not while its watch owes an answer, since others might ask for keys
    /// unheard. From now on it owes another.
    pub(super) fn renewed(&mut self, valid_until: Instant) -> bool {
        let seen = self.header.map_or(0, |header| header.revision);
        let Some(session) = &mut self.session else { return false };
        let is_heard = session.unheard.is_none();
        if is_heard {
            session.valid_until = session.valid_until.max(valid_until);
            session.unheard = Some(seen);
        }
        is_heard
    }

    /// The watch has told all up to this revision.
    pub(super) fn heard(&mut self, revision: i64) {
        if let Some(session) = &mut self.session {
            session.unheard = session.unheard.filter(|wanted| revision < *wanted);
        }
    }

    /// Ends the session; says whether there was one.
    pub(super) fn end(&mut self) -> bool {
        self.forget();
        self.session.take().is_some()
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.uses.clear();
        self.releases.clear();
        self.size_bytes = 0;
    }

    /// The session's lease, while it is known to live.
    pub(super) fn lease(&self, now: Instant) -> Option<i64> {
        self.session.filter(|session| now < session.valid_until).map(|session| session.lease)
    }

    /// Learns from an answer how far the cluster is: what is held, is the content at that revision too.
    pub(super) fn see(&mut self, header: Option<&ResponseHeader>) {
        let seen = self.header.map_or(0, |header| header.revision);
        if let Some(header) = header.filter(|header| header.revision >= seen) {
            self.header = Some(*header);
        }
    }

    // Reads ---------------------------------------------------------------------------------------------------------------

    pub(super) fn read(&mut self, request: &RangeRequest, now: Instant) -> Read {
        let Some(lease) = self.lease(now).filter(|_| is_of_one_key_now(request)) else {
            return Read::Pass;
        };
        if let Some(content) = self.content(&request.key) {
            let response = answer(request, content, self.header);
            self.touch(&request.key);
            return Read::Answer(response);
        }
        let is_below_prefix = request.key.starts_with(&self.prefix);
        if request.serializable || is_below_prefix || self.is_being_written(&request.key) {
            return Read::Pass;
        }
        let generation = match self.entries.get_mut(&request.key) {
            Some(entry) => {
                let Phase::Held { is_refreshing, .. } = &mut entry.phase else {
                    return Read::Pass;
                };
                if std::mem::replace(is_refreshing, true) {
                    return Read::Pass;
                }
                entry.generation
            }
            None => match self.begin(&request.key, now) {
                Some(generation) => generation,
                None => return Read::Pass,
            },
        };
        let ticket = Acquisition { key: request.key.clone(), session: self.sessions, generation };
        Read::Acquire { lease, ticket }
    }

    /// Makes an entry for a key that is to be acquired, if it may be, and returns its generation.
    fn begin(&mut self, key: &Bytes, now: Instant) -> Option<u64> {
        if self.is_cooling(key, now) {
            return None;
        }
        if self.entries.len() >= KEYS_MAX {
            // There is room when it is gone.
            self.release_least_used();
            return None;
        }
        let phase = Phase::Acquiring { void_before: 0 };
        self.last_generation += 1;
        let generation = self.last_generation;
        let entry =
            Entry { phase, generation, first_generation: generation, content: None, used: 0 };
        self.entries.insert(key.clone(), entry);
        Some(generation)
    }

    /// An acquisition of which nobody knows what came. A lease key that it leaves is found by the next one, or revoked.
    pub(super) fn perhaps_acquired(&mut self, ticket: &Acquisition) {
        if self.session.is_none() || ticket.session != self.sessions {
            return;
        }
        let entry = self.entries.get_mut(&ticket.key);
        let entry = entry.filter(|entry| entry.first_generation <= ticket.generation);
        match entry.map(|entry| &mut entry.phase) {
            Some(Phase::Acquiring { .. }) => self.remove(&ticket.key),
            Some(Phase::Held { is_refreshing, .. }) => *is_refreshing = false,
            Some(Phase::Releasing { .. }) | None => {}
        }
    }

    /// Learns what came of an acquisition: `None` where the key is not this session's.
    pub(super) fn acquired(&mut self, ticket: Acquisition, owned: Option<Owned>, now: Instant) {
        let Acquisition { key, session, generation } = ticket;
        if self.session.is_none() || session != self.sessions {
            return;
        }
        let entry = self.entries.get_mut(&key);
        let Some(entry) = entry.filter(|entry| entry.first_generation <= generation) else {
            return;
        };
        let is_void = match entry.phase {
            Phase::Acquiring { void_before } => {
                owned.as_ref().is_none_or(|owned| owned.revision < void_before)
            }
            Phase::Held { .. } => owned.is_none(),
            Phase::Releasing { .. } => return,
        };
        let Some(Owned { revision, content }) = owned.filter(|_| !is_void) else {
            self.remove(&key);
            self.cool(key, now);
            return;
        };
        entry.phase = Phase::Held { revision, is_refreshing: false };
        if entry.generation == generation {
            self.hold(&key, content);
        }
        self.touch(&key);
    }

    /// Answers a transaction that needs nothing but what is held.
    pub(super) fn evaluate(&mut self, txn: &TxnRequest, now: Instant) -> Option<TxnResponse> {
        self.lease(now)?;
        let holds = |compare: &Compare| {
            let content = self.content(&compare.key).filter(|_| compare.range_end.is_empty());
            compares(compare, content?)
        };
        let mut succeeded = true;
        for compare in &txn.compare {
            // Without short cut: all of them must be held.
            succeeded &= holds(compare)?;
        }
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let mut responses = Vec::with_capacity(branch.len());
        for op in branch {
            let Some(Op::RequestRange(range)) = &op.request else { return None };
            let content = self.content(&range.key).filter(|_| is_of_one_key_now(range))?;
            let response = answer(range, content, self.header);
            responses.push(ResponseOp { response: Some(Answer::ResponseRange(response)) });
        }
        if responses.is_empty() {
            return None;
        }
        for op in branch {
            if let Some(Op::RequestRange(range)) = &op.request {
                self.touch(&range.key);
            }
        }
        Some(TxnResponse { header: self.header, succeeded, responses })
    }

    fn content(&self, key: &Bytes) -> Option<&Content> {
        self.entries.get(key)?.content.as_ref()
    }

    // Writes --------------------------------------------------------------------------------------------------------------

    /// From now on nothing in these intervals is answered from memory or acquired, until the write is given back.
    pub(super) fn write(&mut self, intervals: Vec<Interval>) -> Writing {
        // Whoever deletes lease keys past the protocol ends the ownership.
        let owners = intervals.iter().filter_map(|interval| self.owned_through(interval));
        let touched: Vec<Interval> = intervals.iter().cloned().chain(owners).collect();
        let mut known = BTreeMap::new();
        let mut size_bytes = self.size_bytes;
        for interval in &touched {
            for (key, entry) in self.entries.range_mut(bounds(interval)) {
                // It may be in two intervals.
                let btree_map::Entry::Vacant(place) = known.entry(key.clone()) else { continue };
                let content = entry.content.take();
                size_bytes -= content.as_ref().map_or(0, |content| size_of_content(key, content));
                self.last_generation += 1;
                entry.generation = self.last_generation;
                place.insert((entry.generation, content));
            }
        }
        self.size_bytes = size_bytes;
        self.last_write += 1;
        let id = self.last_write;
        self.writes.insert(id, touched.clone());
        Writing { id, session: self.sessions, intervals, touched, known }
    }

    /// The keys whose lease keys are in an interval.
    fn owned_through(&self, interval: &Interval) -> Option<Interval> {
        let Self { prefix, .. } = self;
        let lease_keys = Interval { key: prefix.clone(), end: prefix_end(prefix) };
        if !interval.overlaps(&lease_keys) {
            return None;
        }
        let below = |bound: &Bytes| {
            let is_below = bound.starts_with(prefix);
            if is_below { bound.slice(prefix.len()..) } else { Bytes::new() }
        };
        let end = match interval.end.as_ref() {
            b"" => Bytes::new(),
            _ if interval.end.starts_with(prefix) => below(&interval.end),
            _ => Bytes::from_static(b"\0"),
        };
        Some(Interval { key: below(&interval.key), end })
    }

    /// Lease keys in an interval were deleted at this revision.
    fn deleted_within(&mut self, interval: &Interval, at: i64) {
        let Some(owned) = self.owned_through(interval) else { return };
        let keys: Vec<Bytes> =
            self.entries.range(bounds(&owned)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let lease_key = Bytes::from([self.prefix.as_ref(), &key].concat());
            if interval.overlaps(&Interval { key: lease_key, end: Bytes::new() }) {
                self.deleted(&key, at);
            }
        }
    }

    /// The create revision of the key's lease key if it is owned, else 0: no other may be there when the key is written.
    pub(super) fn guard(&self, key: &Bytes) -> i64 {
        match self.entries.get(key).map(|entry| entry.phase) {
            Some(Phase::Held { revision, .. }) => revision,
            Some(Phase::Acquiring { .. } | Phase::Releasing { .. }) | None => 0,
        }
    }

    /// The write has happened.
    pub(super) fn written(&mut self, writing: Writing, revision: i64, effects: &[Effect]) {
        self.give_back(writing, |key, content| after(effects, revision, key, content));
        for effect in effects {
            if let Effect::Put { key, lease: Some(lease), .. } = effect
                && *lease != 0
            {
                self.release(key);
            }
            if let Effect::Delete(interval) = effect {
                self.deleted_within(interval, revision);
            }
        }
    }

    /// The write has not happened, and will not.
    pub(super) fn not_written(&mut self, writing: Writing) {
        self.give_back(writing, |_, content| Some(content));
    }

    fn give_back(&mut self, writing: Writing, change: impl Fn(&Bytes, Content) -> Option<Content>) {
        self.writes.remove(&writing.id);
        if writing.session != self.sessions {
            return;
        }
        for (key, (generation, content)) in writing.known {
            let is_current =
                self.entries.get(&key).is_some_and(|entry| entry.generation == generation);
            if let Some(content) = content.filter(|_| is_current).and_then(|c| change(&key, c)) {
                self.hold(&key, content);
            }
        }
    }

    /// The write may have happened, or may still.
    pub(super) fn perhaps_written(&mut self, writing: Writing) {
        self.writes.remove(&writing.id);
        for interval in &writing.touched {
            let keys: Vec<Bytes> =
                self.entries.range(bounds(interval)).map(|(key, _)| key.clone()).collect();
            for key in keys {
                self.release(&key);
            }
        }
    }

    fn is_being_written(&self, key: &Bytes) -> bool {
        let one = Interval { key: key.clone(), end: Bytes::new() };
        self.writes.values().flatten().any(|interval| interval.overlaps(&one))
    }

    // What others do with lease keys ----------------------------------------------------------------------------------------

    /// Another wants a key whose lease key was created and is revoked at these revisions.
    pub(super) fn revoked(&mut self, key: Bytes, created: i64, at: i64, now: Instant) {
        match self.entries.get_mut(&key).map(|entry| &mut entry.phase) {
            Some(Phase::Acquiring { void_before }) => *void_before = at.max(*void_before),
            // It was told of an earlier lease key of this name.
            Some(Phase::Held { revision, .. } | Phase::Releasing { revision })
                if created < *revision =>
            {
                return;
            }
            Some(Phase::Held { .. }) => self.release(&key),
            Some(Phase::Releasing { .. }) | None => {}
        }
        // Also where the key is not known: whoever asked for it may be gone.
        self.releases.insert(key.clone(), created);
        self.cool(key, now);
    }

    /// A lease key was deleted at this revision.
    pub(super) fn deleted(&mut self, key: &Bytes, at: i64) {
        match self.entries.get_mut(key).map(|entry| &mut entry.phase) {
            Some(Phase::Acquiring { void_before }) => *void_before = at.max(*void_before),
            Some(Phase::Held { revision, .. } | Phase::Releasing { revision })
                if *revision < at =>
            {
                self.remove(key);
            }
            Some(Phase::Held { .. } | Phase::Releasing { .. }) | None => {}
        }
    }

    /// Takes the next lease key that is to be deleted, with its create revision. When it is, say so to [`Keys::released`].
    pub(super) fn next_release(&mut self) -> Option<(Bytes, i64)> {
        self.releases.pop_first()
    }

    /// A lease key with this create revision is there no more.
    pub(super) fn released(&mut self, key: &Bytes, created: i64) {
        let phase = self.entries.get(key).map(|entry| entry.phase);
        if phase == Some(Phase::Releasing { revision: created }) {
            self.remove(key);
        }
    }

    pub(super) fn has_releases(&self) -> bool {
        !self.releases.is_empty()
    }

    // Entries -------------------------------------------------------------------------------------------------------------

    fn touch(&mut self, key: &Bytes) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        self.uses.remove(&entry.used);
        if matches!(entry.phase, Phase::Held { .. }) {
            self.last_use += 1;
            entry.used = self.last_use;
            self.uses.insert(self.last_use, key.clone());
        }
    }

    fn hold(&mut self, key: &Bytes, content: Content) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if !matches!(entry.phase, Phase::Held { .. }) {
            return;
        }
        let size = |content: &Option<Content>| {
            content.as_ref().map_or(0, |content| size_of_content(key, content))
        };
        self.size_bytes -= size(&entry.content);
        entry.content = Some(content);
        self.size_bytes += size(&entry.content);
        while self.size_bytes > BYTES_MAX && self.release_least_used() {}
    }

    fn release_least_used(&mut self) -> bool {
        let Some(key) = self.uses.first_key_value().map(|(_, key)| key.clone()) else {
            return false;
        };
        self.release(&key);
        true
    }

    /// Gives a key up.
    fn release(&mut self, key: &Bytes) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Phase::Held { revision, .. } = entry.phase else { return };
        entry.phase = Phase::Releasing { revision };
        let content = entry.content.take();
        self.size_bytes -= content.map_or(0, |content| size_of_content(key, &content));
        self.uses.remove(&entry.used);
        self.releases.insert(key.clone(), revision);
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(entry) = self.entries.remove(key) {
            let content = entry.content.as_ref();
            self.size_bytes -= content.map_or(0, |content| size_of_content(key, content));
            self.uses.remove(&entry.used);
        }
    }

    fn is_cooling(&self, key: &Bytes, now: Instant) -> bool {
        self.cooling.get(key).is_some_and(|until| now < *until)
    }

    fn cool(&mut self, key: Bytes, now: Instant) {
        while let Some((until, cooled)) = self
            .cooling_by_time
            .pop_front_if(|(until, _)| *until <= now || self.cooling.len() >= COOLING_MAX)
        {
            // It may have begun to cool again.
            if self.cooling.get(&cooled) == Some(&until) {
                self.cooling.remove(&cooled);
            }
        }
        let until = now + COOLING;
        self.cooling.insert(key.clone(), until);
        self.cooling_by_time.push_back((until, key));
    }
}

/// Whether a range is of what can be held.
fn is_of_one_key_now(request: &RangeRequest) -> bool {
    let is_sound = SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok();
    request.range_end.is_empty() && request.revision == 0 && is_sound
}

fn bounds(interval: &Interval) -> (Bound<Bytes>, Bound<Bytes>) {
    let Interval { key, end } = interval;
    match end.as_ref() {
        b"" => (Bound::Included(key.clone()), Bound::Included(key.clone())),
        b"\0" => (Bound::Included(key.clone()), Bound::Unbounded),
        // An interval that ends before it begins is empty, and no reason to panic.
        end if end <= key.as_ref() => {
            (Bound::Excluded(Bytes::new()), Bound::Included(Bytes::new()))
        }
        _ => (Bound::Included(key.clone()), Bound::Excluded(end.clone())),
    }
}

fn size_of_content(key: &Bytes, content: &Content) -> usize {
    // The key stands in two tables and in its pair.
    3 * key.len() + content.as_ref().map_or(0, |pair| pair.value.len())
}

/// What a key holds after a write of this revision; nothing where that cannot be said.
fn after(effects: &[Effect], revision: i64, key: &Bytes, before: Content) -> Option<Content> {
    let mut content = before;
    for effect in effects {
        match effect {
            Effect::Put { key: put, value, lease } if put == key => {
                let old = content.take();
                let (create_revision, version) =
                    old.as_ref().map_or((revision, 0), |pair| (pair.create_revision, pair.version));
                let value = match (value, old) {
                    (Some(value), _) => value.clone(),
                    (None, Some(old)) => old.value,
                    (None, None) => return None,
                };
                content = Some(KeyValue {
                    key: key.clone(),
                    create_revision,
                    mod_revision: revision,
                    version: version + 1,
                    value,
                    // One that is owned has none.
                    lease: lease.unwrap_or(0),
                });
            }
            Effect::Delete(interval) => {
                let one = Interval { key: key.clone(), end: Bytes::new() };
                if interval.overlaps(&one) {
                    content = None;
                }
            }
            Effect::Put { .. } => {}
        }
    }
    Some(content)
}

/// Answers a range of one key as a member does.
pub(super) fn answer(
    request: &RangeRequest,
    content: &Content,
    header: Option<ResponseHeader>,
) -> RangeResponse {
    let count = i64::from(content.is_some());
    let is_within = |revision: i64, min: i64, max: i64| {
        (min == 0 || min <= revision) && (max == 0 || revision <= max)
    };
    let pair = content.as_ref().filter(|pair| {
        !request.count_only
            && is_within(pair.mod_revision, request.min_mod_revision, request.max_mod_revision)
            && is_within(
                pair.create_revision,
                request.min_create_revision,
                request.max_create_revision,
            )
    });
    let kvs = pair.map(|pair| {
        let value = if request.keys_only { Bytes::new() } else { pair.value.clone() };
        KeyValue { value, ..pair.clone() }
    });
    RangeResponse { header, kvs: kvs.into_iter().collect(), more: false, count }
}

/// Whether a comparison holds for what is at its key; nothing for one that is not understood.
fn compares(compare: &Compare, content: &Content) -> Option<bool> {
    let result = CompareResult::try_from(compare.result).ok()?;
    let target = CompareTarget::try_from(compare.target).ok()?;
    let union = compare.target_union.as_ref();
    let number =
        |field: fn(&KeyValue) -> i64, wanted: i64| content.as_ref().map_or(0, field).cmp(&wanted);
    let ordering = match (target, union) {
        (CompareTarget::Value, union) => {
            // No value is equal to none, or different from it.
            let Some(pair) = content else { return Some(false) };
            let wanted: &[u8] = match union {
                Some(TargetUnion::Value(value)) => value,
                _ => &[],
            };
            pair.value.as_ref().cmp(wanted)
        }
        (CompareTarget::Version, Some(TargetUnion::Version(wanted))) => {
            number(|pair| pair.version, *wanted)
        }
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(wanted))) => {
            number(|pair| pair.create_revision, *wanted)
        }
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(wanted))) => {
            number(|pair| pair.mod_revision, *wanted)
        }
        (CompareTarget::Lease, Some(TargetUnion::Lease(wanted))) => {
            number(|pair| pair.lease, *wanted)
        }
        // Members have their rules for those.
        _ => return None,
    };
    Some(match result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    })
}
