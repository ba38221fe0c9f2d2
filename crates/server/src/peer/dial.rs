//! Connections to other members: the one place that dials.

use std::io;
use std::time::Duration;

use axum::body::Body;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{Url, UrlError};

/// What is under HTTP.
pub(crate) type Socket = TcpStream;

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
    /// The connection broke at once.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// `host:port` of a URL, as requests name it.
pub(crate) fn address_of(url: &Url) -> String {
    match url.host().contains(':') {
        true => format!("[{}]:{}", url.host(), url.port()),
        false => format!("{}:{}", url.host(), url.port()),
    }
}

async fn dial(url: &Url, limit: Duration) -> Result<Socket, DialError> {
    url.check_served()?;
    let connecting = TcpStream::connect((url.host(), url.port()));
    let socket = match timeout(limit, connecting).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(source)) => return Err(DialError::Connect { address: address_of(url), source }),
        Err(_) => return Err(DialError::TimedOut { address: address_of(url) }),
    };
    // Messages are small, and waiting to fill a packet costs a round trip. A socket that cannot be set still works.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// Dials and begins to speak HTTP/1.1. The caller polls the driver.
pub(crate) async fn connect(
    url: &Url,
    limit: Duration,
) -> Result<(http1::SendRequest<Body>, Driver), DialError> {
    let socket = dial(url, limit).await?;
    let handshake =
        http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(socket)).await?;
    Ok(handshake)
}

/// A connection that is used for one request after the other.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: http1::SendRequest<Body>,
    /// Drives the connection until this is dropped.
    driver: JoinHandle<()>,
}

impl Connection {
    /// Dials.
    pub(crate) async fn open(url: &Url, limit: Duration) -> Result<Self, DialError> {
        let (sender, driver) = connect(url, limit).await?;
        let driver = tokio::spawn(async move {
            // The request that fails reports it.
            let _ = driver.await;
        });
        Ok(Self { sender, driver })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
