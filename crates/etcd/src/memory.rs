//! What the process asks of the kernel for its memory.
//!
//! Both calls are for the whole process, and belong before its threads.

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};

/// Asks for small pages only.
///
/// The allocator spreads small objects over its arenas, and with huge pages the first byte in each two megabytes takes them all: a
/// member without data then has twice the memory of one with small pages, at the same speed (`docs/benchmarks.md`).
pub fn use_small_pages() {
    #[cfg(target_os = "linux")]
    // A kernel that does not know the call has no such pages, or gives them: both will do.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Keeps all memory of the process from being swapped out (`--memory-mlock`), what it will use later too.
///
/// What has only been reserved is locked when it is used, not made real by this: the allocator and the threads' stacks reserve
/// gigabytes.
///
/// # Errors
///
/// As `mlockall(2)`: most often the limit on locked memory.
pub fn lock() -> io::Result<()> {
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Ok(mlockall(all)?)
}
