//! Every chore of the project as `cargo xtask <task>`, with nothing to install.
//!
//! Tasks only read the tree unless their name says otherwise (`codegen`), and each has a form that fails on a
//! difference, which is what CI runs.

mod codegen;
mod layers;
mod metadata;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask <task>

  codegen [--check]   generate the code in src/gen of crates/proto, rpc and otlp from the .proto files;
                      with --check: fail when what is checked in differs
  layers              check who depends on whom
  tidy                check licences, versions and sources of dependencies, and the shape of our own files
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    let root = workspace_root()?;
    match arguments {
        ["codegen"] => codegen::run(&root, codegen::Mode::Write),
        ["codegen", "--check"] => codegen::run(&root, codegen::Mode::Check),
        ["layers"] => layers::run(&root),
        ["tidy"] => tidy::run(&root),
        _ => bail!("unknown task {:?}\n\n{USAGE}", arguments.join(" ")),
    }
}

/// Returns the folder that holds the workspace's `Cargo.toml`: the parent of this package.
fn workspace_root() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(package.parent().context("find the workspace above xtask")?.to_owned())
}
