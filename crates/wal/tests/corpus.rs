//! Replays the fuzz corpus (`fuzz/corpus` of the workspace) on stable, and throws random bytes at the same functions.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use std::path::Path;

use proptest::prelude::*;
use wal::fuzz;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 4] = [
    ("wal_segment", fuzz::wal_segment),
    ("wal_damage", fuzz::wal_damage),
    ("wal_records", fuzz::wal_records),
    ("snap_file", fuzz::snap_file),
];

#[test]
fn the_corpus_breaks_no_promise() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let mut count = 0;
        for file in std::fs::read_dir(corpus.join(name)).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "the corpus of {name} is empty");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_break_no_promise(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for (_, target) in TARGETS {
            target(&bytes);
        }
    }

    #[test]
    fn changed_seeds_break_no_promise(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..4)) {
        let mut bytes = fuzz::wal_records_seed();
        for (at, byte) in changes {
            let len = bytes.len();
            bytes[at % len] = byte;
        }
        fuzz::wal_records(&bytes);
    }
}
