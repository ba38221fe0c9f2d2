//! Clients: each has one operation under way, through some member, and may never learn what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lease::{LeaseId, RenewError, Renewal};
use prost::Message as _;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::internal_raft_request::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestHeader, RequestOp, TxnRequest, request_op,
};
use raft::{NodeId, Role};
use replica::{Input, Proposal};

use super::env::{Env, Event, Life, Step};
use super::marks::Mark;
use super::node::Live;
use super::plant::Plant;
use super::reads::Pending;
use super::world::World;
use crate::model::Told;
use crate::rng::Stream;
use crate::solo::lock;

/// A client waits so long at most.
const PATIENCE_US: u64 = 2_000_000;

/// What a client asks a member for.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Write(Request),
    Linearizable(RangeRequest, i64),
    /// With what the client saw of that life of the member.
    Serializable(RangeRequest, Option<(Life, i64)>),
    /// Renew a lease; whether a member forwards it for a client.
    Renew(i64, bool),
}

/// What a member answers.
#[derive(Debug)]
pub(super) enum Answer {
    Written(Told),
    Read {
        revision: i64,
        life: Life,
    },
    Renewed,
    /// There is no such lease, revision, or anything.
    Refused,
    /// Nothing was done.
    Unavailable,
}

/// A client.
#[derive(Debug, Default)]
pub(super) struct Client {
    node: u64,
    /// Counts its operations.
    number: u64,
    under_way: Option<(u64, bool)>,
    /// What it has seen of each member's life.
    seen: BTreeMap<Life, i64>,
    leases: Vec<i64>,
    /// Last revision of a key that it knows, to compare with.
    revision: i64,
}

/// The key of this number.
pub(super) fn key(number: u64) -> Vec<u8> {
    format!("k{number:02}").into_bytes()
}

/// A put that one member understands differently.
pub(super) fn diverge(committed: machine::Committed) -> machine::Committed {
    let machine::Committed { index, term, payload } = committed;
    let payload = match payload {
        machine::Payload::Request(request) => {
            let mut request = InternalRaftRequest::clone(&request);
            if let Some(Request::Put(put)) = &mut request.request {
                put.value = Bytes::from_static(b"another");
            }
            machine::Payload::Request(Arc::new(request))
        }
        other => other,
    };
    machine::Committed { index, term, payload }
}

/// A request as the replica takes it.
fn proposal(name: u64, request: Request) -> Proposal {
    let request = InternalRaftRequest {
        header: Some(RequestHeader { id: name, ..RequestHeader::default() }),
        request: Some(request),
        ..InternalRaftRequest::default()
    };
    let data = Bytes::from(request.encode_to_vec());
    Proposal { request_id: name, data, request: Arc::new(request) }
}

fn put(key: Vec<u8>, rng: &mut Stream, name: u64, lease: i64) -> PutRequest {
    let length = rng.pick(&[5, 5, 30, 120, 700]).unwrap_or(5);
    let mut value = name.to_string().into_bytes();
    value.resize(value.len().max(length), b'v');
    PutRequest {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: rng.percent(30),
        ..PutRequest::default()
    }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl World {
    /// A client thinks of something.
    pub(super) fn think(&mut self, place: usize) {
        let span = self.env.workload.around(self.env.swarm.think_us);
        self.env.after(span, Event::Think(place));
        if self.env.is_calm
            || self.clients.get(place).is_none_or(|client| client.under_way.is_some())
        {
            return;
        }
        let known: Vec<u64> = self.nodes.keys().copied().collect();
        let env = &mut self.env;
        let Some(client) = self.clients.get_mut(place) else { return };
        if client.node == 0 || env.workload.percent(env.swarm.roam_percent) {
            client.node = env.workload.pick(&known).unwrap_or(1);
        }
        let op = client.draw(env);
        client.number += 1;
        client.under_way = Some((client.number, matches!(op, Op::Write(_))));
        env.ops += 1;
        let (number, at) = (client.number, client.node);
        let delay = env.workload.around(1_000);
        env.after(delay, Event::Arrive { client: place, number, at, op: Box::new(op) });
        env.after(PATIENCE_US, Event::GiveUp { client: place, number });
    }

    /// A client's request arrives.
    pub(super) fn arrive(&mut self, client: usize, number: u64, at: u64, op: Op) -> Step {
        let env = &mut self.env;
        match self.nodes.get_mut(&at).and_then(|node| node.live.as_mut()) {
            Some(live) => live.serve(client, number, op, env),
            None => {
                let answer = Box::new(Answer::Unavailable);
                env.after(1_000, Event::Answer { client, number, answer });
                Ok(())
            }
        }
    }

    /// A client has its answer.
    pub(super) fn answered(&mut self, place: usize, number: u64, answer: &Answer) {
        let World { env, clients, probes, nodes, .. } = self;
        if let Answer::Written(told) = answer {
            env.witness.learned(told.revision);
        }
        if place == usize::MAX {
            // A probe of the recovery.
            if let (Answer::Written(_), Some(&id)) = (answer, probes.get(&number))
                && let Some(node) = nodes.get_mut(&id)
            {
                node.is_probed = true;
            }
            return;
        }
        let Some(client) = clients.get_mut(place) else { return };
        match answer {
            Answer::Read { revision, life } => {
                env.witness.learned(*revision);
                let seen = client.seen.entry(*life).or_default();
                *seen = (*seen).max(*revision);
                client.revision = client.revision.max(*revision);
            }
            Answer::Written(told) => client.revision = client.revision.max(told.revision),
            // Elsewhere somebody may be there.
            Answer::Unavailable => client.node = 0,
            Answer::Renewed | Answer::Refused => {}
        }
        if client.under_way.is_some_and(|(under_way, _)| under_way == number) {
            client.under_way = None;
        }
    }

    /// A client waits no longer.
    pub(super) fn give_up(&mut self, place: usize, number: u64) {
        let Some(client) = self.clients.get_mut(place) else { return };
        if let Some((under_way, is_write)) = client.under_way
            && under_way == number
        {
            client.under_way = None;
            client.node = 0;
            if is_write {
                self.env.mark(Mark::WriteUnknown);
            }
        }
    }
}

impl Client {
    fn draw(&mut self, env: &mut Env) -> Op {
        let name = env.name();
        let known = env.witness.revision();
        let floor = env.witness.floor();
        let compacted = env.witness.model().compacted();
        let keys = env.swarm.keys;
        let kind = env.workload.weighted(&env.swarm.mix).unwrap_or(0);
        let rng = &mut env.workload;
        let one = key(rng.below(keys));
        let end = if rng.percent(50) { Vec::new() } else { key(rng.below(keys + 1)) };
        let range = RangeRequest {
            key: one.clone().into(),
            range_end: if end > one { end.clone().into() } else { Bytes::new() },
            ..RangeRequest::default()
        };
        let seen = self.seen.iter().filter(|(life, _)| life.node == self.node);
        let seen = seen.map(|(life, seen)| (*life, *seen)).max();
        match kind {
            1 => Op::Write(Request::DeleteRange(DeleteRangeRequest {
                key: range.key,
                range_end: range.range_end,
                prev_kv: rng.percent(50),
            })),
            2 => Op::Write(Request::Txn(self.txn(one, range, name, keys, rng))),
            3 => Op::Linearizable(range, floor),
            4 => Op::Serializable(range, seen),
            5 => {
                let low = (compacted - 3).max(1).unsigned_abs();
                let revision = rng.between((low, known.unsigned_abs().max(low)));
                let revision = i64::try_from(revision).unwrap_or(1);
                Op::Linearizable(RangeRequest { revision, ..range }, floor)
            }
            6 => {
                let back = i64::try_from(rng.below(30)).unwrap_or(0);
                Op::Write(Request::Compaction(CompactionRequest {
                    revision: (known - back).max(1),
                    ..CompactionRequest::default()
                }))
            }
            7 => {
                let id = i64::try_from(name).unwrap_or(1);
                self.leases.push(id);
                let ttl = i64::try_from(rng.between((1, 5))).unwrap_or(2);
                Op::Write(Request::LeaseGrant(LeaseGrantRequest { id, ttl }))
            }
            8 if !self.leases.is_empty() => Op::Renew(self.lease(rng), false),
            9 if !self.leases.is_empty() => {
                let id = self.lease(rng);
                Op::Write(Request::LeaseRevoke(LeaseRevokeRequest { id }))
            }
            _ => {
                let lease = if rng.percent(25) { self.lease(rng) } else { 0 };
                Op::Write(Request::Put(put(one, rng, name, lease)))
            }
        }
    }

    /// One of its newest leases, or none.
    fn lease(&self, rng: &mut Stream) -> i64 {
        let newest = self.leases.len().saturating_sub(3);
        rng.pick(&self.leases[newest..]).unwrap_or(0)
    }

    fn txn(
        &self,
        one: Vec<u8>,
        range: RangeRequest,
        name: u64,
        keys: u64,
        rng: &mut Stream,
    ) -> TxnRequest {
        let mut compare = Compare { key: one.clone().into(), ..Compare::default() };
        if rng.percent(50) {
            compare.set_target(CompareTarget::Version);
            compare.set_result(CompareResult::Less);
            let version = i64::try_from(1 + rng.below(4)).unwrap_or(1);
            compare.target_union = Some(TargetUnion::Version(version));
        } else {
            compare.set_target(CompareTarget::Mod);
            compare.set_result(CompareResult::Equal);
            let revision = if rng.percent(50) { 0 } else { self.revision };
            compare.target_union = Some(TargetUnion::ModRevision(revision));
        }
        // No key twice: that would be refused.
        let other = key(keys + rng.below(keys));
        let lease = if rng.percent(20) { self.lease(rng) } else { 0 };
        TxnRequest {
            compare: vec![compare],
            success: vec![
                op(request_op::Request::RequestPut(put(one, rng, name, lease))),
                op(request_op::Request::RequestPut(put(other.clone(), rng, name, 0))),
            ],
            failure: vec![
                op(request_op::Request::RequestRange(range)),
                op(request_op::Request::RequestDeleteRange(DeleteRangeRequest {
                    key: other.into(),
                    ..DeleteRangeRequest::default()
                })),
            ],
        }
    }
}

impl Live {
    /// Sends an answer, which may get lost.
    pub(super) fn answer(&mut self, client: usize, number: u64, answer: Answer, env: &mut Env) {
        if !env.is_calm && env.workload.percent(1) {
            return;
        }
        let delay = env.workload.around(1_000);
        env.after(delay, Event::Answer { client, number, answer: Box::new(answer) });
    }

    /// Takes a request.
    pub(super) fn serve(&mut self, client: usize, number: u64, op: Op, env: &mut Env) -> Step {
        match op {
            Op::Write(request) => {
                if self.status.leader == NodeId::NONE {
                    self.answer(client, number, Answer::Unavailable, env);
                    return Ok(());
                }
                let name = env.name();
                self.waiters.insert(name, (client, number));
                if env.plant == Plant::AckOnPropose && self.status.role == Role::Leader {
                    let revision = self.reader.current_revision() + 1;
                    let told = Told { revision, ..Told::default() };
                    env.witness.acknowledged(name, &told)?;
                }
                self.propose(name, request, env);
            }
            Op::Linearizable(request, floor) => {
                let pending = Pending { client, number, request, floor };
                self.read_linearizable(pending, env)?;
            }
            Op::Serializable(request, seen) => {
                env.mark(Mark::ReadSerializable);
                let request = RangeRequest { serializable: true, ..request };
                // A restart may take a member back.
                let floor = seen.map_or(0, |(life, seen)| if life == self.life { seen } else { 0 });
                self.read_now(Pending { client, number, request, floor }, env)?;
            }
            Op::Renew(id, is_forwarded) => self.renew(client, number, id, is_forwarded, env),
        }
        Ok(())
    }

    fn propose(&mut self, name: u64, request: Request, env: &mut Env) {
        let proposal = proposal(name, request);
        env.trace(self.id(), "propose", [name, 0, 0]);
        self.hear(Input::Propose(proposal), env);
    }

    /// Renews a lease here, or lets the leader do it.
    fn renew(&mut self, client: usize, number: u64, id: i64, is_forwarded: bool, env: &mut Env) {
        if self.status.role != Role::Leader {
            let leader = env.routes.get(&self.status.leader.0).copied();
            let answer = match leader {
                Some(at) if !is_forwarded => {
                    let (now, from) = (env.now_us(), self.id());
                    if let Some(arrives_us) = env.net.fate(now, from, at).arrives_us {
                        let op = Box::new(Op::Renew(id, true));
                        env.queue.at(arrives_us, Event::Arrive { client, number, at, op });
                    }
                    return;
                }
                _ => Answer::Unavailable,
            };
            return self.answer(client, number, answer, env);
        }
        let now = self.local(env);
        let renewed = lock(&self.machine.lessor()).renew(LeaseId(id), now);
        let answer = match renewed {
            Ok(Renewal::Renewed { .. }) => {
                env.mark(Mark::LeaseRenewed);
                if env.witness.has_authority(self.status.term.0) {
                    let now = env.now_us();
                    env.witness.renewed(id, now);
                }
                Answer::Renewed
            }
            Ok(Renewal::ClearCheckpoint) | Err(RenewError::NotPrimary) => Answer::Unavailable,
            Err(RenewError::NotFound { .. } | RenewError::Expired { .. }) => Answer::Refused,
        };
        env.trace(self.id(), "renew", [id.unsigned_abs(), 0, 0]);
        self.answer(client, number, answer, env);
    }

    /// Revokes what has run out, as the server does while the member leads.
    pub(super) fn expire(&mut self, env: &mut Env) {
        if self.status.role != Role::Leader && env.plant != Plant::DeposedLeaderRevokes {
            return;
        }
        let now = self.local(env);
        let expired = lock(&self.machine.lessor()).expired(now, lease::EXPIRED_PER_ROUND);
        for LeaseId(id) in expired {
            let name = env.name();
            env.witness.expires(name, id);
            env.trace(self.id(), "expired", [id.unsigned_abs(), name, 0]);
            let proposal = proposal(name, Request::LeaseRevoke(LeaseRevokeRequest { id }));
            let input = match env.plant {
                Plant::DeposedLeaderRevokes => Input::Propose(proposal),
                _ => Input::ProposeAsLeader(proposal),
            };
            self.hear(input, env);
        }
    }
}
