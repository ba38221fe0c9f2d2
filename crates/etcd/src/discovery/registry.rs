//! Discovery by a registry in another etcd (v3 discovery).
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size      how many members found the cluster; written by the operator
//! /_etcd/registry/TOKEN/members/ID        "name=peer URL,name=peer URL"; each member writes its own
//! ```
//!
//! The first members by the revision that created their keys are the cluster. Who comes later is told that it is full.
//!
//! Upstream: `server/etcdserver/api/v3discovery/discovery.go` (3.6).

use std::time::Duration;

use client::{Client, Options};
use proto::etcdserverpb::{RangeRequest, WatchCreateRequest};
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use server::Config;

use super::{Error, Registry};

const PREFIX: &str = "/_etcd/registry";

/// etcd gives up only after years; the pauses grow up to 2^8 s.
const RETRIES_MAX: u32 = u32::MAX;
const PAUSE_DOUBLINGS_MAX: u32 = 8;

/// A member as it registered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    key: String,
    urls: String,
    create_revision: i64,
}

/// What the registry knows.
#[derive(Debug)]
struct Found {
    size: usize,
    members: Vec<Registered>,
    revision: i64,
}

/// Registers this member and waits for the others; returns them as `--initial-cluster` has them.
pub(super) async fn join(registry: &Registry, config: &Config) -> Result<String, Error> {
    tracing::info!("Bootstrapping cluster using v3 discovery.");
    let joined = Session::open(registry, config).await?.join(config).await;
    match &joined {
        Ok(cluster) => tracing::info!(cluster, "discovery joined cluster successfully"),
        Err(error) => tracing::error!(error = %error, "discovery failed to join cluster"),
    }
    joined
}

struct Session<'a> {
    client: Client,
    registry: &'a Registry,
    own_key: String,
    retries: u32,
}

impl<'a> Session<'a> {
    async fn open(registry: &'a Registry, config: &Config) -> Result<Self, Error> {
        let options = Options {
            tls: registry.tls.clone(),
            user: registry.user.clone(),
            dial_timeout: registry.dial_timeout,
            keepalive_time: Some(registry.keepalive_time).filter(|time| !time.is_zero()),
            keepalive_timeout: registry.keepalive_timeout,
            timeout: Some(registry.request_timeout),
            ..Options::default()
        };
        let client = Client::connect(&registry.endpoints, options).await?;
        let own_key = format!("{}/{:x}", members_prefix(&registry.token), config.founder_id());
        Ok(Self { client, registry, own_key, retries: 0 })
    }

    async fn join(&mut self, config: &Config) -> Result<String, Error> {
        self.check().await?;
        let own: Vec<String> = config
            .initial_advertise_peer_urls
            .iter()
            .map(|url| format!("{}={url}", config.name))
            .collect();
        self.register(&own.join(",")).await?;
        let mut found = self.check().await?;
        if found.members.len() < found.size {
            self.wait(&mut found).await?;
        }
        cluster(&found)
    }

    /// Asks for everything, again and again, and checks that there is room for this member.
    async fn check(&mut self) -> Result<Found, Error> {
        let found = loop {
            match self.ask().await? {
                Some(found) => break found,
                None => self.pause("cluster status check").await?,
            }
        };
        self.retries = 0;
        let place = found.members.iter().position(|member| member.key == self.own_key);
        if place.unwrap_or(found.members.len()) >= found.size {
            return Err(Error::Full);
        }
        Ok(found)
    }

    /// `None` is a registry that did not answer.
    async fn ask(&self) -> Result<Option<Found>, Error> {
        let size_key = format!("{PREFIX}/{}/_config/size", self.registry.token);
        let answer = match self.client.get(size_key.clone()).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(cluster_size_key = size_key, error = %error, "failed to get cluster size from discovery service");
                return Ok(None);
            }
        };
        let size = answer.kvs.first().ok_or(Error::SizeMissing)?;
        let size = size_of_cluster(&size.value).ok_or(Error::SizeBad)?;

        let prefix = members_prefix(&self.registry.token);
        let (key, range_end) = client::range_of_prefix(prefix.clone().into_bytes().into());
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        let answer = match self.client.range(request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!(members_key_prefix = prefix, error = %error, "failed to get cluster members from discovery service");
                return Ok(None);
            }
        };
        let revision = answer.header.map_or(0, |header| header.revision);
        let mut found = Found { size, members: Vec::new(), revision };
        for pair in &answer.kvs {
            self.note(&mut found, pair);
        }
        Ok(Some(found))
    }

    async fn register(&mut self, urls: &str) -> Result<(), Error> {
        loop {
            match self.client.put(self.own_key.clone(), urls.to_owned()).await {
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(member_key = self.own_key, error = %error, "failed to register members itself to the discovery service");
                    self.pause("register member itself").await?;
                }
            }
        }
        self.retries = 0;
        tracing::info!(
            member_key = self.own_key,
            member_info = urls,
            "register member itself successfully"
        );
        Ok(())
    }

    async fn wait(&mut self, found: &mut Found) -> Result<(), Error> {
        tracing::info!(
            cluster_size = found.size,
            found_peers = found.members.len(),
            "waiting for peers from discovery service"
        );
        let prefix = members_prefix(&self.registry.token);
        let (key, range_end) = client::range_of_prefix(prefix.into_bytes().into());
        let start_revision = found.revision + 1;
        let request = WatchCreateRequest { key, range_end, start_revision, ..Default::default() };
        let mut watch = self.client.watch(request).await?;
        while found.members.len() < found.size {
            let Some(response) = watch.next().await else { return Err(Error::Unreachable) };
            for event in response?.events {
                // Who takes its key away has still been a member.
                if event.r#type() == EventType::Put
                    && let Some(pair) = &event.kv
                {
                    self.note(found, pair);
                }
            }
        }
        tracing::info!(
            cluster_size = found.size,
            found_peers = found.members.len(),
            "found all needed peers from discovery service"
        );
        Ok(())
    }

    fn note(&self, found: &mut Found, pair: &KeyValue) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, urls) = (text(&pair.key), text(&pair.value));
        let is_member = key
            .strip_prefix(&members_prefix(&self.registry.token))
            .and_then(|rest| rest.strip_prefix('/'))
            .is_some_and(|id| !id.is_empty() && !id.contains('/'));
        if !is_member {
            tracing::warn!(
                member_key = key,
                member_info = urls,
                "discovery: invalid peer registry key"
            );
            return;
        }
        tracing::info!(member_key = key, member_info = urls, "found peer from discovery service");
        match found.members.iter_mut().find(|member| member.key == key) {
            Some(member) => member.urls = urls,
            None => {
                found.members.push(Registered { key, urls, create_revision: pair.create_revision })
            }
        }
        found.members.sort_by_key(|member| member.create_revision);
    }

    async fn pause(&mut self, step: &str) -> Result<(), Error> {
        if self.retries == RETRIES_MAX {
            return Err(Error::Unreachable);
        }
        self.retries += 1;
        let pause = Duration::from_secs(1 << self.retries.min(PAUSE_DOUBLINGS_MAX));
        tracing::warn!(
            reason = step,
            backoff = ?pause,
            "retry connecting to discovery service"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The size as an operator writes it; `None` if it is not above zero, or no number of Go's `int`.
fn size_of_cluster(text: &[u8]) -> Option<usize> {
    let size: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    usize::try_from(size).ok().filter(|&size| size > 0)
}

fn members_prefix(token: &str) -> String {
    format!("{PREFIX}/{token}/members")
}

/// The members as `--initial-cluster` has them.
fn cluster(found: &Found) -> Result<String, Error> {
    let urls: Vec<&str> =
        found.members.iter().take(found.size).map(|member| member.urls.as_str()).collect();
    match urls.iter().find(|urls| urls.is_empty()) {
        Some(_) => Err(Error::Members("a member registered without one".to_owned())),
        None => Ok(urls.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GHSA-9gp7-6833-wv89 (TOB-014): etcd cut the list of members at the size, which could be -1.
    #[test]
    fn ghsa_9gp7_6833_wv89_a_size_is_a_number_above_zero() {
        for text in ["-1", "0", "-0", "x", "", " 3", "3\n", "1.5", "0x3", "1e3"] {
            assert_eq!(size_of_cluster(text.as_bytes()), None, "{text:?}");
        }
        for text in ["9223372036854775808", "18446744073709551615", "-9223372036854775809"] {
            assert_eq!(size_of_cluster(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(size_of_cluster(b"\xff"), None);
        assert_eq!(size_of_cluster(b"3"), Some(3));
        // However many are awaited, the members that came are all there is to list.
        let member = |id: u64| Registered {
            key: format!("{PREFIX}/token/members/{id}"),
            urls: format!("m{id}=http://127.0.0.1:{id}"),
            create_revision: 1,
        };
        let size = size_of_cluster(b"9223372036854775807").unwrap();
        let found = Found { size, members: vec![member(1), member(2)], revision: 1 };
        let expected = "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2";
        assert_eq!(cluster(&found).unwrap(), expected);
        assert_eq!(cluster(&Found { size: 1, ..found }).unwrap(), "m1=http://127.0.0.1:1");
    }
}
