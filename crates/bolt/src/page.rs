//! Pages: the header, the element tables of branch and leaf pages, and the checks on both.
//!
//! ```text
//! 0        8      10     12        16                  16 + 16 * count
//! +--------+------+------+---------+-------------------+-----------------------+
//! | id u64 | flags| count| overflow| element table     | key and value bytes   |
//! +--------+------+------+---------+-------------------+-----------------------+
//! branch element: pos u32, ksize u32, child page u64          key at element + pos
//! leaf element:   flags u32, pos u32, ksize u32, vsize u32    key at element + pos, value right behind it
//! ```
//!
//! Numbers are little-endian here. bbolt uses the byte order of the machine that wrote the file; only little-endian
//! machines are supported, by it in practice and by us.
//!
//! Invariants
//! - no function here panics or reads outside the bytes it was given, whatever they hold;
//! - a page that passed [`Page::validate`] has all its elements inside, and its keys strictly ascend.

/// Bytes in front of the element table.
pub(crate) const PAGE_HEADER_BYTES: usize = 16;
/// Bytes of one element of either kind.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// Header of a bucket, in front of an inline page if there is one: root page u64, sequence u64.
pub(crate) const BUCKET_HEADER_BYTES: usize = 16;
/// Leaf element flag: the value is a bucket.
pub(crate) const LEAF_FLAG_BUCKET: u32 = 1;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;

// Offsets in memory and in files are the same numbers below; a 32-bit machine could not map a useful database.
const _: () = assert!(usize::BITS == 64, "bolt needs a 64-bit machine");

/// Number of a page: its place in the file is this times the page size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageId(pub(crate) u64);

/// Number of a write transaction, and of the state that it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TxId(pub(crate) u64);

/// A u64 as an index; the same width, see the assertion above.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted above")]
pub(crate) const fn index(number: u64) -> usize {
    number as usize
}

/// Damage found in one page, before it gets a file name ([`crate::Error::Corrupt`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) page: PageId,
    pub(crate) what: String,
}

impl Damage {
    pub(crate) fn new(page: PageId, what: impl Into<String>) -> Self {
        Self { page, what: what.into() }
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The 16 bytes in front of every page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: PageId,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: PageId(u64_at(bytes, 0)?),
            flags: u16_at(bytes, 8)?,
            count: u16_at(bytes, 10)?,
            overflow: u32_at(bytes, 12)?,
        })
    }

    pub(crate) fn encode(self) -> [u8; PAGE_HEADER_BYTES] {
        let mut bytes = [0; PAGE_HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }
}

/// What a page of a tree holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Branch,
    Leaf,
}

/// One element of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafElement<'a> {
    pub(crate) is_bucket: bool,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// A branch or leaf page with its overflow, or the page image inside an inline bucket (whose id is 0).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'a> {
    pub(crate) id: PageId,
    pub(crate) kind: Kind,
    pub(crate) count: usize,
    pub(crate) overflow: u32,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Page<'a> {
    /// Takes the page `id` off the front of `bytes`, which end where the used part of the file ends.
    pub(crate) fn parse(id: PageId, bytes: &'a [u8], page_size: usize) -> Result<Self, Damage> {
        let header =
            Header::parse(bytes).ok_or_else(|| Damage::new(id, "page header is cut off"))?;
        if header.id != id {
            return Err(Damage::new(id, format!("page says that it is page {}", header.id.0)));
        }
        let len_bytes = (index(u64::from(header.overflow)) + 1).saturating_mul(page_size);
        let Some(bytes) = bytes.get(..len_bytes) else {
            let what =
                format!("{} overflow pages reach beyond the high water mark", header.overflow);
            return Err(Damage::new(id, what));
        };
        Self::with_header(header, bytes)
    }

    /// The page image inside an inline bucket's value, found in page `home`. It is checked whole: such pages are small.
    pub(crate) fn parse_inline(home: PageId, image: &'a [u8]) -> Result<Self, Damage> {
        let header = Header::parse(image)
            .ok_or_else(|| Damage::new(home, "page header of an inline bucket is cut off"))?;
        // Messages name the page around it, which is where the damage is.
        let page = Self::with_header(Header { id: home, overflow: 0, ..header }, image)?;
        if page.kind != Kind::Leaf {
            return Err(Damage::new(home, "inline bucket holds a branch page"));
        }
        page.validate()?;
        for index in 0..page.count {
            if page.leaf(index)?.is_bucket {
                return Err(Damage::new(home, "inline bucket holds a bucket"));
            }
        }
        Ok(page)
    }

    fn with_header(header: Header, bytes: &'a [u8]) -> Result<Self, Damage> {
        let kind = match header.flags {
            FLAG_BRANCH => Kind::Branch,
            FLAG_LEAF => Kind::Leaf,
            flags => {
                return Err(Damage::new(
                    header.id,
                    format!("flags {flags:#x} where a branch or leaf is needed"),
                ));
            }
        };
        let count = usize::from(header.count);
        if PAGE_HEADER_BYTES + count * ELEMENT_BYTES > bytes.len() {
            return Err(Damage::new(header.id, format!("{count} elements do not fit")));
        }
        // A branch without children has nowhere to lead; no writer leaves one.
        if kind == Kind::Branch && count == 0 {
            return Err(Damage::new(header.id, "branch page without elements"));
        }
        Ok(Self { id: header.id, kind, count, overflow: header.overflow, bytes })
    }

    /// Number of pages that it takes.
    pub(crate) fn pages(&self) -> u64 {
        u64::from(self.overflow) + 1
    }

    fn damaged(&self, index: usize) -> Damage {
        Damage::new(self.id, format!("element {index} of {} reaches outside the page", self.count))
    }

    /// Where the key of an element is, relative to the page.
    pub(crate) fn key_span(&self, index: usize) -> Result<(usize, usize), Damage> {
        self.key_span_inner(index).ok_or_else(|| self.damaged(index))
    }

    fn key_span_inner(&self, index: usize) -> Option<(usize, usize)> {
        let at = PAGE_HEADER_BYTES + index.checked_mul(ELEMENT_BYTES)?;
        let element: &[u8; ELEMENT_BYTES] = self.bytes.get(at..)?.first_chunk()?;
        let (pos, len_bytes) = match self.kind {
            Kind::Branch => (u32_at(element, 0)?, u32_at(element, 4)?),
            Kind::Leaf => (u32_at(element, 4)?, u32_at(element, 8)?),
        };
        // u32 numbers in 64-bit arithmetic cannot overflow.
        let start = at + pos as usize;
        (start + len_bytes as usize <= self.bytes.len()).then_some((start, len_bytes as usize))
    }

    /// The key of an element of either kind.
    pub(crate) fn key(&self, index: usize) -> Result<&'a [u8], Damage> {
        let (start, len_bytes) = self.key_span(index)?;
        self.bytes.get(start..start + len_bytes).ok_or_else(|| self.damaged(index))
    }

    /// The child of a branch element.
    pub(crate) fn child(&self, index: usize) -> Result<PageId, Damage> {
        u64_at(self.bytes, PAGE_HEADER_BYTES + index * ELEMENT_BYTES + 8)
            .map(PageId)
            .ok_or_else(|| self.damaged(index))
    }

    /// A leaf element.
    pub(crate) fn leaf(&self, index: usize) -> Result<LeafElement<'a>, Damage> {
        let (start, key_bytes) = self.key_span(index)?;
        let at = PAGE_HEADER_BYTES + index * ELEMENT_BYTES;
        let parts = || {
            let flags = u32_at(self.bytes, at)?;
            let value_bytes = u32_at(self.bytes, at + 12)? as usize;
            let key_end = start + key_bytes;
            Some(LeafElement {
                is_bucket: flags & LEAF_FLAG_BUCKET != 0,
                key: self.bytes.get(start..key_end)?,
                value: self.bytes.get(key_end..key_end + value_bytes)?,
            })
        };
        parts().ok_or_else(|| self.damaged(index))
    }

    /// Whether a leaf element is a bucket, without looking at its key and value.
    pub(crate) fn leaf_is_bucket(&self, index: usize) -> bool {
        u32_at(self.bytes, PAGE_HEADER_BYTES + index * ELEMENT_BYTES)
            .is_some_and(|f| f & LEAF_FLAG_BUCKET != 0)
    }

    /// The place of `key`: `Ok` where it is, `Err` where it would go.
    pub(crate) fn search(&self, key: &[u8]) -> Result<Result<usize, usize>, Damage> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle)?.cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(Ok(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// The child of a branch whose range holds `key`. Keys below the first child's belong to it too.
    pub(crate) fn child_for(&self, key: &[u8]) -> Result<usize, Damage> {
        Ok(match self.search(key)? {
            Ok(index) => index,
            Err(index) => index.saturating_sub(1),
        })
    }

    /// Every element inside the page, no empty key, keys strictly ascending.
    pub(crate) fn validate(&self) -> Result<(), Damage> {
        let mut previous: &[u8] = &[];
        for index in 0..self.count {
            let key = match self.kind {
                Kind::Branch => self.key(index)?,
                Kind::Leaf => self.leaf(index)?.key,
            };
            // The empty key is below every other one, so this refuses it at the first place as well.
            if key <= previous {
                return Err(Damage::new(self.id, format!("keys do not ascend at element {index}")));
            }
            previous = key;
        }
        Ok(())
    }
}

/// Header of a bucket as stored in front of its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BucketHeader {
    /// `None`: inline, the page image follows.
    pub(crate) root: Option<PageId>,
    pub(crate) sequence: u64,
}

impl BucketHeader {
    /// Splits the value of a bucket element, found in page `home`, into its header and the inline page (or nothing).
    pub(crate) fn parse(home: PageId, value: &[u8]) -> Result<(Self, &[u8]), Damage> {
        let parts = || {
            let root = u64_at(value, 0)?;
            let root = (root != 0).then_some(PageId(root));
            Some((Self { root, sequence: u64_at(value, 8)? }, value.get(BUCKET_HEADER_BYTES..)?))
        };
        parts().ok_or_else(|| Damage::new(home, "bucket header is cut off"))
    }

    pub(crate) fn encode(self) -> [u8; BUCKET_HEADER_BYTES] {
        let mut bytes = [0; BUCKET_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.root.map_or(0, |id| id.0).to_le_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests;
