//! How a server is reached: over TLS or not, as a user or as nobody; and how a server is made to ask for a user.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use proto::authpb::{Permission, permission::Type};
use proto::etcdserverpb as pb;

use crate::grpc::{Connection, frame};

/// The user of the rows with authentication on: all keys, and not root, whose permissions nobody looks at.
pub(crate) const USER: &str = "bench:bench";

/// Flags of a run.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Access {
    /// Use TLS, and believe whatever certificate the server shows.
    #[arg(long)]
    pub(crate) tls: bool,
    /// The user, as NAME:PASSWORD.
    #[arg(long)]
    pub(crate) user: Option<String>,
}

impl Access {
    /// The token of the user, if there is one.
    pub(crate) async fn token(&self, connection: &Connection) -> Result<Option<String>> {
        let Some(user) = &self.user else { return Ok(None) };
        let Some((name, password)) = user.split_once(':') else {
            bail!("--user is NAME:PASSWORD");
        };
        let request = pb::AuthenticateRequest { name: name.into(), password: password.into() };
        let target = connection.method("/etcdserverpb.Auth/Authenticate");
        let answer = connection.unary(&target, frame(&request)).await.context("authenticate")?;
        let answer = pb::AuthenticateResponse::decode(answer).context("decode the token")?;
        Ok(Some(answer.token))
    }
}

/// Makes root and [`USER`], and turns authentication on.
pub(crate) async fn enable(connection: &Connection) -> Result<()> {
    async fn call(connection: &Connection, path: &'static str, request: Bytes) -> Result<()> {
        connection
            .unary(&connection.method(path), request)
            .await
            .with_context(|| path.to_owned())?;
        Ok(())
    }
    let (name, password) = USER.split_once(':').context("the user has no password")?;
    for (user, password, role) in [("root", "root", "root"), (name, password, "all")] {
        let add = pb::AuthUserAddRequest {
            name: user.into(),
            password: password.into(),
            ..Default::default()
        };
        call(connection, "/etcdserverpb.Auth/UserAdd", frame(&add)).await?;
        let add = pb::AuthRoleAddRequest { name: role.into() };
        call(connection, "/etcdserverpb.Auth/RoleAdd", frame(&add)).await?;
        let grant = pb::AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        call(connection, "/etcdserverpb.Auth/UserGrantRole", frame(&grant)).await?;
    }
    let everything = Permission {
        perm_type: Type::Readwrite.into(),
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
    };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "all".into(), perm: Some(everything) };
    call(connection, "/etcdserverpb.Auth/RoleGrantPermission", frame(&grant)).await?;
    let enable = frame(&pb::AuthEnableRequest {});
    call(connection, "/etcdserverpb.Auth/AuthEnable", enable).await
}
