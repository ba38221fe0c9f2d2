//! One state of users, roles and rights, for any number of readers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, Role, User};

use crate::{Caller, Error, ROOT_ROLE, Ranges};

/// What authentication knows after some change. Immutable; cheap to share.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    pub(crate) is_enabled: bool,
    pub(crate) revision: u64,
    pub(crate) users: BTreeMap<Bytes, Arc<Account>>,
    pub(crate) roles: BTreeMap<Bytes, Arc<Role>>,
}

/// A user, with the rights that come of the roles.
#[derive(Clone, PartialEq)]
pub(crate) struct Account {
    pub(crate) user: User,
    is_root: bool,
    reads: Ranges,
    writes: Ranges,
}

impl Account {
    pub(crate) fn new(user: User, roles: &BTreeMap<Bytes, Arc<Role>>) -> Self {
        let pooled = |wanted: [Type; 2]| {
            let granted = |permission: &&Permission| {
                wanted.iter().any(|&kind| permission.perm_type == i32::from(kind))
            };
            let of_user = user.roles.iter().filter_map(|name| roles.get(name.as_bytes()));
            Ranges::union(
                of_user
                    .flat_map(|role| &role.key_permission)
                    .filter(granted)
                    .map(|permission| (&permission.key, &permission.range_end)),
            )
        };
        Self {
            is_root: user.roles.iter().any(|role| role == ROOT_ROLE),
            reads: pooled([Type::Read, Type::Readwrite]),
            writes: pooled([Type::Write, Type::Readwrite]),
            user,
        }
    }

    pub(crate) fn has_role(&self, name: &str) -> bool {
        self.user.roles.iter().any(|role| role == name)
    }

    fn has_no_password(&self) -> bool {
        self.user.options.is_some_and(|options| options.no_password)
    }
}

impl fmt::Debug for Account {
    /// Leaves the hash of the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.user.name)
            .field("roles", &self.user.roles)
            .field("reads", &self.reads)
            .field("writes", &self.writes)
            .finish_non_exhaustive()
    }
}

/// What a password is compared with.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The bcrypt hash as text; empty if no password fits.
    pub hash: Bytes,
    /// The auth revision that this is of. If it is another when the user is let in, look again.
    pub revision: u64,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Whether authentication is on. While it is off every check passes.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// The roles of a user, sorted; none if there is no such user.
    #[must_use]
    pub fn roles_of(&self, user: &str) -> &[String] {
        self.users.get(user.as_bytes()).map_or(&[], |account| &account.user.roles)
    }

    /// The auth revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What the user's password is to be compared with.
    ///
    /// # Errors
    /// Authentication is off, there is no such user, or the user has no password.
    pub fn login(&self, user: &str) -> Result<Login, Error> {
        if !self.is_enabled {
            return Err(Error::AuthNotEnabled);
        }
        let account = self.account(user).ok_or(Error::AuthFailed)?;
        if account.has_no_password() {
            return Err(Error::PasswordGivenForNoPasswordUser);
        }
        Ok(Login { hash: account.user.password.clone(), revision: self.revision })
    }

    /// Whether the user can be given a token, the password having been checked.
    pub(crate) fn check_login(&self, user: &str) -> Result<(), Error> {
        match self.login(user) {
            Err(Error::PasswordGivenForNoPasswordUser) => Err(Error::AuthFailed),
            found => found.map(drop),
        }
    }

    /// Refuses who may not read all of this: a key without an end, else a range (`\0`: all keys from the first on).
    pub fn check_read(
        &self,
        caller: Caller<'_>,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), Error> {
        self.check_keys(caller, |account| &account.reads, key, range_end)
    }

    /// As [`Snapshot::check_read`], for writing.
    pub fn check_write(
        &self,
        caller: Caller<'_>,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), Error> {
        self.check_keys(caller, |account| &account.writes, key, range_end)
    }

    fn check_keys(
        &self,
        caller: Caller<'_>,
        rights: impl Fn(&Account) -> &Ranges,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), Error> {
        if !self.is_enabled {
            return Ok(());
        }
        if caller.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if caller.revision < self.revision {
            return Err(Error::AuthOldRevision);
        }
        let account = self.account(caller.user).ok_or(Error::PermissionDenied)?;
        if account.is_root || rights(account).cover(key, range_end) {
            Ok(())
        } else {
            Err(Error::PermissionDenied)
        }
    }

    /// Refuses who does not have the role root now. An old revision does not matter.
    pub fn check_admin(&self, caller: Caller<'_>) -> Result<(), Error> {
        if !self.is_enabled {
            return Ok(());
        }
        if caller.user.is_empty() {
            return Err(Error::UserEmpty);
        }
        let account = self.account(caller.user).ok_or(Error::UserNotFound)?;
        if account.is_root { Ok(()) } else { Err(Error::PermissionDenied) }
    }

    pub(crate) fn account(&self, user: &str) -> Option<&Account> {
        self.users.get(user.as_bytes()).map(|account| &**account)
    }
}
