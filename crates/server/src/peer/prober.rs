//! Asks a peer now and then how it is: how long an answer takes, and what its clock shows.
//!
//! ```text
//!  every 4 s        GET /raft/probing ──► Health: smoothed round trip, difference of clocks, last error
//!  every 5 or 30 s  Health ──► warnings
//! ```
//!
//! A clock that differs from the leader's makes leases and logs misleading, and is the operator's to set right: nothing here
//! changes what a member does, nor whether a peer counts as reached.
//!
//! Upstream: server/etcdserver/api/rafthttp/probing_status.go (3.5.30). Differs: etcd asks twice, over the connections of streams and over
//! those of snapshots, which it sets up differently. Here one dialler makes both kinds with the same limits and the
//! same TLS, so that the second answer would tell nothing new; the log names the first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::client::{CallError, Question};
use super::status::Status;
use super::urls::Urls;
use super::{Shared, answers, timestamp};

/// Between two questions, as in etcd.
const EVERY: Duration = Duration::from_secs(4);
/// For an answer, as for a byte on a stream.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at a peer that is well.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Before the first look, and after one at a peer that is not well.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A clock that is behind by more is worth a warning.
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(1);
/// A round trip counts as one part in so many of the smoothed one.
const SMOOTHING: u32 = 8;
/// What etcd calls the connections that it asks over.
const ROUND_TRIPPER: &str = "ROUND_TRIPPER_RAFT_MESSAGE";

/// What is known of a peer from its answers. Figures stay as they were while none comes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// Time from question to answer, smoothed; zero before the first answer.
    pub(crate) round_trip: Duration,
    /// How far this member's clock is ahead of the peer's.
    pub(crate) clock_ahead: Drift,
    /// Questions asked.
    pub(crate) asked: u64,
    /// Those of them that were not answered.
    pub(crate) lost: u64,
    /// The last question was answered.
    pub(crate) is_well: bool,
    /// Why the last question was not answered.
    pub(crate) error: Option<String>,
}

/// A difference of clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drift {
    /// By so much, or not at all.
    Ahead(Duration),
    /// By so much.
    Behind(Duration),
}

impl Default for Drift {
    fn default() -> Self {
        Self::Ahead(Duration::ZERO)
    }
}

impl Drift {
    /// Of two points, how far the first one is ahead.
    fn between(first: Duration, second: Duration) -> Self {
        match first.checked_sub(second) {
            Some(ahead) => Self::Ahead(ahead),
            None => Self::Behind(second.saturating_sub(first)),
        }
    }
}

impl Health {
    /// The peer answered. `now` is this member's clock at that moment, `theirs` what the answer says, both since 1970.
    fn answered(&mut self, round_trip: Duration, now: Duration, theirs: Duration) {
        let before = if self.round_trip.is_zero() { round_trip } else { self.round_trip };
        self.round_trip = (before * (SMOOTHING - 1) + round_trip) / SMOOTHING;
        // The answer was on its way for half of a round trip.
        self.clock_ahead = Drift::between(now, theirs.saturating_add(self.round_trip / 2));
        self.asked += 1;
        self.is_well = true;
        self.error = None;
    }

    fn failed(&mut self, error: String) {
        self.asked += 1;
        self.lost += 1;
        self.is_well = false;
        self.error = Some(error);
    }

    /// By how much the peer's clock is behind, if it is too much. (etcd does not mind one that is ahead: that peer warns of this one.)
    fn high_drift(&self) -> Option<Duration> {
        match self.clock_ahead {
            Drift::Ahead(ahead) if ahead > CLOCK_DRIFT_MAX => Some(ahead),
            Drift::Ahead(_) | Drift::Behind(_) => None,
        }
    }
}

/// Why a peer counts as not well.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("got unexpected HTTP status code {0}")]
    Status(StatusCode),
    #[error("the answer cannot be read")]
    Unreadable,
}

/// Watches one peer.
#[derive(Debug)]
pub(crate) struct Prober {
    peer: String,
    urls: Arc<Urls>,
    status: Arc<Status>,
    shared: Arc<Shared>,
    /// Held to read or set it.
    health: Mutex<Health>,
}

impl Prober {
    pub(crate) fn new(
        peer: u64,
        urls: Arc<Urls>,
        status: Arc<Status>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { peer: format!("{peer:x}"), urls, status, shared, health: Mutex::default() }
    }

    /// What is known of the peer.
    pub(crate) fn health(&self) -> Health {
        self.lock().clone()
    }

    /// Watches for as long as the peer is one: the caller aborts it.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.ask_ever(), self.warn_ever());
    }

    async fn ask_ever(&self) {
        let mut questions = interval_at(Instant::now() + EVERY, EVERY);
        // After a pause of the machine one question is enough.
        questions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            questions.tick().await;
            self.probe().await;
        }
    }

    async fn warn_ever(&self) {
        let mut pause = LOOK_AGAIN;
        loop {
            sleep(pause).await;
            pause = self.look();
        }
    }

    /// Asks once, and keeps what comes of it.
    pub(crate) async fn probe(&self) {
        let url = self.urls.pick();
        let start = Instant::now();
        match self.ask(&url.to_string()).await {
            Ok(theirs) => self.lock().answered(start.elapsed(), timestamp::now(), theirs),
            Err(error) => {
                self.urls.failed(&url);
                self.lock().failed(error.to_string());
            }
        }
    }

    async fn ask(&self, url: &str) -> Result<Duration, ProbeError> {
        let answer = self.shared.client.call(url, Question::get("/raft/probing"), LIMIT).await?;
        if answer.status != StatusCode::OK {
            return Err(ProbeError::Status(answer.status));
        }
        answers::probed(&answer.body).ok_or(ProbeError::Unreadable)
    }

    /// Records how it is, warns of what is wrong; returns when to look again.
    fn look(&self) -> Duration {
        let health = self.health();
        self.status.figures().round_trip.observe(health.round_trip);
        let error = health.error.as_deref();
        if !health.is_well {
            tracing::warn!(
                round_tripper_name = ROUND_TRIPPER,
                remote_peer_id = self.peer,
                rtt = ?health.round_trip,
                error,
                "prober detected unhealthy status"
            );
        }
        if let Some(clock_drift) = health.high_drift() {
            tracing::warn!(
                round_tripper_name = ROUND_TRIPPER,
                remote_peer_id = self.peer,
                ?clock_drift,
                rtt = ?health.round_trip,
                error,
                "prober found high clock drift"
            );
        }
        if health.is_well { LOOK_EVERY } else { LOOK_AGAIN }
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn round_trips_are_smoothed_and_clocks_compared_in_their_middle() {
        let mut health = Health::default();
        health.answered(ms(80), ms(10_040), ms(10_000));
        assert_eq!(health.round_trip, ms(80));
        assert_eq!(health.clock_ahead, Drift::Ahead(ms(0)));
        health.answered(ms(160), ms(20_000), ms(21_000));
        assert_eq!(health.round_trip, ms(90));
        assert_eq!(health.clock_ahead, Drift::Behind(ms(1045)));
        assert_eq!(health.high_drift(), None, "that peer's warning");
        health.answered(ms(90), ms(31_045), ms(30_000));
        assert_eq!(health.high_drift(), None, "a second is not more than a second");
        health.answered(ms(90), ms(41_046), ms(40_000));
        assert_eq!(health.high_drift(), Some(ms(1001)));
        health.failed("gone".to_owned());
        assert_eq!((health.asked, health.lost, health.is_well), (5, 1, false));
        assert_eq!((health.round_trip, health.high_drift()), (ms(90), Some(ms(1001))));
        health.answered(ms(90), ms(50_045), ms(50_000));
        assert!(health.is_well && health.error.is_none() && health.high_drift().is_none());
    }
}
