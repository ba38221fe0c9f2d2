//! The member that is attacked, and its four ports.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::ANSWER_LIMIT;
use super::gauge::Gauge;
use crate::process::{Process, bound_command, log_path};
use crate::programs::Programs;

/// As for any member: a port may be taken between the question and the bind.
const PORT_ATTEMPTS: usize = 5;
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it is watched whether the member is idle, and the share of one core that still counts as that: the client goes on.
const IDLE_SPAN: Duration = Duration::from_secs(1);
const IDLE_SHARE: f64 = 0.25;

/// A port of the member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    /// Clients, without TLS.
    Plain,
    /// Clients, with TLS.
    Tls,
    /// Peers, without TLS.
    Peer,
    /// Peers, with TLS.
    PeerTls,
}

impl Port {
    pub(super) const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::Peer, Self::PeerTls];
}

/// How a member is started, beside what all have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    /// More flags, given last.
    pub(crate) flags: Vec<String>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// What stands before the address in the advertised URLs: nothing, or a user and a password with their `@`.
    pub(crate) user_info: String,
}

/// The member.
#[derive(Debug)]
pub(crate) struct Victim {
    /// Locked for the time of a question.
    process: Mutex<Process>,
    pid: u32,
    data_dir: PathBuf,
    log: PathBuf,
    etcdctl: PathBuf,
    ports: [u16; 4],
    /// Descriptors that it may open, before an attack took some of them away.
    descriptors: Mutex<Option<Rlimit>>,
}

impl Victim {
    /// Starts it with its data in that folder, and waits until it serves.
    pub(crate) fn start(programs: &Programs, folder: &Path, extras: &Extras) -> Result<Self> {
        let mut last = anyhow!("not tried");
        for attempt in 0..PORT_ATTEMPTS {
            let ports = free_ports()?;
            let data_dir = folder.join(format!("data{attempt}"));
            let [plain, tls, peer, peer_tls] = ports.map(|port| format!("127.0.0.1:{port}"));
            let user_info = &extras.user_info;
            let mut command = bound_command(&programs.etcd);
            command
                .args(["--name=m1", "--auto-tls", "--peer-auto-tls"])
                .arg(format!("--data-dir={}", data_dir.display()))
                .arg(format!("--listen-client-urls=http://{plain},https://{tls}"))
                .arg(format!("--advertise-client-urls=http://{user_info}{plain}"))
                .arg(format!("--listen-peer-urls=http://{peer},https://{peer_tls}"))
                .arg(format!("--initial-advertise-peer-urls=http://{user_info}{peer}"))
                .arg(format!("--initial-cluster=m1=http://{user_info}{peer}"))
                .args(&extras.flags)
                .envs(extras.environment.iter().map(|(name, value)| (name, value)));
            let log = log_path(&data_dir);
            let process = Process::spawn(command, programs.etcd.display().to_string(), &log)?;
            match process.wait_ready(START_LIMIT) {
                Ok(()) => {
                    let etcdctl = programs.etcdctl.clone();
                    let pid = process.pid();
                    let (process, descriptors) = (Mutex::new(process), Mutex::new(None));
                    return Ok(Self { process, pid, data_dir, log, etcdctl, ports, descriptors });
                }
                Err(error) if process.log_tail().contains("address already in use") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The address of a port.
    pub(crate) fn address(&self, port: Port) -> SocketAddr {
        let index = Port::ALL.iter().position(|known| *known == port).unwrap_or_default();
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[index]))
    }

    /// A new connection.
    pub(crate) async fn connect(&self, port: Port) -> Result<TcpStream> {
        let address = self.address(port);
        TcpStream::connect(address).await.with_context(|| format!("connect to {port:?}"))
    }

    /// What it takes up now.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn gauge(&self) -> Result<Gauge> {
        if let Some(status) = lock(&self.process).try_wait()? {
            bail!("the member ended: {status}");
        }
        Gauge::read(self.pid, &self.log)
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        lock(&self.process).log_tail()
    }

    /// No line of its log is an error.
    pub(super) fn check_no_errors(&self) -> Result<()> {
        let complaints = lock(&self.process).complaints();
        let error = complaints.iter().find(|line| !line.contains("\"level\":\"warn\""));
        ensure!(error.is_none(), "the member logged an error: {error:?}");
        Ok(())
    }

    /// Its data.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What it has printed, in full.
    pub(crate) fn log_path(&self) -> &Path {
        &self.log
    }

    /// Asks it to stop, and waits for its end.
    pub(crate) fn stop(self) -> Result<ExitStatus> {
        self.process.into_inner().unwrap_or_else(PoisonError::into_inner).stop()
    }

    /// A put through the TLS port.
    pub(super) async fn put_securely(&self) -> Result<()> {
        let mut command = Command::new(&self.etcdctl);
        command
            .args(["--insecure-skip-tls-verify", "--insecure-transport=false"])
            .arg(format!("--endpoints=https://{}", self.address(Port::Tls)))
            .args(["put", "well/behaved/tls", "x"]);
        let output =
            tokio::process::Command::from(command).output().await.context("run etcdctl")?;
        ensure!(output.status.success(), "over TLS: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// A question to the peer port.
    pub(super) async fn ask_peer_port(&self) -> Result<()> {
        let asked = async {
            let mut socket = self.connect(Port::Peer).await?;
            socket
                .write_all(b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            ensure!(answer.starts_with("HTTP/1.1 200"), "the peer port answers {answer:?}");
            Ok(())
        };
        tokio::time::timeout(ANSWER_LIMIT, asked).await.context("the peer port does not answer")?
    }

    /// The member does not burn time, although there is something that it cannot do.
    pub(super) async fn check_idle(&self) -> Result<()> {
        let (before, begun) = (self.gauge()?, Instant::now());
        tokio::time::sleep(IDLE_SPAN).await;
        let cpu = self.gauge()?.cpu.saturating_sub(before.cpu);
        let share = cpu.as_secs_f64() / begun.elapsed().as_secs_f64();
        ensure!(share < IDLE_SHARE, "the member computes {share:.2} of the time");
        Ok(())
    }

    /// Leaves the member room for only so many descriptors more.
    pub(super) fn take_descriptors(&self, left: u64) -> Result<()> {
        let open = self.gauge()?.descriptors;
        let pid = Pid::from_raw(i32::try_from(self.pid)?);
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let low = Rlimit { current: Some(open + left), maximum: limit.maximum };
        let before = prlimit(pid, Resource::Nofile, low).context("lower its limit")?;
        *lock(&self.descriptors) = Some(before);
        Ok(())
    }

    /// Gives them back.
    pub(super) fn give_descriptors_back(&self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?);
        if let Some(limit) = lock(&self.descriptors).take() {
            prlimit(pid, Resource::Nofile, limit).context("raise its limit again")?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free_ports() -> Result<[u16; 4]> {
    // All are held until the last is known: so they differ.
    let mut listeners = Vec::new();
    for _ in Port::ALL {
        listeners.push(TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?);
    }
    let mut ports = [0; 4];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
