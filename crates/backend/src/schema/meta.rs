//! Bucket `meta`: what the rows of all buckets stand for, compaction, and the storage version.
//!
//! `consistent_index` and `term` are not written here: [`Writer::set_consistent_index`] keeps them, and each commit
//! writes them in the same transaction as the rows that they vouch for. So a view shows them as of the last commit.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::json::to_go_json;
use super::{Bucket, Revision, RowKey};
use crate::{Error, View, Writer};

pub(crate) const CONSISTENT_INDEX: &[u8] = b"consistent_index";
pub(crate) const TERM: &[u8] = b"term";
pub(crate) const STORAGE_VERSION: &[u8] = b"storageVersion";
const CONF_STATE: &[u8] = b"confState";
const SCHEDULED_COMPACT: &[u8] = b"scheduledCompactRev";
const FINISHED_COMPACT: &[u8] = b"finishedCompactRev";

/// Raft index of the last entry whose effects the committed tree holds; 0 before the first commit.
pub fn consistent_index(view: &View) -> Result<u64, Error> {
    view.get_u64(Bucket::Meta, CONSISTENT_INDEX).map(|found| found.unwrap_or(0))
}

/// Term of that entry; 0 when there is none (before the first commit, or written before etcd 3.5).
pub fn term(view: &View) -> Result<u64, Error> {
    view.get_u64(Bucket::Meta, TERM).map(|found| found.unwrap_or(0))
}

/// Who votes, as of the last conf change that this database knows of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConfState {
    /// Voters of the incoming configuration.
    #[serde(
        default,
        deserialize_with = "super::members::null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub voters: Vec<u64>,
    /// Learners of the incoming configuration.
    #[serde(
        default,
        deserialize_with = "super::members::null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub learners: Vec<u64>,
    /// Voters of the outgoing half of a joint configuration.
    #[serde(
        default,
        deserialize_with = "super::members::null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub voters_outgoing: Vec<u64>,
    /// Become learners when the joint configuration is left.
    #[serde(
        default,
        deserialize_with = "super::members::null_as_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub learners_next: Vec<u64>,
    /// Whether a joint configuration is left without asking. 3.7 may leave it out of the row.
    #[serde(default)]
    pub auto_leave: bool,
}

impl From<proto::raftpb::ConfState> for ConfState {
    fn from(from: proto::raftpb::ConfState) -> Self {
        let proto::raftpb::ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        } = from;
        Self { voters, learners, voters_outgoing, learners_next, auto_leave }
    }
}

impl From<ConfState> for proto::raftpb::ConfState {
    fn from(from: ConfState) -> Self {
        let ConfState { voters, learners, voters_outgoing, learners_next, auto_leave } = from;
        Self { voters, learners, voters_outgoing, learners_next, auto_leave }
    }
}

/// The stored conf state; `None` until the first conf change was committed here.
pub fn conf_state(view: &View) -> Result<Option<ConfState>, Error> {
    view.get_json(Bucket::Meta, CONF_STATE)
}

/// Stores the conf state. To be called when a conf change is applied, before the index of that entry is set.
pub fn put_conf_state(writer: &mut Writer, conf_state: &ConfState) {
    writer.put(Bucket::Meta, Bytes::from_static(CONF_STATE), Bytes::from(to_go_json(conf_state)));
}

/// Revision of the last compaction that was asked for.
pub fn scheduled_compaction(view: &View) -> Result<Option<i64>, Error> {
    compaction(view, SCHEDULED_COMPACT)
}

/// Revision of the last compaction whose rows are all gone.
pub fn finished_compaction(view: &View) -> Result<Option<i64>, Error> {
    compaction(view, FINISHED_COMPACT)
}

fn compaction(view: &View, key: &'static [u8]) -> Result<Option<i64>, Error> {
    let Some(value) = view.get(Bucket::Meta, key)? else { return Ok(None) };
    match RowKey::decode(&value) {
        Ok(row) => Ok(Some(row.revision.main)),
        Err(malformed) => Err(view.corrupt(Bucket::Meta, key, malformed.to_string())),
    }
}

/// Notes that rows up to `revision` may go. etcd commits this at once: force a commit after the entry is applied.
pub fn put_scheduled_compaction(writer: &mut Writer, revision: i64) {
    put_compaction(writer, SCHEDULED_COMPACT, revision);
}

/// Notes that the compaction at `revision` is done; to be written after its last deletion.
pub fn put_finished_compaction(writer: &mut Writer, revision: i64) {
    put_compaction(writer, FINISHED_COMPACT, revision);
}

fn put_compaction(writer: &mut Writer, key: &'static [u8], revision: i64) {
    let value = Revision::first_of(revision).encode();
    writer.put(Bucket::Meta, Bytes::from_static(key), Bytes::copy_from_slice(value.as_ref()));
}

/// Text like `3.6.0`; `None` means schema 3.5 (or unknown, when there is no term either).
pub fn storage_version(view: &View) -> Result<Option<String>, Error> {
    view.get_text(Bucket::Meta, STORAGE_VERSION)
}

/// Stores the schema's version, or removes it (`None`), which makes the schema 3.5.
pub fn put_storage_version(writer: &mut Writer, version: Option<&str>) {
    match version {
        Some(version) => {
            writer.put(
                Bucket::Meta,
                Bytes::from_static(STORAGE_VERSION),
                Bytes::copy_from_slice(version.as_bytes()),
            );
        }
        None => writer.delete(Bucket::Meta, Bytes::from_static(STORAGE_VERSION)),
    }
}
