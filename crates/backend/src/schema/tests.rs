use super::*;

#[test]
fn buckets_stand_in_order_of_their_names() {
    assert!(Bucket::ALL.is_sorted_by(|a, b| a.name() < b.name()));
    for (index, bucket) in Bucket::ALL.into_iter().enumerate() {
        assert_eq!(bucket.index(), index);
    }
}

#[test]
fn revision_keys() {
    let revision = Revision::new(0x0102, 3);
    let put = b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03";
    assert_eq!(RowKey::put(revision).encode().as_ref(), put);
    assert_eq!(revision.encode().as_ref(), put);
    let tombstone = [put.as_slice(), b"t"].concat();
    assert_eq!(RowKey::tombstone(revision).encode().as_ref(), tombstone);
    assert_eq!(RowKey::decode(put), Ok(RowKey::put(revision)));
    assert_eq!(RowKey::decode(&tombstone), Ok(RowKey::tombstone(revision)));
    for bad in [
        &b""[..],
        &put[..16],
        &[put.as_slice(), b"x"].concat(),
        &[put.as_slice(), b"tt"].concat(),
        b"\0\0\0\0\0\0\x01\x02-\0\0\0\0\0\0\0\x03",
        b"\xff\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03",
        b"\0\0\0\0\0\0\x01\x02_\xff\0\0\0\0\0\0\x03",
    ] {
        assert_eq!(RowKey::decode(bad), Err(MalformedRowKey), "{bad:x?}");
    }
}

#[test]
fn order_of_row_keys_is_that_of_their_bytes() {
    let mut keys = Vec::new();
    for main in [0, 1, 255, 256, i64::MAX] {
        for sub in [0, 1, 256, i64::MAX] {
            keys.push(RowKey::put(Revision::new(main, sub)));
            keys.push(RowKey::tombstone(Revision::new(main, sub)));
        }
    }
    assert!(keys.is_sorted_by(|a, b| a < b && a.encode().as_ref() < b.encode().as_ref()));
    for key in keys.iter().take(keys.len() - 1) {
        assert!(key.successor() > *key);
    }
    assert_eq!(
        RowKey::tombstone(Revision::new(1, i64::MAX)).successor(),
        RowKey::put(Revision::new(2, 0))
    );
}
