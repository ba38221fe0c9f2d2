//! The kinds of tokens: `--auth-token`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use machine::Version;
use raft::LogIndex;

use super::Identity;
use super::es512::{self, Es512};
use super::jwt::{Given, Jwt};
use super::simple::{SimpleTokens, random_prefix};
use crate::board::Board;

/// Why `--auth-token` cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TokenOptionsError {
    /// Malformed, of an unknown kind, or without what the kind needs.
    #[error("auth: invalid auth options")]
    Invalid,
    /// A key cannot be read.
    #[error("auth: invalid auth options: open {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What is in a key file is not a key for the method.
    #[error("auth: the key in {option} is not one for {method}")]
    Key {
        /// Which of the two.
        option: &'static str,
        /// The method.
        method: String,
    },
    /// Neither of the keys.
    #[error("auth: missing key data")]
    MissingKey,
    /// The two keys are not a pair.
    #[error("auth: public and private keys don't match")]
    KeyMismatch,
    /// The version that the member stands for has no such method; Go's name of it, as etcd says it.
    #[error("unsupported signing method: *jwt.SigningMethod{0}")]
    Unsupported(&'static str),
}

/// Why a user who was let in gets no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// This member can check tokens and not make them.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    /// There are no tokens.
    #[error("no tokens are given here")]
    None,
    /// The token cannot be signed.
    #[error("the token cannot be signed")]
    Failed,
}

/// How tokens are made and known again.
#[derive(Debug)]
pub(crate) enum Tokens {
    Simple(SimpleTokens),
    Jwt(Box<Jwt>),
    Es512(Box<Es512>),
    /// None is given, and none taken.
    None,
}

impl Tokens {
    /// Reads `simple`, `jwt,name=value,..` or nothing. Reads files.
    pub(crate) fn of(options: &str, simple_ttl: Duration) -> Result<Self, TokenOptionsError> {
        let mut parts = options.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut named = BTreeMap::new();
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .filter(|(_, value)| !value.contains('='))
                .ok_or(TokenOptionsError::Invalid)?;
            if named.insert(name, value).is_some() {
                return Err(TokenOptionsError::Invalid);
            }
        }
        match kind {
            "simple" => Ok(Self::Simple(SimpleTokens::new(simple_ttl))),
            "jwt" => {
                let given = Given::of(&named)?;
                Ok(match given.method.as_str() {
                    es512::METHOD => Self::Es512(Box::new(Es512::of(given)?)),
                    _ => Self::Jwt(Box::new(Jwt::of(given)?)),
                })
            }
            "" => Ok(Self::None),
            _ => Err(TokenOptionsError::Invalid),
        }
    }

    /// Refuses what etcd of that version does not have: EdDSA came with 3.6. The version is known only when the member's files are
    /// open.
    pub(crate) fn check_version(&self, version: Version) -> Result<(), TokenOptionsError> {
        match self {
            Self::Jwt(jwt) if jwt.is_eddsa() && version < Version::v3(6, 0) => {
                Err(TokenOptionsError::Unsupported("Ed25519"))
            }
            Self::Simple(_) | Self::Jwt(_) | Self::Es512(_) | Self::None => Ok(()),
        }
    }

    pub(super) fn prefix(&self) -> String {
        match self {
            Self::Simple(_) => random_prefix(),
            Self::Jwt(_) | Self::Es512(_) | Self::None => String::new(),
        }
    }

    pub(super) fn token(
        &self,
        user: &str,
        prefix: &str,
        index: u64,
        revision: u64,
    ) -> Result<String, TokenError> {
        match self {
            Self::Simple(_) => Ok(SimpleTokens::text(prefix, index)),
            Self::Jwt(jwt) => jwt.sign(user, revision),
            Self::Es512(es512) => es512.sign(user, revision),
            Self::None => Err(TokenError::None),
        }
    }

    /// Who holds the token. The revision of a simple one is the present one: its user is looked up anew each time.
    pub(super) async fn identify(
        &self,
        token: &str,
        board: &Board,
        limit: Duration,
        revision: impl FnOnce() -> u64,
    ) -> Option<Identity> {
        match self {
            Self::Simple(tokens) => {
                let index = SimpleTokens::index_of(token)?;
                tokio::time::timeout(limit, board.wait_applied(index)).await.ok()?;
                // Taken first: a change between the two shows as an old revision, not as a new one with old rights.
                let revision = revision();
                Some(Identity { user: tokens.user_of(token, Instant::now())?, revision })
            }
            Self::Jwt(jwt) => jwt.identify(token),
            Self::Es512(es512) => es512.identify(token),
            Self::None => None,
        }
    }

    pub(super) fn let_in(&self, user: &str, prefix: &str, index: LogIndex, now: Instant) {
        if let Self::Simple(tokens) = self {
            tokens.remember(user, prefix, index, now);
        }
    }

    pub(super) fn void_user(&self, user: &str) {
        if let Self::Simple(tokens) = self {
            tokens.void_user(user);
        }
    }

    pub(super) fn void_all(&self) {
        if let Self::Simple(tokens) = self {
            tokens.void_all();
        }
    }
}
