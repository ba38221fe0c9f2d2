use super::*;

/// A page of `page_size` bytes from raw parts: header, then `body` behind it.
fn page_bytes(id: u64, flags: u16, count: u16, overflow: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Header { id: PageId(id), flags, count, overflow }.encode().to_vec();
    bytes.extend_from_slice(body);
    bytes.resize(512, 0);
    bytes
}

/// Two leaf elements as bbolt lays them out: ("a", "one"), ("bc", a bucket header).
fn leaf_body() -> Vec<u8> {
    let mut body = Vec::new();
    for numbers in [[0_u32, 32, 1, 3], [1, 20, 2, 16]] {
        numbers.iter().for_each(|number| body.extend_from_slice(&number.to_le_bytes()));
    }
    body.extend_from_slice(b"aonebc");
    body.extend_from_slice(&9_u64.to_le_bytes());
    body.extend_from_slice(&5_u64.to_le_bytes());
    body
}

#[test]
fn leaf_elements_are_found_by_position() {
    let bytes = page_bytes(3, FLAG_LEAF, 2, 0, &leaf_body());
    let page = Page::parse(PageId(3), &bytes, 512).unwrap();
    page.validate().unwrap();
    assert_eq!((page.kind, page.count, page.pages()), (Kind::Leaf, 2, 1));
    assert_eq!(page.leaf(0).unwrap(), LeafElement { is_bucket: false, key: b"a", value: b"one" });
    let bucket = page.leaf(1).unwrap();
    assert!(bucket.is_bucket && page.leaf_is_bucket(1) && !page.leaf_is_bucket(0));
    let (header, image) = BucketHeader::parse(PageId(3), bucket.value).unwrap();
    assert_eq!(header, BucketHeader { root: Some(PageId(9)), sequence: 5 });
    assert!(image.is_empty());
    assert_eq!(page.search(b"a").unwrap(), Ok(0));
    assert_eq!(page.search(b"b").unwrap(), Err(1));
    assert_eq!(page.search(b"c").unwrap(), Err(2));
}

#[test]
fn branch_sends_low_keys_to_its_first_child() {
    let mut body = Vec::new();
    for (pos, child) in [(32_u32, 7_u64), (17, 8)] {
        body.extend_from_slice(&pos.to_le_bytes());
        body.extend_from_slice(&1_u32.to_le_bytes());
        body.extend_from_slice(&child.to_le_bytes());
    }
    body.extend_from_slice(b"gm");
    let bytes = page_bytes(4, FLAG_BRANCH, 2, 0, &body);
    let page = Page::parse(PageId(4), &bytes, 512).unwrap();
    page.validate().unwrap();
    for (key, child) in [(b"a", 7), (b"g", 7), (b"l", 7), (b"m", 8), (b"z", 8)] {
        let index = page.child_for(key).unwrap();
        assert_eq!(page.child(index).unwrap(), PageId(child));
    }
}

#[test]
fn damage_is_named() {
    let check = |id: u64, bytes: &[u8], expected: &str| {
        let damage =
            Page::parse(PageId(id), bytes, 512).and_then(|page| page.validate()).unwrap_err();
        assert_eq!((damage.page, damage.what.as_str()), (PageId(id), expected));
    };
    check(3, &[0; 15], "page header is cut off");
    check(3, &page_bytes(4, FLAG_LEAF, 0, 0, &[]), "page says that it is page 4");
    check(3, &page_bytes(3, 3, 0, 0, &[]), "flags 0x3 where a branch or leaf is needed");
    check(3, &page_bytes(3, FLAG_META, 0, 0, &[]), "flags 0x4 where a branch or leaf is needed");
    check(
        3,
        &page_bytes(3, FLAG_LEAF, 0, 1, &[]),
        "1 overflow pages reach beyond the high water mark",
    );
    check(3, &page_bytes(3, FLAG_LEAF, 32, 0, &[]), "32 elements do not fit");
    check(3, &page_bytes(3, FLAG_BRANCH, 0, 0, &[]), "branch page without elements");
    check(3, &page_bytes(3, FLAG_LEAF, 1, 0, &[]), "keys do not ascend at element 0");
    let mut body = leaf_body();
    body[12] = 0xff; // the first value's length, third byte
    body[15] = 0xff;
    check(3, &page_bytes(3, FLAG_LEAF, 2, 0, &body), "element 0 of 2 reaches outside the page");
    let mut body = leaf_body();
    body[32] = b'x';
    check(3, &page_bytes(3, FLAG_LEAF, 2, 0, &body), "keys do not ascend at element 1");
}

#[test]
fn inline_page_is_a_plain_leaf() {
    let image = |flags, body: &[u8], count| {
        let mut bytes = Header { id: PageId(0), flags, count, overflow: 0 }.encode().to_vec();
        bytes.extend_from_slice(body);
        Page::parse_inline(PageId(6), &bytes).map(|page| page.count).map_err(|damage| damage.what)
    };
    assert_eq!(image(FLAG_LEAF, &[], 0), Ok(0));
    assert_eq!(image(FLAG_LEAF, &leaf_body(), 2), Err("inline bucket holds a bucket".to_owned()));
    assert_eq!(
        image(FLAG_LEAF, &leaf_body()[..20], 1),
        Err("element 0 of 1 reaches outside the page".to_owned())
    );
    assert_eq!(
        image(FLAG_BRANCH, &leaf_body(), 2),
        Err("inline bucket holds a branch page".to_owned())
    );
}
