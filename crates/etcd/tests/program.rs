//! The program as an operator meets it: real processes, their log lines, exit codes, and members that find each other.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use client::{Client, Options};
use proto::etcdserverpb as pb;
use serde_json::Value;

/// Long enough for a slow machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `etcd`; dropping it kills it.
struct Etcd {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<Value>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

impl Etcd {
    fn start(args: &[&str]) -> Self {
        Self::of(command(args))
    }

    fn of(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// The first line with this message, now or later.
    fn line(&mut self, message: &str) -> Value {
        self.line_where(|line| line["msg"].as_str().is_some_and(|msg| msg.contains(message)))
    }

    /// The first line for which this holds, now or later.
    fn line_where(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        if let Some(line) = self.seen.iter().find(|line| is_it(line)) {
            return line.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|error| {
                panic!("the line does not come ({error}) after {:#?}", self.seen)
            });
            let line: Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{error}: not a line of JSON: {line}"));
            for key in ["level", "ts", "caller", "msg"] {
                assert!(line[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {line}");
            }
            self.seen.push(line.clone());
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Where clients are served.
    fn client_address(&mut self) -> String {
        self.line("serving client traffic")["address"].as_str().unwrap().to_owned()
    }
}

/// A URL on a port that was free a moment ago.
fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A member with ports and a directory of its own.
fn member(dir: &std::path::Path, name: &str, more: &[&str]) -> Etcd {
    Etcd::of(member_command(dir, name, more))
}

fn member_command(dir: &std::path::Path, name: &str, more: &[&str]) -> Command {
    let data_dir = dir.join(name);
    let peer_url = free_url();
    let mut args = vec![
        "--name",
        name,
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:0",
        "--listen-peer-urls",
        &peer_url,
        "--initial-advertise-peer-urls",
        &peer_url,
    ];
    args.extend_from_slice(more);
    command(&args)
}

async fn client_of(etcd: &mut Etcd) -> Client {
    let options = Options { timeout: Some(PATIENCE), ..Options::default() };
    Client::connect([etcd.client_address()], options).await.unwrap()
}

#[tokio::test]
async fn members_find_each_other_in_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = member(dir.path(), "registry", &[]);
    let endpoint = registry.client_address();
    let client = client_of(&mut registry).await;

    // A token that nobody prepared is refused.
    let endpoints = format!("--discovery-endpoints=http://{endpoint}");
    let mut early = member(dir.path(), "early", &[&endpoints, "--discovery-token=t"]);
    assert_eq!(
        early.line("discovery token was already used")["error"],
        "failed to join discovery cluster (discovery: size key not found)"
    );
    assert_eq!(early.child.wait().unwrap().code(), Some(1));

    client.put("/_etcd/registry/t/_config/size", "2").await.unwrap();
    let flags = [endpoints.as_str(), "--discovery-token=t", "--discovery-user=u:secret"];
    let mut first = member(dir.path(), "first", &flags[..2]);
    first.line("waiting for peers from discovery service");
    let mut second = member(dir.path(), "second", &flags[..2]);
    for found in [&mut first, &mut second] {
        found.line("ready to serve client requests");
        let start = found.line("starting an etcd server");
        let cluster = start["initial-cluster"].as_str().unwrap();
        assert!(cluster.contains("first=http://") && cluster.contains(",second=http://"));
        assert_eq!(start["initial-cluster-token"], "t");
    }
    // They are one cluster.
    client_of(&mut first).await.put("k", "v").await.unwrap();
    assert_eq!(client_of(&mut second).await.get("k").await.unwrap().kvs[0].value, "v");

    let mut late = member(dir.path(), "late", &flags[..2]);
    assert_eq!(
        late.line("discovery token was already used")["error"],
        "failed to join discovery cluster (discovery: cluster is full)"
    );
    assert!(!dir.path().join("late").exists(), "nothing is written before");
}

/// A service of v2 discovery that gives these answers, one for each request, and then no more.
fn keys_service(answers: &'static [&'static str]) -> String {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://me:secret@{}/v2/keys/t", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for body in answers {
            let (mut socket, _) = listener.accept().unwrap();
            // Requests are short, and come in one piece or two; the answer may come before the second.
            let _ = socket.read(&mut [0; 4096]).unwrap();
            let length = body.len();
            let head = "HTTP/1.1 200 OK\r\nX-Etcd-Index: 9\r\nConnection: close\r\nContent-Length";
            socket.write_all(format!("{head}: {length}\r\n\r\n{body}").as_bytes()).unwrap();
            let _ = socket.read_to_end(&mut Vec::new());
        }
    });
    url
}

#[test]
fn a_token_that_is_used_up_ends_the_start_as_in_etcd() {
    const SIZE: &str = r#"{"node":{"key":"/t/_config/size","value":"1"}}"#;
    const FULL: &str = r#"{"node":{"nodes":[{"key":"/t/b","value":"b=http://127.0.0.1:1"}]}}"#;
    let dir = tempfile::tempdir().unwrap();
    let full = "failed to join discovery cluster (discovery: cluster is full)";
    for (answers, more, lines) in [
        (
            &[SIZE, FULL][..],
            &[][..],
            &[
                ("there is no proxy of v2 to fall back to", None),
                ("failed to bootstrap; discovery token was already used", Some(full)),
                ("do not reuse discovery token; generate a new one to bootstrap a cluster", None),
            ][..],
        ),
        (
            &[SIZE, FULL],
            &["--emulated-version=3.6"],
            &[
                ("V2 discovery is deprecated!", None),
                ("failed to bootstrap; discovery token was already used", Some(full)),
            ],
        ),
        (
            &[SIZE, "<html>"],
            &[],
            &[(
                "failed to start etcd",
                Some("failed to join discovery cluster (discovery: bad discovery endpoint)"),
            )],
        ),
    ] {
        let discovery = format!("--discovery={}", keys_service(answers));
        let args: Vec<&str> = [discovery.as_str()].iter().chain(more).copied().collect();
        let mut etcd = member(dir.path(), "late", &args);
        for (message, error) in lines {
            let line = etcd.line(message);
            assert_eq!(line["level"], "warn", "{line}");
            assert_eq!(line["error"].as_str(), *error, "{line}");
        }
        assert_eq!(etcd.child.wait().unwrap().code(), Some(1));
        assert!(!dir.path().join("late").exists(), "nothing is written before");
        assert!(!format!("{:?}", etcd.seen).contains("secret"), "{:?}", etcd.seen);
    }
}

#[test]
fn a_file_configures_a_member_and_its_log_tells_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log").join("etcd.log");
    std::fs::create_dir(dir.path().join("log")).unwrap();
    let file = dir.path().join("etcd.yml");
    let peer = free_url().replace("http://", "http://me:secret@");
    let text = format!(
        "name: f\ndata-dir: {}\nlisten-client-urls: http://127.0.0.1:0\nlisten-peer-urls: {peer}\n\
         initial-advertise-peer-urls: {peer}\ninitial-cluster: f={peer}\nsnapshot-catchup-entries: 1000\n\
         log-outputs: [stderr, {}]\nenable-log-rotation: true\nnosuch: 1\n",
        dir.path().join("data").display(),
        log.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut etcd = Etcd::start(&["--config-file", file.to_str().unwrap(), "--name=other"]);
    let start = etcd.line("starting an etcd server");
    assert_eq!(start["snapshot-catchup-entries"], 1000);
    assert_eq!(start["election-timeout"], "1s");
    assert_eq!(start["name"], "f");
    assert_eq!(start["listen-peer-urls"][0], peer.replace("secret", "***"));
    etcd.line("ready to serve client requests");
    etcd.client_address();
    assert_eq!(etcd.line("unknown key")["key"], "nosuch");
    assert_eq!(etcd.line("are ignored next to")["ignored"][0], "--name");
    assert_eq!(etcd.line("values that are not defaults")["config-file"][0], "data-dir");
    let written = std::fs::read_to_string(&log).unwrap();
    assert!(written.contains("\"msg\":\"ready to serve client requests\""));
    assert!(!written.contains("secret"), "{written}");
    let told: Vec<String> = etcd.seen.iter().map(Value::to_string).collect();
    assert!(!told.join("\n").contains("secret"));
}

#[test]
fn slow_requests_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = member(
        dir.path(),
        "slow",
        &["--warning-apply-duration=1ns", "--warning-unary-request-duration=1ns"],
    );
    // `initial-cluster` is not given: the member is alone. Its own publication is an entry that takes longer than 1 ns.
    let line = etcd.line("apply request took too long");
    assert_eq!(
        (line["level"].as_str(), line["expected-duration"].as_str()),
        (Some("warn"), Some("1ns"))
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { client_of(&mut etcd).await.put("k", "v").await.unwrap() });
    let line = etcd.line("request stats");
    assert_eq!(line["response type"], "/etcdserverpb.KV/Put");
    assert!(
        line["time spent"].is_string() && line["remote"].as_str().unwrap().contains("127.0.0.1")
    );
    let sizes = ["request count", "request size", "response count"].map(|name| line[name].as_i64());
    assert_eq!(sizes, [Some(1), Some(6), Some(0)]);
    assert!(line["response size"].as_i64().unwrap() > 20, "{line}");
    assert_eq!(line["request content"], "key:\"k\" value_size:1 ");
    // The first write of a new store. Its answer is told as it is when applied: a header with revision 2, in two bytes and two.
    let put = etcd.line_where(|line| {
        line["msg"] == "apply request took too long"
            && line["request"].as_str().is_some_and(|request| request.contains("put:"))
    });
    assert_eq!(put["response"], "size:4");
}

#[test]
fn the_proxys_log_shows_calls_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = member(dir.path(), "alone", &[]);
    let address = free_url().replace("http://", "");
    let mut proxy = Etcd::start(&[
        "grpc-proxy",
        "start",
        "--advertise-client-url=",
        "--experimental-enable-grpc-logging",
        &format!("--endpoints={}", etcd.client_address()),
        &format!("--listen-addr={address}"),
    ]);
    proxy.line("started gRPC proxy");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = Options { timeout: Some(PATIENCE), ..Options::default() };
        let client = Client::connect([&address], options).await.unwrap();
        let (name, password) = ("bob".to_owned(), "hush".to_owned());
        let user = pb::AuthUserAddRequest { name, password, ..pb::AuthUserAddRequest::default() };
        client.user_add(user.clone()).await.unwrap();
        client.user_add(user).await.unwrap_err();
    });
    let line = proxy.line("received payload logged as grpc.request.content field");
    assert_eq!(line["grpc.request.content"], r#"{"name":"bob","password":"<hidden>"}"#);
    assert_eq!(
        (&line["grpc.service"], &line["grpc.method"]),
        (&"etcdserverpb.Auth".into(), &"UserAdd".into())
    );
    assert!(line["peer.address"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    let line = proxy.line("returned response payload");
    assert!(line["grpc.response.content"].as_str().unwrap().contains("header"), "{line}");
    proxy.line_where(|line| {
        line["grpc.response.error"]
            == "rpc error: code = FailedPrecondition desc = etcdserver: user name already exists"
    });
    assert!(!proxy.seen.iter().any(|line| line.to_string().contains("hush")), "{:#?}", proxy.seen);
}

#[test]
fn signals_that_etcd_does_not_know_leave_it_running_and_quit_ends_it_at_once() {
    use rustix::process::{Pid, Signal, kill_process};
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = member(dir.path(), "signals", &[]);
    let pid = Pid::from_child(&etcd.child);
    etcd.client_address();
    // What scripts that rotate logs send.
    for signal in [Signal::USR1, Signal::USR2, Signal::ALARM] {
        kill_process(pid, signal).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { client_of(&mut etcd).await.put("k", "v").await.unwrap() });
    kill_process(pid, Signal::QUIT).unwrap();
    assert_eq!(etcd.child.wait().unwrap().code(), Some(2));
    let rest: Vec<String> = etcd.lines.iter().collect();
    assert!(rest.iter().any(|line| line == "SIGQUIT: quit"), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("\"heart\"")), "{rest:?}");
}

#[test]
fn what_cannot_be_served_ends_with_etcds_codes() {
    for (args, code, message, want) in [
        (
            &["--pre-vote=maybe"][..],
            2,
            "",
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
        ),
        (
            &["--config-file=/nope"],
            1,
            "failed to verify flags",
            "open /nope: no such file or directory",
        ),
        (
            &["--name=y", "--initial-cluster=x=http://127.0.0.1:2380"],
            1,
            "discovery failed",
            "couldn't find local name \\\"y\\\" in the initial cluster configuration",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            1,
            "advertise client URLs are not set",
            "--advertise-client-urls is required",
        ),
        (
            &["--log-outputs=systemd/journal,stdout"],
            1,
            "failed to verify flags",
            "running with systemd/journal",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = command(args).current_dir(dir.path()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(told.contains(message) && told.contains(want), "{args:?}: {told}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{args:?} leaves nothing");
    }
}

/// CVE-2020-15113 (GHSA-chh6-ppwq-jh92): what is made is its owner's alone, and a directory that was there before, open to others,
/// is told of.
#[test]
fn cve_2020_15113_others_do_not_look_into_the_data() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let mut fresh = member(dir.path(), "fresh", &[]);
    fresh.line("ready to serve client requests");
    for path in ["fresh", "fresh/member", "fresh/member/wal", "fresh/member/snap"] {
        let mode = std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{path}");
    }
    assert!(!fresh.seen.iter().any(|line| line["msg"] == "check file permission"));
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut warned = member(dir.path(), "open", &[]);
    let warning = warned.line("check file permission");
    assert!(warning["error"].as_str().unwrap().contains("\"755\""), "{warning}");
}

/// A figure of `/proc/PID/FILE`, in kB.
#[cfg(target_os = "linux")]
fn kilobytes(etcd: &Etcd, file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", etcd.child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn memory_is_small_pages_and_locked_as_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut plain = member(dir.path(), "plain", &[]);
    plain.line("ready to serve client requests");
    // The allocator may have had one or two before the program could say so.
    let huge = kilobytes(&plain, "smaps_rollup", "AnonHugePages:");
    assert!(huge <= 4096, "{huge} kB");
    assert_eq!(kilobytes(&plain, "status", "VmLck:"), 0);

    let mut locked = member(dir.path(), "locked", &["--memory-mlock"]);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let may_lock = u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0;
    if may_lock {
        locked.line("ready to serve client requests");
        let (locked, resident) =
            (kilobytes(&locked, "status", "VmLck:"), kilobytes(&locked, "status", "VmRSS:"));
        assert!(locked > 0);
        assert!(resident < 200_000, "{resident} kB are real");
    } else {
        let error = locked.line("discovery failed")["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("--memory-mlock: lock memory: "), "{error}");
    }
}

#[test]
fn what_was_done_is_told_with_etcds_words_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = member(
        dir.path(),
        "audit",
        &[
            "--snapshot-count=5",
            "--quota-backend-bytes=9000000000",
            "--log-level=debug",
            "--emulated-version=3.7",
        ],
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let removed = runtime.block_on(async {
        let client = client_of(&mut etcd).await;
        for _ in 0..6 {
            client.put("k", "secret value").await.unwrap();
        }
        let compaction = pb::CompactionRequest { revision: 5, physical: true };
        client.compact(compaction).await.unwrap();
        client.defragment().await.unwrap();
        let (name, role, user) = ("u".to_owned(), "r".to_owned(), "u".to_owned());
        let password = "secret password".to_owned();
        let user_add = pb::AuthUserAddRequest { name, password, ..Default::default() };
        client.user_add(user_add).await.unwrap();
        client.role_add(pb::AuthRoleAddRequest { name: role.clone() }).await.unwrap();
        let grant = pb::AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
        client.user_grant_role(grant).await.unwrap();
        let revoke = pb::AuthUserRevokeRoleRequest { name: user, role };
        client.user_revoke_role(revoke).await.unwrap();
        let lease = client.lease_grant(100, 7).await.unwrap().id;
        client.lease_keep_alive_once(lease).await.unwrap();
        client.put("", "secret value").await.unwrap_err();
        let learner = pb::MemberAddRequest {
            peer_urls: vec!["http://127.0.0.1:1".to_owned()],
            is_learner: true,
        };
        let added = client.member_add(learner).await.unwrap().member.unwrap().id;
        client.member_remove(added).await.unwrap();
        format!("{added:x}")
    });
    for (message, level, value) in [
        ("simple token is not cryptographically signed", "warn", None),
        ("quota exceeds the maximum value", "warn", Some(("quota-size", "9.0 GB"))),
        ("added member", "info", Some(("added-peer-is-learner", "false"))),
        ("elected leader", "info", Some(("logger", "raft"))),
        ("grpc service status changed", "info", Some(("status", "SERVING"))),
        ("triggering snapshot", "info", Some(("snapshot-forced", "false"))),
        ("saved snapshot to disk", "info", None),
        ("finished scheduled compaction", "info", Some(("number-of-keys-compacted", "3"))),
        ("storing new hash", "info", Some(("compact-revision", "-1"))),
        ("finished defragmenting directory", "info", None),
        ("added a user", "info", Some(("user-name", "u"))),
        ("created a role", "info", Some(("role-name", "r"))),
        ("granted a role to a user", "info", Some(("user-roles", "[\"r\"]"))),
        ("revoked a role from a user", "info", Some(("old-user-roles", "[\"r\"]"))),
        (
            "applied a configuration change",
            "info",
            Some(("raft-conf-change", "ConfChangeAddLearnerNode")),
        ),
        ("removed member", "info", Some(("removed-remote-peer-id", removed.as_str()))),
        ("Applying entry", "debug", Some(("entry-type", "EntryConfChange"))),
        ("renewed a lease", "debug", Some(("lease-id", "0000000000000007"))),
        ("refused a call", "debug", Some(("error", "etcdserver: key is not provided"))),
    ] {
        let line = etcd.line(message);
        assert_eq!(line["level"], level, "{line}");
        if let Some((name, value)) = value {
            let found = line[name].as_str().map_or_else(|| line[name].to_string(), str::to_owned);
            assert_eq!(found, value, "{line}");
        }
    }
    let compacted = etcd.line("finished scheduled compaction");
    for name in ["compact-revision", "took", "hash", "current-db-size-in-use"] {
        assert!(!compacted[name].is_null(), "{name}: {compacted}");
    }
    let told: Vec<String> = etcd.seen.iter().map(Value::to_string).collect();
    assert!(!told.join("\n").contains("secret"));
}

/// Where each value comes from that is not a default, is told at the start.
#[test]
fn where_values_come_from_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = member_command(dir.path(), "sources", &["--max-wals=7"]);
    command.env("ETCD_MAX_SNAPSHOTS", "8").env("ETCD_EXPERIMENTAL_SNAPSHOT_CATCHUP_ENTRIES", "9");
    let mut etcd = Etcd::of(command);
    let line = etcd.line("configuration values that are not defaults");
    assert_eq!(line["level"], "info");
    let expected = [
        "advertise-client-urls",
        "data-dir",
        "initial-advertise-peer-urls",
        "listen-client-urls",
        "listen-peer-urls",
        "max-wals",
        "name",
    ];
    assert_eq!(line["command-line"], serde_json::json!(expected));
    let expected = ["max-snapshots", "experimental-snapshot-catchup-entries"];
    assert_eq!(line["environment"], serde_json::json!(expected));
    assert_eq!(line["config-file"], serde_json::json!([]));
    let start = etcd.line("starting an etcd server");
    for (name, value) in [("max-wals", 7), ("max-snapshots", 8), ("snapshot-catchup-entries", 9)] {
        assert_eq!(start[name], value, "{name}");
    }
}

#[test]
fn a_full_member_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut etcd = member(dir.path(), "full", &["--quota-backend-bytes=1000000"]);
    let refused = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = client_of(&mut etcd).await;
        loop {
            if let Err(refused) = client.put("k", vec![b'v'; 100_000]).await {
                break refused.to_string();
            }
        }
    });
    assert!(refused.contains("mvcc: database space exceeded"), "{refused}");
    let line = etcd.line("message exceeded backend quota; raising alarm");
    assert_eq!((&line["level"], &line["quota-size"]), (&"warn".into(), &"1.0 MB".into()));
    assert_eq!(line["quota-size-bytes"], 1_000_000);
    assert_eq!(line["error"], "etcdserver: mvcc: database space exceeded");
}

/// Nobody's member, in a directory that is nobody's: all that it needs.
#[test]
fn a_user_without_rights_runs_a_member_in_his_own_directory() {
    use std::os::unix::fs::MetadataExt as _;
    const NOBODY: u32 = 65_534;
    let name = "a_user_without_rights_runs_a_member_in_his_own_directory";
    if !rustix::process::geteuid().is_root() {
        eprintln!("{name}: skipped: only root can become another user");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    // Where the program lies, others may not come.
    let program = dir.path().join("etcd");
    std::fs::copy(env!("CARGO_BIN_EXE_etcd"), &program).unwrap();
    let as_nobody = |name, more: &[&str]| {
        let own = member_command(dir.path(), name, more);
        let mut command = Command::new("setpriv");
        let user = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")];
        command.args(user).args(["--clear-groups", "--"]).arg(&program).args(own.get_args());
        for (name, value) in own.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    };
    let mut etcd = Etcd::of(as_nobody("nobodys", &[]));
    etcd.line("ready to serve client requests");
    for path in ["nobodys", "nobodys/member/wal", "nobodys/member/snap/db"] {
        let found = std::fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o077), (NOBODY, NOBODY, 0), "{path}");
    }
    // Root's directory is not his.
    std::fs::create_dir(dir.path().join("roots")).unwrap();
    std::os::unix::fs::chown(dir.path().join("roots"), Some(0), Some(0)).unwrap();
    let refused = as_nobody("roots", &[]).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("permission denied") || told.contains("Permission denied"), "{told}");
    assert_eq!(std::fs::read_dir(dir.path().join("roots")).unwrap().count(), 0);
}
