use std::fmt::Write as _;

use super::*;

/// The whole table, one line an error: code in 3.5, code in 3.6 where it differs, text.
/// `UPDATE_GOLDEN=1` writes it anew.
#[test]
fn table() {
    let mut table = String::new();
    for error in Error::ALL {
        let old = format!("{:?}", error.code(5));
        let new = format!("{:?}", error.code(6));
        let codes = if old == new { old } else { format!("{old}/{new}") };
        writeln!(table, "{:<32} {codes:<31} {}", error.name(), error.message()).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/errors.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(path).unwrap());
}

#[test]
fn texts_tell_errors_apart() {
    for &error in Error::ALL {
        assert_eq!(Error::from_message(error.message()), Some(error));
    }
    assert_eq!(Error::from_message("etcdserver: no such text"), None);
}

#[test]
fn status_has_the_codes_of_the_emulated_version() {
    assert_eq!(Status::from(Error::NotSupportedForLearner).code(), Code::Unavailable);
    assert_eq!(Error::NotSupportedForLearner.status(6).code(), Code::FailedPrecondition);
    // Declared ResourceExhausted by etcd, sent as Unknown by every version.
    assert_eq!(Error::RequestTooManyRequests.status(7).code(), Code::Unknown);
    assert_eq!(
        Error::Compacted.status(5).message(),
        "etcdserver: mvcc: required revision has been compacted"
    );
}
