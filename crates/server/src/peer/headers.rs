//! What members tell each other in the headers of requests, and the checks on it.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The caller's member id.
pub(crate) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
/// The version of who speaks, in requests and answers.
pub(crate) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
/// The oldest version that the caller can be in a cluster with.
pub(crate) const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
/// The cluster of who speaks, in requests and answers.
pub(crate) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
/// Where the caller can be reached.
pub(crate) const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
/// The member that a stream is asked of.
pub(crate) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// The same for all versions 3.x.
const OLDEST_CLUSTER: MajorMinor = MajorMinor { major: 3, minor: 0 };
/// What an absent header means.
const UNSAID: MajorMinor = MajorMinor { major: 2, minor: 0 };

/// Who this member is to others.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The cluster's id.
    pub(crate) cluster_id: u64,
    /// This member's id.
    pub(crate) member_id: u64,
    /// An etcd version, such as `3.5.30`: peers decide by it what they send.
    pub(crate) server_version: String,
    /// Where others reach this member.
    pub(crate) peer_urls: Vec<String>,
}

impl Identity {
    /// The headers of every request to `/raft` and below.
    pub(crate) fn request_headers(&self) -> HeaderMap {
        let mut headers = self.stream_answer_headers();
        let mut set = |name, value: &str| {
            // What a header cannot carry is left out: the peer then says what it misses.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(SERVER_FROM, &format!("{:x}", self.member_id));
        set(MIN_CLUSTER_VERSION, &format!("{OLDEST_CLUSTER}.0"));
        set(PEER_URLS, &self.peer_urls.join(","));
        headers
    }

    /// The headers of an answer to `/raft/stream`.
    pub(crate) fn stream_answer_headers(&self) -> HeaderMap {
        let mut headers = self.answer_headers();
        if let Ok(version) = HeaderValue::from_str(&self.server_version) {
            headers.insert(SERVER_VERSION, version);
        }
        headers
    }

    /// The headers of the other answers.
    pub(crate) fn answer_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(id) = HeaderValue::from_str(&format!("{:x}", self.cluster_id)) {
            headers.insert(CLUSTER_ID, id);
        }
        headers
    }

    fn version(&self) -> MajorMinor {
        MajorMinor::parse(&self.server_version).unwrap_or(OLDEST_CLUSTER)
    }

    /// Whether the caller's version and this member's can be in one cluster.
    pub(crate) fn is_compatible(&self, caller: &HeaderMap) -> bool {
        let said = |name| match text(caller, name) {
            None => Some(UNSAID),
            Some(text) => MajorMinor::parse(text),
        };
        match (said(&SERVER_VERSION), said(&MIN_CLUSTER_VERSION)) {
            (Some(theirs), Some(least)) => theirs >= OLDEST_CLUSTER && least <= self.version(),
            (None, _) | (_, None) => false,
        }
    }

    /// Whether the caller is of this cluster. It may be silent about it only by not being etcd.
    pub(crate) fn is_same_cluster(&self, caller: &HeaderMap) -> bool {
        text(caller, &CLUSTER_ID) == Some(format!("{:x}", self.cluster_id).as_str())
    }

    /// Whether a member that answered so writes streams as this one reads them. A newer one always does.
    pub(crate) fn is_streaming(&self, answer: &HeaderMap) -> bool {
        let said = text(answer, &SERVER_VERSION).map_or(Some(UNSAID), MajorMinor::parse);
        said.is_some_and(|version| {
            let is_listed = matches!(version, MajorMinor { major: 2, minor: 1..=3 })
                || version.major == OLDEST_CLUSTER.major;
            version >= self.version() || is_listed
        })
    }
}

/// The value of a header, if it is text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// An id as paths and headers have it.
pub(crate) fn parse_id(text: &str) -> Option<u64> {
    // A sign would be read too.
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// As much of a version as compatibility depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct MajorMinor {
    major: u64,
    minor: u64,
}

impl MajorMinor {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.splitn(3, '.');
        let (major, minor, patch) = (numbers.next()?, numbers.next()?, numbers.next()?);
        patch.starts_with(|first: char| first.is_ascii_digit()).then_some(())?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl fmt::Display for MajorMinor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
