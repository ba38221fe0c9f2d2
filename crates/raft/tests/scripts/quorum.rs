//! Scripts about quorums: `committed` and `vote` over given voters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use raft::{
    NodeId,
    quorum::{Joint, Majority},
};

use crate::datadriven::Case;

pub(crate) fn run(case: &Case) -> String {
    let ids = |key| {
        case.values(key).iter().filter(|id| *id != "zero").map(|id| NodeId(id.parse().unwrap()))
    };
    let (incoming, outgoing): (Vec<_>, Vec<_>) = (ids("cfg").collect(), ids("cfgj").collect());
    let is_joint = !case.values("cfgj").is_empty();
    let joint = Joint {
        incoming: incoming.iter().copied().collect(),
        outgoing: outgoing.iter().copied().collect(),
    };
    let mirrored = Joint { incoming: joint.outgoing.clone(), outgoing: joint.incoming.clone() };

    // Values belong to the distinct ids in the order in which they are named.
    let mut seen = BTreeSet::new();
    let order: Vec<_> =
        incoming.iter().chain(&outgoing).copied().filter(|&id| seen.insert(id)).collect();
    let values = case.values(if case.command == "vote" { "votes" } else { "idx" });
    if values.len() != order.len() {
        let numbers: Vec<_> =
            values.iter().map(|value| number(value).unwrap_or(0).to_string()).collect();
        let voters: Vec<_> = seen.iter().map(|id| format!("{}:{{}}", id.0)).collect();
        return format!(
            "error: mismatched input (explicit or _) for voters map[{}]: [{}]",
            voters.join(" "),
            numbers.join(" ")
        );
    }
    let known: BTreeMap<_, _> = order
        .into_iter()
        .zip(values)
        .filter_map(|(id, value)| Some((id, number(value)?)))
        .collect();

    let mut text = String::new();
    match case.command.as_str() {
        "committed" => {
            let acked = |id| known.get(&id).copied();
            let index = joint.acked_by_quorum(acked);
            text += &describe(&joint.ids().into_iter().collect(), &known);
            if is_joint {
                cross_check(&mut text, index, mirrored.acked_by_quorum(acked), "symmetry");
            } else {
                cross_check(
                    &mut text,
                    index,
                    counted(&joint.incoming, &known),
                    "alternative computation",
                );
                cross_check(
                    &mut text,
                    index,
                    joint.incoming.acked_by_quorum(acked),
                    "majority alone",
                );
                let with_itself =
                    Joint { incoming: joint.incoming.clone(), outgoing: joint.incoming.clone() };
                cross_check(
                    &mut text,
                    index,
                    with_itself.acked_by_quorum(acked),
                    "self-joint quorum",
                );
                for (&id, &acked) in known.iter().filter(|(_, acked)| **acked < index) {
                    for lower in [acked - 1, 0] {
                        let overlaid = |other| {
                            if other == id { Some(lower) } else { known.get(&other).copied() }
                        };
                        cross_check(&mut text, index, joint.acked_by_quorum(overlaid), "overlay");
                    }
                }
            }
            writeln!(text, "{}", show(index)).unwrap();
        }
        "vote" => {
            let vote = |id| known.get(&id).map(|&vote| vote == 2);
            let result = joint.vote_result(vote);
            if mirrored.vote_result(vote) != result {
                text += "mismatch via symmetry\n";
            }
            writeln!(text, "{result}").unwrap();
        }
        other => panic!("unknown command {other}"),
    }
    text
}

/// Votes are numbers too, so that both commands read their values alike.
fn number(value: &str) -> Option<u64> {
    match value {
        "_" => None,
        "n" => Some(1),
        "y" => Some(2),
        number => Some(number.parse().unwrap()),
    }
}

fn show(index: u64) -> String {
    if index == u64::MAX { "∞".to_owned() } else { index.to_string() }
}

fn cross_check(text: &mut String, expected: u64, actual: u64, how: &str) {
    if expected != actual {
        writeln!(text, "{} <-- via {how}", show(actual)).unwrap();
    }
}

/// The definition itself: the largest index that more than half have reached.
fn counted(voters: &Majority, known: &BTreeMap<NodeId, u64>) -> u64 {
    if voters.0.is_empty() {
        return u64::MAX;
    }
    let reached = |index: u64| {
        voters.0.iter().filter(|id| known.get(id).is_some_and(|&acked| acked >= index)).count()
    };
    known.values().copied().filter(|&index| reached(index) > voters.0.len() / 2).max().unwrap_or(0)
}

/// A bar for each voter, as long as its place among the others.
fn describe(voters: &Majority, known: &BTreeMap<NodeId, u64>) -> String {
    let count = voters.0.len();
    if count == 0 {
        return "<empty majority quorum>".to_owned();
    }
    let acked = |id: &NodeId| known.get(id).copied().unwrap_or(0);
    let mut text = " ".repeat(count) + "    idx\n";
    for id in &voters.0 {
        let bar = voters.0.iter().filter(|other| acked(other) < acked(id)).count();
        let drawn = if known.contains_key(id) {
            "x".repeat(bar) + ">" + &" ".repeat(count - bar)
        } else {
            "?".to_owned() + &" ".repeat(count)
        };
        writeln!(text, "{drawn} {:5}    (id={id})", acked(id)).unwrap();
    }
    text
}
