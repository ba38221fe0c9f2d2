//! Copies of a whole state: the snapshot stream, and the compacting copy for defragmentation.

use crate::meta::Meta;
use crate::page::{Damage, PageId, TxId};
use crate::{BucketMut, Cursor, Db, Error, ReadTx, WriteTx};

/// A pull-style reader over the stream of a snapshot.
///
/// Page 0 and page 1 are metas of the same state, the second with the transaction number before; then come the pages as
/// they are in the file. The state stays pinned until this is dropped.
#[derive(Debug)]
pub struct CopyStream {
    tx: ReadTx,
    metas: Vec<u8>,
    position: u64,
}

impl CopyStream {
    pub(crate) fn new(tx: ReadTx) -> Self {
        let meta = tx.snapshot.meta;
        let mut metas = meta.encode_page(0);
        // A free list that is stored stays where it is; both metas may name it.
        let before = Meta { tx: TxId(meta.tx.0.saturating_sub(1)), ..meta };
        metas.extend_from_slice(&before.encode_page(1));
        Self { tx, metas, position: 0 }
    }

    /// Length of the whole stream.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.tx.size_bytes()
    }

    /// What is still to come.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        self.len_bytes() - self.position
    }

    /// Fills `buf` as far as the stream goes; returns the number of bytes, 0 only at the end (or for an empty `buf`).
    ///
    /// Reads the file, not the map: free pages are part of the stream, and a commit may be writing to them.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        if let Some(rest) = self.metas.get(crate::page::index(self.position)..) {
            filled = rest.len().min(buf.len());
            buf[..filled].copy_from_slice(&rest[..filled]);
        }
        let want = usize::try_from(self.remaining_bytes()).unwrap_or(usize::MAX).min(buf.len());
        if filled < want {
            let file = &self.tx.snapshot.file;
            let at = self.position + filled as u64;
            let read = file.io("read", file.file.read_at(&mut buf[filled..want], at))?;
            if read < want - filled {
                let page = PageId((at + read as u64) / u64::from(self.tx.page_size()));
                return Err(self
                    .tx
                    .snapshot
                    .corrupt(Damage::new(page, "file ends before its high water mark")));
            }
        }
        self.position += want as u64;
        Ok(want)
    }
}

/// A batch of the compacting copy ends at this many keys, as etcd's does,
const BATCH_KEYS: usize = 10_000;
/// or at this many bytes: values are up to megabytes.
const BATCH_BYTES: usize = 16 << 20;
/// A copy is made for its size. Etcd leaves a tenth free (`defragdb`), which nothing uses in a bucket that is appended to; in
/// others a full page splits at the first insertion.
const COPY_FILL_PERCENT: f32 = 1.0;
/// Buckets within buckets. Nobody goes beyond two or three; a hostile file could.
const NESTING_MAX: usize = 64;

pub(crate) fn copy_compact(source: &ReadTx, target: &Db) -> Result<(), Error> {
    // Half a copy is thrown away, so only the end has to be durable.
    target.without_syncs(|| copy_buckets(source, target))
}

fn copy_buckets(source: &ReadTx, target: &Db) -> Result<(), Error> {
    // Buckets whose content is still to be copied, as paths of names. They exist in the target already.
    let mut todo: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let mut bucket = source.snapshot.root_bucket();
        for name in &path {
            bucket = bucket.bucket(name)?.ok_or(Error::BucketNotFound)?;
        }
        let mut cursor = bucket.cursor();
        let mut next = cursor.first()?;
        while next.is_some() {
            let mut tx = target.write()?;
            next = copy_batch(&mut tx, &path, &mut cursor, next, &mut todo, source)?;
            tx.commit()?;
        }
    }
    Ok(())
}

/// Copies entries from `next` on until the batch is full; returns the entry to go on with.
fn copy_batch<'a>(
    tx: &mut WriteTx,
    path: &[Vec<u8>],
    cursor: &mut Cursor<'a>,
    mut next: Option<crate::Entry<'a>>,
    todo: &mut Vec<Vec<Vec<u8>>>,
    source: &'a ReadTx,
) -> Result<Option<crate::Entry<'a>>, Error> {
    let mut target = open_path(tx, path)?;
    target.set_fill_percent(COPY_FILL_PERCENT);
    let mut batch: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    let mut batch_bytes = 0;
    while let Some((key, value)) = next {
        if cursor.is_bucket() {
            if path.len() >= NESTING_MAX {
                let what = format!("buckets are nested more than {NESTING_MAX} deep");
                return Err(source.snapshot.corrupt(Damage::new(source.snapshot.meta.root, what)));
            }
            let sequence = match cursor.raw()? {
                Some((home, value)) => {
                    let opened = source.snapshot.root_bucket().open(home, value);
                    opened.map_err(|damage| source.snapshot.corrupt(damage))?.sequence
                }
                None => 0,
            };
            target.create_bucket(key)?.set_sequence(sequence)?;
            let mut nested = path.to_vec();
            nested.push(key.to_vec());
            todo.push(nested);
        } else {
            batch.push((key, Some(value)));
        }
        batch_bytes += key.len() + value.len();
        next = cursor.next()?;
        if batch.len() >= BATCH_KEYS || batch_bytes >= BATCH_BYTES {
            break;
        }
    }
    target.apply_sorted(batch)?;
    Ok(next)
}

fn open_path<'tx>(tx: &'tx mut WriteTx, path: &[Vec<u8>]) -> Result<BucketMut<'tx>, Error> {
    let mut bucket = tx.root();
    for name in path {
        bucket = bucket.into_bucket(name)?.ok_or(Error::BucketNotFound)?;
    }
    Ok(bucket)
}
