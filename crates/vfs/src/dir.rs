//! The directory half of the boundary: names, renames, and their durability.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::File;

/// How [`Dir::open`] treats a name that exists or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, reading only.
    Read,
    /// Existing file, reading and writing.
    ReadWrite,
    /// Reading and writing; made (mode 0600) when missing.
    Create,
    /// Reading and writing; made, or emptied when it exists.
    Truncate,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, without the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
}

/// One directory. All names are relative to it and hold no separators.
pub trait Dir: Send + Sync + fmt::Debug {
    /// Where this directory is, for messages.
    fn path(&self) -> &Path;

    /// Opens a file.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn File>>;

    /// Opens an existing directory in this one.
    fn subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>>;

    /// Makes a directory (mode 0700) when missing, and opens it.
    fn create_subdir(&self, name: &str) -> io::Result<Arc<dyn Dir>>;

    /// What is in here, sorted by name.
    fn list(&self) -> io::Result<Vec<Entry>>;

    /// Renames a file or directory within this directory, replacing a file of the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Removes a directory and all in it.
    fn remove_subdir(&self, name: &str) -> io::Result<()>;

    /// Makes new, renamed and removed names durable (`fsync` of the directory).
    fn sync(&self) -> io::Result<()>;
}
