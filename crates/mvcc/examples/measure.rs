//! Measures what the sizes and limits in this crate were chosen by. Run it with `--release`; the argument is the number of
//! keys (default: one million).
//!
//! The database is made in the directory that the second argument names (default: a simulated disk).

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::{hint::black_box, sync::Arc, time::Duration};

use mvcc::{
    Restored, Store,
    watch::{Hub, Limits, WatchSpec},
};
use proto::etcdserverpb::{PutRequest, RangeRequest, ResponseHeader, WatchCreateRequest};
use vfs::{Dir, sim::SimDisk};

fn main() {
    let keys: u64 = std::env::args().nth(1).and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000);
    let dir: Arc<dyn Dir> = match std::env::args().nth(2) {
        Some(path) => vfs::real::RealDir::open(path).expect("a directory"),
        None => SimDisk::new().dir(),
    };
    let (mut writer, reader) = backend::open(&dir, &backend::Options::default()).expect("opens");
    let Restored { mut store, .. } = Store::open(reader, mvcc::Rules::default()).expect("opens");
    let key = |number: u64| {
        format!("/registry/pods/{:010x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24)
    };

    let before = resident_bytes();
    let began = Cpu::now();
    for number in 0..keys {
        let request = PutRequest {
            key: key(number).into(),
            value: vec![b'v'; 256].into(),
            ..Default::default()
        };
        black_box(store.put(&mut writer, &request, &|_| false).expect("nothing to refuse"));
        if number % 10_000 == 0 {
            writer.take_commit().expect("no commit runs").run().expect("commits");
        }
    }
    report("put 256 B, commits included", began, keys);
    writer.take_commit().expect("no commit runs").run().expect("commits");
    println!("resident: {} MiB more", (resident_bytes() - before) >> 20);

    let began = Cpu::now();
    let backend = writer.reader();
    let restored = Store::open(backend, mvcc::Rules::default()).expect("opens");
    report("restore", began, keys);
    drop(restored);

    let reader = store.reader();
    let began = Cpu::now();
    for number in 0..keys {
        let request = RangeRequest { key: key(number).into(), ..Default::default() };
        black_box(reader.range(&request).expect("readable").encode(&ResponseHeader::default()));
    }
    report("get", began, keys);

    let (rounds, mut pairs) = (2000, 0);
    let began = Cpu::now();
    for number in 0..rounds {
        // About 244 of a million keys, so that counting does not walk the whole index.
        let prefix = key(number)[..18].to_owned();
        let range_end = format!("{prefix}~").into();
        let request =
            RangeRequest { key: prefix.into(), range_end, limit: 100, ..Default::default() };
        let range = reader.range(&request).expect("readable");
        pairs += range.kvs.len() as u64;
        black_box(range.encode(&ResponseHeader::default()));
    }
    report("  per pair", began, pairs);
    report("range of up to 100", began, rounds);

    let began = Cpu::now();
    let all = RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        count_only: true,
        ..Default::default()
    };
    black_box(reader.range(&all).expect("readable"));
    report("count all", began, keys);

    let began = Cpu::now();
    black_box(reader.hash_kv(0).expect("readable"));
    report("HashKV", began, keys);

    let began = Cpu::now();
    let revision = store.current_revision();
    let mut compaction = store.compact(&mut writer, revision).expect("in range");
    let mut longest = Duration::ZERO;
    loop {
        let step = Cpu::now();
        let is_done = compaction.step(1000).expect("readable").apply(&mut writer).is_break();
        longest = longest.max(step.elapsed());
        if is_done {
            break;
        }
    }
    report("compaction", began, keys);
    println!("longest step: {longest:?}");

    for (name, streams, watchers, distinct) in [
        ("one key, 10 000 streams", 10_000, 1, false),
        ("100 000 keys, 100 streams", 100, 1000, true),
    ] {
        let mut hub = Hub::new(store.current_revision(), Limits::default());
        let ids: Vec<_> = (0..streams)
            .map(|_| hub.open_stream(Duration::ZERO, Duration::from_secs(600)))
            .collect();
        let began = Cpu::now();
        let mut count = 0;
        for id in &ids {
            for _ in 0..watchers {
                let key = if distinct { key(count) } else { "hot".to_owned() };
                let request = WatchCreateRequest { key: key.into(), ..Default::default() };
                hub.create(
                    *id,
                    &WatchSpec::new(&request).expect("sound"),
                    store.current_revision(),
                );
                count += 1;
            }
        }
        report(&format!("{name}: create"), began, count);
        for id in &ids {
            while hub.poll(*id).is_some() {}
        }
        let rounds = if distinct { 20_000 } else { 20 };
        let batches: Vec<_> = (0..rounds)
            .map(|number| {
                let key = if distinct { key(number) } else { "hot".to_owned() };
                let request = PutRequest {
                    key: key.into(),
                    value: vec![b'v'; 256].into(),
                    ..Default::default()
                };
                let done = store.put(&mut writer, &request, &|_| false).expect("nothing to refuse");
                done.1.batch.expect("a change")
            })
            .collect();
        let began = Cpu::now();
        for batch in &batches {
            hub.publish(batch, &reader).expect("readable");
        }
        report(&format!("{name}: publish, each batch"), began, rounds);
        let mut ready = Vec::new();
        hub.take_ready(&mut ready);
        let began = Cpu::now();
        let mut delivered = 0;
        for id in ready {
            while let Some(message) = hub.poll(id) {
                black_box(message.encode(&ResponseHeader::default(), 2 << 20));
                delivered += 1;
            }
        }
        report(&format!("{name}: poll and encode, each message"), began, delivered);
    }
}

/// CPU time of this thread: other processes may be busy meanwhile.
#[derive(Clone, Copy)]
struct Cpu(Duration);

impl Cpu {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
        Cpu(Duration::from_nanos(
            stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0),
        ))
    }

    fn elapsed(self) -> Duration {
        Cpu::now().0 - self.0
    }
}

fn report(what: &str, began: Cpu, count: u64) {
    let took = began.elapsed();
    println!("{what}: {took:?}, {:.0} ns each", took.as_secs_f64() * 1e9 / count as f64);
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
