//! Why something is refused.

/// Why a request is refused. Codes and texts for clients are in `rpc::errors`, under the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Authentication cannot be turned on without the user root.
    #[error("root user does not exist")]
    RootUserNotExist,
    /// Authentication cannot be turned on while root lacks the role root.
    #[error("root user does not have root role")]
    RootRoleNotExist,
    /// The name is taken.
    #[error("user already exists")]
    UserAlreadyExist,
    /// A user needs a name; or nobody said who asks.
    #[error("user name is empty")]
    UserEmpty,
    /// No such user.
    #[error("user not found")]
    UserNotFound,
    /// The name is taken.
    #[error("role already exists")]
    RoleAlreadyExist,
    /// No such role.
    #[error("role not found")]
    RoleNotFound,
    /// A role needs a name.
    #[error("role name is empty")]
    RoleEmpty,
    /// Unknown user or wrong password.
    #[error("authentication failed, invalid user ID or password")]
    AuthFailed,
    /// A password was given for a user who has none; also what etcd says of a hash that is not base64.
    #[error("authentication failed, password was given for no password user")]
    PasswordGivenForNoPasswordUser,
    /// A grant without a permission in it.
    #[error("permission not given")]
    PermissionNotGiven,
    /// The user may not do this.
    #[error("permission denied")]
    PermissionDenied,
    /// The user does not have the role.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role does not have the permission.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Authentication is off.
    #[error("authentication is not enabled")]
    AuthNotEnabled,
    /// The token is unknown, has run out, or is not a token.
    #[error("invalid auth token")]
    InvalidAuthToken,
    /// It would take root's rights away, or is no range of keys.
    #[error("invalid auth management")]
    InvalidAuthMgmt,
    /// The caller is older than the last change of users or roles.
    #[error("revision in header is old")]
    AuthOldRevision,
}
