//! Which key hangs on which lease, both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::{Key, LeaseId};

/// The two directions. The bytes of a key are shared between them, and are a copy of their own: a key cut out of a
/// request would keep the whole request in memory.
///
/// One set for all leases instead of one for each: most leases have one key, and a set for each would cost a node.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    by_key: BTreeMap<Key, LeaseId>,
    by_lease: BTreeSet<(LeaseId, Key)>,
}

impl Attachments {
    pub(crate) fn lease_of(&self, key: &[u8]) -> Option<LeaseId> {
        self.by_key.get(key).copied()
    }

    /// Keys of a lease, sorted.
    pub(crate) fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Key> {
        self.by_lease
            .range((Bound::Included((id, Key::default())), Bound::Unbounded))
            .take_while(move |(lease, _)| *lease == id)
            .map(|(_, key)| key)
    }

    pub(crate) fn attach(&mut self, id: LeaseId, key: &[u8]) {
        let key: Key = match self.by_key.get_key_value(key) {
            Some((_, &lease)) if lease == id => return,
            Some((key, &lease)) => {
                let key = Arc::clone(key);
                self.by_lease.remove(&(lease, Arc::clone(&key)));
                key
            }
            None => key.into(),
        };
        self.by_lease.insert((id, Arc::clone(&key)));
        self.by_key.insert(key, id);
    }

    pub(crate) fn detach(&mut self, key: &[u8]) -> Option<LeaseId> {
        let (key, id) = self.by_key.remove_entry(key)?;
        self.by_lease.remove(&(id, key));
        Some(id)
    }

    /// Detaches all keys of a lease and returns them, sorted.
    pub(crate) fn take(&mut self, id: LeaseId) -> Vec<Key> {
        let keys: Vec<Key> = self.keys(id).map(Arc::clone).collect();
        for key in &keys {
            self.by_key.remove(key);
            self.by_lease.remove(&(id, Arc::clone(key)));
        }
        keys
    }
}
