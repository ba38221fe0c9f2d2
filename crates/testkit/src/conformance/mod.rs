//! etcd's own tests against our programs.
//!
//! Whoever wants to run them builds them from etcd's repository: a *suite* is a checkout at the tag of the version to be
//! stood for, with the test programs and the Go tools in its `bin` folder (`suite` has the names). Nothing of it is
//! part of this project, and a suite is only read: each test runs in a folder of its own that points into it.
//!
//! ```text
//!  suite ──► tests (by name) ──► run: one process for each, in its own network and process namespace ──► outcome
//!  (checkout, bin/*.test)          │  bin/etcd = ours, ETCD_EMULATED_VERSION = the suite's                  │
//!                                  ▼                                                                        ▼
//!                               logs/VERSION/PACKAGE/TEST.log                       reasons ──► report (Markdown)
//! ```
//!
//! The tests use fixed ports and leave processes behind when they fail: the namespaces are what lets two of them run
//! beside each other, and what ends whatever a test has left. They need root, `unshare` and `ip`.
//!
//! A test that does not pass needs a line in the file of reasons, and a line there needs a test that does not pass: the
//! report fails on either kind of surprise. Tests that skip themselves say why in their own words.

mod outcome;
mod reasons;
mod report;
mod run;
mod suite;

pub use outcome::{Outcome, Verdict};
pub use reasons::Reasons;
pub use report::Report;
pub use run::{Options, run};
pub use suite::{Package, Suite};
