//! Discovery by a service that speaks etcd's v2 keys API: an etcd 3.5 or older with `--enable-v2`, or one made for it.
//!
//! ```text
//! URL/_config/size     how many members found the cluster; written by the operator
//! URL/ID               "name=peer URL,name=peer URL"; each member writes its own
//! ```
//!
//! `roll` decides who is a member, and asks nobody; `keys` is the API's client, over `web`. Here is the order of things: look whether
//! there is room, register, look again, wait for the others.
//!
//! What fails: a service that cannot be reached, or cannot serve, is asked again without an end (pauses of 2 s to 256 s), except while
//! registering, as in etcd: nobody knows whether a registration that failed was made. A service that does not answer in time,
//! refuses, or says nonsense ends the start. Nothing has been written to the data directory then.
//!
//! Upstream: `server/etcdserver/api/v2discovery/discovery.go` (3.5.30, 3.6.14). Differs: see `roll`; who waits for a change that the
//! service has forgotten looks again, where etcd gives up; and a URL that cannot be asked is not asked again and again.

mod keys;
mod roll;
mod url;
mod web;

use std::time::Duration;

use server::Config;
use server::config::Url;
use tokio::time::sleep;

pub use self::keys::KeysError;
use self::keys::{Found, Keys, Limits};
use self::roll::Roll;
use self::url::WebUrl;
use self::web::Web;
use super::{Error, KeysService};

/// Registers this member and waits for the others; returns all of them with their URLs.
pub(super) async fn join(
    service: &KeysService,
    config: &Config,
) -> Result<Vec<(String, Vec<Url>)>, Error> {
    if service.is_deprecated {
        tracing::warn!("V2 discovery is deprecated!");
    }
    let urls = config.initial_advertise_peer_urls.iter();
    let own: Vec<String> = urls.map(|url| format!("{}={url}", config.name)).collect();
    let mut session = Session::open(service, config.founder_id(), Limits::default(), roll::pause)?;
    session.join(&own.join(",")).await
}

/// The URL of a proxy, which may lack its scheme.
fn proxy(text: &str) -> Result<Option<WebUrl>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let has_scheme = text.starts_with("http://") || text.starts_with("https://");
    let whole = if has_scheme { text.to_owned() } else { format!("http://{text}") };
    let url = WebUrl::parse(&whole)
        .map_err(|why| Error::Proxy { address: crate::log::without_passwords(&whole), why })?;
    tracing::info!(proxy_url = url.origin(), "running proxy with discovery");
    Ok(Some(url))
}

struct Session {
    keys: Keys,
    /// The service, for logs.
    origin: String,
    /// The cluster's directory.
    directory: String,
    size_key: String,
    own_key: String,
    own_id: String,
    /// Tries that failed, over all steps.
    failures: u32,
    /// The pause after so many.
    pause_after: fn(u32) -> Duration,
}

impl Session {
    fn open(
        service: &KeysService,
        own_id: u64,
        limits: Limits,
        pause: fn(u32) -> Duration,
    ) -> Result<Self, Error> {
        let url = WebUrl::parse(&service.url).map_err(Error::Url)?;
        let web = Web::new(proxy(&service.proxy)?).map_err(Error::Tls)?;
        let own_id = format!("{own_id:x}");
        Ok(Self {
            origin: url.origin(),
            directory: url.path_below(&[]),
            size_key: url.path_below(&["_config", "size"]),
            own_key: url.path_below(&[&own_id]),
            own_id,
            failures: 0,
            pause_after: pause,
            keys: Keys::new(web, url, limits),
        })
    }

    async fn join(&mut self, own: &str) -> Result<Vec<(String, Vec<Url>)>, Error> {
        // Who finds no room does not register.
        self.check().await?;
        self.register(own).await?;
        loop {
            let (mut roll, index) = self.check().await?;
            match self.wait(&mut roll, index).await {
                Ok(()) => return roll.cluster(),
                Err(Error::Keys(KeysError::Unavailable(why))) => {
                    let (error, err_detail) = in_etcds_words(&why);
                    let discovery_url = &self.origin;
                    tracing::warn!(
                        discovery_url,
                        error,
                        err_detail,
                        "error while waiting for peers"
                    );
                }
                Err(Error::Keys(error)) if error.is_index_cleared() => {}
                Err(error) => return Err(error),
            }
            self.pause("waiting for other nodes").await;
        }
    }

    /// Asks who has registered, until there is an answer; returns with it how far the service is.
    async fn check(&mut self) -> Result<(Roll, u64), Error> {
        loop {
            let found = async {
                let size = self.get(&self.size_key).await?;
                let size = roll::size(&size.node.value)?;
                Ok((size, self.get(&self.directory).await?))
            };
            match found.await {
                Ok((size, found)) => {
                    return Ok((Roll::new(size, &self.own_id, found.node.nodes)?, found.index));
                }
                Err(Error::Keys(KeysError::Unavailable(_))) => {
                    self.pause("cluster status check").await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a key, and tells when the service is not there.
    async fn get(&self, path: &str) -> Result<Found, Error> {
        let answer = self.keys.get(path).await;
        if let Err(KeysError::Unavailable(why)) = &answer {
            let (error, err_detail) = in_etcds_words(why);
            let discovery_url = &self.origin;
            tracing::warn!(
                discovery_url,
                path,
                error,
                err_detail,
                "failed to get from discovery server"
            );
        }
        answer.map_err(|error| match matches!(error, KeysError::NotKeys) {
            true => Error::NoService,
            false => error.into(),
        })
    }

    async fn register(&self, own: &str) -> Result<(), Error> {
        let made = self.keys.create(&self.own_key, own).await.map_err(|error| {
            if error.is_node_exist() { Error::DuplicateId } else { error.into() }
        })?;
        // Until the service shows it: what is read next may come from another of its members.
        match self.keys.wait(&self.own_key, made.node.created_index, false).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_index_cleared() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until nobody is missing.
    async fn wait(&self, roll: &mut Roll, mut index: u64) -> Result<(), Error> {
        let discovery_url = &self.origin;
        for member in roll.members() {
            self.tell_found(&member.id);
        }
        while roll.missing() > 0 {
            tracing::info!(
                discovery_url,
                found_peers = roll.found(),
                needed_peers = roll.missing(),
                "found peers from discovery server; waiting for more"
            );
            // The service counts from 1: 0 is one that does not say how far it is.
            let from = if index == 0 { 0 } else { index.saturating_add(1) };
            let change = self.keys.wait(&self.directory, from, true).await?;
            index = change.node.modified_index;
            if let Some(id) = roll.note(&change.action, change.node)? {
                self.tell_found(&id);
            }
        }
        let found_peers = roll.found();
        tracing::info!(discovery_url, found_peers, "found all needed peers from discovery server");
        Ok(())
    }

    fn tell_found(&self, id: &str) {
        let discovery_url = &self.origin;
        match id == self.own_id {
            true => tracing::info!(discovery_url, self = id, "found self from discovery server"),
            false => tracing::info!(discovery_url, peer = id, "found peer from discovery server"),
        }
    }

    async fn pause(&mut self, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        let backoff = (self.pause_after)(self.failures);
        let url = &self.origin;
        tracing::info!(url, reason, ?backoff, "retry connecting to discovery service");
        sleep(backoff).await;
    }
}

/// What etcd's client says of a service that is not there: the whole, and the part about its only address.
fn in_etcds_words(why: &str) -> (String, String) {
    let detail = format!("error #0: {why}\n");
    (format!("client: etcd cluster is unavailable or misconfigured; {detail}"), detail)
}

#[cfg(test)]
mod tests;
