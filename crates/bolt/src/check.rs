//! The integrity check: what `bbolt check` demands of a file.
//!
//! - no page reached twice, none at or above the high water mark, each with its own number and a tree's flags;
//! - keys strictly ascend in every page; the keys of a child are at or above its key in the branch, and below the next one;
//! - with a stored free list: no page in it twice, none both free and reached, none that is neither.
//!
//! Beyond bbolt's, inline buckets are read as well. The walk keeps its own stack and visits a page once, so it ends on
//! any input.

use crate::bucket::Root;
use crate::free::PageBits;
use crate::freelist;
use crate::page::{Damage, Kind, Page, PageId};
use crate::snapshot::Snapshot;

/// More problems than this say nothing new.
pub const PROBLEMS_MAX: usize = 1000;

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Page that it is in, or about.
    pub page: u64,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {}: {}", self.page, self.what)
    }
}

/// A subtree still to be looked at, with the bounds that its place in the parent sets.
struct Subtree<'a> {
    page: PageId,
    from: Option<&'a [u8]>,
    until: Option<&'a [u8]>,
}

struct Check<'a> {
    snapshot: &'a Snapshot,
    reached: PageBits,
    todo: Vec<Subtree<'a>>,
    problems: Vec<Problem>,
}

pub(crate) fn check(snapshot: &Snapshot) -> Vec<Problem> {
    let mut reached = PageBits::default();
    reached.grow(snapshot.meta.high_water.0);
    let todo = vec![Subtree { page: snapshot.meta.root, from: None, until: None }];
    let mut check = Check { snapshot, reached, todo, problems: Vec::new() };
    while let Some(subtree) = check.todo.pop() {
        if let Err(damage) = check.visit(&subtree) {
            check.report(damage);
        }
    }
    if let Some(list) = snapshot.meta.freelist
        && let Err(damage) = check.stored_freelist(list)
    {
        check.report(damage);
    }
    check.problems
}

impl<'a> Check<'a> {
    fn report(&mut self, damage: Damage) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { page: damage.page.0, what: damage.what });
        }
    }

    /// Notes the pages of a run as reached.
    fn reach(&mut self, start: PageId, pages: u64) -> Result<(), Damage> {
        let mut result = Ok(());
        for page in start.0..start.0.saturating_add(pages).min(self.snapshot.meta.high_water.0) {
            if !self.reached.insert(page) {
                result = Err(Damage::new(PageId(page), "page has two references"));
            }
        }
        result
    }

    fn visit(&mut self, subtree: &Subtree<'a>) -> Result<(), Damage> {
        let page = self.snapshot.page_unvalidated(subtree.page)?;
        self.reach(page.id, page.pages())?;
        page.validate()?;
        if page.count > 0 {
            let (first, last) = (page.key(0)?, page.key(page.count - 1)?);
            if subtree.from.is_some_and(|from| first < from) {
                self.report(Damage::new(page.id, "first key is below the key in the parent"));
            }
            if subtree.until.is_some_and(|until| last >= until) {
                self.report(Damage::new(
                    page.id,
                    "last key is not below the next key in the parent",
                ));
            }
        }
        match page.kind {
            Kind::Branch => self.visit_children(&page, subtree.until),
            Kind::Leaf => self.visit_buckets(&page),
        }
    }

    fn visit_children(&mut self, page: &Page<'a>, until: Option<&'a [u8]>) -> Result<(), Damage> {
        for index in (0..page.count).rev() {
            let next = if index + 1 < page.count { Some(page.key(index + 1)?) } else { until };
            self.todo.push(Subtree {
                page: page.child(index)?,
                from: Some(page.key(index)?),
                until: next,
            });
        }
        Ok(())
    }

    fn visit_buckets(&mut self, page: &Page<'a>) -> Result<(), Damage> {
        for index in (0..page.count).filter(|&index| page.leaf_is_bucket(index)) {
            let bucket = self.snapshot.root_bucket().open(page.id, page.leaf(index)?.value)?;
            if let Root::Page(root) = bucket.root {
                self.todo.push(Subtree { page: root, from: None, until: None });
            }
        }
        Ok(())
    }

    fn stored_freelist(&mut self, at: PageId) -> Result<(), Damage> {
        let list = freelist::read(self.snapshot, at)?;
        self.reach(list.run.start, list.run.pages)?;
        let mut free = PageBits::default();
        free.grow(self.snapshot.meta.high_water.0);
        for &page in &list.pages {
            if page < 2 || page >= self.snapshot.meta.high_water.0 {
                self.report(Damage::new(PageId(page), "page outside the file is in the free list"));
            } else if !free.insert(page) {
                self.report(Damage::new(PageId(page), "page is in the free list twice"));
            } else if self.reached.contains(page) {
                self.report(Damage::new(PageId(page), "page is free and in use"));
            }
        }
        for page in 2..self.snapshot.meta.high_water.0 {
            if !self.reached.contains(page) && !free.contains(page) {
                self.report(Damage::new(PageId(page), "page is neither in use nor free"));
            }
        }
        Ok(())
    }
}
