//! What is made from files, made again when these have changed.
//!
//! Operators and their tools replace files while the member runs. The files are looked at whenever the value is asked for, and
//! read if they are others than the last time.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::Error;

/// What tells two versions of a file apart: inode, size, and when it was written.
type Stamp = (u64, u64, i64, i64);

/// A value and the files that it was made from.
pub(crate) struct Fresh<T> {
    files: Vec<PathBuf>,
    /// Held while the files are looked at.
    made: Mutex<(Vec<Stamp>, T)>,
}

impl<T: Clone> Fresh<T> {
    /// Makes the value for the first time.
    ///
    /// # Errors
    /// A file is missing, or `make` failed.
    pub(crate) fn new(
        files: Vec<PathBuf>,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Self, Error> {
        let stamps = stamps(&files)?;
        let value = make()?;
        Ok(Self { files, made: Mutex::new((stamps, value)) })
    }

    /// The value as of the files' present content. `make` is called if that is new.
    ///
    /// # Errors
    /// A file is missing, or `make` failed: the next call tries again.
    pub(crate) fn get(&self, make: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.files)?;
        if made.0 != stamps {
            *made = (stamps, make()?);
        }
        Ok(made.1.clone())
    }

    /// As [`Self::get`], but what cannot be made anew stays as it is, with a warning: a bundle that is being replaced must not turn
    /// everybody away meanwhile.
    pub(crate) fn get_or_last(&self, make: impl FnOnce() -> Result<T, Error>) -> T {
        self.get(make).unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to reload trusted CA file, the previous one stays in use");
            self.made.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
        })
    }
}

fn stamps(files: &[PathBuf]) -> Result<Vec<Stamp>, Error> {
    let of = |path: &Path| {
        std::fs::metadata(path)
            .map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
            .map_err(|source| Error::file(path, source))
    };
    files.iter().map(|path| of(path)).collect()
}
