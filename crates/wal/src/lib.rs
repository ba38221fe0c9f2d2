//! The write-ahead log and the raft snapshot files, in etcd's byte formats.
//!
//! ```text
//! member/wal/SEQ-INDEX.wal     segments of records; only the last one grows
//! member/wal/0.tmp, 1.tmp      the next segment, reserved ahead of time
//! member/snap/TERM-INDEX.snap  raft snapshots (module `snap`)
//! ```
//!
//! Starting a member: [`valid_snapshots`] says which snapshots the log vouches for, [`snap::load_newest`] picks one,
//! and [`Wal::open`] reads everything behind it. Running: [`Wal::append`] for each batch, [`Preallocator::run`] from
//! another thread whenever a segment was cut, and after a snapshot [`Wal::save_snapshot`], [`Wal::release_to`] and, now
//! and then, [`purge`].
//!
//! Invariants
//! - what [`Wal::append`] or [`Wal::save_snapshot`] returned from is durable (but a change of `commit` alone, which
//!   may be lost and is known again from the leader);
//! - behind the last record of the last segment there are only zeros or the end of the file;
//! - a segment that is not the last ends exactly after its last record, and was durable before the next one appeared;
//! - after a failed write or sync the log refuses everything ([`Error::Failed`]): what the disk then holds is unknown.
//!
//! No threads, clock or randomness here, and files only through `vfs`. Raft decisions are elsewhere: this crate does
//! not know what an entry means.
//!
//! Upstream: server/storage/wal and server/etcdserver/api/snap (3.5.30).

mod error;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod log;
mod prealloc;
mod recover;
mod segment;
pub mod snap;

pub use error::Error;
pub use log::{
    Appended, Batch, Options, Recovered, Repair, Wal, exists, purge, read_only, valid_snapshots,
};
pub use prealloc::Preallocator;

/// Length at which a segment is cut: etcd's `SegmentSizeBytes`, 64 * 1000 * 1000 and not MiB.
pub const SEGMENT_BYTES: u64 = 64_000_000;
