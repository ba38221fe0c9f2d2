//! What a script prints: the harness's own lines and those of the cores, in the order in which they happen.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use raft::{Level, Trace};

/// Names of the levels in order. The last one silences everything but errors.
pub(crate) const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];
const NONE: usize = 5;

/// A buffer that all cores of a script share.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    text: String,
    level: usize,
}

impl Output {
    pub(crate) fn level(&self) -> usize {
        self.0.lock().unwrap().level
    }

    pub(crate) fn set_level(&self, level: usize) {
        self.0.lock().unwrap().level = level;
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.level() == NONE
    }

    /// Prints, unless everything is silenced.
    pub(crate) fn print(&self, text: impl AsRef<str>) {
        if !self.is_quiet() {
            self.0.lock().unwrap().text += text.as_ref();
        }
    }

    /// Prints a line, unless everything is silenced.
    pub(crate) fn line(&self, text: impl AsRef<str>) {
        self.print(text);
        self.print("\n");
    }

    /// Returns what was printed so far and starts anew.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap().text)
    }

    /// Indents by two spaces what `body` prints.
    pub(crate) fn indented<T>(&self, body: impl FnOnce() -> T) -> T {
        let before = self.take();
        let result = body();
        let inner = self.take();
        let mut text = before;
        for line in inner.lines() {
            text += &format!("  {line}\n");
        }
        self.0.lock().unwrap().text = text;
        result
    }
}

impl Trace for Output {
    fn enabled(&self, level: Level) -> bool {
        self.level() <= level as usize
    }

    fn line(&self, level: Level, text: fmt::Arguments<'_>) {
        let mut inner = self.0.lock().unwrap();
        inner.text += &format!("{} {text}\n", LEVELS[level as usize]);
    }
}
