//! gRPC straight on HTTP/2 frames.
//!
//! The load generator shares the machine with the server it measures: what it spends, the server cannot have. A tonic
//! channel costs about as much for a call as the server does, so calls are written by hand: one header block, one data
//! frame, one message in, one message out. No retries, no deadlines, no compression.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::access::Access;

/// A message is preceded by a flag byte (compressed or not) and its length in four bytes.
const PREFIX_BYTES: usize = 5;

/// Windows large enough that a range of 100 values of 4 KiB arrives without a window update in between.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;

/// A call that did not bring a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The server refused; code and text are etcd's.
    #[error("status {code}: {message}")]
    Status { code: u16, message: String },
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(#[from] h2::Error),
    /// The answer was no gRPC answer.
    #[error("malformed answer: {0}")]
    Malformed(&'static str),
}

/// Encodes a message with its prefix, ready to be sent.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + len);
    buffer.put_u8(0);
    // Requests of this program are far below 4 GiB.
    buffer.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

/// A method, as `/etcdserverpb.KV/Put`.
#[derive(Clone, Debug)]
pub(crate) struct Target(Uri);

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
    authority: String,
    headers: HeaderMap,
}

impl Connection {
    /// Connects to `host:port`. Must be called inside a `LocalSet`: the connection is driven by a local task.
    pub(crate) async fn open(address: &str, access: &Access) -> anyhow::Result<Self> {
        use anyhow::Context;
        let socket =
            TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        socket.set_nodelay(true).context("set TCP_NODELAY")?;
        if !access.tls {
            return Self::over(socket, address).await;
        }
        // Which key the server has is not what is measured.
        let settings = tls::Settings { skip_server_check: true, ..tls::Settings::default() };
        let connector = tls::Connector::new(&settings, &["h2"]).context("set up TLS")?;
        let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
        let stream = connector.connect(socket, host).await.context("TLS handshake")?;
        Self::over(stream, address).await
    }

    async fn over(
        socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
        address: &str,
    ) -> anyhow::Result<Self> {
        use anyhow::Context;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(64 << 10)
            .enable_push(false)
            .handshake(socket)
            .await
            .context("HTTP/2 handshake")?;
        tokio::task::spawn_local(async move {
            // Its error shows in every call that is under way.
            let _ = connection.await;
        });
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        Ok(Self { sender, authority: address.to_owned(), headers })
    }

    /// Every call carries the token from now on.
    pub(crate) fn set_token(&mut self, token: &str) -> anyhow::Result<()> {
        self.headers.insert("token", HeaderValue::from_str(token)?);
        Ok(())
    }

    /// Prepares a method's address.
    pub(crate) fn method(&self, path: &'static str) -> Target {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.authority.as_str())
            .path_and_query(path)
            .build();
        // Both parts are written in this program.
        Target(uri.unwrap_or_default())
    }

    async fn start(
        &self,
        method: &Target,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), CallError> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = method.0.clone();
        *request.headers_mut() = self.headers.clone();
        // Waits where the server limits the number of streams.
        let mut sender = self.sender.clone().ready().await?;
        Ok(sender.send_request(request, false)?)
    }

    /// Sends one framed message and returns the answer's bytes.
    pub(crate) async fn unary(&self, method: &Target, framed: Bytes) -> Result<Bytes, CallError> {
        let (response, mut body) = self.start(method).await?;
        body.send_data(framed, true)?;
        let response = response.await?;
        check_status(response.headers())?;
        let mut incoming =
            Incoming { body: response.into_body(), buffer: BytesMut::new(), whole: None };
        let message = incoming.next().await?;
        // The status comes in the trailers, after the message.
        while let Some(data) = incoming.body.data().await {
            let data = data?;
            incoming.body.flow_control().release_capacity(data.len())?;
        }
        if let Some(trailers) = incoming.body.trailers().await? {
            check_status(&trailers)?;
        }
        message.ok_or(CallError::Malformed("no message"))
    }

    /// Opens a stream with its first message.
    pub(crate) async fn stream(
        &self,
        method: &Target,
        first: Bytes,
    ) -> Result<(Outgoing, Incoming), CallError> {
        let (response, mut body) = self.start(method).await?;
        body.send_data(first, false)?;
        let response = response.await?;
        check_status(response.headers())?;
        let incoming =
            Incoming { body: response.into_body(), buffer: BytesMut::new(), whole: None };
        Ok((Outgoing { body }, incoming))
    }
}

/// The sending half of a stream.
pub(crate) struct Outgoing {
    body: SendStream<Bytes>,
}

impl Outgoing {
    /// Sends a framed message.
    pub(crate) fn send(&mut self, framed: Bytes) -> Result<(), CallError> {
        Ok(self.body.send_data(framed, false)?)
    }
}

/// The receiving half of a stream.
pub(crate) struct Incoming {
    body: RecvStream,
    /// What has arrived of messages that are not whole yet.
    buffer: BytesMut,
    /// What is left of a data frame: usually whole messages, taken from it without copying.
    whole: Option<Bytes>,
}

impl Incoming {
    /// Waits for the next message; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(message) = self.take_ready() {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await else { return Ok(None) };
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            if self.buffer.is_empty() {
                self.whole = Some(data);
            } else {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    fn take_ready(&mut self) -> Option<Bytes> {
        if let Some(mut data) = self.whole.take() {
            if let Some(len) = message_len(&data) {
                data.advance(PREFIX_BYTES);
                let message = data.split_to(len);
                self.whole = Some(data).filter(|data| !data.is_empty());
                return Some(message);
            }
            self.buffer.extend_from_slice(&data);
        }
        let len = message_len(&self.buffer)?;
        self.buffer.advance(PREFIX_BYTES);
        Some(self.buffer.split_to(len).freeze())
    }
}

/// The length of the message at the front, if all of it is there.
fn message_len(data: &[u8]) -> Option<usize> {
    let prefix: &[u8; PREFIX_BYTES] = data.first_chunk()?;
    let len =
        usize::try_from(u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]])).ok()?;
    (data.len() >= PREFIX_BYTES + len).then_some(len)
}

fn check_status(headers: &HeaderMap) -> Result<(), CallError> {
    let Some(status) = headers.get("grpc-status") else { return Ok(()) };
    let code = status.to_str().ok().and_then(|text| text.parse().ok());
    let code: u16 = code.ok_or(CallError::Malformed("grpc-status is no number"))?;
    if code == 0 {
        return Ok(());
    }
    let message = headers
        .get("grpc-message")
        .and_then(|text| text.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    Err(CallError::Status { code, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_whole() {
        let message = proto::etcdserverpb::LeaseGrantRequest { ttl: 5, id: 7 };
        let framed = frame(&message);
        assert_eq!(message_len(&framed), Some(message.encoded_len()));
        assert_eq!(message_len(&framed[..framed.len() - 1]), None);
        assert_eq!(message_len(&framed[..3]), None);
    }
}
