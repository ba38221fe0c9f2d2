//! Bodies that are handed to their connection in pieces.
//!
//! A connection's window is given out in the order in which streams ask, and each is given all it asks for. An answer of five
//! megabytes that is handed over in one piece asks for five megabytes, and an event for a watcher on the same connection, a few
//! bytes, waits until that many are through; behind ten such answers, for all of them. In pieces, everybody asks for little
//! and often, and what is small is soon through. The answer's bytes are shared, not copied.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Most bytes of a piece: a few of the largest frames that clients take if they do not ask for more.
const PIECE_BYTES: usize = 64 * 1024;

/// A body whose data comes in pieces of at most [`PIECE_BYTES`].
#[derive(Debug)]
pub(crate) struct Pieces {
    body: Body,
    /// Of the data that came last, what has not been handed on.
    rest: Bytes,
}

impl Pieces {
    pub(crate) fn of(body: Body) -> Self {
        Self { body, rest: Bytes::new() }
    }

    /// The next piece of `self.rest`.
    fn piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(PIECE_BYTES);
        Frame::data(self.rest.split_to(bytes))
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            other => return Poll::Ready(other),
        };
        let large = |data: &Bytes| data.len() > PIECE_BYTES;
        if !frame.data_ref().is_some_and(large) {
            return Poll::Ready(Some(Ok(frame)));
        }
        self.rest = frame.into_data().unwrap_or_default();
        Poll::Ready(Some(Ok(self.piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::HeaderMap;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test]
    async fn data_comes_in_pieces_and_trailers_behind_it() {
        let data =
            (0..PIECE_BYTES * 2 + 1).map(|at| u8::try_from(at % 251).unwrap()).collect::<Bytes>();
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, "0".parse().unwrap());
        let small = Bytes::from_static(b"small");
        let frames = [
            Frame::data(small.clone()),
            Frame::data(data.clone()),
            Frame::trailers(trailers.clone()),
        ];
        let frames = tokio_stream::iter(frames.map(Ok::<_, Infallible>));
        let mut pieces = Pieces::of(Body::new(StreamBody::new(frames)));

        let mut lengths = Vec::new();
        let mut received = Vec::new();
        let mut last = None;
        while let Some(frame) = pieces.frame().await {
            assert!(last.is_none(), "nothing follows the trailers");
            match frame.unwrap().into_data() {
                Ok(piece) => {
                    lengths.push(piece.len());
                    received.extend_from_slice(&piece);
                }
                Err(frame) => last = frame.into_trailers().ok(),
            }
        }
        assert_eq!(lengths, [small.len(), PIECE_BYTES, PIECE_BYTES, 1]);
        assert_eq!(received, [small, data].concat());
        assert_eq!(last, Some(trailers));
    }

    #[tokio::test]
    async fn the_end_is_not_told_before_the_last_piece() {
        let data = Bytes::from(vec![1; PIECE_BYTES + 7]);
        let mut pieces = Pieces::of(Body::new(http_body_util::Full::new(data)));
        assert_eq!(pieces.size_hint().exact(), Some(PIECE_BYTES as u64 + 7));
        let first = pieces.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), PIECE_BYTES);
        assert!(!pieces.is_end_stream());
        assert_eq!(pieces.size_hint().exact(), Some(7));
        let second = pieces.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(second.len(), 7);
        assert!(pieces.is_end_stream());
        assert!(pieces.frame().await.is_none());
    }
}
