//! Entries on their way to the disk: through the journal, or straight to their segment.
//!
//! Where the journal cannot take an entry (it is full and the disk is, too; a sync of it has failed), the entry goes
//! straight to its segment. How entries come from the journal to the segments is in `moving`.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};

use super::Store;
use crate::error::{Result, SizeLimit, WalError};
use crate::format::{Body, Record, RecordHeader, SegmentId};
use crate::observe;
use crate::options::Durability;
use crate::parallel;
use crate::ring::{NO_PROMISES, Outcome, Piece, Previous, Promise, Promises, Ring, bare};
use crate::segment::{Extent, Pending, Segment};
use crate::sync::SyncError;

/// Frame header, entry header and content.
const MAX_PARTS: usize = 3;
/// After so many tries to make room, it is looked at why there is none.
const ROUNDS: usize = 4;

/// Frames that are to go to the end of a segment.
pub(crate) struct Frames<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) parts: &'a [&'a [u8]],
    /// The wrapping sum of the frames' header checksums.
    pub(crate) checksum: u32,
    /// Of the segment with the frames.
    pub(crate) extent: Extent,
}

impl Frames<'_> {
    fn body_bytes(&self) -> u32 {
        self.extent.end.saturating_sub(self.segment.extent().end)
    }

    /// The frames as a record of the journal.
    fn piece(&self, continues: bool) -> Piece<'_> {
        let record = Record {
            body: Body::Frames,
            continues,
            segment: self.segment.id,
            offset: self.segment.extent().end,
            seed: self.segment.seed,
            body_bytes: self.body_bytes(),
            body_checksum: self.checksum,
        };
        let previous = self.segment.pending().map_or(Previous::None, Pending::newest);
        Piece { record, previous, parts: self.parts }
    }

    /// Tells the segment that the journal has the frames, and lets readers see them: whoever finds the
    /// record, or a promise about it, has to find the segment in need of a sync. Returns whether it waits
    /// for no others.
    fn note(&self, header: &RecordHeader) -> bool {
        let start = u64::from(self.segment.extent().end);
        let all_durable = self.segment.durable_in_file() >= start;
        let pending = self.segment.pending();
        let first = pending.is_some_and(|pending| pending.note_frames(header, all_durable));
        self.segment.publish(self.extent);
        first
    }
}

impl Store {
    /// Stores frames at the end of a segment and lets readers see them. After an error nothing has changed.
    /// With `Durability::Disk`, all that is left to do is [`Self::make_durable`].
    pub(crate) fn put(&self, frames: &Frames<'_>, durability: Durability) -> Result<()> {
        let segment = frames.segment;
        if let Some(ring) =
            self.ring.as_deref().filter(|ring| ring.fits(u64::from(frames.body_bytes())))
        {
            let promise = (durability == Durability::Disk).then(|| self.promise_of(segment));
            let promises = promise.as_slice();
            let (batch, piece) = (std::slice::from_ref(frames), [frames.piece(false)]);
            let placed = |_: usize, header: &RecordHeader| frames.note(header);
            if self.journal_frames(ring, batch, &piece, promises, placed)? == Outcome::Appended {
                self.move_on_if_due(ring);
                return Ok(());
            }
        }
        let mut slices = [IoSlice::new(&[]); MAX_PARTS];
        for (slice, part) in slices.iter_mut().zip(frames.parts) {
            *slice = IoSlice::new(part);
        }
        segment.append(&mut slices, frames.extent)
    }

    /// Checks whether frames of several segments, of each so many bytes, can be stored together.
    pub(crate) fn check_together(&self, frames: impl Iterator<Item = u64>) -> Result<()> {
        let ring = self.ring.as_deref().ok_or(WalError::NoJournal)?;
        let bytes = frames.map(Record::bytes_for).sum();
        let max = ring.most_together();
        if bytes > max {
            return Err(WalError::TooLarge { bytes, max, limit: SizeLimit::Journal });
        }
        Ok(())
    }

    /// Stores frames of several segments so that they are recovered together or not at all, and lets readers
    /// see them. Their size has been checked. Returns up to where the journal has to be durable for all of them to
    /// survive power loss. After an error nothing has changed.
    pub(crate) fn put_together(&self, batch: &[Frames<'_>]) -> Result<u64> {
        let ring = self.ring.as_deref().ok_or(WalError::NoJournal)?;
        let last = batch.len().saturating_sub(1);
        let pieces: Vec<Piece<'_>> =
            batch.iter().enumerate().map(|(at, frames)| frames.piece(at < last)).collect();
        let bytes = pieces.iter().map(|piece| piece.record.bytes()).sum();
        // Promised with `Os`, too: else a key could lose what it had before and keep its part of this.
        let promises: Vec<Promise> =
            batch.iter().map(|frames| self.promise_of(frames.segment)).collect();
        let mut end = 0;
        let mut placed = |at: usize, header: &RecordHeader| {
            if at == 0 {
                end = header.position.saturating_add(bytes);
            }
            let Some(frames) = batch.get(at) else { return false };
            if let Some(pending) = frames.segment.pending() {
                pending.note_together(end);
            }
            frames.note(header)
        };
        self.until_there_is_room(ring, bytes, || {
            self.journal_frames(ring, batch, &pieces, &promises, &mut placed)
        })?;
        self.move_on_if_due(ring);
        Ok(end)
    }

    /// Makes what was put together survive power loss, with all that its segments had before.
    pub(crate) fn make_durable_together<'a>(
        &self,
        ends: impl Iterator<Item = (&'a Segment, u32)>,
        mark: u64,
    ) -> Result<()> {
        let ring = self.ring.as_deref().ok_or(WalError::NoJournal)?;
        let synced = sync_journal(ring, mark);
        for (segment, end) in ends {
            match &synced {
                Ok(()) => segment.prove(end),
                // Nobody knows whether it is there; without the others it must not be.
                Err(_) => segment.poison(),
            }
            self.watch.changed(segment.id.key_hash);
        }
        synced
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
            let piece = Piece { record, previous: Previous::None, parts: &[header_area] };
            self.journal(ring, &[piece], NO_PROMISES, |_, header| {
                pending.note_created(header);
                false
            })?;
        }
        Ok(())
    }

    /// Refuses what only [`Self::note_dropped`] can end where that has no room, before it is begun.
    pub(crate) fn check_room_to_drop(&self) -> Result<()> {
        let Some(ring) = self.used_ring() else { return Ok(()) };
        let mut tried = Ok(());
        for round in 0.. {
            if ring.is_dead() {
                return Err(WalError::Poisoned { path: ring.path.clone() });
            }
            if ring.has_room_again() {
                return Ok(());
            }
            if round >= ROUNDS {
                break;
            }
            tried = self.make_room(ring, Record::bytes_for(0));
        }
        tried
    }

    /// Says in the journal that the key's segments up to this one are dropped: recovery must not bring them
    /// back. Survives power loss after [`Self::sync_dropped`]; only then may they be unlinked.
    pub(crate) fn note_dropped(&self, newest: SegmentId) -> Result<()> {
        let Some(ring) = self.used_ring() else { return Ok(()) };
        let piece = [bare(Body::Dropped, newest)];
        let dropped = self.files.up_to(newest);
        let mut placed = |_: usize, _: &RecordHeader| {
            dropped.iter().filter_map(|segment| segment.pending()).for_each(Pending::note_dropped);
            false
        };
        if self.journal(ring, &piece, NO_PROMISES, &mut placed)? == Outcome::Appended {
            return Ok(());
        }
        // What is carried has taken more than half: each time that it goes round there is room for one of these.
        let bytes = Record::bytes_for(0);
        self.until_there_is_room(ring, bytes, || {
            let _moving = ring.moving.lock().unwrap_or_else(PoisonError::into_inner);
            // Room is kept for it, also where others cannot be moved on.
            let freed = self.free_space(ring, bytes);
            let appended = ring.append_again(&piece, NO_PROMISES, &mut placed);
            match appended.map_err(|source| write_error(ring, source))? {
                Outcome::Appended => Ok(Outcome::Appended),
                outcome => freed.map(|()| outcome),
            }
        })
    }

    /// Appends what can only go to the journal, and makes room again as often as others are faster.
    fn until_there_is_room(
        &self,
        ring: &Ring,
        bytes: u64,
        mut append: impl FnMut() -> Result<Outcome>,
    ) -> Result<()> {
        for round in 0_usize.. {
            if append()? == Outcome::Appended {
                break;
            }
            if ring.is_dead() {
                return Err(WalError::Poisoned { path: ring.path.clone() });
            }
            if round >= ROUNDS {
                // Most likely nobody was faster, and what is carried has the room.
                self.files.poisoned().first().map_or(Ok(()), |segment| Err(segment.poisoned()))?;
            }
            self.make_room(ring, bytes)?;
        }
        Ok(())
    }

    /// Makes what the journal says of dropped segments survive power loss.
    pub(crate) fn sync_dropped(&self) -> Result<()> {
        self.used_ring().map_or(Ok(()), |ring| sync_journal(ring, ring.head()))
    }

    /// The journal, if recovery could find anything in it. (What has left it, or is in doubt, may still be found.)
    fn used_ring(&self) -> Option<&Ring> {
        self.ring.as_deref().filter(|ring| ring.head() > 0 || ring.is_dead())
    }

    /// Appends records of frames to the journal, with these promises. What comes before them is made durable
    /// in the segments if the journal does not have it any more.
    fn journal_frames(
        &self,
        ring: &Ring,
        batch: &[Frames<'_>],
        pieces: &[Piece<'_>],
        promises: &[Promise],
        mut placed: impl FnMut(usize, &RecordHeader) -> bool,
    ) -> Result<Outcome> {
        let kept = |frames: &Frames<'_>, tail| {
            self.is_allowed(frames.segment, frames.segment.extent().end, tail)
        };
        let allowed = |tail| batch.iter().all(|frames| kept(frames, tail));
        let mut append = || match self.journal(ring, pieces, (promises, &allowed), &mut placed)? {
            Outcome::InDoubt => {
                // Recovery would write it over what came to stand in its place.
                for Frames { segment, .. } in batch {
                    segment.poison();
                    self.watch.changed(segment.id.key_hash);
                }
                Err(WalError::Poisoned { path: ring.path.clone() })
            }
            outcome => Ok(outcome),
        };
        let outcome = append()?;
        if outcome != Outcome::NotAllowed {
            return Ok(outcome);
        }
        for frames in batch.iter().filter(|frames| !kept(frames, ring.tail())) {
            self.make_file_durable(frames.segment, frames.segment.extent().end)?;
        }
        append()
    }

    /// Appends records to the journal, making room if need be.
    fn journal(
        &self,
        ring: &Ring,
        pieces: &[Piece<'_>],
        promises: Promises<'_>,
        mut placed: impl FnMut(usize, &RecordHeader) -> bool,
    ) -> Result<Outcome> {
        let error = |source| write_error(ring, source);
        let outcome = ring.append(pieces, promises, &mut placed).map_err(error)?;
        if outcome != Outcome::NoRoom || ring.is_dead() {
            return Ok(outcome);
        }
        let bytes = pieces.iter().map(|piece| piece.record.bytes()).sum();
        if ring.goes_past(bytes) {
            return Ok(outcome);
        }
        // Why there is no room is found out by whoever then writes to the segment itself.
        if let Err(error) = self.make_room(ring, bytes) {
            observe::journal_upkeep_failed(&error);
        }
        ring.append(pieces, promises, &mut placed).map_err(error)
    }

    // ---- durability ----

    /// Promises that the segment's bytes up to `end`, and its name, survive once the journal does up to
    /// the returned mark. `None`: there is no journal, it is dead, or it does not have all that is missing.
    fn promise(&self, segment: &Segment, end: u32) -> Option<u64> {
        let (ring, pending) = (self.ring.as_ref()?, segment.pending()?);
        if ring.is_half_used() && !ring.goes_past(0) {
            // Promised it is without that, too: if it cannot be carried then, it stays where it is.
            let _ = self.make_room(ring, ring.most_together());
        }
        let promise = self.promise_of(segment);
        let mark = pending.next();
        ring.promise(promise, mark, |tail| self.is_allowed(segment, end, tail)).then_some(mark)
    }

    pub(super) fn promise_of(&self, segment: &Segment) -> Promise {
        segment.note_promise();
        Promise { segment: segment.id, name: !self.name_is_durable(segment) }
    }

    /// Whether the journal from `tail` on has all that is missing of the segment's bytes up to `end` and
    /// of its name.
    fn is_allowed(&self, segment: &Segment, end: u32, tail: u64) -> bool {
        let durable = segment.durable_in_file();
        segment.pending().is_some_and(|pending| {
            (durable >= u64::from(end) || pending.has_the_rest(tail, durable))
                && (self.name_is_durable(segment) || pending.has_the_name(tail))
        })
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
                match ring.wait_durable(mark) {
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

    /// Makes room for one more open file, if need be by writing to one what only the journal has, or by syncing
    /// it where somebody was promised that.
    pub(crate) fn make_room_for_file(&self) {
        self.files.make_room(|victim| {
            // After a failure its file stays open; after that of a sync its key is poisoned.
            if victim.is_promised() {
                let _ = victim.sync_bytes(victim.extent().end, &self.counters);
                self.watch.changed(victim.id.key_hash);
            } else {
                let _ = victim.settle();
            }
        });
    }

    /// Makes these segments survive power loss, and the names of all.
    pub(crate) fn sync_open(&self, dirty: &[Arc<Segment>]) -> Result<()> {
        let result = self.sync_segments(dirty);
        for segment in dirty {
            self.watch.changed(segment.id.key_hash);
        }
        result
    }

    fn sync_segments(&self, dirty: &[Arc<Segment>]) -> Result<()> {
        // Names first: then the journal need only have their bytes, as it may of a segment that a full disk has no
        // room for.
        let mut result = self.sync_names(self.latest_name_change());
        let mut promised = Vec::new();
        let mut others = Vec::new();
        let mut last = 0;
        for segment in dirty {
            let end = segment.extent().end;
            if segment.is_poisoned() {
                result = result.and(Err(segment.poisoned()));
            } else if let Some(mark) = self.promise(segment, end) {
                last = last.max(mark);
                promised.push((segment, end));
            } else {
                others.push((segment, end));
            }
        }
        if let (Some(ring), false) = (&self.ring, promised.is_empty()) {
            let waited = ring.wait_durable(last);
            for (segment, end) in promised {
                match &waited {
                    Ok(()) => segment.prove(end),
                    Err(SyncError::Failed(_)) => segment.poison(),
                    Err(SyncError::Poisoned) => others.push((segment, end)),
                }
            }
            if let Err(SyncError::Failed(source)) = waited {
                result = result.and(Err(sync_error(ring, source)));
            }
        }
        result.and(self.each(&others, |(segment, end)| segment.sync_bytes(*end, &self.counters)))
    }

    /// Does something that waits for the disk to each of these. Returns the first error that occurred.
    pub(crate) fn each<T: Clone + Send + Sync>(
        &self,
        all: &[T],
        work: impl Fn(&T) -> Result<()> + Sync,
    ) -> Result<()> {
        let results = parallel::for_each(all, work)
            .map_err(|source| WalError::io(self.dir.path(), "sync the segments", source))?;
        results.into_iter().try_for_each(|(_, result)| result)
    }
}

pub(super) fn sync_journal(ring: &Ring, mark: u64) -> Result<()> {
    ring.wait_durable(mark).map_err(|error| match error {
        SyncError::Failed(source) => sync_error(ring, source),
        SyncError::Poisoned => WalError::Poisoned { path: ring.path.clone() },
    })
}

fn sync_error(ring: &Ring, source: io::Error) -> WalError {
    WalError::Io { path: ring.path.clone(), operation: "sync the journal", source }
}

pub(super) fn write_error(ring: &Ring, source: io::Error) -> WalError {
    WalError::io(&ring.path, "write to the journal", source)
}
