//! Hosts on one switch, as network namespaces.
//!
//! The switch has a namespace of its own: nothing of it is seen outside, and equal addresses of another run do not meet. The names
//! hold the process id; what a run that was killed has left behind is removed by the next.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Begins the names of all namespaces that this module makes.
const PREFIX: &str = "retcd-";

/// The hosts; their namespaces end with this.
#[derive(Debug)]
pub(super) struct Network {
    switch: String,
    hosts: Vec<String>,
}

/// Whether namespaces can be made here (that takes root, and iproute2).
pub fn is_available() -> bool {
    let name = format!("{PREFIX}{}-probe", std::process::id());
    ip(&["netns", "add", &name]).and_then(|()| ip(&["netns", "del", &name])).is_ok()
}

impl Network {
    /// Makes hosts 10.4.7.N.
    pub(super) fn new(numbers: &[u8]) -> Result<Self> {
        remove_orphans();
        let name = |what: &str| format!("{PREFIX}{}-{what}", std::process::id());
        let mut network = Self { switch: name("switch"), hosts: Vec::new() };
        let switch = network.switch.clone();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "bridge", "up"])?;
        for number in numbers {
            let (host, port) = (name(&number.to_string()), format!("port{number}"));
            ip(&["netns", "add", &host])?;
            network.hosts.push(host.clone());
            let link =
                ["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0"];
            ip(&[&link[..], &["netns", &host]].concat())?;
            ip(&["-n", &switch, "link", "set", &port, "master", "bridge", "up"])?;
            let address = format!("10.4.7.{number}/24");
            ip(&["-n", &host, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    /// A command that runs a program on a host.
    pub(super) fn command(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[host]]).arg(program);
        command
    }

    /// The same, to be killed by the kernel when we die.
    pub(super) fn bound_command(&self, host: usize, program: &Path) -> Command {
        let bound = crate::process::bound_command(program);
        let mut command = self.command(host, Path::new(bound.get_program()));
        command.args(bound.get_args());
        command
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain([&self.switch]) {
            // What cannot be removed now is left to the next run.
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Removes the namespaces of runs whose process is gone.
fn remove_orphans() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip (iproute2)")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), text.trim());
    Ok(())
}
