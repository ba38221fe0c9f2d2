//! Who asks.

/// Who asks, and as of which auth revision that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller<'a> {
    /// The user's name; empty when nobody said it.
    pub user: &'a str,
    /// The auth revision at which the name was vouched for; 0 when nobody did.
    pub revision: u64,
}

impl Caller<'_> {
    /// Somebody without a name.
    pub const NOBODY: Caller<'static> = Caller { user: "", revision: 0 };
}
