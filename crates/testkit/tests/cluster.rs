//! Short runs with clusters of real processes; `testkit cluster …` is for long ones, and for other programs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use testkit::cluster::faults::Fault;
use testkit::cluster::{Kind, deploy, faults, learner, pairs, roll, snapshot};
use testkit::programs;

/// The programs of the clusters: those that are there from the beginning, and those that join or take over.
///
/// (This is the one place that says which programs these tests mix.)
const KINDS: [&str; 2] = ["real", "ours"];

/// One cluster at a time: three members and their clients fill the cores, and elections have their time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test in a folder that is kept when it fails; skips it where real etcd is absent.
fn with_kinds<F: Future<Output = anyhow::Result<()>>>(
    test: &str,
    run: impl FnOnce(u64, Kind, Kind, &Path) -> F,
) {
    if programs::real_or_skip(test).is_none() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let [first, second] = KINDS.map(|kind| Kind::parse(kind).unwrap());
    let folder = tempfile::Builder::new().prefix("retcd-cluster-").tempdir().unwrap();
    let result = common::runtime().block_on(run(common::seed(), first, second, folder.path()));
    if let Err(error) = result {
        panic!("{error:#}\nkept logs and data directories in {}", folder.keep().display());
    }
}

#[test]
fn programs_are_replaced_one_by_one_under_load() {
    with_kinds("programs_are_replaced_one_by_one_under_load", |seed, first, second, folder| {
        let config = roll::Config {
            seed,
            kinds: vec![first; 3],
            to: vec![second; 3],
            flags: Vec::new(),
            operations: 100,
            folder: folder.to_owned(),
        };
        async move {
            let report = roll::run(&config).await?;
            assert_eq!((report.replaced, report.hashes), (6, 8));
            assert!(report.checked.acknowledged > 100 && report.checked.events > 100, "{report:?}");
            Ok(())
        }
    });
}

#[test]
fn followers_and_leaders_of_all_kinds_stay_equal() {
    with_kinds("followers_and_leaders_of_all_kinds_stay_equal", |seed, first, second, folder| {
        let config = pairs::Config {
            seed,
            leader: first,
            follower: second,
            operations: common::number("RETCD_OPERATIONS", 2_000),
            flags: Vec::new(),
            folder: folder.to_owned(),
        };
        async move {
            let report = pairs::run(&config).await?;
            assert!(report.refusals > 0 && report.last.revision > 100, "{report:?}");
            Ok(())
        }
    });
}

#[test]
fn a_member_too_far_behind_catches_up_by_snapshot() {
    with_kinds("a_member_too_far_behind_catches_up_by_snapshot", |seed, first, second, folder| {
        let (flags, folder) = (Vec::new(), folder.to_owned());
        let config = snapshot::Config { seed, sender: first, receiver: second, flags, folder };
        async move {
            let report = snapshot::run(&config).await?;
            assert!(report.snapshots >= 3, "{report:?}");
            Ok(())
        }
    });
}

#[test]
fn learners_join_and_take_over() {
    with_kinds("learners_join_and_take_over", |seed, first, second, folder| {
        let (flags, folder) = (Vec::new(), folder.to_owned());
        let config = learner::Config { seed, members: first, learner: second, flags, folder };
        async move {
            assert_eq!(learner::run(&config).await?.replaced, 2);
            Ok(())
        }
    });
}

#[test]
fn faults_lose_nothing_acknowledged() {
    with_kinds("faults_lose_nothing_acknowledged", |seed, first, second, folder| {
        let config = faults::Config {
            seed,
            cycles: common::number("RETCD_CYCLES", 4),
            kinds: vec![second.clone(), first, second],
            faults: Fault::ALL.to_vec(),
            flags: Vec::new(),
            folder: folder.to_owned(),
            is_verbose: true,
        };
        async move {
            let report = faults::run(&config).await?;
            assert!(report.checked.acknowledged > 0, "{report:?}");
            Ok(())
        }
    });
}

/// Needs root, for network namespaces.
#[test]
fn the_documented_deployment_works() {
    let name = "the_documented_deployment_works";
    let Some(real) = programs::real_or_skip(name) else { return };
    if !deploy::is_available() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{name}: no network namespaces");
        eprintln!("{name}: skipped: network namespaces absent (they need root)");
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("retcd-deploy-").tempdir().unwrap();
    let [_, ours] = KINDS.map(|kind| Kind::parse(kind).unwrap());
    for scheme in [deploy::Scheme::Http, deploy::Scheme::Https] {
        let config = deploy::Config {
            kinds: vec![ours.clone(); 3],
            scheme,
            etcdctl: real.etcdctl.clone(),
            folder: folder.path().join(scheme.name()),
        };
        if let Err(error) = deploy::run(&config) {
            panic!("{}: {error:#}\nkept logs in {}", scheme.name(), folder.keep().display());
        }
    }
}
