//! Finding the members that found a cluster: by DNS (`dns`), by a registry in another etcd (`registry`), or by a service that
//! speaks the v2 keys API (`v2`). And finding the members to be a client of (`clients`).
//!
//! Only a member without a log looks for others; afterwards it knows them. What is found becomes `--initial-cluster`.
//! All may take long: a registry waits until all members have registered. Nothing has been written to the data directory then.

pub mod clients;
mod dns;
mod registry;
mod v2;

use std::time::Duration;

use server::Config;
use server::config::{ClusterState, Url, parse_initial_cluster};
pub use v2::KeysError;

/// How the other members are found.
#[derive(Debug, Clone)]
pub enum Discovery {
    /// By SRV records.
    Dns {
        /// The domain.
        domain: String,
        /// The suffix of the services' names; empty is none.
        service: String,
    },
    /// By a registry.
    Registry(Box<Registry>),
    /// By a service that speaks the v2 keys API.
    Keys(KeysService),
}

/// A service that speaks the v2 keys API: discovery of v2.
#[derive(Clone)]
pub struct KeysService {
    /// The cluster's directory there, as given: it is the cluster's token too.
    pub url: String,
    /// The HTTP proxy before it; empty is none.
    pub proxy: String,
    /// Whether a member too many would be a proxy of v2 in the version stood for; nobody can be one here.
    pub falls_back_to_proxy: bool,
    /// Whether the version stood for discourages it.
    pub is_deprecated: bool,
}

impl std::fmt::Debug for KeysService {
    /// Leaves passwords out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeysService")
            .field("url", &crate::log::without_passwords(&self.url))
            .field("proxy", &crate::log::without_passwords(&self.proxy))
            .field("falls_back_to_proxy", &self.falls_back_to_proxy)
            .field("is_deprecated", &self.is_deprecated)
            .finish()
    }
}

/// A registry in another etcd: discovery of v3.
#[derive(Clone)]
pub struct Registry {
    /// Names the cluster there.
    pub token: String,
    /// Endpoints of the other etcd.
    pub endpoints: Vec<String>,
    /// Limits the making of a connection.
    pub dial_timeout: Duration,
    /// Limits a request.
    pub request_timeout: Duration,
    /// Silence after which a connection is probed.
    pub keepalive_time: Duration,
    /// How long a probe may go unanswered.
    pub keepalive_timeout: Duration,
    /// How connections are secured; `None` is not at all.
    pub tls: Option<tls::Settings>,
    /// Name and password.
    pub user: Option<(String, String)>,
}

impl std::fmt::Debug for Registry {
    /// Leaves the password out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry")
            .field("token", &self.token)
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

/// Why the members are not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry says how large the cluster is to be; it does not.
    #[error("discovery: size key not found")]
    SizeMissing,
    /// What it says is no number above zero.
    #[error("discovery: size key is bad")]
    SizeBad,
    /// All members have registered, and this is none of them.
    #[error("discovery: cluster is full")]
    Full,
    /// The registry could not be reached again and again.
    #[error("discovery: too many retries")]
    Unreachable,
    /// What was found does not read as members.
    #[error("discovery: invalid peer URL: {0}")]
    Members(String),
    /// The registry cannot be asked: its TLS files, or what it said to the user and password.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// DNS has no answer.
    #[error("{0}")]
    Dns(String),
    /// This member is not among those that DNS names.
    #[error("cannot find local etcd member {0:?} in SRV records")]
    NotInDns(String),
    /// The service's URL, or what was found there, cannot be read.
    #[error("discovery: invalid URL: {0}")]
    Url(String),
    /// The proxy's URL cannot be read.
    #[error("invalid proxy address {address:?}: {why}")]
    Proxy {
        /// As it was given.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// Certificates of authorities cannot be read.
    #[error(transparent)]
    Tls(tls::Error),
    /// What answers does not speak the v2 keys API.
    #[error("discovery: bad discovery endpoint")]
    NoService,
    /// This member has registered before.
    #[error("discovery: found duplicate id")]
    DuplicateId,
    /// Members have registered under the same name.
    #[error("discovery: found duplicate name")]
    DuplicateName,
    /// More has registered than a cluster holds.
    #[error("discovery: the members registered with more than {0} bytes")]
    TooLong(usize),
    /// The service did not do as asked.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Discovery is for new clusters.
    #[error("discovery URL should not be set when joining existing initial cluster")]
    Existing,
    /// Members are found at the same place.
    #[error("discovery cluster {0} has duplicate url")]
    DuplicateUrl(String),
    /// This member is not among those that were found.
    #[error("couldn't find local name {0:?} in the initial cluster configuration")]
    NotFound(String),
}

impl Error {
    /// Whether it is about the members' registering, so that the token may be used up.
    fn is_about_joining(&self) -> bool {
        !matches!(
            self,
            Self::Dns(_)
                | Self::NotInDns(_)
                | Self::Existing
                | Self::DuplicateUrl(_)
                | Self::NotFound(_)
        )
    }
}

/// Finds the members and puts them into the configuration.
///
/// # Errors
/// They cannot be found; [`explain`] tells the operator.
pub async fn find(discovery: &Discovery, config: &mut Config) -> Result<(), Error> {
    let members = match discovery {
        Discovery::Dns { domain, service } => {
            let dns = dns::System::open().map_err(Error::Dns)?;
            let text = dns::members(&dns, config, domain, service).await?;
            let members = parse_initial_cluster(&text).map_err(Error::Members)?;
            if !members.iter().any(|(name, _)| *name == config.name) {
                return Err(Error::NotInDns(config.name.clone()));
            }
            members
        }
        Discovery::Registry(registry) => {
            // Part of the cluster's id, as in etcd.
            config.initial_cluster_token.clone_from(&registry.token);
            let text = registry::join(registry, config).await?;
            parse_initial_cluster(&text).map_err(Error::Members)?
        }
        Discovery::Keys(service) => {
            if config.initial_cluster_state == ClusterState::Existing {
                return Err(Error::Existing);
            }
            config.initial_cluster_token.clone_from(&service.url);
            let members = v2::join(service, config).await?;
            check(&members, &config.name)?;
            members
        }
    };
    config.initial_cluster = members;
    Ok(())
}

/// What others have registered may be anything.
fn check(members: &[(String, Vec<Url>)], own_name: &str) -> Result<(), Error> {
    let mut urls: Vec<&Url> = members.iter().flat_map(|(_, urls)| urls).collect();
    let count = urls.len();
    urls.sort_unstable();
    urls.dedup();
    if urls.len() < count {
        let pairs = members.iter().flat_map(|(name, urls)| {
            urls.iter().map(move |url| format!("{name}={}", url.without_password()))
        });
        let mut pairs: Vec<String> = pairs.collect();
        pairs.sort_unstable();
        return Err(Error::DuplicateUrl(pairs.join(",")));
    }
    match members.iter().any(|(name, _)| name == own_name) {
        true => Ok(()),
        false => Err(Error::NotFound(own_name.to_owned())),
    }
}

/// Tells the operator what to do about members that could not be found. `false` is an error that has nothing to do with the
/// token: it is as any other of the start.
#[must_use]
pub fn explain(error: &Error, discovery: &Discovery, config: &Config) -> bool {
    if !error.is_about_joining() {
        return false;
    }
    let token = match discovery {
        Discovery::Dns { .. } => String::new(),
        Discovery::Registry(registry) => registry.token.clone(),
        Discovery::Keys(service) => crate::log::without_passwords(&service.url),
    };
    let whole = format!("failed to join discovery cluster ({error})");
    let is_full = matches!(error, Error::Full);
    // etcd 3.6 leaves it out.
    if !is_full && config.emulated_version.is_none_or(|version| version.minor < 6) {
        tracing::warn!(error = whole, "failed to start etcd");
    }
    if matches!(error, Error::DuplicateId) {
        tracing::warn!(
            name = config.name,
            discovery_token = token,
            error = %error,
            "member has been registered with discovery service"
        );
        tracing::warn!(
            data_dir = %config.data_dir.display(),
            "but could not find valid cluster configuration"
        );
        tracing::warn!("check data dir if previous bootstrap succeeded");
        tracing::warn!("or use a new discovery token if previous bootstrap failed");
        return true;
    }
    if matches!(error, Error::DuplicateName) {
        tracing::warn!(
            discovery_token = token,
            error = %error,
            "member with duplicated name has already been registered"
        );
        tracing::warn!("cURL the discovery token URL for details");
    } else {
        let would_be_proxy =
            matches!(discovery, Discovery::Keys(service) if service.falls_back_to_proxy);
        if is_full && would_be_proxy {
            tracing::warn!(
                "discovery cluster is full, and there is no proxy of v2 to fall back to; use 'etcd grpc-proxy' or 'etcd gateway'"
            );
        }
        tracing::warn!(
            discovery_token = token,
            error = whole,
            "failed to bootstrap; discovery token was already used"
        );
    }
    tracing::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
    true
}
