//! Alarms that stand, and which requests they forbid.
//!
//! Rows are the alarms themselves (bucket `alarm`). Two kinds forbid requests: NOSPACE those that take space, CORRUPT
//! nearly all; when both stand, CORRUPT counts.
//!
//! That follows from the stored alarms alone, as in etcd 3.6. 3.5 goes by the last alarm that was raised or cleared,
//! and after a restart by what is stored: while alarms of both kinds stand, its members can disagree among
//! themselves, depending on who was restarted. There is nothing to be equal to, so the rule that cannot diverge is
//! used in every version.
//!
//! Upstream: `server/etcdserver/api/v3alarm/alarms.go`, `server/etcdserver/apply.go` (3.5.30, 3.6.14).

use std::borrow::Cow;
use std::collections::BTreeSet;

use backend::schema::alarm;
use backend::{View, Writer};
use proto::etcdserverpb::{AlarmMember, AlarmType};

/// What alarms forbid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restriction {
    /// Nothing.
    #[default]
    None,
    /// Requests that take space.
    NoSpace,
    /// Everything that reads or writes keys and leases through the log.
    Corrupt,
}

/// Returns how a kind of alarm is called; one that no version gives a meaning to is called by its number.
#[must_use]
pub fn alarm_name(kind: i32) -> Cow<'static, str> {
    match AlarmType::try_from(kind) {
        Ok(kind) => Cow::Borrowed(kind.as_str_name()),
        Err(_) => Cow::Owned(kind.to_string()),
    }
}

/// The alarms that stand.
#[derive(Clone, Debug, Default)]
pub struct Alarms {
    /// Kind, then member: the order in which they are listed. Kinds are numbers, since unknown ones are kept too.
    standing: BTreeSet<(i32, u64)>,
}

impl Alarms {
    /// Reads the stored alarms.
    pub(crate) fn load(view: &View) -> Result<Self, backend::Error> {
        let standing =
            alarm::all(view)?.into_iter().map(|alarm| (alarm.alarm, alarm.member_id)).collect();
        Ok(Self { standing })
    }

    /// Returns what is forbidden now.
    #[must_use]
    pub fn restriction(&self) -> Restriction {
        if self.standing.is_empty() {
            Restriction::None
        } else if self.stands(AlarmType::Corrupt) {
            Restriction::Corrupt
        } else if self.stands(AlarmType::Nospace) {
            Restriction::NoSpace
        } else {
            // Kinds that no version gives a meaning to.
            Restriction::None
        }
    }

    /// Whether an alarm of this kind stands, of whichever member.
    #[must_use]
    pub fn stands(&self, kind: AlarmType) -> bool {
        self.of_kind(kind.into()).next().is_some()
    }

    /// Lists the alarms of a kind; of every kind for [`AlarmType::None`].
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let to_message = |&(alarm, member_id): &(i32, u64)| AlarmMember { member_id, alarm };
        if kind == i32::from(AlarmType::None) {
            self.standing.iter().map(to_message).collect()
        } else {
            self.of_kind(kind).map(to_message).collect()
        }
    }

    /// Raises an alarm and returns it. Raising it again is no change.
    pub(crate) fn activate(&mut self, writer: &mut Writer, alarm: AlarmMember) -> AlarmMember {
        if self.standing.insert((alarm.alarm, alarm.member_id)) {
            alarm::put(writer, &alarm);
        }
        alarm
    }

    /// Clears an alarm and returns it, if it stood.
    pub(crate) fn deactivate(
        &mut self,
        writer: &mut Writer,
        alarm: AlarmMember,
    ) -> Option<AlarmMember> {
        if !self.standing.remove(&(alarm.alarm, alarm.member_id)) {
            return None;
        }
        alarm::delete(writer, &alarm);
        Some(alarm)
    }

    fn of_kind(&self, kind: i32) -> impl Iterator<Item = &(i32, u64)> {
        self.standing.range((kind, 0)..=(kind, u64::MAX))
    }
}
