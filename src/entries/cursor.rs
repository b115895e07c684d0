//! Reading the frames of one segment, forwards and backwards.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chains::Present;
use crate::entry::{Entry, EntryRef, EntrySlice};
use crate::error::{Result, SizeLimit, WalError};
use crate::format::{FrameFlags, FrameHeader};
use crate::scan::{self, Damage, Frame, Step, Walk, next_header, seek};
use crate::segment::Segment;
use crate::store::Store;

/// How far apart the places are at which reading backwards starts to read forwards.
const BLOCK_BYTES: u32 = 64 << 10;
/// Read at a time when a single entry is wanted.
pub(super) const SINGLE_READ_BYTES: u32 = 4 << 10;

/// A place at or before the entry with this index, near to it.
pub(super) fn seek_index(segment: &Segment, present: &Present, index: u64) -> Result<u32> {
    let Some(relative) = index.checked_sub(present.first_index).filter(|relative| *relative > 0)
    else {
        return Ok(segment.frames_start);
    };
    let before = |header: &FrameHeader| u64::from(header.index) <= relative;
    seek(segment.file(), segment.seed, segment.frames_start, present.end, before)
        .map_err(|source| segment.io_error("read an entry", source))
}

/// The entry with this index of a segment that has it.
pub(crate) fn entry_in(
    store: &Store,
    segment: &Arc<Segment>,
    present: &Present,
    index: u64,
) -> Result<Entry> {
    let start = seek_index(segment, present, index)?;
    let mut cursor = Cursor::new(Arc::clone(segment), present, start, index, SINGLE_READ_BYTES);
    match cursor.next(store.options.max_entry_bytes) {
        Some(Ok(frame)) if cursor.index(&frame) != index => {
            Err(segment.corrupted(start, 0, "the entry is missing"))
        }
        Some(result) => result.map(|frame| cursor.owned(&frame)),
        None => Err(segment.corrupted(present.end, 0, "the entry is missing")),
    }
}

/// Reads the frames of one segment, or of a part of it, forwards.
pub(super) struct Cursor {
    segment: Arc<Segment>,
    pub(super) present: Present,
    walk: Walk,
    /// Entries before this index are passed over.
    wanted: u64,
    /// Index of the entry that should come next, once that is known.
    expected: Option<u64>,
    damage: Option<Damage>,
}

impl Cursor {
    /// Reads from the frame at `start`, `chunk` bytes at a time.
    pub(super) fn new(
        segment: Arc<Segment>,
        present: &Present,
        start: u32,
        wanted: u64,
        chunk: u32,
    ) -> Self {
        let expected = (start == segment.frames_start).then_some(present.first_index);
        let walk = Walk::new(segment.seed, start, present.end, chunk);
        Self { segment, present: *present, walk, wanted, expected, damage: None }
    }

    /// Reads on from `start`, where the entry with index `expected` will be, if there is one.
    pub(super) fn resume(
        segment: Arc<Segment>,
        present: &Present,
        start: u32,
        expected: u64,
        wanted: u64,
    ) -> Self {
        let cursor = Self::new(segment, present, start, wanted, scan::CHUNK_BYTES);
        Self { expected: Some(expected), ..cursor }
    }

    /// Everything before this index has been returned or reported.
    pub(super) fn reached(&self) -> u64 {
        self.expected.unwrap_or(0)
    }

    /// The next entry, still in the buffer: see [`Self::owned`] and [`Self::borrowed`].
    pub(super) fn next(&mut self, max_entry_bytes: u64) -> Option<Result<Frame>> {
        match self.step(max_entry_bytes) {
            Ok(found) => found,
            Err(source) => {
                // Asking again would give the same error for ever: the rest of the segment is given up.
                self.walk.stop();
                self.damage = None;
                self.expected = Some(self.present.next_index);
                Some(Err(self.segment.io_error("read an entry", source)))
            }
        }
    }

    /// The next entry if there is nothing to think about: it is the expected one, and at hand.
    #[inline]
    pub(super) fn next_at_hand(&mut self, to: u64, max_entry_bytes: u64) -> Option<Frame> {
        let frame = self.walk.next_in_window()?;
        let index = self.index(&frame);
        let plain = self.expected == Some(index)
            && (self.wanted..to).contains(&index)
            && !frame.header.is_mark()
            && frame.header.payload_bytes() <= max_entry_bytes
            && self.damage.is_none();
        if !plain {
            return None;
        }
        self.walk.step_over(&frame);
        self.expected = Some(index.saturating_add(1));
        Some(frame)
    }

    fn step(&mut self, max_bytes: u64) -> std::io::Result<Option<Result<Frame>>> {
        while let Some(step) = self.walk.next(self.segment.file())? {
            let frame = match step {
                Step::Frame(frame) => frame,
                Step::Damage(damage) => {
                    self.note(damage);
                    continue;
                }
            };
            let index = self.index(&frame);
            if let Some(damage) = self.lost_before(index) {
                self.walk.rewind(&frame);
                return Ok(Some(Err(damage)));
            }
            if frame.header.is_mark() {
                continue;
            }
            self.expected = Some(index.saturating_add(1));
            if index < self.wanted {
                continue;
            }
            let bytes = frame.header.payload_bytes();
            if bytes > max_bytes {
                let limit = SizeLimit::Read;
                return Ok(Some(Err(WalError::TooLarge { bytes, max: max_bytes, limit })));
            }
            self.walk.load(self.segment.file(), &frame)?;
            return Ok(Some(Ok(frame)));
        }
        Ok(self.lost_before(self.present.next_index).map(Err))
    }

    pub(super) fn index(&self, frame: &Frame) -> u64 {
        self.segment.base_index.saturating_add(u64::from(frame.header.index))
    }

    fn timestamp_ms(&self, frame: &Frame) -> u64 {
        self.segment.created_ms.saturating_add(u64::from(frame.header.timestamp))
    }

    fn reference(&self, frame: &Frame) -> EntryRef {
        EntryRef {
            key_hash: self.segment.id.key_hash,
            sequence_number: u64::from(self.segment.id.sequence),
            offset: u64::from(frame.offset),
        }
    }

    /// The entry just returned, sharing the buffer.
    pub(super) fn owned(&self, frame: &Frame) -> Entry {
        let mut content = self.walk.shared_payload(frame).unwrap_or_default();
        let header = if frame.header.flags.has(FrameFlags::HEADER) {
            Some(content.split_to(usize::from(frame.header.header_bytes).min(content.len())))
        } else {
            None
        };
        Entry {
            reference: self.reference(frame),
            index: self.index(frame),
            timestamp_ms: self.timestamp_ms(frame),
            header,
            content,
        }
    }

    /// The entry just returned, borrowed from the buffer.
    pub(super) fn borrowed(&self, frame: &Frame) -> EntrySlice<'_> {
        let payload = self.walk.payload(frame).unwrap_or_default();
        let header_bytes = usize::from(frame.header.header_bytes);
        let (header, content) = payload.split_at_checked(header_bytes).unwrap_or((&[], payload));
        EntrySlice {
            reference: self.reference(frame),
            index: self.index(frame),
            timestamp_ms: self.timestamp_ms(frame),
            header: frame.header.flags.has(FrameFlags::HEADER).then_some(header),
            content,
        }
    }

    /// Remembers a damaged span until it is known which entries it cost.
    fn note(&mut self, damage: Damage) {
        if self.expected.is_none() {
            let index = damage.header.map(|header| u64::from(header.index));
            self.expected = index.map(|index| self.segment.base_index.saturating_add(index));
        }
        let from = self.damage.map_or(damage.from, |earlier| earlier.from);
        self.damage = Some(Damage { from, ..damage });
    }

    /// The error for damage that cost entries before `index`, if it did and any of them are wanted.
    fn lost_before(&mut self, index: u64) -> Option<WalError> {
        let damage = self.damage.take()?;
        let lost = self.expected.is_none_or(|expected| index > expected);
        self.expected = Some(index);
        let bytes = damage.to.saturating_sub(damage.from);
        (lost && index > self.wanted)
            .then(|| self.segment.corrupted(damage.from, bytes, "entries are damaged"))
    }
}

/// Reads the frames of one segment backwards: a block forwards at a time, the last block first.
pub(super) struct Backward {
    segment: Arc<Segment>,
    pub(super) present: Present,
    /// Frames from here on have been read; the index of the one that starts here.
    end: u32,
    end_index: u64,
    block: VecDeque<Result<Entry>>,
}

impl Backward {
    pub(super) fn new(segment: Arc<Segment>, present: Present) -> Self {
        Self {
            segment,
            present,
            end: present.end,
            end_index: present.next_index,
            block: VecDeque::new(),
        }
    }

    /// The entry before the last one returned, among those from `from` to below `to`.
    pub(super) fn next(&mut self, store: &Store, from: u64, to: u64) -> Option<Result<Entry>> {
        loop {
            while let Some(result) = self.block.pop_back() {
                match result {
                    Ok(entry) if entry.index >= to => {}
                    Ok(entry) if entry.index < from => return None,
                    result => return Some(result),
                }
            }
            if self.end <= self.segment.frames_start {
                return None;
            }
            if let Err(error) = self.read_block(store, to) {
                self.end = self.segment.frames_start;
                return Some(Err(error));
            }
        }
    }

    fn read_block(&mut self, store: &Store, to: u64) -> Result<()> {
        let segment = &self.segment;
        let io_error = |source| segment.io_error("read an entry", source);
        // Far from what is wanted, jump.
        if to < self.end_index {
            let relative = to.saturating_sub(segment.base_index);
            let before = |header: &FrameHeader| u64::from(header.index) < relative;
            let start = seek(segment.file(), segment.seed, segment.frames_start, self.end, before)
                .map_err(io_error)?;
            let near = start.saturating_add(BLOCK_BYTES);
            if near < self.end {
                let found =
                    next_header(segment.file(), segment.seed, near, self.end).map_err(io_error)?;
                // The search may have stopped one long entry short of what is wanted.
                if let Some(frame) = found.filter(|frame| u64::from(frame.header.index) >= relative)
                {
                    self.end = frame.offset;
                    self.end_index =
                        segment.base_index.saturating_add(u64::from(frame.header.index));
                }
            }
        }
        let (start, start_index) = self.block_start()?;
        let segment = &self.segment;
        let part = Present { end: self.end, next_index: self.end_index, ..self.present };
        let mut cursor = Cursor::new(Arc::clone(segment), &part, start, 0, scan::CHUNK_BYTES);
        cursor.expected = Some(start_index);
        while let Some(result) = cursor.next(store.options.max_entry_bytes) {
            self.block.push_back(result.map(|frame| cursor.owned(&frame)));
        }
        self.end = start;
        self.end_index = start_index;
        Ok(())
    }

    /// Where the block before [`Self::end`] starts, and the index that belongs there. However far back
    /// that is, what has to be held of the block is one chunk of frames and one long frame.
    fn block_start(&self) -> Result<(u32, u64)> {
        let segment = &self.segment;
        let next_from = |from| {
            next_header(segment.file(), segment.seed, from, self.end)
                .map_err(|source| segment.io_error("read an entry", source))
        };
        let place = |frame: Frame| {
            let index = segment.base_index.saturating_add(u64::from(frame.header.index));
            (frame.offset, index)
        };
        let mut reach = BLOCK_BYTES;
        let mut start = loop {
            let from = self.end.saturating_sub(reach);
            if from <= segment.frames_start {
                break (segment.frames_start, segment.base_index);
            }
            match next_from(from)? {
                Some(frame) => break place(frame),
                None => reach = reach.saturating_mul(2),
            }
        };
        if reach > BLOCK_BYTES {
            // A long frame or damage is in the way: start as near to it as can be.
            while let Some(frame) = next_from(start.0.saturating_add(BLOCK_BYTES))? {
                start = place(frame);
            }
        }
        Ok(start)
    }
}
