//! What the kernel's scheduler says of this process' threads.

use std::collections::BTreeMap;
use std::{fs, io};

/// Time of a thread, or of several, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Time {
    /// On a processor.
    pub(super) ran: u64,
    /// Ready to run, and waiting for one.
    pub(super) waited: u64,
}

/// The threads of this process, since the first look.
#[derive(Debug, Default)]
pub(super) struct Watched {
    threads: BTreeMap<u32, Thread>,
    has_looked: bool,
}

#[derive(Debug)]
struct Thread {
    name: String,
    /// When it was first looked at; nothing if it was not there at the first look.
    before: Time,
    now: Time,
}

impl Watched {
    /// Looks at each thread.
    ///
    /// # Errors
    /// The kernel keeps no such figures, or they cannot be read.
    pub(super) fn look(&mut self) -> io::Result<()> {
        for entry in fs::read_dir("/proc/self/task")? {
            let entry = entry?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let read = |file: &str| fs::read_to_string(entry.path().join(file));
            let (name, figures) = match (read("comm"), read("schedstat")) {
                (Ok(name), Ok(figures)) => (name, figures),
                // It has ended meanwhile.
                (Err(_), _) => continue,
                (Ok(_), Err(error)) if error.raw_os_error() == Some(ESRCH) => continue,
                (Ok(_), Err(_)) if read("comm").is_err() => continue,
                (Ok(_), Err(error)) => return Err(error),
            };
            let Some(now) = parse(&figures) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, figures));
            };
            self.note(id, name.trim_end(), now);
        }
        self.has_looked = true;
        Ok(())
    }

    fn note(&mut self, id: u32, name: &str, now: Time) {
        let before = if self.has_looked { Time::default() } else { now };
        let new = || Thread { name: name.to_owned(), before, now };
        self.threads.entry(id).or_insert_with(new).now = now;
    }

    /// What threads of each name did between the first look and the last.
    pub(super) fn totals(&self) -> BTreeMap<&str, Time> {
        let mut totals: BTreeMap<&str, Time> = BTreeMap::new();
        for thread in self.threads.values() {
            let total = totals.entry(&thread.name).or_default();
            // A number that was given to another thread begins anew.
            total.ran += thread.now.ran.saturating_sub(thread.before.ran);
            total.waited += thread.now.waited.saturating_sub(thread.before.waited);
        }
        totals
    }
}

/// "No such process": the thread ended between its name and its figures.
const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// `schedstat`: nanoseconds on a processor, nanoseconds in the queue, turns.
fn parse(figures: &str) -> Option<Time> {
    let mut figures = figures.split_ascii_whitespace().map(str::parse);
    let (Some(Ok(ran)), Some(Ok(waited))) = (figures.next(), figures.next()) else { return None };
    Some(Time { ran, waited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_since_the_first_look_by_name() {
        let time = |ran, waited| Time { ran, waited };
        let mut watched = Watched::default();
        watched.note(1, "heart", time(100, 10));
        watched.note(2, "rpc", time(50, 5));
        watched.has_looked = true;
        watched.note(1, "heart", time(130, 11));
        watched.note(3, "rpc", time(7, 0));
        watched.note(2, "rpc", time(55, 5));
        let expected = BTreeMap::from([("heart", time(30, 1)), ("rpc", time(12, 0))]);
        assert_eq!(watched.totals(), expected);
    }

    #[test]
    fn figures() {
        assert_eq!(
            parse("55284466 581748949 86\n"),
            Some(Time { ran: 55_284_466, waited: 581_748_949 })
        );
        for bad in ["", "1", "1 x 2", "-1 2 3"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
