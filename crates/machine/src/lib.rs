//! The deterministic state machine: one committed entry in; its answer, its events and its effects out.
//!
//! ```text
//!   Committed ──► Machine::apply ──► Applied { outcome, events, effects }
//!                    │
//!                    ├── mvcc::Store        keys, revisions
//!                    ├── lease::Lessor      leases (shared with the services that renew and list them)
//!                    ├── auth::Store        users, roles, and what they may do
//!                    ├── Membership         members, cluster version, downgrade; raft's configuration
//!                    ├── Alarms, Quota      what is refused for want of space or of trust
//!                    └── backend::Writer    rows, and the index of the entry that they stand for
//! ```
//!
//! Owns everything that all members must agree on. Does not wait, does not reply, has no clock (`now` is a
//! parameter), and starts nothing: what has to happen elsewhere comes back as an [`Effect`].
//!
//! An entry's rows and its index go into the backend together, and become visible to readers together. After a
//! crash the log is applied again from the committed index on; entries up to it touch no row. Membership is the
//! exception: it stands for the raft snapshot that the member started from, and follows the log from there
//! ([`membership`] says why).
//!
//! Invariants
//! - entries are applied in order without a gap, and each writes rows at most once;
//! - the consistent index never passes the last entry applied, and rows of an entry never come without it;
//! - two machines that apply the same entries hold the same rows, and so do Go members of the same version;
//! - a refused request writes nothing.
//!
//! While authentication is on, an entry's request is checked against the rights of the user in its header before anything
//! else, on every member alike ([`apply`](Machine::apply)); what members propose among themselves needs none.
//!
//! Deliberately absent: the v2 API but for the two requests by which etcd 3.5 publishes a member and sets the cluster version ([`v2`]).
//!
//! Start reading at [`Machine::apply`].
//!
//! Upstream: `server/etcdserver/server.go`, `apply.go`, `api/membership` (3.5.30).

mod alarms;
mod apply;
mod behaviour;
pub mod bootstrap;
mod committed;
mod fatal;
pub mod ids;
mod machine;
pub mod membership;
mod op_name;
mod outcome;
pub mod quota;
pub mod v2;

pub use alarms::{Alarms, Restriction, alarm_name};
pub use apply::StorageMigration;
pub use behaviour::Version;
pub use committed::{Committed, Payload};
pub use fatal::{Fatal, OpenError};
pub use machine::{Machine, Options, SharedLessor};
pub use membership::{ConfChangeContext, Downgrade, Member, Membership, PeerChange};
pub use op_name::op_name;
pub use outcome::{Answer, Applied, Effect, Outcome, RequestError, Response};
pub use quota::Quota;

/// Reads a stored cluster version.
pub(crate) fn parse_cluster_version(text: &str) -> Result<Version, OpenError> {
    Version::parse(text).ok_or_else(|| OpenError::MalformedVersion(text.to_owned()))
}
