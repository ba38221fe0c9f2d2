//! The TCP gateway: each accepted connection is copied, both ways, to one of the endpoints.
//!
//! ```text
//!   active ──a dial fails──► inactive ──a dial of the monitor succeeds──► active
//! ```
//!
//! Nothing is read of what passes: TLS ends at the member. Whom a connection goes to is decided once (`pick`); when that member dies the
//! connection breaks, and the client's next one goes elsewhere. With no endpoint left a connection is closed at once.
//!
//! Upstream: `server/proxy/tcpproxy` (3.6.16). Differs: a dial is given up after [`DIAL_LIMIT`].

mod pick;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

use crate::listen;
use crate::socket;
use pick::Table;

/// How long a dial may take. An address that swallows packets would hold up each client for minutes otherwise.
pub const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// How a gateway is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// `host:port` to accept connections on.
    pub listen_address: String,
    /// Where connections go.
    pub targets: Vec<Target>,
    /// How long an endpoint is left out before it is dialled again.
    pub retry_delay: Duration,
}

/// One endpoint, as an SRV record describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Lower ones are used as long as one of them is active.
    pub priority: u16,
    /// Share of connections within the priority; 0 without records.
    pub weight: u16,
}

impl Target {
    /// Reads an endpoint as flags give it; a scheme in front is left away. They all weigh the same.
    ///
    /// # Errors
    /// It is no `host:port`.
    pub fn parse(endpoint: &str) -> Result<Self, StartError> {
        let refused = || StartError::Endpoint(endpoint.to_owned());
        let address = listen::without_scheme(endpoint);
        let (host, port) = listen::host_and_port(address).ok_or_else(refused)?;
        let port = port.parse().map_err(|_| refused())?;
        Ok(Self { host: host.to_owned(), port, priority: 0, weight: 0 })
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        listen::joined(&self.host, self.port)
    }
}

/// Why a gateway cannot start. The texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An endpoint that cannot be read.
    #[error("error parsing endpoint {0:?}")]
    Endpoint(String),
    /// There is none.
    #[error("no endpoints found")]
    NoEndpoints,
    /// An endpoint's host has no address.
    #[error("failed to resolve endpoint host: {0}")]
    EndpointHost(String),
    /// The address to listen on cannot be read.
    #[error("failed to validate listen address: {0}")]
    ListenAddress(String),
    /// Its host has no address.
    #[error("failed to resolve listen host: {0}")]
    ListenHost(String),
    /// Connections would come back here.
    #[error(
        "SRV or endpoint ({target}->{ip}:{port}) should not resolve to the gateway listen addr ({listen_address})",
        target = target.address(), port = target.port
    )]
    Loop {
        /// The endpoint.
        target: Target,
        /// The address that its host has.
        ip: IpAddr,
        /// Where the gateway listens.
        listen_address: String,
    },
    /// The address cannot be listened on.
    #[error("listen tcp {address}: {}", serving::bind_error(source))]
    Listen {
        /// The address.
        address: String,
        /// The reason.
        source: io::Error,
    },
}

/// A gateway that listens.
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// What connections and the monitor share.
#[derive(Debug)]
struct Shared {
    targets: Vec<Target>,
    retry_delay: Duration,
    /// Guards who is active and whose turn it is; held for a look only.
    table: Mutex<Table>,
}

impl Gateway {
    /// Checks the endpoints and listens.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn bind(options: Options) -> Result<Self, StartError> {
        let Options { listen_address, targets, retry_delay } = options;
        let listen_error = || StartError::ListenAddress(listen_address.clone());
        let (host, port) = listen::host_and_port(&listen_address).ok_or_else(listen_error)?;
        let own = addresses(host).await.ok_or_else(|| StartError::ListenHost(host.to_owned()))?;
        for target in &targets {
            let found = addresses(&target.host)
                .await
                .ok_or_else(|| StartError::EndpointHost(target.host.clone()))?;
            if port.parse() != Ok(target.port) {
                continue;
            }
            if let Some(ip) = found.intersection(&own).next() {
                let (target, ip) = (target.clone(), *ip);
                return Err(StartError::Loop { target, ip, listen_address });
            }
        }
        if targets.is_empty() {
            return Err(StartError::NoEndpoints);
        }
        let listener = listen::bind(&listen_address)
            .await
            .map_err(|source| StartError::Listen { address: listen_address.clone(), source })?;
        let table = Mutex::new(Table::new(&targets));
        Ok(Self { listener, shared: Arc::new(Shared { targets, retry_delay, table }) })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the listener fails.
    pub async fn run(self) -> io::Error {
        let endpoints: Vec<String> = self.shared.targets.iter().map(Target::address).collect();
        tracing::info!(endpoints = ?endpoints, "ready to proxy client requests");
        let monitor = tokio::spawn(monitor(Arc::clone(&self.shared)));
        let error = loop {
            match self.listener.accept().await {
                Ok((client, _)) => {
                    tokio::spawn(serve(Arc::clone(&self.shared), client));
                }
                // One connection's trouble, or too many open files for a moment, is not the end.
                Err(error) if listen::is_passing(&error) => listen::pause().await,
                Err(error) => break error,
            }
        };
        monitor.abort();
        error
    }
}

impl Shared {
    fn with_table<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Finds a member for one client, and copies until both are done.
async fn serve(shared: Arc<Shared>, mut client: TcpStream) {
    socket::set_up(&client);
    loop {
        let Some(index) = shared.with_table(|table| table.pick(&shared.targets, pick::random()))
        else {
            return;
        };
        let Some(target) = shared.targets.get(index) else { return };
        match dial(target).await {
            Ok(mut member) => {
                // How a connection ends is between the two who have it.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut member).await;
                return;
            }
            Err(error) => {
                shared.with_table(|table| table.set_active(index, false));
                tracing::warn!(
                    address = target.address(),
                    interval = ?shared.retry_delay,
                    error = %error,
                    "deactivated endpoint"
                );
            }
        }
    }
}

/// Dials endpoints that are left out, and takes them in again.
async fn monitor(shared: Arc<Shared>) {
    // A period of zero is none that time can be divided by.
    let mut ticks = tokio::time::interval(shared.retry_delay.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        for index in shared.with_table(|table| table.inactive()) {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { retry(&shared, index).await });
        }
    }
}

async fn retry(shared: &Shared, index: usize) {
    let Some(target) = shared.targets.get(index) else { return };
    let address = target.address();
    match dial(target).await {
        Ok(_) => {
            shared.with_table(|table| table.set_active(index, true));
            tracing::info!(address, "activated");
        }
        Err(error) => tracing::warn!(
            address,
            interval = ?shared.retry_delay,
            error = %error,
            "failed to activate endpoint (stay inactive for another interval)"
        ),
    }
}

async fn dial(target: &Target) -> io::Result<TcpStream> {
    let dialled = timeout(DIAL_LIMIT, TcpStream::connect((target.host.as_str(), target.port)));
    let member = dialled
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "i/o timeout")))?;
    socket::set_up(&member);
    Ok(member)
}

/// The addresses of a host; nothing where there are none. No host stands for all of this machine's, as in Go.
async fn addresses(host: &str) -> Option<BTreeSet<IpAddr>> {
    let found: BTreeSet<IpAddr> =
        lookup_host((host, 0)).await.ok()?.map(|address| address.ip()).collect();
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_lose_their_scheme() {
        for (text, address) in [
            ("127.0.0.1:2379", "127.0.0.1:2379"),
            ("http://h:1", "h:1"),
            ("https://h:1/path", "h:1"),
            ("[::1]:2", "[::1]:2"),
        ] {
            assert_eq!(Target::parse(text).unwrap().address(), address, "{text}");
        }
        for text in ["h", "", "h:x", "h:70000", "::1:2"] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("error parsing endpoint {text:?}"));
        }
    }
}
