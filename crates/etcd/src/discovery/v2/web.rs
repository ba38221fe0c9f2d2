//! One HTTP request at a time, with a connection of its own: discovery makes a handful.
//!
//! ```text
//! request ──► connection to the host ──────────────────────► TLS, if https ──► answer, read as a whole
//!        └──► connection to the proxy ─┬─ http:  the whole URL in the request ──►
//!                                      └─ https: CONNECT, then TLS through the tunnel ──►
//! ```
//!
//! Redirects are followed, a few. Everything the other side says is limited in bytes; the time is the caller's to limit, but for
//! connecting.
//!
//! Upstream: `client/v2/client.go` (3.5.30), which is Go's HTTP library below.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tls::{Connector, Settings, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::url::WebUrl;
use crate::flags::go;

/// Largest answer that is read: a directory of registrations.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Largest head of a proxy's answer about a tunnel.
const TUNNEL_HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long a connection may take to come about, and a tunnel after it.
const DIAL_LIMIT: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 10;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) url: WebUrl,
    /// A form, encoded.
    pub(super) form: Option<String>,
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebError {
    /// The other side cannot be reached, breaks off, or sends elsewhere without an end.
    #[error("{0}")]
    Broken(String),
    /// The answer is longer than anything that is expected.
    #[error("client: response is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

/// An error with what is behind it.
fn broken(error: &dyn std::error::Error) -> WebError {
    WebError::Broken(match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}

/// Asks servers, by a proxy if there is one.
pub(super) struct Web {
    proxy: Option<WebUrl>,
    /// Believes whom the system believes.
    connector: Connector,
}

impl Web {
    /// # Errors
    /// The system's authorities cannot be read.
    pub(super) fn new(proxy: Option<WebUrl>) -> Result<Self, tls::Error> {
        Ok(Self { proxy, connector: Connector::new(&Settings::default(), &[])? })
    }

    /// Asks, and asks again where the answer sends to.
    pub(super) async fn ask(&self, mut question: Question) -> Result<Answer, WebError> {
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.exchange(&question).await?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let Some(location) = answer.headers.get(header::LOCATION) else {
                return Err(WebError::Broken("location header not set".to_owned()));
            };
            let location = location.to_str().map_err(|error| broken(&error))?;
            // Name and password are those of the new URL, if any: the old ones are not for everybody.
            question.url = WebUrl::parse(location).map_err(WebError::Broken)?;
        }
        Err(WebError::Broken("client: too many redirects".to_owned()))
    }

    async fn exchange(&self, question: &Question) -> Result<Answer, WebError> {
        let request = self.request(question)?;
        let stream = self.connect(&question.url).await?;
        let (mut sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        // Ends with this call, whatever becomes of it.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The request that fails reports it.
            let _ = driver.await;
        });
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| {
                match error.downcast_ref::<LengthLimitError>() {
                    Some(_) => WebError::TooLong,
                    None => broken(error.as_ref()),
                }
            })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    fn request(&self, question: &Question) -> Result<Request<Full<Bytes>>, WebError> {
        let Question { method, url, form } = question;
        let mut request =
            Request::builder().method(method.clone()).header(header::HOST, url.authority());
        if let Some(login) = url.basic() {
            request = request.header(header::AUTHORIZATION, secret(&login)?);
        }
        request = match &self.proxy {
            Some(proxy) if !url.is_secure => {
                if let Some(login) = proxy.basic() {
                    request = request.header(header::PROXY_AUTHORIZATION, secret(&login)?);
                }
                request.uri(url.to_string())
            }
            _ => request.uri(url.target()),
        };
        if form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let body = Full::new(Bytes::from(form.clone().unwrap_or_default()));
        request.body(body).map_err(|error| broken(&error))
    }

    /// What requests to that URL are written to.
    async fn connect(&self, url: &WebUrl) -> Result<Stream, WebError> {
        match &self.proxy {
            None => self.secured(dial(url).await?, url).await,
            Some(proxy) if !url.is_secure => self.secured(dial(proxy).await?, proxy).await,
            Some(proxy) if proxy.is_secure => Err(WebError::Broken(format!(
                "the proxy {} has TLS: nothing else with TLS is asked through it",
                proxy.origin()
            ))),
            Some(proxy) => {
                let mut socket = dial(proxy).await?;
                match timeout(DIAL_LIMIT, tunnel(&mut socket, proxy, url)).await {
                    Ok(open) => open?,
                    Err(_) => {
                        let address = proxy.address();
                        return Err(WebError::Broken(format!(
                            "proxyconnect tcp {address}: i/o timeout"
                        )));
                    }
                }
                self.secured(socket, url).await
            }
        }
    }

    /// A connection to the host of that URL, as the URL wants it.
    async fn secured(&self, socket: TcpStream, url: &WebUrl) -> Result<Stream, WebError> {
        match url.is_secure {
            false => Ok(Stream::Plain(socket.into())),
            true => self.connector.connect(socket, &url.host).await.map_err(|error| broken(&error)),
        }
    }
}

fn secret(login: &str) -> Result<HeaderValue, WebError> {
    let mut value = HeaderValue::from_str(login).map_err(|error| broken(&error))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Connects to the first address of the host that answers. The texts are Go's.
async fn dial(url: &WebUrl) -> Result<TcpStream, WebError> {
    let connecting = async {
        let mut failed = format!("dial tcp: lookup {}: no such host", url.host);
        let Ok(addresses) = lookup_host((url.host.as_str(), url.port)).await else {
            return Err(failed);
        };
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(socket) => return Ok(socket),
                Err(error) => {
                    failed = format!("dial tcp {address}: connect: {}", go::system_error(&error));
                }
            }
        }
        Err(failed)
    };
    match timeout(DIAL_LIMIT, connecting).await {
        Ok(socket) => socket.map_err(WebError::Broken),
        Err(_) => Err(WebError::Broken(format!("dial tcp {}: i/o timeout", url.address()))),
    }
}

/// Asks a proxy for a way to a host. Not a byte behind the answer is read: what follows is TLS.
async fn tunnel(socket: &mut TcpStream, proxy: &WebUrl, url: &WebUrl) -> Result<(), WebError> {
    let place = url.address();
    let login = match proxy.basic() {
        Some(login) => format!("Proxy-Authorization: {login}\r\n"),
        None => String::new(),
    };
    let request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{login}\r\n");
    socket.write_all(request.as_bytes()).await.map_err(|error| broken(&error))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == TUNNEL_HEAD_BYTES_MAX {
            return Err(WebError::Broken("the proxy's answer to CONNECT has no end".to_owned()));
        }
        head.push(socket.read_u8().await.map_err(|error| broken(&error))?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    let status = line.split_once(' ').map_or("", |(_, status)| status);
    if line.starts_with("HTTP/1.") && status.starts_with('2') {
        return Ok(());
    }
    // As Go has it: the status without its number.
    let reason = status.split_once(' ').map_or(status, |(_, reason)| reason);
    Err(WebError::Broken(reason.to_owned()))
}
