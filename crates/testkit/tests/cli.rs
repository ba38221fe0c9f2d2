//! Debian's etcdctl gets the same outputs from our server as from real etcd, and our etcdctl prints what Debian's prints.
//!
//! `cargo run --release -p testkit -- cli` runs the same, and shows the transcripts with `--show`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use testkit::cli::{self, Side};
use testkit::programs::{self, Programs};

fn check(left: Side<'_>, right: Side<'_>, reference: &Programs) {
    let scripts = cli::scripts("").unwrap();
    let report = cli::compare(&scripts, left, right, reference.etcdutl.as_deref()).unwrap();
    assert!(report.steps > 200, "only {} steps ran", report.steps);
    assert!(report.differences.is_empty(), "{}", report.differences.join("\n"));
}

#[test]
fn etcdctl_3_5_sees_no_difference_between_our_server_and_real_etcd() {
    let Some(real) = programs::real_or_skip("etcdctl_3_5_sees_no_difference") else { return };
    let ours = programs::ours().unwrap();
    let left = Side { label: &real.label, etcd: &real.etcd, etcdctl: &real.etcdctl };
    check(left, Side { label: &ours.label, etcd: &ours.etcd, ..left }, &real);
}

#[test]
fn our_etcdctl_prints_what_etcdctl_3_5_prints() {
    let Some(real) = programs::real_or_skip("our_etcdctl_prints_what_etcdctl_3_5_prints") else {
        return;
    };
    let ours = programs::ours().unwrap();
    let left = Side { label: &real.label, etcd: &real.etcd, etcdctl: &real.etcdctl };
    check(left, Side { label: "our etcdctl", etcdctl: &ours.etcdctl, ..left }, &real);
}
