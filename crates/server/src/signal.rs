//! SIGTERM and SIGINT stop a member cleanly; afterwards the process dies by that signal, so that whoever waits for it sees
//! why it ended, as with etcd.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

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
