//! Simple tokens: random text that the members remember, each for itself.
//!
//! A token is `PREFIX.INDEX`: letters that the asked member made up, and the index of the log entry by which the user was let
//! in. Every member that applies the entry knows the token from then on, so a member that is behind only has to wait until it
//! has applied that index. Each use puts the end off, on the member that is asked.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use raft::LogIndex;
use rand::RngExt as _;

/// Letters in a prefix: 16 of 52, 91 bits.
const PREFIX_LETTERS: usize = 16;
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// etcd's lifetime where none is asked for.
const TTL_DEFAULT: Duration = Duration::from_secs(300);

/// How often what has run out is looked for, so that tokens that nobody uses again do not gather.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The tokens that this member knows.
pub(crate) struct SimpleTokens {
    ttl: Duration,
    /// Held for one look.
    state: Mutex<State>,
}

struct State {
    by_token: HashMap<String, Holder>,
    swept_at: Instant,
}

struct Holder {
    user: String,
    ends_at: Instant,
}

impl fmt::Debug for SimpleTokens {
    /// Leaves the tokens out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleTokens").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl SimpleTokens {
    pub(super) fn new(ttl: Duration) -> Self {
        let ttl = if ttl.is_zero() { TTL_DEFAULT } else { ttl };
        let state = State { by_token: HashMap::new(), swept_at: Instant::now() };
        Self { ttl, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each critical section leaves the map whole, so a poisoned lock is as good as a sound one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The text of the token that the entry of this index makes, with the index before it: what etcd has applied when it
    /// names the token. Members of both kinds have to name it alike.
    pub(super) fn text(prefix: &str, index: u64) -> String {
        format!("{prefix}.{}", index.saturating_sub(1))
    }

    /// Which entry has to be applied before the token can be known; `None` if it is not of this kind.
    pub(super) fn index_of(token: &str) -> Option<LogIndex> {
        let (prefix, index) = token.split_once('.')?;
        let is_number = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        let before: u64 = (!prefix.is_empty() && is_number).then(|| index.parse().ok())??;
        before.checked_add(1).map(LogIndex)
    }

    pub(super) fn remember(&self, user: &str, prefix: &str, index: LogIndex, now: Instant) {
        // A member with tokens of another kind sends no prefix, and the index alone could be guessed.
        if prefix.is_empty() {
            return;
        }
        let mut state = self.lock();
        if now.saturating_duration_since(state.swept_at) >= SWEEP_EVERY {
            state.swept_at = now;
            state.by_token.retain(|_, holder| holder.ends_at >= now);
        }
        let holder = Holder { user: user.to_owned(), ends_at: now + self.ttl };
        state.by_token.insert(Self::text(prefix, index.0), holder);
    }

    /// The user who holds the token, which lasts its whole time again.
    pub(super) fn user_of(&self, token: &str, now: Instant) -> Option<String> {
        let mut state = self.lock();
        let holder = state.by_token.get_mut(token)?;
        if holder.ends_at < now {
            state.by_token.remove(token);
            return None;
        }
        holder.ends_at = now + self.ttl;
        Some(holder.user.clone())
    }

    pub(super) fn void_user(&self, user: &str) {
        self.lock().by_token.retain(|_, holder| holder.user != user);
    }

    pub(super) fn void_all(&self) {
        self.lock().by_token.clear();
    }
}

/// Makes a prefix that nobody can guess.
pub(super) fn random_prefix() -> String {
    let mut random = rand::rng();
    (0..PREFIX_LETTERS)
        .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn each_use_puts_the_end_off() {
        let (tokens, start) = (SimpleTokens::new(TTL), Instant::now());
        tokens.remember("u1", "abc", LogIndex(7), start);
        for seconds in [2, 4, 6] {
            assert_eq!(tokens.user_of("abc.6", after(start, seconds)).as_deref(), Some("u1"));
        }
        assert_eq!(tokens.user_of("abc.6", after(start, 10)), None);
        assert_eq!(tokens.user_of("abc.6", after(start, 6)), None);
    }

    #[test]
    fn tokens_are_void_by_user_or_all() {
        let (tokens, now) = (SimpleTokens::new(TTL), Instant::now());
        for (user, prefix) in [("u1", "a"), ("u2", "b"), ("u1", "c")] {
            tokens.remember(user, prefix, LogIndex(1), now);
        }
        tokens.void_user("u1");
        assert_eq!(tokens.user_of("a.0", now), None);
        assert_eq!(tokens.user_of("c.0", now), None);
        assert_eq!(tokens.user_of("b.0", now).as_deref(), Some("u2"));
        tokens.void_all();
        assert_eq!(tokens.user_of("b.0", now), None);
    }

    #[test]
    fn what_nobody_uses_again_does_not_gather() {
        let (tokens, start) = (SimpleTokens::new(TTL), Instant::now());
        tokens.remember("u1", "a", LogIndex(1), start);
        tokens.remember("u1", "b", LogIndex(2), after(start, 5));
        assert_eq!(tokens.lock().by_token.len(), 1);
    }

    #[test]
    fn an_index_alone_is_no_token() {
        let (tokens, now) = (SimpleTokens::new(TTL), Instant::now());
        tokens.remember("u1", "", LogIndex(7), now);
        assert_eq!(tokens.user_of(".6", now), None);
        for text in [
            "",
            ".",
            ".7",
            "abc",
            "abc.",
            "abc.x",
            "abc.+7",
            "abc.-7",
            "a.7.8",
            "a.99999999999999999999",
        ] {
            assert_eq!(SimpleTokens::index_of(text), None, "{text}");
        }
        assert_eq!(SimpleTokens::index_of("abc.6"), Some(LogIndex(7)));
        assert_eq!(SimpleTokens::index_of("abc.18446744073709551615"), None);
    }

    #[test]
    fn prefixes_are_letters_and_differ() {
        let (one, other) = (random_prefix(), random_prefix());
        assert!(one.len() == 16 && one.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_ne!(one, other);
    }
}
