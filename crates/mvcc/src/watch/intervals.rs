//! Intervals of keys, each with a number, found by a key inside.
//!
//! A balanced (AVL) tree ordered by start and end; each node knows which node below it reaches furthest, so that a search
//! skips whole subtrees that end before the key. Nodes live in one vector. Balance does not depend on what clients
//! choose, so the recursion is never deeper than 1.44 log2 of the number of intervals.

use std::cmp::Ordering;

use bytes::Bytes;

const NONE: u32 = u32::MAX;

/// An interval; without an end it reaches to the last key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: Bytes,
    pub(super) end: Option<Bytes>,
}

impl Interval {
    fn order(&self, other: &Interval) -> Ordering {
        self.start.cmp(&other.start).then_with(|| self.order_of_ends(other))
    }

    /// No end is the furthest.
    fn order_of_ends(&self, other: &Interval) -> Ordering {
        match (&self.end, &other.end) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(mine), Some(other)) => mine.cmp(other),
        }
    }

    fn ends_after(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < &**end)
    }
}

#[derive(Debug)]
struct Node {
    interval: Interval,
    /// What the interval stands for.
    number: u32,
    left: u32,
    right: u32,
    height: u32,
    /// The node of this subtree whose interval ends last.
    furthest: u32,
}

/// The set; every interval is in it once.
#[derive(Debug)]
pub(super) struct Intervals {
    nodes: Vec<Node>,
    free: Vec<u32>,
    root: u32,
}

impl Default for Intervals {
    fn default() -> Self {
        Intervals { nodes: Vec::new(), free: Vec::new(), root: NONE }
    }
}

impl Intervals {
    /// Returns the number of an interval that is in the set.
    pub(super) fn get(&self, interval: &Interval) -> Option<u32> {
        let mut at = self.root;
        while at != NONE {
            let node = self.node(at);
            at = match interval.order(&node.interval) {
                Ordering::Less => node.left,
                Ordering::Equal => return Some(node.number),
                Ordering::Greater => node.right,
            };
        }
        None
    }

    /// Adds an interval that is not in the set.
    pub(super) fn insert(&mut self, interval: Interval, number: u32) {
        let node = Node { interval, number, left: NONE, right: NONE, height: 1, furthest: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.nodes[slot as usize] = node;
                slot
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 watchers fit in memory")
            }
        };
        self.nodes[slot as usize].furthest = slot;
        self.root = self.insert_below(self.root, slot);
    }

    /// Removes an interval, if it is in the set.
    pub(super) fn remove(&mut self, interval: &Interval) {
        let mut removed = NONE;
        self.root = self.remove_below(self.root, interval, &mut removed);
        if removed != NONE {
            self.nodes[removed as usize].interval = Interval { start: Bytes::new(), end: None };
            self.free.push(removed);
        }
    }

    /// Calls `found` with the number of every interval that contains `key`.
    pub(super) fn containing(&self, key: &[u8], found: &mut dyn FnMut(u32)) {
        self.containing_below(self.root, key, found);
    }

    fn containing_below(&self, at: u32, key: &[u8], found: &mut dyn FnMut(u32)) {
        if at == NONE {
            return;
        }
        let node = self.node(at);
        if !self.node(node.furthest).interval.ends_after(key) {
            return;
        }
        self.containing_below(node.left, key, found);
        if *node.interval.start <= *key {
            if node.interval.ends_after(key) {
                found(node.number);
            }
            self.containing_below(node.right, key, found);
        }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    fn height(&self, at: u32) -> u32 {
        if at == NONE { 0 } else { self.node(at).height }
    }

    /// Brings what a node knows of its subtree up to date.
    fn update(&mut self, at: u32) {
        let (left, right) = (self.node(at).left, self.node(at).right);
        let mut furthest = at;
        for child in [left, right] {
            if child != NONE {
                let candidate = self.node(child).furthest;
                if self
                    .node(candidate)
                    .interval
                    .order_of_ends(&self.node(furthest).interval)
                    .is_gt()
                {
                    furthest = candidate;
                }
            }
        }
        let height = 1 + self.height(left).max(self.height(right));
        let node = self.node_mut(at);
        node.furthest = furthest;
        node.height = height;
    }

    fn rotate_right(&mut self, at: u32) -> u32 {
        let top = self.node(at).left;
        self.node_mut(at).left = self.node(top).right;
        self.node_mut(top).right = at;
        self.update(at);
        self.update(top);
        top
    }

    fn rotate_left(&mut self, at: u32) -> u32 {
        let top = self.node(at).right;
        self.node_mut(at).right = self.node(top).left;
        self.node_mut(top).left = at;
        self.update(at);
        self.update(top);
        top
    }

    /// Restores the balance of a node whose children are balanced; returns the node that takes its place.
    fn balance(&mut self, at: u32) -> u32 {
        let (left, right) = (self.node(at).left, self.node(at).right);
        if self.height(left) > self.height(right) + 1 {
            if self.height(self.node(left).left) < self.height(self.node(left).right) {
                self.node_mut(at).left = self.rotate_left(left);
            }
            return self.rotate_right(at);
        }
        if self.height(right) > self.height(left) + 1 {
            if self.height(self.node(right).right) < self.height(self.node(right).left) {
                self.node_mut(at).right = self.rotate_right(right);
            }
            return self.rotate_left(at);
        }
        self.update(at);
        at
    }

    fn insert_below(&mut self, at: u32, slot: u32) -> u32 {
        if at == NONE {
            return slot;
        }
        if self.node(slot).interval.order(&self.node(at).interval).is_lt() {
            let left = self.insert_below(self.node(at).left, slot);
            self.node_mut(at).left = left;
        } else {
            let right = self.insert_below(self.node(at).right, slot);
            self.node_mut(at).right = right;
        }
        self.balance(at)
    }

    fn remove_below(&mut self, at: u32, interval: &Interval, removed: &mut u32) -> u32 {
        if at == NONE {
            return NONE;
        }
        match interval.order(&self.node(at).interval) {
            Ordering::Less => {
                let left = self.remove_below(self.node(at).left, interval, removed);
                self.node_mut(at).left = left;
            }
            Ordering::Greater => {
                let right = self.remove_below(self.node(at).right, interval, removed);
                self.node_mut(at).right = right;
            }
            Ordering::Equal => {
                *removed = at;
                let (left, right) = (self.node(at).left, self.node(at).right);
                if left == NONE || right == NONE {
                    return if left == NONE { right } else { left };
                }
                // The next interval takes the place.
                let mut next = NONE;
                let right = self.take_first(right, &mut next);
                let node = self.node_mut(next);
                node.left = left;
                node.right = right;
                return self.balance(next);
            }
        }
        self.balance(at)
    }

    fn take_first(&mut self, at: u32, first: &mut u32) -> u32 {
        let left = self.node(at).left;
        if left == NONE {
            *first = at;
            return self.node(at).right;
        }
        let left = self.take_first(left, first);
        self.node_mut(at).left = left;
        self.balance(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(start: u8, len: Option<u8>) -> Interval {
        let end = len
            .map(|len| Bytes::from((u16::from(start) + u16::from(len) + 1).to_be_bytes().to_vec()));
        Interval { start: Bytes::from(u16::from(start).to_be_bytes().to_vec()), end }
    }

    fn check(tree: &Intervals, at: u32) -> u32 {
        if at == NONE {
            return 0;
        }
        let node = tree.node(at);
        let (left, right) = (check(tree, node.left), check(tree, node.right));
        assert!(left.abs_diff(right) <= 1);
        assert_eq!(node.height, 1 + left.max(right));
        node.height
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: crate::cases(64), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn finds_what_a_list_finds(steps in proptest::collection::vec((any::<u8>(), proptest::option::of(any::<u8>()), any::<bool>()), 1..300)) {
            let mut tree = Intervals::default();
            let mut list: Vec<(Interval, u32)> = Vec::new();
            for (number, (start, len, removes)) in (0u32..).zip(steps) {
                let interval = interval(start, len);
                let place = list.iter().position(|(known, _)| *known == interval);
                prop_assert_eq!(tree.get(&interval), place.map(|place| list[place].1));
                match place {
                    Some(place) => {
                        tree.remove(&interval);
                        list.remove(place);
                    }
                    None => {
                        tree.insert(interval.clone(), number);
                        list.push((interval, number));
                    }
                }
                if removes && !list.is_empty() {
                    let (interval, _) = list.swap_remove(usize::from(start) % list.len());
                    tree.remove(&interval);
                }
                check(&tree, tree.root);
                for key in [u16::from(start), u16::from(start) * 2, 0, 300] {
                    let key = key.to_be_bytes();
                    let mut seen = Vec::new();
                    tree.containing(&key, &mut |number| seen.push(number));
                    let mut expected: Vec<u32> = list
                        .iter()
                        .filter(|(interval, _)| *interval.start <= key[..] && interval.ends_after(&key))
                        .map(|(_, number)| *number)
                        .collect();
                    seen.sort_unstable();
                    expected.sort_unstable();
                    prop_assert_eq!(seen, expected);
                }
            }
        }
    }

    #[test]
    fn stays_flat_for_ascending_intervals() {
        let mut tree = Intervals::default();
        for number in 0..10_000u32 {
            let start = Bytes::from(number.to_be_bytes().to_vec());
            tree.insert(Interval { start, end: None }, number);
        }
        assert!(tree.height(tree.root) <= 20);
    }
}
