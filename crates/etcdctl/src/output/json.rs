//! The JSON format: Go's `encoding/json` of the protobuf structs, not the gateway's encoding.
//!
//! Names are the proto fields', in order of definition; zero values are left out except where the client library wraps the message in a
//! struct of its own; bytes are base64, 64-bit integers and enums are numbers; `<`, `>` and `&` in strings are escaped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb;
use serde::{Serialize, Serializer};
use serde_json::ser::{CharEscape, Formatter};

use super::{Answer, Health, header};

/// Renders any answer.
pub fn render(answer: Answer<'_>, hex: bool) -> String {
    match answer {
        Answer::Put(response) => line(&Put::from(response)),
        Answer::Get(response) => line(&Range::from(response)),
        Answer::Del(response) => line(&DeleteRange::from(response)),
        Answer::Txn(response) => line(&Txn::from(response)),
        Answer::Watch(response) => line(&Watch::from(response)),
        Answer::LeaseGrant(response) => line(&Grant {
            header: header(response.header.as_ref()).into(),
            id: response.id,
            ttl: response.ttl,
            error: &response.error,
        }),
        Answer::LeaseRevoke { response, .. } => line(&HeaderOnly::from(response.header.as_ref())),
        Answer::LeaseKeepAlive(response) => line(&KeepAlive {
            header: header(response.header.as_ref()).into(),
            id: response.id,
            ttl: response.ttl,
        }),
        Answer::LeaseTimeToLive { response, .. } => line(&TimeToLive::from(response)),
        Answer::LeaseList(response) => line(&LeaseList {
            header: header(response.header.as_ref()).into(),
            leases: response.leases.iter().map(|lease| LeaseId { id: lease.id }).collect(),
        }),
        Answer::MemberList(response) if hex => line(&HexMembers::from(response)),
        Answer::MemberList(response) => {
            line(&Members::new(response.header.as_ref(), None, &response.members))
        }
        Answer::MemberAdd(response) => line(&Members::new(
            response.header.as_ref(),
            response.member.as_ref(),
            &response.members,
        )),
        Answer::MemberRemove { response, .. } => {
            line(&Members::new(response.header.as_ref(), None, &response.members))
        }
        Answer::MemberUpdate { response, .. } => {
            line(&Members::new(response.header.as_ref(), None, &response.members))
        }
        Answer::MemberPromote { response, .. } => {
            line(&Members::new(response.header.as_ref(), None, &response.members))
        }
        Answer::EndpointHealth(list) => {
            line(&list.iter().map(HealthView::from).collect::<Vec<_>>())
        }
        Answer::EndpointStatus(list) => {
            line(&list.iter().map(EndpointStatus::from).collect::<Vec<_>>())
        }
        Answer::EndpointHashKv(list) => {
            line(&list.iter().map(EndpointHash::from).collect::<Vec<_>>())
        }
        Answer::Alarm(response) => line(&Alarms {
            header: response.header.as_ref().map(Header::from),
            alarms: response.alarms.iter().map(Alarm::from).collect(),
        }),
        Answer::MoveLeader { response, .. } => line(&HeaderOnly::from(response.header.as_ref())),
    }
}

/// Go's string escapes.
struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        text: &str,
    ) -> std::io::Result<()> {
        let mut plain = 0;
        for (place, c) in text.char_indices() {
            if matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') {
                writer.write_all(text.get(plain..place).unwrap_or_default().as_bytes())?;
                write!(writer, "\\u{:04x}", u32::from(c))?;
                plain = place + c.len_utf8();
            }
        }
        writer.write_all(text.get(plain..).unwrap_or_default().as_bytes())
    }

    fn write_char_escape<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> std::io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }
}

pub(super) fn line(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter);
    // Only maps with odd keys and failing writers make serde_json fail; there are neither.
    let _ = value.serialize(&mut serializer);
    bytes.push(b'\n');
    String::from_utf8(bytes).unwrap_or_default()
}

/// Go's `omitempty`.
pub(super) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn base64_bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Header {
    #[serde(skip_serializing_if = "is_zero")]
    cluster_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    member_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    raft_term: u64,
}

impl From<pb::ResponseHeader> for Header {
    fn from(header: pb::ResponseHeader) -> Self {
        Self::from(&header)
    }
}

impl From<&pb::ResponseHeader> for Header {
    fn from(header: &pb::ResponseHeader) -> Self {
        Self {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: header.revision,
            raft_term: header.raft_term,
        }
    }
}

#[derive(Serialize)]
struct HeaderOnly {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
}

impl From<Option<&pb::ResponseHeader>> for HeaderOnly {
    fn from(header: Option<&pb::ResponseHeader>) -> Self {
        Self { header: header.map(Header::from) }
    }
}

#[derive(Serialize)]
struct Kv<'a> {
    #[serde(skip_serializing_if = "is_zero", serialize_with = "base64_bytes")]
    key: &'a [u8],
    #[serde(skip_serializing_if = "is_zero")]
    create_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    mod_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    version: i64,
    #[serde(skip_serializing_if = "is_zero", serialize_with = "base64_bytes")]
    value: &'a [u8],
    #[serde(skip_serializing_if = "is_zero")]
    lease: i64,
}

impl<'a> From<&'a mvccpb::KeyValue> for Kv<'a> {
    fn from(kv: &'a mvccpb::KeyValue) -> Self {
        Self {
            key: &kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: &kv.value,
            lease: kv.lease,
        }
    }
}

fn kvs(kvs: &[mvccpb::KeyValue]) -> Vec<Kv<'_>> {
    kvs.iter().map(Kv::from).collect()
}

#[derive(Serialize)]
struct Put<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_kv: Option<Kv<'a>>,
}

impl<'a> From<&'a pb::PutResponse> for Put<'a> {
    fn from(response: &'a pb::PutResponse) -> Self {
        Self {
            header: response.header.as_ref().map(Header::from),
            prev_kv: response.prev_kv.as_ref().map(Kv::from),
        }
    }
}

#[derive(Serialize)]
struct Range<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kvs: Vec<Kv<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    more: bool,
    #[serde(skip_serializing_if = "is_zero")]
    count: i64,
}

impl<'a> From<&'a pb::RangeResponse> for Range<'a> {
    fn from(response: &'a pb::RangeResponse) -> Self {
        Self {
            header: response.header.as_ref().map(Header::from),
            kvs: kvs(&response.kvs),
            more: response.more,
            count: response.count,
        }
    }
}

#[derive(Serialize)]
struct DeleteRange<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "is_zero")]
    deleted: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    prev_kvs: Vec<Kv<'a>>,
}

impl<'a> From<&'a pb::DeleteRangeResponse> for DeleteRange<'a> {
    fn from(response: &'a pb::DeleteRangeResponse) -> Self {
        Self {
            header: response.header.as_ref().map(Header::from),
            deleted: response.deleted,
            prev_kvs: kvs(&response.prev_kvs),
        }
    }
}

#[derive(Serialize)]
struct Txn<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "is_zero")]
    succeeded: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    responses: Vec<Op<'a>>,
}

impl<'a> From<&'a pb::TxnResponse> for Txn<'a> {
    fn from(response: &'a pb::TxnResponse) -> Self {
        Self {
            header: response.header.as_ref().map(Header::from),
            succeeded: response.succeeded,
            responses: response.responses.iter().map(Op::from).collect(),
        }
    }
}

/// A oneof is a Go interface, whose field name and wrapper both show.
#[derive(Serialize)]
struct Op<'a> {
    #[serde(rename = "Response")]
    response: Option<OpResponse<'a>>,
}

#[derive(Serialize)]
enum OpResponse<'a> {
    #[serde(rename = "response_range")]
    Range(Range<'a>),
    #[serde(rename = "response_put")]
    Put(Put<'a>),
    #[serde(rename = "response_delete_range")]
    DeleteRange(DeleteRange<'a>),
    #[serde(rename = "response_txn")]
    Txn(Txn<'a>),
}

impl<'a> From<&'a pb::ResponseOp> for Op<'a> {
    fn from(op: &'a pb::ResponseOp) -> Self {
        let response = op.response.as_ref().map(|response| match response {
            Response::ResponseRange(response) => OpResponse::Range(response.into()),
            Response::ResponsePut(response) => OpResponse::Put(response.into()),
            Response::ResponseDeleteRange(response) => OpResponse::DeleteRange(response.into()),
            Response::ResponseTxn(response) => OpResponse::Txn(response.into()),
        });
        Self { response }
    }
}

/// The client library's own struct: names in capitals, zero values shown.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Watch<'a> {
    header: Header,
    /// `null` in a response that the client made because there is no watch.
    events: Option<Vec<Event<'a>>>,
    compact_revision: i64,
    canceled: bool,
    created: bool,
}

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type", skip_serializing_if = "is_zero")]
    kind: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv: Option<Kv<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_kv: Option<Kv<'a>>,
}

impl<'a> From<&'a pb::WatchResponse> for Watch<'a> {
    fn from(response: &'a pb::WatchResponse) -> Self {
        let event = |event: &'a mvccpb::Event| Event {
            kind: event.r#type,
            kv: event.kv.as_ref().map(Kv::from),
            prev_kv: event.prev_kv.as_ref().map(Kv::from),
        };
        Self {
            header: header(response.header.as_ref()).into(),
            events: response.header.is_some().then(|| response.events.iter().map(event).collect()),
            compact_revision: response.compact_revision,
            canceled: response.canceled,
            created: response.created,
        }
    }
}

#[derive(Serialize)]
struct Grant<'a> {
    #[serde(flatten)]
    header: Header,
    #[serde(rename = "ID")]
    id: i64,
    #[serde(rename = "TTL")]
    ttl: i64,
    #[serde(rename = "Error")]
    error: &'a str,
}

#[derive(Serialize)]
struct KeepAlive {
    #[serde(flatten)]
    header: Header,
    #[serde(rename = "ID")]
    id: i64,
    #[serde(rename = "TTL")]
    ttl: i64,
}

#[derive(Serialize)]
struct TimeToLive {
    #[serde(flatten)]
    header: Header,
    id: i64,
    ttl: i64,
    #[serde(rename = "granted-ttl")]
    granted_ttl: i64,
    /// `null` when there are none.
    keys: Option<Vec<String>>,
}

impl From<&pb::LeaseTimeToLiveResponse> for TimeToLive {
    fn from(response: &pb::LeaseTimeToLiveResponse) -> Self {
        let keys: Vec<String> = response.keys.iter().map(|key| STANDARD.encode(key)).collect();
        Self {
            header: header(response.header.as_ref()).into(),
            id: response.id,
            ttl: response.ttl,
            granted_ttl: response.granted_ttl,
            keys: (!keys.is_empty()).then_some(keys),
        }
    }
}

#[derive(Serialize)]
struct LeaseList {
    #[serde(flatten)]
    header: Header,
    leases: Vec<LeaseId>,
}

#[derive(Serialize)]
struct LeaseId {
    id: i64,
}

#[derive(Serialize)]
struct Members<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<MemberView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<MemberView<'a>>,
}

impl<'a> Members<'a> {
    fn new(
        header: Option<&pb::ResponseHeader>,
        member: Option<&'a pb::Member>,
        members: &'a [pb::Member],
    ) -> Self {
        Self {
            header: header.map(Header::from),
            member: member.map(MemberView::from),
            members: members.iter().map(MemberView::from).collect(),
        }
    }
}

#[derive(Serialize)]
struct MemberView<'a> {
    #[serde(rename = "ID", skip_serializing_if = "is_zero")]
    id: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "peerURLs", skip_serializing_if = "<[String]>::is_empty")]
    peer_urls: &'a [String],
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "is_zero")]
    is_learner: bool,
}

impl<'a> From<&'a pb::Member> for MemberView<'a> {
    fn from(member: &'a pb::Member) -> Self {
        Self {
            id: member.id,
            name: &member.name,
            peer_urls: &member.peer_urls,
            client_urls: &member.client_urls,
            is_learner: member.is_learner,
        }
    }
}

/// `member list --hex`. The letter case of `clientURLS` is 3.5's; the learner flag is not shown.
#[derive(Serialize)]
struct HexMembers<'a> {
    header: HexHeader,
    members: Vec<HexMember<'a>>,
}

#[derive(Serialize)]
struct HexHeader {
    cluster_id: String,
    member_id: String,
    raft_term: u64,
}

#[derive(Serialize)]
struct HexMember<'a> {
    #[serde(rename = "ID")]
    id: String,
    name: &'a str,
    #[serde(rename = "peerURLs")]
    peer_urls: Option<&'a [String]>,
    #[serde(rename = "clientURLS")]
    client_urls: Option<&'a [String]>,
}

impl<'a> From<&'a pb::MemberListResponse> for HexMembers<'a> {
    fn from(response: &'a pb::MemberListResponse) -> Self {
        let header = header(response.header.as_ref());
        let some = |urls: &'a Vec<String>| (!urls.is_empty()).then_some(urls.as_slice());
        let member = |member: &'a pb::Member| HexMember {
            id: format!("{:x}", member.id),
            name: &member.name,
            peer_urls: some(&member.peer_urls),
            client_urls: some(&member.client_urls),
        };
        Self {
            header: HexHeader {
                cluster_id: format!("{:x}", header.cluster_id),
                member_id: format!("{:x}", header.member_id),
                raft_term: header.raft_term,
            },
            members: response.members.iter().map(member).collect(),
        }
    }
}

#[derive(Serialize)]
struct HealthView<'a> {
    endpoint: &'a str,
    health: bool,
    took: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
}

impl<'a> From<&'a Health> for HealthView<'a> {
    fn from(health: &'a Health) -> Self {
        Self {
            endpoint: &health.endpoint,
            health: health.is_healthy,
            took: &health.took,
            error: &health.error,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointStatus<'a> {
    endpoint: &'a str,
    status: StatusView<'a>,
}

/// Fields of 3.5: those that later servers add are unknown to it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    db_size: i64,
    #[serde(skip_serializing_if = "is_zero")]
    leader: u64,
    #[serde(skip_serializing_if = "is_zero")]
    raft_index: u64,
    #[serde(skip_serializing_if = "is_zero")]
    raft_term: u64,
    #[serde(skip_serializing_if = "is_zero")]
    raft_applied_index: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    errors: &'a [String],
    #[serde(skip_serializing_if = "is_zero")]
    db_size_in_use: i64,
    #[serde(skip_serializing_if = "is_zero")]
    is_learner: bool,
}

impl<'a> From<&'a (String, pb::StatusResponse)> for EndpointStatus<'a> {
    fn from((endpoint, status): &'a (String, pb::StatusResponse)) -> Self {
        let status = StatusView {
            header: status.header.as_ref().map(Header::from),
            version: &status.version,
            db_size: status.db_size,
            leader: status.leader,
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.raft_applied_index,
            errors: &status.errors,
            db_size_in_use: status.db_size_in_use,
            is_learner: status.is_learner,
        };
        Self { endpoint, status }
    }
}

#[derive(Serialize)]
struct EndpointHash<'a> {
    #[serde(rename = "Endpoint")]
    endpoint: &'a str,
    #[serde(rename = "HashKV")]
    hash_kv: HashView,
}

#[derive(Serialize)]
struct HashView {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "is_zero")]
    hash: u32,
    #[serde(skip_serializing_if = "is_zero")]
    compact_revision: i64,
}

impl<'a> From<&'a (String, pb::HashKvResponse)> for EndpointHash<'a> {
    fn from((endpoint, response): &'a (String, pb::HashKvResponse)) -> Self {
        let hash_kv = HashView {
            header: response.header.as_ref().map(Header::from),
            hash: response.hash,
            compact_revision: response.compact_revision,
        };
        Self { endpoint, hash_kv }
    }
}

#[derive(Serialize)]
struct Alarms {
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Header>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    alarms: Vec<Alarm>,
}

#[derive(Serialize)]
struct Alarm {
    #[serde(rename = "memberID", skip_serializing_if = "is_zero")]
    member_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    alarm: i32,
}

impl From<&pb::AlarmMember> for Alarm {
    fn from(alarm: &pb::AlarmMember) -> Self {
        Self { member_id: alarm.member_id, alarm: alarm.alarm }
    }
}
