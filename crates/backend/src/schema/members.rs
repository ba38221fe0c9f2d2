//! Buckets `members` and `members_removed`.
//!
//! Keys are member ids in lower-case hex without leading zeros; a current member is a row of JSON.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::Bucket;
use super::json::to_go_json;
use crate::{Error, View, Writer};

/// Value of every row of `members_removed`.
const REMOVED: &[u8] = b"removed";

/// One current member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberRow {
    /// A bare 64-bit number in the JSON.
    pub id: u64,
    /// Where its peers reach it.
    #[serde(default, rename = "peerURLs", deserialize_with = "null_as_default")]
    pub peer_urls: Vec<String>,
    /// Whether it only listens.
    #[serde(default, rename = "isLearner", skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Empty until the member published itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it; empty until the member published itself.
    #[serde(
        default,
        rename = "clientURLs",
        deserialize_with = "null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub client_urls: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Go writes `null` for a nil slice.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The current members in the order of the bucket (which is not that of the numbers).
pub fn all(view: &View) -> Result<Vec<MemberRow>, Error> {
    let mut members = Vec::new();
    for row in view.scan(Bucket::Members, &[], None)? {
        let (key, value) = row?;
        let member: MemberRow = view.parse_json(Bucket::Members, &key, &value)?;
        if parse_id(&key) != Some(member.id) {
            return Err(view.corrupt(
                Bucket::Members,
                &key,
                format!("the row is of member {:x}", member.id),
            ));
        }
        members.push(member);
    }
    Ok(members)
}

/// Ids that were removed and must not come back.
pub fn removed(view: &View) -> Result<Vec<u64>, Error> {
    let mut ids = Vec::new();
    for row in view.scan(Bucket::MembersRemoved, &[], None)? {
        let (key, _) = row?;
        let id = parse_id(&key)
            .ok_or_else(|| view.corrupt(Bucket::MembersRemoved, &key, "not a member id".into()))?;
        ids.push(id);
    }
    Ok(ids)
}

/// Adds or replaces a current member.
pub fn put(writer: &mut Writer, member: &MemberRow) {
    writer.put(Bucket::Members, key_of(member.id), Bytes::from(to_go_json(member)));
}

/// Deletes the row of a member and marks the id as gone for ever.
pub fn remove(writer: &mut Writer, id: u64) {
    writer.delete(Bucket::Members, key_of(id));
    writer.put(Bucket::MembersRemoved, key_of(id), Bytes::from_static(REMOVED));
}

/// Deletes the row of a member without marking the id (etcd 3.5.26 drops members that its own tree does not know).
pub fn forget(writer: &mut Writer, id: u64) {
    writer.delete(Bucket::Members, key_of(id));
}

fn key_of(id: u64) -> Bytes {
    Bytes::from(format!("{id:x}"))
}

fn parse_id(key: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(key).ok()?;
    let id = u64::from_str_radix(text, 16).ok()?;
    // One spelling only: the reverse of `key_of`, which refuses signs, capitals and leading zeros.
    (format!("{id:x}") == text).then_some(id)
}
