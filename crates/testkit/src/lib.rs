//! Tests that need real processes: ours beside real etcd, on loopback, with real files and real kill -9.
//!
//! - [`programs`] finds the programs under test and fetches Debian's etcd;
//! - [`embed`] builds members of newer etcd;
//! - [`member`] starts, waits for and stops one server process;
//! - [`cli`] runs golden scripts of etcdctl commands and compares transcripts;
//! - [`api`] speaks to a server directly;
//! - [`differential`] sends random operations to two servers, lets them exchange data directories, and compares;
//! - [`cluster`] runs clusters of real processes, mixed and under faults, with load that is checked;
//! - [`crash`] kills a member under load, again and again, and checks that nothing acknowledged is lost;
//! - [`attack`] holds hostile connections to a member, while a well-behaved client goes on;
//! - [`canary`] gives a member secrets, and looks for them where they do not belong;
//! - [`fixtures`] serves directories that real etcd wrote;
//! - [`conformance`] runs etcd's own tests, built by whoever has them;
//! - [`state`] reads all that a server shows.
//!
//! Every run is also a subcommand of the program `testkit`, for longer runs than a test has time for; `docs/testing.md`
//! has the commands.

pub mod api;
pub mod attack;
pub mod canary;
pub mod cli;
pub mod cluster;
pub mod conformance;
pub mod crash;
pub mod differential;
pub mod embed;
pub mod fixtures;
pub mod member;
mod process;
pub mod programs;
pub mod random;
pub mod state;
mod text;
