//! Entries on their way from the journal to the segments, so that the space can be used again.
//!
//! The journal has no thread of its own, unless one is wanted: whoever appends and finds much of it in use moves its
//! oldest records on, and with them all that their segments have there. Nothing here is needed for an entry to be safe.
//!
//! Locks: [`Ring::moving`] may be waited for under a stream's writer lock, and is held over locks of
//! open segments only.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::sync::PoisonError;

use ahash::{HashSet, HashSetExt};

use super::Store;
use super::upkeep::{sync_journal, write_error};
use crate::error::{Result, WalError};
use crate::format::{Body, SegmentId};
use crate::observe;
use crate::ring::{NO_PROMISES, Outcome, Retired, Ring, bare};
use crate::segment::{Pending, Segment};

/// One in so many parts of the journal is looked through at a time for segments to move on.
const SHARES: u64 = 8;
/// An append moves on the records of so many segments at most, each of which is a system call.
const SEGMENTS_AT_A_TIME: usize = 32;

impl Store {
    /// Moves a share of the records on if there are many, unless somebody else is at it. What fails is
    /// tried again when the space is needed.
    pub(super) fn move_on_if_due(&self, ring: &Ring) {
        if !ring.is_due() {
            return;
        }
        let backlog = ring.backlog();
        if let Some(bell) = self.bell.as_ref() {
            bell.ring();
            // It may have too much to do alone.
            if backlog < (ring.capacity() / 4).saturating_mul(3) {
                return;
            }
        }
        let Ok(_moving) = ring.moving.try_lock() else { return };
        let through = ring.head().saturating_sub(backlog).saturating_add(ring.capacity() / SHARES);
        let result = self.move_on(ring, through, SEGMENTS_AT_A_TIME).and_then(|moved| {
            let due = moved.saturating_sub(ring.tail()) >= ring.capacity() / 4;
            if due { self.retire(ring, moved) } else { Ok(()) }
        });
        if let Err(error) = result {
            observe::journal_upkeep_failed(&error);
        }
    }

    /// Moves records on whenever there are many, until the bell says that it is over. What fails is tried
    /// again the next time, or when the space is needed.
    pub(crate) fn keep_moving_on(&self) {
        let (Some(ring), Some(bell)) = (&self.ring, &self.bell) else { return };
        while bell.answer() {
            let _moving = ring.moving.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(moved) = self.move_on(ring, ring.head(), usize::MAX) {
                let _ = self.retire(ring, moved);
            }
        }
    }

    /// Frees space in the journal for records of so many bytes.
    pub(super) fn make_room(&self, ring: &Ring, bytes: u64) -> Result<()> {
        let _waiting = observe::waiting_for_the_journal();
        let _moving = ring.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.free_space(ring, bytes);
        if ring.is_cramped(bytes) && !self.files.poisoned().is_empty() {
            // To carry it again for each record would cost all of it.
            ring.let_pass();
        }
        result
    }

    /// As [`Self::make_room`], under [`Ring::moving`].
    pub(super) fn free_space(&self, ring: &Ring, bytes: u64) -> Result<()> {
        let wanted = bytes.max(ring.capacity() / SHARES).saturating_mul(2);
        let moved = self.move_on(ring, ring.tail().saturating_add(wanted), usize::MAX)?;
        self.retire(ring, moved)
    }

    /// Moves everything out of the journal, with all promises kept.
    pub(crate) fn empty_journal(&self) -> Result<()> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let _moving = ring.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = self.move_on(ring, ring.head(), usize::MAX)?;
        self.retire(ring, moved)?;
        // What was promised of such a segment is in the journal still.
        self.files.poisoned().first().map_or(Ok(()), |segment| Err(segment.poisoned()))
    }

    /// Writes the records before `through`, of so many segments at most, and what else these have in the journal,
    /// to the segments. Returns up to where no segment waits for any.
    fn move_on(&self, ring: &Ring, through: u64, segments: usize) -> Result<u64> {
        let mut left = segments;
        loop {
            let waiting = match ring.oldest_waiting() {
                Ok(waiting) if waiting.0 < through && left > 0 => waiting,
                Ok((moved, _)) | Err(moved) => return Ok(moved),
            };
            left = left.saturating_sub(1);
            // A segment that is not open had everything when it was closed, or has been dropped.
            let segment = self.files.get(waiting.1);
            segment.as_deref().map_or(Ok(()), Segment::settle)?;
            let pending = segment.as_deref().and_then(Segment::pending);
            ring.moved_on(waiting, || pending.and_then(Pending::waits_from));
        }
    }

    /// Gives the space before `to` back. Segments are synced for that only if they were promised to be.
    fn retire(&self, ring: &Ring, to: u64) -> Result<()> {
        // What is carried stands there twice while the tail is in the middle of the older records: those go first.
        let carried = self.files.poisoned();
        let starts =
            carried.iter().filter_map(|segment| segment.pending()).map(Pending::dirty_from);
        if let Some(start) = starts.filter(|start| *start > ring.tail() && *start < to).min() {
            self.retire_to(ring, start)?;
        }
        self.retire_to(ring, to)?;
        if carried.is_empty() || !ring.is_cramped(0) {
            ring.let_none_pass();
        }
        Ok(())
    }

    fn retire_to(&self, ring: &Ring, to: u64) -> Result<()> {
        let mut checked = HashSet::new();
        let mut names = 0;
        loop {
            match ring.retire(to, &checked, names) {
                Retired::First(segments) => {
                    self.each(&segments, |id| self.secure(ring, *id, to))?;
                    checked.extend(segments);
                }
                Retired::Names(promised) => {
                    self.sync_names(self.latest_name_change())?;
                    names = promised;
                }
                Retired::FreeAfter(tail) => {
                    sync_journal(ring, ring.head())?;
                    ring.free(tail);
                    break;
                }
                Retired::Unnamed => {
                    if !name_tail(ring)? {
                        break;
                    }
                }
                Retired::Free => break,
            }
        }
        // What came since is promised nothing, and must not cost a sync each time the journal comes round.
        ring.forget(|id, mark| {
            let kept =
                |segment: &Segment| segment.pending().is_none_or(|it| it.is_clean_before(mark));
            self.files.get(id).is_none_or(|segment| !segment.is_dirty() || kept(&segment))
        });
        Ok(())
    }

    /// Makes durable in its file, or else once more in the journal, what a segment has there before `to`.
    fn secure(&self, ring: &Ring, id: SegmentId, to: u64) -> Result<()> {
        let Some(segment) = self.files.get(id) else { return Ok(()) };
        let Some(pending) = segment.pending() else { return Ok(()) };
        if !segment.is_dirty() || pending.has_the_rest(to, segment.durable_in_file()) {
            return Ok(());
        }
        if !segment.is_poisoned() {
            let synced = segment.sync_bytes(segment.file_end(), &self.counters);
            self.watch.changed(id.key_hash);
            if synced.is_ok() || !segment.is_poisoned() {
                return synced;
            }
        }
        if pending.is_clean_before(to) { Ok(()) } else { self.carry(ring, &segment) }
    }
}

/// Appends a record that only says where the journal starts now. `false`: there is no room for it, and the next
/// one that has some says the same.
fn name_tail(ring: &Ring) -> Result<bool> {
    let nobody = SegmentId { key_hash: 0, sequence: 0 };
    let outcome = ring
        .append(&[bare(Body::Nothing, nobody)], NO_PROMISES, |_, _| false)
        .map_err(|source| write_error(ring, source))?;
    match outcome {
        Outcome::InDoubt => Err(WalError::Poisoned { path: ring.path.clone() }),
        outcome => Ok(outcome == Outcome::Appended),
    }
}
