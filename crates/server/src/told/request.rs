//! Requests as etcd's log has them, in the text form of protocol buffers: `key:"k" value_size:3 `.
//!
//! What is stored is not in them (only its size), nor is a password. etcd changed its library in 3.7, and with it the form of
//! what it does not put together itself ([`Form`]). Where etcd writes all, long keys and long transactions are cut here.

use std::fmt::Write as _;

use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::internal_raft_request::Request as Op;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as TxnOp;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestHeader,
    RequestOp, TxnRequest,
};

use crate::version::Version;

/// Operations of a transaction that a line names; the others are counted.
const TXN_OPS_SHOWN: usize = 16;
/// Transactions within transactions that a line shows; in deeper ones, operations are counted.
const TXN_DEPTH_SHOWN: usize = 3;
/// Bytes of a key that a line shows.
const KEY_BYTES_SHOWN: usize = 256;

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Up to 3.6: `a:1 b:<c:2 > `.
    Angular,
    /// From 3.7 on: `a:1 b:{c:2}`.
    Curly,
}

impl Form {
    /// The form of a version.
    pub(crate) fn of(version: Version) -> Self {
        if version.minor < 7 { Self::Angular } else { Self::Curly }
    }

    /// A field that holds a message.
    fn nested(self, name: &str, message: &str) -> String {
        match self {
            Self::Angular => format!("{name}:<{message}> "),
            Self::Curly => format!("{name}:{{{message}}}"),
        }
    }
}

/// The fields of a message, those with their default values left out.
struct Fields {
    text: String,
    form: Form,
}

impl Fields {
    fn new(form: Form) -> Self {
        Self { text: String::new(), form }
    }

    fn add(mut self, name: &str, value: &dyn std::fmt::Display) -> Self {
        // Writing to a string cannot fail.
        let _ = match self.form {
            Form::Angular => write!(self.text, "{name}:{value} "),
            Form::Curly if self.text.is_empty() => write!(self.text, "{name}:{value}"),
            Form::Curly => write!(self.text, " {name}:{value}"),
        };
        self
    }

    fn bytes(self, name: &str, value: &[u8]) -> Self {
        if value.is_empty() {
            return self;
        }
        let value = quoted(value, self.form);
        self.add(name, &value)
    }

    fn number(self, name: &str, value: i64) -> Self {
        if value == 0 { self } else { self.add(name, &value) }
    }

    fn flag(self, name: &str, is_set: bool) -> Self {
        if is_set { self.add(name, &true) } else { self }
    }

    /// An enumeration's value other than its default; `None` for one that nobody knows.
    fn choice(self, name: &str, value: i32, known: Option<&str>) -> Self {
        match (value, known) {
            (0, _) => self,
            (_, Some(text)) => self.add(name, &text),
            (_, None) => self.add(name, &value),
        }
    }
}

/// Bytes between quotation marks. The newer form leaves what is UTF-8 as it is.
fn quoted(bytes: &[u8], form: Form) -> String {
    let shown = bytes.get(..KEY_BYTES_SHOWN).unwrap_or(bytes);
    let mut text = "\"".to_owned();
    match form {
        Form::Angular => shown.iter().for_each(|byte| escape(&mut text, char::from(*byte), form)),
        Form::Curly => {
            for chunk in shown.utf8_chunks() {
                chunk.valid().chars().for_each(|character| escape(&mut text, character, form));
                for byte in chunk.invalid() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
        }
    }
    text.push('"');
    text
}

/// A key as it is, cut where it is long.
pub(crate) fn shown_key(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(..KEY_BYTES_SHOWN).unwrap_or(key)).into_owned()
}

fn escape(text: &mut String, character: char, form: Form) {
    let code = u32::from(character);
    // Writing to a string cannot fail.
    let _ = match character {
        '"' | '\\' => write!(text, "\\{character}"),
        '\n' => write!(text, "\\n"),
        '\r' => write!(text, "\\r"),
        '\t' => write!(text, "\\t"),
        ' '..='~' => write!(text, "{character}"),
        _ if form == Form::Angular => write!(text, "\\{code:03o}"),
        _ if !character.is_control() => write!(text, "{character}"),
        _ if code < 0x80 => write!(text, "\\x{code:02x}"),
        _ => write!(text, "\\u{code:04x}"),
    };
}

/// A proposal.
pub(crate) fn proposal(request: &InternalRaftRequest, form: Form) -> String {
    let header = request.header.as_ref().map(|of| header(of, form)).unwrap_or_default();
    // What etcd puts together itself has the older form.
    let own = |name: &str, text: &str| format!("header:<{header}> {name}:<{text}>");
    let plain = |name: &str, text: &str| {
        let between = if form == Form::Curly { " " } else { "" };
        format!("{}{between}{}", form.nested("header", &header), form.nested(name, text))
    };
    match &request.request {
        Some(Op::Put(request)) => own("put", &put(request)),
        Some(Op::Txn(request)) => own("txn", &txn(request, form)),
        Some(Op::LeaseGrant(request)) => {
            own("lease_grant", &format!("ttl:{}-second id:{:016x}", request.ttl, request.id))
        }
        Some(Op::LeaseRevoke(request)) => own("lease_revoke", &format!("id:{:016x}", request.id)),
        Some(Op::AuthUserAdd(request)) => own("auth_user_add", &format!("name:{}", request.name)),
        Some(Op::AuthUserChangePassword(request)) => {
            own("auth_user_change_password", &format!("name:{}", request.name))
        }
        Some(Op::Authenticate(request)) => own("authenticate", &format!("name:{}", request.name)),
        Some(Op::DeleteRange(request)) => plain("delete_range", &delete_range(request, form)),
        Some(Op::Compaction(request)) => {
            let fields = Fields::new(form)
                .number("revision", request.revision)
                .flag("physical", request.physical);
            plain("compaction", &fields.text)
        }
        // What is in others is not looked through for secrets.
        Some(other) => plain(&field_name(machine::op_name(other)), ""),
        None => form.nested("header", &header),
    }
}

/// `ClusterVersionSet` as a field's name: `cluster_version_set`.
fn field_name(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_lowercase());
    }
    text
}

fn header(header: &RequestHeader, form: Form) -> String {
    let mut fields = Fields::new(form);
    if header.id != 0 {
        fields = fields.add("ID", &header.id);
    }
    fields = fields.bytes("username", header.username.as_bytes());
    if header.auth_revision != 0 {
        fields = fields.add("auth_revision", &header.auth_revision);
    }
    fields.text
}

/// A range.
pub(crate) fn range(request: &RangeRequest, form: Form) -> String {
    let order = SortOrder::try_from(request.sort_order).ok();
    let target = SortTarget::try_from(request.sort_target).ok();
    Fields::new(form)
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .number("limit", request.limit)
        .number("revision", request.revision)
        .choice("sort_order", request.sort_order, order.as_ref().map(SortOrder::as_str_name))
        .choice("sort_target", request.sort_target, target.as_ref().map(SortTarget::as_str_name))
        .flag("serializable", request.serializable)
        .flag("keys_only", request.keys_only)
        .flag("count_only", request.count_only)
        .number("min_mod_revision", request.min_mod_revision)
        .number("max_mod_revision", request.max_mod_revision)
        .number("min_create_revision", request.min_create_revision)
        .number("max_create_revision", request.max_create_revision)
        .text
}

/// A deletion.
pub(crate) fn delete_range(request: &DeleteRangeRequest, form: Form) -> String {
    Fields::new(form)
        .bytes("key", &request.key)
        .bytes("range_end", &request.range_end)
        .flag("prev_kv", request.prev_kv)
        .text
}

/// A put, without its value.
pub(crate) fn put(request: &PutRequest) -> String {
    Fields::new(Form::Angular)
        .bytes("key", &request.key)
        .number("value_size", size(&request.value))
        .number("lease", request.lease)
        .flag("prev_kv", request.prev_kv)
        .flag("ignore_value", request.ignore_value)
        .flag("ignore_lease", request.ignore_lease)
        .text
}

/// A transaction, without the values that it compares and stores.
pub(crate) fn txn(request: &TxnRequest, form: Form) -> String {
    txn_at(request, form, TXN_DEPTH_SHOWN)
}

fn txn_at(request: &TxnRequest, form: Form, depth: usize) -> String {
    if depth == 0 {
        return format!(
            "compare:{} success:{} failure:{}",
            request.compare.len(),
            request.success.len(),
            request.failure.len()
        );
    }
    let compares: Vec<String> =
        request.compare.iter().take(TXN_OPS_SHOWN).map(|of| compare(of, form)).collect();
    format!(
        "compare:<{}> success:<{}> failure:<{}>",
        compares.join(" "),
        operations(&request.success, form, depth),
        operations(&request.failure, form, depth)
    )
}

fn compare(compare: &Compare, form: Form) -> String {
    let form = match compare.target_union {
        Some(TargetUnion::Value(_)) => Form::Angular,
        Some(_) | None => form,
    };
    let result = CompareResult::try_from(compare.result).ok();
    let target = CompareTarget::try_from(compare.target).ok();
    let fields = Fields::new(form)
        .choice("result", compare.result, result.as_ref().map(CompareResult::as_str_name))
        .choice("target", compare.target, target.as_ref().map(CompareTarget::as_str_name))
        .bytes("key", &compare.key);
    // What was chosen is written, also when it is 0.
    let fields = match &compare.target_union {
        Some(TargetUnion::Version(version)) => fields.add("version", version),
        Some(TargetUnion::CreateRevision(revision)) => fields.add("create_revision", revision),
        Some(TargetUnion::ModRevision(revision)) => fields.add("mod_revision", revision),
        Some(TargetUnion::Lease(lease)) => fields.add("lease", lease),
        Some(TargetUnion::Value(value)) => fields.number("value_size", size(value)),
        None => fields,
    };
    fields.bytes("range_end", &compare.range_end).text
}

fn operations(operations: &[RequestOp], form: Form, depth: usize) -> String {
    let shown = operations.iter().take(TXN_OPS_SHOWN).map(|operation| match &operation.request {
        Some(TxnOp::RequestPut(request)) => format!("request_put:<{}>", put(request)),
        Some(TxnOp::RequestTxn(request)) => {
            format!("request_txn:<{}>", txn_at(request, form, depth - 1))
        }
        Some(TxnOp::RequestRange(request)) => form.nested("request_range", &range(request, form)),
        Some(TxnOp::RequestDeleteRange(request)) => {
            form.nested("request_delete_range", &delete_range(request, form))
        }
        None => String::new(),
    });
    let mut text = shown.collect::<Vec<_>>().join(" ");
    if operations.len() > TXN_OPS_SHOWN {
        let _ = write!(text, " and {} more", operations.len() - TXN_OPS_SHOWN);
    }
    text
}

fn size(value: &[u8]) -> i64 {
    i64::try_from(value.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transaction of etcd's lines below.
    fn example() -> TxnRequest {
        TxnRequest {
            compare: vec![
                Compare {
                    result: CompareResult::Greater.into(),
                    key: "k1".into(),
                    target_union: Some(TargetUnion::Version(0)),
                    ..Compare::default()
                },
                Compare {
                    target: CompareTarget::Value.into(),
                    key: "k2".into(),
                    target_union: Some(TargetUnion::Value("secret".into())),
                    ..Compare::default()
                },
            ],
            success: vec![RequestOp {
                request: Some(TxnOp::RequestPut(PutRequest {
                    key: "a".into(),
                    value: "secret".into(),
                    ..PutRequest::default()
                })),
            }],
            failure: vec![RequestOp {
                request: Some(TxnOp::RequestRange(RangeRequest {
                    key: "key1".into(),
                    ..RangeRequest::default()
                })),
            }],
        }
    }

    #[test]
    fn requests_read_as_each_versions() {
        let range_request = RangeRequest {
            key: "key".into(),
            range_end: "kez".into(),
            sort_order: SortOrder::Descend.into(),
            serializable: true,
            ..RangeRequest::default()
        };
        assert_eq!(
            range(&range_request, Form::Angular),
            "key:\"key\" range_end:\"kez\" sort_order:DESCEND serializable:true "
        );
        assert_eq!(
            range(&range_request, Form::Curly),
            "key:\"key\" range_end:\"kez\" sort_order:DESCEND serializable:true"
        );
        let head = "compare:<result:GREATER key:\"k1\" version:0";
        let rest = "target:VALUE key:\"k2\" value_size:6 > success:<request_put:<key:\"a\" value_size:6 >>";
        assert_eq!(
            txn(&example(), Form::Angular),
            format!("{head}  {rest} failure:<request_range:<key:\"key1\" > >")
        );
        assert_eq!(
            txn(&example(), Form::Curly),
            format!("{head} {rest} failure:<request_range:{{key:\"key1\"}}>")
        );
    }

    #[test]
    fn bytes_are_escaped_as_each_version_does() {
        let key = b"a\n\"\x01\xc3\xa9\xff";
        assert_eq!(quoted(key, Form::Angular), "\"a\\n\\\"\\001\\303\\251\\377\"");
        assert_eq!(quoted(key, Form::Curly), "\"a\\n\\\"\\x01é\\xff\"");
    }

    #[test]
    fn what_is_stored_and_passwords_stay_out() {
        let mut request = InternalRaftRequest {
            header: Some(RequestHeader { id: 7, ..RequestHeader::default() }),
            request: Some(Op::Txn(example())),
            ..InternalRaftRequest::default()
        };
        assert!(!proposal(&request, Form::Curly).contains("secret"));
        request.request = Some(Op::AuthUserAdd(proto::etcdserverpb::AuthUserAddRequest {
            name: "u".to_owned(),
            password: "secret".to_owned(),
            hashed_password: "secret".to_owned(),
            ..Default::default()
        }));
        assert_eq!(proposal(&request, Form::Curly), "header:<ID:7> auth_user_add:<name:u>");
        request.request = Some(Op::DeleteRange(DeleteRangeRequest {
            key: "k".into(),
            ..DeleteRangeRequest::default()
        }));
        assert_eq!(proposal(&request, Form::Angular), "header:<ID:7 > delete_range:<key:\"k\" > ");
        assert_eq!(proposal(&request, Form::Curly), "header:{ID:7} delete_range:{key:\"k\"}");
    }
}
