//! Where versions of etcd answer the same request differently.

/// The rules of one minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    minor: u32,
}

impl Rules {
    /// The rules of etcd 3.`minor`.
    #[must_use]
    pub const fn of_minor(minor: u32) -> Self {
        Self { minor }
    }

    /// From 3.6 on, an unknown sort order is refused; before, everything is fetched and nothing sorted.
    pub(crate) const fn refuses_unknown_order(self) -> bool {
        self.minor >= 6
    }

    /// From 3.6 on, the first faulty operation of a txn is the one that it is refused for; before, puts come before ranges.
    pub(crate) const fn checks_in_order(self) -> bool {
        self.minor >= 6
    }

    /// From 3.7 on, a put of a txn is refused for a lease that is not there before it is for a key that is not.
    pub(crate) const fn checks_leases_first(self) -> bool {
        self.minor >= 7
    }

    /// From 3.7 on, an answer of keys alone comes from the index, which knows no leases: they are 0.
    pub(crate) const fn answers_keys_from_index(self) -> bool {
        self.minor >= 7
    }
}

/// Those of 3.5, which a new cluster stands for.
impl Default for Rules {
    fn default() -> Self {
        Self::of_minor(5)
    }
}
