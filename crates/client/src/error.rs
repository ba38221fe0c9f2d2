//! What a call can end with: etcd's errors keep their gRPC code and exact text.

use std::error::Error as _;

use tonic::{Code, Status};

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. `Display` is what etcd's tools print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The client was given no endpoint.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
    /// Connections cannot be secured as asked for: a file is missing or holds something else.
    #[error("{0}")]
    Tls(String),
    /// The server answered with an error, or the connection broke under the call ([`Code::Unavailable`]).
    #[error("{}", rpc_text(*code, message))]
    Rpc {
        /// gRPC code.
        code: Code,
        /// Status message, byte for byte.
        message: String,
    },
    /// The deadline of the caller passed. Whether a write took place is unknown.
    #[error("context deadline exceeded")]
    DeadlineExceeded {
        /// What the call was waiting for, as gRPC would describe it.
        detail: String,
    },
}

impl Error {
    /// An error of the server or connection.
    pub fn rpc(code: Code, message: impl Into<String>) -> Self {
        Self::Rpc { code, message: message.into() }
    }

    /// The gRPC code that stands for this error.
    pub fn code(&self) -> Code {
        match self {
            Self::NoEndpoints => Code::Unavailable,
            Self::Tls(_) => Code::Unavailable,
            Self::Rpc { code, .. } => *code,
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
        }
    }

    /// The gRPC status message.
    pub fn message(&self) -> String {
        match self {
            Self::NoEndpoints | Self::Tls(_) => self.to_string(),
            Self::Rpc { message, .. } => message.clone(),
            Self::DeadlineExceeded { detail } => detail.clone(),
        }
    }

    /// Which etcd error this is, if it is one: clients tell them apart by text.
    pub fn etcd(&self) -> Option<rpc::errors::Error> {
        match self {
            Self::Rpc { message, .. } => constant(message),
            Self::NoEndpoints | Self::Tls(_) | Self::DeadlineExceeded { .. } => None,
        }
    }

    /// `rpc error: code = X desc = Y`, the form logs use even for etcd's own errors.
    pub fn grpc_text(&self) -> String {
        long_text(self.code(), &self.message())
    }

    /// A stream that ended with this error can be opened again: everything but unavailability is final.
    pub(crate) fn is_resumable(&self) -> bool {
        matches!(self, Self::Rpc { code: Code::Unavailable | Code::Internal, .. })
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // A status with a source was made on this side, from a broken connection: the server's own have none. tonic classes some of
        // those as Unknown or Internal; for gRPC all of them are Unavailable, and retries depend on it.
        let broken = status.source().is_some()
            && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled);
        let code = if broken { Code::Unavailable } else { status.code() };
        Self::Rpc { code, message: status.message().to_owned() }
    }
}

/// The etcd error with this text. The catalogue's later entries have no constant in etcd: its client does not know them either.
fn constant(message: &str) -> Option<rpc::errors::Error> {
    rpc::errors::Error::from_message(message)
        .filter(|error| *error <= rpc::errors::Error::DeadlineExceeded)
}

fn rpc_text(code: Code, message: &str) -> String {
    match constant(message) {
        Some(_) => message.to_owned(),
        None => long_text(code, message),
    }
}

fn long_text(code: Code, message: &str) -> String {
    format!("rpc error: code = {} desc = {message}", code_name(code))
}

/// The code's name as Go's gRPC prints it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcd_errors_show_their_text_and_others_the_long_form() {
        let known = Error::rpc(Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(known.to_string(), "etcdserver: requested lease not found");
        assert_eq!(
            known.grpc_text(),
            "rpc error: code = NotFound desc = etcdserver: requested lease not found"
        );
        let unknown = Error::rpc(Code::Unknown, "raft: stopped");
        assert_eq!(unknown.to_string(), "rpc error: code = Unknown desc = raft: stopped");
        let late = Error::DeadlineExceeded { detail: "latest balancer error: x".into() };
        assert_eq!(late.to_string(), "context deadline exceeded");
        assert_eq!(
            late.grpc_text(),
            "rpc error: code = DeadlineExceeded desc = latest balancer error: x"
        );
    }
}
