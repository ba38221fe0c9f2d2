//! The JSON gateway over HTTP/1.1, one connection for each caller: it has no way to share one.

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A connection, which carries one request at a time.
pub(crate) struct Gateway {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Gateway {
    /// Connects to `host:port`. Must be called inside a `LocalSet`.
    pub(crate) async fn open(address: &str) -> Result<Self> {
        let socket =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true).context("set TCP_NODELAY")?;
        let (sender, connection) = handshake(TokioIo::new(socket)).await.context("HTTP/1.1")?;
        tokio::task::spawn_local(async move {
            // Its error shows in the request that is under way.
            let _ = connection.await;
        });
        Ok(Self { sender, authority: address.to_owned() })
    }

    /// Posts a JSON document and returns the answer's.
    pub(crate) async fn post(&mut self, path: &'static str, body: String) -> Result<Bytes> {
        let request = http::Request::post(path)
            .header("host", &self.authority)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .context("build a request")?;
        self.sender.ready().await.context("wait for the connection")?;
        let response = self.sender.send_request(request).await.context("send a request")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("read an answer")?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

/// Bytes as JSON documents hold them.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
