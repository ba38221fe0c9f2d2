//! One watcher of a client: what it has seen, what it wants to see, and its way to the client.

use prost::Message as _;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use proto::mvccpb::{Event, event::EventType};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::Status;

use super::SLOW_LIMIT;

/// Responses above this are cut into fragments for those who ask for it: a member's default limit for requests and what comes around one.
const FRAGMENT_BYTES: usize = 2 << 20;

/// See the module.
#[derive(Debug)]
pub(super) struct Watcher {
    /// Tells it apart from all others of the proxy.
    pub(super) number: u64,
    /// Its id on the client's stream.
    pub(super) watch_id: i64,
    /// The revision that it was asked to begin with; 0 for the present.
    pub(super) start_revision: i64,
    /// First revision that it is to see.
    pub(super) next_revision: i64,
    /// A revision that its range had been read at before it came.
    pub(super) known_revision: i64,
    wants_puts: bool,
    wants_deletes: bool,
    wants_previous: bool,
    wants_progress: bool,
    wants_fragments: bool,
    /// Of the last response.
    pub(super) header: ResponseHeader,
    queue: mpsc::Sender<WatchResponse>,
    /// Ends the client's stream.
    end: mpsc::Sender<Status>,
    /// Told when the client has been told that the watcher is there, or is not.
    created: Option<oneshot::Sender<()>>,
}

impl Watcher {
    pub(super) fn new(
        (number, watch_id): (u64, i64),
        request: &WatchCreateRequest,
        header: ResponseHeader,
        (queue, end): (mpsc::Sender<WatchResponse>, mpsc::Sender<Status>),
        created: oneshot::Sender<()>,
    ) -> Self {
        let filters = |filter: FilterType| request.filters.contains(&filter.into());
        // The present begins behind what the client may have seen already.
        let next_revision = match request.start_revision {
            0 => header.revision.saturating_add(1),
            revision => revision,
        };
        Self {
            number,
            watch_id,
            start_revision: request.start_revision,
            next_revision,
            known_revision: header.revision,
            wants_puts: !filters(FilterType::Noput),
            wants_deletes: !filters(FilterType::Nodelete),
            wants_previous: request.prev_kv,
            wants_progress: request.progress_notify,
            wants_fragments: request.fragment,
            header,
            queue,
            end,
            created: Some(created),
        }
    }

    /// Confirms the watcher to its client. `position` is what its watch has been served up to.
    pub(super) async fn confirm(&mut self, header: &ResponseHeader, position: i64) -> bool {
        if self.start_revision == 0 {
            self.next_revision = self.next_revision.max(position.saturating_add(1));
        }
        // A watch of the present begins behind the revision of this header: clients resume from there.
        let revision = match self.start_revision {
            0 => self.next_revision - 1,
            _ => position.max(self.known_revision),
        };
        self.header = ResponseHeader { revision, ..*header };
        let response = WatchResponse { created: true, ..self.empty() };
        let created = self.created.take();
        let is_here = self.post(response).await;
        if let Some(created) = created.filter(|_| is_here) {
            // Its session may be ending.
            let _ = created.send(());
        }
        is_here
    }

    /// Tells the client that it has no watcher, or has it no longer.
    pub(super) async fn cancel(&mut self, reason: &str, compact_revision: i64) {
        // A refusal is the answer to its creation too, and has no id of its own.
        let created = self.created.take();
        let watch_id = if created.is_some() { -1 } else { self.watch_id };
        let response = WatchResponse {
            watch_id,
            created: created.is_some(),
            canceled: true,
            cancel_reason: reason.to_owned(),
            compact_revision,
            ..self.empty()
        };
        if self.post(response).await
            && let Some(created) = created
        {
            let _ = created.send(());
        }
    }

    /// Passes on that all has been seen up to a revision.
    pub(super) async fn progress(&mut self, header: &ResponseHeader) -> bool {
        // The watch that it listens to may be behind the one that it came from.
        if header.revision < self.next_revision - 1 {
            return !self.queue.is_closed();
        }
        self.next_revision = header.revision.saturating_add(1);
        self.header = *header;
        if !self.wants_progress {
            return !self.queue.is_closed();
        }
        let response = self.empty();
        self.post(response).await
    }

    /// Passes on the events that it has not seen and wants. Says whether the client is there still.
    pub(super) async fn events(&mut self, header: &ResponseHeader, events: &[Event]) -> bool {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
        let next_revision = self.next_revision;
        let wanted: Vec<Event> = events
            .iter()
            .filter(|event| revision(event) >= next_revision && self.wants(event))
            .map(|event| {
                let mut event = event.clone();
                if !self.wants_previous {
                    event.prev_kv = None;
                }
                event
            })
            .collect();
        if let Some(last) = events.last() {
            self.next_revision = next_revision.max(revision(last).saturating_add(1));
        }
        if wanted.is_empty() {
            return !self.queue.is_closed();
        }
        self.header = *header;
        for (events, is_last) in self.fragments(wanted) {
            let response = WatchResponse { events, fragment: !is_last, ..self.empty() };
            if !self.post(response).await {
                return false;
            }
        }
        true
    }

    fn wants(&self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => self.wants_puts,
            EventType::Delete => self.wants_deletes,
        }
    }

    fn fragments(&self, events: Vec<Event>) -> Vec<(Vec<Event>, bool)> {
        let mut parts = vec![Vec::new()];
        let mut size_bytes = 0;
        for event in events {
            let event_bytes = event.encoded_len();
            if self.wants_fragments && size_bytes > 0 && size_bytes + event_bytes > FRAGMENT_BYTES {
                parts.push(Vec::new());
                size_bytes = 0;
            }
            size_bytes += event_bytes;
            if let Some(part) = parts.last_mut() {
                part.push(event);
            }
        }
        let count = parts.len();
        parts.into_iter().enumerate().map(|(at, part)| (part, at + 1 == count)).collect()
    }

    fn empty(&self) -> WatchResponse {
        WatchResponse {
            header: Some(self.header),
            watch_id: self.watch_id,
            ..WatchResponse::default()
        }
    }

    async fn post(&mut self, response: WatchResponse) -> bool {
        match timeout(SLOW_LIMIT, self.queue.send(response)).await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => false,
            Err(_) => {
                tracing::error!(
                    watch_id = self.watch_id,
                    "a client does not take its watch responses; its stream is ended"
                );
                // One reason is enough.
                let _ = self.end.try_send(Status::cancelled("context canceled"));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::mvccpb::KeyValue;

    use super::*;

    fn event(revision: i64, kind: EventType) -> Event {
        let pair = KeyValue { mod_revision: revision, ..KeyValue::default() };
        let previous = KeyValue { mod_revision: revision - 1, ..KeyValue::default() };
        Event { r#type: kind.into(), kv: Some(pair), prev_kv: Some(previous) }
    }

    fn header(revision: i64) -> ResponseHeader {
        ResponseHeader { revision, ..ResponseHeader::default() }
    }

    /// A watcher that came when the revision was 10, and what its client receives.
    fn watcher(request: &WatchCreateRequest) -> (Watcher, mpsc::Receiver<WatchResponse>) {
        let (queue, responses) = mpsc::channel(8);
        let (end, _) = mpsc::channel(1);
        let (created, _) = oneshot::channel();
        (Watcher::new((1, 0), request, header(10), (queue, end), created), responses)
    }

    #[tokio::test]
    async fn what_was_seen_or_is_not_wanted_is_left_out() {
        let request = WatchCreateRequest {
            filters: vec![FilterType::Nodelete.into()],
            ..WatchCreateRequest::default()
        };
        let (mut watcher, mut responses) = watcher(&request);
        // Its watch is a little ahead of what the client's read saw.
        assert!(watcher.confirm(&header(12), 12).await);
        let created = responses.recv().await.unwrap();
        assert!(created.created && created.header == Some(header(12)));
        let events = [
            event(12, EventType::Put),
            event(13, EventType::Put),
            event(13, EventType::Put),
            event(14, EventType::Delete),
        ];
        assert!(watcher.events(&header(14), &events).await);
        let response = responses.recv().await.unwrap();
        let revisions: Vec<_> =
            response.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision).collect();
        assert_eq!(revisions, [13, 13]);
        assert!(response.events.iter().all(|event| event.prev_kv.is_none()));
        // The same again, from another watch that is behind.
        assert!(watcher.events(&header(14), &events).await);
        assert!(responses.try_recv().is_err());
    }

    #[tokio::test]
    async fn progress_never_goes_back() {
        let request = WatchCreateRequest { progress_notify: true, ..WatchCreateRequest::default() };
        let (mut watcher, mut responses) = watcher(&request);
        assert!(watcher.progress(&header(9)).await);
        assert!(responses.try_recv().is_err());
        assert!(watcher.progress(&header(11)).await);
        assert_eq!(responses.recv().await.unwrap().header, Some(header(11)));
        assert!(watcher.progress(&header(10)).await);
        assert!(responses.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_refusal_answers_the_creation() {
        let (mut refused, mut responses) = watcher(&WatchCreateRequest::default());
        refused.cancel("no", 7).await;
        let response = responses.recv().await.unwrap();
        assert!(response.created && response.canceled && response.watch_id == -1);
        assert_eq!((response.cancel_reason.as_str(), response.compact_revision), ("no", 7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_loses_its_stream() {
        let (queue, _responses) = mpsc::channel(1);
        let (end, mut ended) = mpsc::channel(1);
        let (created, _) = oneshot::channel();
        let request = WatchCreateRequest::default();
        let mut watcher = Watcher::new((1, 0), &request, header(10), (queue, end), created);
        assert!(watcher.events(&header(11), &[event(11, EventType::Put)]).await);
        assert!(!watcher.events(&header(12), &[event(12, EventType::Put)]).await);
        assert!(ended.recv().await.is_some());
    }

    #[tokio::test]
    async fn large_responses_are_cut_for_those_who_ask() {
        for (fragment, expected) in [(false, 1), (true, 3)] {
            let request = WatchCreateRequest { fragment, ..WatchCreateRequest::default() };
            let (mut watcher, mut responses) = watcher(&request);
            let large = |revision| {
                let mut event = event(revision, EventType::Put);
                if let Some(pair) = &mut event.kv {
                    pair.value = vec![0; FRAGMENT_BYTES - 100].into();
                }
                event
            };
            assert!(watcher.events(&header(13), &[large(11), large(12), large(13)]).await);
            let mut flags = Vec::new();
            while let Ok(response) = responses.try_recv() {
                flags.push(response.fragment);
            }
            assert_eq!(flags.len(), expected);
            assert!(flags.iter().rev().skip(1).all(|more| *more) && flags.last() == Some(&false));
        }
    }
}
