//! When a failed unary call is tried again.
//!
//! Upstream: client/v3/retry.go and retry_interceptor.go (3.5). A read may be repeated whenever the server is unavailable. A write may be
//! repeated only if no server can have seen it, else it could take effect twice.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use crate::error::Error;

/// Attempts of one call, etcd's default.
pub(crate) const ATTEMPTS_MAX: u32 = 100;

/// Pause after each round over a quorum of the endpoints, plus or minus [`JITTER`]; etcd's default.
const PAUSE: Duration = Duration::from_millis(25);
const JITTER: f64 = 0.10;

/// Whether a call may be repeated after a server may have seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A read: repeating it changes nothing.
    Repeatable,
    /// A write.
    NonRepeatable,
}

/// One failed attempt of a unary call, as told to an [`Observer`].
#[derive(Debug)]
pub struct FailedAttempt<'a> {
    /// First endpoint's address: what the client was made for.
    pub target: &'a str,
    /// Peer and local address of the connection, once there was one.
    pub connection: Option<(String, String)>,
    /// Whether connections are secured.
    pub is_secure: bool,
    /// Attempts made before this one.
    pub attempt: u32,
    /// The error in gRPC's long form.
    pub error: String,
}

/// Is told of each failed attempt, also of the last: `etcdctl` logs them as etcd's client does.
pub type Observer = Arc<dyn Fn(&FailedAttempt<'_>) + Send + Sync>;

/// Says whether the error allows another attempt under the policy.
pub fn may_retry(error: &Error, policy: Policy, endpoints: usize) -> bool {
    // Another endpoint may be a voter.
    if error.etcd() == Some(rpc::errors::Error::NotSupportedForLearner) && endpoints > 1 {
        return true;
    }
    if error.code() != Code::Unavailable || matches!(error, Error::NoEndpoints) {
        return false;
    }
    match policy {
        Policy::Repeatable => true,
        // gRPC's texts for a request that never left the client.
        Policy::NonRepeatable => matches!(
            error.message().as_str(),
            "there is no address available" | "there is no connection available"
        ),
    }
}

/// How long to wait before attempt number `attempt` (from 1): only once a quorum of the endpoints has been tried.
///
/// `random` is in 0..1.
pub(crate) fn pause_before(attempt: u32, endpoints: usize, random: f64) -> Option<Duration> {
    let quorum = u32::try_from(endpoints / 2 + 1).unwrap_or(u32::MAX);
    attempt.is_multiple_of(quorum).then(|| PAUSE.mul_f64(1.0 + JITTER * (random * 2.0 - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_not_repeated_once_sent() {
        let check = |code, message: &str, policy, expected| {
            assert_eq!(
                may_retry(&Error::rpc(code, message), policy, 1),
                expected,
                "{code:?} {message}"
            );
        };
        check(Code::Unavailable, "etcdserver: leader changed", Policy::Repeatable, true);
        check(Code::Unavailable, "etcdserver: leader changed", Policy::NonRepeatable, false);
        check(Code::Unavailable, "there is no connection available", Policy::NonRepeatable, true);
        check(Code::Unknown, "etcdserver: too many requests", Policy::Repeatable, false);
        check(Code::ResourceExhausted, "x", Policy::Repeatable, false);
    }

    #[test]
    fn pauses_after_each_quorum() {
        let paused: Vec<u32> = (1..=6).filter(|n| pause_before(*n, 3, 0.5).is_some()).collect();
        assert_eq!(paused, [2, 4, 6]);
        assert_eq!(pause_before(1, 1, 0.5), Some(PAUSE));
        assert_eq!(pause_before(1, 1, 0.0), Some(PAUSE.mul_f64(0.9)));
    }
}
