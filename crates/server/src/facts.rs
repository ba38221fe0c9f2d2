//! What the state machine holds and services want to know: members, cluster version, alarms.
//!
//! The apply stage owns the originals. After a batch that changed them it puts a copy here; they change rarely and are small.

use std::sync::Arc;

use machine::{Alarms, Machine, Membership};
use proto::etcdserverpb::AlarmType;
use tokio::sync::watch;

/// Alarms of every kind.
const ALL: i32 = AlarmType::None as i32;

/// A copy of the small facts.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    current: watch::Sender<Arc<Known>>,
}

/// One state of them.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) membership: Membership,
    pub(crate) alarms: Alarms,
}

impl Facts {
    pub(crate) fn of(machine: &Machine) -> Self {
        let facts = Self::default();
        facts.update(machine);
        facts
    }

    /// Takes over what the machine says, if it says something new.
    pub(crate) fn update(&self, machine: &Machine) {
        let known = self.get();
        if known.membership == *machine.membership()
            && known.alarms.list(ALL) == machine.alarms().list(ALL)
        {
            return;
        }
        let known =
            Known { membership: machine.membership().clone(), alarms: machine.alarms().clone() };
        self.current.send_replace(Arc::new(known));
    }

    pub(crate) fn get(&self) -> Arc<Known> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Known>> {
        self.current.subscribe()
    }
}
