//! The writing side, owned by the state machine.

use std::sync::Arc;

use backend::schema::meta;
use proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, TxnRequest, TxnResponse,
};

use crate::{
    Changes, Compaction, Error, Reader, Reloaded, RequestError, Restored, Rules, StorageError,
    WriteTxn, restore, shared::Shared, txn,
};

/// The one writer of the store.
///
/// It does not own the [`backend::Writer`], which leases, auth and membership write to as well; the same one is to be given
/// to every call. Every method that changes something leaves it published ([`backend::Writer::publish`]): set the
/// consistent index in the same turn, before the next commit is taken.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

impl Store {
    /// Reads the key bucket and builds the index.
    ///
    /// The caller attaches the keys to leases as [`Restored::attachments`] says, and runs [`Restored::compaction`] if there
    /// is one: it was interrupted.
    ///
    /// # Errors
    /// A row that cannot be what etcd writes.
    pub fn open(backend: backend::Reader, rules: Rules) -> Result<Restored, StorageError> {
        let restored = restore::restore(&backend.view())?;
        let current = restored.current;
        let shared =
            Arc::new(Shared::new(backend, rules, restored.index, current, restored.compacted));
        let compaction = restored.resume.map(|revision| resume(&shared, revision));
        Ok(Restored { store: Store { shared }, attachments: restored.attachments, compaction })
    }

    /// Replaces the whole content: `install` does it to the backend (with [`backend::Writer::install_snapshot`]), then the
    /// index is built again. Readers wait meanwhile, and see either state whole. Compactions of before must be dropped (a
    /// step of theirs does nothing), and every watch hub has to be told ([`crate::watch::Hub::resync`]).
    ///
    /// # Errors
    /// What `install` fails with, or a row that cannot be what etcd writes. Either is fatal.
    pub fn reload(
        &mut self,
        install: impl FnOnce() -> Result<(), backend::Error>,
    ) -> Result<Reloaded, StorageError> {
        let (resume_at, attachments) = {
            let mut content = self.shared.content_mut();
            install()?;
            let restored = restore::restore(&self.shared.backend.view())?;
            content.index = restored.index;
            content.incarnation += 1;
            self.shared.set_current(restored.current);
            self.shared.set_compacted(restored.compacted);
            self.shared.hashes().clear();
            (restored.resume, restored.attachments)
        };
        let compaction = resume_at.map(|revision| resume(&self.shared, revision));
        Ok(Reloaded { attachments, compaction })
    }

    /// A handle for reading, for any thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// The newest revision; 1 for an empty store.
    #[must_use]
    pub fn current_revision(&self) -> i64 {
        self.shared.current()
    }

    /// The revision of the last compaction; -1 before the first.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.shared.compacted()
    }

    /// Begins a transaction of single changes.
    pub fn begin<'a>(&'a mut self, writer: &'a mut backend::Writer) -> WriteTxn<'a> {
        WriteTxn::new(&self.shared, writer)
    }

    /// Executes a put. The response's header has the revision alone.
    ///
    /// Reads the row before only if the request needs it.
    ///
    /// # Errors
    /// An unknown lease; a missing key that `ignore_value` or `ignore_lease` needs, in this order.
    pub fn put(
        &mut self,
        writer: &mut backend::Writer,
        request: &PutRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(PutResponse, Changes), Error> {
        if request.lease != 0 && !lease_exists(request.lease) {
            return Err(RequestError::LeaseNotFound { lease: request.lease }.into());
        }
        let mut txn = self.begin(writer);
        let response = txn::put(&mut txn, request)?;
        Ok((response, txn.finish()))
    }

    /// Executes a delete. The response's header has the revision alone: a new one only if something was deleted.
    ///
    /// # Errors
    /// None but of this member's storage.
    pub fn delete_range(
        &mut self,
        writer: &mut backend::Writer,
        request: &DeleteRangeRequest,
    ) -> Result<(DeleteRangeResponse, Changes), Error> {
        let mut txn = self.begin(writer);
        let response = txn::delete_range(&mut txn, request)?;
        Ok((response, txn.finish()))
    }

    /// Executes a txn, nested ones included, as one revision.
    ///
    /// # Errors
    /// The first operation of the branches taken that cannot be executed; nothing is written then.
    pub fn txn(
        &mut self,
        writer: &mut backend::Writer,
        request: &TxnRequest,
        lease_exists: &dyn Fn(i64) -> bool,
    ) -> Result<(TxnResponse, Changes), Error> {
        let mut txn = self.begin(writer);
        let response = txn::write(&mut txn, request, lease_exists)?;
        Ok((response, txn.finish()))
    }

    /// Compacts at `revision`: at once for readers and watchers, in steps of the returned job for the backend.
    ///
    /// Jobs are to be run one after the other, in the order in which they were made. etcd commits the backend after this.
    ///
    /// # Errors
    /// The revision was compacted before, or is in the future. Nothing was changed then.
    pub fn compact(
        &mut self,
        writer: &mut backend::Writer,
        revision: i64,
    ) -> Result<Compaction, Error> {
        let (current, compacted) = (self.shared.current(), self.shared.compacted());
        if revision <= compacted {
            return Err(RequestError::Compacted { requested: revision, compacted }.into());
        }
        if revision > current {
            return Err(RequestError::FutureRevision { requested: revision, current }.into());
        }
        let view = writer.view();
        let is_previous_done =
            meta::scheduled_compaction(&view)? == meta::finished_compaction(&view)?;
        meta::put_scheduled_compaction(writer, revision);
        writer.publish();
        self.shared.set_compacted(revision);
        Ok(Compaction::new(
            Arc::clone(&self.shared),
            revision,
            is_previous_done.then_some(compacted),
        ))
    }
}

/// Goes on with a compaction that was interrupted. What it hashes would not be whole, so it hashes nothing.
fn resume(shared: &Arc<Shared>, revision: i64) -> Compaction {
    shared.set_compacted(revision);
    Compaction::new(Arc::clone(shared), revision, None)
}
