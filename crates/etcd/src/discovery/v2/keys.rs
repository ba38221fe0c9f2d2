//! The part of etcd's v2 keys API that discovery needs, as a client: read, create, wait.
//!
//! ```text
//! GET KEY?quorum=false&recursive=false&sorted=false       a value, or a directory with its children
//! PUT KEY?prevExist=false              value=TEXT          only if it is not there
//! GET KEY?recursive=BOOL&wait=true&waitIndex=N            the first change from N on, as soon as there is one
//! ```
//!
//! Answers are JSON; `X-Etcd-Index` is how far the service is. A wait that ends without a body is asked again.
//!
//! Upstream: `client/v2/keys.go` (3.5.30).

use std::time::Duration;

use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::url::{WebUrl, form};
use super::web::{Answer, Question, Web, WebError};

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Anything but a wait, as in etcd's client.
    pub(super) request: Duration,
    /// A wait, before it is asked again: services end one after 5 min, and a connection may be dead by then.
    pub(super) wait: Duration,
    /// A service that ends waits sooner than this, without a change, is not asked more often than this either.
    pub(super) wait_min: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(5),
            wait: Duration::from_secs(10 * 60),
            wait_min: Duration::from_secs(1),
        }
    }
}

/// The code of a key that is there already.
const NODE_EXIST: u64 = 105;
/// The code of an index that the service has forgotten.
const INDEX_CLEARED: u64 = 401;

/// A key or a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) dir: bool,
    /// A directory's children.
    pub(super) nodes: Vec<Self>,
    pub(super) created_index: u64,
    pub(super) modified_index: u64,
}

impl Node {
    /// The last part of the key.
    pub(super) fn id(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }
}

/// What the service says of a node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `get`, `set`, `create`, `delete`, ….
    pub(super) action: String,
    pub(super) node: Node,
    /// How far the service was; 0 where it does not say.
    pub(super) index: u64,
}

/// Why the service did not do as asked. The texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be reached, or cannot serve now: worth another try.
    #[error("{0}")]
    Unavailable(String),
    /// It took too long.
    #[error("context deadline exceeded")]
    TimedOut,
    /// It refuses.
    #[error("{code}: {message} ({cause}) [{index}]")]
    Refused {
        /// 100: no such key; 105: the key is there already; 401: the index is too old.
        code: u64,
        /// In words.
        message: String,
        /// What it is about.
        cause: String,
        /// How far the service is.
        index: u64,
    },
    /// It does not speak the v2 keys API.
    #[error(
        "client: response is invalid json. The endpoint is probably not valid etcd cluster endpoint"
    )]
    NotKeys,
    /// It says nothing.
    #[error("client: response body is empty")]
    Empty,
    /// It says more than is read.
    #[error("{0}")]
    TooLong(String),
}

impl KeysError {
    /// Whether the key was there already.
    pub(super) fn is_node_exist(&self) -> bool {
        matches!(self, Self::Refused { code: NODE_EXIST, .. })
    }

    /// Whether the change that was waited for is forgotten: it is to be looked up instead.
    pub(super) fn is_index_cleared(&self) -> bool {
        matches!(self, Self::Refused { code: INDEX_CLEARED, .. })
    }
}

/// The keys of one service.
pub(super) struct Keys {
    web: Web,
    service: WebUrl,
    limits: Limits,
}

impl Keys {
    pub(super) fn new(web: Web, service: WebUrl, limits: Limits) -> Self {
        Self { web, service, limits }
    }

    /// Reads a key.
    pub(super) async fn get(&self, path: &str) -> Result<Found, KeysError> {
        let query = "quorum=false&recursive=false&sorted=false";
        self.ask(Method::GET, path, query, None, self.limits.request).await
    }

    /// Makes a key that is not there.
    pub(super) async fn create(&self, path: &str, value: &str) -> Result<Found, KeysError> {
        let value = Some(form("value", value));
        self.ask(Method::PUT, path, "prevExist=false", value, self.limits.request).await
    }

    /// The first change from that index on, of a key or also of those below it.
    pub(super) async fn wait(
        &self,
        path: &str,
        from: u64,
        is_recursive: bool,
    ) -> Result<Found, KeysError> {
        let query = format!("recursive={is_recursive}&wait=true&waitIndex={from}");
        loop {
            let asked = Instant::now();
            match self.ask(Method::GET, path, &query, None, self.limits.wait).await {
                // A change before the one that was asked for would come again without an end.
                Ok(found) if found.node.modified_index < from => return Err(KeysError::NotKeys),
                // A service that counts no changes may say the same again and again.
                Ok(found) if found.node.modified_index == 0 => {
                    sleep(self.limits.wait_min.saturating_sub(asked.elapsed())).await;
                    return Ok(found);
                }
                Err(KeysError::Empty | KeysError::TimedOut) => {
                    sleep(self.limits.wait_min.saturating_sub(asked.elapsed())).await;
                }
                other => return other,
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &str,
        form: Option<String>,
        limit: Duration,
    ) -> Result<Found, KeysError> {
        let question = Question { method, url: self.service.with(path, query), form };
        match timeout(limit, self.web.ask(question)).await {
            Ok(Ok(answer)) => read(&answer, &self.service),
            Ok(Err(error @ WebError::Broken(_))) => Err(KeysError::Unavailable(error.to_string())),
            Ok(Err(error @ WebError::TooLong)) => Err(KeysError::TooLong(error.to_string())),
            Err(_) => Err(KeysError::TimedOut),
        }
    }
}

/// An answer's body, where all went well.
#[derive(Deserialize)]
struct Success {
    #[serde(default)]
    action: String,
    node: Node,
}

/// An answer's body, where it did not.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Refusal {
    error_code: u64,
    message: String,
    cause: String,
    index: u64,
}

/// What an answer means.
fn read(answer: &Answer, service: &WebUrl) -> Result<Found, KeysError> {
    let Answer { status, headers, body } = answer;
    let origin = || service.origin();
    match *status {
        StatusCode::OK | StatusCode::CREATED if body.is_empty() => Err(KeysError::Empty),
        StatusCode::OK | StatusCode::CREATED => {
            let Success { action, node } =
                serde_json::from_slice(body).map_err(|_| KeysError::NotKeys)?;
            let index = match headers.get("x-etcd-index").map(|value| value.to_str()) {
                None => 0,
                Some(text) => {
                    let index = text.ok().and_then(|text| text.parse().ok());
                    index.ok_or(KeysError::NotKeys)?
                }
            };
            Ok(Found { action, node, index })
        }
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::SERVICE_UNAVAILABLE => {
            let why = format!("client: etcd member {} has no leader", origin());
            Err(KeysError::Unavailable(why))
        }
        status if status.is_server_error() => {
            let reason = status.canonical_reason().unwrap_or_default();
            let why = format!("client: etcd member {} returns server error [{reason}]", origin());
            Err(KeysError::Unavailable(why))
        }
        _ => match serde_json::from_slice(body) {
            Ok(Refusal { error_code: code, message, cause, index }) => {
                Err(KeysError::Refused { code, message, cause, index })
            }
            Err(_) => Err(KeysError::NotKeys),
        },
    }
}
