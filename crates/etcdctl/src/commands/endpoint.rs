//! `endpoint health`, `status` and `hashkv`.

use std::time::Instant;

use proto::etcdserverpb::AlarmType;
use rpc::errors::Error as Etcd;
use tokio::task::JoinSet;

use super::{Outcome, alarm, endpoints_of, need_endpoints, run, show};
use crate::command_line::Invocation;
use crate::exit::{Exit, Failure};
use crate::globals::Globals;
use crate::go;
use crate::output::{Answer, Health};
use crate::terminal;

/// Asks all endpoints at once and lists them in the order of their answers.
pub(super) fn health(invocation: &Invocation<'_>) -> Outcome {
    run(invocation, async |globals| {
        let mut checks = JoinSet::new();
        for endpoint in endpoints_of(invocation, &globals).await? {
            checks.spawn(check_health(globals.clone(), endpoint));
        }
        let mut list = Vec::new();
        while let Some(check) = checks.join_next().await {
            list.push(
                check.map_err(|error| Failure::error(format!("check an endpoint: {error}")))?,
            );
        }
        show(Answer::EndpointHealth(&list), globals.style)?;
        if list.iter().any(|health| !health.error.is_empty()) {
            return Err(Failure::error("unhealthy cluster"));
        }
        Ok(())
    })
}

/// Any answer to a linearizable read went through consensus, also a refusal for lack of permission.
async fn check_health(globals: Globals, endpoint: String) -> Health {
    let mut health = Health {
        endpoint: endpoint.clone(),
        is_healthy: false,
        took: String::new(),
        error: String::new(),
    };
    let client = match globals.client_at(&endpoint, "client").await {
        Ok(client) => client,
        Err(failure) => {
            health.error = failure.text.unwrap_or_default();
            return health;
        }
    };
    let start = Instant::now();
    let answer = client.get("health").await;
    health.took = go::duration(start.elapsed());
    match answer {
        Ok(_) => {}
        Err(error) if error.etcd() == Some(Etcd::PermissionDenied) => {}
        Err(error) => {
            health.error = error.to_string();
            return health;
        }
    }
    match client.alarm(alarm::get()).await {
        Ok(response) if response.alarms.is_empty() => health.is_healthy = true,
        Ok(response) => {
            health.error = "Active Alarm(s): ".to_owned();
            for alarm in response.alarms {
                health.error.push_str(match AlarmType::try_from(alarm.alarm) {
                    Ok(AlarmType::Nospace) => "NOSPACE ",
                    Ok(AlarmType::Corrupt) => "CORRUPT ",
                    Ok(AlarmType::None) | Err(_) => "UNKNOWN ",
                });
            }
        }
        Err(_) => health.error = "Unable to fetch the alarm list".to_owned(),
    }
    health
}

pub(super) fn status(invocation: &Invocation<'_>) -> Outcome {
    run(invocation, async |globals| {
        need_endpoints(&globals)?;
        let mut list = Vec::new();
        let mut failed = false;
        for endpoint in endpoints_of(invocation, &globals).await? {
            match globals.client_at(&endpoint, "etcd-client").await?.status().await {
                Ok(response) => list.push((endpoint, response)),
                Err(error) => {
                    terminal::error_line(&format!(
                        "Failed to get the status of endpoint {endpoint} ({error})"
                    ));
                    failed = true;
                }
            }
        }
        show(Answer::EndpointStatus(&list), globals.style)?;
        if failed { Err(Failure::silent(Exit::Error)) } else { Ok(()) }
    })
}

pub(super) fn hash_kv(invocation: &Invocation<'_>) -> Outcome {
    let revision = invocation.flags.int("rev");
    run(invocation, async |globals| {
        need_endpoints(&globals)?;
        let mut list = Vec::new();
        let mut last_error = None;
        for endpoint in endpoints_of(invocation, &globals).await? {
            match globals.client_at(&endpoint, "etcd-client").await?.hash_kv(revision).await {
                Ok(response) => list.push((endpoint, response)),
                Err(error) => {
                    terminal::error_line(&format!(
                        "Failed to get the hash of endpoint {endpoint} ({error})"
                    ));
                    last_error = Some(error);
                }
            }
        }
        show(Answer::EndpointHashKv(&list), globals.style)?;
        last_error.map_or(Ok(()), |error| Err(Failure::error(error)))
    })
}
