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
    assert_eq!(parsed.notices, [Notice::DataDirDefault { path: "default.etcd".to_owned() }]);
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
        let stopped = stop(&["--emulated-version", text]);
        assert!(
            matches!(&stopped, Stop::Refused(why) if why.contains("3.5, 3.6 and 3.7")),
            "{text}"
        );
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
    ] {
        assert_eq!(stop(args), Stop::Usage(want.to_owned()), "{args:?}");
    }
}

#[test]
fn semantic_errors_have_etcds_texts() {
    for (args, want) in [
        (&["version"][..], "'version' is not a valid flag"),
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
        (
            &["--name", "y", "--initial-cluster", "x=http://127.0.0.1:2380"],
            "couldn't find local name \"y\" in the initial cluster configuration",
        ),
    ] {
        assert_eq!(stop(args), Stop::Refused(want.to_owned()), "{args:?}");
    }
}

#[test]
fn version_and_help_win() {
    assert_eq!(stop(&["--log-level=bogus", "--version"]), Stop::Version);
    assert_eq!(stop(&["-h"]), Stop::Help);
}

#[test]
fn a_flag_that_is_not_served_is_refused_by_name_but_taken_at_its_default() {
    let Stop::Refused(why) = stop(&["--auth-token=jwt"]) else { panic!("not refused") };
    assert!(why.contains("--auth-token=jwt") && why.contains("not serve"), "{why}");
    assert!(
        run(&[
            "--client-cert-auth=false",
            "--cert-file=",
            "--metrics=basic",
            "--auth-token-ttl=0x12c"
        ])
        .is_ok()
    );
    let Stop::Refused(why) = stop(&["--experimental-initial-corrupt-check"]) else {
        panic!("not refused")
    };
    assert!(why.contains("experimental-initial-corrupt-check"), "{why}");
    assert!(
        run(&["--experimental-compaction-batch-limit=10"]).unwrap().config.compaction_batch_limit
            == 10
    );
    assert!(run(&["--snapshot"]).is_ok());
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
        (&["--cert-file=c"][..], "KeyFile and CertFile must both be present[key: , cert: c]"),
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
        assert_eq!(stop(args), Stop::Refused(why.to_owned()), "{args:?}");
    }
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
    let Err(Stop::Refused(why)) = run_with(&["--name=a"], &[("ETCD_NAME", "a")]) else {
        panic!("not refused")
    };
    assert!(why.contains("ETCD_NAME"), "{why}");
    let Err(Stop::Refused(why)) = run_with(&[], &[("ETCD_HEARTBEAT_INTERVAL", "abc")]) else {
        panic!("not refused")
    };
    assert_eq!(why, "invalid value \"abc\" for ETCD_HEARTBEAT_INTERVAL: parse error");
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
        (&[], Off),
    ] {
        assert_eq!(run(args).unwrap().config.auto_compaction, want, "{args:?}");
    }
}
