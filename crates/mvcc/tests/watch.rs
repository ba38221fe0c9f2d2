//! Random writes, compactions, watchers and slow readers: every watcher gets each of its events once, in order, all of one
//! revision in one message, and a progress message only when everything up to it was given.

mod common;

use std::{collections::BTreeMap, collections::BTreeSet, time::Duration};

use bytes::Bytes;
use common::{Fixture, Model, cases};
use mvcc::{
    KeyRange,
    watch::{Body, Hub, Limits, Message, StreamId, WatchSpec},
};
use proptest::prelude::*;
use prost::Message as _;
use proto::{
    etcdserverpb::{
        DeleteRangeRequest, PutRequest, RequestOp, ResponseHeader, TxnRequest, WatchCreateRequest,
        WatchResponse, request_op::Request,
    },
    mvccpb::{Event, KeyValue},
};

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Delete(u8, u8),
    Txn(Vec<u8>),
    /// The watcher's stream, key, end (0: single, 1: open), start (distance below the present), options.
    Watch {
        stream: u8,
        key: u8,
        end: u8,
        start: Option<i64>,
        prev_kv: bool,
        filters: u8,
        fragment: bool,
    },
    Cancel(u8),
    Poll(u8, u8),
    CatchUp(u8),
    Compact(u8),
    CompactFurther(u8),
    Progress(u8),
    Tick,
    Resync,
    CloseAndReopen(u8),
    /// Batches wait to be published, as when the hub lives on another thread.
    Hold(u8),
}

const STREAMS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let watch = (
        any::<u8>(),
        0u8..6,
        0u8..8,
        prop::option::of(-3i64..30),
        any::<bool>(),
        0u8..12,
        any::<bool>(),
    );
    prop_oneof![
        12 => (0u8..6).prop_map(Step::Put),
        3 => (0u8..6, 0u8..8).prop_map(|(key, end)| Step::Delete(key, end)),
        3 => prop::collection::vec(0u8..12, 1..5).prop_map(Step::Txn),
        5 => watch.prop_map(|(stream, key, end, start, prev_kv, filters, fragment)| {
            Step::Watch { stream, key, end, start, prev_kv, filters, fragment }
        }),
        1 => any::<u8>().prop_map(Step::Cancel),
        6 => (any::<u8>(), 1u8..9).prop_map(|(stream, count)| Step::Poll(stream, count)),
        4 => (1u8..20).prop_map(Step::CatchUp),
        1 => (0u8..20).prop_map(Step::Compact),
        2 => (1u8..9).prop_map(Step::CompactFurther),
        1 => any::<u8>().prop_map(Step::Progress),
        1 => Just(Step::Tick),
        1 => Just(Step::Resync),
        1 => any::<u8>().prop_map(Step::CloseAndReopen),
        2 => (1u8..5).prop_map(Step::Hold),
    ]
}

fn key(number: u8) -> Bytes {
    Bytes::from(vec![b'a' + number])
}

fn range_end(number: u8) -> Bytes {
    match number {
        0 | 6 => Bytes::new(),
        1 | 7 => Bytes::from_static(b"\0"),
        number => key(number),
    }
}

/// What a watcher asked for, and what it got so far.
struct Watcher {
    request: WatchCreateRequest,
    from: i64,
    got: Vec<Event>,
    last_revision: i64,
    /// The events of a response that is not over yet.
    is_in_fragment: bool,
    ended: Option<i64>,
    /// The client has been told that it exists.
    is_created: bool,
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let kv = event.kv.as_ref().expect("an event has a pair");
        KeyRange::new(&self.request.key, &self.request.range_end).contains(&kv.key)
            && kv.mod_revision >= self.from
            && !self.request.filters.contains(&event.r#type)
    }
}

fn event(model: &Model, change: &common::Change) -> Event {
    let revision = change.revision.main;
    let (r#type, kv) = match &change.pair {
        Some(pair) => (0, pair.clone()),
        None => {
            (1, KeyValue { key: change.key.clone(), mod_revision: revision, ..Default::default() })
        }
    };
    let is_creation = r#type == 0 && kv.create_revision == kv.mod_revision;
    let prev_kv = if is_creation { None } else { model.state(revision - 1).remove(&change.key) };
    Event { r#type, kv: Some(kv), prev_kv }
}

struct Run {
    fixture: Fixture,
    model: Model,
    hub: Hub,
    held: Vec<std::sync::Arc<mvcc::EventBatch>>,
    hold: usize,
    streams: Vec<StreamId>,
    watchers: Vec<BTreeMap<i64, Watcher>>,
    now: Duration,
}

impl Run {
    fn publish(&mut self, changes: mvcc::Changes) {
        self.held.extend(changes.batch);
        if self.hold > 0 {
            self.hold -= 1;
            return;
        }
        for batch in self.held.drain(..) {
            self.hub.publish(&batch, &self.fixture.reader).expect("rows are sound");
        }
    }

    fn txn(&mut self, request: &TxnRequest) {
        if mvcc::check::txn(request, 128, mvcc::Rules::default()).is_err() {
            return;
        }
        let Fixture { store, writer, .. } = &mut self.fixture;
        let (_, changes) = store.txn(writer, request, &|_| true).expect("nothing to refuse");
        self.model.txn(request).expect("nothing to refuse");
        self.publish(changes);
    }

    fn poll(&mut self, place: usize) -> Result<bool, TestCaseError> {
        let Some(message) = self.hub.poll(self.streams[place]) else { return Ok(false) };
        let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 0, raft_term: 3 };
        for response in message.encode(&header, 150) {
            let mut bytes = Vec::new();
            response.write_to(&mut bytes);
            let response = WatchResponse::decode(&*bytes).expect("a response");
            self.receive(place, &message, &response)?;
        }
        Ok(true)
    }

    fn receive(
        &mut self,
        place: usize,
        message: &Message,
        response: &WatchResponse,
    ) -> Result<(), TestCaseError> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        prop_assert_eq!((response.watch_id, revision), (message.watch_id, message.revision));
        let watchers = &mut self.watchers[place];
        match &message.body {
            Body::Created => {
                // Unknown: canceled since.
                if let Some(watcher) = watchers.get_mut(&message.watch_id) {
                    watcher.is_created = true;
                }
            }
            Body::Refused { .. } | Body::Canceled => {}
            Body::Compacted { compact_revision } => {
                if let Some(watcher) = watchers.get_mut(&message.watch_id) {
                    watcher.ended = Some(*compact_revision);
                }
            }
            Body::Progress => {
                let told: Vec<i64> = if message.watch_id == -1 {
                    watchers.keys().copied().collect()
                } else {
                    vec![message.watch_id]
                };
                for id in told {
                    let Some(watcher) = watchers.get(&id) else { continue };
                    if watcher.ended.is_some() || !watcher.is_created {
                        continue;
                    }
                    let due =
                        self.model.changes.iter().filter(|change| change.revision.main <= revision);
                    let due =
                        due.filter(|change| watcher.wants(&event(&self.model, change))).count();
                    prop_assert_eq!(watcher.got.len(), due, "progress {} of {}", revision, id);
                }
            }
            Body::Events(_) => {
                let Some(watcher) = watchers.get_mut(&message.watch_id) else { return Ok(()) };
                let first = response.events[0].kv.as_ref().expect("a pair").mod_revision;
                // A revision is not split over messages, but over the fragments of one.
                prop_assert!(watcher.is_in_fragment || first > watcher.last_revision);
                watcher.last_revision = response
                    .events
                    .last()
                    .expect("not empty")
                    .kv
                    .as_ref()
                    .expect("a pair")
                    .mod_revision;
                prop_assert!(watcher.last_revision <= revision);
                watcher.is_in_fragment = response.fragment;
                watcher.got.extend(response.events.iter().cloned());
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let current = self.fixture.reader.current_revision();
        match step {
            Step::Put(number) => {
                let request = PutRequest {
                    key: key(number),
                    value: format!("{current}").into(),
                    ..Default::default()
                };
                let (_, changes) =
                    self.fixture.put(&request, &BTreeSet::new()).expect("nothing to refuse");
                self.model.put(&request).expect("nothing to refuse");
                self.publish(changes);
            }
            Step::Delete(number, end) => {
                let request = DeleteRangeRequest {
                    key: key(number),
                    range_end: range_end(end),
                    prev_kv: false,
                };
                let Fixture { store, writer, .. } = &mut self.fixture;
                let (_, changes) = store.delete_range(writer, &request).expect("rows are sound");
                self.model.delete_range(&request);
                self.publish(changes);
            }
            Step::Txn(numbers) => {
                let ops = numbers.iter().map(|number| {
                    let key = key(number % 6);
                    RequestOp {
                        request: Some(if *number < 6 {
                            Request::RequestPut(PutRequest {
                                key,
                                value: "txn".into(),
                                ..Default::default()
                            })
                        } else {
                            Request::RequestDeleteRange(DeleteRangeRequest {
                                key,
                                ..Default::default()
                            })
                        }),
                    }
                });
                self.txn(&TxnRequest { success: ops.collect(), ..Default::default() });
            }
            Step::Watch { stream, key: number, end, start, prev_kv, filters, fragment } => {
                let place = usize::from(stream) % STREAMS;
                let start_revision = start.map_or(0, |distance| (current - distance).max(1));
                let filters = match filters {
                    0 => vec![0],
                    1 => vec![1],
                    _ => vec![],
                };
                let request = WatchCreateRequest {
                    key: key(number),
                    range_end: range_end(end),
                    start_revision,
                    prev_kv,
                    filters,
                    fragment,
                    progress_notify: fragment,
                    ..Default::default()
                };
                let id = self.watchers[place].keys().max().map_or(0, |id| id + 1);
                let spec = WatchSpec::new(&request).expect("a sound request");
                let is_refused = spec.range().is_empty();
                self.hub.create(self.streams[place], &spec, current);
                if !is_refused {
                    let from = if start_revision == 0 { current + 1 } else { start_revision };
                    let watcher = Watcher {
                        request,
                        from,
                        got: vec![],
                        last_revision: 0,
                        is_in_fragment: false,
                        ended: None,
                        is_created: false,
                    };
                    prop_assert!(self.watchers[place].insert(id, watcher).is_none());
                }
            }
            Step::Cancel(number) => {
                let place = usize::from(number) % STREAMS;
                // The newest one would give its number away for another watcher in this test.
                if self.watchers[place].len() > 1
                    && let Some(id) = self.watchers[place].keys().next().copied()
                {
                    self.hub.cancel(self.streams[place], id, current);
                    let watcher = self.watchers[place].remove(&id).expect("it is there");
                    self.check(&watcher, false)?;
                }
            }
            Step::Poll(stream, count) => {
                for _ in 0..count {
                    self.poll(usize::from(stream) % STREAMS)?;
                }
            }
            Step::CatchUp(rows) => {
                self.hub.catch_up(&self.fixture.reader, usize::from(rows)).expect("rows are sound");
            }
            Step::Compact(distance) => {
                let revision = current - i64::from(distance);
                if let Ok(compaction) =
                    self.fixture.store.compact(&mut self.fixture.writer, revision)
                {
                    self.model.compact(revision).expect("as the store");
                    self.fixture.compactions.push(compaction);
                }
            }
            Step::CompactFurther(limit) => self.fixture.step_compaction(usize::from(limit)),
            Step::Progress(stream) => {
                let revision = self.fixture.reader.current_revision();
                self.hub.request_progress(self.streams[usize::from(stream) % STREAMS], revision);
            }
            Step::Tick => {
                self.now += Duration::from_secs(1);
                self.hub.tick(self.now);
            }
            Step::Resync => self.hub.resync(current),
            Step::CloseAndReopen(stream) => {
                let place = usize::from(stream) % STREAMS;
                self.hub.close_stream(self.streams[place]);
                self.streams[place] = self.hub.open_stream(self.now, Duration::from_secs(1));
                for watcher in std::mem::take(&mut self.watchers[place]).into_values() {
                    self.check(&watcher, false)?;
                }
            }
            Step::Hold(count) => self.hold = usize::from(count),
        }
        Ok(())
    }

    /// Compares what a watcher got with what it should have got: all of it, or the beginning.
    fn check(&self, watcher: &Watcher, is_all: bool) -> Result<(), TestCaseError> {
        let due = self.model.changes.iter().map(|change| event(&self.model, change));
        let due: Vec<Event> = due.filter(|event| watcher.wants(event)).collect();
        prop_assert!(watcher.got.len() <= due.len());
        for (got, due) in watcher.got.iter().zip(&due) {
            prop_assert_eq!((got.r#type, &got.kv), (due.r#type, &due.kv));
            if !watcher.request.prev_kv {
                prop_assert_eq!(&got.prev_kv, &None);
            } else if got.prev_kv != due.prev_kv {
                // Left out when it was compacted by the time it was looked up.
                let revision = due.kv.as_ref().expect("a pair").mod_revision;
                prop_assert!(got.prev_kv.is_none() && revision - 1 < self.model.compacted);
            }
        }
        match (watcher.ended, due.get(watcher.got.len())) {
            // What it needed next was compacted then.
            (Some(compacted), Some(next)) => {
                let last = watcher
                    .got
                    .last()
                    .map_or(0, |event| event.kv.as_ref().expect("a pair").mod_revision);
                prop_assert!(last < next.kv.as_ref().expect("a pair").mod_revision);
                prop_assert!(watcher.from < compacted);
            }
            (Some(compacted), None) => prop_assert!(watcher.from < compacted),
            (None, missing) => prop_assert!(!is_all || missing.is_none(), "missing {:?}", missing),
        }
        Ok(())
    }
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    // Small bounds, so that queues overflow and windows end all the time.
    let limits = Limits {
        queue_messages: 3,
        queue_bytes: 400,
        message_revisions: 4,
        message_bytes: 300,
        watchers_per_round: 2,
    };
    let mut hub = Hub::new(1, limits);
    let streams =
        (0..STREAMS).map(|_| hub.open_stream(Duration::ZERO, Duration::from_secs(1))).collect();
    let mut run = Run {
        fixture: Fixture::new(),
        model: Model::default(),
        hub,
        held: vec![],
        hold: 0,
        streams,
        watchers: (0..STREAMS).map(|_| BTreeMap::new()).collect(),
        now: Duration::ZERO,
    };
    for step in steps {
        run.step(step)?;
    }
    run.hold = 0;
    run.publish(mvcc::Changes { revision: 0, batch: None });
    loop {
        let mut is_idle = !run.hub.catch_up(&run.fixture.reader, 7).expect("rows are sound");
        for place in 0..STREAMS {
            while run.poll(place)? {
                is_idle = false;
            }
        }
        if is_idle {
            break;
        }
    }
    prop_assert_eq!(run.hub.stats().lagging, 0);
    for watchers in &run.watchers {
        for watcher in watchers.values() {
            run.check(watcher, true)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(128), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_watcher_gets_its_events_once_and_in_order(steps in prop::collection::vec(step(), 1..150)) {
        run(steps)?;
    }
}
