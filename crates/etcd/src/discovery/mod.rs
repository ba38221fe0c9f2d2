//! Finding the members that found a cluster: by DNS (`dns`), or by a registry in another etcd (`registry`). And
//! finding the members to be a client of (`clients`).
//!
//! Only a member without a log looks for others; afterwards it knows them. What is found becomes `--initial-cluster`.
//! Both may take long: a registry waits until all members have registered. Nothing has been written to the data directory then.

pub mod clients;
mod dns;
mod registry;

use std::time::Duration;

use server::Config;
use server::config::parse_initial_cluster;

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
}

/// Finds the members and puts them into the configuration.
///
/// # Errors
/// They cannot be found.
pub async fn find(discovery: &Discovery, config: &mut Config) -> Result<(), Error> {
    let text = match discovery {
        Discovery::Dns { domain, service } => {
            let dns = dns::System::open().map_err(Error::Dns)?;
            dns::members(&dns, config, domain, service).await?
        }
        Discovery::Registry(registry) => {
            // Part of the cluster's id, as in etcd.
            config.initial_cluster_token.clone_from(&registry.token);
            registry::join(registry, config).await?
        }
    };
    let members = parse_initial_cluster(&text).map_err(Error::Members)?;
    if matches!(discovery, Discovery::Dns { .. })
        && !members.iter().any(|(name, _)| *name == config.name)
    {
        return Err(Error::NotInDns(config.name.clone()));
    }
    config.initial_cluster = members;
    Ok(())
}
