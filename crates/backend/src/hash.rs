//! Hash over the whole backend, as `Maintenance.Hash` and `etcdutl snapshot status` give it.
//!
//! CRC-32C over, for each bucket in the order of names: the name, then key and value of each row. (`HashKV` is another
//! thing, and lives in `mvcc`.)
//!
//! Upstream: `server/mvcc/backend/backend.go` `Hash`, `server/etcdserver/api/v3rpc/maintenance.go` (3.5.30).

use crate::schema::{Bucket, meta};
use crate::{Error, View};

/// Which rows of `meta` are left out, since they differ between members that hold the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashRule {
    /// Without `consistent_index` and `term`.
    V3_5,
    /// Without these and `storageVersion`.
    V3_6,
    /// With every row: what `etcdutl snapshot status` shows.
    EveryRow,
}

impl HashRule {
    fn leaves_out(self, bucket: Bucket, key: &[u8]) -> bool {
        if bucket != Bucket::Meta {
            return false;
        }
        match self {
            Self::V3_5 => key == meta::CONSISTENT_INDEX || key == meta::TERM,
            Self::V3_6 => {
                key == meta::CONSISTENT_INDEX || key == meta::TERM || key == meta::STORAGE_VERSION
            }
            Self::EveryRow => false,
        }
    }
}

pub(crate) fn hash(view: &View, rule: HashRule) -> Result<u32, Error> {
    let mut crc = 0;
    for bucket in Bucket::ALL {
        crc = crc32c::crc32c_append(crc, bucket.name().as_bytes());
        for row in view.scan(bucket, &[], None)? {
            let (key, value) = row?;
            if !rule.leaves_out(bucket, &key) {
                crc = crc32c::crc32c_append(crc, &key);
                crc = crc32c::crc32c_append(crc, &value);
            }
        }
    }
    Ok(crc)
}
