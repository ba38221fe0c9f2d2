//! Scripts about configurations: one tracker, changed by each command in turn.

use std::fmt::Write;

use raft::{LogIndex, NO_LIMIT, confchange::Changer, tracker::Tracker};

use crate::{datadriven::Case, describe::parse_conf_changes};

pub(crate) fn runner() -> impl FnMut(&Case) -> String {
    let mut tracker = Tracker::new(10, NO_LIMIT);
    let mut last_index = LogIndex::ZERO;
    move |case| {
        let changer = Changer { tracker: &tracker, last_index };
        last_index = last_index.next();
        let changes = match parse_conf_changes(&case.input) {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        let changed = match case.command.as_str() {
            "simple" => changer.simple(&changes),
            "enter-joint" => changer.enter_joint(case.value("autoleave") == Some("true"), &changes),
            "leave-joint" if changes.is_empty() => changer.leave_joint(),
            "leave-joint" => return "this command takes no input\n".to_owned(),
            _ => return "unknown command".to_owned(),
        };
        match changed {
            Err(error) => format!("{error}\n"),
            Ok((config, progress)) => {
                (tracker.config, tracker.progress) = (config, progress);
                let mut text = format!("{}\n", tracker.config);
                for (id, progress) in &tracker.progress {
                    writeln!(text, "{}: {progress}", id.0).unwrap();
                }
                text
            }
        }
    }
}
