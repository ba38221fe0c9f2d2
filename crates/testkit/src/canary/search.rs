//! Places that are looked through.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::secrets::{Kind, Secrets, spellings};

/// How much of a place is shown before a secret that was found there.
const CONTEXT_BYTES: usize = 200;

/// One place.
#[derive(Debug)]
pub(super) struct Haystack {
    pub(super) name: String,
    content: Vec<u8>,
}

impl Haystack {
    pub(super) fn new(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), content: content.into() }
    }

    pub(super) fn file(name: &str, path: &Path) -> Result<Self> {
        let mut content =
            std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        // Room that was reserved.
        content.truncate(content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        Ok(Self::new(name, content))
    }

    /// All files of a folder, by their paths.
    pub(super) fn folder(folder: &Path) -> Result<Vec<Self>> {
        files(folder)?.iter().map(|path| Self::file(&path.display().to_string(), path)).collect()
    }

    /// The lines that hold one of these, under a name of their own, and the others.
    pub(super) fn split(self, name: &str, within: &[&str]) -> [Self; 2] {
        let (mut those, mut others) = (Vec::new(), Vec::new());
        for line in self.content.split_inclusive(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            let is_one = within.iter().any(|part| text.contains(part));
            let lines = if is_one { &mut those } else { &mut others };
            lines.extend_from_slice(line);
        }
        [Self::new(name, those), Self::new(self.name, others)]
    }

    pub(super) fn len(&self) -> usize {
        self.content.len()
    }

    pub(super) fn contains(&self, needle: &[u8]) -> bool {
        self.find(needle).is_some()
    }

    fn find(&self, needle: &[u8]) -> Option<usize> {
        let (&first, rest) = needle.split_first()?;
        let mut from = 0;
        while let Some(at) = self.content.get(from..)?.iter().position(|byte| *byte == first) {
            let next = from + at + 1;
            if self.content.get(next..).is_some_and(|tail| tail.starts_with(rest)) {
                return Some(next - 1);
            }
            from = next;
        }
        None
    }

    /// No secret of the kinds that do not belong here is here.
    pub(super) fn check(&self, secrets: &Secrets, is_foreign: impl Fn(Kind) -> bool) -> Result<()> {
        for (kind, secret) in secrets.all().filter(|(kind, _)| is_foreign(*kind)) {
            for spelling in spellings(secret) {
                if let Some(at) = self.find(&spelling) {
                    let end = at + spelling.len();
                    let shown = &self.content[at.saturating_sub(CONTEXT_BYTES)..end];
                    bail!("a {kind:?} in {}: …{}", self.name, String::from_utf8_lossy(shown));
                }
            }
        }
        Ok(())
    }
}

/// All files below a folder.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_wherever_it_is() {
        let place = Haystack::new("here", "aabaabc");
        for (needle, expected) in [("aab", true), ("aabc", true), ("abc", true), ("bb", false)] {
            assert_eq!(place.contains(needle.as_bytes()), expected, "{needle}");
        }
        let secrets = Secrets::fresh();
        let all = |_| true;
        assert!(place.check(&secrets, all).is_ok());
        let printed =
            Haystack::new("here", format!("password: {:?}", secrets.root_password.as_bytes()));
        assert!(printed.check(&secrets, all).is_err());
    }
}
