//! Append-only list of the rows that were put into the `key` bucket, read by many threads while one appends.
//!
//! Rows live in chunks whose sizes double, so that a row never moves: a reader may keep a reference as long as it keeps
//! the list. A slot is written once (`OnceLock`), hence no lock on either side.
//!
//! ```text
//! chunk 0   chunk 1          chunk 2
//! [256]     [512]            [1024]              ... index i is in chunk log2(i / 256 + 1)
//! ```
//!
//! Invariant: keys strictly increase along the list, so a row is found by halving.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::schema::RowKey;

/// Size of the first chunk: most commits of a quiet member fit in it, and it costs 16 KiB.
const FIRST_CHUNK: u32 = 256;

/// 256 * (2^24 - 1) rows: just below what `u32` counts.
const CHUNKS: usize = 24;

/// One row as it was put.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: RowKey,
    pub(crate) value: Bytes,
}

#[derive(Debug, Default)]
pub(crate) struct RowLog {
    chunks: [OnceLock<Box<[OnceLock<Row>]>>; CHUNKS],
}

impl RowLog {
    /// Stores the row at `index`, which is the number of rows so far. Only the writer calls this.
    pub(crate) fn push(&self, index: u32, row: Row) {
        let (chunk, offset, len) = place(index);
        let chunk =
            self.chunks.get(chunk).expect("fewer than 2^32 - 256 rows are put between two commits");
        let chunk = chunk.get_or_init(|| (0..len).map(|_| OnceLock::new()).collect());
        let slot =
            chunk.get(offset).expect("the offset is below the chunk's length by construction");
        assert!(slot.set(row).is_ok(), "two rows were put at one place of the list");
    }

    /// The row at `index`, which must be below the published count.
    pub(crate) fn get(&self, index: u32) -> &Row {
        let (chunk, offset, _) = place(index);
        self.chunks
            .get(chunk)
            .and_then(OnceLock::get)
            .and_then(|chunk| chunk.get(offset))
            .and_then(OnceLock::get)
            .expect("rows below the published count are set")
    }

    /// Index of the first of the first `count` rows whose key is at or after `key`; `count` when there is none.
    pub(crate) fn lower_bound(&self, count: u32, key: RowKey) -> u32 {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle).key < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The value put under `key` among the first `count` rows.
    pub(crate) fn find(&self, count: u32, key: RowKey) -> Option<&Bytes> {
        // Most rows that are asked for are in the tree: older than all of these.
        if count == 0 || key < self.get(0).key {
            return None;
        }
        let index = self.lower_bound(count, key);
        if index == count {
            return None;
        }
        let row = self.get(index);
        (row.key == key).then_some(&row.value)
    }
}

/// Chunk, offset in it, and the chunk's length, for a row.
fn place(index: u32) -> (usize, usize, usize) {
    let chunk = (index / FIRST_CHUNK + 1).ilog2();
    let len = FIRST_CHUNK << chunk;
    let start = len - FIRST_CHUNK;
    (chunk as usize, (index - start) as usize, len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Revision;

    fn key(main: i64) -> RowKey {
        RowKey::put(Revision::first_of(main))
    }

    #[test]
    fn places_follow_each_other() {
        assert_eq!(place(0), (0, 0, 256));
        assert_eq!(place(255), (0, 255, 256));
        assert_eq!(place(256), (1, 0, 512));
        assert_eq!(place(767), (1, 511, 512));
        assert_eq!(place(768), (2, 0, 1024));
        let (chunk, offset, len) = place(u32::MAX - 256);
        assert_eq!((chunk, offset), (CHUNKS - 1, len - 1));
    }

    #[test]
    fn finds_every_row_and_only_those() {
        let log = RowLog::default();
        for i in 0..2000_u32 {
            let main = i64::from(i) * 2;
            log.push(i, Row { key: key(main), value: Bytes::from(main.to_string()) });
        }
        for i in 0..2000_u32 {
            let main = i64::from(i) * 2;
            assert_eq!(log.find(2000, key(main)).unwrap(), main.to_string().as_bytes());
            assert_eq!(log.find(2000, key(main + 1)), None);
            assert_eq!(log.find(2000, RowKey::tombstone(Revision::first_of(main))), None);
            assert_eq!(log.lower_bound(2000, key(main + 1)), i + 1);
        }
        assert_eq!(log.find(1000, key(2000)), None, "not published");
        assert_eq!(log.find(1001, key(2000)).unwrap(), "2000");
    }
}
