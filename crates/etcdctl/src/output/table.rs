//! The table format, and the rows that the simple format shares with it.
//!
//! Lines are drawn with box characters, as Debian's etcd 3.5.30 and upstream from 3.7 on do; upstream 3.5 and 3.6 draw them with `+-|`.
//! Headers are in capitals and centred, cells are right-aligned.

use proto::etcdserverpb as pb;

use super::Answer;
use crate::go;

const MEMBER_COLUMNS: [&str; 6] =
    ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
const HEALTH_COLUMNS: [&str; 4] = ["endpoint", "health", "took", "error"];
const HASH_COLUMNS: [&str; 2] = ["endpoint", "hash"];
const STATUS_COLUMNS: [&str; 10] = [
    "endpoint",
    "ID",
    "version",
    "db size",
    "is leader",
    "is learner",
    "raft term",
    "raft index",
    "raft applied index",
    "errors",
];

/// Renders an answer, or `None` where etcd has no table.
pub fn render(answer: Answer<'_>) -> Option<String> {
    match answer {
        Answer::MemberList(response) => Some(draw(&MEMBER_COLUMNS, &member_rows(response))),
        Answer::EndpointHealth(list) => Some(draw(&HEALTH_COLUMNS, &health_rows(list))),
        Answer::EndpointStatus(list) => Some(draw(&STATUS_COLUMNS, &status_rows(list))),
        Answer::EndpointHashKv(list) => Some(draw(&HASH_COLUMNS, &hash_rows(list))),
        Answer::Put(_)
        | Answer::Get(_)
        | Answer::Del(_)
        | Answer::Txn(_)
        | Answer::Watch(_)
        | Answer::LeaseGrant(_)
        | Answer::LeaseRevoke { .. }
        | Answer::LeaseKeepAlive(_)
        | Answer::LeaseTimeToLive { .. }
        | Answer::LeaseList(_)
        | Answer::MemberAdd(_)
        | Answer::MemberRemove { .. }
        | Answer::MemberUpdate { .. }
        | Answer::MemberPromote { .. }
        | Answer::Alarm(_)
        | Answer::MoveLeader { .. } => None,
    }
}

pub(super) fn member_rows(response: &pb::MemberListResponse) -> Vec<Vec<String>> {
    let row = |member: &pb::Member| {
        let status = if member.name.is_empty() { "unstarted" } else { "started" };
        vec![
            format!("{:x}", member.id),
            status.to_owned(),
            member.name.clone(),
            member.peer_urls.join(","),
            member.client_urls.join(","),
            member.is_learner.to_string(),
        ]
    };
    response.members.iter().map(row).collect()
}

fn health_rows(list: &[super::Health]) -> Vec<Vec<String>> {
    let row = |health: &super::Health| {
        vec![
            health.endpoint.clone(),
            health.is_healthy.to_string(),
            health.took.clone(),
            health.error.clone(),
        ]
    };
    list.iter().map(row).collect()
}

pub(super) fn status_rows(list: &[(String, pb::StatusResponse)]) -> Vec<Vec<String>> {
    let row = |(endpoint, status): &(String, pb::StatusResponse)| {
        let member = super::header(status.header.as_ref()).member_id;
        vec![
            endpoint.clone(),
            format!("{member:x}"),
            status.version.clone(),
            go::humanize(u64::try_from(status.db_size).unwrap_or(0)),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
        ]
    };
    list.iter().map(row).collect()
}

pub(super) fn hash_rows(list: &[(String, pb::HashKvResponse)]) -> Vec<Vec<String>> {
    list.iter()
        .map(|(endpoint, response)| vec![endpoint.clone(), response.hash.to_string()])
        .collect()
}

/// Draws a table. White space at the ends of a cell is not kept.
fn draw(columns: &[&str], rows: &[Vec<String>]) -> String {
    let trim =
        |row: &Vec<String>| row.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.iter().map(trim).collect();
    let width = |(index, column): (usize, &&str)| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.chain([column.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(width).collect();
    let rule = |left: &str, middle: &str, right: &str| {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", bars.join(middle))
    };
    let line = |cells: Vec<String>| format!("│ {} │\n", cells.join(" │ "));

    let mut text = rule("┌", "┬", "┐");
    let header = columns
        .iter()
        .zip(&widths)
        .map(|(column, width)| format!("{:^width$}", column.to_uppercase()));
    text.push_str(&line(header.collect()));
    text.push_str(&rule("├", "┼", "┤"));
    for row in &rows {
        text.push_str(&line(
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect(),
        ));
    }
    text.push_str(&rule("└", "┴", "┘"));
    text
}
