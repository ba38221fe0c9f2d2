//! One member, driven step by step.
//!
//! The counterpart of the server's heart, log writer, apply stage and committer, in one thread and without waiting.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use backend::CommitJob;
use bootstrap::{Beginning, Dirs, FoundingOptions, Origin};
use bytes::Bytes;
use lease::Lessor;
use machine::{Machine, Version};
use prost::Message as _;
use proto::etcdserverpb::internal_raft_request::Request;
use proto::etcdserverpb::{InternalRaftRequest, LeaseRevokeRequest, RequestHeader};
use proto::{raftpb, walpb};
use raft::{Append, LogIndex};
use replica::{Effect, Input, Proposal, Replica};
use vfs::Dir;
use wal::{Batch, Wal};

/// Sizes and counts, small enough that a short workload meets every boundary.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// Page size of the database.
    pub page_size: u32,
    /// Applied entries between two raft snapshots.
    pub snapshot_count: u64,
    /// Entries that stay in memory behind a snapshot.
    pub catchup_entries: u64,
    /// Snapshot files and segments that are kept.
    pub files_kept: usize,
    /// Rows that one step of a compaction looks at.
    pub compaction_batch: usize,
    /// A mistake to make.
    pub plant: Plant,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 4096,
            page_size: 1024,
            snapshot_count: 8,
            catchup_entries: 3,
            files_kept: 2,
            compaction_batch: 8,
            plant: Plant::None,
        }
    }
}

/// Mistakes that the crash test must find. They are made by the driver, which is not production code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// None.
    None,
    /// Clients are answered before the log is synced.
    AnswerBeforeSync,
    /// The database is committed with the index of an entry that it does not hold.
    IndexAhead,
    /// A raft snapshot does not wait for the commit that it rests on.
    SnapshotBeforeCommit,
}

/// Why a member does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It cannot be opened.
    #[error("open: {0}")]
    Open(#[from] bootstrap::Error),
    /// A directory.
    #[error("directory: {0}")]
    Directory(#[from] std::io::Error),
    /// The log, or a snapshot file.
    #[error("log: {0}")]
    Log(#[from] wal::Error),
    /// The database.
    #[error("database: {0}")]
    Backend(#[from] backend::Error),
    /// The state machine.
    #[error("apply: {0}")]
    Machine(#[from] machine::Fatal),
    /// A compaction.
    #[error("compaction: {0}")]
    Storage(#[from] mvcc::StorageError),
    /// A conf change that the state machine gave and raft cannot read.
    #[error("conf change: {0}")]
    ConfChange(String),
}

/// What the outcome of an entry was.
#[derive(Debug)]
pub struct Answered {
    /// The entry.
    pub index: u64,
    /// The outcome; `None` for an entry that nobody waits for.
    pub outcome: Option<machine::Outcome>,
}

/// One member.
pub struct Solo {
    settings: Settings,
    replica: Replica,
    machine: Machine,
    log: Wal,
    dirs: Dirs,
    /// The member's clock. Stands still unless told.
    now: Duration,
    is_leader: bool,
    is_new: bool,
    next_request: u64,
    compactions: VecDeque<mvcc::Compaction>,
    last_snapshot: u64,
    is_snapshot_wanted: bool,
    job: Option<CommitJob>,
    snapshot: Option<raftpb::Snapshot>,
    /// A snapshot whose file is complete.
    saved: Option<raftpb::Snapshot>,
    inputs: Vec<Input>,
    answered: Vec<Answered>,
}

const NAME: &str = "solo";

fn options(settings: &Settings) -> bootstrap::Options {
    bootstrap::Options {
        beginning: Beginning::Found(FoundingOptions {
            name: NAME.to_owned(),
            members: vec![(NAME.to_owned(), vec!["http://127.0.0.1:2380".to_owned()])],
            cluster_token: "sim".to_owned(),
        }),
        wal: wal::Options { segment_bytes: settings.segment_bytes },
        backend: backend::Options {
            page_size: settings.page_size,
            initial_map_bytes: 0,
            sync: true,
        },
        machine: machine::Options::new(0, Version::v3(5, 30)),
        asked_version: None,
        force_new_cluster: false,
        election_ticks: 10,
        pre_vote: true,
        seed: 1,
        trace: Arc::new(raft::Silent),
    }
}

impl Solo {
    /// Opens the member in a directory, or makes one. Nothing of the log is applied yet.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn open(dir: &Arc<dyn Dir>, settings: &Settings) -> Result<Self, Failure> {
        let snap = match dir.subdir("snap") {
            Ok(snap) => snap,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let snap = dir.create_subdir("snap")?;
                dir.sync()?;
                snap
            }
            Err(error) => return Err(error.into()),
        };
        let dirs = Dirs { snap, wal_parent: Arc::clone(dir), wal_name: "wal".to_owned() };
        let member = bootstrap::open(dirs, &options(settings))?;
        Ok(Self {
            settings: settings.clone(),
            replica: member.replica,
            machine: member.machine,
            log: member.wal,
            dirs: member.dirs,
            now: Duration::ZERO,
            is_leader: false,
            is_new: matches!(member.origin, Origin::New),
            next_request: 1,
            compactions: member.compaction.into_iter().collect(),
            last_snapshot: member.snapshot_index,
            is_snapshot_wanted: false,
            job: None,
            snapshot: None,
            saved: None,
            inputs: Vec::new(),
            answered: Vec::new(),
        })
    }

    /// Whether there was nothing to start from.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The state machine.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Makes the member leader, which replays the log and adds an empty entry.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn lead(&mut self) -> Result<(), Failure> {
        self.settle()?;
        self.inputs.push(Input::Campaign);
        self.settle()
    }

    /// Whether the member leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.is_leader
    }

    /// Hands in a request; [`Solo::settle`] carries it out.
    pub fn propose(&mut self, request: Request) {
        let request_id = self.next_request;
        self.next_request += 1;
        let request = InternalRaftRequest {
            header: Some(RequestHeader { id: request_id, ..RequestHeader::default() }),
            request: Some(request),
            ..InternalRaftRequest::default()
        };
        self.inputs.push(Input::Propose(Proposal {
            request_id,
            data: Bytes::from(request.encode_to_vec()),
            request: Arc::new(request),
        }));
    }

    /// Takes what was answered since the last call.
    pub fn take_answered(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.answered)
    }

    /// Lets time pass, and says which leases are to be revoked.
    pub fn pass_time(&mut self, by: Duration) -> Vec<Request> {
        self.now += by;
        let expired = lock(&self.machine.lessor()).expired(self.now, lease::EXPIRED_PER_ROUND);
        let revoke = |id: lease::LeaseId| Request::LeaseRevoke(LeaseRevokeRequest { id: id.0 });
        expired.into_iter().map(revoke).collect()
    }

    /// Carries out everything that follows from what was handed in, in rounds.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn settle(&mut self) -> Result<(), Failure> {
        let mut effects = Vec::new();
        let mut appends = Vec::new();
        let mut applies = Vec::new();
        if self.settings.plant == Plant::AnswerBeforeSync {
            // What was staged the last time is written now, after its clients were answered.
            self.log.commit()?;
        }
        loop {
            for input in std::mem::take(&mut self.inputs) {
                self.replica.handle(input, &mut effects);
            }
            self.replica.flush(&mut effects);
            if effects.is_empty() {
                return Ok(());
            }
            for effect in effects.drain(..) {
                match effect {
                    Effect::Persist(append) => appends.push(append),
                    Effect::Apply(apply) => applies.push(apply),
                    Effect::Status(status) => self.leadership(status.role == raft::Role::Leader),
                    Effect::ConfState(Err(error)) => {
                        return Err(Failure::ConfChange(error.to_string()));
                    }
                    Effect::ConfState(Ok(_))
                    | Effect::Send(_)
                    | Effect::SendSnapshot(_)
                    | Effect::Install(_)
                    | Effect::ReadReady { .. }
                    | Effect::Dropped { .. }
                    | Effect::Rejected(_) => {}
                }
            }
            if !appends.is_empty() {
                self.write(&appends)?;
                self.inputs.extend(appends.drain(..).map(Input::Persisted));
            }
            for apply in applies.drain(..) {
                self.apply(apply)?;
            }
        }
    }

    fn write(&mut self, appends: &[Append]) -> Result<(), Failure> {
        for append in appends {
            let entries: Vec<raftpb::Entry> =
                append.entries.iter().map(raft::codec::entry_to_proto).collect();
            let hard_state = append.hard_state.as_ref().map(raft::codec::hard_state_to_proto);
            self.log.stage(&Batch { entries: &entries, hard_state });
        }
        if self.settings.plant != Plant::AnswerBeforeSync && self.log.commit()?.cut {
            self.log.preallocator().run()?;
        }
        Ok(())
    }

    fn leadership(&mut self, is_leader: bool) {
        if self.is_leader && !is_leader {
            lock(&self.machine.lessor()).demote();
        }
        self.is_leader = is_leader;
    }

    fn apply(&mut self, apply: replica::Apply) -> Result<(), Failure> {
        let mut last = 0;
        for committed in apply.entries {
            let index = committed.entry.index;
            last = index.0;
            let entry = match committed.request {
                Some(request) => machine::Committed {
                    index: index.0,
                    term: committed.entry.term.0,
                    payload: machine::Payload::Request(request),
                },
                None => {
                    machine::Committed::from_entry(raft::codec::entry_to_proto(&committed.entry))?
                }
            };
            let applied = self.machine.apply(&entry, self.now)?;
            for effect in applied.effects {
                self.carry_out(effect)?;
            }
            self.answered.push(Answered { index: index.0, outcome: applied.outcome });
        }
        self.machine.writer().publish();
        self.inputs.push(Input::Applied(apply.done));
        if last.saturating_sub(self.last_snapshot) > self.settings.snapshot_count {
            self.is_snapshot_wanted = true;
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: machine::Effect) -> Result<(), Failure> {
        match effect {
            machine::Effect::ConfChange(change) => {
                let change = raft::codec::decode_conf_change(Bytes::from(change.encode_to_vec()))
                    .map_err(|error| Failure::ConfChange(error.to_string()))?;
                let index = LogIndex(self.machine.applied());
                self.inputs.push(Input::ConfChangeApplied { index, change: change.into() });
            }
            machine::Effect::EmptyEntry => {
                if self.is_leader {
                    lock(&self.machine.lessor()).promote(Duration::from_secs(1), self.now);
                }
            }
            machine::Effect::Compact(compaction) => self.compactions.push_back(compaction),
            machine::Effect::Snapshot => self.is_snapshot_wanted = true,
            machine::Effect::Peer(_)
            | machine::Effect::Auth(_)
            | machine::Effect::SelfRemoved
            | machine::Effect::PromotedBefore { .. }
            | machine::Effect::RaiseAlarm(_)
            | machine::Effect::ClusterVersion { .. } => {}
        }
        Ok(())
    }

    /// Runs one step of a compaction, if there is one.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn step_compaction(&mut self) -> Result<(), Failure> {
        let Some(compaction) = self.compactions.front_mut() else { return Ok(()) };
        let step = compaction.step(self.settings.compaction_batch)?;
        if step.apply(self.machine.writer()).is_break() {
            self.compactions.pop_front();
        }
        Ok(())
    }

    /// Does the next of the committer's steps: take a commit, run it, save the snapshot that rests on it, vouch for that.
    /// Entries may be applied between any two of them.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn step_committer(&mut self) -> Result<(), Failure> {
        if let Some(saved) = self.saved.take() {
            return self.vouch(saved);
        }
        if self.settings.plant == Plant::SnapshotBeforeCommit
            && let Some(snapshot) = self.snapshot.take()
        {
            return self.save(snapshot);
        }
        if let Some(job) = self.job.take() {
            job.run()?;
            return Ok(());
        }
        if let Some(snapshot) = self.snapshot.take() {
            return self.save(snapshot);
        }
        self.take_commit();
        Ok(())
    }

    fn take_commit(&mut self) {
        let writer = self.machine.writer();
        if self.settings.plant == Plant::IndexAhead && writer.pending_ops() > 0 {
            let backend::Consistent { index, term } = writer.consistent();
            writer.set_consistent_index(index + 1, term);
            writer.publish();
        }
        if self.is_snapshot_wanted {
            let snapshot = self.machine.snapshot();
            if let Some(job) = self.machine.writer().take_commit() {
                self.job = Some(job);
                self.last_snapshot = snapshot.metadata.index;
                self.snapshot = Some(snapshot);
                self.is_snapshot_wanted = false;
            }
        } else {
            self.job = self.machine.writer().take_commit();
        }
    }

    fn save(&mut self, snapshot: raftpb::Snapshot) -> Result<(), Failure> {
        wal::snap::save(&self.dirs.snap, &snapshot)?;
        self.saved = Some(snapshot);
        Ok(())
    }

    fn vouch(&mut self, snapshot: raftpb::Snapshot) -> Result<(), Failure> {
        let raftpb::SnapshotMetadata { conf_state, index, term } = snapshot.metadata;
        let record = walpb::Snapshot { index, term, conf_state: Some(conf_state.clone()) };
        self.log.save_snapshot(&record)?;
        // Not before: a file that the log does not vouch for must not take the place of one that it does.
        wal::snap::remove_orphan_dbs(&self.dirs.snap, index)?;
        wal::snap::purge(&self.dirs.snap, self.settings.files_kept, index)?;
        self.log.release_to(index);
        wal::purge(&self.dirs.wal_parent, &self.dirs.wal_name, self.settings.files_kept)?;
        self.inputs.push(Input::SnapshotTaken {
            index: LogIndex(index),
            conf_state: raft::codec::conf_state_from_proto(conf_state),
            data: snapshot.data.unwrap_or_default(),
            compact: LogIndex(index.saturating_sub(self.settings.catchup_entries).max(1)),
        });
        self.settle()
    }
}

/// Locks the lessor, which nobody else has.
pub(crate) fn lock(lessor: &std::sync::Mutex<Lessor>) -> MutexGuard<'_, Lessor> {
    lessor.lock().unwrap_or_else(PoisonError::into_inner)
}
