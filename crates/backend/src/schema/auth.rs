//! Buckets `auth`, `authUsers`, `authRoles`.
//!
//! Names that are not UTF-8, which etcd 3.5 and 3.6 write, are read as [`proto::text`] has them. A row that is written under such a
//! name takes the place of etcd's.

use std::borrow::Cow;

use bytes::{BufMut, Bytes};
use prost::Message;
use proto::authpb::{Role, User};
use proto::text;

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
    rows(view, Bucket::AuthUsers, |user: &mut User| &mut user.name, text::mend_user)
}

/// Every role by name.
pub fn roles(view: &View) -> Result<Vec<Role>, Error> {
    // Nothing in a role is text.
    rows(view, Bucket::AuthRoles, |role: &mut Role| &mut role.name, |_| None)
}

fn rows<T: Message + Default>(
    view: &View,
    bucket: Bucket,
    name: fn(&mut T) -> &mut Bytes,
    mend: fn(&Bytes) -> Option<Bytes>,
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    for row in view.scan(bucket, &[], None)? {
        let (key, value) = row?;
        let value = value.to_bytes();
        let mended = |error| mend(&value).ok_or(error).and_then(T::decode);
        let mut message = T::decode(value.clone()).or_else(mended).map_err(|error| {
            view.corrupt(bucket, &key, format!("not a row of this bucket: {error}"))
        })?;
        let name = name(&mut message);
        if *name != *key {
            return Err(view.corrupt(bucket, &key, "the row has another name".into()));
        }
        if let Cow::Owned(text) = text::spelled(&key) {
            *name = text.into();
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
    delete_etcds(writer, Bucket::AuthUsers, &user.name);
    writer.put(Bucket::AuthUsers, user.name.clone(), Bytes::from(bytes));
}

/// Deletes a user.
pub fn delete_user(writer: &mut Writer, name: &Bytes) {
    delete_etcds(writer, Bucket::AuthUsers, name);
    writer.delete(Bucket::AuthUsers, name.clone());
}

/// Adds or replaces a role.
pub fn put_role(writer: &mut Writer, role: &Role) {
    delete_etcds(writer, Bucket::AuthRoles, &role.name);
    writer.put(Bucket::AuthRoles, role.name.clone(), Bytes::from(role.encode_to_vec()));
}

/// Deletes a role.
pub fn delete_role(writer: &mut Writer, name: &Bytes) {
    delete_etcds(writer, Bucket::AuthRoles, name);
    writer.delete(Bucket::AuthRoles, name.clone());
}

/// Deletes the row that etcd has under the bytes of a name.
fn delete_etcds(writer: &mut Writer, bucket: Bucket, name: &Bytes) {
    if let Some(bytes) = text::unspelled(name) {
        writer.delete(bucket, bytes);
    }
}
