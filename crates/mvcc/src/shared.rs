//! What the writer, the readers and a compaction share, and how a reader gets one consistent answer out of it.
//!
//! ```text
//!   writer:   rows ─► backend     entries ─► index     publish rows     current := n
//!   reader:   at := current   ─►  lock index for reading: take a backend view, find revisions   ─►  read rows
//! ```
//!
//! - A reader at revision r sees all rows up to r, because `current` is raised after they are published, and the view is taken
//!   after `current` was read. It sees nothing newer, because it asks the index for r.
//! - A compaction at c first waits until no reader below c is registered ([`Shared::pins`]), then says in the index that
//!   it forgets ([`KeyIndex::forgotten`]), both under the index's write lock; only then it removes anything. A reader
//!   registers under the read lock. So it either finds a complete index for its revision, or learns that it came too late.
//! - When the whole content is replaced (a raft snapshot), the index and the backend change under the write lock; a
//!   reader that needs the lock again notices by [`Content::incarnation`] and starts over.
//!
//! Lock order: index, then pins, then the backend's own. None is held while a row is read.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use backend::{
    Value, View,
    schema::{Revision, RowKey},
};

use crate::{
    Error, KeyRange, RequestError, Rules, StorageError,
    hash::HashCache,
    index::{Found, KeyIndex},
};

/// Most keys looked at while the index is locked once: about 0.1 ms, which is what a put may have to wait.
const KEYS_PER_LOCK: usize = 2048;

/// Largest answer that counts as little: copying it takes some 0.1 ms, as visiting [`KEYS_PER_LOCK`] keys does.
const LITTLE_BYTES: usize = 256 * 1024;

/// Compact revision before the first compaction.
pub(crate) const NEVER_COMPACTED: i64 = -1;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) backend: backend::Reader,
    pub(crate) rules: Rules,
    /// Guards the index; held for a bounded number of keys at a time.
    content: RwLock<Content>,
    /// The newest revision that readers may see. Written by the writer only.
    current: AtomicI64,
    /// Revisions below this one are gone for clients. Written by the writer only; never above `current`.
    compacted: AtomicI64,
    /// Revisions at which somebody reads in several steps, with how many do.
    pins: Mutex<BTreeMap<i64, usize>>,
    pub(crate) hashes: Mutex<HashCache>,
}

/// What changes as a whole when a raft snapshot arrives.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) index: KeyIndex,
    pub(crate) incarnation: u64,
}

impl Shared {
    pub(crate) fn new(
        backend: backend::Reader,
        rules: Rules,
        index: KeyIndex,
        current: i64,
        compacted: i64,
    ) -> Self {
        Shared {
            backend,
            rules,
            content: RwLock::new(Content { index, incarnation: 0 }),
            current: AtomicI64::new(current),
            compacted: AtomicI64::new(compacted),
            pins: Mutex::default(),
            hashes: Mutex::default(),
        }
    }

    pub(crate) fn current(&self) -> i64 {
        // Acquire, with the release below: whoever sees the revision sees its rows and index entries.
        self.current.load(Ordering::Acquire)
    }

    pub(crate) fn set_current(&self, revision: i64) {
        self.current.store(revision, Ordering::Release);
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    pub(crate) fn set_compacted(&self, revision: i64) {
        self.compacted.store(revision, Ordering::Release);
    }

    /// Every critical section leaves the index whole, or ends the process.
    pub(crate) fn content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn content_mut(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hashes(&self) -> MutexGuard<'_, HashCache> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lowest revision that somebody reads in several steps.
    pub(crate) fn lowest_pin(&self) -> Option<i64> {
        self.lock_pins().keys().next().copied()
    }

    fn lock_pins(&self) -> MutexGuard<'_, BTreeMap<i64, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(&self, revision: i64) -> Pin<'_> {
        *self.lock_pins().entry(revision).or_insert(0) += 1;
        Pin { shared: self, revision }
    }

    /// Opens the present for reading in several steps, at `revision` or, if that is 0 or less, at the newest one.
    pub(crate) fn source(&self, revision: i64) -> Result<Source<'_>, RequestError> {
        loop {
            let current = self.current();
            let content = self.content();
            let compacted = self.compacted();
            let at = resolve(revision, current, compacted)?;
            // A compaction passed the revision read above before the lock was taken: there is a newer one.
            if at < compacted || at < content.index.forgotten() {
                continue;
            }
            let pin = Some(self.pin(at));
            let view = self.backend.view();
            let incarnation = content.incarnation;
            return Ok(Source {
                shared: self,
                view,
                current,
                at,
                compacted,
                incarnation,
                counts: true,
                extent: Cell::new(Extent::Everything),
                _pin: pin,
            });
        }
    }

    /// As [`Shared::source`] at the newest revision, for requests that may also read older ones.
    pub(crate) fn source_with_history(&self) -> Source<'_> {
        loop {
            let current = self.current();
            let content = self.content();
            let compacted = self.compacted();
            if current < compacted || current < content.index.forgotten() {
                continue;
            }
            let pin = Some(self.pin(compacted));
            let view = self.backend.view();
            let incarnation = content.incarnation;
            return Source {
                shared: self,
                view,
                current,
                at: current,
                compacted,
                incarnation,
                counts: true,
                extent: Cell::new(Extent::Everything),
                _pin: pin,
            };
        }
    }

    /// The writer's own view: `current` is what its transaction has made so far, published or not.
    ///
    /// Needs no registration: only the writer's thread lets compactions pass.
    pub(crate) fn writer_source(&self, view: View, current: i64) -> Source<'_> {
        let incarnation = self.content().incarnation;
        let compacted = self.compacted();
        Source {
            shared: self,
            view,
            current,
            at: current,
            compacted,
            incarnation,
            counts: true,
            extent: Cell::new(Extent::Everything),
            _pin: None,
        }
    }

    /// Finds one key and opens a view in which its row is, without registering.
    pub(crate) fn find_single(&self, key: &[u8], revision: i64) -> Result<Single, RequestError> {
        loop {
            let current = self.current();
            let content = self.content();
            let compacted = self.compacted();
            let at = resolve(revision, current, compacted)?;
            if at < compacted || at < content.index.forgotten() {
                continue;
            }
            let found = content.index.find(key, at);
            let view = found.map(|_| self.backend.view());
            return Ok(Single { current, found: found.zip(view) });
        }
    }
}

/// The revision to read at, by the rules of a range request.
fn resolve(requested: i64, current: i64, compacted: i64) -> Result<i64, RequestError> {
    if requested > current {
        Err(RequestError::FutureRevision { requested, current })
    } else if requested <= 0 {
        Ok(current)
    } else if requested < compacted {
        Err(RequestError::Compacted { requested, compacted })
    } else {
        Ok(requested)
    }
}

/// Answer of [`Shared::find_single`].
pub(crate) struct Single {
    pub(crate) current: i64,
    pub(crate) found: Option<(Found, View)>,
}

/// Keeps a compaction from forgetting what a reader still visits.
#[derive(Debug)]
struct Pin<'s> {
    shared: &'s Shared,
    revision: i64,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.shared.lock_pins();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}

/// One consistent state of the store, to be read in as many steps as it takes.
#[derive(Debug)]
pub(crate) struct Source<'s> {
    shared: &'s Shared,
    pub(crate) view: View,
    /// The store's revision when this was opened; what headers say.
    pub(crate) current: i64,
    /// The revision that is read.
    pub(crate) at: i64,
    pub(crate) compacted: i64,
    incarnation: u64,
    /// Scans count all keys of their range, also those that nobody wants.
    counts: bool,
    extent: Cell<Extent>,
    _pin: Option<Pin<'s>>,
}

/// How much may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Everything,
    /// As much as [`Source::is_too_much`] allows.
    Little,
    /// There was more than that: what was read is of no use.
    Exceeded,
}

impl Source<'_> {
    /// The rules that answers follow.
    pub(crate) fn rules(&self) -> Rules {
        self.shared.rules
    }

    /// Reads no more than what takes a moment.
    pub(crate) fn a_little(mut self) -> Self {
        self.extent = Cell::new(Extent::Little);
        self
    }

    /// Stops a scan as soon as nothing more is wanted; its count is that of the keys seen.
    pub(crate) fn without_count(mut self) -> Self {
        self.counts = false;
        self
    }

    fn is_bounded(&self) -> bool {
        self.extent.get() != Extent::Everything
    }

    fn give_up(&self) {
        self.extent.set(Extent::Exceeded);
    }

    /// Says whether an answer of this size is more than was to be read; if so, all of it is given up.
    pub(crate) fn is_too_much(&self, bytes: usize) -> bool {
        if self.is_bounded() && bytes > LITTLE_BYTES {
            self.give_up();
        }
        self.has_given_up()
    }

    /// Says whether there was more than was to be read.
    pub(crate) fn has_given_up(&self) -> bool {
        self.extent.get() == Extent::Exceeded
    }

    /// The index, if it is still the one that goes with the view.
    pub(crate) fn content(&self) -> Result<RwLockReadGuard<'_, Content>, StorageError> {
        let content = self.shared.content();
        if content.incarnation == self.incarnation {
            Ok(content)
        } else {
            Err(StorageError::Replaced)
        }
    }

    /// Finds one key.
    pub(crate) fn find(&self, key: &[u8], at: i64) -> Result<Option<Found>, StorageError> {
        Ok(self.content()?.index.find(key, at))
    }

    /// Gives the keys of `range` that exist at `at`, in order and in runs of bounded length, to `each`, until it has
    /// had enough. Returns how many keys exist in the range, whether given or not.
    pub(crate) fn scan(
        &self,
        range: KeyRange<'_>,
        at: i64,
        want: &mut dyn FnMut(&[u8], Found) -> Wanted,
        each: &mut dyn FnMut(&[Found]) -> Result<(), Error>,
    ) -> Result<i64, Error> {
        let mut count = 0;
        let mut run = Vec::new();
        // Where to go on: the last key seen and a zero byte, which is the next possible key.
        let mut next: Option<Vec<u8>> = None;
        let mut is_sated = false;
        loop {
            let rest = match (&next, range) {
                (None, range) => range,
                (Some(next), KeyRange::Until(_, end)) => KeyRange::Until(next, end),
                (Some(next), KeyRange::From(_)) => KeyRange::From(next),
                (Some(_), KeyRange::Single(_)) => break,
            };
            let mut seen = 0;
            let mut resume = None;
            let _ = self.content()?.index.visit(rest, at, &mut |key, found| {
                count += 1;
                seen += 1;
                if !is_sated {
                    match want(key, found) {
                        Wanted::Yes => run.push(found),
                        Wanted::No => {}
                        Wanted::NoMore => is_sated = true,
                    }
                }
                if is_sated && !self.counts {
                    return ControlFlow::Break(());
                }
                if seen < KEYS_PER_LOCK {
                    return ControlFlow::Continue(());
                }
                let mut key = key.to_vec();
                key.push(0);
                resume = Some(key);
                ControlFlow::Break(())
            });
            if !run.is_empty() {
                each(&run)?;
                run.clear();
            }
            match resume {
                Some(_) if self.is_bounded() => {
                    self.give_up();
                    break;
                }
                Some(key) => next = Some(key),
                None => break,
            }
        }
        Ok(count)
    }

    /// Reads the row that the index says is there.
    pub(crate) fn row(&self, revision: Revision) -> Result<Value<'_>, StorageError> {
        row(&self.view, revision)
    }
}

/// What a scan does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Yes,
    No,
    /// Not this one, and none after it.
    NoMore,
}

/// Reads the row that the index says is there.
pub(crate) fn row(view: &View, revision: Revision) -> Result<Value<'_>, StorageError> {
    view.row(RowKey::put(revision))?.ok_or(StorageError::Row {
        main: revision.main,
        sub: revision.sub,
        what: "the index knows the row, and it is not there",
    })
}
