//! Runs a script against one server and writes down what happened.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::normalise::{Names, normalise, sizes_in_cells, watch_events};
use super::script::{Call, Script, Step};

/// How long a background command may take to print what is awaited.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long any other command may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// Where a script's commands go.
#[derive(Debug)]
pub struct Session<'a> {
    /// The client to run.
    pub etcdctl: &'a Path,
    /// The offline tool to run for `utl` lines.
    pub etcdutl: Option<&'a Path>,
    /// `host:port` of the server.
    pub endpoint: String,
    /// The folder that `$DIR` stands for.
    pub folder: &'a Path,
}

/// Runs a script to its end and returns the normalised transcript, a block of lines for a step.
pub fn run_script(script: &Script, session: &Session<'_>) -> Result<Vec<String>> {
    let mut runner = Runner {
        session,
        names: Names { replace: vec![(session.endpoint.clone(), "<endpoint>".to_owned())] },
        variables: vec![("$DIR".to_owned(), session.folder.display().to_string())],
        background: BTreeMap::new(),
    };
    runner.names.replace.push((session.folder.display().to_string(), "<dir>".to_owned()));
    let mut blocks = Vec::new();
    for (line, step) in &script.steps {
        let block = runner.step(step).with_context(|| format!("{}:{line}", script.name))?;
        if !block.is_empty() {
            blocks.push(format!("{}:{line}: {block}", script.name));
        }
    }
    Ok(blocks)
}

/// Compares two transcripts; each difference is a text that shows both sides.
pub fn differences(
    left_name: &str,
    left: &[String],
    right_name: &str,
    right: &[String],
) -> Vec<String> {
    let mut out = Vec::new();
    for index in 0..left.len().max(right.len()) {
        let (a, b) = (left.get(index), right.get(index));
        if a != b {
            let side =
                |block: Option<&String>| block.map_or("(nothing)\n", String::as_str).to_owned();
            out.push(format!("--- {left_name}\n{}--- {right_name}\n{}", side(a), side(b)));
        }
    }
    out
}

struct Runner<'a> {
    session: &'a Session<'a>,
    names: Names,
    variables: Vec<(String, String)>,
    background: BTreeMap<String, Background>,
}

impl Runner<'_> {
    fn step(&mut self, step: &Step) -> Result<String> {
        match step {
            Step::Run(call) => self.run(self.session.etcdctl, true, call),
            Step::Each(call) => {
                let mut block = String::new();
                for format in ["simple", "json", "fields", "table"] {
                    let mut call = call.clone();
                    call.args.extend(["-w".to_owned(), format.to_owned()]);
                    block.push_str(&self.run(self.session.etcdctl, true, &call)?);
                }
                Ok(block)
            }
            Step::Lease(name, Call { args, .. }) => {
                let output = self
                    .command(self.session.etcdctl, true, args)
                    .output()
                    .context("run etcdctl")?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let id = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
                ensure!(u64::from_str_radix(&id, 16).is_ok(), "no lease id in {text:?}");
                let decimal = i64::from_str_radix(&id, 16)?.to_string();
                self.names.replace.push((id.clone(), format!("<{name}>")));
                self.names.replace.push((decimal, format!("<{name}>")));
                self.variables.push((format!("${name}"), id));
                Ok(format!("{}\n{}", args.join(" "), normalise(&text, &self.names)))
            }
            Step::Start(name, Call { args, stdin }) => {
                let mut child = self
                    .command(self.session.etcdctl, true, args)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .context("start etcdctl")?;
                let mut input = child.stdin.take().context("no standard input")?;
                input.write_all(stdin.as_bytes()).context("write to etcdctl")?;
                let background = Background::follow(child, args.join(" "), input)?;
                self.background.insert(name.clone(), background);
                Ok(String::new())
            }
            Step::Await(name, lines) => {
                let background = self
                    .background
                    .remove(name)
                    .with_context(|| format!("{name} was not started"))?;
                let (head, text) = background.finish(*lines)?;
                Ok(format!("{head}\n{}", normalise(&text, &self.names)))
            }
            Step::Utl(call) => {
                let etcdutl = self.session.etcdutl.context("no etcdutl at hand")?;
                self.run(etcdutl, false, call)
            }
        }
    }

    fn command(&self, program: &Path, with_endpoint: bool, args: &[String]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command.env("ETCDCTL_API", "3");
        if with_endpoint {
            command.arg(format!("--endpoints={}", self.session.endpoint));
        }
        for arg in args {
            let mut arg = arg.clone();
            for (name, value) in &self.variables {
                arg = arg.replace(name, value);
            }
            command.arg(arg);
        }
        command
    }

    fn run(&self, program: &Path, with_endpoint: bool, call: &Call) -> Result<String> {
        let Call { args, stdin } = call;
        let mut child = self
            .command(program, with_endpoint, args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        // A command that does not read its input has closed it by now: that is no failure of the script.
        let _ = child.stdin.take().context("no standard input")?.write_all(stdin.as_bytes());
        let output = wait_with_limit(child, args)?;
        let stdout = normalise(&String::from_utf8_lossy(&output.stdout), &self.names);
        let mut stderr = normalise(&String::from_utf8_lossy(&output.stderr), &self.names);
        if let Some(at) = stderr.find("goroutine ") {
            // A Go panic of the client ends in addresses.
            stderr.truncate(at);
        }
        let stdout: String = stdout.lines().map(|line| sizes_in_cells(line) + "\n").collect();
        let mut block = format!("{} -> {}\n", args.join(" "), exit(output.status));
        block.push_str(&stdout);
        block.extend(stderr.lines().map(|line| format!("2> {line}\n")));
        Ok(block)
    }
}

/// Collects what a command prints; one that goes on for too long is killed, and is an error of the script.
fn wait_with_limit(child: Child, args: &[String]) -> Result<Output> {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("command-output".to_owned())
        .spawn(move || sender.send(child.wait_with_output()))
        .context("start a reading thread")?;
    if let Ok(output) = receiver.recv_timeout(RUN_TIMEOUT) {
        return output.context("wait for the command");
    }
    kill_process(pid, Signal::KILL).context("kill the command")?;
    bail!("{} did not end in {RUN_TIMEOUT:?}", args.join(" "))
}

fn exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// A command that runs beside the script.
struct Background {
    child: Child,
    head: String,
    output: Arc<Lines>,
    // Kept open: an interactive watch ends when its input does.
    _input: std::process::ChildStdin,
}

#[derive(Default)]
struct Lines {
    /// The lines so far, and whether there will be no more. Held for a line at a time.
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Background {
    fn follow(mut child: Child, head: String, input: std::process::ChildStdin) -> Result<Self> {
        let stdout = child.stdout.take().context("no standard output")?;
        let output = Arc::new(Lines::default());
        let sink = Arc::clone(&output);
        std::thread::Builder::new()
            .name("background-output".to_owned())
            .spawn(move || {
                for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    let lines = watch_events(&line).unwrap_or_else(|| vec![line]);
                    sink.lines.lock().unwrap_or_else(PoisonError::into_inner).0.extend(lines);
                    sink.changed.notify_all();
                }
                sink.lines.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
                sink.changed.notify_all();
            })
            .context("start a reading thread")?;
        Ok(Self { child, head, output, _input: input })
    }

    fn finish(mut self, wanted: usize) -> Result<(String, String)> {
        let deadline = Instant::now() + AWAIT_TIMEOUT;
        let mut lines = self.output.lines.lock().unwrap_or_else(PoisonError::into_inner);
        while lines.0.len() < wanted && !lines.1 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            lines = self
                .output
                .changed
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        // A keep-alive goes on printing: what comes after the awaited lines depends on when we look.
        let text = lines.0.iter().take(wanted).map(|line| format!("{line}\n")).collect::<String>();
        let count = lines.0.len();
        drop(lines);
        // An error means that it ended by itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::INT);
        let status = self.child.wait().context("wait for the background command")?;
        let mut errors = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut errors).context("read standard error")?;
        }
        if count < wanted {
            bail!("{}: {count} of {wanted} lines in {AWAIT_TIMEOUT:?}:\n{text}{errors}", self.head);
        }
        let errors: String = errors.lines().map(|line| format!("2> {line}\n")).collect();
        Ok((format!("{} -> {}", self.head, exit(status)), text + &errors))
    }
}
