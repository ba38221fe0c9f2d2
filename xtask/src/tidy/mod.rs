//! What the compiler does not check: licences, sources and versions of dependencies, and the shape of our own files.
//!
//! Needs no other binary. `deny.toml` says the same to cargo-deny, which adds advisories where it is at hand.

mod advisories;
mod dependencies;
mod files;
mod licence;

use std::path::Path;

use anyhow::{Result, bail};

use crate::metadata::Metadata;

/// Fails with a list of everything that is untidy.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = Metadata::read(root)?;
    let mut complaints = Vec::new();
    dependencies::check(&metadata, &mut complaints);
    files::check(root, &metadata, &mut complaints)?;
    advisories::check(root, &mut complaints)?;
    if !complaints.is_empty() {
        bail!("tidy:\n  {}", complaints.join("\n  "));
    }
    Ok(())
}
