//! One server process: started on loopback with ports of its own, waited for by condition, stopped by its process id.
//!
//! Works the same for our server and for real etcd, because the two take the same flags and log the same line
//! when they are ready. A [`Member`] that is dropped is killed; its folder is the caller's.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::process::{self, Process, bound_command};

/// Starts that may fail because another process took a port between our asking the kernel and the server's bind.
const PORT_ATTEMPTS: usize = 5;

/// What clients speak to a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    #[default]
    Http,
    /// TLS; the flags name certificate and key.
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// How a member is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server program.
    pub program: PathBuf,
    /// `--name`.
    pub name: String,
    /// `--data-dir`. The log goes beside it, with `.log` added.
    pub data_dir: PathBuf,
    /// What the client listener speaks.
    pub client_scheme: Scheme,
    /// More flags, given last.
    pub flags: Vec<String>,
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// How long a start may take.
    pub start_timeout: Duration,
}

impl Options {
    /// The defaults: named `m1`, with no more flags.
    pub fn new(program: &Path, data_dir: &Path) -> Self {
        Self {
            program: program.to_owned(),
            name: "m1".to_owned(),
            data_dir: data_dir.to_owned(),
            client_scheme: Scheme::Http,
            flags: Vec::new(),
            environment: Vec::new(),
            start_timeout: Duration::from_secs(60),
        }
    }

    /// Adds flags.
    #[must_use]
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    /// The file that receives what the member prints.
    pub fn log_path(&self) -> PathBuf {
        process::log_path(&self.data_dir)
    }
}

/// A running member.
#[derive(Debug)]
pub struct Member {
    options: Options,
    process: Process,
    client_port: u16,
}

impl Member {
    /// Starts a member and waits until it says that it serves clients.
    pub fn start(options: &Options) -> Result<Self> {
        let mut last = anyhow!("not tried");
        for _ in 0..PORT_ATTEMPTS {
            let member = Self::spawn(options)?;
            match member.wait_ready() {
                Ok(()) => return Ok(member),
                Err(error) if member.log_tail().contains("address already in use") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Starts a member without waiting for it.
    pub fn spawn(options: &Options) -> Result<Self> {
        // The advertised URLs are the same for every member, on purpose: member and cluster ids derive from
        // them, so two clusters of one member have equal ids, and either can take over the other's folder.
        let advertised_peer = "http://127.0.0.1:2380".to_owned();
        let cluster = format!("{}={advertised_peer}", options.name);
        Self::spawn_on(options, free_ports()?, &advertised_peer, &cluster)
    }

    /// Starts a member that listens on these ports, for clients and peers, and founds that cluster.
    fn spawn_on(
        options: &Options,
        (client_port, peer_port): (u16, u16),
        advertised_peer: &str,
        cluster: &str,
    ) -> Result<Self> {
        let mut command = bound_command(&options.program);
        let scheme = options.client_scheme.name();
        command
            .arg(format!("--name={}", options.name))
            .arg(format!("--data-dir={}", options.data_dir.display()))
            .arg(format!("--listen-client-urls={scheme}://127.0.0.1:{client_port}"))
            .arg(format!("--advertise-client-urls={scheme}://127.0.0.1:2379"))
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
            .arg(format!("--initial-advertise-peer-urls={advertised_peer}"))
            .arg(format!("--initial-cluster={cluster}"))
            .args(&options.flags)
            .envs(options.environment.iter().map(|(name, value)| (name, value)));
        let what = format!("{} on {}", options.program.display(), options.data_dir.display());
        let process = Process::spawn(command, what, &options.log_path())?;
        Ok(Self { options: options.clone(), process, client_port })
    }

    /// Waits for the line that says that clients are served.
    pub fn wait_ready(&self) -> Result<()> {
        self.process.wait_ready(self.options.start_timeout)
    }

    /// `host:port` for clients.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("{}://{}", self.options.client_scheme.name(), self.endpoint())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What the member was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Lines of level warn and above since the start.
    pub fn complaints(&self) -> Vec<String> {
        self.process.complaints()
    }

    /// Asks the member to stop (SIGTERM) and waits for it.
    pub fn stop(self) -> Result<ExitStatus> {
        self.process.stop()
    }

    /// Kills the member (SIGKILL) and waits for it.
    pub fn kill(self) -> Result<ExitStatus> {
        self.process.kill()
    }
}

/// Starts the members of a new cluster, named `m1` and so on, each in its own folder below the one given, and waits until
/// all serve. One alone is [`Member::start`].
pub fn start_cluster(options: &Options, count: usize) -> Result<Vec<Member>> {
    if count == 1 {
        return Ok(vec![Member::start(options)?]);
    }
    let mut last = anyhow!("not tried");
    for _ in 0..PORT_ATTEMPTS {
        let ports = (0..count).map(|_| free_ports()).collect::<Result<Vec<_>>>()?;
        let peer_url = |index: usize| format!("http://127.0.0.1:{}", ports[index].1);
        let entries = (0..count).map(|index| format!("m{}={}", index + 1, peer_url(index)));
        let cluster = entries.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (index, &ports) in ports.iter().enumerate() {
            let name = format!("m{}", index + 1);
            let data_dir = options.data_dir.join(&name);
            std::fs::create_dir_all(&options.data_dir).context("make the cluster's folder")?;
            let options = Options { name, data_dir, ..options.clone() };
            members.push(Member::spawn_on(&options, ports, &peer_url(index), &cluster)?);
        }
        match members.iter().try_for_each(Member::wait_ready) {
            Ok(()) => return Ok(members),
            Err(error)
                if members.iter().any(|m| m.log_tail().contains("address already in use")) =>
            {
                last = error;
            }
            Err(error) => return Err(error),
        }
        // A second try is a new cluster.
        drop(members);
        std::fs::remove_dir_all(&options.data_dir).context("remove the failed cluster")?;
    }
    Err(last)
}

/// Two free ports for a client and a peer listener, different from each other.
fn free_ports() -> Result<(u16, u16)> {
    let first = TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?;
    let second = TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?;
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}
