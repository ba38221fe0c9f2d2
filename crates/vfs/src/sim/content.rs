//! The bytes of one simulated file: sparse, and shared between copies until one of them writes.
//!
//! A disk image is copied for every crash that a test looks at, so a copy costs one reference count; a preallocated
//! 64 MB segment of zeros holds no blocks at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SECTOR_BYTES;

/// Bytes that are copied when one of them changes in shared content; a page of the usual page cache.
const BLOCK_BYTES: usize = 4096;
/// Blocks reached through one shared inner node: a write to a shared file copies this many pointers, not the whole index.
const LEAF_BLOCKS: usize = 64;

type Block = Arc<[u8; BLOCK_BYTES]>;

#[derive(Clone)]
struct Leaf([Option<Block>; LEAF_BLOCKS]);

/// Content of a file. What no block covers reads as zeros.
#[derive(Clone, Default)]
pub(super) struct Content {
    len_bytes: u64,
    leaves: Arc<BTreeMap<u64, Arc<Leaf>>>,
}

impl Content {
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Reads up to the end of the file; returns the number of bytes read.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let available = self.len_bytes.saturating_sub(offset);
        let count = usize::try_from(available).unwrap_or(usize::MAX).min(buf.len());
        self.read_raw(&mut buf[..count], offset);
        count
    }

    /// Reads without regard to the length.
    fn read_raw(&self, buf: &mut [u8], offset: u64) {
        for piece in pieces(offset, buf.len()) {
            let target = &mut buf[piece.start..piece.start + piece.len];
            match self.block(piece.block) {
                Some(block) => {
                    target.copy_from_slice(&block[piece.within..piece.within + piece.len])
                }
                None => target.fill(0),
            }
        }
    }

    fn block(&self, index: u64) -> Option<&Block> {
        let (leaf, slot) = place(index);
        self.leaves.get(&leaf)?.0[slot].as_ref()
    }

    /// Writes, growing the file when the data ends behind it.
    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        self.write_raw(data, offset);
        self.len_bytes = self.len_bytes.max(offset + data.len() as u64);
    }

    /// Writes without regard to the length.
    fn write_raw(&mut self, data: &[u8], offset: u64) {
        for piece in pieces(offset, data.len()) {
            let source = &data[piece.start..piece.start + piece.len];
            // Zeros over nothing stay nothing: this is what keeps copied and zero-filled files sparse.
            if self.block(piece.block).is_none() && source.iter().all(|&byte| byte == 0) {
                continue;
            }
            let (leaf, slot) = place(piece.block);
            let leaf = Arc::make_mut(&mut self.leaves)
                .entry(leaf)
                .or_insert_with(|| Arc::new(Leaf([const { None }; LEAF_BLOCKS])));
            let block =
                Arc::make_mut(leaf).0[slot].get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(block)[piece.within..piece.within + piece.len].copy_from_slice(source);
        }
    }

    /// Truncates, or extends with zeros.
    pub(super) fn set_len(&mut self, len_bytes: u64) {
        let shrinks = len_bytes < self.len_bytes;
        self.len_bytes = len_bytes;
        if shrinks {
            self.clear_behind_end();
        }
    }

    /// Drops what was put behind the end with [`Content::put_sector`], or is left there by a truncation.
    pub(super) fn clear_behind_end(&mut self) {
        let block_bytes = BLOCK_BYTES as u64;
        let within = self.len_bytes % block_bytes;
        let boundary = self.len_bytes / block_bytes;
        if within != 0 && self.block(boundary).is_some() {
            let zeros = vec![0; usize::try_from(block_bytes - within).unwrap_or(0)];
            self.write_raw(&zeros, self.len_bytes);
        }
        let first_gone = self.len_bytes.div_ceil(block_bytes);
        let (first_leaf, first_slot) = place(first_gone);
        if self.leaves.range(first_leaf..).next().is_none() {
            return;
        }
        let leaves = Arc::make_mut(&mut self.leaves);
        leaves.split_off(&(first_leaf + 1));
        if let Some(leaf) = leaves.get_mut(&first_leaf) {
            Arc::make_mut(leaf).0[first_slot..].fill(None);
        }
    }

    /// One sector, zeros where there is nothing.
    pub(super) fn sector(&self, sector: u64) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        self.read_raw(&mut bytes, sector * SECTOR_BYTES as u64);
        bytes
    }

    /// Replaces one sector and leaves the length alone.
    pub(super) fn put_sector(&mut self, sector: u64, bytes: &[u8; SECTOR_BYTES]) {
        self.write_raw(bytes, sector * SECTOR_BYTES as u64);
    }
}

struct Piece {
    block: u64,
    /// Offset in the block.
    within: usize,
    /// Offset in the caller's buffer.
    start: usize,
    len: usize,
}

/// Cuts a range of bytes at block borders.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == len {
            return None;
        }
        let at = offset + start as u64;
        let within = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or(0);
        let piece = Piece {
            block: at / BLOCK_BYTES as u64,
            within,
            start,
            len: (BLOCK_BYTES - within).min(len - start),
        };
        start += piece.len;
        Some(piece)
    })
}

/// Leaf and slot of a block.
fn place(block: u64) -> (u64, usize) {
    (block / LEAF_BLOCKS as u64, usize::try_from(block % LEAF_BLOCKS as u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(content: &Content) -> Vec<u8> {
        let mut bytes = vec![0xee; usize::try_from(content.len_bytes()).unwrap()];
        assert_eq!(content.read(&mut bytes, 0), bytes.len());
        bytes
    }

    #[test]
    fn random_writes_and_truncations_match_a_vector() {
        let mut state = 1u64;
        let mut next = |bound: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % bound
        };
        let mut content = Content::default();
        let mut model: Vec<u8> = Vec::new();
        for round in 0..400 {
            if next(4) == 0 {
                let len = next(700_000);
                content.set_len(len);
                model.resize(usize::try_from(len).unwrap(), 0);
            } else {
                let offset = usize::try_from(next(600_000)).unwrap();
                let data =
                    vec![u8::try_from(next(3)).unwrap(); usize::try_from(next(20_000)).unwrap()];
                content.write(&data, offset as u64);
                if model.len() < offset + data.len() {
                    model.resize(offset + data.len(), 0);
                }
                model[offset..offset + data.len()].copy_from_slice(&data);
            }
            let copy = content.clone();
            if round % 8 == 0 {
                content.write(b"only in one of the copies", 3);
                content = copy;
            }
            if round % 20 == 0 {
                assert!(all(&content) == model, "round {round}");
            }
        }
        assert!(all(&content) == model);
    }

    #[test]
    fn zeros_take_no_blocks() {
        let mut content = Content::default();
        content.set_len(64_000_000);
        content.write(&[0; 100_000], 1_000_000);
        assert!(content.leaves.is_empty());
    }
}
