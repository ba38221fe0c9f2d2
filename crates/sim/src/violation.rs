//! Promises that were broken.

use std::any::Any;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub check: &'static str,
    /// How.
    pub detail: String,
}

impl Violation {
    /// A panic of what is under test is a violation like any other.
    pub(crate) fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Self { check: "no panic", detail: text.unwrap_or_default() }
    }
}

/// Makes a violation the result.
pub(crate) fn broken<T>(check: &'static str, detail: String) -> Result<T, Violation> {
    Err(Violation { check, detail })
}
