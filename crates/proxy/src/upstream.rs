//! Calls of clients, made again towards the cluster.
//!
//! A call carries what its client sent beside the message ([`Caller`]): who he is, whether he wants a leader, how long he waits. It waits for a
//! connection as long as the client does, and is repeated by the rules of etcd's client: reads while the cluster is unavailable, writes only
//! when no member can have seen them.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use client::retry::{Policy, may_retry};
use client::{Client, Error, Transport};
use prost::Message;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

/// Attempts of one call, and the pause between two: etcd's client's.
const ATTEMPTS_MAX: u32 = 100;
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// What goes on with a call: the token under both of its names, the wish for a leader, the deadline, and the version for statistics.
const PASSED_ON: &[&str] =
    &["token", "authorization", "hasleader", "grpc-timeout", "client-api-version"];

/// Who calls, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    metadata: MetadataMap,
}

impl Caller {
    /// Of a request's metadata, what goes on.
    pub(crate) fn of(metadata: &MetadataMap) -> Self {
        let mut passed = MetadataMap::new();
        for name in PASSED_ON {
            if let Some(value) = metadata.get(*name) {
                passed.insert(*name, value.clone());
            }
        }
        Self { metadata: passed }
    }

    /// The token, if there is one.
    pub(crate) fn token(&self) -> Option<MetadataValue<Ascii>> {
        self.metadata.get("token").or_else(|| self.metadata.get("authorization")).cloned()
    }

    /// What tells callers with different rights apart.
    pub(crate) fn identity(&self) -> Bytes {
        self.token().map(|token| Bytes::copy_from_slice(token.as_bytes())).unwrap_or_default()
    }

    /// Whether the caller is to be refused where there is no leader.
    pub(crate) fn needs_leader(&self) -> bool {
        self.metadata.get("hasleader").is_some_and(|value| value.as_bytes() == b"true")
    }
}

/// The way to the cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) client: Client,
    pub(crate) send_bytes_max: usize,
    pub(crate) recv_bytes_max: usize,
}

impl Upstream {
    /// Makes one unary call.
    pub(crate) async fn call<Q, R, F, U>(
        &self,
        caller: &Caller,
        policy: Policy,
        message: Q,
        invoke: F,
    ) -> Result<R, Status>
    where
        Q: Message + Clone,
        F: Fn(Transport, Request<Q>) -> U,
        U: Future<Output = Result<Response<R>, Status>>,
    {
        let (length, limit) = (message.encoded_len(), self.send_bytes_max);
        if length > limit {
            // grpc-go's words.
            return Err(Status::resource_exhausted(format!(
                "trying to send message larger than max ({length} vs. {limit})"
            )));
        }
        let mut attempt = 0;
        loop {
            let mut request = self.client.request(message.clone());
            for name in PASSED_ON {
                if let Some(value) = caller.metadata.get(*name) {
                    request.metadata_mut().insert(*name, value.clone());
                }
            }
            let error = match invoke(self.client.transport(), request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Error::from(status),
            };
            attempt += 1;
            let endpoints = self.client.endpoints().len();
            if attempt >= ATTEMPTS_MAX || !may_retry(&error, policy, endpoints) {
                return Err(status_of(&error));
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

/// An error as a client of the proxy sees it.
pub(crate) fn status_of(error: &Error) -> Status {
    Status::new(error.code(), error.message())
}
