//! Which of a peer's URLs is in use: the next one after a failure.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::config::{Url, UrlError};

/// The URLs of one peer, shared by its channels.
#[derive(Debug)]
pub(crate) struct Urls {
    /// In rotation: the one in use, then the others. Held to read or change them.
    rotation: Mutex<(Url, VecDeque<Url>)>,
}

impl Urls {
    /// # Errors
    /// One of them is no URL, or there is none.
    pub(crate) fn parse(urls: &[String]) -> Result<Self, UrlError> {
        Ok(Self { rotation: Mutex::new(parse(urls)?) })
    }

    /// The member has other URLs from now on.
    ///
    /// # Errors
    /// One of them is no URL, or there is none; nothing changes.
    pub(crate) fn update(&self, urls: &[String]) -> Result<(), UrlError> {
        *self.lock() = parse(urls)?;
        Ok(())
    }

    /// The one in use.
    pub(crate) fn pick(&self) -> Url {
        self.lock().0.clone()
    }

    /// It did not work: if it is still in use, the next one is.
    pub(crate) fn failed(&self, url: &Url) {
        let mut rotation = self.lock();
        let (current, others) = &mut *rotation;
        if current == url
            && let Some(next) = others.pop_front()
        {
            others.push_back(std::mem::replace(current, next));
        }
    }

    fn lock(&self) -> MutexGuard<'_, (Url, VecDeque<Url>)> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(urls: &[String]) -> Result<(Url, VecDeque<Url>), UrlError> {
    let mut urls =
        urls.iter().map(|url| Url::parse(url)).collect::<Result<VecDeque<Url>, UrlError>>()?;
    match urls.pop_front() {
        Some(first) => Ok((first, urls)),
        None => Err(UrlError::HostPort(String::new())),
    }
}
