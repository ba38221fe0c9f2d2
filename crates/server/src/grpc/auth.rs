//! Auth: users, roles, and authentication itself. All of it goes through the log, questions too, as in etcd.
//!
//! A password ends here: what is proposed holds its hash, or, of a login, nothing of it. It was compared with what this member
//! knows, and if users or roles have changed by the time that the login is applied, everything is done again.

use std::sync::Arc;

use auth::Answer;
use machine::Response as Applied;
use proto::etcdserverpb::internal_raft_request::Request as Op;
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
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
    InternalAuthenticateRequest, ResponseHeader,
};
use rpc::errors::Error;
use rpc::etcdserverpb::auth_server::Auth;
use tonic::{Code, Request, Response, Status};

use super::{limits, status};
use crate::access::{Credentials, PasswordError, Passwords, TokenError};
use crate::request::Core;

/// The service.
#[derive(Debug)]
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(crate) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core) }
    }

    /// Brings a request through the log.
    async fn bring<T>(
        &self,
        request: Request<T>,
        op: impl FnOnce(T) -> Op,
    ) -> Result<(Option<ResponseHeader>, Answer), Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        self.bring_for(&credentials, op(request.into_inner())).await
    }

    async fn bring_for(
        &self,
        credentials: &Credentials,
        op: Op,
    ) -> Result<(Option<ResponseHeader>, Answer), Status> {
        let answer =
            self.core.propose_for(credentials, op).await.map_err(|refusal| status::of(&refusal))?;
        let Applied::Auth(found) = answer.response else { return Err(unexpected()) };
        Ok((Some(self.core.header(answer.revision)), found))
    }

    /// Makes the hash of a password, for callers who say who they are: hashing is slow, and not for anybody to ask for.
    async fn hash(&self, credentials: &Credentials, password: String) -> Result<String, Status> {
        Passwords::check(&password).map_err(|error| of_password(&error))?;
        self.core.require_identity(credentials).await.map_err(status::of_auth)?;
        self.core.access.passwords.hash(password).await.map_err(|error| of_password(&error))
    }

    /// Compares the password, and has the user let in.
    async fn log_in(&self, request: &AuthenticateRequest) -> Result<AuthenticateResponse, Status> {
        let core = &self.core;
        loop {
            let login = core.access.rights().login(&request.name);
            let login = login.map_err(|refused| refuse_login(&request.name, refused))?;
            if !core.access.passwords.verify(request.password.clone(), &login).await {
                tracing::info!(user_name = request.name, "invalid password");
                return Err(refuse_login(&request.name, auth::Error::AuthFailed));
            }
            let prefix = core.access.token_prefix();
            let op = Op::Authenticate(InternalAuthenticateRequest {
                name: request.name.clone(),
                password: String::new(),
                simple_token: prefix.clone(),
            });
            let answer = core.propose(op).await.map_err(|refusal| status::of(&refusal))?;
            let Applied::Auth(Answer::Authenticated { revision, index }) = answer.response else {
                return Err(unexpected());
            };
            if revision != login.revision {
                tracing::info!("revision when password checked became stale; retrying");
                continue;
            }
            let token = core.access.token(&request.name, &prefix, index, revision);
            let token = token.map_err(|error| match error {
                TokenError::VerifyOnly => Error::VerifyOnlyKey.into(),
                TokenError::None => Status::from(Error::AuthFailed),
                TokenError::Failed => Status::new(Code::Unknown, error.to_string()),
            })?;
            tracing::debug!(
                user_name = request.name,
                token_fingerprint = crate::access::fingerprint(&token),
                "authenticated a user"
            );
            let header = Some(core.header(answer.revision));
            return Ok(AuthenticateResponse { header, token });
        }
    }
}

fn refuse_login(user: &str, refused: auth::Error) -> Status {
    if refused != auth::Error::AuthNotEnabled {
        tracing::warn!(user, error = %refused, "invalid authentication was requested");
    }
    status::of_auth(refused)
}

fn of_password(error: &PasswordError) -> Status {
    Status::new(Code::Unknown, error.to_string())
}

/// An answer of another kind than the request's: a broken promise of ours, told instead of guessed around.
fn unexpected() -> Status {
    Status::internal("the state machine answered another request")
}

#[tonic::async_trait]
impl Auth for Service {
    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        self.core.linearizable().await.map_err(|refusal| status::of(&refusal))?;
        self.log_in(request.get_ref()).await.map(Response::new)
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        let mut user = request.into_inner();
        let password = std::mem::take(&mut user.password);
        user.hashed_password = match user.options {
            Some(options) if options.no_password => String::new(),
            _ => self.hash(&credentials, password).await?,
        };
        let (header, _) = self.bring_for(&credentials, Op::AuthUserAdd(user)).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        limits::admit(&self.core, request.metadata())?;
        let credentials = self.core.credentials(&request);
        let mut user = request.into_inner();
        let password = std::mem::take(&mut user.password);
        if !password.is_empty() {
            user.hashed_password = self.hash(&credentials, password).await?;
        }
        let (header, _) = self.bring_for(&credentials, Op::AuthUserChangePassword(user)).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthEnable).await?;
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthDisable).await?;
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthUserDelete).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthUserGrantRole).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthUserRevokeRole).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthRoleAdd).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthRoleDelete).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthRoleGrantPermission).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let (header, _) = self.bring(request, Op::AuthRoleRevokePermission).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let (header, answer) = self.bring(request, Op::AuthStatus).await?;
        let Answer::Status { is_enabled: enabled, revision: auth_revision } = answer else {
            return Err(unexpected());
        };
        Ok(Response::new(AuthStatusResponse { header, enabled, auth_revision }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (header, answer) = self.bring(request, Op::AuthUserGet).await?;
        let Answer::Roles(roles) = answer else { return Err(unexpected()) };
        Ok(Response::new(AuthUserGetResponse { header, roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (header, answer) = self.bring(request, Op::AuthUserList).await?;
        let Answer::Users(users) = answer else { return Err(unexpected()) };
        Ok(Response::new(AuthUserListResponse { header, users }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (header, answer) = self.bring(request, Op::AuthRoleGet).await?;
        let Answer::Permissions(perm) = answer else { return Err(unexpected()) };
        Ok(Response::new(AuthRoleGetResponse { header, perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (header, answer) = self.bring(request, Op::AuthRoleList).await?;
        let Answer::Roles(roles) = answer else { return Err(unexpected()) };
        Ok(Response::new(AuthRoleListResponse { header, roles }))
    }
}
