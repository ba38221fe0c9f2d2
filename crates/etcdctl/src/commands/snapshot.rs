//! `snapshot save`: streams a member's backend into a file.
//!
//! The file gets its name only when it is complete and synced; until then it is `<name>.part`, and it is removed if anything fails.
//!
//! Upstream: client/v3/snapshot/v3_snapshot.go (3.5).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use client::Client;

use super::{Outcome, io_text, only_argument, run, text};
use crate::command_line::Invocation;
use crate::exit::{Exit, Failure};
use crate::globals::Globals;
use crate::go;
use crate::log::Line;
use crate::terminal;

const CALLER: &str = "etcdctl/snapshot.rs";

/// A backend is made of pages of this size or multiples; its SHA-256 follows, so a complete stream leaves this remainder.
const PAGE_BYTES_MIN: u64 = 512;
const SHA256_BYTES: u64 = 32;

const OPENING_HEAD_START: Duration = Duration::from_millis(5);

pub(super) fn save(invocation: &Invocation<'_>) -> Outcome {
    let path = text(only_argument(invocation, "snapshot save expects one argument")?);
    run(invocation, async |globals| {
        let [endpoint] = globals.endpoints.as_slice() else {
            let endpoints = globals.endpoints.join(" ");
            return Err(interrupted(format!(
                "snapshot must be requested to one selected node, not multiple [{endpoints}]"
            )));
        };
        refuse_special_file(&path)?;
        let client = if globals.has_command_timeout {
            globals.client().await?
        } else {
            globals.patient_client().await?
        };
        let partial = format!("{path}.part");
        let outcome = fetch(&globals, &client, endpoint, &partial, &path).await;
        if outcome.is_err() {
            // Best effort: the reason for the failure is what the user needs.
            let _ = std::fs::remove_file(&partial);
        }
        outcome?;
        terminal::out_line(&format!("Snapshot saved at {path}"));
        Ok(())
    })
}

async fn fetch(
    globals: &Globals,
    client: &Client,
    endpoint: &str,
    partial: &str,
    path: &str,
) -> Outcome {
    let start = Instant::now();
    let mut file = create(partial)?;
    log("created temporary db file").text("path", partial).print();

    let streaming = stream_into(client, &mut file, endpoint);
    let size_bytes = if globals.has_command_timeout {
        // Opening has the same limit and tells more, so that it has to be the first to notice.
        let limit = globals.command_timeout + OPENING_HEAD_START;
        let outcome = tokio::time::timeout(limit, streaming).await;
        outcome.map_err(|_| interrupted("context deadline exceeded"))??
    } else {
        streaming.await?
    };
    if size_bytes % PAGE_BYTES_MIN != SHA256_BYTES {
        return Err(interrupted(format!("sha256 checksum not found [bytes: {size_bytes}]")));
    }
    file.sync_all().map_err(|error| interrupted(io_text(&error)))?;
    drop(file);
    log("fetched snapshot")
        .text("endpoint", endpoint)
        .text("size", &go::humanize(size_bytes))
        .text("took", &took(start.elapsed()))
        .print();
    std::fs::rename(partial, path).and_then(|()| sync_directory(Path::new(path))).map_err(
        |error| interrupted(format!("could not rename {partial} to {path} ({})", io_text(&error))),
    )?;
    log("saved").text("path", path).print();
    Ok(())
}

/// The snapshot takes the place of what has its name. Root would lose `/dev/null` that way, and with it most programs of the
/// machine; etcd's own tool does that.
fn refuse_special_file(path: &str) -> Outcome {
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            Err(interrupted(format!("{path} is no regular file: a snapshot cannot take its place")))
        }
        // A directory is refused when it is to be replaced, in etcd's words; what is not there is made.
        _ => Ok(()),
    }
}

/// A backup holds everything: only its owner may read it.
fn create(partial: &str) -> Result<File, Failure> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial).map_err(
        |error| {
            let reason = format!("open {partial}: {}", io_text(&error));
            interrupted(format!("could not open {partial} ({reason})"))
        },
    )
}

async fn stream_into(client: &Client, file: &mut File, endpoint: &str) -> Result<u64, Failure> {
    let mut stream = client.snapshot().await.map_err(|error| {
        Line::new("error", Some("client"), CALLER, "streamer failed to create ClientStream")
            .text("error", &error.grpc_text())
            .print();
        interrupted(error)
    })?;
    client_log("opened snapshot stream; downloading").print();
    log("fetching snapshot").text("endpoint", endpoint).print();
    let mut size_bytes = 0;
    while let Some(chunk) = stream.message().await.map_err(interrupted)? {
        file.write_all(&chunk.blob).map_err(|error| interrupted(io_text(&error)))?;
        size_bytes += chunk.blob.len() as u64;
    }
    client_log("completed snapshot read; closing").print();
    Ok(size_bytes)
}

/// The new name must survive a crash too.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

fn took(elapsed: Duration) -> String {
    go::ago(elapsed)
}

fn log(message: &str) -> Line {
    Line::new("info", None, CALLER, message)
}

fn client_log(message: &str) -> Line {
    Line::new("info", Some("client"), CALLER, message)
}

fn interrupted(reason: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Interrupted, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_not_replaced() {
        assert!(refuse_special_file("/dev/null").is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let path = path.to_str().unwrap();
        assert!(refuse_special_file(path).is_ok());
        std::fs::write(path, "an older snapshot").unwrap();
        assert!(refuse_special_file(path).is_ok());
    }
}
