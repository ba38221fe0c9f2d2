//! A whole member on a simulated disk: the production code from the log to the rows, driven by one loop that a seed steers.
//!
//! [`Solo`] stands where the server's threads stand, and does the same things in the same order; what the threads leave to
//! chance (when a commit is taken, when it runs, when a compaction goes on) is for its caller to decide. [`workload`]
//! decides it from a seed, records every operation on the disk, and notes what was acknowledged when. [`Model`] says what
//! must be there, and shares no code with the member. [`crash`] opens what a power cut left, and compares. [`cluster`] puts
//! whole groups of replicas on simulated networks, disks and clocks; [`server`] does so with whole members, their clients
//! and their operators.
//!
//! Invariants
//! - the same seed gives the same journal, byte for byte;
//! - nothing here is used by the server, and nothing of the server is used here.

pub mod cluster;
pub mod crash;
pub mod fuzz;
mod marks;
mod model;
mod net;
mod queue;
mod rng;
pub mod server;
mod solo;
mod trace;
mod violation;
pub mod workload;

pub use model::{Model, ModelEvent, Told};
pub use solo::{Failure, Plant, Settings, Solo};
