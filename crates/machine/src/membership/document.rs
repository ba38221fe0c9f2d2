//! The document in a `.snap` file: the v2 store, of which only membership is left.
//!
//! ```text
//! /                                   {"Root": {...}, "WatcherHub": {...}, "CurrentIndex", "Stats", "CurrentVersion"}
//! ├── 0
//! │   ├── members/<id>/raftAttributes     {"peerURLs":[..]} and "isLearner":true for a learner
//! │   ├── members/<id>/attributes         {"name":..,"clientURLs":[..]} once the member has started
//! │   ├── removed_members/<id>            ""
//! │   └── version                         3.5.0
//! └── 1
//! ```
//!
//! etcd 3.5 cannot start without it, and 3.6 refuses anything else in it. It is built afresh from the members each
//! time, as 3.6 does; the history that 3.5 keeps for v2 watchers stays empty, but must have its 1000 slots, or 3.5
//! crashes at the next change.
//!
//! Upstream: `server/etcdserver/api/v2store`, `membership/store.go`, `membership/storev2.go` (3.5.30, 3.6.14).

use std::collections::BTreeMap;

use backend::schema::to_go_json;
use serde::{Deserialize, Serialize};

use super::{Member, Membership};
use crate::OpenError;

/// Slots of the event history; 3.5 indexes into them without looking.
const HISTORY_SLOTS: usize = 1000;

/// How Go writes the zero time, which a node has that does not expire.
const NEVER: &str = "0001-01-01T00:00:00Z";

const MEMBERS: &str = "/0/members";
const REMOVED: &str = "/0/removed_members";
pub(crate) const CLUSTER_VERSION: &str = "/0/version";

/// Layout of `raftAttributes`.
#[derive(Serialize, Deserialize)]
struct RaftAttributes {
    #[serde(rename = "peerURLs", default, deserialize_with = "null_as_default")]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
}

/// Layout of `attributes`; also what 3.5 publishes in a v2 request.
#[derive(Serialize, Deserialize)]
pub(crate) struct Attributes {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub(crate) client_urls: Vec<String>,
}

/// One node of the tree, in etcd's order of fields.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    path: String,
    #[serde(default)]
    created_index: u64,
    #[serde(default)]
    modified_index: u64,
    #[serde(default = "never")]
    expire_time: String,
    #[serde(default)]
    value: String,
    /// `None`: a key. A directory has a map, if empty.
    #[serde(default)]
    children: Option<BTreeMap<String, Node>>,
}

fn never() -> String {
    NEVER.to_owned()
}

/// Go writes `null` for a nil slice.
fn null_as_default<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    root: Node,
    watcher_hub: WatcherHub,
    current_index: u64,
    stats: Stats,
    current_version: u32,
}

/// What is read of a document.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DocumentRoot {
    root: Node,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct WatcherHub {
    event_history: EventHistory,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventHistory {
    queue: EventQueue,
    start_index: u64,
    last_index: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EventQueue {
    /// Always `null`.
    events: Vec<Option<u64>>,
    size: u64,
    front: u64,
    back: u64,
    capacity: u64,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    gets_success: u64,
    gets_fail: u64,
    sets_success: u64,
    sets_fail: u64,
    delete_success: u64,
    delete_fail: u64,
    update_success: u64,
    update_fail: u64,
    create_success: u64,
    create_fail: u64,
    compare_and_swap_success: u64,
    compare_and_swap_fail: u64,
    compare_and_delete_success: u64,
    compare_and_delete_fail: u64,
    expire_count: u64,
    watchers: u64,
}

/// Writes the document of these members.
#[must_use]
pub fn encode(membership: &Membership) -> Vec<u8> {
    let mut tree = Tree { root: directory("/".to_owned(), 0), index: 0 };
    tree.make_directory("/0");
    tree.make_directory("/1");
    for member in membership.members() {
        let path = format!("{MEMBERS}/{:x}", member.id);
        let raft =
            RaftAttributes { peer_urls: member.peer_urls.clone(), is_learner: member.is_learner };
        tree.set(&format!("{path}/raftAttributes"), to_go_json(&raft));
        if !member.client_urls.is_empty() {
            let attributes =
                Attributes { name: member.name.clone(), client_urls: member.client_urls.clone() };
            tree.set(&format!("{path}/attributes"), to_go_json(&attributes));
        }
    }
    for id in membership.removed() {
        tree.set(&format!("{REMOVED}/{id:x}"), String::new());
    }
    if let Some(version) = membership.version() {
        tree.set(CLUSTER_VERSION, version.to_string());
    }

    let Tree { root, index } = tree;
    let queue = EventQueue {
        events: vec![None; HISTORY_SLOTS],
        size: 0,
        front: 0,
        back: 0,
        capacity: HISTORY_SLOTS as u64,
    };
    let document = Document {
        root,
        watcher_hub: WatcherHub {
            event_history: EventHistory { queue, start_index: 0, last_index: 0 },
        },
        current_index: index,
        stats: Stats { create_success: index, ..Stats::default() },
        current_version: 2,
    };
    to_go_json(&document).into_bytes()
}

/// Reads members, removed ids and cluster version from a document.
///
/// # Errors
/// [`OpenError::Document`] if it is not one, or holds what no etcd since 3.5 writes: keys below `/1`, other top-level
/// directories that are not empty, a member without `raftAttributes`.
pub fn decode(bytes: &[u8]) -> Result<Membership, OpenError> {
    let DocumentRoot { root } =
        serde_json::from_slice(bytes).map_err(|error| OpenError::Document(error.to_string()))?;
    let mut membership = Membership::default();
    for (name, node) in root.children.unwrap_or_default() {
        if name == "0" {
            read_cluster(node, &mut membership)?;
        } else if node.children.as_ref().is_none_or(|children| !children.is_empty()) {
            return Err(OpenError::Document(format!(
                "detected disallowed custom content in v2store for stage --v2-deprecation=write-only: v2 data at {}: {} keys of the v2 API would be lost with the next snapshot, so nothing was changed; move them to \
                 v3 with etcd 3.4 (etcdctl migrate), or delete them with etcd 3.5 (--enable-v2), and start again",
                node.path,
                keys_below(&node)
            )));
        }
    }
    Ok(membership)
}

/// Nodes with a value at or below this one.
fn keys_below(node: &Node) -> usize {
    node.children.as_ref().map_or(1, |children| children.values().map(keys_below).sum())
}

fn read_cluster(node: Node, membership: &mut Membership) -> Result<(), OpenError> {
    for (name, node) in node.children.unwrap_or_default() {
        match name.as_str() {
            "members" => {
                for (name, node) in node.children.unwrap_or_default() {
                    let member = read_member(parse_id(&name)?, node)?;
                    membership.members.insert(member.id, member);
                }
            }
            "removed_members" => {
                for name in node.children.unwrap_or_default().keys() {
                    membership.removed.insert(parse_id(name)?);
                }
            }
            "version" => membership.version = Some(crate::parse_cluster_version(&node.value)?),
            _ => return Err(OpenError::Document(format!("unknown key {}", node.path))),
        }
    }
    Ok(())
}

fn read_member(id: u64, node: Node) -> Result<Member, OpenError> {
    let mut member = Member { id, ..Member::default() };
    let mut has_raft_attributes = false;
    for (name, node) in node.children.unwrap_or_default() {
        let wrong =
            |error: serde_json::Error| OpenError::Document(format!("{}: {error}", node.path));
        match name.as_str() {
            "raftAttributes" => {
                let RaftAttributes { peer_urls, is_learner } =
                    serde_json::from_str(&node.value).map_err(wrong)?;
                member.peer_urls = peer_urls;
                member.is_learner = is_learner;
                has_raft_attributes = true;
            }
            "attributes" => {
                let Attributes { name, client_urls } =
                    serde_json::from_str(&node.value).map_err(wrong)?;
                member.name = name;
                member.client_urls = client_urls;
            }
            _ => return Err(OpenError::Document(format!("unknown key {}", node.path))),
        }
    }
    if !has_raft_attributes {
        return Err(OpenError::Document(format!("{}/raftAttributes is missing", node.path)));
    }
    Ok(member)
}

fn parse_id(text: &str) -> Result<u64, OpenError> {
    u64::from_str_radix(text, 16)
        .map_err(|_| OpenError::Document(format!("{text:?} is not a member id")))
}

/// Splits `/0/members/<id>/attributes`, the path of a published member, and returns the id.
pub(crate) fn published_member(path: &str) -> Option<u64> {
    let id = path.strip_prefix(MEMBERS)?.strip_prefix('/')?.strip_suffix("/attributes")?;
    u64::from_str_radix(id, 16).ok()
}

/// The path of a published member; see [`published_member`].
pub(crate) fn path_of_publication(member_id: u64) -> String {
    format!("{MEMBERS}/{member_id:x}/attributes")
}

/// What stands there.
pub(crate) fn publication(name: String, client_urls: Vec<String>) -> String {
    to_go_json(&Attributes { name, client_urls })
}

/// Whether this is the path of the cluster version.
pub(crate) fn is_cluster_version(path: &str) -> bool {
    path == CLUSTER_VERSION
}

/// A tree under construction: each key set counts as one change, as in the v2 store.
struct Tree {
    root: Node,
    index: u64,
}

impl Tree {
    fn make_directory(&mut self, path: &str) {
        descend(&mut self.root, path, 0);
    }

    fn set(&mut self, path: &str, value: String) {
        self.index += 1;
        let node = descend(&mut self.root, path, self.index);
        node.children = None;
        node.value = value;
    }
}

/// Returns the node at a path, made with the directories above it where they are missing.
fn descend<'t>(root: &'t mut Node, path: &str, index: u64) -> &'t mut Node {
    let mut node = root;
    let mut end = 0;
    for name in path.split('/').skip(1) {
        end += 1 + name.len();
        let here = path.get(..end).unwrap_or(path).to_owned();
        node = node
            .children
            .get_or_insert_default()
            .entry(name.to_owned())
            .or_insert_with(|| directory(here, index));
    }
    node
}

fn directory(path: String, index: u64) -> Node {
    Node {
        path,
        created_index: index,
        modified_index: index,
        expire_time: never(),
        value: String::new(),
        children: Some(BTreeMap::new()),
    }
}

#[cfg(test)]
mod tests;
