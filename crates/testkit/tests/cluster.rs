//! Short runs with clusters of real processes; `testkit cluster …` is for long ones, and for other programs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::{Mutex, PoisonError};

use testkit::cluster::faults::Fault;
use testkit::cluster::snapshot::Way;
use testkit::cluster::{
    Kind, Setup, deploy, failover, faults, learner, pairs, roll, snapshot, tokens,
};
use testkit::{embed, programs};

/// The programs of the clusters: those that are there from the beginning, and those that join or take over.
///
/// (This is the one place that says which programs these tests mix.)
const KINDS: [&str; 2] = ["real", "ours"];

/// One cluster at a time: three members and their clients fill the cores, and elections have their time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs a test in a folder that is kept when it fails; skips it where real etcd is absent.
fn with_kinds<F: Future<Output = anyhow::Result<()>>>(
    test: &str,
    run: impl FnOnce(Setup, Kind, Kind) -> F,
) {
    if programs::real_or_skip(test).is_some() {
        let [first, second] = KINDS.map(|kind| Kind::parse(kind).unwrap());
        with_setup(|setup| run(setup, first, second));
    }
}

fn with_setup<F: Future<Output = anyhow::Result<()>>>(run: impl FnOnce(Setup) -> F) {
    if common::has_clusters_apart() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::Builder::new().prefix("retcd-cluster-").tempdir().unwrap();
    let (seed, flags) = (common::seed(), Vec::new());
    let setup = Setup { seed, flags, folder: folder.path().to_owned() };
    if let Err(error) = common::runtime().block_on(run(setup)) {
        panic!("{error:#}\nkept logs and data directories in {}", folder.keep().display());
    }
}

#[test]
fn programs_are_replaced_one_by_one_under_load() {
    with_kinds("programs_are_replaced_one_by_one_under_load", |setup, first, second| async move {
        let config = roll::Config { kinds: vec![first; 3], to: vec![second; 3], operations: 100 };
        let report = roll::run(&setup, &config).await?;
        assert_eq!((report.replaced, report.hashes), (6, 8));
        assert!(report.checked.acknowledged > 100 && report.checked.events > 100, "{report:?}");
        Ok(())
    });
}

#[test]
fn followers_and_leaders_of_all_kinds_stay_equal() {
    with_kinds(
        "followers_and_leaders_of_all_kinds_stay_equal",
        |setup, first, second| async move {
            let operations = common::number("RETCD_OPERATIONS", 2_000);
            let config = pairs::Config { leader: first, follower: second, operations };
            let report = pairs::run(&setup, &config).await?;
            assert!(report.refusals > 0 && report.last.revision > 100, "{report:?}");
            Ok(())
        },
    );
}

/// Members of newer etcd in one cluster with ours.
#[test]
fn newer_etcd_stays_equal_too() {
    if !embed::are_there_or_skip("newer_etcd_stays_equal_too") {
        return;
    }
    for version in embed::VERSIONS {
        with_setup(|setup| async move {
            let leader = Kind::parse("ours")?;
            let follower = Kind::parse(&embed::label(version))?;
            let config = pairs::Config { leader, follower, operations: 1_000 };
            let report = pairs::run(&setup, &config).await?;
            assert!(report.refusals > 0 && report.last.revision > 100, "{report:?}");
            Ok(())
        });
    }
}

#[test]
fn a_member_too_far_behind_catches_up_by_snapshot() {
    with_kinds(
        "a_member_too_far_behind_catches_up_by_snapshot",
        |setup, first, second| async move {
            let report = snapshot::run(&setup, &first, &second, Way::ALL).await?;
            assert!(report.snapshots >= 3, "{report:?}");
            Ok(())
        },
    );
}

#[test]
fn learners_join_and_take_over() {
    with_kinds("learners_join_and_take_over", |setup, first, second| async move {
        assert_eq!(learner::run(&setup, &first, &second).await?.replaced, 2);
        Ok(())
    });
}

#[test]
fn users_are_the_same_at_all_members() {
    with_kinds("users_are_the_same_at_all_members", |setup, first, second| async move {
        let kinds = vec![first, second.clone(), second];
        let report = tokens::run(&setup, kinds).await?;
        assert_eq!((report.allowed, report.refused), (15, 27));
        Ok(())
    });
}

#[test]
fn a_leaders_death_is_soon_overcome() {
    with_setup(|setup| async move {
        let kinds = vec![Kind::parse("ours")?; 3];
        let report = failover::run(&setup, &kinds, 3).await?;
        eprintln!("{report:?}");
        report.check()
    });
}

#[test]
fn faults_lose_nothing_acknowledged() {
    with_kinds("faults_lose_nothing_acknowledged", |setup, first, second| async move {
        let config = faults::Config {
            cycles: common::number("RETCD_CYCLES", 4),
            kinds: vec![second.clone(), first, second],
            faults: faults::possible_or_skip(Fault::ALL).await?,
            is_verbose: true,
        };
        let report = faults::run(&setup, &config).await?;
        assert!(report.checked.acknowledged > 0, "{report:?}");
        Ok(())
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
    if common::has_clusters_apart() {
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
