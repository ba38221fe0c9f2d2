//! What an attack holds and does while it lasts: open connections, and floods on some of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::victim::{Port, Victim};

/// A flood of which nothing more was taken for so long has settled.
const STILL: Duration = Duration::from_millis(300);
/// How long a member may let a connection wait that says nothing.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// All of it; dropped, it ends.
#[derive(Debug, Default)]
pub(super) struct Force {
    held: Vec<TcpStream>,
    floods: JoinSet<()>,
    /// Bytes that the floods got rid of.
    written: Arc<AtomicU64>,
    /// What was seen of that last, and when it changed.
    seen: std::sync::Mutex<Option<(u64, Instant)>>,
}

impl Force {
    /// Opens so many connections, writes the same to each, and holds them.
    pub(super) async fn hold(
        victim: &Victim,
        port: Port,
        count: usize,
        bytes: &[u8],
    ) -> Result<Self> {
        let mut force = Self::default();
        force.add(victim, port, count, bytes).await?;
        Ok(force)
    }

    /// Opens and holds more.
    pub(super) async fn add(
        &mut self,
        victim: &Victim,
        port: Port,
        count: usize,
        bytes: &[u8],
    ) -> Result<()> {
        for _ in 0..count {
            let mut socket = victim.connect(port).await?;
            if !bytes.is_empty() {
                // The member may have closed it already.
                let _ = socket.write_all(bytes).await;
            }
            self.held.push(socket);
        }
        Ok(())
    }

    /// Floods over one connection: `first`, and then `pieces`, each once or as often as it yields. Nothing is read when
    /// `is_deaf`; otherwise what the member says is read and thrown away.
    pub(super) fn flood(
        &mut self,
        socket: TcpStream,
        first: Vec<u8>,
        mut pieces: impl FnMut() -> Option<Vec<u8>> + Send + 'static,
        is_deaf: bool,
    ) {
        let written = Arc::clone(&self.written);
        self.floods.spawn(async move {
            let (mut reader, mut writer) = socket.into_split();
            let writing = async {
                let mut piece = Some(first);
                while let Some(bytes) = piece {
                    let len = bytes.len();
                    // The member has had enough, and closed it.
                    if writer.write_all(&bytes).await.is_err() {
                        return;
                    }
                    written.fetch_add(u64::try_from(len).unwrap_or(0), Ordering::Relaxed);
                    piece = pieces();
                }
                // All is sent: what it holds now is held until the end.
                std::future::pending::<()>().await;
            };
            if is_deaf {
                writing.await;
                return;
            }
            let reading = async {
                let mut answers = vec![0; 16 * 1024];
                while !matches!(reader.read(&mut answers).await, Ok(0) | Err(_)) {}
            };
            tokio::select! {
                () = writing => {}
                () = reading => {}
            }
        });
    }

    /// Whether the floods have ended, or the member takes no more of them for now.
    pub(super) fn has_settled(&self) -> bool {
        if self.floods.is_empty() {
            return true;
        }
        let written = self.written.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match *seen {
            Some((count, since)) if count == written => since.elapsed() >= STILL,
            Some(_) | None => {
                *seen = Some((written, Instant::now()));
                false
            }
        }
    }

    /// Waits until the member has closed the connections that are held, if it is to do so.
    pub(super) async fn await_end_of(&self, is_to_end: bool) -> Result<()> {
        let begun = Instant::now();
        for socket in self.held.iter().filter(|_| is_to_end) {
            loop {
                let left = SILENCE_LIMIT.saturating_sub(begun.elapsed());
                let ended = tokio::time::timeout(left, socket.readable()).await;
                ensure!(
                    ended.is_ok(),
                    "a connection that says nothing is kept for {SILENCE_LIMIT:?}"
                );
                match socket.try_read(&mut [0; 512]) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
        Ok(())
    }
}

/// The same piece, so often.
pub(super) fn repeated(piece: Vec<u8>, count: usize) -> impl FnMut() -> Option<Vec<u8>> {
    let mut left = count;
    move || {
        left = left.checked_sub(1)?;
        Some(piece.clone())
    }
}
