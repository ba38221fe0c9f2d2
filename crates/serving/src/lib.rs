//! What members and the gRPC proxy do alike for those who connect to them.
//!
//! - [`Gathered`], a connection that writes when everybody had a turn, and on which the policy on pings ([`Pings`]) is kept.
//! - [`profile`], what is at `/debug/pprof/`.
//!
//! Nothing here knows what is served, accepts a connection or reads a certificate.

mod gathered;
mod pings;
pub mod profile;

pub use gathered::Gathered;
pub use pings::Pings;
