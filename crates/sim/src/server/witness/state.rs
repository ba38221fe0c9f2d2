//! What members and clients see, compared with the model.

use lease::Lessor;
use mvcc::{EventBatch, Reader};
use prost::Message as _;
use proto::etcdserverpb::{RangeRequest, RangeResponse, WatchResponse};
use proto::mvccpb::{Event, KeyValue, event::EventType};

use super::Witness;
use crate::model::ModelEvent;
use crate::violation::{Violation, broken};

/// What a watcher wants.
#[derive(Debug, Clone)]
pub(in crate::server) struct Wants {
    pub(in crate::server) key: Vec<u8>,
    pub(in crate::server) end: Vec<u8>,
    pub(in crate::server) has_puts: bool,
    pub(in crate::server) has_deletes: bool,
    pub(in crate::server) has_previous: bool,
}

impl Wants {
    fn takes(&self, event: &ModelEvent) -> bool {
        let key = &event.pair.key[..];
        let is_inside = if self.end.is_empty() {
            key == self.key
        } else {
            key >= &self.key[..] && (self.end == [0] || key < &self.end[..])
        };
        is_inside && if event.is_delete { self.has_deletes } else { self.has_puts }
    }
}

impl Witness {
    /// The state that a member found on its disk, or was sent, stands for the entry that it says.
    pub(in crate::server) fn holds(
        &self,
        node: u64,
        index: u64,
        reader: &Reader,
        lessor: &Lessor,
    ) -> Result<(), Violation> {
        let Some(logged) = self.logged(index) else {
            let last = self.last();
            let detail = format!("n{node} holds entry {index}, the last one applied is {last}");
            return broken("no index ahead of the data", detail);
        };
        let revision = reader.current_revision();
        if revision != logged.revision {
            let detail = format!(
                "n{node} is at revision {revision} after entry {index}, it is {}",
                logged.revision
            );
            return broken("the index stands for the data", detail);
        }
        let compacted = reader.compact_revision();
        if compacted != logged.compacted {
            let detail = format!(
                "n{node} is compacted at {compacted} after entry {index}, it is {}",
                logged.compacted
            );
            return broken("the index stands for the data", detail);
        }
        let mut leases: Vec<i64> = lessor.leases().into_iter().map(|id| id.0).collect();
        leases.sort_unstable();
        let expected: Vec<i64> = self.leases.at(index).into_iter().collect();
        if leases != expected {
            let detail =
                format!("n{node} has leases {leases:?} after entry {index}, not {expected:?}");
            return broken("equal leases", detail);
        }
        self.hashes(node, reader)
    }

    /// A member's hash is the model's.
    pub(in crate::server) fn hashes(&self, node: u64, reader: &Reader) -> Result<(), Violation> {
        let hashed = match reader.hash_kv(0) {
            Ok(hash) => hash.hashed,
            Err(error) => return broken("everything can be read", format!("n{node}: {error}")),
        };
        if self.model.range(&[0], &[0], hashed.revision).is_empty() {
            // etcd's hash of an empty store depends on how far a compaction has come.
            return Ok(());
        }
        let expected = self.model.hash_at(hashed.revision, hashed.compact_revision);
        if hashed.hash != expected {
            let differs = self.first_difference(reader, hashed.compact_revision, hashed.revision);
            let detail = format!("n{node} hashes {hashed:?}, the model {expected}: {differs}");
            return broken("equal hashes", detail);
        }
        Ok(())
    }

    /// The first revision at which a member reads something else, in words.
    fn first_difference(&self, reader: &Reader, from: i64, to: i64) -> String {
        for revision in from.max(1)..=to {
            let everything = RangeRequest {
                key: vec![0].into(),
                range_end: vec![0].into(),
                revision,
                ..RangeRequest::default()
            };
            let expected = self.model.range(&[0], &[0], revision);
            let found = reader.range(&everything).map(|range| range.into_response());
            match found {
                Ok(Ok(response)) if response.kvs == expected => {}
                Ok(Ok(response)) => {
                    let differs = |(found, expected): &(&KeyValue, &KeyValue)| found != expected;
                    let first = response.kvs.iter().zip(&expected).find(differs);
                    return format!(
                        "at {revision}, {} keys of {}: {first:?}",
                        response.kvs.len(),
                        expected.len()
                    );
                }
                Ok(Err(error)) => return error.to_string(),
                Err(error) => return error.to_string(),
            }
        }
        "all is read alike".to_owned()
    }

    /// Which keys hang on which lease; only where a member has applied everything.
    pub(in crate::server) fn attachments(
        &self,
        node: u64,
        lessor: &Lessor,
    ) -> Result<(), Violation> {
        for (&id, keys) in self.model.leases() {
            let found: Vec<Vec<u8>> =
                lessor.keys(lease::LeaseId(id)).map(|key| key.to_vec()).collect();
            if !found.iter().eq(keys.iter()) {
                let detail = format!("n{node} has {found:?} on lease {id}, not {keys:?}");
                return broken("equal leases", detail);
            }
        }
        Ok(())
    }

    /// The events that a member gives its watchers.
    pub(in crate::server) fn publishes(
        &self,
        node: u64,
        batch: &EventBatch,
    ) -> Result<(), Violation> {
        let mut found = Vec::new();
        for event in &batch.events {
            match WatchResponse::decode(event.encoded().clone()) {
                Ok(response) => found.extend(response.events),
                Err(error) => return broken("events can be read", error.to_string()),
            }
        }
        let expected: Vec<Event> =
            self.model.events(batch.revision).iter().map(|event| encode(event, false)).collect();
        if found != expected {
            let detail = format!("n{node} at {}: {found:?}, expected {expected:?}", batch.revision);
            return broken("events are the model's", detail);
        }
        Ok(())
    }

    /// A client reads. `floor`: the newest revision that anybody knew of when the read began, for one that is linearizable.
    pub(in crate::server) fn reads(
        &self,
        node: u64,
        request: &RangeRequest,
        response: &RangeResponse,
        floor: i64,
    ) -> Result<(), Violation> {
        let at = response.header.as_ref().map_or(0, |header| header.revision);
        if at < floor {
            let detail = format!("n{node} reads at {at}, {floor} was known before the read began");
            return broken("linearizable reads", detail);
        }
        if at > self.revision() {
            let newest = self.revision();
            let detail = format!("n{node} reads at {at}, the newest revision is {newest}");
            return broken("reads equal the model", detail);
        }
        let revision = if request.revision > 0 { request.revision } else { at };
        let expected = self.model.range(&request.key, &request.range_end, revision);
        if response.kvs != expected || response.count != expected.len() as i64 {
            let detail =
                format!("n{node} at {revision}: {:?}, the model has {expected:?}", response.kvs);
            return broken("reads equal the model", detail);
        }
        Ok(())
    }

    /// A watcher that has had everything before `next` is given events. Returns what it needs next.
    pub(in crate::server) fn watches(
        &self,
        wants: &Wants,
        next: i64,
        header_revision: i64,
        events: &[Event],
    ) -> Result<i64, Violation> {
        let revision_of = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let last = events.last().map_or(0, revision_of);
        if last > self.revision() || last > header_revision {
            let detail = format!("an event of {last} under a header of {header_revision}");
            return broken("watch: nothing from the future", detail);
        }
        let mut given = events.iter();
        for revision in next..=last {
            for event in self.model.events(revision).iter().filter(|event| wants.takes(event)) {
                let found = given.next();
                if !found.is_some_and(|found| self.is_same(found, event, wants)) {
                    let detail = format!(
                        "needs {revision} next ({event:?}, previous: {}), got {found:?} from {next}",
                        wants.has_previous
                    );
                    return broken("watch: every event, once and in order", detail);
                }
            }
        }
        match given.next() {
            None => Ok(last.max(next - 1) + 1),
            Some(event) => {
                let detail = format!("needs {next} next, got {event:?} as well");
                broken("watch: every event, once and in order", detail)
            }
        }
    }

    /// A watcher is told that it has everything up to a revision.
    pub(in crate::server) fn progresses(
        &self,
        wants: &Wants,
        next: i64,
        revision: i64,
    ) -> Result<i64, Violation> {
        if revision > self.revision() {
            return broken("watch: nothing from the future", format!("progress at {revision}"));
        }
        for missed in next..=revision {
            if let Some(event) = self.model.events(missed).iter().find(|event| wants.takes(event)) {
                let detail = format!("progress at {revision}, and {event:?} was never given");
                return broken("watch: honest progress", detail);
            }
        }
        Ok(next.max(revision + 1))
    }

    fn is_same(&self, found: &Event, event: &ModelEvent, wants: &Wants) -> bool {
        let expected = encode(event, wants.has_previous);
        if *found == expected {
            return true;
        }
        // The pair before may be compacted by now.
        let is_past = event.pair.mod_revision <= self.model.compacted();
        let may_lack = found.prev_kv.is_none() && is_past;
        may_lack && Event { prev_kv: None, ..expected } == *found
    }
}

fn encode(event: &ModelEvent, has_previous: bool) -> Event {
    let ModelEvent { pair, is_delete, previous } = event;
    let kind = if *is_delete { EventType::Delete } else { EventType::Put };
    let previous: Option<KeyValue> = previous.clone().filter(|_| has_previous);
    Event { r#type: kind.into(), kv: Some(pair.clone()), prev_kv: previous }
}
