//! etcd's convention for intervals of keys, as a type.
//!
//! | key | range_end | meaning |
//! | --- | --- | --- |
//! | k | empty | exactly k |
//! | k | one zero byte | every key from k on |
//! | k | e | `[k, e)`; empty when e <= k |

/// The keys that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// Exactly one key.
    Single(&'a [u8]),
    /// From the first (inclusive) to the second (exclusive); nothing when they are in the wrong order.
    Until(&'a [u8], &'a [u8]),
    /// Every key from this one on.
    From(&'a [u8]),
}

impl<'a> KeyRange<'a> {
    /// Reads the two fields that requests have.
    #[must_use]
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => KeyRange::Single(key),
            [0] => KeyRange::From(key),
            end => KeyRange::Until(key, end),
        }
    }

    /// Returns the first key that can be inside.
    #[must_use]
    pub fn start(&self) -> &'a [u8] {
        match *self {
            KeyRange::Single(key) | KeyRange::Until(key, _) | KeyRange::From(key) => key,
        }
    }

    /// Says whether no key can be inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match *self {
            KeyRange::Single(_) | KeyRange::From(_) => false,
            KeyRange::Until(start, end) => end <= start,
        }
    }

    /// Says whether `key` is inside.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match *self {
            KeyRange::Single(only) => key == only,
            KeyRange::Until(start, end) => start <= key && key < end,
            KeyRange::From(start) => start <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_as_etcd_does() {
        assert_eq!(KeyRange::new(b"a", b""), KeyRange::Single(b"a"));
        assert_eq!(KeyRange::new(b"a", b"\0"), KeyRange::From(b"a"));
        assert_eq!(KeyRange::new(b"a", b"c"), KeyRange::Until(b"a", b"c"));
        assert!(KeyRange::new(b"a", b"a").is_empty());
        assert!(KeyRange::new(b"b", b"a").is_empty());
        assert!(!KeyRange::new(b"a", b"\0").is_empty());
        assert!(KeyRange::new(b"a", b"c").contains(b"b"));
        assert!(!KeyRange::new(b"a", b"c").contains(b"c"));
        assert!(KeyRange::new(b"\0", b"\0").contains(b"\xff\xff"));
    }
}
