//! bbolt's file format and an engine for it: pages, buckets, cursors, transactions, integrity check.
//!
//! One file holds nested buckets of keys in byte order. There is one writer at a time and any number of readers, and
//! neither waits for the other: a commit writes changed pages to new places (copy on write), syncs, and then writes one of
//! the two meta pages, which makes the new state the newest. Files are byte-compatible with those of Go's bbolt 1.3 to 1.5
//! in both directions.
//!
//! ```text
//! page 0   meta of an even transaction ─┐ the valid one with the higher number counts
//! page 1   meta of an odd transaction  ─┤
//!                                       └─► root page ─► leaf: bucket "key" ─► branch ─► leaf: keys and values
//! page 2.. pages of trees, free pages                     bucket "meta" (inline: the leaf stands in the value)
//! ```
//!
//! Where to read on: [`Db`] opens and publishes states, `snapshot` and `bucket` read them, `write` changes them, `free`
//! decides when a page may be used again, [`ReadTx::check`] says whether all is well.
//!
//! Invariants
//! - the last committed state is whole on the disk at every moment, whatever is being written;
//! - a page is not written to while any reader's state reaches it;
//! - no input makes this crate panic, recurse or allocate without a bound: every number from the file is checked, and damage is
//!   an [`Error::Corrupt`] that names file, page and offset;
//! - after a failed write or sync no further write is taken.
//!
//! Deliberately absent: etcd's bucket names, clocks, threads, and batching of transactions.

mod bucket;
mod check;
mod copy;
mod db;
mod error;
mod free;
mod freelist;
#[doc(hidden)]
pub mod fuzz;
mod meta;
mod page;
mod snapshot;
mod write;

pub use bucket::{Bucket, Cursor, Entry};
pub use check::{PROBLEMS_MAX, Problem};
pub use copy::CopyStream;
pub use db::{Db, OpenReport, Options, Stats};
pub use error::Error;
pub use snapshot::ReadTx;
pub use write::{BucketMut, WriteTx};

/// Longest key, as in bbolt.
pub const KEY_BYTES_MAX: usize = 32_768;
/// Longest value, as in bbolt.
pub const VALUE_BYTES_MAX: usize = (1 << 31) - 2;

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitStats {
    /// Number of the newest state; the one before when there was nothing to write.
    pub tx_id: u64,
    /// Pages of trees (and of the free list), overflow included.
    pub pages_written: u64,
    /// Bytes handed to the file, the meta page included.
    pub bytes_written: u64,
    /// Calls that wrote them.
    pub writes: u64,
    /// Nodes that became more than one page.
    pub nodes_split: u64,
    /// Nodes that joined a neighbour or were removed.
    pub nodes_merged: u64,
    /// How long its steps took; zero but for [`WriteTx::commit_timed`].
    pub times: CommitTimes,
}

/// How long the steps of a commit took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitTimes {
    /// Small nodes join their neighbours.
    pub rebalance: std::time::Duration,
    /// Nodes split and get pages.
    pub spill: std::time::Duration,
    /// Pages are written and made durable.
    pub write: std::time::Duration,
}
