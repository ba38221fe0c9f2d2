//! A small etcd client: what `etcdctl`, the gRPC proxy and v3 discovery speak to a server with.
//!
//! It behaves like etcd's own client library where that can be observed from outside:
//!
//! - **Endpoints** are balanced round-robin, one HTTP/2 connection each, and a call *waits for a ready connection* until its deadline:
//!   a server that is down shows as an expired deadline, never as "connection refused".
//! - **Retries** follow etcd's rules (see [`retry`]): reads are repeated while the server is unavailable, writes only when it surely
//!   never saw them, so that nothing is written twice.
//! - **Watches and lease keep-alives** survive a lost connection: they resume where they stopped, without a gap or a duplicate.
//! - Every call carries `client-api-version`; calls that ask for it carry `hasleader`.
//!
//! - **TLS** as the first endpoint's scheme says, as in etcd's client: `https` is secured, `http` never, and without a scheme
//!   [`Options::tls`] decides. `unixs://` is refused.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! let client = client::Client::connect(["127.0.0.1:2379"], client::Options::default()).await?;
//! client.put("key", "value").await?;
//! let found = client.get("key").await?;
//! # let _ = found; Ok(())
//! # }
//! ```

mod auth;
mod client;
mod cluster;
mod endpoint;
mod error;
mod kv;
mod lease;
mod maintenance;
mod queue;
pub mod retry;
mod transport;
mod watch;

pub use client::{Client, Options, Streaming};
pub use endpoint::{Address, Endpoint, Scheme};
pub use error::{Error, Result};
pub use kv::{prefix_end, range_of_prefix};
pub use lease::{KeepAlive, KeepAliveSender};
pub use retry::{FailedAttempt, Observer};
pub use tonic::Code;
pub use transport::Transport;
pub use watch::{Watch, WatchSender, Watcher};
