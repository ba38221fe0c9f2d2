//! Sets of key ranges.
//!
//! A set is kept merged: disjoint ranges in order, none touching the next. Ranges that touch make one, as in etcd: who may
//! read `[a, c)` and `[c, f)` may read `[a, f)`. Hence a range is granted if a single one covers it.
//!
//! ```text
//! granted   [a----c) [c----f)      [k]   [x------∞
//! kept      [a-----------f)        [k]   [x------∞
//! asked         [b----d)                    [y---∞      yes
//!                      [e-----------l)                  no: a gap
//! ```

use bytes::Bytes;

/// The end of a range of all keys from its start on, in requests and permissions.
const OPEN_END: &[u8] = &[0];

/// Where a range ends. `Before` sorts below `Open`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Open,
}

impl End {
    /// Whether a range that starts at `key` overlaps or touches what ends here.
    fn reaches(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key <= &**end,
            Self::Open => true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    start: Bytes,
    end: End,
}

/// A set of key ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    /// Disjoint, not touching, in order.
    ranges: Vec<Range>,
}

impl Ranges {
    /// The union of permissions, each a key and a range end as they stand in a role: without an end a single key, with an
    /// end of one zero byte all keys from the first on. What covers no key is left out.
    pub fn union<'a>(permissions: impl IntoIterator<Item = (&'a Bytes, &'a Bytes)>) -> Self {
        let mut all: Vec<Range> = permissions
            .into_iter()
            .filter(|(key, _)| !key.is_empty())
            .map(|(key, end)| Range { start: key.clone(), end: end_of(key, end) })
            .filter(|range| match &range.end {
                End::Before(end) => range.start < *end,
                End::Open => true,
            })
            .collect();
        all.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        let mut ranges: Vec<Range> = Vec::with_capacity(all.len());
        for range in all {
            match ranges.last_mut() {
                Some(last) if last.end.reaches(&range.start) => {
                    if range.end > last.end {
                        last.end = range.end;
                    }
                }
                _ => ranges.push(range),
            }
        }
        Self { ranges }
    }

    /// Whether everything that a request names is in the set: a key without an end, or a range as in [`Ranges::union`].
    ///
    /// A range that ends at or before its start names no key. As in etcd its start has to be in the set, so that members
    /// of either kind decide alike.
    #[must_use]
    pub fn cover(&self, key: &[u8], range_end: &[u8]) -> bool {
        let Some(range) = self.range_at(key) else { return false };
        match &range.end {
            End::Open => true,
            End::Before(_) if range_end == OPEN_END => false,
            End::Before(end) => range_end.is_empty() || range_end <= &**end,
        }
    }

    /// The range that holds the key.
    fn range_at(&self, key: &[u8]) -> Option<&Range> {
        let behind = self.ranges.partition_point(|range| *range.start <= *key);
        let range = self.ranges.get(behind.checked_sub(1)?)?;
        match &range.end {
            End::Before(end) => (*key < **end).then_some(range),
            End::Open => Some(range),
        }
    }
}

fn end_of(key: &Bytes, range_end: &Bytes) -> End {
    match &**range_end {
        OPEN_END => End::Open,
        // A single key ends before the next one.
        [] => End::Before([&**key, &[0]].concat().into()),
        _ => End::Before(range_end.clone()),
    }
}

/// Whether a role may be given this: a key, and an end that is absent, behind the key, or open.
pub(crate) fn is_valid_permission(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty() && (range_end.is_empty() || key < range_end || range_end == OPEN_END)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(permissions: &[(&'static str, &'static str)]) -> Ranges {
        let owned: Vec<(Bytes, Bytes)> =
            permissions.iter().map(|(key, end)| (Bytes::from(*key), Bytes::from(*end))).collect();
        Ranges::union(owned.iter().map(|(key, end)| (key, end)))
    }

    fn check(granted: &[(&'static str, &'static str)], asked: (&str, &str), expected: bool) {
        let found = ranges(granted).cover(asked.0.as_bytes(), asked.1.as_bytes());
        assert_eq!(found, expected, "{granted:?} asked for {asked:?}");
    }

    #[test]
    fn chained_ranges_make_one() {
        let granted = [("c", "f"), ("a", "c")];
        check(&granted, ("a", "f"), true);
        check(&granted, ("b", "d"), true);
        check(&granted, ("b", "g"), false);
        check(&granted, ("f", ""), false);
        check(&[("a", "c"), ("d", "f")], ("b", "e"), false);
    }

    #[test]
    fn a_key_is_a_range_to_its_successor() {
        check(&[("k", "")], ("k", ""), true);
        check(&[("k", "")], ("k", "k\0"), true);
        check(&[("k", "")], ("k", "l"), false);
        check(&[("k", ""), ("k\0", "l")], ("k", "l"), true);
        check(&[("k", "")], ("k\0", ""), false);
    }

    #[test]
    fn an_open_end_needs_an_open_end() {
        check(&[("k", "\0")], ("k", "\0"), true);
        check(&[("k", "\0")], ("z", "\0"), true);
        check(&[("k", "\0")], ("z", ""), true);
        check(&[("k", "\0")], ("j", "\0"), false);
        check(&[("k", "z")], ("k", "\0"), false);
        check(&[("\0", "\0")], ("\0", "\0"), true);
    }

    #[test]
    fn an_inverted_range_is_judged_by_its_start() {
        check(&[("a", "c")], ("b", "a"), true);
        check(&[("a", "c")], ("d", "b"), false);
        check(&[("c", "e")], ("d", "a"), true);
    }

    #[test]
    fn what_covers_nothing_grants_nothing() {
        check(&[("", "")], ("a", ""), false);
        check(&[("", "\0")], ("a", ""), false);
        check(&[("c", "a")], ("b", ""), false);
        check(&[], ("a", ""), false);
        check(&[("a", "b")], ("", ""), false);
    }

    /// Keys over two letters up to a length: a range of them is the set of those that it holds.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..3, 1..3)
    }

    fn ends() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0_u8..3, 0..3)
    }

    /// Every key of up to four letters, which is enough to tell ranges of shorter ones apart.
    fn universe() -> Vec<Vec<u8>> {
        let mut all = vec![vec![]];
        let mut level: Vec<Vec<u8>> = vec![vec![]];
        for _ in 0..4 {
            level = level
                .iter()
                .flat_map(|key| (0_u8..3).map(move |byte| [&key[..], &[byte]].concat()))
                .collect();
            all.extend(level.clone());
        }
        all.retain(|key| !key.is_empty());
        all
    }

    fn holds(key: &[u8], (start, end): (&[u8], &[u8])) -> bool {
        match end {
            [] => key == start,
            OPEN_END => key >= start,
            _ => key >= start && key < end,
        }
    }

    proptest! {
        #[test]
        fn covers_as_a_set_of_keys_would(
            granted in prop::collection::vec((keys(), ends()), 0..6),
            (key, end) in (keys(), ends()),
        ) {
            let owned: Vec<(Bytes, Bytes)> = granted
                .iter()
                .map(|(key, end)| (Bytes::from(key.clone()), Bytes::from(end.clone())))
                .collect();
            let found = Ranges::union(owned.iter().map(|(key, end)| (key, end))).cover(&key, &end);
            let asked: BTreeSet<_> =
                universe().into_iter().filter(|k| holds(k, (&key, &end))).collect();
            // Beyond the keys that were asked for there are longer ones; a granted set that ends where one begins shows
            // in the universe, since its keys are two letters longer than any bound.
            let mut model = asked
                .iter()
                .all(|k| granted.iter().any(|(start, end)| holds(k, (start, end))));
            if asked.is_empty() {
                model = granted.iter().any(|(start, end)| holds(&key, (start, end)));
            }
            if end == OPEN_END {
                // The keys above the universe's alphabet are asked for too.
                model &= granted.iter().any(|(_, end)| end == OPEN_END);
            }
            prop_assert_eq!(found, model, "{:?} asked for {:?}..{:?}", granted, key, end);
        }
    }
}
