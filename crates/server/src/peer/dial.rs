//! Connections to other members: the one place that dials.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tls::Connector;
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{Url, UrlError};
use crate::socket;

/// For a connection that takes no more requests to end, which takes a moment where it is to be closed in order.
const CAUSE_LIMIT: Duration = Duration::from_secs(1);

/// What is under HTTP.
pub(crate) type Socket = tls::Stream;

/// What has to be polled for requests to make progress.
pub(crate) type Driver = http1::Connection<TokioIo<Socket>, Body>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// A URL that cannot be dialled.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The network refused.
    #[error("dial tcp {address}: {source}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// The network did not answer.
    #[error("dial tcp {address}: i/o timeout")]
    TimedOut {
        /// `host:port`.
        address: String,
    },
    /// The two sides do not come to terms.
    #[error("dial tcp {address}: TLS handshake: {source}")]
    Handshake {
        /// `host:port`.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// An `https` URL, and neither certificates nor authorities for members.
    #[error(
        "dial tcp {address}: TLS is not set up for members (--peer-trusted-ca-file, --peer-cert-file)"
    )]
    NotSecured {
        /// `host:port`.
        address: String,
    },
    /// The connection broke at once.
    #[error("{}", super::innermost(.0))]
    Http(#[from] hyper::Error),
}

/// `host:port` of a URL, as requests name it.
pub(crate) fn address_of(url: &Url) -> String {
    match url.host().contains(':') {
        true => format!("[{}]:{}", url.host(), url.port()),
        false => format!("{}:{}", url.host(), url.port()),
    }
}

async fn connect(url: &Url, from: Option<IpAddr>) -> io::Result<tls::Socket> {
    Ok(match (url.socket_path(), from) {
        (Some(path), _) => UnixStream::connect(path).await?.into(),
        (None, None) => TcpStream::connect((url.host(), url.port())).await?.into(),
        (None, Some(from)) => connect_from(url, from).await?.into(),
    })
}

/// Connects from one of this machine's addresses, to the first address of the host that can be reached from there.
async fn connect_from(url: &Url, from: IpAddr) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no suitable address found");
    for address in lookup_host((url.host(), url.port())).await? {
        let socket = match (address, from) {
            (SocketAddr::V4(_), IpAddr::V4(_)) => TcpSocket::new_v4()?,
            (SocketAddr::V6(_), IpAddr::V6(_)) => TcpSocket::new_v6()?,
            (SocketAddr::V4(_) | SocketAddr::V6(_), _) => continue,
        };
        socket.bind(SocketAddr::new(from, 0))?;
        match socket.connect(address).await {
            Ok(connected) => return Ok(connected),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Makes connections to members, secured if their URLs say so. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Dialler {
    limit: Duration,
    tls: Option<Connector>,
    /// The address of this machine that connections come from; without one, the system chooses.
    from: Option<IpAddr>,
}

impl Dialler {
    /// `limit` is how long a connection may take to come about, its handshake not counted.
    pub(crate) fn new(limit: Duration, tls: Option<Connector>) -> Self {
        Self { limit, tls, from: None }
    }

    /// The same, whose connections come from this address, if there is one.
    pub(crate) fn coming_from(self, from: Option<IpAddr>) -> Self {
        Self { from, ..self }
    }

    async fn dial(&self, url: &Url) -> Result<Socket, DialError> {
        let connecting = connect(url, self.from);
        let socket = match timeout(self.limit, connecting).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(source)) => {
                return Err(DialError::Connect { address: address_of(url), source });
            }
            Err(_) => return Err(DialError::TimedOut { address: address_of(url) }),
        };
        socket::set_up_any(&socket);
        if !url.is_secure() {
            return Ok(Socket::Plain(socket));
        }
        let Some(connector) = &self.tls else {
            return Err(DialError::NotSecured { address: address_of(url) });
        };
        connector
            .connect(socket, url.host())
            .await
            .map_err(|source| DialError::Handshake { address: address_of(url), source })
    }

    /// Dials and begins to speak HTTP/1.1. The caller polls the driver.
    pub(crate) async fn connect(
        &self,
        url: &Url,
    ) -> Result<(http1::SendRequest<Body>, Driver), DialError> {
        let socket = self.dial(url).await?;
        let handshake =
            http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(socket)).await?;
        Ok(handshake)
    }
}

/// A connection that is used for one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<Body>,
    /// Drives the connection until this is dropped. `None` when it was asked how that ended.
    driver: Option<JoinHandle<Result<(), hyper::Error>>>,
}

/// How a request failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// For this reason.
    Error(hyper::Error),
    /// The other side had closed the connection.
    Closed,
}

/// Whether an error of a request says only that the connection had ended, and not why.
pub(crate) fn hides_cause(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed()
}

impl Connection {
    /// Dials.
    pub(crate) async fn open(url: &Url, dialler: &Dialler) -> Result<Self, DialError> {
        let (sender, driver) = dialler.connect(url).await?;
        Ok(Self { sender, driver: Some(tokio::spawn(driver)) })
    }

    /// Why a request failed: a connection that ended beforehand tells its own end only to who drives it.
    pub(crate) async fn cause(&mut self, told: hyper::Error) -> Broken {
        if !hides_cause(&told) {
            return Broken::Error(told);
        }
        let Some(driver) = self.driver.take() else { return Broken::Error(told) };
        let stopping = driver.abort_handle();
        match timeout(CAUSE_LIMIT, driver).await {
            // Before its first answer, a connection that is closed has failed to bring it.
            Ok(Ok(Err(cause))) if cause.is_incomplete_message() => Broken::Closed,
            Ok(Ok(Ok(()))) => Broken::Closed,
            Ok(Ok(Err(cause))) => Broken::Error(cause),
            Ok(Err(_)) => Broken::Error(told),
            Err(_) => {
                stopping.abort();
                Broken::Error(told)
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(driver) = &self.driver {
            driver.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::client::CallError;

    #[tokio::test]
    async fn connections_come_from_the_address_that_is_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        for from in [None, Some(IpAddr::from([127, 0, 0, 2]))] {
            let dialler = Dialler::new(Duration::from_secs(10), None).coming_from(from);
            let (dialled, accepted) = tokio::join!(dialler.dial(&url), listener.accept());
            dialled.unwrap();
            let expected = from.unwrap_or(IpAddr::from([127, 0, 0, 1]));
            assert_eq!(accepted.unwrap().1.ip(), expected);
        }
        // There is no way from one kind of address to the other.
        let dialler = Dialler::new(Duration::from_secs(10), None)
            .coming_from(Some(std::net::Ipv6Addr::LOCALHOST.into()));
        assert!(matches!(dialler.dial(&url).await, Err(DialError::Connect { .. })));
    }
    #[tokio::test]
    async fn a_request_tells_why_its_connection_had_ended() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let dialler = Dialler::new(Duration::from_secs(10), None);
        for (resets, expected) in [(true, "Connection reset by peer"), (false, "EOF")] {
            let (opened, accepted) =
                tokio::join!(Connection::open(&url, &dialler), listener.accept());
            let accepted = accepted.unwrap().0;
            if resets {
                accepted.set_zero_linger().unwrap();
            }
            drop(accepted);
            let mut connection = opened.unwrap();
            let told = loop {
                match connection.sender.ready().await {
                    Ok(()) => tokio::task::yield_now().await,
                    Err(told) => break told,
                }
            };
            assert!(hides_cause(&told), "{told:?}");
            let cause = CallError::from(connection.cause(told).await).to_string();
            assert!(cause.starts_with(expected), "{cause}");
        }
    }
}
