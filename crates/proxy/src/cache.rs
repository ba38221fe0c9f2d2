//! Answers to ranges, for whoever is content with an old one.
//!
//! A serializable read may be answered from the past, so any answer will do that came after all writes which this proxy knows of. Two
//! things keep that true:
//!
//! - A write, and each key that a transaction compares, invalidates what overlaps it, before it is sent and when it is over ([`Cache::write`]);
//!   one whose client went away is over too, with an outcome that nobody knows.
//! - A read that was under way meanwhile is not kept ([`Ticket`]): nobody can tell whether it was before the write or after.
//!
//! Reads at a revision never change; they end with the compaction that this proxy passed on.
//!
//! Bounded by [`ENTRIES_MAX`] and [`BYTES_MAX`], the least recently used going first. An answer belongs to the token that it was given
//! to: rights are checked by members alone.
//!
//! Upstream: `server/proxy/grpcproxy/cache` (3.6.16). Differs: tokens, tickets and the bound in bytes; ranges in transactions are not kept.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb::{RangeRequest, RangeResponse};
use rpc::errors::Error;

/// Most answers that are kept; upstream's number.
const ENTRIES_MAX: usize = 2048;

/// Most bytes of encoded answers that are kept. A twentieth of a small machine's memory, and room for two thousand answers of 64 KiB.
const BYTES_MAX: usize = 128 << 20;

/// Writes that are remembered for reads under way. A read that saw more of them come is not kept.
const WRITES_MAX: usize = 1024;

/// An interval of keys: one, up to an end, or to the end of all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) key: Bytes,
    /// Empty for one key, `\0` for no end.
    pub(crate) end: Bytes,
}

impl Interval {
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.reaches(&other.key) && other.reaches(&self.key)
    }

    /// Whether a key is not behind the end.
    fn reaches(&self, key: &Bytes) -> bool {
        match self.end.as_ref() {
            b"" => *key <= self.key,
            b"\0" => true,
            end => key.as_ref() < end,
        }
    }
}

/// What was asked by whom.
type Question = (Bytes, Vec<u8>);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Held for a look or a change only.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By the time of their last use, the oldest first.
    entries: BTreeMap<u64, Entry>,
    /// When an answer was last used.
    uses: HashMap<Question, u64>,
    last_use: u64,
    size_bytes: usize,
    /// The latest intervals that were written, each with its number.
    writes: VecDeque<(u64, Interval)>,
    last_write: u64,
    compacted_revision: i64,
}

#[derive(Debug)]
struct Entry {
    question: Question,
    interval: Interval,
    /// 0 for the latest.
    revision: i64,
    response: RangeResponse,
    size_bytes: usize,
}

/// When a read began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(u64);

impl Cache {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for an answer.
    ///
    /// # Errors
    /// The revision is known to be compacted.
    pub(crate) fn get(
        &self,
        token: &Bytes,
        request: &RangeRequest,
    ) -> Result<Option<RangeResponse>, Error> {
        let mut inner = self.lock();
        if request.revision > 0 && request.revision < inner.compacted_revision {
            return Err(Error::Compacted);
        }
        let question = question(token, request);
        let Some(used) = inner.uses.get(&question).copied() else { return Ok(None) };
        let Some(entry) = inner.entries.remove(&used) else { return Ok(None) };
        let response = entry.response.clone();
        inner.last_use += 1;
        let now = inner.last_use;
        inner.entries.insert(now, entry);
        inner.uses.insert(question, now);
        Ok(Some(response))
    }

    /// To be taken before a read is sent.
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.lock().last_write)
    }

    /// Keeps an answer, if nothing was written since its read began.
    pub(crate) fn add(
        &self,
        ticket: Ticket,
        token: &Bytes,
        request: &RangeRequest,
        response: &RangeResponse,
    ) {
        let interval = Interval { key: request.key.clone(), end: request.range_end.clone() };
        let size_bytes = response.encoded_len();
        let mut inner = self.lock();
        let is_compacted = request.revision > 0 && request.revision < inner.compacted_revision;
        let is_outdated = request.revision == 0 && inner.was_written(&interval, ticket);
        if is_compacted || is_outdated || size_bytes > BYTES_MAX {
            return;
        }
        let question = question(token, request);
        if let Some(used) = inner.uses.get(&question).copied() {
            inner.remove(used);
        }
        inner.last_use += 1;
        let now = inner.last_use;
        inner.uses.insert(question.clone(), now);
        inner.size_bytes += size_bytes;
        let revision = request.revision;
        let response = response.clone();
        inner.entries.insert(now, Entry { question, interval, revision, response, size_bytes });
        while inner.entries.len() > ENTRIES_MAX || inner.size_bytes > BYTES_MAX {
            let Some(oldest) = inner.entries.keys().next().copied() else { break };
            inner.remove(oldest);
        }
    }

    /// Invalidates what overlaps these intervals, now and when the returned guard is dropped.
    pub(crate) fn write(&self, intervals: Vec<Interval>) -> Write<'_> {
        self.lock().invalidate(&intervals);
        Write { cache: self, intervals }
    }

    /// Forgets what is behind a revision.
    pub(crate) fn compact(&self, revision: i64) {
        let mut inner = self.lock();
        inner.compacted_revision = inner.compacted_revision.max(revision);
        inner.remove_where(|entry| entry.revision > 0 && entry.revision < revision);
    }

    /// How many answers are kept.
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }
}

impl Inner {
    fn remove(&mut self, used: u64) {
        if let Some(entry) = self.entries.remove(&used) {
            self.uses.remove(&entry.question);
            self.size_bytes = self.size_bytes.saturating_sub(entry.size_bytes);
        }
    }

    fn remove_where(&mut self, is_gone: impl Fn(&Entry) -> bool) {
        let gone: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_gone(entry))
            .map(|(used, _)| *used)
            .collect();
        for used in gone {
            self.remove(used);
        }
    }

    fn invalidate(&mut self, intervals: &[Interval]) {
        for interval in intervals {
            self.remove_where(|entry| entry.revision == 0 && entry.interval.overlaps(interval));
            self.last_write += 1;
            self.writes.push_back((self.last_write, interval.clone()));
            if self.writes.len() > WRITES_MAX {
                self.writes.pop_front();
            }
        }
    }

    fn was_written(&self, interval: &Interval, Ticket(began): Ticket) -> bool {
        let oldest = self.writes.front().map_or(self.last_write + 1, |(number, _)| *number);
        let is_forgotten = oldest > began + 1 && self.last_write > began;
        let mut since = self.writes.iter().filter(|(number, _)| *number > began);
        is_forgotten || since.any(|(_, written)| written.overlaps(interval))
    }
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    cache: &'a Cache,
    intervals: Vec<Interval>,
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        self.cache.lock().invalidate(&self.intervals);
    }
}

/// A linearizable read's answer will do for a serializable one that asks the same.
fn question(token: &Bytes, request: &RangeRequest) -> Question {
    let request = RangeRequest { serializable: true, ..request.clone() };
    (token.clone(), request.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &'static str, end: &'static str, revision: i64) -> RangeRequest {
        let (key, range_end) = (key.into(), end.into());
        RangeRequest { key, range_end, revision, ..RangeRequest::default() }
    }

    fn interval(key: &'static str, end: &'static str) -> Interval {
        Interval { key: key.into(), end: end.into() }
    }

    fn fill(cache: &Cache, request: &RangeRequest) {
        let response = RangeResponse { count: 1, ..RangeResponse::default() };
        cache.add(cache.ticket(), &Bytes::new(), request, &response);
    }

    fn has(cache: &Cache, request: &RangeRequest) -> bool {
        cache.get(&Bytes::new(), request).unwrap().is_some()
    }

    #[test]
    fn a_write_invalidates_what_it_overlaps() {
        for (key, end, is_gone) in [
            ("b", "", true),
            ("a", "", false),
            ("a", "b", false),
            ("a", "c", true),
            ("a", "\0", true),
            ("c", "", true),
            ("d", "", false),
            ("c", "\0", true),
            ("d", "\0", false),
        ] {
            let cache = Cache::default();
            let cached = request("b", "d", 0);
            fill(&cache, &cached);
            drop(cache.write(vec![interval(key, end)]));
            assert_eq!(has(&cache, &cached), !is_gone, "{key} {end:?}");
        }
    }

    #[test]
    fn a_read_that_a_write_overtook_is_not_kept() {
        let cache = Cache::default();
        let (mine, others) = (request("a", "", 0), request("b", "", 0));
        let ticket = cache.ticket();
        let write = cache.write(vec![interval("a", "")]);
        let response = RangeResponse::default();
        cache.add(ticket, &Bytes::new(), &mine, &response);
        cache.add(ticket, &Bytes::new(), &others, &response);
        assert!(!has(&cache, &mine) && has(&cache, &others));
        // One that begins during the write may be kept until the write is over.
        fill(&cache, &mine);
        assert!(has(&cache, &mine));
        drop(write);
        assert!(!has(&cache, &mine));
        // So many writes that the one in question may be forgotten.
        let ticket = cache.ticket();
        for _ in 0..WRITES_MAX {
            drop(cache.write(vec![interval("z", "")]));
        }
        cache.add(ticket, &Bytes::new(), &mine, &response);
        assert!(!has(&cache, &mine));
    }

    #[test]
    fn reads_of_the_past_stay_until_they_are_compacted() {
        let cache = Cache::default();
        let past = request("a", "", 5);
        fill(&cache, &past);
        drop(cache.write(vec![interval("a", "")]));
        assert!(has(&cache, &past));
        cache.compact(6);
        assert_eq!(cache.get(&Bytes::new(), &past), Err(Error::Compacted));
        fill(&cache, &past);
        assert_eq!(cache.len(), 0);
        // At the compacted revision itself there is an answer.
        let edge = request("a", "", 6);
        fill(&cache, &edge);
        assert!(has(&cache, &edge));
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::default();
        for revision in 1..=2048 {
            fill(&cache, &request("a", "", revision));
        }
        assert!(has(&cache, &request("a", "", 1)));
        fill(&cache, &request("b", "", 0));
        assert_eq!(cache.len(), ENTRIES_MAX);
        assert!(has(&cache, &request("a", "", 1)));
        assert!(!has(&cache, &request("a", "", 2)));
    }

    #[test]
    fn tokens_and_options_keep_answers_apart() {
        let cache = Cache::default();
        let asked = RangeRequest { limit: 1, ..request("a", "", 0) };
        fill(&cache, &asked);
        assert!(has(&cache, &RangeRequest { serializable: true, ..asked.clone() }));
        assert!(!has(&cache, &request("a", "", 0)));
        assert_eq!(cache.get(&Bytes::from_static(b"token"), &asked), Ok(None));
    }
}
