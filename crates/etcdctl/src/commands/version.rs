//! `etcdctl version`.

use crate::terminal;

/// The etcd release whose behaviour this program has.
pub(crate) const VERSION: &str = "3.5.30";

/// Version of the API it speaks.
pub(crate) const API_VERSION: &str = "3.5";

pub(crate) fn version() {
    terminal::out_line(&format!("etcdctl version: {VERSION}"));
    terminal::out_line(&format!("API version: {API_VERSION}"));
}
