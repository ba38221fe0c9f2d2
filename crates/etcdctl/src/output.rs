//! What commands print: each answer in each of etcd's five formats.
//!
//! A format either renders an [`Answer`] or does not support it; that shows only after the call was made, as in etcd. Rendering is pure:
//! bytes come out, nothing is printed, and the golden tests compare them with what real etcdctl printed for the same messages.
//!
//! | module | format | shape |
//! | --- | --- | --- |
//! | [`simple`] | `simple` | for people, one line a fact |
//! | [`fields`] | `fields` | `"Name" : value`, one a line |
//! | [`json`] | `json` | one line, Go's encoding of the protobuf structs |
//! | [`table`] | `table` | box drawing, lists of members and endpoints only |
//! | [`protobuf`] | `protobuf` | the message's bytes |
//!
//! Upstream: etcdctl/ctlv3/command/printer*.go (3.5).

pub mod auth;
pub mod fields;
pub mod json;
pub mod protobuf;
pub mod simple;
pub mod table;

use proto::etcdserverpb as pb;

use crate::exit::{Exit, Failure};

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Simple,
    /// `"Name" : value` lines.
    Fields,
    /// Go's JSON.
    Json,
    /// Tables.
    Table,
    /// Raw messages.
    Protobuf,
}

impl Format {
    /// Reads the value of `--write-out`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "simple" => Ok(Self::Simple),
            "fields" => Ok(Self::Fields),
            "json" => Ok(Self::Json),
            "table" => Ok(Self::Table),
            "protobuf" => Ok(Self::Protobuf),
            _ => Err(Failure::new(Exit::BadFeature, "unsupported output format")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Fields => "fields",
            Self::Json => "json",
            Self::Table => "table",
            Self::Protobuf => "protobuf",
        }
    }
}

/// A format with the options that change its looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// The format.
    pub format: Format,
    /// `--hex`.
    pub hex: bool,
    /// `get --print-value-only`.
    pub value_only: bool,
}

/// How one endpoint fared in `endpoint health`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The endpoint's text.
    pub endpoint: String,
    /// Whether it is healthy.
    pub is_healthy: bool,
    /// How long it took, in Go's form.
    pub took: String,
    /// Why it is not; empty if it is.
    pub error: String,
}

/// Something to print.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// `put`
    Put(&'a pb::PutResponse),
    /// `get`
    Get(&'a pb::RangeResponse),
    /// `del`
    Del(&'a pb::DeleteRangeResponse),
    /// `txn`
    Txn(&'a pb::TxnResponse),
    /// One response of `watch`.
    Watch(&'a pb::WatchResponse),
    /// `lease grant`
    LeaseGrant(&'a pb::LeaseGrantResponse),
    /// `lease revoke`
    LeaseRevoke {
        /// The lease.
        id: i64,
        /// The server's answer, which does not name it.
        response: &'a pb::LeaseRevokeResponse,
    },
    /// One renewal of `lease keep-alive`.
    LeaseKeepAlive(&'a pb::LeaseKeepAliveResponse),
    /// `lease timetolive`
    LeaseTimeToLive {
        /// The answer.
        response: &'a pb::LeaseTimeToLiveResponse,
        /// Keys were asked for.
        keys: bool,
    },
    /// `lease list`
    LeaseList(&'a pb::LeaseLeasesResponse),
    /// `member list`
    MemberList(&'a pb::MemberListResponse),
    /// `member add`
    MemberAdd(&'a pb::MemberAddResponse),
    /// `member remove`
    MemberRemove {
        /// The member.
        id: u64,
        /// The answer.
        response: &'a pb::MemberRemoveResponse,
    },
    /// `member update`
    MemberUpdate {
        /// The member.
        id: u64,
        /// The answer.
        response: &'a pb::MemberUpdateResponse,
    },
    /// `member promote`
    MemberPromote {
        /// The member.
        id: u64,
        /// The answer.
        response: &'a pb::MemberPromoteResponse,
    },
    /// `endpoint health`
    EndpointHealth(&'a [Health]),
    /// `endpoint status`
    EndpointStatus(&'a [(String, pb::StatusResponse)]),
    /// `endpoint hashkv`
    EndpointHashKv(&'a [(String, pb::HashKvResponse)]),
    /// `alarm list`, `alarm disarm`
    Alarm(&'a pb::AlarmResponse),
    /// `move-leader`
    MoveLeader {
        /// Leader until now.
        from: u64,
        /// Leader from now on.
        to: u64,
        /// The answer.
        response: &'a pb::MoveLeaderResponse,
    },
}

/// What to print where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// For standard output.
    pub out: Vec<u8>,
    /// For standard error: only unhealthy endpoints in the simple format.
    pub err: Vec<u8>,
}

impl From<String> for Rendered {
    fn from(text: String) -> Self {
        Self { out: text.into_bytes(), err: Vec::new() }
    }
}

impl From<Vec<u8>> for Rendered {
    fn from(out: Vec<u8>) -> Self {
        Self { out, err: Vec::new() }
    }
}

/// Renders an answer.
pub fn render(answer: Answer<'_>, style: Style) -> Result<Rendered, Failure> {
    let rendered = match style.format {
        Format::Simple => Some(simple::render(answer, style.hex, style.value_only)),
        Format::Fields => fields::render(answer).map(Rendered::from),
        Format::Json => Some(Rendered::from(json::render(answer, style.hex))),
        Format::Table => table::render(answer).map(Rendered::from),
        Format::Protobuf => {
            if let Answer::LeaseRevoke { response, .. } = answer {
                return Err(protobuf::revoke_failure(response));
            }
            protobuf::render(answer).map(Rendered::from)
        }
    };
    rendered.ok_or_else(|| {
        Failure::new(
            Exit::BadFeature,
            format!("{} not supported as output format", style.format.name()),
        )
    })
}

/// The name of an event's type; 3.5 knows two.
pub(crate) fn event_type(event: &proto::mvccpb::Event) -> String {
    match proto::mvccpb::event::EventType::try_from(event.r#type) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => event.r#type.to_string(),
    }
}

/// The name of an alarm; one that 3.5 does not know is its number.
pub(crate) fn alarm_type(alarm: i32) -> String {
    match pb::AlarmType::try_from(alarm) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => alarm.to_string(),
    }
}

/// The header, or one of zeros: answers of real servers have one.
pub(crate) fn header(header: Option<&pb::ResponseHeader>) -> pb::ResponseHeader {
    header.copied().unwrap_or_default()
}
