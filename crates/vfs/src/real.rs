//! Files and directories of the operating system.
//!
//! A directory is held by descriptor: names are looked up relative to it, so a handle stays right when the directory
//! itself is renamed (`wal.tmp` becomes `wal`), and only its `path()` for messages keeps the old text.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::file::MapInner;
use crate::{Dir, Entry, File, Lock, Map, OpenMode, check_name};

/// Mode of new files: etcd's `PrivateFileMode`.
const FILE_MODE: u32 = 0o600;
/// Mode of new directories: etcd's `PrivateDirMode`.
const DIR_MODE: u32 = 0o700;

/// Whether what is asked to be durable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// Before the call returns.
    Done,
    /// When the system gets to it: a machine that loses its power loses what was acknowledged.
    LeftOut,
}

/// A directory of the operating system.
pub struct RealDir {
    path: PathBuf,
    fd: OwnedFd,
    syncs: Syncs,
}

impl RealDir {
    /// Opens an existing directory.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Arc<dyn Dir>> {
        Self::open_with(path, Syncs::Done)
    }

    /// Opens an existing directory; `syncs` counts for all that is opened in it.
    pub fn open_with(path: impl AsRef<Path>, syncs: Syncs) -> io::Result<Arc<dyn Dir>> {
        let path = path.as_ref();
        let fd = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Arc::new(RealDir { path: path.to_owned(), fd, syncs }))
    }

    /// Makes the directory and its missing parents (mode 0700), each durable in its parent, and opens it.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Arc<dyn Dir>> {
        let path = path.as_ref();
        create_durably(path)?;
        RealDir::open(path)
    }
}

/// Creates from the outermost missing directory inwards, so that each new name is synced in a parent that exists.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    create_durably(parent)?;
    match fs::DirBuilder::new().mode(DIR_MODE).create(path) {
        Ok(()) => fs::File::open(parent)?.sync_all(),
        // Somebody else made it meanwhile, or the path ends in "..".
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

impl fmt::Debug for RealDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RealDir").field(&self.path).finish()
    }
}

impl Dir for RealDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        check_name(name)?;
        let flags = OFlags::CLOEXEC
            | match mode {
                OpenMode::Read => OFlags::RDONLY,
                OpenMode::ReadWrite => OFlags::RDWR,
                OpenMode::Create => OFlags::RDWR | OFlags::CREATE,
                OpenMode::Truncate => OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
            };
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(FILE_MODE))?;
        let file = fs::File::from(fd);
        // A directory opens for reading without complaint and only fails at the first read.
        if file.metadata()?.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        Ok(Arc::new(RealFile { path: self.path.join(name), file, syncs: self.syncs }))
    }

    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        check_name(name)?;
        let fd = rustix::fs::openat(
            &self.fd,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Arc::new(RealDir { path: self.path.join(name), fd, syncs: self.syncs }))
    }

    fn create_subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>> {
        check_name(name)?;
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(DIR_MODE)) {
            Ok(()) | Err(Errno::EXIST) => self.subdir(name),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<Entry>> {
        list_fd(&self.fd)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        Ok(rustix::fs::renameat(&self.fd, from, &self.fd, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn remove_subdir(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        remove_tree(&self.fd, OsStr::new(name))
    }

    fn sync(&self) -> io::Result<()> {
        match self.syncs {
            Syncs::Done => Ok(rustix::fs::fsync(&self.fd)?),
            Syncs::LeftOut => Ok(()),
        }
    }
}

fn list_fd(fd: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(fd)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes == b"." || bytes == b".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            // Some file systems do not say in the listing, and a link may lead to a directory.
            FileType::Unknown | FileType::Symlink => {
                match rustix::fs::statat(fd, entry.file_name(), AtFlags::empty()) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                    // Removed meanwhile, or a dangling link.
                    Err(Errno::NOENT) => false,
                    Err(error) => return Err(error.into()),
                }
            }
            FileType::RegularFile
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice => false,
        };
        // Names that are no UTF-8 are nobody's format; shown with replacement characters, they match none either.
        entries.push(Entry { name: String::from_utf8_lossy(bytes).into_owned(), is_dir });
    }
    entries.sort();
    Ok(entries)
}

/// Removes a directory and its content without following links out of it.
fn remove_tree(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    // Collected first: removing while reading may skip names.
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if bytes != b"." && bytes != b".." {
            names.push(bytes.to_vec());
        }
    }
    for child in names {
        let child = OsStr::from_bytes(&child);
        match rustix::fs::unlinkat(&fd, child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => remove_tree(&fd, child)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}

/// A file of the operating system.
struct RealFile {
    path: PathBuf,
    file: fs::File,
    syncs: Syncs,
}

impl fmt::Debug for RealFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RealFile").field(&self.path).finish()
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes == 0 {
            return Ok(());
        }
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len_bytes) {
                Ok(()) => return Ok(()),
                Err(Errno::INTR) => {}
                // The file system has no reservations (some network and overlay ones): only the length is made.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                    let grown = self.len_bytes()?.max(len_bytes);
                    return self.set_len(grown);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.syncs {
            Syncs::Done => self.file.sync_data(),
            Syncs::LeftOut => Ok(()),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        match self.syncs {
            Syncs::Done => self.file.sync_all(),
            Syncs::LeftOut => Ok(()),
        }
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let operation = match lock {
            Lock::Record => return self.record_lock(nix::libc::F_WRLCK),
            Lock::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Lock::Shared => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn unlock(&self, lock: Lock) -> io::Result<()> {
        match lock {
            Lock::Record => self.record_lock(nix::libc::F_UNLCK).map(|_| ()),
            Lock::Exclusive | Lock::Shared => {
                Ok(rustix::fs::flock(&self.file, FlockOperation::Unlock)?)
            }
        }
    }

    fn map(&self, len_bytes: u64) -> io::Result<Map> {
        let len =
            usize::try_from(len_bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        map_file(&self.file, len)
    }
}

impl RealFile {
    /// Sets or clears an open-file-description lock over the whole file; `false` when another description holds it.
    fn record_lock(&self, kind: i32) -> io::Result<bool> {
        use nix::fcntl::{FcntlArg, fcntl};

        #[allow(
            clippy::cast_possible_truncation,
            reason = "the lock kinds and SEEK_SET are 0, 1 and 2"
        )]
        let request = nix::libc::flock {
            l_type: kind as nix::libc::c_short,
            l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
            l_start: 0,
            l_len: 0, // to the end, wherever that will be
            l_pid: 0, // must be 0 for this kind of lock
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&request)) {
            Ok(_) => Ok(true),
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[allow(unsafe_code, reason = "a memory map is the one thing here that has no safe form")]
fn map_file(file: &fs::File, len: usize) -> io::Result<Map> {
    // An empty mapping is refused by the kernel, and has nothing to show.
    if len == 0 {
        return Ok(Map { inner: MapInner::Frozen(Arc::from(&[][..])) });
    }
    // SAFETY: the mapping is read-only and shared. What makes `&[u8]` into it sound is that bytes under a live
    // reference do not change and stay inside the file: `bolt` upholds both by holding the exclusive file lock, by never
    // writing a page that an open transaction can reach, and by never shrinking the file. `Map::bytes` passes this
    // duty on to every caller in its documentation.
    let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
    Ok(Map { inner: MapInner::Live(map) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_the_suite() {
        let dir = tempfile::tempdir().unwrap();
        crate::suite::run(&RealDir::open(dir.path()).unwrap());
    }

    #[test]
    fn create_makes_private_parents() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        let made = RealDir::create(&path).unwrap();
        made.open("f", OpenMode::Create).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("a")), 0o700);
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("f")), 0o600);
        RealDir::create(&path).unwrap();
        assert_eq!(
            RealDir::open(dir.path().join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn removing_a_tree_leaves_what_links_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let root = RealDir::open(dir.path()).unwrap();
        root.create_subdir("kept").unwrap().open("x", OpenMode::Create).unwrap();
        root.create_subdir("gone").unwrap();
        std::os::unix::fs::symlink(dir.path().join("kept"), dir.path().join("gone/link")).unwrap();
        root.remove_subdir("gone").unwrap();
        assert_eq!(root.subdir("kept").unwrap().list().unwrap().len(), 1);
        assert_eq!(root.list().unwrap().len(), 1);
    }

    /// `/proc/locks` shows an OFDLCK, which is what keeps a Go etcd process out of a segment.
    #[test]
    fn record_locks_are_open_file_description_locks() {
        use std::os::unix::fs::MetadataExt;

        let dir = tempfile::tempdir().unwrap();
        let root = RealDir::open(dir.path()).unwrap();
        let file = root.open("a", OpenMode::Create).unwrap();
        assert!(file.try_lock(Lock::Record).unwrap());
        let inode = format!(":{} ", fs::metadata(dir.path().join("a")).unwrap().ino());
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        // Some sandboxes show no locks at all.
        if let Some(line) = locks.lines().find(|line| line.contains(&inode)) {
            assert!(line.contains("OFDLCK") && line.contains("WRITE"), "{line}");
        }
    }
}
