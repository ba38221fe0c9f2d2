//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use super::{Outcome, only_argument, run, show, text};
use crate::command_line::Invocation;
use crate::exit::{Exit, Failure};
use crate::go;
use crate::output::{Answer, Format};
use crate::terminal;

pub(super) fn grant(invocation: &Invocation<'_>) -> Outcome {
    let argument = only_argument(invocation, "lease grant command needs TTL argument")?;
    let ttl = go::parse_int(&text(argument), 10)
        .map_err(|error| Failure::arguments(format!("bad TTL ({error})")))?;
    run(invocation, async |globals| {
        let response = globals.client().await?.lease_grant(ttl, 0).await;
        let response =
            response.map_err(|error| Failure::error(format!("failed to grant lease ({error})")))?;
        show(Answer::LeaseGrant(&response), globals.style)
    })
}

pub(super) fn revoke(invocation: &Invocation<'_>) -> Outcome {
    let id = lease_id(only_argument(invocation, "lease revoke command needs 1 argument")?)?;
    run(invocation, async |globals| {
        let response = globals.client().await?.lease_revoke(id).await;
        let response = response
            .map_err(|error| Failure::error(format!("failed to revoke lease ({error})")))?;
        show(Answer::LeaseRevoke { id, response: &response }, globals.style)
    })
}

pub(super) fn time_to_live(invocation: &Invocation<'_>) -> Outcome {
    let argument =
        only_argument(invocation, "lease timetolive command needs lease ID as argument")?;
    let keys = invocation.flags.bool("keys");
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        let response =
            client.lease_time_to_live(lease_id(argument)?, keys).await.map_err(bad_connection)?;
        show(Answer::LeaseTimeToLive { response: &response, keys }, globals.style)
    })
}

pub(super) fn list(invocation: &Invocation<'_>) -> Outcome {
    run(invocation, async |globals| {
        let response =
            globals.patient_client().await?.lease_leases().await.map_err(bad_connection)?;
        show(Answer::LeaseList(&response), globals.style)
    })
}

pub(super) fn keep_alive(invocation: &Invocation<'_>) -> Outcome {
    let id = lease_id(only_argument(
        invocation,
        "lease keep-alive command needs lease ID as argument",
    )?)?;
    let once = invocation.flags.bool("once");
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        if once {
            let response = client.lease_keep_alive_once(id).await.map_err(bad_connection)?;
            return show(Answer::LeaseKeepAlive(&response), globals.style);
        }
        let mut renewals = client.lease_keep_alive(id);
        while let Some(renewal) = renewals.next().await {
            // etcd's client ends the stream of renewals on an error and does not tell it.
            let Ok(response) = renewal else { break };
            show(Answer::LeaseKeepAlive(&response), globals.style)?;
        }
        if globals.style.format == Format::Simple {
            terminal::out_line(&format!("lease {id:016x} expired or revoked."));
        }
        Ok(())
    })
}

fn lease_id(argument: &[u8]) -> Result<i64, Failure> {
    go::parse_int(&text(argument), 16).map_err(|error| {
        Failure::arguments(format!("bad lease ID arg ({error}), expecting ID in Hex"))
    })
}

fn bad_connection(error: client::Error) -> Failure {
    Failure::new(Exit::BadConnection, error)
}
