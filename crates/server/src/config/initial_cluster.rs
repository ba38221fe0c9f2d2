//! `--initial-cluster`: who founds the cluster, and whether this member's own entry is what it tells the others.
//!
//! Members hash their ids from these URLs, so an entry that differs from what the member advertises would found a cluster whose
//! members do not find each other. Two spellings of one place are no difference: names are resolved and compared, except
//! `localhost`, which is another place on every machine.
//!
//! Upstream: `ServerConfig.VerifyBootstrap` and `VerifyJoinExisting` (3.7.1).

use std::thread;
use std::time::{Duration, Instant};

use super::{ClusterState, Config, Url};

/// How long a name may remain unknown: one of a service that starts along with its members often is.
const RESOLVE_LIMIT: Duration = Duration::from_secs(30);
/// Between two questions for a name.
const RESOLVE_PAUSE: Duration = Duration::from_secs(1);

impl Config {
    /// Whether `initial_cluster` can found a cluster, or lead this member into one that exists. To be asked by a member that has
    /// no log yet. May ask DNS, and block for half a minute.
    ///
    /// # Errors
    /// etcd's text.
    pub fn check_initial_cluster(&self) -> Result<(), String> {
        let Some((_, listed)) = self.initial_cluster.iter().find(|(name, _)| *name == self.name)
        else {
            return Err(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        // One that joins has told its URLs to the cluster before.
        if self.initial_cluster_state == ClusterState::New {
            match_advertised(&self.name, listed, &self.initial_advertise_peer_urls)?;
        }
        let mut urls: Vec<&Url> = self.initial_cluster.iter().flat_map(|(_, urls)| urls).collect();
        urls.sort_unstable();
        if urls.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            let mut members: Vec<String> =
                self.initial_cluster.iter().map(|(name, urls)| entry(name, urls)).collect();
            members.sort_unstable();
            return Err(format!("initial cluster {} has duplicate url", members.join(",")));
        }
        Ok(())
    }
}

/// Whether the member's own entry is what it advertises.
fn match_advertised(name: &str, listed: &[Url], advertised: &[Url]) -> Result<(), String> {
    let (listed, advertised) = (sorted(listed), sorted(advertised));
    let Err(why) = are_same_places(&advertised, &listed) else { return Ok(()) };
    let missing: Vec<Url> =
        listed.iter().filter(|url| !advertised.contains(url)).cloned().collect();
    if !missing.is_empty() {
        return Err(format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({why})",
            entry(name, &missing),
            list(&advertised)
        ));
    }
    let missing: Vec<Url> =
        advertised.iter().filter(|url| !listed.contains(url)).cloned().collect();
    // The entry that etcd shows is the advertised one.
    let own = entry(name, &advertised);
    Err(match missing.is_empty() {
        false => format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={own}",
            list(&missing)
        ),
        true => format!(
            "failed to resolve {} to match --initial-cluster={own} ({why})",
            list(&advertised)
        ),
    })
}

/// Compares as spelled, then as resolved.
fn are_same_places(some: &[Url], others: &[Url]) -> Result<(), String> {
    if some.len() != others.len() {
        let quoted = |urls: &[Url]| {
            let texts: Vec<String> =
                urls.iter().map(|url| format!("{:?}", url.to_string())).collect();
            texts.join(" ")
        };
        return Err(format!("len([{}]) != len([{}])", quoted(some), quoted(others)));
    }
    if some.iter().zip(others).all(|(one, other)| one.is_same_place(other)) {
        return Ok(());
    }
    let deadline = Instant::now() + RESOLVE_LIMIT;
    let (some, others) = (resolved(some, deadline)?, resolved(others, deadline)?);
    match some.iter().zip(&others).find(|(one, other)| !one.is_same_place(other)) {
        None => Ok(()),
        Some((one, other)) => {
            Err(format!("resolved urls: {:?} != {:?}", one.to_string(), other.to_string()))
        }
    }
}

fn resolved(urls: &[Url], deadline: Instant) -> Result<Vec<Url>, String> {
    let all: Result<Vec<Url>, String> = urls.iter().map(|url| resolve(url, deadline)).collect();
    all.map(|urls| sorted(&urls))
}

/// Asks for a name until it is known.
fn resolve(url: &Url, deadline: Instant) -> Result<Url, String> {
    loop {
        let error = match url.resolve() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        tracing::warn!(
            url = %url,
            host = url.host(),
            retry_interval = ?RESOLVE_PAUSE,
            error = %error,
            "failed to resolve URL Host"
        );
        if Instant::now() + RESOLVE_PAUSE > deadline {
            return Err(format!("failed to resolve {:?} ({error})", url.to_string()));
        }
        thread::sleep(RESOLVE_PAUSE);
    }
}

fn sorted(urls: &[Url]) -> Vec<Url> {
    let mut urls = urls.to_vec();
    urls.sort();
    urls
}

fn list(urls: &[Url]) -> String {
    urls.iter().map(Url::to_string).collect::<Vec<_>>().join(",")
}

/// `name=url,name=url`, in order.
fn entry(name: &str, urls: &[Url]) -> String {
    sorted(urls).iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",")
}

/// Reads `name=url,name=url`, in which a name may come several times.
///
/// # Errors
/// The text that etcd gives for it.
pub fn parse_initial_cluster(text: &str) -> Result<Vec<(String, Vec<Url>)>, String> {
    let mut members: Vec<(String, Vec<Url>)> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((name, url)) =
            item.split_once('=').filter(|(name, url)| !name.is_empty() && !url.is_empty())
        else {
            return Err(format!("empty URL given for {item:?}"));
        };
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url),
            None => members.push((name.to_owned(), vec![url])),
        }
    }
    if members.is_empty() {
        return Err("--initial-cluster names no member".to_owned());
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, advertised: &str, state: ClusterState) -> Result<(), String> {
        Config {
            name: "a".to_owned(),
            initial_cluster: parse_initial_cluster(cluster).unwrap(),
            initial_advertise_peer_urls: Url::parse_list(advertised).unwrap(),
            initial_cluster_state: state,
            ..crate::member::unconnected::config(std::path::Path::new("unused"))
        }
        .check_initial_cluster()
    }

    #[test]
    fn the_own_entry_is_what_is_advertised() {
        let found = |cluster, advertised| check(cluster, advertised, ClusterState::New);
        for (cluster, advertised) in [
            ("a=http://127.0.0.1:1,b=http://127.0.0.1:2", "http://127.0.0.1:1"),
            ("a=http://[::1]:1", "http://[0:0::1]:1"),
            ("a=http://127.0.0.1:1,a=http://127.0.0.1:2", "http://127.0.0.1:2,http://127.0.0.1:1"),
            ("a=http://u:p@127.0.0.1:1", "http://127.0.0.1:1"),
        ] {
            assert_eq!(found(cluster, advertised), Ok(()), "{cluster} {advertised}");
        }
        for (cluster, advertised, want) in [
            (
                "b=http://127.0.0.1:1",
                "http://127.0.0.1:1",
                "couldn't find local name \"a\" in the initial cluster configuration",
            ),
            (
                "a=http://localhost:1",
                "http://127.0.0.1:1",
                "--initial-cluster has a=http://localhost:1 but missing from --initial-advertise-peer-urls=http://127.0.0.1:1 \
                 (resolved urls: \"http://127.0.0.1:1\" != \"http://localhost:1\")",
            ),
            (
                "a=http://127.0.0.1:1",
                "https://127.0.0.1:1",
                "--initial-cluster has a=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=https://127.0.0.1:1 \
                 (resolved urls: \"https://127.0.0.1:1\" != \"http://127.0.0.1:1\")",
            ),
            (
                "a=http://127.0.0.1:1",
                "http://127.0.0.1:1,http://127.0.0.1:2",
                "--initial-advertise-peer-urls has http://127.0.0.1:2 but missing from \
                 --initial-cluster=a=http://127.0.0.1:1,a=http://127.0.0.1:2",
            ),
            (
                "a=http://127.0.0.1:1,b=http://127.0.0.1:1",
                "http://127.0.0.1:1",
                "initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url",
            ),
        ] {
            assert_eq!(found(cluster, advertised).unwrap_err(), want);
        }
    }

    /// It has told its URLs to the cluster before.
    #[test]
    fn one_that_joins_needs_its_name_there_and_no_url_twice() {
        let joins = |cluster| check(cluster, "http://127.0.0.1:9", ClusterState::Existing);
        assert_eq!(joins("a=http://127.0.0.1:1,b=http://127.0.0.1:2"), Ok(()));
        assert!(joins("b=http://127.0.0.1:2").unwrap_err().starts_with("couldn't find local name"));
        let twice = joins("a=http://127.0.0.1:1,b=http://127.0.0.1:1").unwrap_err();
        assert!(twice.ends_with("has duplicate url"), "{twice}");
    }
}
