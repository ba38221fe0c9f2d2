//! What a power cut leaves: for every change that is not durable, somebody chooses whether it survived.
//!
//! A sector that was written several times since the last sync can hold any of those versions, or the old one; each
//! sector for itself, which is both reordering and tearing. Lengths of one file survive in the order in which they
//! were made, as file systems journal them. What was written into space whose growth did not survive is gone, as is
//! what was written after a truncation that did not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::content::Content;
use super::state::{FileChange, FileNode, Node, NodeId, ROOT, State};
use super::{DirOrder, SECTOR_BYTES, SimDisk};

/// One question to a [`Chooser`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What it is about.
    pub what: Unsynced,
    /// How many answers there are: 0 says that nothing survived, `options - 1` that everything did.
    pub options: u32,
}

/// What may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// Changes of names in a directory: how many of them, in order ([`DirOrder::Journal`]), or one of them
    /// ([`DirOrder::Any`]).
    Names {
        /// The directory.
        dir: NodeId,
    },
    /// How many changes of a file's length.
    Length {
        /// The file.
        file: NodeId,
    },
    /// Which version of a sector.
    Sector {
        /// The file.
        file: NodeId,
        /// Offset / 512.
        sector: u64,
    },
}

/// Decides what survives a crash. Closures over [`Choice`] are choosers too.
pub trait Chooser {
    /// Picks an answer below `choice.options`; larger ones count as the largest.
    fn pick(&mut self, choice: &Choice) -> u32;
}

impl<F: FnMut(&Choice) -> u32> Chooser for F {
    fn pick(&mut self, choice: &Choice) -> u32 {
        self(choice)
    }
}

/// Nothing that was not synced survives.
#[derive(Debug, Clone, Copy)]
pub struct LoseAll;

impl Chooser for LoseAll {
    fn pick(&mut self, _choice: &Choice) -> u32 {
        0
    }
}

/// Everything survives, as if it had been synced.
#[derive(Debug, Clone, Copy)]
pub struct KeepAll;

impl Chooser for KeepAll {
    fn pick(&mut self, choice: &Choice) -> u32 {
        choice.options - 1
    }
}

/// Draws answers from a seed. Each seed leans its own way (keep much, keep little, keep a prefix, any mixture), because
/// independent coin tosses alone would hardly ever produce the lopsided images in which mistakes hide.
#[derive(Debug, Clone)]
pub struct Seeded {
    state: u64,
    keep_of_8: u64,
    is_prefix: bool,
    has_stopped: bool,
}

impl Seeded {
    /// The same seed gives the same answers to the same questions.
    #[must_use]
    pub fn new(seed: u64) -> Seeded {
        let mut seeded = Seeded { state: seed, keep_of_8: 0, is_prefix: false, has_stopped: false };
        seeded.keep_of_8 = [1, 4, 4, 7][seeded.below(4)];
        seeded.is_prefix = seeded.below(4) == 0;
        seeded
    }

    /// SplitMix64: tiny, and good enough to pick sectors.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound` (0 when that is 0), for workloads that draw from the same seed.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }
}

impl Chooser for Seeded {
    fn pick(&mut self, choice: &Choice) -> u32 {
        let keeps = !self.has_stopped && self.next() % 8 < self.keep_of_8;
        self.has_stopped |= self.is_prefix && !keeps;
        let last = choice.options - 1;
        match (keeps, last) {
            (_, 0) => 0,
            (true, _) => last,
            // Not the newest: the old one, or one of the versions between.
            (false, _) => u32::try_from(self.next() % u64::from(last)).unwrap_or(0),
        }
    }
}

/// What could be lost at one moment, computed once for any number of images.
pub struct CrashPlan<'a> {
    state: &'a State,
    files: BTreeMap<NodeId, FilePlan>,
    choices: Vec<Choice>,
}

impl<'a> CrashPlan<'a> {
    pub(super) fn new(state: &'a State) -> CrashPlan<'a> {
        let mut files = BTreeMap::new();
        let mut choices = Vec::new();
        for (&id, node) in &state.nodes {
            match node {
                Node::Dir(dir) => {
                    let what = Unsynced::Names { dir: id };
                    match state.model.dir_order {
                        DirOrder::Journal if dir.pending.is_empty() => {}
                        DirOrder::Journal => {
                            choices.push(Choice { what, options: count(dir.pending.len()) + 1 })
                        }
                        DirOrder::Any => {
                            choices.extend(dir.pending.iter().map(|_| Choice { what, options: 2 }))
                        }
                    }
                }
                Node::File(file) if file.pending.is_empty() => {}
                Node::File(file) => {
                    let plan = FilePlan::new(file);
                    choices.extend(plan.choices(id));
                    files.insert(id, plan);
                }
            }
        }
        CrashPlan { state, files, choices }
    }

    /// What has to be decided, in the order of [`CrashPlan::image`]'s picks.
    #[must_use]
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// Number of different images, or `u64::MAX` when it is more than that.
    #[must_use]
    pub fn images_count(&self) -> u64 {
        self.choices
            .iter()
            .fold(1u64, |product, choice| product.saturating_mul(u64::from(choice.options)))
    }

    /// Answers for up to `images_max` images: all of them when there are no more than that. Otherwise nothing kept,
    /// everything kept, each change alone, all but each change, and then draws from the seed.
    #[must_use]
    pub fn picks(&self, images_max: u64, seed: u64) -> Picks<'_> {
        Picks {
            choices: &self.choices,
            is_complete: self.images_count() <= images_max,
            images_max,
            seed,
            at: 0,
        }
    }

    /// The disk after a crash with these answers.
    #[must_use]
    pub fn image(&self, picks: &[u32]) -> SimDisk {
        let mut picks = picks.iter().copied();
        let mut nodes = BTreeMap::new();
        for (&id, node) in &self.state.nodes {
            let settled = match node {
                Node::Dir(dir) => {
                    let mut names = dir.durable.clone();
                    match self.state.model.dir_order {
                        DirOrder::Journal if dir.pending.is_empty() => {}
                        DirOrder::Journal => {
                            let survivors = picks.next().unwrap_or(0) as usize;
                            dir.pending
                                .iter()
                                .take(survivors)
                                .for_each(|change| change.apply(&mut names));
                        }
                        DirOrder::Any => {
                            for change in &dir.pending {
                                if picks.next().unwrap_or(0) > 0 {
                                    change.apply(&mut names);
                                }
                            }
                        }
                    }
                    Node::Dir(super::state::DirNode {
                        written: names.clone(),
                        durable: names,
                        pending: Vec::new(),
                    })
                }
                Node::File(file) => {
                    let content = match self.files.get(&id) {
                        None => file.durable.clone(),
                        Some(plan) => {
                            let picks: Vec<u32> =
                                picks.by_ref().take(plan.options().count()).collect();
                            plan.content(file, &picks)
                        }
                    };
                    let reserved_bytes = file.reserved_bytes.min(content.len_bytes());
                    Node::File(FileNode::settled(content, reserved_bytes))
                }
            };
            nodes.insert(id, settled);
        }
        let mut state = State::settled(nodes, self.state.next_node().0, self.state.model);
        state.sweep(std::iter::empty());
        debug_assert!(state.nodes.contains_key(&ROOT));
        SimDisk::from_state(state)
    }

    /// The disk after a crash in which `chooser` decides.
    #[must_use]
    pub fn image_with(&self, chooser: &mut dyn Chooser) -> SimDisk {
        let picks: Vec<u32> = self
            .choices
            .iter()
            .map(|choice| chooser.pick(choice).min(choice.options - 1))
            .collect();
        self.image(&picks)
    }
}

/// Sets of answers; see [`CrashPlan::picks`].
pub struct Picks<'a> {
    choices: &'a [Choice],
    is_complete: bool,
    images_max: u64,
    seed: u64,
    at: u64,
}

impl Iterator for Picks<'_> {
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        if self.at == self.images_max {
            return None;
        }
        let at = self.at;
        self.at += 1;
        if self.is_complete {
            return self.numbered(at);
        }
        let most = |choice: &Choice| choice.options - 1;
        let count = self.choices.len() as u64;
        let one = |chosen: u64, is_kept: bool| {
            let pick = |(place, choice)| {
                if (place as u64 == chosen) == is_kept { most(choice) } else { 0 }
            };
            self.choices.iter().enumerate().map(pick).collect()
        };
        // A quarter of the images for each of the two systematic kinds at most: they must not crowd out the draws.
        let singles = count.min(self.images_max / 4);
        Some(match at {
            0 => vec![0; self.choices.len()],
            1 => self.choices.iter().map(most).collect(),
            _ if at - 2 < singles => one((at - 2) * count / singles, true),
            _ if at - 2 < 2 * singles => one((at - 2 - singles) * count / singles, false),
            _ => {
                let mut seeded = Seeded::new(self.seed.wrapping_add(at));
                self.choices.iter().map(|choice| seeded.pick(choice)).collect()
            }
        })
    }
}

impl Picks<'_> {
    /// The answers with this number, counting like an odometer.
    fn numbered(&self, mut number: u64) -> Option<Vec<u32>> {
        let digits = self
            .choices
            .iter()
            .map(|choice| {
                let digit = number % u64::from(choice.options);
                number /= u64::from(choice.options);
                u32::try_from(digit).unwrap_or(0)
            })
            .collect();
        (number == 0).then_some(digits)
    }
}

/// What could be lost of one file.
pub(super) struct FilePlan {
    /// Changes of its length.
    lengths: u32,
    /// Sectors that differ, and the versions they went through.
    sectors: BTreeMap<u64, Vec<Version>>,
}

struct Version {
    /// Place in the file's pending changes.
    change: usize,
    bytes: Arc<[u8; SECTOR_BYTES]>,
}

impl FilePlan {
    pub(super) fn new(file: &FileNode) -> FilePlan {
        let sector_bytes = SECTOR_BYTES as u64;
        let mut lengths = 0;
        let mut sectors: BTreeMap<u64, Vec<Version>> = BTreeMap::new();
        let mut content = file.base.clone();
        for (change, pending) in file.pending.iter().enumerate() {
            match pending {
                FileChange::Len { len_bytes } => {
                    lengths += 1;
                    content.set_len(*len_bytes);
                }
                FileChange::Write { data, .. } if data.is_empty() => {}
                FileChange::Write { offset, data } => {
                    content.write(data, *offset);
                    let last = (offset + data.len() as u64 - 1) / sector_bytes;
                    for sector in offset / sector_bytes..=last {
                        let bytes = content.sector(sector);
                        let versions = sectors.entry(sector).or_default();
                        let is_new = match versions.last() {
                            Some(version) => *version.bytes != bytes,
                            None => file.durable.sector(sector) != bytes,
                        };
                        if is_new {
                            versions.push(Version { change, bytes: Arc::new(bytes) });
                        }
                    }
                }
            }
        }
        sectors.retain(|_, versions| !versions.is_empty());
        FilePlan { lengths, sectors }
    }

    /// Number of answers to each question about this file.
    pub(super) fn options(&self) -> impl Iterator<Item = u32> {
        let lengths = (self.lengths > 0).then_some(self.lengths + 1);
        lengths.into_iter().chain(self.sectors.values().map(|versions| count(versions.len()) + 1))
    }

    fn choices(&self, file: NodeId) -> impl Iterator<Item = Choice> {
        let lengths = (self.lengths > 0)
            .then_some(Choice { what: Unsynced::Length { file }, options: self.lengths + 1 });
        lengths.into_iter().chain(self.sectors.iter().map(move |(&sector, versions)| Choice {
            what: Unsynced::Sector { file, sector },
            options: count(versions.len()) + 1,
        }))
    }

    /// The content that these answers leave.
    pub(super) fn content(&self, file: &FileNode, picks: &[u32]) -> Content {
        let mut picks = picks.iter().copied();
        let lengths_kept = if self.lengths > 0 { picks.next().unwrap_or(0) } else { 0 };
        let mut survivors: Vec<(usize, u64, &[u8; SECTOR_BYTES])> = Vec::new();
        for (&sector, versions) in &self.sectors {
            let pick = picks.next().unwrap_or(0) as usize;
            if let Some(version) = pick.checked_sub(1).and_then(|place| versions.get(place)) {
                survivors.push((version.change, sector, &version.bytes));
            }
        }
        survivors.sort_by_key(|&(change, ..)| change);
        let mut survivors = survivors.into_iter().peekable();

        let mut content = file.durable.clone();
        let mut length = 0;
        // Space behind a truncation that did not survive still belongs to the old data.
        let mut limit = u64::MAX;
        for (change, pending) in file.pending.iter().enumerate() {
            match pending {
                FileChange::Len { len_bytes } => {
                    if length < lengths_kept {
                        content.set_len(*len_bytes);
                    } else {
                        limit = limit.min(*len_bytes);
                    }
                    length += 1;
                }
                FileChange::Write { .. } => {
                    while let Some((_, sector, bytes)) = survivors.next_if(|&(at, ..)| at == change)
                    {
                        if sector * (SECTOR_BYTES as u64) < limit {
                            content.put_sector(sector, bytes);
                        }
                    }
                }
            }
        }
        content.clear_behind_end();
        content
    }
}

/// Numbers of pending changes are far below 2^32: each takes memory.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX - 1)
}
