//! Rust from `.proto` files, without protoc: protox compiles, prost and tonic generate.
//!
//! Messages go to `crates/proto/src/gen` (no tonic there), services to `crates/rpc/src/gen`, whose stubs name the
//! messages of `proto` through `extern_path`. What a collector of traces is sent goes to `crates/otlp/src/gen`. The output is checked in, so that a build needs none of this.
//!
//! For the JSON gateway there is also a set of descriptors, `crates/rpc/src/gen/api.binpb`. Its fields have etcd's own
//! names (`ID`, `peerURLs`), which Rust's and prost's conventions keep out of the code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use protox::file::{File, FileResolver, IncludeFileResolver};
use protox::prost_reflect::prost_types::{DescriptorProto, FileDescriptorSet};

/// Files of `crates/proto/proto`, one line for each package.
const PROTO_FILES: &[&str] = &[
    "authpb/auth.proto",
    "etcdserverpb/raft_internal.proto",
    "etcdserverpb/rpc.proto",
    "etcdserverpb/server.proto",
    "leasepb/lease.proto",
    "membershippb/membership.proto",
    "mvccpb/kv.proto",
    "raftpb/raft.proto",
    "snappb/snap.proto",
    "v3electionpb/v3election.proto",
    "v3lockpb/v3lock.proto",
    "walpb/record.proto",
];

/// Packages whose messages live in `proto`, and which `rpc` therefore only refers to.
const PROTO_PACKAGES: &[&str] = &["authpb", "etcdserverpb", "mvccpb", "v3electionpb", "v3lockpb"];

/// The files with services of the client port; what they import comes with them.
const API_FILES: &[&str] =
    &["etcdserverpb/rpc.proto", "v3electionpb/v3election.proto", "v3lockpb/v3lock.proto"];

/// Generated files by name.
type Generated = BTreeMap<String, Vec<u8>>;

/// What to do with the generated files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Replace what is checked in.
    Write,
    /// Fail when what is checked in differs.
    Check,
}

/// Generates all code, and writes or compares it.
pub(crate) fn run(root: &Path, mode: Mode) -> Result<()> {
    let proto_include = root.join("crates/proto/proto");
    let rpc_include = root.join("crates/rpc/proto");

    let api =
        protox::compile(PROTO_FILES, [&proto_include]).context("compile crates/proto/proto")?;
    let health = protox::compile(["health/health.proto"], [&rpc_include])
        .context("compile crates/rpc/proto")?;
    let traces = protox::compile(["trace.proto"], [root.join("crates/otlp/proto")])
        .context("compile crates/otlp/proto")?;

    let messages =
        generate(|out| prost_config(out).compile_fds(api.clone()).context("generate messages"))?;
    let mut stubs = generate(|out| generate_services(out, api.clone()))?;
    stubs.extend(generate(|out| generate_services(out, health.clone()))?);
    // prost opens a file for every package, also for those that have nothing but messages of `proto`.
    stubs.retain(|_, text| text.windows(7).any(|window| window == b"pub mod"));
    let kv = stubs.get_mut("etcdserverpb.rs").context("no services of etcd were generated")?;
    *kv = with_nested_codec(std::str::from_utf8(kv)?)?.into_bytes();
    stubs.insert("api.binpb".to_owned(), api_descriptors(&proto_include)?);
    // Messages and stub in one: nobody else speaks to a collector.
    let traces = generate(|out| generate_services(out, traces))?;

    let mut differences = Vec::new();
    differences.extend(settle(&root.join("crates/proto/src/gen"), &messages, mode)?);
    differences.extend(settle(&root.join("crates/rpc/src/gen"), &stubs, mode)?);
    differences.extend(settle(&root.join("crates/otlp/src/gen"), &traces, mode)?);
    if mode == Mode::Check && !differences.is_empty() {
        let names: Vec<String> =
            differences.iter().map(|path| path.display().to_string()).collect();
        bail!(
            "generated code is not up to date, run `cargo xtask codegen`:\n  {}",
            names.join("\n  ")
        );
    }
    Ok(())
}

/// Messages that must not be printed whole.
const SECRET: [&str; 6] = [
    ".authpb.User",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthenticateResponse",
    ".etcdserverpb.InternalAuthenticateRequest",
];

fn prost_config(out: &Path) -> prost_build::Config {
    let mut config = prost_build::Config::new();
    config
        .out_dir(out)
        // `Bytes`: a key or value is a slice of the buffer it arrived in, all the way to the log and to the watchers.
        .bytes(["."])
        // The old v2 request is large and rare; boxed, it does not make every log entry as large.
        .boxed(".etcdserverpb.InternalRaftRequest.request.v2")
        .boxed(".etcdserverpb.InternalRaftRequest.v2")
        // Passwords, their hashes and tokens: `proto::secrets` shows the rest of these messages.
        .skip_debug(SECRET);
    config
}

fn generate_services(out: &Path, set: FileDescriptorSet) -> Result<()> {
    let mut builder = tonic_prost_build::configure().out_dir(out).bytes(".").build_transport(true);
    for package in PROTO_PACKAGES {
        builder = builder.extern_path(format!(".{package}"), format!("::proto::{package}"));
    }
    builder.compile_fds(set).context("generate services")
}

/// The generated text with another codec for KV.Txn, in the client and in the server: tonic's generator has one for all methods.
fn with_nested_codec(text: &str) -> Result<String> {
    const COMMON: &str = "tonic_prost::ProstCodec::default()";
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut count = 0;
    for at in 0..lines.len() {
        let codec = match lines.get(at) {
            // The client makes its codec before it says the path, the server behind it.
            Some(line) if line.contains("from_static(\"/etcdserverpb.KV/Txn\")") => {
                lines[..at].iter_mut().rev().find(|line| line.contains(COMMON))
            }
            Some(line) if line.contains("\"/etcdserverpb.KV/Txn\" =>") => {
                lines[at..].iter_mut().find(|line| line.contains(COMMON))
            }
            Some(_) | None => continue,
        };
        let codec = codec.context("no codec in the generated code of KV.Txn")?;
        *codec = codec.replace(COMMON, "crate::nested::NestedCodec::default()");
        count += 1;
    }
    if count != 2 {
        bail!("KV.Txn is generated at {count} places instead of two");
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// The encoded descriptors of the public services, under etcd's names.
fn api_descriptors(include: &Path) -> Result<Vec<u8>> {
    let resolver = EtcdNames(IncludeFileResolver::new(include.to_owned()));
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    compiler.open_files(API_FILES).context("compile crates/proto/proto under etcd's names")?;
    Ok(compiler.encode_file_descriptor_set())
}

/// Opens files with each field under its `json_name`, where the file gives one: that is etcd's name of it.
struct EtcdNames(IncludeFileResolver);

impl FileResolver for EtcdNames {
    fn resolve_path(&self, path: &Path) -> Option<String> {
        self.0.resolve_path(path)
    }

    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let mut file = self.0.open_file(name)?.file_descriptor_proto().clone();
        // Positions in the source would be most of the set.
        file.source_code_info = None;
        file.message_type.iter_mut().for_each(rename_fields);
        Ok(File::from_file_descriptor_proto(file))
    }
}

fn rename_fields(message: &mut DescriptorProto) {
    for field in &mut message.field {
        // Without one, the compiler derives the lowerCamelCase that protobuf's JSON also takes.
        if let Some(etcd_name) = field.json_name.take() {
            field.name = Some(etcd_name);
        }
    }
    message.nested_type.iter_mut().for_each(rename_fields);
}

/// Runs a generator in an empty folder and returns what each file holds that it made.
fn generate(make: impl FnOnce(&Path) -> Result<()>) -> Result<Generated> {
    let out = tempfile::tempdir().context("make a folder for generated code")?;
    make(out.path())?;
    let mut files = Generated::new();
    for entry in fs::read_dir(out.path())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = fs::read(entry.path()).with_context(|| format!("read generated {name}"))?;
        files.insert(name, text);
    }
    Ok(files)
}

/// Compares `files` with the folder `target`, and in [`Mode::Write`] makes them equal. Returns what differed.
fn settle(target: &Path, files: &Generated, mode: Mode) -> Result<Vec<PathBuf>> {
    let mut differences = Vec::new();
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(target)? {
        let path = entry?.path();
        let known =
            path.file_name().is_some_and(|name| files.contains_key(&*name.to_string_lossy()));
        if !known {
            if mode == Mode::Write {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
            differences.push(path);
        }
    }
    for (name, text) in files {
        let path = target.join(name);
        if fs::read(&path).ok().as_ref() != Some(text) {
            if mode == Mode::Write {
                fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            }
            differences.push(path);
        }
    }
    Ok(differences)
}
