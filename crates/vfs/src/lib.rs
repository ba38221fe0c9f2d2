//! Files as the storage crates see them: a directory to open things in, and files with positioned reads and writes.
//!
//! Everything that touches a disk below `server` goes through [`Dir`] and [`File`]. [`real`] is the operating system;
//! [`sim`] keeps what is durable apart from what is only written, so that a crash can lose or tear it.
//!
//! Invariants
//! - a write is durable only after [`File::sync_data`] (content) and, for a new, renamed or removed name, [`Dir::sync`];
//! - calls may block, and nothing here starts a thread or reads a clock.

mod dir;
mod file;
pub mod real;
pub mod sim;
pub mod suite;

pub use dir::{Dir, Entry, OpenMode};
pub use file::{File, Lock, Map};

use std::io;

/// Refuses what is not a single name: an implementation must never be led out of its directory.
fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a plain file name"),
        ));
    }
    Ok(())
}
