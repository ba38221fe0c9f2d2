//! What was really committed, what follows from it, and whether members and clients see just that.
//!
//! The first member that applies an entry writes it down here: it goes through the reference model, and from then on the
//! log, the answer, the events and the state at that index are fixed for everybody and for all time.

mod leases;
mod state;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use proto::etcdserverpb::InternalRaftRequest;
use proto::etcdserverpb::internal_raft_request::Request;
use proto::nested::Nested as _;
use raft::{Entry, EntryKind, Message};

use super::marks::Mark;
use crate::model::{Model, Told};
use crate::rng::mix_bytes;
use crate::violation::{Violation, broken};
pub(super) use leases::HEARTBEAT;
use leases::Leases;
pub(super) use state::Wants;
pub(super) use told::of_outcome;

/// An entry of the log that counts.
#[derive(Debug)]
struct Logged {
    term: u64,
    content: u64,
    /// The answer; none for what the model does not know (changes of the membership, empty entries).
    told: Option<Told>,
    /// Revision and compaction after it.
    revision: i64,
    compacted: i64,
}

/// Who watches everything.
#[derive(Debug)]
pub(super) struct Witness {
    model: Model,
    /// The first stands for index 0.
    log: Vec<Logged>,
    /// Where requests are in the log, by their names.
    places: BTreeMap<u64, u64>,
    /// Requests of which a member said that they would not get into the log.
    dropped: BTreeSet<u64>,
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    newest_leader_term: u64,
    /// The newest revision that anybody outside was told of.
    floor: i64,
    leases: Leases,
    /// What was seen for the first time in the log.
    seen: Vec<Mark>,
}

impl Witness {
    pub(super) fn new(drift_ppm: u64, election_ticks: i64) -> Self {
        let model = Model::new();
        let first = Logged {
            term: 0,
            content: 0,
            told: None,
            revision: model.revision(),
            compacted: model.compacted(),
        };
        Self {
            model,
            log: vec![first],
            places: BTreeMap::new(),
            dropped: BTreeSet::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            newest_leader_term: 0,
            floor: 1,
            leases: Leases::new(drift_ppm, election_ticks),
            seen: Vec::new(),
        }
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// The last entry that anybody applied.
    pub(super) fn last(&self) -> u64 {
        self.log.len() as u64 - 1
    }

    /// The newest revision.
    pub(super) fn revision(&self) -> i64 {
        self.model.revision()
    }

    /// What a linearizable read that begins now must see at least.
    pub(super) fn floor(&self) -> i64 {
        self.floor
    }

    /// Somebody outside learned of a revision.
    pub(super) fn learned(&mut self, revision: i64) {
        self.floor = self.floor.max(revision);
    }

    /// A member applies an entry at `now_us`, whose effects its database has already or not.
    pub(super) fn applies(
        &mut self,
        node: u64,
        entry: &Entry,
        now_us: u64,
    ) -> Result<(), Violation> {
        let index = entry.index.0;
        let content = mix_bytes(entry.kind as u64, &entry.data);
        if index > self.last() + 1 {
            let last = self.last();
            return broken("state machine safety", format!("n{node} applies {index} after {last}"));
        }
        if let Some(known) = self.logged(index) {
            if known.term == entry.term.0 && known.content == content {
                return Ok(());
            }
            let detail = format!(
                "n{node} applies entry {index} of term {}, another one of term {} was applied",
                entry.term, known.term
            );
            return broken("state machine safety", detail);
        }
        let told = self.take_in(entry, now_us)?;
        self.log.push(Logged {
            term: entry.term.0,
            content,
            told,
            revision: self.model.revision(),
            compacted: self.model.compacted(),
        });
        Ok(())
    }

    /// Takes what was seen since the last call.
    pub(super) fn take_seen(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.seen)
    }

    fn logged(&self, index: u64) -> Option<&Logged> {
        self.log.get(usize::try_from(index).ok()?)
    }

    /// An entry that nobody knew to be committed.
    fn take_in(&mut self, entry: &Entry, now_us: u64) -> Result<Option<Told>, Violation> {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return Ok(None);
        }
        let index = entry.index.0;
        let Ok(request) = InternalRaftRequest::decode_nested(entry.data.clone()) else {
            return broken("entries can be read", format!("entry {index}"));
        };
        let name = request.header.as_ref().map_or(0, |header| header.id);
        if self.dropped.contains(&name) {
            let detail = format!("request {name} is entry {index}, and was said to be dropped");
            return broken("dropped is dropped", detail);
        }
        if let Some(before) = self.places.insert(name, index) {
            let detail = format!("request {name} is entry {before} and entry {index}");
            return broken("nothing is done twice", detail);
        }
        let Some(request) = request.request else { return Ok(None) };
        let request = self.leases.with_least_ttl(request);
        let told = self.model.apply(&request);
        if !told.is_refused {
            match &request {
                Request::LeaseGrant(grant) => {
                    self.leases.granted(index, grant.id, grant.ttl, now_us);
                }
                Request::LeaseRevoke(revoke) => {
                    let has_expired = self.leases.revoked(index, revoke.id, name, now_us)?;
                    let mark = if has_expired { Mark::LeaseExpired } else { Mark::LeaseRevoked };
                    self.seen.push(mark);
                    if self.model.revision() > self.log.last().map_or(0, |last| last.revision) {
                        self.seen.push(Mark::LeaseKeysDeleted);
                    }
                }
                _ => {}
            }
        }
        Ok(Some(told))
    }

    /// A member has applied an entry, and this came of it: the answer, if its database did not have the entry before.
    pub(super) fn answers(
        &self,
        node: u64,
        index: u64,
        is_new: bool,
        outcome: Option<&machine::Outcome>,
    ) -> Result<(), Violation> {
        let Some(Logged { told: Some(expected), .. }) = self.logged(index) else { return Ok(()) };
        let told = outcome.map(of_outcome);
        match told {
            None if !is_new => Ok(()),
            Some(told) if is_new && told == *expected => Ok(()),
            told => {
                let detail = format!(
                    "n{node} answers entry {index} (new: {is_new}) with {told:?}, it is {expected:?}"
                );
                broken("all answer what the model answers", detail)
            }
        }
    }

    /// A client is answered: its request is in the log, and that is its answer.
    pub(super) fn acknowledged(&self, name: u64, told: &Told) -> Result<(), Violation> {
        let place = self.places.get(&name).and_then(|&index| self.logged(index));
        match place.and_then(|logged| logged.told.as_ref()) {
            Some(expected) if expected == told => Ok(()),
            Some(expected) => {
                let detail = format!("request {name} is answered {told:?}, it is {expected:?}");
                broken("acknowledged writes are there", detail)
            }
            None => broken("acknowledged writes are there", format!("request {name} is nowhere")),
        }
    }

    /// A member says that a request will not get into the log.
    pub(super) fn drops(&mut self, name: u64) -> Result<(), Violation> {
        self.dropped.insert(name);
        match self.places.get(&name) {
            Some(index) => broken("dropped is dropped", format!("request {name} is entry {index}")),
            None => Ok(()),
        }
    }

    // -- Consensus.

    pub(super) fn leads(&mut self, node: u64, term: u64) -> Result<(), Violation> {
        let leader = *self.leaders.entry(term).or_insert(node);
        self.newest_leader_term = self.newest_leader_term.max(term);
        if leader != node {
            return broken("election safety", format!("n{leader} and n{node} lead term {term}"));
        }
        Ok(())
    }

    /// Whether nobody leads, or led, a later term.
    pub(super) fn has_authority(&self, term: u64) -> bool {
        term == self.newest_leader_term
    }

    /// Looks at a message that leaves a member, and at what it has on its disk.
    pub(super) fn sends(
        &mut self,
        node: u64,
        message: &Message,
        durable: &super::node::Durable,
    ) -> Result<(), Violation> {
        use raft::Body;
        let term = message.term.0;
        if matches!(message.body, Body::VoteResponse { reject: false }) {
            let voted = *self.votes.entry((node, term)).or_insert(message.to.0);
            if voted != message.to.0 {
                return broken("one vote a term", format!("n{node} votes twice in term {term}"));
            }
        }
        let is_kept = match &message.body {
            Body::VoteResponse { reject: false } => {
                durable.term > term || (durable.term == term && durable.vote == message.to.0)
            }
            Body::AppendResponse { index, rejection: None } => {
                durable.term > term || (durable.term == term && durable.last >= index.0)
            }
            Body::Append { .. } | Body::Heartbeat { .. } | Body::TimeoutNow => durable.term >= term,
            _ => true,
        };
        if is_kept {
            return Ok(());
        }
        let kind = message.body.kind();
        broken("durable before sent", format!("n{node} sends {kind} of term {term}: {durable:?}"))
    }

    // -- Leases.

    pub(super) fn renewed(&mut self, lease: i64, now_us: u64) {
        self.leases.renewed(lease, now_us);
    }

    pub(super) fn expires(&mut self, name: u64, lease: i64) {
        self.leases.expires(name, lease);
    }

    pub(super) fn live_leases(&self) -> Vec<i64> {
        self.model.leases().keys().copied().collect()
    }
}
