//! A machine over files in memory.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use backend::schema::Bucket;
use bytes::Bytes;
use machine::{
    Answer, Applied, Committed, Effect, Machine, Options, Outcome, Payload, RequestError, Version,
};
use prost::Message;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use proto::raftpb;
use vfs::Dir;
use vfs::sim::SimDisk;

/// The member that all tests are about.
pub(crate) const MEMBER: u64 = 0x508e_d529_2be9_39a9;

pub(crate) const VERSION: Version = Version::v3(5, 30);

pub(crate) fn backend_options() -> backend::Options {
    backend::Options { initial_map_bytes: 0, ..backend::Options::default() }
}

/// A machine, its disk, and the place in the log.
pub(crate) struct Fixture {
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) options: Options,
    pub(crate) snapshot: raftpb::Snapshot,
    pub(crate) machine: Machine,
    pub(crate) index: u64,
    pub(crate) term: u64,
}

impl Fixture {
    /// A new machine.
    pub(crate) fn new() -> Self {
        Self::with(Options::new(MEMBER, VERSION))
    }

    pub(crate) fn with(options: Options) -> Self {
        let dir = SimDisk::new().dir();
        let machine = open(&dir, &options, &raftpb::Snapshot::default());
        Self { dir, options, snapshot: raftpb::Snapshot::default(), machine, index: 0, term: 1 }
    }

    /// Applies the next entry, and runs the compactions that come of it.
    pub(crate) fn apply(&mut self, payload: Payload) -> Applied {
        self.try_apply(payload).unwrap()
    }

    pub(crate) fn try_apply(&mut self, payload: Payload) -> Result<Applied, machine::Fatal> {
        self.index += 1;
        let committed = Committed { index: self.index, term: self.term, payload };
        let mut applied = self.machine.apply(&committed, Duration::ZERO)?;
        for effect in std::mem::take(&mut applied.effects) {
            match effect {
                Effect::Compact(job) => job.run(self.machine.writer(), 1000)?,
                other => applied.effects.push(other),
            }
        }
        Ok(applied)
    }

    /// Applies a request as this member proposed it.
    pub(crate) fn request(&mut self, op: Op) -> Applied {
        self.apply(request(op))
    }

    pub(crate) fn outcome(&mut self, op: Op) -> Outcome {
        self.request(op).outcome.unwrap()
    }

    pub(crate) fn ok(&mut self, op: Op) -> Answer {
        self.outcome(op).unwrap()
    }

    pub(crate) fn refused(&mut self, op: Op) -> RequestError {
        self.outcome(op).unwrap_err()
    }

    /// Commits what is pending.
    pub(crate) fn commit(&mut self) {
        self.machine.writer().take_commit().unwrap().run().unwrap();
    }

    /// Starts again from what was committed. The log is to be replayed from the snapshot on.
    pub(crate) fn restart(self) -> Self {
        let Self { dir, options, snapshot, machine, .. } = self;
        drop(machine);
        let machine = open(&dir, &options, &snapshot);
        let (index, term) = (snapshot.metadata.index, snapshot.metadata.term.max(1));
        Self { dir, options, snapshot, machine, index, term }
    }

    /// All rows of these buckets, one a line, as in the fixtures.
    pub(crate) fn rows(&mut self, buckets: &[Bucket]) -> String {
        let view = self.machine.writer().view();
        let mut text = String::new();
        for &bucket in buckets {
            for row in view.scan(bucket, &[], None).unwrap() {
                let (key, value) = row.unwrap();
                write!(text, "{bucket}\t{}\t", key.escape_ascii()).unwrap();
                if value.len() > 200 {
                    writeln!(text, "#{}:{:08x}", value.len(), crc32c::crc32c(&value)).unwrap();
                } else {
                    writeln!(text, "{}", value.escape_ascii()).unwrap();
                }
            }
        }
        text
    }
}

pub(crate) fn open(dir: &Arc<dyn Dir>, options: &Options, snapshot: &raftpb::Snapshot) -> Machine {
    try_open(dir, options, snapshot).unwrap()
}

pub(crate) fn try_open(
    dir: &Arc<dyn Dir>,
    options: &Options,
    snapshot: &raftpb::Snapshot,
) -> Result<Machine, machine::OpenError> {
    let (writer, _) = backend::open(dir, &backend_options()).unwrap();
    let (mut machine, compaction) = Machine::open(options.clone(), writer, snapshot)?;
    if let Some(job) = compaction {
        job.run(machine.writer(), 1000).unwrap();
    }
    Ok(machine)
}

pub(crate) fn request(op: Op) -> Payload {
    Payload::Request(Arc::new(InternalRaftRequest {
        header: Some(RequestHeader { id: 77, ..RequestHeader::default() }),
        request: Some(op),
        ..InternalRaftRequest::default()
    }))
}

/// The entries of a fixture.
pub(crate) fn entries(mut bytes: Bytes) -> Vec<raftpb::Entry> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(raftpb::Entry::decode_length_delimited(&mut bytes).unwrap());
    }
    entries
}
