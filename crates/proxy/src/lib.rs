//! What stands between clients and a cluster: the TCP gateway and the gRPC proxy.
//!
//! ```text
//!  client ──TCP──► gateway ──TCP──► member            bytes, unseen
//!
//!  client ──gRPC─► grpc ─┬─ kv      cache, owned keys   ─┬─► client::Client ─► members
//!                        ├─ watch   one for many       ─┤
//!                        ├─ lease   one stream for all ─┤
//!                        └─ forward the rest, as it is ─┘
//! ```
//!
//! - [`gateway`] picks an endpoint for each connection, and leaves out those that cannot be dialled.
//! - [`grpc`] speaks gRPC with clients: it answers serializable reads from a cache, reads of keys that it owns from memory, lets
//!   watchers of one range share a watch of the cluster, and puts a namespace before keys. Whatever it need not look into passes as HTTP/2 frames.
//!
//! Neither keeps anything on disk but a certificate that is generated (`--auto-tls`), and neither decides anything for the cluster: what
//! fails here fails for the client that asked, with the cluster's own error or `Unavailable`.
//!
//! Upstream: `server/proxy` and `server/etcdmain` (3.6.16).

pub mod gateway;
pub mod grpc;

mod answers;
mod cache;
mod call_log;
mod cluster;
mod forward;
mod kv;
mod leader;
mod lease;
mod leasing;
mod listen;
mod metrics;
mod namespace;
mod register;
mod socket;
mod upstream;
mod watch;
mod web;
