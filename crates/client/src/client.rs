//! The client itself: options, and the one path that every unary call takes.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use proto::etcdserverpb::AuthenticateRequest;
use tokio::time::Instant;
use tonic::metadata::{Ascii, AsciiMetadataValue, MetadataValue};
use tonic::{Code, Request, Response, Status};

use tls::Connector;

use crate::endpoint::{Address, Endpoint, Scheme};
use crate::error::{Error, Result};
use crate::retry::{self, FailedAttempt, Observer, Policy};
use crate::transport::{Carrier, Dialing, Transport};

/// Version of the API this client speaks; servers count requests by it.
const CLIENT_API_VERSION: &str = "3.5";

/// etcd's client sends no request larger than this (2 MiB), so that a mistake fails before it travels.
const REQUEST_BYTES_MAX: usize = 2 << 20;

/// How a [`Client`] is made. `Default` is etcdctl's.
#[derive(Clone)]
pub struct Options {
    /// How connections are secured; what `None` means depends on the first endpoint's scheme (see the crate's documentation).
    pub tls: Option<tls::Settings>,
    /// Name and password; with them, each connection authenticates first.
    pub user: Option<(String, String)>,
    /// Limits that first authentication.
    pub dial_timeout: Duration,
    /// Silence on a connection with calls in flight after which it is probed; at least 10 s is used, as gRPC does.
    pub keepalive_time: Option<Duration>,
    /// How long a probe may go unanswered.
    pub keepalive_timeout: Duration,
    /// Whether connections without calls are probed too.
    pub keepalive_while_idle: bool,
    /// Deadline of each unary call; `None` waits for ever. See [`Client::with_timeout`].
    pub timeout: Option<Duration>,
    /// Largest request that is sent.
    pub request_bytes_max: usize,
    /// Told of each failed attempt of a unary call.
    pub observer: Option<Observer>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: None,
            user: None,
            dial_timeout: Duration::from_secs(2),
            keepalive_time: None,
            keepalive_timeout: Duration::from_secs(6),
            keepalive_while_idle: false,
            timeout: None,
            request_bytes_max: REQUEST_BYTES_MAX,
            observer: None,
        }
    }
}

impl std::fmt::Debug for Options {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A connection to a cluster. Clones share connections and are cheap.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Option<Duration>,
    require_leader: bool,
    /// Sent instead of the token of this client's own user.
    token: Option<MetadataValue<Ascii>>,
}

#[derive(Debug)]
struct Shared {
    /// Guards the list, which is replaced whole.
    endpoints: Mutex<Vec<Endpoint>>,
    options: Options,
    transport: Transport,
    /// Guards the token of the last authentication; replaced whole.
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

impl Client {
    /// Makes a client and, with a user, authenticates. Connections are made in the background: a server that is down shows only in calls.
    ///
    /// Must be called within a tokio runtime.
    pub async fn connect<S: AsRef<str>>(
        endpoints: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Self> {
        let client = Self::start(endpoints, options)?;
        if client.shared.options.user.is_some() {
            client
                .clone()
                .with_timeout(Some(client.shared.options.dial_timeout))
                .refresh_token()
                .await?;
        }
        Ok(client)
    }

    fn start<S: AsRef<str>>(
        endpoints: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Self> {
        let endpoints: Vec<Endpoint> =
            endpoints.into_iter().map(|text| Endpoint::parse(text.as_ref())).collect();
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let tls = connector(&endpoints, &options)?;
        let dialing = Dialing {
            tls,
            keepalive_time: options.keepalive_time,
            keepalive_timeout: options.keepalive_timeout,
            keepalive_while_idle: options.keepalive_while_idle,
        };
        let transport = Transport::start(&endpoints, dialing);
        let timeout = options.timeout;
        let endpoints = Mutex::new(endpoints);
        let shared = Shared { endpoints, options, transport, token: Mutex::new(None) };
        Ok(Self { shared: Arc::new(shared), timeout, require_leader: false, token: None })
    }

    /// A client for one endpoint with this one's options, timeout and token: maintenance calls speak to a particular member.
    pub fn at(&self, endpoint: &str) -> Result<Self> {
        let mut other = Self::start([endpoint], self.shared.options.clone())?;
        if let Some(shared) = Arc::get_mut(&mut other.shared) {
            shared.token = Mutex::new(self.token());
        }
        other.timeout = self.timeout;
        Ok(other)
    }

    /// The same client with another deadline for each unary call; streams have none.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same client whose calls and streams fail when the member that serves them loses its leader.
    #[must_use]
    pub fn require_leader(mut self) -> Self {
        self.require_leader = true;
        self
    }

    /// The same client whose calls carry this token, which somebody else was given.
    #[must_use]
    pub fn with_token(mut self, token: Option<MetadataValue<Ascii>>) -> Self {
        self.token = token;
        self
    }

    /// The endpoints' texts as given.
    pub fn endpoints(&self) -> Vec<String> {
        self.lock_endpoints().iter().map(|endpoint| endpoint.text.clone()).collect()
    }

    /// Speaks to these endpoints from now on, as do all clones; an empty list changes nothing. Connections stay secured, or not, as
    /// the first endpoint of all said. Must be called within a tokio runtime.
    pub fn set_endpoints<S: AsRef<str>>(&self, endpoints: impl IntoIterator<Item = S>) {
        let endpoints: Vec<Endpoint> =
            endpoints.into_iter().map(|text| Endpoint::parse(text.as_ref())).collect();
        if endpoints.is_empty() {
            return;
        }
        self.shared.transport.set_endpoints(&endpoints);
        *self.lock_endpoints() = endpoints;
    }

    fn lock_endpoints(&self) -> std::sync::MutexGuard<'_, Vec<Endpoint>> {
        self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transport below, for stubs that have no method here.
    pub fn transport(&self) -> Transport {
        self.shared.transport.clone()
    }

    /// Wraps a message with the metadata that each call carries.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("client-api-version", AsciiMetadataValue::from_static(CLIENT_API_VERSION));
        if self.require_leader {
            metadata.insert("hasleader", AsciiMetadataValue::from_static("true"));
        }
        if let Some(token) = self.token() {
            metadata.insert("token", token);
        }
        request
    }

    /// Makes one unary call: deadline, retries, token refresh.
    pub(crate) async fn call<Q, R, F, U>(&self, policy: Policy, message: Q, invoke: F) -> Result<R>
    where
        Q: prost::Message + Clone,
        F: Fn(Transport, Request<Q>) -> U,
        U: Future<Output = std::result::Result<Response<R>, Status>>,
    {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let endpoints = self.lock_endpoints().len();
        let mut attempt = 0;
        loop {
            if attempt > 0
                && let Some(pause) = retry::pause_before(attempt, endpoints, jitter(attempt))
            {
                sleep_within(pause, deadline).await?;
            }
            let carrier = Carrier::default();
            let outcome = self.attempt(&message, &invoke, deadline, &carrier).await;
            let error = match outcome {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            self.observe(attempt, &carrier, &error);
            attempt += 1;
            let out_of_attempts = attempt >= retry::ATTEMPTS_MAX;
            if matches!(error, Error::DeadlineExceeded { .. }) || out_of_attempts {
                return Err(error);
            }
            if self.token_is_refused(&error) {
                // Boxed: authenticating is a call itself.
                Box::pin(self.refresh_token()).await?;
                continue;
            }
            if !retry::may_retry(&error, policy, endpoints) {
                return Err(error);
            }
        }
    }

    async fn attempt<Q, R, F, U>(
        &self,
        message: &Q,
        invoke: &F,
        deadline: Option<Instant>,
        carrier: &Carrier,
    ) -> Result<R>
    where
        Q: prost::Message + Clone,
        F: Fn(Transport, Request<Q>) -> U,
        U: Future<Output = std::result::Result<Response<R>, Status>>,
    {
        let length_bytes = message.encoded_len();
        let limit_bytes = self.shared.options.request_bytes_max;
        if length_bytes > limit_bytes {
            let text = format!(
                "trying to send message larger than max ({length_bytes} vs. {limit_bytes})"
            );
            return Err(Error::rpc(Code::ResourceExhausted, text));
        }
        let mut request = self.request(message.clone());
        if self.shared.options.observer.is_some() {
            request.extensions_mut().insert(carrier.clone());
        }
        let Some(deadline) = deadline else {
            return Ok(invoke(self.transport(), request).await?.into_inner());
        };
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        match tokio::time::timeout_at(deadline, invoke(self.transport(), request)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            // The server keeps the deadline too, and may be a moment earlier than this side.
            Ok(Err(status)) if status.code() == Code::DeadlineExceeded && almost(deadline) => {
                Err(Error::DeadlineExceeded { detail: status.message().to_owned() })
            }
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(self.deadline_error(carrier.get())),
        }
    }

    fn deadline_error(&self, carrier: Option<&(String, String)>) -> Error {
        let trouble = if carrier.is_some() { None } else { self.shared.transport.trouble() };
        let detail = match trouble {
            Some(text) => format!("latest balancer error: connection error: desc = {text:?}"),
            None => "context deadline exceeded".to_owned(),
        };
        Error::DeadlineExceeded { detail }
    }

    fn observe(&self, attempt: u32, carrier: &OnceLock<(String, String)>, error: &Error) {
        let Some(observer) = &self.shared.options.observer else { return };
        let target = self.lock_endpoints().first().map(Endpoint::target);
        if let Some(target) = target {
            observer(&FailedAttempt {
                target: &target,
                connection: carrier.get().cloned(),
                is_secure: self.shared.transport.is_secure(),
                attempt,
                error: error.grpc_text(),
            });
        }
    }

    fn token(&self) -> Option<MetadataValue<Ascii>> {
        if self.token.is_some() {
            return self.token.clone();
        }
        self.shared.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the call failed for its token, so that a new one may help.
    fn token_is_refused(&self, error: &Error) -> bool {
        use rpc::errors::Error as Etcd;
        if self.shared.options.user.is_none() {
            return false;
        }
        match error.etcd() {
            Some(Etcd::UserEmpty) => self.token().is_none(),
            Some(Etcd::InvalidAuthToken | Etcd::AuthOldRevision) => true,
            Some(_) | None => false,
        }
    }

    /// Authenticates. A cluster without authentication is fine: then there is no token.
    async fn refresh_token(&self) -> Result<()> {
        let Some((name, password)) = self.shared.options.user.clone() else { return Ok(()) };
        self.store_token(None);
        let request = AuthenticateRequest { name, password };
        let token = match self.authenticate(request).await {
            Ok(response) => response.token,
            Err(error) if error.etcd() == Some(rpc::errors::Error::AuthNotEnabled) => return Ok(()),
            Err(error) => return Err(error),
        };
        let value = token.parse().map_err(|_| {
            Error::rpc(Code::Internal, "the server's token is not a valid header value")
        })?;
        self.store_token(Some(value));
        Ok(())
    }

    fn store_token(&self, token: Option<MetadataValue<Ascii>>) {
        *self.shared.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }
}

/// What secures connections, if they are to be: the first endpoint speaks for all.
fn connector(endpoints: &[Endpoint], options: &Options) -> Result<Option<Connector>> {
    let settings = match endpoints.first().map(|endpoint| endpoint.scheme) {
        Some(Scheme::Tls) => Some(options.tls.clone().unwrap_or_default()),
        Some(Scheme::None) => options.tls.clone(),
        Some(Scheme::Plain) | None => None,
    };
    let Some(settings) = settings else { return Ok(None) };
    if let Some(unix) = endpoints.iter().find(|e| matches!(e.address, Address::Unix(_))) {
        return Err(Error::Tls(format!(
            "TLS over Unix sockets is not served yet: {:?}",
            unix.text
        )));
    }
    Connector::new(&settings, &["h2"]).map(Some).map_err(|error| Error::Tls(error.to_string()))
}

/// A server's stream, which keeps its connection alive.
///
/// It may still be opening: a server need not answer before the first request, so neither side may wait for the other.
pub struct Streaming<T> {
    state: StreamState<T>,
    /// Connections end with their last client.
    client: Client,
}

enum StreamState<T> {
    Opening(Opening<T>),
    Open(tonic::Streaming<T>),
    Failed(Error),
}

/// A call that will become a stream.
type Opening<T> = Pin<
    Box<dyn Future<Output = std::result::Result<Response<tonic::Streaming<T>>, Status>> + Send>,
>;

impl<T> Streaming<T> {
    pub(crate) fn new(
        client: &Client,
        opening: impl Future<Output = std::result::Result<Response<tonic::Streaming<T>>, Status>>
        + Send
        + 'static,
    ) -> Self {
        Self { state: StreamState::Opening(Box::pin(opening)), client: client.clone() }
    }

    /// Waits until the server has accepted the stream. Do this only where the server answers unasked.
    pub async fn opened(&mut self) -> Result<()> {
        if let StreamState::Opening(opening) = &mut self.state {
            self.state = match opening.await {
                Ok(response) => StreamState::Open(response.into_inner()),
                Err(status) => StreamState::Failed(status.into()),
            };
        }
        match &self.state {
            StreamState::Failed(error) => Err(error.clone()),
            StreamState::Opening(_) | StreamState::Open(_) => Ok(()),
        }
    }

    /// As [`Streaming::opened`], within the client's timeout.
    pub(crate) async fn opened_in_time(&mut self) -> Result<()> {
        let Some(timeout) = self.client.timeout else { return self.opened().await };
        match tokio::time::timeout(timeout, self.opened()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.client.deadline_error(None)),
        }
    }

    /// The next message, or `None` at the end of the stream. May be dropped and called again without losing a message.
    pub async fn message(&mut self) -> Result<Option<T>> {
        self.opened().await?;
        match &mut self.state {
            StreamState::Open(stream) => Ok(stream.message().await?),
            StreamState::Failed(error) => Err(error.clone()),
            StreamState::Opening(_) => Ok(None),
        }
    }
}

impl<T> std::fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streaming").finish_non_exhaustive()
    }
}

/// The deadline is reached, up to what two clocks and a scheduler may differ by.
fn almost(deadline: Instant) -> bool {
    Instant::now() + Duration::from_millis(20) >= deadline
}

async fn sleep_within(pause: Duration, deadline: Option<Instant>) -> Result<()> {
    let until = Instant::now() + pause;
    match deadline {
        Some(deadline) if deadline < until => {
            tokio::time::sleep_until(deadline).await;
            Err(Error::DeadlineExceeded { detail: "context deadline exceeded".to_owned() })
        }
        Some(_) | None => {
            tokio::time::sleep_until(until).await;
            Ok(())
        }
    }
}

/// A number in 0..1 that differs between processes and attempts: spreading clients apart needs no better one.
fn jitter(attempt: u32) -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    f64::from(nanos.wrapping_add(attempt) % 1000) / 1000.0
}
