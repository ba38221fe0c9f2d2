//! Secrets that must stay where they belong: known ones are given to a member in every way there is, and then looked for.
//!
//! ```text
//!  Secrets (random) ──► drive: gRPC, gateway, etcdctl; what succeeds and what is refused
//!                                 │
//!                                 ▼
//!  search ◄── log (level debug) · pages of both ports · refusals and what etcdctl prints · files of the data directory
//! ```
//!
//! Nowhere: passwords, tokens, what tokens are signed with, the keys of certificates (but in their own files), and the password of
//! the discovery service. In the data directory only: keys and values; in the write-ahead log also simple tokens, which every member
//! learns from their entries, in etcd too. A key may also stand in the log when the request is told of
//! because it took long, as in etcd; the run with JWT has such lines for every request, and keys are not looked for in its log.
//!
//! A secret is looked for as it is, in base64 (as JSON has it), in hexadecimal, and as Rust and Go print lists of bytes. Where a hash belongs
//! (a password's, in the data directory), only the password itself is looked for.

mod drive;
mod search;
mod secrets;

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::attack::victim::{Extras, Victim};
use crate::programs::Programs;
use search::Haystack;
use secrets::{Kind, Secrets};

/// How the member makes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Random texts, known to the member. Requests are quick enough not to be told of.
    Simple,
    /// Signed. Every request is told of as one that took long.
    Jwt,
}

impl Tokens {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Simple, Self::Jwt];
}

/// What was looked through.
#[derive(Clone, Debug)]
pub struct Report {
    tokens: Tokens,
    secrets: usize,
    places: usize,
    bytes: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, secrets, places, bytes } = self;
        write!(
            f,
            "{tokens:?} tokens: {secrets} secrets stay where they belong: {places} places, {bytes} bytes"
        )
    }
}

/// Runs a member with secrets of a fresh seed.
///
/// # Errors
/// A secret is where it does not belong, or the member does not do what it is asked.
pub async fn run(programs: &Programs, tokens: Tokens) -> Result<Report> {
    let folder =
        tempfile::Builder::new().prefix("retcd-canary-").tempdir().context("make a folder")?;
    let mut secrets = Secrets::fresh();
    let extras = extras(tokens, &secrets, folder.path())?;
    let victim = Victim::start(programs, folder.path(), &extras)?;
    let mut places = drive::drive(&victim, programs, &mut secrets)
        .await
        .with_context(|| format!("the member's log ends:\n{}", victim.log_tail()))?;
    let (data_dir, log) = (victim.data_dir().to_owned(), victim.log_path().to_owned());
    victim.stop()?;
    secrets.add_private_keys(&data_dir)?;
    places.push(Haystack::file("the log", &log)?);
    places.push(Haystack::file("the log's file", &folder.path().join("etcd.log"))?);
    ensure!(
        places.iter().any(|place| place.contains(b"\"level\":\"debug\"")),
        "no line of level debug"
    );
    let stored = Haystack::folder(&data_dir)?;
    let is_stored =
        |kind| secrets.of(kind).all(|secret| stored.iter().any(|place| place.contains(secret)));
    ensure!(
        is_stored(Kind::Key) && is_stored(Kind::Value),
        "what was put is not found where it belongs"
    );
    for place in &places {
        let told_of = |kind: Kind| {
            kind != Kind::Key || tokens == Tokens::Simple || !place.name.starts_with("the log")
        };
        place.check(&secrets, told_of)?;
    }
    for place in &stored {
        let belongs = |kind: Kind| match kind {
            Kind::Key | Kind::Value => true,
            Kind::SimpleToken => place.name.ends_with(".wal"),
            Kind::PrivateKey => place.name.ends_with(".pem"),
            Kind::Password | Kind::Token => false,
        };
        place.check(&secrets, |kind| !belongs(kind))?;
    }
    Ok(Report {
        tokens,
        secrets: secrets.len(),
        places: places.len() + stored.len(),
        bytes: places.iter().chain(&stored).map(Haystack::len).sum(),
    })
}

fn extras(tokens: Tokens, secrets: &Secrets, folder: &Path) -> Result<Extras> {
    let log = folder.join("etcd.log");
    let mut flags = vec![
        "--log-level=debug".to_owned(),
        format!("--log-outputs=stderr,{}", log.display()),
        "--bcrypt-cost=4".to_owned(),
        "--snapshot-count=20".to_owned(),
        format!("--discovery-password={}", secrets.discovery),
    ];
    match tokens {
        Tokens::Simple => flags.extend([
            "--experimental-warning-apply-duration=1h".to_owned(),
            "--experimental-warning-unary-request-duration=1h".to_owned(),
        ]),
        Tokens::Jwt => {
            let key = folder.join("jwt-key");
            std::fs::write(&key, &secrets.signing).context("write the key of the tokens")?;
            flags.extend([
                format!("--auth-token=jwt,sign-method=HS256,priv-key={}", key.display()),
                "--experimental-warning-apply-duration=1ns".to_owned(),
                "--experimental-warning-unary-request-duration=1ns".to_owned(),
            ]);
        }
    }
    let environment =
        vec![("ETCD_DISCOVERY_USER".to_owned(), format!("somebody:{}", secrets.environment))];
    Ok(Extras { flags, environment })
}
