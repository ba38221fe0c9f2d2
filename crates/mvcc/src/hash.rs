//! Hash over the history (`Maintenance.HashKV`), equal to etcd's at every revision.
//!
//! CRC-32C over the name of the bucket, then key and value of each row up to the revision asked for, in order, except
//! - rows at or below the compact revision that a compaction at the revision asked for would remove, whether it has run
//!   or not (this rule is off when it would remove *every* such row), and
//! - tombstones exactly at the compact revision, which old versions did not keep.
//!
//! A finished compaction leaves the hash over what it saw, with the compact revision before it; [`HashCache`] keeps a few.
//! Members compare hashes of the same revision *and* compact revision, so the cache is part of the behaviour.
//!
//! Upstream: server/storage/mvcc/hash.go (3.5.30: server/mvcc/hash.go).

use backend::schema::{Bucket, Revision, RowKey};

use crate::{
    Error, StorageError,
    index::{Kept, KeyIndex},
    row::key_of,
    shared::{NEVER_COMPACTED, Shared},
};

/// How many hashes of finished compactions are kept; etcd's number.
const CACHED: usize = 10;

/// A hash, and the two revisions that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedAt {
    /// CRC-32C.
    pub hash: u32,
    /// The last revision that is in.
    pub revision: i64,
    /// The compact revision that it was computed with; -1 if there was none.
    pub compact_revision: i64,
}

/// Answer to a HashKV request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hashed: HashedAt,
    /// The store's revision, for the header.
    pub current_revision: i64,
}

/// Hashes of the newest compactions, by revision.
#[derive(Debug, Default)]
pub(crate) struct HashCache(Vec<HashedAt>);

impl HashCache {
    pub(crate) fn store(&mut self, hashed: HashedAt) {
        self.0.push(hashed);
        self.0.sort_by_key(|hashed| hashed.revision);
        let surplus = self.0.len().saturating_sub(CACHED);
        self.0.drain(..surplus);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The newest first.
    pub(crate) fn newest_first(&self) -> Vec<HashedAt> {
        self.0.iter().rev().copied().collect()
    }

    fn find(&self, revision: i64) -> Option<HashedAt> {
        self.0.iter().copied().find(|hashed| hashed.revision == revision)
    }
}

/// The hash in the making.
#[derive(Debug, Clone)]
pub(crate) struct KvHasher {
    hash: u32,
    revision: i64,
    compact_revision: i64,
    /// Whether any row would be kept. If none is, etcd takes its set of rows to keep as absent, and skips nothing.
    keeps_any: bool,
}

impl KvHasher {
    pub(crate) fn new(revision: i64, compact_revision: i64, keeps_any: bool) -> Self {
        let hash = crc32c::crc32c(Bucket::Key.name().as_bytes());
        KvHasher { hash, revision, compact_revision, keeps_any }
    }

    /// Adds a row, if it counts. `kept` says which row of the key would be kept at the revision of the hash.
    pub(crate) fn add(
        &mut self,
        key: RowKey,
        value: &[u8],
        kept: impl FnOnce(&[u8]) -> Option<Kept>,
    ) -> Result<(), StorageError> {
        let Revision { main, sub } = key.revision;
        if main > self.revision {
            return Ok(());
        }
        if main <= self.compact_revision && self.keeps_any {
            let user_key = key_of(value).map_err(|malformed| StorageError::Row {
                main,
                sub,
                what: malformed.0,
            })?;
            if kept(user_key).is_none_or(|kept| kept.revision != key.revision) {
                return Ok(());
            }
        }
        if key.is_tombstone && main == self.compact_revision {
            return Ok(());
        }
        self.hash = crc32c::crc32c_append(self.hash, key.encode().as_ref());
        self.hash = crc32c::crc32c_append(self.hash, value);
        Ok(())
    }

    pub(crate) fn finish(&self) -> HashedAt {
        HashedAt {
            hash: self.hash,
            revision: self.revision,
            compact_revision: self.compact_revision,
        }
    }
}

/// What HashKV keeps of a key: as a compaction, but for the tombstone at the revision itself.
fn kept_by_hash(index: &KeyIndex, key: &[u8], revision: i64) -> Option<Kept> {
    index.kept_at(key, revision).filter(|kept| !kept.is_tombstone)
}

/// See [`crate::Reader::hash_kv`].
pub(crate) fn hash_kv(shared: &Shared, revision: i64) -> Result<HashKv, Error> {
    // By the number asked for, 0 too: after a compaction at 0, etcd answers a question about "now" with that hash.
    let cached = shared.hashes().find(revision);
    if let Some(hashed) = cached {
        return Ok(HashKv { hashed, current_revision: shared.current() });
    }
    let source = shared.source(revision)?;
    if revision < 0 {
        // etcd lets it pass, as a revision before all rows.
        let hashed = KvHasher::new(revision, source.compacted, false).finish();
        return Ok(HashKv { hashed, current_revision: source.current });
    }
    let has_compacted = source.compacted > NEVER_COMPACTED;
    let keeps_any = has_compacted && source.content()?.index.keeps_any(source.at, false);
    let mut hasher = KvHasher::new(source.at, source.compacted, keeps_any);
    for row in source.view.rows(..Revision::first_of(source.at.saturating_add(1)))? {
        let (key, value) = row?;
        let mut replaced = None;
        hasher.add(key, &value, |user_key| match source.content() {
            Ok(content) => kept_by_hash(&content.index, user_key, source.at),
            Err(error) => {
                replaced = Some(error);
                None
            }
        })?;
        if let Some(error) = replaced {
            return Err(error.into());
        }
    }
    Ok(HashKv { hashed: hasher.finish(), current_revision: source.current })
}
