//! Endpoints for those who are clients of a cluster (gateway and proxy), by SRV records: `_etcd-client-ssl[-NAME]._tcp.DOMAIN`
//! for those with TLS, `_etcd-client[-NAME]._tcp.DOMAIN` for those without.
//!
//! Records are anybody's who can answer for DNS. So, unless insecure ones are asked for, only endpoints with TLS count, and of
//! them those that accept a connection. Certificates are checked by who speaks TLS with the members: the proxy, or the
//! gateway's clients. etcd reads its `--trusted-ca-file` here and checks nothing by it either.
//!
//! Upstream: `server/etcdmain/util.go`, `client/pkg/srv/srv.go`, `client/pkg/transport/tls.go` (3.6.16).

use std::time::Duration;

use proxy::gateway::Target;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::dns::{Dns, Record, System};

/// How long an endpoint may take to accept a connection.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Search {
    /// The domain.
    pub domain: String,
    /// The suffix of the services' names; empty is none.
    pub service: String,
    /// Whether endpoints are taken that have no TLS, or that cannot be reached now.
    pub takes_insecure: bool,
}

/// An endpoint that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it has TLS.
    pub is_secure: bool,
    /// Where it is, and how much of the connections it is to get.
    pub target: Target,
}

impl Endpoint {
    /// As `--endpoints` has it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}", self.target.address())
    }
}

/// Finds endpoints. There may be none that count.
///
/// # Errors
/// DNS answers for neither kind; the text says why.
pub async fn find(search: &Search) -> Result<Vec<Endpoint>, String> {
    let found = look_up(&System::open()?, search).await?;
    log("discovered cluster from SRV", search, &found);
    if search.takes_insecure {
        return Ok(found);
    }
    log("validating discovered SRV endpoints", search, &found);
    let (validated, refusals) = validate(found).await;
    if refusals.is_empty() {
        log("using validated discovered SRV endpoints", search, &validated);
    } else {
        tracing::warn!(
            srv_server = search.domain,
            endpoints = ?urls(&validated),
            error = refusals.join(","),
            "failed to validate discovered endpoints"
        );
    }
    Ok(validated)
}

fn log(message: &str, search: &Search, endpoints: &[Endpoint]) {
    tracing::info!(srv_server = search.domain, endpoints = ?urls(endpoints), "{message}");
}

fn urls(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(Endpoint::url).collect()
}

async fn look_up(dns: &impl Dns, search: &Search) -> Result<Vec<Endpoint>, String> {
    let Search { domain, service, .. } = search;
    let suffix = if service.is_empty() { String::new() } else { format!("-{service}") };
    let secured = dns.records(&format!("_etcd-client-ssl{suffix}._tcp.{domain}")).await;
    let plain = dns.records(&format!("_etcd-client{suffix}._tcp.{domain}")).await;
    if let (Err(secured), Err(plain)) = (&secured, &plain) {
        return Err(format!("dns lookup errors: {secured} and {plain}"));
    }
    let endpoint = |is_secure: bool, record: Record| Endpoint {
        is_secure,
        target: Target {
            // A record's name ends in a dot, a certificate's does not.
            host: record.target.trim_end_matches('.').to_owned(),
            port: record.port,
            priority: record.priority,
            weight: record.weight,
        },
    };
    let secured = secured.unwrap_or_default().into_iter().map(|record| endpoint(true, record));
    let plain = plain.unwrap_or_default().into_iter().map(|record| endpoint(false, record));
    Ok(secured.chain(plain).collect())
}

/// Those that count, and what is wrong with the others.
async fn validate(found: Vec<Endpoint>) -> (Vec<Endpoint>, Vec<String>) {
    let (mut validated, mut refusals) = (Vec::new(), Vec::new());
    for endpoint in found {
        let url = endpoint.url();
        if !endpoint.is_secure {
            refusals.push(format!("{url:?} is insecure"));
            continue;
        }
        let Target { host, port, .. } = &endpoint.target;
        let dialled = timeout(DIAL_LIMIT, TcpStream::connect((host.as_str(), *port))).await;
        match dialled.map_err(|_| "i/o timeout".to_owned()) {
            Ok(Ok(_)) => validated.push(endpoint),
            Ok(Err(error)) => refusals.push(format!("{url:?} failed to dial ({error})")),
            Err(error) => refusals.push(format!("{url:?} failed to dial ({error})")),
        }
    }
    (validated, refusals)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::TcpListener;

    use super::*;

    /// Records by name; addresses are not asked for.
    struct Table(Vec<(&'static str, Vec<Record>)>);

    impl Dns for Table {
        async fn records(&self, name: &str) -> Result<Vec<Record>, String> {
            let found = self.0.iter().find(|(known, _)| *known == name);
            found
                .map(|(_, records)| records.clone())
                .ok_or_else(|| format!("lookup {name}: no such host"))
        }

        async fn address(&self, host: &str, _: u16) -> Result<SocketAddr, String> {
            Err(format!("lookup {host}: no such host"))
        }
    }

    fn record(target: &str, port: u16, priority: u16, weight: u16) -> Record {
        Record { target: target.to_owned(), port, priority, weight }
    }

    fn search(service: &str) -> Search {
        let service = service.to_owned();
        Search { domain: "example.com".to_owned(), service, takes_insecure: false }
    }

    #[tokio::test]
    async fn both_services_count() {
        let dns = Table(vec![
            ("_etcd-client-ssl-west._tcp.example.com", vec![record("n1.example.", 1, 2, 3)]),
            ("_etcd-client-west._tcp.example.com", vec![record("n2.example.", 4, 5, 6)]),
        ]);
        let found = look_up(&dns, &search("west")).await.unwrap();
        assert_eq!(urls(&found), ["https://n1.example:1", "http://n2.example:4"]);
        assert_eq!((found[1].target.priority, found[1].target.weight), (5, 6));
        assert_eq!(
            look_up(&dns, &search("")).await.unwrap_err(),
            "dns lookup errors: lookup _etcd-client-ssl._tcp.example.com: no such host and \
             lookup _etcd-client._tcp.example.com: no such host"
        );
    }

    #[tokio::test]
    async fn cve_2020_15136_only_what_has_tls_and_answers_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = |is_secure: bool, port: u16| Endpoint {
            is_secure,
            target: Target { host: "127.0.0.1".to_owned(), port, priority: 0, weight: 0 },
        };
        // Nobody listens on port 0.
        let found = vec![endpoint(true, port), endpoint(false, port), endpoint(true, 0)];
        let (validated, refusals) = validate(found).await;
        assert_eq!(validated, [endpoint(true, port)]);
        assert_eq!(refusals[0], format!("\"http://127.0.0.1:{port}\" is insecure"));
        assert!(
            refusals[1].starts_with("\"https://127.0.0.1:0\" failed to dial ("),
            "{refusals:?}"
        );
    }
}
