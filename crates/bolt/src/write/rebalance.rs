//! Second step of a commit: nodes that deletes left small join a neighbour.

use super::draft::{BucketIndex, Child, Content, Draft, Item, NodeIndex, ROOT};
use super::spill::LARGE_NODE_PAGES;
use crate::Error;
use crate::page::{Damage, Kind};

/// What became of a child that was looked at.
enum Outcome {
    /// Nothing: go on with the next.
    Stays,
    /// It was empty and is gone: the next one stands in its place.
    IsGone,
    /// It and a neighbour are one node now, at this place, which may need another look.
    Joined { at: usize },
}

impl Draft {
    /// Returns how many nodes were merged away.
    pub(super) fn rebalance(&mut self) -> Result<u64, Error> {
        let mut merged = 0;
        // From the root down: buckets that were deleted after they had been changed are not found any more.
        let mut todo = vec![ROOT];
        while let Some(bucket) = todo.pop() {
            todo.extend(self.buckets[bucket].children.values());
            if self.buckets[bucket].is_changed {
                merged += self.rebalance_bucket(bucket)?;
            }
        }
        Ok(merged)
    }

    fn rebalance_bucket(&mut self, bucket: BucketIndex) -> Result<u64, Error> {
        let Child::Node(mut root) = self.buckets[bucket].root else { return Ok(0) };
        // bbolt's threshold: half of what a split fills, 25 % of a page by default.
        let threshold =
            super::spill::fill_bytes(self.page_size(), self.buckets[bucket].fill_percent) / 2;
        let merged = self.rebalance_children(root, threshold)?;
        // A root branch with one child adds nothing: the child becomes the root.
        while self.node(root).kind == Kind::Branch {
            let only = match self.node(root).items.as_slice() {
                [] => {
                    let node = self.node_mut(root);
                    node.kind = Kind::Leaf;
                    node.touch(0);
                    break;
                }
                [item] => item.child(),
                [_, _, ..] => break,
            };
            let Some(child) = only else { break };
            self.drop_page(root);
            self.buckets[bucket].root = child;
            match child {
                Child::Node(node) => root = node,
                Child::Page(_) => break,
            }
        }
        Ok(merged)
    }

    // Recursion is at most `DEPTH_MAX` deep: nodes are only made by descents that stop there.
    fn rebalance_children(&mut self, parent: NodeIndex, threshold: usize) -> Result<u64, Error> {
        let mut merged = 0;
        for at in 0..self.node(parent).items.len() {
            if let Some(Child::Node(child)) = self.node(parent).items[at].child()
                && self.node(child).kind == Kind::Branch
            {
                merged += self.rebalance_children(child, threshold)?;
            }
        }
        Ok(merged + self.merge_children(parent, threshold)?)
    }

    /// Joins small children of one branch with their neighbours, as often as it takes.
    fn merge_children(&mut self, parent: NodeIndex, threshold: usize) -> Result<u64, Error> {
        let mut merged = 0;
        let mut at = 0;
        while at < self.node(parent).items.len() {
            match self.rebalance_child(parent, at, threshold)? {
                Outcome::Stays => at += 1,
                Outcome::IsGone => merged += 1,
                Outcome::Joined { at: joined } => {
                    merged += 1;
                    at = joined;
                    // A child that had no neighbour before has some now.
                    if let Some(Child::Node(child)) = self.node(parent).items[at].child()
                        && self.node(child).kind == Kind::Branch
                    {
                        merged += self.merge_children(child, threshold)?;
                    }
                }
            }
        }
        Ok(merged)
    }

    /// Removes or merges the child at `at` if it has become too small.
    fn rebalance_child(
        &mut self,
        parent: NodeIndex,
        at: usize,
        threshold: usize,
    ) -> Result<Outcome, Error> {
        let Some(Child::Node(child)) = self.node(parent).items[at].child() else {
            return Ok(Outcome::Stays);
        };
        let node = self.node_mut(child);
        // A branch with one child is never left behind, whoever wrote it: bbolt panics when it has to merge that child.
        let has_enough = node.kind == Kind::Leaf || node.items.len() >= 2;
        if !std::mem::take(&mut node.unbalanced) && has_enough {
            return Ok(Outcome::Stays);
        }
        if node.items.is_empty() {
            self.drop_page(child);
            self.remove_child(parent, at);
            return Ok(Outcome::IsGone);
        }
        if has_enough && node.len_bytes() > threshold {
            return Ok(Outcome::Stays);
        }
        if self.node(parent).items.len() < 2 {
            let node = self.node_mut(child);
            // No neighbour here. The parent itself is too small and joins one of its own; then this one is looked at again.
            node.unbalanced = true;
            return Ok(Outcome::Stays);
        }
        let (left, right) = if at == 0 { (0, 1) } else { (at - 1, at) };
        let (left_node, right_node) =
            (self.open_child_at(parent, left)?, self.open_child_at(parent, right)?);
        if self.node(left_node).kind != self.node(right_node).kind {
            let page =
                self.node(right_node).origin.or(self.node(left_node).origin).map(|o| o.run.start);
            let what = "neighbours in a tree are of different kinds";
            return Err(self.corrupt(Damage::new(page.unwrap_or(crate::page::PageId(0)), what)));
        }
        let neighbour = if at == 0 { right_node } else { left_node };
        if has_enough && self.node(neighbour).len_bytes() >= LARGE_NODE_PAGES * self.page_size() {
            // Joining would write large values again, to win part of a page.
            return Ok(Outcome::Stays);
        }
        let mut moved = std::mem::take(&mut self.node_mut(right_node).items);
        self.node_mut(left_node).items.append(&mut moved);
        self.drop_page(right_node);
        self.remove_child(parent, right);
        Ok(Outcome::Joined { at: left })
    }

    fn open_child_at(&mut self, parent: NodeIndex, at: usize) -> Result<NodeIndex, Error> {
        let Some(child) = self.node(parent).items.get(at).and_then(Item::child) else {
            return Err(
                self.corrupt(Damage::new(crate::page::PageId(0), "branch without children"))
            );
        };
        let node = self.open_child(child)?;
        self.node_mut(parent).items[at].content = Content::Child(Child::Node(node));
        Ok(node)
    }

    fn remove_child(&mut self, parent: NodeIndex, at: usize) {
        let node = self.node_mut(parent);
        node.items.remove(at);
        node.touch(at);
        node.unbalanced = true;
    }

    /// Gives up the page that a node was read from.
    pub(super) fn drop_page(&mut self, node: NodeIndex) {
        if let Some(origin) = self.node_mut(node).origin.take() {
            self.freed.push(origin.run);
        }
    }
}
