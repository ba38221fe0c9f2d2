//! Golden scripts for the command line: the same script is run against two servers, and the transcripts compared.
//!
//! A script is a text file; each line is one of
//!
//! ```text
//! # a comment
//! put k v                  runs etcdctl with these arguments (quotes ' and ", \n \t \xHH inside "…")
//! | text                   a line for the standard input of the command above
//! each get --prefix k      runs it four times, with -w simple, json, fields and table
//! lease NAME grant 100     runs `lease grant 100`; the id it prints is $NAME from now on, and <NAME> in the transcript
//! start NAME watch k       starts it in the background …
//! await NAME 3             … waits until it has printed 3 lines, interrupts it (SIGINT), and records what it printed
//! utl snapshot status $DIR/a     runs etcdutl (always the reference's, so that it judges what we wrote)
//! ```
//!
//! `$DIR` is a folder of the run's own. Transcripts hold arguments, exit code, standard output and standard error. They
//! are normalised before they are compared: what may differ between two servers is replaced by a word in
//! brackets, see [`normalise()`].

mod compare;
mod normalise;
mod script;
mod transcript;

pub use compare::{Report, Side, compare, scripts, transcript};
pub use normalise::Names;
pub use normalise::normalise;
pub use script::{Call, Script, Step};
pub use transcript::{Session, differences, run_script};
