//! Opening the database: leftovers, missing buckets, and the database that comes with a raft snapshot.

use std::io;
use std::sync::Arc;

use vfs::{Dir, OpenMode};

use crate::error::io_error;
use crate::schema::Bucket;
use crate::shared::{Reader, Shared};
use crate::{Error, View, Writer};

/// Name of the database in the snapshot directory.
pub const DB_FILE: &str = "db";

/// Start of the name of a defragmentation's unfinished copy.
pub(crate) const TMP_PREFIX: &str = "db.tmp.";

/// How to open the backend.
#[derive(Debug, Clone)]
pub struct Options {
    /// Page size of a new file; an existing one keeps its own.
    pub page_size: u32,
    /// Address space to reserve, so that a growing file needs no new map.
    pub initial_map_bytes: u64,
    /// Whether commits are synced. Off only for files that may be lost.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            page_size: 4096,
            // What etcd maps by default: no quota that anybody should set needs a second map.
            initial_map_bytes: 10 << 30,
            sync: true,
        }
    }
}

impl Options {
    /// Options for a member with this quota (0: the default, negative: none), as etcd sizes its map.
    #[must_use]
    pub fn with_quota(quota_bytes: i64) -> Self {
        match u64::try_from(quota_bytes) {
            Ok(quota) if quota > 0 => {
                Self { initial_map_bytes: quota.saturating_add(quota / 10), ..Self::default() }
            }
            Ok(_) | Err(_) => Self::default(),
        }
    }

    pub(crate) fn bolt(&self) -> bolt::Options {
        bolt::Options {
            page_size: self.page_size,
            initial_map_bytes: self.initial_map_bytes,
            sync: self.sync,
            ..bolt::Options::default()
        }
    }
}

/// Opens `db` in the snapshot directory, making it (with all ten buckets) when missing. Removes what an interrupted
/// defragmentation left.
///
/// Whether a missing database is an error is for the caller to say before, see [`exists`].
pub fn open(snap_dir: &Arc<dyn Dir>, options: &Options) -> Result<(Writer, Reader), Error> {
    remove_leftovers(snap_dir)?;
    let db = open_db(snap_dir, options)?;
    let shared = Arc::new(Shared::new(Arc::clone(snap_dir), options.clone(), db));
    let writer = Writer::new(Arc::clone(&shared))?;
    Ok((writer, Reader { shared }))
}

/// Opens the database of a member whose newest raft snapshot is at `snapshot_index` (0: none).
///
/// If the rows are behind the snapshot, the member stopped between receiving the snapshot and swapping the database:
/// `INDEX.snap.db` takes its place now. When it is missing, the member cannot start.
pub fn open_at_snapshot(
    snap_dir: &Arc<dyn Dir>,
    options: &Options,
    snapshot_index: u64,
) -> Result<(Writer, Reader), Error> {
    let (writer, reader) = open(snap_dir, options)?;
    let found = writer.consistent().index;
    if found >= snapshot_index {
        return Ok((writer, reader));
    }
    // Both handles: the old file's lock goes with the last one.
    drop((writer, reader));
    install(snap_dir, snapshot_index, found)?;
    let (writer, reader) = open(snap_dir, options)?;
    let found = writer.consistent().index;
    if found < snapshot_index {
        return Err(mismatch(snap_dir, found, snapshot_index));
    }
    Ok((writer, reader))
}

/// The content of a database file under any name, for tools: opened for reading only, with a shared lock, which is
/// released with the view. The file must exist; nothing is repaired or added to it.
pub fn open_view(dir: &Arc<dyn Dir>, name: &str) -> Result<View, Error> {
    let options = bolt::Options { read_only: true, ..bolt::Options::default() };
    let db = bolt::Db::open(dir, name, &options)?;
    Ok(View::new(db.read(), None, Arc::default()))
}

/// Whether there is a database.
pub fn exists(snap_dir: &Arc<dyn Dir>) -> Result<bool, Error> {
    match snap_dir.open(DB_FILE, OpenMode::Read) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("open", snap_dir.path(), DB_FILE)(error)),
    }
}

/// Name of the database that comes with the raft snapshot at `index`.
#[must_use]
pub fn snapshot_db_name(index: u64) -> String {
    format!("{index:016x}.snap.db")
}

pub(crate) fn open_db(snap_dir: &Arc<dyn Dir>, options: &Options) -> Result<bolt::Db, Error> {
    let db = bolt::Db::open(snap_dir, DB_FILE, &options.bolt())?;
    let present = db.read();
    let names = present.buckets()?;
    let is_missing = |bucket: &Bucket| !names.contains(&bucket.name().as_bytes());
    let missing: Vec<Bucket> = Bucket::ALL.into_iter().filter(is_missing).collect();
    if !missing.is_empty() {
        let mut tx = db.write()?;
        for bucket in missing {
            tx.create_bucket_if_missing(bucket.name().as_bytes())?;
        }
        tx.commit()?;
    }
    // The name must survive as the rows do. Also for a file that was there: whoever made or renamed it may have been
    // killed before this step.
    snap_dir.sync().map_err(io_error("sync folder of", snap_dir.path(), DB_FILE))?;
    Ok(db)
}

/// Renames the snapshot's database over `db`.
pub(crate) fn install(
    snap_dir: &Arc<dyn Dir>,
    snapshot_index: u64,
    consistent_index: u64,
) -> Result<(), Error> {
    let name = snapshot_db_name(snapshot_index);
    match snap_dir.rename(&name, DB_FILE) {
        Ok(()) => snap_dir.sync().map_err(io_error("sync folder of", snap_dir.path(), DB_FILE)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::SnapshotDbMissing {
            file: snap_dir.path().join(DB_FILE).display().to_string(),
            consistent_index,
            snapshot_index,
            wanted: name,
        }),
        Err(error) => Err(io_error("rename", snap_dir.path(), &name)(error)),
    }
}

pub(crate) fn mismatch(
    snap_dir: &Arc<dyn Dir>,
    consistent_index: u64,
    snapshot_index: u64,
) -> Error {
    Error::SnapshotMismatch {
        file: snap_dir.path().join(DB_FILE).display().to_string(),
        consistent_index,
        snapshot_index,
    }
}

fn remove_leftovers(snap_dir: &Arc<dyn Dir>) -> Result<(), Error> {
    let entries = snap_dir.list().map_err(io_error("list folder of", snap_dir.path(), DB_FILE))?;
    for entry in entries {
        if entry.name.starts_with(TMP_PREFIX) && !entry.is_dir {
            tracing::info!(file = entry.name, "removing what an interrupted defragmentation left");
            snap_dir.remove(&entry.name).map_err(io_error(
                "remove",
                snap_dir.path(),
                &entry.name,
            ))?;
        }
    }
    Ok(())
}
