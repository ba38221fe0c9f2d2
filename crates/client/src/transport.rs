//! Connections: one HTTP/2 connection an endpoint, kept open by a task each, picked round-robin among those that are ready.
//!
//! Not tonic's own channel, for two reasons. A call must wait for a ready connection and then know whether its request was sent, since a
//! write that may have been sent is not repeated; tonic's balancer answers with the first connect error and does not tell. And each tonic
//! channel passes every request through one more task, which the load generator would measure as the server's.
//!
//! States of one endpoint:
//!
//! ```text
//!   connecting ──ok──► ready ──closed──► connecting (at once)
//!       └──failed──► waiting (backoff) ──► connecting
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use hyper::client::conn::http2::{Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tls::Connector;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use crate::endpoint::{Address, Endpoint};

/// gRPC's connection backoff: 1 s, growing by 1.6 up to 120 s.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_GROWTH: f64 = 1.6;
const BACKOFF_MAX: Duration = Duration::from_secs(120);

/// gRPC allows a connection attempt at least this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// gRPC refuses to ping more often than this, whatever was asked for.
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(10);

/// HTTP/2 windows: large enough that a range of some MiB is not slowed by flow control on a LAN.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How connections are made.
#[derive(Clone, Debug)]
pub(crate) struct Dialing {
    /// Secures each connection.
    pub(crate) tls: Option<Connector>,
    pub(crate) keepalive_time: Option<Duration>,
    pub(crate) keepalive_timeout: Duration,
    /// Whether a connection without calls is probed too.
    pub(crate) keepalive_while_idle: bool,
}

/// Addresses of the connection that carried a call: (peer, local).
pub(crate) type Carrier = Arc<OnceLock<(String, String)>>;

/// The service that generated stubs send their requests through. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    pool: Arc<Pool>,
}

impl Transport {
    /// Starts connecting to the endpoints, one task each, which end with the last clone of the transport.
    pub(crate) fn start(endpoints: &[Endpoint], dialing: Dialing) -> Self {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { state, changed: Notify::new() });
        let transport = Self { pool: Arc::new(Pool { shared, dialing }) };
        transport.set_endpoints(endpoints);
        transport
    }

    /// Connects to these endpoints from now on. Those that stay keep their connection; calls on one that is left run to their end.
    pub(crate) fn set_endpoints(&self, endpoints: &[Endpoint]) {
        let shared = &self.pool.shared;
        let mut state = shared.lock();
        let mut old = std::mem::take(&mut state.slots);
        for endpoint in endpoints {
            let slot = match old.iter().position(|slot| slot.endpoint == *endpoint) {
                Some(index) => old.swap_remove(index),
                None => {
                    state.last_id += 1;
                    let id = state.last_id;
                    let task = keep_connected(
                        Arc::clone(shared),
                        id,
                        endpoint.clone(),
                        self.pool.dialing.clone(),
                    );
                    let task = tokio::spawn(task).abort_handle();
                    Slot { id, endpoint: endpoint.clone(), ready: None, task }
                }
            };
            state.slots.push(slot);
        }
        // A connection that carries nothing closes when its last handle goes, which ends its task; one that is being made has none.
        for slot in old.iter().filter(|slot| slot.ready.is_none()) {
            slot.task.abort();
        }
    }

    /// Whether connections are secured.
    pub(crate) fn is_secure(&self) -> bool {
        self.pool.dialing.tls.is_some()
    }

    /// Why the latest connection attempt failed, in gRPC's words; empty while something is connected.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.pool.shared.lock();
        if state.slots.iter().any(|slot| slot.ready.is_some()) {
            None
        } else {
            state.last_error.clone()
        }
    }

    fn scheme(&self) -> UriScheme {
        if self.is_secure() { UriScheme::HTTPS } else { UriScheme::HTTP }
    }

    async fn send(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<hyper::body::Incoming>, Status> {
        let (mut parts, body) = request.into_parts();
        let carrier = parts.extensions.remove::<Carrier>();
        let path = parts.uri.path_and_query().cloned();
        let mut request = http::Request::from_parts(parts, body);
        loop {
            let mut ready = self.pool.shared.pick().await;
            *request.uri_mut() = uri(self.scheme(), ready.authority.clone(), path.clone());
            if let Some(carrier) = &carrier {
                // Set once: a call that moves on to a second connection reports the first.
                let _ = carrier.set((ready.peer.clone(), ready.local.clone()));
            }
            match ready.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    // The connection closed before the request was sent: another one may carry it, also if it is a write.
                    Some(unsent) => request = unsent,
                    None => return Err(broken(error.into_error())),
                },
            }
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl tower_service::Service<http::Request<Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    /// Always ready: waiting for a connection is part of the call, under its deadline.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// Ends the connection tasks with the last user.
struct Pool {
    shared: Arc<Shared>,
    dialing: Dialing,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for slot in &self.shared.lock().slots {
            slot.task.abort();
        }
    }
}

struct Shared {
    /// Guards the table of connections; held for a look or a change only, never across an await.
    state: Mutex<State>,
    /// Told of each connection that became ready.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// One an endpoint.
    slots: Vec<Slot>,
    /// Ids are never used again: a task whose slot is gone finds none.
    last_id: u64,
    /// Where the next round-robin pick starts.
    next: usize,
    last_error: Option<String>,
}

struct Slot {
    id: u64,
    endpoint: Endpoint,
    /// `None` while it is not connected.
    ready: Option<Ready>,
    /// Keeps it connected.
    task: AbortHandle,
}

#[derive(Clone)]
struct Ready {
    sender: SendRequest<Body>,
    authority: Authority,
    peer: String,
    local: String,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pick(&self) -> Ready {
        loop {
            // Registered before looking, so that a connection made in between is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(ready) = self.lock().pick() {
                return ready;
            }
            changed.await;
        }
    }
}

impl State {
    fn pick(&mut self) -> Option<Ready> {
        let count = self.slots.len();
        for step in 0..count {
            let index = (self.next + step) % count;
            let ready = self.slots.get(index).and_then(|slot| slot.ready.as_ref());
            if let Some(ready) = ready.filter(|ready| !ready.sender.is_closed()) {
                let ready = ready.clone();
                self.next = (index + 1) % count;
                return Some(ready);
            }
        }
        None
    }
}

/// Keeps one endpoint connected for as long as the task lives and the endpoint has its slot.
async fn keep_connected(shared: Arc<Shared>, id: u64, endpoint: Endpoint, dialing: Dialing) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, dial(&endpoint, &dialing)).await;
        let failure = match attempt {
            Ok(Ok((ready, connection))) => {
                let since = Instant::now();
                if !shared.publish(id, Some(ready)) {
                    return;
                }
                // Drives the connection until it closes; why it closed reaches the calls that were on it.
                let _ = connection.await;
                if !shared.publish(id, None) {
                    return;
                }
                if since.elapsed() >= BACKOFF_FIRST {
                    backoff = BACKOFF_FIRST;
                    continue;
                }
                // Whoever closes at once does not speak HTTP/2, or speaks it on TLS: trying again at once would not end.
                "error reading server preface: EOF".to_owned()
            }
            Ok(Err(failure)) => failure,
            Err(_) => "transport: Error while dialing: i/o timeout".to_owned(),
        };
        shared.lock().last_error = Some(failure);
        tokio::time::sleep(backoff).await;
        backoff = backoff.mul_f64(BACKOFF_GROWTH).min(BACKOFF_MAX);
    }
}

impl Shared {
    /// Says whether the endpoint has its slot still.
    fn publish(&self, id: u64, ready: Option<Ready>) -> bool {
        let is_wanted = match self.lock().slots.iter_mut().find(|slot| slot.id == id) {
            Some(slot) => {
                slot.ready = ready;
                true
            }
            None => false,
        };
        self.changed.notify_waiters();
        is_wanted
    }
}

/// The task that carries a connection's bytes.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

async fn dial(endpoint: &Endpoint, dialing: &Dialing) -> Result<(Ready, Driver), String> {
    let authority = endpoint.authority();
    match &endpoint.address {
        Address::Tcp(address) => {
            check_address(address)?;
            let stream = TcpStream::connect(address)
                .await
                .map_err(|error| dial_error("tcp", address, &error))?;
            let local = stream.local_addr().map(|a| a.to_string()).unwrap_or_default();
            let peer = stream.peer_addr().map(|a| a.to_string()).unwrap_or_default();
            // Requests are small and answered one by one: waiting for more bytes to send only adds latency.
            stream.set_nodelay(true).map_err(|error| dial_error("tcp", address, &error))?;
            let stream = match &dialing.tls {
                None => tls::Stream::Plain(stream.into()),
                Some(connector) => secured(connector, stream, address).await?,
            };
            let (sender, connection) = handshake(stream, dialing).await?;
            Ok((Ready { sender, authority, peer, local }, Box::pin(connection)))
        }
        Address::Unix(path) => {
            let name = path.display().to_string();
            let stream = UnixStream::connect(path)
                .await
                .map_err(|error| dial_error("unix", &name, &error))?;
            let (sender, connection) = handshake(stream, dialing).await?;
            Ok((
                Ready { sender, authority, peer: name, local: "@".to_owned() },
                Box::pin(connection),
            ))
        }
    }
}

/// Shakes hands with the host of an address.
async fn secured(
    connector: &Connector,
    stream: TcpStream,
    address: &str,
) -> Result<tls::Stream, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    connector
        .connect(stream, host)
        .await
        .map_err(|error| format!("transport: authentication handshake failed: {error}"))
}

async fn handshake<S>(
    stream: S,
    dialing: &Dialing,
) -> Result<(SendRequest<Body>, Connection<TokioIo<S>, Body, TokioExecutor>), String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(dialing.keepalive_time.map(|time| time.max(KEEPALIVE_TIME_MIN)))
        .keep_alive_timeout(dialing.keepalive_timeout)
        .keep_alive_while_idle(dialing.keepalive_while_idle)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("transport: {error}"))
}

/// Finds what no resolver needs to be asked about.
fn check_address(address: &str) -> Result<(), String> {
    let after_host = address.rsplit_once(']').map_or(address, |(_, port)| port);
    let complaint = match after_host.matches(':').count() {
        0 => "missing port in address",
        1 => {
            let port = after_host.rsplit(':').next().unwrap_or_default();
            return match port.parse::<u16>() {
                Ok(_) => Ok(()),
                Err(_) => Err(format!(
                    "transport: Error while dialing: dial tcp: lookup tcp/{port}: unknown port"
                )),
            };
        }
        _ => "too many colons in address",
    };
    Err(format!("transport: Error while dialing: dial tcp: address {address}: {complaint}"))
}

/// Words a failed dial as Go's network library does, since operators search for these texts.
fn dial_error(network: &str, address: &str, error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let reason = if error.kind() == ErrorKind::ConnectionRefused {
        "connect: connection refused".to_owned()
    } else if error.kind() == ErrorKind::NotFound && network == "unix" {
        "connect: no such file or directory".to_owned()
    } else {
        error.to_string()
    };
    format!("transport: Error while dialing: dial {network} {address}: {reason}")
}

fn uri(scheme: UriScheme, authority: Authority, path: Option<PathAndQuery>) -> http::Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    http::Uri::from_parts(parts).unwrap_or_default()
}

/// A call whose connection broke: the server may have seen it.
fn broken(error: hyper::Error) -> Status {
    Status::unavailable(format!("error reading from server: {error}"))
}
