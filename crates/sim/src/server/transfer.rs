//! Databases on their way from one member to another: read in pieces while the sender goes on, written to a file that gets its
//! name when it is durable. Raft hears of the snapshot only then, as in the server.

use std::sync::Arc;

use raft::{Body, Message};
use replica::Input;
use vfs::{File, OpenMode};

use super::env::{Event, Life};
use super::marks::Mark;
use super::world::World;

/// Between two pieces.
const PIECE_US: u64 = 3_000;

/// One on its way.
pub(super) struct Transfer {
    from: Life,
    to: Life,
    message: Message,
    database: backend::Snapshot,
    file: Arc<dyn File>,
    unfinished: String,
    written: u64,
}

impl World {
    /// Begins to send what a member wants to send.
    pub(super) fn begin_transfers(&mut self, from: u64) {
        let Some(live) = self.nodes.get_mut(&from).and_then(|node| node.live.as_mut()) else {
            return;
        };
        let life = live.life;
        for (message, database) in std::mem::take(&mut live.outgoing) {
            let number = self.env.name();
            let unfinished = format!("tmp-{number}.snap.db");
            let to = self.env.routes.get(&message.to.0).copied();
            let receiver = to.and_then(|to| self.nodes.get(&to)?.live.as_ref());
            let file = receiver
                .and_then(|receiver| receiver.dirs.snap.open(&unfinished, OpenMode::Truncate).ok());
            let (Some(receiver), Some(file)) = (receiver, file) else {
                self.report(life, &message, false);
                continue;
            };
            let to = receiver.life;
            let transfer =
                Transfer { from: life, to, message, database, file, unfinished, written: 0 };
            self.transfers.insert(number, transfer);
            self.env.after(PIECE_US, Event::Piece(number));
        }
    }

    /// The next piece arrives, or the end.
    pub(super) fn piece(&mut self, number: u64) {
        let Some(mut transfer) = self.transfers.remove(&number) else { return };
        let now = self.env.now_us();
        let (from, to) = (transfer.from, transfer.to);
        let is_alive = |life: Life| {
            let node = self.nodes.get(&life.node).and_then(|node| node.live.as_ref());
            node.is_some_and(|live| live.life == life)
        };
        let paused_until =
            |life: Life| self.nodes.get(&life.node).map_or(0, |node| node.paused_until_us);
        let paused_until = paused_until(from).max(paused_until(to));
        let is_broken = !is_alive(from)
            || !is_alive(to)
            || self.env.net.is_blocked(from.node, to.node)
            || (!self.env.is_calm && self.env.workload.percent(1));
        if !is_broken && paused_until > now {
            self.transfers.insert(number, transfer);
            self.env.queue.at(paused_until, Event::Piece(number));
            return;
        }
        let mut piece = vec![0; self.env.swarm.piece_bytes];
        let outcome = if is_broken { Err(()) } else { transfer.advance(&mut piece) };
        match outcome {
            Ok(true) => {
                self.transfers.insert(number, transfer);
                let span = self.env.disk.around(PIECE_US);
                self.env.after(span, Event::Piece(number));
            }
            Ok(false) => self.finish_transfer(transfer),
            Err(()) => self.fail_transfer(&transfer),
        }
    }

    fn finish_transfer(&mut self, transfer: Transfer) {
        let Body::Snapshot(snapshot) = &transfer.message.body else { return };
        let index = snapshot.metadata.index.0;
        let env = &mut self.env;
        let receiver = self.nodes.get_mut(&transfer.to.node).and_then(|node| node.live.as_mut());
        let Some(receiver) = receiver else { return };
        let snap = &receiver.dirs.snap;
        let kept = transfer
            .file
            .sync_all()
            .and_then(|()| snap.rename(&transfer.unfinished, &backend::snapshot_db_name(index)))
            .and_then(|()| snap.sync());
        if kept.is_err() {
            return self.fail_transfer(&transfer);
        }
        env.trace(transfer.to.node, "received", [index, transfer.written, 0]);
        let message = transfer.message.clone();
        receiver.hear(Input::Received(message), env);
        self.report(transfer.from, &transfer.message, true);
    }

    fn fail_transfer(&mut self, transfer: &Transfer) {
        self.env.mark(Mark::SnapshotCut);
        let receiver = self.nodes.get(&transfer.to.node).and_then(|node| node.live.as_ref());
        if let Some(receiver) = receiver.filter(|live| live.life == transfer.to) {
            // It may never have been made.
            let _ = receiver.dirs.snap.remove(&transfer.unfinished);
        }
        self.report(transfer.from, &transfer.message, false);
    }

    /// Tells the sender how it went.
    fn report(&mut self, from: Life, message: &Message, is_taken: bool) {
        let env = &mut self.env;
        let sender = self.nodes.get_mut(&from.node).and_then(|node| node.live.as_mut());
        let Some(sender) = sender.filter(|live| live.life == from) else { return };
        if !is_taken {
            sender.hear(Input::Unreachable(message.to), env);
        }
        sender.hear(Input::SnapshotSent { to: message.to, is_taken }, env);
    }
}

impl Transfer {
    /// Moves one piece. Returns whether there is more.
    fn advance(&mut self, piece: &mut [u8]) -> Result<bool, ()> {
        let count = self.database.read(piece).map_err(drop)?;
        self.file.write_at(&piece[..count], self.written).map_err(drop)?;
        self.written += count as u64;
        Ok(self.database.remaining_bytes() > 0)
    }
}
