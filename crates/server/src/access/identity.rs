//! What a call shows of who asks, and who it turned out to be.

use std::fmt;
use std::sync::Arc;

use tonic::Extensions;
use tonic::metadata::MetadataMap;

use crate::takeover::Claim;

/// Metadata that holds a token, the first that is there.
const TOKEN_KEYS: [&str; 2] = ["token", "authorization"];

/// Metadata that calls of the gateway have. Its connection is not the client's, so nor is the certificate.
const GATEWAY_KEY: &str = "grpcgateway-accept";

/// What is known of a connection when it is accepted: an extension of each of its requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct ConnectionInfo {
    /// The other side, unless it is on this machine's file system.
    pub(crate) remote: Option<std::net::SocketAddr>,
    /// This side, likewise.
    pub(crate) local: Option<std::net::SocketAddr>,
    /// It is encrypted.
    pub(crate) is_secure: bool,
    /// The common name in the client's certificate, which was verified; empty if it has none.
    pub(crate) common_name: Option<Arc<str>>,
    /// For those who want the connection for another protocol.
    pub(crate) claim: Claim,
}

/// What a call shows; nothing if it came while authentication was off, but the span that it is recorded in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials {
    given: Option<Arc<Given>>,
    /// What happens to the call is told here, if it is recorded.
    pub(crate) span: Option<otlp::Parent>,
}

pub(super) struct Given {
    pub(super) token: Option<String>,
    pub(super) common_name: Option<Arc<str>>,
}

impl fmt::Debug for Given {
    /// Leaves the token out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("common_name", &self.common_name).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes what a call shows.
    pub(crate) fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let token = TOKEN_KEYS
            .iter()
            .find_map(|key| metadata.get(*key))
            // What is not text is no token, and is not passed over either.
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let common_name = match metadata.get(GATEWAY_KEY) {
            Some(_) => None,
            None => extensions.get::<ConnectionInfo>().and_then(|info| info.common_name.clone()),
        };
        Self { given: Some(Arc::new(Given { token, common_name })), span: None }
    }

    /// The same, of a call that is recorded in a span.
    pub(crate) fn within(self, span: &otlp::Parent) -> Self {
        Self { span: Some(span.clone()), ..self }
    }

    pub(super) fn given(&self) -> Option<&Given> {
        self.given.as_deref()
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    /// The user's name. Whether there is such a user is for the check of rights to say. Who has shown a certificate without
    /// a name has an empty one: that is enough where anybody will do who is somebody, as in etcd.
    pub(crate) user: String,
    /// The auth revision as of which this is known.
    pub(crate) revision: u64,
}

impl Identity {
    /// As the rights take it; nobody if there is none.
    pub(crate) fn caller(identity: Option<&Self>) -> auth::Caller<'_> {
        identity.map_or(auth::Caller::NOBODY, |Self { user, revision }| auth::Caller {
            user,
            revision: *revision,
        })
    }
}
