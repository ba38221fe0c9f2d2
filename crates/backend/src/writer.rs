//! The writing side: one owner, the apply stage.

use std::sync::Arc;

use bytes::Bytes;

use crate::commit::CommitJob;
use crate::defrag::DefragJob;
use crate::pending::{Mark, Pending};
use crate::row_log::Row;
use crate::schema::{Bucket, RowKey, meta};
use crate::shared::{Reader, Shared};
use crate::{Error, View, open};

/// What a row costs in a buffer besides its value: a slot of the list.
const ROW_OVERHEAD_BYTES: usize = 64;

/// What an entry of a map costs besides its key and value, roughly.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// Which log entry the rows stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Consistent {
    /// Raft index of the last entry that was applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Handle for writing. There is one for each backend; the apply stage owns it.
///
/// A write goes to a buffer in memory and never waits for a disk. It is visible to [`Writer::view`] at once, to
/// [`Reader`]s after [`Writer::publish`], and durable after a [`CommitJob`] taken after it has run.
///
/// ```text
/// for each committed entry:
///     put.., delete.., delete_row..      the entry's effects
///     set_consistent_index(index, term)
///     publish()                          readers see the entry whole or not at all
/// now and then:
///     take_commit() -> CommitJob         to the committer's thread: job.run()
/// ```
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    current: Arc<Pending>,
    /// What stands in `current`, published or not.
    mark: Mark,
    bytes: usize,
    /// The last row ever put, which the next one must follow.
    last_row: Option<RowKey>,
    consistent: Consistent,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self, Error> {
        let current = Arc::clone(&shared.lock().current);
        let mut writer = Self {
            shared,
            current,
            mark: Mark::default(),
            bytes: 0,
            last_row: None,
            consistent: Consistent::default(),
        };
        writer.reload()?;
        Ok(writer)
    }

    /// Takes over what the tree says, with an empty buffer.
    fn reload(&mut self) -> Result<(), Error> {
        let view = self.shared.view();
        self.last_row = view.last_tree_row()?;
        self.consistent =
            Consistent { index: meta::consistent_index(&view)?, term: meta::term(&view)? };
        self.current = Arc::clone(&self.shared.lock().current);
        self.mark = Mark::default();
        self.bytes = 0;
        Ok(())
    }

    /// A handle for reading.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// The present including what is not published yet.
    #[must_use]
    pub fn view(&self) -> View {
        let mut view = self.shared.view();
        view.see_current_up_to(self.mark);
        view
    }

    /// Index and term of the last [`Writer::set_consistent_index`], or what the database said when it was opened.
    #[must_use]
    pub fn consistent(&self) -> Consistent {
        self.consistent
    }

    /// Adds a row to the `key` bucket. The value is the encoded `mvccpb.KeyValue`, stored as it is.
    ///
    /// # Panics
    /// When the row does not come after every row put before: revisions only grow, and the order of the buffer and of
    /// the merge in views rests on it. When a number in it is negative: its bytes would sort elsewhere.
    pub fn put_row(&mut self, key: RowKey, value: Bytes) {
        assert_not_negative(key);
        if let Some(last) = self.last_row {
            assert!(key > last, "row {} is put after {}", key.revision, last.revision);
        }
        self.last_row = Some(key);
        self.bytes += value.len() + ROW_OVERHEAD_BYTES;
        self.current.rows.push(self.mark.rows, Row { key, value });
        self.mark.rows = count_on(self.mark.rows);
    }

    /// Removes a row from the `key` bucket (compaction). No harm when it is not there. It must not be put again.
    ///
    /// # Panics
    /// When a number in it is negative.
    pub fn delete_row(&mut self, key: RowKey) {
        assert_not_negative(key);
        self.mark.ops = count_on(self.mark.ops);
        self.bytes += ENTRY_OVERHEAD_BYTES;
        self.current.delete_row(key, self.mark.ops);
    }

    /// Adds or replaces a row of any other bucket. Callers outside this crate go through [`crate::schema`].
    ///
    /// # Panics
    /// For [`Bucket::Key`], see [`Writer::put_row`].
    pub fn put(&mut self, bucket: Bucket, key: Bytes, value: Bytes) {
        self.set(bucket, key, Some(value));
    }

    /// Removes a row of any other bucket. No harm when it is not there.
    ///
    /// # Panics
    /// For [`Bucket::Key`], see [`Writer::delete_row`].
    pub fn delete(&mut self, bucket: Bucket, key: Bytes) {
        self.set(bucket, key, None);
    }

    fn set(&mut self, bucket: Bucket, key: Bytes, value: Option<Bytes>) {
        assert!(bucket != Bucket::Key, "rows of the key bucket have their own way in");
        self.mark.ops = count_on(self.mark.ops);
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + ENTRY_OVERHEAD_BYTES;
        self.current.set(bucket, key, value, self.mark.ops);
    }

    /// Says which entry the rows stand for from now on. Costs nothing, and by itself gives no reason to commit.
    ///
    /// # Panics
    /// When the index goes back: entries would be applied twice after a restart.
    pub fn set_consistent_index(&mut self, index: u64, term: u64) {
        assert!(
            index >= self.consistent.index,
            "consistent index goes from {} to {index}",
            self.consistent.index
        );
        self.consistent = Consistent { index, term };
    }

    /// Lets readers see everything written so far. Call it between entries: what is published together is seen together.
    pub fn publish(&mut self) {
        self.current.publish(self.mark);
    }

    /// Operations that no commit has taken yet: etcd commits at 10 000, and every 100 ms unless there are none.
    #[must_use]
    pub fn pending_ops(&self) -> u64 {
        u64::from(self.mark.rows) + u64::from(self.mark.ops)
    }

    /// Memory that they hold, roughly.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a commit or a defragmentation was taken and has not ended.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.shared.lock().is_busy
    }

    /// Takes what was written so far, with the consistent index of this moment, to be committed by
    /// [`CommitJob::run`] on any thread. Publishes. Call it between entries.
    ///
    /// `None` while another job has not ended, and for ever after one has failed. The buffer is swapped, whatever its
    /// size. A job without operations is fine (a forced commit): it writes the consistent index, if that has moved.
    pub fn take_commit(&mut self) -> Option<CommitJob> {
        self.publish();
        let mut state = self.shared.lock();
        if state.is_busy || state.poison.is_some() {
            return None;
        }
        state.is_busy = true;
        let fresh = Arc::new(Pending::default());
        let taken = std::mem::replace(&mut state.current, Arc::clone(&fresh));
        state.committing = Some(Arc::clone(&taken));
        drop(state);
        self.current = fresh;
        let mark = std::mem::take(&mut self.mark);
        self.bytes = 0;
        Some(CommitJob::new(Arc::clone(&self.shared), taken, mark, self.consistent))
    }

    /// Takes a defragmentation, to be run where commits run. `None` as for [`Writer::take_commit`].
    ///
    /// What is pending stays so until the job has ended: commit first, and let no more gather than memory allows.
    pub fn take_defrag(&mut self) -> Option<DefragJob> {
        let mut state = self.shared.lock();
        if state.is_busy || state.poison.is_some() {
            return None;
        }
        state.is_busy = true;
        drop(state);
        Some(DefragJob::new(Arc::clone(&self.shared)))
    }

    /// Replaces the whole content by the database that came with a raft snapshot (`INDEX.snap.db`), and drops what is
    /// pending. Readers see the new content at once; views taken before keep theirs. Everything that was built from the
    /// old content (key index, leases, members, alarms, auth) must be built again.
    ///
    /// Fails with [`Error::Busy`] while a job runs. Any other error is fatal.
    pub fn install_snapshot(&mut self, snapshot_index: u64) -> Result<(), Error> {
        {
            let state = self.shared.lock();
            if state.is_busy {
                return Err(Error::Busy);
            }
        }
        self.shared.check_health()?;
        let installed = open::install(&self.shared.dir, snapshot_index, self.consistent.index)
            .and_then(|()| open::open_db(&self.shared.dir, &self.shared.options))
            .inspect_err(|error| self.shared.poison(error))?;
        {
            let mut state = self.shared.lock();
            state.tree = installed.read();
            state.db = installed;
            state.committing = None;
            state.current = Arc::new(Pending::default());
        }
        self.reload()?;
        if self.consistent.index < snapshot_index {
            return Err(open::mismatch(&self.shared.dir, self.consistent.index, snapshot_index));
        }
        Ok(())
    }
}

fn assert_not_negative(key: RowKey) {
    assert!(
        key.revision.main >= 0 && key.revision.sub >= 0,
        "revision {} is negative",
        key.revision
    );
}

fn count_on(count: u32) -> u32 {
    count.checked_add(1).expect("fewer than 2^32 operations are made between two commits")
}
