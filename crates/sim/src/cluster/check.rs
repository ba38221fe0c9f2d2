//! What must hold after every step, over all nodes and for all time.
//!
//! The log that counts is written down once ([`Checker::committed`]), entry by entry as it is first seen committed; every
//! node is compared with it behind the place where it was compared last, so that the work is one comparison an entry and
//! node. Log matching is checked by induction: an entry has one content and one predecessor, wherever it is.

use std::collections::BTreeMap;

use raft::{ConfState, Entry, EntryKind, LogIndex, NodeId};

use crate::rng::{mix, mix_bytes};
pub(super) use crate::violation::{Violation, broken};

/// What is known of an entry without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) term: u64,
    pub(super) content: u64,
    pub(super) is_conf_change: bool,
}

impl Digest {
    pub(super) fn of(entry: &Entry) -> Self {
        let kind = match entry.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::ConfChangeV2 => 2,
        };
        Self {
            term: entry.term.0,
            content: mix_bytes(kind, &entry.data),
            is_conf_change: entry.kind != EntryKind::Normal,
        }
    }
}

/// Hash of the state machine after an entry.
pub(super) fn chain(before: u64, index: u64, digest: &Digest) -> u64 {
    mix(mix(mix(before, index), digest.term), digest.content)
}

/// An entry of the log that counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) digest: Digest,
    /// The state machine's hash after it.
    pub(super) chain: u64,
    /// The term of the node that first knew it to be committed.
    known_in: u64,
}

/// A node's log as raft has it: what was handed out to be written.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    /// Index and term of the entry before the first.
    before: (u64, u64),
    entries: std::collections::VecDeque<Digest>,
    /// Compared with the log that counts up to here.
    verified: u64,
    /// The last change of the configuration in it.
    last_conf_change: u64,
}

impl Mirror {
    pub(super) fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    fn get(&self, index: u64) -> Option<Digest> {
        let place = index.checked_sub(self.before.0 + 1)?;
        self.entries.get(usize::try_from(place).ok()?).copied()
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.before.0 {
            return Some(self.before.1);
        }
        self.get(index).map(|digest| digest.term)
    }

    /// Forgets what nobody looks at any more.
    pub(super) fn trim(&mut self, index: u64) {
        while self.before.0 < index.min(self.verified)
            && let Some(first) = self.entries.pop_front()
        {
            self.before = (self.before.0 + 1, first.term);
        }
    }
}

/// One content and one predecessor's term for each entry that ever was at an index, by term.
#[derive(Debug, Clone, Copy)]
struct Known {
    digest: Digest,
    term_before: u64,
}

/// The checker.
#[derive(Debug)]
pub(super) struct Checker {
    /// The log that counts. The first stands for index 0.
    pub(super) committed: Vec<Committed>,
    known: Vec<Vec<Known>>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    /// Configurations by the index of the change.
    confs: BTreeMap<u64, ConfState>,
    /// What a read that begins now must see at least: the last index that anybody was told of.
    pub(super) floor: u64,
    founders: u64,
    /// Whether to look at what leaves a node and compare it with its disk. Without, only outcomes are judged.
    pub(super) inspects_sends: bool,
}

impl Checker {
    pub(super) fn new(founders: u64, inspects_sends: bool) -> Self {
        let digest = Digest { term: 0, content: 0, is_conf_change: false };
        Self {
            committed: vec![Committed { digest, chain: 0, known_in: 0 }],
            known: vec![Vec::new()],
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            confs: BTreeMap::new(),
            floor: 0,
            founders,
            inspects_sends,
        }
    }

    /// The last entry known to be committed.
    pub(super) fn last_committed(&self) -> u64 {
        self.committed.len() as u64 - 1
    }

    pub(super) fn committed_at(&self, index: u64) -> Option<&Committed> {
        self.committed.get(usize::try_from(index).ok()?)
    }

    /// The configuration in force behind all changes that anybody applied.
    pub(super) fn newest_conf(&self) -> Option<&ConfState> {
        self.confs.last_key_value().map(|(_, conf)| conf)
    }

    /// A node starts with a log.
    pub(super) fn started(
        &mut self,
        node: u64,
        before: (u64, u64),
        entries: &[Entry],
    ) -> Result<Mirror, Violation> {
        let mut mirror = Mirror { before, verified: before.0, ..Mirror::default() };
        self.snapshot_fits(node, before)?;
        self.appended(node, &mut mirror, entries)?;
        Ok(mirror)
    }

    fn snapshot_fits(&self, node: u64, (index, term): (u64, u64)) -> Result<(), Violation> {
        match self.committed_at(index) {
            Some(committed) if committed.digest.term == term => Ok(()),
            Some(committed) => broken(
                "log matching",
                format!(
                    "n{node} has a snapshot at {index} of term {term}, committed is term {}",
                    committed.digest.term
                ),
            ),
            None => broken(
                "state machine safety",
                format!("n{node} has a snapshot at {index}, which nobody committed"),
            ),
        }
    }

    /// A node replaced its log by a snapshot.
    pub(super) fn restored(
        &mut self,
        node: u64,
        mirror: &mut Mirror,
        at: (u64, u64),
    ) -> Result<(), Violation> {
        self.snapshot_fits(node, at)?;
        *mirror = Mirror { before: at, verified: at.0, ..Mirror::default() };
        Ok(())
    }

    /// A node's log got entries. Returns whether they replaced others.
    pub(super) fn appended(
        &mut self,
        node: u64,
        mirror: &mut Mirror,
        entries: &[Entry],
    ) -> Result<bool, Violation> {
        let mut has_replaced = false;
        for entry in entries {
            let index = entry.index.0;
            let digest = Digest::of(entry);
            if index > mirror.last() + 1 || index <= mirror.before.0 {
                return broken(
                    "log continuity",
                    format!("n{node} appends {index} to a log that ends at {}", mirror.last()),
                );
            }
            if index <= mirror.verified && mirror.get(index) != Some(digest) {
                return broken(
                    "log matching",
                    format!("n{node} overwrites entry {index}, which it knows to be committed"),
                );
            }
            has_replaced |= index <= mirror.last();
            let keep = usize::try_from(index - mirror.before.0 - 1).unwrap_or(usize::MAX);
            mirror.entries.truncate(keep);
            if mirror.last_conf_change >= index {
                mirror.last_conf_change = 0;
            }
            let term_before = mirror.term(index - 1).unwrap_or(0);
            mirror.entries.push_back(digest);
            self.know(node, index, Known { digest, term_before })?;
            if digest.is_conf_change {
                mirror.last_conf_change = index;
            }
        }
        Ok(has_replaced)
    }

    fn know(&mut self, node: u64, index: u64, is: Known) -> Result<(), Violation> {
        let Ok(place) = usize::try_from(index) else { return Ok(()) };
        if self.known.len() <= place {
            self.known.resize(place + 1, Vec::new());
        }
        let at_index = &mut self.known[place];
        match at_index.iter().find(|known| known.digest.term == is.digest.term) {
            None => at_index.push(is),
            Some(known) if known.digest != is.digest => {
                return broken(
                    "log matching",
                    format!("entry {index} of term {} at n{node} differs", is.digest.term),
                );
            }
            Some(known) if known.term_before != is.term_before => {
                return broken(
                    "log matching",
                    format!(
                        "entry {index} of term {} at n{node} follows one of term {}, elsewhere one of term {}",
                        is.digest.term, is.term_before, known.term_before
                    ),
                );
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// A leader put a change of the configuration into its log, having applied up to `applied`.
    pub(super) fn one_change_pending(
        &self,
        node: u64,
        entries: &[Entry],
        last_before: u64,
        applied: u64,
    ) -> Result<(), Violation> {
        let mut pending = last_before;
        for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Normal) {
            if pending > applied && entry.index.0 > self.founders {
                return broken(
                    "one conf change at a time",
                    format!(
                        "leader n{node} appends a change at {} while that at {pending} is not applied ({applied})",
                        entry.index
                    ),
                );
            }
            pending = entry.index.0;
        }
        Ok(())
    }

    pub(super) fn last_conf_change(mirror: &Mirror) -> u64 {
        mirror.last_conf_change
    }

    /// A node knows that its log is committed up to `commit`. Returns entries that nobody knew to be committed before.
    pub(super) fn commits(
        &mut self,
        node: u64,
        mirror: &mut Mirror,
        term: u64,
        commit: u64,
    ) -> Result<std::ops::RangeInclusive<u64>, Violation> {
        let first_new = self.committed.len() as u64;
        for index in mirror.verified + 1..=commit {
            let Some(digest) = mirror.get(index) else {
                return broken(
                    "commit within the log",
                    format!("n{node} commits {commit}, its log ends at {}", mirror.last()),
                );
            };
            match self.committed_at(index) {
                Some(committed) if committed.digest == digest => {}
                Some(committed) => {
                    return broken(
                        "state machine safety",
                        format!(
                            "n{node} commits entry {index} of term {}, committed is term {}",
                            digest.term, committed.digest.term
                        ),
                    );
                }
                None => {
                    let before = self.committed.last().map_or(0, |committed| committed.chain);
                    let chain = chain(before, index, &digest);
                    self.committed.push(Committed { digest, chain, known_in: term });
                }
            }
        }
        mirror.verified = mirror.verified.max(commit);
        Ok(first_new..=self.last_committed())
    }

    /// A new entry is committed: of some quorum of the configuration, every voter must have it on disk.
    pub(super) fn is_durable(
        &self,
        node: u64,
        index: u64,
        conf: &ConfState,
        holds: impl Fn(u64, u64, u64) -> bool,
    ) -> Result<(), Violation> {
        if index <= self.founders {
            return Ok(());
        }
        let term = self.committed_at(index).map_or(0, |committed| committed.digest.term);
        for half in [&conf.voters, &conf.voters_outgoing] {
            let holders = half.iter().filter(|voter| holds(voter.0, index, term)).count();
            if !half.is_empty() && holders <= half.len() / 2 {
                return broken(
                    "commit is durable on a quorum",
                    format!(
                        "n{node} commits entry {index} of term {term}, on {holders} disks of {half:?}"
                    ),
                );
            }
        }
        Ok(())
    }

    /// A node leads.
    pub(super) fn leads(&mut self, node: u64, term: u64, mirror: &Mirror) -> Result<(), Violation> {
        let leader = *self.leaders.entry(term).or_insert(node);
        if leader != node {
            return broken("election safety", format!("n{leader} and n{node} lead term {term}"));
        }
        self.votes(node, term, node)?;
        let behind = mirror.verified.max(mirror.before.0);
        for index in behind + 1..=self.last_committed() {
            let Some(committed) = self.committed_at(index) else { break };
            if committed.known_in < term && mirror.get(index) != Some(committed.digest) {
                return broken(
                    "leader completeness",
                    format!(
                        "n{node} leads term {term} without entry {index}, committed in term {}",
                        committed.known_in
                    ),
                );
            }
        }
        Ok(())
    }

    /// A node votes.
    pub(super) fn votes(&mut self, node: u64, term: u64, whom: u64) -> Result<(), Violation> {
        let voted = *self.votes.entry((node, term)).or_insert(whom);
        if voted != whom {
            return broken(
                "one vote a term",
                format!("n{node} votes for n{voted} and for n{whom} in term {term}"),
            );
        }
        Ok(())
    }

    /// A node applied a change of the configuration.
    pub(super) fn conf_changed(
        &mut self,
        node: u64,
        index: u64,
        conf: &ConfState,
    ) -> Result<(), Violation> {
        // Founders are in force all at once at the founding, and one after the other in a replay.
        if index < self.founders {
            return Ok(());
        }
        let known = self.confs.entry(index).or_insert_with(|| conf.clone());
        if known.is_equivalent(conf) {
            return Ok(());
        }
        broken(
            "equal configurations",
            format!("n{node} has {conf:?} after entry {index}, elsewhere it is {known:?}"),
        )
    }

    /// A node's state machine stands at `applied`.
    pub(super) fn state_is(&self, node: u64, applied: u64, hash: u64) -> Result<(), Violation> {
        match self.committed_at(applied) {
            Some(committed) if committed.chain == hash => Ok(()),
            Some(_) => broken(
                "state machine safety",
                format!("n{node}'s state after entry {applied} differs"),
            ),
            None => broken(
                "state machine safety",
                format!("n{node} applied entry {applied}, which nobody committed"),
            ),
        }
    }

    /// A client is told that its proposal is committed at `index`.
    pub(super) fn acknowledged(&mut self, node: u64, index: u64) -> Result<(), Violation> {
        if index > self.last_committed() {
            return broken(
                "acknowledged is committed",
                format!("n{node} acknowledges entry {index}, which nobody committed"),
            );
        }
        self.floor = self.floor.max(index);
        Ok(())
    }

    /// A client reads the state after `applied`; when it asked, `floor` was known.
    pub(super) fn read(&mut self, node: u64, applied: u64, floor: u64) -> Result<(), Violation> {
        if applied < floor {
            return broken(
                "linearizable reads",
                format!("n{node} reads at {applied}, {floor} was known before the read began"),
            );
        }
        self.floor = self.floor.max(applied);
        Ok(())
    }
}

/// Whether a node is in a configuration at all.
pub(super) fn names(conf: &ConfState, node: u64) -> bool {
    let node = NodeId(node);
    [&conf.voters, &conf.learners, &conf.voters_outgoing].iter().any(|ids| ids.contains(&node))
}

/// A raft index.
pub(super) fn index_of(index: u64) -> LogIndex {
    LogIndex(index)
}
