//! The services, found by the name in a call's path.
//!
//! A call passes no router: there are nine services, and a comparison of their names costs less than anything more general. What
//! stands around a service is of one type with it, and boxed once for each call; each box more is an allocation that a call pays
//! for, and with a thousand calls under way each is out of the processor's cache when it is looked at again.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::body::Body;
use tonic::server::NamedService;

use super::slow::Timed;
use super::wording::unknown_service;
use crate::deadline::Limited;
use crate::metrics::Counting;
use crate::request::Core;

/// An answer under way.
pub(crate) type Answer =
    Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send + 'static>>;

/// A service that takes calls from anybody at any time.
pub(super) trait Called: Send + Sync {
    fn take(&self, request: Request<Body>) -> Answer;
}

impl<S> Called for S
where
    S: tower_service::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync,
    S::Future: Send + 'static,
{
    fn take(&self, request: Request<Body>) -> Answer {
        // The services of this module are always ready.
        Box::pin(self.clone().call(request))
    }
}

/// Services by name. What clients call is counted, ended at its deadline, and told of when it takes long.
#[derive(Clone)]
pub(crate) struct Services(Arc<[(&'static str, Box<dyn Called>)]>);

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Services {
    /// Answers a call, also of a service that is not there.
    pub(crate) fn answer(&self, request: Request<Body>) -> Answer {
        let path = request.uri().path();
        // As in Go, a method has no slash in its name.
        let name = path.strip_prefix('/').and_then(|path| Some(path.rsplit_once('/')?.0));
        let known = name.and_then(|name| self.0.iter().find(|(known, _)| *known == name));
        match known {
            Some((_, service)) => service.take(request),
            None => Box::pin(std::future::ready(Ok(unknown_service(path).into_http()))),
        }
    }
}

impl tower_service::Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        self.answer(request)
    }
}

/// Puts services together.
pub(super) struct Gathering<'a> {
    core: &'a Arc<Core>,
    services: Vec<(&'static str, Box<dyn Called>)>,
}

impl<'a> Gathering<'a> {
    pub(super) const fn new(core: &'a Arc<Core>) -> Self {
        Self { core, services: Vec::new() }
    }

    /// Adds a service under its name.
    pub(super) fn with<S>(mut self, service: S) -> Self
    where
        S: tower_service::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + Unpin + 'static,
    {
        let Core { metrics, traces, .. } = &**self.core;
        let counted = Counting::new(Limited(service), &metrics.calls, traces.as_ref());
        let timed = Timed::new(counted, self.core);
        self.services.push((S::NAME, Box::new(timed)));
        self
    }

    /// Adds one for calls that are no client's, which are not looked at.
    pub(super) fn with_inner<S: Called + NamedService + 'static>(mut self, service: S) -> Self {
        self.services.push((S::NAME, Box::new(service)));
        self
    }

    pub(super) fn services(self) -> Services {
        Services(self.services.into())
    }
}
