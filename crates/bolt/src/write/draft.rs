//! The changes of a write transaction, in memory.
//!
//! A [`Node`] is a page opened for change: a list of items whose keys and values are [`Slice`]s, either of the base state's
//! map or of bytes that the transaction was given. Opening a page copies no key and no value. Nodes hang together through
//! [`Child::Node`] in their parents; what was not touched stays a [`Child::Page`].
//!
//! Until the commit the shape of the trees does not change: leaves only grow or shrink.

use std::collections::BTreeMap;

use crate::bucket::{DEPTH_MAX, too_deep};
use crate::free::Run;
use crate::page::{
    BUCKET_HEADER_BYTES, BucketHeader, Damage, ELEMENT_BYTES, Kind, PAGE_HEADER_BYTES, Page,
    PageId, index,
};
use crate::{Error, KEY_BYTES_MAX, ReadTx, VALUE_BYTES_MAX};

/// New bytes are gathered in chunks of this size, which never move.
const CHUNK_BYTES: usize = 256 << 10;

/// Bytes of the base state or of the transaction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slice {
    /// 0: the map; n: chunk n - 1.
    chunk: u32,
    len_bytes: u32,
    offset: u64,
}

impl Slice {
    pub(super) const EMPTY: Self = Self { chunk: 0, len_bytes: 0, offset: 0 };

    pub(super) fn len(self) -> usize {
        self.len_bytes as usize
    }

    /// For tests of what looks at lengths only.
    #[cfg(test)]
    pub(super) const fn of_len(len_bytes: u32) -> Self {
        Self { chunk: 0, len_bytes, offset: 0 }
    }
}

/// Where slices lead.
#[derive(Debug)]
pub(super) struct Store {
    base: ReadTx,
    chunks: Vec<Vec<u8>>,
}

impl Store {
    // Slices are made by this module alone, from ranges that were checked; one that leads nowhere is a broken promise.
    pub(super) fn bytes(&self, slice: Slice) -> &[u8] {
        let source = match slice.chunk.checked_sub(1) {
            None => self.base.snapshot.bytes(),
            Some(chunk) => &self.chunks[chunk as usize],
        };
        &source[index(slice.offset)..index(slice.offset) + slice.len()]
    }

    fn add(&mut self, bytes: &[u8]) -> Slice {
        let len_bytes =
            u32::try_from(bytes.len()).expect("keys and values are checked to be below 2 GiB");
        if self.chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < bytes.len()) {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES.max(bytes.len())));
        }
        let count = u32::try_from(self.chunks.len()).expect("2^32 chunks would be a pebibyte");
        let chunk = self.chunks.last_mut().expect("one was added just above");
        let offset = chunk.len() as u64;
        chunk.extend_from_slice(bytes);
        Slice { chunk: count, len_bytes, offset }
    }
}

/// Place of a node in [`Draft::nodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeIndex(pub(super) usize);

/// Place of a bucket in [`Draft::buckets`].
pub(super) type BucketIndex = usize;

/// The bucket that holds the top-level buckets.
pub(super) const ROOT: BucketIndex = 0;

/// A subtree: as the base state has it, or opened for change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Child {
    Page(PageId),
    Node(NodeIndex),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Value(Slice),
    Bucket(Slice),
    Child(Child),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) key: Slice,
    pub(super) content: Content,
}

impl Item {
    /// Bytes in a page, its table element included.
    pub(super) fn len_bytes(&self) -> usize {
        let value = match self.content {
            Content::Value(value) | Content::Bucket(value) => value.len(),
            Content::Child(_) => 0,
        };
        ELEMENT_BYTES + self.key.len() + value
    }

    pub(super) fn child(&self) -> Option<Child> {
        match self.content {
            Content::Child(child) => Some(child),
            Content::Value(_) | Content::Bucket(_) => None,
        }
    }
}

/// A page opened for change, or a new one.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) items: Vec<Item>,
    /// The page that it was read from, which its changed form replaces.
    pub(super) origin: Option<Origin>,
    /// Items were taken away, so it may have become too small.
    pub(super) unbalanced: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) run: Run,
    /// Number of items on the page.
    pub(super) count: usize,
    /// How many of them, from the first on, still stand in front as they were.
    pub(super) intact: usize,
}

impl Node {
    pub(super) fn new(kind: Kind, items: Vec<Item>) -> Self {
        Self { kind, items, origin: None, unbalanced: false }
    }

    /// Notes that items from place `at` on are not those of the page any more.
    pub(super) fn touch(&mut self, at: usize) {
        if let Some(origin) = &mut self.origin {
            origin.intact = origin.intact.min(at);
        }
    }

    /// Whether the page that it was read from still says the same.
    pub(super) fn is_unchanged(&self) -> bool {
        self.origin
            .is_some_and(|origin| origin.intact == origin.count && self.items.len() == origin.count)
    }

    /// Bytes that the items take as one page.
    pub(super) fn len_bytes(&self) -> usize {
        PAGE_HEADER_BYTES + self.items.iter().map(Item::len_bytes).sum::<usize>()
    }
}

/// A bucket opened for change.
#[derive(Debug)]
pub(super) struct BucketState {
    pub(super) root: Child,
    pub(super) sequence: u64,
    pub(super) fill_percent: f32,
    /// Nested buckets that are open.
    pub(super) children: BTreeMap<Vec<u8>, BucketIndex>,
    /// It, or a bucket in it, changed: its header has to be written.
    pub(super) is_changed: bool,
}

/// All changes of one transaction.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(super) store: Store,
    pub(super) nodes: Vec<Node>,
    pub(super) buckets: Vec<BucketState>,
    /// Pages that the new state will not reach.
    pub(super) freed: Vec<Run>,
    fill_percent: f32,
}

impl Draft {
    pub(super) fn new(base: ReadTx, fill_percent: f32) -> Self {
        let meta = base.snapshot.meta;
        let root = BucketState {
            root: Child::Page(meta.root),
            sequence: meta.sequence,
            fill_percent,
            children: BTreeMap::new(),
            is_changed: false,
        };
        let store = Store { base, chunks: Vec::new() };
        Self { store, nodes: Vec::new(), buckets: vec![root], freed: Vec::new(), fill_percent }
    }

    pub(super) fn base(&self) -> &ReadTx {
        &self.store.base
    }

    pub(super) fn page_size(&self) -> usize {
        self.store.base.snapshot.page_size()
    }

    pub(super) fn corrupt(&self, damage: Damage) -> Error {
        self.store.base.snapshot.corrupt(damage)
    }

    pub(super) fn node(&self, node: NodeIndex) -> &Node {
        &self.nodes[node.0]
    }

    pub(super) fn node_mut(&mut self, node: NodeIndex) -> &mut Node {
        &mut self.nodes[node.0]
    }

    pub(super) fn add_node(&mut self, node: Node) -> NodeIndex {
        self.nodes.push(node);
        NodeIndex(self.nodes.len() - 1)
    }

    // ---- reading --------------------------------------------------------------------------------------------------

    pub(super) fn get(&self, bucket: BucketIndex, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        Ok(match self.find(bucket, key)? {
            Some((false, value)) => Some(value),
            Some((true, _)) | None => None,
        })
    }

    /// Whether the element of `key` is a bucket, and its value. Opens no page for change.
    fn find(&self, bucket: BucketIndex, key: &[u8]) -> Result<Option<(bool, &[u8])>, Error> {
        let snapshot = &self.store.base.snapshot;
        let mut child = self.buckets[bucket].root;
        loop {
            let node = match child {
                Child::Page(id) => {
                    let found = crate::bucket::find(snapshot, snapshot.page(id)?, key)?;
                    return Ok(found.map(|(_, element)| (element.is_bucket, element.value)));
                }
                Child::Node(node) => self.node(node),
            };
            let place = self.search(node, key);
            match node.items.get(if node.kind == Kind::Leaf {
                place.unwrap_or(usize::MAX)
            } else {
                at_or_before(place)
            }) {
                None => return Ok(None),
                Some(item) => match item.content {
                    Content::Value(value) => return Ok(Some((false, self.store.bytes(value)))),
                    Content::Bucket(value) => return Ok(Some((true, self.store.bytes(value)))),
                    // Nodes form no cycles: each was reached from its parent when it was opened.
                    Content::Child(next) => child = next,
                },
            }
        }
    }

    fn search(&self, node: &Node, key: &[u8]) -> Result<usize, usize> {
        node.items.binary_search_by(|item| self.store.bytes(item.key).cmp(key))
    }

    // ---- opening pages for change -----------------------------------------------------------------------------------

    /// The node of a subtree.
    pub(super) fn open_child(&mut self, child: Child) -> Result<NodeIndex, Error> {
        let id = match child {
            Child::Node(node) => return Ok(node),
            Child::Page(id) => id,
        };
        let page = self.store.base.snapshot.page(id)?;
        let start = id.0 * self.page_size() as u64;
        let items = items_of(&page, 0, start).map_err(|damage| self.corrupt(damage))?;
        let count = items.len();
        let run = Run { start: id, pages: page.pages() };
        let node = Node {
            kind: page.kind,
            items,
            origin: Some(Origin { run, count, intact: count }),
            unbalanced: false,
        };
        Ok(self.add_node(node))
    }

    /// The leaf where `key` belongs, and the first key that belongs to the next one.
    pub(super) fn open_leaf(
        &mut self,
        bucket: BucketIndex,
        key: &[u8],
    ) -> Result<(NodeIndex, Option<Slice>), Error> {
        let mut node = self.open_child(self.buckets[bucket].root)?;
        self.buckets[bucket].root = Child::Node(node);
        let mut until = None;
        for _ in 0..DEPTH_MAX {
            let place = at_or_before(self.search(self.node(node), key));
            let items = &self.node(node).items;
            let Some(child) = items.get(place).and_then(Item::child) else {
                return Ok((node, until));
            };
            until = items.get(place + 1).map(|item| item.key).or(until);
            let child = self.open_child(child)?;
            self.node_mut(node).items[place].content = Content::Child(Child::Node(child));
            node = child;
        }
        Err(too_deep(&self.store.base.snapshot, self.store.base.snapshot.meta.root))
    }

    // ---- changing values --------------------------------------------------------------------------------------------

    pub(super) fn put(
        &mut self,
        bucket: BucketIndex,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Error> {
        check_key(key)?;
        check_value(value)?;
        let (leaf, _) = self.open_leaf(bucket, key)?;
        let place = self.search(self.node(leaf), key);
        if let Ok(at) = place {
            match self.node(leaf).items[at].content {
                Content::Value(old) if self.store.bytes(old) == value => return Ok(()),
                Content::Value(_) => {}
                Content::Bucket(_) | Content::Child(_) => return Err(Error::IncompatibleValue),
            }
        }
        let content = Content::Value(self.store.add(value));
        self.set(bucket, leaf, place, key, content);
        Ok(())
    }

    pub(super) fn delete(&mut self, bucket: BucketIndex, key: &[u8]) -> Result<(), Error> {
        match self.find(bucket, key)? {
            None => return Ok(()),
            Some((true, _)) => return Err(Error::IncompatibleValue),
            Some((false, _)) => {}
        }
        self.remove(bucket, key)
    }

    /// Batch of changes in key order. Each leaf is opened once, and its items are merged with the batch in one pass.
    pub(super) fn apply_sorted<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        bucket: BucketIndex,
        mut ops: impl Iterator<Item = (K, Option<V>)>,
    ) -> Result<(), Error> {
        let mut next = ops.next();
        while let Some((key, _)) = &next {
            check_key(key.as_ref())?;
            let (leaf, until) = self.open_leaf(bucket, key.as_ref())?;
            let mut items = std::mem::take(&mut self.node_mut(leaf).items);
            let (Ok(at) | Err(at)) =
                items.binary_search_by(|item| self.store.bytes(item.key).cmp(key.as_ref()));
            let mut rest = items.split_off(at).into_iter();
            let mut merge = Merge { items, touched: None, removed: false };
            let result = merge.run(&mut self.store, &mut rest, &mut next, &mut ops, until);
            merge.items.extend(rest);
            if merge.touched.is_some() {
                self.buckets[bucket].is_changed = true;
            }
            let node = self.node_mut(leaf);
            node.items = merge.items;
            node.unbalanced |= merge.removed;
            if let Some(at) = merge.touched {
                node.touch(at);
            }
            result?;
        }
        Ok(())
    }

    /// Puts an item into its place in a leaf.
    fn set(
        &mut self,
        bucket: BucketIndex,
        leaf: NodeIndex,
        place: Result<usize, usize>,
        key: &[u8],
        content: Content,
    ) {
        self.buckets[bucket].is_changed = true;
        match place {
            Ok(at) => {
                let node = self.node_mut(leaf);
                node.items[at].content = content;
                node.touch(at);
            }
            Err(at) => {
                let key = self.store.add(key);
                let node = self.node_mut(leaf);
                node.items.insert(at, Item { key, content });
                node.touch(at);
            }
        }
    }

    fn remove(&mut self, bucket: BucketIndex, key: &[u8]) -> Result<(), Error> {
        let (leaf, _) = self.open_leaf(bucket, key)?;
        if let Ok(at) = self.search(self.node(leaf), key) {
            let node = self.node_mut(leaf);
            node.items.remove(at);
            node.touch(at);
            node.unbalanced = true;
            self.buckets[bucket].is_changed = true;
        }
        Ok(())
    }

    // ---- buckets ------------------------------------------------------------------------------------------------------

    pub(super) fn set_fill_percent(&mut self, bucket: BucketIndex, fill_percent: f32) {
        self.buckets[bucket].fill_percent = fill_percent;
    }

    pub(super) fn sequence(&self, bucket: BucketIndex) -> u64 {
        self.buckets[bucket].sequence
    }

    pub(super) fn set_sequence(&mut self, bucket: BucketIndex, sequence: u64) -> Result<(), Error> {
        let state = &mut self.buckets[bucket];
        state.is_changed |= state.sequence != sequence;
        state.sequence = sequence;
        Ok(())
    }

    pub(super) fn open_or_create_bucket(
        &mut self,
        parent: BucketIndex,
        name: &[u8],
    ) -> Result<BucketIndex, Error> {
        match self.open_bucket(parent, name)? {
            Some(bucket) => Ok(bucket),
            None => self.create_bucket(parent, name),
        }
    }

    pub(super) fn create_bucket(
        &mut self,
        parent: BucketIndex,
        name: &[u8],
    ) -> Result<BucketIndex, Error> {
        check_key(name)?;
        match self.find(parent, name)? {
            None => {}
            Some((true, _)) => return Err(Error::BucketExists),
            Some((false, _)) => return Err(Error::IncompatibleValue),
        }
        let (leaf, _) = self.open_leaf(parent, name)?;
        let place = self.search(self.node(leaf), name);
        self.set(parent, leaf, place, name, Content::Bucket(Slice::EMPTY));
        let root = Child::Node(self.add_node(Node::new(Kind::Leaf, Vec::new())));
        Ok(self.add_bucket(parent, name, root, 0, true))
    }

    /// Opens a nested bucket; `None` when there is none of this name, or a plain value.
    pub(super) fn open_bucket(
        &mut self,
        parent: BucketIndex,
        name: &[u8],
    ) -> Result<Option<BucketIndex>, Error> {
        if let Some(&bucket) = self.buckets[parent].children.get(name) {
            return Ok(Some(bucket));
        }
        if !matches!(self.find(parent, name)?, Some((true, _))) {
            return Ok(None);
        }
        let (leaf, _) = self.open_leaf(parent, name)?;
        let Ok(at) = self.search(self.node(leaf), name) else { return Ok(None) };
        let Content::Bucket(value) = self.node(leaf).items[at].content else { return Ok(None) };
        let home = self.node(leaf).origin.map_or(PageId(0), |origin| origin.run.start);
        let (root, sequence) = match self.open_header(home, value) {
            Ok(parts) => parts,
            Err(damage) => return Err(self.corrupt(damage)),
        };
        Ok(Some(self.add_bucket(parent, name, root, sequence, false)))
    }

    /// Root and sequence of the bucket whose value this is; an inline page becomes a node.
    fn open_header(&mut self, home: PageId, value: Slice) -> Result<(Child, u64), Damage> {
        let (header, image) = BucketHeader::parse(home, self.store.bytes(value))?;
        let root = match header.root {
            Some(id) => Child::Page(id),
            None => {
                let page = Page::parse_inline(home, image)?;
                let items =
                    items_of(&page, value.chunk, value.offset + BUCKET_HEADER_BYTES as u64)?;
                Child::Node(self.add_node(Node::new(Kind::Leaf, items)))
            }
        };
        Ok((root, header.sequence))
    }

    fn add_bucket(
        &mut self,
        parent: BucketIndex,
        name: &[u8],
        root: Child,
        sequence: u64,
        is_changed: bool,
    ) -> BucketIndex {
        let fill_percent = self.fill_percent;
        self.buckets.push(BucketState {
            root,
            sequence,
            fill_percent,
            children: BTreeMap::new(),
            is_changed,
        });
        let bucket = self.buckets.len() - 1;
        self.buckets[parent].children.insert(name.to_vec(), bucket);
        bucket
    }

    pub(super) fn delete_bucket(&mut self, parent: BucketIndex, name: &[u8]) -> Result<(), Error> {
        let Some(bucket) = self.open_bucket(parent, name)? else {
            return Err(match self.find(parent, name)? {
                Some(_) => Error::IncompatibleValue,
                None => Error::BucketNotFound,
            });
        };
        let mut freed = self.pages_of(bucket)?;
        self.freed.append(&mut freed);
        self.buckets[parent].children.remove(name);
        self.remove(parent, name)
    }

    /// All pages of a bucket and of the buckets in it.
    fn pages_of(&self, bucket: BucketIndex) -> Result<Vec<Run>, Error> {
        let snapshot = &self.store.base.snapshot;
        let mut pages = Vec::new();
        // Subtrees, each with the bucket that it is part of if that is open.
        let mut todo = vec![(self.buckets[bucket].root, Some(bucket))];
        while let Some((child, bucket)) = todo.pop() {
            // No sound tree has more pages than the file; more means a cycle.
            if pages.len() as u64 > snapshot.meta.high_water.0 {
                return Err(too_deep(snapshot, snapshot.meta.root));
            }
            match child {
                Child::Node(node) => {
                    let node = self.node(node);
                    pages.extend(node.origin.map(|origin| origin.run));
                    for item in &node.items {
                        match item.content {
                            Content::Value(_) => {}
                            Content::Child(child) => todo.push((child, bucket)),
                            Content::Bucket(value) => {
                                let open = bucket.and_then(|bucket| {
                                    self.buckets[bucket]
                                        .children
                                        .get(self.store.bytes(item.key))
                                        .copied()
                                });
                                match open {
                                    Some(open) => todo.push((self.buckets[open].root, Some(open))),
                                    None => todo.extend(
                                        self.page_root(PageId(0), self.store.bytes(value))?,
                                    ),
                                }
                            }
                        }
                    }
                }
                Child::Page(id) => {
                    let page = snapshot.page(id)?;
                    pages.push(Run { start: id, pages: page.pages() });
                    for at in 0..page.count {
                        if page.kind == Kind::Branch {
                            todo.push((
                                Child::Page(page.child(at).map_err(|d| self.corrupt(d))?),
                                bucket,
                            ));
                        } else if page.leaf_is_bucket(at) {
                            let element = page.leaf(at).map_err(|d| self.corrupt(d))?;
                            todo.extend(self.page_root(id, element.value)?);
                        }
                    }
                }
            }
        }
        Ok(pages)
    }

    /// The root page of a bucket that is not open, unless it is inline.
    fn page_root(
        &self,
        home: PageId,
        value: &[u8],
    ) -> Result<Option<(Child, Option<BucketIndex>)>, Error> {
        let (header, _) =
            BucketHeader::parse(home, value).map_err(|damage| self.corrupt(damage))?;
        Ok(header.root.map(|id| (Child::Page(id), None)))
    }

    // ---- first step of a commit ---------------------------------------------------------------------------------------

    /// Opens the path to the header of every changed bucket, so that spilling reads no page. `false`: nothing changed.
    pub(super) fn prepare(&mut self) -> Result<bool, Error> {
        self.prepare_bucket(ROOT)
    }

    // Recursion is as deep as the caller nested its calls of `bucket`, not as the file says.
    fn prepare_bucket(&mut self, bucket: BucketIndex) -> Result<bool, Error> {
        let children: Vec<(Vec<u8>, BucketIndex)> = self.buckets[bucket]
            .children
            .iter()
            .map(|(name, &child)| (name.clone(), child))
            .collect();
        for (name, child) in children {
            if self.prepare_bucket(child)? {
                self.open_leaf(bucket, &name)?;
                self.buckets[bucket].is_changed = true;
            }
        }
        Ok(self.buckets[bucket].is_changed)
    }

    /// Writes the new header (and inline page) of a nested bucket into its parent.
    pub(super) fn set_bucket_value(
        &mut self,
        parent: BucketIndex,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), Error> {
        let (leaf, _) = self.open_leaf(parent, name)?;
        let place = self.search(self.node(leaf), name);
        let content = Content::Bucket(self.store.add(value));
        self.set(parent, leaf, place, name, content);
        Ok(())
    }
}

/// Merges a batch into the items of one leaf.
struct Merge {
    items: Vec<Item>,
    /// First place where something changed.
    touched: Option<usize>,
    removed: bool,
}

impl Merge {
    /// Takes operations while their keys are below `until`; `next` holds the first that was not taken.
    fn run<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &mut self,
        store: &mut Store,
        rest: &mut std::vec::IntoIter<Item>,
        next: &mut Option<(K, Option<V>)>,
        ops: &mut impl Iterator<Item = (K, Option<V>)>,
        until: Option<Slice>,
    ) -> Result<(), Error> {
        while let Some((key, value)) = &next {
            let key = key.as_ref();
            check_key(key)?;
            if until.is_some_and(|until| store.bytes(until) <= key) {
                return Ok(());
            }
            while let Some(item) = rest.as_slice().first().copied()
                && store.bytes(item.key) < key
            {
                self.items.push(item);
                rest.next();
            }
            let old = rest.as_slice().first().copied().filter(|item| store.bytes(item.key) == key);
            if old.is_some_and(|item| !matches!(item.content, Content::Value(_))) {
                return Err(Error::IncompatibleValue);
            }
            match (old, value) {
                (None, None) => {}
                (Some(_), None) => {
                    self.touch();
                    self.removed = true;
                    rest.next();
                }
                (old, Some(value)) => self.put(store, rest, old, key, value.as_ref())?,
            }
            let following = ops.next();
            if following.as_ref().is_some_and(|(following, _)| following.as_ref() <= key) {
                *next = following;
                return Err(Error::KeysOutOfOrder);
            }
            *next = following;
        }
        Ok(())
    }

    fn put(
        &mut self,
        store: &mut Store,
        rest: &mut std::vec::IntoIter<Item>,
        old: Option<Item>,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Error> {
        check_value(value)?;
        if let Some(item) = old {
            rest.next();
            if matches!(item.content, Content::Value(old) if store.bytes(old) == value) {
                self.items.push(item);
                return Ok(());
            }
        }
        self.touch();
        let key = match old {
            Some(item) => item.key,
            None => store.add(key),
        };
        let value = store.add(value);
        self.items.push(Item { key, content: Content::Value(value) });
        Ok(())
    }

    fn touch(&mut self) {
        self.touched.get_or_insert(self.items.len());
    }
}

/// The place itself, or the one before where it would go.
fn at_or_before(place: Result<usize, usize>) -> usize {
    match place {
        Ok(at) => at,
        Err(at) => at.saturating_sub(1),
    }
}

/// The items of a page whose bytes start at `start` of a chunk.
fn items_of(page: &Page<'_>, chunk: u32, start: u64) -> Result<Vec<Item>, Damage> {
    // Pages are below 4 GiB * page size, elements below 4 GiB: lengths are u32 in the file.
    let slice = |at: usize, len: usize| Slice {
        chunk,
        len_bytes: u32::try_from(len).unwrap_or(u32::MAX),
        offset: start + at as u64,
    };
    let mut items = Vec::with_capacity(page.count);
    for at in 0..page.count {
        let (key_start, key_len) = page.key_span(at)?;
        let key = slice(key_start, key_len);
        let content = match page.kind {
            Kind::Branch => Content::Child(Child::Page(page.child(at)?)),
            Kind::Leaf => {
                let element = page.leaf(at)?;
                let value = slice(key_start + key_len, element.value.len());
                if element.is_bucket { Content::Bucket(value) } else { Content::Value(value) }
            }
        };
        items.push(Item { key, content });
    }
    Ok(items)
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::KeyRequired),
        len if len > KEY_BYTES_MAX => Err(Error::KeyTooLarge),
        _ => Ok(()),
    }
}

fn check_value(value: &[u8]) -> Result<(), Error> {
    if value.len() > VALUE_BYTES_MAX { Err(Error::ValueTooLarge) } else { Ok(()) }
}
