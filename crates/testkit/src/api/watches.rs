//! Several watches on one stream, from their creation to their cancellation.
//!
//! What they see is the same on equal servers, whenever it arrives: keys in their ranges are written once they are there, and a watch is
//! read up to its last event of these writes.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::mvccpb::Event;
use proto::mvccpb::event::EventType;

use super::{Api, Refusal};

/// How long an answer may take that is certain to come.
const DUE: Duration = Duration::from_secs(20);
/// Pause before progress is asked for again: a server says nothing while one of the stream's watches is behind.
const PROGRESS_RETRY: Duration = Duration::from_millis(50);
/// Each key is put and deleted so many times: a watch may begin as many revisions after the present one as that makes.
const ROUNDS: usize = 2;

/// What became of all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// Of the last write.
    pub header: Option<pb::ResponseHeader>,
    /// In the order of the requests.
    pub watches: Vec<Seen>,
    /// How far they all were at the end; `None` if none was left to ask for, or some began elsewhere than in the present.
    pub progress: Option<i64>,
}

/// What one watch was told, without headers.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// That it is there, or why not.
    pub created: pb::WatchResponse,
    /// In the order of arrival, however they were gathered in messages.
    pub events: Vec<Event>,
    /// That it has ended: as it was asked to, or for another reason.
    pub cancelled: Option<pb::WatchResponse>,
}

/// A write of a key that watches look at.
#[derive(Debug)]
struct Write {
    key: Bytes,
    kind: EventType,
    revision: i64,
}

/// Creates the watches, writes the first key of each, reads the events, asks for progress, cancels.
pub(super) async fn call(
    api: &Api,
    requests: Vec<pb::WatchCreateRequest>,
) -> Result<Watched, Refusal> {
    let count = requests.len();
    let mut creations = requests.iter().cloned();
    let Some(first) = creations.next() else { return Err(unfinished("no watch to create")) };
    let (sender, answers) = api.open_watch(first).await?;
    let mut stream = Stream { answers, watches: Vec::new(), progress: None };
    for create in creations {
        send(&sender, RequestUnion::CreateRequest(create)).await?;
    }
    due("created", stream.read_until(|stream| stream.watches.len() == count)).await?;
    let (writes, header) = write(api, &requests).await?;
    let is_seen = |stream: &Stream| {
        stream.watches.iter().zip(&requests).all(|(seen, request)| seen.has_all(request, &writes))
    };
    due("told everything", stream.read_until(is_seen)).await?;

    let live: Vec<i64> = stream.watches.iter().filter_map(Seen::live_id).collect();
    // One that began in the past may count as behind for good in real etcd 3.6, and then nothing is said.
    let is_present = requests.iter().all(|request| request.start_revision == 0);
    if is_present && !live.is_empty() {
        // A server may tell of a write before its watches have come that far.
        let written = header.as_ref().map(|header| header.revision);
        let asking = async {
            loop {
                send(&sender, RequestUnion::ProgressRequest(pb::WatchProgressRequest {})).await?;
                let told = stream.read_until(|stream| stream.progress >= written);
                if let Ok(told) = tokio::time::timeout(PROGRESS_RETRY, told).await {
                    return told;
                }
            }
        };
        due("told of progress", asking).await?;
    }
    // One that is not there does nothing.
    for watch_id in [77].into_iter().chain(live) {
        send(&sender, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id })).await?;
    }
    let is_over = |stream: &Stream| stream.watches.iter().all(|seen| seen.live_id().is_none());
    due("cancelled", stream.read_until(is_over)).await?;
    Ok(Watched { header, watches: stream.watches, progress: stream.progress })
}

/// The answers, and what they have told.
#[derive(Debug)]
struct Stream {
    answers: tonic::Streaming<pb::WatchResponse>,
    watches: Vec<Seen>,
    progress: Option<i64>,
}

impl Stream {
    /// May be dropped while it waits: a message is taken in as soon as it is there.
    async fn read_until(&mut self, is_enough: impl Fn(&Self) -> bool) -> Result<(), Refusal> {
        while !is_enough(self) {
            match self.answers.message().await? {
                Some(message) => self.take(message)?,
                None => return Err(unfinished("the stream has ended")),
            }
        }
        Ok(())
    }

    fn take(&mut self, mut message: pb::WatchResponse) -> Result<(), Refusal> {
        let header = message.header.take();
        if message.created {
            let seen = Seen { created: message, events: Vec::new(), cancelled: None };
            self.watches.push(seen);
            return Ok(());
        }
        if message.watch_id == -1 && !message.canceled {
            let revision = header.map(|header| header.revision);
            self.progress = self.progress.max(revision);
            return Ok(());
        }
        let watch = self.watches.iter_mut().find(|seen| seen.live_id() == Some(message.watch_id));
        let Some(watch) = watch else {
            return Err(unfinished(&format!("a message for nobody: {message:?}")));
        };
        watch.events.append(&mut message.events);
        if message.canceled {
            watch.cancelled = Some(message);
        }
        Ok(())
    }
}

impl Seen {
    fn live_id(&self) -> Option<i64> {
        let is_live = !self.created.canceled && self.cancelled.is_none();
        is_live.then_some(self.created.watch_id)
    }

    /// Whether nothing more will come of these writes.
    fn has_all(&self, request: &pb::WatchCreateRequest, writes: &[Write]) -> bool {
        let is_left_out = |kind| match kind {
            EventType::Put => request.filters().any(|filter| filter == FilterType::Noput),
            EventType::Delete => request.filters().any(|filter| filter == FilterType::Nodelete),
        };
        let last = writes.iter().rfind(|write| {
            is_in_range(&write.key, request)
                && !is_left_out(write.kind)
                && write.revision >= request.start_revision
        });
        let seen = self.events.last().and_then(|event| event.kv.as_ref());
        self.live_id().is_none()
            || last.is_none_or(|last| seen.is_some_and(|kv| kv.mod_revision >= last.revision))
    }
}

fn is_in_range(key: &[u8], request: &pb::WatchCreateRequest) -> bool {
    let first = first_key(request);
    match request.range_end.as_ref() {
        [] => key == first,
        [0] => key >= first.as_ref(),
        end => key >= first.as_ref() && key < end,
    }
}

/// The least key that a watch can see.
fn first_key(request: &pb::WatchCreateRequest) -> Bytes {
    if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() }
}

/// Puts and deletes the first key of each watch.
async fn write(
    api: &Api,
    requests: &[pb::WatchCreateRequest],
) -> Result<(Vec<Write>, Option<pb::ResponseHeader>), Refusal> {
    let (mut writes, mut last) = (Vec::new(), None);
    for key in std::iter::repeat_n(requests, ROUNDS).flatten().map(first_key) {
        let put = pb::PutRequest { key: key.clone(), value: "seen".into(), ..Default::default() };
        let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
        let put = api.put(put).await?;
        let deleted = api.kv.clone().delete_range(api.asked(delete)).await?.into_inner();
        for (kind, header) in [(EventType::Put, put.header), (EventType::Delete, deleted.header)] {
            let revision = header.as_ref().map_or(0, |header| header.revision);
            writes.push(Write { key: key.clone(), kind, revision });
            last = header;
        }
    }
    Ok((writes, last))
}

async fn send(
    sender: &tokio::sync::mpsc::Sender<pb::WatchRequest>,
    union: RequestUnion,
) -> Result<(), Refusal> {
    let request = pb::WatchRequest { request_union: Some(union) };
    sender.send(request).await.map_err(|_| unfinished("the stream takes no requests"))
}

async fn due<T>(
    what: &str,
    answer: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::time::timeout(DUE, answer)
        .await
        .unwrap_or_else(|_| Err(unfinished(&format!("not all are {what} after {DUE:?}"))))
}

/// No answer of the server's, and so nothing to compare.
fn unfinished(why: &str) -> Refusal {
    Refusal { code: tonic::Code::Unavailable, message: format!("watches: {why}") }
}
