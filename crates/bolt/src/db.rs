//! The database: opening, the newest state, and the one writer.
//!
//! Nothing is replayed at open: the valid meta with the highest transaction number is the state. A file that a crash left
//! half made (no meta yet, nothing but zeros and parts of the first image) is made again.
//!
//! Two short locks, never held together and never during I/O: `current` guards the newest state, which readers clone;
//! `writer` guards what a write transaction takes with it and brings back.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use vfs::{Dir, Lock, OpenMode};

use crate::free::Space;
use crate::freelist;
use crate::meta::{Meta, PAGE_SIZE_MAX, PAGE_SIZE_MIN, is_page_size};
use crate::page::{
    Damage, FLAG_FREELIST, FLAG_LEAF, Header, PAGE_HEADER_BYTES, PageId, TxId, index,
};
use crate::snapshot::{NamedFile, Snapshot, View};
use crate::{CommitStats, Error, ReadTx, WriteTx};

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Page size of a new file: a power of two, 512 to 16 MiB (4096 stands for anything else). An existing file keeps its own.
    pub page_size: u32,
    /// Takes a shared lock, and the file must exist.
    pub read_only: bool,
    /// Address space to reserve at first. It costs nothing until used; growth within it needs no new map.
    pub initial_map_bytes: u64,
    /// How full the first part is when a node splits, 0.1 to 1.0 ([`crate::BucketMut::set_fill_percent`] for one bucket).
    pub fill_percent: f32,
    /// The file grows by this many bytes beyond need at a time.
    pub grow_bytes: u64,
    /// Stores the free list in the file. etcd does not.
    pub sync_freelist: bool,
    /// Syncs on commit. Off only for files that are thrown away after a crash; then call [`Db::sync`] at the end.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // etcd takes the machine's page size; 4096 reads everywhere.
            page_size: 4096,
            read_only: false,
            initial_map_bytes: 0,
            // bbolt's defaults.
            fill_percent: 0.5,
            grow_bytes: 16 << 20,
            sync_freelist: false,
            sync: true,
        }
    }
}

/// What opening found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenReport {
    /// The file was made, or made again after a crash had left it half made.
    pub created: bool,
    /// Valid meta pages: 1 after a commit was cut off while its meta was written.
    pub valid_metas: u8,
    /// The file held a free list.
    pub stored_freelist: bool,
}

/// Space as of one committed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Number of the commit.
    pub tx_id: u64,
    /// Bytes of a page.
    pub page_size: u32,
    /// High water mark times page size: what etcd reports as the size of the database.
    pub size_bytes: u64,
    /// Pages below the high water mark that the next commit may use. Not known (0) when opened for reading only.
    pub free_pages: u64,
    /// Pages that will be free once no reader needs them.
    pub pending_pages: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

impl Stats {
    /// The size without the free pages: etcd's "size in use".
    #[must_use]
    pub fn size_in_use_bytes(&self) -> u64 {
        self.size_bytes.saturating_sub(self.free_pages * u64::from(self.page_size))
    }
}

/// An open database. Cheap to clone. The file lock is released with the last clone and the last transaction.
#[derive(Debug, Clone)]
pub struct Db {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<NamedFile>,
    options: Options,
    opened: OpenReport,
    /// The newest committed state.
    current: Mutex<Arc<Snapshot>>,
    /// `None` while a write transaction has it.
    writer: Mutex<Option<Box<Writer>>>,
    writer_is_back: Condvar,
    /// Whether commits sync: as the options say, but not while a compacting copy is being made.
    syncs: AtomicBool,
    /// A write or sync failed: what the disk holds is unknown until somebody reopens the file.
    poisoned: AtomicBool,
}

/// What belongs to the one writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) space: Space,
    /// Meta page (0 or 1) of the newest state.
    place: u64,
    file_bytes: u64,
    /// States before the newest that may still be read.
    older: Vec<(TxId, Weak<Snapshot>)>,
}

/// Everything that a commit hands over for writing.
pub(crate) struct NewState {
    pub(crate) meta: Meta,
    /// Written pages, as runs in ascending order; for marking them as validated.
    pub(crate) written: Vec<PageId>,
}

impl Db {
    /// Opens (or makes) the database `name` in `dir` and takes its lock.
    ///
    /// [`Error::Locked`] when somebody else has it; trying again is the caller's. Opening for writing walks all trees, which
    /// finds the free pages and refuses a file whose pages are not a sound tree.
    pub fn open(dir: &Arc<dyn Dir>, name: &str, options: &Options) -> Result<Self, Error> {
        let path = dir.path().join(name).display().to_string();
        let mode = if options.read_only { OpenMode::Read } else { OpenMode::Create };
        let file = dir.open(name, mode).map_err(|source| Error::Io {
            file: path.clone(),
            step: "open",
            source,
        })?;
        let file = Arc::new(NamedFile { path, file });
        let lock = if options.read_only { Lock::Shared } else { Lock::Exclusive };
        if !file.io("lock", file.file.try_lock(lock))? {
            return Err(Error::Locked { file: file.path.clone() });
        }
        let mut created = false;
        let mut metas = read_metas(&file)?;
        if metas == [None, None] && !options.read_only && is_half_made(&file, options)? {
            initialise(&file, options)?;
            file.io("sync directory of", dir.sync())?;
            created = true;
            metas = read_metas(&file)?;
        }
        let Some((place, meta)) = newest(metas) else {
            return Err(file.corrupt(0, Damage::new(PageId(0), "neither meta page is valid")));
        };
        let page_size = index(u64::from(meta.page_size));
        let file_bytes = file.io("measure", file.file.len_bytes())?;
        let used_bytes =
            check_meta(&meta, place, file_bytes).map_err(|d| file.corrupt(page_size, d))?;

        let mut map = file.io("map", file.file.map(used_bytes))?;
        if map.is_live() && !options.read_only {
            let len_bytes =
                map_len_bytes(file_bytes.max(options.initial_map_bytes.min(RESERVE_BYTES_MAX)));
            map = file.io("map", file.file.map(len_bytes))?;
        }
        let view = Arc::new(View::new(map, page_size));
        let stats = Stats {
            tx_id: meta.tx.0,
            page_size: meta.page_size,
            size_bytes: used_bytes,
            file_bytes,
            ..Stats::default()
        };
        let mut snapshot =
            Snapshot { file: Arc::clone(&file), view, meta, used_bytes: index(used_bytes), stats };
        let mut writer = None;
        if !options.read_only {
            let used = freelist::pages_in_use(&snapshot).map_err(|d| snapshot.corrupt(d))?;
            let space = Space::new(&used, meta.high_water, meta.tx);
            snapshot.stats.free_pages = space.free_pages();
            if options.sync {
                // The newest meta may so far be in the page cache only, its writer having been killed before the sync. Pages of
                // the state before it are written over next, so it has to be on the disk first.
                file.io("sync", file.file.sync_data())?;
            }
            writer = Some(Box::new(Writer { space, place, file_bytes, older: Vec::new() }));
        }
        let valid_metas = u8::from(metas[0].is_some()) + u8::from(metas[1].is_some());
        let shared = Shared {
            file,
            options: options.clone(),
            opened: OpenReport {
                created,
                valid_metas,
                stored_freelist: meta.freelist.is_some() && !created,
            },
            current: Mutex::new(Arc::new(snapshot)),
            writer: Mutex::new(writer),
            writer_is_back: Condvar::new(),
            syncs: AtomicBool::new(options.sync),
            poisoned: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Pins the newest committed state. Never waits for a commit.
    #[must_use]
    pub fn read(&self) -> ReadTx {
        ReadTx { snapshot: Arc::clone(&self.current()) }
    }

    /// Begins a write transaction; waits while another one is open.
    pub fn write(&self) -> Result<WriteTx, Error> {
        if self.shared.options.read_only {
            return Err(Error::ReadOnly { file: self.shared.file.path.clone() });
        }
        let mut slot = self.writer_slot();
        let mut writer = loop {
            match slot.take() {
                Some(writer) => break writer,
                None => {
                    slot = self
                        .shared
                        .writer_is_back
                        .wait(slot)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        };
        drop(slot);
        if self.is_poisoned() {
            self.give_back(writer);
            return Err(Error::Poisoned { file: self.shared.file.path.clone() });
        }
        writer.older.retain(|(_, snapshot)| snapshot.strong_count() > 0);
        // A state seen as gone was read by others until then: what they did with its pages comes before our writing there.
        fence(Ordering::Acquire);
        let readers: Vec<TxId> = writer.older.iter().map(|(tx, _)| *tx).collect();
        writer.space.release(&readers);
        let tx = self.current().meta.next_tx(writer.place);
        Ok(WriteTx::new(self.clone(), writer, tx))
    }

    /// Makes all committed states durable. Only needed with [`Options::sync`] off.
    pub fn sync(&self) -> Result<(), Error> {
        let result = self.shared.file.io("sync", self.shared.file.file.sync_all());
        self.poison_on_error(result)
    }

    /// Runs many commits of which only the last has to be durable. When one fails, so does every later write.
    pub(crate) fn without_syncs(
        &self,
        work: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Relaxed: the thread that sets the flag is the one that commits.
        self.shared.syncs.store(false, Ordering::Relaxed);
        let result = work().and_then(|()| self.sync());
        self.shared.syncs.store(self.shared.options.sync, Ordering::Relaxed);
        self.poison_on_error(result)
    }

    fn syncs(&self) -> bool {
        self.shared.syncs.load(Ordering::Relaxed)
    }

    /// Space as of the newest state.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.current().stats
    }

    /// What opening found.
    #[must_use]
    pub fn opened(&self) -> OpenReport {
        self.shared.opened
    }

    /// Page size of the file.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.current().meta.page_size
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Returns the writer's things after a transaction.
    pub(crate) fn give_back(&self, writer: Box<Writer>) {
        *self.writer_slot() = Some(writer);
        self.shared.writer_is_back.notify_one();
    }

    // Nothing panics while holding one of these locks, so a poisoned one still guards a whole value.
    fn current(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer_slot(&self) -> MutexGuard<'_, Option<Box<Writer>>> {
        self.shared.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_poisoned(&self) -> bool {
        // Set by whoever had the writer, read after taking it: the mutex orders the two.
        self.shared.poisoned.load(Ordering::Relaxed)
    }

    /// Every later write transaction is refused.
    pub(crate) fn poison(&self) {
        self.shared.poisoned.store(true, Ordering::Relaxed);
    }

    fn poison_on_error<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.is_err() {
            self.poison();
        }
        result
    }

    /// Makes room in the file and the map for all pages below `high_water`; returns the view of the next state.
    ///
    /// The file is longer, durably, before a page beyond its old end is written: a meta never promises pages that the
    /// file system has lost.
    pub(crate) fn grow(&self, writer: &mut Writer, high_water: PageId) -> Result<Arc<View>, Error> {
        let result = self.grow_inner(writer, high_water);
        self.poison_on_error(result)
    }

    fn grow_inner(&self, writer: &mut Writer, high_water: PageId) -> Result<Arc<View>, Error> {
        let current = Arc::clone(&self.current());
        let page_size = u64::from(current.meta.page_size);
        // One page more than used, as bbolt does.
        let needed = (high_water.0 + 1) * page_size;
        let mut view = Arc::clone(&current.view);
        let file = &self.shared.file;
        let reserved = view.map.bytes().len() as u64;
        let is_live = view.map.is_live();
        if is_live && needed > reserved {
            let map = file.io("map", file.file.map(map_len_bytes(needed)))?;
            view = Arc::new(View::new(map, index(page_size)));
        }
        if needed > writer.file_bytes {
            let map_bytes =
                if is_live { view.map.bytes().len() as u64 } else { map_len_bytes(needed) };
            let grow_bytes = self.shared.options.grow_bytes;
            let len_bytes = if map_bytes <= grow_bytes { map_bytes } else { needed + grow_bytes };
            file.io("grow", file.file.set_len(len_bytes))?;
            if self.syncs() {
                file.io("sync", file.file.sync_all())?;
            }
            writer.file_bytes = len_bytes;
        }
        Ok(view)
    }

    /// Writes pages at their place; called in ascending order.
    pub(crate) fn write_pages(&self, at: PageId, bytes: &[u8]) -> Result<(), Error> {
        let offset = at.0 * u64::from(self.page_size());
        let result = self.shared.file.io("write", self.shared.file.file.write_at(bytes, offset));
        self.poison_on_error(result)
    }

    /// Syncs the pages, writes and syncs the meta, and makes the state the newest one.
    pub(crate) fn publish(
        &self,
        writer: &mut Writer,
        mut view: Arc<View>,
        state: &NewState,
        stats: &mut CommitStats,
    ) -> Result<(), Error> {
        let file = &self.shared.file;
        let meta = state.meta;
        let place = meta.tx.0 % 2;
        let page = meta.encode_page(place);
        let result = self.sync_data().and_then(|()| {
            file.io("write", file.file.write_at(&page, place * u64::from(meta.page_size)))?;
            self.sync_data()
        });
        self.poison_on_error(result)?;
        stats.writes += 1;
        stats.bytes_written += page.len() as u64;

        let used_bytes = meta.high_water.0 * u64::from(meta.page_size);
        if view.map.is_live() {
            for &page in &state.written {
                view.validated.insert(page);
            }
        } else {
            let map = self.poison_on_error(file.io("map", file.file.map(used_bytes)))?;
            view = Arc::new(View::new(map, index(u64::from(meta.page_size))));
        }
        let space = &writer.space;
        let snapshot = Arc::new(Snapshot {
            file: Arc::clone(file),
            view,
            meta,
            used_bytes: index(used_bytes),
            stats: Stats {
                tx_id: meta.tx.0,
                page_size: meta.page_size,
                size_bytes: used_bytes,
                free_pages: space.free_pages(),
                pending_pages: space.pending_pages(),
                file_bytes: writer.file_bytes,
            },
        });
        writer.place = place;
        let before = std::mem::replace(&mut *self.current(), snapshot);
        writer.older.push((before.meta.tx, Arc::downgrade(&before)));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        if !self.syncs() {
            return Ok(());
        }
        self.shared.file.io("sync", self.shared.file.file.sync_data())
    }
}

/// No database comes near it, and a quota above it shall not make opening fail for want of address space.
const RESERVE_BYTES_MAX: u64 = 1 << 40;

/// How much to map for `needed` bytes: powers of two from 32 KiB to 1 GiB, then whole GiB, as bbolt does.
fn map_len_bytes(needed: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    if needed <= GIB {
        needed.next_power_of_two().max(32 << 10)
    } else {
        needed.div_ceil(GIB) * GIB
    }
}

/// Reads both metas. The first valid one at any page size's place says where the other is.
fn read_metas(file: &NamedFile) -> Result<[Option<Meta>; 2], Error> {
    let meta_at = |offset: u64| -> Result<Option<Meta>, Error> {
        let mut bytes = [0; PAGE_HEADER_BYTES + crate::meta::META_BYTES];
        let len_bytes = file.io("read", file.file.read_at(&mut bytes, offset))?;
        Ok(bytes.get(..len_bytes).and_then(Meta::parse))
    };
    if let Some(first) = meta_at(0)? {
        let second =
            meta_at(u64::from(first.page_size))?.filter(|meta| meta.page_size == first.page_size);
        return Ok([Some(first), second]);
    }
    let mut page_size = PAGE_SIZE_MIN;
    while page_size <= PAGE_SIZE_MAX {
        if let Some(second) =
            meta_at(u64::from(page_size))?.filter(|meta| meta.page_size == page_size)
        {
            return Ok([None, Some(second)]);
        }
        page_size *= 2;
    }
    Ok([None, None])
}

/// The meta that counts, and its page.
fn newest(metas: [Option<Meta>; 2]) -> Option<(u64, Meta)> {
    match metas {
        [Some(first), Some(second)] if second.tx > first.tx => Some((1, second)),
        [Some(first), _] => Some((0, first)),
        [None, Some(second)] => Some((1, second)),
        [None, None] => None,
    }
}

/// Checks what a meta promises against the file; returns the bytes below the high water mark.
fn check_meta(meta: &Meta, place: u64, file_bytes: u64) -> Result<u64, Damage> {
    let page = PageId(place);
    // Half of the numbers are left for the future: no arithmetic on them overflows.
    if meta.tx.0 > u64::MAX / 2 {
        return Err(Damage::new(page, format!("transaction number {} is out of range", meta.tx.0)));
    }
    if meta.root.0 < 2 || meta.root.0 >= meta.high_water.0 {
        let what = format!(
            "root page {} is not below the high water mark {}",
            meta.root.0, meta.high_water.0
        );
        return Err(Damage::new(page, what));
    }
    match meta.high_water.0.checked_mul(u64::from(meta.page_size)) {
        Some(used_bytes) if used_bytes <= file_bytes => Ok(used_bytes),
        Some(_) | None => {
            let (pages, bytes) = (meta.high_water.0, meta.page_size);
            let what =
                format!("file has {file_bytes} bytes, {pages} pages of {bytes} are promised");
            Err(Damage::new(page, what))
        }
    }
}

/// The first four pages of a new file: two metas, an empty free list, an empty leaf.
fn first_pages(options: &Options) -> Vec<u8> {
    let page_size = if is_page_size(options.page_size) {
        options.page_size
    } else {
        Options::default().page_size
    };
    let meta = |tx| Meta {
        page_size,
        root: PageId(3),
        sequence: 0,
        freelist: Some(PageId(2)),
        high_water: PageId(4),
        tx: TxId(tx),
    };
    let mut bytes = meta(0).encode_page(0);
    bytes.extend_from_slice(&meta(1).encode_page(1));
    for (id, flags) in [(2, FLAG_FREELIST), (3, FLAG_LEAF)] {
        bytes.extend_from_slice(&Header { id: PageId(id), flags, count: 0, overflow: 0 }.encode());
        bytes.resize(index(u64::from(page_size)) * (index(id) + 1), 0);
    }
    bytes
}

/// Writes a new file: the metas go last, so that a meta on the disk means that the pages are there too.
fn initialise(file: &NamedFile, options: &Options) -> Result<(), Error> {
    let bytes = first_pages(options);
    let (metas, pages) = bytes.split_at(bytes.len() / 2);
    file.io("write", file.file.write_at(pages, metas.len() as u64))?;
    file.io("sync", file.file.sync_all())?;
    file.io("write", file.file.write_at(metas, 0))?;
    file.io("sync", file.file.sync_all())
}

/// Whether a file without a valid meta is one whose making a crash cut off: no longer than the first image, each sector
/// either zeros or the image's.
fn is_half_made(file: &NamedFile, options: &Options) -> Result<bool, Error> {
    const SECTOR_BYTES: usize = 512;
    let image = first_pages(options);
    let file_bytes = file.io("measure", file.file.len_bytes())?;
    if file_bytes > image.len() as u64 {
        return Ok(false);
    }
    let mut bytes = vec![0; index(file_bytes)];
    let read = file.io("read", file.file.read_at(&mut bytes, 0))?;
    bytes.truncate(read);
    Ok(bytes.chunks(SECTOR_BYTES).zip(image.chunks(SECTOR_BYTES)).all(|(found, made)| {
        found.iter().all(|&byte| byte == 0) || made.get(..found.len()) == Some(found)
    }))
}
