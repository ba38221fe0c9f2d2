//! One member: what survives on its disk, and what lives until it stops.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beginning, Dirs, Origin};
use machine::{Machine, Version};
use mvcc::watch::Hub;
use proto::walpb;
use raft::Role;
use replica::{Replica, Status};
use vfs::Dir;
use vfs::sim::{DirOrder, Model as DiskModel, Seeded, SimDisk};
use wal::Wal;

use super::env::{Actor, Env, Event, Life, Step, Stop};
use super::heart::HeartWork;
use super::marks::Mark;
use super::plant::Plant;
use super::reads::Reads;
use super::stage::{Order, Stage};
use super::storage::{Job, LogWork};
use super::watching::{self, WatchWork};
use super::witness::HEARTBEAT;
use crate::solo::lock;

/// What is certainly on the disk of consensus.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Durable {
    pub(super) term: u64,
    pub(super) vote: u64,
    pub(super) last: u64,
}

/// What a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Stopped, to be started again.
    Down,
    Up,
    /// Removed from the cluster, or without its disk: never started again.
    Gone,
}

/// How a member stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopping {
    /// The machine loses power.
    Power,
    /// The process ends; what it wrote stays written.
    Kill,
}

/// A member.
pub(super) struct Node {
    pub(super) id: u64,
    /// The id by which the cluster knows it.
    pub(super) raft_id: u64,
    beginning: Beginning,
    pub(super) disk: SimDisk,
    pub(super) state: State,
    lives: u32,
    /// Its seconds in a million true ones.
    rate_ppm: u64,
    pub(super) slow_until_us: u64,
    pub(super) paused_until_us: u64,
    /// The power goes in the middle of the next work on the disk.
    pub(super) is_armed: bool,
    /// A disk fault was injected: a stage may fail.
    pub(super) has_bad_disk: bool,
    /// A write through it was acknowledged after all was healed.
    pub(super) is_probed: bool,
    pub(super) live: Option<Box<Live>>,
}

/// What ends with a life.
pub(super) struct Live {
    pub(super) life: Life,
    pub(super) replica: Replica,
    pub(super) log: Wal,
    pub(super) machine: Machine,
    pub(super) reader: mvcc::Reader,
    pub(super) backend: backend::Reader,
    pub(super) dirs: Dirs,
    pub(super) durable: Durable,
    /// What everybody in the process may know.
    pub(super) status: Status,
    rate_ppm: u64,
    started_us: u64,
    pub(super) next_tick_us: u64,
    pub(super) slow_until_us: u64,
    awake: [bool; 5],
    pub(super) heart_in: VecDeque<HeartWork>,
    pub(super) log_in: VecDeque<LogWork>,
    pub(super) apply_in: VecDeque<Order>,
    pub(super) committer_in: VecDeque<Job>,
    pub(super) watch_in: VecDeque<WatchWork>,
    /// Writes that are handed over and not durable: since when.
    pub(super) unpersisted: VecDeque<u64>,
    pub(super) stage: Stage,
    pub(super) reads: Reads,
    /// Who waits for which request.
    pub(super) waiters: BTreeMap<u64, (usize, u64)>,
    pub(super) hub: Hub,
    pub(super) streams: usize,
    /// Databases on their way out.
    pub(super) outgoing: Vec<(raft::Message, backend::Snapshot)>,
    /// An older state of the database, for a mistake.
    pub(super) stale: Option<backend::View>,
}

impl Node {
    pub(super) fn new(id: u64, raft_id: u64, beginning: Beginning, env: &mut Env) -> Self {
        let model = DiskModel {
            dir_order: if env.disk.percent(50) { DirOrder::Any } else { DirOrder::Journal },
            names_follow_file_sync: env.disk.percent(25),
        };
        let drift = env.swarm.drift_ppm;
        Self {
            id,
            raft_id,
            beginning,
            disk: SimDisk::with_model(model),
            state: State::Down,
            lives: 0,
            rate_ppm: env.clock.between((1_000_000 - drift, 1_000_000 + drift)),
            slow_until_us: 0,
            paused_until_us: 0,
            is_armed: false,
            has_bad_disk: false,
            is_probed: false,
            live: None,
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.status.role == Role::Leader)
    }

    /// Opens everything, and checks what is found.
    pub(super) fn start(&mut self, env: &mut Env) -> Step {
        if self.state != State::Down {
            return Ok(());
        }
        self.disk.set_capacity(None);
        let root = self.disk.dir();
        let snap = root.create_subdir("snap")?;
        root.sync()?;
        if env.plant == Plant::AppliedTwice {
            forget_progress(&snap, env)?;
        }
        let dirs = Dirs { snap, wal_parent: root, wal_name: "wal".to_owned() };
        let received = databases(&dirs.snap)?;
        let member = bootstrap::open(dirs, &self.options(env))?;
        self.lives += 1;
        self.state = State::Up;
        let life = Life { node: self.id, number: self.lives };
        let now = env.now_us();
        let bootstrap::Member { mut machine, dirs, snapshot_index, .. } = member;
        let durable = durable(&dirs, snapshot_index)?;
        let held = machine.writer().consistent().index;
        let own = backend::snapshot_db_name(snapshot_index);
        if received.contains(&own) && !databases(&dirs.snap)?.contains(&own) {
            env.mark(Mark::SnapshotInstalledAtStart);
        }
        env.trace(self.id, "start", [held, snapshot_index, durable.last]);
        if let Origin::Restart(restart) = &member.origin {
            self.mark_restart(restart, held, snapshot_index, durable.last, env);
        }
        if member.compaction.is_some() {
            env.mark(Mark::CompactionResumed);
        }
        let reader = machine.reader();
        env.witness.holds(self.id, held, &reader, &lock(&machine.lessor()))?;
        let hub = Hub::new(reader.current_revision(), watching::limits(env));
        let mut live = Live {
            life,
            replica: member.replica,
            log: member.wal,
            reader,
            backend: member.backend,
            dirs,
            durable,
            status: Status::default(),
            rate_ppm: self.rate_ppm,
            started_us: now,
            next_tick_us: now,
            slow_until_us: self.slow_until_us,
            awake: [false; 5],
            heart_in: VecDeque::new(),
            log_in: VecDeque::new(),
            apply_in: VecDeque::new(),
            committer_in: VecDeque::new(),
            watch_in: VecDeque::new(),
            unpersisted: VecDeque::new(),
            stage: Stage::new(snapshot_index, member.compaction),
            reads: Reads::default(),
            waiters: BTreeMap::new(),
            hub,
            streams: 0,
            outgoing: Vec::new(),
            stale: None,
            machine,
        };
        live.wake(Actor::Heart, env);
        self.live = Some(Box::new(live));
        env.after(0, Event::Run(life, Actor::Tick));
        let first = env.clock.below(500_000);
        env.after(first, Event::Run(life, Actor::Expiry));
        Ok(())
    }

    fn mark_restart(
        &self,
        restart: &bootstrap::Restart,
        held: u64,
        snapshot_index: u64,
        last: u64,
        env: &mut Env,
    ) {
        for (is_so, mark) in [
            (restart.repair.is_some(), Mark::LogRepaired),
            (held < last, Mark::DatabaseBehindLog),
            (snapshot_index > 0 && held > snapshot_index, Mark::DatabaseAheadOfSnapshot),
        ] {
            if is_so {
                env.mark(mark);
            }
        }
    }

    fn options(&self, env: &Env) -> bootstrap::Options {
        let swarm = &env.swarm;
        let mut machine = machine::Options::new(0, Version::v3(5, 30));
        machine.lease = lease::Config {
            min_ttl: lease::min_ttl(swarm.election_ticks, HEARTBEAT),
            retry_after: Duration::from_secs(7),
            checkpoint_interval: None,
        };
        bootstrap::Options {
            beginning: self.beginning.clone(),
            wal: wal::Options { segment_bytes: swarm.segment_bytes },
            backend: backend::Options {
                page_size: swarm.page_size,
                initial_map_bytes: 0,
                sync: true,
            },
            machine,
            election_ticks: swarm.election_ticks,
            pre_vote: swarm.pre_vote,
            seed: u64::from(self.lives) ^ self.id << 32,
            trace: Arc::new(raft::Silent),
            asked_version: None,
            force_new_cluster: false,
        }
    }

    /// Ends the life; the disk keeps what `how` leaves.
    pub(super) fn stop(&mut self, how: Stopping, env: &mut Env) {
        if let Some(live) = self.live.take() {
            env.trace(
                self.id,
                "stop",
                [u64::from(how == Stopping::Power), live.machine.applied(), 0],
            );
            drop(live);
        }
        match how {
            Stopping::Power => self.disk.crash(&mut Seeded::new(env.disk.bits())),
            Stopping::Kill => self.disk.kill(),
        }
        if self.state == State::Up {
            self.state = State::Down;
        }
        self.is_armed = false;
        self.has_bad_disk = false;
        self.disk.clear_faults();
    }

    /// Ends the life in the middle of what the disk was told since [`SimDisk::record`].
    pub(super) fn stop_torn(&mut self, env: &mut Env) -> bool {
        let journal = self.disk.take_journal();
        let count = journal.ops().len() as u64;
        if count == 0 {
            return false;
        }
        let upto = usize::try_from(env.disk.below(count + 1)).unwrap_or(0);
        env.trace(self.id, "torn", [count, upto as u64, 0]);
        let mut chooser = Seeded::new(env.disk.bits());
        let image = SimDisk::replay(&journal, upto, &mut chooser);
        self.live = None;
        self.disk = image;
        self.state = State::Down;
        self.is_armed = false;
        self.has_bad_disk = false;
        true
    }
}

impl Live {
    pub(super) fn id(&self) -> u64 {
        self.life.node
    }

    /// The time on the member's own clock, which started with the life.
    pub(super) fn local(&self, env: &Env) -> Duration {
        let passed = env.now_us() - self.started_us;
        Duration::from_micros(passed * self.rate_ppm / 1_000_000)
    }

    /// How long something of the member's own time takes.
    pub(super) fn span_us(&self, local: Duration) -> u64 {
        let local = u64::try_from(local.as_micros()).unwrap_or(u64::MAX / 2_000_000);
        (local * 1_000_000).div_ceil(self.rate_ppm)
    }

    /// Lets a thread look at what gathered, some time from now.
    pub(super) fn wake(&mut self, actor: Actor, env: &mut Env) {
        let place = actor as usize;
        if self.awake.get(place).copied().unwrap_or(true) {
            return;
        }
        self.awake[place] = true;
        let swarm = &env.swarm;
        let range = match actor {
            Actor::Heart => swarm.heart_us,
            Actor::Log => swarm.write_us,
            Actor::Apply => swarm.apply_us,
            Actor::Committer => swarm.commit_us,
            Actor::Watch | Actor::Tick | Actor::Expiry => swarm.watch_us,
        };
        let mut span = env.disk.between(range);
        if matches!(actor, Actor::Log | Actor::Committer) {
            span = span.max(self.slow_until_us.saturating_sub(env.now_us()));
        }
        env.after(span, Event::Run(self.life, actor));
    }

    /// The thread looks now.
    pub(super) fn has_woken(&mut self, actor: Actor) {
        if let Some(awake) = self.awake.get_mut(actor as usize) {
            *awake = false;
        }
    }

    /// Checks the state machine at this moment.
    pub(super) fn check_state(&mut self, env: &Env) -> Step {
        // What is replayed after a restart is behind what the database holds.
        let index = self.machine.applied().max(self.machine.writer().consistent().index);
        Ok(env.witness.holds(self.id(), index, &self.reader, &lock(&self.machine.lessor()))?)
    }
}

/// Databases that came with snapshots.
fn databases(snap: &Arc<dyn Dir>) -> Result<Vec<String>, Stop> {
    let names = snap.list()?.into_iter().map(|entry| entry.name);
    Ok(names.filter(|name| name.ends_with(".snap.db")).collect())
}

/// What the log that was just opened holds.
fn durable(dirs: &Dirs, snapshot_index: u64) -> Result<Durable, Stop> {
    let valid = wal::valid_snapshots(&dirs.wal_parent, &dirs.wal_name)?;
    let start = valid.into_iter().find(|snapshot| snapshot.index == snapshot_index);
    let start = start.unwrap_or(walpb::Snapshot { index: snapshot_index, ..Default::default() });
    let recovered = wal::read_only(&dirs.wal_parent, &dirs.wal_name, &start)?;
    Ok(Durable {
        term: recovered.hard_state.term,
        vote: recovered.hard_state.vote,
        last: recovered.entries.last().map_or(snapshot_index, |entry| entry.index),
    })
}

/// The mistake of a database that does not know how far it is.
fn forget_progress(snap: &Arc<dyn Dir>, env: &Env) -> Step {
    if !backend::exists(snap)? {
        return Ok(());
    }
    let options =
        backend::Options { page_size: env.swarm.page_size, initial_map_bytes: 0, sync: true };
    let (mut writer, _) = backend::open(snap, &options)?;
    let index = writer.consistent().index;
    if index > 5 {
        let row = bytes::Bytes::copy_from_slice(&(index - 1).to_be_bytes());
        let key = bytes::Bytes::from_static(b"consistent_index");
        writer.put(backend::schema::Bucket::Meta, key, row);
        writer.publish();
        if let Some(job) = writer.take_commit() {
            job.run()?;
        }
    }
    Ok(())
}
