//! The committed tree as a stream of the bytes of a database file.

use crate::Error;

/// What `Maintenance.Snapshot` and a raft snapshot send: two metas, then the pages of one committed state.
///
/// Pulled in pieces of the caller's size. It holds the state's pages as a view does; the writer is not disturbed, but
/// the file grows meanwhile. The SHA-256 that `Maintenance.Snapshot` sends last is the server's.
#[derive(Debug)]
pub struct Snapshot {
    stream: bolt::CopyStream,
}

impl Snapshot {
    pub(crate) fn new(tree: &bolt::ReadTx) -> Self {
        Self { stream: tree.copy() }
    }

    /// Length of the whole stream.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.stream.len_bytes()
    }

    /// What is still to be read.
    #[must_use]
    pub fn remaining_bytes(&self) -> u64 {
        self.stream.remaining_bytes()
    }

    /// Fills `buf` as far as the stream goes; 0 at its end. Reads the file: not for an executor's thread.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        Ok(self.stream.read(buf)?)
    }
}
