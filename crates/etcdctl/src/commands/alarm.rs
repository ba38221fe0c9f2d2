//! `alarm list` and `alarm disarm`.

use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmResponse};

use super::{Outcome, run, show};
use crate::command_line::Invocation;
use crate::exit::Failure;
use crate::output::Answer;

pub(super) fn list(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "list")?;
    run(invocation, async |globals| {
        let response = globals.client().await?.alarm(get()).await.map_err(Failure::error)?;
        show(Answer::Alarm(&response), globals.style)
    })
}

/// Clears every alarm, one call each, and shows those that were cleared. The answer is put together here and has no header.
pub(super) fn disarm(invocation: &Invocation<'_>) -> Outcome {
    no_arguments(invocation, "disarm")?;
    run(invocation, async |globals| {
        let client = globals.client().await?;
        let raised = client.alarm(get()).await.map_err(Failure::error)?;
        let mut cleared = AlarmResponse::default();
        for alarm in raised.alarms {
            let request = AlarmRequest {
                action: AlarmAction::Deactivate.into(),
                member_id: alarm.member_id,
                alarm: alarm.alarm,
            };
            cleared.alarms.extend(client.alarm(request).await.map_err(Failure::error)?.alarms);
        }
        show(Answer::Alarm(&cleared), globals.style)
    })
}

/// Asks for all alarms of all members.
pub(super) fn get() -> AlarmRequest {
    AlarmRequest { action: AlarmAction::Get.into(), ..AlarmRequest::default() }
}

fn no_arguments(invocation: &Invocation<'_>, command: &str) -> Outcome {
    if invocation.arguments.is_empty() {
        return Ok(());
    }
    Err(Failure::arguments(format!("alarm {command} command accepts no arguments")))
}
