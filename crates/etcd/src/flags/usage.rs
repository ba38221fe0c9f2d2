//! `--help`: the usage that goes with an error, and the list of flags.

use std::fmt::Write as _;

use super::table::{FLAGS, Service};

/// Printed to stderr with an error of usage, and with `--help`.
pub(crate) const USAGE: &str = "Usage:

  etcd [flags]
    Start a member.

  etcd --version
    Print the version.

  etcd -h | --help
    Print this, and every flag.
";

/// Precedes the list of flags.
const LONG_HELP_HEADER: &str =
    "Flags (each has an environment variable: --data-dir is ETCD_DATA_DIR):\n";

/// Every flag with its default; the ones not served yet come last, under their own title.
pub(crate) fn long_help() -> String {
    let mut text = String::from(LONG_HELP_HEADER);
    let mut list = |title: &str, service: Service| {
        let _ = writeln!(text, "\n{title}:\n");
        for flag in FLAGS.iter().filter(|flag| flag.service == service) {
            let _ = writeln!(text, "  --{} '{}'\n    {}", flag.name, flag.default, flag.help);
        }
    };
    list("Served", Service::Yes);
    list("Accepted and ignored", Service::Ignored);
    list("Flags of etcd that are not there yet (accepted at their default only)", Service::Later);
    text
}
