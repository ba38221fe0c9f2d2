//! Requests of this member that are in the log and not yet committed, in the order of the log.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::etcdserverpb::InternalRaftRequest;
use raft::{EntryId, Term};

/// A queue beside the log: pushed as a leader appends, taken as entries commit.
#[derive(Debug, Default)]
pub(crate) struct Proposed {
    queue: VecDeque<(EntryId, Arc<InternalRaftRequest>)>,
}

impl Proposed {
    /// Remembers the request in the entry that was just appended.
    pub(crate) fn push(&mut self, id: EntryId, request: Arc<InternalRaftRequest>) {
        debug_assert!(
            self.queue.back().is_none_or(|(last, _)| last.index < id.index),
            "a leader only appends"
        );
        self.queue.push_back((id, request));
    }

    /// The request in a committed entry, if it is one of these. Entries must be asked for in the order of the log.
    pub(crate) fn take(&mut self, id: EntryId) -> Option<Arc<InternalRaftRequest>> {
        while let Some((first, _)) = self.queue.front() {
            if first.index > id.index {
                return None;
            }
            let (first, request) = self.queue.pop_front()?;
            if first == id {
                return Some(request);
            }
            // Another leader's entry took its place.
        }
        None
    }

    /// Forgets what was proposed in earlier terms than this: this member may lead again, with other entries there.
    ///
    /// Such an entry may still commit; it is decoded then like anybody else's.
    pub(crate) fn forget_before(&mut self, term: Term) {
        self.queue.retain(|(id, _)| id.term >= term);
    }
}

#[cfg(test)]
mod tests {
    use raft::LogIndex;

    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: LogIndex(index) }
    }

    fn request(number: u64) -> Arc<InternalRaftRequest> {
        Arc::new(InternalRaftRequest { id: number, ..InternalRaftRequest::default() })
    }

    #[test]
    fn only_the_very_entry_gives_its_request() {
        let mut proposed = Proposed::default();
        proposed.push(id(2, 5), request(1));
        proposed.push(id(2, 6), request(2));
        assert!(proposed.take(id(2, 4)).is_none());
        assert!(proposed.take(id(3, 5)).is_none(), "another leader's entry at the same place");
        assert_eq!(proposed.take(id(2, 6)).unwrap().id, 2);
        assert!(proposed.take(id(2, 6)).is_none());
    }

    #[test]
    fn an_earlier_term_is_forgotten() {
        let mut proposed = Proposed::default();
        proposed.push(id(2, 5), request(1));
        proposed.forget_before(Term(3));
        assert!(proposed.take(id(2, 5)).is_none());
    }
}
