//! The flags about finding the other members.

use server::version::Version;

use super::config::Lookup;
use crate::discovery::{Discovery, KeysService, Registry};

/// What is said of discovery over v2 and v3 at once.
const BOTH: &str = "both v2 discovery settings (discovery, discovery-proxy) and v3 discovery settings (discovery-token, \
                    discovery-endpoints, discovery-cert, discovery-key, discovery-cacert, discovery-user, discovery-password) are set";
/// Flags of v3 discovery that stand for it.
const OF_V3: &[&str] = &[
    "discovery-token",
    "discovery-endpoints",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "discovery-password",
];

/// What etcd says about two ways to find members: each version has its own.
fn conflict(minor: u32) -> String {
    let ways = match minor {
        ..=5 => "\"initial-cluster\", \"discovery\" or \"discovery-srv\"",
        6 => "\"initial-cluster\", \"discovery\", \"discovery-endpoints\" or \"discovery-srv\"",
        7.. => "\"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
    };
    format!("multiple discovery or bootstrap flags are set. Choose one of {ways}")
}

/// Reads them; `None` is a cluster whose members are named by `--initial-cluster`.
///
/// # Errors
/// etcd's texts.
pub(super) fn build(
    get: &Lookup<'_>,
    version: Option<Version>,
) -> Result<Option<Discovery>, String> {
    let minor = version.unwrap_or(server::version::NEW_CLUSTER).minor;
    let url = get.text("discovery");
    let proxy = get.text("discovery-proxy");
    let falls_back_to_proxy = get.text("discovery-fallback") == "proxy";
    if falls_back_to_proxy && get.is_given("discovery-fallback") && minor >= 6 {
        return Err(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
                .to_owned(),
        );
    }
    let domain = get.text("discovery-srv");
    let token = get.text("discovery-token");
    let endpoints = get.text("discovery-endpoints");
    let endpoints: Vec<String> = match endpoints.is_empty() {
        true => Vec::new(),
        false => endpoints.split(',').map(|item| item.trim().to_owned()).collect(),
    };
    let is_static = get.is_given("initial-cluster") && !get.text("initial-cluster").is_empty();
    let ways = [is_static, !url.is_empty(), !domain.is_empty(), !endpoints.is_empty()];
    if ways.iter().filter(|is_set| **is_set).count() > 1 {
        return Err(conflict(minor));
    }
    if !proxy.is_empty() && OF_V3.iter().any(|name| !get.text(name).is_empty()) {
        return Err(BOTH.to_owned());
    }
    if token.is_empty() != endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
    }
    if endpoints.iter().any(String::is_empty) {
        return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
    }
    if !url.is_empty() {
        let is_deprecated = minor >= 6;
        let falls_back_to_proxy = falls_back_to_proxy && !is_deprecated;
        let service = KeysService { url, proxy, falls_back_to_proxy, is_deprecated };
        return Ok(Some(Discovery::Keys(service)));
    }
    if !domain.is_empty() {
        return Ok(Some(Discovery::Dns { domain, service: get.text("discovery-srv-name") }));
    }
    if endpoints.is_empty() {
        return Ok(None);
    }
    let (user, password) = match get.text("discovery-user") {
        user if user.is_empty() => (None, get.text("discovery-password")),
        user => match (user.split_once(':'), get.text("discovery-password")) {
            (_, password) if !password.is_empty() => (Some(user), password),
            (Some((name, password)), _) => (Some(name.to_owned()), password.to_owned()),
            (None, _) => {
                return Err(
                    "--discovery-user needs a password: user:password, or --discovery-password"
                        .to_owned(),
                );
            }
        },
    };
    let path = |name: &str| Some(get.text(name)).filter(|path| !path.is_empty()).map(Into::into);
    let pair = tls::Pair::of(&get.text("discovery-cert"), &get.text("discovery-key"))
        .map_err(|error| error.to_string())?;
    let trusted_ca = path("discovery-cacert");
    let skip_server_check = get.boolean("discovery-insecure-skip-tls-verify")?;
    let is_secure =
        !get.boolean("discovery-insecure-transport")? || pair.is_some() || trusted_ca.is_some();
    Ok(Some(Discovery::Registry(Box::new(Registry {
        token,
        endpoints,
        dial_timeout: get.duration("discovery-dial-timeout")?,
        request_timeout: get.duration("discovery-request-timeout")?,
        keepalive_time: get.duration("discovery-keepalive-time")?,
        keepalive_timeout: get.duration("discovery-keepalive-timeout")?,
        tls: is_secure.then(|| tls::Settings {
            pair,
            trusted_ca,
            skip_server_check,
            ..tls::Settings::default()
        }),
        user: user.map(|name| (name, password)),
    }))))
}
