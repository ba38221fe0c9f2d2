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

/// How a member is to be started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server program.
    pub program: PathBuf,
    /// `--name`.
    pub name: String,
    /// `--data-dir`. The log goes beside it, with `.log` added.
    pub data_dir: PathBuf,
    /// More flags, given last.
    pub flags: Vec<String>,
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
            flags: Vec::new(),
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
        let (client_port, peer_port) = free_ports()?;
        let mut command = bound_command(&options.program);
        // The advertised URLs are the same for every member, on purpose: member and cluster ids derive from
        // them, so two clusters of one member have equal ids, and either can take over the other's folder.
        command
            .arg(format!("--name={}", options.name))
            .arg(format!("--data-dir={}", options.data_dir.display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client_port}"))
            .arg("--advertise-client-urls=http://127.0.0.1:2379")
            .arg(format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"))
            .arg("--initial-advertise-peer-urls=http://127.0.0.1:2380")
            .arg(format!("--initial-cluster={}=http://127.0.0.1:2380", options.name))
            .args(&options.flags);
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
        format!("http://{}", self.endpoint())
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

/// Two free ports for a client and a peer listener, different from each other.
fn free_ports() -> Result<(u16, u16)> {
    let first = TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?;
    let second = TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?;
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}
