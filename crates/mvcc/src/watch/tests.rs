use std::{cell::Cell, time::Duration};

use backend::schema::{Revision, RowKey};
use bytes::Bytes;
use proto::etcdserverpb::WatchCreateRequest;

use super::*;
use crate::{StorageError, row::NewRow};

const MINUTE: Duration = Duration::from_secs(60);

/// A past without a store: rows by revision.
#[derive(Default)]
struct Past {
    rows: Vec<(RowKey, Bytes)>,
    compacted: i64,
    asked_for_previous: Cell<usize>,
}

impl History for Past {
    fn compact_revision(&self) -> i64 {
        self.compacted
    }

    fn rows(&self, from: i64, to: i64, each: &mut EachRow<'_>) -> Result<i64, StorageError> {
        for (key, value) in &self.rows {
            if (from..=to).contains(&key.revision.main)
                && key.revision.main >= self.compacted
                && each(*key, value)?.is_break()
            {
                break;
            }
        }
        Ok(self.compacted)
    }

    fn previous(&self, key: &[u8], revision: i64) -> Result<Option<Bytes>, StorageError> {
        self.asked_for_previous.set(self.asked_for_previous.get() + 1);
        let rows = self.rows.iter().rev().filter(|(row, _)| row.revision.main <= revision);
        let mut of_key = rows.filter(|(_, value)| crate::row::key_of(value) == Ok(key));
        Ok(of_key.next().filter(|(row, _)| !row.is_tombstone).map(|(_, value)| value.clone()))
    }
}

/// A hub with its past, and a short way to tell what a stream gets.
struct Bench {
    hub: Hub,
    past: Past,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Bench { hub: Hub::new(1, limits), past: Past::default() }
    }

    fn stream(&mut self) -> StreamId {
        self.hub.open_stream(Duration::ZERO, MINUTE)
    }

    fn create(&mut self, stream: StreamId, request: WatchCreateRequest) {
        let current = self.hub.current_revision();
        match WatchSpec::new(&request) {
            Ok(spec) => self.hub.create(stream, &spec, current),
            Err(refusal) => self.hub.refuse(stream, refusal, current),
        }
    }

    fn request_progress(&mut self, stream: StreamId) {
        self.hub.request_progress(stream, self.hub.current_revision());
    }

    /// Watches one key and takes the reply.
    fn watch(&mut self, stream: StreamId, key: &'static str) -> i64 {
        self.create(stream, WatchCreateRequest { key: key.into(), ..Default::default() });
        let message = self.hub.poll(stream).unwrap();
        assert_eq!(message.body, Body::Created);
        message.watch_id
    }

    /// Makes one revision: `+k` puts, `-k` deletes.
    fn write(&mut self, changes: &[&'static str]) {
        let revision = self.hub.current_revision() + 1;
        let mut events = Vec::new();
        for (sub, change) in (0i64..).zip(changes) {
            let (kind, key) = change.split_at(1);
            let at = Revision::new(revision, sub);
            let existed = self.past.previous(key.as_bytes(), revision).unwrap().is_some();
            let (event, row, row_key) = if kind == "+" {
                let value = format!("{key}{revision}");
                let create_revision = if existed { 1 } else { revision };
                let (event, row) = Event::put(&NewRow {
                    key: key.as_bytes(),
                    value: value.as_bytes(),
                    create_revision,
                    mod_revision: revision,
                    version: 1,
                    lease: 0,
                });
                (event, row, RowKey::put(at))
            } else {
                let (event, row) = Event::delete(key.as_bytes(), revision);
                (event, row, RowKey::tombstone(at))
            };
            self.past.rows.push((row_key, row));
            events.push(event);
        }
        self.past.asked_for_previous.set(0);
        self.hub.publish(&EventBatch { revision, events }, &self.past).unwrap();
    }

    fn catch_up(&mut self) {
        while self.hub.catch_up(&self.past, 100).unwrap() {}
    }

    /// Takes everything queued, each message in a few words.
    fn drain(&mut self, stream: StreamId) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(message) = self.hub.poll(stream) {
            told.push(tell(&message));
        }
        told
    }
}

fn tell(message: &Message) -> String {
    let Message { watch_id, revision, body, .. } = message;
    let body = match body {
        Body::Created => "created".to_owned(),
        Body::Refused { reason } => format!("refused: {reason}"),
        Body::Canceled => "canceled".to_owned(),
        Body::Compacted { compact_revision } => format!("compacted {compact_revision}"),
        Body::Progress => "progress".to_owned(),
        Body::Events(_) => {
            let header = proto::etcdserverpb::ResponseHeader::default();
            let mut bytes = Vec::new();
            message.encode(&header, usize::MAX).pop().unwrap().write_to(&mut bytes);
            let response: proto::etcdserverpb::WatchResponse =
                prost::Message::decode(&*bytes).unwrap();
            let events = response.events.iter().map(|event| {
                let kv = event.kv.as_ref().unwrap();
                let sign = if event.r#type == 0 { '+' } else { '-' };
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                let previous = event
                    .prev_kv
                    .as_ref()
                    .map_or(String::new(), |pair| format!("<{}", pair.mod_revision));
                format!("{sign}{key}@{}{previous}", kv.mod_revision)
            });
            events.collect::<Vec<_>>().join(" ")
        }
    };
    format!("{watch_id} r{revision} {body}")
}

#[test]
fn ids_are_given_and_taken_as_in_etcd() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    let create = |bench: &mut Bench, watch_id| {
        bench
            .create(stream, WatchCreateRequest { key: "k".into(), watch_id, ..Default::default() });
        bench.drain(stream).join("; ")
    };
    assert_eq!(create(&mut bench, 0), "0 r1 created");
    assert_eq!(create(&mut bench, 1), "1 r1 created");
    assert_eq!(create(&mut bench, 0), "2 r1 created");
    assert_eq!(create(&mut bench, -1), "-1 r1 created");
    let duplicate = "-1 r1 refused: mvcc: duplicate watch ID provided on the WatchStream";
    assert_eq!(create(&mut bench, 1), duplicate);
    bench.hub.cancel(stream, 1, 1);
    assert_eq!(bench.drain(stream), ["1 r1 canceled"]);
    assert_eq!(create(&mut bench, 1), "1 r1 created");
    bench.hub.cancel(stream, 77, 1);
    assert!(bench.drain(stream).is_empty());
}

#[test]
fn bad_requests_are_refused_and_the_stream_lives_on() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    bench.create(
        stream,
        WatchCreateRequest { key: "b".into(), range_end: "a".into(), ..Default::default() },
    );
    bench.create(
        stream,
        WatchCreateRequest { key: "b".into(), range_end: "b".into(), ..Default::default() },
    );
    bench.create(stream, WatchCreateRequest { start_revision: -1, ..Default::default() });
    assert_eq!(
        bench.drain(stream),
        [
            "-1 r1 refused: mvcc: watcher range is empty",
            "-1 r1 refused: mvcc: watcher range is empty",
            "-1 r1 refused: etcdserver: mvcc: required revision has been compacted",
        ]
    );
    assert_eq!(bench.watch(stream, "k"), 0);
    assert_eq!(bench.hub.stats().watchers, 1);
}

#[test]
fn events_go_to_those_who_watch_the_key() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    for (key, range_end) in [("a", ""), ("a", "c"), ("b", "\0"), ("", "\0"), ("", "")] {
        bench.create(
            stream,
            WatchCreateRequest {
                key: key.into(),
                range_end: range_end.into(),
                ..Default::default()
            },
        );
    }
    bench.drain(stream);
    // The order among watchers is arbitrary.
    let sorted = |bench: &mut Bench| {
        let mut told = bench.drain(stream);
        told.sort();
        told
    };
    bench.write(&["+a"]);
    assert_eq!(sorted(&mut bench), ["0 r2 +a@2", "1 r2 +a@2", "3 r2 +a@2"]);
    bench.write(&["+b", "-a", "+c"]);
    assert_eq!(
        sorted(&mut bench),
        ["0 r3 -a@3", "1 r3 +b@3 -a@3", "2 r3 +b@3 +c@3", "3 r3 +b@3 -a@3 +c@3"]
    );
    bench.write(&["+\0"]);
    assert_eq!(bench.drain(stream).len(), 2);
}

#[test]
fn filters_drop_kinds_and_empty_messages() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    for filters in [vec![], vec![0], vec![1], vec![0, 1], vec![9]] {
        bench.create(stream, WatchCreateRequest { key: "k".into(), filters, ..Default::default() });
    }
    bench.drain(stream);
    bench.write(&["+k"]);
    assert_eq!(bench.drain(stream), ["0 r2 +k@2", "2 r2 +k@2", "4 r2 +k@2"]);
    bench.write(&["-k"]);
    assert_eq!(bench.drain(stream), ["0 r3 -k@3", "1 r3 -k@3", "4 r3 -k@3"]);
}

#[test]
fn the_pair_before_is_looked_up_once_an_event() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    for _ in 0..3 {
        bench.create(
            stream,
            WatchCreateRequest { key: "k".into(), prev_kv: true, ..Default::default() },
        );
    }
    bench.watch(stream, "k");
    bench.drain(stream);
    bench.write(&["+k"]);
    assert_eq!(bench.past.asked_for_previous.get(), 0, "a creation has none");
    assert_eq!(bench.drain(stream), ["0 r2 +k@2", "1 r2 +k@2", "2 r2 +k@2", "3 r2 +k@2"]);
    bench.write(&["+k"]);
    assert_eq!(bench.past.asked_for_previous.get(), 1);
    assert_eq!(bench.drain(stream), ["0 r3 +k@3<2", "1 r3 +k@3<2", "2 r3 +k@3<2", "3 r3 +k@3"]);
    bench.write(&["-k"]);
    assert_eq!(bench.drain(stream)[0], "0 r4 -k@4<3");
    let stats = bench.hub.stats();
    assert_eq!((stats.watchers, stats.lagging, stats.events), (4, 0, 12));
}

#[test]
fn start_revisions() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.write(&["+k"]);
    }
    let stream = bench.stream();
    for start_revision in [0, 3, 5, 6, 8] {
        bench.create(
            stream,
            WatchCreateRequest { key: "k".into(), start_revision, ..Default::default() },
        );
    }
    assert_eq!(bench.drain(stream).len(), 5);
    bench.catch_up();
    assert_eq!(bench.drain(stream), ["1 r5 +k@3 +k@4 +k@5", "2 r5 +k@5"]);
    bench.write(&["+k"]);
    bench.write(&["+k"]);
    bench.write(&["+k"]);
    let told = bench.drain(stream);
    for (watcher, first) in [(0, 6), (1, 6), (2, 6), (3, 6), (4, 8)] {
        let got: Vec<_> =
            told.iter().filter(|told| told.starts_with(&format!("{watcher} "))).cloned().collect();
        let expected: Vec<_> =
            (first..=8).map(|revision| format!("{watcher} r{revision} +k@{revision}")).collect();
        assert_eq!(got, expected);
    }
}

#[test]
fn a_hub_behind_the_store_sends_nothing_older_than_the_watcher() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    // The store is at 3, the hub has seen 1.
    let request = WatchCreateRequest { key: "k".into(), ..Default::default() };
    bench.hub.create(stream, &WatchSpec::new(&request).unwrap(), 3);
    for _ in 0..3 {
        bench.write(&["+k"]);
    }
    assert_eq!(bench.drain(stream), ["0 r3 created", "0 r4 +k@4"]);
}

#[test]
fn history_that_is_compacted_ends_the_watcher() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.write(&["+k"]);
    }
    bench.past.compacted = 4;
    let stream = bench.stream();
    for start_revision in [3, 4, 6] {
        bench.create(
            stream,
            WatchCreateRequest { key: "k".into(), start_revision, ..Default::default() },
        );
    }
    bench.catch_up();
    assert_eq!(
        bench.drain(stream),
        [
            "0 r6 created",
            "1 r6 created",
            "2 r6 created",
            "0 r0 compacted 4",
            "1 r6 +k@4 +k@5 +k@6",
            "2 r6 +k@6"
        ]
    );
    // The id stays taken until it is canceled, and holds up nobody's progress.
    bench.create(stream, WatchCreateRequest { key: "k".into(), watch_id: 0, ..Default::default() });
    bench.request_progress(stream);
    bench.hub.cancel(stream, 0, 6);
    assert_eq!(bench.drain(stream), ["3 r6 created", "-1 r6 progress", "0 r6 canceled"]);
    assert_eq!(bench.hub.stats().watchers, 3);
}

#[test]
fn a_slow_stream_falls_back_to_history_and_nobody_else_waits() {
    let limits = Limits { queue_messages: 4, message_revisions: 3, ..Limits::default() };
    let mut bench = Bench::with(limits);
    let (slow, fast) = (bench.stream(), bench.stream());
    bench.watch(slow, "k");
    bench.watch(fast, "k");
    let mut told = Vec::new();
    for _ in 0..10 {
        bench.write(&["+k", "+j"]);
        told.extend(bench.drain(fast));
        bench.catch_up();
    }
    assert_eq!(told.len(), 10);
    assert_eq!(bench.hub.stats().lagging, 1);
    assert!(!bench.hub.has_room(slow));
    // Nothing to do until there is room.
    assert!(!bench.hub.needs_catch_up());
    bench.request_progress(slow);
    let mut told = bench.drain(slow);
    assert!(bench.hub.needs_catch_up());
    bench.catch_up();
    told.extend(bench.drain(slow));
    assert_eq!(
        told,
        [
            "0 r2 +k@2",
            "0 r3 +k@3",
            "0 r4 +k@4",
            "0 r5 +k@5",
            "0 r11 +k@6 +k@7 +k@8",
            "0 r11 +k@9 +k@10 +k@11"
        ]
    );
    assert_eq!(bench.hub.stats().lagging, 0);
    bench.write(&["+k"]);
    assert_eq!(bench.drain(slow), ["0 r12 +k@12"]);
}

#[test]
fn a_window_never_splits_a_revision() {
    let limits = Limits { message_revisions: 1, message_bytes: 1, ..Limits::default() };
    let mut bench = Bench::with(limits);
    for _ in 0..3 {
        bench.write(&["+a", "+b", "+c"]);
    }
    let stream = bench.stream();
    let all =
        WatchCreateRequest { range_end: "\0".into(), start_revision: 2, ..Default::default() };
    bench.create(stream, all);
    while bench.hub.catch_up(&bench.past, 1).unwrap() {}
    assert_eq!(
        bench.drain(stream),
        ["0 r4 created", "0 r4 +a@2 +b@2 +c@2", "0 r4 +a@3 +b@3 +c@3", "0 r4 +a@4 +b@4 +c@4"]
    );
}

#[test]
fn manual_progress_waits_for_all_watchers() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    bench.request_progress(stream);
    assert!(bench.drain(stream).is_empty(), "no watcher");
    bench.watch(stream, "k");
    bench.write(&["+k"]);
    bench.request_progress(stream);
    assert_eq!(bench.drain(stream), ["0 r2 +k@2", "-1 r2 progress"]);
    bench.create(
        stream,
        WatchCreateRequest { key: "k".into(), start_revision: 2, ..Default::default() },
    );
    bench.request_progress(stream);
    assert_eq!(bench.drain(stream), ["1 r2 created"]);
    bench.catch_up();
    bench.request_progress(stream);
    assert_eq!(bench.drain(stream), ["1 r2 +k@2", "-1 r2 progress"]);
    // A watcher for the future blocks it until the store is there.
    bench.create(
        stream,
        WatchCreateRequest { key: "x".into(), start_revision: 3, ..Default::default() },
    );
    bench.request_progress(stream);
    assert_eq!(bench.drain(stream), ["2 r2 created"]);
    bench.write(&["+y"]);
    bench.request_progress(stream);
    assert_eq!(bench.drain(stream), ["-1 r3 progress"]);
}

/// Who has had the answer to a write may ask before its events are published.
#[test]
fn manual_progress_is_no_older_than_what_its_client_may_have_seen() {
    let mut bench = Bench::new();
    let (stream, closed) = (bench.stream(), bench.stream());
    for stream in [stream, closed] {
        bench.watch(stream, "k");
        for store_revision in [3, 2, 3] {
            bench.hub.request_progress(stream, store_revision);
        }
    }
    assert!(bench.drain(stream).is_empty(), "the store is at 3, the hub at 1");
    bench.hub.close_stream(closed);
    let another = bench.stream();
    bench.watch(another, "k");
    bench.write(&["+k"]);
    assert_eq!(bench.drain(stream), ["0 r2 +k@2", "-1 r2 progress"]);
    bench.write(&["+x"]);
    assert_eq!(bench.drain(stream), ["-1 r3 progress"]);
    assert_eq!(bench.drain(another), ["0 r2 +k@2"], "it did not ask");
    bench.hub.request_progress(stream, 5);
    bench.hub.resync(5);
    assert!(bench.drain(stream).is_empty(), "its watcher has to catch up");
}

#[test]
fn periodic_progress_goes_to_idle_synced_watchers() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    for key in ["a", "b"] {
        bench.create(
            stream,
            WatchCreateRequest { key: key.into(), progress_notify: true, ..Default::default() },
        );
    }
    bench.watch(stream, "c");
    bench.drain(stream);
    assert_eq!(bench.hub.next_tick(), Some(MINUTE));
    bench.hub.tick(MINUTE - Duration::from_millis(1));
    assert!(bench.drain(stream).is_empty());
    bench.hub.tick(MINUTE);
    assert_eq!(bench.drain(stream), ["0 r1 progress", "1 r1 progress"]);
    bench.write(&["+a"]);
    bench.write(&["+z"]);
    bench.hub.tick(MINUTE * 2);
    assert_eq!(bench.drain(stream), ["0 r2 +a@2", "1 r3 progress"]);
    bench.hub.tick(MINUTE * 3);
    assert_eq!(bench.drain(stream), ["0 r3 progress", "1 r3 progress"]);
    assert_eq!(bench.hub.next_tick(), Some(MINUTE * 4));
    bench.hub.close_stream(stream);
    assert_eq!(bench.hub.next_tick(), None);
}

#[test]
fn streams_are_named_once_until_found_empty() {
    let mut bench = Bench::new();
    let (first, second) = (bench.stream(), bench.stream());
    bench.watch(first, "k");
    bench.watch(second, "k");
    bench.drain(first);
    bench.drain(second);
    let ready = |bench: &mut Bench| {
        let mut ready = Vec::new();
        bench.hub.take_ready(&mut ready);
        ready
    };
    ready(&mut bench);
    bench.write(&["+k"]);
    bench.write(&["+k"]);
    assert_eq!(ready(&mut bench), [first, second]);
    assert!(bench.hub.poll(first).is_some());
    bench.write(&["+k"]);
    assert!(ready(&mut bench).is_empty());
    assert_eq!(bench.drain(first).len(), 2);
    bench.write(&["+k"]);
    assert_eq!(ready(&mut bench), [first]);
}

#[test]
fn a_closed_stream_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    bench.write(&["+k"]);
    bench.watch(stream, "k");
    bench.create(
        stream,
        WatchCreateRequest {
            key: "k".into(),
            range_end: "z".into(),
            start_revision: 1,
            ..Default::default()
        },
    );
    bench.hub.close_stream(stream);
    assert_eq!(bench.hub.stats(), Stats::default());
    assert!(!bench.hub.needs_catch_up());
    bench.write(&["+k"]);
    // A new stream in the same place is another one.
    let next = bench.stream();
    assert_ne!(stream, next);
    bench.hub.cancel(stream, 0, 1);
    assert!(bench.hub.poll(stream).is_none());
    assert!(!bench.hub.has_room(stream));
    assert!(bench.drain(next).is_empty());
}

#[test]
fn after_a_snapshot_everybody_catches_up_from_where_they_were() {
    let mut bench = Bench::new();
    let stream = bench.stream();
    bench.watch(stream, "k");
    bench.watch(stream, "idle");
    for _ in 0..3 {
        bench.write(&["+k"]);
    }
    bench.drain(stream);
    // The store jumps from 4 to 9; the rows up to there are in the snapshot.
    for revision in 5..=9 {
        let row = NewRow {
            key: b"k",
            value: b"v",
            create_revision: 2,
            mod_revision: revision,
            version: 1,
            lease: 0,
        };
        bench.past.rows.push((RowKey::put(Revision::first_of(revision)), Event::put(&row).1));
    }
    bench.past.compacted = 5;
    bench.hub.resync(9);
    assert_eq!(bench.hub.stats().lagging, 2);
    // Batches that were under way are known already.
    let (event, _) = Event::delete(b"k", 5);
    bench.hub.publish(&EventBatch { revision: 5, events: vec![event] }, &bench.past).unwrap();
    bench.catch_up();
    // The idle watcher needs nothing below 5: it had everything up to 4, though no event.
    assert_eq!(bench.drain(stream), ["0 r9 +k@5 +k@6 +k@7 +k@8 +k@9"]);
    bench.write(&["+idle"]);
    assert_eq!(bench.drain(stream), ["1 r10 +idle@10"]);
}

#[test]
fn ten_thousand_watchers_share_one_event() {
    let mut bench = Bench::new();
    let streams: Vec<_> = (0..100).map(|_| bench.stream()).collect();
    for stream in &streams {
        for _ in 0..100 {
            bench.watch(*stream, "k");
        }
    }
    bench.write(&["+k"]);
    let mut shared: Option<std::sync::Arc<Events>> = None;
    for stream in &streams {
        let mut count = 0;
        while let Some(message) = bench.hub.poll(*stream) {
            let Body::Events(events) = message.body else { panic!("events") };
            let first = shared.get_or_insert_with(|| std::sync::Arc::clone(&events));
            assert!(std::sync::Arc::ptr_eq(first, &events));
            count += 1;
        }
        assert_eq!(count, 100);
    }
    assert_eq!(bench.hub.stats().events, 10_000);
}

#[test]
fn the_same_calls_give_the_same_messages() {
    let run = || {
        let mut bench =
            Bench::with(Limits { queue_messages: 3, watchers_per_round: 7, ..Limits::default() });
        let mut told = Vec::new();
        let streams: Vec<_> = (0..5).map(|_| bench.stream()).collect();
        for (place, stream) in streams.iter().enumerate() {
            for key in ["a", "b", "c"] {
                let start_revision = i64::try_from(place).unwrap();
                let range_end = if place % 2 == 0 { "z" } else { "" };
                bench.create(
                    *stream,
                    WatchCreateRequest {
                        key: key.into(),
                        range_end: range_end.into(),
                        start_revision,
                        ..Default::default()
                    },
                );
            }
        }
        for round in 0..20 {
            bench.write(if round % 3 == 0 { &["+a", "+b"] } else { &["+c"] });
            let _ = bench.hub.catch_up(&bench.past, 5).unwrap();
            let mut ready = Vec::new();
            bench.hub.take_ready(&mut ready);
            told.push(format!("{ready:?}"));
            told.extend(bench.drain(streams[round % 5]));
        }
        told
    };
    assert_eq!(run(), run());
}
