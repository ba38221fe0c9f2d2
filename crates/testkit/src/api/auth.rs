//! The requests of the Auth service.

use proto::etcdserverpb as pb;
use rpc::etcdserverpb::auth_client::AuthClient;
use tonic::transport::Channel;

use super::{Api, Refusal};

macro_rules! service {
    ($($name:ident, $request:ident, $response:ident, $method:ident;)*) => {
        /// One request to the Auth service.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant holds the message of that name")]
        pub enum AuthRequest {
            $($name(pb::$request),)*
        }

        /// What came back from the Auth service.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "each variant holds the message of that name")]
        pub enum AuthResponse {
            $($name(pb::$response),)*
        }

        impl AuthRequest {
            /// The method's name.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                }
            }
        }

        impl AuthResponse {
            /// The header, if one came.
            pub fn header_mut(&mut self) -> Option<&mut pb::ResponseHeader> {
                match self {
                    $(Self::$name(message) => message.header.as_mut(),)*
                }
            }
        }

        pub(super) async fn call(
            api: &Api,
            client: &AuthClient<Channel>,
            request: AuthRequest,
        ) -> Result<AuthResponse, Refusal> {
            let mut client = client.clone();
            Ok(match request {
                $(AuthRequest::$name(message) => {
                    AuthResponse::$name(client.$method(api.asked(message)).await?.into_inner())
                })*
            })
        }
    };
}

service! {
    AuthEnable, AuthEnableRequest, AuthEnableResponse, auth_enable;
    AuthDisable, AuthDisableRequest, AuthDisableResponse, auth_disable;
    AuthStatus, AuthStatusRequest, AuthStatusResponse, auth_status;
    Authenticate, AuthenticateRequest, AuthenticateResponse, authenticate;
    UserAdd, AuthUserAddRequest, AuthUserAddResponse, user_add;
    UserGet, AuthUserGetRequest, AuthUserGetResponse, user_get;
    UserList, AuthUserListRequest, AuthUserListResponse, user_list;
    UserDelete, AuthUserDeleteRequest, AuthUserDeleteResponse, user_delete;
    UserChangePassword, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse, user_change_password;
    UserGrantRole, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, user_grant_role;
    UserRevokeRole, AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, user_revoke_role;
    RoleAdd, AuthRoleAddRequest, AuthRoleAddResponse, role_add;
    RoleGet, AuthRoleGetRequest, AuthRoleGetResponse, role_get;
    RoleList, AuthRoleListRequest, AuthRoleListResponse, role_list;
    RoleDelete, AuthRoleDeleteRequest, AuthRoleDeleteResponse, role_delete;
    RoleGrantPermission, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse, role_grant_permission;
    RoleRevokePermission, AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, role_revoke_permission;
}
