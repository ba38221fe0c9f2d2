//! The way in from a listener: a call of gRPC goes straight to the services, every other request to what answers HTTP.
//!
//! ```text
//!  listener ──► Entrance ──┬─ a call ──────► Services, by the name in its path
//!                          └─ all others ──► a function of the request (health, metrics, gateway, or a refusal)
//! ```
//!
//! What tells them apart is [`serving::is_call`] alone. A listener that has no services for its clients says so by having none.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use serving::is_call;
use tonic::body::Body;
use tonic::service::Routes;
use tower_service::Service;

use crate::grpc::{Answer, Services};

/// What a listener serves.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    services: Option<Services>,
    /// A router, for what it does for HTTP with any answer: lengths, and `HEAD`.
    others: Routes,
}

impl Entrance {
    /// Services for calls, if calls are served, and what answers all other requests.
    pub(crate) fn new<F, A>(services: Option<&Services>, others: F) -> Self
    where
        F: Fn(axum::extract::Request) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = axum::response::Response> + Send,
    {
        let others = Routes::from(axum::Router::new().fallback(others)).prepare();
        Self { services: services.cloned(), others }
    }

    /// The services for calls.
    #[cfg(test)]
    pub(crate) const fn services(&self) -> Option<&Services> {
        self.services.as_ref()
    }
}

impl<B> Service<Request<B>> for Entrance
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Entered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Services and routers are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Entered {
        match &self.services {
            Some(services) if is_call(&request) => {
                Entered::Call(services.answer(request.map(Body::new)))
            }
            Some(_) | None => Entered::Other(Box::new(self.others.call(request.map(Body::new)))),
        }
    }
}

/// An answer under way.
pub(crate) enum Entered {
    Call(Answer),
    /// Boxed, for the sake of those who wait for a call: it is large.
    Other(Box<<Routes as Service<Request<Body>>>::Future>),
}

impl Future for Entered {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Call(answer) => answer.as_mut().poll(context),
            Self::Other(answer) => Pin::new(answer).poll(context),
        }
    }
}
