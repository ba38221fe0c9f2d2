//! Clients that use a cluster and write down what they did.
//!
//! Few hot keys below `k/`, so that operations meet; values that occur once, so that each event has one writer. Half of the
//! clients stay with one member, the others go elsewhere after a failure. Keys on leases live below `l/`, and nobody else
//! deletes them. No request waits longer than the time-out; what came of it then is unknown.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::history::{Action, Batch, Clock, History, Operation, Outcome, Renewal, Watch};
use crate::api::{Api, Refusal, Request, Response, WatchStream};
use crate::random::Random;

/// The time to live that clients ask for, in seconds. etcd grants at least one and a half election timeouts.
const TTL_SECONDS: i64 = 2;

/// Keep-alives of a lease before it is left alone or revoked, at most.
const KEEP_ALIVES_MAX: u64 = 6;

/// How long a watch waits for a message before it looks around.
const WATCH_POLL: Duration = Duration::from_millis(100);

/// How far back a watch starts, at most.
const BACK_MAX: i64 = 100;

/// How the clients behave.
#[derive(Clone, Debug)]
pub struct Config {
    /// Names the operations.
    pub seed: u64,
    /// Clients that read and write.
    pub clients: usize,
    /// Watches.
    pub watches: usize,
    /// Clients that hold leases.
    pub leases: usize,
    /// Keys.
    pub keys: u64,
    /// How long a request may take.
    pub timeout: Duration,
    /// How long a client waits between two operations, at most.
    pub pause_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            clients: 8,
            watches: 4,
            leases: 2,
            keys: 8,
            timeout: Duration::from_millis(1_000),
            pause_max: Duration::from_millis(20),
        }
    }
}

/// What the clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Run,
    /// No more operations; watches go on.
    Quiet,
    /// Watches end when they have come to this revision.
    Drain(i64),
}

#[derive(Debug)]
struct Shared {
    config: Config,
    /// Distinguishes the values of one workload from those of another in the same run.
    round: u64,
    clock: Clock,
    first_revision: i64,
    /// Guards the connections, by member; `None` for one that is removed.
    endpoints: Mutex<Vec<Option<Api>>>,
    /// Guards what was recorded.
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    history: History,
    revision: i64,
    cluster_id: u64,
    error: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    clients: Vec<JoinHandle<()>>,
    watches: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts the clients. `revision` is the newest one before; `round` differs from that of every other workload of the run.
    pub fn start(
        config: Config,
        round: u64,
        clock: Clock,
        revision: i64,
        endpoints: Vec<Option<Api>>,
    ) -> Self {
        let (phase, _) = watch::channel(Phase::Run);
        let recorded = Recorded { revision, ..Recorded::default() };
        let shared = Arc::new(Shared {
            config,
            round,
            clock,
            first_revision: revision,
            endpoints: Mutex::new(endpoints),
            recorded: Mutex::new(recorded),
        });
        let mut random = Random::new(shared.config.seed ^ (round << 32));
        let mut client = |id: usize| Client {
            shared: Arc::clone(&shared),
            phase: phase.subscribe(),
            random: Random::new(random.number()),
            id,
            sequence: 0,
        };
        let (readers, leases) = (shared.config.clients, shared.config.leases);
        let mut clients: Vec<_> =
            (0..readers).map(|id| tokio::spawn(client(id).operate())).collect();
        clients.extend((0..leases).map(|id| tokio::spawn(client(readers + id).hold_leases())));
        let watches = (0..shared.config.watches)
            .map(|id| tokio::spawn(client(readers + leases + id).watch()))
            .collect();
        Self { shared, phase, clients, watches }
    }

    /// Replaces the connections: a member came or went.
    pub fn set_endpoints(&self, endpoints: Vec<Option<Api>>) {
        *lock(&self.shared.endpoints) = endpoints;
    }

    /// Operations that ended so far.
    pub fn operations(&self) -> usize {
        lock(&self.shared.recorded).history.operations.len()
    }

    /// Ends the operations; watches and leases go on.
    pub async fn quiet(&mut self) -> Result<()> {
        self.phase.send_replace(Phase::Quiet);
        for client in self.clients.drain(..) {
            client.await.context("a client panicked")?;
        }
        Ok(())
    }

    /// Waits until all watches have come to a revision, and returns what was recorded.
    pub async fn finish(mut self, revision: i64, timeout: Duration) -> Result<History> {
        self.quiet().await?;
        self.phase.send_replace(Phase::Drain(revision));
        let deadline = tokio::time::Instant::now() + timeout;
        for task in &mut self.watches {
            tokio::time::timeout_at(deadline, task)
                .await
                .with_context(|| {
                    format!("a watch does not come to revision {revision} in {timeout:?}")
                })?
                .context("a watch panicked")?;
        }
        let recorded = std::mem::take(&mut *lock(&self.shared.recorded));
        if let Some(error) = recorded.error {
            bail!(error);
        }
        Ok(recorded.history)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        for task in self.clients.iter().chain(&self.watches) {
            task.abort();
        }
    }
}

struct Client {
    shared: Arc<Shared>,
    phase: watch::Receiver<Phase>,
    random: Random,
    id: usize,
    sequence: u64,
}

impl Client {
    fn is_running(&self) -> bool {
        *self.phase.borrow() == Phase::Run
    }

    /// A member that is there: the preferred one, or the next.
    fn member(&self, preferred: usize) -> Option<(usize, Api)> {
        let endpoints = lock(&self.shared.endpoints);
        let count = endpoints.len();
        (0..count)
            .map(|step| (preferred + step) % count)
            .find_map(|index| Some((index, endpoints[index].clone()?)))
    }

    fn unique(&mut self) -> String {
        self.sequence += 1;
        format!("{}.{}.{}", self.shared.round, self.id, self.sequence)
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k/{}", self.random.below(self.shared.config.keys)))
    }

    async fn pause(&mut self) {
        let limit = u64::try_from(self.shared.config.pause_max.as_micros()).unwrap_or(u64::MAX);
        tokio::time::sleep(Duration::from_micros(self.random.below(limit))).await;
    }

    /// Reads and writes until told to stop.
    async fn operate(mut self) {
        let is_faithful = self.id.is_multiple_of(2);
        let mut preferred = self.id / 2;
        // What this client knows of the key it looked at last.
        let mut last_seen = (Bytes::new(), 0);
        while self.is_running() {
            let action = self.action(&last_seen);
            let Some((member, api)) = self.member(preferred) else { return };
            match self.perform(member, &api, action.clone()).await {
                Outcome::Done { revision, is_written, found, .. } => {
                    if let Action::Put { key, .. }
                    | Action::CompareAndPut { key, .. }
                    | Action::Delete { key }
                    | Action::Read { key, .. } = action
                    {
                        let shown = found.iter().find(|kv| kv.key == key);
                        let at = if is_written {
                            revision
                        } else {
                            shown.map_or(0, |kv| kv.mod_revision)
                        };
                        last_seen = (key, at);
                    }
                }
                Outcome::Unknown | Outcome::Refused(_) => {
                    if !is_faithful {
                        preferred = self.random.index(8);
                    }
                    // A member that is down refuses at once.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            self.pause().await;
        }
    }

    fn action(&mut self, last_seen: &(Bytes, i64)) -> Action {
        let key = self.key();
        match self.random.below(100) {
            0..=24 => Action::Put { key, value: self.unique().into(), lease: 0 },
            25..=31 => {
                let next =
                    (key.last().map_or(0, |byte| u64::from(*byte)) + 1) % self.shared.config.keys;
                let other = Bytes::from(format!("k/{next}"));
                let value = self.unique();
                if other == key {
                    return Action::Delete { key };
                }
                Action::PutPair([
                    (key, format!("{value}.0").into()),
                    (other, format!("{value}.1").into()),
                ])
            }
            32..=51 => {
                let (key, expected) =
                    if last_seen.0.is_empty() { (key, 0) } else { last_seen.clone() };
                Action::CompareAndPut { key, expected, value: self.unique().into() }
            }
            52..=59 => Action::Delete { key },
            percent => {
                let is_serializable = percent >= 84;
                if self.random.one_in(3) {
                    let (key, range_end) = (Bytes::from_static(b"k/"), Bytes::from_static(b"k0"));
                    return Action::Read { key, range_end, is_serializable };
                }
                Action::Read { key, range_end: Bytes::new(), is_serializable }
            }
        }
    }

    /// Carries out one operation and records it.
    async fn perform(&mut self, member: usize, api: &Api, action: Action) -> Outcome {
        let invoked = self.shared.clock.now();
        let answer =
            tokio::time::timeout(self.shared.config.timeout, api.call(request(&action))).await;
        let returned = self.shared.clock.now();
        let outcome = match answer {
            Err(_) => Outcome::Unknown,
            Ok(Err(refusal)) => refused(refusal),
            Ok(Ok(mut response)) => {
                if let Some(header) = response.header_mut() {
                    self.check_cluster(header.cluster_id);
                }
                done(response)
            }
        };
        let mut recorded = lock(&self.shared.recorded);
        if let Outcome::Done { revision, .. } = outcome {
            recorded.revision = recorded.revision.max(revision);
        }
        recorded.history.operations.push(Operation {
            client: self.id,
            member,
            invoked,
            returned,
            action,
            outcome: outcome.clone(),
        });
        outcome
    }

    /// Servers of different tests that met by accident have been taken for wonders.
    fn check_cluster(&self, id: u64) {
        let mut recorded = lock(&self.shared.recorded);
        if recorded.cluster_id == 0 {
            recorded.cluster_id = id;
        } else if recorded.cluster_id != id {
            recorded.error =
                Some(format!("answers from two clusters: {:x} and {id:x}", recorded.cluster_id));
        }
    }

    /// Grants leases, hangs keys on them, keeps them alive for a while, and leaves or revokes them.
    async fn hold_leases(mut self) {
        while self.is_running() {
            if self.hold_lease().await.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// One lease; `None` when something had no answer.
    async fn hold_lease(&mut self) -> Option<()> {
        let preferred = self.random.index(8);
        let id = i64::try_from(self.random.below(1 << 40)).ok()? + 1;
        let grant = Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl: TTL_SECONDS });
        let (renewal, answer) = self.ask(preferred, grant).await?;
        let Response::LeaseGrant(granted) = answer else { return None };
        {
            let mut recorded = lock(&self.shared.recorded);
            let lease = recorded.history.leases.entry(id).or_default();
            lease.ttl = Duration::from_secs(u64::try_from(granted.ttl).unwrap_or(0));
            lease.renewals.push(renewal);
        }
        for _ in 0..=self.random.below(3) {
            let name = self.unique();
            let action = Action::Put {
                key: Bytes::from(format!("l/{name}")),
                value: name.into(),
                lease: id,
            };
            let (member, api) = self.member(preferred)?;
            self.perform(member, &api, action).await;
        }
        for _ in 0..self.random.below(KEEP_ALIVES_MAX) {
            let pause = Duration::from_millis(100 + self.random.below(600));
            // A lease that is given up early is one that expires during the run.
            if tokio::time::timeout(pause, self.phase.wait_for(|phase| *phase != Phase::Run))
                .await
                .is_ok()
            {
                return Some(());
            }
            let keep = Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id });
            let preferred = self.random.index(8);
            let Some((renewal, Response::LeaseKeepAlive(Some(answer)))) =
                self.ask(preferred, keep).await
            else {
                continue;
            };
            let mut recorded = lock(&self.shared.recorded);
            let lease = recorded.history.leases.entry(id).or_default();
            if answer.ttl <= 0 {
                lease.reported_gone.get_or_insert(renewal.returned);
                return Some(());
            }
            lease.renewals.push(renewal);
        }
        if self.random.one_in(3) {
            let now = self.shared.clock.now();
            lock(&self.shared.recorded).history.leases.entry(id).or_default().revoked = Some(now);
            self.ask(preferred, Request::LeaseRevoke(pb::LeaseRevokeRequest { id })).await?;
        }
        Some(())
    }

    /// Asks something that is recorded elsewhere.
    async fn ask(&self, preferred: usize, request: Request) -> Option<(Renewal, Response)> {
        let (_, api) = self.member(preferred)?;
        let invoked = self.shared.clock.now();
        let answer = tokio::time::timeout(self.shared.config.timeout, api.call(request)).await;
        let returned = self.shared.clock.now();
        let mut answer = answer.ok()?.ok()?;
        let term = answer.header_mut().map_or(0, |header| header.raft_term);
        Some((Renewal { invoked, returned, term }, answer))
    }

    /// Watches, one watch after the other, each from where the one before has ended.
    async fn watch(mut self) {
        let (key, range_end) = match self.id % 3 {
            0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            1 => (Bytes::from_static(b"k/"), Bytes::from_static(b"k0")),
            _ => (self.key(), Bytes::new()),
        };
        let mut next = (self.shared.first_revision
            - i64::try_from(self.random.below(100)).unwrap_or(0))
        .clamp(self.shared.first_revision.saturating_sub(BACK_MAX).max(1), i64::MAX);
        let is_done = |phase: Phase, next: i64| matches!(phase, Phase::Drain(upto) if next > upto);
        while !is_done(*self.phase.borrow(), next) {
            let preferred = self.random.index(8);
            let Some((member, api)) = self.member(preferred) else { return };
            let create = pb::WatchCreateRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                start_revision: next,
                prev_kv: true,
                ..Default::default()
            };
            let opened = tokio::time::timeout(self.shared.config.timeout, api.watch(create)).await;
            let Ok(Ok(stream)) = opened else {
                tokio::time::sleep(WATCH_POLL).await;
                continue;
            };
            let (key, range_end) = (key.clone(), range_end.clone());
            let mut watch = Watch { member, key, range_end, start: next, batches: Vec::new() };
            let followed = self.follow(stream, &mut watch, next).await;
            let mut recorded = lock(&self.shared.recorded);
            match followed {
                Ok(upto) => next = upto,
                Err(error) => recorded.error = Some(format!("{error:#}")),
            }
            recorded.history.watches.push(watch);
        }
    }

    /// Follows one watch until it breaks, has lived long enough, or is told to end; returns the next revision wanted.
    async fn follow(
        &mut self,
        mut stream: WatchStream,
        watch: &mut Watch,
        mut next: i64,
    ) -> Result<i64> {
        let end = self.shared.clock.now() + Duration::from_millis(500 + self.random.below(4_000));
        loop {
            let phase = *self.phase.borrow();
            let is_finished = match phase {
                Phase::Run => self.shared.clock.now() > end,
                Phase::Quiet => false,
                Phase::Drain(upto) => next > upto,
            };
            if is_finished {
                return Ok(next);
            }
            let Ok(message) = tokio::time::timeout(WATCH_POLL, stream.next()).await else {
                if phase != Phase::Run || self.random.one_in(5) {
                    stream.request_progress();
                }
                continue;
            };
            let Ok(Some(message)) = message else { return Ok(next) };
            ensure!(
                !message.canceled,
                "the watch from revision {} on member {} was canceled: {} (compacted {})",
                watch.start,
                watch.member,
                message.cancel_reason,
                message.compact_revision
            );
            let header = message.header.context("a message without a header")?;
            self.check_cluster(header.cluster_id);
            let last = message.events.last().and_then(|event| event.kv.as_ref());
            next = next.max(last.map_or(header.revision, |kv| kv.mod_revision) + 1);
            watch.batches.push(Batch {
                received: self.shared.clock.now(),
                revision: header.revision,
                term: header.raft_term,
                events: message.events,
            });
        }
    }
}

fn request(action: &Action) -> Request {
    let put = |key: &Bytes, value: &Bytes, lease: i64| pb::PutRequest {
        key: key.clone(),
        value: value.clone(),
        lease,
        prev_kv: true,
        ..Default::default()
    };
    let op = |op: Op| pb::RequestOp { request: Some(op) };
    match action {
        Action::Put { key, value, lease } => Request::Put(put(key, value, *lease)),
        Action::PutPair(pairs) => Request::Txn(pb::TxnRequest {
            success: pairs
                .iter()
                .map(|(key, value)| op(Op::RequestPut(put(key, value, 0))))
                .collect(),
            ..Default::default()
        }),
        Action::CompareAndPut { key, expected, value } => Request::Txn(pb::TxnRequest {
            compare: vec![pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::ModRevision(*expected)),
                ..Default::default()
            }],
            success: vec![op(Op::RequestPut(put(key, value, 0)))],
            failure: vec![op(Op::RequestRange(pb::RangeRequest {
                key: key.clone(),
                ..Default::default()
            }))],
        }),
        Action::Delete { key } => Request::DeleteRange(pb::DeleteRangeRequest {
            key: key.clone(),
            prev_kv: true,
            ..Default::default()
        }),
        Action::Read { key, range_end, is_serializable } => Request::Range(pb::RangeRequest {
            key: key.clone(),
            range_end: range_end.clone(),
            serializable: *is_serializable,
            ..Default::default()
        }),
    }
}

/// What an answer says. One that says nothing leaves everything open.
fn done(mut response: Response) -> Outcome {
    let Some((revision, term)) =
        response.header_mut().map(|header| (header.revision, header.raft_term))
    else {
        return Outcome::Unknown;
    };
    let (is_written, found) = match response {
        Response::Put(answer) => (true, answer.prev_kv.into_iter().collect()),
        Response::DeleteRange(answer) => (answer.deleted > 0, answer.prev_kvs),
        Response::Range(answer) | Response::RangeStream(answer) => (false, answer.kvs),
        Response::Txn(answer) => {
            let mut found = Vec::new();
            for response in answer.responses {
                match response.response {
                    Some(OpResponse::ResponsePut(put)) => found.extend(put.prev_kv),
                    Some(OpResponse::ResponseRange(range)) => found.extend(range.kvs),
                    Some(OpResponse::ResponseDeleteRange(_) | OpResponse::ResponseTxn(_))
                    | None => {}
                }
            }
            (answer.succeeded, found)
        }
        Response::Compact(_)
        | Response::LeaseGrant(_)
        | Response::LeaseRevoke(_)
        | Response::LeaseKeepAlive(_)
        | Response::LeaseTimeToLive(_)
        | Response::LeaseLeases(_)
        | Response::HashKv(_)
        | Response::Alarm(_)
        | Response::Watch(_)
        | Response::Watches(_)
        | Response::Auth(_) => return Outcome::Unknown,
    };
    Outcome::Done { revision, term, is_written, found }
}

/// What a refusal says. Only one that comes from the state machine itself is certain.
fn refused(refusal: Refusal) -> Outcome {
    if refusal.message.contains("requested lease not found") {
        Outcome::Refused(refusal.message)
    } else {
        Outcome::Unknown
    }
}
