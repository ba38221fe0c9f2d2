//! The fields format: `"Name" : value`, one a line.

use std::fmt::{Display, Write};

use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::{Answer, event_type, header};
use crate::go;

/// Renders an answer, or `None` where etcd does not.
pub fn render(answer: Answer<'_>) -> Option<String> {
    let mut page = Page::default();
    match answer {
        Answer::Put(response) => page.put(response),
        Answer::Get(response) => page.get(response),
        Answer::Del(response) => page.del(response),
        Answer::Txn(response) => page.txn(response),
        Answer::Watch(response) => page.watch(response),
        Answer::LeaseGrant(response) => {
            page.header(response.header.as_ref());
            page.field("ID", response.id);
            page.field("TTL", response.ttl);
        }
        Answer::LeaseRevoke { response, .. } => page.header(response.header.as_ref()),
        Answer::LeaseKeepAlive(response) => {
            page.header(response.header.as_ref());
            page.field("ID", response.id);
            page.field("TTL", response.ttl);
        }
        Answer::LeaseTimeToLive { response, .. } => page.time_to_live(response),
        Answer::LeaseList(response) => {
            page.header(response.header.as_ref());
            for lease in &response.leases {
                page.field("ID", lease.id);
            }
        }
        Answer::MemberList(response) => page.members(response),
        Answer::EndpointHealth(list) => page.health(list),
        Answer::EndpointStatus(list) => page.status(list),
        Answer::EndpointHashKv(list) => page.hashes(list),
        Answer::Alarm(response) => {
            page.header(response.header.as_ref());
            for alarm in &response.alarms {
                page.field("MemberID", alarm.member_id);
                page.field("AlarmType", super::alarm_type(alarm.alarm));
                page.blank();
            }
        }
        Answer::MemberAdd(_)
        | Answer::MemberRemove { .. }
        | Answer::MemberUpdate { .. }
        | Answer::MemberPromote { .. }
        | Answer::MoveLeader { .. } => return None,
    }
    Some(page.out)
}

/// The fields of an answer's header.
pub(super) fn header_only(of: Option<&pb::ResponseHeader>) -> String {
    let mut page = Page::default();
    page.header(of);
    page.out
}

#[derive(Default)]
struct Page {
    out: String,
}

impl Page {
    fn field(&mut self, name: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "\"{name}\" : {value}");
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.field(name, go::quote(value));
    }

    fn blank(&mut self) {
        self.out.push('\n');
    }

    fn header(&mut self, of: Option<&pb::ResponseHeader>) {
        let header = header(of);
        self.field("ClusterID", header.cluster_id);
        self.field("MemberID", header.member_id);
        self.field("Revision", header.revision);
        self.field("RaftTerm", header.raft_term);
    }

    fn kv(&mut self, prefix: &str, kv: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.field(&format!("{prefix}Lease"), kv.lease);
    }

    fn put(&mut self, response: &pb::PutResponse) {
        self.header(response.header.as_ref());
        if let Some(kv) = &response.prev_kv {
            self.kv("Prev", kv);
        }
    }

    fn get(&mut self, response: &pb::RangeResponse) {
        self.header(response.header.as_ref());
        for kv in &response.kvs {
            self.kv("", kv);
        }
        self.field("More", response.more);
        self.field("Count", response.count);
    }

    fn del(&mut self, response: &pb::DeleteRangeResponse) {
        self.header(response.header.as_ref());
        self.field("Deleted", response.deleted);
        for kv in &response.prev_kvs {
            self.kv("Prev", kv);
        }
    }

    fn txn(&mut self, response: &pb::TxnResponse) {
        self.header(response.header.as_ref());
        self.field("Succeeded", response.succeeded);
        for op in &response.responses {
            match &op.response {
                Some(Response::ResponseRange(response)) => self.get(response),
                Some(Response::ResponsePut(response)) => self.put(response),
                Some(Response::ResponseDeleteRange(response)) => self.del(response),
                // `txn` makes no nested transactions.
                Some(Response::ResponseTxn(_)) | None => self.out.push_str("\"Unknown\"\n"),
            }
        }
    }

    fn watch(&mut self, response: &pb::WatchResponse) {
        self.header(response.header.as_ref());
        for event in &response.events {
            self.field("Type", event_type(event));
            if let Some(kv) = &event.prev_kv {
                self.kv("Prev", kv);
            }
            self.kv("", &event.kv.clone().unwrap_or_default());
        }
    }

    fn time_to_live(&mut self, response: &pb::LeaseTimeToLiveResponse) {
        self.header(response.header.as_ref());
        self.field("ID", response.id);
        self.field("TTL", response.ttl);
        self.field("GrantedTTL", response.granted_ttl);
        for key in &response.keys {
            self.quoted("Key", key);
        }
    }

    fn members(&mut self, response: &pb::MemberListResponse) {
        self.header(response.header.as_ref());
        for member in &response.members {
            self.field("ID", member.id);
            self.quoted("Name", member.name.as_bytes());
            for url in &member.peer_urls {
                self.quoted("PeerURL", url.as_bytes());
            }
            for url in &member.client_urls {
                self.quoted("ClientURL", url.as_bytes());
            }
            self.field("IsLearner", member.is_learner);
            self.blank();
        }
    }

    fn health(&mut self, list: &[super::Health]) {
        for health in list {
            self.quoted("Endpoint", health.endpoint.as_bytes());
            self.field("Health", health.is_healthy);
            self.field("Took", &health.took);
            self.field("Error", &health.error);
            self.blank();
        }
    }

    fn status(&mut self, list: &[(String, pb::StatusResponse)]) {
        for (endpoint, status) in list {
            self.header(status.header.as_ref());
            self.quoted("Version", status.version.as_bytes());
            self.field("DBSize", status.db_size);
            self.field("Leader", status.leader);
            self.field("IsLearner", status.is_learner);
            self.field("RaftIndex", status.raft_index);
            self.field("RaftTerm", status.raft_term);
            self.field("RaftAppliedIndex", status.raft_applied_index);
            self.field("Errors", format!("[{}]", status.errors.join(" ")));
            self.quoted("Endpoint", endpoint.as_bytes());
            self.blank();
        }
    }

    fn hashes(&mut self, list: &[(String, pb::HashKvResponse)]) {
        for (endpoint, response) in list {
            self.header(response.header.as_ref());
            self.quoted("Endpoint", endpoint.as_bytes());
            self.field("Hash", response.hash);
            self.blank();
        }
    }
}
