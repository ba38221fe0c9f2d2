//! An unchanging view of the content: a committed tree with up to two buffers on top.

use std::ops::{Bound, Deref, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::pending::{Mark, Pending};
use crate::scan::{Rows, Scan};
use crate::schema::{Bucket, Revision, RowKey};
use crate::{DB_FILE, Error, HashRule, Size, Snapshot, hash};

/// An unchanging view. Cheap to take ([`Reader::view`](crate::Reader::view)); may be shared by threads.
///
/// Reads never wait for the writer's work or for a commit. Rows of the `key` bucket are read without any lock; other
/// buckets take one for a look-up in a small map.
///
/// While it lives it pins the tree's pages and the buffers. Keep it for one request, not for a watch.
#[derive(Debug, Clone)]
pub struct View {
    tree: bolt::ReadTx,
    committing: Option<Layer>,
    current: Layer,
}

/// A buffer, as far as this view sees it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) pending: Arc<Pending>,
    pub(crate) mark: Mark,
}

impl Layer {
    fn of(pending: Arc<Pending>) -> Self {
        let mark = pending.published();
        Self { pending, mark }
    }

    fn is_row_deleted(&self, key: RowKey) -> bool {
        self.pending.is_row_deleted(key, self.mark.ops)
    }

    fn row(&self, key: RowKey) -> Option<&Bytes> {
        self.pending.rows.find(self.mark.rows, key)
    }

    fn get(&self, bucket: Bucket, key: &[u8]) -> Option<Option<Bytes>> {
        if self.mark.ops == 0 {
            return None;
        }
        self.pending.read().get(bucket, key, self.mark.ops).map(|value| value.cloned())
    }
}

/// Bytes of a row, wherever they are. Dereferences to the bytes; lives no longer than the view.
#[derive(Debug, Clone)]
pub struct Value<'v>(Held<'v>);

#[derive(Debug, Clone)]
enum Held<'v> {
    /// In the mapped file.
    Tree(&'v [u8]),
    /// In a buffer that the view holds.
    Row(&'v Bytes),
    /// Taken out of a buffer's map.
    Entry(Bytes),
}

impl<'v> Value<'v> {
    pub(crate) const fn of_tree(bytes: &'v [u8]) -> Self {
        Self(Held::Tree(bytes))
    }

    pub(crate) const fn of_row(bytes: &'v Bytes) -> Self {
        Self(Held::Row(bytes))
    }

    pub(crate) const fn of_entry(bytes: Bytes) -> Self {
        Self(Held::Entry(bytes))
    }

    /// Bytes that outlive the view: shared with the buffer where they are in one, else copied out of the file.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match &self.0 {
            Held::Tree(bytes) => Bytes::copy_from_slice(bytes),
            Held::Row(bytes) => Bytes::clone(bytes),
            Held::Entry(bytes) => bytes.clone(),
        }
    }
}

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Tree(bytes) => bytes,
            Held::Row(bytes) => bytes,
            Held::Entry(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Value<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Reads single rows of the `key` bucket, remembering where the last one was.
#[derive(Debug)]
pub struct RowReader<'v> {
    view: &'v View,
    cursor: bolt::Cursor<'v>,
    /// The row of the tree that the cursor is on.
    at: Option<Revision>,
}

impl<'v> RowReader<'v> {
    /// One row, as [`View::row`] gives it.
    pub fn row(&mut self, key: RowKey) -> Result<Option<Value<'v>>, Error> {
        if let Some(found) = self.view.pending_row(key) {
            return Ok(found);
        }
        let encoded = key.encode();
        // Keys that were written one after the other are often read so too: then the row is the next one.
        let is_next_likely =
            self.at.is_some_and(|at| at < key.revision && key.revision.main - at.main <= 1);
        if is_next_likely {
            let found = self.cursor.next()?;
            if let Some((at, value)) = found
                && at == encoded.as_ref()
            {
                self.at = Some(key.revision);
                return Ok(Some(Value::of_tree(value)));
            }
        }
        let found = self.cursor.seek(encoded.as_ref())?;
        match found {
            Some((at, value)) if at == encoded.as_ref() => {
                self.at = Some(key.revision);
                Ok(Some(Value::of_tree(value)))
            }
            Some(_) | None => {
                self.at = None;
                Ok(None)
            }
        }
    }
}

impl View {
    pub(crate) fn new(
        tree: bolt::ReadTx,
        committing: Option<Arc<Pending>>,
        current: Arc<Pending>,
    ) -> Self {
        Self { tree, committing: committing.map(Layer::of), current: Layer::of(current) }
    }

    /// For the writer: see also what is not published.
    pub(crate) fn see_current_up_to(&mut self, mark: Mark) {
        self.current.mark = mark;
    }

    /// One row of the `key` bucket. For many of them, [`View::row_reader`] is faster.
    pub fn row(&self, key: RowKey) -> Result<Option<Value<'_>>, Error> {
        match self.pending_row(key) {
            Some(found) => Ok(found),
            None => {
                Ok(self.tree_bucket(Bucket::Key)?.get(key.encode().as_ref())?.map(Value::of_tree))
            }
        }
    }

    /// For reading many rows in any order, best in ascending order of revision where that is possible.
    pub fn row_reader(&self) -> Result<RowReader<'_>, Error> {
        Ok(RowReader { view: self, cursor: self.tree_bucket(Bucket::Key)?.cursor(), at: None })
    }

    /// What the buffers say about a row: nothing, deleted (`Some(None)`), or a value.
    fn pending_row(&self, key: RowKey) -> Option<Option<Value<'_>>> {
        for layer in self.layers() {
            if layer.is_row_deleted(key) {
                return Some(None);
            }
            if let Some(value) = layer.row(key) {
                return Some(Some(Value::of_row(value)));
            }
        }
        None
    }

    /// Rows of the `key` bucket in order of revision.
    ///
    /// Nothing is copied but the list of rows that a compaction is deleting just now. To go on behind a row in a later
    /// view, start at `(Bound::Excluded(revision), ..)`.
    pub fn rows(&self, range: impl RangeBounds<Revision>) -> Result<Rows<'_>, Error> {
        let start = match range.start_bound() {
            Bound::Unbounded => RowKey::put(Revision::default()),
            Bound::Included(&revision) => RowKey::put(revision),
            Bound::Excluded(&revision) => RowKey::tombstone(revision).successor(),
        };
        let end = match range.end_bound() {
            Bound::Unbounded => None,
            Bound::Included(&revision) => Some(RowKey::tombstone(revision).successor()),
            Bound::Excluded(&revision) => Some(RowKey::put(revision)),
        };
        Rows::new(self, start, end)
    }

    /// One row of any bucket. For the `key` bucket, [`View::row`] is the direct way.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Value<'_>>, Error> {
        if bucket == Bucket::Key {
            return match RowKey::decode(key) {
                Ok(key) => self.row(key),
                Err(_) => Ok(None),
            };
        }
        for layer in self.layers() {
            if let Some(found) = layer.get(bucket, key) {
                return Ok(found.map(Value::of_entry));
            }
        }
        Ok(self.tree_bucket(bucket)?.get(key)?.map(Value::of_tree))
    }

    /// Rows of any bucket with keys in `[start, end)`, in order. What the buffers say about the range is collected
    /// first, so this is for buckets that see few writes; for the `key` bucket it is [`View::rows`] with encoded keys.
    pub fn scan<'v>(
        &'v self,
        bucket: Bucket,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<Scan<'v>, Error> {
        Scan::new(self, bucket, start, end)
    }

    /// Hash over all buckets (`Maintenance.Hash`). Commit first, as etcd does, so that members compare what is on disk.
    pub fn hash(&self, rule: HashRule) -> Result<u32, Error> {
        hash::hash(self, rule)
    }

    /// Size of the committed tree.
    #[must_use]
    pub fn size(&self) -> Size {
        let stats = self.tree.stats();
        Size { total_bytes: stats.size_bytes, in_use_bytes: stats.size_in_use_bytes() }
    }

    /// The committed tree as a stream of the bytes of a database file. What is pending is not in it: commit first.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.tree)
    }

    /// What `bbolt check` would find wrong with the committed tree; empty when sound. Walks the whole file.
    #[must_use]
    pub fn check(&self) -> Vec<bolt::Problem> {
        self.tree.check()
    }

    /// The buffers, newest first.
    pub(crate) fn layers(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        std::iter::once(&self.current).chain(&self.committing)
    }

    pub(crate) fn tree_bucket(&self, bucket: Bucket) -> Result<bolt::Bucket<'_>, Error> {
        self.tree
            .bucket(bucket.name().as_bytes())?
            .ok_or_else(|| Error::BucketMissing { file: DB_FILE.to_owned(), bucket })
    }

    /// The last row of the committed tree, whatever the buffers say.
    pub(crate) fn last_tree_row(&self) -> Result<Option<RowKey>, Error> {
        let mut cursor = self.tree_bucket(Bucket::Key)?.cursor();
        match cursor.last()? {
            None => Ok(None),
            Some((key, _)) => self.decode_row_key(key).map(Some),
        }
    }

    pub(crate) fn decode_row_key(&self, key: &[u8]) -> Result<RowKey, Error> {
        RowKey::decode(key)
            .map_err(|malformed| self.corrupt(Bucket::Key, key, malformed.to_string()))
    }

    /// The error for a row that etcd could not have written.
    #[must_use]
    pub fn corrupt(&self, bucket: Bucket, key: &[u8], what: String) -> Error {
        Error::CorruptRow {
            file: DB_FILE.to_owned(),
            bucket,
            key: key.escape_ascii().to_string(),
            what,
        }
    }

    pub(crate) fn get_u64(&self, bucket: Bucket, key: &[u8]) -> Result<Option<u64>, Error> {
        let Some(value) = self.get(bucket, key)? else { return Ok(None) };
        let Ok(bytes) = <[u8; 8]>::try_from(&*value) else {
            return Err(self.corrupt(bucket, key, format!("{} bytes instead of 8", value.len())));
        };
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    pub(crate) fn get_text(&self, bucket: Bucket, key: &[u8]) -> Result<Option<String>, Error> {
        let Some(value) = self.get(bucket, key)? else { return Ok(None) };
        match std::str::from_utf8(&value) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(self.corrupt(bucket, key, "not UTF-8".to_owned())),
        }
    }

    pub(crate) fn get_json<T: DeserializeOwned>(
        &self,
        bucket: Bucket,
        key: &[u8],
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(bucket, key)? else { return Ok(None) };
        self.parse_json(bucket, key, &value).map(Some)
    }

    pub(crate) fn parse_json<T: DeserializeOwned>(
        &self,
        bucket: Bucket,
        key: &[u8],
        value: &[u8],
    ) -> Result<T, Error> {
        serde_json::from_slice(value)
            .map_err(|error| self.corrupt(bucket, key, format!("JSON: {error}")))
    }
}
