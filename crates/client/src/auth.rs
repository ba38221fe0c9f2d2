//! Authentication calls, one to one with the service.

use proto::etcdserverpb as pb;
use rpc::etcdserverpb::auth_client::AuthClient;

use crate::client::Client;
use crate::error::Result;
use crate::retry::Policy;

/// Calls that do nothing but pass a request on.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($policy:ident, $request:ident) -> $response:ident;)*) => {
        impl Client {
            $($(#[$doc])*
            pub async fn $name(&self, request: pb::$request) -> Result<pb::$response> {
                self.call(Policy::$policy, request, |transport, request| async move {
                    AuthClient::new(transport).$name(request).await
                })
                .await
            })*
        }
    };
}

calls! {
    /// Turns authentication on.
    auth_enable(NonRepeatable, AuthEnableRequest) -> AuthEnableResponse;
    /// Turns authentication off.
    auth_disable(NonRepeatable, AuthDisableRequest) -> AuthDisableResponse;
    /// Whether authentication is on.
    auth_status(Repeatable, AuthStatusRequest) -> AuthStatusResponse;
    /// Exchanges a password for a token. Clients with a user do it themselves.
    authenticate(NonRepeatable, AuthenticateRequest) -> AuthenticateResponse;
    /// Adds a user.
    user_add(NonRepeatable, AuthUserAddRequest) -> AuthUserAddResponse;
    /// Roles of a user.
    user_get(Repeatable, AuthUserGetRequest) -> AuthUserGetResponse;
    /// Lists the users.
    user_list(Repeatable, AuthUserListRequest) -> AuthUserListResponse;
    /// Deletes a user.
    user_delete(NonRepeatable, AuthUserDeleteRequest) -> AuthUserDeleteResponse;
    /// Changes a user's password.
    user_change_password(NonRepeatable, AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
    /// Grants a role to a user.
    user_grant_role(NonRepeatable, AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
    /// Takes a role from a user.
    user_revoke_role(NonRepeatable, AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
    /// Adds a role.
    role_add(NonRepeatable, AuthRoleAddRequest) -> AuthRoleAddResponse;
    /// Permissions of a role.
    role_get(Repeatable, AuthRoleGetRequest) -> AuthRoleGetResponse;
    /// Lists the roles.
    role_list(Repeatable, AuthRoleListRequest) -> AuthRoleListResponse;
    /// Deletes a role.
    role_delete(NonRepeatable, AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
    /// Grants a key range to a role.
    role_grant_permission(NonRepeatable, AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
    /// Takes a key range from a role.
    role_revoke_permission(NonRepeatable, AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
}
