use vfs::sim::SimDisk;

use super::*;

const TTL: i64 = 10;

fn at(seconds: u64) -> Duration {
    // Any epoch does; not zero, so that a mistaken zero shows.
    Duration::from_secs(1_000_000 + seconds)
}

fn at_ms(ms: u64) -> Duration {
    at(0) + Duration::from_millis(ms)
}

/// A lessor with its backend.
struct World {
    lessor: Lessor,
    writer: Writer,
    reader: backend::Reader,
}

fn world(config: Config) -> World {
    let options = backend::Options { initial_map_bytes: 0, ..backend::Options::default() };
    let (writer, reader) = backend::open(&SimDisk::new().dir(), &options).unwrap();
    World { lessor: Lessor::new(config), writer, reader }
}

fn primary() -> World {
    let mut world = world(Config::default());
    world.lessor.promote(Duration::ZERO, at(0));
    world
}

impl World {
    fn grant(&mut self, id: i64, ttl: i64, now: Duration) -> Result<i64, GrantError> {
        self.lessor.grant(LeaseId(id), ttl, now, &mut self.writer)
    }

    fn revoke(&mut self, id: i64) -> Result<Vec<Key>, NotFound> {
        self.lessor.revoke(LeaseId(id), &mut self.writer)
    }

    /// What a restart would find.
    fn stored(&mut self) -> Vec<leasepb::Lease> {
        self.writer.publish();
        let view = self.reader.view();
        rows::all(&view).unwrap().map(|row| row.unwrap()).collect()
    }

    fn expired(&mut self, now: Duration) -> Vec<i64> {
        ids(&self.lessor.expired(now, EXPIRED_PER_ROUND))
    }
}

fn ids(ids: &[LeaseId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

fn texts<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Vec<&'a str> {
    keys.into_iter().map(|key| std::str::from_utf8(key).unwrap()).collect()
}

#[test]
fn grant_rules() {
    let mut w = primary();
    assert_eq!(w.grant(0, TTL, at(0)), Err(GrantError::NoId));
    assert_eq!(w.grant(1, TTL, at(0)), Ok(TTL));
    assert_eq!(w.grant(1, TTL, at(0)), Err(GrantError::Exists { id: LeaseId(1) }));
    // The size is looked at before the id.
    assert_eq!(w.grant(1, MAX_TTL + 1, at(0)), Err(GrantError::TtlTooLarge { ttl: MAX_TTL + 1 }));
    assert_eq!(w.grant(2, MAX_TTL, at(0)), Ok(MAX_TTL));
    for (id, ttl) in [(3, 0), (4, -5), (5, 1), (6, i64::MIN)] {
        assert_eq!(w.grant(id, ttl, at(0)), Ok(2));
    }
    assert_eq!(w.grant(-7, 3, at(0)), Ok(3));
    assert_eq!(w.lessor.len(), 7);
    let stored: Vec<(i64, i64)> = w.stored().iter().map(|row| (row.id, row.ttl)).collect();
    assert_eq!(stored, [(1, TTL), (2, MAX_TTL), (3, 2), (4, 2), (5, 2), (6, 2), (-7, 3)]);
}

#[test]
fn least_time_to_live_follows_the_timings() {
    let ms = Duration::from_millis;
    for (ticks, heartbeat, expected) in [
        (10, ms(100), 2),
        (5, ms(100), 1),
        (3, ms(250), 1),
        (3, ms(251), 2),
        (50, ms(1000), 75),
        (0, ms(100), 0),
    ] {
        assert_eq!(min_ttl(ticks, heartbeat), expected, "{ticks} * {heartbeat:?}");
    }
    assert!(min_ttl(u32::MAX, Duration::MAX) > 0);
}

#[test]
fn revoke_returns_sorted_keys_and_removes_the_row() {
    let mut w = primary();
    w.grant(1, TTL, at(0)).unwrap();
    w.grant(2, TTL, at(0)).unwrap();
    for key in ["b", "a", "", "c/d", "a"] {
        w.lessor.attach(LeaseId(1), key.as_bytes()).unwrap();
    }
    w.lessor.attach(LeaseId(2), b"x").unwrap();
    assert_eq!(texts(&w.revoke(1).unwrap()), ["", "a", "b", "c/d"]);
    assert_eq!(w.revoke(1), Err(NotFound { id: LeaseId(1) }));
    assert_eq!(w.lessor.lease_of(b"a"), None);
    assert_eq!(w.lessor.detach(b"a"), None);
    assert_eq!(w.lessor.lease_of(b"x"), Some(LeaseId(2)));
    assert_eq!(w.stored().len(), 1);
    assert_eq!(w.expired(at(100)), [2]);
}

#[test]
fn a_key_hangs_on_one_lease() {
    let mut w = primary();
    for id in [1, 2] {
        w.grant(id, TTL, at(0)).unwrap();
    }
    w.lessor.attach(LeaseId(1), b"k").unwrap();
    w.lessor.attach(LeaseId(2), b"k").unwrap();
    assert_eq!(w.lessor.attach(LeaseId(3), b"k"), Err(NotFound { id: LeaseId(3) }));
    assert_eq!(w.lessor.lease_of(b"k"), Some(LeaseId(2)));
    assert_eq!(texts(w.lessor.keys(LeaseId(1))), [""; 0]);
    assert_eq!(texts(w.lessor.keys(LeaseId(2))), ["k"]);
    assert_eq!(w.lessor.detach(b"k"), Some(LeaseId(2)));
    assert_eq!(texts(w.lessor.keys(LeaseId(2))), [""; 0]);
    assert_eq!(texts(w.lessor.keys(LeaseId(3))), [""; 0]);
}

#[test]
fn expiry_is_at_the_end_and_never_before() {
    let mut w = primary();
    w.grant(1, TTL, at(0)).unwrap();
    assert_eq!(w.lessor.next_look(), Some(at(10)));
    assert_eq!(w.expired(at_ms(9_999)), [0; 0]);
    assert_eq!(w.lessor.renew(LeaseId(1), at_ms(9_999)), Ok(Renewal::Renewed { ttl: TTL }));
    assert_eq!(w.expired(at(10)), [0; 0]);
    assert_eq!(w.expired(at_ms(19_998)), [0; 0]);
    assert_eq!(w.expired(at_ms(19_999)), [1]);
    assert_eq!(
        w.lessor.renew(LeaseId(1), at_ms(19_999)),
        Err(RenewError::Expired { id: LeaseId(1) })
    );
    assert!(w.lessor.contains(LeaseId(1)), "until the revocation is applied");
    w.revoke(1).unwrap();
    assert_eq!(w.lessor.renew(LeaseId(1), at(20)), Err(RenewError::NotFound { id: LeaseId(1) }));
    assert_eq!(w.expired(at(1000)), [0; 0]);
    assert_eq!(w.lessor.next_look(), None);
}

#[test]
fn expired_leases_come_in_order_in_rounds_and_again() {
    let mut w = primary();
    for (id, ttl) in [(1, 30), (2, 10), (3, 20), (4, 10)] {
        w.grant(id, ttl, at(0)).unwrap();
    }
    assert_eq!(w.lessor.renew(LeaseId(4), at(5)), Ok(Renewal::Renewed { ttl: 10 })); // 15
    let now = at(60);
    assert_eq!(ids(&w.lessor.expired(now, 3)), [2, 4, 3]);
    assert_eq!(ids(&w.lessor.expired(now, 3)), [1]);
    assert_eq!(ids(&w.lessor.expired(now, 3)), [0; 0]);
    w.revoke(3).unwrap();
    assert_eq!(w.expired(at_ms(66_999)), [0; 0]);
    assert_eq!(w.expired(at(67)), [1, 2, 4], "not revoked after 7 s");
    assert_eq!(ids(&w.lessor.expired(at(1000), 0)), [0; 0]);
}

#[test]
fn an_id_granted_anew_starts_anew() {
    let mut w = primary();
    w.grant(1, 10, at(0)).unwrap();
    w.revoke(1).unwrap();
    w.grant(1, 10, at(0)).unwrap();
    assert_eq!(w.expired(at(10)), [1]);
    assert_eq!(w.expired(at(10)), [0; 0], "the first grant's entry is void");
    w.revoke(1).unwrap();
    w.grant(1, 20, at(10)).unwrap();
    assert_eq!(w.expired(at_ms(29_999)), [0; 0]);
    assert_eq!(w.expired(at(30)), [1]);
}

#[test]
fn revoked_leases_leave_nothing_behind() {
    let mut w = primary();
    for id in 1..=100_000 {
        w.grant(id, MAX_TTL, at(0)).unwrap();
        w.revoke(id).unwrap();
    }
    assert!(w.lessor.expiry.len() < 2000, "{} entries", w.lessor.expiry.len());
    assert!(w.lessor.is_empty());
}

#[test]
fn time_to_live_in_whole_seconds() {
    let mut w = primary();
    w.grant(1, 60, at(0)).unwrap();
    let left = |w: &World, now| w.lessor.time_to_live(LeaseId(1), now).unwrap().remaining;
    assert_eq!(
        w.lessor.time_to_live(LeaseId(1), at(0)),
        Ok(TimeToLive { granted: 60, remaining: Some(60) })
    );
    assert_eq!(left(&w, at_ms(1)), Some(59));
    assert_eq!(left(&w, at_ms(59_001)), Some(0));
    assert_eq!(left(&w, at_ms(60_999)), Some(0));
    assert_eq!(left(&w, at_ms(62_500)), Some(-2));
    assert_eq!(w.lessor.time_to_live(LeaseId(2), at(0)), Err(NotFound { id: LeaseId(2) }));
    w.lessor.demote();
    assert_eq!(left(&w, at(0)), None);
    w.grant(2, MAX_TTL, Duration::MAX).unwrap();
}

#[test]
fn only_a_primary_counts() {
    let mut w = world(Config::default());
    w.grant(1, TTL, at(0)).unwrap();
    assert_eq!(w.expired(at(1_000_000)), [0; 0]);
    assert_eq!(w.lessor.renew(LeaseId(1), at(0)), Err(RenewError::NotPrimary));
    w.lessor.promote(Duration::from_secs(1), at(100));
    assert_eq!(w.expired(at_ms(110_999)), [0; 0]);
    assert_eq!(w.expired(at(111)), [1]);
    w.lessor.demote();
    assert_eq!(w.expired(at(1_000_000)), [0; 0]);
    assert!(!w.lessor.is_primary());
    w.lessor.promote(Duration::ZERO, at(200));
    assert_eq!(w.expired(at_ms(209_999)), [0; 0]);
    assert_eq!(w.expired(at(210)), [1]);
}

#[test]
fn leases_by_what_is_left() {
    let mut w = world(Config::default());
    for (id, ttl) in [(3, 10), (1, 30), (2, 20), (-1, 20)] {
        w.grant(id, ttl, at(0)).unwrap();
    }
    assert_eq!(ids(&w.lessor.leases()), [-1, 1, 2, 3]);
    w.lessor.promote(Duration::ZERO, at(0));
    assert_eq!(ids(&w.lessor.leases()), [3, -1, 2, 1]);
    w.lessor.renew(LeaseId(3), at(9)).unwrap();
    w.lessor.renew(LeaseId(2), at(9)).unwrap();
    assert_eq!(ids(&w.lessor.leases()), [3, -1, 2, 1]);
    w.lessor.renew(LeaseId(-1), at(9)).unwrap();
    w.lessor.renew(LeaseId(3), at(9) + Duration::from_secs(0)).unwrap();
    assert_eq!(ids(&w.lessor.leases()), [3, -1, 2, 1]);
}

#[test]
fn promotion_spreads_many_leases() {
    let mut w = world(Config::default());
    let count = 2600;
    for id in 1..=count {
        w.grant(id, if id % 13 == 0 { 100 } else { 5 }, at(0)).unwrap();
    }
    let extend = Duration::from_secs(1);
    w.lessor.promote(extend, at(0));
    let mut moments = Vec::new();
    let mut seen = 0;
    for ms in (0..200_000).step_by(100) {
        for id in w.lessor.expired(at_ms(ms), usize::MAX) {
            assert!(ms >= if id.0 % 13 == 0 { 101_000 } else { 6_000 }, "{id} at {ms}");
            moments.push(ms);
            seen += 1;
            w.revoke(id.0).unwrap();
        }
    }
    assert_eq!(seen, count);
    for (index, first) in moments.iter().enumerate() {
        let in_second = moments.iter().skip(index).take_while(|ms| **ms < first + 1000).count();
        assert!(in_second <= SPREAD_PER_SECOND, "{in_second} in the second from {first} ms");
    }
    // 2400 leases of 5 s: at 6, 7, 8 and 9 s; the others are not held up by them.
    assert_eq!(moments.iter().filter(|ms| **ms < 10_000).count(), 2400);
    assert_eq!(moments.last(), Some(&101_000));
}

#[test]
fn few_leases_are_not_spread() {
    let mut w = world(Config::default());
    for id in 1..1000 {
        w.grant(id, 5, at(0)).unwrap();
    }
    w.lessor.promote(Duration::ZERO, at(0));
    assert_eq!(w.lessor.expired(at(5), usize::MAX).len(), 999);
}

fn with_checkpoints() -> Config {
    Config { checkpoint_interval: Some(Duration::from_secs(300)), ..Config::default() }
}

#[test]
fn checkpoints_of_long_leases() {
    let mut w = world(with_checkpoints());
    w.lessor.promote(Duration::ZERO, at(0));
    for (id, ttl) in [(1, 300), (2, 301), (3, 1000)] {
        w.grant(id, ttl, at(0)).unwrap();
    }
    assert_eq!(w.lessor.due_checkpoints(at(299), 1000), []);
    assert_eq!(w.lessor.due_checkpoints(at_ms(300_500), 1), [(LeaseId(2), 1)]);
    assert_eq!(w.lessor.due_checkpoints(at_ms(300_500), 1), [(LeaseId(3), 700)], "rounded up");
    assert_eq!(w.lessor.due_checkpoints(at(10_000), 1), [], "not again before it is applied");
    for (id, rest) in [(2, 1), (3, 700)] {
        w.lessor.checkpoint(LeaseId(id), rest, true, at(301), &mut w.writer).unwrap();
    }
    assert_eq!(w.lessor.due_checkpoints(at(600), 1000), []);
    assert_eq!(
        w.lessor.due_checkpoints(at(601), 1000),
        [(LeaseId(3), 399)],
        "lease 2 has too little left"
    );
    let missing = w.lessor.checkpoint(LeaseId(9), 1, true, at(301), &mut w.writer);
    assert_eq!(missing, Err(NotFound { id: LeaseId(9) }));
    let stored: Vec<_> =
        w.stored().iter().map(|row| (row.id, row.ttl, row.remaining_ttl)).collect();
    assert_eq!(stored, [(1, 300, 0), (2, 301, 1), (3, 1000, 700)]);
    // The expiry here stays.
    assert_eq!(w.lessor.time_to_live(LeaseId(3), at(301)).unwrap().remaining, Some(699));
}

#[test]
fn the_next_primary_counts_from_the_checkpoint() {
    let mut w = world(with_checkpoints());
    w.grant(1, 1000, at(0)).unwrap();
    w.lessor.checkpoint(LeaseId(1), 700, false, at(0), &mut w.writer).unwrap();
    assert_eq!(w.stored().first().unwrap().remaining_ttl, 0, "not persisted");
    w.lessor.promote(Duration::from_secs(1), at(0));
    assert_eq!(w.expired(at_ms(700_999)), [0; 0]);
    assert_eq!(w.lessor.renew(LeaseId(1), at(10)), Ok(Renewal::ClearCheckpoint));
    w.lessor.checkpoint(LeaseId(1), 0, false, at(10), &mut w.writer).unwrap();
    assert_eq!(w.lessor.renew(LeaseId(1), at(10)), Ok(Renewal::Renewed { ttl: 1000 }));
    assert_eq!(w.expired(at_ms(1_009_999)), [0; 0]);
    assert_eq!(w.expired(at(1010)), [1]);
}

#[test]
fn a_renewed_lease_needs_no_checkpoint() {
    let mut w = world(with_checkpoints());
    w.lessor.promote(Duration::ZERO, at(0));
    w.grant(1, 1000, at(0)).unwrap();
    w.lessor.renew(LeaseId(1), at(300)).unwrap();
    assert_eq!(w.lessor.due_checkpoints(at(300), 1000), []);
}

#[test]
fn restart_restores_leases() {
    let mut w = primary();
    for (id, ttl) in [(1, 3), (2, 100), (-3, 50)] {
        w.grant(id, ttl, at(0)).unwrap();
    }
    w.lessor.checkpoint(LeaseId(2), 40, true, at(0), &mut w.writer).unwrap();
    w.writer.publish();
    let config = Config { min_ttl: 5, ..Config::default() };
    let mut again = Lessor::open(config, &w.reader.view()).unwrap();
    assert!(!again.is_primary());
    assert_eq!(
        again.time_to_live(LeaseId(1), at(0)),
        Ok(TimeToLive { granted: 5, remaining: None })
    );
    again.attach(LeaseId(-3), b"k").unwrap();
    again.promote(Duration::ZERO, at(0));
    assert_eq!(ids(&again.expired(at(50), 10)), [1, 2, -3]);
}

#[test]
fn writes_the_rows_of_real_etcd() {
    let row = leasepb::Lease { id: 7_587_848_390_000_000_001, ttl: 5000, remaining_ttl: 0 };
    let mut w = primary();
    w.grant(row.id, row.ttl, at(0)).unwrap();
    assert_eq!(w.stored(), [row]);
    let view = w.reader.view();
    let bytes = view.get(backend::schema::Bucket::Lease, &row.id.to_be_bytes()).unwrap().unwrap();
    // As in the fixture of a real member.
    assert_eq!(*bytes, *b"\x08\x81\xf8\xe0\xbb\x89\xfd\xdc\xa6\x69\x10\x88\x27");
}

mod model {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Grant(i64, i64),
        Revoke(i64),
        Attach(i64, u8),
        Detach(u8),
        Renew(i64),
        Wait(u64),
        Expired(usize),
        Promote(u64),
        Demote,
        Checkpoint(i64, i64),
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        let id = || -2..8_i64;
        prop_oneof![
            6 => (id(), -1..12_i64).prop_map(|(id, ttl)| Op::Grant(id, ttl)),
            2 => id().prop_map(Op::Revoke),
            4 => (id(), 0..12_u8).prop_map(|(id, key)| Op::Attach(id, key)),
            2 => (0..12_u8).prop_map(Op::Detach),
            6 => id().prop_map(Op::Renew),
            8 => (0..5000_u64).prop_map(Op::Wait),
            6 => (0..5_usize).prop_map(Op::Expired),
            1 => (0..3000_u64).prop_map(Op::Promote),
            1 => Just(Op::Demote),
            1 => (id(), 0..12_i64).prop_map(|(id, rest)| Op::Checkpoint(id, rest)),
            1 => Just(Op::Restart),
        ]
    }

    #[derive(Debug, Clone)]
    struct Naive {
        ttl: i64,
        rest: i64,
        expiry: Option<Duration>,
        keys: BTreeSet<u8>,
        retry_at: Duration,
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn behaves_as_a_plain_map(ops in vec(op(), 1..150)) {
            let mut w = world(Config::default());
            let mut model: BTreeMap<i64, Naive> = BTreeMap::new();
            let mut is_primary = false;
            let mut now = at(0);
            for op in ops {
                match op {
                    Op::Wait(ms) => now += Duration::from_millis(ms),
                    Op::Grant(id, ttl) => {
                        let granted = ttl.max(2);
                        let expected = if id == 0 {
                            Err(GrantError::NoId)
                        } else if let std::collections::btree_map::Entry::Vacant(place) = model.entry(id) {
                            let expiry = is_primary.then(|| now + seconds(granted));
                            let naive = Naive { ttl: granted, rest: 0, expiry, keys: BTreeSet::new(), retry_at: Duration::ZERO };
                            place.insert(naive);
                            Ok(granted)
                        } else {
                            Err(GrantError::Exists { id: LeaseId(id) })
                        };
                        prop_assert_eq!(w.grant(id, ttl, now), expected);
                    }
                    Op::Revoke(id) => {
                        let expected: Option<Vec<Vec<u8>>> =
                            model.remove(&id).map(|naive| naive.keys.iter().map(|key| vec![*key]).collect());
                        let found = w.revoke(id).ok().map(|keys| keys.iter().map(|key| key.to_vec()).collect());
                        prop_assert_eq!(found, expected);
                    }
                    Op::Attach(id, key) => {
                        prop_assert_eq!(w.lessor.attach(LeaseId(id), &[key]).is_ok(), model.contains_key(&id));
                        if model.contains_key(&id) {
                            for naive in model.values_mut() {
                                naive.keys.remove(&key);
                            }
                            model.get_mut(&id).unwrap().keys.insert(key);
                        }
                    }
                    Op::Detach(key) => {
                        let expected = model.iter().find(|(_, naive)| naive.keys.contains(&key)).map(|(id, _)| LeaseId(*id));
                        prop_assert_eq!(w.lessor.detach(&[key]), expected);
                        for naive in model.values_mut() {
                            naive.keys.remove(&key);
                        }
                    }
                    Op::Renew(id) => {
                        let lease = LeaseId(id);
                        let expected = match model.get_mut(&id) {
                            _ if !is_primary => Err(RenewError::NotPrimary),
                            None => Err(RenewError::NotFound { id: lease }),
                            Some(naive) if naive.expiry.unwrap() <= now => Err(RenewError::Expired { id: lease }),
                            Some(naive) => {
                                naive.expiry = Some(now + seconds(naive.ttl));
                                Ok(Renewal::Renewed { ttl: naive.ttl })
                            }
                        };
                        prop_assert_eq!(w.lessor.renew(lease, now), expected);
                    }
                    Op::Expired(limit) => {
                        let found = w.lessor.expired(now, limit);
                        let mut expected: Vec<(Duration, i64)> = model
                            .iter()
                            .filter(|(_, naive)| naive.expiry.is_some_and(|expiry| expiry <= now) && naive.retry_at <= now)
                            .map(|(id, naive)| (naive.expiry.unwrap().max(naive.retry_at), *id))
                            .collect();
                        expected.sort_unstable();
                        expected.truncate(limit);
                        prop_assert_eq!(ids(&found), expected.iter().map(|(_, id)| *id).collect::<Vec<_>>());
                        for (_, id) in expected {
                            model.get_mut(&id).unwrap().retry_at = now + Duration::from_secs(7);
                        }
                        if let Some(look) = w.lessor.next_look() {
                            let next = model.values().filter_map(|naive| naive.expiry.map(|e| e.max(naive.retry_at))).min();
                            prop_assert!(next.is_none_or(|next| look <= next), "never looks too late");
                        }
                    }
                    Op::Promote(extend) => {
                        let extend = Duration::from_millis(extend);
                        w.lessor.promote(extend, now);
                        is_primary = true;
                        for naive in model.values_mut() {
                            let rest = if naive.rest > 0 { naive.rest } else { naive.ttl };
                            naive.expiry = Some(now + extend + seconds(rest));
                            naive.retry_at = Duration::ZERO;
                        }
                    }
                    Op::Demote => {
                        w.lessor.demote();
                        is_primary = false;
                        for naive in model.values_mut() {
                            naive.expiry = None;
                            naive.retry_at = Duration::ZERO;
                        }
                    }
                    Op::Checkpoint(id, rest) => {
                        let found = w.lessor.checkpoint(LeaseId(id), rest, true, now, &mut w.writer);
                        prop_assert_eq!(found.is_ok(), model.contains_key(&id));
                        if let Some(naive) = model.get_mut(&id) {
                            naive.rest = rest;
                        }
                    }
                    Op::Restart => {
                        w.writer.publish();
                        w.lessor = Lessor::open(Config::default(), &w.reader.view()).unwrap();
                        is_primary = false;
                        for (id, naive) in &mut model {
                            naive.expiry = None;
                            naive.retry_at = Duration::ZERO;
                            for key in &naive.keys {
                                w.lessor.attach(LeaseId(*id), &[*key]).unwrap();
                            }
                        }
                    }
                }
                prop_assert_eq!(w.lessor.len(), model.len());
                for (id, naive) in &model {
                    let times = w.lessor.time_to_live(LeaseId(*id), now).unwrap();
                    prop_assert_eq!((times.granted, times.remaining.is_some()), (naive.ttl, is_primary));
                    let keys: Vec<u8> = w.lessor.keys(LeaseId(*id)).map(|key| key[0]).collect();
                    prop_assert_eq!(keys, naive.keys.iter().copied().collect::<Vec<_>>());
                }
            }
            let mut rows: Vec<_> = w.stored().iter().map(|row| (row.id, row.ttl, row.remaining_ttl)).collect();
            rows.sort_unstable();
            prop_assert_eq!(rows, model.iter().map(|(id, naive)| (*id, naive.ttl, naive.rest)).collect::<Vec<_>>());
        }
    }
}
