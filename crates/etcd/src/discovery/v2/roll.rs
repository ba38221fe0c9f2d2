//! Who is a member: what the service's directory says, without asking anybody.
//!
//! The service lets everybody register; the first `size` by creation are the cluster. A member that is not among them
//! is told that the cluster is full, before or after it has registered.
//!
//! Upstream: `server/etcdserver/api/v2discovery/discovery.go` (3.6.14). Differs: a size of zero is bad, a registration that changes
//! counts once, and what is removed or configured while others are waited for is no registration.

use std::time::Duration;

use server::config::{Url, parse_initial_cluster};

use super::super::Error;
use super::keys::Node;

/// Most bytes of registrations that are kept: hundreds of members, whatever the size says.
const TEXT_BYTES_MAX: usize = 256 * 1024;
/// Pauses before asking again grow up to 2^8 s.
const PAUSE_DOUBLINGS_MAX: u32 = 8;
/// The service's own part of the directory.
const CONFIG: &str = "_config";

/// Reads the size as the operator wrote it.
///
/// # Errors
/// It is no number above zero.
pub(super) fn size(text: &str) -> Result<u64, Error> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let size = text.parse().ok().filter(|size| is_number && *size > 0);
    size.ok_or(Error::SizeBad)
}

/// How long to wait before the try after this many failed ones.
pub(super) fn pause(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(PAUSE_DOUBLINGS_MAX))
}

/// A registration: `id` is the last part of its key, `urls` are as `--initial-cluster` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) id: String,
    pub(super) urls: String,
}

/// The members so far, at most `size`, in the order of creation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Roll {
    size: u64,
    members: Vec<Registered>,
}

impl Roll {
    /// Of the directory's children, as seen by the member with that id.
    ///
    /// # Errors
    /// The cluster is full, and this is none of its members; or there is more than can be kept.
    pub(super) fn new(size: u64, own_id: &str, mut children: Vec<Node>) -> Result<Self, Error> {
        children.retain(|node| node.id() != CONFIG);
        children.sort_by_key(|node| node.created_index);
        children.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        let members: Vec<Registered> = children.into_iter().map(registered).collect();
        let roll = Self { size, members };
        if roll.missing() == 0 && roll.members.iter().all(|member| member.id != own_id) {
            return Err(Error::Full);
        }
        roll.check_bytes()?;
        Ok(roll)
    }

    /// How many are still to come.
    pub(super) fn missing(&self) -> u64 {
        self.size.saturating_sub(self.found())
    }

    /// How many there are.
    pub(super) fn found(&self) -> u64 {
        u64::try_from(self.members.len()).unwrap_or(u64::MAX)
    }

    /// All of them.
    pub(super) fn members(&self) -> &[Registered] {
        &self.members
    }

    /// Takes what happened in the directory; returns the id of who registered by it.
    ///
    /// # Errors
    /// There is more than can be kept.
    pub(super) fn note(&mut self, action: &str, node: Node) -> Result<Option<String>, Error> {
        // Who takes its registration away has still been a member.
        let is_written = matches!(action, "set" | "create" | "update" | "compareAndSwap");
        let is_configuration = node.key.split('/').any(|part| part == CONFIG);
        if !is_written || is_configuration || node.dir {
            return Ok(None);
        }
        let new = registered(node);
        let id = new.id.clone();
        let is_full = self.missing() == 0;
        match self.members.iter_mut().find(|member| member.id == new.id) {
            Some(known) => *known = new,
            None if is_full => return Ok(None),
            None => self.members.push(new),
        }
        self.check_bytes()?;
        Ok(Some(id))
    }

    /// The cluster, once nobody is missing: names and URLs.
    ///
    /// # Errors
    /// What members registered is no list of URLs, or two have the same name.
    pub(super) fn cluster(&self) -> Result<Vec<(String, Vec<Url>)>, Error> {
        let urls: Vec<&str> = self.members.iter().map(|member| member.urls.as_str()).collect();
        let members = parse_initial_cluster(&urls.join(",")).map_err(Error::Url)?;
        match u64::try_from(members.len()).is_ok_and(|count| count == self.size) {
            true => Ok(members),
            false => Err(Error::DuplicateName),
        }
    }

    fn check_bytes(&self) -> Result<(), Error> {
        let bytes = self.members.iter().map(|member| member.id.len() + member.urls.len());
        match bytes.sum::<usize>() > TEXT_BYTES_MAX {
            true => Err(Error::TooLong(TEXT_BYTES_MAX)),
            false => Ok(()),
        }
    }
}

fn registered(node: Node) -> Registered {
    Registered { id: node.id().to_owned(), urls: node.value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(key: &str, value: &str, created_index: u64) -> Node {
        Node { key: key.to_owned(), value: value.to_owned(), created_index, ..Node::default() }
    }

    fn member(number: u64) -> Node {
        node(&format!("/t/{number}"), &format!("m{number}=http://10.0.0.{number}:2380"), number)
    }

    fn ids(roll: &Roll) -> Vec<&str> {
        roll.members().iter().map(|member| member.id.as_str()).collect()
    }

    #[test]
    fn a_size_is_a_number_above_zero() {
        assert_eq!(size("3").unwrap(), 3);
        for text in ["", "0", "-1", "+3", "x", "3 ", "18446744073709551616"] {
            assert!(matches!(size(text), Err(Error::SizeBad)), "{text:?}");
        }
    }

    #[test]
    fn the_first_by_creation_are_the_cluster() {
        let children = || vec![member(3), node("/t/_config", "", 1), member(1), member(2)];
        let roll = Roll::new(2, "1", children()).unwrap();
        assert_eq!((ids(&roll), roll.missing()), (vec!["1", "2"], 0));
        assert!(matches!(Roll::new(2, "3", children()), Err(Error::Full)), "registered too late");
        assert!(matches!(Roll::new(3, "9", children()), Err(Error::Full)), "not registered");
        // There is room for one more.
        assert_eq!(Roll::new(4, "9", children()).unwrap().missing(), 1);
    }

    #[test]
    fn only_registrations_count_and_each_once() {
        let mut roll = Roll::new(3, "1", vec![member(1)]).unwrap();
        for (action, event) in [
            ("set", node("/t/_config/size", "9", 5)),
            ("delete", member(4)),
            ("expire", member(4)),
            ("create", Node { dir: true, ..member(4) }),
        ] {
            assert_eq!(roll.note(action, event).unwrap(), None, "{action}");
        }
        assert_eq!(roll.note("create", member(2)).unwrap().as_deref(), Some("2"));
        let moved = node("/t/2", "m2=http://10.0.0.22:2380", 2);
        assert_eq!(roll.note("set", moved).unwrap().as_deref(), Some("2"));
        assert_eq!(roll.missing(), 1);
        roll.note("create", member(3)).unwrap();
        assert_eq!(roll.note("create", member(4)).unwrap(), None, "nobody is missing");
        let cluster = roll.cluster().unwrap();
        assert_eq!(cluster.len(), 3);
        assert_eq!(cluster[1].1[0].to_string(), "http://10.0.0.22:2380");
    }

    #[test]
    fn what_is_no_cluster_is_told() {
        let cluster = |second: &str| {
            let children = vec![member(1), node("/t/2", second, 2)];
            Roll::new(2, "1", children).unwrap().cluster()
        };
        assert!(matches!(cluster("m1=http://10.0.0.2:2380"), Err(Error::DuplicateName)));
        assert!(matches!(cluster(""), Err(Error::DuplicateName)), "one name for two members");
        let three = "a=http://10.0.0.2:2380,b=http://10.0.0.3:2380";
        assert!(matches!(cluster(three), Err(Error::DuplicateName)));
        for text in ["blah", "a=ftp://x", "a=http://x"] {
            assert!(matches!(cluster(text), Err(Error::Url(_))), "{text}");
        }
    }

    #[test]
    fn a_service_that_floods_is_refused() {
        let long = "x".repeat(TEXT_BYTES_MAX);
        let full = vec![node("/t/2", &long, 2)];
        assert!(matches!(Roll::new(9, "1", full), Err(Error::TooLong(_))));
        let mut roll = Roll::new(u64::MAX, "1", Vec::new()).unwrap();
        assert!(matches!(roll.note("set", node("/t/2", &long, 2)), Err(Error::TooLong(_))));
    }

    #[test]
    fn pauses_double_up_to_a_few_minutes() {
        let seconds: Vec<u64> = [1, 2, 8, 9, u32::MAX].map(|n| pause(n).as_secs()).to_vec();
        assert_eq!(seconds, [2, 4, 256, 256, 256]);
    }
}
