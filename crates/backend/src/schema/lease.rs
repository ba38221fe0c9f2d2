//! Bucket `lease`.

use bytes::Bytes;
use prost::Message;
use proto::leasepb::Lease;

use super::Bucket;
use crate::{Error, View, Writer};

/// Every stored lease, in the order of the bucket: ids from 0 up, then the negative ones.
pub fn all(view: &View) -> Result<impl Iterator<Item = Result<Lease, Error>>, Error> {
    let rows = view.scan(Bucket::Lease, &[], None)?;
    Ok(rows.map(|row| {
        let (key, value) = row?;
        let lease = Lease::decode(&*value)
            .map_err(|error| view.corrupt(Bucket::Lease, &key, format!("not a lease: {error}")))?;
        if *key != lease.id.to_be_bytes() {
            return Err(view.corrupt(
                Bucket::Lease,
                &key,
                format!("the row is of lease {:x}", lease.id),
            ));
        }
        Ok(lease)
    }))
}

/// Stores a lease, new or changed.
pub fn put(writer: &mut Writer, lease: &Lease) {
    writer.put(Bucket::Lease, key_of(lease.id), Bytes::from(lease.encode_to_vec()));
}

/// Deletes a lease.
pub fn delete(writer: &mut Writer, id: i64) {
    writer.delete(Bucket::Lease, key_of(id));
}

fn key_of(id: i64) -> Bytes {
    Bytes::copy_from_slice(&id.to_be_bytes())
}
