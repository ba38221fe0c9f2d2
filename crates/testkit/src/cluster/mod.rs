//! Clusters of real processes: members of different programs in one cluster, faults, and a workload that is checked.
//!
//! - [`Kind`] says which program a member runs, and [`Cluster`] starts, stops, kills, pauses, replaces, adds and removes members;
//! - `disk` and `trace` break what a member writes to;
//! - [`proxy`] stands in front of each member's peer port and can delay, stall, drop or cut each direction of each link;
//! - [`workload`] is many clients that write down what they do ([`history`]), and [`check`] says whether that may be;
//! - [`Trial`] puts these together: load on a cluster, then quiet, then all checks;
//! - the runs: [`roll`], [`pairs`], [`snapshot`], [`learner`], [`faults`], [`failover`], [`tokens`], [`deploy`]; most of them take a [`Setup`].
//!
//! All is one thread: the members need the cores. Whatever blocks for longer than a moment is awaited, so that the clients go on.

mod address;
pub mod check;
pub mod deploy;
mod disk;
pub mod failover;
pub mod faults;
pub mod history;
mod kind;
pub mod learner;
mod members;
pub mod pairs;
pub mod proxy;
pub mod roll;
mod setup;
pub mod snapshot;
pub mod tokens;
mod trace;
mod trial;
pub mod workload;

pub use kind::Kind;
pub use members::{Cluster, Config, HashAt, Health, Node};
pub use setup::Setup;
pub use trial::Trial;
