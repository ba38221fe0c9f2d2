//! Meta pages: the two small roots of the file, written in turn.
//!
//! A commit becomes real with the write of its meta. The other meta page still describes the state before it, so a
//! torn write falls back to that. 80 bytes lie within one sector, which disks write whole or not at all.

use crate::page::{FLAG_META, Header, PAGE_HEADER_BYTES, PageId, TxId, u32_at, u64_at};

pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;
/// Bytes of a meta behind the page header.
pub(crate) const META_BYTES: usize = 64;
/// What stands for "freelist not stored".
const NO_FREELIST: u64 = u64::MAX;

/// Page sizes that bbolt itself looks for end at `1024 << 14`; below 512 a meta and a sector would not go together.
pub(crate) const PAGE_SIZE_MIN: u32 = 512;
pub(crate) const PAGE_SIZE_MAX: u32 = 1024 << 14;

/// One committed state: where its tree starts, and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    pub(crate) root: PageId,
    pub(crate) sequence: u64,
    /// `None`: not stored; free pages are those that no tree reaches.
    pub(crate) freelist: Option<PageId>,
    /// All pages of this state are below it.
    pub(crate) high_water: PageId,
    pub(crate) tx: TxId,
}

impl Meta {
    /// Reads the meta behind the page header in `page`; `None` when magic, version, checksum or page size is wrong.
    pub(crate) fn parse(page: &[u8]) -> Option<Self> {
        let bytes = page.get(PAGE_HEADER_BYTES..)?;
        if u32_at(bytes, 0)? != MAGIC || u32_at(bytes, 4)? != VERSION {
            return None;
        }
        if u64_at(bytes, 56)? != fnv1a(bytes.get(..56)?) {
            return None;
        }
        let page_size = u32_at(bytes, 8)?;
        if !is_page_size(page_size) {
            return None;
        }
        let freelist = u64_at(bytes, 32)?;
        Some(Self {
            page_size,
            root: PageId(u64_at(bytes, 16)?),
            sequence: u64_at(bytes, 24)?,
            freelist: (freelist != NO_FREELIST).then_some(PageId(freelist)),
            high_water: PageId(u64_at(bytes, 40)?),
            tx: TxId(u64_at(bytes, 48)?),
        })
    }

    /// The whole page to write at place `place` (0 or 1).
    pub(crate) fn encode_page(&self, place: u64) -> Vec<u8> {
        let header = Header { id: PageId(place), flags: FLAG_META, count: 0, overflow: 0 };
        let mut page = Vec::with_capacity(crate::page::index(u64::from(self.page_size)));
        page.extend_from_slice(&header.encode());
        page.extend_from_slice(&MAGIC.to_le_bytes());
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&self.page_size.to_le_bytes());
        page.extend_from_slice(&0_u32.to_le_bytes());
        page.extend_from_slice(&self.root.0.to_le_bytes());
        page.extend_from_slice(&self.sequence.to_le_bytes());
        page.extend_from_slice(&self.freelist.map_or(NO_FREELIST, |id| id.0).to_le_bytes());
        page.extend_from_slice(&self.high_water.0.to_le_bytes());
        page.extend_from_slice(&self.tx.0.to_le_bytes());
        let checksum = fnv1a(&page[PAGE_HEADER_BYTES..]);
        page.extend_from_slice(&checksum.to_le_bytes());
        page.resize(crate::page::index(u64::from(self.page_size)), 0);
        page
    }

    /// The first transaction number after this one that puts its meta on the page where this one is not.
    ///
    /// A meta goes to page `tx % 2`. In a restored snapshot both metas describe one state and the newer may stand on
    /// either page; one number is left out then, so that the only newest meta is never written over.
    pub(crate) fn next_tx(&self, place: u64) -> TxId {
        let next = self.tx.0 + 1;
        TxId(if next % 2 == place { next + 1 } else { next })
    }
}

pub(crate) fn is_page_size(page_size: u32) -> bool {
    page_size.is_power_of_two() && (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size)
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta {
            page_size: 4096,
            root: PageId(7),
            sequence: 1,
            freelist: None,
            high_water: PageId(12),
            tx: TxId(41),
        }
    }

    #[test]
    fn round_trip_and_every_flipped_bit_is_seen() {
        let page = meta().encode_page(1);
        assert_eq!(page.len(), 4096);
        assert_eq!(Meta::parse(&page), Some(meta()));
        for bit in 0..META_BYTES * 8 {
            let mut damaged = page.clone();
            damaged[PAGE_HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::parse(&damaged), None, "bit {bit}");
        }
    }

    #[test]
    fn next_transaction_spares_the_newest_meta() {
        assert_eq!(meta().next_tx(1), TxId(42));
        assert_eq!(meta().next_tx(0), TxId(43));
        assert_eq!(Meta { tx: TxId(36), ..meta() }.next_tx(0), TxId(37));
    }

    #[test]
    fn fnv_vectors() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
