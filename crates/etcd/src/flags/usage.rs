//! `--help`: the usage that goes with an error, and the list of flags.

use std::fmt::Write as _;

use super::gates::{GATES, Stage};
use super::table::{ALIASES, FLAGS, Service};

/// Printed to stderr with an error of usage, and with `--help`.
pub const USAGE: &str = "Usage:

  etcd [flags]
    Start a member.

  etcd --version
    Print the version.

  etcd -h | --help
    Print this, and every flag.

  etcd --config-file FILE
    Start a member as the file says; other flags and the environment are ignored.

  etcd gateway
  etcd grpc-proxy
    Run a proxy.
";

/// Precedes the list of flags.
const LONG_HELP_HEADER: &str =
    "Flags (each has an environment variable: --data-dir is ETCD_DATA_DIR):\n";

/// Every flag with its default; the ones not served yet come last, under their own title.
#[must_use]
pub fn long_help() -> String {
    let mut text = String::from(LONG_HELP_HEADER);
    let mut list = |title: &str, service: Service| {
        let _ = writeln!(text, "\n{title}:\n");
        for flag in FLAGS.iter().filter(|flag| flag.service == service) {
            let versions = match (flag.since, flag.until) {
                (5, 7) => String::new(),
                (since, until) if since == until => format!(" (3.{since})"),
                (since, until) => format!(" (3.{since} to 3.{until})"),
            };
            let (name, default, help) = (flag.name, flag.default, flag.help);
            let _ = writeln!(text, "  --{name} '{default}'{versions}\n    {help}");
        }
    };
    list("Served", Service::Yes);
    list("Accepted and ignored", Service::Ignored);
    list("Flags of etcd that are not there yet (accepted at their default only)", Service::Later);
    let _ = writeln!(text, "\nFeature gates, for --feature-gates A=true,B=false:\n");
    for gate in GATES {
        let stage = match gate.stage {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        };
        let _ = writeln!(text, "  {}=true|false ({stage} - default={})", gate.name, gate.default);
    }
    let _ = writeln!(text, "\nOld names of flags above:\n");
    for alias in ALIASES {
        let _ = writeln!(text, "  --{} (3.{} to 3.6): --{}", alias.old, alias.since, alias.new);
    }
    text
}
