//! Every error that etcd answers with: its gRPC code and its exact text.
//!
//! Clients tell errors apart by the text, and decide on retries by the code: both are part of the API. Variants have
//! the names of etcd's constants without `ErrGRPC` (api/v3rpc/rpctypes/error.go); the ones after
//! [`Error::DeadlineExceeded`] have no constant there.
//!
//! Codes are those on the wire. etcd declares two errors with a code that never gets there, because they pass through a
//! type that carries no gRPC status: [`Error::MemberNotEnoughStarted`] and [`Error::RequestTooManyRequests`] arrive as
//! `Unknown`. Where versions differ, [`Error::code`] takes the minor version that is emulated.

use std::fmt;

use tonic::{Code, Status};

/// Minor version whose codes [`From<Error> for Status`](Status) uses: what a new cluster emulates.
pub const DEFAULT_MINOR: u32 = 5;

macro_rules! catalogue {
    ($($(#[$doc:meta])+ $name:ident: $code:ident $(, before 3.6 $old:ident)?, $text:literal;)+) => {
        /// An answer of etcd that is an error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Error {
            $($(#[$doc])+ $name,)+
        }

        impl Error {
            /// Every error, in the order of etcd's documentation.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Returns the text, which is the same in every version.
            pub const fn message(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// Returns the variant's name, which is etcd's constant without `ErrGRPC`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// Returns the code that etcd 3.`minor` sends.
            pub const fn code(self, minor: u32) -> Code {
                match self {
                    $(Self::$name => {
                        $(if minor < 6 {
                            return Code::$old;
                        })?
                        let _ = minor;
                        Code::$code
                    })+
                }
            }
        }
    };
}

catalogue! {
    /// A key is empty.
    EmptyKey: InvalidArgument, "etcdserver: key is not provided";
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an operation with nothing set.
    KeyNotFound: InvalidArgument, "etcdserver: key not found";
    /// `ignore_value` together with a value.
    ValueProvided: InvalidArgument, "etcdserver: value is provided";
    /// `ignore_lease` together with a lease.
    LeaseProvided: InvalidArgument, "etcdserver: lease is provided";
    /// A transaction has more operations than allowed.
    TooManyOps: InvalidArgument, "etcdserver: too many operations in txn request";
    /// A transaction changes a key twice.
    DuplicateKey: InvalidArgument, "etcdserver: duplicate key given in txn request";
    /// `client-api-version` is not UTF-8 (3.6).
    InvalidClientAPIVersion: InvalidArgument, "etcdserver: invalid client api version";
    /// Unknown sort order or target (3.6).
    InvalidSortOption: InvalidArgument, "etcdserver: invalid sort option";
    /// The revision is below the compact revision.
    Compacted: OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    /// The revision does not exist yet.
    FutureRev: OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    /// The backend is over its quota.
    NoSpace: ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    /// No such lease.
    LeaseNotFound: NotFound, "etcdserver: requested lease not found";
    /// The wanted lease id is in use.
    LeaseExist: FailedPrecondition, "etcdserver: lease already exists";
    /// The wanted time to live is above 9 000 000 000 s.
    LeaseTTLTooLarge: OutOfRange, "etcdserver: too large lease TTL";
    /// The client cancelled its watch stream.
    WatchCanceled: Cancelled, "etcdserver: watch canceled";
    /// The member to add is there already.
    MemberExist: FailedPrecondition, "etcdserver: member ID already exist";
    /// Another member uses the peer URL.
    PeerURLExist: FailedPrecondition, "etcdserver: Peer URLs already exists";
    /// The change would leave too few started voters.
    MemberNotEnoughStarted: Unknown, "etcdserver: re-configuration failed due to not enough started members";
    /// A peer URL cannot be parsed.
    MemberBadURLs: InvalidArgument, "etcdserver: given member URLs are invalid";
    /// No such member, or it was removed.
    MemberNotFound: NotFound, "etcdserver: member not found";
    /// Only a learner can be promoted.
    MemberNotLearner: FailedPrecondition, "etcdserver: can only promote a learner member";
    /// The learner lags too far behind.
    LearnerNotReady: FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    /// No more learners are allowed.
    TooManyLearners: FailedPrecondition, "etcdserver: too many learner members in cluster";
    /// A peer asks for another cluster.
    ClusterIDMismatch: FailedPrecondition, "etcdserver: cluster ID mismatch";
    /// The log entry would be above `--max-request-bytes`.
    RequestTooLarge: InvalidArgument, "etcdserver: request is too large";
    /// Too many entries are committed but not applied.
    RequestTooManyRequests: Unknown, "etcdserver: too many requests";
    /// Auth cannot be enabled without the user root.
    RootUserNotExist: FailedPrecondition, "etcdserver: root user does not exist";
    /// Auth cannot be enabled while root lacks the role root.
    RootRoleNotExist: FailedPrecondition, "etcdserver: root user does not have root role";
    /// The user is there already.
    UserAlreadyExist: FailedPrecondition, "etcdserver: user name already exists";
    /// A user name is empty, or a request has no identity.
    UserEmpty: InvalidArgument, "etcdserver: user name is empty";
    /// No such user.
    UserNotFound: FailedPrecondition, "etcdserver: user name not found";
    /// The role is there already.
    RoleAlreadyExist: FailedPrecondition, "etcdserver: role name already exists";
    /// No such role.
    RoleNotFound: FailedPrecondition, "etcdserver: role name not found";
    /// A role name is empty.
    RoleEmpty: InvalidArgument, "etcdserver: role name is empty";
    /// Wrong name or password.
    AuthFailed: InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    /// A grant without a permission.
    PermissionNotGiven: InvalidArgument, "etcdserver: permission not given";
    /// The user may not do this.
    PermissionDenied: PermissionDenied, "etcdserver: permission denied";
    /// The user does not have the role to revoke.
    RoleNotGranted: FailedPrecondition, "etcdserver: role is not granted to the user";
    /// The role does not have the permission to revoke.
    PermissionNotGranted: FailedPrecondition, "etcdserver: permission is not granted to the role";
    /// Auth is off.
    AuthNotEnabled: FailedPrecondition, "etcdserver: authentication is not enabled";
    /// Unknown or expired token.
    InvalidAuthToken: Unauthenticated, "etcdserver: invalid auth token";
    /// The change would break root, or a permission has an invalid range.
    InvalidAuthMgmt: InvalidArgument, "etcdserver: invalid auth management";
    /// The identity is older than the last auth change; authenticate again.
    AuthOldRevision: InvalidArgument, "etcdserver: revision of auth store is old";
    /// There is no leader.
    NoLeader: Unavailable, "etcdserver: no leader";
    /// This member is not the leader.
    NotLeader: FailedPrecondition, "etcdserver: not leader";
    /// The leader changed while the request waited.
    LeaderChanged: Unavailable, "etcdserver: leader changed";
    /// The cluster version is too old or unknown.
    NotCapable: FailedPrecondition, before 3.6 Unavailable, "etcdserver: not capable";
    /// The server is stopping.
    Stopped: Unavailable, "etcdserver: server stopped";
    /// The request took longer than the server waits.
    Timeout: Unavailable, "etcdserver: request timed out";
    /// As [`Self::Timeout`], soon after an election.
    TimeoutDueToLeaderFail: Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    /// As [`Self::Timeout`], while peers were not connected.
    TimeoutDueToConnectionLost: Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    /// Applying lags behind what is committed.
    TimeoutWaitAppliedIndex: Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    /// Too few voters are connected for a membership change.
    Unhealthy: Unavailable, "etcdserver: unhealthy cluster";
    /// A CORRUPT alarm stands.
    Corrupt: DataLoss, "etcdserver: corrupt cluster";
    /// A learner does not serve this.
    NotSupportedForLearner: FailedPrecondition, before 3.6 Unavailable, "etcdserver: rpc not supported for learner";
    /// Leadership cannot go to that member.
    BadLeaderTransferee: FailedPrecondition, "etcdserver: bad leader transferee";
    /// The downgrade target is not a version.
    WrongDowngradeVersionFormat: InvalidArgument, "etcdserver: wrong downgrade target version format";
    /// The downgrade target is not one minor version below.
    InvalidDowngradeTargetVersion: InvalidArgument, "etcdserver: invalid downgrade target version";
    /// The cluster version is not known yet.
    ClusterVersionUnavailable: FailedPrecondition, before 3.6 Unavailable, "etcdserver: cluster version not found during downgrade";
    /// A downgrade is under way already.
    DowngradeInProcess: FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    /// There is no downgrade to cancel.
    NoInflightDowngrade: FailedPrecondition, "etcdserver: no inflight downgrade job";
    /// The server gave the request up (3.7; before that [`Self::RequestCancelled`]).
    Canceled: Cancelled, "etcdserver: request canceled";
    /// Defined by etcd, and normally not sent; see [`Self::ContextDeadlineExceeded`].
    DeadlineExceeded: DeadlineExceeded, "etcdserver: context deadline exceeded";

    /// The server gave the request up (3.5 and 3.6).
    RequestCancelled: Unknown, "etcdserver: request cancelled";
    /// The client cancelled.
    ContextCanceled: Cancelled, "context canceled";
    /// The client's deadline passed, or a proposal found no leader for as long as the server waits.
    ContextDeadlineExceeded: DeadlineExceeded, "context deadline exceeded";
    /// Leadership did not move in time.
    TimeoutLeaderTransfer: Unknown, "etcdserver: request timed out, leader transfer took too long";
    /// Unknown downgrade action.
    UnknownMethod: Unknown, "etcdserver: unknown method";
    /// The user can only be identified by a certificate.
    PasswordGivenForNoPasswordUser: Unknown, "auth: authentication failed, password was given for no password user";
    /// Tokens can be verified here, but not made.
    VerifyOnlyKey: Unknown, "auth: token signing attempted with verify-only key";
    /// The password is longer than bcrypt takes.
    PasswordTooLong: Unknown, "bcrypt: password length exceeds 72 bytes";
    /// A leader that is not sure of its leadership does not renew leases.
    NotPrimaryLessor: Unknown, "not a primary lessor";
    /// [`Self::UserEmpty`] from Hash, HashKV, Defragment and Snapshot of 3.5.
    MaintenanceUserEmpty: Unknown, "auth: user name is empty";
    /// [`Self::InvalidAuthToken`] from Hash, HashKV, Defragment and Snapshot of 3.5.
    MaintenanceInvalidAuthToken: Unknown, "auth: invalid auth token";
    /// [`Self::PermissionDenied`] from Hash, HashKV, Defragment and Snapshot of 3.5.
    MaintenancePermissionDenied: Unknown, "auth: permission denied";
    /// Proclaim or Resign without a leader key.
    ElectionLeaderMissing: Unknown, "\"leader\" field must be provided";
    /// Nobody has been elected.
    ElectionNoLeader: Unknown, "election: no leader";
    /// The leader key is not the present one.
    ElectionNotLeader: Unknown, "election: not leader";
    /// The lease ended while the lock was waited for.
    MutexSessionExpired: Unknown, "mutex: session is expired";
    /// RangeStream answers in key order only.
    RangeStreamSort: Unimplemented, "RangeStream does not support custom sort orders";
    /// RangeStream has no bounds on revisions.
    RangeStreamFilters: Unimplemented, "RangeStream does not support revision filters";
    /// Health check of an unknown service.
    UnknownService: NotFound, "unknown service";
}

impl Error {
    /// Finds an error by its exact text.
    pub fn from_message(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|error| error.message() == text)
    }

    /// Returns the status that etcd 3.`minor` answers with.
    pub fn status(self, minor: u32) -> Status {
        Status::new(self.code(minor), self.message())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}

/// With the codes of [`DEFAULT_MINOR`]; a server that may emulate another version uses [`Error::status`].
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.status(DEFAULT_MINOR)
    }
}

#[cfg(test)]
mod tests;
