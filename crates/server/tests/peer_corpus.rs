//! Replays the corpora of the fuzz targets of the peer port and the gateway on stable, and throws random bytes and changed seeds at the same functions.
#![allow(clippy::unwrap_used, reason = "in a test a failed step is the failure")]

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use server::fuzz;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 6] = [
    ("peer_message_stream", fuzz::peer_message_stream),
    ("peer_append_stream", fuzz::peer_append_stream),
    ("peer_posted", fuzz::peer_posted),
    ("peer_requests", fuzz::peer_requests),
    ("peer_answers", fuzz::peer_answers),
    ("gateway_requests", fuzz::gateway_requests),
];

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
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
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= 5, "the corpus of {name} is nearly empty");
        for (file, bytes) in seeds {
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{file}");
        }
    }
}

/// `RETCD_FUZZ_CASES` sets how many, for a longer run where there is no nightly toolchain.
fn cases() -> ProptestConfig {
    let set = std::env::var("RETCD_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: set.unwrap_or(1000),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn random_bytes_break_no_promise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (_, target) in TARGETS {
            target(&bytes);
        }
    }

    #[test]
    fn changed_seeds_break_no_promise(
        seed in any::<Index>(),
        cut in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..5),
        is_cut in any::<bool>(),
    ) {
        for (name, target) in TARGETS {
            let mut seeds = seeds(name);
            let (_, mut bytes) = seeds.swap_remove(seed.index(seeds.len()));
            let len = bytes.len().max(1);
            for (at, byte) in &changes {
                if let Some(changed) = bytes.get_mut(at.index(len)) {
                    *changed = *byte;
                }
            }
            if is_cut {
                bytes.truncate(cut.index(len));
            }
            target(&bytes);
        }
    }
}
