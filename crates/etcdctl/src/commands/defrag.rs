//! `defrag`, one endpoint after the other: a member that defragments answers nobody else, so two at once could cost the quorum.

use super::{Outcome, endpoints_of, need_endpoints, run};
use crate::command_line::Invocation;
use crate::exit::{Exit, Failure};
use crate::terminal;

pub(super) fn defrag(invocation: &Invocation<'_>) -> Outcome {
    if !invocation.flags.text("data-dir").is_empty() {
        return Err(Failure::error("defrag --data-dir is not implemented yet"));
    }
    run(invocation, async |globals| {
        need_endpoints(&globals)?;
        let mut failures = 0;
        for endpoint in endpoints_of(invocation, &globals).await? {
            let client = globals.client_at(&endpoint, "etcd-client").await?;
            match client.defragment().await {
                Ok(_) => {
                    terminal::out_line(&format!("Finished defragmenting etcd member[{endpoint}]"))
                }
                Err(error) => {
                    terminal::error_line(&format!(
                        "Failed to defragment etcd member[{endpoint}] ({error})"
                    ));
                    failures += 1;
                }
            }
        }
        if failures == 0 { Ok(()) } else { Err(Failure::silent(Exit::Error)) }
    })
}
