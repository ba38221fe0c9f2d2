//! What unit files and people write, and what they are told.

use super::*;

fn run(args: &[&str]) -> Result<Parsed, Stop> {
    run_with(args, &[])
}

fn run_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Parsed, Stop> {
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let environment: Vec<(String, String)> =
        environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    read(&args, &environment)
}

fn stop(args: &[&str]) -> Stop {
    run(args).map(|parsed| parsed.config).unwrap_err()
}

/// Why the arguments are refused, without what is told besides.
fn refused(args: &[&str]) -> String {
    let stop = stop(args);
    let Stop::Refused { why, .. } = stop else { panic!("{args:?}: {stop:?}") };
    why
}

/// A configuration file, as the only source.
fn file(text: &str) -> Result<Parsed, String> {
    read_file(text.as_bytes())
}

#[test]
fn the_stages_of_the_v2_api_are_those_of_the_version() {
    let stage = |version: &str, stage: &str| {
        run(&[&format!("--emulated-version={version}"), &format!("--v2-deprecation={stage}")])
    };
    assert!(stage("3.5", "not-yet").is_ok());
    let Stop::Refused { notices, .. } = stop(&["--enable-v2"]) else { panic!("it is served") };
    let told = "--enable-v2 is deprecated in 3.5 and will be decommissioned in 3.6.";
    assert!(notices.contains(&Notice::Warning(told.to_owned())), "{notices:?}");
    assert_eq!(
        refused(&["--enable-v2", "--v2-deprecation=write-only"]),
        "--enable-v2 and --v2-deprecation=write-only are mutually exclusive"
    );
    for version in ["3.6", "3.7"] {
        let why = "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"";
        assert_eq!(stage(version, "not-yet").unwrap_err(), Stop::Usage(why.to_owned()));
        let told = "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.";
        let notices = stage(version, "write-only").unwrap().notices;
        assert!(notices.contains(&Notice::Warning(told.to_owned())), "{notices:?}");
    }
}

#[test]
fn what_is_the_only_name_or_what_is_done_anyway_is_no_reason_to_warn() {
    let warnings = |version: &str, flag: &str| {
        let parsed = run(&[&format!("--emulated-version={version}"), flag]).unwrap();
        let is_warning =
            |notice: &&Notice| matches!(notice, Notice::Warning(text) if text.contains("--"));
        parsed.notices.iter().filter(is_warning).count()
    };
    // 3.5 has no other name for these two.
    for flag in
        ["--experimental-compaction-batch-limit=10", "--experimental-initial-corrupt-check=true"]
    {
        assert_eq!((warnings("3.5", flag), warnings("3.6", flag)), (0, 1), "{flag}");
    }
    assert_eq!(warnings("3.7", "--backend-bbolt-freelist-type="), 0);
    assert_eq!(warnings("3.7", "--discovery-fallback=exit"), 0);
}

#[test]
fn no_flags_are_etcds_defaults() {
    let parsed = run(&[]).unwrap();
    let config = parsed.config;
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcd"));
    assert_eq!(config.listen_client_urls[0].to_string(), "http://localhost:2379");
    assert_eq!(config.initial_cluster[0].0, "default");
    let counts = ["3.5", "3.6", "3.7"]
        .map(|text| config.snapshot_count(server::version::parse_emulated(text).unwrap()));
    assert_eq!(counts, [100_000, 10_000, 10_000]);
    assert_eq!(config.election_ticks(), 10);
    assert!(parsed.notices.contains(&Notice::DataDirDefault { path: "default.etcd".to_owned() }));
}

#[test]
fn a_version_to_stand_for_is_one_of_three() {
    let parsed = run(&["--emulated-version=3.6", "--snapshot-count=7"]).unwrap();
    let version = parsed.config.emulated_version.unwrap();
    assert_eq!(version.to_string(), "3.6.14");
    assert_eq!(parsed.config.snapshot_count(version), 7);
    let parsed = run_with(&[], &[("ETCD_EMULATED_VERSION", "3.7")]).unwrap();
    assert_eq!(parsed.config.emulated_version.unwrap().to_string(), "3.7.1");
    for text in ["3.4", "3.8", "3.6.14", "v3.6", "3"] {
        let why = refused(&["--emulated-version", text]);
        assert!(why.contains("3.5, 3.6 and 3.7"), "{text}");
    }
}

#[test]
fn the_grammar_is_gos() {
    let parsed = run(&[
        "-name",
        "a",
        "--pre-vote=false",
        "--max-txn-ops=0x10",
        "--name=b",
        "--data-dir",
        "d",
    ])
    .unwrap();
    assert_eq!(parsed.config.name, "b");
    assert!(!parsed.config.pre_vote);
    assert_eq!(parsed.config.max_txn_ops, 16);
}

#[test]
fn usage_errors_have_etcds_texts() {
    for (args, want) in [
        (&["--nosuch"][..], "flag provided but not defined: -nosuch"),
        (
            &["--heartbeat-interval=abc"],
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        ),
        (&["--pre-vote=maybe"], "invalid boolean value \"maybe\" for -pre-vote: parse error"),
        (
            &["--listen-client-urls=bad"],
            "invalid value \"bad\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: bad",
        ),
        (
            &["--initial-cluster-state=bad"],
            "invalid value \"bad\" for flag -initial-cluster-state: invalid value",
        ),
        (&["--name"], "flag needs an argument: -name"),
        (
            &["--feature-gates=Nosuch=true"],
            "invalid value \"Nosuch=true\" for flag -feature-gates: unrecognized feature gate: Nosuch",
        ),
        (
            &["--feature-gates=CompactHashCheck"],
            "invalid value \"CompactHashCheck\" for flag -feature-gates: missing bool value for CompactHashCheck",
        ),
        (
            &["--feature-gates=PriorityRequest=true", "--emulated-version=3.6"],
            "invalid value \"PriorityRequest=true\" for flag -feature-gates: unrecognized feature gate: PriorityRequest",
        ),
        (
            &["--log-level=abc"],
            "unrecognized level: \"abc\"; it is one of debug, info, warn, error, dpanic, panic, fatal",
        ),
        (
            &["--cors="],
            "invalid value \"\" for flag -cors: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            &["--max-concurrent-streams=99999999999"],
            "invalid value \"99999999999\" for flag -max-concurrent-streams: value out of range",
        ),
        (
            &["--v2-deprecation=a,b"],
            "invalid value \"a,b\" for flag -v2-deprecation: invalid value \"a\"",
        ),
    ] {
        assert_eq!(stop(args), Stop::Usage(want.to_owned()), "{args:?}");
    }
}

#[test]
fn semantic_errors_have_etcds_texts() {
    for (args, want) in [
        (&["version"][..], "'version' is not a valid flag"),
        (&["--emulated-version=3.7", "version"], "\"version\" is not a valid flag"),
        (&["--emulated-version", "3.6", "version"], "\"version\" is not a valid flag"),
        (&["--compact-hash-check-time=-1s"], "--compact-hash-check-time must be >0 (set to -1s)"),
        (
            &["--listen-client-urls=http://127.0.0.1:99999", "--advertise-client-urls=http://a:1"],
            "listen tcp: address 99999: invalid port",
        ),
        (
            &[
                "--listen-client-urls=http://127.0.0.1:1",
                "--listen-client-http-urls=http://127.0.0.1:1",
            ],
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:1",
        ),
        (
            &["--advertise-client-urls=unix://sock", "--emulated-version=3.5"],
            "--advertise-client-urls \"unix://sock\" must be \"host:port\" (address sock: missing port in address)",
        ),
        (
            &["--advertise-client-urls=http://:1", "--emulated-version=3.7"],
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (&["--log-outputs="], "open sink \"\": open : no such file or directory"),
        (&["--log-outputs=stdout,"], "open sink \"\": open : no such file or directory"),
        (
            &["--discovery-endpoints="],
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (&["--max-learners=-1"], "membership: too many learner members in cluster"),
        (&["--pre-vote", "false"], "'false' is not a valid flag"),
        (
            &["--listen-client-urls=http://foo.com:1234"],
            "expected IP in URL for binding (http://foo.com:1234)",
        ),
        (
            &["--listen-client-urls", "http://127.0.0.1:62379"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            &["--heartbeat-interval=300"],
            "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--auto-compaction-mode=x"], "unknown auto-compaction-mode \"x\""),
        (&["--logger=capnslog"], "--logger=capnslog is removed in v3.5"),
        (&["--logger=x"], "unknown logger option \"x\""),
        (&["--log-outputs=default,stdout"], "multi logoutput for \"default\" is not supported yet"),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            &["--initial-cluster=a=http://1:1", "--discovery-srv=y"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \"discovery-srv\"",
        ),
        (&["--discovery-token=x"], "both --discovery-token and --discovery-endpoints must be set"),
        (
            &["--discovery-token=x", "--discovery-endpoints=a,,b"],
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            &["--experimental-compact-hash-check-time=0s"],
            "--experimental-compact-hash-check-time must be >0 (set to 0s)",
        ),
        (
            &["--experimental-memory-mlock", "--memory-mlock"],
            "cannot set --experimental-memory-mlock and --memory-mlock at the same time, please use --memory-mlock only",
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            &["--feature-gates=LeaseCheckpoint=true", "--experimental-enable-lease-checkpoint"],
            "cannot specify both flags: --experimental-enable-lease-checkpoint=true and --feature-gates=LeaseCheckpoint=true \
             at the same time, please just use --feature-gates=LeaseCheckpoint=true",
        ),
        (&["--config-file=/nope"], "open /nope: no such file or directory"),
    ] {
        assert_eq!(refused(args), want, "{args:?}");
    }
}

#[test]
fn version_and_help_win() {
    assert_eq!(stop(&["--log-level=bogus", "--version"]), Stop::Version);
    assert_eq!(stop(&["-h"]), Stop::Help);
}

#[test]
fn a_flag_that_is_not_served_is_refused_by_name_but_taken_at_its_default() {
    for (args, flag) in
        [(&["--proxy=on"][..], "--proxy=on"), (&["--enable-v2"], "--enable-v2=true")]
    {
        let why = refused(args);
        assert!(why.contains(flag), "{why}");
    }
    assert!(
        run(&["--client-cert-auth=false", "--cert-file=", "--metrics=basic", "--cors=*"]).is_ok()
    );
    assert!(
        run(&["--experimental-compaction-batch-limit=10"]).unwrap().config.compaction_batch_limit
            == 10
    );
    assert!(run(&["--snapshot"]).is_ok());
}

#[test]
fn discovery_over_v2_is_as_the_version_stood_for_has_it() {
    let given = |args: &[&str]| run(args).unwrap().discovery;
    let found = given(&["--discovery=http://h/t", "--discovery-proxy=p:1"]);
    let Some(Discovery::Keys(service)) = found else { panic!("{found:?}") };
    assert_eq!((&*service.url, &*service.proxy), ("http://h/t", "p:1"));
    assert!(service.falls_back_to_proxy && !service.is_deprecated);
    let found =
        given(&["--discovery=http://h/t", "--discovery-fallback=exit", "--emulated-version=3.6"]);
    let Some(Discovery::Keys(service)) = found else { panic!("{found:?}") };
    assert!(!service.falls_back_to_proxy && service.is_deprecated);
    // Who may become a proxy of v2 needs no URL for clients.
    assert!(run(&["--discovery=http://h/t", "--listen-client-urls=http://127.0.0.1:1"]).is_ok());

    let static_too = ["--discovery=http://h/t", "--initial-cluster=a=http://h:1"];
    let of = |version: &str, args: &[&str]| {
        let version = format!("--emulated-version={version}");
        refused(&args.iter().copied().chain([version.as_str()]).collect::<Vec<_>>())
    };
    let conflict =
        |ways: &str| format!("multiple discovery or bootstrap flags are set. Choose one of {ways}");
    assert_eq!(
        of("3.5", &static_too),
        conflict(r#""initial-cluster", "discovery" or "discovery-srv""#)
    );
    assert_eq!(
        of("3.6", &static_too),
        conflict(r#""initial-cluster", "discovery", "discovery-endpoints" or "discovery-srv""#)
    );
    let both = ["--discovery-proxy=p:1", "--discovery-token=t", "--discovery-endpoints=h:1"];
    assert!(
        of("3.6", &both).starts_with("both v2 discovery settings (discovery, discovery-proxy)")
    );
    let proxy = "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"";
    assert_eq!(of("3.6", &["--discovery-fallback=proxy"]), proxy);
    assert!(run(&["--discovery-fallback=proxy"]).is_ok());

    // Gone in 3.7.
    assert_eq!(
        stop(&["--emulated-version=3.7", "--discovery=http://h/t"]),
        Stop::Usage("flag provided but not defined: -discovery".to_owned())
    );
    let environment = [("ETCD_DISCOVERY", "http://h/t"), ("ETCD_EMULATED_VERSION", "3.7")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let parsed = read(&[], &environment).unwrap();
    assert!(parsed.discovery.is_none());
    let assignment = "ETCD_DISCOVERY=http://h/t".to_owned();
    assert!(parsed.notices.contains(&Notice::EnvironmentUnknown { assignment }));
}

#[test]
fn tracing_is_read_under_all_its_names_and_only_when_asked_for() {
    let tracing = |args: &[&str]| run(args).unwrap().config.tracing;
    assert_eq!(tracing(&["--distributed-tracing-sampling-rate=-5"]), None);
    let found = tracing(&["--enable-distributed-tracing"]).unwrap();
    assert_eq!(
        (&*found.address, &*found.service_name, &*found.instance_id),
        ("localhost:4317", "etcd", "")
    );
    assert_eq!(found.rate_per_million, 0);
    let found = tracing(&[
        "--experimental-enable-distributed-tracing",
        "--experimental-distributed-tracing-address=collector:1",
        "--experimental-distributed-tracing-service-name=s",
        "--experimental-distributed-tracing-instance-id=i",
        "--experimental-distributed-tracing-sampling-rate=1000000",
    ])
    .unwrap();
    assert_eq!(
        (&*found.address, &*found.service_name, &*found.instance_id),
        ("collector:1", "s", "i")
    );
    assert_eq!(found.rate_per_million, 1_000_000);
    for (rate, what) in [("-1", "positive"), ("1000001", "less than 1000000")] {
        let why = refused(&[
            "--enable-distributed-tracing",
            &format!("--distributed-tracing-sampling-rate={rate}"),
        ]);
        assert_eq!(
            why,
            format!(
                "distributed tracing configurition is not valid: (tracing sampling rate must be {what})"
            )
        );
    }
    let file = b"enable-distributed-tracing: true\ndistributed-tracing-sampling-rate: 7\n";
    assert_eq!(read_file(file).unwrap().config.tracing.unwrap().rate_per_million, 7);
}

#[test]
fn certificates_of_the_two_sides_are_read() {
    let parsed = run(&[
        "--cert-file=c",
        "--key-file=k",
        "--client-cert-auth",
        "--trusted-ca-file=ca",
        "--client-crl-file=crl",
        "--peer-cert-file=pc",
        "--peer-key-file=pk",
        "--peer-client-cert-file=pcc",
        "--peer-client-key-file=pck",
        "--peer-cert-allowed-cn=a,b",
        "--peer-skip-client-san-verification",
        "--auto-tls",
    ])
    .unwrap();
    let config = parsed.config;
    assert_eq!(
        config.client_tls.summary(),
        "cert = c, key = k, client-cert=, client-key=, trusted-ca = ca, client-cert-auth = true, crl-file = crl"
    );
    assert!(!config.client_tls.check_origin, "clients come from anywhere");
    assert_eq!(
        config.peer_tls.summary(),
        "cert = pc, key = pk, client-cert=pcc, client-key=pck, trusted-ca = , client-cert-auth = false, crl-file = "
    );
    assert_eq!(config.peer_tls.names, tls::Names::Common(vec!["a".to_owned(), "b".to_owned()]));
    assert!(!config.peer_tls.check_origin);
    assert!(config.client_auto_tls && !config.peer_auto_tls);
    assert!(run(&[]).unwrap().config.peer_tls.check_origin);

    for (args, why) in [
        (&["--peer-cert-file=c"][..], "KeyFile and CertFile must both be present[key: , cert: c]"),
        (&["--cipher-suites=BAD"], "unexpected TLS cipher suite \"BAD\""),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--peer-auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
    ] {
        assert_eq!(refused(args), why, "{args:?}");
    }
}

#[test]
fn a_member_that_is_told_of_no_cluster_is_alone_under_its_own_name() {
    let founder = |args: &[&str]| {
        let config = run(args).unwrap().config;
        (config.initial_cluster.clone(), config.check_initial_cluster().is_ok())
    };
    let alone = |name: &str, url: &str| {
        vec![(name.to_owned(), server::config::Url::parse_list(url).unwrap())]
    };
    let own = "http://127.0.0.1:9";
    let told = format!("--initial-advertise-peer-urls={own}");
    assert_eq!(founder(&["--name=a", &told]), (alone("a", own), true));
    let default = "--initial-cluster=default=http://localhost:2380";
    assert_eq!(founder(&["--name=a", &told, default]), (alone("a", own), true));
    assert_eq!(founder(&[]), (alone("default", "http://localhost:2380"), true));
    // A nameless one does not follow what it advertises, and one whose name is empty does not find itself.
    assert_eq!(founder(&[&told]), (alone("default", "http://localhost:2380"), false));
    assert!(!founder(&["--name="]).1);
    // Where others find a member that listens everywhere.
    let parsed = run(&["--name=a", "--listen-peer-urls=http://0.0.0.0:7"]).unwrap().config;
    assert_eq!(parsed.initial_cluster, [("a".to_owned(), parsed.initial_advertise_peer_urls)]);
}

#[test]
fn a_member_that_has_a_log_does_not_read_what_founded_its_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = format!("--data-dir={}", dir.path().display());
    let args = ["--name=a", "--initial-cluster=a=not a url", data_dir.as_str()];
    assert!(matches!(run(&args), Err(Stop::Refused { .. })));
    let wal = dir.path().join("member/wal");
    std::fs::create_dir_all(&wal).unwrap();
    std::fs::write(wal.join("0000000000000000-0000000000000000.wal"), "").unwrap();
    let parsed = run(&args).unwrap();
    assert_eq!(parsed.config.initial_cluster, []);
    let told = |notice: &Notice| matches!(notice, Notice::Warning(text) if text.contains("--initial-cluster is ignored"));
    assert!(parsed.notices.iter().any(told));
}

#[test]
fn half_of_a_pair_stops_only_those_who_need_it() {
    let warned = |args: &[&str]| {
        let parsed = run(args).unwrap();
        let config = parsed.config;
        assert!(config.client_tls.pair.is_none() && config.peer_tls.client_pair.is_none());
        parsed
            .notices
            .iter()
            .filter(|n| matches!(n, Notice::Warning(text) if text.contains("ignoring")))
            .count()
    };
    for flag in [
        "--cert-file=abc",
        "--key-file=abc",
        "--client-cert-file=abc",
        "--client-key-file=abc",
        "--peer-client-cert-file=abc",
        "--peer-client-key-file=abc",
    ] {
        assert_eq!(warned(&[flag]), 1, "{flag}");
    }
    let https =
        ["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"];
    let half = "KeyFile and CertFile must both be present[key: , cert: abc]";
    assert_eq!(refused(&[&https[..], &["--cert-file=abc"]].concat()), half);
    assert_eq!(refused(&["--listen-metrics-urls=https://127.0.0.1:1", "--cert-file=abc"]), half);
    assert_eq!(refused(&["--peer-cert-file=abc"]), half);
    let pair = ["--cert-file=c", "--key-file=k", "--client-cert-file=abc"];
    assert_eq!(
        refused(&[&https[..], &pair].concat()),
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: abc]"
    );
}

#[test]
fn suites_are_read_whatever_is_served_and_looked_at_where_they_are_used() {
    for names in ["TLS_RSA_WITH_AES_128_CBC_SHA", "TLS_AES_128_GCM_SHA256"] {
        let parsed = run(&[&format!("--cipher-suites={names}")]).unwrap();
        assert_eq!(parsed.config.client_tls.ciphers.left_out, [names]);
    }
    for names in ["", ","] {
        let why = refused(&[&format!("--cipher-suites={names}")]);
        assert_eq!(why, "unexpected TLS cipher suite \"\"");
    }
    assert!(file("cipher-suites: []").is_ok());
}

#[test]
fn the_environment_sets_flags_and_may_not_contradict_them() {
    let parsed =
        run_with(&[], &[("ETCD_NAME", "e1"), ("ETCD_DATA_DIR", "x"), ("ETCD_NOSUCH", "1")])
            .unwrap();
    assert_eq!(parsed.config.name, "e1");
    assert!(
        parsed
            .notices
            .contains(&Notice::EnvironmentUnknown { assignment: "ETCD_NOSUCH=1".to_owned() })
    );
    let Err(Stop::Shadowed { variable }) = run_with(&["--name=a"], &[("ETCD_NAME", "a")]) else {
        panic!("not refused")
    };
    assert_eq!(variable, "ETCD_NAME");
    // A value that is empty shadows too, and sets nothing by itself.
    assert!(matches!(run_with(&["--name=a"], &[("ETCD_NAME", "")]), Err(Stop::Shadowed { .. })));
    assert_eq!(run_with(&[], &[("ETCD_NAME", "")]).unwrap().config.name, "default");
    let Err(Stop::Refused { why, .. }) = run_with(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")])
    else {
        panic!("not refused")
    };
    assert_eq!(why, "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error");
    let parsed = run_with(&[], &[("ETCD_VERSION", "1")]).unwrap();
    assert!(parsed.notices.contains(&Notice::EnvironmentSpecial {
        key: "ETCD_VERSION".to_owned(),
        value: "1".to_owned()
    }));
}

#[test]
fn a_file_has_the_flags_as_keys_with_types_of_their_own() {
    let parsed = file(
        "name: m1\n\
         heartbeat-interval: 50\n\
         pre-vote: no\n\
         auto-compaction-retention: '1'\n\
         experimental-compaction-sleep-interval: 20000000\n\
         listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\n\
         Quota-Backend-Bytes: 1_000\n\
         log-outputs: [stdout]\n\
         initial-cluster-state: ''\n\
         initial-cluster-token: null\n\
         feature-gates: LeaseCheckpoint=true,LeaseCheckpointPersist=true\n\
         client-transport-security: &tls\n  cert-file: c\n  key-file: k\n\
         peer-transport-security:\n  <<: *tls\n  key-file: pk\n  allowed-cn: [a, b]\n\
         experimental-snapshot-catch-up-entries: 7\n\
         nosuch: {a: 1}\n",
    )
    .unwrap();
    let config = parsed.config;
    assert_eq!((config.name.as_str(), config.heartbeat.as_millis()), ("m1", 50));
    assert!(!config.pre_vote && config.lease_checkpoint_persist);
    assert_eq!(
        config.auto_compaction,
        server::config::AutoCompaction::Periodic(std::time::Duration::from_secs(3600))
    );
    assert_eq!(config.compaction_sleep.as_millis(), 20);
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.quota_backend_bytes, 1000);
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert_eq!(config.snapshot_catchup_entries, 7);
    assert_eq!(config.peer_tls.names, tls::Names::Common(vec!["a".to_owned(), "b".to_owned()]));
    assert!(config.peer_tls.summary().starts_with("cert = c, key = pk,"));
    assert_eq!(parsed.log.outputs, [log::Output::Stdout]);
    assert!(parsed.notices.contains(&Notice::KeyUnknown { key: "nosuch".to_owned() }));
    // The same as JSON, and nothing at all.
    assert_eq!(file("{\"name\": \"j\", \"max-txn-ops\": 9}").unwrap().config.max_txn_ops, 9);
    assert_eq!(file("").unwrap().config.name, "default");
}

#[test]
fn a_file_that_cannot_be_served_is_told_in_etcds_words() {
    for (text, want) in [
        (
            "heartbeat-interval: 'abc'",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field \
             configYAML.Config.heartbeat-interval of type uint",
        ),
        (
            "experimental-warning-apply-duration: 10m",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field \
             configYAML.Config.experimental-warning-apply-duration of type time.Duration",
        ),
        (
            "log-outputs: stdout",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field \
             configYAML.Config.log-outputs of type []string",
        ),
        (
            "pre-vote: \"yes\"",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field \
             configYAML.Config.pre-vote of type bool",
        ),
        (
            "listen-client-urls: bad",
            "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: bad",
        ),
        (
            "name: 5",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal number into Go struct field \
             configYAML.Config.name of type string",
        ),
        (
            "auto-compaction-retention: 1",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal number into Go struct field \
             configYAML.Config.auto-compaction-retention of type string",
        ),
        (
            "peer-transport-security: {allowed-cn: x}",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field \
             securityConfig.configJSON.peer-transport-security.allowed-cn of type []string",
        ),
        ("initial-cluster-state: maybe", "unexpected clusterState \"maybe\""),
        ("auto-compaction-mode: 'x'", "unknown auto-compaction-mode \"x\""),
        ("heartbeat-interval: 0", "--heartbeat-interval must be >0 (set to 0ms)"),
        (
            "discovery-config: {token: t}",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
    ] {
        assert_eq!(file(text).map(|parsed| parsed.notices).unwrap_err(), want, "{text}");
    }
    for text in ["a: [", "- a", "a: &x [*x, *x]", "&a [&b [*a]]"] {
        assert!(file(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_version_does_not_know_the_keys_of_another() {
    let as_version =
        |version: &str, text: &str| file(&format!("emulated-version: {version}\n{text}"));
    let gate = |parsed: &Parsed| parsed.config.initial_corrupt_check;
    for (version, text, unknown) in [
        ("3.7", "proxy: off", "proxy"),
        ("3.6", "enable-v2: true", "enable-v2"),
        ("3.6", "discovery-fallback: proxy", "discovery-fallback"),
        (
            "3.7",
            "experimental-compaction-batch-limit: 5\ncompaction-batch-limit: 6",
            "experimental-compaction-batch-limit",
        ),
        (
            "3.7",
            "compaction-batch-limit: 6\nexperimental-compaction-batch-limit: 5",
            "experimental-compaction-batch-limit",
        ),
        ("3.5", "feature-gates: X=true", "feature-gates"),
        ("3.5", "feature-gates: {LeaseCheckpoint: true}", "feature-gates"),
        ("3.5", "corrupt-check-time: 1s", "corrupt-check-time"),
        ("3.5", "discovery-config: {token: t}", "discovery-config.token"),
    ] {
        let parsed = as_version(version, text).unwrap();
        let told = Notice::KeyUnknown { key: unknown.to_owned() };
        assert!(parsed.notices.contains(&told), "{version} {text}: {:?}", parsed.notices);
        if text.contains("limit") {
            assert_eq!(parsed.config.compaction_batch_limit, 6);
        }
    }
    for order in [
        "feature-gates: InitialCorruptCheck=true\nexperimental-initial-corrupt-check: false",
        "experimental-initial-corrupt-check: false\nfeature-gates: InitialCorruptCheck=true",
    ] {
        assert!(gate(&as_version("3.7", order).unwrap()), "{order}");
        assert!(as_version("3.6", order).is_err(), "{order}");
    }
    // Alone a key of old still does what it says.
    assert!(gate(&as_version("3.7", "experimental-initial-corrupt-check: true").unwrap()));
    assert!(as_version("3.7", "v2-deprecation: foo").is_ok());
    // A certificate's half that comes by a merge.
    let merged = "x: &d {cert-file: a}\nclient-transport-security:\n  <<: *d\n";
    assert!(file(merged).unwrap().config.client_tls.pair.is_none());
}

#[test]
fn the_version_is_taken_from_the_environment_beside_a_file_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etcd.yml");
    let run = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let environment = [("ETCD_EMULATED_VERSION", "3.6"), ("ETCD_MAX_WALS", "9")];
        run_with(&["--config-file", path.to_str().unwrap()], &environment)
    };
    let version = |text| run(text).unwrap().config.emulated_version.unwrap().to_string();
    assert_eq!(version("name: a"), "3.6.14");
    assert_eq!(version("emulated-version: 3.7"), "3.7.1");
    let notices = run("name: a").unwrap().notices;
    assert!(notices.contains(&Notice::Sources {
        command_line: Vec::new(),
        environment: vec!["emulated-version".to_owned()],
        file: vec!["name".to_owned()],
        ignored: vec!["ETCD_MAX_WALS".to_owned()],
    }));
}

#[test]
fn values_that_go_takes_are_taken() {
    let negative = run(&[
        "--backend-batch-interval=-1s",
        "--compaction-sleep-interval=-1s",
        "--grpc-keepalive-interval=-1s",
        "--warning-unary-request-duration=-1s",
        "--watch-progress-notify-interval=-1s",
        "--raft-read-timeout=-1s",
    ])
    .unwrap()
    .config;
    let zero = std::time::Duration::ZERO;
    assert_eq!((negative.compaction_sleep, negative.keepalive_interval), (zero, zero));
    assert_eq!(negative.warning_unary_request_duration, zero);
    assert_eq!(negative.watch_progress_interval.as_millis(), 100);
    let large = run(&[
        "--auth-token-ttl=99999999999",
        "--bcrypt-cost=99999999999",
        "--max-txn-ops=99999999999",
        "--max-request-bytes=99999999999",
        "--max-wals=99999999999",
        "--self-signed-cert-validity=99999999999",
    ]);
    assert_eq!(large.unwrap().config.max_txn_ops, u32::MAX);
    assert!(!run(&["--metrics=abc"]).unwrap().config.metrics_extensive);
    assert_eq!(run(&["--max-learners=0"]).unwrap().config.max_learners, 0);
    let told = run(&["--advertise-client-urls=http://127.0.0.1:99999"]).unwrap().config;
    assert_eq!(told.advertise_client_urls[0].to_string(), "http://127.0.0.1:99999");
    assert!(run(&["--advertise-client-urls=unix://sock"]).is_ok());
}

#[test]
fn a_file_makes_everything_else_void_and_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("etcd.yml");
    std::fs::write(&path, "name: f\n").unwrap();
    let path = path.to_str().unwrap();
    let parsed = run_with(
        &["--config-file", path, "--max-wals=7"],
        &[("ETCD_NAME", "e"), ("ETCD_MAX_WALS", "8")],
    )
    .unwrap();
    assert_eq!((parsed.config.name.as_str(), parsed.config.max_wals), ("f", 5));
    let ignored = ["--max-wals", "ETCD_NAME", "ETCD_MAX_WALS"].map(str::to_owned).to_vec();
    assert!(parsed.notices.contains(&Notice::Sources {
        command_line: Vec::new(),
        environment: Vec::new(),
        file: vec!["name".to_owned()],
        ignored,
    }));
    let parsed = run_with(&[], &[("ETCD_CONFIG_FILE", path)]).unwrap();
    assert_eq!(parsed.config.name, "f");
}

#[test]
fn the_corpus_breaks_no_promise() {
    let corpus =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/config_file");
    let mut seeds = 0;
    for seed in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(seed.unwrap().path()).unwrap();
        seeds += 1;
        crate::fuzz::config_file(&bytes);
        // Cut anywhere, it is still a file.
        for end in 0..bytes.len() {
            crate::fuzz::config_file(&bytes[..end]);
        }
    }
    assert!(seeds >= 5, "the corpus is nearly empty");
}

#[test]
fn gates_come_by_name_in_bulk_and_by_their_old_flags() {
    let of = |args: &[&str]| run(args).unwrap().config;
    assert!(of(&["--feature-gates=LeaseCheckpoint=true"]).lease_checkpoint_interval.is_some());
    let bulk =
        of(&["--feature-gates=AllAlpha=true,InitialCorruptCheck=false,CompactHashCheck=false"]);
    assert!(bulk.lease_checkpoint_persist && bulk.prioritizes_revocations);
    assert!(bulk.stops_grpc_on_defrag && bulk.binds_advertised_address);
    assert!(!bulk.initial_corrupt_check && !bulk.compact_hash_check_enabled);
    let is_on = |config: &server::Config, name| {
        config.features.iter().find(|f| f.name == name).unwrap().is_on
    };
    assert!(is_on(&bulk, "AllAlpha") && !is_on(&bulk, "AllBeta"));
    assert!(of(&["--experimental-stop-grpc-service-on-defrag"]).stops_grpc_on_defrag);
    assert!(of(&["--experimental-enable-lease-checkpoint"]).lease_checkpoint_interval.is_some());
    assert!(!is_on(
        &of(&["--experimental-txn-mode-write-with-shared-buffer=false"]),
        "TxnModeWriteWithSharedBuffer"
    ));
}

#[test]
fn retention_means_hours_a_duration_or_revisions() {
    use server::config::AutoCompaction::{Off, Periodic, Revision};
    use std::time::Duration;
    for (args, want) in [
        (&["--auto-compaction-retention=1"][..], Periodic(Duration::from_secs(3600))),
        (&["--auto-compaction-retention=30m"], Periodic(Duration::from_secs(1800))),
        (&["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"], Revision(1000)),
        (&["--auto-compaction-mode=revision"], Off),
        // As etcd reads it, in nanoseconds.
        (&["--auto-compaction-mode=revision", "--auto-compaction-retention=1us"], Revision(1000)),
        (&["--auto-compaction-retention="], Off),
        (&["--auto-compaction-mode="], Off),
        (&[], Off),
    ] {
        assert_eq!(run(args).unwrap().config.auto_compaction, want, "{args:?}");
    }
    assert_eq!(file("auto-compaction-retention: ''").unwrap().config.auto_compaction, Off);
    for (args, want) in [
        (
            &["--auto-compaction-retention=0x10"][..],
            "error parsing CompactionRetention: time: unknown unit \"x\" in duration \"0x10\"",
        ),
        (
            &["--auto-compaction-mode=", "--auto-compaction-retention=1"],
            "unsupported compaction mode ",
        ),
        (&["--auto-compaction-mode=", "--emulated-version=3.6"], "undefined auto-compaction-mode"),
    ] {
        assert_eq!(refused(args), want, "{args:?}");
    }
}

/// GHSA-pm3m-32r3-7mfh (TOB-011): a compaction in the future made etcd turn for ever.
#[test]
fn ghsa_pm3m_32r3_7mfh_negative_retention_compacts_nothing() {
    for mode in ["--auto-compaction-mode=revision", "--auto-compaction-mode=periodic"] {
        let off = run(&[mode, "--auto-compaction-retention=-5m"]).unwrap();
        assert_eq!(off.config.auto_compaction, server::config::AutoCompaction::Off);
        for retention in ["-1", "99999999999999999999"] {
            let why = refused(&[mode, &format!("--auto-compaction-retention={retention}")]);
            assert!(why.contains("CompactionRetention"), "{retention}: {why}");
        }
    }
}
