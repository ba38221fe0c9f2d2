//! `lock` and `elect`: held for as long as the program runs, its command runs, or its lease lives.
//!
//! Upstream: etcdctl/ctlv3/command/lock_command.go, elect_command.go (3.5).

use std::os::unix::ffi::OsStringExt;

use bytes::Bytes;
use client::Client;
use proto::etcdserverpb::RangeResponse;
use tokio::signal::unix::{SignalKind, signal};

use super::{Outcome, run, show, text};
use crate::command_line::Invocation;
use crate::exit::{Exit, Failure};
use crate::output::Answer;

/// Time to live of an election's session, in seconds.
const ELECT_TTL: i64 = 60;

pub(super) fn lock(invocation: &Invocation<'_>) -> Outcome {
    let [name, command @ ..] = invocation.arguments.as_slice() else {
        return Err(Failure::arguments(
            "lock takes a lock name argument and an optional command to execute",
        ));
    };
    let name = Bytes::copy_from_slice(name);
    let ttl = invocation.flags.int("ttl");
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        let session = Session::open(&client, ttl).await?;
        let held = session.during(client.lock(name, session.lease)).await?;
        let held = held.map_err(Failure::error)?;
        if !command.is_empty() {
            let revision = held.header.as_ref().map_or(0, |header| header.revision);
            let ended = session.during(run_command(command, &held.key, revision)).await?;
            let released = client.unlock(held.key).await;
            ended?;
            return released.map(drop).map_err(Failure::error);
        }
        let found = client.get(held.key.clone()).await.map_err(Failure::error)?;
        if found.kvs.is_empty() {
            return Err(Failure::error("lock lost on init"));
        }
        show(Answer::Get(&found), globals.style)?;
        session.until_asked("session expired").await?;
        client.unlock(held.key).await.map(drop).map_err(Failure::error)
    })
}

pub(super) fn elect(invocation: &Invocation<'_>) -> Outcome {
    let listens = invocation.flags.bool("listen");
    let (name, proposal) = match (invocation.arguments.as_slice(), listens) {
        ([name], true) => (name, None),
        ([name, proposal], false) => (name, Some(Bytes::copy_from_slice(proposal))),
        ([_], false) => return Err(Failure::arguments("no proposal argument but -l not set")),
        ([_, _], true) => return Err(Failure::arguments("proposal given but -l is set")),
        _ => {
            return Err(Failure::arguments(
                "elect takes one election name argument and an optional proposal argument",
            ));
        }
    };
    let name = Bytes::copy_from_slice(name);
    run(invocation, async |globals| {
        let client = globals.patient_client().await?;
        let session = Session::open(&client, ELECT_TTL).await?;
        let Some(proposal) = proposal else {
            let mut leaders = client.observe_election(name).await.map_err(Failure::error)?;
            return session
                .asked_or(async {
                    while let Ok(Some(leader)) = leaders.message().await {
                        let (header, kvs) = (leader.header, leader.kv.into_iter().collect());
                        let found = RangeResponse { header, kvs, ..RangeResponse::default() };
                        show(Answer::Get(&found), globals.style)?;
                    }
                    Err(Failure::error("elect: observer lost"))
                })
                .await;
        };
        let won = session.during(client.campaign(name, session.lease, proposal)).await?;
        let leader = won.map_err(Failure::error)?.leader.unwrap_or_default();
        let found = client.get(leader.key.clone()).await.map_err(Failure::error)?;
        show(Answer::Get(&found), globals.style)?;
        session.until_asked("elect: session expired").await?;
        client.resign(leader).await.map(drop).map_err(Failure::error)
    })
}

/// A lease that is kept alive in the background, and the signals that end what is held by it.
struct Session {
    lease: i64,
    expired: tokio::sync::watch::Receiver<bool>,
    asked: tokio::sync::watch::Receiver<bool>,
}

impl Session {
    async fn open(client: &Client, ttl: i64) -> Result<Self, Failure> {
        let lease = client.lease_grant(ttl, 0).await.map_err(Failure::error)?.id;
        let mut renewals = client.lease_keep_alive(lease);
        let (end, expired) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Some(Ok(_)) = renewals.next().await {}
            end.send_replace(true);
        });
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::error(format!("listen to signals: {error}")))
        };
        let mut interrupts = listen(SignalKind::interrupt())?;
        let mut terminations = listen(SignalKind::terminate())?;
        let (ask, asked) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
            ask.send_replace(true);
            // Kept, since its end would look like a request.
            std::future::pending::<()>().await;
        });
        Ok(Self { lease, expired, asked })
    }

    /// Waits for something, unless the user has it end before.
    async fn during<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let mut asked = self.asked.clone();
        tokio::select! {
            done = work => Ok(done),
            _ = asked.wait_for(|asked| *asked) => Err(Failure::error("context canceled")),
        }
    }

    /// Goes on with something until the user has it end.
    async fn asked_or(&self, work: impl Future<Output = Outcome>) -> Outcome {
        let mut asked = self.asked.clone();
        tokio::select! {
            end = work => end,
            _ = asked.wait_for(|asked| *asked) => Ok(()),
        }
    }

    /// Holds on until the user has it end; fails if the lease ends first.
    async fn until_asked(&self, complaint: &str) -> Outcome {
        let mut expired = self.expired.clone();
        self.asked_or(async {
            // An error means the same: nobody renews any more.
            let _ = expired.wait_for(|expired| *expired).await;
            Err(Failure::error(complaint))
        })
        .await
    }
}

/// Runs the command that the lock is for. Its exit code becomes this program's.
async fn run_command(command: &[Vec<u8>], key: &[u8], revision: i64) -> Outcome {
    let words: Vec<std::ffi::OsString> =
        command.iter().cloned().map(OsStringExt::from_vec).collect();
    let [program, arguments @ ..] = words.as_slice() else { return Ok(()) };
    let ended = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .env("ETCD_LOCK_KEY", std::ffi::OsString::from_vec(key.to_vec()))
        .env("ETCD_LOCK_REV", revision.to_string())
        .status()
        .await;
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            let text = super::watch::status_text(status);
            Err(Failure::new(status.code().map_or(Exit::Error, Exit::OfCommand), text))
        }
        Err(error) => {
            let program = text(command.first().map(Vec::as_slice).unwrap_or_default());
            Err(Failure::error(super::watch::spawn_error(&program, &error)))
        }
    }
}
