//! Watchers by what they watch: one group for each distinct key or interval.

use bytes::Bytes;

use super::intervals::{Interval, Intervals};
use crate::packed::PackedMap;

/// Number of a group.
pub(super) type GroupId = u32;

/// What the watchers of a group watch.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Watched {
    Key(Bytes),
    Interval(Interval),
}

/// Watchers with the same key or interval.
#[derive(Debug)]
pub(super) struct Group {
    watched: Watched,
    /// Slots of the watchers that get events as they happen. The order is arbitrary, but a function of the calls made.
    pub(super) synced: Vec<u32>,
    /// How many watch from history.
    pub(super) lagging: u32,
    /// Scratch of the operation under way: which events of the batch match.
    pub(super) matched: Vec<u32>,
}

/// All groups, found by the key of an event.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    free: Vec<GroupId>,
    keys: PackedMap<GroupId>,
    intervals: Intervals,
}

impl Groups {
    /// Returns the group of a range, made if need be. `range_end` as in requests; the range is not empty.
    pub(super) fn group(&mut self, key: &Bytes, range_end: &Bytes) -> GroupId {
        let watched = if range_end.is_empty() {
            Watched::Key(key.clone())
        } else {
            let end = if **range_end == [0] { None } else { Some(range_end.clone()) };
            Watched::Interval(Interval { start: key.clone(), end })
        };
        let known = match &watched {
            Watched::Key(key) => self.keys.get(key).copied(),
            Watched::Interval(interval) => self.intervals.get(interval),
        };
        if let Some(id) = known {
            return id;
        }
        let group =
            Group { watched: watched.clone(), synced: Vec::new(), lagging: 0, matched: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => {
                self.groups[id as usize] = group;
                id
            }
            None => {
                self.groups.push(group);
                u32::try_from(self.groups.len() - 1)
                    .expect("fewer than 2^32 watchers fit in memory")
            }
        };
        match watched {
            Watched::Key(key) => self.keys.update_or_insert(&key, |_| (), || (id, ())),
            Watched::Interval(interval) => self.intervals.insert(interval, id),
        }
        id
    }

    pub(super) fn get(&self, id: GroupId) -> &Group {
        &self.groups[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: GroupId) -> &mut Group {
        &mut self.groups[id as usize]
    }

    /// Forgets a group that has no watcher left.
    pub(super) fn release(&mut self, id: GroupId) {
        let group = &mut self.groups[id as usize];
        if !group.synced.is_empty() || group.lagging > 0 {
            return;
        }
        match &group.watched {
            Watched::Key(key) => drop(self.keys.remove(key)),
            Watched::Interval(interval) => self.intervals.remove(interval),
        }
        group.watched = Watched::Key(Bytes::new());
        group.synced = Vec::new();
        self.free.push(id);
    }

    /// Notes in every group that watches `key`, and that `wanted` selects, that event `number` matches. Groups with their
    /// first match are appended to `touched`. Returns whether there was any.
    pub(super) fn note(
        &mut self,
        key: &[u8],
        number: u32,
        wanted: fn(&Group) -> bool,
        touched: &mut Vec<GroupId>,
    ) -> bool {
        let mut is_noted = false;
        let groups = &mut self.groups;
        let mut note = |id: GroupId| {
            let group = &mut groups[id as usize];
            if wanted(group) {
                if group.matched.is_empty() {
                    touched.push(id);
                }
                group.matched.push(number);
                is_noted = true;
            }
        };
        if let Some(id) = self.keys.get(key) {
            note(*id);
        }
        self.intervals.containing(key, &mut note);
        is_noted
    }
}
