//! What the writer, the readers and the committer share: which tree and which buffers make up the present.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vfs::Dir;

use crate::pending::Pending;
use crate::{Error, Options, View};

/// Shared by the handles of one backend.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) options: Options,
    /// Guards the set below for the time of a few pointer copies; nothing else is locked while it is held, but for the
    /// maps of a buffer.
    state: Mutex<State>,
}

/// The present: rows of `tree`, then of `committing`, then of `current`.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) db: bolt::Db,
    /// The last committed state.
    pub(crate) tree: bolt::ReadTx,
    /// The buffer that a commit is writing. Nothing is added to it any more.
    pub(crate) committing: Option<Arc<Pending>>,
    /// The buffer that gathers.
    pub(crate) current: Arc<Pending>,
    /// A commit or a defragmentation is running, or was abandoned.
    pub(crate) is_busy: bool,
    /// Why the backend can no longer be trusted.
    pub(crate) poison: Option<String>,
}

impl Shared {
    pub(crate) fn new(dir: Arc<dyn Dir>, options: Options, db: bolt::Db) -> Self {
        let tree = db.read();
        let current = Arc::new(Pending::default());
        let state = State { db, tree, committing: None, current, is_busy: false, poison: None };
        Self { dir, options, state: Mutex::new(state) }
    }

    /// Each critical section leaves the state whole, so poison of the mutex says nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the first failure.
    pub(crate) fn poison(&self, cause: &dyn std::fmt::Display) {
        self.lock().poison.get_or_insert_with(|| cause.to_string());
    }

    pub(crate) fn view(&self) -> View {
        let state = self.lock();
        let committing = state.committing.clone();
        View::new(state.tree.clone(), committing, Arc::clone(&state.current))
    }

    pub(crate) fn check_health(&self) -> Result<(), Error> {
        match &self.lock().poison {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }
}

/// Handle for reading. Cheap to clone, for any thread.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// The present, as published by the writer. Takes a lock for a few pointer copies.
    ///
    /// A view pins the pages of the tree that it was taken at: the file grows while an old one is kept. Drop it when the
    /// request is answered.
    #[must_use]
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// Size of the file's used part and of what is in use of it, as of the last commit.
    #[must_use]
    pub fn size(&self) -> Size {
        let stats = self.shared.lock().tree.stats();
        Size { total_bytes: stats.size_bytes, in_use_bytes: stats.size_in_use_bytes() }
    }

    /// An error once a commit has failed. The member must stop then: what is on disk is not what was applied.
    pub fn check_health(&self) -> Result<(), Error> {
        self.shared.check_health()
    }
}

/// Size of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// What etcd reports as `dbSize`, and holds against the quota.
    pub total_bytes: u64,
    /// The same without free pages: `dbSizeInUse`.
    pub in_use_bytes: u64,
}
