//! Passwords: made into hashes, and compared with them. Both are slow on purpose.

use std::sync::Arc;

use auth::Login;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::Semaphore;

/// bcrypt takes no more of a password; etcd refuses what it would not look at.
const PASSWORD_BYTES_MAX: usize = 72;

/// What `--bcrypt-cost` may be: the hash takes 2^cost rounds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// etcd's cost where none, or an impossible one, is asked for.
const COST_DEFAULT: u32 = 10;

/// Why there is no hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Longer than bcrypt looks at.
    #[error("bcrypt: password length exceeds {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// The hash cannot be made: no randomness, or the member stops.
    #[error("the password cannot be hashed")]
    Failed,
}

/// Hashes on threads that may block, at most one for each core, so that logins do not take them all from others.
#[derive(Debug)]
pub(crate) struct Passwords {
    cost: u32,
    vacancies: Arc<Semaphore>,
}

impl Passwords {
    pub(crate) fn new(cost: u32) -> Self {
        let is_possible = COSTS.contains(&cost);
        if !is_possible {
            tracing::warn!(
                min_cost = COSTS.start(),
                max_cost = COSTS.end(),
                default_cost = COST_DEFAULT,
                given_cost = cost,
                "use default bcrypt cost instead of the invalid given cost"
            );
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            cost: if is_possible { cost } else { COST_DEFAULT },
            vacancies: Arc::new(Semaphore::new(cores)),
        }
    }

    /// Refuses a password that cannot be hashed.
    pub(crate) fn check(password: &str) -> Result<(), PasswordError> {
        if password.len() > PASSWORD_BYTES_MAX { Err(PasswordError::TooLong) } else { Ok(()) }
    }

    /// Hashes a password, as entries of the log carry it: bcrypt's text in base64.
    pub(crate) async fn hash(&self, password: String) -> Result<String, PasswordError> {
        Self::check(&password)?;
        let cost = self.cost;
        let hash = self
            .blocking(move || {
                let hash = bcrypt::hash_with_result(password, cost).ok()?;
                // Go's version, and hence the same text as etcd's.
                Some(BASE64_STANDARD.encode(hash.format_for_version(bcrypt::Version::TwoA)))
            })
            .await;
        hash.flatten().ok_or(PasswordError::Failed)
    }

    /// Whether the password is the user's.
    pub(crate) async fn verify(&self, password: String, login: &Login) -> bool {
        let hash = login.hash.clone();
        let is_right = self.blocking(move || {
            // What is not a hash fits no password.
            std::str::from_utf8(&hash)
                .is_ok_and(|hash| bcrypt::verify(password, hash).unwrap_or(false))
        });
        is_right.await.unwrap_or(false)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // The permit goes along: a client that goes away does not make room while its hash is still being made.
        let permit = Arc::clone(&self.vacancies).acquire_owned().await.ok()?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        done.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn login(hash: &[u8]) -> Login {
        Login { hash: Bytes::copy_from_slice(hash), revision: 1 }
    }

    #[tokio::test]
    async fn hashes_are_in_go_s_form_and_fit_their_password_only() {
        let passwords = Passwords::new(4);
        for password in ["", "p1", "pass\0word", &"x".repeat(72)] {
            let hash = passwords.hash(password.to_owned()).await.unwrap();
            let text = BASE64_STANDARD.decode(hash).unwrap();
            assert!(text.starts_with(b"$2a$04$") && text.len() == 60);
            assert!(passwords.verify(password.to_owned(), &login(&text)).await);
            assert!(!passwords.verify("other".to_owned(), &login(&text)).await);
        }
    }

    /// Alice's of the fixture `rich-3.5.30`.
    #[tokio::test]
    async fn a_hash_of_real_etcd_fits_its_password() {
        let alice = login(b"$2a$10$G8vV6dY8GpLj8QgVoF4uueXcAPHDYatMAWLse7atE.rNveA08kyUi");
        let passwords = Passwords::new(4);
        assert!(passwords.verify("alicepw".to_owned(), &alice).await);
        assert!(!passwords.verify("alicepw2".to_owned(), &alice).await);
    }

    #[tokio::test]
    async fn what_is_no_hash_fits_no_password() {
        let passwords = Passwords::new(4);
        for hash in [&b""[..], b"$2a$04$short", b"\xff\xfe"] {
            assert!(!passwords.verify(String::new(), &login(hash)).await);
        }
    }

    #[tokio::test]
    async fn long_passwords_are_refused_in_etcd_s_words() {
        let refused = Passwords::new(4).hash("x".repeat(73)).await.unwrap_err();
        assert_eq!(refused.to_string(), "bcrypt: password length exceeds 72 bytes");
    }
}
