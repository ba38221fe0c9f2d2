//! RangeStream (3.7): a range in messages of about the size of a request, read as the client takes them.
//!
//! All pages are of one revision: that of the request, or the newest one when the first page is read. Header, count and `more` come
//! with the last page.
//!
//! A sort target without an order sorts each page: an answer of one page is what `Range` gives.
//!
//! A client that wants a leader gets no further page once there was none for some time.
//!
//! Upstream: `RangeStream` in `server/etcdserver/v3_server.go` (3.7). Differs: after a page sorted otherwise than by key, the next
//! one begins behind the greatest key of it, where etcd goes on after the one that happens to be last. And pages of keys alone end with
//! the leader as well, where etcd looks only while it reads values.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use otlp::Span;
use prost::encoding::{encode_key, encode_varint};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeStreamResponse};
use rpc::errors::Error;
use rpc::raw::Reply;
use tokio_stream::Stream;
use tonic::Status;

use super::limits::LeaderGuard;
use super::status;
use crate::access::{Credentials, Identity};
use crate::request::Core;
use crate::traces;

/// Keys of the first page, before it is known how large they are.
const FIRST_KEYS: i64 = 10;

/// `RangeStreamResponse.range_response`.
const RANGE_RESPONSE: u32 = 1;

/// Whether the version that is stood for has the call.
pub(super) fn is_known(core: &Core) -> Result<(), Status> {
    match core.version.minor {
        7.. => Ok(()),
        _ => Err(Status::unimplemented("unknown method RangeStream for service etcdserverpb.KV")),
    }
}

/// Begins an answer, of which `guard` says until when it may go on; it may always without one.
pub(super) async fn start(
    core: &Arc<Core>,
    credentials: &Credentials,
    request: RangeRequest,
    mut guard: Option<LeaderGuard>,
) -> Result<Pages, Status> {
    mvcc::check::range(&request, mvcc::Rules::of_minor(core.version.minor))
        .map_err(|error| Status::from(status::of_check(&error)))?;
    let is_by_key = request.sort_target() == SortTarget::Key;
    match request.sort_order() {
        SortOrder::None => {}
        SortOrder::Ascend if is_by_key => {}
        SortOrder::Ascend | SortOrder::Descend => {
            return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
        }
    }
    let is_filtered = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(|&bound| bound != 0);
    if is_filtered {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    let span = traces::range_stream(credentials, &request);
    if !request.serializable {
        let linearizable =
            async { core.linearizable().await.map_err(|refusal| status::of(&refusal)) };
        match &mut guard {
            Some(guard) => tokio::select! {
                read_index = linearizable => read_index?,
                () = guard => return Err(Status::unknown(no_leader_told())),
            },
            None => linearizable.await?,
        }
    }
    let identity = core.identify(credentials).await.map_err(status::of_auth)?;
    let pages = Pages::new(core, identity.as_ref(), request).map_err(status::of_auth)?;
    Ok(Pages { guard, _span: span, ..pages })
}

/// The status for the want of a leader as the text that etcd makes of it here, which does not know it as one of its own errors.
fn no_leader_told() -> String {
    format!("rpc error: code = Unavailable desc = {}", Error::NoLeader.message())
}

/// The messages of one answer. A page is read when it is asked for, which takes about as long as any other request.
#[derive(Debug)]
pub(crate) struct Pages {
    core: Arc<Core>,
    /// The revision of the rights by which somebody reads; `None` where nobody asks.
    rights_at: Option<u64>,
    /// What is still to be read, by key; at a fixed revision from the second page on.
    rest: RangeRequest,
    /// What each page is sorted by.
    sort_target: SortTarget,
    /// Pairs that the client still wants; `None` for all.
    wanted: Option<i64>,
    /// Most pairs of the next page.
    page_keys: i64,
    sent: i64,
    /// The store's revision when the first page was read.
    first_seen: Option<i64>,
    is_over: bool,
    /// Of a client that wants a leader.
    guard: Option<LeaderGuard>,
    /// Ends with the answer.
    _span: Span,
}

impl Pages {
    fn new(
        core: &Arc<Core>,
        identity: Option<&Identity>,
        request: RangeRequest,
    ) -> Result<Self, auth::Error> {
        let mut rights_at = None;
        if core.access.is_enabled() {
            let rights = core.access.rights();
            rights.check_read(Identity::caller(identity), &request.key, &request.range_end)?;
            rights_at = Some(rights.revision());
        }
        let wanted = (request.limit > 0).then_some(request.limit);
        let sort_target = request.sort_target();
        let rest = RangeRequest { sort_target: SortTarget::Key.into(), ..request };
        Ok(Self {
            core: Arc::clone(core),
            rights_at,
            rest,
            sort_target,
            wanted,
            page_keys: FIRST_KEYS,
            sent: 0,
            first_seen: None,
            is_over: false,
            guard: None,
            _span: Span::NONE,
        })
    }

    /// Reads the next page.
    fn page(&mut self) -> Result<Bytes, Status> {
        let page = self.read_page().map_err(|error| status::of_read(&error))?;
        // Not with rights that were gone by the end.
        if let Some(revision) = self.rights_at
            && self.core.access.rights().revision() != revision
        {
            return Err(status::of_auth(auth::Error::AuthOldRevision));
        }
        Ok(page)
    }

    fn read_page(&mut self) -> Result<Bytes, mvcc::Error> {
        self.rest.limit = self.wanted.map_or(self.page_keys, |wanted| wanted.min(self.page_keys));
        let core = Arc::clone(&self.core);
        let store = &core.store;
        let page = if self.rest.count_only {
            store.range(&self.rest)?
        } else {
            store.range_page(&self.rest)?
        };
        let first_seen = *self.first_seen.get_or_insert(page.revision);
        if self.rest.revision <= 0 {
            self.rest.revision = first_seen;
        }
        let keys = i64::try_from(page.kvs.len()).unwrap_or(i64::MAX);
        self.sent += keys;
        if let Some(wanted) = &mut self.wanted {
            *wanted -= keys;
        }
        let more = page.more;
        self.is_over = self.rest.count_only || !more || self.wanted == Some(0);
        let page = self.sort(page)?;
        if !self.is_over {
            let kvs = page.kvs.into_encoded();
            self.resize(kvs.len());
            return Ok(kvs);
        }
        let count = if self.rest.count_only {
            page.count
        } else if more {
            // Only now, so that the keys behind the limit are counted once.
            let behind = RangeRequest { count_only: true, ..self.rest.clone() };
            self.sent + store.range(&behind)?.count
        } else {
            self.sent
        };
        let page = mvcc::EncodedRange { count, ..page };
        Ok(page.encode(&core.header(first_seen)))
    }

    /// Lets the next page begin behind this one, and sorts this one, if that is asked for, by reading it once more.
    fn sort(&mut self, page: mvcc::EncodedRange) -> Result<mvcc::EncodedRange, mvcc::Error> {
        let key = self.rest.key.clone();
        if page.more {
            self.go_on_after(&page.kvs);
        }
        if self.sort_target == SortTarget::Key || page.kvs.is_empty() {
            return Ok(page);
        }
        let sort_target = self.sort_target.into();
        let mut again = RangeRequest { key, sort_target, ..self.rest.clone() };
        let is_first = usize::try_from(self.sent) == Ok(page.kvs.len());
        // One page alone is sorted before the limit cuts it, as in `Range`; one of several is these keys and no other.
        if !(is_first && self.is_over) {
            again.limit = 0;
            if page.more {
                again.range_end = self.rest.key.clone();
            }
        }
        let kvs = self.core.store.range_page(&again)?.kvs;
        Ok(mvcc::EncodedRange { kvs, ..page })
    }

    /// Lets the next page begin behind the last key of this one.
    fn go_on_after(&mut self, kvs: &mvcc::KeyValues) {
        // There is one, since there is more behind it; without it, the stream would end here.
        match kvs.last_key() {
            Some(key) => self.rest.key = Bytes::from([key, &[0]].concat()),
            None => self.is_over = true,
        }
    }

    /// Doubles or halves the page for it to be of about the size of the largest request.
    fn resize(&mut self, bytes: usize) {
        let aim = self.core.config.max_request_bytes;
        let bytes = bytes as u64;
        if bytes < aim / 2 {
            self.page_keys = self.page_keys.saturating_mul(2);
        } else if bytes > aim.saturating_mul(2) {
            self.page_keys = (self.page_keys / 2).max(1);
        }
    }
}

impl Stream for Pages {
    type Item = Result<Reply<RangeStreamResponse>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(guard) = &mut self.guard
            && Pin::new(guard).poll(context).is_ready()
        {
            self.is_over = true;
            let told = format!("rangeKeys: context cancelled: {}", no_leader_told());
            return Poll::Ready(Some(Err(Status::unknown(told))));
        }
        Poll::Ready(Some(match self.page() {
            Ok(page) => {
                let mut head = Vec::new();
                encode_key(RANGE_RESPONSE, prost::encoding::WireType::LengthDelimited, &mut head);
                encode_varint(page.len() as u64, &mut head);
                Ok(Reply::Encoded(vec![Bytes::from(head), page]))
            }
            Err(error) => {
                self.is_over = true;
                Err(error)
            }
        }))
    }
}

#[cfg(test)]
mod tests;
