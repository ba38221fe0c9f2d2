//! Random logs, applied by two members: one takes the values as they were proposed and never stops, the other decodes
//! them and is killed now and then. Both must hold the same rows after every entry that both have applied, give the
//! same answers, and never panic.
//!
//! `MACHINE_SEEDS` sets how many logs (default 200), `MACHINE_SEED` replays one.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it does not expect"
)]

mod common;

use std::sync::Arc;

use backend::schema::Bucket;
use bytes::Bytes;
use common::{Fixture, MEMBER};
use machine::{Applied, ConfChangeContext, Member, Payload};
use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest,
    LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestHeader, RequestOp, TxnRequest, request_op,
};
use proto::{membershippb, raftpb};

const ENTRIES: u64 = 300;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn number(&mut self, bound: i64) -> i64 {
        i64::try_from(self.below(bound.unsigned_abs())).unwrap()
    }

    /// An enumeration's number, now and then one that does not exist.
    fn choice(&mut self, count: u64) -> i32 {
        i32::try_from(self.below(count + 1)).unwrap()
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{}", self.below(12)))
    }

    fn range_end(&mut self) -> Bytes {
        match self.below(4) {
            0 => Bytes::from_static(b"\0"),
            1 => self.key(),
            _ => Bytes::new(),
        }
    }

    fn value(&mut self) -> Bytes {
        Bytes::from(vec![b'v'; usize::try_from(self.below(40)).unwrap()])
    }

    fn put(&mut self) -> PutRequest {
        let ignore_value = self.chance(10);
        PutRequest {
            key: self.key(),
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if self.chance(30) { self.number(5) } else { 0 },
            prev_kv: self.chance(20),
            ignore_value,
            ignore_lease: self.chance(5),
        }
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        DeleteRangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            prev_kv: self.chance(30),
        }
    }

    fn range(&mut self) -> RangeRequest {
        RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            revision: if self.chance(30) { self.number(60) } else { 0 },
            limit: self.number(4),
            sort_order: i32::try_from(self.below(3)).unwrap(),
            sort_target: i32::try_from(self.below(5)).unwrap(),
            ..RangeRequest::default()
        }
    }

    fn txn(&mut self, depth: u64) -> TxnRequest {
        let list = |random: &mut Self| {
            let count = random.below(4);
            (0..count).map(|_| RequestOp { request: random.op(depth) }).collect()
        };
        let (success, failure) = (list(self), list(self));
        let compare = (0..self.below(3))
            .map(|_| Compare {
                result: self.choice(4),
                target: self.choice(5),
                key: self.key(),
                range_end: self.range_end(),
                target_union: match self.below(3) {
                    0 => Some(TargetUnion::Version(self.number(3))),
                    1 => Some(TargetUnion::ModRevision(self.number(50))),
                    _ => None,
                },
            })
            .collect();
        TxnRequest { compare, success, failure }
    }

    fn op(&mut self, depth: u64) -> Option<request_op::Request> {
        Some(match self.below(4) {
            0 => request_op::Request::RequestRange(self.range()),
            1 => request_op::Request::RequestPut(self.put()),
            2 => request_op::Request::RequestDeleteRange(self.delete()),
            _ if depth > 0 => request_op::Request::RequestTxn(self.txn(depth - 1)),
            _ => return None,
        })
    }

    fn request(&mut self) -> Op {
        match self.below(100) {
            0..40 => Op::Put(self.put()),
            40..55 => Op::DeleteRange(self.delete()),
            55..75 => Op::Txn(self.txn(2)),
            75..80 => {
                Op::Compaction(CompactionRequest { revision: self.number(200), physical: false })
            }
            80..86 => {
                Op::LeaseGrant(LeaseGrantRequest { id: self.number(5), ttl: self.number(100) })
            }
            86..90 => Op::LeaseRevoke(LeaseRevokeRequest { id: self.number(5) }),
            90..92 => {
                let checkpoint =
                    LeaseCheckpoint { id: self.number(5), remaining_ttl: self.number(50) };
                Op::LeaseCheckpoint(LeaseCheckpointRequest { checkpoints: vec![checkpoint] })
            }
            // Mostly cleared, so that the rest of the log does not bounce off.
            92..97 => Op::Alarm(AlarmRequest {
                action: if self.chance(70) { 2 } else { self.choice(3) },
                member_id: self.below(2),
                alarm: self.choice(3),
            }),
            97 => Op::ClusterVersionSet(membershippb::ClusterVersionSetRequest {
                ver: "3.5.0".into(),
            }),
            98 => Op::ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest {
                member_id: self.below(4),
                member_attributes: Some(membershippb::Attributes {
                    name: "name".into(),
                    client_urls: vec!["http://x:1".into()],
                }),
            }),
            _ => Op::DowngradeInfoSet(membershippb::DowngradeInfoSetRequest {
                enabled: false,
                ver: "3.5.0".into(),
            }),
        }
    }

    fn payload(&mut self, request_id: u64) -> Payload {
        match self.below(100) {
            0 => Payload::Empty,
            1..8 => {
                let id = 1 + self.below(4);
                let kind = i32::try_from(self.below(4)).unwrap();
                let member = Member {
                    id,
                    peer_urls: vec![format!("http://m:{}", 1 + self.below(5))],
                    // As members write it: no change makes a learner of a voter, which rows read too late would show.
                    is_learner: kind == i32::from(raftpb::ConfChangeType::ConfChangeAddLearnerNode),
                    ..Member::default()
                };
                Payload::ConfChange(raftpb::ConfChange {
                    id: request_id,
                    r#type: kind,
                    node_id: id,
                    context: Some(
                        ConfChangeContext { member, is_promote: self.chance(30) }.encode().into(),
                    ),
                })
            }
            _ => Payload::Request(Arc::new(InternalRaftRequest {
                header: Some(RequestHeader { id: request_id, ..RequestHeader::default() }),
                request: Some(self.request()),
                ..InternalRaftRequest::default()
            })),
        }
    }
}

fn decoded_again(payload: &Payload) -> Payload {
    match payload {
        Payload::Request(request) => Payload::Raw(Bytes::from(request.encode_to_vec())),
        other => other.clone(),
    }
}

fn same(ours: &Applied, theirs: &Applied, seed: u64, index: u64) {
    assert_eq!(ours.outcome, theirs.outcome, "seed {seed}, entry {index}");
    assert_eq!(ours.events, theirs.events, "seed {seed}, entry {index}");
    assert_eq!(ours.request_id, theirs.request_id, "seed {seed}, entry {index}");
}

/// Rows, but for those that only a commit writes.
fn rows(fixture: &mut Fixture) -> String {
    let rows = fixture.rows(&Bucket::ALL);
    rows.lines()
        .filter(|row| !row.contains("\tconsistent_index\t") && !row.contains("\tterm\t"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let mut steady = Fixture::new();
    let mut killed = Fixture::new();
    let first =
        Member { id: MEMBER, peer_urls: vec!["http://first:1".into()], ..Member::default() };
    let founding = Payload::ConfChange(raftpb::ConfChange {
        node_id: MEMBER,
        context: Some(ConfChangeContext { member: first, is_promote: false }.encode().into()),
        ..raftpb::ConfChange::default()
    });
    let mut log = vec![founding.clone()];
    steady.apply(founding.clone());
    killed.apply(founding);
    for index in 2..=ENTRIES {
        let payload = random.payload(index);
        log.push(decoded_again(&payload));
        let ours = steady.apply(payload);
        let theirs = killed.apply(decoded_again(log.last().unwrap()));
        same(&ours, &theirs, seed, index);
        if random.chance(10) {
            killed.commit();
        }
        if random.chance(3) && killed.machine.writer().consistent().index > 0 {
            // A snapshot stands behind a commit, as in the server.
            killed.commit();
            killed.snapshot = killed.machine.snapshot();
        }
        if random.chance(4) {
            killed = killed.restart();
            let start = usize::try_from(killed.index).unwrap();
            for payload in &log[start..] {
                killed.apply(payload.clone());
            }
            assert_eq!(
                rows(&mut killed),
                rows(&mut steady),
                "seed {seed}, restart after entry {index}"
            );
            assert_eq!(
                killed.machine.membership(),
                steady.machine.membership(),
                "seed {seed}, entry {index}"
            );
            assert_eq!(
                killed.machine.conf_state(),
                steady.machine.conf_state(),
                "seed {seed}, entry {index}"
            );
        }
    }
    assert_eq!(rows(&mut killed), rows(&mut steady), "seed {seed}");
    let hash = |fixture: &Fixture| {
        let reader = fixture.machine.reader();
        reader.hash_kv(reader.current_revision()).unwrap().hashed
    };
    let (ours, theirs) = (hash(&killed), hash(&steady));
    // The hash that a compaction leaves is of another compact revision, and gone after a restart.
    if ours.compact_revision == theirs.compact_revision {
        assert_eq!(ours, theirs, "seed {seed}");
    }
}

#[test]
fn two_members_hold_the_same() {
    if let Ok(seed) = std::env::var("MACHINE_SEED") {
        return run(seed.parse().unwrap());
    }
    let seeds = std::env::var("MACHINE_SEEDS").map_or(200, |count| count.parse().unwrap());
    for seed in 0..seeds {
        run(seed);
    }
}

/// Whatever stands in an entry, applying it gives an answer or a named error.
#[test]
fn arbitrary_bytes_do_not_panic() {
    let mut random = Random(1);
    let mut fixture = Fixture::new();
    for _ in 0..20_000 {
        let mut bytes = match random.payload(1) {
            Payload::Request(request) => request.encode_to_vec(),
            _ => Vec::new(),
        };
        for _ in 0..random.below(4) {
            let at = usize::try_from(random.below(bytes.len() as u64 + 1)).unwrap();
            let byte = u8::try_from(random.below(256)).unwrap();
            match random.below(3) {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ => bytes.truncate(at),
            }
        }
        if bytes.is_empty() {
            continue;
        }
        if fixture.try_apply(Payload::Raw(Bytes::from(bytes))).is_err() {
            fixture = Fixture::new();
        }
    }
}
