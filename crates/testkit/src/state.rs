//! Everything a server shows to a reader, to be compared with another server's, or with its own before a restart.

use anyhow::{Result, bail};
use bytes::Bytes;
use proto::etcdserverpb as pb;

use crate::api::{Api, Refusal, Request, Response};
use crate::text::shorten;

/// Revisions whose whole content is read, from the newest.
const CONTENT_REVISIONS_MAX: i64 = 50;

/// Beyond the revisions that are all hashed, the next one is a thirtieth of the distance further: a few hundred for any history.
const THINNING: i64 = 30;

/// What a server shows to a reader.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    revision: i64,
    /// Content at some revisions.
    contents: Vec<(i64, Vec<proto::mvccpb::KeyValue>)>,
    /// Hashes at readable revisions.
    hashes: Vec<(i64, u32)>,
    /// Leases: id, granted TTL, keys.
    leases: Vec<(i64, i64, Vec<Bytes>)>,
}

impl State {
    /// Says what differs first.
    pub fn difference(&self, other: &Self) -> String {
        if self.revision != other.revision {
            return format!("revision {} and {}", self.revision, other.revision);
        }
        if let Some((a, b)) = self.contents.iter().zip(&other.contents).find(|(a, b)| a != b) {
            return shorten(&format!("content\n{a:?}\n{b:?}"));
        }
        if let Some((a, b)) = self.hashes.iter().zip(&other.hashes).find(|(a, b)| a != b) {
            return format!("HashKV (revision, hash) {a:?} and {b:?}");
        }
        format!("first readable revision, or leases: {:?} and {:?}", self.leases, other.leases)
    }

    /// Hashes at readable revisions above the compact revision, newest first.
    pub fn hashes(&self) -> &[(i64, u32)] {
        &self.hashes
    }

    /// Reads everything that a server has to show.
    ///
    /// The newest `hashed_each` revisions are hashed each, older ones at growing distances: a hash reads the whole history, so
    /// hashing every revision of a long one takes for ever.
    pub async fn read(url: &str, hashed_each: i64) -> Result<Self> {
        Self::read_through(&Api::connect(url).await?, hashed_each).await
    }

    /// As [`Self::read`], with a connection that is there: with the token of somebody who may read everything.
    pub async fn read_through(api: &Api, hashed_each: i64) -> Result<Self> {
        let refused = |what: &str| {
            let what = what.to_owned();
            move |refusal: Refusal| anyhow::anyhow!("{what}: {refusal:?}")
        };
        let all = |revision| {
            let all = Bytes::from_static(b"\0");
            pb::RangeRequest { key: all.clone(), range_end: all, revision, ..Default::default() }
        };
        let revision = api
            .range(all(0))
            .await
            .map_err(refused("range"))?
            .header
            .map_or(0, |header| header.revision);
        let mut contents = Vec::new();
        let mut hashes = Vec::new();
        // Downwards from the present to the first revision that is compacted. A revision that is readable can be hashed.
        let mut next = revision;
        while next >= 1 {
            let at = next;
            let distance = revision - at;
            next -= if distance < hashed_each { 1 } else { (distance / THINNING).max(1) };
            let range = api.range(pb::RangeRequest { count_only: true, ..all(at) }).await;
            match range {
                Ok(_) => {}
                Err(refusal)
                    if refusal.message.ends_with("required revision has been compacted") =>
                {
                    // The one before is the compact revision. Its hash comes from the cache of compaction hashes until a
                    // restart, and is computed anew after it; the two differ in real etcd.
                    hashes.pop();
                    break;
                }
                Err(refusal) => bail!("range at {at}: {refusal:?}"),
            }
            if distance < CONTENT_REVISIONS_MAX {
                contents.push((at, api.range(all(at)).await.map_err(refused("range"))?.kvs));
            }
            hashes.push((at, api.hash_kv(at).await.map_err(refused("HashKV"))?.hash));
        }
        let mut leases = Vec::new();
        let list = api
            .call(Request::LeaseLeases(pb::LeaseLeasesRequest {}))
            .await
            .map_err(refused("leases"))?;
        if let Response::LeaseLeases(list) = list {
            for lease in list.leases {
                let request = pb::LeaseTimeToLiveRequest { id: lease.id, keys: true };
                let found = api
                    .call(Request::LeaseTimeToLive(request))
                    .await
                    .map_err(refused("time to live"))?;
                if let Response::LeaseTimeToLive(mut found) = found {
                    found.keys.sort_unstable();
                    leases.push((lease.id, found.granted_ttl, found.keys));
                }
            }
        }
        leases.sort_unstable();
        Ok(Self { revision, contents, hashes, leases })
    }
}
