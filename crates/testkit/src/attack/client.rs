//! The well-behaved client: puts and gets that must be answered whatever else goes on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use proto::etcdserverpb as pb;
use tokio::task::JoinHandle;

use super::ANSWER_LIMIT;
use super::victim::{Port, Victim};
use crate::api::Api;

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(20);
/// The keys that greedy readers ask for.
pub(super) const LARGE: &str = "large/";
/// Together they are 1 MiB.
const LARGE_KEYS: usize = 16;
const LARGE_BYTES: usize = 64 * 1024;

/// A client with a connection from before any attack.
#[derive(Clone, Debug)]
pub(super) struct Client {
    api: Api,
    url: String,
}

impl Client {
    pub(super) async fn connect(victim: &Victim) -> Result<Self> {
        let url = format!("http://{}", victim.address(Port::Plain));
        Ok(Self { api: Api::connect(&url).await?, url })
    }

    /// Writes the keys below [`LARGE`].
    pub(super) async fn fill(&self) -> Result<()> {
        for index in 0..LARGE_KEYS {
            put(&self.api, &format!("{LARGE}{index}"), vec![b'v'; LARGE_BYTES]).await?;
        }
        Ok(())
    }

    /// Changes one of the keys below [`LARGE`], for those who watch them.
    pub(super) async fn change_large(&self) -> Result<()> {
        put(&self.api, &format!("{LARGE}0"), vec![b'w'; LARGE_BYTES]).await
    }

    /// Goes on with rounds until stopped.
    pub(super) fn go_on(&self, makes_connections: bool) -> Served {
        let state = Arc::new(Mutex::new(State::default()));
        let (client, shared) = (self.clone(), Arc::clone(&state));
        let task = tokio::spawn(async move {
            loop {
                let done = client.round(&shared, makes_connections).await;
                if lock(&shared).count(done) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Served { state, task }
    }

    async fn round(&self, state: &Mutex<State>, makes_connections: bool) -> Result<()> {
        let value = format!("{}", lock(state).rounds);
        timed(state, "a put", put(&self.api, "well/behaved", value.clone().into_bytes())).await?;
        let read = timed(state, "a get", get(&self.api, "well/behaved")).await?;
        ensure!(read == value.as_bytes(), "a get after the put of {value} has {read:?}");
        if makes_connections {
            timed(state, "a get on a new connection", async {
                get(&Api::connect(&self.url).await?, "well/behaved").await
            })
            .await?;
        }
        Ok(())
    }
}

/// What has been answered so far.
#[derive(Debug)]
pub(super) struct Served {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    rounds: u64,
    slowest: Duration,
    failure: Option<anyhow::Error>,
}

impl State {
    /// Counts a round. Returns whether one has failed.
    fn count(&mut self, done: Result<()>) -> bool {
        self.rounds += 1;
        self.failure = self.failure.take().or(done.err());
        self.failure.is_some()
    }
}

impl Served {
    pub(super) fn rounds(&self) -> u64 {
        lock(&self.state).rounds
    }

    /// Nothing has failed.
    pub(super) fn check(&self) -> Result<()> {
        match lock(&self.state).failure.take() {
            Some(error) => Err(error.context("the well-behaved client")),
            None => Ok(()),
        }
    }

    /// Stops after the round that is under way. Returns the rounds, and the longest wait for an answer.
    pub(super) async fn stop(self) -> Result<(u64, Duration)> {
        let rounds = self.rounds();
        while self.rounds() == rounds && !self.task.is_finished() {
            tokio::time::sleep(PAUSE).await;
        }
        self.task.abort();
        self.check()?;
        let state = lock(&self.state);
        Ok((state.rounds, state.slowest))
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn timed<T>(
    state: &Mutex<State>,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let done = tokio::time::timeout(ANSWER_LIMIT, work).await;
    let mut state = lock(state);
    state.slowest = state.slowest.max(begun.elapsed());
    done.map_err(|_| anyhow!("no answer to {what} within {ANSWER_LIMIT:?}"))?
        .context(what.to_owned())
}

async fn put(api: &Api, key: &str, value: Vec<u8>) -> Result<()> {
    let put =
        pb::PutRequest { key: key.to_owned().into(), value: value.into(), ..Default::default() };
    api.put(put).await.map_err(|refusal| anyhow!("{refusal:?}"))?;
    Ok(())
}

async fn get(api: &Api, key: &str) -> Result<Vec<u8>> {
    let range = pb::RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let found = api.range(range).await.map_err(|refusal| anyhow!("{refusal:?}"))?;
    Ok(found.kvs.first().map(|kv| kv.value.to_vec()).unwrap_or_default())
}
