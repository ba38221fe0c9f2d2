//! Hand-made histories: a good one, and ones with a single thing wrong, each of which must be found for its own reason.

use std::time::Duration;

use bytes::Bytes;
use proto::mvccpb::event::EventType;
use proto::mvccpb::{Event, KeyValue};

use super::*;
use crate::cluster::history::{Batch, Renewal, Watch};

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn kv(key: &str, value: &str, created: i64, modified: i64, version: i64, lease: i64) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        create_revision: created,
        mod_revision: modified,
        version,
        lease,
    }
}

fn put_event(kv: KeyValue) -> Event {
    Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None }
}

fn delete_event(key: &str, revision: i64) -> Event {
    let kv = KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        mod_revision: revision,
        ..Default::default()
    };
    Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None }
}

fn put(key: &'static str, value: &'static str, lease: i64) -> Action {
    Action::Put { key: key.into(), value: value.into(), lease }
}

fn delete(key: &'static str) -> Action {
    Action::Delete { key: key.into() }
}

fn read(key: &'static str, is_serializable: bool) -> Action {
    Action::Read { key: key.into(), range_end: Bytes::new(), is_serializable }
}

fn done(revision: i64, is_written: bool, found: Vec<KeyValue>) -> Outcome {
    Outcome::Done { revision, term: 1, is_written, found }
}

fn operation(span: (u64, u64), action: Action, outcome: Outcome) -> Operation {
    let (invoked, returned) = (ms(span.0), ms(span.1));
    Operation { client: 1, member: 0, invoked, returned, action, outcome }
}

fn batch(received: u64, revision: i64, events: Vec<Event>) -> Batch {
    Batch { received: ms(received), revision, term: 1, events }
}

/// Revision 2: a=1; 3: a=2; 4: a is deleted; 5: a=3 and b=3.
fn witness() -> Vec<(i64, Vec<Event>)> {
    vec![
        (2, vec![put_event(kv("a", "1", 2, 2, 1, 0))]),
        (3, vec![put_event(kv("a", "2", 2, 3, 2, 0))]),
        (4, vec![delete_event("a", 4)]),
        (5, vec![put_event(kv("a", "3a", 5, 5, 1, 0)), put_event(kv("b", "3b", 5, 5, 1, 0))]),
    ]
}

/// The writers of [`witness`], one after the other, each 10 ms long; then reads, and a watch.
fn good() -> History {
    let one = kv("a", "1", 2, 2, 1, 0);
    let two = kv("a", "2", 2, 3, 2, 0);
    let three = kv("a", "3a", 5, 5, 1, 0);
    let pair = Action::PutPair([("a".into(), "3a".into()), ("b".into(), "3b".into())]);
    let compare = |expected| Action::CompareAndPut { key: "a".into(), expected, value: "2".into() };
    let mut events: Vec<Event> = witness().into_iter().flat_map(|(_, events)| events).collect();
    events[1].prev_kv = Some(one.clone());
    events[2].prev_kv = Some(two.clone());
    let last = events.split_off(3);
    History {
        operations: vec![
            operation((0, 10), put("a", "1", 0), done(2, true, vec![])),
            operation((20, 30), compare(2), done(3, true, vec![one])),
            operation((40, 50), delete("a"), done(4, true, vec![two.clone()])),
            operation((60, 70), pair, done(5, true, vec![])),
            operation((72, 80), read("a", false), done(5, false, vec![three.clone()])),
            operation((72, 80), compare(3), done(5, false, vec![three])),
            operation((72, 80), delete("c"), done(5, false, vec![])),
            operation((81, 85), read("a", true), done(3, false, vec![two])),
            operation((86, 89), read("a", true), done(4, false, vec![])),
        ],
        watches: vec![Watch {
            member: 0,
            key: "\0".into(),
            range_end: "\0".into(),
            start: 2,
            batches: vec![batch(75, 4, events), batch(76, 5, last), batch(90, 5, vec![])],
        }],
        starts: vec![(0, ms(80))],
        ..History::default()
    }
}

fn check(history: History, witness: &[(i64, Vec<Event>)]) -> Result<Summary> {
    let mut checker = Checker::new();
    checker.check(history, witness)?;
    Ok(checker.summary())
}

/// Changes the good history; the check must fail with this in its text.
fn violates(part_of_text: &str, change: impl FnOnce(&mut History, &mut Vec<(i64, Vec<Event>)>)) {
    let (mut history, mut witness) = (good(), witness());
    change(&mut history, &mut witness);
    let error = format!("{:#}", check(history, &witness).unwrap_err());
    assert!(error.contains(part_of_text), "expected {part_of_text:?}, got: {error}");
}

fn outcome(history: &mut History, index: usize, outcome: Outcome) {
    history.operations[index].outcome = outcome;
}

#[test]
fn a_good_history_passes() {
    let summary = check(good(), &witness()).unwrap();
    assert_eq!((summary.acknowledged, summary.linearizable_reads), (4, 3));
    assert_eq!((summary.serializable_reads, summary.events, summary.bookmarks), (2, 5, 1));
    assert_eq!(summary.revision, 5);
}

#[test]
fn an_unknown_write_may_be_there_once_or_not_at_all() {
    let mut history = good();
    outcome(&mut history, 0, Outcome::Unknown);
    history.operations.push(operation((0, 1), put("z", "never", 0), Outcome::Unknown));
    assert_eq!(check(history, &witness()).unwrap().unknown_found, 1);

    violates("nobody wrote", |history, witness| {
        outcome(history, 0, Outcome::Unknown);
        witness.push((6, vec![put_event(kv("a", "1", 5, 6, 2, 0))]));
    });
}

#[test]
fn an_unknown_write_may_turn_up_in_a_later_history() {
    let mut history = good();
    history.operations.push(operation((0, 1), put("z", "late", 0), Outcome::Unknown));
    let mut checker = Checker::new();
    checker.check(history, &witness()).unwrap();
    let late = [(6, vec![put_event(kv("z", "late", 6, 6, 1, 0))])];
    checker.check(History::default(), &late).unwrap();
    assert_eq!(checker.summary().unknown_found, 1);
}

#[test]
fn lost_and_changed_and_invented_writes_are_found() {
    violates("lost: acknowledged at revision 6", |history, _| {
        let lost = operation((92, 95), put("c", "4", 0), done(6, true, vec![]));
        history.operations.push(lost);
    });
    violates("acknowledged: Operation", |_, witness| {
        witness[0].1 = vec![put_event(kv("a", "x", 2, 2, 1, 0))];
    });
    violates("nobody wrote", |_, witness| {
        witness.push((6, vec![put_event(kv("c", "x", 6, 6, 1, 0))]));
    });
    violates("nobody wrote", |history, _| {
        outcome(history, 0, Outcome::Refused("no".to_owned()));
    });
    violates("two writes acknowledged at revision 2", |history, _| {
        history.operations.push(operation((5, 6), put("a", "9", 0), done(2, true, vec![])));
    });
    // Half of a transaction.
    violates("acknowledged: Operation", |_, witness| {
        witness[3].1.pop();
    });
    violates("after revision 4 comes 6", |history, witness| {
        outcome(history, 3, done(6, true, vec![]));
        witness[3].0 = 6;
    });
    violates("should be created at 2, version 2", |_, witness| {
        witness[1].1 = vec![put_event(kv("a", "2", 3, 3, 1, 0))];
    });
}

#[test]
fn answers_are_those_of_the_model() {
    violates("should have found", |history, _| outcome(history, 1, done(3, true, vec![])));
    violates("wrong: ", |history, _| outcome(history, 4, done(5, false, vec![])));
    violates("the comparison holds", |history, _| {
        let action = Action::CompareAndPut { key: "a".into(), expected: 5, value: "9".into() };
        history.operations[5].action = action;
    });
    // A comparison that cannot have held.
    violates("acknowledged: Operation", |history, _| {
        let action = Action::CompareAndPut { key: "a".into(), expected: 0, value: "2".into() };
        history.operations[1].action = action;
    });
    violates("wrong: ", |history, _| history.operations[6].action = delete("b"));
    violates("the history ends at 5", |history, _| outcome(history, 4, done(7, false, vec![])));
}

#[test]
fn stale_reads_are_found_and_concurrent_ones_are_not() {
    let two = || kv("a", "2", 2, 3, 2, 0);
    violates("stale: answered at revision 3, when revision 5 was known", |history, _| {
        outcome(history, 4, done(3, false, vec![two()]));
    });
    // Overlapping with the writes, it may be before or after them. (Revision 2 was acknowledged at 10 ms.)
    let mut history = good();
    history.operations.push(operation((25, 72), read("a", false), done(3, false, vec![two()])));
    check(history, &witness()).unwrap();
}

#[test]
fn the_order_of_revisions_is_the_order_of_time() {
    // Revision 3 was sent after revision 4 was acknowledged.
    violates("was known at", |history, _| {
        (history.operations[1].invoked, history.operations[1].returned) = (ms(55), ms(58));
    });
    // A read has seen it before it was sent.
    violates("was known at", |history, _| {
        let early =
            operation((15, 18), read("a", true), done(3, false, vec![kv("a", "2", 2, 3, 2, 0)]));
        history.operations.insert(1, early);
    });
}

#[test]
fn serializable_reads_do_not_go_back_unless_the_process_is_new() {
    // The good history goes back from 5 to 3, over a restart at 80 ms.
    violates("went back from revision 5", |history, _| history.starts.clear());
    violates("went back from revision 5", |history, _| history.starts = vec![(1, ms(80))]);
}

#[test]
fn watches_are_ordered_complete_unique_and_atomic() {
    violates("instead of", |history, _| {
        // A gap.
        history.watches[0].batches[0].events.remove(1);
    });
    violates("instead of", |history, _| {
        // Twice.
        let again = history.watches[0].batches[0].events[2].clone();
        history.watches[0].batches[1].events.insert(0, again);
    });
    violates("instead of", |history, _| history.watches[0].batches[0].events.swap(0, 1));
    violates("torn apart", |history, _| {
        let second = history.watches[0].batches[1].events.pop().unwrap();
        history.watches[0].batches.insert(2, batch(77, 5, vec![second]));
    });
    violates("not delivered", |history, _| {
        // A bookmark that runs ahead.
        history.watches[0].batches[1] = batch(76, 5, vec![]);
    });
    violates("revision 4 after 5", |history, _| history.watches[0].batches[2].revision = 4);
    violates("an event of 5 in a message of 4", |history, _| {
        history.watches[0].batches[1].revision = 4;
    });
    violates("instead of", |history, _| {
        // The previous value is missing, and nothing was compacted.
        history.watches[0].batches[0].events[1].prev_kv = None;
    });
    violates("instead of", |history, _| {
        // An event of another key.
        (history.watches[0].key, history.watches[0].range_end) = ("b".into(), Bytes::new());
    });
    violates("instead of", |history, _| {
        // Opened again one revision too late.
        history.watches[0].start = 3;
    });
}

/// A lease of 2 s with two keys, granted at 0, renewed at 1 s, gone at revision 4.
fn leased(gone_known_at: u64) -> (History, Vec<(i64, Vec<Event>)>) {
    let renewal = |at| Renewal { invoked: ms(at), returned: ms(at + 2), term: 1 };
    let lease =
        Lease { ttl: ms(2_000), renewals: vec![renewal(0), renewal(1_000)], ..Lease::default() };
    let history = History {
        operations: vec![
            operation((10, 20), put("l/a", "1", 7), done(2, true, vec![])),
            operation((20, 30), put("l/b", "2", 7), done(3, true, vec![])),
            operation(
                (gone_known_at - 5, gone_known_at),
                read("l/a", false),
                done(4, false, vec![]),
            ),
        ],
        leases: BTreeMap::from([(7, lease)]),
        ..History::default()
    };
    let witness = vec![
        (2, vec![put_event(kv("l/a", "1", 2, 2, 1, 7))]),
        (3, vec![put_event(kv("l/b", "2", 3, 3, 1, 7))]),
        (4, vec![delete_event("l/a", 4), delete_event("l/b", 4)]),
    ];
    (history, witness)
}

#[test]
fn leases_end_at_once_and_not_early() {
    let (history, witness) = leased(3_100);
    assert_eq!(check(history, &witness).unwrap().leases_expired, 1);

    let (history, witness) = leased(2_900);
    let error = format!("{:#}", check(history, &witness).unwrap_err());
    assert!(error.contains("expired too early"), "{error}");

    // Revoked in time: no matter how early.
    let (mut history, witness) = leased(2_900);
    history.leases.get_mut(&7).unwrap().revoked = Some(ms(1_500));
    assert_eq!(check(history, &witness).unwrap().leases_revoked, 1);

    // Only one of the keys goes.
    let (history, mut witness) = leased(3_100);
    witness[2].1.pop();
    let error = format!("{:#}", check(history, &witness).unwrap_err());
    assert!(error.contains("but held"), "{error}");
}

#[test]
fn a_deposed_leaders_renewal_counts_from_its_last_accepted_write() {
    // The renewal at 1 s was acknowledged in term 1; the last write of term 1 was sent at 20 ms; the end is seen in term 2.
    let change = |gone_known_at| {
        let (mut history, witness) = leased(gone_known_at);
        outcome(
            &mut history,
            2,
            Outcome::Done { revision: 4, term: 2, is_written: false, found: vec![] },
        );
        check(history, &witness)
    };
    change(2_100).unwrap();
    assert!(change(2_010).is_err());
}

#[test]
fn a_lease_may_end_early_across_leaders_only_where_that_is_tolerated() {
    let check = |gone_in_term, is_tolerant| {
        let (mut history, witness) = leased(2_900);
        let renewals = &mut history.leases.get_mut(&7).unwrap().renewals;
        renewals[1].term = gone_in_term;
        let end =
            Outcome::Done { revision: 4, term: gone_in_term, is_written: false, found: vec![] };
        outcome(&mut history, 2, end);
        let mut checker = Checker::new();
        if is_tolerant {
            checker.tolerate_deposed_leaders();
        }
        checker.check(history, &witness).map(|()| checker.summary().leases_cut_short)
    };
    assert_eq!(check(2, true).unwrap(), 1);
    assert!(check(2, false).is_err());
    // One leader all the time has no excuse.
    assert!(check(1, true).is_err());
}
