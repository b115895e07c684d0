//! Appending: assign an address, encode the frames, store the bytes; and rotating.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::sync::Arc;

use super::expire::Due;
use super::{Phase, Stream, Writer};
use crate::error::{Result, WalError};
use crate::format::{FileHeader, FrameFlags, FrameHeader, Limits, MAX_SEQUENCE, label};
use crate::observe;
use crate::options::Durability;
use crate::primitives::thread_local;
use crate::report::count;
use crate::retention;
use crate::segment::{CreateError, Extent, Segment};
use crate::store::{Frames, Past, Store};
use crate::watch::End;

/// Frames up to this size are copied together and written from one buffer; larger ones are gathered
/// by the kernel.
const COPY_BYTES: u64 = 16 << 10;
/// How much memory a thread keeps for putting frames together.
const KEPT_BYTES: usize = 64 << 10;

thread_local! {
    /// Where frames are put together; kept small between appends.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What an entry consists of.
#[derive(Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) header: Option<&'a [u8]>,
    pub(crate) content: &'a [u8],
}

/// Where entries went.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) segment: Arc<Segment>,
    /// Index of the first entry.
    pub(crate) index: u64,
    /// Offset of the first frame; the others follow without gaps.
    pub(crate) offset: u32,
    /// Offset behind the last frame.
    pub(crate) end: u32,
}

/// Length of an entry's frame.
pub(crate) fn frame_bytes(payload: &Payload<'_>) -> u64 {
    let header = payload.header.map_or(0, <[u8]>::len);
    crate::fs::len_u64(
        header.saturating_add(payload.content.len()).saturating_add(FrameHeader::BYTES),
    )
}

/// The end of a stream, where entries are about to go.
struct Spot {
    segment: Arc<Segment>,
    /// Offset of the first frame.
    start: u32,
    /// Of the segment, with the entries.
    extent: Extent,
    /// What the frame headers have in common; `index` of the first.
    template: FrameHeader,
    now_ms: u64,
}

/// Entries that are encoded, but not stored yet.
pub(crate) struct Prepared {
    spot: Spot,
    frames: Vec<u8>,
    checksum: u32,
}

impl Stream {
    /// Appends entries, visible and recoverable together or not at all. Their lengths have been
    /// checked. Nothing is written if it could not be made as durable as wanted.
    pub(crate) fn append(
        &self,
        store: &Store,
        writer: &mut Writer,
        payloads: &[Payload<'_>],
        durability: Durability,
    ) -> Result<Appended> {
        if let Some(cut) = store.cuts.wanted() {
            self.note_end(store, writer, cut);
        }
        let spot = self.spot(store, writer, payloads, durability, store.append_ms())?;
        match payloads {
            [payload] if spot.bytes() > COPY_BYTES || store.ring.is_some() => {
                let header = spot.frame_header(payload);
                let parts = [&header, payload.header.unwrap_or_default(), payload.content];
                let checksum = FrameHeader::checksum_in(&header);
                store.put(&spot.frames(&parts, checksum), durability)?;
            }
            payloads => FRAMES.with(|frames| {
                let frames = &mut *frames.borrow_mut();
                frames.clear();
                let checksum = spot.encode(payloads, frames);
                let result = store.put(&spot.frames(&[frames], checksum), durability);
                if frames.capacity() > KEPT_BYTES {
                    *frames = Vec::new();
                }
                result
            })?,
        }
        Ok(self.appended(writer, spot))
    }

    /// The first half of appending entries together with others of other streams: [`Store::put_together`]
    /// comes next, then [`Self::accept`].
    pub(crate) fn prepare(
        &self,
        store: &Store,
        writer: &mut Writer,
        payloads: &[Payload<'_>],
        durability: Durability,
        now_ms: u64,
    ) -> Result<Prepared> {
        let spot = self.spot(store, writer, payloads, durability, now_ms)?;
        let mut frames = Vec::with_capacity(usize::try_from(spot.bytes()).unwrap_or(0));
        let checksum = spot.encode(payloads, &mut frames);
        Ok(Prepared { spot, frames, checksum })
    }

    /// Takes in entries that have been stored.
    pub(crate) fn accept(&self, writer: &mut Writer, prepared: Prepared) -> Appended {
        self.appended(writer, prepared.spot)
    }

    fn appended(&self, writer: &mut Writer, spot: Spot) -> Appended {
        self.tail.store(spot.extent);
        writer.last_ms = spot.now_ms;
        let index = spot.segment.base_index.saturating_add(u64::from(spot.template.index));
        Appended { segment: spot.segment, index, offset: spot.start, end: spot.extent.end }
    }

    /// Finds room for entries, in a new segment if need be.
    fn spot(
        &self,
        store: &Store,
        writer: &mut Writer,
        payloads: &[Payload<'_>],
        durability: Durability,
        now_ms: u64,
    ) -> Result<Spot> {
        let bytes: u64 = payloads.iter().map(frame_bytes).sum();
        let now_ms = now_ms.max(writer.last_ms);
        let segment = self.room_for(store, writer, bytes, now_ms)?;
        if durability == Durability::Disk {
            store.check_name(&segment)?;
        }
        let old = segment.extent();
        let too_many = || WalError::Exhausted;
        let extent = Extent {
            end: u32::try_from(u64::from(old.end).saturating_add(bytes)).map_err(|_| too_many())?,
            count: u32::try_from(payloads.len())
                .ok()
                .and_then(|n| old.count.checked_add(n))
                .ok_or_else(too_many)?,
        };
        let template = FrameHeader {
            flags: FrameFlags::default(),
            header_bytes: 0,
            content_bytes: 0,
            index: old.count,
            timestamp: u32::try_from(now_ms.saturating_sub(segment.created_ms)).unwrap_or(u32::MAX),
            watermark: segment.watermark(),
            payload_checksum: 0,
        };
        // A mark at the end is written over, or cut off if that fails.
        writer.phase = Phase::Active { marked: false };
        Ok(Spot { segment, start: old.end, extent, template, now_ms })
    }

    /// Makes sure that the stream has a segment, an empty one if need be.
    pub(crate) fn begin(&self, store: &Store, writer: &mut Writer) -> Result<()> {
        if writer.phase == Phase::Empty {
            let now_ms = store.append_ms().max(writer.last_ms);
            self.create(store, writer, None, (None, &[]), now_ms)?;
        }
        Ok(())
    }

    /// The index the next entry will get. The stream must be loaded.
    pub(crate) fn next_index(&self, store: &Store) -> Result<u64> {
        Ok(self.newest(store)?.map_or(0, |segment| segment.next_index()))
    }

    /// The segment that the next `bytes` bytes go to, a new one if need be.
    fn room_for(
        &self,
        store: &Store,
        writer: &mut Writer,
        bytes: u64,
        now_ms: u64,
    ) -> Result<Arc<Segment>> {
        match writer.phase {
            Phase::Unloaded | Phase::Gone => return Err(WalError::Closed),
            Phase::Damaged => return Err(self.damaged(store)),
            Phase::Stuck => return Err(self.stuck(store, writer)),
            Phase::Empty => {}
            Phase::Active { .. } | Phase::Stale | Phase::Ended { .. } => {
                let segment = self.segment_to_append(store, writer)?;
                if segment.is_poisoned() {
                    return Err(segment.poisoned());
                }
                let extent = segment.extent();
                let end = u64::from(extent.end).saturating_add(bytes);
                let full = store.is_full(&segment, extent.count, end);
                let active = matches!(writer.phase, Phase::Active { .. });
                if active && now_ms < segment.expiration_ms && !full {
                    return Ok(segment);
                }
                return self.rotate(store, writer, &segment, now_ms);
            }
        }
        self.create(store, writer, None, (None, &[]), now_ms)
    }

    pub(crate) fn damaged(&self, store: &Store) -> WalError {
        store.lost_tails.get(self.hash).map_or(WalError::Closed, |lost| lost.error())
    }

    pub(crate) fn stuck(&self, store: &Store, writer: &Writer) -> WalError {
        WalError::Poisoned { path: self.path(store, writer.highest) }
    }

    /// Ends the newest segment and starts the next one. The old one survives power loss, with its
    /// name, before the new one exists.
    pub(crate) fn rotate(
        &self,
        store: &Store,
        writer: &mut Writer,
        old: &Arc<Segment>,
        now_ms: u64,
    ) -> Result<Arc<Segment>> {
        self.seal(store, writer, old)?;
        self.create(store, writer, Some(old), (old.limits, &old.metadata), now_ms)
    }

    /// Writes the seal if the segment takes entries, and makes everything durable.
    pub(crate) fn seal(&self, store: &Store, writer: &mut Writer, segment: &Segment) -> Result<()> {
        if segment.is_poisoned() {
            return Err(segment.poisoned());
        }
        if matches!(writer.phase, Phase::Active { .. } | Phase::Stale) {
            self.write_mark(store, writer, segment, FrameFlags::MARK.with(FrameFlags::SEAL))?;
            writer.phase = Phase::Ended { sealed: true };
        }
        store.make_durable(segment, segment.extent().end)
    }

    /// Writes a mark and gives back reserved space. A seal becomes part of the segment; a plain mark
    /// stays behind its end and is written over by the next frame.
    pub(crate) fn write_mark(
        &self,
        store: &Store,
        writer: &mut Writer,
        segment: &Segment,
        flags: FrameFlags,
    ) -> Result<()> {
        let old = segment.extent();
        let header = FrameHeader {
            flags,
            header_bytes: 0,
            content_bytes: 0,
            index: old.count,
            timestamp: u32::try_from(writer.last_ms.saturating_sub(segment.created_ms))
                .unwrap_or(u32::MAX),
            watermark: segment.watermark(),
            payload_checksum: segment.seed.checksum(old.end, &[]),
        };
        let extent = Extent { end: old.end.saturating_add(FrameHeader::BYTES_U32), ..old };
        // With the reserved space goes a mark that is there.
        if let Phase::Active { marked } = &mut writer.phase {
            *marked = false;
        }
        segment.trim()?;
        let bytes = header.to_bytes(segment.seed, old.end);
        if flags.has(FrameFlags::SEAL) {
            let checksum = FrameHeader::checksum_in(&bytes);
            store.put(&Frames { segment, parts: &[&bytes], checksum, extent }, Durability::Os)?;
        } else {
            // The next frame goes over it: the journal could write it there once more.
            segment.append(&mut [IoSlice::new(&bytes)], extent)?;
        }
        self.tail.store(extent);
        Ok(())
    }

    /// Leaves the newest segment so that its end can be proven when the directory is opened next: with
    /// a mark where more entries may follow, with a seal where not. `false` if it cannot be left so.
    pub(crate) fn close(&self, store: &Store, writer: &mut Writer) -> Result<bool> {
        match writer.phase {
            Phase::Empty | Phase::Gone | Phase::Damaged | Phase::Active { marked: true } => {
                return Ok(true);
            }
            Phase::Unloaded => return Ok(store.past == Past::Clean),
            Phase::Stuck => {
                return self.sync_locked(store, writer).map(|()| false);
            }
            Phase::Active { marked: false } | Phase::Stale | Phase::Ended { .. } => {}
        }
        let mut segment = self.segment_to_append(store, writer)?;
        if matches!(writer.phase, Phase::Stale | Phase::Ended { sealed: true }) {
            self.seal(store, writer, &segment)?;
            store.make_file_durable(&segment, segment.extent().end)?;
            if segment.proves_itself()? {
                return Ok(true);
            }
        }
        if matches!(writer.phase, Phase::Ended { .. }) {
            // What comes behind it proves it.
            segment = match self.rotate(store, writer, &segment, store.now_ms()) {
                Err(WalError::StorageFull { .. })
                    if writer.phase == (Phase::Ended { sealed: true }) =>
                {
                    return Ok(true);
                }
                successor => successor?,
            };
        }
        if segment.is_poisoned() {
            return Err(segment.poisoned());
        }
        let marked = self.write_mark(store, writer, &segment, FrameFlags::MARK);
        if marked.is_ok() {
            writer.phase = Phase::Active { marked: true };
        }
        // Without room for a mark there is still something to sync.
        store.make_file_durable(&segment, segment.extent().end)?;
        marked.map(|()| true)
    }

    /// Starts the segment after `old`, with these limits and metadata of the key.
    pub(super) fn create(
        &self,
        store: &Store,
        writer: &mut Writer,
        old: Option<&Arc<Segment>>,
        (limits, metadata): (Option<Limits>, &[u8]),
        now_ms: u64,
    ) -> Result<Arc<Segment>> {
        let created_ms = now_ms.max(writer.last_ms);
        let window_ms = store.options.window_ms(limits.unwrap_or(store.limits).max_age_ms);
        let expiration_ms = retention::expiration_ms(created_ms, window_ms);
        let segment = self.create_file(store, writer, |header| FileHeader {
            previous_sequence: old.map_or(0, |old| old.id.sequence),
            previous_end: old.map_or(0, |old| old.extent().end),
            base_index: old.map_or(0, |old| old.next_index()),
            created_ms,
            expiration_ms,
            limits,
            metadata: metadata.into(),
            ..header
        })?;
        let sequence = segment.id.sequence;
        let extent = segment.extent();
        let segment = Arc::new(segment);
        store.make_room_for_file();
        {
            let mut catalog = self.catalog();
            catalog.push(sequence);
            if catalog.sequences.len() == 1 {
                catalog.due = Due::of_the_only(&limits.unwrap_or(store.limits), expiration_ms);
            } else if catalog.due.depends_on_the_end() {
                catalog.due = Due::default();
            }
            self.tail.store(extent);
            store.files.insert_writable(&segment);
        }
        writer.newest = sequence;
        writer.phase = Phase::Active { marked: false };
        writer.last_ms = created_ms;
        count(&store.counters.created_segments, 1);
        observe::segment_started(&segment.path, old.is_some());
        Ok(segment)
    }

    /// Creates the file of the next segment. Its name waits for the next sync of the directory.
    ///
    /// The number was never used before, not even by a file that a crash took. What is left of the key's removal goes
    /// first: behind a new segment, references would lead to it again.
    pub(super) fn create_file(
        &self,
        store: &Store,
        writer: &mut Writer,
        fill_in: impl Fn(FileHeader) -> FileHeader,
    ) -> Result<Segment> {
        store.check_process()?;
        self.unlink_leftovers_of_removal(store, writer)?;
        loop {
            let floor = store.meta().state().floor;
            let sequence = writer.highest.max(floor).checked_add(1).filter(|n| *n <= MAX_SEQUENCE);
            let header = fill_in(FileHeader {
                removed: false,
                nonce: store.dir.random(),
                directory_id: store.directory_id,
                key_hash: self.hash,
                sequence: sequence.ok_or(WalError::Exhausted)?,
                previous_sequence: 0,
                previous_end: 0,
                base_index: 0,
                created_ms: 0,
                expiration_ms: 0,
                limits: None,
                metadata: Box::default(),
                key: self.key().unwrap_or_default().into(),
            });
            let reserve = if header.removed { 0 } else { store.options.preallocate_bytes };
            let ring = store.ring.as_ref().filter(|_| !header.removed);
            match Segment::create(&*store.dir, &header, &label(&header.key), reserve, ring) {
                Ok(segment) => {
                    writer.highest = header.sequence;
                    let segment = segment.admit_new(store.name_changed());
                    // Without it, the file and its name are synced.
                    let _ = store.note_created(&segment, &header.to_bytes());
                    return Ok(segment);
                }
                Err(CreateError::Wal(WalError::Io { source, .. }))
                    if source.kind() == io::ErrorKind::AlreadyExists =>
                {
                    // Left by a creation that failed and could not be undone. Its name has to survive
                    // before the next number is used, so that recovery skips no more than one.
                    store.sync_names(store.name_changed())?;
                    writer.highest = header.sequence;
                }
                Err(CreateError::Wal(error)) => {
                    // The name may have come and gone, and could come back.
                    store.name_changed();
                    return Err(error);
                }
                Err(CreateError::Debris(error)) => {
                    writer.highest = header.sequence;
                    writer.phase = Phase::Stuck;
                    let path = self.path(store, header.sequence);
                    observe::poisoned(&path, &error);
                    store.watch.end(self.hash, &header.key, &End::Stuck(path));
                    return Err(error);
                }
            }
        }
    }
}

impl Spot {
    fn bytes(&self) -> u64 {
        u64::from(self.extent.end.saturating_sub(self.start))
    }

    fn frames<'a>(&'a self, parts: &'a [&'a [u8]], checksum: u32) -> Frames<'a> {
        Frames { segment: &self.segment, parts, checksum, extent: self.extent }
    }

    /// The frame header of an only entry.
    fn frame_header(&self, payload: &Payload<'_>) -> [u8; FrameHeader::BYTES] {
        let header = encode(&self.segment, self.template, self.start, payload, false);
        header.to_bytes(self.segment.seed, self.start)
    }

    /// Puts the frames behind one another. Returns the wrapping sum of their header checksums.
    fn encode(&self, payloads: &[Payload<'_>], frames: &mut Vec<u8>) -> u32 {
        let mut offset = self.start;
        let mut template = self.template;
        let mut checksum: u32 = 0;
        for (at, payload) in payloads.iter().enumerate() {
            let continues = at.saturating_add(1) < payloads.len();
            let header = encode(&self.segment, template, offset, payload, continues)
                .to_bytes(self.segment.seed, offset);
            checksum = checksum.wrapping_add(FrameHeader::checksum_in(&header));
            frames.extend_from_slice(&header);
            frames.extend_from_slice(payload.header.unwrap_or_default());
            frames.extend_from_slice(payload.content);
            offset = offset.saturating_add(crate::scan::reach(frame_bytes(payload)));
            template.index = template.index.saturating_add(1);
        }
        checksum
    }
}

impl Prepared {
    /// What is to be stored, for [`Self::frames`].
    pub(crate) fn parts(&self) -> [&[u8]; 1] {
        [&self.frames]
    }

    pub(crate) fn frames<'a>(&'a self, parts: &'a [&'a [u8]]) -> Frames<'a> {
        self.spot.frames(parts, self.checksum)
    }
}

/// The header of one entry's frame.
fn encode(
    segment: &Segment,
    template: FrameHeader,
    offset: u32,
    payload: &Payload<'_>,
    continues: bool,
) -> FrameHeader {
    let header = payload.header.unwrap_or_default();
    let mut checksum = segment.seed.hasher(offset);
    if !header.is_empty() {
        checksum.update(header);
    }
    checksum.update(payload.content);
    let mut flags = FrameFlags::default();
    if payload.header.is_some() {
        flags = flags.with(FrameFlags::HEADER);
    }
    if continues {
        flags = flags.with(FrameFlags::CONTINUES);
    }
    FrameHeader {
        flags,
        header_bytes: u16::try_from(header.len()).unwrap_or(u16::MAX),
        content_bytes: u32::try_from(payload.content.len()).unwrap_or(u32::MAX),
        payload_checksum: checksum.finalize(),
        ..template
    }
}
