//! The backend: etcd's rows in a bbolt file, with writes that gather in memory and reads that never wait.
//!
//! Owns the buffers between the apply stage and the file, the merged views over both, the schema (every bucket and key
//! layout), and `consistent_index`, which is committed in the same transaction as the rows that it vouches for. Knows
//! nothing of what a revision means; keeps no clock and no thread: *when* to commit is the caller's policy, and *where*
//! too, since a commit is a job to be run by whoever may wait for a disk.
//!
//! ```text
//!   apply stage                         committer                       any thread
//!   Writer::put_row, put, delete        CommitJob::run                  Reader::view -> View
//!        |                                   |                              |
//!        v            take_commit()          v            one transaction   v
//!   [ current buffer ] ---- swap ----> [ committing ] ---------------> [ tree at tx n ]
//!        ^                                   ^                              ^
//!        +------------------ a view is these three, each at one moment -----+
//! ```
//!
//! ```no_run
//! # fn main() -> Result<(), backend::Error> {
//! # let snap_dir: std::sync::Arc<dyn vfs::Dir> = unimplemented!();
//! use backend::schema::{Revision, RowKey};
//! let (mut writer, reader) = backend::open(&snap_dir, &backend::Options::default())?;
//!
//! writer.put_row(RowKey::put(Revision::first_of(2)), bytes::Bytes::from_static(b"an encoded KeyValue"));
//! writer.set_consistent_index(7, 1);
//! writer.publish();
//!
//! let view = reader.view();
//! for row in view.rows(Revision::first_of(2)..)? {
//!     let (key, value) = row?;
//!     println!("{} {}", key.revision, value.len());
//! }
//!
//! if let Some(job) = writer.take_commit() {
//!     job.run()?; // elsewhere
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariants
//! - rows of the `key` bucket are put in strictly increasing order of revision, and a deleted one never comes back;
//! - one job (commit or defragmentation) at a time; a failed commit ends the backend ([`Reader::check_health`]);
//! - a view's answers never change, whatever is written, committed, compacted, defragmented or installed meanwhile.
//!
//! Upstream: `server/mvcc/backend` (3.5), `server/storage/backend` (3.6). Differs: no reader and no writer ever waits
//! for a commit or a defragmentation; a commit that would change nothing writes nothing.

mod commit;
mod defrag;
mod error;
mod hash;
mod open;
mod pending;
mod row_log;
mod scan;
pub mod schema;
mod shared;
mod snapshot;
mod view;
mod writer;

pub use commit::{CommitJob, CommitStats};
pub use defrag::{DefragJob, DefragStats};
pub use error::Error;
pub use hash::HashRule;
pub use open::{DB_FILE, Options, exists, open, open_at_snapshot, open_view, snapshot_db_name};
pub use scan::{Rows, Scan};
pub use shared::{Reader, Size};
pub use snapshot::Snapshot;
pub use view::{RowReader, Value, View};
pub use writer::{Consistent, Writer};

pub(crate) use open::TMP_PREFIX;
