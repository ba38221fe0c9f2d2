//! Discovery by SRV records: `_etcd-server-ssl[-NAME]._tcp.DOMAIN` for members with TLS, `_etcd-server[-NAME]._tcp.DOMAIN` for
//! those without.
//!
//! A record whose address is that of one of the own peer URLs is this member, and gets its name; the others are numbered,
//! since a founding member's id depends on its URLs alone.
//!
//! Upstream: `client/pkg/srv/srv.go` (3.6).

use std::net::SocketAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use server::Config;
use server::config::Url;

use super::Error;

/// What an SRV record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) target: String,
    pub(super) port: u16,
    pub(super) priority: u16,
    pub(super) weight: u16,
}

/// What is asked of DNS.
pub(super) trait Dns {
    /// The SRV records of a name.
    async fn records(&self, name: &str) -> Result<Vec<Record>, String>;
    /// One address of a host.
    async fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String>;
}

/// DNS as the system is configured.
pub(super) struct System {
    resolver: TokioResolver,
}

impl System {
    pub(super) fn open() -> Result<Self, String> {
        let resolver = TokioResolver::builder_tokio()
            .and_then(hickory_resolver::ResolverBuilder::build)
            .map_err(|error| error.to_string())?;
        Ok(Self { resolver })
    }
}

impl Dns for System {
    async fn records(&self, name: &str) -> Result<Vec<Record>, String> {
        let found = self
            .resolver
            .srv_lookup(name)
            .await
            .map_err(|error| format!("lookup {name}: {error}"))?;
        let records = found.answers().iter().filter_map(|record| {
            let RData::SRV(srv) = &record.data else { return None };
            let (priority, weight) = (srv.priority, srv.weight);
            Some(Record { target: srv.target.to_utf8(), port: srv.port, priority, weight })
        });
        let mut records: Vec<Record> = records.collect();
        records.sort_by_key(|record| record.priority);
        Ok(records)
    }

    async fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String> {
        // The system's own way, which also knows /etc/hosts.
        tokio::net::lookup_host((host.trim_end_matches('.'), port))
            .await
            .map_err(|error| format!("lookup {host}: {error}"))?
            .next()
            .ok_or_else(|| format!("lookup {host}: no such host"))
    }
}

/// The members as `--initial-cluster` has them.
pub(super) async fn members(
    dns: &impl Dns,
    config: &Config,
    domain: &str,
    suffix: &str,
) -> Result<String, Error> {
    let suffix = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
    let urls: Vec<String> =
        config.initial_advertise_peer_urls.iter().map(ToString::to_string).collect();
    let mut members = Vec::new();
    let mut errors = Vec::new();
    for (scheme, kind) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
        let service = format!("{kind}{suffix}");
        let found = of_service(dns, config, domain, scheme, &service).await;
        let (found, error) = match found {
            Ok(found) => (found, String::new()),
            Err(error) => (Vec::new(), error),
        };
        tracing::info!(
            service_scheme = scheme,
            service_name = service,
            server_name = config.name,
            discovery_srv = domain,
            advertise_peer_urls = ?urls,
            found_cluster = ?found,
            error,
            "get cluster for {kind} SRV"
        );
        members.extend(found);
        if !error.is_empty() {
            errors.push(error);
        }
    }
    if !errors.is_empty() {
        tracing::warn!(error = errors.join("\n"), "failed to resolve during SRV discovery");
    }
    if members.is_empty() {
        return Err(Error::Dns(errors.join("\n")));
    }
    for member in &members {
        tracing::info!(node = member, "got bootstrap from DNS for etcd-server");
    }
    Ok(members.join(","))
}

async fn of_service(
    dns: &impl Dns,
    config: &Config,
    domain: &str,
    scheme: &str,
    service: &str,
) -> Result<Vec<String>, String> {
    let mut own: Vec<(SocketAddr, &Url)> = Vec::new();
    for url in &config.initial_advertise_peer_urls {
        own.push((dns.address(url.host(), url.port()).await?, url));
    }
    let name = format!("_{service}._tcp.{domain}");
    let records = dns
        .records(&name)
        .await
        .map_err(|error| format!("error querying DNS SRV records for _{service} {error}"))?;
    let mut members = Vec::new();
    let mut unnamed = 0;
    let mut last_error = None;
    for record in records {
        let address = match dns.address(&record.target, record.port).await {
            Ok(address) => address,
            Err(error) => {
                last_error = Some(error);
                continue;
            }
        };
        let url = own.iter().find(|(known, _)| *known == address).map(|(_, url)| url);
        let name = match url {
            Some(_) => config.name.clone(),
            None => {
                unnamed += 1;
                (unnamed - 1).to_string()
            }
        };
        // A record's name ends in a dot, a URL's does not.
        let at = format!("{scheme}://{}:{}", record.target.trim_end_matches('.'), record.port);
        match url {
            Some(url) if url.is_secure() != (scheme == "https") => {
                last_error = Some(format!(
                    "bootstrap at {at} from DNS for {service} has scheme mismatch with expected peer {url}"
                ));
            }
            _ => members.push(format!("{name}={at}")),
        }
    }
    match (members.is_empty(), last_error) {
        (true, Some(error)) => {
            Err(format!("error querying DNS SRV records for _{service} {error}"))
        }
        _ => Ok(members),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of one domain; `nN.example` is 10.0.0.N.
    struct Table(&'static [(&'static str, &'static [(&'static str, u16)])]);

    impl Dns for Table {
        async fn records(&self, name: &str) -> Result<Vec<Record>, String> {
            let found = self.0.iter().find(|(known, _)| *known == name);
            let (_, records) = found.ok_or_else(|| format!("lookup {name}: no such host"))?;
            Ok(records
                .iter()
                .map(|(target, port)| Record {
                    target: (*target).to_owned(),
                    port: *port,
                    priority: 0,
                    weight: 0,
                })
                .collect())
        }

        async fn address(&self, host: &str, port: u16) -> Result<SocketAddr, String> {
            let number = host.trim_end_matches('.').trim_start_matches('n').split('.').next();
            let number: u8 = number
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("lookup {host}: no such host"))?;
            Ok(SocketAddr::from(([10, 0, 0, number], port)))
        }
    }

    async fn found(dns: &Table, own: &str, suffix: &str) -> Result<String, String> {
        let args: Vec<String> = [
            "--name=me",
            &format!("--initial-advertise-peer-urls={own}"),
            "--discovery-srv=example.com",
        ]
        .map(str::to_owned)
        .to_vec();
        let config = crate::flags::read(&args, &[]).unwrap().config;
        members(dns, &config, "example.com", suffix).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_own_record_gets_the_own_name() {
        let dns = Table(&[(
            "_etcd-server._tcp.example.com",
            &[("n1.example.", 2380), ("n2.example.", 2380), ("n3.example.", 2381)],
        )]);
        assert_eq!(
            found(&dns, "http://n2.example:2380", "").await.unwrap(),
            "0=http://n1.example:2380,me=http://n2.example:2380,1=http://n3.example:2381"
        );
        // The port counts too.
        assert_eq!(
            found(&dns, "http://n3.example:2380", "").await.unwrap(),
            "0=http://n1.example:2380,1=http://n2.example:2380,2=http://n3.example:2381"
        );
    }

    #[tokio::test]
    async fn both_services_count_and_schemes_must_fit() {
        let dns = Table(&[
            ("_etcd-server-ssl-west._tcp.example.com", &[("n1.example.", 2380)]),
            ("_etcd-server-west._tcp.example.com", &[("n2.example.", 2380)]),
        ]);
        assert_eq!(
            found(&dns, "https://n1.example:2380", "west").await.unwrap(),
            "me=https://n1.example:2380,0=http://n2.example:2380"
        );
        let only = Table(&[("_etcd-server-ssl._tcp.example.com", &[("n1.example.", 2380)])]);
        let why = found(&only, "http://n1.example:2380", "").await.unwrap_err();
        assert!(why.contains("scheme mismatch with expected peer http://n1.example:2380"), "{why}");
        let why = found(&Table(&[]), "http://n1.example:2380", "").await.unwrap_err();
        assert!(why.contains("_etcd-server._tcp.example.com: no such host"), "{why}");
    }
}
