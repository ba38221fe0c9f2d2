//! Replays the corpus of the fuzz target `requests` on stable, and throws random and changed requests at it.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use std::path::Path;

use proptest::prelude::*;
use sim::fuzz::{self, UNCHECKED};

/// As many as a first byte can choose from.
const VERSIONS: u8 = 3;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/requests");
    let files = std::fs::read_dir(folder).unwrap();
    let mut seeds: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), std::fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

#[test]
fn the_corpus_breaks_no_promise() {
    assert_eq!(fuzz::VERSIONS.len(), usize::from(VERSIONS));
    let seeds = corpus();
    let mut revisions = 0;
    for (name, mut bytes) in seeds {
        for version in 0..VERSIONS {
            bytes[0] = version;
            let outcome = std::panic::catch_unwind(|| fuzz::requests(&bytes));
            assert!(outcome.is_ok(), "{name} with version {version}");
            revisions += outcome.unwrap() - 1;
        }
    }
    // A corpus that the checks turn away would try nothing.
    assert!(revisions >= 60, "all seeds together made {revisions} revisions");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_messages_break_no_promise(
        version in 0..VERSIONS,
        messages in prop::collection::vec((0..10_u8, any::<bool>(), prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut list = vec![version];
        for (kind, is_checked, message) in messages {
            fuzz::push_request(&mut list, if is_checked { kind } else { kind | UNCHECKED }, &message);
        }
        fuzz::requests(&list);
    }

    #[test]
    fn changed_requests_break_no_promise(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut seeds = corpus();
        let (_, mut bytes) = seeds.swap_remove(seed.index(seeds.len()));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzz::requests(&bytes);
    }
}
