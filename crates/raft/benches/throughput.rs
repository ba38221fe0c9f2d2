//! What the core itself costs: proposals a second of processor time on one thread, with storage that takes no time.
//!
//! `cargo bench -p raft`. For orientation: raft-rs 0.7 took 4,100 ns a proposal with three members and one proposal a
//! turn, on two cores of a virtual machine.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a benchmark measures time and prints it"
)]

use std::{
    fs,
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use raft::{Config, Core, MemoryStorage, Message, NodeId, Peer, SplitMix64, codec};

const PROPOSALS: u64 = 300_000;

fn main() {
    for batch in [1, 16, 256] {
        report(&format!("1 member,  {batch:3} proposals a turn"), || single(batch));
    }
    for batch in [1, 16, 256] {
        report(&format!("3 members, {batch:3} proposals a turn"), || three(batch));
    }
}

fn report(name: &str, run: impl Fn()) {
    run();
    let (start, cpu) = (Instant::now(), cpu_time());
    run();
    // Time on the processor if the system tells it: others use this machine too.
    let spent =
        cpu.zip(cpu_time()).map_or_else(|| start.elapsed(), |(before, after)| after - before);
    let each = spent.as_secs_f64() * 1e9 / PROPOSALS as f64;
    println!("{name}: {:9.0} proposals/s, {each:6.0} ns each", 1e9 / each);
}

/// Returns how long this process ran, from Linux's scheduler.
fn cpu_time() -> Option<Duration> {
    let statistics = fs::read_to_string("/proc/self/schedstat").ok()?;
    statistics.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn member(id: u64, count: u64) -> Core<MemoryStorage> {
    let config = Config::new(NodeId(id), Box::new(SplitMix64::new(id)));
    let mut core = Core::new(config, MemoryStorage::new()).unwrap();
    let peers: Vec<_> =
        (1..=count).map(|id| Peer { id: NodeId(id), context: Bytes::new() }).collect();
    core.bootstrap(&peers).unwrap();
    core
}

/// Carries out all work at once; returns what goes to others.
fn settle(core: &mut Core<MemoryStorage>, network: &mut Vec<Message>) {
    while core.has_ready() {
        let ready = core.ready();
        network.extend(ready.messages);
        if let Some(append) = ready.append {
            core.storage_mut().append(append.entries);
            network.extend(append.responses);
            core.persisted(append.done);
        }
        if let Some(apply) = ready.apply {
            for entry in &apply.entries {
                if let Some(change) = codec::conf_change_of(entry).unwrap() {
                    core.apply_conf_change_at(entry.index, &change).unwrap();
                }
                black_box(entry);
            }
            core.applied(apply.done);
        }
        // As etcd: keep some entries for followers that are slow.
        let keep = 10_000;
        if core.applied_index().0 > core.first_index().0 + 2 * keep {
            let index = core.applied_index();
            let storage = core.storage_mut();
            storage.create_snapshot(index, None, Bytes::new()).unwrap();
            storage.compact(raft::LogIndex(index.0 - keep)).unwrap();
        }
    }
}

fn payload() -> Bytes {
    Bytes::from_static(&[b'x'; 256])
}

fn single(batch: u64) {
    let mut core = member(1, 1);
    let mut network = Vec::new();
    settle(&mut core, &mut network);
    core.campaign();
    settle(&mut core, &mut network);
    for _ in 0..PROPOSALS / batch {
        for _ in 0..batch {
            core.propose(payload()).unwrap();
        }
        settle(&mut core, &mut network);
    }
    assert!(core.applied_index().0 >= PROPOSALS / batch * batch);
}

fn three(batch: u64) {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 3)).collect();
    let mut network = Vec::new();
    let mut inbox = Vec::new();
    let mut exchange = |members: &mut Vec<Core<MemoryStorage>>| loop {
        for core in members.iter_mut() {
            settle(core, &mut network);
        }
        if network.is_empty() {
            break;
        }
        std::mem::swap(&mut network, &mut inbox);
        for message in inbox.drain(..) {
            let place = usize::try_from(message.to.0).unwrap() - 1;
            members[place].step(message).unwrap();
        }
    };
    exchange(&mut members);
    members[0].campaign();
    exchange(&mut members);
    assert!(members[0].is_leader());
    for _ in 0..PROPOSALS / batch {
        for _ in 0..batch {
            members[0].propose(payload()).unwrap();
        }
        exchange(&mut members);
    }
    assert!(members.iter().all(|core| core.applied_index().0 >= PROPOSALS / batch * batch));
}
