//! Entries on their way to the disk: through the journal, or straight to their segment.
//!
//! The journal has no thread of its own: whoever appends and finds much of it in use moves a bounded
//! share of its records on to their segments. Nothing here is needed for an entry to be safe. Where the
//! journal cannot take an entry (it is full and the disk is, too; a sync of it has failed), the entry goes
//! straight to its segment.
//!
//! Locks: [`Ring::applied`] may be waited for under a stream's writer lock, and is held over locks of
//! open segments only.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};

use ahash::{HashSet, HashSetExt};

use super::Store;
use crate::error::{Result, WalError};
use crate::format::{Body, Record, RecordHeader, SegmentId};
use crate::options::Durability;
use crate::ring::{NOWHERE, Outcome, Piece, Promise, Retired, Ring, bare};
use crate::segment::{Extent, Segment};
use crate::sync::SyncError;

/// Frame header, entry header and content.
const MAX_PARTS: usize = 3;
/// One in so many parts of the journal is moved on at a time.
const SHARES: u64 = 8;

impl Store {
    /// Stores frames at the end of a segment and lets readers see them. `checksum`: the wrapping sum of
    /// the frames' header checksums. After an error nothing has changed. With `Durability::Disk`, all that
    /// is left to do is [`Self::make_durable`].
    pub(crate) fn put(
        &self,
        segment: &Segment,
        parts: &[&[u8]],
        checksum: u32,
        extent: Extent,
        durability: Durability,
    ) -> Result<()> {
        let start = segment.extent().end;
        let body_bytes = extent.end.saturating_sub(start);
        if let (Some(pending), Some(ring)) = (segment.pending(), &self.ring) {
            let record = Record {
                body: Body::Frames,
                continues: false,
                segment: segment.id,
                offset: start,
                seed: segment.seed,
                body_bytes,
                body_checksum: checksum,
            };
            let all_durable = segment.durable_in_file() >= u64::from(start);
            let piece = Piece { record, previous: pending.previous(), parts };
            let placed = |_: usize, header: &RecordHeader| pending.note_frames(header, all_durable);
            let promised = durability == Durability::Disk;
            let taken = ring.fits(u64::from(body_bytes))
                && match self.journal_for(ring, segment, &piece, promised, placed)? {
                    Outcome::NotAllowed => {
                        self.make_file_durable(segment, start)?;
                        let again = self.journal_for(ring, segment, &piece, promised, placed)?;
                        again == Outcome::Appended
                    }
                    outcome => outcome == Outcome::Appended,
                };
            if taken {
                segment.publish(extent);
                self.move_on_if_due(ring);
                return Ok(());
            }
        }
        let mut slices = [IoSlice::new(&[]); MAX_PARTS];
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        segment.append(&mut slices, extent)
    }

    /// Notes the creation of a segment in the journal, so that its name needs no sync of its own.
    pub(crate) fn note_created(&self, segment: &Segment, header_area: &[u8]) -> Result<()> {
        let (Some(pending), Some(ring)) = (segment.pending(), &self.ring) else { return Ok(()) };
        let record = Record {
            body: Body::Created,
            continues: false,
            segment: segment.id,
            offset: 0,
            seed: segment.seed,
            body_bytes: crate::scan::reach(crate::fs::len_u64(header_area.len())),
            body_checksum: Record::header_area_checksum(header_area),
        };
        if ring.fits(u64::from(record.body_bytes)) {
            let piece = Piece { record, previous: NOWHERE, parts: &[header_area] };
            self.journal(ring, &[piece], &[], |_, header| pending.note_created(header))?;
        }
        Ok(())
    }

    /// Says in the journal that the key's segments up to this one are dropped: recovery must not bring them
    /// back. Survives power loss after [`Self::sync_dropped`]; only then may they be unlinked.
    pub(crate) fn note_dropped(&self, newest: SegmentId) -> Result<()> {
        let Some(ring) = self.used_ring() else { return Ok(()) };
        if self.journal(ring, &[bare(Body::Dropped, newest)], &[], |_, _| {})? == Outcome::Appended
        {
            return Ok(());
        }
        Err(WalError::Poisoned { path: ring.path.clone() })
    }

    /// Makes what the journal says of dropped segments survive power loss.
    pub(crate) fn sync_dropped(&self) -> Result<()> {
        self.used_ring().map_or(Ok(()), |ring| self.sync_journal(ring, ring.head()))
    }

    /// The journal, if recovery could find anything in it. (What has left it may still be found.)
    fn used_ring(&self) -> Option<&Ring> {
        self.ring.as_deref().filter(|ring| ring.head() > 0)
    }

    /// Appends a record of a segment to the journal, with a promise if one is wanted.
    fn journal_for(
        &self,
        ring: &Ring,
        segment: &Segment,
        piece: &Piece<'_>,
        promised: bool,
        placed: impl FnMut(usize, &RecordHeader),
    ) -> Result<Outcome> {
        let pieces = std::slice::from_ref(piece);
        if !promised {
            return self.journal(ring, pieces, &[], placed);
        }
        let before = segment.extent().end;
        let named = self.name_is_durable(segment);
        let allowed = |tail| is_allowed(segment, before, named, tail);
        let promise = Promise { segment: segment.id, name: !named, allowed: &allowed };
        self.journal(ring, pieces, &[promise], placed)
    }

    /// Appends records to the journal, making room if need be.
    fn journal(
        &self,
        ring: &Ring,
        pieces: &[Piece<'_>],
        promises: &[Promise<'_>],
        mut placed: impl FnMut(usize, &RecordHeader),
    ) -> Result<Outcome> {
        let error = |source| write_error(ring, source);
        let outcome = ring.append(pieces, promises, &mut placed).map_err(error)?;
        if outcome != Outcome::NoRoom || ring.is_dead() {
            return Ok(outcome);
        }
        let bytes = pieces.iter().map(|piece| piece.record.bytes()).sum();
        // Why there is no room is found out by whoever then writes to the segment itself.
        let _ = self.make_room(ring, bytes);
        ring.append(pieces, promises, &mut placed).map_err(error)
    }

    // ---- from the journal to the segments ----

    /// Moves a share of the records on if there are many, unless somebody else is at it. What fails is
    /// tried again when the space is needed.
    fn move_on_if_due(&self, ring: &Ring) {
        if ring.backlog() < ring.capacity() / 4 {
            return;
        }
        let Ok(mut applied) = ring.applied.try_lock() else { return };
        let moved = self.apply_share(ring, &mut applied);
        if moved.is_ok() && applied.saturating_sub(ring.tail()) >= ring.capacity() / 4 {
            let _ = self.retire(ring, *applied);
        }
    }

    /// Frees space in the journal for records of so many bytes.
    fn make_room(&self, ring: &Ring, bytes: u64) -> Result<()> {
        let mut applied = ring.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = bytes.max(ring.capacity() / SHARES).saturating_mul(2);
        let through = ring.tail().saturating_add(wanted).min(ring.head());
        while *applied < through {
            self.apply_share(ring, &mut applied)?;
        }
        self.retire(ring, *applied)
    }

    /// Moves everything out of the journal, with all promises kept.
    pub(crate) fn empty_journal(&self) -> Result<()> {
        let Some(ring) = &self.ring else { return Ok(()) };
        let mut applied = ring.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let head = ring.head();
        while *applied < head {
            self.apply_share(ring, &mut applied)?;
        }
        self.retire(ring, *applied)
    }

    /// Writes a share of the records, and what else their segments have in the journal, to the segments.
    fn apply_share(&self, ring: &Ring, applied: &mut u64) -> Result<()> {
        let end = applied.saturating_add(ring.capacity() / SHARES).min(ring.head());
        let mut latest = None;
        while *applied < end {
            let header = ring
                .header_at(*applied)
                .map_err(|source| WalError::io(&ring.path, "read the journal", source))?;
            if header.record.body == Body::Frames {
                let id = header.record.segment;
                // A segment that is not open has been synced and closed, or dropped.
                if latest.as_ref().is_none_or(|segment: &Arc<Segment>| segment.id != id) {
                    latest = self.files.get(id);
                }
                if let Some(segment) = &latest {
                    if u64::from(segment.file_end()) < header.record.end() {
                        segment.settle()?;
                    }
                }
            }
            *applied = header.next();
            ring.set_applied_hint(*applied);
        }
        Ok(())
    }

    /// Gives the space before `to` back. Segments are synced for that only if they were promised to be.
    fn retire(&self, ring: &Ring, to: u64) -> Result<()> {
        let mut checked = HashSet::new();
        let mut names = 0;
        loop {
            match ring.retire(to, &checked, names) {
                Retired::First(segments) => {
                    for id in segments {
                        self.secure(id, to)?;
                        checked.insert(id);
                    }
                }
                Retired::Names(promised) => {
                    self.sync_names(self.latest_name_change())?;
                    names = promised;
                }
                Retired::FreeAfter(tail) => {
                    let nobody = SegmentId { key_hash: 0, sequence: 0 };
                    // Without room for this record, the next one that has some says the same.
                    let outcome = ring
                        .append(&[bare(Body::Nothing, nobody)], &[], |_, _| {})
                        .map_err(|source| write_error(ring, source))?;
                    if outcome == Outcome::Appended {
                        self.sync_journal(ring, ring.head())?;
                        ring.free(tail);
                    }
                    break;
                }
                Retired::Free => break,
            }
        }
        ring.forget(|id| self.files.get(id).is_none_or(|segment| !segment.is_dirty()));
        Ok(())
    }

    /// Makes durable in its file what a segment has in the journal before `to`.
    fn secure(&self, id: SegmentId, to: u64) -> Result<()> {
        let Some(segment) = self.files.get(id) else { return Ok(()) };
        let kept = |segment: &Segment| {
            let pending = segment.pending();
            pending.is_some_and(|pending| pending.has_the_rest(to, segment.durable_in_file()))
        };
        if segment.is_dirty() && !kept(&segment) {
            let synced = segment.sync_bytes(segment.file_end(), &self.counters);
            self.watch.changed(id.key_hash);
            synced?;
        }
        Ok(())
    }

    // ---- durability ----

    /// Promises that the segment's bytes up to `end`, and its name, survive once the journal does up to
    /// the returned mark. `None`: the journal does not have all that is missing.
    fn promise(&self, segment: &Segment, end: u32) -> Option<u64> {
        let (ring, pending) = (self.ring.as_ref()?, segment.pending()?);
        let named = self.name_is_durable(segment);
        let mark = pending.next();
        let allowed = |tail| is_allowed(segment, end, named, tail);
        let promise = Promise { segment: segment.id, name: !named, allowed: &allowed };
        ring.promise(&promise, mark).then_some(mark)
    }

    /// Makes the segment's frames up to `end`, and its name, survive power loss.
    pub(crate) fn make_durable(&self, segment: &Segment, end: u32) -> Result<()> {
        let result = self.try_make_durable(segment, end);
        self.watch.changed(segment.id.key_hash);
        result
    }

    fn try_make_durable(&self, segment: &Segment, end: u32) -> Result<()> {
        self.check_process()?;
        let in_file = segment.durable_in_file() >= u64::from(end);
        if segment.is_poisoned() && !in_file {
            return Err(segment.poisoned());
        }
        if !in_file || !self.name_is_durable(segment) {
            if let (Some(mark), Some(ring)) = (self.promise(segment, end), &self.ring) {
                match self.wait_for_journal(ring, mark) {
                    Ok(()) => {
                        segment.prove(end);
                        return Ok(());
                    }
                    Err(SyncError::Failed(source)) => {
                        segment.poison();
                        return Err(sync_error(ring, source));
                    }
                    // It failed before: the segment can still be made durable without it.
                    Err(SyncError::Poisoned) => {}
                }
            }
        }
        let in_doubt = self.ring.as_ref().is_some_and(|ring| ring.is_dead());
        if in_doubt && segment.settle().is_err() {
            // The journal is of no use any more, and the segment cannot take what it had.
            segment.poison();
            return Err(segment.poisoned());
        }
        self.make_file_durable(segment, end)
    }

    /// As [`Self::make_durable`], in the file itself and in the directory.
    pub(crate) fn make_file_durable(&self, segment: &Segment, end: u32) -> Result<()> {
        self.check_process()?;
        segment.sync_bytes(end, &self.counters)?;
        self.sync_names(segment.name_change())
    }

    /// Makes room for one more open file, if need be by syncing one.
    pub(crate) fn make_room_for_file(&self) {
        self.files.make_room(|victim| {
            // A failure stays with the victim: its key is poisoned, its file stays open.
            let _ = victim.sync_bytes(victim.extent().end, &self.counters);
            self.watch.changed(victim.id.key_hash);
        });
    }

    /// Makes everything that was appended survive power loss.
    pub(crate) fn sync_all(&self) -> Result<()> {
        let dirty = self.files.dirty();
        let result = self.sync_segments(&dirty);
        for segment in &dirty {
            self.watch.changed(segment.id.key_hash);
        }
        result
    }

    fn sync_segments(&self, dirty: &[Arc<Segment>]) -> Result<()> {
        let mut result = Ok(());
        let mut promised = Vec::new();
        let mut last = 0;
        for segment in dirty {
            let end = segment.extent().end;
            if segment.is_poisoned() {
                result = result.and(Err(segment.poisoned()));
            } else if let Some(mark) = self.promise(segment, end) {
                last = last.max(mark);
                promised.push((segment, end));
            } else {
                result = result.and(segment.sync_bytes(end, &self.counters));
            }
        }
        if let (Some(ring), false) = (&self.ring, promised.is_empty()) {
            let waited = self.wait_for_journal(ring, last);
            for (segment, end) in promised {
                match &waited {
                    Ok(()) => segment.prove(end),
                    Err(SyncError::Failed(_)) => segment.poison(),
                    Err(SyncError::Poisoned) => {
                        result = result.and(segment.sync_bytes(end, &self.counters));
                    }
                }
            }
            if let Err(SyncError::Failed(source)) = waited {
                result = result.and(Err(sync_error(ring, source)));
            }
        }
        result.and(self.sync_names(self.latest_name_change()))
    }

    fn wait_for_journal(&self, ring: &Ring, mark: u64) -> std::result::Result<(), SyncError> {
        ring.wait_durable(mark, |file| self.counters.time_sync(|| file.sync_data()))
    }

    fn sync_journal(&self, ring: &Ring, mark: u64) -> Result<()> {
        self.wait_for_journal(ring, mark).map_err(|error| match error {
            SyncError::Failed(source) => sync_error(ring, source),
            SyncError::Poisoned => WalError::Poisoned { path: ring.path.clone() },
        })
    }
}

fn sync_error(ring: &Ring, source: io::Error) -> WalError {
    WalError::Io { path: ring.path.clone(), operation: "sync the journal", source }
}

fn write_error(ring: &Ring, source: io::Error) -> WalError {
    WalError::io(&ring.path, "write to the journal", source)
}

/// Whether the journal from `tail` on has all that is missing of the segment's bytes up to `end` and
/// of its name.
fn is_allowed(segment: &Segment, end: u32, named: bool, tail: u64) -> bool {
    let durable = segment.durable_in_file();
    segment.pending().is_some_and(|pending| {
        (durable >= u64::from(end) || pending.has_the_rest(tail, durable))
            && (named || pending.has_the_name(tail))
    })
}
