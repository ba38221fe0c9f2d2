//! From an HTTP body to the messages in it, as they arrive.
//!
//! A connection's end is seen by reading only. So what is left of a body when its messages are not wanted any more goes to
//! [`Rest`], to be read and thrown away while the call is under way: otherwise a client that left in the middle of a body would leave
//! its call, and its descriptor, behind.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use prost_reflect::MessageDescriptor;
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::scan::{Progress, Scanner};
use super::{Dialect, messages};

/// Reads what is left of a body, once it is left, for as long as it is polled. It never ends.
pub(super) type Rest = Pin<Box<dyn Future<Output = Infallible> + Send>>;

/// The encoded messages of a body's JSON values. Ends at the first error.
#[derive(Debug)]
pub(super) struct Requests {
    body: BodyDataStream,
    descriptor: MessageDescriptor,
    dialect: Dialect,
    value_bytes_max: usize,
    /// What has arrived and is not part of a message that was handed out.
    arrived: BytesMut,
    /// As much of `arrived` as `scanner` has seen.
    scanned_bytes: usize,
    scanner: Scanner,
    is_over: bool,
    /// Where the rest of the body goes, until it has gone there.
    rest: Option<oneshot::Sender<BodyDataStream>>,
}

impl Requests {
    pub(super) fn new(
        body: Body,
        descriptor: MessageDescriptor,
        dialect: Dialect,
        value_bytes_max: usize,
    ) -> (Self, Rest) {
        let (rest, left) = oneshot::channel::<BodyDataStream>();
        let requests = Self {
            body: body.into_data_stream(),
            descriptor,
            dialect,
            value_bytes_max,
            arrived: BytesMut::new(),
            scanned_bytes: 0,
            scanner: Scanner::new(),
            is_over: false,
            rest: Some(rest),
        };
        let rest = Box::pin(async move {
            if let Ok(mut body) = left.await {
                while let Some(Ok(_)) = body.next().await {}
            }
            std::future::pending().await
        });
        (requests, rest)
    }

    /// Leaves the rest of the body.
    fn leave(&mut self) {
        if let Some(rest) = self.rest.take() {
            let body = std::mem::replace(&mut self.body, Body::empty().into_data_stream());
            // Nobody waits for it any more: the call has ended.
            let _ = rest.send(body);
        }
    }

    /// Takes the next whole value out of what has arrived.
    fn next_value(&mut self) -> Result<Option<BytesMut>, Status> {
        while let Some(&byte) = self.arrived.get(self.scanned_bytes) {
            match self.scanner.step(byte).map_err(Status::invalid_argument)? {
                Progress::Within => self.scanned_bytes += 1,
                Progress::Complete => {
                    self.scanned_bytes += 1;
                    return Ok(Some(self.take_scanned()));
                }
                Progress::CompleteBefore => return Ok(Some(self.take_scanned())),
            }
        }
        if self.arrived.len() > self.value_bytes_max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({} vs. {})",
                self.arrived.len(),
                self.value_bytes_max
            )));
        }
        Ok(None)
    }

    fn take_scanned(&mut self) -> BytesMut {
        self.scanner = Scanner::new();
        self.arrived.split_to(std::mem::take(&mut self.scanned_bytes))
    }

    /// What is left when the body has ended: a number, which only that could end, or nothing.
    fn last_value(&mut self) -> Result<Option<BytesMut>, Status> {
        let has_value = self.scanner.finish().map_err(Status::invalid_argument)?;
        Ok(has_value.then(|| self.take_scanned()))
    }

    fn next_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            let mut value = self.next_value()?;
            if value.is_none() {
                match ready!(Pin::new(&mut self.body).poll_next(context)) {
                    Some(Ok(data)) => {
                        self.arrived.extend_from_slice(&data);
                        continue;
                    }
                    // Go says so too when the client goes away in the middle.
                    Some(Err(error)) => {
                        return Poll::Ready(Err(Status::invalid_argument(error.to_string())));
                    }
                    None => value = self.last_value()?,
                }
            }
            return Poll::Ready(
                value
                    .map(|json| messages::from_json(self.dialect, &self.descriptor, &json))
                    .transpose(),
            );
        }
    }
}

impl Stream for Requests {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = ready!(self.next_message(context)).transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        if self.is_over {
            self.leave();
        }
        Poll::Ready(next)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.leave();
    }
}
