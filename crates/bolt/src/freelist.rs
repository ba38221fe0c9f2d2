//! The free list as stored, and its absence.
//!
//! etcd lets bbolt leave the list out (`meta.freelist` is all ones): free is then what no tree reaches. The trees are
//! walked at open in any case, since a list that names a live page would have us write over it.

use crate::bucket::Root;
use crate::free::{PageBits, Run};
use crate::page::{Damage, FLAG_FREELIST, Header, Kind, PAGE_HEADER_BYTES, PageId, index, u64_at};
use crate::snapshot::Snapshot;

/// From this number of entries on, the header's count says `0xFFFF` and the first entry is the number.
const COUNT_IN_FIRST_ENTRY: usize = 0xFFFF;

/// A free list as found in a file.
#[derive(Debug)]
pub(crate) struct StoredList {
    /// Where it stands itself.
    pub(crate) run: Run,
    pub(crate) pages: Vec<u64>,
}

/// Reads the list that starts at page `at`. The entries are as found.
pub(crate) fn read(snapshot: &Snapshot, at: PageId) -> Result<StoredList, Damage> {
    if at.0 < 2 || at.0 >= snapshot.meta.high_water.0 {
        return Err(Damage::new(at, "free list is outside the file"));
    }
    let bytes = snapshot.bytes().get(index(at.0) * snapshot.page_size()..).unwrap_or_default();
    let header = Header::parse(bytes).ok_or_else(|| Damage::new(at, "page header is cut off"))?;
    if header.id != at || header.flags != FLAG_FREELIST {
        let what = format!(
            "page says id {}, flags {:#x} where a free list is needed",
            header.id.0, header.flags
        );
        return Err(Damage::new(at, what));
    }
    let run = Run { start: at, pages: u64::from(header.overflow) + 1 };
    let outside = || Damage::new(at, "free list reaches outside its pages");
    let bytes =
        bytes.get(..index(run.pages).saturating_mul(snapshot.page_size())).ok_or_else(outside)?;
    let (count, start) = if usize::from(header.count) == COUNT_IN_FIRST_ENTRY {
        (u64_at(bytes, PAGE_HEADER_BYTES).ok_or_else(outside)?, PAGE_HEADER_BYTES + 8)
    } else {
        (u64::from(header.count), PAGE_HEADER_BYTES)
    };
    let end = index(count).saturating_mul(8).saturating_add(start);
    let entries = bytes.get(start..end).ok_or_else(outside)?;
    let pages = entries.chunks_exact(8).filter_map(|entry| u64_at(entry, 0)).collect();
    Ok(StoredList { run, pages })
}

/// Number of pages that a list of `count` entries takes, as bbolt computes it.
pub(crate) fn pages_needed(count: usize, page_size: usize) -> u64 {
    let entries = if count >= COUNT_IN_FIRST_ENTRY { count + 1 } else { count };
    ((PAGE_HEADER_BYTES + 8 * entries) / page_size + 1) as u64
}

/// The bytes of the list, to stand at `run`.
pub(crate) fn encode(pages: &[u64], run: Run, page_size: usize) -> Vec<u8> {
    let many = pages.len() >= COUNT_IN_FIRST_ENTRY;
    let count = if many { u16::MAX } else { u16::try_from(pages.len()).unwrap_or(u16::MAX) };
    let overflow = u32::try_from(run.pages - 1).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(index(run.pages) * page_size);
    bytes.extend_from_slice(
        &Header { id: run.start, flags: FLAG_FREELIST, count, overflow }.encode(),
    );
    if many {
        bytes.extend_from_slice(&(pages.len() as u64).to_le_bytes());
    }
    for page in pages {
        bytes.extend_from_slice(&page.to_le_bytes());
    }
    bytes.resize(index(run.pages) * page_size, 0);
    bytes
}

/// Walks all trees and returns the pages in use, those of the stored free list included.
///
/// A page reached twice, or one that is both in use and listed as free, is damage.
pub(crate) fn pages_in_use(snapshot: &Snapshot) -> Result<PageBits, Damage> {
    let mut used = PageBits::default();
    used.grow(snapshot.meta.high_water.0);
    let mut todo = vec![snapshot.meta.root];
    while let Some(id) = todo.pop() {
        let page = snapshot.page_unvalidated(id)?;
        reach(&mut used, page.id, page.pages())?;
        match page.kind {
            Kind::Branch => {
                for index in 0..page.count {
                    todo.push(page.child(index)?);
                }
            }
            Kind::Leaf => {
                for index in (0..page.count).filter(|&index| page.leaf_is_bucket(index)) {
                    let bucket = snapshot.root_bucket().open(page.id, page.leaf(index)?.value)?;
                    if let Root::Page(root) = bucket.root {
                        todo.push(root);
                    }
                }
            }
        }
    }
    if let Some(at) = snapshot.meta.freelist {
        let list = read(snapshot, at)?;
        reach(&mut used, list.run.start, list.run.pages)?;
        if let Some(&page) = list.pages.iter().find(|&&page| used.contains(page)) {
            return Err(Damage::new(PageId(page), "page is in the free list and in use"));
        }
    }
    Ok(used)
}

fn reach(used: &mut PageBits, start: PageId, pages: u64) -> Result<(), Damage> {
    for page in start.0..start.0 + pages {
        if !used.insert(page) {
            return Err(Damage::new(PageId(page), "page has two references"));
        }
    }
    Ok(())
}
