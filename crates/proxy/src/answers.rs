//! Answers on their way to one client's stream, which may be ended before its time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

/// Ends with the last sender of answers, or with a status.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    queue: mpsc::Receiver<T>,
    ended: mpsc::Receiver<Status>,
    is_over: bool,
}

/// A queue of so many answers: its way in, the way to end it, and its way out.
pub(crate) fn answers<T>(most: usize) -> (mpsc::Sender<T>, mpsc::Sender<Status>, Answers<T>) {
    let (sender, queue) = mpsc::channel(most);
    // One reason is enough; others are dropped.
    let (end, ended) = mpsc::channel(1);
    (sender, end, Answers { queue, ended, is_over: false })
}

impl<T> Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Some(status)) = self.ended.poll_recv(context) {
            self.is_over = true;
            // Tells the senders that nobody listens.
            self.queue.close();
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(ready!(self.queue.poll_recv(context)).map(Ok))
    }
}
