//! Calls that pass as they are: headers, frames and trailers of HTTP/2, with nothing decoded.
//!
//! Tokens, deadlines and the wish for a leader are headers, so they pass too; streams pass in both directions, with their flow control. A
//! stream is tied to the member that serves it, and ends as it does.

use http::header;
use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower_service::Service as _;

use client::{Error, Transport};

use crate::upstream::status_of;

/// Services whose methods pass, where no module here looks into them.
const SERVICES: &[&str] = &[
    rpc::etcdserverpb::lease_server::SERVICE_NAME,
    rpc::etcdserverpb::cluster_server::SERVICE_NAME,
    rpc::etcdserverpb::maintenance_server::SERVICE_NAME,
    rpc::etcdserverpb::auth_server::SERVICE_NAME,
    rpc::v3lockpb::lock_server::SERVICE_NAME,
    rpc::v3electionpb::election_server::SERVICE_NAME,
];

/// Headers that are between two ends of one connection, or said anew on the next.
const NOT_PASSED_ON: &[header::HeaderName] =
    &[header::HOST, header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// Passes a call on, or says that there is no such method.
pub(crate) async fn forward(
    mut transport: Transport,
    mut request: Request<Body>,
) -> Response<Body> {
    if let Some(refusal) = unknown(request.uri().path()) {
        return refusal.into_http();
    }
    strip(request.headers_mut());
    match transport.call(request).await {
        Ok(response) => {
            let mut response = response.map(Body::new);
            strip(response.headers_mut());
            response
        }
        Err(status) => status_of(&Error::from(status)).into_http(),
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in NOT_PASSED_ON {
        headers.remove(name);
    }
}

/// grpc-go's words for a path that leads nowhere.
fn unknown(path: &str) -> Option<Status> {
    let malformed = || Status::unimplemented(format!("malformed method name: {path:?}"));
    let Some((service, _)) = path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) else {
        return Some(malformed());
    };
    let is_known = SERVICES.contains(&service);
    (!is_known).then(|| Status::unimplemented(format!("unknown service {service}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_services_of_etcd_pass() {
        assert!(unknown("/etcdserverpb.Auth/AuthEnable").is_none());
        assert!(unknown("/v3lockpb.Lock/Lock").is_none());
        let text = |path| unknown(path).unwrap().message().to_owned();
        assert_eq!(text("/a.B/C"), "unknown service a.B");
        assert_eq!(text("/x"), "malformed method name: \"/x\"");
    }
}
