//! Who asks, and whether he may: tokens, passwords and certificates on one side, the rights of users on the other.
//!
//! ```text
//!  call ─► Credentials ─► identify ─► Identity ─► header of a proposal ─► checked when it is applied, everywhere
//!          token, CN         ▲            └─────► check of a read here
//!                            │
//!  apply stage ─► rights (Arc<auth::Snapshot>), simple tokens
//! ```
//!
//! The apply stage alone changes what is here, entry by entry: an entry's rights and tokens are in force before rows of the
//! next entry can be seen, and before anybody is told that the entry is applied.
//!
//! While authentication is off a request costs one load of an atomic here. A request that came while it was off and is checked
//! when it is on has shown nothing, and is refused.
//!
//! Passwords are hashed and compared on threads that may block, a few at a time ([`passwords`]); they are not in the log of
//! the cluster, nor do they, tokens or hashes get into the log of this program: a token that is refused is named by a
//! fingerprint.
//!
//! Locks: `rights` and the simple tokens' are leaves, held for a pointer copy or one look into a map.
//!
//! Upstream: `server/auth/store.go`, `simple_token.go`, `jwt.go` (3.5.30, 3.7.1), `server/etcdserver/v3_server.go`.

mod es512;
mod identity;
mod jwt;
mod passwords;
mod simple;
mod tokens;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use auth::{Effect, Snapshot};
use machine::Version;
use raft::LogIndex;
use tokio::time::Duration;

pub(crate) use identity::{ConnectionInfo, Credentials, Identity};
pub(crate) use passwords::{PasswordError, Passwords};
pub use tokens::TokenOptionsError;
pub(crate) use tokens::{TokenError, Tokens};

use crate::board::Board;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Access {
    /// Whether authentication is on, apart from `rights` so that it costs next to nothing while it is not.
    is_enabled: AtomicBool,
    /// Held to copy or replace a pointer.
    rights: RwLock<Arc<Snapshot>>,
    tokens: Tokens,
    pub(crate) passwords: Passwords,
    /// Whether the name in a certificate is an identity.
    trusts_certificates: bool,
    knows_bearer: bool,
}

impl Access {
    /// The rights are the state machine's at start. No simple token outlives the process that gave it.
    pub(crate) fn new(
        tokens: Tokens,
        passwords: Passwords,
        trusts_certificates: bool,
        version: Version,
        rights: &Arc<Snapshot>,
    ) -> Self {
        Self {
            is_enabled: AtomicBool::new(rights.is_enabled()),
            rights: RwLock::new(Arc::clone(rights)),
            tokens,
            passwords,
            trusts_certificates,
            knows_bearer: version.knows_bearer(),
        }
    }

    /// Whether authentication is on.
    pub(crate) fn is_enabled(&self) -> bool {
        // Whoever was told that it is on has synchronised with the apply stage by that.
        self.is_enabled.load(Ordering::Relaxed)
    }

    /// Users and rights as of now.
    pub(crate) fn rights(&self) -> Arc<Snapshot> {
        Arc::clone(&self.rights.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what the entry of this index did.
    pub(crate) fn apply(&self, index: LogIndex, effect: &Effect, rights: &Arc<Snapshot>) {
        match effect {
            Effect::Changed => {}
            Effect::LetIn { user, prefix } => {
                self.tokens.let_in(user, prefix, index, Instant::now());
                return;
            }
            Effect::UserChanged { user } => self.tokens.void_user(user),
            Effect::Disabled => self.tokens.void_all(),
        }
        self.replace(rights);
    }

    /// Takes over all of what the state machine says, for example when its content was replaced.
    pub(crate) fn replace(&self, rights: &Arc<Snapshot>) {
        if !rights.is_enabled() {
            self.tokens.void_all();
        }
        *self.rights.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(rights);
        if self.is_enabled.swap(rights.is_enabled(), Ordering::Release) != rights.is_enabled() {
            let what = if rights.is_enabled() { "enabled" } else { "disabled" };
            tracing::info!("{what} authentication");
        }
    }

    /// Finds out who asks; `None` if the call does not say, or authentication is off. A simple token is waited for until
    /// this member has applied the entry that gave it.
    pub(crate) async fn identify(
        &self,
        credentials: &Credentials,
        board: &Board,
        limit: Duration,
    ) -> Result<Option<Identity>, auth::Error> {
        if !self.is_enabled() {
            return Ok(None);
        }
        let Some(given) = credentials.given() else { return Ok(None) };
        let Some(token) = &given.token else {
            let revision = self.rights().revision();
            return Ok(given
                .common_name
                .as_ref()
                .filter(|_| self.trusts_certificates)
                .map(|user| Identity { user: user.to_string(), revision }));
        };
        let token =
            if self.knows_bearer { token.strip_prefix("Bearer ").unwrap_or(token) } else { token };
        let found = self.tokens.identify(token, board, limit, || self.rights().revision()).await;
        match found {
            Some(identity) => Ok(Some(identity)),
            None => {
                tracing::warn!(token_fingerprint = fingerprint(token), "invalid auth token");
                Err(auth::Error::InvalidAuthToken)
            }
        }
    }

    /// What a member does of its own accord, it does as root.
    pub(crate) fn own_identity(&self) -> Option<Identity> {
        self.is_enabled().then(|| Identity {
            user: auth::ROOT_USER.to_owned(),
            revision: self.rights().revision(),
        })
    }

    /// First part of the next simple token; empty where tokens are of another kind.
    pub(crate) fn token_prefix(&self) -> String {
        self.tokens.prefix()
    }

    /// The token for a user who was let in by the entry of this index, at this auth revision.
    pub(crate) fn token(
        &self,
        user: &str,
        prefix: &str,
        index: u64,
        revision: u64,
    ) -> Result<String, TokenError> {
        self.tokens.token(user, prefix, index, revision)
    }
}

/// Tells tokens apart in a log, and gives nothing of them away: etcd's first twelve digits of a SHA-256.
pub(crate) fn fingerprint(token: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(token).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
