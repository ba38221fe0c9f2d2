//! Ids of members, clusters and requests.
//!
//! ```text
//! member id   first 8 bytes, big-endian, of SHA-1(peer URLs sorted and joined ++ cluster token ++ [unix seconds])
//! cluster id  first 8 bytes, big-endian, of SHA-1(member ids, 8 bytes big-endian each, ascending)
//! request id  | member id, low 16 bits | start time in ms, low 40 bits | counter, 8 bits |
//!             counting up by one, the counter may run over into the time
//! ```
//!
//! Upstream: `server/etcdserver/api/membership/member.go`, `cluster.go`, `pkg/idutil/id.go` (3.5.30).

use sha1::{Digest, Sha1};

/// Lease ids are positive: the topmost bit of a request id is taken off.
const POSITIVE: u64 = i64::MAX.unsigned_abs();

/// Returns the id of a founding member.
#[must_use]
pub fn founder_id(peer_urls: &[String], cluster_token: &str) -> u64 {
    member_id(peer_urls, cluster_token)
}

/// Returns the id of a member that is added to a running cluster at `unix_seconds`.
///
/// The same URLs within the same second give the same id.
#[must_use]
pub fn added_member_id(peer_urls: &[String], unix_seconds: u64) -> u64 {
    member_id(peer_urls, &unix_seconds.to_string())
}

/// Returns the id of a cluster with these founding members.
#[must_use]
pub fn cluster_id(members: impl IntoIterator<Item = u64>) -> u64 {
    let mut members: Vec<u64> = members.into_iter().collect();
    members.sort_unstable();
    let mut sha = Sha1::new();
    for member in members {
        sha.update(member.to_be_bytes());
    }
    leading_u64(&sha.finalize())
}

fn member_id(peer_urls: &[String], suffix: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut sha = Sha1::new();
    for url in urls {
        sha.update(url);
    }
    sha.update(suffix);
    leading_u64(&sha.finalize())
}

fn leading_u64(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte))
}

/// Makes the ids under which a member waits for its own requests.
#[derive(Debug, Clone)]
pub struct RequestIds {
    member: u64,
    rest: u64,
}

impl RequestIds {
    /// Starts counting for a member at `unix_ms`. A restarted member must start later than it did before.
    #[must_use]
    pub fn new(member_id: u64, unix_ms: u64) -> Self {
        Self { member: member_id << 48, rest: unix_ms << 24 >> 16 }
    }

    /// Returns the next id, which is never 0.
    pub fn next_id(&mut self) -> u64 {
        // 48 bits; the count goes on into the time part and, after all, around.
        self.rest = self.rest.wrapping_add(1) & (u64::MAX >> 16);
        self.member | self.rest
    }

    /// Returns the next id that can name a lease: positive as an `i64`.
    pub fn next_lease_id(&mut self) -> i64 {
        (self.next_id() & POSITIVE).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|&url| url.to_owned()).collect()
    }

    /// The member and the cluster of the fixture rich-3.5.30, whose token is `fixture-rich`.
    #[test]
    fn ids_of_a_real_cluster() {
        let member = founder_id(&urls(&["http://127.0.0.1:41001"]), RICH_TOKEN);
        assert_eq!(member, 0x508e_d529_2be9_39a9);
        assert_eq!(cluster_id([member]), 0xa708_b755_b0f0_90d8);
    }

    const RICH_TOKEN: &str = "fixture-rich";

    #[test]
    fn order_of_urls_and_members_is_free() {
        let one = founder_id(&urls(&["http://a:1", "http://b:1"]), "t");
        assert_eq!(one, founder_id(&urls(&["http://b:1", "http://a:1"]), "t"));
        assert_ne!(one, added_member_id(&urls(&["http://b:1", "http://a:1"]), 7));
        assert_eq!(cluster_id([3, 1, 2]), cluster_id([1, 2, 3]));
    }

    #[test]
    fn request_ids_carry_the_member_and_count_up() {
        let mut ids = RequestIds::new(0x508e_d529_2be9_39a9, 0xff00_0000_0000_0001);
        assert_eq!(ids.next_id(), 0x39a9_0000_0000_0101);
        for _ in 0..0xff {
            ids.next_id();
        }
        assert_eq!(ids.next_id(), 0x39a9_0000_0000_0201);
        let mut ids = RequestIds::new(0xffff, 5);
        assert!(ids.next_lease_id() > 0);
    }
}
