//! Warns when the process is about to have as many files and connections open as it may.
//!
//! Upstream: `monitorFileDescriptor` of server/etcdserver/metrics.go.

use std::io;
use std::time::Duration;

use crate::metrics;

/// As etcd: counting takes a moment where there are many.
const INTERVAL: Duration = Duration::from_secs(600);

/// Counts at once, then now and then, until it is dropped or cannot count.
pub(crate) async fn watch() {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        if !tell(metrics::open_descriptors(), metrics::descriptor_limit()) {
            return;
        }
    }
}

/// Warns if four fifths are in use; `false` if that cannot be told.
fn tell(used: io::Result<u64>, limit: io::Result<u64>) -> bool {
    let used = used
        .inspect_err(|error| tracing::warn!(error = %error, "failed to get file descriptor usage"));
    let Ok(used) = used else { return false };
    let limit = limit
        .inspect_err(|error| tracing::warn!(error = %error, "failed to get file descriptor limit"));
    let Ok(limit) = limit else { return false };
    if used >= limit / 5 * 4 {
        tracing::warn!(used, limit, "80% of file descriptors are used");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::lines::Lines;

    #[test]
    fn four_fifths_are_told() {
        let (lines, _told) = Lines::gather();
        let told =
            || lines.with(&["WARN", "used=800 limit=1000", "80% of file descriptors are used"]);
        for (used, limit) in [(799, 1000), (5, u64::MAX)] {
            assert!(tell(Ok(used), Ok(limit)));
            assert_eq!(lines.with(&[]), 0, "{used} of {limit}");
        }
        assert!(tell(Ok(800), Ok(1000)));
        assert_eq!(told(), 1);
        assert!(!tell(Ok(800), Err(io::ErrorKind::PermissionDenied.into())));
        assert_eq!(lines.with(&["WARN", "failed to get file descriptor limit"]), 1);
        assert!(!tell(Err(io::ErrorKind::PermissionDenied.into()), Ok(1000)));
        assert_eq!(lines.with(&["WARN", "failed to get file descriptor usage"]), 1);
    }

    #[test]
    fn this_process_has_some_open_and_may_have_more() {
        let used = metrics::open_descriptors().unwrap();
        assert!(used >= 3 && used <= metrics::descriptor_limit().unwrap(), "{used}");
    }
}
