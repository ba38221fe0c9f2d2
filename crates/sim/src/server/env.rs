//! What all members share: virtual time, what is going to happen, the network, chance, and those who watch.

use std::collections::BTreeMap;

use raft::{Body, Message};

use super::client::{Answer, Op};
use super::marks::{Mark, Marks};
use super::plant::Plant;
use super::swarm::Swarm;
use super::witness::Witness;
use crate::net::Net;
use crate::queue::Queue;
use crate::rng::Stream;
use crate::trace::Trace;
use crate::violation::Violation;

/// One life of a member, from a start to a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Life {
    pub(super) node: u64,
    pub(super) number: u32,
}

/// A thread of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Actor {
    Heart,
    Log,
    Apply,
    Committer,
    Watch,
    /// Those who renew what is due: clock ticks, leases that run out, reads that are asked for again.
    Tick,
    Expiry,
}

/// Something that is going to happen. What belongs to a life ends with it.
#[derive(Debug)]
pub(super) enum Event {
    Run(Life, Actor),
    Deliver {
        from: u64,
        message: Box<Message>,
    },
    Start(u64),
    Retire(Life),
    /// The next piece of a database on its way.
    Piece(u64),
    Think(usize),
    Arrive {
        client: usize,
        number: u64,
        at: u64,
        op: Box<Op>,
    },
    Answer {
        client: usize,
        number: u64,
        answer: Box<Answer>,
    },
    GiveUp {
        client: usize,
        number: u64,
    },
    Poll(usize),
    Fault,
    Heal(u64),
    Operate,
    Look,
}

/// Why something did not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A promise was broken.
    Broken(Violation),
    /// A stage of a member failed, which ends the member.
    Failed(String),
    /// The member loses power right now.
    Power,
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Broken(violation)
    }
}

macro_rules! failures {
    ($($error:ty),+) => {
        $(impl From<$error> for Stop {
            fn from(error: $error) -> Self {
                let mut text = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text.push_str(": ");
                    text.push_str(&cause.to_string());
                    source = cause.source();
                }
                Self::Failed(text)
            }
        })+
    };
}

failures!(
    wal::Error,
    backend::Error,
    machine::Fatal,
    mvcc::StorageError,
    bootstrap::Error,
    std::io::Error
);

/// How it went.
pub(super) type Step = Result<(), Stop>;

/// The world around the members.
pub(super) struct Env {
    pub(super) queue: Queue<Event>,
    pub(super) swarm: Swarm,
    pub(super) plant: Plant,
    pub(super) net: Net,
    pub(super) witness: Witness,
    pub(super) marks: Marks,
    pub(super) trace: Trace,
    pub(super) disk: Stream,
    pub(super) clock: Stream,
    pub(super) workload: Stream,
    pub(super) schedule: Stream,
    /// Numbers of members, by the ids that the cluster knows them by.
    pub(super) routes: BTreeMap<u64, u64>,
    next_name: u64,
    pub(super) ops: u64,
    pub(super) faults: u64,
    /// To whom leadership is being handed, and until when that counts.
    pub(super) transferee: (u64, u64),
    /// All faults are over.
    pub(super) is_calm: bool,
}

impl Env {
    pub(super) fn new(seed: u64, plant: Plant, keep_trace: bool) -> Self {
        let swarm = Swarm::draw(&mut Stream::new(seed, "swarm of servers"));
        Self {
            queue: Queue::default(),
            plant,
            net: Net::new(seed, swarm.quality()),
            witness: Witness::new(swarm.drift_ppm, i64::from(swarm.election_ticks)),
            marks: Marks::default(),
            trace: Trace::new(keep_trace),
            disk: Stream::new(seed, "disk"),
            clock: Stream::new(seed, "clock"),
            workload: Stream::new(seed, "workload"),
            schedule: Stream::new(seed, "schedule"),
            routes: BTreeMap::new(),
            next_name: 0,
            ops: 0,
            faults: 0,
            transferee: (0, 0),
            is_calm: false,
            swarm,
        }
    }

    pub(super) fn now_us(&self) -> u64 {
        self.queue.now_us()
    }

    pub(super) fn after(&mut self, span_us: u64, event: Event) {
        self.queue.after(span_us, event);
    }

    /// A name that was never used.
    pub(super) fn name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name
    }

    pub(super) fn trace(&mut self, node: u64, what: &'static str, numbers: [u64; 3]) {
        self.trace.push(self.queue.now_us(), node, what, numbers);
    }

    pub(super) fn mark(&mut self, mark: Mark) {
        self.marks.hit(mark);
    }

    /// Gives a message to the network. Returns whether it is on its way.
    ///
    /// Proposals never come twice: a transport repeats nothing by itself, and for no other message does it matter.
    pub(super) fn send(&mut self, from: u64, message: Message) -> bool {
        let Some(&to) = self.routes.get(&message.to.0) else { return false };
        let fate = self.net.fate(self.now_us(), from, to);
        if let Some(again_us) = fate.again_us
            && !matches!(message.body, Body::Propose { .. })
        {
            let message = Box::new(message.clone());
            self.queue.at(again_us, Event::Deliver { from, message });
        }
        let Some(arrives_us) = fate.arrives_us else { return false };
        self.queue.at(arrives_us, Event::Deliver { from, message: Box::new(message) });
        true
    }
}
