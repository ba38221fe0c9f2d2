//! Hostile connections, and secrets: short runs of `testkit attack` and `testkit canary`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use testkit::attack::{self, Config};
use testkit::canary;
use testkit::programs;

/// Memory stays bounded, and others are served. CVE-2026-73500 (GHSA-6vch-q96h-7gc3): silent connections on a TLS port;
/// CVE-2023-44487, CVE-2023-45288, CVE-2025-8671, CVE-2024-27316, RUSTSEC-2026-0258: floods of HTTP/2 frames.
#[test]
fn cve_2023_44487_a_member_stands_hostile_connections() {
    let config = Config {
        programs: programs::ours().unwrap(),
        connections: usize::try_from(common::number("RETCD_CONNECTIONS", 400)).unwrap(),
        filter: String::new(),
        awaits_deadlines: false,
        is_bound: true,
    };
    let mut count = 0;
    let done = common::runtime().block_on(attack::run(&config, |_| count += 1));
    done.unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(count, attack::attacks().len());
}

/// CVE-2021-28235 (GHSA-gmph-wf7j-9gcm) and GHSA-528j-9r78-wffx: passwords in what is shown, and in the log of entries.
#[test]
fn cve_2021_28235_secrets_stay_where_they_belong() {
    for (tokens, version) in canary::RUNS {
        let programs = programs::ours().unwrap();
        let report = common::runtime().block_on(canary::run(&programs, tokens, version));
        eprintln!("{}", report.unwrap_or_else(|error| panic!("{error:#}")));
    }
}
