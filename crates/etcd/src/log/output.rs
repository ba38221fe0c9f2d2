//! Where a line ends up.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::time::SystemTime;

use super::Output;
use super::journal::Journal;
use super::line::Line;
use super::rotate::{Rotating, Rotation};

/// An opened output.
#[derive(Debug)]
pub(super) enum Sink {
    Stderr,
    Stdout,
    File(File),
    Rotating(Rotating),
    Journal(Journal),
}

/// Opens an output.
pub(super) fn open(output: &Output, rotation: Option<&Rotation>) -> Result<Sink, String> {
    Ok(match output {
        Output::Stderr => Sink::Stderr,
        Output::Stdout => Sink::Stdout,
        Output::Journal => {
            Sink::Journal(Journal::open().map_err(|error| format!("can't find journal ({error})"))?)
        }
        Output::File(path) => {
            let refused =
                |error| format!("couldn't open sink {:?}: {error}", path.display().to_string());
            match rotation {
                Some(rotation) => {
                    Sink::Rotating(Rotating::open(path, rotation.clone()).map_err(refused)?)
                }
                None => Sink::File(
                    OpenOptions::new().append(true).create(true).open(path).map_err(refused)?,
                ),
            }
        }
    })
}

impl Sink {
    /// Writes a line. What fails has nobody to tell.
    pub(super) fn write(&mut self, line: &Line, text: &str, now: SystemTime) {
        let _ = match self {
            Self::Stderr => std::io::stderr().lock().write_all(text.as_bytes()),
            Self::Stdout => std::io::stdout().lock().write_all(text.as_bytes()),
            Self::File(file) => file.write_all(text.as_bytes()),
            Self::Rotating(file) => file.write(text.as_bytes(), now),
            Self::Journal(journal) => journal
                .write(line, text)
                .or_else(|_| std::io::stderr().lock().write_all(text.as_bytes())),
        };
    }
}
