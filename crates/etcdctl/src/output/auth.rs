//! Answers about users, roles and authentication, in all formats.
//!
//! Upstream: etcdctl/ctlv3/command/printer*.go (3.5).

use prost::Message as _;
use proto::authpb::Permission;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use serde::Serialize;

use super::{Format, Style, fields, json};
use crate::commands::prefix_end;
use crate::exit::{Exit, Failure};
use crate::go;

/// Something to print.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// A change that was made.
    Done {
        /// What the simple format says of it.
        said: &'a str,
        /// All that the answer holds.
        header: Option<&'a pb::ResponseHeader>,
    },
    /// `auth status`
    Status(&'a pb::AuthStatusResponse),
    /// `user get`
    UserGet {
        /// The user.
        name: &'a str,
        /// The answer, which does not name it.
        response: &'a pb::AuthUserGetResponse,
    },
    /// `user list`
    UserList(&'a pb::AuthUserListResponse),
    /// `role get`
    RoleGet {
        /// The role.
        name: &'a str,
        /// The answer, which does not name it.
        response: &'a pb::AuthRoleGetResponse,
    },
    /// `role list`
    RoleList(&'a pb::AuthRoleListResponse),
}

/// Renders an answer.
pub fn render(answer: Answer<'_>, style: Style) -> Result<Vec<u8>, Failure> {
    let rendered = match style.format {
        Format::Simple => Some(simple(answer)),
        Format::Fields => in_fields(answer).map(String::into_bytes),
        Format::Json => Some(in_json(answer).into_bytes()),
        Format::Table => None,
        Format::Protobuf => Some(protobuf(answer)),
    };
    rendered.ok_or_else(|| {
        let text = format!("{} not supported as output format", style.format.name());
        Failure::new(Exit::BadFeature, text)
    })
}

fn simple(answer: Answer<'_>) -> Vec<u8> {
    let lines = |names: &[String]| names.iter().map(|name| format!("{name}\n")).collect::<String>();
    let text = match answer {
        Answer::Done { said, .. } => format!("{said}\n"),
        Answer::Status(response) => format!(
            "Authentication Status: {}\nAuthRevision: {}\n",
            response.enabled, response.auth_revision
        ),
        Answer::UserGet { name, response } => {
            let roles: String = response.roles.iter().map(|role| format!(" {role}")).collect();
            format!("User: {name}\nRoles:{roles}\n")
        }
        Answer::UserList(response) => lines(&response.users),
        Answer::RoleList(response) => lines(&response.roles),
        Answer::RoleGet { name, response } => return role(name, &response.perm),
    };
    text.into_bytes()
}

/// Keys are bytes, and shown as they are.
fn role(name: &str, permissions: &[Permission]) -> Vec<u8> {
    let mut out = format!("Role {name}\n").into_bytes();
    for (title, kind) in [("KV Read:\n", Type::Read), ("KV Write:\n", Type::Write)] {
        out.extend_from_slice(title.as_bytes());
        let wanted = [i32::from(kind), i32::from(Type::Readwrite)];
        for permission in permissions.iter().filter(|known| wanted.contains(&known.perm_type)) {
            let (key, end) = (&permission.key, &permission.range_end);
            let parts: &[&[u8]] = match &**end {
                [] => &[key],
                [0] => &[b"[", key, b", <open ended>"],
                end => &[b"[", key, b", ", end, b")"],
            };
            out.push(b'\t');
            out.extend_from_slice(&parts.concat());
            if !end.is_empty() && prefix_end(key) == **end {
                out.extend_from_slice(&[b" (prefix ", &**key, b")"].concat());
            }
            out.push(b'\n');
        }
    }
    out
}

fn in_fields(answer: Answer<'_>) -> Option<String> {
    Some(match answer {
        Answer::Done { header, .. } => fields::header_only(header),
        Answer::RoleGet { response, .. } => {
            let mut text = fields::header_only(response.header.as_ref());
            for permission in &response.perm {
                let kind = Type::try_from(permission.perm_type).map_or_else(
                    |_| permission.perm_type.to_string(),
                    |kind| kind.as_str_name().to_owned(),
                );
                text.push_str(&format!(
                    "\"PermType\" :  {kind}\n\"Key\" : {}\n\"RangeEnd\" : {}\n",
                    go::quote(&permission.key),
                    go::quote(&permission.range_end)
                ));
            }
            text
        }
        Answer::RoleList(response) => {
            let roles =
                response.roles.iter().map(|role| format!(" {}", go::quote(role.as_bytes())));
            let header = fields::header_only(response.header.as_ref());
            format!("{header}\"Roles\" :{}\n", roles.collect::<String>())
        }
        Answer::Status(_) | Answer::UserGet { .. } | Answer::UserList(_) => return None,
    })
}

fn protobuf(answer: Answer<'_>) -> Vec<u8> {
    match answer {
        // Every answer to a change is a header in field 1.
        Answer::Done { header, .. } => {
            pb::AuthUserAddResponse { header: header.copied() }.encode_to_vec()
        }
        Answer::Status(response) => response.encode_to_vec(),
        Answer::UserGet { response, .. } => response.encode_to_vec(),
        Answer::UserList(response) => response.encode_to_vec(),
        Answer::RoleGet { response, .. } => response.encode_to_vec(),
        Answer::RoleList(response) => response.encode_to_vec(),
    }
}

/// The fields of all these answers in Go's order; empty ones are left out.
#[derive(Default, Serialize)]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<json::Header>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    enabled: bool,
    #[serde(rename = "authRevision", skip_serializing_if = "json::is_zero")]
    auth_revision: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    users: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    perm: Vec<PermissionView<'a>>,
}

#[derive(Serialize)]
struct PermissionView<'a> {
    #[serde(rename = "permType", skip_serializing_if = "json::is_zero")]
    perm_type: i32,
    #[serde(skip_serializing_if = "json::is_zero", serialize_with = "json::base64_bytes")]
    key: &'a [u8],
    #[serde(skip_serializing_if = "json::is_zero", serialize_with = "json::base64_bytes")]
    range_end: &'a [u8],
}

fn in_json(answer: Answer<'_>) -> String {
    let header = |of: Option<&pb::ResponseHeader>| of.map(json::Header::from);
    let body = match answer {
        Answer::Done { header: of, .. } => Body { header: header(of), ..Body::default() },
        Answer::Status(response) => Body {
            header: header(response.header.as_ref()),
            enabled: response.enabled,
            auth_revision: response.auth_revision,
            ..Body::default()
        },
        Answer::UserGet { response, .. } => Body {
            header: header(response.header.as_ref()),
            roles: &response.roles,
            ..Body::default()
        },
        Answer::UserList(response) => Body {
            header: header(response.header.as_ref()),
            users: &response.users,
            ..Body::default()
        },
        Answer::RoleGet { response, .. } => Body {
            header: header(response.header.as_ref()),
            perm: response
                .perm
                .iter()
                .map(|permission| PermissionView {
                    perm_type: permission.perm_type,
                    key: &permission.key,
                    range_end: &permission.range_end,
                })
                .collect(),
            ..Body::default()
        },
        Answer::RoleList(response) => Body {
            header: header(response.header.as_ref()),
            roles: &response.roles,
            ..Body::default()
        },
    };
    json::line(&body)
}
