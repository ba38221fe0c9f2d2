//! The threads of a member, each with a mailbox of its own.
//!
//! ```text
//!  rpc tasks ──► node ──► log writer ──► node        one write and one fdatasync a batch
//!                 │                        │
//!                 └──► apply ◄─────────────┘         one thread, the state machine
//!                        │ ──► waiters, watchers
//!                        └──► committer              bolt commits, snapshots, defragmentation
//! ```
//!
//! [`node`] carries out what `replica` asks for and never waits for a disk. [`log_writer`] owns the write-ahead log.
//! [`apply`] owns the state machine. [`committer`] does everything slow that the state machine gives rise to. They talk over
//! [`mailbox`]es only. A stage that fails says why over [`Failures`] and ends; the member then stops, since local doubt is
//! fatal.
//!
//! Stopping goes the way of the data: the node loop ends first and tells the log writer and the apply stage, which work off
//! what they have; the apply stage makes the last commit, and the committer ends when nobody can give it work.

pub(crate) mod apply;
pub(crate) mod committer;
pub(crate) mod log_writer;
pub(crate) mod mailbox;
pub(crate) mod node;

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
