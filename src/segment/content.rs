//! What a segment holds: its file, and what is on its way there through the journal.
//!
//! The segment's records in the journal are a chain, each one telling where the one before it starts.
//! [`Content::settle`] writes what the file does not have yet, in one go; readers that come upon bytes
//! which are not in the file yet do that first. Where it fails (a full disk), they read from the journal.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, PoisonError};

use crate::format::{Body, RecordHeader};
use crate::fs::{File, Mapping, len_u64, write_full};
use crate::primitives::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::primitives::{Mutex, MutexGuard};
use crate::ring::{NOWHERE, Previous, Ring};
use crate::sync::SyncError;

/// How much is put together before it is written.
const WRITE_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Content {
    file: Box<dyn File>,
    pending: Option<Pending>,
    overlay: Option<Arc<Overlay>>,
}

/// What the journal has of a segment, copied for who may not move it on.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    /// By offset.
    pieces: BTreeMap<u64, Vec<u8>>,
    /// What is neither in the file nor here was lost, and reads as zeros: as in the file, were this moved on.
    goes_on: bool,
}

impl Overlay {
    pub(crate) fn insert(&mut self, offset: u32, bytes: Vec<u8>) {
        self.pieces.insert(u64::from(offset), bytes);
    }

    pub(crate) fn go_on_behind_gaps(&mut self) {
        self.goes_on = true;
    }

    /// Length of the segment whose file has `bytes` bytes: up to the first gap, unless it goes on behind it.
    fn len(&self, bytes: u64) -> u64 {
        let ends = self
            .pieces
            .iter()
            .map(|(offset, piece)| (*offset, offset.saturating_add(len_u64(piece.len()))));
        ends.fold(
            bytes,
            |len, (start, end)| {
                if self.goes_on || start <= len { len.max(end) } else { len }
            },
        )
    }

    fn read_at(&self, file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some((start, piece)) = self.pieces.range(..=offset).next_back() {
            let skip = usize::try_from(offset.saturating_sub(*start)).unwrap_or(usize::MAX);
            if let Some(found @ [_, ..]) = piece.get(skip..) {
                let bytes = found.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..bytes), found.get(..bytes)) {
                    to.copy_from_slice(from);
                }
                return Ok(bytes);
            }
        }
        let next = self.pieces.range(offset..).next().map(|(start, _)| *start);
        let room = next.unwrap_or(u64::MAX).saturating_sub(offset);
        let part = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..part).unwrap_or_default();
        match file.read_at(part, offset)? {
            0 if self.goes_on && next.is_some() => {
                part.fill(0);
                Ok(part.len())
            }
            read => Ok(read),
        }
    }
}

/// A segment's part of the journal.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) ring: Arc<Ring>,
    /// Position of the newest record, or `NOWHERE`; and of what comes behind it.
    last: AtomicU64,
    next: AtomicU64,
    /// The file has all bytes before this offset. Bytes below the end of the segment and not below
    /// this are in the journal.
    applied: AtomicU32,
    /// Every byte from `direct` on that the file's sync does not cover is in a record at this position or
    /// later.
    dirty: AtomicU64,
    /// Bytes before this offset may have been written to the file without the journal.
    direct: AtomicU32,
    /// Position of the record of the segment's creation, or `NOWHERE`.
    created: AtomicU64,
    /// The journal had all that is in the file: from that record on, the file could be made again.
    whole: AtomicBool,
    /// The file has all records before this position.
    settled: AtomicU64,
    /// The journal has to be durable up to this position before the file gets anything of it: what belongs
    /// to entries of other keys must not be there without them.
    together: AtomicU64,
    /// The journal knows that the segment waits for records.
    waits: AtomicBool,
    /// The journal says that the segment is dropped.
    dropped: AtomicBool,
    settling: Mutex<()>,
}

impl Pending {
    /// Position behind the newest record.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }

    pub(crate) fn previous(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The newest record, for one that is appended behind it.
    pub(crate) fn newest(&self) -> Previous<'_> {
        Previous::Newest(&self.last)
    }

    /// Whether the file has everything. What was settled may have left the journal.
    pub(crate) fn is_settled(&self) -> bool {
        self.previous() == NOWHERE || self.settled.load(Ordering::Acquire) >= self.next()
    }

    /// Whether the journal from `tail` on has every byte that is not durable in the file, which is up to
    /// `durable`.
    pub(crate) fn has_the_rest(&self, tail: u64, durable: u64) -> bool {
        // What the file has not got has not left the journal.
        u64::from(self.direct.load(Ordering::Acquire)) <= durable
            && (self.dirty.load(Ordering::Acquire) >= tail
                || u64::from(self.applied.load(Ordering::Acquire)) <= durable)
    }

    /// Whether the journal from `tail` on has the segment from its creation on. If the name is lost, so is
    /// whatever was written to the file alone, durable or not.
    pub(crate) fn has_the_name(&self, tail: u64) -> bool {
        let created = self.created.load(Ordering::Acquire);
        self.whole.load(Ordering::Acquire) && created != NOWHERE && created >= tail
    }

    /// Notes the record of the creation. Called before anybody can see the record.
    pub(crate) fn note_created(&self, header: &RecordHeader) {
        self.created.store(header.position, Ordering::Release);
        self.whole.store(true, Ordering::Release);
        self.direct.store(0, Ordering::Release);
        self.dirty.store(header.position, Ordering::Release);
        self.next.store(header.next(), Ordering::Release);
    }

    /// Notes a record of frames. Called before anybody can see the record. `all_durable`: so was
    /// everything before it. Returns whether the journal has yet to learn that the segment waits.
    pub(crate) fn note_frames(&self, header: &RecordHeader, all_durable: bool) -> bool {
        if self.previous() == NOWHERE {
            self.applied.store(header.record.offset, Ordering::Release);
        }
        if self.is_settled() {
            self.settled.fetch_max(header.position, Ordering::AcqRel);
        }
        if all_durable {
            self.dirty.store(header.position, Ordering::Release);
        }
        self.next.store(header.next(), Ordering::Release);
        self.last.store(header.position, Ordering::Release);
        // Written under the journal's lock only, so this need not be one step.
        let waits = self.waits.load(Ordering::Acquire);
        if !waits {
            self.waits.store(true, Ordering::Release);
        }
        !waits
    }

    /// No record that the file does not have is before this position. `None`: it has them all, and the
    /// next one is to be told to the journal. Called where no record is appended.
    pub(crate) fn waits_from(&self) -> Option<u64> {
        let waits = !self.is_settled();
        self.waits.store(waits, Ordering::Release);
        waits.then(|| self.settled.load(Ordering::Acquire))
    }

    /// Notes that a record is recovered together with all others before `end`, or not at all. Called before
    /// anybody can see the record.
    pub(crate) fn note_together(&self, end: u64) {
        self.together.store(end, Ordering::Release);
    }

    /// Whether there are bytes that can neither go to the file nor be made durable in the journal.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.ring.is_dead() && self.together.load(Ordering::Acquire) > self.ring.durable()
    }

    /// The records of frames behind the offset `applied`, newest first.
    fn unsettled(&self, applied: u32) -> io::Result<Vec<RecordHeader>> {
        self.records(applied, 0)
    }

    /// As [`Self::unsettled`], from a position of the journal on.
    fn records(&self, applied: u32, from: u64) -> io::Result<Vec<RecordHeader>> {
        let mut records = Vec::new();
        let mut position = self.previous();
        while position != NOWHERE && position >= from {
            let header = self.ring.header_at(position)?;
            if header.record.end() <= u64::from(applied) {
                break;
            }
            records.push(header);
            if header.record.offset <= applied || header.back == 0 {
                break;
            }
            position = position.saturating_sub(u64::from(header.back));
        }
        Ok(records)
    }

    /// The records of what the file has not durably, which it has up to `durable`, oldest first, with their
    /// bodies.
    pub(crate) fn not_durable(&self, durable: u64) -> io::Result<Vec<(RecordHeader, Vec<u8>)>> {
        let dirty = self.dirty.load(Ordering::Acquire);
        let mut records = self.records(crate::scan::reach(durable), dirty)?;
        let created = self.created.load(Ordering::Acquire);
        if created != NOWHERE && created >= dirty {
            let header = self.ring.header_at(created)?;
            records.extend(Some(header).filter(|header| header.record.end() > durable));
        }
        records.reverse();
        let with_body = |header: RecordHeader| {
            let bytes = usize::try_from(header.record.body_bytes).unwrap_or(usize::MAX);
            let mut body = vec![0; bytes];
            load_body(&self.ring, &header, &mut body)?;
            Ok((header, body))
        };
        records.into_iter().map(with_body).collect()
    }

    /// Keeps everybody from writing to the file what the journal has of it.
    pub(crate) fn settling(&self) -> MutexGuard<'_, ()> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything from `direct` on that the file's sync does not cover is here or later, and so is what was carried
    /// with it.
    pub(crate) fn dirty_from(&self) -> u64 {
        self.dirty.load(Ordering::Acquire)
    }

    /// Whether nothing that the file's sync does not cover is in the journal before this position.
    pub(crate) fn is_clean_before(&self, position: u64) -> bool {
        self.dirty.load(Ordering::Acquire) >= position
    }

    /// Notes that the journal says that the segment is dropped. Called before anybody can see the record.
    pub(crate) fn note_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    /// Notes that the first or another one of [`Self::not_durable`] has been appended to the journal once more, or
    /// before them that the segment is dropped: without that, they would bring it back. Called before anybody can see
    /// the record, under [`Self::settling`].
    pub(crate) fn note_carried(&self, header: &RecordHeader, first: bool) {
        if first {
            self.dirty.store(header.position, Ordering::Release);
        }
        if self.is_settled() {
            self.settled.fetch_max(header.next(), Ordering::AcqRel);
        }
        self.next.store(header.next(), Ordering::Release);
        match header.record.body {
            Body::Created => self.created.store(header.position, Ordering::Release),
            Body::Frames => self.last.store(header.position, Ordering::Release),
            Body::Dropped | Body::Nothing => {}
        }
    }

    /// Copies bytes from `offset` on, which is not in the file, out of the journal; 0 if it is in neither.
    fn read(&self, buffer: &mut [u8], offset: u32) -> io::Result<usize> {
        let _nobody_appends = self.ring.hold();
        for header in self.unsettled(offset)? {
            let record = &header.record;
            if record.offset <= offset && u64::from(offset) < record.end() {
                let mut body = vec![0; usize::try_from(record.body_bytes).unwrap_or(usize::MAX)];
                load_body(&self.ring, &header, &mut body)?;
                // Somebody else may have moved it on, and the space may be in use again.
                if !record.check(&body) {
                    return Err(gone());
                }
                let skip = usize::try_from(offset.saturating_sub(record.offset)).unwrap_or(0);
                let found = body.get(skip..).unwrap_or_default();
                let bytes = found.len().min(buffer.len());
                if let (Some(to), Some(from)) = (buffer.get_mut(..bytes), found.get(..bytes)) {
                    to.copy_from_slice(from);
                }
                return Ok(bytes);
            }
        }
        Ok(0)
    }
}

impl Content {
    pub(crate) fn new(file: Box<dyn File>, ring: Option<&Arc<Ring>>) -> Self {
        let pending = ring.map(|ring| Pending {
            ring: Arc::clone(ring),
            last: AtomicU64::new(NOWHERE),
            next: AtomicU64::new(0),
            applied: AtomicU32::new(u32::MAX),
            dirty: AtomicU64::new(0),
            direct: AtomicU32::new(0),
            created: AtomicU64::new(NOWHERE),
            whole: AtomicBool::new(false),
            settled: AtomicU64::new(0),
            together: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
            settling: Mutex::new(()),
        });
        Self { file, pending, overlay: None }
    }

    pub(crate) fn under(self, overlay: Option<&Arc<Overlay>>) -> Self {
        Self { overlay: overlay.map(Arc::clone), ..self }
    }

    /// What has the header: the file, unless the journal has it whole, as when that is replayed.
    pub(crate) fn with_header(&self) -> &dyn File {
        let journal = self.overlay.as_ref().filter(|overlay| overlay.pieces.contains_key(&0));
        if journal.is_some() { self } else { &*self.file }
    }

    pub(crate) fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// Offset up to which the file has all bytes of a segment that ends at `end`.
    pub(crate) fn applied(&self, end: u32) -> u32 {
        self.pending
            .as_ref()
            .map_or(end, |pending| pending.applied.load(Ordering::Acquire).min(end))
    }

    /// Notes that bytes up to `end` were written to the file itself.
    pub(crate) fn wrote(&self, end: u32) {
        if let Some(pending) = &self.pending {
            pending.whole.store(false, Ordering::Release);
            pending.direct.store(end, Ordering::Release);
            pending.applied.store(end, Ordering::Release);
        }
    }

    /// Makes durable what the file has, up to the returned position of the journal: see [`Self::note_synced`].
    pub(crate) fn sync(&self) -> io::Result<u64> {
        let pending = self.pending.as_ref();
        let settled = pending.map_or(0, |pending| pending.settled.load(Ordering::Acquire));
        self.file.sync_data().map(|()| settled)
    }

    /// Notes that a sync counts: nobody else got an error that it should have had.
    pub(crate) fn note_synced(&self, settled: u64) {
        if let Some(pending) = &self.pending {
            pending.dirty.fetch_max(settled, Ordering::AcqRel);
        }
    }

    /// Writes to the file what is in the journal only. After an error it still is.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let Some(pending) = &self.pending else { return Ok(()) };
        if pending.is_settled() {
            return Ok(());
        }
        if !pending.ring.is_ours() {
            return Err(io::Error::other("only the process that opened the log may write"));
        }
        let _guard = pending.settling();
        if pending.is_settled() {
            return Ok(());
        }
        let mut applied = pending.applied.load(Ordering::Acquire);
        let mut records = pending.unsettled(applied)?;
        // After the records: of those that come meanwhile none is written.
        let together = pending.together.load(Ordering::Acquire);
        pending.ring.wait_durable(together).map_err(|error| match error {
            SyncError::Failed(source) => source,
            SyncError::Poisoned => io::Error::other("an earlier sync of the journal failed"),
        })?;
        let mut buffer = Vec::new();
        while !records.is_empty() {
            buffer.clear();
            let start = applied;
            let mut settled = 0;
            while let Some(header) = records.last() {
                let from = buffer.len();
                let bytes = usize::try_from(header.record.body_bytes).unwrap_or(usize::MAX);
                if from > 0 && from.saturating_add(bytes) > WRITE_BYTES {
                    break;
                }
                buffer.resize(from.saturating_add(bytes), 0);
                let body = buffer.get_mut(from..).unwrap_or_default();
                load_body(&pending.ring, header, body)?;
                applied = crate::scan::reach(header.record.end());
                settled = header.next();
                records.pop();
            }
            write_full(&*self.file, &mut [IoSlice::new(&buffer)], u64::from(start))?;
            pending.applied.store(applied, Ordering::Release);
            pending.settled.store(settled, Ordering::Release);
        }
        Ok(())
    }
}

/// The bytes of a record. Where the journal may have lost pages, they are checked.
fn load_body(ring: &Ring, header: &RecordHeader, body: &mut [u8]) -> io::Result<()> {
    ring.load(header.position.saturating_add(RecordHeader::BYTES_U64), body)?;
    if ring.is_dead() && !header.record.check(body) {
        return Err(gone());
    }
    Ok(())
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record of the journal is gone")
}

impl File for Content {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if let Some(overlay) = &self.overlay {
            return overlay.read_at(&*self.file, buffer, offset);
        }
        let Some(pending) = &self.pending else { return self.file.read_at(buffer, offset) };
        let applied = pending.applied.load(Ordering::Acquire);
        let end = offset.saturating_add(len_u64(buffer.len()));
        if end <= u64::from(applied) || applied == u32::MAX || self.settle().is_ok() {
            return self.file.read_at(buffer, offset);
        }
        let applied = pending.applied.load(Ordering::Acquire);
        let in_file =
            usize::try_from(u64::from(applied).saturating_sub(offset)).unwrap_or(usize::MAX);
        if in_file > 0 {
            let part = buffer.len().min(in_file);
            return self.file.read_at(buffer.get_mut(..part).unwrap_or_default(), offset);
        }
        match pending.read(buffer, crate::scan::reach(offset)) {
            // The journal has been used again, so the file has it; a forked child does not hear of that.
            Err(_) if !pending.ring.is_ours() || self.applied(u32::MAX) > applied => {
                self.file.read_at(buffer, offset)
            }
            result => result,
        }
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.file.write_at(parts, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        let bytes = self.file.len()?;
        Ok(self.overlay.as_ref().map_or(bytes, |overlay| overlay.len(bytes)))
    }

    fn is_shared(&self) -> io::Result<bool> {
        self.file.is_shared()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }

    fn map(&self, bytes: usize) -> io::Result<Box<dyn Mapping>> {
        self.file.map(bytes)
    }
}
