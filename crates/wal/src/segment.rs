//! Segment files: their names, and the records in one of them.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use prost::Message;
use proto::walpb;
use vfs::{Dir, File};

use crate::Error;
use crate::frame::{WORD_BYTES, kind, parse_length_word};

/// What a disk writes at once, so that an unwritten piece of a record reads as that many zeros.
const SECTOR_BYTES: u64 = 512;

/// First read of a segment: mostly the segment is short, and the rest of its 64 MB are zeros that nobody needs.
const CHUNK_BYTES_MIN: u64 = 64 << 10;

/// Further reads: large enough that the calls cost nothing, small enough that a single entry, which keeps its whole
/// chunk in memory, does not keep much.
const CHUNK_BYTES_MAX: u64 = 1 << 20;

/// Largest record: far above any request that a server accepts, and small enough to be held in memory.
const RECORD_BYTES_MAX: u64 = 1 << 30;

/// Name of a segment: `SEQ-INDEX.wal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    /// Rises by one from segment to segment.
    pub(crate) seq: u64,
    /// Index of the first entry that can be in it.
    pub(crate) index: u64,
}

impl SegmentName {
    pub(crate) fn parse(name: &str) -> Option<SegmentName> {
        let (seq, index) = name.strip_suffix(".wal")?.split_once('-')?;
        let hex = |digits: &str| {
            let is_hex = digits.len() == 16
                && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if is_hex { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        Some(SegmentName { seq: hex(seq)?, index: hex(index)? })
    }
}

impl std::fmt::Display for SegmentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:016x}.wal", self.seq, self.index)
    }
}

/// Segments of a log, in order. Other names in the directory are not ours.
pub(crate) fn list(dir: &Arc<dyn Dir>) -> Result<Vec<SegmentName>, Error> {
    let entries = dir.list().map_err(Error::io(dir.path().display(), "list"))?;
    let mut names: Vec<SegmentName> = entries
        .iter()
        .filter(|entry| !entry.is_dir)
        .filter_map(|entry| SegmentName::parse(&entry.name))
        .collect();
    names.sort();
    Ok(names)
}

/// An open segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) name: SegmentName,
    pub(crate) file: Arc<dyn File>,
    /// For messages.
    pub(crate) path: String,
}

/// One record, checked.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) kind: i64,
    pub(crate) data: Bytes,
    /// Where its frame begins.
    pub(crate) offset: u64,
}

/// Why a record could not be read.
#[derive(Debug)]
pub(crate) enum Damage {
    /// A crash in the middle of a write can explain it.
    Torn(String),
    /// It cannot.
    Corrupt(String),
    /// The system did not give the bytes.
    Io(std::io::Error),
}

/// Reads the records of one segment in order.
pub(crate) struct SegmentReader {
    file: Arc<dyn File>,
    len_bytes: u64,
    /// Only in the last segment can a write have been interrupted.
    is_last: bool,
    /// Bytes read ahead; the first of them is at `offset`.
    chunk: Bytes,
    /// Where the next frame begins.
    offset: u64,
    next_chunk_bytes: u64,
}

impl SegmentReader {
    pub(crate) fn new(file: Arc<dyn File>, is_last: bool) -> std::io::Result<SegmentReader> {
        let len_bytes = file.len_bytes()?;
        Ok(SegmentReader {
            file,
            len_bytes,
            is_last,
            chunk: Bytes::new(),
            offset: 0,
            next_chunk_bytes: CHUNK_BYTES_MIN,
        })
    }

    /// Behind the last good record.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record, or `None` at the end of the segment. `chain` goes on over it. After damage the reader stays
    /// where it is.
    pub(crate) fn next(&mut self, chain: &mut u32) -> Result<Option<Record>, Damage> {
        let left = self.len_bytes - self.offset;
        if left == 0 {
            return Ok(None);
        }
        self.fill(left.min(WORD_BYTES as u64))?;
        if left < WORD_BYTES as u64 {
            // A reserved length that is no multiple of a word ends in a piece of one.
            if self.chunk.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            return Err(self.torn(format!("only {left} bytes of a length word")));
        }
        let word = self.chunk.get(..WORD_BYTES).unwrap_or_default().get_u64_le();
        if word == 0 {
            return Ok(None);
        }
        let Some((length, padding)) = parse_length_word(word) else {
            return Err(Damage::Corrupt(format!("{word:#018x} is no length of a record")));
        };
        let frame_bytes = WORD_BYTES as u64 + length + padding;
        if frame_bytes > left {
            let what = format!(
                "a record of {length} bytes does not fit into the {left} bytes left in the file"
            );
            return Err(self.torn(what));
        }
        if length > RECORD_BYTES_MAX {
            return Err(Damage::Corrupt(format!(
                "a record of {length} bytes is above the limit of {RECORD_BYTES_MAX}"
            )));
        }
        self.fill(frame_bytes)?;
        let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        // `fill` has made sure of these lengths.
        let frame = self.chunk.slice(..place(frame_bytes).min(self.chunk.len()));
        let body = frame.slice(WORD_BYTES..place(WORD_BYTES as u64 + length).min(frame.len()));

        let mut after = *chain;
        let record = match walpb::Record::decode(body) {
            Ok(record) => record,
            Err(error) => return Err(self.damaged(&frame, format!("no protobuf record: {error}"))),
        };
        let data = record.data.unwrap_or_default();
        if record.r#type != kind::CRC {
            after = crc32c::crc32c_append(after, &data);
            if after != record.crc {
                let what = format!(
                    "walpb: crc mismatch: {:08x} in the record, {after:08x} computed",
                    record.crc
                );
                return Err(self.damaged(&frame, what));
            }
        } else {
            // A reader that begins in a middle segment has no chain yet, and takes this one.
            if after != 0 && after != record.crc {
                let what = format!(
                    "wal: crc mismatch: the segment before ended with {after:08x}, not {:08x}",
                    record.crc
                );
                return Err(Damage::Corrupt(what));
            }
            after = record.crc;
        }
        let offset = self.offset;
        self.chunk.advance(frame.len());
        self.offset += frame_bytes;
        *chain = after;
        Ok(Some(Record { kind: record.r#type, data, offset }))
    }

    /// Makes `bytes` bytes at the reader's offset available. The caller has checked that the file has them.
    fn fill(&mut self, bytes: u64) -> Result<(), Damage> {
        let have = self.chunk.len() as u64;
        if have >= bytes {
            return Ok(());
        }
        let left = self.len_bytes - self.offset;
        let wanted = bytes.max(self.next_chunk_bytes).min(left);
        self.next_chunk_bytes = (self.next_chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        let mut chunk = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
        let (old, new) = chunk.split_at_mut(self.chunk.len());
        old.copy_from_slice(&self.chunk);
        let count = self.file.read_at(new, self.offset + have).map_err(Damage::Io)?;
        if have + (count as u64) < bytes {
            // The file has shrunk since it was opened: somebody else is writing.
            return Err(self.torn("the file ends inside the record".to_owned()));
        }
        chunk.truncate(self.chunk.len() + count);
        self.chunk = Bytes::from(chunk);
        Ok(())
    }

    fn torn(&self, what: String) -> Damage {
        if self.is_last {
            Damage::Torn(what)
        } else {
            Damage::Corrupt(format!("{what}, and this is not the last segment"))
        }
    }

    /// A record with a wrong content is torn when one of its sectors was never written, and damaged otherwise.
    ///
    /// Upstream: isTornEntry in server/storage/wal/decoder.go (3.5.30).
    fn damaged(&self, frame: &Bytes, what: String) -> Damage {
        let written = frame.get(WORD_BYTES..).unwrap_or_default();
        if self.is_last && has_zero_sector(self.offset + WORD_BYTES as u64, written) {
            Damage::Torn(format!("{what}; a sector of it is all zero"))
        } else {
            Damage::Corrupt(what)
        }
    }
}

/// Whether one of the pieces into which sector borders cut these bytes is all zero.
fn has_zero_sector(mut offset: u64, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let in_sector =
            usize::try_from(SECTOR_BYTES - offset % SECTOR_BYTES).unwrap_or(1).min(bytes.len());
        let (piece, rest) = bytes.split_at(in_sector);
        if piece.iter().all(|&byte| byte == 0) {
            return true;
        }
        offset += in_sector as u64;
        bytes = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = SegmentName { seq: 0x1a, index: 0xdead };
        assert_eq!(name.to_string(), "000000000000001a-000000000000dead.wal");
        assert_eq!(SegmentName::parse(&name.to_string()), Some(name));
        for wrong in [
            "0.tmp",
            "000000000000001a-000000000000dead.wal.broken",
            "000000000000001A-000000000000dead.wal",
            "+00000000000001a-000000000000dead.wal",
            "1a-dead.wal",
            "000000000000001a-.wal",
            "",
        ] {
            assert_eq!(SegmentName::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn zero_sectors_are_cut_at_sector_borders() {
        let zeros_at = |offset: u64, zeros: std::ops::Range<usize>, len: usize| {
            let mut bytes = vec![1; len];
            bytes[zeros].fill(0);
            has_zero_sector(offset, &bytes)
        };
        assert!(zeros_at(0, 512..1024, 2000));
        assert!(!zeros_at(8, 512..1024, 2000), "512 zeros across a border are no sector");
        assert!(zeros_at(8, 504..1016, 2000));
        assert!(zeros_at(8, 0..504, 2000), "the piece before the first border counts");
        assert!(zeros_at(0, 1536..2000, 2000), "and the one behind the last");
        assert!(!has_zero_sector(0, &[]));
    }
}
