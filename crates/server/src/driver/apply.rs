//! The apply stage: owns the state machine, and tells everybody what became of each entry.
//!
//! For each batch of committed entries: apply all, make the effects visible, then answer whoever waits and hand the events
//! to the watchers. So a client that has its answer finds its write in every later read.
//!
//! Between batches it looks after what is due: commits of the database (by number of operations and by time, as etcd), steps
//! of a running compaction, raft snapshots. None of it waits for a disk here.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use machine::{Effect, Machine, StorageMigration};
use prost::Message as _;
use proto::etcdserverpb::AlarmRequest;
use raft::LogIndex;
use replica::Input;
use tokio::sync::oneshot;

use super::committer::{self, AfterCommit, SnapshotPoint};
use super::heart;
use super::mailbox::{Receiver, Sender, Wait};
use super::tell::{self, Speaker};
use crate::access::Access;
use crate::board::Board;
use crate::facts::Facts;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::proposals::Waiters;
use crate::request::{ApplyRequests, Outcome};
use crate::watching::Outlet;
use crate::{told, waking};

/// What others ask of the stage.
#[derive(Debug)]
pub(crate) enum Work {
    /// The committer has done its last job.
    JobEnded,
    /// Commit what is there, and say so when it is durable.
    Commit(oneshot::Sender<()>),
    /// Defragment the database.
    Defragment(oneshot::Sender<Result<backend::DefragStats, String>>),
    /// Send the state to a member that is too far behind: this message, brought up to date.
    SendSnapshot(raft::Message),
}

/// What the heart hands over where the stage has a thread of its own.
#[derive(Debug)]
pub(crate) enum Order {
    /// Apply these.
    Apply(replica::Apply),
    /// Put this in place of the state so far.
    Install(raft::Snapshot),
    /// The leader changed; whether this member is it.
    Leadership(bool),
    /// What others ask for.
    Work(Work),
    /// Make the last commit, and end.
    Stop,
}

/// When the stage does what nobody asks it for.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// Longest time that a change waits for a commit.
    pub(crate) commit_interval: Duration,
    /// Most operations that wait for one.
    pub(crate) commit_ops: u64,
    /// Most memory that waits for one. etcd has no such limit; large values would gather without bound here, since
    /// writes go on while a commit runs.
    pub(crate) commit_bytes: usize,
    /// Applied entries between two raft snapshots.
    pub(crate) snapshot_count: u64,
    /// Revisions that one step of a compaction removes.
    pub(crate) compaction_batch: usize,
    /// Pause between two steps.
    pub(crate) compaction_pause: Duration,
    /// What a new leader adds to every lease: an election timeout, for the renewals that got lost on the way.
    pub(crate) lease_extension: Duration,
    /// Time to apply an entry from which on it is told.
    pub(crate) slow_after: Duration,
}

/// The apply stage's belongings.
pub(crate) struct ApplyStage {
    pub(crate) machine: Machine,
    pub(crate) committer: Sender<committer::Work>,
    pub(crate) watch: Outlet,
    pub(crate) waiters: Arc<Waiters<Outcome>>,
    pub(crate) board: Arc<Board>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) access: Arc<Access>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) requests: ApplyRequests,
    pub(crate) policy: Policy,
    /// The moment that the state machine counts time from.
    pub(crate) epoch: Instant,
    pub(crate) state: State,
}

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// When the oldest operation that waits for a commit was made.
    pending_since: Option<Instant>,
    /// What waits for the next commit.
    after_commit: Vec<AfterCommit>,
    /// Somebody wants a commit although it may not be due.
    is_commit_wanted: bool,
    defrags: VecDeque<oneshot::Sender<Result<backend::DefragStats, String>>>,
    compactions: VecDeque<mvcc::Compaction>,
    next_compaction_step: Option<Instant>,
    /// When the first of the compactions began.
    compaction_began: Option<Instant>,
    /// Rows that it has removed so far.
    compacted_rows: usize,
    last_snapshot: u64,
    is_snapshot_wanted: bool,
    is_leader: bool,
    /// The rows may not say yet that they are of the cluster's version.
    is_migration_due: bool,
    /// The last raft snapshot that is complete on disk, as far as the committer has said.
    saved_snapshot: u64,
    /// Who is to be sent the state of the next commit.
    receivers: Vec<raft::Message>,
}

impl State {
    /// What a member starts with: the last raft snapshot, and a compaction that a crash interrupted.
    pub(crate) fn new(last_snapshot: u64, compaction: Option<mvcc::Compaction>) -> Self {
        Self {
            last_snapshot,
            saved_snapshot: last_snapshot,
            is_migration_due: true,
            compactions: compaction.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// What became of each request: its id, its entry's bytes, and the outcome.
type Outcomes = Vec<(u64, Bytes, machine::Outcome)>;

/// What a batch came to, for those outside.
#[must_use]
pub(crate) struct Answers {
    outcomes: Outcomes,
    events: Vec<Arc<mvcc::EventBatch>>,
}

impl ApplyStage {
    /// Runs until it is told to stop, then makes the last commit.
    pub(crate) fn run(
        mut self,
        inbox: &Receiver<Order>,
        heart: &Sender<heart::Work>,
    ) -> Result<(), machine::Fatal> {
        let mut arrived = VecDeque::new();
        let mut orders = VecDeque::new();
        let mut inputs = Vec::new();
        let mut is_stopping = false;
        loop {
            let deadline = self.deadline();
            if inbox.take(&mut arrived, deadline) == Wait::Closed {
                // The heart has gone without a word: it has failed, and so has the member.
                return Ok(());
            }
            orders.append(&mut arrived);
            while let Some(order) = self.next_order(&mut orders) {
                match order {
                    Order::Apply(batch) => {
                        let answers = self.apply(batch, &mut inputs)?;
                        // First: who hears that the membership changed may propose the next change at once.
                        heart.send_all(inputs.drain(..).map(heart::Work::Replica));
                        self.answer_elsewhere(answers);
                    }
                    Order::Install(snapshot) => self.install(&snapshot)?,
                    Order::Leadership(is_leader) => self.leadership(is_leader),
                    Order::Work(work) => self.take(work),
                    Order::Stop => is_stopping = true,
                }
            }
            if !is_stopping {
                self.look_after()?;
            } else if !self.is_busy() {
                self.last_commit()?;
                heart.send_all([heart::Work::ApplyEnded]);
                return Ok(());
            }
        }
    }

    /// The next order that can be carried out: all in order, but for what an installation waits for.
    fn next_order(&mut self, orders: &mut VecDeque<Order>) -> Option<Order> {
        // The database cannot be replaced under a commit, whose end is an order too.
        if matches!(orders.front(), Some(Order::Install(_))) && self.is_busy() {
            let is_work = |order: &Order| matches!(order, Order::Work(_));
            return orders.iter().position(is_work).and_then(|place| orders.remove(place));
        }
        orders.pop_front()
    }

    /// Takes what others ask for; it is done by [`ApplyStage::look_after`].
    pub(crate) fn take(&mut self, work: Work) {
        match work {
            // What waited for it is started next.
            Work::JobEnded => self.state.saved_snapshot = self.state.last_snapshot,
            Work::Commit(reply) => self.state.after_commit.push(AfterCommit::Reply(reply)),
            Work::Defragment(reply) => self.state.defrags.push_back(reply),
            Work::SendSnapshot(message) => self.state.receivers.push(message),
        }
    }

    /// Takes over the state that came with a snapshot. Only while the committer has no job.
    pub(crate) fn install(&mut self, snapshot: &raft::Snapshot) -> Result<(), machine::Fatal> {
        let _installing = self.metrics.applying.installing.enter();
        let index = snapshot.metadata.index;
        tracing::info!(
            current_applied_index = self.machine.applied(),
            incoming_leader_snapshot_index = index.0,
            "applying snapshot"
        );
        let compaction = self.machine.install(&raft::codec::snapshot_to_proto(snapshot))?;
        // What was to be removed went with the old content.
        self.state.compactions = compaction.into_iter().collect();
        self.state.next_compaction_step = None;
        self.state.pending_since = None;
        self.state.last_snapshot = index.0;
        self.state.saved_snapshot = index.0;
        self.state.is_migration_due = true;
        self.state.is_snapshot_wanted = false;
        self.state.is_commit_wanted = true;
        self.state.after_commit.push(AfterCommit::Installed(index));
        self.requests.compaction_finished(self.machine.reader().compact_revision());
        self.peers.replace(self.machine.membership());
        self.facts.update(&self.machine);
        self.access.replace(self.machine.auth());
        self.board.set_applied(index);
        self.watch.reloaded(self.machine.revision());
        tracing::info!(applied_index = index.0, "applied snapshot");
        Ok(())
    }

    /// Does what is due between batches.
    pub(crate) fn look_after(&mut self) -> Result<(), machine::Fatal> {
        self.step_compaction()?;
        if self.state.is_migration_due {
            self.migrate_storage()?;
        }
        self.start_jobs();
        Ok(())
    }

    /// Lets the rows say that they are of the cluster's version, when they may.
    fn migrate_storage(&mut self) -> Result<(), machine::Fatal> {
        // The entry that lowered the version asked for a snapshot, which is on disk when the committer is idle again.
        let may_lower = !self.state.is_snapshot_wanted
            && !self.is_busy()
            && self.state.saved_snapshot == self.state.last_snapshot;
        match self.machine.migrate_storage(may_lower)? {
            StorageMigration::Settled => self.state.is_migration_due = false,
            StorageMigration::Waiting => {}
            StorageMigration::Done(version) => {
                self.state.is_migration_due = false;
                tracing::info!(new_storage_version = %version, "updated storage version");
                let downgrade = self.machine.membership().downgrade();
                if downgrade.enabled {
                    tracing::info!(
                        target_version = downgrade.target_version,
                        server_version = %self.machine.version(),
                        "The server is ready to downgrade"
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether the committer has a job.
    pub(crate) fn is_busy(&mut self) -> bool {
        self.machine.writer().is_busy()
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Applies a batch and makes its effects visible. What consensus has to hear is added to `inputs`; then comes
    /// [`ApplyStage::answer`].
    pub(crate) fn apply(
        &mut self,
        apply: replica::Apply,
        inputs: &mut Vec<Input>,
    ) -> Result<Answers, machine::Fatal> {
        let replica::Apply { entries, done } = apply;
        let now = self.now();
        let mut answers =
            Answers { outcomes: Vec::with_capacity(entries.len()), events: Vec::new() };
        let mut last = LogIndex::ZERO;
        let tells_all = tracing::enabled!(tracing::Level::DEBUG);
        if tells_all {
            tracing::debug!(num_entries = entries.len(), "Applying entries");
        }
        let mut begin = Instant::now();
        for committed in entries {
            last = committed.entry.index;
            let data = committed.entry.data.clone();
            let committed = to_machine(committed)?;
            if tells_all {
                self.speaker().entry(&committed, self.machine.applied());
            }
            // There may be several changes in a batch, and each is told with the members just before it.
            let is_conf_change = matches!(committed.payload, machine::Payload::ConfChange(_));
            let before = is_conf_change.then(|| self.machine.membership().clone());
            let applied = self.machine.apply(&committed, now)?;
            let end = Instant::now();
            let took = end.duration_since(begin);
            self.record(&applied, took);
            if took > self.policy.slow_after {
                let form = told::Form::of(self.requests.core.version);
                log_slow(&committed, form, took, self.policy.slow_after, applied.outcome.as_ref());
            }
            begin = end;
            answers.events.extend(applied.events);
            let mut alarm = None;
            for effect in applied.effects {
                match effect {
                    Effect::ConfChange(change) => {
                        // Not what was refused, and not what was applied before the last stop.
                        if let Some(before) = &before
                            && change.node_id != 0
                            && applied.outcome.is_some()
                        {
                            self.speaker().membership(&change, before, self.machine.membership());
                        }
                        inputs.push(conf_change(last, &change)?);
                    }
                    Effect::RaiseAlarm(request) => alarm = Some(request),
                    Effect::EmptyEntry => self.count_leases(),
                    Effect::Compact(compaction) => self.compact(compaction),
                    // Before the next entry: its rows are for those to see who may by then.
                    Effect::Auth(effect) => {
                        tracing::debug!("Refreshing rangePermCache");
                        let (before, after) = (self.access.rights(), self.machine.auth());
                        self.speaker().auth(&committed.payload, &before, after);
                        self.access.apply(last, &effect, after);
                    }
                    Effect::Snapshot => self.state.is_snapshot_wanted = true,
                    Effect::ClusterVersion { old, new } => {
                        self.speaker().cluster_version(old, new);
                        self.state.is_migration_due = true;
                    }
                    Effect::Peer(change) => self.peers.change(&change),
                    Effect::PromotedBefore { id, is_mended } => {
                        let member_id = format!("{id:x}");
                        if is_mended {
                            tracing::info!(
                                member_id,
                                "Forcibly apply member promotion request in v3store"
                            );
                        } else {
                            tracing::info!(member_id, "ignore already promoted member in v3store");
                        }
                    }
                    Effect::SelfRemoved => self.peers.removed(),
                }
            }
            match (alarm, applied.outcome) {
                (Some(alarm), outcome) => {
                    self.raise_alarm(alarm, (applied.request_id, data), outcome)
                }
                (None, Some(outcome)) if applied.request_id != 0 => {
                    answers.outcomes.push((applied.request_id, data, outcome));
                }
                (None, _) => {}
            }
        }
        self.machine.writer().publish();
        self.facts.update(&self.machine);
        self.board.set_applied(last);
        inputs.push(Input::Applied(done));
        if last.0.saturating_sub(self.state.last_snapshot) > self.policy.snapshot_count {
            self.state.is_snapshot_wanted = true;
        }
        Ok(answers)
    }

    /// Counts an entry.
    fn record(&self, applied: &machine::Applied, took: Duration) {
        let (Some(op), Some(outcome)) = (applied.op, &applied.outcome) else { return };
        let Metrics { applying, leases, .. } = &*self.metrics;
        applying.applied(op, outcome, took);
        leases.applied(op, outcome);
        if op == "Compaction" && outcome.is_ok() {
            applying.index_compactions.observe(took);
        }
        if took > self.policy.slow_after {
            applying.slow.count();
        }
        if let Some(events) = &applied.events {
            if op == "LeaseRevoke" {
                applying.revoked(events.events.len());
            }
            let is_put = |event: &&mvcc::watch::Event| {
                matches!(event.kind, mvcc::watch::EventKind::Put { .. })
            };
            let bytes = events.events.iter().filter(is_put).map(|event| event.encoded().len());
            applying.put_bytes.add(bytes.sum::<usize>() as u64);
        }
    }

    /// Tells clients and watchers what a batch came to, from the heart's thread while the member is alone.
    pub(crate) fn answer(&self, answers: Answers) {
        finish(&self.waiters, answers.outcomes);
        self.tell_watchers(answers.events);
    }

    /// The same from a thread of its own: in company it pays to leave the waking to the clients' executor, alone it did not.
    fn answer_elsewhere(&self, answers: Answers) {
        let Answers { outcomes, events } = answers;
        let waiters = Arc::clone(&self.waiters);
        let callers = outcomes.len();
        waking::tell(callers, &self.requests.runtime, move || finish(&waiters, outcomes));
        self.tell_watchers(events);
    }

    fn tell_watchers(&self, events: Vec<Arc<mvcc::EventBatch>>) {
        if !events.is_empty() {
            // Bounded by what clients have in flight: the hub takes whole batches, and never waits for a watcher.
            self.watch.send(events);
        }
    }

    /// An entry of the leader's own term is applied, hence all of its predecessors': a leader may count time now.
    fn count_leases(&mut self) {
        if self.state.is_leader {
            let now = self.now();
            lock(&self.machine.lessor()).promote(self.policy.lease_extension, now);
        }
    }

    fn compact(&mut self, compaction: mvcc::Compaction) {
        tracing::info!(revision = compaction.revision(), "compact tree index");
        self.state.compactions.push_back(compaction);
        // etcd commits at once, so that a crash goes on with the compaction.
        self.state.is_commit_wanted = true;
    }

    fn speaker(&self) -> Speaker {
        let core = &self.requests.core;
        Speaker { cluster_id: core.cluster_id, member_id: core.member_id, version: core.version }
    }

    /// Proposes the alarm, and answers the request that ran into the quota when the alarm stands.
    fn raise_alarm(
        &self,
        alarm: AlarmRequest,
        proposal: (u64, Bytes),
        outcome: Option<machine::Outcome>,
    ) {
        told::over_quota(&self.requests.core.config);
        self.requests.propose_alarm(alarm, proposal, outcome);
    }

    /// The leader changed.
    pub(crate) fn leadership(&mut self, is_leader: bool) {
        tracing::debug!(is_leader, "leadership changed");
        self.state.is_leader = is_leader;
        if !is_leader {
            lock(&self.machine.lessor()).demote();
        }
    }

    /// When something is due that no input tells of.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        // A commit that is due while a job runs waits for the job's end, which is an input.
        let is_busy = self.machine.writer().is_busy();
        let commit = self
            .state
            .pending_since
            .map(|since| since + self.policy.commit_interval)
            .filter(|_| !is_busy);
        [commit, self.state.next_compaction_step].into_iter().flatten().min()
    }

    fn step_compaction(&mut self) -> Result<(), machine::Fatal> {
        if self.state.next_compaction_step.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        self.state.next_compaction_step = None;
        let Some(compaction) = self.state.compactions.front_mut() else { return Ok(()) };
        let begin = Instant::now();
        let began = *self.state.compaction_began.get_or_insert(begin);
        let step = compaction.step(self.policy.compaction_batch)?;
        if let mvcc::CompactionStep::Delete { rows, .. } = &step {
            self.metrics.applying.compacted_rows.add(rows.len() as u64);
            self.state.compacted_rows += rows.len();
            tracing::debug!(rows = rows.len(), "removed rows of a compaction");
        }
        let revision = compaction.revision();
        let pause = if step.wants_pause() { self.policy.compaction_pause } else { Duration::ZERO };
        if step.apply(self.machine.writer()).is_break() {
            self.state.compactions.pop_front();
            self.state.is_commit_wanted = true;
            self.tell_compacted(revision, began.elapsed());
            self.metrics.applying.compaction_finished(began.elapsed());
            self.state.compaction_began = None;
            self.requests.compaction_finished(revision);
        }
        self.metrics.applying.compaction_steps.observe(begin.elapsed());
        if !self.state.compactions.is_empty() {
            self.state.next_compaction_step = Some(Instant::now() + pause);
        }
        Ok(())
    }

    /// Tells of a compaction that has finished. One that a stop interrupted has no hash: it did not see all rows.
    fn tell_compacted(&mut self, revision: i64, took: Duration) {
        let sizes = self.requests.core.backend.view().size();
        let hash = self.machine.reader().compaction_hashes().first().copied();
        let hash = hash.filter(|hash| hash.revision == revision);
        let keys = std::mem::take(&mut self.state.compacted_rows);
        tracing::info!(
            compact_revision = revision,
            took = told::go_duration(took),
            // In etcd's order, and only where etcd has it.
            number_of_keys_compacted = (self.requests.core.version.minor >= 7).then_some(keys),
            hash = hash.map(|hash| hash.hash),
            current_db_size_bytes = sizes.total_bytes,
            current_db_size = told::human_bytes(sizes.total_bytes),
            current_db_size_in_use_bytes = sizes.in_use_bytes,
            current_db_size_in_use = told::human_bytes(sizes.in_use_bytes),
            "finished scheduled compaction"
        );
        if let Some(mvcc::HashedAt { hash, revision, compact_revision }) = hash {
            tracing::info!(hash, revision, compact_revision, "storing new hash");
        }
    }

    /// Gives the committer what is due, one job at a time.
    fn start_jobs(&mut self) {
        let now = Instant::now();
        let ops = self.machine.writer().pending_ops();
        if ops == 0 {
            self.state.pending_since = None;
        } else if self.state.pending_since.is_none() {
            self.state.pending_since = Some(now);
        }
        if self.machine.writer().is_busy() {
            return;
        }
        let is_due = self
            .state
            .pending_since
            .is_some_and(|since| now >= since + self.policy.commit_interval)
            || ops >= self.policy.commit_ops
            || self.machine.writer().pending_bytes() >= self.policy.commit_bytes;
        let is_forced = self.state.is_commit_wanted
            || self.state.is_snapshot_wanted
            || !self.state.after_commit.is_empty()
            || !self.state.receivers.is_empty();
        if is_due || is_forced {
            self.commit();
        } else if let Some(reply) = self.state.defrags.pop_front()
            && let Some(job) = self.machine.writer().take_defrag()
        {
            self.committer.send_all([committer::Work::Defragment { job, reply }]);
        }
    }

    fn commit(&mut self) {
        let snapshot = self.state.is_snapshot_wanted.then(|| self.snapshot_point());
        let Some(job) = self.machine.writer().take_commit() else { return };
        self.state.pending_since = None;
        self.state.is_commit_wanted = false;
        let mut then = std::mem::take(&mut self.state.after_commit);
        let receivers = std::mem::take(&mut self.state.receivers);
        if !receivers.is_empty() {
            then.push(AfterCommit::Send { receivers, point: self.snapshot_point() });
        }
        if let Some(point) = snapshot {
            self.state.is_snapshot_wanted = false;
            let Speaker { member_id, version, .. } = self.speaker();
            let since_last = point.index.0.saturating_sub(self.state.last_snapshot);
            tracing::info!(
                local_member_id = format!("{member_id:x}"),
                local_member_applied_index = point.index.0,
                local_member_snapshot_index = self.state.last_snapshot,
                local_member_snapshot_count = self.policy.snapshot_count,
                snapshot_forced =
                    (version.minor >= 6).then_some(since_last <= self.policy.snapshot_count),
                "triggering snapshot"
            );
            self.state.last_snapshot = point.index.0;
            then.insert(0, AfterCommit::Snapshot(point));
        }
        self.committer.send_all([committer::Work::Commit { job, then }]);
    }

    fn snapshot_point(&self) -> SnapshotPoint {
        let proto::raftpb::Snapshot { data, metadata } = self.machine.snapshot();
        SnapshotPoint {
            index: LogIndex(metadata.index),
            term: metadata.term,
            conf_state: metadata.conf_state,
            document: data.unwrap_or_default(),
        }
    }

    /// Ends the watch stage, and commits what is left. Only while the committer has no job.
    pub(crate) fn last_commit(&mut self) -> Result<(), machine::Fatal> {
        self.watch.stop();
        if let Some(job) = self.machine.writer().take_commit() {
            job.run()?;
        }
        Ok(())
    }
}

/// The entry as the state machine takes it.
fn to_machine(committed: replica::Committed) -> Result<machine::Committed, machine::Fatal> {
    let replica::Committed { entry, request } = committed;
    let (index, term) = (entry.index.0, entry.term.0);
    match request {
        Some(request) => {
            Ok(machine::Committed { index, term, payload: machine::Payload::Request(request) })
        }
        None => machine::Committed::from_entry(raft::codec::entry_to_proto(&entry)),
    }
}

/// Tells of an entry that took long to apply.
fn log_slow(
    committed: &machine::Committed,
    form: told::Form,
    took: Duration,
    limit: Duration,
    outcome: Option<&machine::Outcome>,
) {
    // Changes of the membership are not requests of a client, and not told by etcd.
    let Some(request) = tell::proposal(&committed.payload, form) else { return };
    match outcome {
        Some(Err(error)) => told::slow(took, limit, "", &request, "", Some(error)),
        Some(Ok(answer)) => told::slow(took, limit, "", &request, &answer_size(answer), None),
        None => told::slow(took, limit, "", &request, "", None),
    }
}

fn finish(waiters: &Waiters<Outcome>, outcomes: Outcomes) {
    for (request_id, data, outcome) in outcomes {
        waiters.finish(request_id, &data, Outcome::Applied(outcome));
    }
}

/// The bytes of an answer as etcd tells them when the entry has been applied: its header has only the revision by then, which that of
/// a transaction still lacks here. Nothing for what is no change of keys.
fn answer_size(answer: &machine::Answer) -> String {
    let bytes = match &answer.response {
        machine::Response::Put(response) => response.encoded_len(),
        machine::Response::DeleteRange(response) => response.encoded_len(),
        machine::Response::Txn(response) => {
            response.encoded_len() + prost::encoding::int64::encoded_len(3, &answer.revision)
        }
        machine::Response::Done
        | machine::Response::LeaseGrant(_)
        | machine::Response::Alarms(_)
        | machine::Response::Members(_)
        | machine::Response::Auth(_) => return String::new(),
    };
    format!("size:{bytes}")
}

/// A panic with the lock held ends the process, so a poisoned lock is as good as a sound one.
fn lock(lessor: &Mutex<lease::Lessor>) -> MutexGuard<'_, lease::Lessor> {
    lessor.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change as raft takes it.
fn conf_change(
    index: LogIndex,
    change: &proto::raftpb::ConfChange,
) -> Result<Input, machine::Fatal> {
    let change = raft::codec::decode_conf_change(Bytes::from(change.encode_to_vec()))
        .map_err(|error| machine::Fatal::Entry { index: index.0, what: error.to_string() })?;
    Ok(Input::ConfChangeApplied { index, change: change.into() })
}
