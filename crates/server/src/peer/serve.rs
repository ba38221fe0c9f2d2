//! The peer port: HTTP/1.1 connections, their limits, and their end.
//!
//! Whoever reaches the port can connect and say nothing, say it slowly, or say nonsense; members are served meanwhile. A
//! connection that has not asked anything yet counts as waiting. Of these there are some hundreds at most: one more ends the
//! oldest, so that a flood of silent connections takes no place from one that speaks. How long a request may take
//! to arrive is limited, and how long an answer may take to leave; [`super::timely`] has the limits of bodies.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tls::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep, timeout};
use tower_service::Service as _;

use super::routes::GoesOnAt;
use super::timely::{Patience, timely};
use crate::listen::{self, Door};
use crate::socket;

/// For one write: a peer that takes nothing for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// What is under way may end within that time when the member stops.
const GRACE: Duration = Duration::from_secs(2);
/// After an `accept` that failed: most often there are too many open files, and trying at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What one connection reads ahead, and so the largest head of a request. A member's is a few hundred bytes and its URLs.
const READ_AHEAD_BYTES: usize = 128 * 1024;

/// What strangers may take up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections. A peer has two streams, four senders and a few more; a cluster has a handful of peers.
    pub(crate) connections: usize,
    /// Those of them that have asked nothing yet.
    pub(crate) waiting: usize,
    /// For the head of a request, and so for a connection between two requests.
    pub(crate) head: Duration,
    /// For the body of a request.
    pub(crate) body: Patience,
}

impl Limits {
    /// A port's. Times are etcd's; it has no other limits.
    pub(crate) const DEFAULT: Self = Self {
        connections: 1024,
        waiting: 256,
        head: Duration::from_secs(5),
        body: Patience { pause: Duration::from_secs(5), bytes_per_second: 1024 },
    };
}

/// Serves the routes until told to stop, then ends all connections.
pub(crate) async fn serve(
    listener: impl Into<Door>,
    tls: Option<Acceptor>,
    routes: Router,
    stopping: watch::Receiver<bool>,
) {
    serve_within(Limits::DEFAULT, listener, tls, routes, stopping).await;
}

/// Like [`serve`], with limits of the caller's.
pub(crate) async fn serve_within(
    limits: Limits,
    listener: impl Into<Door>,
    tls: Option<Acceptor>,
    routes: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let listener = listener.into();
    let permits = Arc::new(Semaphore::new(limits.connections));
    let waiting = Arc::new(Waiting::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &permits, &waiting) => accepted,
        };
        match accepted {
            Ok((socket, permit)) => {
                let (tls, routes) = (tls.clone(), routes.clone());
                let (stopping, place) = (stopping.clone(), Waiting::enter(&waiting));
                let number = place.number;
                let task = connections.spawn(async move {
                    connection(socket, tls, routes, stopping, limits, place).await;
                    drop(permit);
                });
                waiting.keep_to(limits.waiting, number, task);
            }
            Err(error) => {
                tracing::warn!(error = %error, "failed to accept a connection of a peer");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, ended).await.is_err() {
        connections.shutdown().await;
    }
}

/// The connections that have asked nothing yet.
#[derive(Debug, Default)]
struct Waiting {
    /// Held to add one, to take one out, or to end one.
    list: Mutex<WaitingList>,
}

#[derive(Debug, Default)]
struct WaitingList {
    /// Of the newest connection; they are counted.
    last: u64,
    /// Oldest first; one has no task yet while it is being made.
    tasks: BTreeMap<u64, Option<AbortHandle>>,
}

impl Waiting {
    /// A place for another connection.
    fn enter(this: &Arc<Self>) -> Place {
        let mut list = this.lock();
        list.last += 1;
        let number = list.last;
        list.tasks.insert(number, None);
        Place { number, waiting: Arc::clone(this) }
    }

    /// That connection has this task, unless it has asked something already. If there are more than so many, the oldest ends.
    fn keep_to(&self, max: usize, number: u64, task: AbortHandle) {
        let mut list = self.lock();
        if let Some(place) = list.tasks.get_mut(&number) {
            *place = Some(task);
        }
        let is_over = list.tasks.len() > max;
        drop(list);
        if is_over {
            self.end_oldest();
        }
    }

    fn end_oldest(&self) {
        let oldest = self.lock().tasks.pop_first();
        if let Some((_, Some(task))) = oldest {
            task.abort();
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingList> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that wait; without it, the connection is one that has asked something.
#[derive(Debug)]
struct Place {
    number: u64,
    waiting: Arc<Waiting>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().tasks.remove(&self.number);
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the member is gone, which is a stop too.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

async fn accept(
    listener: &Door,
    permits: &Arc<Semaphore>,
    waiting: &Waiting,
) -> io::Result<(tls::Socket, OwnedSemaphorePermit)> {
    let permit = match Arc::clone(permits).try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => {
            waiting.end_oldest();
            Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?
        }
    };
    let socket = listener.accept().await?;
    socket::set_up_any(&socket);
    Ok((socket, permit))
}

async fn connection(
    socket: tls::Socket,
    tls: Option<Acceptor>,
    routes: Router,
    mut stopping: watch::Receiver<bool>,
    limits: Limits,
    place: Place,
) {
    let socket = match tls {
        None => tls::Stream::Plain(socket),
        Some(acceptor) => {
            let secured = tokio::select! {
                secured = listen::secured(acceptor, socket, "peer") => secured,
                () = stopped(&mut stopping) => return,
            };
            let Some(secured) = secured else { return };
            secured
        }
    };
    let place = Mutex::new(Some(place));
    let (to_move, mut moves) = mpsc::channel(1);
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        // With its first request it waits no longer.
        drop(place.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (mut routes, to_move) = (routes.clone(), to_move.clone());
        async move {
            // A router is always ready.
            let request = request.map(|body| timely(Body::new(body), limits.body));
            let answered: Result<_, Infallible> = routes.call(request).await;
            answered.inspect(|response| {
                if let Some(GoesOnAt(executor)) = response.extensions().get() {
                    // There is room: it is the last request of its connection.
                    let _ = to_move.try_send(executor.clone());
                }
            })
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(READ_AHEAD_BYTES)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(Impatient::new(socket, WRITE_LIMIT)), answer);
    let mut serving = Box::pin(serving);
    tokio::select! {
        ended = serving.as_mut() => tell_ended(ended),
        () = stopped(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            tell_ended(serving.await);
        }
        Some(executor) = moves.recv() => {
            // Nothing else is asked on it afterwards: that would be answered there too.
            serving.as_mut().graceful_shutdown();
            // Ends with this task.
            let mut moved = JoinSet::new();
            moved.spawn_on(async move { tell_ended(serving.await) }, &executor);
            while moved.join_next().await.is_some() {}
        }
    }
}

/// Peers come and go, and say so on their own channels.
fn tell_ended(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection of a peer ended");
    }
}

/// A socket whose writes must not take long.
struct Impatient<S> {
    socket: S,
    write_limit: Duration,
    /// Runs while a write waits.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(socket: S, write_limit: Duration) -> Self {
        Self { socket, write_limit, limit: None }
    }

    fn limited<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.limit = None;
            return written;
        }
        let write_limit = self.write_limit;
        let limit = self.limit.get_or_insert_with(|| Box::pin(sleep(write_limit)));
        limit.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, parts);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context);
        self.limited(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn a_write_that_nobody_reads_fails_and_one_that_is_read_does_not() {
        let (ours, mut theirs) = duplex(16);
        let mut socket = Impatient::new(ours, Duration::from_millis(20));
        let error = socket.write_all(&[1; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Each write has the whole limit, however long all of them take.
        let (ours, mut reader) = duplex(16);
        let mut socket = Impatient::new(ours, Duration::from_secs(60));
        let writing = tokio::spawn(async move { socket.write_all(&[2; 1000]).await });
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(read, [2; 1000]);
        assert_eq!(theirs.read(&mut [0; 32]).await.unwrap(), 16);
    }
}
