//! A simulated disk, which keeps what is written apart from what is durable.
//!
//! ```text
//!            write ──► written ──► reads see it
//!                         │ sync_data, sync_all (content, length), Dir::sync (names)
//!                         ▼
//!                      durable ──► survives a crash; of the rest, each sector and name for itself may
//! ```
//!
//! Everything is a plain value behind one lock: no clock, no randomness but what the caller brings, the same calls
//! give the same disk. Copies share their blocks, so that a test can look at hundreds of thousands of crashes.
//!
//! - [`SimDisk::crash`] and [`SimDisk::kill`] end a process's life in place; handles from before then fail.
//! - [`SimDisk::inject`], [`SimDisk::set_capacity`], [`SimDisk::flip_bit`] are the faults.
//! - [`SimDisk::record`] keeps a [`Journal`], from which [`Replayer`] builds the image after a cut at any operation.

mod content;
mod crash;
mod journal;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::file::MapInner;
use crate::{Dir, Entry, File, Lock, Map, OpenMode, check_name};

pub use crash::{Choice, Chooser, CrashPlan, KeepAll, LoseAll, Picks, Seeded, Unsynced};
pub use journal::{Journal, Replayer};
pub use state::{NodeId, Op};

use content::Content;
use state::{Node, ROOT, State};

/// What a disk writes at once: a sector is old or new after a crash, never a mixture.
pub const SECTOR_BYTES: usize = 512;

/// Largest file: far above anything that a format here allows, far below where offsets overflow.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// In which order unsynced changes of names survive a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DirOrder {
    /// Any subset in each directory: more than real file systems do, and all that POSIX promises.
    #[default]
    Any,
    /// A prefix in each directory, as journalling file systems keep their metadata in order.
    Journal,
}

/// How the file system behaves where real ones differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Model {
    /// Order of names.
    pub dir_order: DirOrder,
    /// Whether syncing a file makes its name durable too, as ext4 does for new files. `false` is the stricter one.
    pub names_follow_file_sync: bool,
}

/// Which calls a [`Fault`] makes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// [`File::read_at`] and [`File::map`].
    Read,
    /// [`File::write_at`]; nothing of the data is written.
    Write,
    /// [`File::sync_data`] and [`File::sync_all`]. As on Linux, what was not durable stays readable, is never written,
    /// and the next sync says that all is well.
    Sync,
    /// [`Dir::sync`].
    SyncDir,
}

/// Calls that fail with an I/O error (EIO).
#[derive(Debug, Clone)]
pub struct Fault {
    /// Which calls.
    pub kind: FaultKind,
    /// Only files whose name, when they were opened, contains this.
    pub name: Option<String>,
    /// How many of these calls go well first.
    pub skip: u64,
    /// How many fail then.
    pub times: u64,
}

impl Fault {
    /// One failing call, after `skip` good ones, on any file.
    #[must_use]
    pub fn once(kind: FaultKind, skip: u64) -> Fault {
        Fault { kind, name: None, skip, times: 1 }
    }
}

/// A simulated disk. Clones are the same disk; [`SimDisk::fork`] makes another one.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Mutex<Inner>>,
}

struct Inner {
    state: State,
    open: BTreeMap<NodeId, Open>,
    journal: Option<Journal>,
    faults: Vec<Fault>,
    capacity_bytes: Option<u64>,
    /// Counts crashes: a handle from before the last one is dead.
    generation: u64,
    next_handle: u64,
    /// Views of files that have not changed since.
    frozen: BTreeMap<NodeId, Arc<[u8]>>,
}

/// Handles and locks of one file or directory.
#[derive(Default)]
struct Open {
    handles: u64,
    record: Option<u64>,
    exclusive: Option<u64>,
    shared: BTreeSet<u64>,
}

impl Open {
    fn release(&mut self, handle: u64) {
        self.record = self.record.filter(|&holder| holder != handle);
        self.release_flock(handle);
    }

    fn release_flock(&mut self, handle: u64) {
        self.exclusive = self.exclusive.filter(|&holder| holder != handle);
        self.shared.remove(&handle);
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("nodes", &self.lock().state.nodes.len())
            .finish_non_exhaustive()
    }
}

impl SimDisk {
    /// An empty disk of the strictest kind.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::with_model(Model::default())
    }

    /// An empty disk with this file system.
    #[must_use]
    pub fn with_model(model: Model) -> SimDisk {
        SimDisk::from_state(State::new(model))
    }

    fn from_state(state: State) -> SimDisk {
        let inner = Inner {
            state,
            open: BTreeMap::new(),
            journal: None,
            faults: Vec::new(),
            capacity_bytes: None,
            generation: 0,
            next_handle: 0,
            frozen: BTreeMap::new(),
        };
        SimDisk { shared: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a test thread leaves the disk as a kill would: still a disk.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The root directory.
    #[must_use]
    pub fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(SimDir::open(self, &mut self.lock(), ROOT, PathBuf::from("/sim")))
    }

    /// Another disk with the same content, durable and not. It has no handles, locks, faults or journal.
    #[must_use]
    pub fn fork(&self) -> SimDisk {
        SimDisk::from_state(self.lock().state.clone())
    }

    /// Cuts the power: `chooser` decides what survives of all that was not durable. All handles are dead, all locks
    /// free. Journal and faults end.
    pub fn crash(&self, chooser: &mut dyn Chooser) {
        let after = self.crash_image(chooser).lock().state.clone();
        let mut inner = self.lock();
        inner.restart();
        inner.state = after;
        inner.journal = None;
        inner.faults.clear();
    }

    /// What [`SimDisk::crash`] would leave, as a disk of its own; this one goes on.
    #[must_use]
    pub fn crash_image(&self, chooser: &mut dyn Chooser) -> SimDisk {
        CrashPlan::new(&self.lock().state).image_with(chooser)
    }

    /// Kills the process, not the power: all handles are dead, all locks free, and what was written stays written.
    pub fn kill(&self) {
        self.lock().restart();
    }

    /// Begins a journal, dropping an earlier one.
    pub fn record(&self) {
        let mut inner = self.lock();
        inner.journal = Some(Journal { base: inner.state.clone(), ops: Vec::new() });
    }

    /// Ends the journal and returns it; empty when none was begun.
    #[must_use]
    pub fn take_journal(&self) -> Journal {
        let mut inner = self.lock();
        let base = inner.state.clone();
        inner.journal.take().unwrap_or(Journal { base, ops: Vec::new() })
    }

    /// Leaves a number in the journal: what the workload had acknowledged, say, when the operations before it were done.
    pub fn mark(&self, mark: u64) {
        if let Some(journal) = &mut self.lock().journal {
            journal.ops.push(Op::Mark(mark));
        }
    }

    /// Makes calls fail.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Limits the disk: what would take it above that many bytes fails with ENOSPC, a write after its first part.
    pub fn set_capacity(&self, capacity_bytes: Option<u64>) {
        self.lock().capacity_bytes = capacity_bytes;
    }

    /// Bytes in use, counted as [`SimDisk::set_capacity`] does: each file up to its furthest write or reservation.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.lock().state.used_bytes()
    }

    /// Flips a bit, on the platter as in the cache. `path` is relative to the root, `bit` counts from the file's start.
    pub fn flip_bit(&self, path: &str, bit: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let id = path
            .split('/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |dir, name| inner.state.lookup(dir, name))?;
        let file = inner.state.file_mut(id)?;
        if bit / 8 >= file.written.len_bytes() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flip = |content: &mut Content| {
            let mut byte = [0];
            if content.read(&mut byte, bit / 8) == 1 {
                content.write(&[byte[0] ^ (1 << (bit % 8))], bit / 8);
            }
        };
        flip(&mut file.written);
        flip(&mut file.durable);
        flip(&mut file.base);
        inner.frozen.remove(&id);
        Ok(())
    }
}

impl Inner {
    fn restart(&mut self) {
        self.generation += 1;
        self.open.clear();
        self.frozen.clear();
        self.state.sweep(std::iter::empty());
    }

    /// Carries out an operation and records it.
    fn carry_out(&mut self, op: Op) -> io::Result<()> {
        self.state.apply(&op)?;
        if let Some(journal) = &mut self.journal {
            journal.ops.push(op);
        }
        Ok(())
    }

    fn handle(&mut self, node: NodeId) -> u64 {
        self.open.entry(node).or_default().handles += 1;
        self.next_handle += 1;
        self.next_handle
    }

    fn close(&mut self, node: NodeId, handle: u64) {
        let Some(open) = self.open.get_mut(&node) else { return };
        open.release(handle);
        open.handles -= 1;
        if open.handles == 0 {
            self.open.remove(&node);
            self.frozen.remove(&node);
        }
    }

    fn sweep(&mut self) {
        self.state.sweep(self.open.keys().copied());
    }

    /// Counts the call down and fails it when its turn has come.
    fn check_fault(&mut self, kind: FaultKind, name: &str) -> io::Result<()> {
        let matches = |fault: &Fault| {
            fault.kind == kind
                && fault.name.as_ref().is_none_or(|part| name.contains(part.as_str()))
        };
        let mut fails = false;
        for fault in self.faults.iter_mut().filter(|fault| matches(fault)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 {
                fault.times -= 1;
                fails = true;
            }
        }
        if fails { Err(Errno::IO.into()) } else { Ok(()) }
    }

    /// How far a file that has `reserved_bytes` may grow towards `end`.
    fn room(&self, reserved_bytes: u64, end: u64) -> u64 {
        let Some(capacity_bytes) = self.capacity_bytes else { return end };
        let free_bytes = capacity_bytes.saturating_sub(self.state.used_bytes());
        end.min(reserved_bytes.saturating_add(free_bytes))
    }
}

/// What a directory or file handle holds on to.
struct Handle {
    disk: SimDisk,
    node: NodeId,
    id: u64,
    generation: u64,
    path: PathBuf,
}

impl Handle {
    fn new(disk: &SimDisk, inner: &mut Inner, node: NodeId, path: PathBuf) -> Handle {
        let id = inner.handle(node);
        Handle { disk: disk.clone(), node, id, generation: inner.generation, path }
    }

    /// The disk, unless the process that opened this is dead.
    fn live(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.disk.lock();
        if inner.generation != self.generation {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        Ok(inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut inner = self.disk.lock();
        if inner.generation == self.generation {
            inner.close(self.node, self.id);
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.node)
    }
}

#[derive(Debug)]
struct SimDir {
    handle: Handle,
}

impl SimDir {
    fn open(disk: &SimDisk, inner: &mut Inner, node: NodeId, path: PathBuf) -> SimDir {
        SimDir { handle: Handle::new(disk, inner, node, path) }
    }

    fn remove_tree(inner: &mut Inner, dir: NodeId, name: &str) -> io::Result<()> {
        let id = inner.state.lookup(dir, name)?;
        let children: Vec<(String, NodeId)> = inner
            .state
            .dir(id)?
            .written
            .iter()
            .map(|(name, &child)| (name.clone(), child))
            .collect();
        for (child_name, child) in children {
            match inner.state.dir(child) {
                Ok(_) => SimDir::remove_tree(inner, id, &child_name)?,
                Err(_) => inner.carry_out(Op::Remove { dir: id, name: child_name })?,
            }
        }
        inner.carry_out(Op::Remove { dir, name: name.to_owned() })
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        &self.handle.path
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        check_name(name)?;
        let mut inner = self.handle.live()?;
        let dir = self.handle.node;
        let may_create = match mode {
            OpenMode::Read | OpenMode::ReadWrite => false,
            OpenMode::Create | OpenMode::Truncate => true,
        };
        let file = match inner.state.lookup(dir, name) {
            Ok(id) => {
                inner.state.file(id)?;
                if mode == OpenMode::Truncate {
                    inner.carry_out(Op::SetLen { file: id, len_bytes: 0 })?;
                    inner.frozen.remove(&id);
                }
                id
            }
            Err(_) if may_create => {
                let file = inner.state.next_node();
                inner.carry_out(Op::Create { dir, name: name.to_owned(), file })?;
                file
            }
            Err(error) => return Err(error),
        };
        let handle = Handle::new(&self.handle.disk, &mut inner, file, self.handle.path.join(name));
        Ok(Arc::new(SimFile { handle, name: name.to_owned(), is_writable: mode != OpenMode::Read }))
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        check_name(name)?;
        let mut inner = self.handle.live()?;
        let id = inner.state.lookup(self.handle.node, name)?;
        inner.state.dir(id)?;
        Ok(Arc::new(SimDir::open(&self.handle.disk, &mut inner, id, self.handle.path.join(name))))
    }

    fn create_subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        check_name(name)?;
        {
            let mut inner = self.handle.live()?;
            let dir = self.handle.node;
            if inner.state.lookup(dir, name).is_err() {
                let made = inner.state.next_node();
                inner.carry_out(Op::MakeDir { dir, name: name.to_owned(), made })?;
            }
        }
        self.subdir(name)
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        let inner = self.handle.live()?;
        let names = &inner.state.dir(self.handle.node)?.written;
        let entry = |(name, id): (&String, &NodeId)| Entry {
            name: name.clone(),
            is_dir: matches!(inner.state.nodes.get(id), Some(Node::Dir(_))),
        };
        Ok(names.iter().map(entry).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        let op = Op::Rename { dir: self.handle.node, from: from.to_owned(), to: to.to_owned() };
        self.handle.live()?.carry_out(op)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        let mut inner = self.handle.live()?;
        let id = inner.state.lookup(self.handle.node, name)?;
        inner.state.file(id)?;
        inner.carry_out(Op::Remove { dir: self.handle.node, name: name.to_owned() })
    }

    fn remove_subdir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        SimDir::remove_tree(&mut *self.handle.live()?, self.handle.node, name)
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.handle.live()?;
        let name = self.handle.path.file_name().map(|name| name.to_string_lossy().into_owned());
        inner.check_fault(FaultKind::SyncDir, &name.unwrap_or_default())?;
        inner.carry_out(Op::SyncDir { dir: self.handle.node })?;
        inner.sweep();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    handle: Handle,
    /// As it was when opened, for faults.
    name: String,
    is_writable: bool,
}

impl SimFile {
    /// The disk, ready for a change of this file.
    fn changing(&self) -> io::Result<MutexGuard<'_, Inner>> {
        if !self.is_writable {
            return Err(Errno::BADF.into());
        }
        let mut inner = self.handle.live()?;
        inner.frozen.remove(&self.handle.node);
        Ok(inner)
    }

    fn sync(&self, op: Op) -> io::Result<()> {
        let mut inner = self.handle.live()?;
        if let Err(error) = inner.check_fault(FaultKind::Sync, &self.name) {
            inner.carry_out(Op::SyncFailed { file: self.handle.node })?;
            return Err(error);
        }
        inner.carry_out(op)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut inner = self.handle.live()?;
        inner.check_fault(FaultKind::Read, &self.name)?;
        Ok(inner.state.file(self.handle.node)?.written.read(buf, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.changing()?;
        inner.check_fault(FaultKind::Write, &self.name)?;
        if data.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|&end| end <= FILE_BYTES_MAX)
            .ok_or(Errno::FBIG)?;
        let file = self.handle.node;
        let reserved_bytes = inner.state.file(file)?.reserved_bytes;
        let room = inner.room(reserved_bytes, end);
        let fitting = usize::try_from(room.saturating_sub(offset)).unwrap_or(0).min(data.len());
        if fitting > 0 {
            inner.carry_out(Op::Write { file, offset, data: Arc::from(&data[..fitting]) })?;
        }
        if fitting < data.len() { Err(Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.handle.live()?.state.file(self.handle.node)?.written.len_bytes())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.changing()?;
        if len_bytes > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        inner.carry_out(Op::SetLen { file: self.handle.node, len_bytes })
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        let mut inner = self.changing()?;
        if len_bytes > FILE_BYTES_MAX {
            return Err(Errno::FBIG.into());
        }
        let reserved_bytes = inner.state.file(self.handle.node)?.reserved_bytes;
        if inner.room(reserved_bytes, len_bytes) < len_bytes {
            return Err(Errno::NOSPC.into());
        }
        inner.carry_out(Op::Allocate { file: self.handle.node, len_bytes })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(Op::SyncData { file: self.handle.node })
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(Op::SyncAll { file: self.handle.node })
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let mut inner = self.handle.live()?;
        let Some(open) = inner.open.get_mut(&self.handle.node) else { return Ok(false) };
        let me = self.handle.id;
        let is_mine = |holder: Option<u64>| holder.is_none_or(|holder| holder == me);
        Ok(match lock {
            Lock::Record if !self.is_writable => return Err(Errno::BADF.into()),
            Lock::Record => {
                let free = is_mine(open.record);
                if free {
                    open.record = Some(me);
                }
                free
            }
            Lock::Exclusive => {
                let free =
                    is_mine(open.exclusive) && open.shared.iter().all(|&holder| holder == me);
                if free {
                    open.release_flock(me);
                    open.exclusive = Some(me);
                }
                free
            }
            Lock::Shared => {
                let free = is_mine(open.exclusive);
                if free {
                    open.release_flock(me);
                    open.shared.insert(me);
                }
                free
            }
        })
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        let mut inner = self.handle.live()?;
        if let Some(open) = inner.open.get_mut(&self.handle.node) {
            let me = self.handle.id;
            match lock {
                Lock::Record => open.record = open.record.filter(|&holder| holder != me),
                Lock::Exclusive | Lock::Shared => open.release_flock(me),
            }
        }
        Ok(())
    }

    fn map(&self, len_bytes: u64) -> io::Result<Map> {
        let mut inner = self.handle.live()?;
        inner.check_fault(FaultKind::Read, &self.name)?;
        let content = &inner.state.file(self.handle.node)?.written;
        let wanted =
            usize::try_from(len_bytes.min(content.len_bytes())).map_err(|_| Errno::NOMEM)?;
        if let Some(frozen) = inner.frozen.get(&self.handle.node)
            && frozen.len() == wanted
        {
            return Ok(Map { inner: MapInner::Frozen(frozen.clone()) });
        }
        let mut bytes = vec![0; wanted];
        content.read(&mut bytes, 0);
        let frozen: Arc<[u8]> = bytes.into();
        inner.frozen.insert(self.handle.node, frozen.clone());
        Ok(Map { inner: MapInner::Frozen(frozen) })
    }
}

#[cfg(test)]
mod tests;
