//! `auth`, `user` and `role`.

use std::future::Future;

use client::Client;
use proto::authpb::UserAddOptions;
use proto::authpb::permission::Type;
use proto::etcdserverpb as pb;
use rpc::errors::Error;

use super::{Outcome, only_argument, run, text};
use crate::command_line::Invocation;
use crate::exit::Failure;
use crate::globals::Globals;
use crate::output::Style;
use crate::output::auth::{Answer, render};
use crate::terminal;

/// The end of all keys from the first on.
const OPEN_END: &[u8] = &[0];

pub(super) fn enable(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "auth enable command does not accept any arguments")?;
    run(invocation, async |globals| {
        let client = globals.client().await?;
        loop {
            match client.auth_enable(pb::AuthEnableRequest {}).await {
                Ok(_) => break,
                Err(error) if error.etcd() == Some(Error::RootRoleNotExist) => {
                    give_root_its_role(&client).await?;
                }
                Err(error) => return Err(Failure::error(error)),
            }
        }
        terminal::out_line("Authentication Enabled");
        Ok(())
    })
}

async fn give_root_its_role(client: &Client) -> Outcome {
    match client.role_add(pb::AuthRoleAddRequest { name: "root".to_owned() }).await {
        Ok(_) => {}
        Err(error) if error.etcd() == Some(Error::RoleAlreadyExist) => {}
        Err(error) => return Err(Failure::error(error)),
    }
    let grant = pb::AuthUserGrantRoleRequest { user: "root".to_owned(), role: "root".to_owned() };
    client.user_grant_role(grant).await.map(drop).map_err(Failure::error)
}

pub(super) fn disable(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "auth disable command does not accept any arguments")?;
    run(invocation, async |globals| {
        let client = globals.client().await?;
        client.auth_disable(pb::AuthDisableRequest {}).await.map_err(Failure::error)?;
        terminal::out_line("Authentication Disabled");
        Ok(())
    })
}

pub(super) fn status(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "auth status command does not accept any arguments")?;
    run(invocation, async |globals| {
        let client = globals.client().await?;
        let response = client.auth_status(pb::AuthStatusRequest {}).await;
        show(Answer::Status(&response.map_err(Failure::error)?), globals.style)
    })
}

pub(super) fn user_add(invocation: &Invocation<'_>) -> Outcome {
    let argument =
        text(only_argument(invocation, "user add command requires user name as its argument")?);
    let given = invocation.flags.text("new-user-password").to_owned();
    let no_password = invocation.flags.bool("no-password");
    let (name, password) = if no_password {
        (argument, String::new())
    } else if !given.is_empty() {
        (argument, given)
    } else if let Some((name, password)) = argument.split_once(':') {
        if name.is_empty() {
            return Err(Failure::arguments("empty user name is not allowed"));
        }
        (name.to_owned(), password.to_owned())
    } else {
        let password = new_password(invocation, &argument)?;
        (argument, password)
    };
    change(invocation, format!("User {name} created"), async move |client| {
        let options = Some(UserAddOptions { no_password });
        let hashed_password = String::new();
        let request = pb::AuthUserAddRequest { name, password, options, hashed_password };
        client.user_add(request).await.map(|response| response.header)
    })
}

pub(super) fn user_delete(invocation: &Invocation<'_>) -> Outcome {
    let name =
        text(only_argument(invocation, "user delete command requires user name as its argument")?);
    change(invocation, format!("User {name} deleted"), async move |client| {
        client.user_delete(pb::AuthUserDeleteRequest { name }).await.map(|response| response.header)
    })
}

pub(super) fn user_get(invocation: &Invocation<'_>) -> Outcome {
    let name =
        text(only_argument(invocation, "user get command requires user name as its argument")?);
    let in_detail = invocation.flags.bool("detail");
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        let response = client.user_get(pb::AuthUserGetRequest { name: name.clone() }).await;
        let response = response.map_err(Failure::error)?;
        if !in_detail {
            return show(Answer::UserGet { name: &name, response: &response }, globals.style);
        }
        terminal::out_line(&format!("User: {name}"));
        for role in response.roles {
            terminal::out_line("");
            show_role(&client, &role, globals.style).await?;
        }
        Ok(())
    })
}

pub(super) fn user_list(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "user list command requires no arguments")?;
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        let response = client.user_list(pb::AuthUserListRequest {}).await;
        show(Answer::UserList(&response.map_err(Failure::error)?), globals.style)
    })
}

pub(super) fn user_passwd(invocation: &Invocation<'_>) -> Outcome {
    let name =
        text(only_argument(invocation, "user passwd command requires user name as its argument")?);
    let password = new_password(invocation, &name)?;
    change(invocation, "Password updated".to_owned(), async move |client| {
        let hashed_password = String::new();
        let request = pb::AuthUserChangePasswordRequest { name, password, hashed_password };
        client.user_change_password(request).await.map(|response| response.header)
    })
}

pub(super) fn user_grant_role(invocation: &Invocation<'_>) -> Outcome {
    let [user, role] = two_arguments(
        invocation,
        "user grant command requires user name and role name as its argument",
    )?;
    change(invocation, format!("Role {role} is granted to user {user}"), async move |client| {
        let request = pb::AuthUserGrantRoleRequest { user, role };
        client.user_grant_role(request).await.map(|response| response.header)
    })
}

pub(super) fn user_revoke_role(invocation: &Invocation<'_>) -> Outcome {
    let [name, role] = two_arguments(
        invocation,
        "user revoke-role requires user name and role name as its argument",
    )?;
    change(invocation, format!("Role {role} is revoked from user {name}"), async move |client| {
        let request = pb::AuthUserRevokeRoleRequest { name, role };
        client.user_revoke_role(request).await.map(|response| response.header)
    })
}

pub(super) fn role_add(invocation: &Invocation<'_>) -> Outcome {
    let name =
        text(only_argument(invocation, "role add command requires role name as its argument")?);
    change(invocation, format!("Role {name} created"), async move |client| {
        client.role_add(pb::AuthRoleAddRequest { name }).await.map(|response| response.header)
    })
}

pub(super) fn role_delete(invocation: &Invocation<'_>) -> Outcome {
    let role =
        text(only_argument(invocation, "role delete command requires role name as its argument")?);
    change(invocation, format!("Role {role} deleted"), async move |client| {
        client.role_delete(pb::AuthRoleDeleteRequest { role }).await.map(|response| response.header)
    })
}

pub(super) fn role_get(invocation: &Invocation<'_>) -> Outcome {
    let name =
        text(only_argument(invocation, "role get command requires role name as its argument")?);
    run(invocation, async |globals| {
        show_role(&globals.patient_client().await?, &name, globals.style).await
    })
}

async fn show_role(client: &Client, name: &str, style: Style) -> Outcome {
    let response = client.role_get(pb::AuthRoleGetRequest { role: name.to_owned() }).await;
    show(Answer::RoleGet { name, response: &response.map_err(Failure::error)? }, style)
}

pub(super) fn role_list(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "role list command requires no arguments")?;
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        let response = client.role_list(pb::AuthRoleListRequest {}).await;
        show(Answer::RoleList(&response.map_err(Failure::error)?), globals.style)
    })
}

pub(super) fn role_grant_permission(invocation: &Invocation<'_>) -> Outcome {
    let [role, kind, range @ ..] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments(GRANT_ARGUMENTS));
    };
    if range.is_empty() {
        return Err(Failure::arguments(GRANT_ARGUMENTS));
    }
    let (role, kind) = (text(role), text(kind));
    let perm_type = match kind.to_ascii_uppercase().as_str() {
        "READ" => Type::Read,
        "WRITE" => Type::Write,
        "READWRITE" => Type::Readwrite,
        _ => return Err(Failure::arguments(format!("invalid permission type: {kind}"))),
    };
    let (key, range_end) = permission_range(invocation, range)?;
    let perm = proto::authpb::Permission {
        perm_type: perm_type.into(),
        key: key.into(),
        range_end: range_end.into(),
    };
    change(invocation, format!("Role {role} updated"), async move |client| {
        let request = pb::AuthRoleGrantPermissionRequest { name: role, perm: Some(perm) };
        client.role_grant_permission(request).await.map(|response| response.header)
    })
}

const GRANT_ARGUMENTS: &str =
    "role grant command requires role name, permission type, and key [endkey] as its argument";

pub(super) fn role_revoke_permission(invocation: &Invocation<'_>) -> Outcome {
    let complaint =
        "role revoke-permission command requires role name and key [endkey] as its argument";
    let [role, range @ ..] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments(complaint));
    };
    let Some(given_key) = range.first() else { return Err(Failure::arguments(complaint)) };
    let (role, shown) = (text(role), text(given_key));
    let (key, range_end) = permission_range(invocation, range)?;
    let what = match range_end.as_slice() {
        [] => format!("key {shown}"),
        OPEN_END => format!("range [{shown}, <open ended>"),
        end => format!("range [{shown}, {})", text(end)),
    };
    let said = format!("Permission of {what} is revoked from role {role}");
    change(invocation, said, async move |client| {
        let (key, range_end) = (key.into(), range_end.into());
        let request = pb::AuthRoleRevokePermissionRequest { role, key, range_end };
        client.role_revoke_permission(request).await.map(|response| response.header)
    })
}

/// The keys that a permission is for: a key, up to an end, with a prefix, or from the key on.
fn permission_range<B: AsRef<[u8]>>(
    invocation: &Invocation<'_>,
    arguments: &[B],
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let by_prefix = invocation.flags.bool("prefix");
    let from_key = invocation.flags.bool("from-key");
    let both = "--from-key and --prefix flags are mutually exclusive";
    let key = arguments.first().map(AsRef::as_ref).unwrap_or_default();
    if key.is_empty() {
        if by_prefix && from_key {
            return Err(Failure::arguments(both));
        }
        let end = if by_prefix || from_key { OPEN_END.to_vec() } else { Vec::new() };
        return Ok((vec![0], end));
    }
    let end = match arguments.get(1) {
        Some(_) if by_prefix => {
            return Err(Failure::arguments("unexpected endkey argument with --prefix flag"));
        }
        Some(_) if from_key => {
            return Err(Failure::arguments("unexpected endkey argument with --from-key flag"));
        }
        Some(end) => end.as_ref().to_vec(),
        None if by_prefix && from_key => return Err(Failure::arguments(both)),
        None if by_prefix => prefix_end(key),
        None if from_key => OPEN_END.to_vec(),
        None => Vec::new(),
    };
    Ok((key.to_vec(), end))
}

/// The end of all keys with a prefix: the prefix with its last byte that can be raised, raised.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let Some(place) = prefix.iter().rposition(|byte| *byte < 0xff) else {
        return OPEN_END.to_vec();
    };
    let mut end = prefix[..=place].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Asks for a password twice, or takes a word of standard input.
fn new_password(invocation: &Invocation<'_>, name: &str) -> Result<String, Failure> {
    if !invocation.flags.bool("interactive") {
        return Ok(terminal::word_of_input());
    }
    let ask = |prompt: String| {
        match terminal::ask(&prompt) {
            // As etcd's, which sees nothing more than an empty line.
            Err(error) if error == "EOF" => Ok(String::new()),
            answer => answer
                .map_err(|error| Failure::arguments(format!("failed to ask password: {error}"))),
        }
    };
    let password = ask(format!("Password of {name}: "))?;
    if password.is_empty() {
        return Err(Failure::arguments("empty password"));
    }
    if ask(format!("Type password of {name} again for confirmation: "))? != password {
        return Err(Failure::arguments("given passwords are different"));
    }
    Ok(password)
}

/// Makes a change, and says what was done.
fn change<F, U>(invocation: &Invocation<'_>, said: String, make: F) -> Outcome
where
    F: FnOnce(Client) -> U,
    U: Future<Output = Result<Option<pb::ResponseHeader>, client::Error>>,
{
    run(invocation, async |globals: Globals| {
        let header = make(globals.patient_client().await?).await.map_err(Failure::error)?;
        show(Answer::Done { said: &said, header: header.as_ref() }, globals.style)
    })
}

fn show(answer: Answer<'_>, style: Style) -> Outcome {
    terminal::out(&render(answer, style)?);
    Ok(())
}

fn no_arguments(invocation: &Invocation<'_>, complaint: &str) -> Outcome {
    if invocation.arguments.is_empty() { Ok(()) } else { Err(Failure::arguments(complaint)) }
}

fn two_arguments(invocation: &Invocation<'_>, complaint: &str) -> Result<[String; 2], Failure> {
    match invocation.arguments.as_slice() {
        [first, second] => Ok([text(first), text(second)]),
        _ => Err(Failure::arguments(complaint)),
    }
}
