//! The machine as a whole: how it is opened, what it holds, what others may ask of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backend::schema::meta;
use backend::{View, Writer};
use bytes::Bytes;
use lease::{LeaseId, Lessor};
use mvcc::{Rules, Store};
use proto::raftpb;

use crate::alarms::Alarms;
use crate::membership::{Downgrade, Membership, document};
use crate::{Fatal, OpenError, Quota, Version};

/// The lessor, shared by the machine (which grants, revokes and attaches) and the services that renew and list leases.
///
/// The lock guards the lessor; it is held for one call, by the machine for one entry. No other lock is taken while it
/// is held, but for those inside of the backend's writer.
pub type SharedLessor = Arc<Mutex<Lessor>>;

/// What does not change while a member runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// This member.
    pub member_id: u64,
    /// The etcd version that it stands for.
    pub version: Version,
    /// How large the backend may get.
    pub quota: Quota,
    /// Most learners at a time, from 3.6 on; 3.5 has one.
    pub learners_max: usize,
    /// Settings of the lessor.
    pub lease: lease::Config,
    /// Whether checkpoints of leases go into the rows (`--experimental-enable-lease-checkpoint-persist` of 3.5).
    pub persists_checkpoints: bool,
}

impl Options {
    /// Options of a member with etcd's defaults.
    #[must_use]
    pub fn new(member_id: u64, version: Version) -> Self {
        Self {
            member_id,
            version,
            quota: Quota::from_flag(0),
            learners_max: 1,
            lease: lease::Config::default(),
            persists_checkpoints: false,
        }
    }
}

/// The state machine of one member. See the [crate's documentation](crate).
#[derive(Debug)]
pub struct Machine {
    pub(crate) options: Options,
    pub(crate) writer: Writer,
    pub(crate) backend: backend::Reader,
    pub(crate) store: Store,
    pub(crate) lessor: SharedLessor,
    pub(crate) auth: auth::Store,
    pub(crate) alarms: Alarms,
    pub(crate) membership: Membership,
    /// The entry that `membership` and `conf_state` stand for at open; later ones change them.
    pub(crate) membership_index: u64,
    pub(crate) conf_state: raftpb::ConfState,
    /// Members whose rows said at open that they are learners, and were wrong.
    pub(crate) mended_voters: Vec<u64>,
    /// The last entry applied, whether it wrote rows or not.
    pub(crate) applied: u64,
    pub(crate) applied_term: u64,
}

impl Machine {
    /// Opens a machine over a backend.
    ///
    /// `snapshot` is the raft snapshot that the member starts from, with its document; the default one if there is
    /// none. The entries to apply are those behind it, *also* those up to the backend's consistent index.
    ///
    /// Also returns a compaction that was scheduled and not finished: run it like that of [`crate::Effect::Compact`].
    ///
    /// # Errors
    /// [`OpenError`]: what was found cannot be served, and says why.
    pub fn open(
        options: Options,
        mut writer: Writer,
        snapshot: &raftpb::Snapshot,
    ) -> Result<(Self, Option<mvcc::Compaction>), OpenError> {
        let backend = writer.reader();
        let content = Content::load(&options, &mut writer, snapshot)?;
        let restored = Store::open(backend.clone(), Rules::of_minor(options.version.minor))?;
        let mut lessor = Lessor::open(options.lease.clone(), &writer.view())?;
        attach(&mut lessor, &restored.attachments);
        let Content { auth, alarms, mut membership, membership_index } = content;
        let mended_voters = membership.mend_voters(&mut writer, &membership.voters())?;
        let machine = Self {
            options,
            writer,
            backend,
            store: restored.store,
            lessor: Arc::new(Mutex::new(lessor)),
            auth,
            alarms,
            membership,
            membership_index,
            conf_state: snapshot.metadata.conf_state.clone(),
            mended_voters,
            applied: snapshot.metadata.index,
            applied_term: snapshot.metadata.term,
        };
        Ok((machine, restored.compaction))
    }

    /// Takes over the backend that came with a raft snapshot from another member, which must lie ready as
    /// `INDEX.snap.db`, and everything in it. Readers see the new content at once; all watchers have to catch up, and
    /// leases are no longer counted here.
    ///
    /// Not while a commit runs ([`Writer::is_busy`]).
    ///
    /// # Errors
    /// [`Fatal`]. The member must not go on with the old content either.
    pub fn install(
        &mut self,
        snapshot: &raftpb::Snapshot,
    ) -> Result<Option<mvcc::Compaction>, Fatal> {
        let index = snapshot.metadata.index;
        let writer = &mut self.writer;
        let mvcc::Reloaded { attachments, compaction } =
            self.store.reload(|| writer.install_snapshot(index))?;
        let Content { auth, alarms, membership, membership_index } =
            Content::load(&self.options, &mut self.writer, snapshot)?;
        self.auth = auth;
        self.alarms = alarms;
        self.membership = membership;
        self.membership_index = membership_index;
        self.conf_state = snapshot.metadata.conf_state.clone();
        self.applied = index;
        self.applied_term = snapshot.metadata.term;
        // Rows of members that the document does not know came with the other member's file.
        self.membership.mend_rows(&mut self.writer)?;
        self.writer.publish();

        let mut lessor = Lessor::open(self.options.lease.clone(), &self.writer.view())?;
        attach(&mut lessor, &attachments);
        *lock(&self.lessor) = lessor;
        Ok(compaction)
    }

    /// Returns the snapshot of this moment: put it in a `.snap` file, or in a message to another member, together
    /// with a backend that was committed after the last entry.
    #[must_use]
    pub fn snapshot(&self) -> raftpb::Snapshot {
        raftpb::Snapshot {
            data: Some(Bytes::from(document::encode(&self.membership))),
            metadata: raftpb::SnapshotMetadata {
                conf_state: self.conf_state.clone(),
                index: self.applied,
                term: self.applied_term,
            },
        }
    }

    /// Returns the etcd version that this member stands for.
    #[must_use]
    pub fn version(&self) -> Version {
        self.options.version
    }

    /// Returns the index of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Returns the revision of the store.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.store.current_revision()
    }

    /// Returns a handle for reading keys from any thread.
    #[must_use]
    pub fn reader(&self) -> mvcc::Reader {
        self.store.reader()
    }

    /// Returns the lessor, to renew and list leases, and to ask which have expired.
    #[must_use]
    pub fn lessor(&self) -> SharedLessor {
        Arc::clone(&self.lessor)
    }

    /// Returns the members, the cluster version and the downgrade.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Returns raft's configuration as of the last entry applied.
    #[must_use]
    pub fn conf_state(&self) -> &raftpb::ConfState {
        &self.conf_state
    }

    /// Returns the members whose rows said at open that they are learners although the document knew better. They were mended.
    #[must_use]
    pub fn mended_voters(&self) -> &[u64] {
        &self.mended_voters
    }

    /// Returns users, roles and rights as of the last entry applied.
    #[must_use]
    pub fn auth(&self) -> &Arc<auth::Snapshot> {
        self.auth.snapshot()
    }

    /// Returns the alarms that stand.
    #[must_use]
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Returns the backend's writer: to commit, to defragment, and to say when.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

/// Locks the lessor. Its calls leave it whole, so the panic of another thread says nothing about it.
pub(crate) fn lock(lessor: &SharedLessor) -> MutexGuard<'_, Lessor> {
    lessor.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is read from rows and snapshot, at start and when another member's backend is taken over.
struct Content {
    auth: auth::Store,
    alarms: Alarms,
    membership: Membership,
    membership_index: u64,
}

impl Content {
    fn load(
        options: &Options,
        writer: &mut Writer,
        snapshot: &raftpb::Snapshot,
    ) -> Result<Self, OpenError> {
        let view = writer.view();
        check_storage_version(&view, options.version)?;
        let snapshot_index = snapshot.metadata.index;
        let document = snapshot.data.as_deref().unwrap_or_default();
        let (membership, membership_index) = if !document.is_empty() {
            (document::decode(document)?, snapshot_index)
        } else if snapshot_index > 0 {
            // 3.7 does not write documents any more: the rows say it, as of their own index.
            (Membership::load(&view)?, writer.consistent().index.max(snapshot_index))
        } else {
            // The log reaches back to the beginning.
            (Membership::default(), 0)
        };
        let membership = membership.with_downgrade_of_rows(&view)?;
        check_version(&membership, options.version)?;
        let auth = auth::Store::open(writer)?;
        Ok(Self { auth, alarms: Alarms::load(&view)?, membership, membership_index })
    }
}

/// Hangs keys on their leases. A key may name a lease that is gone: upstream tolerates that too.
fn attach(lessor: &mut Lessor, attachments: &[(i64, Bytes)]) {
    for (lease, key) in attachments {
        let _ = lessor.attach(LeaseId(*lease), key);
    }
}

/// 3.5 has no storage version and looks at none; a later version refuses what a still later one wrote.
fn check_storage_version(view: &View, own: Version) -> Result<(), OpenError> {
    let Some(found) = meta::storage_version(view)? else { return Ok(()) };
    let is_newer = Version::parse(&found).is_none_or(|version| version > own.of_cluster());
    if own.minor > 5 && is_newer { Err(OpenError::StorageVersion { found, own }) } else { Ok(()) }
}

/// A member joins neither a cluster that is newer, nor (3.5) one that is on its way down to another version.
fn check_version(membership: &Membership, own: Version) -> Result<(), OpenError> {
    let Downgrade { enabled, target_version } = membership.downgrade();
    if Version::parse(target_version).is_some_and(|target| *enabled && target == own.of_cluster()) {
        return Ok(());
    }
    if *enabled && own.minor <= 5 {
        return Err(OpenError::Downgrade { target: target_version.clone(), own });
    }
    if let Some(cluster) = membership.version()
        && cluster > own.of_cluster()
    {
        return Err(OpenError::ClusterVersion { cluster, own });
    }
    Ok(())
}
