//! Buckets and cursors of read transactions.
//!
//! Every bucket is a B+tree of its own: branch pages lead to leaf pages, leaf elements hold a value or another bucket.
//! A branch key is at most the smallest key of its child, and above every key of the child before it.

use crate::Error;
use crate::page::{BucketHeader, Damage, Page, PageId};
use crate::snapshot::Snapshot;

/// Levels of one tree. Real ones have three or four; with two keys a branch, 64 levels hold every page that a file can number.
/// Deeper means a cycle.
pub(crate) const DEPTH_MAX: usize = 64;

/// Where a bucket's tree starts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Root<'tx> {
    Page(PageId),
    /// The only page, inside the bucket's value in the parent.
    Inline(Page<'tx>),
}

/// One bucket in a read transaction.
#[derive(Debug, Clone, Copy)]
pub struct Bucket<'tx> {
    pub(crate) snapshot: &'tx Snapshot,
    pub(crate) root: Root<'tx>,
    pub(crate) sequence: u64,
}

impl<'tx> Bucket<'tx> {
    /// The value of `key`, straight from the map. `None` also when the key names a nested bucket.
    pub fn get(&self, key: &[u8]) -> Result<Option<&'tx [u8]>, Error> {
        Ok(match self.find(key)? {
            Some((_, element)) if !element.is_bucket => Some(element.value),
            Some(_) | None => None,
        })
    }

    /// The nested bucket of this name; `None` also when the key holds a plain value.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'tx>>, Error> {
        let Some((home, element)) = self.find(name)? else { return Ok(None) };
        if !element.is_bucket {
            return Ok(None);
        }
        self.open(home, element.value).map(Some).map_err(|damage| self.snapshot.corrupt(damage))
    }

    /// Opens the bucket whose value was found in page `home`.
    pub(crate) fn open(&self, home: PageId, value: &'tx [u8]) -> Result<Bucket<'tx>, Damage> {
        let (header, image) = BucketHeader::parse(home, value)?;
        let root = match header.root {
            Some(id) => Root::Page(id),
            None => Root::Inline(Page::parse_inline(home, image)?),
        };
        Ok(Bucket { snapshot: self.snapshot, root, sequence: header.sequence })
    }

    /// A number that applications of bbolt may keep with a bucket; 0 in etcd.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// An ordered walk, not positioned yet.
    #[must_use]
    pub fn cursor(&self) -> Cursor<'tx> {
        Cursor { bucket: *self, path: Vec::new(), place: Place::Start, is_bucket: false }
    }

    pub(crate) fn root_page(&self) -> Result<Page<'tx>, Error> {
        match self.root {
            Root::Page(id) => self.snapshot.page(id),
            Root::Inline(page) => Ok(page),
        }
    }

    /// The element of `key` and the page it stands in.
    fn find(&self, key: &[u8]) -> Result<Option<(PageId, crate::page::LeafElement<'tx>)>, Error> {
        find(self.snapshot, self.root_page()?, key)
    }
}

/// Descends from `page` to the element of `key`.
pub(crate) fn find<'tx>(
    snapshot: &'tx Snapshot,
    mut page: Page<'tx>,
    key: &[u8],
) -> Result<Option<(PageId, crate::page::LeafElement<'tx>)>, Error> {
    let named = |damage| snapshot.corrupt(damage);
    for _ in 0..DEPTH_MAX {
        match page.kind {
            crate::page::Kind::Branch => {
                let child =
                    page.child_for(key).and_then(|index| page.child(index)).map_err(named)?;
                page = snapshot.page(child)?;
            }
            crate::page::Kind::Leaf => {
                return match page.search(key).map_err(named)? {
                    Ok(index) => Ok(Some((page.id, page.leaf(index).map_err(named)?))),
                    Err(_) => Ok(None),
                };
            }
        }
    }
    Err(too_deep(snapshot, page.id))
}

pub(crate) fn too_deep(snapshot: &Snapshot, id: PageId) -> Error {
    snapshot.corrupt(Damage::new(
        id,
        format!("tree has more than {DEPTH_MAX} levels, so it has a cycle"),
    ))
}

/// A key and its value; the value is empty for a nested bucket, see [`Cursor::is_bucket`].
pub type Entry<'tx> = (&'tx [u8], &'tx [u8]);

/// An ordered walk over one bucket.
///
/// Keys come out strictly ascending (descending with [`Cursor::prev`]), whatever the file holds: a step that breaks
/// the order is an error, so no walk is endless.
#[derive(Debug, Clone)]
pub struct Cursor<'tx> {
    bucket: Bucket<'tx>,
    /// From the root to a leaf; each index is a valid one of its page, except in an empty leaf.
    path: Vec<Level<'tx>>,
    place: Place,
    is_bucket: bool,
}

#[derive(Debug, Clone, Copy)]
struct Level<'tx> {
    page: Page<'tx>,
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first entry.
    Start,
    /// On an entry.
    Entry,
    /// Behind the last entry.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

impl<'tx> Cursor<'tx> {
    /// To the first entry.
    pub fn first(&mut self) -> Result<Option<Entry<'tx>>, Error> {
        self.edge(Direction::Forward)
    }

    /// To the last entry.
    pub fn last(&mut self) -> Result<Option<Entry<'tx>>, Error> {
        self.edge(Direction::Backward)
    }

    /// To the first entry at or after `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<Option<Entry<'tx>>, Error> {
        self.path.clear();
        let mut page = self.bucket.root_page()?;
        while page.kind == crate::page::Kind::Branch {
            let index = page.child_for(key).map_err(|d| self.corrupt(d))?;
            page = self.push(page, index)?;
        }
        let index = match page.search(key).map_err(|d| self.corrupt(d))? {
            Ok(index) | Err(index) => index,
        };
        self.path.push(Level { page, index });
        if index < page.count { self.entry() } else { self.leave_leaf(Direction::Forward) }
    }

    /// To the next entry: the first one when not positioned yet, `None` at the end.
    #[allow(
        clippy::should_implement_trait,
        reason = "it fails, which an iterator cannot say as directly"
    )]
    pub fn next(&mut self) -> Result<Option<Entry<'tx>>, Error> {
        match self.place {
            Place::Start => self.first(),
            Place::End => Ok(None),
            Place::Entry => {
                if let Some(leaf) = self.path.last_mut()
                    && leaf.index + 1 < leaf.page.count
                {
                    leaf.index += 1;
                    return self.entry();
                }
                self.leave_leaf(Direction::Forward)
            }
        }
    }

    /// To the entry before: the last one when behind the end, `None` at the start.
    pub fn prev(&mut self) -> Result<Option<Entry<'tx>>, Error> {
        match self.place {
            Place::Start => Ok(None),
            Place::End => self.last(),
            Place::Entry => {
                if let Some(leaf) = self.path.last_mut()
                    && leaf.index > 0
                {
                    leaf.index -= 1;
                    return self.entry();
                }
                self.leave_leaf(Direction::Backward)
            }
        }
    }

    /// Whether the entry last returned is a nested bucket.
    #[must_use]
    pub fn is_bucket(&self) -> bool {
        self.is_bucket
    }

    /// The raw value of the entry last returned and the page it stands in, for opening nested buckets.
    pub(crate) fn raw(&self) -> Result<Option<(PageId, &'tx [u8])>, Error> {
        let Some(leaf) = self.path.last().filter(|_| self.place == Place::Entry) else {
            return Ok(None);
        };
        let element = leaf.page.leaf(leaf.index).map_err(|d| self.corrupt(d))?;
        Ok(Some((leaf.page.id, element.value)))
    }

    fn corrupt(&self, damage: Damage) -> Error {
        self.bucket.snapshot.corrupt(damage)
    }

    fn edge(&mut self, direction: Direction) -> Result<Option<Entry<'tx>>, Error> {
        self.path.clear();
        let root = self.bucket.root_page()?;
        self.descend(root, direction)?;
        match self.path.last() {
            Some(leaf) if leaf.page.count > 0 => self.entry(),
            Some(_) | None => self.leave_leaf(direction),
        }
    }

    /// Adds a branch to the path and returns the child there.
    fn push(&mut self, page: Page<'tx>, index: usize) -> Result<Page<'tx>, Error> {
        let child = page.child(index).map_err(|d| self.corrupt(d))?;
        if self.path.len() >= DEPTH_MAX {
            return Err(too_deep(self.bucket.snapshot, child));
        }
        self.path.push(Level { page, index });
        self.bucket.snapshot.page(child)
    }

    /// Extends the path from `page` to its outermost leaf.
    fn descend(&mut self, mut page: Page<'tx>, direction: Direction) -> Result<(), Error> {
        let edge = |page: &Page<'_>| match direction {
            Direction::Forward => 0,
            Direction::Backward => page.count.saturating_sub(1),
        };
        while page.kind == crate::page::Kind::Branch {
            page = self.push(page, edge(&page))?;
        }
        self.path.push(Level { page, index: edge(&page) });
        Ok(())
    }

    /// Goes from the leaf at the end of the path to the next one that is not empty.
    fn leave_leaf(&mut self, direction: Direction) -> Result<Option<Entry<'tx>>, Error> {
        let left = match self.path.last() {
            Some(Level { page, .. }) if page.count > 0 => {
                let edge = if direction == Direction::Forward { page.count - 1 } else { 0 };
                Some(page.key(edge).map_err(|d| self.corrupt(d))?)
            }
            Some(_) | None => None,
        };
        // Deleting leaves no empty leaves behind, but a reader of other writers' files skips them. In a sound tree there are
        // fewer of them than pages.
        for _ in 0..self.bucket.snapshot.meta.high_water.0 {
            self.path.pop();
            let Some(parent) = self.path.last_mut() else {
                self.place =
                    if direction == Direction::Forward { Place::End } else { Place::Start };
                self.is_bucket = false;
                return Ok(None);
            };
            match direction {
                Direction::Forward if parent.index + 1 < parent.page.count => parent.index += 1,
                Direction::Backward if parent.index > 0 => parent.index -= 1,
                Direction::Forward | Direction::Backward => continue,
            }
            let (page, index) = (parent.page, parent.index);
            let child = page.child(index).map_err(|d| self.corrupt(d))?;
            let child = self.bucket.snapshot.page(child)?;
            self.descend(child, direction)?;
            let Some(&Level { page: leaf, index }) = self.path.last() else { continue };
            if leaf.count == 0 {
                continue;
            }
            let key = leaf.key(index).map_err(|d| self.corrupt(d))?;
            let in_order = left.is_none_or(|left| {
                if direction == Direction::Forward { key > left } else { key < left }
            });
            if !in_order {
                return Err(self.corrupt(Damage::new(
                    leaf.id,
                    "keys do not ascend from one leaf to the next",
                )));
            }
            return self.entry();
        }
        Err(self
            .corrupt(Damage::new(self.bucket.snapshot.meta.root, "more empty leaves than pages")))
    }

    /// The entry under the cursor.
    fn entry(&mut self) -> Result<Option<Entry<'tx>>, Error> {
        let Some(leaf) = self.path.last() else { return Ok(None) };
        let element = leaf.page.leaf(leaf.index).map_err(|d| self.corrupt(d))?;
        self.place = Place::Entry;
        self.is_bucket = element.is_bucket;
        Ok(Some((element.key, if element.is_bucket { &[] } else { element.value })))
    }
}
