//! Keys of the `key` bucket.
//!
//! ```text
//! 0        8   9        17  18
//! | main   | _ | sub    | t |      big-endian i64 each; the last byte only for a tombstone
//! ```
//!
//! The order of [`RowKey`] is the order of the bytes, since neither number is ever negative.

use std::fmt;

const SEPARATOR: u8 = b'_';
const TOMBSTONE: u8 = b't';
const PLAIN_LEN: usize = 17;
const TOMBSTONE_LEN: usize = 18;

/// When something changed: `main` counts transactions, `sub` the changes inside one from 0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    /// The store's revision.
    pub main: i64,
    /// Place in the transaction.
    pub sub: i64,
}

impl Revision {
    /// The revision of the given transaction and place.
    #[must_use]
    pub const fn new(main: i64, sub: i64) -> Self {
        Self { main, sub }
    }

    /// The first possible change of a transaction: `main` and 0.
    #[must_use]
    pub const fn first_of(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// The form in which `meta` keeps compaction revisions: 17 bytes.
    #[must_use]
    pub fn encode(self) -> EncodedRowKey {
        RowKey::put(self).encode()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.main, self.sub)
    }
}

/// Key of one row of the `key` bucket. A revision has one row: a value or a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    /// When the row was written.
    pub revision: Revision,
    /// Whether it says that the key was deleted.
    pub is_tombstone: bool,
}

impl RowKey {
    /// Row of a put.
    #[must_use]
    pub const fn put(revision: Revision) -> Self {
        Self { revision, is_tombstone: false }
    }

    /// Row of a delete.
    #[must_use]
    pub const fn tombstone(revision: Revision) -> Self {
        Self { revision, is_tombstone: true }
    }

    /// The bytes on disk.
    #[must_use]
    pub fn encode(self) -> EncodedRowKey {
        let [m0, m1, m2, m3, m4, m5, m6, m7] = self.revision.main.to_be_bytes();
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.revision.sub.to_be_bytes();
        EncodedRowKey {
            bytes: [
                m0, m1, m2, m3, m4, m5, m6, m7, SEPARATOR, s0, s1, s2, s3, s4, s5, s6, s7,
                TOMBSTONE,
            ],
            is_tombstone: self.is_tombstone,
        }
    }

    /// Reads a key from disk.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedRowKey> {
        let is_tombstone = match bytes.len() {
            PLAIN_LEN => false,
            TOMBSTONE_LEN if bytes.last() == Some(&TOMBSTONE) => true,
            _ => return Err(MalformedRowKey),
        };
        let Some((main, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(MalformedRowKey);
        };
        let Some((&SEPARATOR, rest)) = rest.split_first() else { return Err(MalformedRowKey) };
        let Some((sub, _)) = rest.split_first_chunk::<8>() else { return Err(MalformedRowKey) };
        let (main, sub) = (i64::from_be_bytes(*main), i64::from_be_bytes(*sub));
        if main < 0 || sub < 0 {
            return Err(MalformedRowKey);
        }
        Ok(Self { revision: Revision { main, sub }, is_tombstone })
    }

    /// The next possible key.
    pub(crate) fn successor(self) -> Self {
        if !self.is_tombstone {
            return Self::tombstone(self.revision);
        }
        let Revision { main, sub } = self.revision;
        match sub.checked_add(1) {
            Some(sub) => Self::put(Revision { main, sub }),
            None => Self::put(Revision::first_of(main.saturating_add(1))),
        }
    }
}

/// The bytes of a [`RowKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedRowKey {
    bytes: [u8; TOMBSTONE_LEN],
    is_tombstone: bool,
}

impl AsRef<[u8]> for EncodedRowKey {
    fn as_ref(&self) -> &[u8] {
        let (plain, _) = self.bytes.split_at(PLAIN_LEN);
        if self.is_tombstone { &self.bytes } else { plain }
    }
}

/// A key of the `key` bucket that is not a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a revision (8 bytes, '_', 8 bytes, perhaps 't')")]
pub struct MalformedRowKey;
