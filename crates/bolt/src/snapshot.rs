//! One committed state and its bytes; read transactions share it.
//!
//! A [`Snapshot`] lives as long as some [`ReadTx`] (or the database, for the newest) holds it. The writer watches that with
//! weak references: it never reuses a page that a living snapshot can reach. So slices into the map stay as they are
//! for as long as the transaction that handed them out.
//!
//! Invariants
//! - every page below the high water mark is inside the file, checked at open and kept by growing before writing; the map
//!   may reach further, and nothing here does;
//! - a page is validated whole once for each map, and its elements are bounds-checked at every access.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vfs::{File, Map};

use crate::bucket::{Bucket, Root};
use crate::check::{self, Problem};
use crate::copy::{self, CopyStream};
use crate::meta::Meta;
use crate::page::{Damage, Page, PageId, index};
use crate::{Db, Error, Stats};

/// The open file with the name that messages use.
#[derive(Debug)]
pub(crate) struct NamedFile {
    pub(crate) path: String,
    pub(crate) file: Arc<dyn File>,
}

impl NamedFile {
    /// Turns the result of a file operation into one of ours; `step` is what was being done.
    pub(crate) fn io<T>(&self, step: &'static str, result: std::io::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::Io { file: self.path.clone(), step, source })
    }

    pub(crate) fn corrupt(&self, page_size: usize, damage: Damage) -> Error {
        Error::Corrupt {
            file: self.path.clone(),
            page: damage.page.0,
            offset: damage.page.0.saturating_mul(page_size as u64),
            what: damage.what,
        }
    }
}

/// A map of the file, and which of its pages have been validated.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) map: Map,
    pub(crate) validated: PageSet,
}

impl View {
    pub(crate) fn new(map: Map, page_size: usize) -> Self {
        let validated = PageSet::new(map.bytes().len() / page_size);
        Self { map, validated }
    }
}

/// A set of page numbers that many threads may add to.
pub(crate) struct PageSet {
    words: Vec<AtomicU64>,
}

impl PageSet {
    fn new(pages: usize) -> Self {
        Self { words: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    // Relaxed: a bit guards no memory. It says that a check of bytes everybody can see went well; a thread that does not
    // see it yet checks again.
    fn contains(&self, id: PageId) -> bool {
        self.words
            .get(index(id.0 / 64))
            .is_some_and(|w| w.load(Ordering::Relaxed) & (1 << (id.0 % 64)) != 0)
    }

    pub(crate) fn insert(&self, id: PageId) {
        if let Some(word) = self.words.get(index(id.0 / 64)) {
            word.fetch_or(1 << (id.0 % 64), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for PageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageSet").field("words", &self.words.len()).finish()
    }
}

/// One committed state of the database.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) file: Arc<NamedFile>,
    pub(crate) view: Arc<View>,
    pub(crate) meta: Meta,
    /// Bytes below the high water mark; all of them are in the file.
    pub(crate) used_bytes: usize,
    pub(crate) stats: Stats,
}

impl Snapshot {
    pub(crate) fn page_size(&self) -> usize {
        index(u64::from(self.meta.page_size))
    }

    /// The bytes of this state, up to the high water mark.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.view.map.bytes().get(..self.used_bytes).unwrap_or_default()
    }

    pub(crate) fn corrupt(&self, damage: Damage) -> Error {
        self.file.corrupt(self.page_size(), damage)
    }

    /// A branch or leaf page of a tree.
    pub(crate) fn page(&self, id: PageId) -> Result<Page<'_>, Error> {
        self.page_or_damage(id).map_err(|damage| self.corrupt(damage))
    }

    pub(crate) fn page_or_damage(&self, id: PageId) -> Result<Page<'_>, Damage> {
        let page = self.page_unvalidated(id)?;
        if !self.view.validated.contains(id) {
            page.validate()?;
            self.view.validated.insert(id);
        }
        Ok(page)
    }

    /// As [`Self::page`], but only the header has been looked at.
    pub(crate) fn page_unvalidated(&self, id: PageId) -> Result<Page<'_>, Damage> {
        if id.0 < 2 || id.0 >= self.meta.high_water.0 {
            let what = format!("page outside 2..{} is referred to", self.meta.high_water.0);
            return Err(Damage::new(id, what));
        }
        let bytes = self.bytes().get(index(id.0) * self.page_size()..).unwrap_or_default();
        Page::parse(id, bytes, self.page_size())
    }

    pub(crate) fn root_bucket(&self) -> Bucket<'_> {
        Bucket { snapshot: self, root: Root::Page(self.meta.root), sequence: self.meta.sequence }
    }
}

/// A read transaction: one committed state, pinned until the last clone is dropped.
///
/// Beginning and ending one costs a reference count. While it lives, pages that later commits free stay unused, so
/// a long one lets the file grow.
#[derive(Debug, Clone)]
pub struct ReadTx {
    pub(crate) snapshot: Arc<Snapshot>,
}

impl ReadTx {
    /// Number of the commit that made this state.
    #[must_use]
    pub fn tx_id(&self) -> u64 {
        self.snapshot.meta.tx.0
    }

    /// Page size of the file.
    #[must_use]
    pub fn page_size(&self) -> u32 {
        self.snapshot.meta.page_size
    }

    /// High water mark times page size: what etcd reports as the size of the database.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.snapshot.used_bytes as u64
    }

    /// Space as of this state.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.snapshot.stats
    }

    /// Names of the top-level buckets, ascending.
    pub fn buckets(&self) -> Result<Vec<&[u8]>, Error> {
        let mut names = Vec::new();
        let mut cursor = self.snapshot.root_bucket().cursor();
        while let Some((name, _)) = cursor.next()? {
            if cursor.is_bucket() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A top-level bucket; `None` when there is none of this name.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_>>, Error> {
        self.snapshot.root_bucket().bucket(name)
    }

    /// All that `bbolt check` demands, and that inline buckets are readable. Empty when the state is sound.
    ///
    /// Reads every page. At most [`check::PROBLEMS_MAX`] problems are listed.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        check::check(&self.snapshot)
    }

    /// The stream that a snapshot consists of (bbolt's `Tx.WriteTo`); it keeps this state pinned.
    #[must_use]
    pub fn copy(&self) -> CopyStream {
        CopyStream::new(self.clone())
    }

    /// Copies every bucket, in key order and with well filled pages, into `target`, which is new and empty.
    ///
    /// Commits as it goes, so memory stays bounded; syncs once, at the end, whatever [`crate::Options::sync`] of the target
    /// says. After an error the target takes no writes: it is to be thrown away.
    pub fn copy_compact(&self, target: &Db) -> Result<(), Error> {
        copy::copy_compact(self, target)
    }
}
