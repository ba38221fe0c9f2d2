//! The file half of the boundary: positioned reads and writes, syncs, locks, and a read-only view of the content.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Which kind of advisory lock to take; they do not see each other on Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// Open-file-description write lock over the whole file (`F_OFD_SETLK`), as etcd takes on WAL segments.
    Record,
    /// `flock(LOCK_EX)`, as bbolt takes on a database that it writes.
    Exclusive,
    /// `flock(LOCK_SH)`, as bbolt takes on a database that it only reads.
    Shared,
}

/// One open file. Dropping it releases its locks.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at `offset` until `buf` is full or the file ends; returns the number of bytes read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `data` at `offset`, growing the file when it ends before that.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Current length in bytes.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Truncates, or extends with zeros.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Reserves space up to `len_bytes` and grows the file to it when shorter (`fallocate`, mode 0). Falls back to
    /// extending where the file system cannot reserve.
    fn allocate(&self, len_bytes: u64) -> io::Result<()>;

    /// Makes content and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content and all metadata durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;

    /// Takes the lock if nobody else holds it; `false` when somebody does.
    fn try_lock(&self, lock: Lock) -> io::Result<bool>;

    /// Releases what [`File::try_lock`] took.
    fn unlock(&self, lock: Lock) -> io::Result<()>;

    /// A read-only view of the first `len_bytes` bytes. It may reach beyond the end of the file; the caller reads only
    /// what it knows to be inside. (A frozen view ends where the file ends, so [`Map::bytes`] can be shorter.)
    fn map(&self, len_bytes: u64) -> io::Result<Map>;
}

/// A read-only view of a file's content.
pub struct Map {
    pub(crate) inner: MapInner,
}

pub(crate) enum MapInner {
    /// The operating system's mapping: later writes to the file show through.
    Live(memmap2::Mmap),
    /// A copy taken when the view was made; shared, so that views of an unchanged file cost nothing.
    Frozen(Arc<[u8]>),
}

impl Map {
    /// The bytes. For a live view, bytes that a later write changes change here too: the caller must not hold a
    /// reference to a region across a write to it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.inner {
            MapInner::Live(map) => map,
            MapInner::Frozen(bytes) => bytes,
        }
    }

    /// Whether later writes to the file show through. If not, take a new view after writing.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(self.inner, MapInner::Live(_))
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("len", &self.bytes().len())
            .field("live", &self.is_live())
            .finish()
    }
}
