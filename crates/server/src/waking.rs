//! Waking callers, who are tasks, from a thread that is none of their executor's.

use tokio::runtime::Handle;

/// So many are told by whoever has their answers.
const TOLD_HERE_MAX: usize = 2;

/// Tells callers what they wait for: a few here and now, more by one task of their executor. To wake a task from another thread
/// takes a lock and often a system call; from within it takes neither, and what wakes together is answered with fewer writes.
pub(crate) fn tell(callers: usize, executor: &Handle, tell: impl FnOnce() + Send + 'static) {
    if callers > TOLD_HERE_MAX {
        executor.spawn(async move { tell() });
    } else {
        tell();
    }
}
