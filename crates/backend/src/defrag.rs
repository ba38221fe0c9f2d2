//! Defragmentation: the tree copied to a new file that takes the old one's place.
//!
//! ```text
//! open db.tmp.<tx> -> copy -> sync -> rename over db -> sync folder -> views see the new file
//!                 ^ a crash here leaves db.tmp.*, which the next open removes
//! ```
//!
//! Readers keep the old file, which has no name any more, until their views are gone. Writes gather in the buffer.
//! Upstream: `server/mvcc/backend/backend.go` `defrag` (3.5), which stops everything meanwhile, and does not sync the
//! folder.

use std::sync::Arc;

use crate::error::io_error;
use crate::shared::Shared;
use crate::{DB_FILE, Error, Size, TMP_PREFIX};

/// What a defragmentation changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DefragStats {
    /// Size before.
    pub before: Size,
    /// Size after.
    pub after: Size,
}

/// A defragmentation, to be run where commits run.
#[derive(Debug)]
#[must_use = "no commit is given until the job has run or was dropped"]
pub struct DefragJob {
    shared: Arc<Shared>,
}

impl DefragJob {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Copies the tree and swaps the files.
    ///
    /// An error before the swap leaves all as it was, and the backend goes on (a full disk, say). An error after it is
    /// fatal: then [`crate::Reader::check_health`] fails too.
    pub fn run(self) -> Result<DefragStats, Error> {
        let tree = self.shared.lock().tree.clone();
        let size = |tree: &bolt::ReadTx| {
            let stats = tree.stats();
            Size { total_bytes: stats.size_bytes, in_use_bytes: stats.size_in_use_bytes() }
        };
        let before = size(&tree);
        // Unique in this folder: two defragmentations of one state cannot run at once, and leftovers go at open.
        let tmp = format!("{TMP_PREFIX}{}", tree.tx_id());
        let copied = self.copy(&tree, &tmp).inspect_err(|_| {
            // The next open tries again.
            let _ = self.shared.dir.remove(&tmp);
        })?;
        self.swap(&tmp).inspect_err(|error| self.shared.poison(error))?;
        let fresh = copied.read();
        let after = size(&fresh);
        let mut state = self.shared.lock();
        let old =
            (std::mem::replace(&mut state.tree, fresh), std::mem::replace(&mut state.db, copied));
        drop(state);
        drop(old);
        Ok(DefragStats { before, after })
    }

    fn copy(&self, tree: &bolt::ReadTx, tmp: &str) -> Result<bolt::Db, Error> {
        let options = bolt::Options { page_size: tree.page_size(), ..self.shared.options.bolt() };
        let copied = bolt::Db::open(&self.shared.dir, tmp, &options)?;
        tree.copy_compact(&copied)?;
        Ok(copied)
    }

    fn swap(&self, tmp: &str) -> Result<(), Error> {
        let dir = &self.shared.dir;
        dir.rename(tmp, DB_FILE).map_err(io_error("rename", dir.path(), tmp))?;
        dir.sync().map_err(io_error("sync folder of", dir.path(), DB_FILE))
    }
}

impl Drop for DefragJob {
    fn drop(&mut self) {
        self.shared.lock().is_busy = false;
    }
}
