//! Multi-version store: what every key was at every revision, over the rows of the `key` bucket.
//!
//! ```text
//!   one writer (the apply thread)                 many readers (worker threads)
//!   Store ── begin ──► WriteTxn                   Reader::range, txn, hash_kv
//!     │                  │ rows ──► backend::Writer        │ index (read lock, short) + backend view
//!     │                  │ index (write lock, short)       ▼
//!     │                  ▼ finish                      encoded rows
//!     │               Changes ──► Arc<EventBatch> ──► watch::Hub ──► messages for each stream
//!     └─ compact ──► Compaction: steps that find rows, and deletions for the writer
//! ```
//!
//! - [`Store`] is owned by the state machine and is the only writer. [`Store::put`], [`Store::delete_range`] and
//!   [`Store::txn`] execute etcd's requests; [`Store::begin`] is the level below (lease revocation uses it).
//! - [`Reader`] answers range and read-only txn requests from any thread, never blocked by a commit or a compaction.
//! - [`check`] refuses malformed requests before they are proposed.
//! - [`Compaction`] removes what a compaction made invisible, a batch at a time; a crash in between repeats work.
//! - [`watch::Hub`] hands events to watchers, live and from history.
//!
//! Invariants
//! - a revision is visible to readers only when all of its rows and index entries are in place;
//! - rows are never changed, only added by the writer and removed by a compaction;
//! - what a range or a hash reads is complete: the index does not forget a revision that a reader still visits.
//!
//! Deliberately absent: who may read or write (`auth`), what a lease is (`lease`), quotas and alarms (`machine`),
//! waiting for anything, threads, clocks.

pub mod check;
mod compaction;
mod error;
mod hash;
mod index;
mod key_range;
mod packed;
mod range;
mod reader;
mod restore;
mod row;
mod rules;
mod shared;
mod store;
mod txn;
pub mod watch;
mod write;

pub use compaction::{Compaction, CompactionStep};
pub use error::{Error, RequestError, StorageError};
pub use hash::{HashKv, HashedAt};
pub use key_range::KeyRange;
pub use range::{EncodedRange, KeyValues};
pub use reader::Reader;
pub use restore::{Reloaded, Restored};
pub use rules::Rules;
pub use store::Store;
pub use watch::{Event, EventBatch, EventKind};
pub use write::{Changes, LeaseChange, WriteTxn};

/// How many cases a property test runs: `default`, or what `RETCD_PROPTEST_CASES` says.
#[cfg(test)]
fn cases(default: u32) -> u32 {
    std::env::var("RETCD_PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(default)
}

/// Revision of an empty store; the first write makes revision 2.
pub const FIRST_REVISION: i64 = 1;
