//! What a watch promises: all events of its range from its first revision on, in order, once each, a revision never
//! split over messages; and a message without events says that everything up to its revision was delivered.
//!
//! A watch that is opened again at the revision after the last one seen is a watch of its own here: that it goes on
//! without a gap is the same rule.

use anyhow::{Result, ensure};
use proto::mvccpb::Event;

use super::store::{Store, in_range};
use crate::cluster::history::Watch;

/// What was delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Events.
    pub(super) events: u64,
    /// Messages without events.
    pub(super) bookmarks: u64,
}

/// Checks one watch against the model.
pub(super) fn check(watch: &Watch, store: &Store, compacted: i64) -> Result<Counts> {
    let mut counts = Counts::default();
    // All matching events below were delivered.
    let mut next = watch.start;
    let mut shown = 0;
    for batch in &watch.batches {
        ensure!(batch.revision >= shown, "revision {} after {shown}", batch.revision);
        shown = batch.revision;
        let last =
            batch.events.last().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision));
        let upto = last.unwrap_or(batch.revision);
        ensure!(upto <= store.revision(), "revision {upto} does not exist: {:?}", batch.events);
        ensure!(upto <= batch.revision, "an event of {upto} in a message of {}", batch.revision);
        let expected: Vec<&Event> = (next..=upto)
            .flat_map(|revision| store.events(revision))
            .filter(|event| is_wanted(watch, event))
            .collect();
        for (place, event) in batch.events.iter().enumerate() {
            ensure!(
                expected.get(place).is_some_and(|wanted| is_same(event, wanted, store, compacted)),
                "from revision {next}: delivered {event:?} instead of {:?}",
                expected.get(place)
            );
        }
        ensure!(
            batch.events.len() == expected.len(),
            "up to revision {upto}: not delivered, or torn apart: {:?}",
            expected.get(batch.events.len())
        );
        if last.is_none() {
            counts.bookmarks += 1;
        }
        counts.events += u64::try_from(batch.events.len()).unwrap_or(u64::MAX);
        next = next.max(upto + 1);
    }
    Ok(counts)
}

fn is_wanted(watch: &Watch, event: &Event) -> bool {
    event.kv.as_ref().is_some_and(|kv| in_range(&kv.key, &watch.key, &watch.range_end))
}

/// Compares an event with the witness's. The previous value is the model's; it may be missing where it was compacted.
fn is_same(event: &Event, wanted: &Event, store: &Store, compacted: i64) -> bool {
    let Some(kv) = &event.kv else { return false };
    let before = store.get(&kv.key, kv.mod_revision - 1);
    let is_previous_right = match &event.prev_kv {
        Some(shown) => Some(shown) == before,
        None => before.is_none() || kv.mod_revision - 1 <= compacted,
    };
    event.r#type == wanted.r#type && event.kv == wanted.kv && is_previous_right
}
