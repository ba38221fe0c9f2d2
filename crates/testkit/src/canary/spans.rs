//! A collector of traces that takes everything, to be looked through.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use otlp::wire::trace_service_server::{TraceService, TraceServiceServer};
use otlp::wire::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::search::Haystack;

/// How the spans are called among the places.
pub(super) const NAME: &str = "the spans";

/// What was taken, encoded again: a text stands in it as it is.
type Taken = Arc<Mutex<Vec<u8>>>;

#[derive(Debug)]
struct Service(Taken);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        // What is sent along counts as well.
        let metadata = format!("{:?}", request.metadata()).into_bytes();
        let spans = request.into_inner().encode_to_vec();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend([metadata, spans].concat());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A running collector, until it is dropped.
#[derive(Debug)]
pub(super) struct Collector {
    address: String,
    taken: Taken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Collector {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for spans")?;
        let address = listener.local_addr().context("the address of the collector")?.to_string();
        let taken = Taken::default();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Service(Arc::clone(&taken))))
            .serve_with_incoming(TcpListenerStream::new(listener));
        Ok(Self { address, taken, serving: tokio::spawn(server) })
    }

    /// `HOST:PORT`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// All that was taken.
    pub(super) fn taken(&self) -> Haystack {
        Haystack::new(NAME, self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
