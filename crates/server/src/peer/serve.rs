//! The peer port: HTTP/1.1 connections, their limits, and their end.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tower_service::Service as _;

use crate::listen;

/// A peer has two streams, four senders and a few more; a cluster has a handful of peers.
const CONNECTIONS_MAX: usize = 1024;
/// For the head of a request, and so for a connection between two requests, as in etcd.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// For one write: a peer that takes nothing for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// What is under way may end within that time when the member stops.
const GRACE: Duration = Duration::from_secs(2);
/// After an `accept` that failed: most often there are too many open files, and trying at once would only burn time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the routes until told to stop, then ends all connections.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Acceptor>,
    routes: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((socket, permit)) => {
                let connection = connection(socket, tls.clone(), routes.clone(), stopping.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
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

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the member is gone, which is a stop too.
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    // Answers are small, and waiting to fill a packet costs a round trip. A socket that cannot be set still serves.
    let _ = socket.set_nodelay(true);
    Ok((socket, permit))
}

async fn connection(
    socket: TcpStream,
    tls: Option<Acceptor>,
    routes: Router,
    mut stopping: watch::Receiver<bool>,
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
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let mut routes = routes.clone();
        async move {
            // A router is always ready.
            let answered: Result<_, Infallible> = routes.call(request.map(Body::new)).await;
            answered
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(Impatient::new(socket, WRITE_LIMIT)), answer);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopped(&mut stopping) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Peers come and go, and say so on their own channels.
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
