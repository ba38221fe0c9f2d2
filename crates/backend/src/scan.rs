//! Ordered walks over a view: the tree and the buffers merged.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::vec;

use bytes::Bytes;

use crate::Error;
use crate::schema::{Bucket, RowKey};
use crate::view::{Layer, Value, View};

/// Rows of the `key` bucket in order, see [`View::rows`].
///
/// Since revisions only grow, all rows of the tree come before all rows of the committing buffer, and those before the
/// current one's: the merge is a chain.
#[derive(Debug)]
pub struct Rows<'v> {
    view: &'v View,
    end: Option<RowKey>,
    tree: Option<TreeRows<'v>>,
    /// The buffers still to come, last one first.
    buffers: Vec<BufferRows<'v>>,
    /// Deleted rows of the range in order, from the next one that may come.
    deleted: Peekable<vec::IntoIter<RowKey>>,
}

#[derive(Debug)]
struct TreeRows<'v> {
    cursor: bolt::Cursor<'v>,
    /// What the seek found.
    first: Option<bolt::Entry<'v>>,
}

#[derive(Debug)]
struct BufferRows<'v> {
    layer: &'v Layer,
    next: u32,
}

impl<'v> Rows<'v> {
    pub(crate) fn new(view: &'v View, start: RowKey, end: Option<RowKey>) -> Result<Self, Error> {
        let mut cursor = view.tree_bucket(Bucket::Key)?.cursor();
        let first = cursor.seek(start.encode().as_ref())?;
        let mut buffers = Vec::new();
        let mut deleted = Vec::new();
        for layer in view.layers() {
            let next = layer.pending.rows.lower_bound(layer.mark.rows, start);
            if next < layer.mark.rows {
                buffers.push(BufferRows { layer, next });
            }
            if layer.pending.has_row_deletes() {
                let maps = layer.pending.read();
                let in_range = maps
                    .row_deletes
                    .range(start..)
                    .take_while(|(key, _)| end.is_none_or(|end| **key < end));
                deleted
                    .extend(in_range.filter(|(_, op)| **op <= layer.mark.ops).map(|(key, _)| *key));
            }
        }
        deleted.sort_unstable();
        let deleted = deleted.into_iter().peekable();
        Ok(Self { view, end, tree: Some(TreeRows { cursor, first }), buffers, deleted })
    }

    /// The next row, deleted or not.
    fn next_stored(&mut self) -> Result<Option<(RowKey, Value<'v>)>, Error> {
        if let Some(tree) = &mut self.tree {
            let found = match tree.first.take() {
                Some(entry) => Some(entry),
                None => tree.cursor.next()?,
            };
            if let Some((key, value)) = found {
                return Ok(Some((self.view.decode_row_key(key)?, Value::of_tree(value))));
            }
            self.tree = None;
        }
        while let Some(buffer) = self.buffers.last_mut() {
            if buffer.next < buffer.layer.mark.rows {
                let row = buffer.layer.pending.rows.get(buffer.next);
                buffer.next += 1;
                return Ok(Some((row.key, Value::of_row(&row.value))));
            }
            self.buffers.pop();
        }
        Ok(None)
    }

    fn is_deleted(&mut self, key: RowKey) -> bool {
        while let Some(&deleted) = self.deleted.peek() {
            if deleted >= key {
                return deleted == key;
            }
            self.deleted.next();
        }
        false
    }

    fn stop(&mut self) {
        self.tree = None;
        self.buffers.clear();
    }
}

impl<'v> Iterator for Rows<'v> {
    type Item = Result<(RowKey, Value<'v>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.next_stored() {
                Err(error) => {
                    self.stop();
                    return Some(Err(error));
                }
                Ok(None) => return None,
                Ok(Some((key, _))) if self.end.is_some_and(|end| key >= end) => {
                    self.stop();
                    return None;
                }
                Ok(Some((key, _))) if self.is_deleted(key) => {}
                Ok(Some(row)) => return Some(Ok(row)),
            }
        }
    }
}

/// Rows of any bucket in order, key and value, see [`View::scan`].
#[derive(Debug)]
pub struct Scan<'v>(Source<'v>);

#[derive(Debug)]
enum Source<'v> {
    Rows(Rows<'v>),
    Merged(Merged<'v>),
}

#[derive(Debug)]
struct Merged<'v> {
    cursor: bolt::Cursor<'v>,
    /// The tree's next entry within the range.
    tree_next: Option<bolt::Entry<'v>>,
    end: Option<Vec<u8>>,
    /// What the buffers say; it wins over the tree.
    overlay: Peekable<std::collections::btree_map::IntoIter<Bytes, Option<Bytes>>>,
}

impl<'v> Scan<'v> {
    pub(crate) fn new(
        view: &'v View,
        bucket: Bucket,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<Self, Error> {
        if bucket == Bucket::Key {
            // Keys that are no revisions cannot be bounds: the callers of this form want the whole bucket.
            let decode = |key: &[u8]| {
                RowKey::decode(key).map_err(|bad| view.corrupt(bucket, key, bad.to_string()))
            };
            let start =
                if start.is_empty() { RowKey::put(Default::default()) } else { decode(start)? };
            let end = end.map(decode).transpose()?;
            return Rows::new(view, start, end).map(|rows| Self(Source::Rows(rows)));
        }
        let mut overlay = BTreeMap::new();
        for layer in view.layers().rev() {
            let maps = layer.pending.read();
            for (key, value) in maps.range(bucket, start, end, layer.mark.ops) {
                overlay.insert(key.clone(), value.cloned());
            }
        }
        let mut cursor = view.tree_bucket(bucket)?.cursor();
        // An empty start is the first key; bbolt has no empty keys.
        let found = if start.is_empty() { cursor.first()? } else { cursor.seek(start)? };
        let mut merged = Merged {
            cursor,
            tree_next: None,
            end: end.map(<[u8]>::to_vec),
            overlay: overlay.into_iter().peekable(),
        };
        merged.tree_next = merged.within(found);
        Ok(Self(Source::Merged(merged)))
    }
}

impl<'v> Merged<'v> {
    fn within(&self, entry: Option<bolt::Entry<'v>>) -> Option<bolt::Entry<'v>> {
        entry.filter(|(key, _)| self.end.as_ref().is_none_or(|end| *key < end.as_slice()))
    }

    fn advance_tree(&mut self) -> Result<(), Error> {
        let next = self.cursor.next()?;
        self.tree_next = self.within(next);
        Ok(())
    }

    fn next_row(&mut self) -> Result<Option<(Value<'v>, Value<'v>)>, Error> {
        loop {
            let order = match (self.overlay.peek(), self.tree_next) {
                (None, None) => return Ok(None),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((over, _)), Some((tree, _))) => over.as_ref().cmp(tree),
            };
            if order.is_gt() {
                let Some((key, value)) = self.tree_next else { return Ok(None) };
                self.advance_tree()?;
                return Ok(Some((Value::of_tree(key), Value::of_tree(value))));
            }
            if order.is_eq() {
                self.advance_tree()?;
            }
            if let Some((key, Some(value))) = self.overlay.next() {
                return Ok(Some((Value::of_entry(key), Value::of_entry(value))));
            }
        }
    }
}

impl<'v> Iterator for Scan<'v> {
    type Item = Result<(Value<'v>, Value<'v>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::Rows(rows) => rows.next().map(|row| {
                row.map(|(key, value)| {
                    (Value::of_entry(Bytes::copy_from_slice(key.encode().as_ref())), value)
                })
            }),
            Source::Merged(merged) => merged.next_row().transpose(),
        }
    }
}
