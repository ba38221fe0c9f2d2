//! Which pages may be handed out, and when.
//!
//! A page is *live* (the newest state reaches it), *pending* (a commit freed it, but an older state that somebody reads
//! may reach it) or *free*. The two last are bitmaps with a summary: a bit a page costs 32 KiB for each GiB of file, and
//! finding the lowest free page or the lowest run of n touches few words. Lowest first keeps files compact, lets writes
//! of neighbours go out as one, and is the same on every run.
//!
//! Page p, made by transaction `born` and freed by `freed_by`, belongs to the states `born..freed_by`. It becomes free
//! when no reader of one of those is left. New readers only get the newest state, so the set of readers that can hold p
//! back only shrinks, and p needs a new look only when the one it waits for has gone.
//!
//! Crashes: the disk always holds the last committed state whole. Transaction t writes over pages that were freed by t-1
//! or earlier; they are no part of state t-1, and the meta of t-1 is durable before t begins.

use std::collections::BTreeMap;

use crate::page::{Damage, PageId, TxId, index};

/// A set of page numbers with fast search for members and for runs of them.
#[derive(Debug, Default)]
pub(crate) struct PageBits {
    words: Vec<u64>,
    /// One bit for each word that is not zero.
    summary: Vec<u64>,
    count: u64,
}

impl PageBits {
    /// Room for page numbers below `pages`.
    pub(crate) fn grow(&mut self, pages: u64) {
        let words = index(pages.div_ceil(64));
        if words > self.words.len() {
            self.words.resize(words, 0);
            self.summary.resize(words.div_ceil(64), 0);
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, page: u64) -> bool {
        self.words.get(index(page / 64)).is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Adds a page; `false` when it was there (or is beyond the room made by [`Self::grow`]).
    pub(crate) fn insert(&mut self, page: u64) -> bool {
        let at = index(page / 64);
        let Some(word) = self.words.get_mut(at) else { return false };
        let bit = 1 << (page % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        if let Some(summary) = self.summary.get_mut(at / 64) {
            *summary |= 1 << (at % 64);
        }
        self.count += u64::from(is_new);
        is_new
    }

    pub(crate) fn remove(&mut self, page: u64) -> bool {
        let at = index(page / 64);
        let Some(word) = self.words.get_mut(at) else { return false };
        let bit = 1 << (page % 64);
        let was_there = *word & bit != 0;
        *word &= !bit;
        if *word == 0
            && let Some(summary) = self.summary.get_mut(at / 64)
        {
            *summary &= !(1 << (at % 64));
        }
        self.count -= u64::from(was_there);
        was_there
    }

    /// The smallest member at or above `from`.
    pub(crate) fn next(&self, from: u64) -> Option<u64> {
        let at = index(from / 64);
        let word = self.words.get(at)? & (u64::MAX << (from % 64));
        if word != 0 {
            return Some(at as u64 * 64 + u64::from(word.trailing_zeros()));
        }
        // The next word that is not zero, by the summary.
        let mut group = (at + 1) / 64;
        let mut mask = u64::MAX << ((at + 1) % 64);
        loop {
            let bits = self.summary.get(group)? & mask;
            if bits != 0 {
                let at = group * 64 + bits.trailing_zeros() as usize;
                let word = self.words.get(at)?;
                return Some(at as u64 * 64 + u64::from(word.trailing_zeros()));
            }
            group += 1;
            mask = u64::MAX;
        }
    }

    /// The end of the run of members that starts at `from`, or `limit` if that comes first.
    fn run_end(&self, from: u64, limit: u64) -> u64 {
        let mut at = from;
        while at < limit {
            let Some(word) = self.words.get(index(at / 64)) else { return at };
            let ones = u64::from((word >> (at % 64)).trailing_ones());
            let to_word_end = 64 - at % 64;
            if ones < to_word_end {
                return (at + ones).min(limit);
            }
            at += to_word_end;
        }
        limit
    }

    /// The lowest run of `pages` members that starts at or above `from`.
    fn find_run(&self, pages: u64, from: u64) -> Option<u64> {
        let mut start = self.next(from)?;
        loop {
            let end = self.run_end(start, start + pages);
            if end - start >= pages {
                return Some(start);
            }
            start = self.next(end)?;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let page = self.next(from)?;
            from = page + 1;
            Some(page)
        })
    }
}

/// A page and its overflow pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: PageId,
    pub(crate) pages: u64,
}

/// A run that a commit freed.
#[derive(Debug, Clone, Copy)]
struct Freed {
    run: Run,
    born: TxId,
    freed_by: TxId,
}

/// The writer's account of all pages.
#[derive(Debug)]
pub(crate) struct Space {
    high_water: u64,
    free: PageBits,
    pending: PageBits,
    /// For each page, by how many transactions after `opened_at` it was last handed out; 0 when before or unknown.
    born: Vec<u32>,
    opened_at: TxId,
    /// Freed by the last commit, not looked at yet.
    fresh: Vec<Freed>,
    /// Freed runs by the newest reader that holds them back.
    waiting: BTreeMap<TxId, Vec<Freed>>,
    /// `(n, page)`: no free run of n or more pages starts below that page. Valid while nothing is released.
    floors: BTreeMap<u64, u64>,
}

impl Space {
    /// `used` holds the live pages below the high water mark of state `tx`; all others are free.
    pub(crate) fn new(used: &PageBits, high_water: PageId, tx: TxId) -> Self {
        let mut free = PageBits::default();
        free.grow(high_water.0);
        for page in (2..high_water.0).filter(|&page| !used.contains(page)) {
            free.insert(page);
        }
        let mut pending = PageBits::default();
        pending.grow(high_water.0);
        Self {
            high_water: high_water.0,
            free,
            pending,
            born: vec![0; index(high_water.0)],
            opened_at: tx,
            fresh: Vec::new(),
            waiting: BTreeMap::new(),
            floors: BTreeMap::new(),
        }
    }

    pub(crate) fn high_water(&self) -> PageId {
        PageId(self.high_water)
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.free.count()
    }

    pub(crate) fn pending_pages(&self) -> u64 {
        self.pending.count()
    }

    /// Frees what no reader can reach any more. `readers`: the states that are being read, ascending.
    pub(crate) fn release(&mut self, readers: &[TxId]) {
        let mut look_at = std::mem::take(&mut self.fresh);
        let gone: Vec<TxId> = self
            .waiting
            .keys()
            .copied()
            .filter(|reader| readers.binary_search(reader).is_err())
            .collect();
        for reader in gone {
            look_at.append(&mut self.waiting.remove(&reader).unwrap_or_default());
        }
        if !look_at.is_empty() {
            self.floors.clear();
        }
        for freed in look_at {
            let older = readers.partition_point(|&reader| reader < freed.freed_by);
            match older.checked_sub(1).and_then(|at| readers.get(at)) {
                Some(&reader) if reader >= freed.born => {
                    self.waiting.entry(reader).or_default().push(freed)
                }
                Some(_) | None => {
                    for page in freed.run.start.0..freed.run.start.0 + freed.run.pages {
                        self.pending.remove(page);
                        self.free.insert(page);
                    }
                }
            }
        }
    }

    /// Hands out a run for transaction `tx`: the lowest free one, or new pages at the high water mark.
    pub(crate) fn allocate(&mut self, pages: u64, tx: TxId) -> PageId {
        let floor = self.floors.range(..=pages).map(|(_, &page)| page).max().unwrap_or(0);
        let found = if pages > self.free.count() { None } else { self.free.find_run(pages, floor) };
        let start = match found {
            Some(start) => {
                for page in start..start + pages {
                    self.free.remove(page);
                }
                self.floors.insert(pages, start + pages);
                start
            }
            None => {
                self.floors.insert(pages, u64::MAX);
                let start = self.high_water;
                self.high_water += pages;
                self.free.grow(self.high_water);
                self.pending.grow(self.high_water);
                self.born.resize(index(self.high_water), 0);
                start
            }
        };
        // 2^32 transactions after opening the age no longer fits, and the page counts as old: safe, and never seen.
        let age = u32::try_from(tx.0 - self.opened_at.0).unwrap_or(0);
        self.born[index(start)..index(start + pages)].fill(age);
        PageId(start)
    }

    /// Takes back a run that state `tx` no longer reaches.
    pub(crate) fn free(&mut self, run: Run, tx: TxId) -> Result<(), Damage> {
        let pages = run.start.0..run.start.0.saturating_add(run.pages);
        if run.start.0 < 2 || pages.end > self.high_water {
            return Err(Damage::new(run.start, "page outside the file is freed"));
        }
        for page in pages {
            if self.free.contains(page) || !self.pending.insert(page) {
                return Err(Damage::new(PageId(page), "page is freed twice"));
            }
        }
        let age = self.born.get(index(run.start.0)).copied().unwrap_or(0);
        let born = if age == 0 { TxId(0) } else { TxId(self.opened_at.0 + u64::from(age)) };
        self.fresh.push(Freed { run, born, freed_by: tx });
        Ok(())
    }

    /// The numbers of all pages that a stored free list names: free and pending ones, ascending.
    pub(crate) fn stored_list(&self) -> Vec<u64> {
        let mut list: Vec<u64> = self.free.iter().chain(self.pending.iter()).collect();
        list.sort_unstable();
        list
    }
}

#[cfg(test)]
mod tests;
