//! Checks a history against the committed sequence: pure functions, nothing is asked of a server here.
//!
//! The *witness* is the committed sequence, read back through a watch when all is quiet. With it, linearizability needs no
//! search: every answer carries the revision it was made at, so each has its place in the sequence.
//!
//! ```text
//! revision    2        3         4          5
//! written by  put a ✓  del b ?   pair ✓     lease 7        ✓ acknowledged here   ? no answer, found here
//! known from  10 ms    25 ms     25 ms      90 ms          the first time that anybody was shown this revision or a later one
//! ```
//!
//! - Every acknowledged write stands at its revision, with its value; nothing else stands anywhere, but writes without an
//!   answer, once each, and the ends of leases.
//! - No write was known before it was sent. No linearizable answer is older than what anybody knew when it was asked for.
//! - What an answer shows is what the model holds at the answer's revision.
//! - Serializable reads of one client on one process never go back.
//! - Watches (`watch`) and leases (`lease`) have files of their own.

mod lease;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use super::history::{Action, History, Lease, Operation, Outcome};
pub use store::Store;

/// Checks after which a write without an answer is no longer expected: its request cannot be under way any more.
const UNKNOWN_CHECKS_MAX: u32 = 3;

/// What was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Operations of the histories.
    pub operations: u64,
    /// Acknowledged writes, all found.
    pub acknowledged: u64,
    /// Writes without an answer that were found.
    pub unknown_found: u64,
    /// Linearizable reads, and writes that found nothing to do.
    pub linearizable_reads: u64,
    /// Serializable reads.
    pub serializable_reads: u64,
    /// Events that watches delivered.
    pub events: u64,
    /// Messages of watches that only said how far they are.
    pub bookmarks: u64,
    /// Leases that ran out.
    pub leases_expired: u64,
    /// Leases that were revoked.
    pub leases_revoked: u64,
    /// Leases that ended early where that is tolerated.
    pub leases_cut_short: u64,
    /// The last revision.
    pub revision: i64,
}

/// What is known from the histories so far. One history after the other is checked; each starts when the one before has ended.
#[derive(Debug, Default)]
pub struct Checker {
    store: Store,
    /// Writes without an answer, with the checks they have lived through.
    unknown: Vec<(u32, Operation)>,
    leases: BTreeMap<i64, Lease>,
    /// The last compaction: below it previous values may be missing in events.
    compacted: i64,
    /// Whether a deposed leader may end leases early.
    is_tolerant: bool,
    summary: Summary,
}

impl Checker {
    /// Starts with an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts leases that ended early across a change of leaders, instead of failing: real etcd has that fault.
    pub fn tolerate_deposed_leaders(&mut self) {
        self.is_tolerant = true;
    }

    /// The last revision that was read back.
    pub fn revision(&self) -> i64 {
        self.store.revision()
    }

    /// What was checked so far.
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Takes note that the history up to a revision was compacted.
    pub fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// Checks a history; `witness` has all events since the last check, revision by revision.
    pub fn check(&mut self, history: History, witness: &[(i64, Vec<Event>)]) -> Result<()> {
        let observed = Observed::of(&history);
        let base = self.revision();
        let mut acknowledged = BTreeMap::new();
        for operation in &history.operations {
            self.summary.operations += 1;
            match &operation.outcome {
                Outcome::Unknown if operation.action.is_write() => {
                    self.unknown.push((0, operation.clone()));
                }
                Outcome::Done { revision, is_written: true, .. } => {
                    ensure!(
                        *revision > base,
                        "acknowledged at revision {revision}, which was read back before: {operation:?}"
                    );
                    let other = acknowledged.insert(*revision, operation);
                    ensure!(
                        other.is_none(),
                        "two writes acknowledged at revision {revision}: {operation:?} and {other:?}"
                    );
                }
                Outcome::Unknown | Outcome::Done { .. } | Outcome::Refused(_) => {}
            }
        }
        self.learn_leases(history.leases);
        for (revision, events) in witness {
            self.account_for(*revision, events, acknowledged.remove(revision), &observed)
                .with_context(|| format!("revision {revision}"))?;
        }
        if let Some((revision, operation)) = acknowledged.first_key_value() {
            bail!(
                "lost: acknowledged at revision {revision}, but the history ends at {}: {operation:?}",
                self.revision()
            );
        }
        self.check_answers(&history.operations, &observed)?;
        check_serializable(&history.operations, &history.starts)?;
        for watch in &history.watches {
            let counts = watch::check(watch, &self.store, self.compacted).with_context(|| {
                format!(
                    "watch on member {} of {:?}..{:?} from revision {}",
                    watch.member, watch.key, watch.range_end, watch.start
                )
            })?;
            self.summary.events += counts.events;
            self.summary.bookmarks += counts.bookmarks;
        }
        for (checks, _) in &mut self.unknown {
            *checks += 1;
        }
        self.unknown.retain(|(checks, _)| *checks < UNKNOWN_CHECKS_MAX);
        self.summary.revision = self.revision();
        Ok(())
    }

    /// Finds who wrote a revision, and takes it into the model.
    fn account_for(
        &mut self,
        revision: i64,
        events: &[Event],
        acknowledged: Option<&Operation>,
        observed: &Observed,
    ) -> Result<()> {
        let known = observed.known_since(revision);
        let writer = match acknowledged {
            Some(operation) => {
                ensure!(
                    self.matches(&operation.action, events),
                    "acknowledged: {operation:?}; found: {events:?}"
                );
                self.summary.acknowledged += 1;
                Some(operation.clone())
            }
            None => self.take_unknown(events, known),
        };
        if let Some(writer) = writer {
            ensure!(
                known.is_none_or(|known| writer.invoked <= known),
                "was known at {known:?}, before it was sent: {writer:?}"
            );
            if let Outcome::Done { found, .. } = &writer.outcome {
                let before = self.state(&writer.action, revision - 1);
                ensure!(*found == before, "{writer:?} should have found {before:?}");
            }
        } else {
            self.end_lease(events, known, observed)?;
        }
        self.store.append(revision, events)
    }

    /// Takes the write without an answer that made these events.
    fn take_unknown(&mut self, events: &[Event], known: Option<Duration>) -> Option<Operation> {
        let is_writer = |operation: &Operation| {
            known.is_none_or(|known| operation.invoked <= known)
                && self.matches(&operation.action, events)
        };
        let place = self.unknown.iter().position(|(_, operation)| is_writer(operation))?;
        self.summary.unknown_found += 1;
        Some(self.unknown.swap_remove(place).1)
    }

    /// Whether an action makes these events, as the next revision.
    fn matches(&self, action: &Action, events: &[Event]) -> bool {
        let is_put = |event: &Event, key: &Bytes, value: &Bytes, lease: i64| {
            event.r#type() == EventType::Put
                && event
                    .kv
                    .as_ref()
                    .is_some_and(|kv| kv.key == *key && kv.value == *value && kv.lease == lease)
        };
        match (action, events) {
            (Action::Put { key, value, lease }, [event]) => is_put(event, key, value, *lease),
            (Action::PutPair([a, b]), [first, second]) => {
                is_put(first, &a.0, &a.1, 0) && is_put(second, &b.0, &b.1, 0)
            }
            (Action::CompareAndPut { key, expected, value }, [event]) => {
                let last = self.store.get(key, self.revision()).map_or(0, |kv| kv.mod_revision);
                last == *expected && is_put(event, key, value, 0)
            }
            (Action::Delete { key }, [event]) => {
                event.r#type() == EventType::Delete
                    && event.kv.as_ref().is_some_and(|kv| kv.key == *key)
            }
            (_, _) => false,
        }
    }

    /// What the model holds of the keys of an action.
    fn state(&self, action: &Action, revision: i64) -> Vec<KeyValue> {
        let keys: Vec<(&[u8], &[u8])> = match action {
            Action::Put { key, .. }
            | Action::CompareAndPut { key, .. }
            | Action::Delete { key } => vec![(key, b"")],
            Action::PutPair([a, b]) => vec![(&a.0, b""), (&b.0, b"")],
            Action::Read { key, range_end, .. } => vec![(key, range_end)],
        };
        let found = keys.iter().flat_map(|(key, end)| self.store.range(key, end, revision));
        found.cloned().collect()
    }

    /// Checks what answers show, and that linearizable ones are fresh.
    fn check_answers(&mut self, operations: &[Operation], observed: &Observed) -> Result<()> {
        for operation in operations {
            let Outcome::Done { revision, is_written, found, .. } = &operation.outcome else {
                continue;
            };
            ensure!(
                *revision <= self.revision(),
                "an answer at revision {revision}, but the history ends at {}: {operation:?}",
                self.revision()
            );
            let is_serializable =
                matches!(operation.action, Action::Read { is_serializable: true, .. });
            if !is_serializable {
                let floor = observed.known_at(operation.invoked);
                ensure!(
                    *revision >= floor,
                    "stale: answered at revision {revision}, when revision {floor} was known before it was asked: {operation:?}"
                );
            }
            if *is_written {
                // Compared with the model when its revision was accounted for.
                continue;
            }
            let state = self.state(&operation.action, *revision);
            ensure!(*found == state, "wrong: {operation:?} should have found {state:?}");
            match &operation.action {
                Action::CompareAndPut { expected, .. } => {
                    let last = state.first().map_or(0, |kv| kv.mod_revision);
                    ensure!(last != *expected, "the comparison holds: {operation:?}");
                }
                Action::Delete { .. } => {
                    ensure!(state.is_empty(), "should have deleted {state:?}: {operation:?}");
                }
                Action::Put { .. } | Action::PutPair(_) => {
                    bail!("a put that wrote nothing: {operation:?}")
                }
                Action::Read { .. } => {}
            }
            if is_serializable {
                self.summary.serializable_reads += 1;
            } else {
                self.summary.linearizable_reads += 1;
            }
        }
        Ok(())
    }
}

/// What a client's reads without consensus show never gets older, as long as the member's process lives.
fn check_serializable(operations: &[Operation], starts: &[(usize, Duration)]) -> Result<()> {
    let mut last: BTreeMap<(usize, usize), (Duration, i64)> = BTreeMap::new();
    for operation in operations {
        let Outcome::Done { revision, .. } = operation.outcome else { continue };
        let place = (operation.client, operation.member);
        if matches!(operation.action, Action::Read { is_serializable: true, .. })
            && let Some((returned, before)) = last.get(&place)
        {
            let is_restarted = starts.iter().any(|(member, at)| {
                *member == operation.member && (*returned..=operation.returned).contains(at)
            });
            ensure!(
                revision >= *before || is_restarted,
                "went back from revision {before} on one member: {operation:?}"
            );
        }
        last.insert(place, (operation.returned, revision));
    }
    Ok(())
}

/// When which revision was known to anybody.
#[derive(Debug)]
struct Observed {
    /// By revision: the earliest time that this revision or a later one was shown.
    by_revision: Vec<(i64, Duration)>,
    /// By time: the highest revision shown until then.
    by_time: Vec<(Duration, i64)>,
    /// By time: the highest raft term shown until then.
    terms: Vec<(Duration, u64)>,
    /// By raft term: when the last write was sent that was acknowledged in it.
    last_writes: BTreeMap<u64, Duration>,
}

impl Observed {
    fn of(history: &History) -> Self {
        let answers = history.operations.iter().filter_map(|operation| match operation.outcome {
            Outcome::Done { revision, .. } => Some((revision, operation.returned)),
            Outcome::Unknown | Outcome::Refused(_) => None,
        });
        let batches = history.watches.iter().flat_map(|watch| &watch.batches);
        let shown = batches.map(|batch| (batch.revision, batch.received));
        let mut by_revision: Vec<(i64, Duration)> = answers.chain(shown).collect();
        let mut by_time: Vec<(Duration, i64)> =
            by_revision.iter().map(|(revision, time)| (*time, *revision)).collect();
        by_revision.sort_unstable();
        let mut earliest = Duration::MAX;
        for (_, time) in by_revision.iter_mut().rev() {
            earliest = earliest.min(*time);
            *time = earliest;
        }
        by_time.sort_unstable();
        let mut highest = 0;
        for (_, revision) in &mut by_time {
            highest = highest.max(*revision);
            *revision = highest;
        }
        let mut terms: Vec<(Duration, u64)> = history
            .watches
            .iter()
            .flat_map(|watch| &watch.batches)
            .map(|batch| (batch.received, batch.term))
            .collect();
        let mut last_writes: BTreeMap<u64, Duration> = BTreeMap::new();
        for operation in &history.operations {
            let Outcome::Done { term, is_written, .. } = operation.outcome else { continue };
            terms.push((operation.returned, term));
            if is_written {
                let last = last_writes.entry(term).or_default();
                *last = operation.invoked.max(*last);
            }
        }
        terms.sort_unstable();
        let mut highest = 0;
        for (_, term) in &mut terms {
            highest = highest.max(*term);
            *term = highest;
        }
        Self { by_revision, by_time, terms, last_writes }
    }

    /// The first time that anybody was shown this revision or a later one.
    fn known_since(&self, revision: i64) -> Option<Duration> {
        let place = self.by_revision.partition_point(|(at, _)| *at < revision);
        self.by_revision.get(place).map(|(_, time)| *time)
    }

    /// The highest revision shown to anybody before a time.
    fn known_at(&self, time: Duration) -> i64 {
        let place = self.by_time.partition_point(|(at, _)| *at < time);
        place
            .checked_sub(1)
            .and_then(|last| self.by_time.get(last))
            .map_or(0, |(_, revision)| *revision)
    }

    /// The highest raft term shown to anybody up to a time.
    fn term_at(&self, time: Duration) -> u64 {
        let place = self.terms.partition_point(|(at, _)| *at <= time);
        place.checked_sub(1).and_then(|last| self.terms.get(last)).map_or(0, |(_, term)| *term)
    }

    /// A time at which no leader of a later term was elected yet: a quorum accepted a write in this term after it.
    fn reign_of(&self, term: u64) -> Duration {
        self.last_writes.range(..=term).map(|(_, sent)| *sent).max().unwrap_or_default()
    }
}
