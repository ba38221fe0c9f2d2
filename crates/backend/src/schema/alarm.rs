//! Bucket `alarm`: the alarm itself is the key, the value is empty.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::AlarmMember;

use super::Bucket;
use crate::{Error, View, Writer};

/// The alarms that stand, in the order of the bucket.
pub fn all(view: &View) -> Result<Vec<AlarmMember>, Error> {
    let mut alarms = Vec::new();
    for row in view.scan(Bucket::Alarm, &[], None)? {
        let (key, _) = row?;
        let alarm = AlarmMember::decode(&*key)
            .map_err(|error| view.corrupt(Bucket::Alarm, &key, format!("not an alarm: {error}")))?;
        alarms.push(alarm);
    }
    Ok(alarms)
}

/// Raises an alarm.
pub fn put(writer: &mut Writer, alarm: &AlarmMember) {
    writer.put(Bucket::Alarm, key_of(alarm), Bytes::new());
}

/// Takes an alarm back.
pub fn delete(writer: &mut Writer, alarm: &AlarmMember) {
    writer.delete(Bucket::Alarm, key_of(alarm));
}

fn key_of(alarm: &AlarmMember) -> Bytes {
    Bytes::from(alarm.encode_to_vec())
}
