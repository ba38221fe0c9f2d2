//! The next segment, reserved ahead of time.
//!
//! Reserving 64 MB takes milliseconds; done while the current segment fills, it is not in the way of an append.
//!
//! Upstream: server/storage/wal/file_pipeline.go (3.5.30). Differs: the thread is the caller's, and a file that an
//! earlier run left is emptied first, since its bytes could stand behind a shorter head.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfs::{Dir, File, Lock, OpenMode};

use crate::Error;

/// Two names take turns, because a file can still wait for its rename while the next one is made.
const NAMES: u64 = 2;

/// Name of the reserved file with this number.
fn file_name(count: u64) -> String {
    format!("{}.tmp", count % NAMES)
}

/// Makes the next segment ready while the current one fills. Clones are handles of the same log.
#[derive(Debug, Clone)]
pub struct Preallocator {
    dir: Arc<dyn Dir>,
    segment_bytes: u64,
    /// Guards the reserved file; held while one is made, so that an append that needs it waits. Taken alone.
    slot: Arc<Mutex<Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    ready: Option<Reserved>,
    /// Files made so far.
    count: u64,
    is_closed: bool,
}

/// A reserved file, empty of content.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
}

impl Preallocator {
    pub(crate) fn new(dir: Arc<dyn Dir>, segment_bytes: u64) -> Preallocator {
        Preallocator { dir, segment_bytes, slot: Arc::default() }
    }

    /// Reserves the next segment if that has not been done. Call it from a thread of its own: once after the log was
    /// opened, and whenever [`crate::Appended::cut`] is set. An append that needs the segment before it is ready waits.
    ///
    /// An error (a full disk, say) leaves the log usable: the next cut tries again, and fails if it must.
    pub fn run(&self) -> Result<(), Error> {
        let mut slot = self.lock();
        if slot.ready.is_none() && !slot.is_closed {
            slot.ready = Some(self.reserve(&mut slot)?);
        }
        Ok(())
    }

    /// The reserved file, made now if need be.
    pub(crate) fn take(&self) -> Result<Reserved, Error> {
        let mut slot = self.lock();
        match slot.ready.take() {
            Some(reserved) => Ok(reserved),
            None => self.reserve(&mut slot),
        }
    }

    /// Removes what a killed process had reserved. The caller holds the last segment's lock, so it is nobody else's.
    pub(crate) fn remove_leftovers(&self) -> Result<(), Error> {
        for count in 0..NAMES {
            let name = file_name(count);
            match self.dir.remove(&name) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(
                        self.path(&name),
                        "remove the reserved segment of an earlier run",
                    )(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Removes what is reserved; nothing is reserved from now on.
    pub(crate) fn close(&self) -> Result<(), Error> {
        let mut slot = self.lock();
        slot.is_closed = true;
        match slot.ready.take() {
            Some(reserved) => self
                .dir
                .remove(&reserved.name)
                .map_err(Error::io(self.path(&reserved.name), "remove")),
            None => Ok(()),
        }
    }

    fn reserve(&self, slot: &mut Slot) -> Result<Reserved, Error> {
        let name = file_name(slot.count);
        let file = self
            .dir
            .open(&name, OpenMode::Truncate)
            .map_err(Error::io(self.path(&name), "create the next segment"))?;
        if !file
            .try_lock(Lock::Record)
            .map_err(Error::io(self.path(&name), "lock the next segment"))?
        {
            return Err(Error::Locked { file: self.path(&name) });
        }
        if let Err(error) = file.allocate(self.segment_bytes) {
            // Half a reservation helps nobody, and takes the space that a compaction may need.
            let _ = self.dir.remove(&name);
            return Err(Error::io(self.path(&name), "reserve the next segment")(error));
        }
        slot.count += 1;
        Ok(Reserved { name, file })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        // A panic while reserving leaves the slot empty, which is a valid state.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
