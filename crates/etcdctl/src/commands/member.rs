//! `member list`, `add`, `remove`, `update` and `promote`.

use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListResponse, MemberUpdateRequest,
};

use super::{Outcome, only_argument, run, show, text};
use crate::command_line::Invocation;
use crate::exit::Failure;
use crate::go;
use crate::output::{Answer, Format};
use crate::terminal;

pub(super) fn list(invocation: &Invocation<'_>) -> Outcome {
    run(invocation, async |globals| {
        let response = globals.client().await?.member_list(true).await.map_err(Failure::error)?;
        show(Answer::MemberList(&response), globals.style)
    })
}

pub(super) fn add(invocation: &Invocation<'_>) -> Outcome {
    let name = match invocation.arguments.as_slice() {
        [] => return Err(Failure::arguments("member name not provided")),
        [name] => text(name),
        more => return Err(too_many(more)),
    };
    let urls = peer_urls(invocation)?;
    let is_learner = invocation.flags.bool("learner");
    run(invocation, async |globals| {
        let client = globals.client().await?;
        let request = MemberAddRequest { peer_urls: check_urls(&urls)?, is_learner };
        let response = client.member_add(request).await.map_err(Failure::error)?;
        show(Answer::MemberAdd(&response), globals.style)?;
        if globals.style.format != Format::Simple {
            return Ok(());
        }
        let list = agreeing_list(&client, &response).await?;
        terminal::out(settings(&name, &urls, &response, &list).as_bytes());
        Ok(())
    })
}

fn too_many(arguments: &[Vec<u8>]) -> Failure {
    let urls = arguments
        .iter()
        .map(|argument| text(argument))
        .filter(|argument| argument.starts_with("http"));
    let hints: String = urls.map(|url| format!(", did you mean --peer-urls={url}")).collect();
    Failure::arguments(format!("too many arguments{hints}"))
}

/// The member list as the member that made the change sees it: another one may not have applied it yet. A quorum read makes them agree.
async fn agreeing_list(
    client: &client::Client,
    added: &MemberAddResponse,
) -> Result<MemberListResponse, Failure> {
    let member = |header: Option<&proto::etcdserverpb::ResponseHeader>| {
        header.map_or(0, |header| header.member_id)
    };
    let mut wanted = member(added.header.as_ref());
    loop {
        let list = client.member_list(true).await.map_err(Failure::error)?;
        if member(list.header.as_ref()) == wanted {
            return Ok(list);
        }
        let read = client.get("_").await.map_err(Failure::error)?;
        wanted = member(read.header.as_ref());
    }
}

/// What to start the new member with.
fn settings(
    name: &str,
    urls: &str,
    added: &MemberAddResponse,
    list: &MemberListResponse,
) -> String {
    let id = added.member.as_ref().map_or(0, |member| member.id);
    let mut cluster = Vec::new();
    for member in &list.members {
        let shown = if member.id == id { name } else { &member.name };
        cluster.extend(member.peer_urls.iter().map(|url| format!("{shown}={url}")));
    }
    let quote = |text: &str| go::quote(text.as_bytes());
    format!(
        "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        quote(name),
        quote(&cluster.join(",")),
        quote(urls)
    )
}

pub(super) fn remove(invocation: &Invocation<'_>) -> Outcome {
    let id = member_id(invocation)?;
    run(invocation, async |globals| {
        let response = globals.client().await?.member_remove(id).await.map_err(Failure::error)?;
        show(Answer::MemberRemove { id, response: &response }, globals.style)
    })
}

pub(super) fn update(invocation: &Invocation<'_>) -> Outcome {
    let id = member_id(invocation)?;
    let urls = peer_urls(invocation)?;
    run(invocation, async |globals| {
        let client = globals.client().await?;
        let request = MemberUpdateRequest { id, peer_urls: check_urls(&urls)? };
        let response = client.member_update(request).await.map_err(Failure::error)?;
        show(Answer::MemberUpdate { id, response: &response }, globals.style)
    })
}

pub(super) fn promote(invocation: &Invocation<'_>) -> Outcome {
    let id = member_id(invocation)?;
    run(invocation, async |globals| {
        let response = globals.client().await?.member_promote(id).await.map_err(Failure::error)?;
        show(Answer::MemberPromote { id, response: &response }, globals.style)
    })
}

fn member_id(invocation: &Invocation<'_>) -> Result<u64, Failure> {
    let argument = only_argument(invocation, "member ID is not provided")?;
    go::parse_uint(&text(argument), 16).map_err(|error| {
        Failure::arguments(format!("bad member ID arg ({error}), expecting ID in Hex"))
    })
}

fn peer_urls(invocation: &Invocation<'_>) -> Result<String, Failure> {
    let urls = invocation.flags.text("peer-urls");
    if urls.is_empty() {
        Err(Failure::arguments("member peer urls not provided"))
    } else {
        Ok(urls)
    }
}

/// Splits and checks the URLs as etcd's client does before it asks a server. The order stays.
///
/// Upstream: client/pkg/types/urls.go (3.5).
fn check_urls(urls: &str) -> Result<Vec<String>, Failure> {
    for url in urls.split(',').map(str::trim) {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        if !matches!(scheme, "http" | "https" | "unix" | "unixs") {
            return Err(Failure::error(format!(
                "URL scheme must be http, https, unix, or unixs: {url}"
            )));
        }
        if matches!(scheme, "unix" | "unixs") {
            continue;
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if let Some((_, port)) = host.rsplit_once(':')
            && !port.ends_with(']')
            && !port.bytes().all(|byte| byte.is_ascii_digit())
        {
            let (url, port) = (go::quote(url.as_bytes()), go::quote(format!(":{port}").as_bytes()));
            return Err(Failure::error(format!("parse {url}: invalid port {port} after host")));
        }
        if !host.contains(':') || host.ends_with(':') && !host.contains("]:") {
            return Err(Failure::error(format!(
                "URL address does not have the form \"host:port\": {url}"
            )));
        }
        if !path.is_empty() {
            return Err(Failure::error(format!("URL must not contain a path: {url}")));
        }
    }
    Ok(urls.split(',').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_before_the_call() {
        let check = |urls: &str, expected: Result<usize, &str>| {
            let outcome =
                check_urls(urls).map(|urls| urls.len()).map_err(|failure| failure.text.unwrap());
            assert_eq!(outcome, expected.map_err(str::to_owned), "{urls}");
        };
        check("http://a:1,https://b:2", Ok(2));
        check("bad", Err("URL scheme must be http, https, unix, or unixs: bad"));
        check("http://a", Err("URL address does not have the form \"host:port\": http://a"));
        check("http://a:x", Err("parse \"http://a:x\": invalid port \":x\" after host"));
        check("http://a:1/p", Err("URL must not contain a path: http://a:1/p"));
    }
}
