//! Lagging watchers: what they missed, read from history in windows.
//!
//! ```text
//!   revisions   ... 41 42 43 44 45 46 47 48 ... current
//!   watcher a       ^ next                          one pass over the rows from the lowest cursor on serves every
//!   watcher b             ^ next                    watcher whose cursor lies in the window
//!                   └──── window ────┘
//! ```

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use backend::schema::{Revision, RowKey};
use bytes::Bytes;

use super::{Event, Events, Hub, groups::GroupId, hub::Variant};
use crate::{
    Reader, StorageError,
    row::{NewRow, RowView, key_of},
};

/// Called with each row; breaks when it has had enough.
pub type EachRow<'f> = dyn FnMut(RowKey, &[u8]) -> Result<ControlFlow<()>, StorageError> + 'f;

/// The past, as the hub reads it.
pub trait History {
    /// The revision of the last compaction; -1 before the first.
    fn compact_revision(&self) -> i64;

    /// Gives the rows of the key bucket with main revisions `from` to `to`, in order, to `each`. Returns a revision below
    /// which rows may have been missing.
    ///
    /// # Errors
    /// A row that cannot be read, or what `each` fails with.
    fn rows(&self, from: i64, to: i64, each: &mut EachRow<'_>) -> Result<i64, StorageError>;

    /// The encoded pair of `key` at a revision; `None` if it did not exist then, or that is compacted.
    ///
    /// # Errors
    /// A row that cannot be read.
    fn previous(&self, key: &[u8], revision: i64) -> Result<Option<Bytes>, StorageError>;
}

impl History for Reader {
    fn compact_revision(&self) -> i64 {
        Reader::compact_revision(self)
    }

    fn rows(&self, from: i64, to: i64, each: &mut EachRow<'_>) -> Result<i64, StorageError> {
        let view = self.shared().backend.view();
        // After the view: rows that it lacks were removed by a compaction that had been announced before.
        let compacted = self.shared().compacted();
        for row in view.rows(Revision::first_of(from)..Revision::first_of(to.saturating_add(1)))? {
            let (key, value) = row?;
            if each(key, &value)?.is_break() {
                break;
            }
        }
        Ok(compacted)
    }

    fn previous(&self, key: &[u8], revision: i64) -> Result<Option<Bytes>, StorageError> {
        if revision < 1 {
            return Ok(None);
        }
        // The only refusals are that the revision is compacted, or not there yet.
        let Ok(single) = self.shared().find_single(key, revision) else { return Ok(None) };
        let Some((found, view)) = single.found else { return Ok(None) };
        crate::shared::row(&view, found.modified).map(|row| Some(row.to_bytes()))
    }
}

/// An event of the window.
struct Past {
    revision: i64,
    event: Event,
    /// The form with the pair before, once somebody asked for it.
    with_previous: Option<Bytes>,
}

/// Events of a range of revisions, as far as lagging watchers want them.
#[derive(Default)]
struct Window {
    past: Vec<Past>,
    touched: Vec<GroupId>,
    /// The last revision that was read whole.
    to: i64,
}

impl Hub {
    /// Brings lagging watchers forward: reads about `rows` rows of history (more only to finish a revision), queues what
    /// they missed, and ends those whose next revision is compacted. Returns whether there is more to do.
    ///
    /// To be called between live batches while [`Hub::needs_catch_up`]; `rows` bounds how long a batch has to wait: about
    /// half a microsecond each.
    ///
    /// # Errors
    /// `history` could not be read. Fatal.
    pub fn catch_up(&mut self, history: &dyn History, rows: usize) -> Result<bool, StorageError> {
        self.end_overtaken(history.compact_revision());
        let Some(&(from, _)) = self.lagging.first() else { return Ok(false) };
        let participants: Vec<(i64, u32)> =
            self.lagging.iter().take(self.limits.watchers_per_round.max(1)).copied().collect();
        let mut window = Window { to: self.current, ..Window::default() };
        let compacted = self.read_window(&mut window, history, from, rows.max(1))?;
        self.end_overtaken(compacted);

        let mut shared: BTreeMap<(GroupId, Variant, usize), Arc<Events>> = BTreeMap::new();
        for (next, slot) in participants {
            if next > window.to {
                break;
            }
            let Some(watcher) = self.watcher(slot) else { continue };
            let (group, variant) = (watcher.group, watcher.variant);
            let matched = &self.groups.get(group).matched;
            let first =
                matched.partition_point(|number| window.past[*number as usize].revision < next);
            let events = match shared.get(&(group, variant, first)) {
                Some(events) => Arc::clone(events),
                None => {
                    let events =
                        Arc::new(gather(&mut window.past, &matched[first..], variant, history)?);
                    shared.insert((group, variant, first), Arc::clone(&events));
                    events
                }
            };
            if !events.is_empty() && !self.deliver_late(slot, events) {
                // No room: parks the stream's watchers; this one has not moved.
                self.move_lagging(slot, next);
                continue;
            }
            if window.to == self.current {
                self.finish_lagging(slot, window.to + 1);
            } else {
                self.move_lagging(slot, window.to + 1);
            }
        }
        for group in window.touched {
            // A group whose last watcher has ended meanwhile is gone or new; clearing does no harm.
            self.groups.get_mut(group).matched.clear();
        }
        Ok(self.needs_catch_up())
    }

    /// Ends the lagging watchers that need something below `compacted`.
    fn end_overtaken(&mut self, compacted: i64) {
        while let Some(&(next, slot)) = self.lagging.first()
            && next < compacted
        {
            self.end_compacted(slot, compacted);
        }
    }

    /// Reads rows from `from` on until one of the bounds is reached at the end of a revision.
    fn read_window(
        &mut self,
        window: &mut Window,
        history: &dyn History,
        from: i64,
        rows: usize,
    ) -> Result<i64, StorageError> {
        let (mut seen, mut revisions, mut bytes, mut last) = (0, 0, 0, from);
        let limits = self.limits;
        let groups = &mut self.groups;
        let current = self.current;
        history.rows(from, current, &mut |key, value| {
            let Revision { main, sub } = key.revision;
            if main != last
                && (seen >= rows
                    || revisions >= limits.message_revisions
                    || bytes >= limits.message_bytes)
            {
                window.to = main - 1;
                return Ok(ControlFlow::Break(()));
            }
            seen += 1;
            last = main;
            let malformed = |what| StorageError::Row { main, sub, what };
            let user_key = key_of(value).map_err(|error| malformed(error.0))?;
            let number = u32::try_from(window.past.len())
                .map_err(|_| malformed("one revision has 2^32 changes"))?;
            if !groups.note(user_key, number, |group| group.lagging > 0, &mut window.touched) {
                return Ok(ControlFlow::Continue(()));
            }
            let event = if key.is_tombstone {
                Event::delete(user_key, main).0
            } else {
                let row = RowView::parse(value).map_err(|error| malformed(error.0))?;
                let RowView { key, create_revision, mod_revision, version, value, lease } = row;
                Event::put(&NewRow { key, value, create_revision, mod_revision, version, lease }).0
            };
            bytes += event.encoded().len();
            if window.past.last().is_none_or(|past| past.revision != main) {
                revisions += 1;
            }
            window.past.push(Past { revision: main, event, with_previous: None });
            Ok(ControlFlow::Continue(()))
        })
    }
}

/// The events of a group that watchers of one variant get.
fn gather(
    past: &mut [Past],
    numbers: &[u32],
    variant: Variant,
    history: &dyn History,
) -> Result<Events, StorageError> {
    let mut events = Events::default();
    for &number in numbers {
        let past = &mut past[number as usize];
        if !variant.wants(past.event.kind) {
            continue;
        }
        if !(variant.wants_previous && past.event.kind.has_previous()) {
            events.push(past.event.encoded().clone());
            continue;
        }
        if past.with_previous.is_none() {
            past.with_previous =
                Some(match history.previous(&past.event.key, past.revision - 1)? {
                    Some(previous) => past.event.encode_with_previous(&previous),
                    None => past.event.encoded().clone(),
                });
        }
        if let Some(form) = &past.with_previous {
            events.push(form.clone());
        }
    }
    Ok(events)
}
