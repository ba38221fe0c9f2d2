//! What is left of a request's body when its answer is there.
//!
//! A stream of HTTP/2 whose body is dropped is reset, and clients that are still sending take that for the answer (curl: error 92). So
//! the rest is read and thrown away before the answer leaves; not all of a large one, and not for long.
//!
//! Upstream: Go's net/http, which reads as much.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};

/// Most bytes that are read. Go's.
const BYTES_MAX: usize = 256 * 1024;
/// For how long. A client that takes longer to send that little is told without.
const TIME_MAX: Duration = Duration::from_millis(500);

/// A body, from which somebody else reads meanwhile.
#[derive(Debug)]
pub(super) struct Unread(Arc<Mutex<Body>>);

impl Unread {
    /// Splits a body into what is handed on, and what will be left of it; `None` if there is nothing to read.
    pub(super) fn of(body: Body) -> (Body, Option<Self>) {
        if body.is_end_stream() {
            return (body, None);
        }
        let shared = Arc::new(Mutex::new(body));
        (Body::new(Handed(Arc::clone(&shared))), Some(Self(shared)))
    }

    /// Reads the rest, unless it is still wanted elsewhere.
    pub(super) async fn drop_rest(self) {
        let Some(body) = Arc::into_inner(self.0) else { return };
        let mut body = body.into_inner().unwrap_or_else(PoisonError::into_inner);
        let reading = async {
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > BYTES_MAX {
                    break;
                }
            }
        };
        // In time or not: the answer leaves now.
        let _ = tokio::time::timeout(TIME_MAX, reading).await;
    }
}

/// The part that is handed on. The lock is held for one look, and nobody else looks meanwhile.
#[derive(Debug)]
struct Handed(Arc<Mutex<Body>>);

impl HttpBody for Handed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Poll::Ready(ready!(Pin::new(&mut *body).poll_frame(context)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    /// A body without an end: so many kilobytes, and then silence. Counts those that are read.
    fn endless(kilobytes: usize) -> (Body, Arc<Mutex<usize>>) {
        let read = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&read);
        let sent = (0..kilobytes).map(move |_| {
            *counter.lock().unwrap() += 1;
            Ok::<_, std::convert::Infallible>(Bytes::from(vec![0; 1024]))
        });
        (Body::from_stream(tokio_stream::iter(sent).chain(tokio_stream::pending())), read)
    }

    #[tokio::test]
    async fn neither_a_large_body_nor_a_slow_one_is_waited_for() {
        assert!(Unread::of(Body::empty()).1.is_none());
        for (kilobytes, expected) in [(10, 10), (10_000, 257)] {
            let (body, read) = endless(kilobytes);
            let (body, unread) = Unread::of(body);
            drop(body);
            unread.unwrap().drop_rest().await;
            assert_eq!(*read.lock().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn what_is_wanted_elsewhere_is_left() {
        let (body, read) = endless(1);
        let (body, unread) = Unread::of(body);
        unread.unwrap().drop_rest().await;
        assert_eq!(*read.lock().unwrap(), 0);
        let first = body.into_data_stream().next().await.unwrap().unwrap();
        assert_eq!(first.len(), 1024);
    }
}
