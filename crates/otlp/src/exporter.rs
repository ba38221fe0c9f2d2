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

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::message;
use crate::queue::{BATCH_SPANS, Queue};
use crate::sampler::Sampler;
use crate::span::Record;
use crate::tracer::Tracer;
use crate::wire::ExportTraceServiceRequest;
use crate::wire::trace_service_client::TraceServiceClient;

/// Spans that are fewer than a batch wait this long.
const DELAY: Duration = Duration::from_secs(5);
/// For the collector's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// After a failure that may pass; then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long one batch is tried.
const TRY_LIMIT: Duration = Duration::from_secs(60);
/// Losses are told no more often.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// A connection on which nothing comes is asked for a sign of life, and closed if there is none in [`ANSWER_LIMIT`].
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Where spans go, and in whose name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` of the collector. The connection is not encrypted, as etcd's is not.
    pub address: String,
    /// What is known of this process: keys and values.
    pub resource: Vec<(&'static str, String)>,
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
        .connect_timeout(ANSWER_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(ANSWER_LIMIT))
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
        let Settings { address, resource, sampler } = settings;
        let channel = endpoint(&address)?.connect_lazy();
        let queue = Arc::new(Queue::default());
        let sender = Sender {
            queue: Arc::clone(&queue),
            collector: TraceServiceClient::new(channel),
            address,
            resource,
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
    collector: TraceServiceClient<Channel>,
    address: String,
    resource: Vec<(&'static str, String)>,
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
        let request = message::request(&self.resource, batch);
        let give_up = Instant::now() + TRY_LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.try_once(request.clone()).await {
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
    async fn try_once(&mut self, request: ExportTraceServiceRequest) -> Result<u64, Status> {
        let answer = timeout(ANSWER_LIMIT, self.collector.export(request)).await;
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
