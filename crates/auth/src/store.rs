//! The writing side: requests of the log change users and roles.

use std::collections::BTreeMap;
use std::sync::Arc;

use backend::schema::auth as rows;
use backend::{View, Writer};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use proto::authpb::permission::Type;
use proto::authpb::{Permission, Role, User, UserAddOptions};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, InternalAuthenticateRequest,
};

use crate::ranges::is_valid_permission;
use crate::snapshot::{Account, Snapshot};
use crate::{Caller, Error, ROOT_ROLE, ROOT_USER};

/// Where etcd's versions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The role root is shown with the rights that it has (3.6 and later), not with those that its row names.
    pub shows_root_rights: bool,
    /// Everybody may ask whether authentication is on (3.7 and later).
    pub status_is_public: bool,
}

/// The answer to a request, by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nothing but the header.
    Done,
    /// To a question about the state.
    Status {
        /// Whether authentication is on.
        is_enabled: bool,
        /// The auth revision.
        revision: u64,
    },
    /// The user is let in; the token is for the caller to make.
    Authenticated {
        /// The auth revision at which the token is given.
        revision: u64,
        /// The entry that let the user in.
        index: u64,
    },
    /// Roles of a user, or all roles.
    Roles(Vec<String>),
    /// All users.
    Users(Vec<String>),
    /// What a role may do.
    Permissions(Vec<Permission>),
}

/// What an entry means outside of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// There is a new [`Snapshot`]. Readers must have it before they see the rows of a later entry.
    Changed,
    /// A user was let in. Members that hand out simple tokens remember `prefix.index`, `index` being the entry's.
    LetIn {
        /// The user.
        user: String,
        /// First part of the token.
        prefix: String,
    },
    /// There is a new snapshot, and the user's simple tokens are void.
    UserChanged {
        /// The user.
        user: String,
    },
    /// There is a new snapshot, and all simple tokens are void.
    Disabled,
}

/// What came of a request.
#[derive(Debug)]
pub struct Applied {
    /// The answer, the same on every member.
    pub outcome: Result<Answer, Error>,
    /// What has to be done elsewhere.
    pub effect: Option<Effect>,
}

type Change = Result<Option<Effect>, Error>;

/// Users and roles, and their rows. See the [crate's documentation](crate).
#[derive(Debug)]
pub struct Store {
    current: Arc<Snapshot>,
}

impl Store {
    /// Reads what the rows say. A store that nobody has used gets its first revision, 1.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn open(writer: &mut Writer) -> Result<Self, backend::Error> {
        let mut current = load(&writer.view())?;
        if current.revision == 0 {
            // As upstream does at its first start: members compare this number.
            current.revision = 1;
            rows::put_revision(writer, 1);
            writer.publish();
        }
        Ok(Self { current: Arc::new(current) })
    }

    /// The present state.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Executes a request about users, roles or authentication itself, the entry of this index; `None` if it is about
    /// something else.
    pub fn apply(
        &mut self,
        index: u64,
        op: &Op,
        caller: Caller<'_>,
        rules: Rules,
        writer: &mut Writer,
    ) -> Option<Applied> {
        let admin = self.current.check_admin(caller);
        let change: Change = match op {
            Op::AuthEnable(_) => admin.and_then(|()| self.enable(writer)),
            Op::AuthDisable(_) => admin.map(|()| self.disable(writer)),
            Op::AuthUserAdd(request) => admin.and_then(|()| self.user_add(request, writer)),
            Op::AuthUserDelete(request) => {
                admin.and_then(|()| self.user_delete(&request.name, writer))
            }
            Op::AuthUserChangePassword(request) => {
                admin.and_then(|()| self.user_change_password(request, writer))
            }
            Op::AuthUserGrantRole(request) => {
                admin.and_then(|()| self.user_grant_role(&request.user, &request.role, writer))
            }
            Op::AuthUserRevokeRole(request) => {
                admin.and_then(|()| self.user_revoke_role(&request.name, &request.role, writer))
            }
            Op::AuthRoleAdd(request) => admin.and_then(|()| self.role_add(&request.name, writer)),
            Op::AuthRoleDelete(request) => {
                admin.and_then(|()| self.role_delete(&request.role, writer))
            }
            Op::AuthRoleGrantPermission(request) => {
                admin.and_then(|()| self.role_grant_permission(request, writer))
            }
            Op::AuthRoleRevokePermission(request) => {
                admin.and_then(|()| self.role_revoke_permission(request, writer))
            }
            Op::Authenticate(request) => return Some(self.authenticate(index, request)),
            Op::AuthStatus(_) => return Some(asked(self.status(admin, rules))),
            Op::AuthUserGet(request) => {
                return Some(asked(self.roles_of_user(&request.name, caller, admin)));
            }
            Op::AuthUserList(_) => {
                return Some(asked(
                    admin.map(|()| Answer::Users(names(self.current.users.keys()))),
                ));
            }
            Op::AuthRoleGet(request) => {
                return Some(asked(self.permissions(&request.role, caller, admin, rules)));
            }
            Op::AuthRoleList(_) => {
                return Some(asked(
                    admin.map(|()| Answer::Roles(names(self.current.roles.keys()))),
                ));
            }
            Op::V2(_)
            | Op::Range(_)
            | Op::Put(_)
            | Op::DeleteRange(_)
            | Op::Txn(_)
            | Op::Compaction(_)
            | Op::LeaseGrant(_)
            | Op::LeaseRevoke(_)
            | Op::LeaseCheckpoint(_)
            | Op::Alarm(_)
            | Op::ClusterVersionSet(_)
            | Op::ClusterMemberAttrSet(_)
            | Op::DowngradeInfoSet(_)
            | Op::DowngradeVersionTest(_) => return None,
        };
        Some(match change {
            Ok(effect) => Applied { outcome: Ok(Answer::Done), effect },
            Err(refused) => Applied { outcome: Err(refused), effect: None },
        })
    }

    fn status(&self, admin: Result<(), Error>, rules: Rules) -> Result<Answer, Error> {
        if !rules.status_is_public {
            admin?;
        }
        let Snapshot { is_enabled, revision, .. } = *self.current;
        Ok(Answer::Status { is_enabled, revision })
    }

    /// Users may see their own roles. Of others they learn nothing, nor whether they are there.
    fn roles_of_user(
        &self,
        name: &str,
        caller: Caller<'_>,
        admin: Result<(), Error>,
    ) -> Result<Answer, Error> {
        if name != caller.user {
            admin?;
        }
        self.user(name).map(|user| Answer::Roles(user.roles))
    }

    /// Users may see the permissions of the roles that they have.
    fn permissions(
        &self,
        name: &str,
        caller: Caller<'_>,
        admin: Result<(), Error>,
        rules: Rules,
    ) -> Result<Answer, Error> {
        if !self.current.account(caller.user).is_some_and(|account| account.has_role(name)) {
            admin?;
        }
        let role = self.role(name)?;
        if rules.shows_root_rights && role.name == ROOT_ROLE {
            let all = Permission {
                perm_type: Type::Readwrite.into(),
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            };
            return Ok(Answer::Permissions(vec![all]));
        }
        Ok(Answer::Permissions(role.key_permission))
    }

    /// The password was compared by the member that was asked.
    fn authenticate(&self, index: u64, request: &InternalAuthenticateRequest) -> Applied {
        match self.current.check_login(&request.name) {
            Ok(()) => Applied {
                outcome: Ok(Answer::Authenticated { revision: self.current.revision, index }),
                effect: Some(Effect::LetIn {
                    user: request.name.clone(),
                    prefix: request.simple_token.clone(),
                }),
            },
            Err(refused) => Applied { outcome: Err(refused), effect: None },
        }
    }

    fn enable(&mut self, writer: &mut Writer) -> Change {
        if self.current.is_enabled {
            return Ok(None);
        }
        let root = self.current.account(ROOT_USER).ok_or(Error::RootUserNotExist)?;
        if !root.has_role(ROOT_ROLE) {
            return Err(Error::RootRoleNotExist);
        }
        rows::put_enabled(writer, true);
        self.edit().is_enabled = true;
        Ok(Some(Effect::Changed))
    }

    fn disable(&mut self, writer: &mut Writer) -> Option<Effect> {
        if !self.current.is_enabled {
            return None;
        }
        rows::put_enabled(writer, false);
        self.edit().is_enabled = false;
        self.raise_revision(writer);
        Some(Effect::Disabled)
    }

    fn user_add(&mut self, request: &AuthUserAddRequest, writer: &mut Writer) -> Change {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        if self.current.account(&request.name).is_some() {
            return Err(Error::UserAlreadyExist);
        }
        let options = request.options.unwrap_or(UserAddOptions { no_password: false });
        let password =
            if options.no_password { Bytes::new() } else { decode_hash(&request.hashed_password)? };
        self.put_user(
            User {
                name: Bytes::from(request.name.clone()),
                password,
                roles: Vec::new(),
                options: Some(options),
            },
            writer,
        );
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn user_delete(&mut self, name: &str, writer: &mut Writer) -> Change {
        if self.current.is_enabled && name == ROOT_USER {
            return Err(Error::InvalidAuthMgmt);
        }
        let name = self.user(name)?.name;
        rows::delete_user(writer, &name);
        self.edit().users.remove(&name);
        self.raise_revision(writer);
        Ok(Some(user_changed(&name)))
    }

    /// A user without password keeps having none, and that is no error.
    fn user_change_password(
        &mut self,
        request: &AuthUserChangePasswordRequest,
        writer: &mut Writer,
    ) -> Change {
        let mut user = self.user(&request.name)?;
        let has_password = !user.options.is_some_and(|options| options.no_password);
        user.password =
            if has_password { decode_hash(&request.hashed_password)? } else { Bytes::new() };
        let effect = user_changed(&user.name);
        self.put_user(user, writer);
        self.raise_revision(writer);
        Ok(Some(effect))
    }

    fn user_grant_role(&mut self, user: &str, role: &str, writer: &mut Writer) -> Change {
        let mut user = self.user(user)?;
        if role != ROOT_ROLE && !self.current.roles.contains_key(role.as_bytes()) {
            return Err(Error::RoleNotFound);
        }
        match user.roles.binary_search_by(|known| known.as_str().cmp(role)) {
            Ok(_) => return Ok(None),
            Err(place) => user.roles.insert(place, role.to_owned()),
        }
        self.put_user(user, writer);
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn user_revoke_role(&mut self, user: &str, role: &str, writer: &mut Writer) -> Change {
        if self.current.is_enabled && user == ROOT_USER && role == ROOT_ROLE {
            return Err(Error::InvalidAuthMgmt);
        }
        let mut user = self.user(user)?;
        let count = user.roles.len();
        user.roles.retain(|known| known != role);
        if user.roles.len() == count {
            return Err(Error::RoleNotGranted);
        }
        self.put_user(user, writer);
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn role_add(&mut self, name: &str, writer: &mut Writer) -> Change {
        if name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        if self.current.roles.contains_key(name.as_bytes()) {
            return Err(Error::RoleAlreadyExist);
        }
        let role = Role { name: Bytes::from(name.to_owned()), key_permission: Vec::new() };
        self.put_role(role, writer);
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn role_delete(&mut self, name: &str, writer: &mut Writer) -> Change {
        if self.current.is_enabled && name == ROOT_ROLE {
            return Err(Error::InvalidAuthMgmt);
        }
        let role = self.role(name)?;
        rows::delete_role(writer, &role.name);
        self.edit().roles.remove(&role.name);
        for mut user in self.users_with(name) {
            user.roles.retain(|known| known != name);
            self.put_user(user, writer);
        }
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn role_grant_permission(
        &mut self,
        request: &AuthRoleGrantPermissionRequest,
        writer: &mut Writer,
    ) -> Change {
        let permission = request.perm.as_ref().ok_or(Error::PermissionNotGiven)?;
        if !is_valid_permission(&permission.key, &permission.range_end) {
            return Err(Error::InvalidAuthMgmt);
        }
        let mut role = self.role(&request.name)?;
        let permissions = &mut role.key_permission;
        // As upstream, which looks at the first permission with this key only: of several with one key the others come
        // twice when they are granted again.
        let first = permissions.partition_point(|known| known.key < permission.key);
        match permissions.get_mut(first) {
            Some(known)
                if known.key == permission.key && known.range_end == permission.range_end =>
            {
                known.perm_type = permission.perm_type;
            }
            _ => {
                let behind = permissions.partition_point(|known| known.key <= permission.key);
                permissions.insert(behind, permission.clone());
            }
        }
        self.put_role(role, writer);
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn role_revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
        writer: &mut Writer,
    ) -> Change {
        let mut role = self.role(&request.role)?;
        let count = role.key_permission.len();
        role.key_permission
            .retain(|known| known.key != request.key || known.range_end != request.range_end);
        if role.key_permission.len() == count {
            return Err(Error::PermissionNotGranted);
        }
        self.put_role(role, writer);
        self.raise_revision(writer);
        Ok(Some(Effect::Changed))
    }

    fn user(&self, name: &str) -> Result<User, Error> {
        self.current.account(name).map(|account| account.user.clone()).ok_or(Error::UserNotFound)
    }

    fn role(&self, name: &str) -> Result<Role, Error> {
        self.current
            .roles
            .get(name.as_bytes())
            .map(|role| Role::clone(role))
            .ok_or(Error::RoleNotFound)
    }

    fn users_with(&self, role: &str) -> Vec<User> {
        let accounts = self.current.users.values();
        accounts
            .filter(|account| account.has_role(role))
            .map(|account| account.user.clone())
            .collect()
    }

    /// The state to change: a copy if a reader holds it.
    fn edit(&mut self) -> &mut Snapshot {
        Arc::make_mut(&mut self.current)
    }

    fn put_user(&mut self, user: User, writer: &mut Writer) {
        rows::put_user(writer, &user);
        let state = self.edit();
        let account = Account::new(user, &state.roles);
        state.users.insert(account.user.name.clone(), Arc::new(account));
    }

    /// Stores a role, and brings the rights of those who have it up to date.
    fn put_role(&mut self, role: Role, writer: &mut Writer) {
        rows::put_role(writer, &role);
        let users = std::str::from_utf8(&role.name).map(|name| self.users_with(name));
        let state = self.edit();
        state.roles.insert(role.name.clone(), Arc::new(role));
        // A role whose name is not text nobody can have: users name theirs in text.
        for user in users.unwrap_or_default() {
            let account = Account::new(user, &state.roles);
            state.users.insert(account.user.name.clone(), Arc::new(account));
        }
    }

    fn raise_revision(&mut self, writer: &mut Writer) {
        let state = self.edit();
        state.revision += 1;
        rows::put_revision(writer, state.revision);
    }
}

/// A question changes nothing.
fn asked(outcome: Result<Answer, Error>) -> Applied {
    Applied { outcome, effect: None }
}

fn names<'a>(names: impl Iterator<Item = &'a Bytes>) -> Vec<String> {
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

fn user_changed(name: &Bytes) -> Effect {
    Effect::UserChanged { user: String::from_utf8_lossy(name).into_owned() }
}

/// The hash as it is stored. Entries of etcd before 3.5 have the password instead, which each member would have to hash with
/// a salt of its own: no member can let such a user in before the password is changed.
fn decode_hash(hashed_password: &str) -> Result<Bytes, Error> {
    let decoded = BASE64_STANDARD.decode(hashed_password);
    decoded.map(Bytes::from).map_err(|_| Error::PasswordGivenForNoPasswordUser)
}

fn load(view: &View) -> Result<Snapshot, backend::Error> {
    let by_name = |role: Role| (role.name.clone(), Arc::new(role));
    let roles: BTreeMap<_, _> = rows::roles(view)?.into_iter().map(by_name).collect();
    let with_rights = |user: User| (user.name.clone(), Arc::new(Account::new(user, &roles)));
    Ok(Snapshot {
        is_enabled: rows::is_enabled(view)?,
        revision: rows::revision(view)?,
        users: rows::users(view)?.into_iter().map(with_rights).collect(),
        roles,
    })
}

#[cfg(test)]
mod tests;
