//! The standard health service: etcd answers SERVING for the whole server and knows no other name.

use rpc::health::health_check_response::ServingStatus;
use rpc::health::health_server::Health;
use rpc::health::{HealthCheckRequest, HealthCheckResponse};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

/// The service.
#[derive(Debug)]
pub(crate) struct Service;

fn status_of(service: &str) -> Option<ServingStatus> {
    service.is_empty().then_some(ServingStatus::Serving)
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = status_of(&request.get_ref().service)
            .ok_or_else(|| Status::not_found("unknown service"))?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<HealthCheckResponse, Status>> + Send>,
    >;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = status_of(&request.get_ref().service).unwrap_or(ServingStatus::ServiceUnknown);
        // The status does not change while the member runs; the stream stays open for as long as the client wants.
        let first = tokio_stream::once(Ok(HealthCheckResponse { status: status.into() }));
        Ok(Response::new(Box::pin(first.chain(tokio_stream::pending()))))
    }
}
