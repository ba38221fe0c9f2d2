//! The secrets, and in which spellings they would give themselves away.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::random::{Random, fresh_seed};

/// What a secret is, which says where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nowhere; only its hash.
    Password,
    /// Nowhere. What tokens are signed with counts as one.
    Token,
    /// In the write-ahead log: every member has to know it.
    SimpleToken,
    /// In a `.pem` file.
    PrivateKey,
    /// In the data directory.
    Key,
    /// In the data directory.
    Value,
    /// Of the URLs by which others reach the member: in the data directory, and where members are listed.
    Url,
}

/// The secrets of one run.
#[derive(Debug)]
pub(super) struct Secrets {
    pub(super) root_password: String,
    pub(super) user_password: String,
    pub(super) new_password: String,
    pub(super) wrong_password: String,
    pub(super) bad_token: String,
    pub(super) discovery: String,
    pub(super) environment: String,
    /// In the advertised URLs.
    pub(super) url: String,
    /// What tokens are signed with.
    pub(super) signing: String,
    pub(super) key: String,
    pub(super) value: String,
    /// A value that is refused.
    pub(super) refused_value: String,
    /// Those that became known later.
    found: Vec<(Kind, Vec<u8>)>,
}

impl Secrets {
    pub(super) fn fresh() -> Self {
        let mut random = Random::new(fresh_seed());
        let mut next = || {
            const LETTERS: &[u8] =
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
            (0..30).map(|_| char::from(random.pick(LETTERS))).collect::<String>()
        };
        Self {
            root_password: next(),
            user_password: next(),
            new_password: next(),
            wrong_password: next(),
            bad_token: next(),
            discovery: next(),
            environment: next(),
            url: next(),
            signing: next(),
            key: next(),
            value: next(),
            refused_value: next(),
            found: Vec::new(),
        }
    }

    /// A token that the member gave out. Of a signed one the signature is the secret: the rest is an algorithm, a name and a time. Of
    /// a simple one it is what stands before the index of its log entry.
    pub(super) fn add_token(&mut self, token: &str) {
        let parts: Vec<&str> = token.split('.').collect();
        let (kind, secret) = match parts.as_slice() {
            [random, _] => (Kind::SimpleToken, *random),
            [_, _, signature] => (Kind::Token, *signature),
            _ => (Kind::Token, token),
        };
        self.found.push((kind, secret.as_bytes().to_vec()));
    }

    /// The keys in all `.pem` files of the folder: a line of each.
    pub(super) fn add_private_keys(&mut self, folder: &Path) -> Result<()> {
        for path in super::search::files(folder)? {
            let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let text = String::from_utf8_lossy(&text);
            if let Some((_, rest)) = text.split_once("PRIVATE KEY-----\n") {
                let line = rest.lines().next().unwrap_or_default();
                self.found.push((Kind::PrivateKey, line.as_bytes().to_vec()));
            }
        }
        ensure!(self.of(Kind::PrivateKey).count() > 0, "no private key was made");
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.all().count()
    }

    /// All of them with their kinds.
    pub(super) fn all(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        let given = [
            (Kind::Password, &self.root_password),
            (Kind::Password, &self.user_password),
            (Kind::Password, &self.new_password),
            (Kind::Password, &self.wrong_password),
            (Kind::Password, &self.discovery),
            (Kind::Password, &self.environment),
            (Kind::Token, &self.bad_token),
            (Kind::Token, &self.signing),
            (Kind::Key, &self.key),
            (Kind::Value, &self.value),
            (Kind::Url, &self.url),
            // It was never stored, but it is no less a value.
            (Kind::Password, &self.refused_value),
        ];
        let given = given.into_iter().map(|(kind, text)| (kind, text.as_bytes()));
        given.chain(self.found.iter().map(|(kind, bytes)| (*kind, bytes.as_slice())))
    }

    /// Those of one kind.
    pub(super) fn of(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        self.all().filter(move |(found, _)| *found == kind).map(|(_, secret)| secret)
    }
}

/// The ways in which a secret would be printed.
pub(super) fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let list = |separator: &str| {
        let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
        numbers.join(separator).into_bytes()
    };
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut spellings = vec![secret.to_vec(), hex.into_bytes(), list(", "), list(" ")];
    // Base64 of what it may be a part of: by how many bytes it is moved in its group of three.
    for skipped in 0..3 {
        let whole = secret.get(skipped..).unwrap_or_default();
        spellings.push(base64(whole.get(..whole.len() / 3 * 3).unwrap_or_default()));
    }
    spellings
}

/// Base64 of whole groups of three bytes.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for group in bytes.chunks_exact(3) {
        let number = group.iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        text.extend([18, 12, 6, 0].map(|shift| ALPHABET[number >> shift & 63]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_these_spellings() {
        let spellings: Vec<String> = spellings(b"abcdefgh")
            .into_iter()
            .map(|spelling| String::from_utf8_lossy(&spelling).into_owned())
            .collect();
        assert_eq!(
            spellings,
            [
                "abcdefgh",
                "6162636465666768",
                "97, 98, 99, 100, 101, 102, 103, 104",
                "97 98 99 100 101 102 103 104",
                "YWJjZGVm",
                "YmNkZWZn",
                "Y2RlZmdo"
            ]
        );
    }
}
