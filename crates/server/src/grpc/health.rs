//! The standard health service: etcd answers SERVING for the whole server and knows no other name.
//!
//! Only where it is told to (`StopGRPCServiceOnDefrag`), a member that defragments its database says that it serves nothing, so that
//! clients go to the others meanwhile. It serves all the same.

use std::sync::Arc;

use rpc::health::health_check_response::ServingStatus;
use rpc::health::health_server::Health;
use rpc::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::limits;
use crate::request::Core;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }
}

/// What is said while so many defragmentations are under way.
fn status_of(defragmentations: usize) -> ServingStatus {
    if defragmentations == 0 { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Tells that clients are told so: at the start, and when a defragmentation changes it.
pub(crate) fn tell(is_serving: bool) {
    if is_serving {
        tracing::info!(service = "", status = "SERVING", "grpc service status changed");
    } else {
        tracing::warn!(
            service = "",
            status = "NOT_SERVING",
            reason = "defrag is active",
            "grpc service status changed"
        );
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        if !request.get_ref().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(answer(status_of(*self.core.defragmentations.borrow()))))
    }

    async fn list(
        &self,
        request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let whole = answer(status_of(*self.core.defragmentations.borrow()));
        Ok(Response::new(HealthListResponse { statuses: [(String::new(), whole)].into() }))
    }

    type WatchStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        limits::admit(&self.core, request.metadata())?;
        // The stream stays open for as long as the client wants, and there is a leader if it wants one. Why it ends otherwise is not
        // said: so is the service that etcd has from its gRPC library.
        let end = Status::cancelled("Stream has ended.");
        let led = |statuses| limits::while_led(&self.core, request.metadata(), statuses, end);
        let statuses: Self::WatchStream = if request.get_ref().service.is_empty() {
            let counts = WatchStream::new(self.core.defragmentations.subscribe());
            Box::pin(changes(counts).map(|status| Ok(answer(status))))
        } else {
            let first = tokio_stream::once(Ok(answer(ServingStatus::ServiceUnknown)));
            Box::pin(first.chain(tokio_stream::pending()))
        };
        Ok(Response::new(Box::pin(led(statuses))))
    }
}

/// The status at first, and whenever it is another one.
fn changes(counts: impl Stream<Item = usize> + Send) -> impl Stream<Item = ServingStatus> + Send {
    let mut last = None;
    counts.filter_map(move |count| {
        let status = status_of(count);
        (last.replace(status) != Some(status)).then_some(status)
    })
}

#[cfg(test)]
mod tests;
