//! Who may use how much of the journal's space.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::{MAX_BODY_BYTES, Ring};
use crate::format::{Body, Record};
use crate::primitives::atomic::Ordering;

impl Ring {
    /// Longest record, its header included, that is accepted.
    pub(crate) fn fits(&self, body_bytes: u64) -> bool {
        body_bytes <= MAX_BODY_BYTES && Record::bytes_for(body_bytes) <= self.most_together()
    }

    /// Most bytes of records that are appended together.
    pub(crate) fn most_together(&self) -> u64 {
        self.capacity / 4
    }

    /// Space that a record may not use, so that those which end something are hardly ever refused, nor
    /// the one that makes room for others. `to_be_carried`: where something is promised, all of that may be of one
    /// segment whose sync fails, and then it has to find room again.
    pub(super) fn reserve(&self, body: Body, to_be_carried: bool) -> u64 {
        match body {
            Body::Nothing => 0,
            _ if to_be_carried => self.half(),
            Body::Frames | Body::Created => (self.capacity / 16).max(256),
            Body::Dropped => Record::bytes_for(0),
        }
    }

    /// Of the space, and what it takes to name the tail, to drop a segment, and to say that one which is carried is
    /// dropped.
    fn half(&self) -> u64 {
        (self.capacity / 2).saturating_add(Record::bytes_for(0).saturating_mul(3))
    }

    /// Whether there may be too little room to carry on what is in use, were it all of one segment.
    pub(crate) fn is_half_used(&self) -> bool {
        let used = self.head().saturating_sub(self.tail());
        used.saturating_add(self.half()) > self.capacity
    }

    /// Whether there is hardly any room, or none for so many bytes, though some was made: what is carried takes it all.
    pub(crate) fn is_cramped(&self, bytes: u64) -> bool {
        let least = self.half().saturating_add(bytes.max(self.capacity / 16));
        let state = self.lock();
        state.head.saturating_add(least) > state.free_to
    }

    /// Whether a record without bytes of its own finds room with [`Self::append_again`], and one more that names the
    /// tail.
    pub(crate) fn has_room_again(&self) -> bool {
        let state = self.lock();
        state.head.saturating_add(Record::bytes_for(0).saturating_mul(2)) <= state.free_to
    }

    /// Lets as much go past the journal as would have made it come round.
    pub(crate) fn let_pass(&self) {
        self.past.store(self.capacity / 4, Ordering::Relaxed);
    }

    /// There is room again.
    pub(crate) fn let_none_pass(&self) {
        self.past.store(0, Ordering::Relaxed);
    }

    /// Whether so many bytes are to go past the journal, and no room is to be made.
    pub(crate) fn goes_past(&self, bytes: u64) -> bool {
        let less = |left: u64| (left > 0).then(|| left.saturating_sub(bytes));
        self.past.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}
