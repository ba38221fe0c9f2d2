//! What all nodes share: virtual time, what is going to happen, the network, and those who watch.

use raft::{ConfState, Message};

use super::check::Checker;
use super::marks::{Mark, Marks};
use super::plant::Plant;
use super::swarm::Swarm;
use crate::net::Net;
use crate::queue::Queue;
use crate::rng::Stream;
use crate::trace::Trace;

/// One life of a node, from a start to a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) node: u64,
    pub(super) number: u32,
}

/// Something that is going to happen. What belongs to a life ends with it.
#[derive(Debug)]
pub(super) enum Event {
    Tick(Life),
    Deliver { sent_by: Life, message: Box<Message> },
    WriteDone(Life),
    ApplyDone(Life),
    Wake(Life),
    Resume(Life),
    Retire(Life),
    Start(u64),
    Unreachable(Life, u64),
    SnapshotSent { sent_by: Life, to: u64, is_taken: bool },
    Fault,
    Propose,
    Read,
    Heal(u64),
    Watch,
}

/// The world around the nodes.
pub(super) struct Env {
    pub(super) now_us: u64,
    queue: Queue<Event>,
    pub(super) swarm: Swarm,
    pub(super) plant: Plant,
    pub(super) net: Net,
    pub(super) check: Checker,
    pub(super) marks: Marks,
    pub(super) trace: Trace,
    /// Latencies and losses of disks.
    pub(super) disk: Stream,
    /// Speed of clocks, jitter of elections.
    pub(super) clock: Stream,
    /// Who asks for what, and when.
    pub(super) workload: Stream,
    /// Which fault comes when.
    pub(super) schedule: Stream,
    /// Names proposals and reads.
    next_name: u64,
    /// Nodes that committed something, to be compared with all disks: node, index, and its configuration.
    pub(super) to_verify: Vec<(u64, u64, ConfState)>,
    /// To whom leadership is being handed, and until when that counts.
    pub(super) transferee: (u64, u64),
    /// Proposals from this one on are made after all was healed.
    pub(super) healed_from: u64,
    pub(super) proposals: u64,
    pub(super) reads: u64,
    pub(super) faults: u64,
}

impl Env {
    pub(super) fn new(
        seed: u64,
        swarm: Swarm,
        plant: Plant,
        keep_trace: bool,
        inspects: bool,
    ) -> Self {
        Self {
            now_us: 0,
            queue: Queue::default(),
            net: Net::new(seed, swarm.quality()),
            check: Checker::new(swarm.founders, inspects),
            swarm,
            plant,
            marks: Marks::default(),
            trace: Trace::new(keep_trace),
            disk: Stream::new(seed, "disk"),
            clock: Stream::new(seed, "clock"),
            workload: Stream::new(seed, "workload"),
            schedule: Stream::new(seed, "schedule"),
            next_name: 1,
            to_verify: Vec::new(),
            transferee: (0, 0),
            healed_from: u64::MAX,
            proposals: 0,
            reads: 0,
            faults: 0,
        }
    }

    pub(super) fn after(&mut self, span_us: u64, event: Event) {
        self.queue.after(span_us, event);
    }

    pub(super) fn at(&mut self, at_us: u64, event: Event) {
        self.queue.at(at_us, event);
    }

    /// Moves on to what happens next.
    pub(super) fn next(&mut self) -> Option<Event> {
        let event = self.queue.next()?;
        self.now_us = self.queue.now_us();
        Some(event)
    }

    pub(super) fn name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name
    }

    pub(super) fn newest_name(&self) -> u64 {
        self.next_name
    }

    pub(super) fn trace(&mut self, node: u64, what: &'static str, numbers: [u64; 3]) {
        self.trace.push(self.now_us, node, what, numbers);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }
}
