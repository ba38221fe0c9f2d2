//! What members and the gRPC proxy do alike for those who connect to them.
//!
//! - [`Gathered`], a connection that writes when everybody had a turn, and on which the policy on pings ([`Pings`]) is kept.
//! - [`is_call`], what a call of gRPC is told by.
//! - [`bind_error`], what is said of an address that cannot be had.
//! - [`profile`], what is at `/debug/pprof/`.
//!
//! Nothing here knows what is served, accepts a connection or reads a certificate.

mod bound;
mod calls;
mod gathered;
mod pings;
pub mod profile;

pub use bound::bind_error;
pub use calls::{is_call, says_call};
pub use gathered::Gathered;
pub use pings::Pings;
