//! What is not there yet says so.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

/// The answer to a call whose feature a later version brings.
pub(crate) fn later(what: &str) -> Status {
    Status::unimplemented(format!("retcd does not serve {what} yet"))
}

/// A service none of whose methods is served.
macro_rules! unserved {
    ($($(#[$doc:meta])+ $name:ident: $path:literal, $what:literal;)+) => {
        $(
            $(#[$doc])+
            #[derive(Debug, Clone, Copy)]
            pub(crate) struct $name;

            impl NamedService for $name {
                const NAME: &'static str = $path;
            }

            impl tower_service::Service<http::Request<Body>> for $name {
                type Response = http::Response<Body>;
                type Error = Infallible;
                type Future = Ready<Result<http::Response<Body>, Infallible>>;

                fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                    Poll::Ready(Ok(()))
                }

                fn call(&mut self, _: http::Request<Body>) -> Self::Future {
                    ready(Ok(later($what).into_http()))
                }
            }
        )+
    };
}

unserved! {
    /// Locks.
    Lock: "v3lockpb.Lock", "the lock service";
    /// Elections.
    Election: "v3electionpb.Election", "the election service";
}
