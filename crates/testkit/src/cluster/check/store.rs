//! The reference model: every revision of every key, from the committed events.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

/// All that was committed, by key and by revision.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// A key's states: the revision that made it, and the key with its value, or `None` for deleted.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// The events of revision 2, 3, and so on.
    log: Vec<Vec<Event>>,
    /// The keys attached to each lease, now.
    attached: BTreeMap<i64, BTreeSet<Bytes>>,
}

/// The revision of an empty store.
const FIRST: i64 = 1;

impl Store {
    /// The last revision.
    pub fn revision(&self) -> i64 {
        FIRST + i64::try_from(self.log.len()).unwrap_or(i64::MAX - FIRST)
    }

    /// The events of one revision; none for one that is not there.
    pub fn events(&self, revision: i64) -> &[Event] {
        usize::try_from(revision - FIRST - 1)
            .ok()
            .and_then(|at| self.log.get(at))
            .map_or(&[], |e| e)
    }

    /// One key at a revision.
    pub fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let states = self.keys.get(key)?;
        let after = states.partition_point(|(at, _)| *at <= revision);
        states.get(after.checked_sub(1)?)?.1.as_ref()
    }

    /// A key (empty end) or a range at a revision, in the order of the keys.
    pub fn range(&self, key: &[u8], range_end: &[u8], revision: i64) -> Vec<&KeyValue> {
        if range_end.is_empty() {
            return self.get(key, revision).into_iter().collect();
        }
        self.keys
            .range(Bytes::copy_from_slice(key)..)
            .take_while(|(name, _)| in_range(name, key, range_end))
            .filter_map(|(name, _)| self.get(name, revision))
            .collect()
    }

    /// The keys attached to a lease, now.
    pub fn attached(&self, lease: i64) -> BTreeSet<Bytes> {
        self.attached.get(&lease).cloned().unwrap_or_default()
    }

    /// Takes over the events of the next revision, and checks every field that follows from the revisions before.
    pub fn append(&mut self, revision: i64, events: &[Event]) -> Result<()> {
        let last = self.revision();
        ensure!(revision == last + 1, "after revision {last} comes {revision}");
        ensure!(!events.is_empty(), "revision {revision} has no event");
        for event in events {
            let kv = event.kv.as_ref().context("an event without a key")?;
            ensure!(kv.mod_revision == revision, "revision {revision} has the event {event:?}");
            let before = self.get(&kv.key, revision).cloned();
            ensure!(
                before.as_ref().is_none_or(|before| before.mod_revision < revision),
                "revision {revision} writes {:?} twice",
                kv.key
            );
            if let Some(shown) = &event.prev_kv {
                ensure!(
                    Some(shown) == before.as_ref(),
                    "revision {revision} shows the previous {shown:?}, not {before:?}"
                );
            }
            if let Some(keys) = before.as_ref().and_then(|kv| self.attached.get_mut(&kv.lease)) {
                keys.remove(&kv.key);
            }
            let state = match event.r#type() {
                EventType::Delete => {
                    ensure!(
                        before.is_some(),
                        "revision {revision} deletes {:?}, which is not there",
                        kv.key
                    );
                    None
                }
                EventType::Put => {
                    let (created, version) =
                        before.map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
                    ensure!(
                        (kv.create_revision, kv.version) == (created, version),
                        "revision {revision}: {kv:?} should be created at {created}, version {version}"
                    );
                    if kv.lease != 0 {
                        self.attached.entry(kv.lease).or_default().insert(kv.key.clone());
                    }
                    Some(kv.clone())
                }
            };
            self.keys.entry(kv.key.clone()).or_default().push((revision, state));
        }
        self.log.push(events.to_vec());
        Ok(())
    }
}

/// Whether a range holds a key. The end `\0` means: to the last key.
pub(super) fn in_range(name: &[u8], key: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        [] => name == key,
        [0] => name >= key,
        end => name >= key && name < end,
    }
}
