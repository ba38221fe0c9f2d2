//! One server process: started on loopback with ports of its own, waited for by condition, stopped by its process id.
//!
//! Works the same for our server and for real etcd, because the two take the same flags and log the same line
//! when they are ready. A [`Member`] that is dropped is killed; its folder is the caller's.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The line (a part of it) that etcd logs when clients are served; its own test suite waits for it as well.
const READY: &str = "ready to serve client requests";

/// Lines of the log kept in memory, to show when something goes wrong.
const TAIL_LINES: usize = 60;

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
        let mut name = self.data_dir.clone().into_os_string();
        name.push(".log");
        PathBuf::from(name)
    }
}

/// A running member.
#[derive(Debug)]
pub struct Member {
    options: Options,
    child: Child,
    client_port: u16,
    log: Arc<Log>,
}

impl Member {
    /// Starts a member and waits until it says that it serves clients.
    pub fn start(options: &Options) -> Result<Self> {
        let mut last = anyhow!("not tried");
        for _ in 0..PORT_ATTEMPTS {
            let member = Self::spawn(options)?;
            match member.wait_ready() {
                Ok(()) => return Ok(member),
                Err(error) if member.log.tail().contains("address already in use") => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Starts a member without waiting for it.
    pub fn spawn(options: &Options) -> Result<Self> {
        let (client_port, peer_port) = free_ports()?;
        let (reader, writer) = std::io::pipe().context("make a pipe for the log")?;
        let mut command = Command::new(&options.program);
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
            .args(&options.flags)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("share the log pipe")?)
            .stderr(writer);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let child =
            command.spawn().with_context(|| format!("start {}", options.program.display()))?;
        // `command` holds the writing ends: the log ends when the member does, not when we do.
        drop(command);
        let path = options.log_path();
        let file = File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log);
        std::thread::Builder::new()
            .name("member-log".to_owned())
            .spawn(move || sink.follow(reader, file))
            .context("start the log thread")?;
        Ok(Self { options: options.clone(), child, client_port, log })
    }

    /// Waits for the line that says that clients are served.
    pub fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + self.options.start_timeout;
        match self.log.wait(deadline) {
            Progress::Ready => Ok(()),
            Progress::Ended => {
                bail!("{} ended while starting:\n{}", self.describe(), self.log.tail())
            }
            Progress::Starting => {
                bail!(
                    "{} not ready in {:?}:\n{}",
                    self.describe(),
                    self.options.start_timeout,
                    self.log.tail()
                )
            }
        }
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
        self.child.id()
    }

    /// What the member was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// Lines of level warn and above since the start.
    pub fn complaints(&self) -> Vec<String> {
        self.log.lock().complaints.clone()
    }

    /// Asks the member to stop (SIGTERM) and waits for it.
    pub fn stop(mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).context("send SIGTERM")?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().context("wait for the member")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not stop in 60 s after SIGTERM:\n{}",
                    self.describe(),
                    self.log.tail()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the member (SIGKILL) and waits for it.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill().context("send SIGKILL")?;
        self.child.wait().context("wait for the member")
    }

    fn describe(&self) -> String {
        format!("{} on {}", self.options.program.display(), self.options.data_dir.display())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Errors mean that it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How far a member has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    Starting,
    Ready,
    Ended,
}

/// What a member printed; filled by a thread, read by the test.
#[derive(Debug, Default)]
struct Log {
    /// Guards the whole content; held for a line at a time.
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Content {
    progress: Progress,
    tail: VecDeque<String>,
    complaints: Vec<String>,
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, reader: std::io::PipeReader, mut file: File) {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            // A full disk must not stop the reading: the member would block on its log.
            let _ = file.write_all(&line).and_then(|()| file.write_all(b"\n"));
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut content = self.lock();
            if line.contains(READY) && content.progress == Progress::Starting {
                content.progress = Progress::Ready;
                self.changed.notify_all();
            }
            if ["warn", "error", "panic", "fatal"]
                .iter()
                .any(|level| line.contains(&format!("\"level\":\"{level}\"")))
            {
                content.complaints.push(line.clone());
            }
            if content.tail.len() == TAIL_LINES {
                content.tail.pop_front();
            }
            content.tail.push_back(line);
        }
        self.lock().progress = Progress::Ended;
        self.changed.notify_all();
    }

    fn wait(&self, deadline: Instant) -> Progress {
        let mut content = self.lock();
        while content.progress == Progress::Starting {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            content =
                self.changed.wait_timeout(content, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        content.progress
    }

    fn tail(&self) -> String {
        self.lock().tail.iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// Two free ports for a client and a peer listener, different from each other.
fn free_ports() -> Result<(u16, u16)> {
    let first = TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?;
    let second = TcpListener::bind("127.0.0.1:0").context("ask the kernel for a port")?;
    Ok((first.local_addr()?.port(), second.local_addr()?.port()))
}
