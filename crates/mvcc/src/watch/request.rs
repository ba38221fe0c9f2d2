//! Create requests: what is checked before a watcher exists, in etcd's order.

use std::borrow::Cow;

use bytes::Bytes;
use proto::etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType};

use crate::KeyRange;

/// Why a watcher is refused, in the words that etcd puts in `cancel_reason`.
///
/// Refusals by permission are the server's: it gives their text to [`crate::watch::Hub::refuse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `start_revision` is negative (3.5.24 and later).
    #[error("etcdserver: mvcc: required revision has been compacted")]
    NegativeRevision,
    /// The range has its end at or before its start.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The stream has a watcher of this id.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

impl From<Refusal> for Cow<'static, str> {
    fn from(refusal: Refusal) -> Self {
        Cow::Owned(refusal.to_string())
    }
}

/// A create request, understood.
///
/// Order of use: [`WatchSpec::new`]; the caller checks that [`WatchSpec::range`] may be read (with its end as given:
/// a single key is a single key); then [`crate::watch::Hub::create`], which checks range and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSpec {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) start_revision: i64,
    pub(super) watch_id: i64,
    pub(super) wants_progress: bool,
    pub(super) wants_previous: bool,
    pub(super) may_fragment: bool,
    pub(super) drops_puts: bool,
    pub(super) drops_deletes: bool,
}

impl WatchSpec {
    /// Understands a request. An empty key is the key of one zero byte; unknown filters are ignored.
    ///
    /// # Errors
    /// A negative start revision.
    pub fn new(request: &WatchCreateRequest) -> Result<Self, Refusal> {
        if request.start_revision < 0 {
            return Err(Refusal::NegativeRevision);
        }
        let key: &[u8] = if request.key.is_empty() { &[0] } else { &request.key };
        let has_filter = |filter: FilterType| request.filters.contains(&i32::from(filter));
        Ok(WatchSpec {
            // Copies: a watcher lives long, and must not keep the buffer alive that its request came in.
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(&request.range_end),
            start_revision: request.start_revision,
            watch_id: request.watch_id,
            wants_progress: request.progress_notify,
            wants_previous: request.prev_kv,
            may_fragment: request.fragment,
            drops_puts: has_filter(FilterType::Noput),
            drops_deletes: has_filter(FilterType::Nodelete),
        })
    }

    /// The keys that are watched; what has to be readable.
    #[must_use]
    pub fn range(&self) -> KeyRange<'_> {
        KeyRange::new(&self.key, &self.range_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_key_is_the_lowest_key() {
        let spec = WatchSpec::new(&WatchCreateRequest::default()).unwrap();
        assert_eq!(spec.range(), KeyRange::Single(b"\0"));
        let all = WatchCreateRequest { range_end: "\0".into(), ..Default::default() };
        assert_eq!(WatchSpec::new(&all).unwrap().range(), KeyRange::From(b"\0"));
    }

    #[test]
    fn filters_and_revisions() {
        let request =
            WatchCreateRequest { key: "k".into(), filters: vec![1, 7], ..Default::default() };
        let spec = WatchSpec::new(&request).unwrap();
        assert!(spec.drops_deletes && !spec.drops_puts);
        let negative = WatchCreateRequest { start_revision: -1, ..request };
        assert_eq!(WatchSpec::new(&negative), Err(Refusal::NegativeRevision));
    }

    #[test]
    fn reasons_are_etcds() {
        assert_eq!(Refusal::EmptyRange.to_string(), "mvcc: watcher range is empty");
        assert_eq!(
            Refusal::DuplicateId.to_string(),
            "mvcc: duplicate watch ID provided on the WatchStream"
        );
    }
}
