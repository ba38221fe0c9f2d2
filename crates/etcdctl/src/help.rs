//! Help texts in etcdctl 3.5's layout.
//!
//! Columns are separated by tabs up to the next multiple of eight, so that they line up on any terminal: see `align`.
//!
//! Upstream: etcdctl/ctlv3/help.go (3.5). The wording is ours.

use crate::commands::version::{API_VERSION, VERSION};
use crate::spec::{Command, Flag, GLOBAL, HELP, Kind};

/// The help of the last command in a path from the root.
pub fn help(path: &[&Command]) -> String {
    let Some(command) = path.last() else { return String::new() };
    let is_root = path.len() == 1;
    let words: Vec<&str> =
        path.iter().skip(usize::from(!is_root)).map(|command| command.name).collect();
    let words = words.join(" ");
    let usage = if is_root { "etcdctl".to_owned() } else { format!("etcdctl {words}") };

    let mut text = format!(
        "NAME:\n\t{words} - {}\n\nUSAGE:\n\t{usage}{} [flags]\n",
        command.short, command.arguments
    );
    if is_root {
        text.push_str(&format!("\nVERSION:\n\t{VERSION}\n"));
    }
    if !command.commands.is_empty() {
        text.push_str(&format!("\nAPI VERSION:\n\t{API_VERSION}\n\n\nCOMMANDS:\n"));
        text.push_str(&command_list(command));
    }
    if !command.long.is_empty() {
        text.push_str("\nDESCRIPTION:\n");
        for line in command.long.lines() {
            text.push_str(&format!("\t{line}\n"));
        }
    }
    let mut own: Vec<Flag> = if is_root { GLOBAL.to_vec() } else { command.flags.to_vec() };
    own.push(HELP);
    own.sort_by_key(|flag| flag.name);
    text.push_str(&format!("\nOPTIONS:\n{}\n", flag_list(&own)));
    if !is_root {
        text.push_str(&format!("GLOBAL OPTIONS:\n{}\n", flag_list(GLOBAL)));
    }
    text
}

/// Lists leaf commands by their words below this one.
fn command_list(command: &Command) -> String {
    let mut rows = Vec::new();
    collect(command, "", &mut rows);
    rows.sort();
    align(&rows).lines().map(|line| format!("\t{line}\n")).collect()
}

fn collect(command: &Command, prefix: &str, rows: &mut Vec<(String, String)>) {
    for child in &command.commands {
        let words = format!("{prefix}{}", child.name);
        if child.commands.is_empty() {
            rows.push((words, child.short.to_owned()));
        } else {
            collect(child, &format!("{words} "), rows);
        }
    }
}

fn flag_list(flags: &[Flag]) -> String {
    let rows: Vec<(String, String)> =
        flags.iter().map(|flag| (flag_text(flag), flag.help.to_owned())).collect();
    align(&rows)
}

fn flag_text(flag: &Flag) -> String {
    let name = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.name),
        None => format!("      --{}", flag.name),
    };
    match flag.kind {
        Kind::Bool => format!("{name}[={}]", flag.default),
        Kind::Text => format!("{name}=\"{}\"", flag.default),
        Kind::Int | Kind::Duration | Kind::List => format!("{name}={}", flag.default),
    }
}

/// Two columns, the first as wide as its longest cell and a gap of at least one, rounded up to a multiple of eight, padded with tabs.
fn align(rows: &[(String, String)]) -> String {
    const TAB: usize = 8;
    let longest = rows.iter().map(|(cell, _)| cell.chars().count()).max().unwrap_or(0);
    let width = (longest + 1).next_multiple_of(TAB);
    let mut text = String::new();
    for (cell, rest) in rows {
        let tabs = (width - cell.chars().count()).div_ceil(TAB);
        text.push_str(&format!("{cell}{}{rest}\n", "\t".repeat(tabs)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec;

    #[test]
    fn layout_of_a_command() {
        let root = spec::root();
        let get = root.commands.iter().find(|command| command.name == "get").unwrap();
        let text = help(&[&root, get]);
        let start = "NAME:\n\tget - Reads a key or a range of keys\n\nUSAGE:\n\tetcdctl get [options] <key> [range_end] [flags]\n\n\
                     OPTIONS:\n      --consistency=\"l\"\t\t\tlinearizable (l) or serializable (s)\n      --count-only[=false]\t\t";
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains("\n  -h, --help[=false]\t\t\thelp for this command\n"), "{text}");
        assert!(text.contains("\n\nGLOBAL OPTIONS:\n      --cacert=\"\"\t\t\t\t"), "{text}");
        assert!(text.ends_with("protobuf, simple or table\n\n"), "{text}");
    }

    #[test]
    fn layout_of_a_group() {
        let root = spec::root();
        let alarm = root.commands.iter().find(|command| command.name == "alarm").unwrap();
        let text = help(&[&root, alarm]);
        let start = "NAME:\n\talarm - Shows and clears alarms\n\nUSAGE:\n\tetcdctl alarm <subcommand> [flags]\n\n\
                     API VERSION:\n\t3.5\n\n\nCOMMANDS:\n\tdisarm\tClears all alarms\n\tlist\tLists the alarms\n\nOPTIONS:\n";
        assert!(text.starts_with(start), "{text}");
    }
}
