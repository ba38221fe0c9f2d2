//! A run of neighbouring keys, packed: their bytes one after another in one buffer.

use super::history::Entry;

/// Most keys in a leaf.
///
/// An insertion moves half a leaf on average (1 KiB of entries, about 1 KiB of keys), which costs less than finding the
/// leaf; smaller leaves would only add overhead, about 160 bytes each.
pub(super) const MAX_KEYS: usize = 64;

/// A leaf with more key bytes than this is split early, so that long keys do not make insertions slow.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// Keys in order, each with its entry.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    /// All keys, without separators.
    bytes: Vec<u8>,
    /// Where each key ends in `bytes`; it starts where the one before ends.
    ends: Vec<u32>,
    entries: Vec<Entry>,
}

impl Leaf {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= MAX_KEYS || (self.len() >= 2 && self.bytes.len() > MAX_KEY_BYTES)
    }

    /// Whether another leaf may be appended without being near full afterwards.
    pub(super) fn has_room_for(&self, other: &Leaf) -> bool {
        self.len() + other.len() <= MAX_KEYS / 2
            && self.bytes.len() + other.bytes.len() <= MAX_KEY_BYTES / 2
    }

    fn start_of(&self, place: usize) -> usize {
        match place.checked_sub(1) {
            Some(before) => self.ends[before] as usize,
            None => 0,
        }
    }

    pub(super) fn key(&self, place: usize) -> &[u8] {
        &self.bytes[self.start_of(place)..self.ends[place] as usize]
    }

    pub(super) fn entry(&self, place: usize) -> &Entry {
        &self.entries[place]
    }

    pub(super) fn entry_mut(&mut self, place: usize) -> &mut Entry {
        &mut self.entries[place]
    }

    pub(super) fn last_key(&self) -> Option<&[u8]> {
        self.len().checked_sub(1).map(|place| self.key(place))
    }

    /// Finds a key, or the place where it belongs.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
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

    /// Puts a key at the place where it belongs. The leaf must not be full.
    pub(super) fn insert(&mut self, place: usize, key: &[u8], entry: Entry) {
        let start = self.start_of(place);
        let len =
            u32::try_from(key.len()).expect("keys come in messages, which are shorter than 4 GiB");
        if self.entries.len() == self.entries.capacity() {
            // Doubling would leave a third of the index unused.
            let more = (self.len() / 4).max(4);
            self.entries.reserve_exact(more);
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
        // Fits: at most MAX_KEY_BYTES before the last key, which is below 4 GiB less that (a message is below 2 GiB).
        let end = u32::try_from(start + key.len()).expect("a leaf is shorter than 4 GiB");
        self.ends.insert(place, end);
        self.entries.insert(place, entry);
    }

    /// Moves the keys from `place` on to a new leaf.
    pub(super) fn split_off(&mut self, place: usize) -> Leaf {
        let start = self.start_of(place);
        let mut tail = Leaf {
            bytes: self.bytes.split_off(start),
            ends: self.ends.split_off(place),
            entries: self.entries.split_off(place),
        };
        for end in &mut tail.ends {
            // What stood before the tail was counted in.
            *end -= u32::try_from(start).expect("a leaf is shorter than 4 GiB");
        }
        self.shrink();
        tail.shrink();
        tail
    }

    /// Appends a leaf whose keys all follow.
    pub(super) fn append(&mut self, mut other: Leaf) {
        let offset = u32::try_from(self.bytes.len()).expect("a leaf is shorter than 4 GiB");
        self.bytes.append(&mut other.bytes);
        self.ends.extend(other.ends.iter().map(|end| end + offset));
        self.entries.append(&mut other.entries);
    }

    /// Gives every entry to `keep` and removes those for which it says no. Returns how many were removed.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut Entry) -> bool) -> usize {
        let mut kept = Vec::with_capacity(self.len());
        for entry in &mut self.entries {
            kept.push(keep(entry));
        }
        let removed = kept.iter().filter(|kept| !**kept).count();
        if removed > 0 {
            let mut smaller = Leaf::default();
            for (place, entry) in std::mem::take(&mut self.entries).into_iter().enumerate() {
                if kept[place] {
                    smaller.bytes.extend_from_slice(self.key(place));
                    smaller
                        .ends
                        .push(u32::try_from(smaller.bytes.len()).expect("no longer than it was"));
                    smaller.entries.push(entry);
                }
            }
            smaller.shrink();
            *self = smaller;
        }
        removed
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * 4
            + self.entries.capacity() * size_of::<Entry>()
    }
}
