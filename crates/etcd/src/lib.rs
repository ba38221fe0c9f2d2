//! The parts of the `etcd` program: flags, log lines, finding the other members, and what is asked of the kernel
//! ([`memory`], [`descriptors`]). The program itself is `main.rs`, the member is [`server::Member`]. [`gateway`] and [`grpc_proxy`] are
//! the programs inside it.

pub mod descriptors;
pub mod discovery;
pub mod flags;
pub mod fuzz;
pub mod gateway;
pub mod grpc_proxy;
pub mod log;
pub mod memory;
mod pflag;
