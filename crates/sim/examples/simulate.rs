//! Runs seeds of the cluster simulator for as long as one likes, or one seed with its trace.
//!
//! ```text
//! cargo run --profile test -p sim --example simulate -- --seeds 1000000 --from 1 [--seconds N]
//! cargo run --profile test -p sim --example simulate -- --replay SEED [--plant NAME] [--outcomes]
//! ```
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command speaks to whoever runs it"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use sim::cluster::{self, Mark, Marks, Options, Plant};

struct Arguments {
    seeds: u64,
    from: u64,
    seconds: u64,
    replay: Option<u64>,
    options: Options,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        seeds: 1000,
        from: 1,
        seconds: u64::MAX,
        replay: None,
        options: Options::default(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--outcomes" {
            arguments.options.inspects_sends = false;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
        match word.as_str() {
            "--seeds" => arguments.seeds = number()?,
            "--from" => arguments.from = number()?,
            "--seconds" => arguments.seconds = number()?,
            "--replay" => arguments.replay = Some(number()?),
            "--plant" => {
                let plant = Plant::ALL.iter().find(|plant| format!("{plant:?}") == value);
                arguments.options.plant =
                    *plant.ok_or_else(|| format!("no mistake is called {value}"))?;
            }
            _ => return Err(format!("unknown argument {word}")),
        }
    }
    Ok(arguments)
}

fn replay(seed: u64, options: Options) -> ExitCode {
    let run = cluster::run(seed, Options { keep_trace: true, ..options });
    println!("{}", run.drawn);
    for line in &run.trace {
        println!("{line}");
    }
    println!("{run}");
    ExitCode::from(u8::from(run.violation.is_some()))
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(seed) = arguments.replay {
        return replay(seed, arguments.options);
    }
    let began = Instant::now();
    let limit = Duration::from_secs(arguments.seconds);
    let mut marks = Marks::default();
    let (mut done, mut virtual_us, mut events, mut faults, mut failed) = (0, 0, 0, 0, 0);
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        if began.elapsed() > limit {
            break;
        }
        let run = cluster::run(seed, arguments.options);
        done += 1;
        virtual_us += run.virtual_us;
        events += run.events;
        faults += run.faults;
        marks.add(&run.marks);
        if run.violation.is_some() {
            failed += 1;
            println!("{run}\nreplay with: --replay {seed}");
        }
        if done % 1000 == 0 {
            println!("{done} seeds, {failed} failed, {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    for &mark in Mark::ALL {
        println!("{:>10}  {}", marks.count(mark), mark.text());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{{\"level\":1,\"seeds\":{done},\"virtual_s\":{},\"wall_s\":{seconds:.1},\"events\":{events},\"faults\":{faults},\"failures\":{failed}}}",
        virtual_us / 1_000_000
    );
    ExitCode::from(u8::from(failed > 0))
}
