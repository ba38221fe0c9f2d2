//! Records on their way to the disk: protobuf, checksum chain, length word, padding.
//!
//! ```text
//! | length word (8)                  | walpb.Record                    | zeros to 8 |
//! | 0x80+padding, length (7 bytes LE) | type, crc, data                |            |
//! ```
//!
//! The checksum is CRC-32C over the data of all records so far; each record stores the value after its own data.
//! Frames are 8-aligned and sectors are 512 bytes, so a length word is never torn.
//!
//! Upstream: server/storage/wal/encoder.go (3.5.30). Differs: a whole batch is encoded into one buffer and leaves it in
//! one write.

use prost::Message;
use proto::{raftpb, walpb};

/// What a record holds.
pub(crate) mod kind {
    /// `etcdserverpb.Metadata`, equal in all segments.
    pub(crate) const METADATA: i64 = 1;
    /// `raftpb.Entry`.
    pub(crate) const ENTRY: i64 = 2;
    /// `raftpb.HardState`.
    pub(crate) const STATE: i64 = 3;
    /// Nothing: its checksum field carries the chain over from the segment before.
    pub(crate) const CRC: i64 = 4;
    /// `walpb.Snapshot`.
    pub(crate) const SNAPSHOT: i64 = 5;
}

/// Bytes of a length word; also what frames are aligned to.
pub(crate) const WORD_BYTES: usize = 8;

/// Records that wait to be written, and the checksum after the last of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Encoder {
    pub(crate) buffer: Vec<u8>,
    pub(crate) chain: u32,
}

impl Encoder {
    /// Goes on from a chain value.
    pub(crate) fn new(chain: u32) -> Encoder {
        Encoder { buffer: Vec::new(), chain }
    }

    /// A checksum record: the first one of a segment.
    pub(crate) fn crc(&mut self) {
        self.record(kind::CRC, None);
    }

    pub(crate) fn metadata(&mut self, metadata: &[u8]) {
        self.record(kind::METADATA, Some([metadata, &[]]));
    }

    pub(crate) fn hard_state(&mut self, state: &raftpb::HardState) {
        self.record(kind::STATE, Some([&state.encode_to_vec(), &[]]));
    }

    pub(crate) fn snapshot(&mut self, snapshot: &walpb::Snapshot) {
        self.record(kind::SNAPSHOT, Some([&snapshot.encode_to_vec(), &[]]));
    }

    /// Encoded by hand, so that the value's bytes are copied once, straight into the buffer.
    pub(crate) fn entry(&mut self, entry: &raftpb::Entry) {
        // Four tags and four varints of at most 10 bytes.
        let mut head = ShortBuffer::<44>::default();
        head.push(0x08);
        // A negative enumeration value is ten bytes on the wire, as protobuf wants it.
        head.varint(i64::from(entry.r#type).cast_unsigned());
        head.push(0x10);
        head.varint(entry.term);
        head.push(0x18);
        head.varint(entry.index);
        let data = match &entry.data {
            Some(data) => {
                head.push(0x22);
                head.varint(data.len() as u64);
                &data[..]
            }
            None => &[],
        };
        self.record(kind::ENTRY, Some([head.bytes(), data]));
    }

    /// A record of any kind with any data, for tests of the reader.
    pub(crate) fn raw(&mut self, kind: i64, data: &[u8]) {
        self.record(kind, Some([data, &[]]));
    }

    /// One record whose data is the two parts together.
    fn record(&mut self, kind: i64, data: Option<[&[u8]; 2]>) {
        let mut head = ShortBuffer::<32>::default();
        let [first, second] = data.unwrap_or_default();
        self.chain = crc32c::crc32c_append(crc32c::crc32c_append(self.chain, first), second);
        head.push(0x08);
        head.varint(kind.cast_unsigned());
        head.push(0x10);
        head.varint(u64::from(self.chain));
        let data_bytes = first.len() + second.len();
        if data.is_some() {
            head.push(0x1a);
            head.varint(data_bytes as u64);
        }
        let length = head.len + data_bytes;
        let padding = length.next_multiple_of(WORD_BYTES) - length;
        self.buffer.reserve(WORD_BYTES + length + padding);
        self.buffer.extend_from_slice(&length_word(length as u64, padding as u64).to_le_bytes());
        self.buffer.extend_from_slice(head.bytes());
        self.buffer.extend_from_slice(first);
        self.buffer.extend_from_slice(second);
        self.buffer.resize(self.buffer.len() + padding, 0);
    }
}

fn length_word(length: u64, padding: u64) -> u64 {
    match padding {
        0 => length,
        padding => length | (0x80 | padding) << 56,
    }
}

/// Length of the protobuf and of the padding behind it; `None` for a word that no writer makes.
///
/// Such a word is damage, not a torn write: a word lies within a sector, so it is on the disk whole or not at all. etcd takes
/// its upper bytes as they are, finds that the record does not fit, and cuts off everything from there on as torn.
pub(crate) fn parse_length_word(word: u64) -> Option<(u64, u64)> {
    let length = word & 0x00ff_ffff_ffff_ffff;
    let padding = length.next_multiple_of(WORD_BYTES as u64) - length;
    (word == length_word(length, padding)).then_some((length, padding))
}

/// A few bytes on the stack. Its users size it for the largest varints, so it never overflows.
struct ShortBuffer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for ShortBuffer<N> {
    fn default() -> Self {
        ShortBuffer { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> ShortBuffer<N> {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push((value & 0x7f) as u8);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn frames_are_aligned_and_hold_what_prost_would_write() {
        let mut encoder = Encoder::new(0);
        let mut chain = 0;
        let mut at = 0;
        for (index, data) in
            [None, Some(vec![]), Some(vec![7; 3]), Some(vec![9; 5000])].into_iter().enumerate()
        {
            let entry = raftpb::Entry {
                r#type: if index == 2 { 1 } else { 0 },
                term: u64::MAX,
                index: index as u64,
                data: data.map(Bytes::from),
            };
            encoder.entry(&entry);
            let frame = &encoder.buffer[at..];
            let (length, padding) =
                parse_length_word(u64::from_le_bytes(frame[..8].try_into().unwrap())).unwrap();
            let length = usize::try_from(length).unwrap();
            let record = walpb::Record::decode(&frame[8..8 + length]).unwrap();
            chain = crc32c::crc32c_append(chain, &entry.encode_to_vec());
            assert_eq!(
                record,
                walpb::Record {
                    r#type: kind::ENTRY,
                    crc: chain,
                    data: Some(entry.encode_to_vec().into())
                }
            );
            assert_eq!(frame[8..8 + length], record.encode_to_vec());
            assert_eq!(frame.len(), 8 + length + usize::try_from(padding).unwrap());
            assert_eq!(frame.len() % 8, 0);
            at = encoder.buffer.len();
        }
        assert_eq!(encoder.chain, chain);
    }

    #[test]
    fn a_checksum_record_has_no_data() {
        let mut encoder = Encoder::new(0x1234_5678);
        encoder.crc();
        let record = walpb::Record { r#type: kind::CRC, crc: 0x1234_5678, data: None };
        let (length, padding) =
            parse_length_word(u64::from_le_bytes(encoder.buffer[..8].try_into().unwrap())).unwrap();
        assert_eq!(length, record.encoded_len() as u64);
        assert_eq!(encoder.buffer.len() as u64, 8 + length + padding);
        assert_eq!(&encoder.buffer[8..8 + record.encoded_len()], record.encode_to_vec());
    }
}
