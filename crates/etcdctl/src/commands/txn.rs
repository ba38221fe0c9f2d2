//! `txn`: reads comparisons and requests line by line, and runs them as one transaction.
//!
//! ```text
//!   compare  := target "(" quoted-key ")" SP op SP quoted-value
//!   target   := ver|version|c|create|m|mod|val|value|lease
//!   op       := = | != | > | <
//!   request  := (get|put|del) arguments with the same flags as the commands
//!   word     := "go-quoted" | 'literal' | bare
//! ```
//!
//! Three blocks, each ended by an empty line. Upstream: etcdctl/ctlv3/command/txn_command.go and util.go (3.5). Differs: an unknown
//! operator and a comparison of leases, which crash etcdctl 3.5, are an error and work; a literal keeps all of its characters.

use std::io::BufRead;

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::{Outcome, kv, run, show, text};
use crate::command_line::{Invocation, parse_line};
use crate::exit::{Exit, Failure};
use crate::go;
use crate::output::Answer;
use crate::spec;
use crate::terminal;

pub(super) fn txn(invocation: &Invocation<'_>) -> Outcome {
    if !invocation.arguments.is_empty() {
        return Err(Failure::arguments("txn command does not accept argument"));
    }
    let interactive = invocation.flags.bool("interactive");
    let mut input = std::io::stdin().lock();
    let prompt = |text: &str| {
        if interactive {
            terminal::out_line(text);
        }
    };
    prompt("compares:");
    let compare = block(&mut input, parse_compare)?;
    prompt("success requests (get, put, del):");
    let success = block(&mut input, parse_request)?;
    prompt("failure requests (get, put, del):");
    let failure = block(&mut input, parse_request)?;
    drop(input);
    let request = TxnRequest { compare, success, failure };
    run(invocation, async |globals| {
        let response =
            globals.patient_client().await?.txn(request).await.map_err(Failure::error)?;
        show(Answer::Txn(&response), globals.style)
    })
}

/// Reads lines up to an empty one.
fn block<T>(
    input: &mut impl BufRead,
    parse: impl Fn(&[u8]) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    let mut parsed = Vec::new();
    loop {
        let mut line = Vec::new();
        let count =
            input.read_until(b'\n', &mut line).map_err(|error| invalid(error.to_string()))?;
        if count == 0 || line.last() != Some(&b'\n') {
            return Err(invalid("EOF"));
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(parsed);
        }
        parsed.push(parse(line)?);
    }
}

/// Parses one comparison.
pub fn parse_compare(line: &[u8]) -> Result<Compare, Failure> {
    let shown = text(line);
    let Some(paren) = line.iter().position(|byte| *byte == b'(') else {
        return Err(invalid(format!("malformed comparison: {shown}")));
    };
    let (target, rest) = line.split_at(paren);
    let target = text(target);
    let parts = Parts::scan(rest.get(1..).unwrap_or_default());
    let Parts { key, operator, value: Some(value) } = &parts else {
        let (key, operator) = (go::quote(&parts.key), text(&parts.operator));
        return Err(invalid(format!(
            "malformed comparison: {shown}; got {target}({key}) {operator} \"\""
        )));
    };
    let number = |radix| {
        go::parse_int(&text(value), radix)
            .map_err(|_| invalid(format!("invalid txn compare request: {shown}")))
    };
    let (target, target_union) = match target.as_str() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => {
            (CompareTarget::Value, TargetUnion::Value(Bytes::copy_from_slice(value)))
        }
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => {
            return Err(invalid(format!(
                "malformed comparison: {shown} (unknown target {target})"
            )));
        }
    };
    let result = match operator.as_slice() {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        other => {
            let operator = text(other);
            return Err(invalid(format!(
                "malformed comparison: {shown} (unknown operator {operator})"
            )));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::new(),
        target_union: Some(target_union),
    })
}

/// What was found of `"key") op "value"`, as far as it went.
#[derive(Default)]
struct Parts {
    key: Vec<u8>,
    operator: Vec<u8>,
    value: Option<Vec<u8>>,
}

impl Parts {
    fn scan(line: &[u8]) -> Self {
        let mut parts = Self::default();
        let Some((key, rest)) = go::unquote_prefix(line.trim_ascii_start()) else { return parts };
        parts.key = key;
        let Some(rest) = rest.strip_prefix(b")") else { return parts };
        if !rest.first().is_some_and(u8::is_ascii_whitespace) {
            return parts;
        }
        let rest = rest.trim_ascii_start();
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        let (operator, rest) = rest.split_at_checked(end).unwrap_or((rest, b""));
        parts.operator = operator.to_vec();
        parts.value = go::unquote_prefix(rest.trim_ascii_start()).map(|(value, _)| value);
        parts
    }
}

/// Parses one request. A `put` needs its value on the line: what follows on standard input belongs to the transaction.
fn parse_request(line: &[u8]) -> Result<RequestOp, Failure> {
    let shown = text(line);
    let words = argify(line)?;
    let [command, arguments @ ..] = words.as_slice() else {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    };
    if arguments.is_empty() {
        return Err(invalid(format!("invalid txn compare request: {shown}")));
    }
    let wrong = || invalid(format!("invalid txn request: {shown}"));
    let (name, flags) = match unique_start(&text(command)) {
        Some(known) => known,
        None => return Err(wrong()),
    };
    let (flags, arguments) = parse_line(flags, arguments).map_err(|_| wrong())?;
    if flags.bool("help") {
        return Err(wrong());
    }
    let request = match name {
        "get" => Request::RequestRange(kv::range_request(&flags, &arguments)?),
        "put" => Request::RequestPut(kv::put_request(&flags, &arguments, || None)?),
        _ => Request::RequestDeleteRange(kv::delete_request(&flags, &arguments)?),
    };
    Ok(RequestOp { request: Some(request) })
}

/// As for commands, the start of a name is enough; no two of these share one.
fn unique_start(word: &str) -> Option<(&'static str, &'static [spec::Flag])> {
    let known = [("get", spec::GET), ("put", spec::PUT), ("del", spec::DEL)];
    known.into_iter().find(|(name, _)| !word.is_empty() && name.starts_with(word))
}

/// Splits a line into words: `"..."` with Go's escapes, `'...'` as it is, and the rest at white space.
pub fn argify(line: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while let Some(first) = rest.first() {
        let (word, tail) = match first {
            b'"' => match end_of_quotes(rest) {
                Some(_) => go::unquote_prefix(rest).ok_or_else(|| invalid("invalid syntax"))?,
                // An open quote is skipped, as no pattern of etcd's matches it.
                None => {
                    rest = rest.get(1..).unwrap_or_default().trim_ascii_start();
                    continue;
                }
            },
            b'\'' => match rest.iter().skip(1).position(|byte| *byte == b'\'') {
                Some(length) => {
                    let literal = rest.get(1..=length).unwrap_or_default().to_vec();
                    (literal, rest.get(length + 2..).unwrap_or_default())
                }
                None => {
                    rest = rest.get(1..).unwrap_or_default().trim_ascii_start();
                    continue;
                }
            },
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                let (word, tail) = rest.split_at_checked(end).unwrap_or((rest, b""));
                (word.to_vec(), tail)
            }
        };
        words.push(word);
        rest = tail.trim_ascii_start();
    }
    Ok(words)
}

/// Where the closing quote of a double-quoted word is.
fn end_of_quotes(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().skip(1).position(|byte| {
        let closes = !escaped && *byte == b'"';
        escaped = !escaped && *byte == b'\\';
        closes
    })
}

fn invalid(text: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::InvalidInput, text)
}

#[cfg(test)]
mod tests;
