//! Bodies of the fuzz targets of the clients' port, the gateway and the peer port, as plain functions.

#[cfg(any(test, feature = "fuzzing"))]
mod rpc;

pub use crate::gateway::fuzz::gateway_requests;
pub use crate::peer::fuzz::{
    peer_answers, peer_append_stream, peer_message_stream, peer_posted, peer_requests,
};
#[cfg(any(test, feature = "fuzzing"))]
pub use rpc::rpc_requests;
