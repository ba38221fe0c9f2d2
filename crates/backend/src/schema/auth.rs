//! Buckets `auth`, `authUsers`, `authRoles`.

use bytes::{BufMut, Bytes};
use prost::Message;
use proto::authpb::{Role, User};

use super::Bucket;
use crate::{Error, View, Writer};

const ENABLED: &[u8] = b"authEnabled";
const REVISION: &[u8] = b"authRevision";

/// Whether authentication is on. Absent means off.
pub fn is_enabled(view: &View) -> Result<bool, Error> {
    match view.get(Bucket::Auth, ENABLED)?.as_deref() {
        None | Some([0]) => Ok(false),
        Some([1]) => Ok(true),
        Some(_) => Err(view.corrupt(Bucket::Auth, ENABLED, "neither 0 nor 1".into())),
    }
}

/// Turns authentication on or off.
pub fn put_enabled(writer: &mut Writer, is_enabled: bool) {
    let value: &'static [u8] = if is_enabled { &[1] } else { &[0] };
    writer.put(Bucket::Auth, Bytes::from_static(ENABLED), Bytes::from_static(value));
}

/// Counts changes of users and roles; 0 when absent.
pub fn revision(view: &View) -> Result<u64, Error> {
    view.get_u64(Bucket::Auth, REVISION).map(|found| found.unwrap_or(0))
}

/// Stores the auth revision.
pub fn put_revision(writer: &mut Writer, revision: u64) {
    writer.put(
        Bucket::Auth,
        Bytes::from_static(REVISION),
        Bytes::copy_from_slice(&revision.to_be_bytes()),
    );
}

/// Every user by name.
pub fn users(view: &View) -> Result<Vec<User>, Error> {
    rows(view, Bucket::AuthUsers, |user: &User| &user.name)
}

/// Every role by name.
pub fn roles(view: &View) -> Result<Vec<Role>, Error> {
    rows(view, Bucket::AuthRoles, |role: &Role| &role.name)
}

fn rows<T: Message + Default>(
    view: &View,
    bucket: Bucket,
    name: fn(&T) -> &Bytes,
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    for row in view.scan(bucket, &[], None)? {
        let (key, value) = row?;
        let message = T::decode(value.to_bytes()).map_err(|error| {
            view.corrupt(bucket, &key, format!("not a row of this bucket: {error}"))
        })?;
        if *name(&message) != *key {
            return Err(view.corrupt(bucket, &key, "the row has another name".into()));
        }
        found.push(message);
    }
    Ok(found)
}

/// Adds or replaces a user.
///
/// The options are always written, as etcd does: an empty message when there are none.
pub fn put_user(writer: &mut Writer, user: &User) {
    let mut bytes = user.encode_to_vec();
    if user.options.is_none() {
        // Field 4, length 0.
        bytes.put_slice(&[0x22, 0x00]);
    }
    writer.put(Bucket::AuthUsers, user.name.clone(), Bytes::from(bytes));
}

/// Deletes a user.
pub fn delete_user(writer: &mut Writer, name: &Bytes) {
    writer.delete(Bucket::AuthUsers, name.clone());
}

/// Adds or replaces a role.
pub fn put_role(writer: &mut Writer, role: &Role) {
    writer.put(Bucket::AuthRoles, role.name.clone(), Bytes::from(role.encode_to_vec()));
}

/// Deletes a role.
pub fn delete_role(writer: &mut Writer, name: &Bytes) {
    writer.delete(Bucket::AuthRoles, name.clone());
}
