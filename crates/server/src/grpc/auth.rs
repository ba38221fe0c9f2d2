//! Auth, while authentication is always off: what is stored of users and roles can be read, and nothing changed.
//!
//! A directory may hold users and roles of a cluster that has authentication turned off; one that has it on is refused at
//! start.

use std::sync::Arc;

use backend::schema::auth as rows;
use bytes::Bytes;
use proto::authpb::{Role, User};
use proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use rpc::errors::Error;
use rpc::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::{limits, status, unserved};
use crate::request::Core;

/// The revision of a store that nobody has changed.
const FIRST_REVISION: u64 = 1;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// Reads rows, as they are once what was committed before is applied.
    async fn read<T>(
        &self,
        read: impl FnOnce(&backend::View) -> Result<T, backend::Error>,
    ) -> Result<(Option<ResponseHeader>, T), Status> {
        limits::admit(&self.core)?;
        self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        let found =
            read(&self.core.backend.view()).map_err(|error| Status::internal(error.to_string()))?;
        Ok((Some(self.core.header(0)), found))
    }
}

/// Names are text in messages and bytes in rows.
fn text(name: &Bytes) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// Where a change would go.
fn later<T>() -> Result<T, Status> {
    Err(unserved::later("authentication"))
}

#[tonic::async_trait]
impl Auth for Service {
    async fn auth_status(
        &self,
        _: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let (header, revision) = self.read(rows::revision).await?;
        Ok(Response::new(AuthStatusResponse {
            header,
            enabled: false,
            auth_revision: revision.max(FIRST_REVISION),
        }))
    }

    async fn authenticate(
        &self,
        _: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        limits::admit(&self.core)?;
        Err(Error::AuthNotEnabled.into())
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let name = request.into_inner().name;
        let (header, users) = self.read(rows::users).await?;
        let user =
            users.iter().find(|user| user.name == name.as_bytes()).ok_or(Error::UserNotFound)?;
        Ok(Response::new(AuthUserGetResponse { header, roles: user.roles.clone() }))
    }

    async fn user_list(
        &self,
        _: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (header, users) = self.read(rows::users).await?;
        let users = users.iter().map(|User { name, .. }| text(name)).collect();
        Ok(Response::new(AuthUserListResponse { header, users }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let name = request.into_inner().role;
        let (header, roles) = self.read(rows::roles).await?;
        let role = roles
            .into_iter()
            .find(|role| role.name == name.as_bytes())
            .ok_or(Error::RoleNotFound)?;
        Ok(Response::new(AuthRoleGetResponse { header, perm: role.key_permission }))
    }

    async fn role_list(
        &self,
        _: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (header, roles) = self.read(rows::roles).await?;
        let roles = roles.iter().map(|Role { name, .. }| text(name)).collect();
        Ok(Response::new(AuthRoleListResponse { header, roles }))
    }

    async fn auth_enable(
        &self,
        _: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        later()
    }

    async fn auth_disable(
        &self,
        _: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        later()
    }

    async fn user_add(
        &self,
        _: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        later()
    }

    async fn user_delete(
        &self,
        _: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        later()
    }

    async fn user_change_password(
        &self,
        _: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        later()
    }

    async fn user_grant_role(
        &self,
        _: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        later()
    }

    async fn user_revoke_role(
        &self,
        _: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        later()
    }

    async fn role_add(
        &self,
        _: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        later()
    }

    async fn role_delete(
        &self,
        _: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        later()
    }

    async fn role_grant_permission(
        &self,
        _: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        later()
    }

    async fn role_revoke_permission(
        &self,
        _: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        later()
    }
}
