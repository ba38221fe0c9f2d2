use proto::etcdserverpb::Compare;

use super::*;

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &'static str) -> RequestOp {
    op(Request::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() }))
}

fn delete(key: &'static str, range_end: &'static str) -> RequestOp {
    let (key, range_end) = (key.into(), range_end.into());
    op(Request::RequestDeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }))
}

fn get(key: &'static str) -> RequestOp {
    op(Request::RequestRange(RangeRequest { key: key.into(), ..RangeRequest::default() }))
}

fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(TxnRequest { compare: vec![], success, failure }))
}

fn check_success(success: Vec<RequestOp>) -> Result<(), CheckError> {
    txn(&TxnRequest { success, ..TxnRequest::default() }, 128, Rules::default())
}

const DUPLICATE: Result<(), CheckError> = Err(CheckError::DuplicateKey);

#[test]
fn single_requests() {
    assert_eq!(range(&RangeRequest::default(), Rules::default()), Err(CheckError::EmptyKey));
    let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    assert_eq!(range(&request, Rules::default()), Ok(()));
    assert_eq!(range(&RangeRequest { sort_order: 9, ..request.clone() }, Rules::default()), Ok(()));
    let unknown = RangeRequest { sort_order: 9, ..request.clone() };
    assert_eq!(range(&unknown, Rules::of_minor(6)), Err(CheckError::InvalidSortOption));
    assert_eq!(
        range(&RangeRequest { sort_target: 5, ..request }, Rules::default()),
        Err(CheckError::InvalidSortOption)
    );

    let request =
        PutRequest { key: "k".into(), value: "v".into(), lease: 1, ..PutRequest::default() };
    assert_eq!(put_of(PutRequest::default()), Err(CheckError::EmptyKey));
    assert_eq!(put_of(request.clone()), Ok(()));
    assert_eq!(
        put_of(PutRequest { ignore_value: true, ..request.clone() }),
        Err(CheckError::ValueProvided)
    );
    assert_eq!(
        put_of(PutRequest { ignore_lease: true, ..request }),
        Err(CheckError::LeaseProvided)
    );
    assert_eq!(delete_range(&DeleteRangeRequest::default()), Err(CheckError::EmptyKey));
}

fn put_of(request: PutRequest) -> Result<(), CheckError> {
    super::put(&request)
}

#[test]
fn counts_operations_by_level() {
    let gets = |count| vec![get("k"); count];
    assert_eq!(check_success(gets(128)), Ok(()));
    assert_eq!(check_success(gets(129)), Err(CheckError::TooManyOps));
    // One outer operation leaves 127; siblings have the same budget each.
    assert_eq!(check_success(vec![nested(gets(127), vec![])]), Ok(()));
    assert_eq!(check_success(vec![nested(gets(128), vec![])]), Err(CheckError::TooManyOps));
    assert_eq!(
        check_success(vec![nested(gets(126), gets(126)), nested(gets(126), vec![])]),
        Ok(())
    );
    // Compares and the other branch count too, by the largest.
    let compare = vec![Compare { key: "k".into(), ..Compare::default() }; 128];
    let request =
        TxnRequest { compare, success: vec![nested(vec![get("k")], vec![])], failure: vec![] };
    assert_eq!(txn(&request, 128, Rules::default()), Err(CheckError::TooManyOps));
}

#[test]
fn operations_are_checked_depth_first() {
    let request =
        TxnRequest { compare: vec![Compare::default()], success: vec![put("")], failure: vec![] };
    assert_eq!(txn(&request, 128, Rules::default()), Err(CheckError::EmptyKey));
    assert_eq!(check_success(vec![RequestOp { request: None }]), Err(CheckError::NoOperation));
    assert_eq!(
        check_success(vec![nested(vec![put("")], vec![]), RequestOp { request: None }]),
        Err(CheckError::EmptyKey)
    );
    assert_eq!(
        check_success(vec![nested(vec![], vec![RequestOp { request: None }])]),
        Err(CheckError::NoOperation)
    );
    // What is malformed wins over what is duplicate.
    assert_eq!(check_success(vec![put("a"), put("a"), put("")]), Err(CheckError::EmptyKey));
}

#[test]
fn one_key_is_changed_once() {
    assert_eq!(check_success(vec![put("a"), put("a")]), DUPLICATE);
    assert_eq!(check_success(vec![put("a"), delete("a", "")]), DUPLICATE);
    assert_eq!(check_success(vec![delete("a", ""), put("a")]), DUPLICATE);
    assert_eq!(check_success(vec![put("b"), delete("a", "c")]), DUPLICATE);
    assert_eq!(check_success(vec![put("c"), delete("a", "c")]), Ok(()));
    assert_eq!(check_success(vec![put("a"), get("a")]), Ok(()));
    assert_eq!(check_success(vec![delete("a", "z"), delete("b", "c")]), Ok(()));
    let request = TxnRequest { compare: vec![], success: vec![put("a")], failure: vec![put("a")] };
    assert_eq!(txn(&request, 128, Rules::default()), Ok(()));
    let request =
        TxnRequest { compare: vec![], success: vec![], failure: vec![put("a"), put("a")] };
    assert_eq!(txn(&request, 128, Rules::default()), DUPLICATE);
}

#[test]
fn nested_changes_are_seen_in_etcds_order() {
    let puts = |key| nested(vec![put(key)], vec![]);
    let deletes = |key| nested(vec![delete(key, "")], vec![]);
    assert_eq!(check_success(vec![puts("a"), deletes("a")]), Ok(()));
    assert_eq!(check_success(vec![deletes("a"), puts("a")]), DUPLICATE);
    assert_eq!(check_success(vec![puts("a"), puts("a")]), DUPLICATE);
    assert_eq!(check_success(vec![puts("a"), put("a")]), DUPLICATE);
    assert_eq!(check_success(vec![put("a"), deletes("a")]), DUPLICATE);
    assert_eq!(check_success(vec![puts("a"), delete("a", "")]), DUPLICATE);
    // Only one of the branches runs.
    assert_eq!(check_success(vec![nested(vec![put("a")], vec![put("a")])]), Ok(()));
    assert_eq!(check_success(vec![nested(vec![put("a")], vec![put("a")]), put("a")]), DUPLICATE);
    assert_eq!(check_success(vec![nested(vec![delete("a", "")], vec![put("a")])]), Ok(()));
}

#[test]
fn a_delete_to_the_end_of_the_keys_is_not_seen() {
    assert_eq!(check_success(vec![delete("a", "\0"), put("b")]), Ok(()));
    assert_eq!(check_success(vec![delete("a", "\0"), put("a")]), Ok(()));
    assert_eq!(check_success(vec![nested(vec![delete("a", "\0")], vec![]), put("b")]), Ok(()));
}

#[test]
fn nesting_is_bounded() {
    let mut request = TxnRequest::default();
    for _ in 0..TXN_LEVELS_MAX - 1 {
        request =
            TxnRequest { success: vec![op(Request::RequestTxn(request))], ..TxnRequest::default() };
    }
    assert_eq!(txn(&request, 10_000, Rules::default()), Ok(()));
    request =
        TxnRequest { success: vec![op(Request::RequestTxn(request))], ..TxnRequest::default() };
    assert_eq!(txn(&request, 10_000, Rules::default()), Err(CheckError::TooManyOps));
}
