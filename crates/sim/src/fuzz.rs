//! The body of the fuzz target `requests` (`fuzz/`), as a plain function: the corpus is replayed by an ordinary test too.
//!
//! Any bytes are read as a version of etcd (one byte) and a list of requests: a kind, a length, and that many bytes of a protobuf
//! message. Each takes the way it takes in a member that stands for that version: decoded, checked, executed. A kind with the top bit set leaves the checks out, as for an
//! entry that another member has checked, or has not.

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use machine::{Committed, Effect, Machine, OpenError, Options, Payload, RequestError, Version};
use prost::Message;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    InternalRaftRequest, RangeRequest, RangeResponse, RequestHeader, ResponseHeader,
};
use proto::raftpb;
use vfs::sim::SimDisk;

const MEMBER: u64 = 0x508e_d529_2be9_39a9;
/// etcd's default.
const TXN_OPS_MAX: usize = 128;
/// One run is to be short.
const REQUESTS_MAX: usize = 64;
/// Leaves the checks of the services out.
pub const UNCHECKED: u8 = 0x80;

/// What the first byte of a request says.
pub mod kind {
    /// A range, which is read.
    pub const RANGE: u8 = 0;
    /// A put.
    pub const PUT: u8 = 1;
    /// A delete.
    pub const DELETE_RANGE: u8 = 2;
    /// A transaction.
    pub const TXN: u8 = 3;
    /// A compaction.
    pub const COMPACTION: u8 = 4;
    /// A grant.
    pub const LEASE_GRANT: u8 = 5;
    /// A revocation.
    pub const LEASE_REVOKE: u8 = 6;
    /// An alarm, raised or cleared.
    pub const ALARM: u8 = 7;
    /// The bytes of a normal entry, whatever they are: any request that goes through the log, those about users among them.
    pub const ENTRY: u8 = 8;
    /// The bytes of a conf change.
    pub const CONF_CHANGE: u8 = 9;
}

/// Writes a request as [`requests`] reads it behind the first byte; for seeds of the corpus.
pub fn push_request(list: &mut Vec<u8>, kind: u8, message: &[u8]) {
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    list.push(kind);
    list.extend_from_slice(&len.to_le_bytes());
    list.extend_from_slice(&message[..usize::from(len)]);
}

/// The versions that the first byte chooses from, by its remainder.
pub const VERSIONS: [Version; 3] = Version::EMULATED;

/// The bytes are a version and a list of requests, which a fresh member executes. Returns the revision that it came to.
///
/// # Panics
/// When a promise is broken: a message is not what it was after encoding and decoding; a refused request leaves a trace; a
/// revision is skipped; the member that starts again from its database differs from the one that wrote it.
pub fn requests(bytes: &[u8]) -> i64 {
    let Some((&version, mut rest)) = bytes.split_first() else { return 0 };
    let version = VERSIONS[usize::from(version) % VERSIONS.len()];
    let Some(mut member) = Member::new(version) else { return 0 };
    for _ in 0..REQUESTS_MAX {
        let [kind, low, high, tail @ ..] = rest else { break };
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (message, tail) = tail.split_at(len);
        rest = tail;
        if member.take(*kind, Bytes::copy_from_slice(message)).is_err() {
            // A real member stops here, with the error.
            return member.machine.revision();
        }
    }
    let revision = member.machine.revision();
    member.restart();
    revision
}

/// Decodes, and holds the message against itself: what is encoded from it decodes to the same.
fn decode<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: Bytes) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    assert_eq!(M::decode(encoded.as_slice()).ok().as_ref(), Some(&message));
    Some(message)
}

struct Member {
    disk: SimDisk,
    version: Version,
    machine: Machine,
    index: u64,
}

impl Member {
    fn new(version: Version) -> Option<Self> {
        let disk = SimDisk::new();
        let machine = open(&disk, version)?;
        Some(Self { disk, version, machine, index: 0 })
    }

    fn rules(&self) -> mvcc::Rules {
        mvcc::Rules::of_minor(self.version.minor)
    }

    /// Executes one request. An error is one that stops a member.
    fn take(&mut self, kind: u8, bytes: Bytes) -> Result<(), machine::Fatal> {
        let is_checked = kind & UNCHECKED == 0;
        let op = match kind & !UNCHECKED {
            kind::RANGE => {
                if let Some(request) = decode::<RangeRequest>(bytes)
                    && (!is_checked || mvcc::check::range(&request, self.rules()).is_ok())
                {
                    self.range(&request);
                }
                return Ok(());
            }
            kind::PUT => decode(bytes)
                .filter(|request| !is_checked || mvcc::check::put(request).is_ok())
                .map(Op::Put),
            kind::DELETE_RANGE => decode(bytes)
                .filter(|request| !is_checked || mvcc::check::delete_range(request).is_ok())
                .map(Op::DeleteRange),
            kind::TXN => decode(bytes)
                .filter(|request| {
                    !is_checked || mvcc::check::txn(request, TXN_OPS_MAX, self.rules()).is_ok()
                })
                .map(Op::Txn),
            kind::COMPACTION => decode(bytes).map(Op::Compaction),
            kind::LEASE_GRANT => decode(bytes).map(Op::LeaseGrant),
            kind::LEASE_REVOKE => decode(bytes).map(Op::LeaseRevoke),
            kind::ALARM => decode(bytes).map(Op::Alarm),
            kind::ENTRY => return self.apply(Payload::Raw(bytes)),
            kind::CONF_CHANGE => {
                let entry = raftpb::Entry {
                    r#type: raftpb::EntryType::EntryConfChange.into(),
                    data: Some(bytes),
                    ..raftpb::Entry::default()
                };
                return self.apply(Committed::from_entry(entry)?.payload);
            }
            _ => None,
        };
        let Some(op) = op else { return Ok(()) };
        let header = RequestHeader { id: 7, ..RequestHeader::default() };
        let request =
            InternalRaftRequest { header: Some(header), request: Some(op), ..Default::default() };
        self.apply(Payload::Raw(Bytes::from(request.encode_to_vec())))
    }

    fn range(&self, request: &RangeRequest) {
        let reader = self.machine.reader();
        let (Ok(raw), Ok(decoded)) = (reader.range(request), reader.range(request)) else { return };
        let header = ResponseHeader { revision: raw.revision, ..ResponseHeader::default() };
        let encoded = RangeResponse::decode(raw.encode(&header)).ok();
        let plain = decoded
            .into_response()
            .ok()
            .map(|response| RangeResponse { header: Some(header), ..response });
        assert_eq!(encoded, plain);
        if let Some(RangeResponse { kvs, count, .. }) = plain {
            assert!(i64::try_from(kvs.len()).is_ok_and(|len| len <= count));
            assert!(
                request.limit <= 0
                    || i64::try_from(kvs.len()).is_ok_and(|len| len <= request.limit)
            );
        }
    }

    fn apply(&mut self, payload: Payload) -> Result<(), machine::Fatal> {
        let before = self.machine.revision();
        self.index += 1;
        let committed = Committed { index: self.index, term: 1, payload };
        let applied = self.machine.apply(&committed, Duration::ZERO)?;
        let after = self.machine.revision();
        assert!(after == before || after == before + 1, "revision {before} became {after}");
        assert_eq!(applied.events.is_some(), after > before, "events go with a new revision");
        if let Some(Err(error)) = &applied.outcome {
            assert!(
                after == before || matches!(error, RequestError::OverQuota),
                "{error} left a trace"
            );
        }
        for effect in applied.effects {
            if let Effect::Compact(job) = effect {
                job.run(self.machine.writer(), 16)?;
            }
        }
        Ok(())
    }

    /// Commits, starts again from the database, and compares.
    fn restart(mut self) {
        let commit = self.machine.writer().take_commit();
        if let Some(commit) = commit {
            assert!(commit.run().is_ok(), "the disk has no faults");
        }
        let seen = look(&self.machine);
        drop(self.machine);
        if let Some(machine) = open(&self.disk, self.version) {
            assert_eq!(look(&machine), seen);
        }
    }
}

/// Opens the machine of the only member on a disk; or not, where a downgrade was enabled that this version has no part in.
///
/// # Panics
/// When it does not open otherwise: what a machine wrote must be fit to start from.
fn open(disk: &SimDisk, version: Version) -> Option<Machine> {
    let options = backend::Options { initial_map_bytes: 0, ..backend::Options::default() };
    let opened = backend::open(&disk.dir(), &options).map_err(OpenError::Backend);
    let opened = opened.and_then(|(writer, _)| {
        Machine::open(Options::new(MEMBER, version), writer, &raftpb::Snapshot::default())
    });
    match opened {
        Ok((machine, _)) => Some(machine),
        Err(OpenError::Downgrade { .. }) => None,
        Err(error) => panic!("what was written does not open: {error}"),
    }
}

/// What clients can see of a machine: the revision, the keys, the leases and what hangs on them, users and their rights.
#[derive(Debug, PartialEq)]
struct Look {
    revision: i64,
    keys: Option<RangeResponse>,
    leases: Vec<(i64, Vec<Bytes>)>,
    auth: String,
}

fn look(machine: &Machine) -> Look {
    let everything = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    let keys = machine.reader().range(&everything).ok();
    let lessor = machine.lessor();
    let lessor = lessor.lock().unwrap_or_else(PoisonError::into_inner);
    let mut leases = Vec::new();
    // As in etcd, a lease with a negative id does not survive a restart.
    for id in lessor.leases().into_iter().filter(|id| id.0 >= 0) {
        let mut keys: Vec<Bytes> = lessor.keys(id).map(|key| Bytes::copy_from_slice(key)).collect();
        keys.sort();
        leases.push((id.0, keys));
    }
    leases.sort();
    Look {
        revision: machine.revision(),
        keys: keys.and_then(|range| range.into_response().ok()),
        leases,
        auth: format!("{:?}", machine.auth()),
    }
}
