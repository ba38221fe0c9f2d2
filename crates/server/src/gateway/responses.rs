//! From a stream's answers to lines of JSON.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use prost_reflect::MessageDescriptor;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::requests::Rest;
use super::{Dialect, errors, messages, too_late};

/// A line for each answer: `{"result":...}`, and `{"error":...}` as the last one when the stream fails.
pub(super) struct Lines {
    /// The first answer, which was waited for.
    first: Option<Bytes>,
    /// `None` after a failure.
    answers: Option<Streaming<Bytes>>,
    descriptor: MessageDescriptor,
    dialect: Dialect,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Of the request's body, so that the client's leaving is seen.
    rest: Rest,
    /// The stream's place among those that may be under way.
    _vacancy: OwnedSemaphorePermit,
}

impl Lines {
    /// The lines of a stream whose first answer is known.
    pub(super) fn new(
        first: Bytes,
        answers: Streaming<Bytes>,
        (descriptor, dialect): (MessageDescriptor, Dialect),
        deadline: Option<Instant>,
        vacancy: OwnedSemaphorePermit,
        rest: Rest,
    ) -> Self {
        Self {
            first: Some(first),
            answers: Some(answers),
            descriptor,
            dialect,
            deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))),
            rest,
            _vacancy: vacancy,
        }
    }

    fn line(&self, answer: Bytes) -> Result<Bytes, Status> {
        let mut line = Vec::with_capacity(2 * answer.len() + 16);
        line.extend_from_slice(br#"{"result":"#);
        messages::write_json(&self.descriptor, answer, &mut line)?;
        line.extend_from_slice(b"}\n");
        Ok(line.into())
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(self.line(first)));
        }
        let Some(answers) = &mut self.answers else { return Poll::Ready(None) };
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Some(Err(too_late())));
        }
        // It is never ready.
        let Poll::Pending = self.rest.as_mut().poll(context);
        let answer = ready!(Pin::new(answers).poll_next(context));
        Poll::Ready(answer.map(|answer| self.line(answer?)))
    }
}

impl Stream for Lines {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let line = match ready!(self.next(context)) {
            Some(Ok(line)) => Some(line),
            Some(Err(status)) => {
                self.answers = None;
                Some(errors::line(self.dialect, &status).into())
            }
            None => None,
        };
        Poll::Ready(line.map(Ok))
    }
}
