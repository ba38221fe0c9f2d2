//! `get`, `put`, `del` and `compaction`. The first three also stand in transactions: their arguments become requests here.

use bytes::Bytes;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};

use super::{Outcome, only_argument, run, show, text};
use crate::command_line::{Flags, Invocation};
use crate::exit::{Exit, Failure};
use crate::go;
use crate::output::{Answer, Format};
use crate::terminal;

/// NUL stands for the lowest key and, as a range's end, for no end.
const NUL: Bytes = Bytes::from_static(&[0]);

pub(super) fn get(invocation: &Invocation<'_>) -> Outcome {
    let flags = &invocation.flags;
    let request = range_request(flags, &invocation.arguments)?;
    let (count_only, value_only) = (flags.bool("count-only"), flags.bool("print-value-only"));
    run(invocation, async |globals| {
        let response = globals.client().await?.range(request).await.map_err(Failure::error)?;
        let mut style = globals.style;
        if count_only && style.format != Format::Fields {
            return Err(Failure::arguments("--count-only is only for `--write-out=fields`"));
        }
        if value_only && style.format != Format::Simple {
            return Err(Failure::arguments("print-value-only is only for `--write-out=simple`"));
        }
        style.value_only = value_only;
        show(Answer::Get(&response), style)
    })
}

pub(super) fn put(invocation: &Invocation<'_>) -> Outcome {
    let request = put_request(&invocation.flags, &invocation.arguments, terminal::rest_of_input)?;
    run(invocation, async |globals| {
        let response = globals.client().await?.put_with(request).await.map_err(Failure::error)?;
        show(Answer::Put(&response), globals.style)
    })
}

pub(super) fn del(invocation: &Invocation<'_>) -> Outcome {
    let request = delete_request(&invocation.flags, &invocation.arguments)?;
    run(invocation, async |globals| {
        let response =
            globals.client().await?.delete_range(request).await.map_err(Failure::error)?;
        show(Answer::Del(&response), globals.style)
    })
}

pub(super) fn compaction(invocation: &Invocation<'_>) -> Outcome {
    let argument = only_argument(invocation, "compaction command needs 1 argument")?;
    let revision = go::parse_int(&text(argument), 10).map_err(Failure::error)?;
    let request = CompactionRequest { revision, physical: invocation.flags.bool("physical") };
    run(invocation, async |globals| {
        globals.client().await?.compact(request).await.map_err(Failure::error)?;
        terminal::out_line(&format!("compacted revision {revision}"));
        Ok(())
    })
}

/// The request of `get` with these arguments.
pub(super) fn range_request(flags: &Flags, arguments: &[Vec<u8>]) -> Result<RangeRequest, Failure> {
    let Some(key) = arguments.first() else {
        return Err(Failure::arguments(
            "get command needs one argument as key and an optional argument as range_end",
        ));
    };
    check_one_range(flags)?;
    if flags.bool("keys-only") && flags.bool("count-only") {
        return Err(Failure::arguments(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        ));
    }
    let serializable = match flags.text("consistency").as_str() {
        "s" => true,
        "l" => false,
        other => {
            let text = format!("unknown consistency flag {}", go::quote(other.as_bytes()));
            return Err(Failure::new(Exit::BadFeature, text));
        }
    };
    let (key, range_end) = range(flags, key, arguments.get(1))?;
    let (sort_order, sort_target) = sorting(flags)?;
    Ok(RangeRequest {
        key,
        range_end,
        limit: flags.int("limit"),
        revision: flags.int("rev").max(0),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: flags.bool("keys-only"),
        count_only: flags.bool("count-only"),
        ..RangeRequest::default()
    })
}

/// The request of `put`; `input` reads a value that is not among the arguments.
pub(super) fn put_request(
    flags: &Flags,
    arguments: &[Vec<u8>],
    input: impl FnOnce() -> Option<Vec<u8>>,
) -> Result<PutRequest, Failure> {
    let missing =
        || Failure::arguments("put command needs 1 argument and input from stdin or 2 arguments");
    let ignore_value = flags.bool("ignore-value");
    let key = arguments.first().ok_or_else(missing)?;
    if ignore_value && arguments.len() > 1 {
        return Err(Failure::arguments(
            "put command needs only 1 argument when 'ignore-value' is set",
        ));
    }
    let value = match arguments.get(1) {
        Some(value) => value.clone(),
        None if ignore_value => Vec::new(),
        None => input().ok_or_else(missing)?,
    };
    let lease = go::parse_int(&flags.text("lease"), 16).map_err(|error| {
        Failure::arguments(format!("bad lease ID ({error}), expecting ID in Hex"))
    })?;
    Ok(PutRequest {
        key: Bytes::copy_from_slice(key),
        value: Bytes::from(value),
        lease,
        prev_kv: flags.bool("prev-kv"),
        ignore_value,
        ignore_lease: flags.bool("ignore-lease"),
    })
}

/// The request of `del`.
pub(super) fn delete_request(
    flags: &Flags,
    arguments: &[Vec<u8>],
) -> Result<DeleteRangeRequest, Failure> {
    let (key, end) = match arguments {
        [key] => (key, None),
        [key, end] => (key, Some(end)),
        _ => {
            let text =
                "del command needs one argument as key and an optional argument as range_end";
            return Err(Failure::arguments(text));
        }
    };
    check_one_range(flags)?;
    let (key, range_end) = range(flags, key, end)?;
    if end.is_some() && !flags.bool("range") {
        terminal::error_line(
            "In etcd v3.6, the operation will be suspended for a few seconds to provide the user time to verify range.",
        );
    }
    Ok(DeleteRangeRequest { key, range_end, prev_kv: flags.bool("prev-kv") })
}

fn check_one_range(flags: &Flags) -> Result<(), Failure> {
    if flags.bool("prefix") && flags.bool("from-key") {
        return Err(Failure::arguments(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    Ok(())
}

/// Key and range end from the arguments and the flags that stand for a range end.
fn range(flags: &Flags, key: &[u8], end: Option<&Vec<u8>>) -> Result<(Bytes, Bytes), Failure> {
    let (prefix, from_key) = (flags.bool("prefix"), flags.bool("from-key"));
    let key = Bytes::copy_from_slice(key);
    if let Some(end) = end {
        if prefix || from_key {
            return Err(Failure::arguments(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
            ));
        }
        return Ok((key, Bytes::copy_from_slice(end)));
    }
    if prefix {
        return Ok(client::range_of_prefix(key));
    }
    if from_key {
        return Ok((if key.is_empty() { NUL } else { key }, NUL));
    }
    Ok((key, Bytes::new()))
}

fn sorting(flags: &Flags) -> Result<(SortOrder, SortTarget), Failure> {
    let (order, target) = (flags.text("order"), flags.text("sort-by"));
    let order = match order.to_uppercase().as_str() {
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        "" => SortOrder::None,
        _ => return Err(Failure::new(Exit::BadFeature, format!("bad sort order {order}"))),
    };
    let target = match target.to_uppercase().as_str() {
        "CREATE" => SortTarget::Create,
        "KEY" | "" => SortTarget::Key,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::new(Exit::BadFeature, format!("bad sort target {target}"))),
    };
    // Ascending by key is how a server answers without sorting, which spares it reading the whole range under a limit.
    let order = if (order, target) == (SortOrder::Ascend, SortTarget::Key) {
        SortOrder::None
    } else {
        order
    };
    Ok((order, target))
}
