//! The log as its owner sees it: create, open, append, cut, release, purge.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use proto::{raftpb, walpb};
use vfs::{Dir, Lock, OpenMode};

use crate::frame::Encoder;
use crate::recover::{self, Content, LogReader};
use crate::segment::{self, Segment, SegmentName};
use crate::{Error, Preallocator, SEGMENT_BYTES};

/// Staged bytes that are written even when nothing asks for a sync: etcd's write buffer has this size.
const STAGED_BYTES_MAX: usize = 128 << 10;

/// Piece in which a torn segment is copied.
const COPY_BYTES: usize = 1 << 20;

/// Settings of a log.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length at which a segment is cut, and which is reserved for the next one.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { segment_bytes: SEGMENT_BYTES }
    }
}

/// What one turn of raft hands to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct Batch<'a> {
    /// New entries; the first may replace entries that were written before.
    pub entries: &'a [raftpb::Entry],
    /// The hard state, when it changed. An empty one (all zero) is not written.
    pub hard_state: Option<raftpb::HardState>,
}

/// What [`Wal::append`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// Everything staged so far was synced. `false` only when nothing but `commit` changed.
    pub synced: bool,
    /// A new segment was begun: run the [`Preallocator`] again.
    pub cut: bool,
}

/// What stands in the log behind the snapshot that it was opened with.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The metadata record, an encoded `etcdserverpb.Metadata`.
    pub metadata: Bytes,
    /// The last hard state; zero when there was none.
    pub hard_state: raftpb::HardState,
    /// Entries behind the start snapshot, without gaps. The tail above `hard_state.commit` may still be replaced.
    pub entries: Vec<raftpb::Entry>,
    /// Whether the log has a record of the start snapshot. etcd starts all the same when writing, and refuses when it
    /// only reads; the caller decides.
    pub snapshot_found: bool,
    /// Whether the start snapshot came from another member, instead of being taken behind this log's own entries. The database
    /// that came with it may hold more than it says.
    pub snapshot_is_received: bool,
    /// Set when an incomplete last record was cut off.
    pub repair: Option<Repair>,
}

/// A torn tail that was cut off (or, when only reading, is left out).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The segment.
    pub file: String,
    /// Where it ends now.
    pub offset: u64,
    /// Why the record behind that was taken for torn.
    pub what: String,
    /// Name of the copy that was made before; `None` when only reading.
    pub copy: Option<String>,
}

/// An open log, positioned at its end.
///
/// ```
/// use bytes::Bytes;
/// use proto::{raftpb, walpb};
/// use wal::{Batch, Options, Wal};
///
/// let disk = vfs::sim::SimDisk::new();
/// let member = disk.dir();
/// let mut wal = Wal::create(&member, "wal", Bytes::from_static(b"\x08\x01\x10\x02"), &Options::default())?;
/// let entry = raftpb::Entry { term: 1, index: 1, data: Some(Bytes::from_static(b"put")), ..Default::default() };
/// let hard_state = raftpb::HardState { term: 1, vote: 1, commit: 0 };
/// wal.append(&Batch { entries: &[entry], hard_state: Some(hard_state) })?; // durable from here on
/// drop(wal);
///
/// let (_wal, recovered) = Wal::open(&member, "wal", &walpb::Snapshot::default(), &Options::default())?;
/// assert_eq!(recovered.entries.len(), 1);
/// assert_eq!(recovered.hard_state, hard_state);
/// # Ok::<(), wal::Error>(())
/// ```
#[derive(Debug)]
pub struct Wal {
    dir: Arc<dyn Dir>,
    options: Options,
    metadata: Bytes,
    /// The last one staged: it heads the next segment.
    hard_state: raftpb::HardState,
    last_index: u64,
    /// Locked segments, oldest first.
    older: VecDeque<Segment>,
    /// The segment that grows.
    current: Segment,
    /// Where the next write goes in it.
    offset: u64,
    staged: Encoder,
    must_sync: bool,
    has_failed: bool,
    preallocator: Preallocator,
}

impl Wal {
    /// Makes a new log: `name` in `parent`, with one segment that holds `metadata` and the empty snapshot. Everything is
    /// durable on return. An existing log is [`Error::Exists`]; a half-made one, which a crash left, is made anew.
    pub fn create(
        parent: &Arc<dyn Dir>,
        name: &str,
        metadata: Bytes,
        options: &Options,
    ) -> Result<Wal, Error> {
        let path = parent.path().join(name).display().to_string();
        if exists(parent, name)? {
            return Err(Error::Exists { dir: path });
        }
        // Under its name the log is either complete or not there: it is built beside and renamed.
        let building = format!("{name}.tmp");
        remove_if_there(parent, &building)?;
        let building_dir =
            parent.create_subdir(&building).map_err(Error::io(&path, "create directory"))?;

        let segment_name = SegmentName { seq: 0, index: 0 };
        let segment_path = format!("{path}/{segment_name}");
        let file = building_dir
            .open(&segment_name.to_string(), OpenMode::Create)
            .map_err(Error::io(&segment_path, "create segment"))?;
        if !file.try_lock(Lock::Record).map_err(Error::io(&segment_path, "lock segment"))? {
            return Err(Error::Locked { file: segment_path });
        }
        file.allocate(options.segment_bytes)
            .map_err(Error::io(&segment_path, "reserve segment"))?;
        let mut head = Encoder::new(0);
        head.crc();
        head.metadata(&metadata);
        head.snapshot(&walpb::Snapshot::default());
        file.write_at(&head.buffer, 0).map_err(Error::io(&segment_path, "write head"))?;
        file.sync_data().map_err(Error::io(&segment_path, "sync"))?;
        building_dir.sync().map_err(Error::io(&path, "sync directory"))?;

        // A directory without segments is no log, but would be in the way.
        remove_if_there(parent, name)?;
        parent.rename(&building, name).map_err(Error::io(&path, "rename directory"))?;
        parent.sync().map_err(Error::io(parent.path().display(), "sync directory"))?;
        // Opened again only for its path in messages.
        let dir = parent.subdir(name).map_err(Error::io(&path, "open directory"))?;
        Ok(Wal {
            preallocator: Preallocator::new(dir.clone(), options.segment_bytes),
            dir,
            options: options.clone(),
            metadata,
            hard_state: raftpb::HardState::default(),
            last_index: 0,
            older: VecDeque::new(),
            current: Segment { name: segment_name, file, path: segment_path },
            offset: head.buffer.len() as u64,
            staged: Encoder::new(head.chain),
            must_sync: false,
            has_failed: false,
        })
    }

    /// Opens the log for appending and reads what stands behind `start` (the default value: from the beginning). A torn
    /// last record is cut off, and reported in [`Recovered::repair`].
    ///
    /// What was read is durable on return: after a mere kill it may have stood in the page cache only, and the caller
    /// is about to tell others about it.
    pub fn open(
        parent: &Arc<dyn Dir>,
        name: &str,
        start: &walpb::Snapshot,
        options: &Options,
    ) -> Result<(Wal, Recovered), Error> {
        let dir = open_dir(parent, name)?;
        let names = recover::select(&dir, &segment::list(&dir)?, start.index)?;
        let mut segments: VecDeque<Segment> =
            recover::open_segments(&dir, &names, OpenMode::ReadWrite)?.into();
        let mut reader = LogReader::new(segments.make_contiguous());
        let content = Content::read(&mut reader, start)?;
        let chain = reader.chain;
        let (offset, torn) = reader.end();
        let Some(current) = segments.pop_back() else {
            let what = "no segment".to_owned();
            return Err(Error::NotFound { dir: dir.path().display().to_string(), what });
        };
        let Some(metadata) = content.metadata else {
            return Err(Error::Corrupt {
                file: current.path,
                offset,
                what: "the log has no metadata record".to_owned(),
            });
        };

        let repair = match torn {
            None => None,
            Some(torn) => {
                let copy = format!("{}.broken", current.name);
                copy_file(&dir, &current, &copy)?;
                Some(Repair {
                    file: current.path.clone(),
                    offset,
                    what: torn.what,
                    copy: Some(copy),
                })
            }
        };
        clear_tail(&current, offset, options.segment_bytes)?;
        current.file.sync_data().map_err(Error::io(&current.path, "sync"))?;
        let preallocator = Preallocator::new(dir.clone(), options.segment_bytes);
        preallocator.remove_leftovers()?;
        dir.sync().map_err(Error::io(dir.path().display(), "sync directory"))?;

        let wal = Wal {
            preallocator,
            dir,
            options: options.clone(),
            metadata: metadata.clone(),
            hard_state: content.hard_state,
            last_index: content.last_index,
            older: segments,
            current,
            offset,
            staged: Encoder::new(chain),
            must_sync: false,
            has_failed: false,
        };
        let recovered = Recovered {
            metadata,
            hard_state: content.hard_state,
            entries: content.entries,
            snapshot_found: content.snapshot_found,
            snapshot_is_received: content.snapshot_is_received,
            repair,
        };
        Ok((wal, recovered))
    }

    /// Encodes a batch behind what is staged already, without touching the disk. Follow with [`Wal::commit`]; several
    /// staged batches then share one write and one sync.
    pub fn stage(&mut self, batch: &Batch<'_>) {
        for entry in batch.entries {
            self.staged.entry(entry);
            self.last_index = entry.index;
        }
        self.must_sync |= !batch.entries.is_empty();
        if let Some(state) = batch.hard_state
            && state != raftpb::HardState::default()
        {
            self.must_sync |=
                state.term != self.hard_state.term || state.vote != self.hard_state.vote;
            self.staged.hard_state(&state);
            self.hard_state = state;
        }
    }

    /// Writes what is staged and makes it durable, then cuts the segment if it is full. When nothing but `commit`
    /// changed since the last sync, it stays staged in memory.
    pub fn commit(&mut self) -> Result<Appended, Error> {
        if !self.must_sync && self.staged.buffer.len() < STAGED_BYTES_MAX {
            self.check_alive()?;
            return Ok(Appended { synced: self.staged.buffer.is_empty(), cut: false });
        }
        self.flush()?;
        Ok(Appended { synced: true, cut: self.cut_if_full()? })
    }

    /// [`Wal::stage`] and [`Wal::commit`] in one.
    pub fn append(&mut self, batch: &Batch<'_>) -> Result<Appended, Error> {
        self.stage(batch);
        self.commit()
    }

    /// Writes what is staged, even a mere `commit`, and makes it durable. Call it before a clean stop, and before the
    /// state machine takes over a snapshot that came from the leader.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.flush()
    }

    /// Records that the snapshot file of this index and term is complete; durable on return.
    ///
    /// # Panics
    /// When a snapshot above index 0 has no `conf_state`: a newer member could not start from it.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), Error> {
        assert!(
            snapshot.index == 0 || snapshot.conf_state.is_some(),
            "a snapshot record needs the members at index {}",
            snapshot.index
        );
        self.staged.snapshot(snapshot);
        self.last_index = self.last_index.max(snapshot.index);
        self.flush()
    }

    /// Gives up the locks on segments that only hold entries below `index`, so that [`purge`] may remove them. The
    /// newest segment that begins before `index` is kept: `index` itself can be in it.
    pub fn release_to(&mut self, index: u64) {
        // Everything before the last segment whose first index is below `index`.
        let all =
            self.older.iter().map(|segment| segment.name.index).chain([self.current.name.index]);
        let below = all.take_while(|&first| first < index).count();
        self.older.drain(..below.saturating_sub(1).min(self.older.len()));
    }

    /// Syncs, removes the reserved next segment and gives up all locks.
    pub fn close(mut self) -> Result<(), Error> {
        self.flush()?;
        self.preallocator.close()
    }

    /// A handle with which another thread makes the next segment ready.
    #[must_use]
    pub fn preallocator(&self) -> Preallocator {
        self.preallocator.clone()
    }

    /// The metadata record.
    #[must_use]
    pub fn metadata(&self) -> &Bytes {
        &self.metadata
    }

    /// Index of the last entry or snapshot staged.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// Bytes staged and not yet written.
    #[must_use]
    pub fn staged_bytes(&self) -> usize {
        self.staged.buffer.len()
    }

    fn check_alive(&self) -> Result<(), Error> {
        if self.has_failed {
            Err(Error::Failed { file: self.current.path.clone() })
        } else {
            Ok(())
        }
    }

    /// Writes all that is staged and syncs it.
    fn flush(&mut self) -> Result<(), Error> {
        self.check_alive()?;
        if self.staged.buffer.is_empty() {
            return Ok(());
        }
        let written = self
            .current
            .file
            .write_at(&self.staged.buffer, self.offset)
            .map_err(Error::io(&self.current.path, "append"))
            .and_then(|()| {
                self.current.file.sync_data().map_err(Error::io(&self.current.path, "sync"))
            });
        // What a failed write or sync left on the disk cannot be known (on Linux the next sync would call it well), so
        // nothing may follow it.
        self.has_failed = written.is_err();
        written?;
        self.offset += self.staged.buffer.len() as u64;
        self.staged.buffer.clear();
        if self.staged.buffer.capacity() > 8 * STAGED_BYTES_MAX {
            self.staged.buffer.shrink_to(STAGED_BYTES_MAX);
        }
        self.must_sync = false;
        Ok(())
    }

    fn cut_if_full(&mut self) -> Result<bool, Error> {
        if self.offset < self.options.segment_bytes {
            return Ok(false);
        }
        let cut = self.cut();
        self.has_failed = cut.is_err();
        cut.map(|()| true)
    }

    /// Ends the current segment after its last record and begins the next one.
    ///
    /// Everything of the old segment is durable before the new one appears, and so is the new one's head: only the
    /// last segment may end inside a record, and the checksum chain leads from one to the other.
    fn cut(&mut self) -> Result<(), Error> {
        let old = &self.current;
        old.file.set_len(self.offset).map_err(Error::io(&old.path, "truncate the full segment"))?;
        old.file.sync_data().map_err(Error::io(&old.path, "sync"))?;

        let reserved = self.preallocator.take()?;
        let mut head = Encoder::new(self.staged.chain);
        head.crc();
        head.metadata(&self.metadata);
        if self.hard_state != raftpb::HardState::default() {
            head.hard_state(&self.hard_state);
        }
        let seq = old.name.seq.checked_add(1).ok_or_else(|| exhausted(&old.path))?;
        let index = self.last_index.checked_add(1).ok_or_else(|| exhausted(&old.path))?;
        let name = SegmentName { seq, index };
        let path = self.dir.path().join(name.to_string()).display().to_string();
        reserved.file.write_at(&head.buffer, 0).map_err(Error::io(&path, "write head"))?;
        reserved.file.sync_data().map_err(Error::io(&path, "sync"))?;
        self.dir
            .rename(&reserved.name, &name.to_string())
            .map_err(Error::io(&path, "rename segment"))?;
        self.dir.sync().map_err(Error::io(self.dir.path().display(), "sync directory"))?;

        // The lock goes on: it belongs to the open file, whatever its name.
        let new = Segment { name, file: reserved.file, path };
        self.older.push_back(std::mem::replace(&mut self.current, new));
        self.offset = head.buffer.len() as u64;
        self.staged.chain = head.chain;
        Ok(())
    }
}

fn exhausted(file: &str) -> Error {
    Error::Corrupt {
        file: file.to_owned(),
        offset: 0,
        what: "no number is left for another segment".to_owned(),
    }
}

/// Whether there is a log: at least one segment in the directory.
pub fn exists(parent: &Arc<dyn Dir>, name: &str) -> Result<bool, Error> {
    let entries = parent.list().map_err(Error::io(parent.path().display(), "list"))?;
    if !entries.iter().any(|entry| entry.is_dir && entry.name == name) {
        return Ok(false);
    }
    Ok(!segment::list(&open_dir(parent, name)?)?.is_empty())
}

/// Reads what stands behind `start` without locking or changing anything. A torn tail counts as the end.
pub fn read_only(
    parent: &Arc<dyn Dir>,
    name: &str,
    start: &walpb::Snapshot,
) -> Result<Recovered, Error> {
    let dir = open_dir(parent, name)?;
    let names = recover::select(&dir, &segment::list(&dir)?, start.index)?;
    let segments = recover::open_segments(&dir, &names, OpenMode::Read)?;
    let mut reader = LogReader::new(&segments);
    let content = Content::read(&mut reader, start)?;
    let (offset, torn) = reader.end();
    let file = segments.last().map(|segment| segment.path.clone()).unwrap_or_default();
    Ok(Recovered {
        metadata: content.metadata.unwrap_or_default(),
        hard_state: content.hard_state,
        entries: content.entries,
        snapshot_found: content.snapshot_found,
        snapshot_is_received: content.snapshot_is_received,
        repair: torn.map(|torn| Repair { file, offset, what: torn.what, copy: None }),
    })
}

/// Snapshots that the log vouches for: those recorded in any of its segments with an index up to the last commit. Oldest
/// first; a new log has the empty one.
pub fn valid_snapshots(parent: &Arc<dyn Dir>, name: &str) -> Result<Vec<walpb::Snapshot>, Error> {
    let segments = recover::open_all(&open_dir(parent, name)?)?;
    recover::committed_snapshots(&mut LogReader::new(&segments))
}

/// Removes the oldest segments while there are more than `keep` (0 keeps all) and nobody holds them. Returns the names.
pub fn purge(parent: &Arc<dyn Dir>, name: &str, keep: usize) -> Result<Vec<String>, Error> {
    let dir = open_dir(parent, name)?;
    let names = segment::list(&dir)?;
    let mut removed = Vec::new();
    if keep == 0 {
        return Ok(removed);
    }
    for name in names.iter().take(names.len().saturating_sub(keep)).map(ToString::to_string) {
        let path = dir.path().join(&name).display().to_string();
        let file =
            dir.open(&name, OpenMode::ReadWrite).map_err(Error::io(&path, "open segment"))?;
        if !file.try_lock(Lock::Record).map_err(Error::io(&path, "lock segment"))? {
            break; // still needed, and so are all behind it
        }
        dir.remove(&name).map_err(Error::io(&path, "remove segment"))?;
        // One by one: a later segment must not be gone while an earlier one comes back after a crash.
        dir.sync().map_err(Error::io(dir.path().display(), "sync directory"))?;
        removed.push(name);
    }
    Ok(removed)
}

fn open_dir(parent: &Arc<dyn Dir>, name: &str) -> Result<Arc<dyn Dir>, Error> {
    parent.subdir(name).map_err(Error::io(parent.path().join(name).display(), "open directory"))
}

fn remove_if_there(parent: &Arc<dyn Dir>, name: &str) -> Result<(), Error> {
    match parent.remove_subdir(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(parent.path().join(name).display(), "remove directory")(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Keeps the damaged segment for whoever wants to look at it. Zeros are left out, so the copy is as sparse as it can be.
fn copy_file(dir: &Arc<dyn Dir>, from: &Segment, to: &str) -> Result<(), Error> {
    let path = dir.path().join(to).display().to_string();
    let len_bytes = from.file.len_bytes().map_err(Error::io(&from.path, "read length"))?;
    let copy = dir.open(to, OpenMode::Truncate).map_err(Error::io(&path, "create the copy"))?;
    let mut piece = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < len_bytes {
        let count = from
            .file
            .read_at(&mut piece, offset)
            .map_err(Error::io(&from.path, "read the torn segment"))?;
        let Some(bytes) = piece.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        if bytes.iter().any(|&byte| byte != 0) {
            copy.write_at(bytes, offset).map_err(Error::io(&path, "write the copy"))?;
        }
        offset += count as u64;
    }
    copy.set_len(len_bytes).map_err(Error::io(&path, "write the copy"))
}

/// Zeroes what stands behind the last record, which may be half a batch: the next records must not run into it.
fn clear_tail(segment: &Segment, end: u64, segment_bytes: u64) -> Result<(), Error> {
    let len_bytes = segment.file.len_bytes().map_err(Error::io(&segment.path, "read length"))?;
    if len_bytes > end {
        segment
            .file
            .set_len(end)
            .map_err(Error::io(&segment.path, "cut off what is behind the last record"))?;
    }
    match segment.file.allocate(len_bytes.max(segment_bytes)) {
        // Without a reservation the log only grows more slowly; a full disk must not keep a member from starting.
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        reserved => reserved.map_err(Error::io(&segment.path, "reserve segment")),
    }
}
