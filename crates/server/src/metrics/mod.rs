//! What a member counts and measures, and the page that Prometheus reads (`/metrics`).
//!
//! ```text
//!  heart, log writer, apply stage, committer ──► Metrics ◄── services, peers' channels, health checks
//!                                                   │
//!  board, facts, store, backend, watch hub ─────► page ──► text      read when somebody asks
//! ```
//!
//! - Each stage records what it owns, in its group of [`Metrics`], with one relaxed addition or a few; nothing here waits or
//!   takes a lock on the way of a request, but for the short list of client versions. What the member knows anyway is not counted: the
//!   page reads it.
//! - The crates below know nothing of this: they give outcomes and plain numbers.
//! - Names, types, labels and buckets are etcd's, which dashboards and alerts depend on (`crates/testkit/tests/metrics.rs` compares
//!   them with a real etcd's). The explanations are ours.
//!
//! Why not the `prometheus` crates: `prometheus-client` writes OpenMetrics alone, which adds `_total` to counters that have none in
//! etcd and takes it from gauges that have it; `prometheus` prints bounds of buckets in another way than Go (`le="1048576"`), so
//! that series would change their labels, and looks labels up in locked tables. What is needed of them is two hundred lines.
//!
//! Upstream: the `metrics.go` of each package (3.5.30).

mod calls;
mod kinds;
mod page;
mod peers;
mod process;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use machine::Version;
use proto::etcdserverpb::{ResponseOp, response_op};

pub(crate) use calls::Counting;
pub(crate) use kinds::Histogram;
pub(crate) use page::page;
pub(crate) use peers::{PeerFigures, PeerTable};
pub(crate) use process::{descriptor_limit, open_descriptors};
pub(crate) use text::CONTENT_TYPE;

use calls::Calls;
use kinds::{Buckets, Counter, Level, MILLISECOND};

/// All that a member counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) consensus: Consensus,
    pub(crate) log: Log,
    pub(crate) applying: Applying,
    pub(crate) committing: Committing,
    pub(crate) leases: Leases,
    pub(crate) checks: Checks,
    pub(crate) promotions: Promotions,
    /// From 3.7 on.
    pub(crate) requests: Option<Requests>,
    /// From 3.7 on.
    pub(crate) watch_sends: Option<WatchSends>,
    pub(crate) calls: Arc<Calls>,
    pub(crate) peers: Arc<PeerTable>,
    /// Pages that were made.
    pub(crate) scrapes: Counter,
}

impl Metrics {
    /// Of a member that stands for that version. `is_extensive`: the times of calls too, as `--metrics=extensive` has it.
    pub(crate) fn new(version: Version, is_extensive: bool) -> Self {
        Self {
            consensus: Consensus::default(),
            log: Log::default(),
            applying: Applying::default(),
            committing: Committing::default(),
            leases: Leases::default(),
            checks: Checks::default(),
            promotions: Promotions::default(),
            requests: version.times_requests().then(Requests::default),
            watch_sends: version.times_requests().then(WatchSends::default),
            calls: Arc::new(Calls::new(version, is_extensive)),
            peers: Arc::default(),
            scrapes: Counter::default(),
        }
    }
}

/// What heart and services see of consensus.
#[derive(Debug, Default)]
pub(crate) struct Consensus {
    pub(crate) leader_changes: Counter,
    /// Ticks of a leader that came too late for its followers.
    pub(crate) late_heartbeats: Counter,
    pub(crate) failed_proposals: Counter,
    pub(crate) slow_reads: Counter,
    pub(crate) failed_reads: Counter,
}

/// What the log writer does.
#[derive(Debug)]
pub(crate) struct Log {
    /// Writing a batch and making it durable, which the device makes one wait.
    pub(crate) fsync: Histogram,
    /// Encoding it.
    pub(crate) write: Histogram,
    pub(crate) written_bytes: Counter,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            fsync: Histogram::usual(),
            write: Histogram::usual(),
            written_bytes: Counter::default(),
        }
    }
}

/// Times of one kind of entry or request.
#[derive(Debug)]
struct OpTimes {
    failed: Histogram,
    succeeded: Histogram,
}

impl OpTimes {
    fn new(buckets: Buckets) -> Self {
        Self { failed: Histogram::of_seconds(buckets), succeeded: Histogram::of_seconds(buckets) }
    }

    fn observe(&self, is_success: bool, took: Duration) {
        if is_success { &self.succeeded } else { &self.failed }.observe(took);
    }

    /// Those that came at all, by name and success.
    fn used<'a>(
        names: &'a [&'static str],
        times: &'a [Self],
    ) -> impl Iterator<Item = (&'static str, bool, &'a Histogram)> {
        names
            .iter()
            .zip(times)
            .flat_map(|(name, times)| {
                [(*name, false, &times.failed), (*name, true, &times.succeeded)]
            })
            .filter(|(_, _, times)| times.count() > 0)
    }
}

/// How long requests of clients took, by what they ask for.
#[derive(Debug)]
pub(crate) struct Requests {
    /// By the place in [`OPS`].
    ops: Vec<OpTimes>,
    /// Transactions that only read, which are no entries.
    read_only_txns: OpTimes,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            ops: OPS.iter().map(|_| OpTimes::new(Buckets::USUAL)).collect(),
            read_only_txns: OpTimes::new(Buckets::USUAL),
        }
    }
}

impl Requests {
    /// A request was answered; or was not, and whether it came as far as the log.
    pub(crate) fn answered(&self, op: &'static str, is_success: bool, took: Duration) {
        if let Some(times) = self.ops.get(OPS.partition_point(|known| *known < op)) {
            times.observe(is_success, took);
        }
    }

    pub(crate) fn read_only_txn_answered(&self, is_success: bool, took: Duration) {
        self.read_only_txns.observe(is_success, took);
    }

    fn times(&self) -> impl Iterator<Item = (&'static str, bool, &Histogram)> {
        let read_only = std::slice::from_ref(&self.read_only_txns);
        OpTimes::used(&OPS, &self.ops).chain(OpTimes::used(&["ReadonlyTxn"], read_only))
    }
}

/// How long it took to make what watch streams send.
#[derive(Debug)]
pub(crate) struct WatchSends {
    /// Of responses with events.
    pub(crate) events: Histogram,
    /// The same, divided by the number of events.
    pub(crate) per_event: Histogram,
    /// Of responses that say that a watcher is there, or is no more.
    pub(crate) control: Histogram,
    /// Of responses that say how far everything was sent.
    pub(crate) progress: Histogram,
}

impl Default for WatchSends {
    fn default() -> Self {
        Self {
            events: Histogram::usual(),
            per_event: Histogram::usual(),
            control: Histogram::usual(),
            progress: Histogram::usual(),
        }
    }
}

impl WatchSends {
    /// A message was made ready for its client.
    pub(crate) fn sent(&self, body: &mvcc::watch::Body, took: Duration) {
        use mvcc::watch::Body;
        match body {
            Body::Events(events) => {
                self.events.observe(took);
                let count = u32::try_from(events.len()).unwrap_or(u32::MAX).max(1);
                self.per_event.observe(took / count);
            }
            // etcd sends it the way of events.
            Body::Compacted { .. } => self.events.observe(took),
            Body::Created | Body::Refused { .. } | Body::Canceled => self.control.observe(took),
            Body::Progress => self.progress.observe(took),
        }
    }
}

/// What the apply stage does.
#[derive(Debug)]
pub(crate) struct Applying {
    /// By the place in [`OPS`].
    ops: Vec<OpTimes>,
    pub(crate) slow: Counter,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) ranges: Counter,
    pub(crate) txns: Counter,
    pub(crate) put_bytes: Counter,
    pub(crate) compacted_rows: Counter,
    /// When the last compaction finished, in seconds since 1970; 0 before.
    pub(crate) last_compaction: Level,
    /// Each step of a compaction.
    pub(crate) compaction_steps: Histogram,
    /// Whole compactions.
    pub(crate) compactions: Histogram,
    pub(crate) index_compactions: Histogram,
    pub(crate) installing: Level,
}

impl Default for Applying {
    fn default() -> Self {
        let op = Buckets::Doubling { first: MILLISECOND / 10, count: 20 };
        let of_ms = |first, count| Histogram::new(Buckets::Doubling { first, count }, MILLISECOND);
        Self {
            ops: OPS.iter().map(|_| OpTimes::new(op)).collect(),
            slow: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            ranges: Counter::default(),
            txns: Counter::default(),
            put_bytes: Counter::default(),
            compacted_rows: Counter::default(),
            last_compaction: Level::default(),
            compaction_steps: of_ms(MILLISECOND, 13),
            compactions: of_ms(100 * MILLISECOND, 14),
            index_compactions: of_ms(MILLISECOND / 2, 14),
            installing: Level::default(),
        }
    }
}

/// Names that `etcd_server_apply_duration_seconds` has for entries, and `etcd_server_request_duration_seconds`, in order. Whatever has none of its own is `unknown`.
const OPS: [&str; 31] = [
    "Alarm",
    "AuthDisable",
    "AuthEnable",
    "AuthRoleAdd",
    "AuthRoleDelete",
    "AuthRoleGet",
    "AuthRoleGrantPermission",
    "AuthRoleList",
    "AuthRoleRevokePermission",
    "AuthStatus",
    "AuthUserAdd",
    "AuthUserChangePassword",
    "AuthUserDelete",
    "AuthUserGet",
    "AuthUserGrantRole",
    "AuthUserList",
    "AuthUserRevokeRole",
    "Authenticate",
    "ClusterMemberAttrSet",
    "ClusterVersionSet",
    "Compaction",
    "DeleteRange",
    "DowngradeInfoSet",
    "DowngradeVersionTest",
    "LeaseCheckpoint",
    "LeaseGrant",
    "LeaseRevoke",
    "Put",
    "Range",
    "Txn",
    "unknown",
];

impl Applying {
    /// An entry was applied.
    pub(crate) fn applied(&self, op: &'static str, outcome: &machine::Outcome, took: Duration) {
        // etcd forgot to name that one here.
        let op = if op == "AuthStatus" { "unknown" } else { op };
        let place = OPS.partition_point(|known| *known < op);
        if let Some(times) = self.ops.get(place) {
            times.observe(outcome.is_ok(), took);
        }
        let Ok(answer) = outcome else { return };
        match &answer.response {
            machine::Response::Put(_) => self.puts.count(),
            machine::Response::DeleteRange(_) => self.deletes.count(),
            machine::Response::Txn(txn) => {
                let mut counts = Counts::default();
                counts.add(&txn.responses);
                self.puts.add(counts.puts);
                self.deletes.add(counts.deletes);
                self.ranges.add(counts.ranges);
                // etcd counts those that do more than one thing.
                if counts.puts + counts.deletes + counts.ranges > 1 {
                    self.txns.count();
                }
            }
            machine::Response::Done
            | machine::Response::LeaseGrant(_)
            | machine::Response::Alarms(_)
            | machine::Response::Auth(_)
            | machine::Response::Members(_) => {}
        }
    }

    /// A lease went with so many keys.
    pub(crate) fn revoked(&self, keys: usize) {
        self.deletes.add(keys as u64);
    }

    /// A transaction that only reads was executed.
    pub(crate) fn read_txn(&self, responses: &[ResponseOp]) {
        let mut counts = Counts::default();
        counts.add(responses);
        self.ranges.add(counts.ranges);
    }

    /// Entries' names, whether they succeeded, and their times; those that came at all.
    fn times(&self) -> impl Iterator<Item = (&'static str, bool, &Histogram)> {
        OpTimes::used(&OPS, &self.ops)
    }

    /// A compaction has finished.
    pub(crate) fn compaction_finished(&self, took: Duration) {
        self.compactions.observe(took);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_compaction.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}

/// What a transaction did.
#[derive(Debug, Default)]
struct Counts {
    puts: u64,
    deletes: u64,
    ranges: u64,
}

impl Counts {
    fn add(&mut self, responses: &[ResponseOp]) {
        for response in responses {
            match &response.response {
                Some(response_op::Response::ResponsePut(_)) => self.puts += 1,
                Some(response_op::Response::ResponseDeleteRange(_)) => self.deletes += 1,
                Some(response_op::Response::ResponseRange(_)) => self.ranges += 1,
                Some(response_op::Response::ResponseTxn(txn)) => self.add(&txn.responses),
                None => {}
            }
        }
    }
}

/// What the committer does, and whoever writes snapshot files.
#[derive(Debug)]
pub(crate) struct Committing {
    pub(crate) commit: Histogram,
    pub(crate) rebalance: Histogram,
    pub(crate) spill: Histogram,
    pub(crate) write: Histogram,
    pub(crate) defrag: Histogram,
    pub(crate) defragmenting: Level,
    /// Encoding a raft snapshot.
    pub(crate) snap_marshal: Histogram,
    /// Writing its file and making it durable.
    pub(crate) snap_fsync: Histogram,
    /// Both.
    pub(crate) snap_save: Histogram,
    /// Making a received database durable.
    pub(crate) snap_db_fsync: Histogram,
    /// Receiving it, that included.
    pub(crate) snap_db_save: Histogram,
}

impl Default for Committing {
    fn default() -> Self {
        let slow =
            |count| Histogram::of_seconds(Buckets::Doubling { first: 100 * MILLISECOND, count });
        Self {
            commit: Histogram::usual(),
            rebalance: Histogram::usual(),
            spill: Histogram::usual(),
            write: Histogram::usual(),
            defrag: slow(13),
            defragmenting: Level::default(),
            snap_marshal: Histogram::usual(),
            snap_fsync: Histogram::usual(),
            snap_save: Histogram::usual(),
            snap_db_fsync: Histogram::usual(),
            snap_db_save: slow(10),
        }
    }
}

impl Committing {
    /// Saves a raft snapshot's file, see [`wal::snap::save`].
    pub(crate) fn save_snapshot(
        &self,
        dir: &Arc<dyn vfs::Dir>,
        snapshot: &proto::raftpb::Snapshot,
    ) -> Result<(), wal::Error> {
        let begin = Instant::now();
        let encoded = wal::snap::encode(snapshot);
        let at_disk = Instant::now();
        wal::snap::save_encoded(dir, snapshot, &encoded)?;
        self.snap_marshal.observe(at_disk.duration_since(begin));
        self.snap_fsync.observe(at_disk.elapsed());
        self.snap_save.observe(begin.elapsed());
        Ok(())
    }
}

impl Default for Metrics {
    /// Of a member of etcd's oldest version, without times of calls: for tests.
    fn default() -> Self {
        Self::new(Version::v3(5, 0), false)
    }
}

/// What happens to leases.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) granted: Counter,
    pub(crate) revoked: Counter,
    pub(crate) renewed: Counter,
    /// Revoked by this member as leader, because they ran out.
    pub(crate) expired: Counter,
    /// Times to live, in seconds.
    pub(crate) ttl: Histogram,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            granted: Counter::default(),
            revoked: Counter::default(),
            renewed: Counter::default(),
            expired: Counter::default(),
            ttl: Histogram::new(Buckets::Doubling { first: 1, count: 24 }, 1),
        }
    }
}

impl Leases {
    /// An entry was applied.
    pub(crate) fn applied(&self, op: &'static str, outcome: &machine::Outcome) {
        let Ok(answer) = outcome else { return };
        if let machine::Response::LeaseGrant(granted) = &answer.response {
            self.granted.count();
            self.ttl.observe_number(u64::try_from(granted.ttl).unwrap_or(0));
        } else if op == "LeaseRevoke" {
            self.revoked.count();
        }
    }
}

/// Learners that were made voters, by this member as leader.
#[derive(Debug, Default)]
pub(crate) struct Promotions {
    pub(crate) succeeded: Counter,
    /// By what was wrong. Held to count one; there are a handful of reasons.
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Promotions {
    /// One was refused, with this text.
    pub(crate) fn refused(&self, text: &str) {
        // What etcd's errors say within: they have other words for clients.
        let reason = match text {
            "etcdserver: member not found" => "membership: ID not found",
            "etcdserver: can only promote a learner member" => {
                "membership: can only promote a learner member"
            }
            text => text,
        };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed.entry(reason.to_owned()).or_default() += 1;
    }

    /// Reasons with their counts, in order.
    pub(crate) fn failures(&self) -> Vec<(String, u64)> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.iter().map(|(reason, count)| (reason.clone(), *count)).collect()
    }
}

/// Results of one check of `/livez` or `/readyz`.
#[derive(Debug, Default)]
pub(crate) struct CheckFigures {
    pub(crate) succeeded: Counter,
    pub(crate) failed: Counter,
    /// 1 if it succeeded when it was last made.
    pub(crate) last: Level,
}

/// What comes out of health checks.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Of `/health`.
    pub(crate) succeeded: Counter,
    /// Of `/health`.
    pub(crate) failed: Counter,
    /// By check and endpoint (`livez` or `readyz`). Held to find one; only checks that are known come here.
    named: Mutex<BTreeMap<(&'static str, &'static str), CheckFigures>>,
}

impl Checks {
    /// A check was made.
    pub(crate) fn checked(&self, endpoint: &'static str, check: &'static str, is_well: bool) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = named.entry((check, endpoint)).or_default();
        if is_well { &figures.succeeded } else { &figures.failed }.count();
        figures.last.set(i64::from(is_well));
    }

    /// Shows all figures, in order of check and endpoint.
    fn with_named(&self, show: impl FnOnce(&BTreeMap<(&'static str, &'static str), CheckFigures>)) {
        show(&self.named.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests;
