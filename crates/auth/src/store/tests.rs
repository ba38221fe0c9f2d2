use proptest::prelude::*;
use proto::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest,
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, Compare,
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    request_op::Request as TxnOp,
};
use vfs::sim::SimDisk;

use super::*;

const RULES: Rules = Rules { shows_root_rights: true, status_is_public: false };
const ROOT: Caller<'static> = Caller { user: "root", revision: u64::MAX };

fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

/// A store with its backend.
struct World {
    store: Store,
    writer: Writer,
}

impl World {
    fn new() -> Self {
        let options = backend::Options { initial_map_bytes: 0, ..backend::Options::default() };
        let (mut writer, _) = backend::open(&SimDisk::new().dir(), &options).unwrap();
        Self { store: Store::open(&mut writer).unwrap(), writer }
    }

    fn apply_as(&mut self, caller: Caller<'_>, op: &Op) -> Applied {
        self.store.apply(7, op, caller, RULES, &mut self.writer).unwrap()
    }

    fn apply(&mut self, op: Op) -> Result<Answer, Error> {
        self.apply_as(ROOT, &op).outcome
    }

    fn ok(&mut self, op: Op) -> Answer {
        self.apply(op).unwrap()
    }

    fn revision(&self) -> u64 {
        self.store.snapshot().revision()
    }

    /// Root, and authentication on.
    fn guarded() -> Self {
        let mut world = Self::new();
        world.ok(user_add("root", "rootpw"));
        world.ok(grant_role("root", "root"));
        world.ok(Op::AuthEnable(AuthEnableRequest {}));
        world
    }

    fn caller<'a>(&self, user: &'a str) -> Caller<'a> {
        Caller { user, revision: self.revision() }
    }

    /// A user with a role of the same name that has these permissions.
    fn user_with(&mut self, name: &str, permissions: &[(Type, &str, &str)]) {
        self.ok(user_add(name, "pw"));
        self.ok(role_add(name));
        for &(kind, key, end) in permissions {
            self.ok(grant(name, kind, key, end));
        }
        self.ok(grant_role(name, name));
    }
}

fn user_add(name: &str, password: &str) -> Op {
    Op::AuthUserAdd(AuthUserAddRequest {
        name: name.to_owned(),
        hashed_password: hash(password),
        ..Default::default()
    })
}

fn role_add(name: &str) -> Op {
    Op::AuthRoleAdd(AuthRoleAddRequest { name: name.to_owned() })
}

fn grant_role(user: &str, role: &str) -> Op {
    Op::AuthUserGrantRole(AuthUserGrantRoleRequest { user: user.to_owned(), role: role.to_owned() })
}

fn grant(role: &str, kind: Type, key: &str, end: &str) -> Op {
    Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest {
        name: role.to_owned(),
        perm: Some(Permission {
            perm_type: kind.into(),
            key: Bytes::from(key.to_owned()),
            range_end: Bytes::from(end.to_owned()),
        }),
    })
}

fn revoke_permission(role: &str, key: &str, end: &str) -> Op {
    Op::AuthRoleRevokePermission(AuthRoleRevokePermissionRequest {
        role: role.to_owned(),
        key: Bytes::from(key.to_owned()),
        range_end: Bytes::from(end.to_owned()),
    })
}

fn user_delete(name: &str) -> Op {
    Op::AuthUserDelete(AuthUserDeleteRequest { name: name.to_owned() })
}

fn revoke_role(user: &str, role: &str) -> Op {
    Op::AuthUserRevokeRole(AuthUserRevokeRoleRequest {
        name: user.to_owned(),
        role: role.to_owned(),
    })
}

fn role_delete(name: &str) -> Op {
    Op::AuthRoleDelete(AuthRoleDeleteRequest { role: name.to_owned() })
}

fn change_password(name: &str, password: &str) -> Op {
    Op::AuthUserChangePassword(AuthUserChangePasswordRequest {
        name: name.to_owned(),
        hashed_password: hash(password),
        ..Default::default()
    })
}

#[test]
fn only_changes_raise_the_revision() {
    let mut world = World::new();
    let mut expected = 1;
    for (op, is_change) in [
        (user_add("root", "pw"), true),
        (user_add("root", "pw"), false),
        (grant_role("root", "root"), true),
        (grant_role("root", "root"), false),
        (role_add("r"), true),
        (grant("r", Type::Read, "a", ""), true),
        (grant("r", Type::Read, "a", ""), true),
        (revoke_permission("r", "a", ""), true),
        (revoke_permission("r", "a", ""), false),
        (Op::AuthEnable(AuthEnableRequest {}), false),
        (change_password("root", "new"), true),
        (Op::AuthDisable(Default::default()), true),
        (Op::AuthDisable(Default::default()), false),
        (role_delete("r"), true),
    ] {
        let _ = world.apply(op.clone());
        expected += u64::from(is_change);
        assert_eq!(world.revision(), expected, "{op:?}");
    }
    assert_eq!(rows::revision(&world.writer.view()).unwrap(), expected);
}

#[test]
fn requests_are_refused_for_etcd_s_reasons() {
    let mut world = World::new();
    let enable = || Op::AuthEnable(AuthEnableRequest {});
    assert_eq!(world.apply(enable()), Err(Error::RootUserNotExist));
    world.ok(user_add("root", "pw"));
    assert_eq!(world.apply(enable()), Err(Error::RootRoleNotExist));
    world.ok(grant_role("root", "root"));
    world.ok(enable());
    for (op, error) in [
        (user_add("", "pw"), Error::UserEmpty),
        (user_add("root", "pw"), Error::UserAlreadyExist),
        (user_delete("root"), Error::InvalidAuthMgmt),
        (user_delete("none"), Error::UserNotFound),
        (change_password("none", "pw"), Error::UserNotFound),
        (grant_role("none", "r"), Error::UserNotFound),
        (grant_role("root", "none"), Error::RoleNotFound),
        (revoke_role("root", "root"), Error::InvalidAuthMgmt),
        (revoke_role("root", "r"), Error::RoleNotGranted),
        (revoke_role("none", "r"), Error::UserNotFound),
        (role_add(""), Error::RoleEmpty),
        (role_delete("root"), Error::InvalidAuthMgmt),
        (role_delete("none"), Error::RoleNotFound),
        (grant("none", Type::Read, "a", ""), Error::RoleNotFound),
        (grant("none", Type::Read, "", ""), Error::InvalidAuthMgmt),
        (grant("none", Type::Read, "b", "a"), Error::InvalidAuthMgmt),
        (
            Op::AuthRoleGrantPermission(AuthRoleGrantPermissionRequest::default()),
            Error::PermissionNotGiven,
        ),
        (revoke_permission("none", "a", ""), Error::RoleNotFound),
    ] {
        assert_eq!(world.apply(op.clone()), Err(error), "{op:?}");
    }
}

#[test]
fn administration_is_root_s() {
    let mut world = World::guarded();
    world.user_with("u1", &[]);
    world.user_with("u2", &[]);
    let get_user = |name: &str| Op::AuthUserGet(AuthUserGetRequest { name: name.to_owned() });
    let get_role = |name: &str| Op::AuthRoleGet(AuthRoleGetRequest { role: name.to_owned() });
    let u1 = Caller { user: "u1", revision: 1 };
    for (op, expected) in [
        (user_add("u3", "pw"), Err(Error::PermissionDenied)),
        (change_password("u1", "pw"), Err(Error::PermissionDenied)),
        (Op::AuthStatus(Default::default()), Err(Error::PermissionDenied)),
        (get_user("u1"), Ok(Answer::Roles(vec!["u1".to_owned()]))),
        (get_user("u2"), Err(Error::PermissionDenied)),
        // That it is not there is not for u1 to know.
        (get_user("u9"), Err(Error::PermissionDenied)),
        (get_role("u1"), Ok(Answer::Permissions(Vec::new()))),
        (get_role("u2"), Err(Error::PermissionDenied)),
        (get_role("u9"), Err(Error::PermissionDenied)),
    ] {
        assert_eq!(world.apply_as(u1, &op).outcome, expected, "{op:?}");
    }
    for (caller, error) in [
        (Caller::NOBODY, Error::UserEmpty),
        (Caller { user: "gone", revision: 99 }, Error::UserNotFound),
    ] {
        assert_eq!(world.apply_as(caller, &user_add("u3", "pw")).outcome, Err(error));
    }
}

#[test]
fn the_version_says_what_is_shown() {
    let mut world = World::guarded();
    world.ok(role_add("root"));
    let old = Rules { shows_root_rights: false, status_is_public: false };
    let new = Rules { shows_root_rights: true, status_is_public: true };
    let get = Op::AuthRoleGet(AuthRoleGetRequest { role: "root".to_owned() });
    let mut shown = |rules| {
        let applied = world.store.apply(7, &get, ROOT, rules, &mut world.writer).unwrap();
        let Ok(Answer::Permissions(permissions)) = applied.outcome else { panic!("{applied:?}") };
        permissions.len()
    };
    assert_eq!((shown(old), shown(new)), (0, 1));
    let status = Op::AuthStatus(Default::default());
    let mut ask =
        |rules| world.store.apply(7, &status, Caller::NOBODY, rules, &mut world.writer).unwrap();
    assert_eq!(ask(old).outcome, Err(Error::UserEmpty));
    assert!(ask(new).outcome.is_ok());
}

#[test]
fn a_login_is_of_a_user_with_a_password() {
    let mut world = World::guarded();
    world.ok(user_add("u1", "pw"));
    let no_password = Some(UserAddOptions { no_password: true });
    let request =
        AuthUserAddRequest { name: "cn".to_owned(), options: no_password, ..Default::default() };
    world.ok(Op::AuthUserAdd(request));
    let state = world.store.snapshot();
    assert_eq!(state.login("u1").unwrap().hash, "pw");
    assert_eq!(state.login("none"), Err(Error::AuthFailed));
    assert_eq!(state.login("cn"), Err(Error::PasswordGivenForNoPasswordUser));
    let authenticate = |name: &str| {
        Op::Authenticate(InternalAuthenticateRequest {
            name: name.to_owned(),
            simple_token: "abc".to_owned(),
            ..Default::default()
        })
    };
    let applied = world.apply_as(Caller::NOBODY, &authenticate("u1"));
    let revision = world.revision();
    assert_eq!(applied.outcome, Ok(Answer::Authenticated { revision, index: 7 }));
    assert_eq!(
        applied.effect,
        Some(Effect::LetIn { user: "u1".to_owned(), prefix: "abc".to_owned() })
    );
    assert_eq!(world.apply_as(Caller::NOBODY, &authenticate("cn")).outcome, Err(Error::AuthFailed));
    // A new password makes the tokens void, and a user without one keeps none.
    let changed = |user: &str| Some(Effect::UserChanged { user: user.to_owned() });
    assert_eq!(world.apply_as(ROOT, &change_password("u1", "new")).effect, changed("u1"));
    assert_eq!(world.apply_as(ROOT, &change_password("cn", "new")).effect, changed("cn"));
    assert_eq!(world.store.snapshot().login("u1").unwrap().hash, "new");
    assert_eq!(world.store.snapshot().login("cn"), Err(Error::PasswordGivenForNoPasswordUser));
    assert_eq!(world.apply_as(ROOT, &user_delete("u1")).effect, changed("u1"));
}

#[test]
fn rights_follow_roles_at_once() {
    let mut world = World::guarded();
    world.user_with("u1", &[(Type::Read, "a", "c")]);
    let read = |world: &World, key: &str| {
        let state = world.store.snapshot();
        state.check_read(world.caller("u1"), key.as_bytes(), &[])
    };
    assert_eq!(read(&world, "b"), Ok(()));
    assert_eq!(
        world.store.snapshot().check_write(world.caller("u1"), b"b", &[]),
        Err(Error::PermissionDenied)
    );
    world.ok(grant("u1", Type::Write, "a", "c"));
    assert_eq!(read(&world, "b"), Err(Error::PermissionDenied), "the same range is replaced");
    world.ok(grant("u1", Type::Read, "b", ""));
    assert_eq!(read(&world, "b"), Ok(()));
    world.ok(role_delete("u1"));
    assert_eq!(read(&world, "b"), Err(Error::PermissionDenied));
    world.ok(grant_role("u1", "root"));
    assert_eq!(read(&world, "zzz"), Ok(()));
    let before = Caller { user: "u1", revision: world.revision() - 1 };
    let state = world.store.snapshot();
    assert_eq!(state.check_read(before, b"b", &[]), Err(Error::AuthOldRevision));
    assert_eq!(state.check_read(Caller::NOBODY, b"b", &[]), Err(Error::UserEmpty));
    assert_eq!(state.check_admin(before), Ok(()));
}

#[test]
fn a_reader_keeps_its_state_while_the_next_is_made() {
    let mut world = World::guarded();
    let before = Arc::clone(world.store.snapshot());
    world.ok(user_add("u1", "pw"));
    assert_eq!(before.login("u1"), Err(Error::AuthFailed));
    assert!(world.store.snapshot().login("u1").is_ok());
}

#[test]
fn hashes_are_not_printed() {
    let mut world = World::guarded();
    world.ok(user_add("u1", "canary"));
    let printed = format!(
        "{:?} {:?} {:?}",
        world.store,
        world.store.snapshot().login("u1"),
        user_add("u2", "canary")
    );
    assert!(!printed.contains("canary") && !printed.contains(&hash("canary")), "{printed}");
}

/// Any request about users and roles, of few names, so that they meet.
fn any_op() -> impl Strategy<Value = Op> {
    let name = || prop::sample::select(vec!["root", "u1", "u2", ""]);
    let role = || prop::sample::select(vec!["root", "r1", "r2", ""]);
    let kind = prop::sample::select(vec![Type::Read, Type::Write, Type::Readwrite]);
    let key = || prop::sample::select(vec!["a", "b", "c", "\0", ""]);
    prop_oneof![
        (name(), ".{0,3}").prop_map(|(name, password)| user_add(name, &password)),
        name().prop_map(user_delete),
        (name(), ".{0,3}").prop_map(|(name, password)| change_password(name, &password)),
        (name(), role()).prop_map(|(name, role)| grant_role(name, role)),
        (name(), role()).prop_map(|(name, role)| revoke_role(name, role)),
        role().prop_map(role_add),
        role().prop_map(role_delete),
        (role(), kind, key(), key()).prop_map(|(role, kind, key, end)| grant(role, kind, key, end)),
        (role(), key(), key()).prop_map(|(role, key, end)| revoke_permission(role, key, end)),
        Just(Op::AuthEnable(AuthEnableRequest {})),
        Just(Op::AuthDisable(Default::default())),
    ]
}

/// Any operation on keys, or a transaction of some.
fn any_txn() -> impl Strategy<Value = TxnRequest> {
    let key = || prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(Bytes::from);
    let end = || prop::sample::select(vec!["", "c", "e", "\0"]).prop_map(Bytes::from);
    let range = (key(), end()).prop_map(|(key, range_end)| {
        TxnOp::RequestRange(RangeRequest { key, range_end, ..Default::default() })
    });
    let put = (key(), 0_i64..3, any::<bool>()).prop_map(|(key, lease, prev_kv)| {
        TxnOp::RequestPut(PutRequest { key, lease, prev_kv, ..Default::default() })
    });
    let delete = (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| {
        TxnOp::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv })
    });
    let compares = move || prop::collection::vec((key(), end()), 0..2);
    let txn = move |ops: Vec<TxnOp>, compares: Vec<(Bytes, Bytes)>, split: usize| {
        let mut ops: Vec<RequestOp> =
            ops.into_iter().map(|op| RequestOp { request: Some(op) }).collect();
        let failure = ops.split_off(split.min(ops.len()));
        let compare = compares
            .into_iter()
            .map(|(key, range_end)| Compare { key, range_end, ..Default::default() })
            .collect();
        TxnRequest { compare, success: ops, failure }
    };
    let leaf = prop_oneof![range, put, delete];
    let op = leaf.prop_recursive(3, 12, 3, move |inner| {
        (prop::collection::vec(inner, 0..3), compares(), 0..3_usize)
            .prop_map(move |(ops, compares, split)| TxnOp::RequestTxn(txn(ops, compares, split)))
    });
    (prop::collection::vec(op, 0..4), compares(), 0..4_usize)
        .prop_map(move |(ops, compares, split)| txn(ops, compares, split))
}

/// Every single need of a transaction, by walking it the plain way.
fn needs(txn: &TxnRequest, into: &mut Vec<(bool, Bytes, Bytes)>) {
    into.extend(txn.compare.iter().map(|c| (false, c.key.clone(), c.range_end.clone())));
    for op in txn.success.iter().chain(&txn.failure) {
        match op.request.as_ref().unwrap() {
            TxnOp::RequestRange(r) => into.push((false, r.key.clone(), r.range_end.clone())),
            TxnOp::RequestPut(put) => {
                into.push((true, put.key.clone(), Bytes::new()));
                if put.prev_kv {
                    into.push((false, put.key.clone(), Bytes::new()));
                }
                into.extend(
                    leased(put.lease)
                        .iter()
                        .map(|key| (true, Bytes::copy_from_slice(key), Bytes::new())),
                );
            }
            TxnOp::RequestDeleteRange(r) => {
                into.push((true, r.key.clone(), r.range_end.clone()));
                if r.prev_kv {
                    into.push((false, r.key.clone(), r.range_end.clone()));
                }
            }
            TxnOp::RequestTxn(nested) => needs(nested, into),
        }
    }
}

fn leased(id: i64) -> Vec<Arc<[u8]>> {
    match id {
        1 => vec![Arc::from(&b"a"[..])],
        2 => vec![Arc::from(&b"a"[..]), Arc::from(&b"z"[..])],
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The rows are the state: what a restart reads is what was there.
    #[test]
    fn rows_and_snapshot_say_the_same(ops in prop::collection::vec(any_op(), 0..30)) {
        let mut world = World::new();
        for op in ops {
            let (before, enabled) = (world.revision(), world.store.snapshot().is_enabled());
            let applied = world.apply_as(ROOT, &op);
            if applied.outcome.is_err() {
                prop_assert!(applied.effect.is_none() && world.revision() == before);
            }
            let state = world.store.snapshot();
            prop_assert!(!state.is_enabled() || state.check_admin(ROOT).is_ok());
            prop_assert!(
                world.revision() - before <= 1
                    && (enabled || matches!(op, Op::AuthEnable(_)) || !state.is_enabled())
            );
            let found = load(&world.writer.view()).unwrap();
            prop_assert_eq!(&found, &**state);
        }
    }

    /// CVE-2026-33343 (GHSA-rfx7-8w68-q57q) and CVE-2026-44283 (GHSA-x35m-3gp4-4fh5): a transaction is allowed if and only if
    /// each operation in it is, however deep, with what a put reads and hangs on a lease.
    #[test]
    fn cve_2026_33343_and_44283_a_transaction_needs_what_its_operations_need(
        permissions in prop::collection::vec(
            (prop::sample::select(vec![Type::Read, Type::Write, Type::Readwrite]),
             prop::sample::select(vec!["a", "b", "c", "d"]),
             prop::sample::select(vec!["", "e", "\0"])),
            0..4,
        ),
        txn in any_txn(),
    ) {
        let mut world = World::guarded();
        world.user_with("u1", &permissions);
        let state = world.store.snapshot();
        let caller = world.caller("u1");
        let mut all = Vec::new();
        needs(&txn, &mut all);
        let model = all.iter().all(|(writes, key, end)| {
            if *writes {
                state.check_write(caller, key, end).is_ok()
            } else {
                state.check_read(caller, key, end).is_ok()
            }
        });
        prop_assert_eq!(state.check_txn(caller, &txn, &leased).is_ok(), model);
    }
}

/// CVE-2026-73499 (GHSA-xg4h-6gfc-h4m8): an open end asks for every key from the first on, not for a key.
#[test]
fn cve_2026_73499_an_open_end_is_not_a_single_key() {
    let mut world = World::guarded();
    world.user_with("u1", &[(Type::Readwrite, "k", "")]);
    let state = world.store.snapshot();
    let caller = world.caller("u1");
    assert_eq!(state.check_read(caller, b"k", b""), Ok(()));
    assert_eq!(state.check_read(caller, b"k", b"\0"), Err(Error::PermissionDenied));
    assert_eq!(state.check_write(caller, b"k", b"\0"), Err(Error::PermissionDenied));
}
