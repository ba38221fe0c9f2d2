//! The simple format.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;

use super::{Answer, Rendered, event_type, header, table};

/// Renders any answer.
pub fn render(answer: Answer<'_>, hex: bool, value_only: bool) -> Rendered {
    let mut page = Page { out: Vec::new(), hex, value_only };
    match answer {
        Answer::EndpointHealth(list) => return health(list),
        Answer::Put(response) => page.put(response),
        Answer::Get(response) => page.get(response),
        Answer::Del(response) => page.del(response),
        Answer::Txn(response) => page.txn(response),
        Answer::Watch(response) => page.watch(response),
        Answer::LeaseGrant(response) => {
            page.line(&format!("lease {:016x} granted with TTL({}s)", response.id, response.ttl));
        }
        Answer::LeaseRevoke { id, .. } => page.line(&format!("lease {id:016x} revoked")),
        Answer::LeaseKeepAlive(response) => {
            page.line(&format!("lease {:016x} keepalived with TTL({})", response.id, response.ttl));
        }
        Answer::LeaseTimeToLive { response, keys } => page.time_to_live(response, keys),
        Answer::LeaseList(response) => page.leases(response),
        Answer::MemberList(response) => page.rows(&table::member_rows(response)),
        Answer::MemberAdd(response) => {
            let id = response.member.as_ref().map_or(0, |member| member.id);
            page.member(id, "added to", response.header.as_ref());
        }
        Answer::MemberRemove { id, response } => {
            page.member(id, "removed from", response.header.as_ref())
        }
        Answer::MemberUpdate { id, response } => {
            page.member(id, "updated in", response.header.as_ref())
        }
        Answer::MemberPromote { id, response } => {
            page.member(id, "promoted in", response.header.as_ref())
        }
        Answer::EndpointStatus(list) => page.rows(&table::status_rows(list)),
        Answer::EndpointHashKv(list) => page.rows(&table::hash_rows(list)),
        Answer::Alarm(response) => page.alarms(response),
        Answer::MoveLeader { from, to, .. } => {
            page.line(&format!("Leadership transferred from {from:x} to {to:x}"));
        }
    }
    Rendered::from(page.out)
}

struct Page {
    out: Vec<u8>,
    hex: bool,
    value_only: bool,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.push(b'\n');
    }

    fn kv(&mut self, kv: &KeyValue) {
        if !self.value_only {
            self.shown(&kv.key);
        }
        self.shown(&kv.value);
    }

    fn shown(&mut self, bytes: &[u8]) {
        if self.hex {
            let text: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            self.line(&text);
        } else {
            self.bytes(bytes);
        }
    }

    fn put(&mut self, response: &pb::PutResponse) {
        self.line("OK");
        if let Some(kv) = &response.prev_kv {
            self.kv(kv);
        }
    }

    fn get(&mut self, response: &pb::RangeResponse) {
        for kv in &response.kvs {
            self.kv(kv);
        }
    }

    fn del(&mut self, response: &pb::DeleteRangeResponse) {
        self.line(&response.deleted.to_string());
        for kv in &response.prev_kvs {
            self.kv(kv);
        }
    }

    fn txn(&mut self, response: &pb::TxnResponse) {
        self.line(if response.succeeded { "SUCCESS" } else { "FAILURE" });
        for op in &response.responses {
            self.line("");
            match &op.response {
                Some(Response::ResponseRange(response)) => self.get(response),
                Some(Response::ResponsePut(response)) => self.put(response),
                Some(Response::ResponseDeleteRange(response)) => self.del(response),
                // `txn` makes no nested transactions.
                Some(Response::ResponseTxn(_)) | None => self.line("unexpected response"),
            }
        }
    }

    fn watch(&mut self, response: &pb::WatchResponse) {
        for event in &response.events {
            self.line(&event_type(event));
            if let Some(kv) = &event.prev_kv {
                self.kv(kv);
            }
            self.kv(&event.kv.clone().unwrap_or_default());
        }
    }

    fn time_to_live(&mut self, response: &pb::LeaseTimeToLiveResponse, keys: bool) {
        let id = response.id;
        if response.granted_ttl == 0 && response.ttl == -1 {
            return self.line(&format!("lease {id:016x} already expired"));
        }
        let (granted, remaining) = (response.granted_ttl, response.ttl);
        let mut line =
            format!("lease {id:016x} granted with TTL({granted}s), remaining({remaining}s)")
                .into_bytes();
        if keys {
            line.extend_from_slice(b", attached keys([");
            line.extend_from_slice(&response.keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        self.bytes(&line);
    }

    fn leases(&mut self, response: &pb::LeaseLeasesResponse) {
        self.line(&format!("found {} leases", response.leases.len()));
        for lease in &response.leases {
            self.line(&format!("{:016x}", lease.id));
        }
    }

    fn member(&mut self, id: u64, verb: &str, of: Option<&pb::ResponseHeader>) {
        self.line(&format!("Member {id:16x} {verb} cluster {:16x}", header(of).cluster_id));
    }

    fn alarms(&mut self, response: &pb::AlarmResponse) {
        for alarm in &response.alarms {
            let mut line = String::new();
            if alarm.member_id != 0 {
                line.push_str(&format!("memberID:{} ", alarm.member_id));
            }
            if alarm.alarm != 0 {
                line.push_str(&format!("alarm:{} ", super::alarm_type(alarm.alarm)));
            }
            self.line(&line);
        }
    }

    fn rows(&mut self, rows: &[Vec<String>]) {
        for row in rows {
            self.line(&row.join(", "));
        }
    }
}

fn health(list: &[super::Health]) -> Rendered {
    let mut rendered = Rendered::default();
    for health in list {
        let endpoint = &health.endpoint;
        if health.error.is_empty() {
            let line = format!(
                "{endpoint} is healthy: successfully committed proposal: took = {}\n",
                health.took
            );
            rendered.out.extend_from_slice(line.as_bytes());
        } else {
            let line =
                format!("{endpoint} is unhealthy: failed to commit proposal: {}\n", health.error);
            rendered.err.extend_from_slice(line.as_bytes());
        }
    }
    rendered
}
