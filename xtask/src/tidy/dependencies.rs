//! Dependencies: licence, source, bans, and one version of each.

use std::collections::BTreeMap;

use super::licence;
use crate::metadata::{Metadata, Package};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Crates that must not get in, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "TLS is rustls; a system library would have to be installed"),
    ("openssl-sys", "TLS is rustls; a system library would have to be installed"),
    ("native-tls", "TLS is rustls"),
    ("protobuf-src", "messages are compiled by protox; a build needs no protoc"),
    ("failure", "unmaintained"),
];

/// Crates that are there in two versions, and why. A line that is not needed any more is a complaint too.
const DUPLICATES: &[(&str, &str)] = &[
    ("base64", "tonic stays with 0.22"),
    (
        "getrandom",
        "ring, which rcgen and rustls could use and do not, stays with 0.2: locked, never built",
    ),
    ("hashbrown", "petgraph (code generation only) is behind indexmap"),
    ("itertools", "prost-derive and prost-build move apart"),
    ("logos", "protox-parse and prost-reflect (code generation only) move apart"),
    ("logos-codegen", "as logos"),
    ("logos-derive", "as logos"),
    ("pem", "jsonwebtoken is ahead of rcgen"),
    ("rand_core", "signature, under jsonwebtoken, stays with 0.6"),
    ("syn", "derive macros move to 3 one by one; build time only"),
    ("synstructure", "derive macros of asn1-rs stay with 0.13; build time only"),
    ("untrusted", "aws-lc-rs and rustls-webpki move apart"),
    ("unicode-width", "miette (code generation only) stays with 0.1"),
];

pub(super) fn check(metadata: &Metadata, complaints: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata.reachable() {
        versions.entry(&package.name).or_default().push(&package.version);
        check_package(package, complaints);
    }
    for (name, versions) in &versions {
        let is_known = DUPLICATES.iter().any(|(known, _)| known == name);
        if versions.len() > 1 && !is_known {
            complaints.push(format!("{name} is there in versions {}", versions.join(", ")));
        }
    }
    for (name, _) in DUPLICATES {
        if versions.get(name).is_none_or(|versions| versions.len() < 2) {
            complaints.push(format!(
                "{name} is not there twice any more: take it off the list of duplicates"
            ));
        }
    }
}

fn check_package(package: &Package, complaints: &mut Vec<String>) {
    let name = format!("{} {}", package.name, package.version);
    match package.license.as_deref() {
        Some(expression) if licence::is_allowed(expression) => {}
        Some(expression) => {
            complaints.push(format!("{name}: licence {expression:?} is not on the list"))
        }
        None => complaints.push(format!("{name} names no licence")),
    }
    // Our own crates come from paths.
    if let Some(source) = &package.source
        && source != CRATES_IO
    {
        complaints.push(format!("{name} comes from {source}, not from crates.io"));
    }
    if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == package.name) {
        complaints.push(format!("{name} is banned: {reason}"));
    }
}
