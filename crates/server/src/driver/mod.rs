//! The threads of a member, each with a mailbox of its own.
//!
//! ```text
//!  rpc tasks ──► heart: replica ──► log writer ──► apply ──► waiters
//!                  ▲   (one write and one fdatasync a batch)  │
//!                  │                                          ├──► watch stage
//!                  └──────────────── committer ◄──────────────┘
//!                       (bolt commits, raft snapshots, defragmentation)
//! ```
//!
//! The first line is one thread while the member is alone, and three as soon as it knows of another: see [`heart`]. Messages to
//! and from other members go through [`crate::peers`], whose streams are tasks of the heart's thread.
//!
//! [`heart`] carries out what `replica` asks for, with [`log_writer`], which owns the write-ahead log, and [`apply`], which
//! owns the state machine. [`committer`] does everything slow that the state machine gives rise to. Threads talk over
//! [`mailbox`]es only. One that fails says why over [`Failures`] and ends; the member then stops, since local doubt is
//! fatal.
//!
//! Stopping goes the way of the data: the heart works off what it has and makes the last commit, and the committer and the
//! watch stage end when nobody can give them work.

pub(crate) mod apply;
pub(crate) mod committer;
pub(crate) mod heart;
pub(crate) mod log_writer;
pub(crate) mod mailbox;
mod tell;

use std::thread::JoinHandle;

use tokio::sync::mpsc;

/// Why a stage cannot go on. Ends the process.
#[derive(Debug, thiserror::Error)]
#[error("{stage}: {cause}")]
pub struct Failure {
    /// Which stage.
    pub stage: &'static str,
    /// What happened.
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Where stages report failures to.
#[derive(Debug, Clone)]
pub(crate) struct Failures {
    sender: mpsc::UnboundedSender<Failure>,
}

impl Failures {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Failure>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender }, receiver)
    }

    /// Runs a stage in a thread of its own.
    pub(crate) fn spawn<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        &self,
        stage: &'static str,
        run: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let failures = self.sender.clone();
        std::thread::Builder::new().name(stage.to_owned()).spawn(move || {
            if let Err(cause) = run() {
                // Without a receiver the member is stopping already, for an earlier reason.
                let _ = failures.send(Failure { stage, cause: cause.into() });
            }
        })
    }
}
