//! Users, roles and permissions: who may read, write or administer what.
//!
//! ```text
//!   entry of the log ──► Store::apply ──► rows (auth, authUsers, authRoles)
//!                            │            answer, Effect
//!                            └──► Arc<Snapshot> ──► every check: at apply, and in the services that read
//! ```
//!
//! The [`Store`] is the writing side and belongs to the state machine. What it decides depends on the entry and on the
//! state before it alone, so all members agree, Go members included. Each change makes a new immutable [`Snapshot`]: readers
//! keep an `Arc` of it for as long as a request lasts, and no lock is shared with the writer.
//!
//! A snapshot holds the users' rights ready for use: the key ranges of all roles of a user, pooled for reading and for
//! writing, and merged where they touch ([`Ranges`]). So a check is one search, and a change costs what the users that it
//! concerns have roles.
//!
//! Who the caller is was found out before, from a token or a certificate: a [`Caller`] is a name, and the *auth revision* at
//! which the name was vouched for. The revision counts changes of users and roles. A check of keys refuses a caller who is
//! older than the last change, since what the token was given for may be gone; an administrator is looked up anew instead.
//!
//! Invariants
//! - every successful change but enabling raises the revision by one, and a refused one writes nothing;
//! - while authentication is on, the user `root` exists and has the role `root`;
//! - the roles of a user are sorted, and the permissions of a role sorted by key;
//! - rows and snapshot say the same: [`Store::open`] on the rows gives the snapshot that was there.
//!
//! Deliberately absent: passwords in the clear (a hash is made before a request is proposed, and compared by the member that
//! is asked), tokens (each member remembers its own; what an entry means for them is an [`Effect`]), metadata of calls.
//!
//! Upstream: `server/auth/store.go`, `range_perm_cache.go`, `server/etcdserver/apply_auth.go` (3.5.30), `apply/auth.go` (3.6).

mod caller;
mod error;
mod ranges;
mod requests;
mod snapshot;
mod store;

pub use caller::Caller;
pub use error::Error;
pub use ranges::Ranges;
pub use requests::LeasedKeys;
pub use snapshot::{Login, Snapshot};
pub use store::{Answer, Applied, Effect, Rules, Store};

/// The user without whom authentication cannot be on.
pub const ROOT_USER: &str = "root";

/// The role that may do everything.
pub const ROOT_ROLE: &str = "root";
