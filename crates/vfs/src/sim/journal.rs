//! A recorded workload, and the images that a crash at any of its operations can leave.
//!
//! ```
//! use vfs::sim::{Replayer, SimDisk};
//! use vfs::OpenMode;
//!
//! let disk = SimDisk::new();
//! disk.record();
//! let file = disk.dir().open("a", OpenMode::Create)?;
//! file.write_at(b"hello", 0)?;
//! file.sync_data()?;
//! disk.mark(1); // acknowledged
//! let journal = disk.take_journal();
//!
//! let mut replayer = Replayer::new(&journal);
//! while replayer.advance().is_some() {
//!     let plan = replayer.plan();
//!     for picks in plan.picks(64, 0) {
//!         let image = plan.image(&picks);
//!         assert!(image.dir().list()?.len() <= 1); // reopen, and compare with what was acknowledged
//!     }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::io;

use super::SimDisk;
use super::crash::{Chooser, CrashPlan};
use super::state::{Op, State};

/// Operations in order, and the disk before the first of them.
#[derive(Clone)]
pub struct Journal {
    pub(super) base: State,
    pub(super) ops: Vec<Op>,
}

impl Journal {
    /// The operations.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

/// Walks through a journal one operation at a time. Going on from cut to cut costs one operation, not the whole journal.
pub struct Replayer<'a> {
    journal: &'a Journal,
    state: State,
    done: usize,
}

impl<'a> Replayer<'a> {
    /// Stands before the first operation.
    #[must_use]
    pub fn new(journal: &'a Journal) -> Replayer<'a> {
        Replayer { journal, state: journal.base.clone(), done: 0 }
    }

    /// Number of operations carried out.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done
    }

    /// Carries out the next operation and returns it; `None` at the end.
    pub fn advance(&mut self) -> Option<&'a Op> {
        let op = self.journal.ops.get(self.done)?;
        self.done += 1;
        match self.state.apply(op) {
            Ok(()) => {}
            // A file without a name that was swept here and was still open there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => panic!(
                "operation {} of the journal does not replay: {op:?}: {error}",
                self.done - 1
            ),
        }
        if matches!(op, Op::SyncDir { .. }) {
            self.state.sweep(std::iter::empty());
        }
        Some(op)
    }

    /// What a crash at this point could lose.
    #[must_use]
    pub fn plan(&self) -> CrashPlan<'_> {
        CrashPlan::new(&self.state)
    }

    /// The disk as it would go on without a crash.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        SimDisk::from_state(self.state.clone())
    }
}

impl SimDisk {
    /// The disk after a crash behind the first `upto` operations. For many cuts of one journal use a [`Replayer`].
    #[must_use]
    pub fn replay(journal: &Journal, upto: usize, chooser: &mut dyn Chooser) -> SimDisk {
        let mut replayer = Replayer::new(journal);
        while replayer.done() < upto && replayer.advance().is_some() {}
        replayer.plan().image_with(chooser)
    }
}
