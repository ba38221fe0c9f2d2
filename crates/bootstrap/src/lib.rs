//! From directories, empty or not, to the parts of a member: log, database, state machine, consensus.
//!
//! ```text
//! new:      database ─► create the log ─► state machine ─► bootstrap entries
//! restart:  valid snapshots ─► newest .snap ─► database (at least as new) ─► log behind the snapshot ─► state machine
//! ```
//!
//! Pure: directories, versions and seeds come from outside, so that the server and the simulator open a member with the
//! same code. What is worth a line in a log is told in [`Origin`].
//!
//! Invariants
//! - a member that has run before stands for the etcd version of its cluster, unless it is asked for another (`version`);
//! - nothing is guessed: what does not fit together stops the start with the file that does not fit;
//! - whatever a crash leaves of a start, the next start goes on with. In particular a log that was created and holds no
//!   hard state yet is that of a cluster still to be founded: nothing was promised in it, and without the
//!   bootstrap entries it would wait for ever for members that it does not know.

mod error;
mod standalone;
mod version;

use std::sync::Arc;

use bytes::Bytes;
use machine::bootstrap::Founding;
use machine::{Machine, Version};
use prost::Message as _;
use proto::etcdserverpb::Metadata;
use proto::{raftpb, walpb};
use raft::{LogIndex, NodeId, Peer, SharedTrace};
use replica::{Replica, Setup};
use vfs::Dir;
use wal::Wal;

pub use error::Error;
pub use standalone::Forced;

/// The directories of a member. They exist.
pub struct Dirs {
    /// The database and the raft snapshots.
    pub snap: Arc<dyn Dir>,
    /// What the log's directory lies in.
    pub wal_parent: Arc<dyn Dir>,
    /// The log's directory.
    pub wal_name: String,
}

/// What a member is opened with.
#[derive(Clone)]
pub struct Options {
    /// How the member begins when there is no log.
    pub beginning: Beginning,
    /// The log.
    pub wal: wal::Options,
    /// The database.
    pub backend: backend::Options,
    /// The state machine. The member's id is put in here, and so is its version when it has run before: that of `machine` is
    /// for a member whose directory says nothing.
    pub machine: machine::Options,
    /// The version that the operator asks for. Without it a member that has run before goes on with its cluster's.
    pub asked_version: Option<Version>,
    /// Whether a member that has run before forgets all others, and goes on as a cluster of one.
    pub force_new_cluster: bool,
    /// Ticks without a leader after which the member campaigns.
    pub election_ticks: u32,
    /// Whether to ask for votes before raising the term.
    pub pre_vote: bool,
    /// Seed of the jitter of elections.
    pub seed: u64,
    /// Where the raft core reports to.
    pub trace: SharedTrace,
}

/// How a member begins when there is no log.
#[derive(Debug, Clone)]
pub enum Beginning {
    /// It founds a cluster.
    Found(FoundingOptions),
    /// It joins a cluster, whose log will tell it the rest.
    Join {
        /// The cluster.
        cluster_id: u64,
        /// The id under which the cluster knows it already.
        member_id: u64,
    },
}

/// A cluster to be founded.
#[derive(Debug, Clone)]
pub struct FoundingOptions {
    /// This member's name.
    pub name: String,
    /// All members' names, with their peer URLs.
    pub members: Vec<(String, Vec<String>)>,
    /// Sets clusters of equal members apart.
    pub cluster_token: String,
}

/// The parts of a member.
pub struct Member {
    /// Id of the cluster.
    pub cluster_id: u64,
    /// Id of this member.
    pub member_id: u64,
    /// Consensus.
    pub replica: Replica,
    /// The state machine, as of the database. What the log has behind the snapshot is still to be applied.
    pub machine: Machine,
    /// A compaction that was scheduled and not finished.
    pub compaction: Option<mvcc::Compaction>,
    /// The log.
    pub wal: Wal,
    /// The directories it was opened from.
    pub dirs: Dirs,
    /// Index of the raft snapshot that the log starts from.
    pub snapshot_index: u64,
    /// The database.
    pub backend: backend::Reader,
    /// What was found.
    pub origin: Origin,
}

/// What a member was opened from.
#[derive(Debug)]
pub enum Origin {
    /// Nothing, or a log in which nothing was promised yet.
    New,
    /// Log, database and perhaps a raft snapshot.
    Restart(Restart),
}

/// What is worth telling about a restart.
#[derive(Debug)]
pub struct Restart {
    /// How far the log says that it is committed.
    pub commit_index: u64,
    /// A record at the end of the log that was cut off.
    pub repair: Option<wal::Repair>,
    /// Snapshot files that cannot be read, and why; renamed.
    pub broken_snapshots: Vec<(String, String)>,
    /// How it was made a cluster of one, if that was asked for.
    pub forced: Option<Forced>,
}

/// Opens or makes everything. Reads whole files.
///
/// # Errors
/// [`Error`]: the member must not start.
pub fn open(dirs: Dirs, options: &Options) -> Result<Member, Error> {
    if wal::exists(&dirs.wal_parent, &dirs.wal_name)? {
        restart(dirs, options)
    } else {
        found(dirs, options)
    }
}

/// The ids of a member, and the first entries of its log; none when it joins.
struct Founder {
    metadata: Metadata,
    bootstrap: Vec<Peer>,
}

impl Founder {
    fn new(options: &Options) -> Result<Self, Error> {
        let FoundingOptions { name, members, cluster_token } = match &options.beginning {
            Beginning::Found(founding) => founding,
            &Beginning::Join { cluster_id, member_id } => {
                let metadata = Metadata { node_id: member_id, cluster_id };
                return Ok(Self { metadata, bootstrap: Vec::new() });
            }
        };
        let founding = Founding::new(members.iter().cloned(), cluster_token);
        let node_id = match founding.member(name) {
            Some(member) => member.id,
            None => return Err(Error::NotNamed { name: name.clone() }),
        };
        Ok(Self {
            metadata: Metadata { node_id, cluster_id: founding.cluster_id },
            bootstrap: founding
                .contexts()
                .map(|(id, context)| Peer { id: NodeId(id), context: Bytes::from(context) })
                .collect(),
        })
    }
}

/// A new member of a new cluster, or of one that it joins.
fn found(dirs: Dirs, options: &Options) -> Result<Member, Error> {
    let Founder { metadata, bootstrap } = Founder::new(options)?;
    let (writer, backend) = backend::open(&dirs.snap, &options.backend)?;
    let wal = Wal::create(
        &dirs.wal_parent,
        &dirs.wal_name,
        Bytes::from(metadata.encode_to_vec()),
        &options.wal,
    )?;
    let setup = Setup { bootstrap, ..setup(options, metadata.node_id) };
    let snapshot = raftpb::Snapshot::default();
    assemble(dirs, options, metadata, (writer, backend), wal, setup, &snapshot, Origin::New)
}

/// A member that has run before, here or as etcd.
fn restart(dirs: Dirs, options: &Options) -> Result<Member, Error> {
    wal::snap::remove_leftovers(&dirs.snap)?;
    let valid = wal::valid_snapshots(&dirs.wal_parent, &dirs.wal_name)?;
    let newest = wal::snap::load_newest(&dirs.snap, &valid)?;
    let snapshot = newest.loaded.map(|loaded| loaded.snapshot).unwrap_or_default();
    let index = snapshot.metadata.index;
    if index > 0 && !backend::exists(&dirs.snap)? {
        return Err(Error::DatabaseMissing { path: dirs.snap.path().to_owned() });
    }
    let database = backend::open_at_snapshot(&dirs.snap, &options.backend, index)?;

    let start = walpb::Snapshot {
        index,
        term: snapshot.metadata.term,
        conf_state: (index > 0).then(|| snapshot.metadata.conf_state.clone()),
    };
    let (mut wal, mut recovered) =
        Wal::open(&dirs.wal_parent, &dirs.wal_name, &start, &options.wal)?;
    let wal_path = || dirs.wal_parent.path().join(&dirs.wal_name);
    let metadata = Metadata::decode(recovered.metadata.clone())
        .map_err(|error| Error::Metadata { path: wal_path(), why: error.to_string() })?;
    // Going on would give new entries the numbers of lost ones, and the database would skip them. A database that another member
    // sent may be ahead of the snapshot that it came with: what it has more is committed, and comes again.
    let last = recovered.entries.last().map_or(index, |entry| entry.index);
    let applied = database.0.consistent().index;
    if applied > last && !recovered.snapshot_is_received {
        return Err(Error::LogBehindDatabase { path: wal_path(), last, applied });
    }
    if index == 0
        && recovered.hard_state == raftpb::HardState::default()
        && let Some(bootstrap) = unfounded(options, &metadata)
    {
        // Entries that are there without a hard state are a part of these, and are written over.
        let setup = Setup { bootstrap, ..setup(options, metadata.node_id) };
        return assemble(dirs, options, metadata, database, wal, setup, &snapshot, Origin::New);
    }
    let mut forced = None;
    if options.force_new_cluster {
        forced = Some(standalone::force(
            &mut wal,
            metadata.node_id,
            &snapshot.metadata,
            &mut recovered.entries,
            &mut recovered.hard_state,
            applied,
        )?);
    }
    let entries = recovered
        .entries
        .into_iter()
        .map(raft::codec::entry_from_proto)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Entry { path: wal_path(), why: error.to_string() })?;
    let hard_state = raft::codec::hard_state_from_proto(&recovered.hard_state);
    let origin = Origin::Restart(Restart {
        commit_index: hard_state.commit.0,
        repair: recovered.repair,
        broken_snapshots: newest.broken,
        forced,
    });
    let setup = Setup {
        snapshot: raft::codec::snapshot_from_proto(snapshot.clone()),
        hard_state,
        entries,
        applied: LogIndex(index),
        ..setup(options, metadata.node_id)
    };
    assemble(dirs, options, metadata, database, wal, setup, &snapshot, origin)
}

/// The bootstrap entries of a member that stopped between the creation of its log and the first write to it, if it is
/// the one that the options found. A member that joins has none, and goes on like one that restarts.
fn unfounded(options: &Options, metadata: &Metadata) -> Option<Vec<Peer>> {
    let founder = Founder::new(options).ok()?;
    (founder.metadata == *metadata && !founder.bootstrap.is_empty()).then_some(founder.bootstrap)
}

#[expect(clippy::too_many_arguments, reason = "the last step of both ways, which have all of this")]
fn assemble(
    dirs: Dirs,
    options: &Options,
    metadata: Metadata,
    (writer, backend): (backend::Writer, backend::Reader),
    wal: Wal,
    setup: Setup,
    snapshot: &raftpb::Snapshot,
    origin: Origin,
) -> Result<Member, Error> {
    let Metadata { node_id: member_id, cluster_id } = metadata;
    let found = version::of_directory(&writer, snapshot, &setup.entries)?;
    let version = version::decide(found, options.asked_version, options.machine.version)?;
    let machine_options = machine::Options { member_id, version, ..options.machine.clone() };
    let (machine, compaction) = Machine::open(machine_options, writer, snapshot)?;
    Ok(Member {
        cluster_id,
        member_id,
        replica: Replica::new(setup)?,
        machine,
        compaction,
        wal,
        dirs,
        snapshot_index: snapshot.metadata.index,
        backend,
        origin,
    })
}

fn setup(options: &Options, member_id: u64) -> Setup {
    Setup {
        id: NodeId(member_id),
        snapshot: raft::Snapshot::default(),
        hard_state: raft::HardState::default(),
        entries: Vec::new(),
        applied: LogIndex::ZERO,
        bootstrap: Vec::new(),
        election_ticks: options.election_ticks,
        pre_vote: options.pre_vote,
        seed: options.seed ^ member_id,
        trace: Arc::clone(&options.trace),
    }
}
