//! The parts of the `etcd` program: flags, log lines, and finding the other members. The program itself is `main.rs`, the
//! member is [`server::Member`].

pub mod discovery;
pub mod flags;
pub mod fuzz;
pub mod log;
