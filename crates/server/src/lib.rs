//! The shell of a member: threads, sockets, timers, services, and the way from a data directory to all of them.
//!
//! What decides anything is below, in `replica`, `machine` and the crates under them; this crate carries it out. Start with
//! [`Member`], then `driver` for the threads, `request` for what services do with a request, and `grpc` for
//! the services themselves.
//!
//! ```text
//! config ──► bootstrap ──► member ─┬─► driver   heart, log writer, apply, committer
//!                                  ├─► entrance listeners of clients: calls to grpc, the rest to http
//!                                  ├─► grpc     KV, Watch, Lease, Cluster, Maintenance, Auth, Lock, Election, health
//!                                  ├─► peer     other members: streams, snapshots, probes
//!                                  ├─► access   who asks, and whether he may
//!                                  ├─► http     gateway (JSON), health, version, metrics
//!                                  └─► tasks    lease expiry, auto-compaction, progress of watches
//! ```

mod access;
mod board;
mod bootstrap;
mod cluster_version;
mod compactor;
pub mod config;
mod corruption;
mod deadline;
mod descriptors;
mod driver;
mod entrance;
mod facts;
mod first_election;
mod forward;
pub mod fuzz;
mod gateway;
mod grpc;
mod http;
mod joining;
mod listen;
mod member;
mod metrics;
mod older;
mod peer;
mod peer_port;
mod peers;
mod pieces;
mod proposals;
mod publish;
mod raft_log;
mod reads;
mod reconfiguration;
mod request;
mod secure;
pub mod signal;
mod socket;
pub mod systemd;
mod takeover;
mod told;
mod traces;
pub mod version;
mod waking;
mod watching;

pub use self::access::TokenOptionsError;
pub use self::bootstrap::StartError;
pub use config::Config;
pub use driver::Failure;
pub use member::{Member, RunError};
