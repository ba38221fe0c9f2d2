//! The deployment from the book: three hosts, 10.4.7.121 to 123, with the flags of an ordinary unit file, first without and then
//! with TLS, looked at with `etcdctl` from the hosts themselves.
//!
//! Each host is a network namespace (`namespace`), so the real ports and addresses can be used, and several runs can go on at
//! once. The certificates are made with `openssl`, as an operator would (`certificate`).

mod certificate;
mod namespace;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::certificate::Authority;
use self::namespace::Network;
pub use self::namespace::is_available;
use super::kind::Kind;
use crate::process::{self, Process};

/// The hosts' last numbers: 10.4.7.121 and so on.
const HOSTS: [u8; 3] = [121, 122, 123];

/// How long a member, or the whole, may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The ids that etcd gives to these members of `etcd-cluster-1`: they follow from the peer URLs and the token.
const IDS: [(Scheme, [&str; 3]); 2] = [
    (Scheme::Http, ["4c45db44e1021917", "721eef2714f1477a", "f6d5f5c8eef4f092"]),
    (Scheme::Https, ["4fe2b98ed7b794f7", "bbd6739258f69625", "c5542f3740ec56cd"]),
];

/// With or without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without.
    Http,
    /// For clients and peers, with certificates on both sides.
    Https,
}

impl Scheme {
    /// As URLs begin.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The programs of the three members.
    pub kinds: Vec<Kind>,
    /// With or without TLS.
    pub scheme: Scheme,
    /// The client.
    pub etcdctl: PathBuf,
    /// Where data directories, logs and certificates go.
    pub folder: PathBuf,
}

/// Runs the deployment; returns what was seen to work, a line each.
pub fn run(config: &Config) -> Result<Vec<String>> {
    ensure!(config.kinds.len() == HOSTS.len(), "one program for each of the three hosts");
    std::fs::create_dir_all(&config.folder).context("make the folder")?;
    let network = Network::new(&HOSTS)?;
    let authority = match config.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(Authority::new(&config.folder.join("pki"), &HOSTS)?),
    };
    let mut hosts = Deployment { config, network, authority, processes: vec![None, None, None] };
    for index in 0..HOSTS.len() {
        hosts.spawn(index)?;
    }
    for index in 0..HOSTS.len() {
        hosts.wait_ready(index)?;
    }
    let mut seen = Vec::new();
    hosts.check(&mut seen)?;
    for index in 0..HOSTS.len() {
        hosts.stop(index)?;
    }
    Ok(seen)
}

struct Deployment<'a> {
    config: &'a Config,
    network: Network,
    authority: Option<Authority>,
    processes: Vec<Option<Process>>,
}

impl Deployment<'_> {
    fn check(&mut self, seen: &mut Vec<String>) -> Result<()> {
        let scheme = self.config.scheme.name();
        self.check_list(0)?;
        seen.push(format!("{scheme}: the member list shows the ids, names and URLs"));

        self.succeed(0, &[1], &["put", "greeting", "hello"])?;
        for index in [1, 2] {
            let got = self.succeed(index, &[index], &["get", "greeting", "--print-value-only"])?;
            ensure!(got.trim() == "hello", "host {index} has {got:?}");
        }
        seen.push(format!("{scheme}: what one member is given, the others have"));

        if self.config.scheme == Scheme::Https {
            self.check_turned_away()?;
            seen.push("https: without certificates clients are turned away".to_owned());
        }

        self.stop(0)?;
        self.eventually("serve with one member stopped", |hosts| {
            hosts.succeed(1, &[1, 2], &["put", "greeting", "one is gone"]).map(drop)
        })?;
        let got = self.succeed(2, &[2], &["get", "greeting", "--print-value-only"])?;
        ensure!(got.trim() == "one is gone", "with one member stopped: {got:?}");
        seen.push(format!("{scheme}: with one member stopped, the others serve"));

        self.stop(1)?;
        for command in [&["put", "greeting", "alone"][..], &["get", "greeting"]] {
            let output = self.etcdctl(2, &[2], command)?;
            ensure!(!output.status.success(), "one of three members alone serves {command:?}");
        }
        let got =
            self.succeed(2, &[2], &["get", "greeting", "--print-value-only", "--consistency=s"])?;
        ensure!(got.trim() == "one is gone", "read without consensus: {got:?}");
        seen.push(format!("{scheme}: with two members stopped, the third refuses"));

        for index in [0, 1] {
            self.spawn(index)?;
        }
        for index in [0, 1] {
            self.wait_ready(index)?;
        }
        self.eventually("be healthy after the restarts", |hosts| {
            hosts.succeed(0, &[0, 1, 2], &["endpoint", "health"]).map(drop)
        })?;
        // A put that the client gave up may have been carried out since.
        self.succeed(0, &[0], &["put", "greeting", "whole"])?;
        for index in 0..HOSTS.len() {
            let got = self.succeed(index, &[index], &["get", "greeting", "--print-value-only"])?;
            ensure!(got.trim() == "whole", "host {index} has {got:?} after the restarts");
        }
        self.check_list(2)?;
        self.check_hashes()?;
        seen.push(format!("{scheme}: restarted, it is whole, and the hashes are equal"));
        Ok(())
    }

    /// The member list as a table: `| id | started | etcd-1 | peer URL | client URLs | false |`.
    fn check_list(&self, host: usize) -> Result<()> {
        let table = self.succeed(host, &[host], &["member", "list", "--write-out=table"])?;
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.contains("started"))
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let scheme = self.config.scheme;
        let wanted_ids =
            IDS.iter().find(|(of, _)| *of == scheme).map(|(_, ids)| ids.iter().copied());
        let wanted_ids: BTreeSet<&str> = wanted_ids.into_iter().flatten().collect();
        let ids: BTreeSet<&str> = rows.iter().filter_map(|row| row.first().copied()).collect();
        ensure!(ids == wanted_ids, "the ids should be {wanted_ids:?}:\n{table}");
        for (index, address) in HOSTS.iter().enumerate() {
            let name = format!("etcd-{}", index + 1);
            let (peer, client) = (
                format!("{}://10.4.7.{address}:2380", scheme.name()),
                format!("{}://10.4.7.{address}:2379", scheme.name()),
            );
            let is_there =
                rows.iter().any(|row| row.get(2..6) == Some(&[&name, &peer, &client, "false"]));
            ensure!(is_there, "no row for {name}:\n{table}");
        }
        Ok(())
    }

    fn check_hashes(&self) -> Result<()> {
        let json = self.succeed(0, &[0, 1, 2], &["endpoint", "hashkv", "--write-out=json"])?;
        let all: serde_json::Value = serde_json::from_str(&json).context("parse the hashes")?;
        let hashes: Vec<_> = all
            .as_array()
            .context("no list of hashes")?
            .iter()
            .map(|one| (one["HashKV"]["header"]["revision"].clone(), one["HashKV"]["hash"].clone()))
            .collect();
        ensure!(
            hashes.len() == HOSTS.len() && hashes.windows(2).all(|two| two[0] == two[1]),
            "the hashes differ: {json}"
        );
        Ok(())
    }

    /// Without a certificate, with one of another authority, and without TLS: none is served.
    fn check_turned_away(&self) -> Result<()> {
        let authority = self.authority.as_ref().context("no certificates")?;
        let stranger = Authority::new(&self.config.folder.join("stranger"), &[])?;
        let url = self.url(0, Scheme::Https);
        let trusting = vec![format!("--cacert={}", authority.certificate().display())];
        let mut foreign = stranger.client_flags();
        foreign.retain(|flag| !flag.starts_with("--cacert"));
        foreign.extend(trusting.iter().cloned());
        let attempts = [
            ("without a certificate", url.clone(), trusting),
            ("with a certificate of another authority", url, foreign),
            ("without TLS", self.url(0, Scheme::Http), Vec::new()),
        ];
        for (how, url, flags) in attempts {
            let mut command = self.network.command(1, &self.config.etcdctl);
            command.args(["--command-timeout=3s", "--dial-timeout=2s", "--endpoints"]).arg(url);
            command.args(flags).args(["get", "greeting"]);
            let output = command.output().context("run etcdctl")?;
            ensure!(!output.status.success(), "a client {how} is served");
        }
        Ok(())
    }

    fn url(&self, host: usize, scheme: Scheme) -> String {
        format!("{}://10.4.7.{}:2379", scheme.name(), HOSTS[host])
    }

    /// Runs etcdctl on a host, against the members on these hosts.
    fn etcdctl(&self, host: usize, members: &[usize], arguments: &[&str]) -> Result<Output> {
        let endpoints: Vec<String> =
            members.iter().map(|index| self.url(*index, self.config.scheme)).collect();
        let mut command = self.network.command(host, &self.config.etcdctl);
        command.arg(format!("--endpoints={}", endpoints.join(",")));
        if let Some(authority) = &self.authority {
            command.args(authority.client_flags());
        }
        command.args(arguments).output().context("run etcdctl")
    }

    fn succeed(&self, host: usize, members: &[usize], arguments: &[&str]) -> Result<String> {
        let output = self.etcdctl(host, members, arguments)?;
        if !output.status.success() {
            bail!("etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn eventually(&self, what: &str, attempt: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            match attempt(self) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("does not {what} in {READY_TIMEOUT:?}")));
                }
                // etcdctl has waited itself.
                Err(_) => {}
            }
        }
    }

    fn data_dir(&self, index: usize) -> PathBuf {
        self.config.folder.join(format!("etcd-{}", index + 1))
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let kind = &self.config.kinds[index];
        let mut command = self.network.bound_command(index, &kind.etcd);
        let data_dir = self.data_dir(index);
        command.args(flags(index, self.config.scheme, &data_dir));
        if let Some(authority) = &self.authority {
            command.args(authority.server_flags(HOSTS[index]));
        }
        let what = format!("etcd-{} ({})", index + 1, kind.label);
        let process = Process::spawn(command, what, &process::log_path(&data_dir))?;
        self.processes[index] = Some(process);
        Ok(())
    }

    fn wait_ready(&self, index: usize) -> Result<()> {
        self.processes[index].as_ref().context("not started")?.wait_ready(READY_TIMEOUT)
    }

    fn stop(&mut self, index: usize) -> Result<()> {
        self.processes[index].take().context("not running")?.stop()?;
        Ok(())
    }
}

/// The flags of one member's unit file.
fn flags(index: usize, scheme: Scheme, data_dir: &Path) -> Vec<String> {
    let (scheme, address, number) = (scheme.name(), HOSTS[index], index + 1);
    let initial: Vec<String> = HOSTS
        .iter()
        .enumerate()
        .map(|(index, address)| format!("etcd-{}={scheme}://10.4.7.{address}:2380", index + 1))
        .collect();
    let pairs = [
        ("--name", format!("etcd-{number}")),
        ("--initial-advertise-peer-urls", format!("{scheme}://10.4.7.{address}:2380")),
        ("--listen-peer-urls", format!("{scheme}://10.4.7.{address}:2380")),
        ("--listen-client-urls", format!("{scheme}://10.4.7.{address}:2379,http://127.0.0.1:2379")),
        ("--advertise-client-urls", format!("{scheme}://10.4.7.{address}:2379")),
        ("--initial-cluster-token", "etcd-cluster-1".to_owned()),
        ("--initial-cluster", initial.join(",")),
        ("--initial-cluster-state", "new".to_owned()),
        ("--data-dir", data_dir.display().to_string()),
        ("--snapshot-count", "50000".to_owned()),
        ("--auto-compaction-retention", "1".to_owned()),
        ("--auto-compaction-mode", "periodic".to_owned()),
        ("--max-request-bytes", "10485760".to_owned()),
        ("--quota-backend-bytes", "8589934592".to_owned()),
    ];
    pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}
