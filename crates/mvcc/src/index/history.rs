//! What the index keeps for one key: its generations, each a run of revisions.
//!
//! ```text
//!   put 1.0, put 2.0, delete 3.0, put 4.0, delete 5.0        put 6.0
//!   └──── closed generation ────┘ └ closed generation ┘      └ open generation
//! ```
//!
//! Invariants
//! - revisions strictly increase, within a generation and from one to the next;
//! - a closed generation ends in a tombstone; the open one, if there is one, holds none;
//! - no generation is empty.
//!
//! Upstream: server/mvcc/key_index.go (3.5.30). Differs: the commonest history, one put and nothing else, takes no
//! heap; etcd's empty last generation is `open == None`; see also [`Entry::kept_at`].

use backend::schema::Revision;

/// What was found for a key at a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    /// The revision whose row holds the pair.
    pub(crate) modified: Revision,
    /// Main revision that began the generation.
    pub(crate) created: i64,
    /// Number of puts in the generation up to `modified`.
    pub(crate) version: i64,
}

/// The history of one key. Never empty, except inside [`Entry::compact`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// One put, which created the key. 2^32 changes in one transaction are taken to the other form.
    Fresh { main: i64, sub: u32 },
    /// Anything else.
    History(Box<History>),
}

// One million keys are one million of these.
const _: () = assert!(size_of::<Entry>() == 16);

/// Generations, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct History {
    closed: Vec<Generation>,
    open: Option<Generation>,
}

/// A run of revisions, from the put that created the key to the tombstone that ended it, if it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Generation {
    /// Main revision of the first put, also when compaction has removed it; 0 if unknown.
    created: i64,
    /// Number of changes up to `last`, those removed by compaction included.
    version: i64,
    /// All revisions but the last, in order. Apart from it, since after a compaction this is mostly empty.
    older: Vec<Revision>,
    last: Revision,
}

impl Generation {
    fn begin(revision: Revision) -> Self {
        Generation { created: revision.main, version: 1, older: Vec::new(), last: revision }
    }

    fn push(&mut self, revision: Revision) {
        assert!(revision > self.last, "revision {revision} of a key follows {}", self.last);
        if self.older.len() == self.older.capacity() {
            // The default would reserve four at once; most keys are changed once or twice between compactions.
            self.older.reserve_exact(self.older.len().max(1));
        }
        self.older.push(self.last);
        self.last = revision;
        // Saturating, since a row on disk may claim any version.
        self.version = self.version.saturating_add(1);
    }

    fn first(&self) -> Revision {
        self.older.first().copied().unwrap_or(self.last)
    }

    /// The newest change up to main revision `at`, and how many changes follow it.
    fn newest(&self, at: i64) -> Option<(Revision, usize)> {
        if self.last.main <= at {
            return Some((self.last, 0));
        }
        let upto = self.older.partition_point(|revision| revision.main <= at);
        let newest = *self.older.get(upto.checked_sub(1)?)?;
        Some((newest, self.older.len() + 1 - upto))
    }

    fn find(&self, at: i64) -> Option<Found> {
        let (modified, later) = self.newest(at)?;
        // A generation is shorter than 2^63.
        let version = self.version.saturating_sub(later as i64);
        Some(Found { modified, created: self.created, version })
    }

    /// Forgets what lies before the newest change up to `at`.
    fn trim(&mut self, at: i64) {
        if let Some((_, later)) = self.newest(at) {
            let gone = self.older.len() - later;
            self.older.drain(..gone);
            self.older.shrink_to_fit();
        }
    }
}

impl Entry {
    /// A key that was just created.
    pub(super) fn created(revision: Revision) -> Self {
        match u32::try_from(revision.sub) {
            Ok(sub) => Entry::Fresh { main: revision.main, sub },
            Err(_) => {
                let open = Some(Generation::begin(revision));
                Entry::History(Box::new(History { closed: Vec::new(), open }))
            }
        }
    }

    /// A key whose oldest row left by compaction is a put: the row says when it was created and which version it is.
    pub(super) fn restored(revision: Revision, created: i64, version: i64) -> Self {
        if created == revision.main && version == 1 {
            return Entry::created(revision);
        }
        let open = Some(Generation { created, version, older: Vec::new(), last: revision });
        Entry::History(Box::new(History { closed: Vec::new(), open }))
    }

    /// A key whose oldest row left by compaction is a tombstone. Where the generation began is not known any more.
    pub(super) fn restored_tombstone(revision: Revision) -> Self {
        let closed = vec![Generation { created: 0, version: 1, older: Vec::new(), last: revision }];
        Entry::History(Box::new(History { closed, open: None }))
    }

    /// Turns the entry into the general form.
    fn history_mut(&mut self) -> &mut History {
        if let Entry::Fresh { main, sub } = *self {
            let open = Some(Generation::begin(Revision::new(main, i64::from(sub))));
            *self = Entry::History(Box::new(History { closed: Vec::new(), open }));
        }
        match self {
            Entry::History(history) => history,
            Entry::Fresh { .. } => unreachable!("just replaced"),
        }
    }

    /// Records a put and returns what a reader at that revision finds.
    pub(super) fn put(&mut self, revision: Revision) -> Found {
        let history = self.history_mut();
        match &mut history.open {
            Some(open) => open.push(revision),
            None => history.open = Some(Generation::begin(revision)),
        }
        match &history.open {
            Some(open) => {
                Found { modified: revision, created: open.created, version: open.version }
            }
            None => unreachable!("just opened"),
        }
    }

    /// Records a deletion; says whether there was anything to delete.
    pub(super) fn tombstone(&mut self, revision: Revision) -> bool {
        let history = self.history_mut();
        match history.open.take() {
            Some(mut open) => {
                open.push(revision);
                history.closed.push(open);
                true
            }
            None => false,
        }
    }

    /// Finds the pair at main revision `at`; `None` if the key did not exist then.
    pub(super) fn find(&self, at: i64) -> Option<Found> {
        let history = match self {
            Entry::Fresh { main, sub } if *main <= at => {
                let modified = Revision::new(*main, i64::from(*sub));
                return Some(Found { modified, created: *main, version: 1 });
            }
            Entry::Fresh { .. } => return None,
            Entry::History(history) => history,
        };
        if let Some(open) = &history.open
            && open.first().main <= at
        {
            return open.find(at);
        }
        for generation in history.closed.iter().rev() {
            if generation.last.main <= at {
                return None;
            }
            if generation.first().main <= at {
                return generation.find(at);
            }
        }
        None
    }

    /// The row that a compaction at `at` keeps of what was written up to then: the newest one, unless it is a tombstone
    /// older than `at` itself. The flag says whether it is a tombstone.
    ///
    /// One case differs from etcd on purpose: a key deleted *and put again* by the transaction `at` (which only the hole
    /// in the duplicate check allows) keeps both rows here. etcd keeps the tombstone alone, its index then points to a
    /// row that is gone, and the next read of the key ends the process.
    pub(super) fn kept_at(&self, at: i64) -> Option<Kept> {
        let history = match self {
            Entry::Fresh { main, sub } => {
                let revision = Revision::new(*main, i64::from(*sub));
                return (*main <= at).then_some(Kept { revision, is_tombstone: false });
            }
            Entry::History(history) => history,
        };
        // The first generation that ends at or after `at`, or did not end.
        if let Some(generation) =
            history.closed.iter().find(|generation| generation.last.main >= at)
        {
            let (revision, _) = generation.newest(at)?;
            return Some(Kept { revision, is_tombstone: revision == generation.last });
        }
        let (revision, _) = history.open.as_ref()?.newest(at)?;
        Some(Kept { revision, is_tombstone: false })
    }

    /// Says whether a compaction at `at` keeps the row `revision`, which is not newer than `at`.
    pub(super) fn keeps(&self, revision: Revision, at: i64) -> bool {
        if self.kept_at(at).is_some_and(|kept| kept.revision == revision) {
            return true;
        }
        // Put again by the same transaction that deleted it; see `kept_at`.
        revision.main == at && self.find(at).is_some_and(|found| found.modified == revision)
    }

    /// Forgets what a compaction at `at` removes; says whether anything is left of the key.
    pub(super) fn compact(&mut self, at: i64) -> bool {
        let Entry::History(history) = self else { return true };
        history.closed.retain(|generation| generation.last.main >= at);
        if let Some(oldest) = history.closed.first_mut().or(history.open.as_mut()) {
            oldest.trim(at);
        }
        history.closed.shrink_to_fit();
        if history.closed.is_empty() {
            let Some(open) = &history.open else { return false };
            if open.older.is_empty()
                && open.version == 1
                && open.created == open.last.main
                && let Ok(sub) = u32::try_from(open.last.sub)
            {
                *self = Entry::Fresh { main: open.last.main, sub };
            }
        }
        true
    }

    /// The newest change of the key.
    pub(super) fn last(&self) -> Option<Revision> {
        match self {
            Entry::Fresh { main, sub } => Some(Revision::new(*main, i64::from(*sub))),
            Entry::History(history) => {
                history.open.as_ref().or(history.closed.last()).map(|generation| generation.last)
            }
        }
    }
}

/// See [`Entry::kept_at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) revision: Revision,
    pub(crate) is_tombstone: bool,
}
