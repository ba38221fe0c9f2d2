//! A write transaction: changes that share one revision.

use std::{ops::ControlFlow, sync::Arc};

use backend::schema::{Revision, RowKey};
use bytes::Bytes;

use crate::{
    EventBatch, KeyRange,
    row::NewRow,
    shared::{Shared, Source},
    watch::Event,
};

/// Changes in the making. Readers see none of them before [`WriteTxn::finish`].
///
/// Dropping it without `finish` is only right when nothing was changed: changes cannot be taken back.
#[derive(Debug)]
pub struct WriteTxn<'a> {
    shared: &'a Shared,
    writer: &'a mut backend::Writer,
    /// Revision before the transaction.
    begin: i64,
    events: Vec<Event>,
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The store's revision now; it is the one before when nothing was changed.
    pub revision: i64,
    /// The events, for watchers; `None` when nothing was changed.
    pub batch: Option<Arc<EventBatch>>,
}

/// A key and the lease that it is attached to from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseChange {
    /// The key.
    pub key: Bytes,
    /// The lease; 0 means that the key is attached to none, whatever it was attached to before.
    pub lease: i64,
}

impl Changes {
    /// What the lessor has to note, in the order of the changes: every key that was changed, with its lease now.
    pub fn lease_changes(&self) -> impl Iterator<Item = LeaseChange> + '_ {
        let events = self.batch.iter().flat_map(|batch| &batch.events);
        events.map(|event| LeaseChange { key: event.key.clone(), lease: event.lease })
    }
}

impl<'a> WriteTxn<'a> {
    pub(crate) fn new(shared: &'a Shared, writer: &'a mut backend::Writer) -> Self {
        WriteTxn { begin: shared.current(), shared, writer, events: Vec::new() }
    }

    /// The revision that the transaction's own reads see: with its changes, once there are any.
    #[must_use]
    pub fn revision(&self) -> i64 {
        if self.events.is_empty() { self.begin } else { self.begin + 1 }
    }

    /// Writes a pair. An existing key keeps its creation and counts its version on.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let revision = self.next_revision();
        let made = self.shared.content_mut().index.put(key, revision);
        let (event, row) = Event::put(&NewRow {
            key,
            value,
            create_revision: made.created,
            mod_revision: revision.main,
            version: made.version,
            lease,
        });
        self.writer.put_row(RowKey::put(revision), row);
        self.events.push(event);
    }

    /// Deletes the keys of a range, in order, and returns how many there were.
    pub fn delete_range(&mut self, range: KeyRange<'_>) -> i64 {
        if let KeyRange::Single(key) = range {
            return i64::from(self.delete(key));
        }
        let at = self.revision();
        let mut keys: Vec<Box<[u8]>> = Vec::new();
        let _ = self.shared.content().index.visit(range, at, &mut |key, _| {
            keys.push(key.into());
            ControlFlow::Continue(())
        });
        let mut deleted = 0;
        for key in keys {
            deleted += i64::from(self.delete(&key));
        }
        deleted
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let revision = self.next_revision();
        let existed = self.shared.content_mut().index.tombstone(key, revision);
        if existed {
            let (event, row) = Event::delete(key, revision.main);
            self.writer.put_row(RowKey::tombstone(revision), row);
            self.events.push(event);
        }
        existed
    }

    fn next_revision(&self) -> Revision {
        let sub = i64::try_from(self.events.len()).expect("fewer than 2^63 changes fit in memory");
        Revision::new(self.begin + 1, sub)
    }

    /// What the transaction's own reads see.
    pub(crate) fn source(&self) -> Source<'_> {
        self.shared.writer_source(self.writer.view(), self.revision())
    }

    /// Ends the transaction: publishes what the backend's writer holds, and lets readers see the new revision.
    pub fn finish(self) -> Changes {
        if self.events.is_empty() {
            return Changes { revision: self.begin, batch: None };
        }
        let revision = self.begin + 1;
        // Rows first: whoever sees the revision must find them.
        self.writer.publish();
        self.shared.set_current(revision);
        Changes { revision, batch: Some(Arc::new(EventBatch { revision, events: self.events })) }
    }
}
