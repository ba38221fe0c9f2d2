//! Counts that the environment can raise: the defaults are short, for a newcomer's `cargo test`.

/// A number from the environment.
#[allow(dead_code, reason = "not every test counts")]
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// A seed: the environment's, or a fixed one, so that an ordinary run never fails by chance.
#[allow(dead_code, reason = "not every test is random")]
pub(crate) fn seed() -> u64 {
    let seed = number("RETCD_SEED", 1);
    eprintln!("seed {seed} (RETCD_SEED sets another)");
    seed
}

/// Whether tests with whole clusters are left to whoever runs `testkit cluster` himself, at full counts (`RETCD_CLUSTERS=apart`).
#[allow(dead_code, reason = "not every test has clusters")]
pub(crate) fn has_clusters_apart() -> bool {
    let is_apart = std::env::var("RETCD_CLUSTERS").as_deref() == Ok("apart");
    if is_apart {
        eprintln!("RETCD_CLUSTERS=apart: left to `testkit cluster`");
    }
    is_apart
}

/// A runtime of one thread: the servers need the cores.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
