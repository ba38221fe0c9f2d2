//! `move-leader`.

use super::{Outcome, only_argument, run, show, text};
use crate::command_line::Invocation;
use crate::exit::Failure;
use crate::go;
use crate::output::Answer;

/// Finds the leader among the endpoints, since only it can hand leadership over.
pub(super) fn move_leader(invocation: &Invocation<'_>) -> Outcome {
    let argument = only_argument(invocation, "move-leader command needs 1 argument")?;
    let target = go::parse_uint(&text(argument), 16).map_err(Failure::arguments)?;
    run(invocation, async |globals| {
        // Fails for want of endpoints, as any client would.
        globals.client().await?;
        for endpoint in &globals.endpoints {
            let client = globals.client_at(endpoint, "etcd-client").await?;
            let status = client.status().await.map_err(Failure::error)?;
            let member = status.header.as_ref().map_or(0, |header| header.member_id);
            if member == status.leader {
                let response = client.move_leader(target).await.map_err(Failure::error)?;
                let answer = Answer::MoveLeader { from: member, to: target, response: &response };
                return show(answer, globals.style);
            }
        }
        let endpoints = globals.endpoints.join(" ");
        Err(Failure::arguments(format!("no leader endpoint given at [{endpoints}]")))
    })
}
