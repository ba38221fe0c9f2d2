//! A snapshot on its way in: a message, then a database that goes to a file as it arrives.
//!
//! ```text
//!  socket ──► a few pieces ──► a thread that may block: tmp-… ── sync ── rename ── sync folder ── deliver
//! ```
//!
//! The file has its name only when it is durable, and raft hears of the snapshot only then. Whatever goes wrong before leaves no
//! file; what a crash leaves is removed at the next start, by its name.
//!
//! Several of the same index may arrive at once, from leaders that followed each other: each has a file of its own until the
//! end, and the last one stays.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use raft::{LogIndex, Message};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use vfs::{Dir, File, OpenMode};

use super::codec::{SnapshotHead, decode_snapshot_head};
use super::{Delivery, Shared};
use crate::metrics::Histogram;
use crate::told;

/// Snapshots on their way in. A leader sends one at a time; more only while the cluster changes its mind about who leads.
const AT_ONCE: usize = 4;
/// Largest message in front of a database, as in etcd 3.6. It holds the members, a few hundred bytes each.
const HEAD_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Between two pieces of a body.
pub(crate) const READ_LIMIT: Duration = Duration::from_secs(5);
/// Pieces that wait for the disk; each is what one read of the socket brought.
const PIECES_AHEAD: usize = 8;

/// Why a snapshot was not taken; the texts are etcd's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// The head is no message.
    #[error("failed to decode raft message ({0})")]
    Decode(String),
    /// The head is another message.
    #[error("wrong raft message type")]
    WrongType,
    /// The database did not arrive, or could not be written.
    #[error("failed to save KV snapshot ({0})")]
    Save(String),
    /// It is not for this member, or raft has no room for it.
    #[error("failed to process raft message ({0})")]
    Process(String),
}

/// What several snapshots on their way in share.
#[derive(Debug)]
pub(crate) struct Receiving {
    /// One for each.
    permits: Semaphore,
    /// Makes the names of unfinished files differ.
    count: AtomicU64,
    /// Held while a finished file gets its name and raft the message: a refusal then takes away no file but its own.
    finishing: Mutex<()>,
}

impl Default for Receiving {
    fn default() -> Self {
        Self {
            permits: Semaphore::new(AT_ONCE),
            count: AtomicU64::new(0),
            finishing: Mutex::new(()),
        }
    }
}

/// Reads a posted snapshot to its end and gives it to raft.
pub(crate) async fn receive(
    shared: &Arc<Shared>,
    body: axum::body::Body,
) -> Result<(), ReceiveError> {
    let Ok(_permit) = shared.receiving.permits.try_acquire() else {
        return Err(ReceiveError::Save("too many snapshots are being received".to_owned()));
    };
    let start = Instant::now();
    let mut pieces = Pieces { body, rest: Bytes::new() };
    let (message, head_bytes) = read_head(&mut pieces).await?;
    shared.check(&message).map_err(|error| ReceiveError::Process(error.to_string()))?;
    let raft::Body::Snapshot(snapshot) = &message.body else {
        return Err(ReceiveError::WrongType);
    };
    let index = snapshot.metadata.index;
    let local_member_id = format!("{:x}", shared.identity.member_id);
    let from = message.from;
    tracing::info!(
        local_member_id,
        remote_snapshot_sender_id = %from,
        incoming_snapshot_index = index.0,
        incoming_snapshot_message_size_bytes = head_bytes,
        incoming_snapshot_message_size = told::human_bytes(head_bytes),
        "receiving database snapshot"
    );
    let metrics = &shared.options.metrics;
    // It has passed the checks, and says that it is a leader's.
    let peer = metrics.peers.of(from.0);
    peer.received_bytes.add(head_bytes);
    let figures = &peer.snapshots_received;
    let _under_way = figures.under_way.enter();
    let (sender, arriving) = mpsc::channel(PIECES_AHEAD);
    let (reply, outcome) = oneshot::channel();
    let writer = Arc::clone(shared);
    tokio::task::spawn_blocking(move || {
        // Nobody waits if the connection broke in between.
        let _ = reply.send(store(&writer, message, index, arriving));
    });
    let mut failed = None;
    loop {
        match pieces.next().await {
            Ok(Some(bytes)) => {
                if sender.send(Arrived::Piece(bytes)).await.is_err() {
                    // The disk refused: the outcome says why.
                    break;
                }
            }
            Ok(None) => {
                let _ = sender.send(Arrived::End).await;
                break;
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let stored = outcome.await;
    let received = match (failed, stored) {
        (Some(error), _) => Err(ReceiveError::Save(error)),
        (None, Ok(stored)) => stored,
        (None, Err(_)) => Err(ReceiveError::Save("the writer ended".to_owned())),
    };
    match &received {
        Ok(db_bytes) => {
            peer.received_bytes.add(*db_bytes);
            tracing::info!(
                local_member_id,
                remote_snapshot_sender_id = %from,
                incoming_snapshot_index = index.0,
                incoming_snapshot_size_bytes = db_bytes,
                incoming_snapshot_size = told::human_bytes(*db_bytes),
                download_took = told::go_duration(start.elapsed()),
                "received and saved database snapshot"
            );
            figures.succeeded.count();
            figures.took.observe(start.elapsed());
            metrics.committing.snap_db_save.observe(start.elapsed());
        }
        Err(_) => figures.failed.count(),
    }
    received.map(drop)
}

/// The message, and how many bytes it took.
async fn read_head(pieces: &mut Pieces) -> Result<(Message, u64), ReceiveError> {
    let length = pieces.exactly(8).await?;
    let length = u64::from_be_bytes(length.as_ref().try_into().unwrap_or_default());
    let count = usize::try_from(length).unwrap_or(usize::MAX);
    if length > HEAD_BYTES_MAX {
        return Err(ReceiveError::Decode("error limit exceeded".to_owned()));
    }
    match decode_snapshot_head(pieces.exactly(count).await?) {
        Ok(SnapshotHead::Snapshot(message)) => Ok((message, length)),
        Ok(SnapshotHead::OtherKind) => Err(ReceiveError::WrongType),
        Err(error) => Err(ReceiveError::Decode(error.to_string())),
    }
}

/// What the socket passes on to the disk. If it ends without an end, the body broke.
#[derive(Debug)]
enum Arrived {
    Piece(Bytes),
    End,
}

/// Makes the database durable and gives the message to raft; returns the database's bytes.
fn store(
    shared: &Shared,
    message: Message,
    index: LogIndex,
    arriving: mpsc::Receiver<Arrived>,
) -> Result<u64, ReceiveError> {
    // Relaxed: only that no two are equal matters.
    let number = shared.receiving.count.fetch_add(1, Ordering::Relaxed);
    let dir = &shared.options.snap_dir;
    // Unfinished ones begin with `tmp`: they are removed at start.
    let unfinished = format!("tmp-{:016x}-{number}.snap.db", index.0);
    let fsync = &shared.options.metrics.committing.snap_db_fsync;
    let kept = write(dir, &unfinished, arriving, fsync)
        .map_err(|error| ReceiveError::Save(error.to_string()))
        .and_then(|db_bytes| finish(shared, message, index, &unfinished).map(|()| db_bytes));
    if kept.is_err() {
        // It may have its name already, or never have been made.
        let _ = dir.remove(&unfinished);
    }
    kept
}

fn write(
    dir: &Arc<dyn Dir>,
    name: &str,
    mut arriving: mpsc::Receiver<Arrived>,
    fsync: &Histogram,
) -> io::Result<u64> {
    let file: Arc<dyn File> = dir.open(name, OpenMode::Truncate)?;
    let mut written = 0;
    loop {
        match arriving.blocking_recv() {
            Some(Arrived::Piece(bytes)) => {
                file.write_at(&bytes, written)?;
                written += bytes.len() as u64;
            }
            Some(Arrived::End) => break,
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    if written == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no database came with it"));
    }
    let start = Instant::now();
    file.sync_all()?;
    fsync.observe(start.elapsed());
    Ok(written)
}

fn finish(
    shared: &Shared,
    message: Message,
    index: LogIndex,
    unfinished: &str,
) -> Result<(), ReceiveError> {
    let dir = &shared.options.snap_dir;
    let name = backend::snapshot_db_name(index.0);
    let save = |error: io::Error| ReceiveError::Save(error.to_string());
    let finishing = shared.receiving.finishing.lock().unwrap_or_else(PoisonError::into_inner);
    let was_there = dir.open(&name, OpenMode::Read).is_ok();
    dir.rename(unfinished, &name).map_err(save)?;
    let refusal = match dir.sync() {
        Err(error) => ReceiveError::Save(error.to_string()),
        Ok(()) => match shared.take_snapshot(message) {
            Ok(Delivery::Taken) => return Ok(()),
            Ok(Delivery::Full) => ReceiveError::Process("the queue is full".to_owned()),
            Ok(Delivery::Stopped) => ReceiveError::Process("the member is stopping".to_owned()),
            Err(error) => ReceiveError::Process(error.to_string()),
        },
    };
    if !was_there {
        // Nobody was told of it. If it stays, a later snapshot's housekeeping takes it.
        let _ = dir.remove(&name);
    }
    drop(finishing);
    Err(refusal)
}

/// A body, read by count and then by whatever arrives.
struct Pieces {
    body: axum::body::Body,
    rest: Bytes,
}

impl Pieces {
    /// `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            match timeout(READ_LIMIT, self.body.frame()).await {
                Err(_) => return Err("i/o timeout".to_owned()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                    // An empty piece, or trailers, which say nothing here.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }

    async fn exactly(&mut self, count: usize) -> Result<Bytes, ReceiveError> {
        let mut gathered = BytesMut::new();
        while gathered.len() < count {
            let next = self.next().await.map_err(ReceiveError::Decode)?;
            let Some(mut bytes) = next else {
                let what = if gathered.is_empty() && count == 8 { "EOF" } else { "unexpected EOF" };
                return Err(ReceiveError::Decode(what.to_owned()));
            };
            let part = bytes.split_to(bytes.len().min(count - gathered.len()));
            gathered.extend_from_slice(&part);
            self.rest = bytes;
        }
        Ok(gathered.freeze())
    }
}
