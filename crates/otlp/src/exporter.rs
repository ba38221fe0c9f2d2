//! The task that sends what is in the queue, and the way it ends.
//!
//! ```text
//!  a batch is full, or some seconds have passed ──► send ──► taken
//!                                                    │ a failure that may pass: pause, again, for a minute at most
//!                                                    └─► given up: counted as dropped
//! ```
//!
//! While one batch is tried again, others wait in the queue, which drops what does not fit.
//!
//! Upstream: the defaults of OpenTelemetry's batch processor and of its OTLP exporter.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::environment::Environment;
use crate::message;
use crate::queue::{BATCH_SPANS, Queue};
use crate::sampler::Sampler;
use crate::shared::{EXPORT_PATH, SharedCodec};
use crate::span::Record;
use crate::tracer::Tracer;
use crate::wire::ExportTraceServiceRequest;

/// Spans that are fewer than a batch wait this long.
const DELAY: Duration = Duration::from_secs(5);
/// For a connection to come about, and for a sign of life.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// After a failure that may pass; then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long one batch is tried.
const TRY_LIMIT: Duration = Duration::from_secs(60);
/// Losses are told no more often.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// A connection on which nothing comes is asked for a sign of life, and closed if there is none in [`CONNECTION_LIMIT`].
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Where spans go, and in whose name.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `host:port` of the collector. The connection is not encrypted, as etcd's is not.
    pub address: String,
    /// What is known of this process: keys and values. They count before those of the environment.
    pub resource: Vec<(&'static str, String)>,
    /// What variables say.
    pub environment: Environment,
    /// Which traces that begin here are taken down.
    pub sampler: Sampler,
}

/// An address is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    /// The address.
    pub address: String,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not the host:port of a collector", self.address)
    }
}

impl std::error::Error for AddressError {}

/// Says whether spans could be sent to such an address. Whether anybody is there shows later.
///
/// # Errors
/// It is not `host:port`.
pub fn check_address(address: &str) -> Result<(), AddressError> {
    endpoint(address).map(drop)
}

fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let wrong = || AddressError { address: address.to_owned() };
    let authority: http::uri::Authority = address.parse().map_err(|_| wrong())?;
    if authority.port_u16().is_none() || authority.host().is_empty() || address.contains('@') {
        return Err(wrong());
    }
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| wrong())?;
    Ok(endpoint
        .connect_timeout(CONNECTION_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(CONNECTION_LIMIT))
}

/// The running task.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Exporter {
    /// Starts the task, on the runtime that this is called on. The collector need not be there.
    ///
    /// # Errors
    /// The address is none.
    pub fn start(settings: Settings) -> Result<(Tracer, Self), AddressError> {
        let Settings { address, resource, environment, sampler } = settings;
        let channel = endpoint(&address)?.connect_lazy();
        let queue = Arc::new(Queue::default());
        let sender = Sender {
            queue: Arc::clone(&queue),
            collector: Grpc::new(channel),
            address,
            resource: environment.resource_with(resource),
            headers: environment.headers,
            answer_limit: environment.answer_limit,
            lost: 0,
            why: None,
            told: None,
        };
        let task = tokio::spawn(sender.run());
        Ok((Tracer::new(sampler, Arc::clone(&queue)), Self { queue, task }))
    }

    /// Sends what there is and ends, within the limit. Spans that end later go nowhere.
    pub async fn shutdown(mut self, limit: Duration) {
        self.queue.close();
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
            // A batch on its way counts as it goes: nobody knows whether it has arrived.
            tracing::warn!(
                spans = self.queue.len() as u64 + self.queue.take_dropped(),
                "stopped before all spans were sent to the collector of traces"
            );
        }
    }
}

/// What the task owns.
struct Sender {
    queue: Arc<Queue>,
    collector: Grpc<Channel>,
    address: String,
    resource: Vec<(String, String)>,
    headers: MetadataMap,
    answer_limit: Duration,
    /// Spans that were lost since it was told last.
    lost: u64,
    /// Why the last batch was given up.
    why: Option<Status>,
    told: Option<Instant>,
}

impl Sender {
    async fn run(mut self) {
        loop {
            let is_closed = self.queue.is_closed();
            if !is_closed {
                // Either way it is time to look.
                let _ = timeout(DELAY, self.queue.due()).await;
            }
            loop {
                let batch = self.queue.take();
                let count = batch.len();
                if count > 0 {
                    self.send(batch).await;
                }
                if count < BATCH_SPANS {
                    break;
                }
            }
            self.lost += self.queue.take_dropped();
            self.tell(is_closed);
            if is_closed {
                return;
            }
        }
    }

    /// Sends a batch, again and again where that may help.
    async fn send(&mut self, batch: Vec<Record>) {
        let count = batch.len() as u64;
        let request = Arc::new(message::request(&self.resource, batch));
        let give_up = Instant::now() + TRY_LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_once(&request).await {
                Ok(rejected) => {
                    self.lost += rejected.min(count);
                    return;
                }
                Err(status) => {
                    let again = Instant::now() + pause.mul_f64(0.5 + rand::random::<f64>());
                    let is_final =
                        !may_pass(status.code()) || again > give_up || self.queue.is_closed();
                    if is_final {
                        self.lost += count;
                        self.why = Some(status);
                        return;
                    }
                    self.pause_until(again).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Waits, but not when the end has come: then there is one last try.
    async fn pause_until(&self, again: Instant) {
        while !self.queue.is_closed() {
            // Full batches wake it too; they wait like this one.
            if timeout_at(again, self.queue.due()).await.is_err() {
                return;
            }
        }
    }

    /// Returns how many spans the collector does not want.
    async fn try_once(&mut self, request: &Arc<ExportTraceServiceRequest>) -> Result<u64, Status> {
        let mut request = Request::new(Arc::clone(request));
        *request.metadata_mut() = self.headers.clone();
        let answered = async {
            self.collector.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = PathAndQuery::from_static(EXPORT_PATH);
            self.collector.unary(request, path, SharedCodec).await
        };
        let answer = timeout(self.answer_limit, answered).await;
        let answer =
            answer.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner();
        let Some(partial) = answer.partial_success else { return Ok(0) };
        let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
        if rejected > 0 {
            self.why = Some(Status::invalid_argument(partial.error_message));
        }
        Ok(rejected)
    }

    /// Tells of losses, once in a while or for the last time.
    fn tell(&mut self, is_last: bool) {
        let is_time = self.told.is_none_or(|told| told.elapsed() >= TELL_INTERVAL);
        if self.lost == 0 || !(is_time || is_last) {
            return;
        }
        let error = self.why.take().map_or_else(
            || "the queue is full".to_owned(),
            |status| format!("{:?}: {}", status.code(), status.message()),
        );
        tracing::warn!(
            address = self.address,
            spans = self.lost,
            error,
            "spans were not sent to the collector of traces"
        );
        self.lost = 0;
        self.told = Some(Instant::now());
    }
}

/// Whether the same message may be taken later: OTLP's list.
fn may_pass(code: Code) -> bool {
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => false,
    }
}
