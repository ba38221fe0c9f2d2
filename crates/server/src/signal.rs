//! SIGTERM and SIGINT stop a member cleanly; afterwards the process dies by that signal, so that whoever waits for it sees
//! why it ended, as with etcd.
//!
//! What Go's programs do with other signals, this one does too ([`take_others`]): SIGQUIT ends it with code 2 after a look at
//! its threads, and signals that mean nothing to etcd do nothing. SIGHUP keeps its effect, to end the process.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that would end a process, and that Go's programs pass over: scripts that rotate logs send the first two.
const MEANINGLESS: &[i32] = &[
    signal_hook::consts::SIGUSR1,
    signal_hook::consts::SIGUSR2,
    signal_hook::consts::SIGALRM,
    signal_hook::consts::SIGVTALRM,
    signal_hook::consts::SIGPROF,
    signal_hook::consts::SIGIO,
    signal_hook::consts::SIGXCPU,
    // A file that may not grow: the write fails.
    signal_hook::consts::SIGXFSZ,
];

/// The code that SIGQUIT ends with: that of a Go program that shows its stacks.
const QUIT: i32 = 2;

/// A signal that asks for a clean stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ctrl-C.
    Interrupt,
    /// What `systemctl stop` sends.
    Terminate,
}

impl Stop {
    /// The signal's name as etcd logs it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupt",
            Self::Terminate => "terminated",
        }
    }
}

/// Both signals, listened to from the moment this is made.
pub(crate) struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Stop {
        tokio::select! {
            _ = self.interrupt.recv() => Stop::Interrupt,
            _ = self.terminate.recv() => Stop::Terminate,
        }
    }
}

/// Waits for such a signal: for what comes before there is a member.
///
/// # Errors
/// Signals cannot be listened to.
pub async fn next() -> std::io::Result<Stop> {
    Ok(Stops::listen()?.next().await)
}

/// Ends the process by the signal, with its default effect. Process 1 has no default effects and exits instead.
#[must_use]
pub fn die_by(stop: Stop) -> ExitCode {
    let number = match stop {
        Stop::Interrupt => signal_hook::consts::SIGINT,
        Stop::Terminate => signal_hook::consts::SIGTERM,
    };
    if std::process::id() != 1 {
        // Returns only when the default effect could not be had.
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
    ExitCode::SUCCESS
}

/// Takes the signals that are no clean stop, for the whole process: those that mean nothing are passed over, and SIGQUIT ends
/// the process at once, with a line for each thread on stderr.
///
/// # Errors
/// Signals cannot be taken, or there is no thread to wait for them.
pub fn take_others() -> std::io::Result<()> {
    for signal in MEANINGLESS {
        // A handler, not "ignore": that would be inherited. Nobody looks at the flag.
        signal_hook::flag::register(*signal, Arc::new(AtomicBool::new(false)))?;
    }
    let mut quit = signal_hook::iterator::Signals::new([signal_hook::consts::SIGQUIT])?;
    // A thread of its own: what is asked about may be a runtime that stands still.
    std::thread::Builder::new().name("quit".to_owned()).spawn(move || {
        if quit.forever().next().is_some() {
            show_threads();
            std::process::exit(QUIT);
        }
    })?;
    Ok(())
}

/// Where the threads are, as far as the system tells: `thread 7 "apply": S futex_wait_queue`.
fn show_threads() {
    use std::io::Write as _;
    let mut text = "SIGQUIT: quit\n".to_owned();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let (name, status) = (read("comm"), read("stat"));
        // The state comes after the name, which is in parentheses and may hold anything.
        let state =
            status.rsplit_once(") ").map_or("", |(_, rest)| rest.get(..1).unwrap_or_default());
        let id = task.file_name();
        text.push_str(&format!(
            "thread {} {:?}: {state} {}\n",
            id.to_string_lossy(),
            name.trim_end(),
            read("wchan")
        ));
    }
    // Nobody can be told of a closed pipe.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
