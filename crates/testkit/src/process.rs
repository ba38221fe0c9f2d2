//! A child process that never outlives this one, with its log followed.
//!
//! [`Process`] owns the child: dropping it kills and reaps it. For the ways in which nothing is dropped (an interrupt, an abort,
//! a kill -9 of the test) the child asks the kernel to be killed together with us (`setpriv --pdeathsig`). The kernel
//! ties that to the *thread* that started the child, therefore one thread, which never ends, starts them all.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The line (a part of it) that etcd logs when clients are served; its own test suite waits for it as well.
const READY: &str = "ready to serve client requests";

/// Lines of the log kept in memory, to show when something goes wrong.
const TAIL_LINES: usize = 60;

/// How long a process may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// util-linux's tool that asks for the signal at our death and then becomes the program.
const SETPRIV: &str = "/usr/bin/setpriv";

/// A command that becomes `program`, to be killed by the kernel when we die.
pub(crate) fn bound_command(program: &Path) -> Command {
    if !Path::new(SETPRIV).is_file() {
        return Command::new(program);
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    what: String,
    log: Arc<Log>,
}

impl Process {
    /// Starts a command whose output goes to a file, appended. `what` names it in errors.
    pub(crate) fn spawn(mut command: Command, what: String, log_path: &Path) -> Result<Self> {
        let (reader, writer) = std::io::pipe().context("make a pipe for the log")?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone().context("share the log pipe")?)
            .stderr(writer);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        let file = File::options().create(true).append(true).open(log_path);
        let file = file.with_context(|| format!("open {}", log_path.display()))?;
        // The command, which holds the writing ends, ends with this call: the log ends when the child does, not when we do.
        let child = spawn_from_lasting_thread(command).with_context(|| format!("start {what}"))?;
        let log = Arc::new(Log::default());
        let sink = Arc::clone(&log);
        std::thread::Builder::new()
            .name("member-log".to_owned())
            .spawn(move || sink.follow(reader, file))
            .context("start the log thread")?;
        Ok(Self { child, what, log })
    }

    /// Waits for the line that says that clients are served.
    pub(crate) fn wait_ready(&self, timeout: Duration) -> Result<()> {
        match self.log.wait(Instant::now() + timeout) {
            Progress::Ready => Ok(()),
            Progress::Ended => bail!("{} ended while starting:\n{}", self.what, self.log.tail()),
            Progress::Starting => {
                bail!("{} not ready in {timeout:?}:\n{}", self.what, self.log.tail())
            }
        }
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// Lines of level warn and above since the start.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.log.lock().complaints.clone()
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("ask for the end of {}", self.what))
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.child), signal)
            .with_context(|| format!("send {signal:?} to {}", self.what))
    }

    /// Asks the process to stop (SIGTERM) and waits for it on this thread.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.check_stop_deadline(deadline)?;
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks the process to stop (SIGTERM) and waits for it, letting other tasks go on.
    pub(crate) async fn stop_async(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            self.check_stop_deadline(deadline)?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn check_stop_deadline(&self, deadline: Instant) -> Result<()> {
        if Instant::now() > deadline {
            bail!(
                "{} did not stop in {STOP_TIMEOUT:?} after SIGTERM:\n{}",
                self.what,
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Kills the process (SIGKILL) and waits for it.
    pub(crate) fn kill(mut self) -> Result<ExitStatus> {
        self.child.kill().context("send SIGKILL")?;
        self.child.wait().with_context(|| format!("wait for {}", self.what))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command to start, and where its child goes.
type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

fn spawn_from_lasting_thread(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in receiver {
                let _ = reply.send(command.spawn());
            }
        });
        sender
    });
    let (reply, child) = mpsc::channel();
    spawner.send((command, reply)).ok().context("the starting thread is gone")?;
    Ok(child.recv().context("the starting thread is gone")??)
}

/// The file that receives what a member prints: beside its data directory, with `.log` added.
pub(crate) fn log_path(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.to_owned().into_os_string();
    name.push(".log");
    PathBuf::from(name)
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
