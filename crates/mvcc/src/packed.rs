//! An ordered map from byte strings, packed: a million entries without a million allocations.
//!
//! ```text
//!   root      | "" | f | q |              a few, unbounded
//!               │
//!   branch    | "" | b | d |              up to 128 leaves, by the lowest key that belongs to each
//!               │
//!   leaf      | a | aa | ab |             up to 64 keys, with their values
//! ```
//!
//! Each level is a [`Run`]: the bytes of its keys one after another in one buffer, so that a search touches few cache
//! lines. A key costs its bytes, 4 for where they end, its value, and about 3 for its share of leaf and branch.
//!
//! Measured with `examples/measure.rs` (a million keys of 24 bytes in random order): a standard `BTreeMap` from boxed
//! keys to such leaves spent twice the time of a look-up on its separators alone.

use std::ops::ControlFlow;

/// Most keys in a leaf.
///
/// An insertion moves half a leaf on average (1 KiB of values and as much of keys), which costs less than finding the leaf;
/// smaller leaves would only add overhead, about 160 bytes each.
pub(crate) const LEAF_KEYS: usize = 64;

/// Most leaves in a branch; an insertion (once in 32 new keys) moves half of them, 4 KiB.
const BRANCH_LEAVES: usize = 128;

/// A run with more key bytes than this is split early, so that long keys do not make insertions slow.
const RUN_BYTES: usize = 16 * 1024;

/// Keys in order, each with a value.
#[derive(Debug)]
struct Run<T> {
    /// All keys, without separators.
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`; it starts where the one before ends.
    ends: Vec<u32>,
    values: Vec<T>,
}

type Leaf<T> = Run<T>;
type Branch<T> = Run<Leaf<T>>;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct PackedMap<T> {
    /// Never empty; nor is any branch. Only the only leaf may be empty. What precedes the second key of a run belongs to
    /// its first entry, whatever the first key is.
    root: Run<Box<Branch<T>>>,
}

impl<T> Default for Run<T> {
    fn default() -> Self {
        Run { bytes: Vec::new(), ends: Vec::new(), values: Vec::new() }
    }
}

impl<T> Default for PackedMap<T> {
    fn default() -> Self {
        PackedMap { root: Run::of_one(&[], Box::new(Run::of_one(&[], Run::default()))) }
    }
}

impl<T> PackedMap<T> {
    /// Number of keys.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let leaves = self.root.values.iter().flat_map(|branch| &branch.values);
        leaves.map(Run::len).sum()
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&T> {
        let branch = &self.root.values[self.root.owner(key)];
        let leaf = &branch.values[branch.owner(key)];
        leaf.search(key).ok().map(|place| &leaf.values[place])
    }

    /// Returns the value of a key, to be changed.
    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut T> {
        let branch = self.root.owner(key);
        let branch = &mut self.root.values[branch];
        let leaf = branch.owner(key);
        let leaf = &mut branch.values[leaf];
        leaf.search(key).ok().map(|place| &mut leaf.values[place])
    }

    /// Changes the value of a key, or adds the key; the key is copied.
    pub(crate) fn update_or_insert<R>(
        &mut self,
        key: &[u8],
        update: impl FnOnce(&mut T) -> R,
        insert: impl FnOnce() -> (T, R),
    ) -> R {
        let branch_place = self.root.owner(key);
        let branch = &mut self.root.values[branch_place];
        let leaf_place = branch.owner(key);
        let leaf = &mut branch.values[leaf_place];
        let place = match leaf.search(key) {
            Ok(place) => return update(&mut leaf.values[place]),
            Err(place) => place,
        };
        let (value, result) = insert();
        if let Some(next) = leaf.insert_or_split(place, key, value, LEAF_KEYS) {
            let lowest: Box<[u8]> = separator(leaf.key(leaf.len() - 1), next.key(0)).into();
            if let Some(next) = branch.insert_or_split(leaf_place + 1, &lowest, next, BRANCH_LEAVES)
            {
                // Not a shorter one: the last leaf before may hold keys up to exactly here.
                let lowest: Box<[u8]> = next.key(0).into();
                self.root.insert(branch_place + 1, &lowest, Box::new(next));
            }
        }
        result
    }

    /// Removes a key and returns its value.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<T> {
        let branch_place = self.root.owner(key);
        let branch = &mut self.root.values[branch_place];
        let leaf_place = branch.owner(key);
        let leaf = &mut branch.values[leaf_place];
        let place = leaf.search(key).ok()?;
        let value = leaf.remove(place);
        self.tidy(branch_place, leaf_place);
        Some(value)
    }

    /// Visits the entries from `start` on, in order, until `visit` breaks.
    pub(crate) fn visit_from(
        &self,
        start: &[u8],
        visit: &mut dyn FnMut(&[u8], &T) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let branch_place = self.root.owner(start);
        let branch = &self.root.values[branch_place];
        let mut leaf_place = branch.owner(start);
        let leaf = &branch.values[leaf_place];
        let mut place = leaf.search(start).unwrap_or_else(|place| place);
        for branch in &self.root.values[branch_place..] {
            for leaf in &branch.values[leaf_place..] {
                for place in place..leaf.values.len() {
                    visit(leaf.key(place), &leaf.values[place])?;
                }
                place = 0;
            }
            leaf_place = 0;
        }
        ControlFlow::Continue(())
    }

    /// Gives every value of the leaf that `cursor` belongs to, to `keep`, and removes those for which it says no. Returns
    /// where the next leaf begins, if there is one.
    pub(crate) fn retain_in_leaf(
        &mut self,
        cursor: &[u8],
        keep: impl FnMut(&mut T) -> bool,
    ) -> Option<Box<[u8]>> {
        let branch_place = self.root.owner(cursor);
        let branch = &mut self.root.values[branch_place];
        let leaf_place = branch.owner(cursor);
        let removed = branch.values[leaf_place].retain(keep);
        let next = if leaf_place + 1 < branch.len() {
            Some(branch.key(leaf_place + 1).into())
        } else if branch_place + 1 < self.root.len() {
            Some(self.root.key(branch_place + 1).into())
        } else {
            None
        };
        if removed > 0 {
            self.tidy(branch_place, leaf_place);
        }
        next
    }

    /// After a leaf has lost keys: appends it to the one before if both are small, or drops it if it is empty.
    fn tidy(&mut self, branch_place: usize, leaf_place: usize) {
        let branch = &mut self.root.values[branch_place];
        if let Some(before) = leaf_place.checked_sub(1)
            && branch.values[before].has_room_for(&branch.values[leaf_place])
        {
            let leaf = branch.remove(leaf_place);
            branch.values[before].append(leaf);
        } else if branch.values[leaf_place].len() == 0 && branch.len() > 1 {
            branch.remove(leaf_place);
        } else if branch.values[leaf_place].len() == 0 && self.root.len() > 1 {
            self.root.remove(branch_place);
        }
    }

    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        let branches = self.root.values.iter();
        let of_branch = |branch: &Branch<T>| {
            branch.heap_bytes()
                + branch.values.iter().map(Run::heap_bytes).sum::<usize>()
                + size_of::<Branch<T>>()
        };
        self.root.heap_bytes() + branches.map(|branch| of_branch(branch)).sum::<usize>()
    }
}

impl<T> Run<T> {
    fn of_one(key: &[u8], value: T) -> Self {
        let mut run = Run::default();
        run.insert(0, key, value);
        run
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    fn is_full(&self, most: usize) -> bool {
        self.len() >= most || (self.len() >= 2 && self.bytes.len() > RUN_BYTES)
    }

    /// Whether another leaf may be appended without being near full afterwards.
    fn has_room_for(&self, other: &Run<T>) -> bool {
        self.len() + other.len() <= LEAF_KEYS / 2
            && self.bytes.len() + other.bytes.len() <= RUN_BYTES / 2
    }

    fn start_of(&self, place: usize) -> usize {
        match place.checked_sub(1) {
            Some(before) => self.ends[before] as usize,
            None => 0,
        }
    }

    fn key(&self, place: usize) -> &[u8] {
        &self.bytes[self.start_of(place)..self.ends[place] as usize]
    }

    /// Finds a key, or the place where it belongs.
    fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// The place of the run below that a key belongs to.
    fn owner(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(place) => place,
            Err(place) => place.saturating_sub(1),
        }
    }

    /// Puts a key at the place where it belongs.
    fn insert(&mut self, place: usize, key: &[u8], value: T) {
        let start = self.start_of(place);
        let len =
            u32::try_from(key.len()).expect("keys come in messages, which are shorter than 4 GiB");
        if self.values.len() == self.values.capacity() {
            // Doubling would leave a third of the memory unused.
            let more = (self.len() / 4).max(4);
            self.values.reserve_exact(more);
            self.ends.reserve_exact(more);
        }
        if self.bytes.capacity() - self.bytes.len() < key.len() {
            self.bytes.reserve_exact(key.len() + self.bytes.len() / 4);
        }
        self.bytes.extend_from_slice(key);
        self.bytes[start..].rotate_right(key.len());
        for end in &mut self.ends[place..] {
            *end += len;
        }
        // A run has at most RUN_BYTES before it gets its last key, and a message is shorter than 2 GiB.
        let end = u32::try_from(start + key.len()).expect("a run is shorter than 4 GiB");
        self.ends.insert(place, end);
        self.values.insert(place, value);
    }

    /// Puts a key at the place where it belongs. If the run is full, the later part of it becomes another run, returned.
    fn insert_or_split(
        &mut self,
        place: usize,
        key: &[u8],
        value: T,
        most: usize,
    ) -> Option<Run<T>> {
        if !self.is_full(most) {
            self.insert(place, key, value);
            return None;
        }
        if place == self.len() {
            // Ascending keys: leave the full run as it is.
            self.shrink();
            return Some(Run::of_one(key, value));
        }
        let middle = (self.len() / 2).max(1);
        let mut next = self.split_off(middle);
        match place.checked_sub(middle) {
            None | Some(0) => self.insert(place, key, value),
            Some(place) => next.insert(place, key, value),
        }
        Some(next)
    }

    fn remove(&mut self, place: usize) -> T {
        let (start, end) = (self.start_of(place), self.ends[place] as usize);
        self.bytes.drain(start..end);
        let len = u32::try_from(end - start).expect("it was added as such");
        self.ends.remove(place);
        for end in &mut self.ends[place..] {
            *end -= len;
        }
        self.values.remove(place)
    }

    /// Moves the keys from `place` on to a new run.
    fn split_off(&mut self, place: usize) -> Run<T> {
        let start = self.start_of(place);
        let mut tail = Run {
            bytes: self.bytes.split_off(start),
            ends: self.ends.split_off(place),
            values: self.values.split_off(place),
        };
        let before = u32::try_from(start).expect("a run is shorter than 4 GiB");
        for end in &mut tail.ends {
            *end -= before;
        }
        self.shrink();
        tail.shrink();
        tail
    }

    /// Appends a run whose keys all follow.
    fn append(&mut self, mut other: Run<T>) {
        let offset = u32::try_from(self.bytes.len()).expect("a run is shorter than 4 GiB");
        self.bytes.append(&mut other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + offset));
        self.values.append(&mut other.values);
    }

    /// Gives every value to `keep` and removes those for which it says no. Returns how many were removed.
    fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) -> usize {
        let is_kept: Vec<bool> = self.values.iter_mut().map(&mut keep).collect();
        let removed = is_kept.iter().filter(|is_kept| !**is_kept).count();
        if removed > 0 {
            let mut smaller = Run::default();
            for (place, value) in std::mem::take(&mut self.values).into_iter().enumerate() {
                if is_kept[place] {
                    smaller.bytes.extend_from_slice(self.key(place));
                    smaller
                        .ends
                        .push(u32::try_from(smaller.bytes.len()).expect("no longer than it was"));
                    smaller.values.push(value);
                }
            }
            smaller.shrink();
            *self = smaller;
        }
        removed
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.values.shrink_to_fit();
    }

    #[cfg(test)]
    fn heap_bytes(&self) -> usize {
        self.bytes.capacity() + self.ends.capacity() * 4 + self.values.capacity() * size_of::<T>()
    }
}

/// The shortest key that is above `below` and not above `above`.
fn separator<'k>(below: &[u8], above: &'k [u8]) -> &'k [u8] {
    let common = below.iter().zip(above).take_while(|(below, above)| below == above).count();
    above.get(..=common).unwrap_or(above)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check_shape<T>(map: &PackedMap<T>) {
        let mut last: Option<Vec<u8>> = None;
        let mut len = 0;
        assert!(map.root.len() > 0);
        for branch in &map.root.values {
            assert!(branch.len() > 0 && branch.len() <= BRANCH_LEAVES);
            for leaf in &branch.values {
                assert!(leaf.len() <= LEAF_KEYS);
                assert!(leaf.len() > 0 || (map.root.len() == 1 && branch.len() == 1));
                for place in 0..leaf.len() {
                    let key = leaf.key(place).to_vec();
                    assert!(last.as_ref().is_none_or(|last| *last < key));
                    last = Some(key);
                    len += 1;
                }
            }
        }
        assert_eq!(map.len(), len);
    }

    fn key(number: u32) -> Vec<u8> {
        let mut key = format!("{:x}", number.wrapping_mul(0x9e37_79b1) % 5000).into_bytes();
        if number.is_multiple_of(211) {
            key.resize(9000, b'x');
        }
        key
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: crate::cases(24), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_standard_map(ascending in 0u32..30_000, steps in prop::collection::vec((0u32..6000, 0u8..10), 1..3000)) {
            let (mut map, mut model) = (PackedMap::default(), BTreeMap::new());
            for number in 0..ascending {
                let key = format!("m{number:06}").into_bytes();
                map.update_or_insert(&key, |_| (), || (number, ()));
                model.insert(key, number);
            }
            for (number, kind) in steps {
                // Between the ascending keys too, so that full leaves and branches split in the middle.
                let key = if number % 3 == 0 { format!("m{:06}{}", number * 5 % 30_000, number % 7).into_bytes() } else { key(number) };
                match kind {
                    0..6 => {
                        let was = map.update_or_insert(&key, |value| Some(std::mem::replace(value, number)), || (number, None));
                        prop_assert_eq!(was, model.insert(key.clone(), number));
                    }
                    6..8 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    8 => {
                        let expected: Vec<_> = model.range(key.clone()..).take(200).map(|(key, value)| (key.clone(), *value)).collect();
                        let mut seen = Vec::new();
                        let _ = map.visit_from(&key, &mut |key, value| {
                            seen.push((key.to_vec(), *value));
                            if seen.len() == 200 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                        });
                        prop_assert_eq!(seen, expected);
                    }
                    _ => {
                        let modulus = 2 + number % 7;
                        let mut cursor: Box<[u8]> = Box::default();
                        while let Some(next) = map.retain_in_leaf(&cursor, |value| *value % modulus != 0) {
                            prop_assert!(next > cursor);
                            cursor = next;
                        }
                        model.retain(|_, value| *value % modulus != 0);
                    }
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.get_mut(&key).copied(), model.get(&key).copied());
            }
            check_shape(&map);
            prop_assert_eq!(map.len(), model.len());
            for (key, value) in &model {
                prop_assert_eq!(map.get(key), Some(value));
            }
        }
    }

    #[test]
    fn separators_are_short_and_right() {
        let check = |below: &[u8], above: &[u8], expected: &[u8]| {
            let separator = separator(below, above);
            assert_eq!(separator, expected);
            assert!(below < separator && separator <= above);
        };
        check(b"abc", b"abd", b"abd");
        check(b"abc", b"b", b"b");
        check(b"abc", b"bzzzz", b"b");
        check(b"ab", b"abc", b"abc");
        check(b"ab", b"abcdef", b"abc");
        check(b"", b"x", b"x");
    }
}
