//! Bodies of requests that must not take long to arrive: a pause between two pieces is limited, and so is the time of all of
//! them for what they bring. Without the second limit, a byte now and then would hold a connection for ever.
//!
//! Only time that the reader waits counts: while a disk is busy with what has come, nobody asks the sender for more.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a body may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Between two pieces, and over all beyond what the rate allows.
    pub(crate) pause: Duration,
    /// The slowest rate. A snapshot that comes slower would never be done, and every other body is small.
    pub(crate) bytes_per_second: u64,
}

/// The body, which fails when it takes too long.
pub(crate) fn timely(body: Body, patience: Patience) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let limit = Box::pin(sleep_until(Instant::now()));
    let waited = Duration::ZERO;
    Body::new(Timely { body, patience, count: 0, waited, waiting_since: None, limit })
}

struct Timely {
    body: Body,
    patience: Patience,
    /// Bytes so far.
    count: u64,
    /// For them.
    waited: Duration,
    /// For the next piece, if the reader wants it.
    waiting_since: Option<Instant>,
    /// Of this wait; without meaning between two.
    limit: Pin<Box<Sleep>>,
}

impl Timely {
    fn poll_limit(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.waiting_since.is_none() {
            let Patience { pause, bytes_per_second } = self.patience;
            let earned = Duration::from_secs(self.count / bytes_per_second.max(1));
            let left = (pause + earned).saturating_sub(self.waited);
            let now = Instant::now();
            self.waiting_since = Some(now);
            self.limit.as_mut().reset(now + pause.min(left));
        }
        self.limit.as_mut().poll(context)
    }
}

impl hyper::body::Body for Timely {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.poll_limit(context).map(|()| {
                Some(Err(axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut))))
            });
        };
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
        let brought = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        self.count += brought.map_or(0, |bytes| bytes.len() as u64);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    type Piece = Result<Frame<Bytes>, std::convert::Infallible>;

    fn body(patience: Patience) -> (mpsc::UnboundedSender<Piece>, Body) {
        let (pieces, arriving) = mpsc::unbounded_channel();
        let body = Body::new(StreamBody::new(UnboundedReceiverStream::new(arriving)));
        (pieces, timely(body, patience))
    }

    #[tokio::test]
    async fn what_arrives_in_time_is_left_as_it_is() {
        let patience = Patience { pause: Duration::from_secs(60), bytes_per_second: 1024 };
        let (pieces, body) = body(patience);
        for piece in [&b"one"[..], b"", b"two"] {
            pieces.send(Ok(Frame::data(Bytes::from_static(piece)))).unwrap();
        }
        drop(pieces);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "onetwo");
        assert!(timely(Body::empty(), patience).is_end_stream());
    }

    #[tokio::test]
    async fn a_body_that_stops_fails() {
        let patience = Patience { pause: Duration::from_millis(20), bytes_per_second: 1024 };
        let (pieces, body) = body(patience);
        pieces.send(Ok(Frame::data(Bytes::from_static(b"one")))).unwrap();
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_takes_its_time_does_not_make_the_body_late() {
        let patience = Patience { pause: Duration::from_millis(200), bytes_per_second: u64::MAX };
        let (pieces, mut body) = body(patience);
        pieces.send(Ok(Frame::data(Bytes::from_static(b"one")))).unwrap();
        assert!(body.frame().await.unwrap().is_ok());
        tokio::time::sleep(patience.pause * 2).await;
        let late = async {
            tokio::task::yield_now().await;
            pieces.send(Ok(Frame::data(Bytes::from_static(b"two")))).unwrap();
        };
        let (frame, ()) = tokio::join!(body.frame(), late);
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "two");
    }

    #[tokio::test]
    async fn a_body_that_trickles_fails() {
        let patience = Patience { pause: Duration::from_millis(100), bytes_per_second: 1024 };
        let (pieces, body) = body(patience);
        let trickle = tokio::spawn(async move {
            // Until nobody reads any more.
            while pieces.send(Ok(Frame::data(Bytes::from_static(b"x")))).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(body.collect().await.is_err());
        trickle.await.unwrap();
    }
}
