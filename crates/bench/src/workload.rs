//! The workloads: what one operation is, and what has to be there before the first.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use testkit::random::Random;
use tokio::sync::Notify;

use crate::access::Access;
use crate::gateway::{Gateway, base64};
use crate::grpc::{Connection, Incoming, Outgoing, Target, frame};
use crate::load::{Measured, Meter, Plan, Recording, drive};
use crate::process::Processes;

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Puts in one transaction when a workload needs its keys to be there first.
const PREFILL_BATCH: usize = 100;

/// Seconds; no lease of a run expires during it.
const LEASE_TTL: i64 = 3600;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Puts.
    Put,
    /// Transactions of puts.
    TxnPut,
    /// Ranges over keys that were put before.
    Range,
    /// Ranges and puts.
    Mixed,
    /// Grants of leases.
    LeaseGrant,
    /// Keep-alives, each caller with a lease and a stream of its own.
    LeaseKeepalive,
    /// Puts of one key that every watcher watches; an operation is an event delivered.
    WatchFanOut,
    /// Puts of many keys, each with one watcher; an operation is an event delivered.
    WatchMany,
    /// Puts of one key with one watcher, on a connection on which `--readers` read all `--key-space` keys again and again; an operation is an
    /// event delivered.
    WatchBesideReads,
    /// Puts of a number of different keys, as fast as possible.
    Fill,
    /// Puts through the JSON gateway, each caller with a connection of its own.
    GatewayPut,
    /// Gets of one key through it.
    GatewayGet,
}

/// The sizes of a workload.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// TCP connections; the callers share them.
    #[arg(long, default_value_t = 8)]
    pub(crate) conns: usize,
    /// Callers: operations under way at once.
    #[arg(long, default_value_t = 64)]
    pub(crate) clients: usize,
    /// Bytes in a key.
    #[arg(long, default_value_t = 16)]
    pub(crate) key_size: usize,
    /// Bytes in a value.
    #[arg(long, default_value_t = 256)]
    pub(crate) val_size: usize,
    /// Number of different keys.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) key_space: u64,
    /// Keys one after the other instead of at random.
    #[arg(long)]
    pub(crate) sequential: bool,
    /// Keys in a range.
    #[arg(long, default_value_t = 1)]
    pub(crate) keys: u64,
    /// Ranges are serializable instead of linearizable.
    #[arg(long)]
    pub(crate) serializable: bool,
    /// Share of reads in the mixed workload.
    #[arg(long, default_value_t = 0.8)]
    pub(crate) read_share: f64,
    /// Puts in a transaction (txn-put, fill).
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,
    /// Watchers.
    #[arg(long, default_value_t = 1000)]
    pub(crate) watchers: usize,
    /// gRPC streams that the watchers share.
    #[arg(long, default_value_t = 10)]
    pub(crate) streams: usize,
    /// Those who read everything meanwhile (watch-beside-reads).
    #[arg(long, default_value_t = 10)]
    pub(crate) readers: usize,
    /// Seed of the random keys.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// Runs a workload against the members of a server, whose addresses are given; connections are spread over them. Must be called inside a `LocalSet`.
pub(crate) async fn run(
    workload: Workload,
    shape: &Shape,
    access: &Access,
    plan: &Plan,
    addresses: &[String],
    server: Option<&Processes>,
) -> Result<Measured> {
    ensure!(
        shape.conns > 0 && shape.clients > 0 && shape.key_space > 0,
        "conns, clients and key-space start at 1"
    );
    let bench = Rc::new(Bench::open(shape, access, addresses).await?);
    match workload {
        Workload::Put => put(bench, plan, server).await,
        Workload::TxnPut => txn_put(bench, plan, server).await,
        Workload::Range => range(bench, plan, server, 1.0).await,
        Workload::Mixed => range(bench, plan, server, shape.read_share).await,
        Workload::LeaseGrant => lease_grant(bench, plan, server).await,
        Workload::LeaseKeepalive => lease_keepalive(bench, plan, server).await,
        Workload::WatchFanOut => watch(bench, plan, server, 1).await,
        Workload::WatchMany => {
            let keys = u64::try_from(shape.watchers)?;
            watch(bench, plan, server, keys).await
        }
        Workload::WatchBesideReads => {
            bench.prefill(shape.key_space).await?;
            for reader in 0..shape.readers {
                tokio::task::spawn_local(Rc::clone(&bench).read_all(reader));
            }
            watch(bench, plan, server, 1).await
        }
        Workload::Fill => fill(bench, plan, server).await,
        Workload::GatewayPut => gateway(bench, plan, server, addresses, false).await,
        Workload::GatewayGet => gateway(bench, plan, server, addresses, true).await,
    }
}

/// What every workload needs.
struct Bench {
    shape: Shape,
    connections: Vec<Connection>,
    value: Bytes,
    random: RefCell<Random>,
    next: Cell<u64>,
    /// Why a reader that is not measured itself has given up.
    failed_read: RefCell<Option<anyhow::Error>>,
}

impl Bench {
    async fn open(shape: &Shape, access: &Access, addresses: &[String]) -> Result<Self> {
        let mut connections = Vec::new();
        let mut token = None;
        for address in addresses.iter().cycle().take(shape.conns) {
            let mut connection = Connection::open(address, access).await?;
            if connections.is_empty() {
                token = access.token(&connection).await?;
            }
            if let Some(token) = &token {
                connection.set_token(token)?;
            }
            connections.push(connection);
        }
        ensure!(!connections.is_empty(), "there is no server to speak to");
        let mut random = Random::new(shape.seed);
        // Random bytes: a server that compressed would gain nothing.
        let value = (0..shape.val_size)
            .map(|_| random.number().to_le_bytes()[0])
            .collect::<Vec<u8>>()
            .into();
        Ok(Self {
            shape: shape.clone(),
            connections,
            value,
            random: RefCell::new(random),
            next: Cell::new(0),
            failed_read: RefCell::new(None),
        })
    }

    fn connection(&self, caller: usize) -> &Connection {
        &self.connections[caller % self.connections.len()]
    }

    fn target(&self, path: &'static str) -> Target {
        self.connections[0].method(path)
    }

    fn key(&self, index: u64) -> Bytes {
        let width = self.shape.key_size;
        Bytes::from(format!("{index:0width$}"))
    }

    /// The index of the next key to use.
    fn next_index(&self) -> u64 {
        if !self.shape.sequential {
            return self.random.borrow_mut().below(self.shape.key_space);
        }
        let index = self.next.get();
        self.next.set(index + 1);
        index % self.shape.key_space
    }

    fn put_request(&self, index: u64) -> pb::PutRequest {
        pb::PutRequest { key: self.key(index), value: self.value.clone(), ..Default::default() }
    }

    fn put_txn(&self, indexes: impl Iterator<Item = u64>) -> pb::TxnRequest {
        let put = |index| pb::RequestOp { request: Some(Op::RequestPut(self.put_request(index))) };
        pb::TxnRequest { success: indexes.map(put).collect(), ..Default::default() }
    }

    /// Puts keys `0..count`, so that ranges find them.
    async fn prefill(&self, count: u64) -> Result<()> {
        let target = self.target(TXN);
        let mut index = 0;
        while index < count {
            let end = count.min(index + u64::try_from(PREFILL_BATCH)?);
            let request = frame(&self.put_txn(index..end));
            self.connections[0]
                .unary(&target, request)
                .await
                .context("put the keys that are to be read")?;
            index = end;
        }
        Ok(())
    }

    /// Reads all that [`Self::prefill`] put, until that fails: an operation that is measured tells of it then.
    async fn read_all(self: Rc<Self>, reader: usize) {
        let target = self.target(RANGE);
        let request = pb::RangeRequest {
            key: self.key(0),
            range_end: self.key(self.shape.key_space),
            ..Default::default()
        };
        let bytes_min = self.shape.val_size * usize::try_from(self.shape.key_space).unwrap_or(0);
        loop {
            let failed = match self.connection(reader).unary(&target, frame(&request)).await {
                Ok(answer) if answer.len() >= bytes_min => continue,
                Ok(answer) => anyhow::anyhow!("{} bytes lack keys", answer.len()),
                Err(error) => error.into(),
            };
            self.failed_read.borrow_mut().get_or_insert(failed.context("read everything"));
            return;
        }
    }
}

async fn put(bench: Rc<Bench>, plan: &Plan, server: Option<&Processes>) -> Result<Measured> {
    let target = bench.target(PUT);
    drive(plan, server, Recording::PerCall, move |caller, _| {
        let (bench, target) = (Rc::clone(&bench), target.clone());
        async move {
            let request = frame(&bench.put_request(bench.next_index()));
            bench.connection(caller).unary(&target, request).await?;
            Ok(())
        }
    })
    .await
}

async fn txn_put(bench: Rc<Bench>, plan: &Plan, server: Option<&Processes>) -> Result<Measured> {
    let target = bench.target(TXN);
    drive(plan, server, Recording::PerCall, move |caller, _| {
        let (bench, target) = (Rc::clone(&bench), target.clone());
        async move {
            // Neighbours, because a transaction may not put a key twice.
            let first = bench.next_index();
            let batch = u64::try_from(bench.shape.batch)?;
            let request = frame(&bench.put_txn(first..first + batch));
            bench.connection(caller).unary(&target, request).await?;
            Ok(())
        }
    })
    .await
}

/// Ranges, mixed with puts unless the share of reads is 1.
async fn range(
    bench: Rc<Bench>,
    plan: &Plan,
    server: Option<&Processes>,
    share: f64,
) -> Result<Measured> {
    let (range, put) = (bench.target(RANGE), bench.target(PUT));
    let keys = bench.shape.keys;
    bench.prefill(bench.shape.key_space + keys).await?;
    // Every key and value that was asked for is in the answer: measuring misses would be easy.
    let bytes_min = usize::try_from(keys)? * (bench.shape.key_size + bench.shape.val_size);
    drive(plan, server, Recording::PerCall, move |caller, _| {
        let (bench, range, put) = (Rc::clone(&bench), range.clone(), put.clone());
        async move {
            let index = bench.next_index();
            // 53 bits are what a float holds exactly.
            let is_read =
                (bench.random.borrow_mut().number() >> 11) as f64 / ((1_u64 << 53) as f64) < share;
            if !is_read {
                let request = frame(&bench.put_request(index));
                bench.connection(caller).unary(&put, request).await?;
                return Ok(());
            }
            let range_end = if keys == 1 { Bytes::new() } else { bench.key(index + keys) };
            let serializable = bench.shape.serializable;
            let request = pb::RangeRequest {
                key: bench.key(index),
                range_end,
                serializable,
                ..Default::default()
            };
            let answer = bench.connection(caller).unary(&range, frame(&request)).await?;
            ensure!(answer.len() >= bytes_min, "an answer of {} bytes lacks keys", answer.len());
            Ok(())
        }
    })
    .await
}

async fn gateway(
    bench: Rc<Bench>,
    plan: &Plan,
    server: Option<&Processes>,
    addresses: &[String],
    is_reading: bool,
) -> Result<Measured> {
    if is_reading {
        bench.prefill(bench.shape.key_space).await?;
    }
    let mut gateways = Vec::new();
    for address in addresses.iter().cycle().take(plan.clients) {
        // A caller has one request at a time, so the cell is never borrowed twice.
        gateways.push(Rc::new(RefCell::new(Some(Gateway::open(address).await?))));
    }
    let gateways = Rc::new(gateways);
    let value: Rc<str> = base64(&bench.value).into();
    drive(plan, server, Recording::PerCall, move |caller, _| {
        let (bench, value, gateway) =
            (Rc::clone(&bench), Rc::clone(&value), Rc::clone(&gateways[caller]));
        async move {
            let mut own = gateway.borrow_mut().take().context("the connection broke before")?;
            let key = base64(&bench.key(bench.next_index()));
            if is_reading {
                let body = format!(r#"{{"key":"{key}"}}"#);
                let answer = own.post("/v3/kv/range", body).await?;
                ensure!(answer.len() > bench.shape.val_size, "an answer lacks its value");
            } else {
                let body = format!(r#"{{"key":"{key}","value":"{value}"}}"#);
                own.post("/v3/kv/put", body).await?;
            }
            *gateway.borrow_mut() = Some(own);
            Ok(())
        }
    })
    .await
}

async fn lease_grant(
    bench: Rc<Bench>,
    plan: &Plan,
    server: Option<&Processes>,
) -> Result<Measured> {
    let target = bench.target(LEASE_GRANT);
    drive(plan, server, Recording::PerCall, move |caller, _| {
        let (bench, target) = (Rc::clone(&bench), target.clone());
        async move {
            let request = frame(&pb::LeaseGrantRequest { ttl: LEASE_TTL, id: 0 });
            bench.connection(caller).unary(&target, request).await?;
            Ok(())
        }
    })
    .await
}

async fn lease_keepalive(
    bench: Rc<Bench>,
    plan: &Plan,
    server: Option<&Processes>,
) -> Result<Measured> {
    struct Kept {
        request: Bytes,
        outgoing: Outgoing,
        incoming: Incoming,
    }
    let (grant, keep_alive) = (bench.target(LEASE_GRANT), bench.target(LEASE_KEEP_ALIVE));
    let mut kept = Vec::new();
    for caller in 0..plan.clients {
        let request = frame(&pb::LeaseGrantRequest { ttl: LEASE_TTL, id: 0 });
        let answer =
            bench.connection(caller).unary(&grant, request).await.context("grant a lease")?;
        let id = pb::LeaseGrantResponse::decode(answer).context("decode the grant")?.id;
        let request = frame(&pb::LeaseKeepAliveRequest { id });
        let opened = bench.connection(caller).stream(&keep_alive, request.clone()).await;
        let (outgoing, mut incoming) = opened.context("open a keep-alive stream")?;
        incoming.next().await.context("first keep-alive")?.context("the stream ended")?;
        // A caller has one operation at a time, so the cell is never borrowed twice.
        kept.push(Rc::new(RefCell::new(Some(Kept { request, outgoing, incoming }))));
    }
    let kept = Rc::new(kept);
    drive(plan, server, Recording::PerCall, move |caller, _| {
        let kept = Rc::clone(&kept[caller]);
        async move {
            let mut own = kept.borrow_mut().take().context("the stream broke before")?;
            own.outgoing.send(own.request.clone())?;
            let answer = own.incoming.next().await?.context("the stream ended")?;
            let answer = pb::LeaseKeepAliveResponse::decode(answer).context("decode the answer")?;
            ensure!(answer.ttl == LEASE_TTL, "the lease is gone");
            *kept.borrow_mut() = Some(own);
            Ok(())
        }
    })
    .await
}

/// Puts that are waited for by those who watch them.
struct Deliveries {
    /// Puts under way: which have how many deliveries to come. The first 8 bytes of a value say which put it is.
    under_way: RefCell<HashMap<u64, Delivery>>,
    next: Cell<u64>,
}

struct Delivery {
    began: Instant,
    left: usize,
    all: Rc<Notify>,
}

async fn watch(
    bench: Rc<Bench>,
    plan: &Plan,
    server: Option<&Processes>,
    keys: u64,
) -> Result<Measured> {
    ensure!(bench.shape.val_size >= 8, "a watched value has at least 8 bytes");
    let deliveries =
        Rc::new(Deliveries { under_way: RefCell::new(HashMap::new()), next: Cell::new(0) });
    let meter_cell: Rc<RefCell<Option<Rc<Meter>>>> = Rc::default();
    let watchers = bench.shape.watchers;
    let streams = bench.shape.streams.clamp(1, watchers.max(1));
    let target = bench.target(WATCH);
    for stream in 0..streams {
        let own = (stream..watchers).step_by(streams);
        let creates: Vec<Bytes> =
            own.map(|index| create_watch(&bench, index as u64 % keys)).collect();
        let first = creates.first().context("no watchers")?.clone();
        let (mut outgoing, mut incoming) =
            bench.connection(stream).stream(&target, first).await.context("open a watch stream")?;
        for create in creates.iter().skip(1) {
            outgoing.send(create.clone()).context("create a watch")?;
        }
        for _ in &creates {
            let answer =
                incoming.next().await.context("create a watch")?.context("the stream ended")?;
            let answer = pb::WatchResponse::decode(answer).context("decode the answer")?;
            ensure!(
                answer.created && !answer.canceled,
                "a watch was refused: {}",
                answer.cancel_reason
            );
        }
        let (deliveries, meter_cell) = (Rc::clone(&deliveries), Rc::clone(&meter_cell));
        tokio::task::spawn_local(async move {
            // Lives as long as the stream is to.
            let _outgoing = outgoing;
            while let Ok(Some(message)) = incoming.next().await {
                let Ok(message) = pb::WatchResponse::decode(message) else { return };
                let meter = meter_cell.borrow().clone();
                let Some(meter) = meter else { continue };
                for event in message.events {
                    deliveries.arrived(&event, &meter);
                }
            }
        });
    }
    let put = bench.target(PUT);
    let expected = watchers / usize::try_from(keys)?;
    drive(plan, server, Recording::ByOperation, move |caller, meter| {
        let (bench, deliveries, put) = (Rc::clone(&bench), Rc::clone(&deliveries), put.clone());
        meter_cell.borrow_mut().get_or_insert(meter);
        async move {
            let number = deliveries.next.get();
            deliveries.next.set(number + 1);
            let all = Rc::new(Notify::new());
            let delivery = Delivery { began: Instant::now(), left: expected, all: Rc::clone(&all) };
            deliveries.under_way.borrow_mut().insert(number, delivery);
            let index = bench.random.borrow_mut().below(keys);
            let mut value = bench.value.to_vec();
            value[..8].copy_from_slice(&number.to_be_bytes());
            let request =
                pb::PutRequest { key: bench.key(index), value: value.into(), ..Default::default() };
            bench.connection(caller).unary(&put, frame(&request)).await?;
            all.notified().await;
            bench.failed_read.take().map_or(Ok(()), Err)
        }
    })
    .await
}

impl Deliveries {
    fn arrived(&self, event: &proto::mvccpb::Event, meter: &Meter) {
        let number = event
            .kv
            .as_ref()
            .and_then(|kv| kv.value.first_chunk())
            .map(|bytes| u64::from_be_bytes(*bytes));
        let Some(number) = number else { return };
        let mut under_way = self.under_way.borrow_mut();
        let Some(delivery) = under_way.get_mut(&number) else { return };
        meter.record(delivery.began);
        delivery.left -= 1;
        if delivery.left == 0 {
            delivery.all.notify_one();
            under_way.remove(&number);
        }
    }
}

fn create_watch(bench: &Bench, index: u64) -> Bytes {
    let create = pb::WatchCreateRequest { key: bench.key(index), ..Default::default() };
    frame(&pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    })
}

async fn fill(bench: Rc<Bench>, plan: &Plan, server: Option<&Processes>) -> Result<Measured> {
    let target = bench.target(TXN);
    let batch = u64::try_from(bench.shape.batch.max(1))?;
    let space = bench.shape.key_space;
    let plan = Plan { total: Some(space.div_ceil(batch)), ..plan.clone() };
    drive(&plan, server, Recording::PerCall, move |caller, _| {
        let (bench, target) = (Rc::clone(&bench), target.clone());
        async move {
            let first = bench.next.get();
            bench.next.set(first + batch);
            let request = frame(&bench.put_txn(first..space.min(first + batch)));
            bench.connection(caller).unary(&target, request).await?;
            Ok(())
        }
    })
    .await
}
