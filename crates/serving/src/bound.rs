//! What is said of an address that cannot be had.

use std::io;

/// Why nobody can be listened for there, in Go's words: those are what people and scripts look for.
#[must_use]
pub fn bind_error(error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::AddrInUse, "bind: address already in use"),
        (io::ErrorKind::AddrNotAvailable, "bind: cannot assign requested address"),
        (io::ErrorKind::PermissionDenied, "bind: permission denied"),
    ];
    let found = known.iter().find(|(kind, _)| *kind == error.kind());
    found.map_or_else(|| error.to_string(), |(_, text)| (*text).to_owned())
}
