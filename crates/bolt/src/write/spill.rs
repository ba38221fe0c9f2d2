//! Third and fourth step of a commit: changed nodes split and get pages, then all of them are written in page order.
//!
//! A node that only got items at its end, and had no room for the first of them, keeps its page: the new items go to
//! pages of their own. So appending in order (etcd's `key` bucket) writes a full page once, where bbolt writes it again.

use super::draft::{BucketIndex, Child, Content, Draft, Item, Node, NodeIndex, ROOT, Slice};
use crate::free::{Run, Space};
use crate::freelist;
use crate::meta::Meta;
use crate::page::{
    BucketHeader, Damage, ELEMENT_BYTES, FLAG_BRANCH, FLAG_LEAF, Header, Kind, LEAF_FLAG_BUCKET,
    PAGE_HEADER_BYTES, PageId, TxId, index,
};
use crate::{CommitStats, Db, Error};

/// Neighbouring pages go out together up to this size: large enough to make calls rare, small enough for the cache.
const WRITE_BYTES: usize = 1 << 20;

/// A node of this many pages holds large values; it is not written again for the sake of a small neighbour. Up to here
/// bbolt's rule holds (two items at least, so that half pages are not wasted on values a little larger than a page).
pub(super) const LARGE_NODE_PAGES: usize = 8;

/// A split leaves at least this many items on either side,
const SPLIT_ITEMS_MIN: usize = 2;
/// so up to this many stay together (unless they are large).
const WHOLE_ITEMS_MAX: usize = 4;
/// The count of a page is a u16, and `0xFFFF` is special in free lists.
const PAGE_ITEMS_MAX: usize = 0xFFFE;

/// A page to be written.
#[derive(Debug)]
struct Image {
    run: Run,
    content: ImageContent,
}

#[derive(Debug)]
enum ImageContent {
    /// Items `from..to` of a node.
    Items {
        node: NodeIndex,
        from: usize,
        to: usize,
    },
    Freelist(Vec<u64>),
}

/// What a node became: its old page, if that stays, and the pages behind it.
struct NodePages {
    kept: Option<PageId>,
    parts: Vec<Item>,
}

/// A new state in memory, with all its pages placed.
#[derive(Debug)]
pub(crate) struct Spilled {
    pub(super) meta: Meta,
    pub(super) nodes_split: u64,
    images: Vec<Image>,
}

impl Spilled {
    /// The pages of trees that are written.
    pub(super) fn written(&self) -> Vec<PageId> {
        let in_tree = |image: &&Image| matches!(image.content, ImageContent::Items { .. });
        self.images.iter().filter(in_tree).map(|image| image.run.start).collect()
    }
}

/// Places pages for one commit.
struct Placer<'a> {
    space: &'a mut Space,
    tx: TxId,
    images: Vec<Image>,
    nodes_split: u64,
}

impl Draft {
    /// Splits all changed nodes and gives them pages.
    pub(super) fn spill(
        &mut self,
        space: &mut Space,
        tx: TxId,
        sync_freelist: bool,
    ) -> Result<Spilled, Error> {
        let mut placer = Placer { space, tx, images: Vec::new(), nodes_split: 0 };
        let root = self.spill_bucket(ROOT, &mut placer)?;
        let base = self.base().snapshot.meta;
        let Placer { space, mut images, nodes_split, .. } = placer;
        if let Some(at) = base.freelist {
            let list =
                freelist::read(&self.base().snapshot, at).map_err(|damage| self.corrupt(damage))?;
            self.freed.push(list.run);
        }
        for run in std::mem::take(&mut self.freed) {
            space.free(run, tx).map_err(|damage| self.corrupt(damage))?;
        }
        let mut freelist = None;
        if sync_freelist {
            // Placing the list takes pages off it, so it only gets shorter.
            let count = index(space.free_pages() + space.pending_pages());
            let pages = freelist::pages_needed(count, self.page_size());
            let run = Run { start: space.allocate(pages, tx), pages };
            images.push(Image { run, content: ImageContent::Freelist(space.stored_list()) });
            freelist = Some(run.start);
        }
        images.sort_unstable_by_key(|image| image.run.start);
        let sequence = self.buckets[ROOT].sequence;
        let meta = Meta { root, sequence, freelist, high_water: space.high_water(), tx, ..base };
        Ok(Spilled { meta, nodes_split, images })
    }

    /// Spills the nested buckets, then the bucket itself; returns its root page.
    fn spill_bucket(
        &mut self,
        bucket: BucketIndex,
        placer: &mut Placer<'_>,
    ) -> Result<PageId, Error> {
        let children: Vec<(Vec<u8>, BucketIndex)> = self.buckets[bucket]
            .children
            .iter()
            .map(|(name, &child)| (name.clone(), child))
            .collect();
        for (name, child) in children {
            if !self.buckets[child].is_changed {
                continue;
            }
            let sequence = self.buckets[child].sequence;
            let value = match self.inline_root(child) {
                Some(root) => {
                    let mut value = BucketHeader { root: None, sequence }.encode().to_vec();
                    let to = self.node(root).items.len();
                    self.encode_items(&mut value, root, 0, to, Run { start: PageId(0), pages: 1 });
                    self.drop_page(root);
                    value
                }
                None => {
                    let root = self.spill_bucket(child, placer)?;
                    BucketHeader { root: Some(root), sequence }.encode().to_vec()
                }
            };
            self.set_bucket_value(bucket, &name, &value)?;
        }
        let Child::Node(mut root) = self.buckets[bucket].root else {
            return self.untouched_root(bucket);
        };
        loop {
            let NodePages { kept, parts } =
                self.spill_node(root, self.buckets[bucket].fill_percent, placer)?;
            let first = kept.map(|page| Item {
                key: self.node(root).items.first().map_or(Slice::EMPTY, |item| item.key),
                content: Content::Child(Child::Page(page)),
            });
            let items: Vec<Item> = first.into_iter().chain(parts).collect();
            if let [item] = items.as_slice()
                && let Some(Child::Page(page)) = item.child()
            {
                self.buckets[bucket].root = Child::Page(page);
                return Ok(page);
            }
            // The root has split: a branch above the parts is the new one.
            root = self.add_node(Node::new(Kind::Branch, items));
        }
    }

    fn untouched_root(&self, bucket: BucketIndex) -> Result<PageId, Error> {
        match self.buckets[bucket].root {
            Child::Page(page) => Ok(page),
            Child::Node(_) => Err(self.corrupt(Damage::new(PageId(0), "bucket without a root"))),
        }
    }

    /// The root of a bucket that is to be written inside its parent: one small leaf without buckets.
    fn inline_root(&self, bucket: BucketIndex) -> Option<NodeIndex> {
        let Child::Node(root) = self.buckets[bucket].root else { return None };
        let node = self.node(root);
        let is_small = node.kind == Kind::Leaf && node.len_bytes() <= self.page_size() / 4;
        let is_plain = || node.items.iter().all(|item| matches!(item.content, Content::Value(_)));
        (is_small && is_plain()).then_some(root)
    }

    // Recursion is at most `DEPTH_MAX` deep: nodes are only made by descents that stop there.
    fn spill_node(
        &mut self,
        node: NodeIndex,
        fill: f32,
        placer: &mut Placer<'_>,
    ) -> Result<NodePages, Error> {
        if self.node(node).kind == Kind::Branch {
            self.spill_children(node, fill, placer)?;
        }
        if self.node(node).is_unchanged() {
            let kept = self.node(node).origin.map(|origin| origin.run.start);
            return Ok(NodePages { kept, parts: Vec::new() });
        }
        let page_size = self.page_size();
        let kept_items = full_origin_items(self.node(node), page_size);
        let kept = if kept_items > 0 {
            self.node(node).origin.map(|origin| origin.run.start)
        } else {
            None
        };
        if kept.is_none() {
            self.drop_page(node);
        }
        let items = &self.node(node).items;
        let mut parts = Vec::new();
        let mut from = kept_items;
        for to in split(items, kept_items, page_size, fill) {
            // bbolt panics when it has to merge the only child of a branch. Rebalancing leaves none, nor does a split.
            debug_assert!(
                self.node(node).kind == Kind::Leaf || to - from >= 2,
                "branch with one child"
            );
            let len_bytes =
                PAGE_HEADER_BYTES + items[from..to].iter().map(Item::len_bytes).sum::<usize>();
            let pages = len_bytes.div_ceil(page_size) as u64;
            let run = Run { start: placer.space.allocate(pages, placer.tx), pages };
            let key = items.get(from).map_or(Slice::EMPTY, |item| item.key);
            parts.push(Item { key, content: Content::Child(Child::Page(run.start)) });
            placer.images.push(Image { run, content: ImageContent::Items { node, from, to } });
            from = to;
        }
        placer.nodes_split += u64::from(parts.len() + usize::from(kept.is_some()) > 1);
        Ok(NodePages { kept, parts })
    }

    /// Spills the open children of a branch and puts what they became in their places.
    fn spill_children(
        &mut self,
        node: NodeIndex,
        fill: f32,
        placer: &mut Placer<'_>,
    ) -> Result<(), Error> {
        let items = std::mem::take(&mut self.node_mut(node).items);
        let mut spilled = Vec::with_capacity(items.len());
        for item in items {
            let Some(Child::Node(child)) = item.child() else {
                spilled.push(item);
                continue;
            };
            let NodePages { kept, parts } = self.spill_node(child, fill, placer)?;
            if let Some(page) = kept {
                spilled.push(Item { key: item.key, content: Content::Child(Child::Page(page)) });
            }
            if !parts.is_empty() {
                self.node_mut(node).touch(spilled.len());
                spilled.extend(parts);
            }
        }
        self.node_mut(node).items = spilled;
        Ok(())
    }

    /// Writes all placed pages, in order, neighbours together.
    pub(super) fn write(
        &self,
        spilled: &Spilled,
        db: &Db,
        stats: &mut CommitStats,
    ) -> Result<(), Error> {
        let page_size = self.page_size();
        let pages: u64 = spilled.images.iter().map(|image| image.run.pages).sum();
        let mut buffer = Vec::with_capacity(WRITE_BYTES.min(index(pages) * page_size));
        let mut start = PageId(0);
        let mut end = PageId(0);
        for image in &spilled.images {
            let len_bytes = index(image.run.pages) * page_size;
            if image.run.start != end || buffer.len() + len_bytes > WRITE_BYTES {
                flush(db, start, &mut buffer, stats)?;
                start = image.run.start;
            }
            let at = buffer.len();
            match &image.content {
                ImageContent::Items { node, from, to } => {
                    self.encode_items(&mut buffer, *node, *from, *to, image.run);
                    buffer.resize(at + len_bytes, 0);
                }
                ImageContent::Freelist(pages) => {
                    buffer.extend_from_slice(&freelist::encode(pages, image.run, page_size));
                }
            }
            end = PageId(image.run.start.0 + image.run.pages);
            stats.pages_written += image.run.pages;
        }
        flush(db, start, &mut buffer, stats)
    }

    /// Appends a page image: header, element table, keys and values.
    fn encode_items(&self, out: &mut Vec<u8>, node: NodeIndex, from: usize, to: usize, run: Run) {
        let Node { kind, items, .. } = self.node(node);
        let items = &items[from..to];
        let flags = if *kind == Kind::Branch { FLAG_BRANCH } else { FLAG_LEAF };
        let count = u16::try_from(items.len()).expect("a split keeps pages below 0xFFFF items");
        let overflow = u32::try_from(run.pages - 1).expect("a node is below 4 GiB");
        out.extend_from_slice(&Header { id: run.start, flags, count, overflow }.encode());
        // Distance from the element to the first byte behind the table, then to the element's own bytes.
        let mut position = items.len() * ELEMENT_BYTES;
        for item in items {
            let key_bytes = item.key.len();
            let pos = u32::try_from(position).expect("a node is below 4 GiB").to_le_bytes();
            let ksize = u32_bytes(key_bytes);
            let mut element = [0; ELEMENT_BYTES];
            let value_bytes = match item.content {
                Content::Child(child) => {
                    let page = match child {
                        Child::Page(page) => page.0,
                        Child::Node(_) => unreachable!("children are spilled before their parent"),
                    };
                    element[0..4].copy_from_slice(&pos);
                    element[4..8].copy_from_slice(&ksize);
                    element[8..16].copy_from_slice(&page.to_le_bytes());
                    0
                }
                Content::Value(value) | Content::Bucket(value) => {
                    let is_bucket = matches!(item.content, Content::Bucket(_));
                    element[0..4].copy_from_slice(
                        &(if is_bucket { LEAF_FLAG_BUCKET } else { 0 }).to_le_bytes(),
                    );
                    element[4..8].copy_from_slice(&pos);
                    element[8..12].copy_from_slice(&ksize);
                    element[12..16].copy_from_slice(&u32_bytes(value.len()));
                    value.len()
                }
            };
            out.extend_from_slice(&element);
            position = position - ELEMENT_BYTES + key_bytes + value_bytes;
        }
        for item in items {
            out.extend_from_slice(self.store.bytes(item.key));
            match item.content {
                Content::Value(value) | Content::Bucket(value) => {
                    out.extend_from_slice(self.store.bytes(value))
                }
                Content::Child(_) => {}
            }
        }
    }
}

fn u32_bytes(len_bytes: usize) -> [u8; 4] {
    u32::try_from(len_bytes).expect("keys and values are checked to be below 2 GiB").to_le_bytes()
}

fn flush(
    db: &Db,
    start: PageId,
    buffer: &mut Vec<u8>,
    stats: &mut CommitStats,
) -> Result<(), Error> {
    if !buffer.is_empty() {
        db.write_pages(start, buffer)?;
        stats.writes += 1;
        stats.bytes_written += buffer.len() as u64;
        buffer.clear();
    }
    Ok(())
}

/// How far a split fills a page; bbolt's limits for the percentage.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rough share"
)]
pub(super) fn fill_bytes(page_size: usize, fill_percent: f32) -> usize {
    (page_size as f32 * fill_percent.clamp(0.1, 1.0)) as usize
}

/// If a node only got items at its end, and its page has no room for the first of them: the number of items on that page.
/// Otherwise 0.
fn full_origin_items(node: &Node, page_size: usize) -> usize {
    let Some(origin) = node.origin else { return 0 };
    let Some(next) = node.items.get(origin.count) else { return 0 };
    if origin.intact != origin.count {
        return 0;
    }
    let origin_bytes =
        PAGE_HEADER_BYTES + node.items[..origin.count].iter().map(Item::len_bytes).sum::<usize>();
    // A page with one item is not taken for full, unless the item is large: see `LARGE_NODE_PAGES`. A branch has to keep two
    // items on either side.
    let has_enough =
        origin.count >= SPLIT_ITEMS_MIN || origin_bytes >= LARGE_NODE_PAGES * page_size;
    let leaves_enough =
        node.kind == Kind::Leaf || node.items.len() - origin.count >= SPLIT_ITEMS_MIN;
    if has_enough && leaves_enough && origin_bytes + next.len_bytes() >= page_size {
        origin.count
    } else {
        0
    }
}

/// Where to cut `items[from..]` into pages: the ends of the parts.
///
/// bbolt's rule: a node that fits a page, or has up to four items, stays whole; otherwise a part is filled up to the fill
/// percentage, with two items at least. Two things differ. Large items do not hold on to each other. And a part beyond one
/// page goes on until its last page is used well, since each part starts on a new page: values of 4 KiB then take
/// 1.2 pages each where pairs take 1.5.
fn split(items: &[Item], from: usize, page_size: usize, fill_percent: f32) -> Vec<usize> {
    let threshold = fill_bytes(page_size, fill_percent);
    let large = LARGE_NODE_PAGES * page_size;
    let mut remaining =
        PAGE_HEADER_BYTES + items[from..].iter().map(Item::len_bytes).sum::<usize>();
    let mut ends = Vec::new();
    let mut start = from;
    let mut len_bytes = PAGE_HEADER_BYTES;
    for (at, item) in items.iter().enumerate().skip(from) {
        let (count, left) = (at - start, items.len() - at);
        let next_bytes = item.len_bytes();
        let must_split = count + left > PAGE_ITEMS_MAX;
        let may_split = remaining >= page_size
            && (count + left > WHOLE_ITEMS_MAX || remaining > large)
            || must_split;
        let has_enough = count >= SPLIT_ITEMS_MIN || (count > 0 && len_bytes >= large);
        let leaves_enough = left >= SPLIT_ITEMS_MIN || next_bytes >= large;
        let unused = len_bytes.next_multiple_of(page_size) - len_bytes;
        // The last place for a cut, if the rest is not to overflow.
        let is_last_chance = left == SPLIT_ITEMS_MIN && len_bytes <= page_size;
        let is_full = is_last_chance
            || len_bytes + next_bytes > threshold
                && (len_bytes <= page_size || unused <= len_bytes / 8 || len_bytes >= large);
        if may_split && has_enough && leaves_enough && is_full || count == PAGE_ITEMS_MAX {
            ends.push(at);
            start = at;
            remaining -= len_bytes - PAGE_HEADER_BYTES;
            len_bytes = PAGE_HEADER_BYTES;
        }
        len_bytes += next_bytes;
    }
    ends.push(items.len());
    ends
}

#[cfg(test)]
mod tests;
