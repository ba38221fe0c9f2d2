//! Directories that real etcd wrote, in good and in bad shape, served by a program and compared with what real etcd served.
//!
//! The fixtures are archives (`NAME.tar.zst`) with a description of what a client saw (`NAME.expected.json`). Three kinds
//! are started here:
//! - `killed-*`: a member that was killed with its database far behind its log;
//! - `torn-*`, `corrupt-*`: the same with a damaged tail of the log, which is repaired or refused as real etcd did;
//! - `rich-*`: has authentication on, with root's password in the description.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use serde::Deserialize;

use crate::api::Api;
use crate::member::{Member, Options};

/// How much was checked.
#[derive(Debug, Default)]
pub struct Report {
    /// Checks that passed.
    pub passed: Vec<String>,
}

/// What a client saw, as far as it is compared.
#[derive(Debug, Deserialize)]
struct State {
    ranges: serde_json::Map<String, serde_json::Value>,
    hashkv: Vec<Hash>,
}

#[derive(Debug, Deserialize)]
struct Hash {
    revision: i64,
    hash: Option<u32>,
    compact_revision: Option<i64>,
}

/// What became of a damaged copy.
#[derive(Debug, Deserialize)]
struct Variant {
    started: bool,
    state: Option<State>,
}

/// Starts the program on copies of all fixtures of a folder that can be served; the first violation is the error.
pub async fn check(folder: &Path, program: &Path) -> Result<Report> {
    let mut report = Report::default();
    let scratch =
        tempfile::Builder::new().prefix("retcd-fixtures-").tempdir().context("make a folder")?;
    for name in names(folder)? {
        let killed = name.starts_with("killed-");
        if killed || name.starts_with("torn-") || name.starts_with("corrupt-") {
            let data = unpack(folder, &name, scratch.path())?;
            let expected = expected(folder, &name, killed)?;
            check_damaged(&data, program, &expected).await.with_context(|| name.clone())?;
            report.passed.push(name);
        } else if name.starts_with("rich-") {
            let data = unpack(folder, &name, scratch.path())?;
            check_guarded(&data, program, folder, &name).await.with_context(|| name.clone())?;
            report.passed.push(name);
        }
    }
    ensure!(!report.passed.is_empty(), "no fixtures in {}", folder.display());
    Ok(report)
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        names.extend(file.strip_suffix(".tar.zst").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn unpack(folder: &Path, name: &str, to: &Path) -> Result<PathBuf> {
    let archive = folder.join(format!("{name}.tar.zst"));
    let mut zstd = Command::new("zstd")
        .args(["-dc", "--long=27"])
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("run zstd")?;
    let input = zstd.stdout.take().context("no output of zstd")?;
    let tar = Command::new("tar")
        .arg("-C")
        .arg(to)
        .args(["-xSf", "-"])
        .stdin(input)
        .status()
        .context("run tar")?;
    ensure!(tar.success() && zstd.wait()?.success(), "cannot unpack {name}");
    Ok(to.join(name))
}

fn expected(folder: &Path, name: &str, is_killed: bool) -> Result<Variant> {
    let version = name.rsplit('-').next().unwrap_or_default();
    let file = if is_killed {
        format!("{name}.expected.json")
    } else {
        format!("torn-{version}.expected.json")
    };
    let path = folder.join(file);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut json: serde_json::Value = serde_json::from_str(&text).context("parse")?;
    if is_killed {
        let state = serde_json::from_value(json["state"].take()).context("parse the state")?;
        return Ok(Variant { started: true, state: Some(state) });
    }
    serde_json::from_value(json[name].take())
        .with_context(|| format!("no {name} in {}", path.display()))
}

async fn check_damaged(data: &Path, program: &Path, expected: &Variant) -> Result<()> {
    let mut options = Options::new(program, data).with(&["--initial-cluster-token=fixture-torn"]);
    options.name = "t1".to_owned();
    let member = match Member::start(&options) {
        Ok(member) => member,
        Err(_) if !expected.started => return Ok(()),
        Err(error) => return Err(error.context("real etcd starts on this directory")),
    };
    ensure!(expected.started, "real etcd refuses this directory");
    let api = Api::connect(&member.url()).await?;
    compare(&api, expected.state.as_ref().context("no state to compare with")?).await?;
    member.stop()?;
    Ok(())
}

/// Compares what the member serves.
async fn compare(api: &Api, state: &State) -> Result<()> {
    for (revision, kvs) in &state.ranges {
        let Some(kvs) = kvs.as_array() else { continue };
        let revision: i64 = revision.parse().context("parse a revision")?;
        let all = Bytes::from_static(b"\0");
        let request =
            pb::RangeRequest { key: all.clone(), range_end: all, revision, ..Default::default() };
        let answer = api.range(request).await;
        let answer =
            answer.map_err(|refusal| anyhow::anyhow!("range at {revision}: {refusal:?}"))?;
        ensure!(
            answer.kvs.len() == kvs.len(),
            "{} keys at {revision}, {} expected",
            answer.kvs.len(),
            kvs.len()
        );
        for (found, wanted) in answer.kvs.iter().zip(kvs) {
            compare_kv(found, wanted).with_context(|| format!("at revision {revision}"))?;
        }
    }
    for hash in &state.hashkv {
        let Some(wanted) = hash.hash else { continue };
        let answer = api.hash_kv(hash.revision).await;
        let answer = answer
            .map_err(|refusal| anyhow::anyhow!("HashKV at {}: {refusal:?}", hash.revision))?;
        ensure!(
            answer.hash == wanted,
            "HashKV at {} is {}, {wanted} expected",
            hash.revision,
            answer.hash
        );
        ensure!(
            Some(answer.compact_revision) == hash.compact_revision,
            "another compact revision: {answer:?}"
        );
    }
    Ok(())
}

fn compare_kv(found: &proto::mvccpb::KeyValue, wanted: &serde_json::Value) -> Result<()> {
    let number = |name: &str| wanted[name].as_i64().unwrap_or_default();
    ensure!(
        found.create_revision == number("create_revision")
            && found.mod_revision == number("mod_revision")
            && found.version == number("version")
            && found.lease == number("lease"),
        "{found:?} is not {wanted}"
    );
    // Base64 on the expected side: encoding what was found needs no decoder that could fail.
    for (bytes, name) in [(&found.key, "key"), (&found.value, "value")] {
        ensure!(
            Some(base64(bytes).as_str()) == wanted[name].as_str(),
            "{name} of {found:?} is not {wanted}"
        );
    }
    Ok(())
}

/// Standard base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4 {
            let index = usize::try_from((bits >> (18 - 6 * place)) & 63).unwrap_or(0);
            out.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    out
}

/// What a client saw of a directory with authentication on.
#[derive(Debug, Deserialize)]
struct Guarded {
    history: Vec<State>,
    passwords: std::collections::BTreeMap<String, String>,
}

/// Root logs in with the password that real etcd hashed, others are kept out; then authentication is turned off, and the rest
/// compared as with other directories.
async fn check_guarded(data: &Path, program: &Path, folder: &Path, name: &str) -> Result<()> {
    let text = std::fs::read_to_string(folder.join(format!("{name}.expected.json")))?;
    let expected: Guarded = serde_json::from_str(&text).context("parse")?;
    let mut options = Options::new(program, data).with(&["--initial-cluster-token=fixture-rich"]);
    options.name = "m1".to_owned();
    let member = Member::start(&options)?;
    let api = Api::connect(&member.url()).await?;
    let refused = api.hash_kv(0).await.err().context("authentication is not on")?;
    ensure!(refused.message.ends_with("user name is empty"), "{refused:?}");
    let password = expected.passwords.get("root").context("no password of root")?;
    let mut auth = rpc::etcdserverpb::auth_client::AuthClient::connect(member.url()).await?;
    let (name, password) = ("root".to_owned(), password.clone());
    let answer = auth.authenticate(pb::AuthenticateRequest { name, password }).await?;
    let mut disable = tonic::Request::new(pb::AuthDisableRequest {});
    disable.metadata_mut().insert("token", answer.into_inner().token.parse()?);
    auth.auth_disable(disable).await?;
    let mut history = expected.history;
    let mut state = history.pop().context("no history")?;
    // Hashes that real etcd had kept from before its last compaction; a restart forgets them.
    let compacted = state.hashkv.iter().filter_map(|hash| hash.compact_revision).max();
    state.hashkv.retain(|hash| hash.compact_revision == compacted);
    compare(&api, &state).await?;
    member.stop()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard_s_examples() {
        for (text, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
