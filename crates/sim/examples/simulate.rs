//! Runs seeds of the cluster simulator for as long as one likes, or one seed with its trace.
//!
//! ```text
//! cargo run --profile test -p sim --example simulate -- [--level 2] --seeds 1000000 --from 1 [--seconds N]
//! cargo run --profile test -p sim --example simulate -- [--level 2] --replay SEED [--plant NAME] [--outcomes]
//! ```
//!
//! Level 1, which is meant if none is given, is [`sim::cluster`]: groups of replicas. Level 2 is [`sim::server`]: whole
//! members. `--outcomes` is for level 1.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command speaks to whoever runs it"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sim::cluster;
use sim::server;

struct Arguments {
    level: u64,
    seeds: u64,
    from: u64,
    seconds: u64,
    replay: Option<u64>,
    plant: Option<String>,
    is_outcomes: bool,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        level: 1,
        seeds: 1000,
        from: 1,
        seconds: u64::MAX,
        replay: None,
        plant: None,
        is_outcomes: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--outcomes" {
            arguments.is_outcomes = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
        match word.as_str() {
            "--level" => arguments.level = number()?,
            "--seeds" => arguments.seeds = number()?,
            "--from" => arguments.from = number()?,
            "--seconds" => arguments.seconds = number()?,
            "--replay" => arguments.replay = Some(number()?),
            "--plant" => arguments.plant = Some(value),
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(arguments)
}

/// The mistake of this name.
fn named<P: Copy + std::fmt::Debug>(all: &[P], name: &str) -> Result<P, String> {
    let found = all.iter().find(|plant| format!("{plant:?}") == name);
    found.copied().ok_or_else(|| format!("no mistake is called {name}"))
}

/// What is told of a run, at either level.
struct Told {
    drawn: String,
    trace: Vec<cluster::Line>,
    text: String,
    is_broken: bool,
    virtual_us: u64,
    events: u64,
    faults: u64,
}

macro_rules! told {
    ($run:expr) => {
        Told {
            text: $run.to_string(),
            drawn: $run.drawn,
            trace: $run.trace,
            is_broken: $run.violation.is_some(),
            virtual_us: $run.virtual_us,
            events: $run.events,
            faults: $run.faults,
        }
    };
}

/// Runs seeds of one level, and sums up what was seen.
enum Level {
    Groups(cluster::Options, cluster::Marks),
    Servers(server::Options, server::Marks),
}

impl Level {
    fn new(arguments: &Arguments) -> Result<Self, String> {
        let keep_trace = arguments.replay.is_some();
        let plant = arguments.plant.as_deref();
        match arguments.level {
            1 => {
                let plant = plant.map(|name| named(cluster::Plant::ALL, name)).transpose()?;
                let options = cluster::Options {
                    plant: plant.unwrap_or(cluster::Plant::None),
                    keep_trace,
                    inspects_sends: !arguments.is_outcomes,
                };
                Ok(Self::Groups(options, cluster::Marks::default()))
            }
            2 => {
                let plant = plant.map(|name| named(server::Plant::ALL, name)).transpose()?;
                let plant = plant.unwrap_or(server::Plant::None);
                let options = server::Options { plant, keep_trace };
                Ok(Self::Servers(options, server::Marks::default()))
            }
            level => Err(format!("there is no level {level}")),
        }
    }

    fn run(&mut self, seed: u64) -> Told {
        match self {
            Self::Groups(options, marks) => {
                let run = cluster::run(seed, *options);
                marks.add(&run.marks);
                told!(run)
            }
            Self::Servers(options, marks) => {
                let run = server::run(seed, *options);
                marks.add(&run.marks);
                told!(run)
            }
        }
    }

    fn print_marks(&self) {
        match self {
            Self::Groups(_, marks) => {
                for &mark in cluster::Mark::ALL {
                    println!("{:>10}  {}", marks.count(mark), mark.text());
                }
            }
            Self::Servers(_, marks) => {
                for &mark in server::Mark::ALL {
                    println!("{:>10}  {}", marks.count(mark), mark.text());
                }
            }
        }
    }
}

fn main() -> ExitCode {
    let parsed = arguments().and_then(|arguments| Ok((Level::new(&arguments)?, arguments)));
    let (mut level, arguments) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = arguments.replay {
        let told = level.run(seed);
        println!("{}", told.drawn);
        for line in &told.trace {
            println!("{line}");
        }
        println!("{}", told.text);
        return ExitCode::from(u8::from(told.is_broken));
    }
    let began = Instant::now();
    let limit = Duration::from_secs(arguments.seconds);
    let (mut done, mut virtual_us, mut events, mut faults, mut failed) = (0, 0, 0, 0, 0);
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        if began.elapsed() > limit {
            break;
        }
        let told = level.run(seed);
        done += 1;
        virtual_us += told.virtual_us;
        events += told.events;
        faults += told.faults;
        if told.is_broken {
            failed += 1;
            println!("{}\nreplay with: --level {} --replay {seed}", told.text, arguments.level);
        }
        if done % 1000 == 0 {
            println!("{done} seeds, {failed} failed, {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    level.print_marks();
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{{\"level\":{},\"seeds\":{done},\"virtual_s\":{},\"wall_s\":{seconds:.1},\"events\":{events},\"faults\":{faults},\"failures\":{failed}}}",
        arguments.level,
        virtual_us / 1_000_000
    );
    ExitCode::from(u8::from(failed > 0))
}
