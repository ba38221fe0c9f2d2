//! Members that are nothing but transports, on loopback.

mod answers;
mod hostile;
mod messages;
mod port;
mod probing;
mod real;
mod snapshots;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use raft::{EntryId, LogIndex, Term};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;

const CLUSTER: u64 = 0x49d3_79cb_f559_ade7;
/// Generous: two cores may be busy with other tests. Never waited for where a test passes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a transport told its member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Unreachable(u64),
    SnapshotSent(u64, bool),
    RemovedBy(u64),
}

/// A member that writes down what it hears.
#[derive(Debug)]
struct Listening {
    delivered: mpsc::UnboundedSender<Message>,
    told: mpsc::UnboundedSender<Told>,
    removed: std::sync::Mutex<BTreeSet<u64>>,
    is_full: AtomicBool,
}

impl Host for Listening {
    fn deliver(&self, message: Message) -> Delivery {
        if self.is_full.load(Ordering::SeqCst) {
            return Delivery::Full;
        }
        match self.delivered.send(message) {
            Ok(()) => Delivery::Taken,
            Err(_) => Delivery::Stopped,
        }
    }

    fn unreachable(&self, to: NodeId) {
        let _ = self.told.send(Told::Unreachable(to.0));
    }

    fn snapshot_sent(&self, to: NodeId, ok: bool) {
        let _ = self.told.send(Told::SnapshotSent(to.0, ok));
    }

    fn is_removed(&self, id: u64) -> bool {
        self.removed.lock().unwrap().contains(&id)
    }

    fn removed_from_cluster(&self, told_by: u64) {
        let _ = self.told.send(Told::RemovedBy(told_by));
    }
}

/// A running transport.
struct Member {
    id: u64,
    scheme: &'static str,
    address: SocketAddr,
    disk: vfs::sim::SimDisk,
    transport: Arc<Transport>,
    host: Arc<Listening>,
    delivered: mpsc::UnboundedReceiver<Message>,
    told: mpsc::UnboundedReceiver<Told>,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
    /// A thread of their own carries the streams until this is dropped, as a heart does.
    _streams: oneshot::Sender<()>,
}

impl Member {
    async fn start(id: u64) -> Self {
        Self::start_at(id, "127.0.0.1:0".parse().unwrap(), CLUSTER).await
    }

    async fn start_at(id: u64, address: SocketAddr, cluster_id: u64) -> Self {
        let limits = serve::Limits::DEFAULT;
        Self::start_within(id, address, cluster_id, limits, None, None).await
    }

    /// Secured if there are both sides of it.
    async fn start_within(
        id: u64,
        address: SocketAddr,
        cluster_id: u64,
        limits: serve::Limits,
        acceptor: Option<tls::Acceptor>,
        connector: Option<tls::Connector>,
    ) -> Self {
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (delivered_sender, delivered) = mpsc::unbounded_channel();
        let (told_sender, told) = mpsc::unbounded_channel();
        let host = Arc::new(Listening {
            delivered: delivered_sender,
            told: told_sender,
            removed: Default::default(),
            is_full: AtomicBool::new(false),
        });
        let identity = Identity {
            cluster_id,
            member_id: id,
            server_version: "3.5.30".to_owned(),
            peer_urls: vec![format!("{scheme}://{address}")],
        };
        let (held, dropped) = oneshot::channel::<()>();
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let streams = executor.handle().clone();
        std::thread::spawn(move || executor.block_on(dropped));
        let disk = vfs::sim::SimDisk::new();
        let dialler = Dialler::new(Duration::from_secs(2), connector);
        let options = Options { dialler, snap_dir: disk.dir(), metrics: Arc::default(), streams };
        let asked: Arc<dyn Host> = Arc::clone(&host) as _;
        let transport = Transport::new(identity, options, asked, Handle::current());
        let (stop, stopping) = watch::channel(false);
        let routes = transport.routes();
        let serving =
            tokio::spawn(serve::serve_within(limits, listener, acceptor, routes, stopping));
        Self {
            id,
            scheme,
            address,
            disk,
            transport,
            host,
            delivered,
            told,
            stop,
            serving,
            _streams: held,
        }
    }

    fn urls(&self) -> Vec<String> {
        vec![self.url()]
    }

    fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    fn knows(&self, other: &Self) {
        self.transport.add_peer(other.id, &other.urls());
    }

    /// Whether the other one reads both streams of this one.
    fn is_read_by(&self, other: u64) -> bool {
        self.transport.peer(other).is_some_and(|peer| peer.is_read())
    }

    async fn next(&mut self) -> Message {
        timeout(PATIENCE, self.delivered.recv()).await.expect("a message arrives").unwrap()
    }

    async fn hears(&mut self, wanted: Told) {
        let heard = async { while self.told.recv().await.unwrap() != wanted {} };
        timeout(PATIENCE, heard).await.unwrap_or_else(|_| panic!("{wanted:?} is told"));
    }

    fn files(&self) -> Vec<String> {
        self.disk.dir().list().unwrap().into_iter().map(|entry| entry.name).collect()
    }

    async fn stop(self) {
        self.transport.stop().await;
        self.stop.send_replace(true);
        timeout(PATIENCE, self.serving).await.expect("the server ends").unwrap();
    }
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Members that know each other and read each other's streams.
async fn connected<const N: usize>(ids: [u64; N]) -> Vec<Member> {
    let mut members = Vec::new();
    for id in ids {
        members.push(Member::start(id).await);
    }
    for member in &members {
        for other in members.iter().filter(|other| other.id != member.id) {
            member.knows(other);
        }
    }
    for member in &members {
        for other in ids.into_iter().filter(|other| *other != member.id) {
            until("streams", || member.is_read_by(other)).await;
        }
    }
    members
}

fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { from: NodeId(from), to: NodeId(to), term: Term(term), body }
}

fn heartbeat(from: u64, to: u64, commit: u64) -> Message {
    let body = Body::Heartbeat { commit: LogIndex(commit), context: bytes::Bytes::new() };
    message(from, to, 2, body)
}

fn append(from: u64, to: u64, prev: u64, payload: usize) -> Message {
    let prev = EntryId { term: Term(2), index: LogIndex(prev) };
    let entry = raft::Entry {
        term: Term(2),
        index: prev.index.next(),
        data: vec![b'x'; payload].into(),
        ..raft::Entry::default()
    };
    message(from, to, 2, Body::Append { prev, entries: vec![entry], commit: prev.index })
}
