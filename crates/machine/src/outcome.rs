//! What comes out of an entry: the answer, the events, and what the shell has to do next.

use std::sync::Arc;

use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, DeleteRangeResponse, LeaseGrantResponse, Member, PutResponse,
    TxnResponse,
};
use proto::raftpb;

use crate::{PeerChange, Version};

/// What applying one entry gave.
#[derive(Debug, Default)]
pub struct Applied {
    /// Under which the proposer waits; 0 when nobody does.
    pub request_id: u64,
    /// What etcd calls the request, such as `Put` or `LeaseGrant`, and `unknown` for what members ask of each other. `None` for an
    /// entry without one.
    pub op: Option<&'static str>,
    /// The answer, the same on every member but for the quota (see [`RequestError::OverQuota`]). `None` when there is
    /// nothing to answer: an empty entry, or one whose effect was there already.
    pub outcome: Option<Outcome>,
    /// What watchers have to hear: one batch, which is one revision.
    pub events: Option<Arc<mvcc::EventBatch>>,
    /// What has to be done, in this order.
    pub effects: Vec<Effect>,
}

/// The answer to a request.
pub type Outcome = Result<Answer, RequestError>;

/// A successful answer, and the revision of the store for its header (0 where the header has none).
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Revision for the header.
    pub revision: i64,
    /// The answer itself. Headers in it are not filled in, but for those inside of a transaction.
    pub response: Response,
}

/// The answer to a request, by its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// Nothing but the header: compaction, revocation, checkpoint, and what only members send each other.
    Done,
    /// To a put.
    Put(PutResponse),
    /// To a delete.
    DeleteRange(DeleteRangeResponse),
    /// To a transaction.
    Txn(TxnResponse),
    /// To a grant.
    LeaseGrant(LeaseGrantResponse),
    /// To an alarm request: what was listed, raised or cleared.
    Alarms(Vec<AlarmMember>),
    /// To a change of the membership: the members after it.
    Members(Vec<Member>),
    /// To a request about users, roles or authentication itself.
    Auth(auth::Answer),
}

/// What the shell has to do because of an entry.
#[derive(Debug)]
pub enum Effect {
    /// Give this to raft before anything that comes after it: the conf change as it takes effect (with node 0 when it
    /// was refused, which raft has to hear all the same).
    ConfChange(raftpb::ConfChange),
    /// Connect or disconnect a peer. Never about this member itself.
    Peer(PeerChange),
    /// A promotion that was applied before the last stop is in the log once more.
    PromotedBefore {
        /// The member.
        id: u64,
        /// Its row did not know of it, and does now (a bug of etcd before 3.5.22).
        is_mended: bool,
    },
    /// This member was removed from the cluster: stop, when the entry had time to reach the others (etcd: a second).
    SelfRemoved,
    /// An empty entry was applied. The first one of a leader's term tells it that it has applied all of its
    /// predecessors' entries: if this member leads, it may count the time of leases from now on.
    EmptyEntry,
    /// Run this compaction, in steps, beside other work; and commit the backend at once, so that a crash resumes it.
    Compact(mvcc::Compaction),
    /// Propose this alarm: this member's backend is over its quota. The outcome of this entry's request is to wait
    /// for it.
    RaiseAlarm(AlarmRequest),
    /// The cluster version changed.
    ClusterVersion {
        /// What it was.
        old: Option<Version>,
        /// What it is.
        new: Version,
    },
    /// Users, roles or tokens changed. Readers must see it before they see the rows of a later entry.
    Auth(auth::Effect),
    /// Take a snapshot on disk at once: the cluster version went down, and an older etcd must not read this log.
    Snapshot,
}

/// Why a request is refused. Nothing was written, but for [`RequestError::OverQuota`].
///
/// Codes and texts for clients are in `rpc::errors`, under the same names or the ones given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] mvcc::RequestError),
    /// A NOSPACE alarm stands (`NoSpace`).
    #[error("no space")]
    NoSpace,
    /// The request **was executed**, and this member's backend is over its quota (`NoSpace`). Local to this member.
    #[error("executed, but this member's backend is over its quota")]
    OverQuota,
    /// A CORRUPT alarm stands (`Corrupt`).
    #[error("corrupt cluster")]
    Corrupt,
    /// No such lease (`LeaseNotFound`).
    #[error("lease not found")]
    LeaseNotFound,
    /// The lease is there already (`LeaseExist`).
    #[error("lease exists")]
    LeaseExists,
    /// (`LeaseTTLTooLarge`).
    #[error("time to live is too large")]
    LeaseTtlTooLarge,
    /// (`MemberExist`).
    #[error("member exists")]
    MemberExists,
    /// (`PeerURLExist`).
    #[error("peer URL is in use")]
    PeerUrlExists,
    /// (`MemberNotFound`).
    #[error("member not found")]
    MemberNotFound,
    /// The id was removed and must not come back (`MemberNotFound` to clients).
    #[error("member was removed")]
    MemberRemoved,
    /// Only a learner can be promoted (`MemberNotLearner`).
    #[error("member is not a learner")]
    MemberNotLearner,
    /// (`TooManyLearners`).
    #[error("too many learners")]
    TooManyLearners,
    /// A member publishes itself that does not belong to the cluster any more. Nobody is told.
    #[error("the publishing member is unknown")]
    UnknownPublisher,
    /// Whoever asked may not, or what was asked of users and roles cannot be.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// An entry of a kind that this version has no use for.
    #[error("not supported")]
    Unsupported,
}
