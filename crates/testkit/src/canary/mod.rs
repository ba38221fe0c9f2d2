//! Secrets that must stay where they belong: known ones are given to a member in every way there is, and then looked for.
//!
//! ```text
//!  Secrets (random) ──► drive: gRPC, gateway, etcdctl; what succeeds and what is refused
//!                                 │
//!                                 ▼
//!  search ◄── log (level debug) · pages of both ports · refusals and what etcdctl prints · spans · files of the data directory
//! ```
//!
//! Nowhere: passwords, tokens, what tokens are signed with, the keys of certificates (but in their own files), and the password of
//! the discovery service. In the data directory only: keys and values, and, where members are listed as well, what stands before the
//! address in the URLs of members; in the write-ahead log also simple tokens, which every member
//! learns from their entries, in etcd too. Keys are in the spans that etcd sends from 3.7 on. A key may also stand in the log when the request is told of
//! because it took long, at level debug, or when a permission is granted, as in etcd: the run with JWT has lines of the first kind for every request, and keys are not looked for in its
//! log.
//!
//! A secret is looked for as it is, in base64 (as JSON has it), in hexadecimal, and as Rust and Go print lists of bytes. Where a hash belongs
//! (a password's, in the data directory), only the password itself is looked for.

mod drive;
mod search;
mod secrets;
mod spans;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::attack::victim::{Extras, Victim};
use crate::programs::Programs;
use search::Haystack;
use secrets::{Kind, Secrets};
use spans::Collector;

/// How the member makes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Random texts, known to the member. Requests are quick enough not to be told of.
    Simple,
    /// Signed. Every request is told of as one that took long.
    Jwt,
}

/// Which version the member stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one it has when nothing else is said: 3.5.
    Usual,
    /// 3.7, whose spans say more.
    V3_7,
}

/// What is in the lines that tell of single requests with their keys, as etcd's do: at level debug, and of permissions from 3.6 on.
const OF_REQUESTS: [&str; 3] = [
    "\"msg\":\"request stats\"",
    "\"msg\":\"Apply\"",
    "\"msg\":\"granted/updated a permission to a user\"",
];
/// What those lines are called here.
const REQUESTS: &str = "lines of requests";

/// The runs: the pairs in which something is said that is not said in another one.
pub const RUNS: [(Tokens, Version); 3] = [
    (Tokens::Simple, Version::Usual),
    (Tokens::Jwt, Version::Usual),
    (Tokens::Simple, Version::V3_7),
];

/// What was looked through.
#[derive(Clone, Debug)]
pub struct Report {
    tokens: Tokens,
    version: Version,
    secrets: usize,
    places: usize,
    bytes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, version, secrets, places, bytes } = self;
        write!(
            f,
            "{tokens:?} tokens, version {version:?}: {secrets} secrets stay where they belong: {places} places, {bytes} bytes"
        )
    }
}

/// Runs a member with secrets of a fresh seed.
///
/// # Errors
/// A secret is where it does not belong, or the member does not do what it is asked.
pub async fn run(programs: &Programs, tokens: Tokens, version: Version) -> Result<Report> {
    let folder =
        tempfile::Builder::new().prefix("retcd-canary-").tempdir().context("make a folder")?;
    let mut secrets = Secrets::fresh();
    let collector = Collector::start().await?;
    let extras = extras((tokens, version), &secrets, collector.address(), folder.path())?;
    let victim = Victim::start(programs, folder.path(), &extras)?;
    let mut places = drive::drive(&victim, programs, &mut secrets)
        .await
        .with_context(|| format!("the member's log ends:\n{}", victim.log_tail()))?;
    let (data_dir, log) = (victim.data_dir().to_owned(), victim.log_path().to_owned());
    // It sends the rest of its spans, which are taken here.
    tokio::task::spawn_blocking(move || victim.stop()).await.context("join")??;
    secrets.add_private_keys(&data_dir)?;
    for (name, path) in [("the log", log), ("the log's file", folder.path().join("etcd.log"))] {
        places.extend(Haystack::file(name, &path)?.split(REQUESTS, &OF_REQUESTS));
    }
    ensure!(
        places.iter().any(|place| place.contains(b"\"level\":\"debug\"")),
        "no line of level debug"
    );
    let spans = collector.taken();
    ensure!(spans.contains(b"/Authenticate"), "no span of a login");
    ensure!(
        version != Version::V3_7 || secrets.of(Kind::Key).all(|key| spans.contains(key)),
        "no span says the key"
    );
    places.push(spans);
    let stored = Haystack::folder(&data_dir)?;
    let is_stored =
        |kind| secrets.of(kind).all(|secret| stored.iter().any(|place| place.contains(secret)));
    ensure!(
        is_stored(Kind::Key) && is_stored(Kind::Value),
        "what was put is not found where it belongs"
    );
    for place in &places {
        let (is_log, is_spans) = (place.name.starts_with("the log"), place.name == spans::NAME);
        let is_foreign = |kind| match kind {
            Kind::Key => {
                let is_told = is_log && tokens == Tokens::Jwt || place.name == REQUESTS;
                !(is_told || is_spans && version == Version::V3_7)
            }
            Kind::Url => !place.name.starts_with("/members"),
            Kind::Password | Kind::Token | Kind::SimpleToken | Kind::PrivateKey | Kind::Value => {
                true
            }
        };
        place.check(&secrets, is_foreign)?;
    }
    for place in &stored {
        let belongs = |kind: Kind| match kind {
            Kind::Key | Kind::Value | Kind::Url => true,
            Kind::SimpleToken => place.name.ends_with(".wal"),
            Kind::PrivateKey => place.name.ends_with(".pem"),
            Kind::Password | Kind::Token => false,
        };
        place.check(&secrets, |kind| !belongs(kind))?;
    }
    Ok(Report {
        tokens,
        version,
        secrets: secrets.len(),
        places: places.len() + stored.len(),
        bytes: places.iter().chain(&stored).map(Haystack::len).sum(),
    })
}

fn extras(
    (tokens, version): (Tokens, Version),
    secrets: &Secrets,
    collector: &str,
    folder: &Path,
) -> Result<Extras> {
    let log = folder.join("etcd.log");
    let mut flags = vec![
        "--log-level=debug".to_owned(),
        format!("--log-outputs=stderr,{}", log.display()),
        "--bcrypt-cost=4".to_owned(),
        "--snapshot-count=20".to_owned(),
        format!("--discovery-password={}", secrets.discovery),
    ];
    // Flags that are no experiment any more in 3.7.
    let spelling = match version {
        Version::Usual => "--experimental-",
        Version::V3_7 => {
            flags.push("--emulated-version=3.7".to_owned());
            "--"
        }
    };
    let warnings_after = match tokens {
        Tokens::Simple => "1h",
        Tokens::Jwt => {
            let key = folder.join("jwt-key");
            std::fs::write(&key, &secrets.signing).context("write the key of the tokens")?;
            flags.push(format!("--auth-token=jwt,sign-method=HS256,priv-key={}", key.display()));
            "1ns"
        }
    };
    flags.extend([
        format!("{spelling}warning-apply-duration={warnings_after}"),
        format!("{spelling}warning-unary-request-duration={warnings_after}"),
        format!("{spelling}enable-distributed-tracing"),
        format!("{spelling}distributed-tracing-address={collector}"),
        format!("{spelling}distributed-tracing-sampling-rate=1000000"),
    ]);
    let environment =
        vec![("ETCD_DISCOVERY_USER".to_owned(), format!("somebody:{}", secrets.environment))];
    Ok(Extras { flags, environment, user_info: format!("somebody:{}@", secrets.url) })
}
