//! The commands. Each module checks its arguments, makes the calls and prints the answers.
//!
//! Arguments are checked before the environment is read and a client is made: so do etcd's, and it decides which of two errors is shown.

mod alarm;
mod auth;
mod defrag;
mod endpoint;
mod kv;
mod lease;
mod member;
mod move_leader;
mod queue;
mod snapshot;
pub(crate) mod txn;
pub(crate) mod version;
mod watch;

pub(crate) use auth::prefix_end;

use std::future::Future;

use crate::command_line::{Invocation, child};
use crate::exit::{Exit, Failure};
use crate::globals::Globals;
use crate::help;
use crate::output::{self, Answer, Style};
use crate::spec::{Action, Command};
use crate::terminal;

type Outcome = Result<(), Failure>;

/// Runs the command that was asked for.
pub(crate) fn dispatch(invocation: &Invocation<'_>) -> Outcome {
    let action = invocation.path.last().map_or(Action::Group, |command| command.action);
    if invocation.flags.bool("help") {
        return show_help(&invocation.path);
    }
    match action {
        Action::Group => show_help(&invocation.path),
        Action::Help => help_command(invocation),
        Action::Version => {
            version::version();
            Ok(())
        }
        Action::Missing => {
            let words: Vec<&str> = invocation.path.iter().map(|command| command.name).collect();
            Err(Failure::error(format!("{} is not implemented yet", words.join(" "))))
        }
        Action::Get => kv::get(invocation),
        Action::Put => kv::put(invocation),
        Action::Del => kv::del(invocation),
        Action::Txn => txn::txn(invocation),
        Action::Watch => watch::watch(invocation),
        Action::Compaction => kv::compaction(invocation),
        Action::LeaseGrant => lease::grant(invocation),
        Action::LeaseRevoke => lease::revoke(invocation),
        Action::LeaseTimeToLive => lease::time_to_live(invocation),
        Action::LeaseList => lease::list(invocation),
        Action::LeaseKeepAlive => lease::keep_alive(invocation),
        Action::MemberAdd => member::add(invocation),
        Action::MemberRemove => member::remove(invocation),
        Action::MemberUpdate => member::update(invocation),
        Action::MemberList => member::list(invocation),
        Action::MemberPromote => member::promote(invocation),
        Action::EndpointHealth => endpoint::health(invocation),
        Action::EndpointStatus => endpoint::status(invocation),
        Action::EndpointHashKv => endpoint::hash_kv(invocation),
        Action::AlarmList => alarm::list(invocation),
        Action::AlarmDisarm => alarm::disarm(invocation),
        Action::Defrag => defrag::defrag(invocation),
        Action::SnapshotSave => snapshot::save(invocation),
        Action::AuthEnable => auth::enable(invocation),
        Action::AuthDisable => auth::disable(invocation),
        Action::AuthStatus => auth::status(invocation),
        Action::UserAdd => auth::user_add(invocation),
        Action::UserDelete => auth::user_delete(invocation),
        Action::UserGet => auth::user_get(invocation),
        Action::UserList => auth::user_list(invocation),
        Action::UserPasswd => auth::user_passwd(invocation),
        Action::UserGrantRole => auth::user_grant_role(invocation),
        Action::UserRevokeRole => auth::user_revoke_role(invocation),
        Action::RoleAdd => auth::role_add(invocation),
        Action::RoleDelete => auth::role_delete(invocation),
        Action::RoleGet => auth::role_get(invocation),
        Action::RoleList => auth::role_list(invocation),
        Action::RoleGrantPermission => auth::role_grant_permission(invocation),
        Action::RoleRevokePermission => auth::role_revoke_permission(invocation),
        Action::Lock => queue::lock(invocation),
        Action::Elect => queue::elect(invocation),
        Action::MoveLeader => move_leader::move_leader(invocation),
    }
}

fn show_help(path: &[&Command]) -> Outcome {
    terminal::out(help::help(path).as_bytes());
    Ok(())
}

/// `help [command...]`
fn help_command(invocation: &Invocation<'_>) -> Outcome {
    let Some(root) = invocation.path.first().copied() else { return Ok(()) };
    let mut path = vec![root];
    for word in &invocation.arguments {
        // Only below the root is an unknown word taken for an argument.
        if path.len() == 1 && child(root, &text(word)).is_none() {
            let topics: Vec<String> =
                invocation.arguments.iter().map(|word| format!("`{}`", text(word))).collect();
            terminal::error_line(&format!("Unknown help topic [{}]", topics.join(" ")));
        }
        let Some(next) =
            path.last().and_then(|command| child(command, &String::from_utf8_lossy(word)))
        else {
            break;
        };
        path.push(next);
    }
    show_help(&path)
}

/// Runs a command's calls: a runtime of two threads, since a terminal may block one of them.
fn run<F, U>(invocation: &Invocation<'_>, command: F) -> Outcome
where
    F: FnOnce(Globals) -> U,
    U: Future<Output = Outcome>,
{
    let globals = Globals::read(invocation)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::error(format!("start the runtime: {error}")))?;
    let outcome = runtime.block_on(command(globals));
    // A task may still wait for the terminal or a server; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

/// Prints an answer in the style asked for.
fn show(answer: Answer<'_>, style: Style) -> Outcome {
    let rendered = output::render(answer, style)?;
    terminal::err(&rendered.err);
    terminal::out(&rendered.out);
    Ok(())
}

/// One positional argument, and no other.
fn only_argument<'i>(invocation: &'i Invocation<'_>, complaint: &str) -> Result<&'i [u8], Failure> {
    match invocation.arguments.as_slice() {
        [only] => Ok(only),
        _ => Err(Failure::arguments(complaint)),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An operating system error as Go words it.
pub(crate) fn io_text(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        // `strerror` texts begin in capitals and Rust adds the number.
        Some(_) => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            let mut chars = text.chars();
            chars
                .next()
                .map(|first| first.to_lowercase().chain(chars).collect())
                .unwrap_or_default()
        }
        None => error.to_string(),
    }
}

/// Fails as a client without endpoints does, for commands that make one for each endpoint.
fn need_endpoints(globals: &Globals) -> Outcome {
    if globals.endpoints.is_empty() {
        return Err(Failure::new(Exit::BadConnection, client::Error::NoEndpoints));
    }
    Ok(())
}

/// The endpoints of a command with `--cluster`: the member list's, or those given.
async fn endpoints_of(
    invocation: &Invocation<'_>,
    globals: &Globals,
) -> Result<Vec<String>, Failure> {
    if !invocation.flags.bool("cluster") {
        return Ok(globals.endpoints.clone());
    }
    let list = globals.client().await?.member_list(true).await.map_err(|error| {
        Failure::error(format!("failed to fetch endpoints from etcd cluster member list: {error}"))
    })?;
    Ok(list.members.into_iter().flat_map(|member| member.client_urls).collect())
}
