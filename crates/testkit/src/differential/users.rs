//! Requests of several users, and changes of what these may do.
//!
//! Few users, few roles, and permissions over few and overlapping ranges, so that requests are let in and turned away about as
//! often. Everybody has a token of the server that he speaks to; some send none, or one that was never given out. Users, roles,
//! passwords and authentication itself come and go meanwhile. A password is tried that was the user's when the answers to what was
//! sent so far are right.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proto::authpb::{Permission, UserAddOptions};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::request_op::Request as Op;

use super::generate::{Generator, Known};
use crate::api::{AuthRequest, AuthResponse, Request, Response};
use crate::random::Random;

/// The one whom nothing is refused.
pub(super) const ROOT: &str = "root";

const USERS: &[&str] = &[ROOT, "ann", "bob", "eve", ""];
const ROLES: &[&str] = &[ROOT, "reader", "writer", "some", ""];
const PASSWORDS: &[&str] = &["one", "two", ""];

/// Ranges of permissions: adjoining, overlapping, open, of one key, and malformed.
const RANGES: &[(&[u8], &[u8])] = &[
    (b"a", b"b"),
    (b"b", b"c"),
    (b"aa", b"b/2"),
    (b"b/", b"b0"),
    (b"c", b""),
    (b"d", b"\0"),
    (b"\0", b"\0"),
    (b"", b"b"),
    (b"c", b"a"),
];

/// Sent before anything else.
const USERS_AT_START: [&str; 4] = [ROOT, "ann", "bob", "eve"];

/// Which rules both servers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Those of etcd since 3.5.28 and 3.6.9: every request is looked at.
    Present,
    /// One of the servers is older. Requests are left out that it lets through unseen, or looks at in another order: transactions, leases, compactions,
    /// alarms.
    Old,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Somebody without a token.
    Nobody,
    /// Somebody with a token that nobody gave out.
    Stranger,
    /// A user, with the last token that the server gave him.
    User(&'static str),
}

/// A request and who sends it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// Who.
    pub(super) who: Who,
    /// What.
    pub(super) request: Request,
}

/// Draws who asks for what. Like the generator, fed with nothing but a server's answers.
#[derive(Debug)]
pub(super) struct Users {
    random: Random,
    rules: Rules,
    opening: VecDeque<AuthRequest>,
    /// As they should be.
    passwords: BTreeMap<String, String>,
}

impl Users {
    /// Starts the sequence of a seed.
    pub(super) fn new(seed: u64, rules: Rules) -> Self {
        Self {
            random: Random::new(seed ^ 0x5eed_0fa0),
            rules,
            opening: opening(),
            passwords: BTreeMap::new(),
        }
    }

    /// Returns the next requests: one that changes something, or several reads that may be sent at once.
    pub(super) fn next(&mut self, generator: &mut Generator, known: &Known) -> Vec<Step> {
        if let Some(request) = self.opening.pop_front() {
            return vec![Step { who: Who::Nobody, request: Request::Auth(request) }];
        }
        if self.random.one_in(5) {
            let request = self.auth();
            let who = if matches!(request, AuthRequest::Authenticate(_)) {
                Who::Nobody
            } else if self.random.one_in(4) {
                self.who()
            } else {
                Who::User(ROOT)
            };
            return vec![Step { who, request: Request::Auth(request) }];
        }
        if self.random.one_in(20) {
            let request = Request::Watch(self.watch());
            return self.sent_by(vec![request]);
        }
        if self.random.one_in(50) {
            let request = Request::Alarm(self.alarm());
            return self.sent_by(vec![request]);
        }
        self.sent_by(generator.next(known))
    }

    /// Somebody's requests, without those that cannot be compared: none may be left.
    fn sent_by(&mut self, requests: Vec<Request>) -> Vec<Step> {
        let who = self.who();
        let seen = requests.into_iter().filter(|r| self.rules == Rules::Present || is_seen(r));
        seen.filter(|request| !is_inverted(request)).map(|request| Step { who, request }).collect()
    }

    /// Takes over what an answer tells.
    pub(super) fn learn(&mut self, request: &Request, response: &Response) {
        let (Request::Auth(request), Response::Auth(_)) = (request, response) else { return };
        if let AuthRequest::UserAdd(pb::AuthUserAddRequest { name, password, .. })
        | AuthRequest::UserChangePassword(pb::AuthUserChangePasswordRequest {
            name,
            password,
            ..
        }) = request
        {
            self.passwords.insert(name.clone(), password.clone());
        }
    }

    /// The password that a user should have.
    pub(super) fn password(&self, name: &str) -> &str {
        self.passwords.get(name).map_or("", String::as_str)
    }

    fn who(&mut self) -> Who {
        match self.random.below(20) {
            0 => Who::Nobody,
            1 => Who::Stranger,
            2..=5 => Who::User(ROOT),
            6..=11 => Who::User("ann"),
            12..=16 => Who::User("bob"),
            _ => Who::User("eve"),
        }
    }

    fn user(&mut self) -> String {
        // The empty one is a mistake, and rare.
        let all = if self.random.one_in(30) { USERS } else { &USERS[..USERS.len() - 1] };
        self.random.pick(all).to_owned()
    }

    fn role(&mut self) -> String {
        let all = if self.random.one_in(30) { ROLES } else { &ROLES[..ROLES.len() - 1] };
        self.random.pick(all).to_owned()
    }

    fn auth(&mut self) -> AuthRequest {
        match self.random.below(100) {
            0..=39 => {
                let name = self.user();
                let right = self.password(&name).to_owned();
                let is_right = !self.random.one_in(8);
                let password =
                    if is_right { right } else { self.random.pick(PASSWORDS).to_owned() };
                AuthRequest::Authenticate(pb::AuthenticateRequest { name, password })
            }
            40..=51 => AuthRequest::RoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
                name: self.role(),
                perm: (!self.random.one_in(30)).then(|| permission(&mut self.random)),
            }),
            52..=57 => {
                let (key, range_end) = self.random.pick(RANGES);
                AuthRequest::RoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
                    role: self.role(),
                    key: Bytes::from_static(key),
                    range_end: Bytes::from_static(range_end),
                })
            }
            58..=65 => AuthRequest::UserGrantRole(pb::AuthUserGrantRoleRequest {
                user: self.user(),
                role: self.role(),
            }),
            66..=69 => AuthRequest::UserRevokeRole(pb::AuthUserRevokeRoleRequest {
                name: self.user(),
                role: self.role(),
            }),
            70..=74 => AuthRequest::UserAdd(self.new_user()),
            75 => AuthRequest::UserDelete(pb::AuthUserDeleteRequest { name: self.user() }),
            76..=78 => {
                AuthRequest::UserChangePassword(pb::AuthUserChangePasswordRequest {
                    name: self.user(),
                    // With none, etcd 3.5 and its successors keep different things.
                    password: self.random.pick(&PASSWORDS[..2]).to_owned(),
                    ..Default::default()
                })
            }
            79..=82 => AuthRequest::RoleAdd(pb::AuthRoleAddRequest { name: self.role() }),
            83 => AuthRequest::RoleDelete(pb::AuthRoleDeleteRequest { role: self.role() }),
            84..=87 => AuthRequest::UserGet(pb::AuthUserGetRequest { name: self.user() }),
            88..=91 => AuthRequest::RoleGet(pb::AuthRoleGetRequest { role: self.role() }),
            92 => AuthRequest::UserList(pb::AuthUserListRequest {}),
            93 => AuthRequest::RoleList(pb::AuthRoleListRequest {}),
            94 if self.random.one_in(3) => AuthRequest::AuthDisable(pb::AuthDisableRequest {}),
            95 | 96 => AuthRequest::AuthStatus(pb::AuthStatusRequest {}),
            _ => AuthRequest::AuthEnable(pb::AuthEnableRequest {}),
        }
    }

    fn new_user(&mut self) -> pb::AuthUserAddRequest {
        let name = self.user();
        // The test itself comes as root.
        let no_password = name != ROOT && self.random.one_in(10);
        pb::AuthUserAddRequest {
            name,
            password: self.random.pick(PASSWORDS).to_owned(),
            options: no_password.then_some(UserAddOptions { no_password }),
            ..Default::default()
        }
    }

    /// The alarm that refuses what makes the database grow; disarmed more often than raised.
    fn alarm(&mut self) -> pb::AlarmRequest {
        let action = match self.random.below(6) {
            0 => AlarmAction::Activate,
            1..=3 => AlarmAction::Deactivate,
            _ => AlarmAction::Get,
        };
        pb::AlarmRequest {
            action: action.into(),
            member_id: self.random.pick(&[0, 0, 7]),
            alarm: pb::AlarmType::Nospace.into(),
        }
    }

    fn watch(&mut self) -> pb::WatchCreateRequest {
        let (key, range_end) = self.random.pick(RANGES);
        pb::WatchCreateRequest {
            key: Bytes::from_static(key),
            range_end: Bytes::from_static(range_end),
            ..Default::default()
        }
    }
}

/// Whether some range of a request ends at or before its start. It names no key; whether it is allowed depends, in real etcd,
/// on the shape of the tree in which a user's permissions are kept.
fn is_inverted(request: &Request) -> bool {
    let between = |key: &[u8], end: &[u8]| !end.is_empty() && end != b"\0" && end <= key;
    match request {
        Request::Range(range) | Request::RangeStream(range) => {
            between(&range.key, &range.range_end)
        }
        Request::DeleteRange(delete) => between(&delete.key, &delete.range_end),
        Request::Watch(watch) => between(&watch.key, &watch.range_end),
        Request::Txn(txn) => {
            let in_compare = |compare: &pb::Compare| between(&compare.key, &compare.range_end);
            let in_op = |op: &pb::RequestOp| match &op.request {
                Some(Op::RequestRange(range)) => between(&range.key, &range.range_end),
                Some(Op::RequestDeleteRange(delete)) => between(&delete.key, &delete.range_end),
                Some(Op::RequestTxn(txn)) => is_inverted(&Request::Txn(txn.clone())),
                Some(Op::RequestPut(_)) | None => false,
            };
            txn.compare.iter().any(in_compare) || txn.success.iter().chain(&txn.failure).any(in_op)
        }
        Request::Put(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases(_)
        | Request::HashKv(_)
        | Request::Alarm(_)
        | Request::Watches(_)
        | Request::Auth(_) => false,
    }
}

/// Whether an old server too looks at who sends this.
fn is_seen(request: &Request) -> bool {
    match request {
        Request::Txn(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseLeases(_)
        | Request::LeaseTimeToLive(_)
        | Request::Alarm(_) => false,
        Request::Range(_)
        | Request::RangeStream(_)
        | Request::Put(_)
        | Request::DeleteRange(_)
        | Request::HashKv(_)
        | Request::Watch(_)
        | Request::Watches(_)
        | Request::Auth(_) => true,
    }
}

fn permission(random: &mut Random) -> Permission {
    let (key, range_end) = random.pick(RANGES);
    Permission {
        perm_type: i32::try_from(random.below(3)).unwrap_or(0),
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(range_end),
    }
}

/// Users with a role each, roles with a permission each, authentication, and a token for everybody.
fn opening() -> VecDeque<AuthRequest> {
    let mut requests = VecDeque::new();
    for name in USERS_AT_START {
        requests.push_back(AuthRequest::UserAdd(pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: "one".to_owned(),
            ..Default::default()
        }));
    }
    let mut random = Random::new(1);
    for (user, role) in [(ROOT, ROOT), ("ann", "reader"), ("bob", "writer"), ("eve", "some")] {
        requests.push_back(AuthRequest::RoleAdd(pb::AuthRoleAddRequest { name: role.to_owned() }));
        for _ in 0..2 {
            requests.push_back(AuthRequest::RoleGrantPermission(
                pb::AuthRoleGrantPermissionRequest {
                    name: role.to_owned(),
                    perm: Some(permission(&mut random)),
                },
            ));
        }
        requests.push_back(AuthRequest::UserGrantRole(pb::AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        }));
    }
    requests.push_back(AuthRequest::AuthEnable(pb::AuthEnableRequest {}));
    for name in USERS_AT_START {
        requests.push_back(AuthRequest::Authenticate(pb::AuthenticateRequest {
            name: name.to_owned(),
            password: "one".to_owned(),
        }));
    }
    requests
}

/// The token in an answer, and whose it is.
pub(super) fn token(request: &Request, response: &Response) -> Option<(String, String)> {
    match (request, response) {
        (
            Request::Auth(AuthRequest::Authenticate(request)),
            Response::Auth(AuthResponse::Authenticate(response)),
        ) => Some((request.name.clone(), response.token.clone())),
        _ => None,
    }
}
