//! Walking the frames of a segment: the only code that decides where a frame starts, what is damage
//! and where a segment ends. Recovery, readers and searches all go through [`Walk`].
//!
//! The rule (section 4 of the format): frames follow one another; where none is valid, look for the
//! next valid frame header byte by byte. Work is linear in the bytes whatever they are, memory is one
//! chunk whatever lengths they claim, and an I/O error is an error, never the end of the data.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::io;

use bytes::{Bytes, BytesMut};

use crate::format::{FrameFlags, FrameHeader, SIGNATURE, Seed};
use crate::fs::{File, read_full};

const HEADER: u32 = FrameHeader::BYTES_U32;
/// How much is read at a time.
pub(crate) const CHUNK_BYTES: u32 = 64 << 10;
/// How much is read at a time while looking for a frame header.
const PROBE_BYTES: u32 = 4 << 10;
/// Damaged spans that a scan remembers; more are only counted.
const MAX_SPANS: usize = 64;

/// Bytes that are not what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// The frame header at `from`, where that is intact and only its payload is not.
    pub(crate) header: Option<FrameHeader>,
    /// Nothing but zeros up to the limit of the walk.
    pub(crate) zeros: bool,
}

/// A valid frame. Its payload is to be had from [`Walk::load`] while the walk stands behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) offset: u32,
    pub(crate) header: FrameHeader,
}

impl Frame {
    pub(crate) fn end(&self) -> u32 {
        let bytes = u32::try_from(self.header.frame_bytes()).unwrap_or(u32::MAX);
        self.offset.saturating_add(bytes)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Frame(Frame),
    Damage(Damage),
}

/// Walks the frames between two offsets. `from` must be the start of a frame.
#[derive(Debug)]
pub(crate) struct Walk {
    seed: Seed,
    at: u32,
    limit: u32,
    chunk: u32,
    window: Bytes,
    window_start: u32,
}

impl Walk {
    /// Reads `chunk` bytes at a time, or a frame where that is longer.
    pub(crate) fn new(seed: Seed, from: u32, limit: u32, chunk: u32) -> Self {
        Self { seed, at: from, limit, chunk, window: Bytes::new(), window_start: from }
    }

    /// Where the next step starts.
    pub(crate) fn position(&self) -> u32 {
        self.at
    }

    /// Gives up what is left.
    pub(crate) fn stop(&mut self) {
        self.at = self.limit;
    }

    /// Goes on behind a frame.
    pub(crate) fn step_over(&mut self, frame: &Frame) {
        self.at = frame.end();
    }

    /// Goes back to a frame this walk has just returned.
    pub(crate) fn rewind(&mut self, frame: &Frame) {
        self.at = frame.offset;
    }

    /// The next frame or damaged span; `None` at the limit.
    pub(crate) fn next(&mut self, file: &dyn File) -> io::Result<Option<Step>> {
        // Nearly every frame lies in the window whole and is valid.
        if let Some(frame) = self.next_in_window() {
            self.step_over(&frame);
            return Ok(Some(Step::Frame(frame)));
        }
        let at = self.at;
        if at >= self.limit {
            return Ok(None);
        }
        let Some(header) = self.header_at(file, at)? else {
            return self.damage(file, None).map(Some);
        };
        let frame = Frame { offset: at, header };
        if u64::from(at).saturating_add(header.frame_bytes()) > u64::from(self.limit) {
            return self.damage(file, Some(header)).map(Some);
        }
        self.at = frame.end();
        if self.payload_is_intact(file, &frame)? {
            Ok(Some(Step::Frame(frame)))
        } else {
            let damage = Damage { from: at, to: self.at, header: Some(header), zeros: false };
            Ok(Some(Step::Damage(damage)))
        }
    }

    /// The next frame, if it is valid and lies in the window whole. Does not step over it.
    #[inline]
    pub(crate) fn next_in_window(&self) -> Option<Frame> {
        let rest = self.window.get(to_usize(self.at.checked_sub(self.window_start)?)..)?;
        let (head, rest) = rest.split_first_chunk()?;
        let header = FrameHeader::from_bytes(head, self.seed, self.at).ok()?;
        let payload = rest.get(..usize::try_from(header.payload_bytes()).ok()?)?;
        let intact = self.seed.checksum(self.at, payload) == header.payload_checksum;
        intact.then_some(Frame { offset: self.at, header })
    }

    /// Makes the payload of a frame this walk has just returned available: it may have been too large to
    /// be held while it was checked.
    pub(crate) fn load(&mut self, file: &dyn File, frame: &Frame) -> io::Result<()> {
        if self.payload(frame).is_some() {
            return Ok(());
        }
        self.view(file, frame.offset, frame.end().saturating_sub(frame.offset))?;
        // It was all there a moment ago, with the right checksum.
        let intact = self.payload(frame).is_some_and(|payload| {
            self.seed.checksum(frame.offset, payload) == frame.header.payload_checksum
        });
        if intact { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Header and content of a loaded frame, one behind the other.
    pub(crate) fn payload(&self, frame: &Frame) -> Option<&[u8]> {
        self.window.get(self.payload_range(frame)?)
    }

    /// As [`Self::payload`]; keeps the window it lies in.
    pub(crate) fn shared_payload(&self, frame: &Frame) -> Option<Bytes> {
        let range = self.payload_range(frame)?;
        (range.end <= self.window.len()).then(|| self.window.slice(range))
    }

    fn payload_range(&self, frame: &Frame) -> Option<std::ops::Range<usize>> {
        let from = frame.offset.saturating_add(HEADER).checked_sub(self.window_start)?;
        let to = frame.end().checked_sub(self.window_start)?;
        Some(to_usize(from)..to_usize(to))
    }

    fn in_window(&self, from: u32, bytes: usize) -> Option<std::ops::Range<usize>> {
        let start = to_usize(from.checked_sub(self.window_start)?);
        let end = start.checked_add(bytes)?;
        (end <= self.window.len()).then_some(start..end)
    }

    /// Up to `bytes` bytes from `from`, fewer where the limit or the file ends first.
    fn view(&mut self, file: &dyn File, from: u32, bytes: u32) -> io::Result<&[u8]> {
        let wanted = bytes.min(self.limit.saturating_sub(from));
        if self.in_window(from, to_usize(wanted)).is_none() {
            let amount = self.chunk.max(wanted).min(self.limit.saturating_sub(from));
            let window = std::mem::take(&mut self.window);
            let amount = to_usize(amount);
            // The old window is used again unless somebody kept an entry of it, or it is too small: then
            // it goes before the new one is made.
            let old = window.try_into_mut().ok().filter(|old| old.capacity() >= amount);
            let mut buffer = old.unwrap_or_else(|| BytesMut::with_capacity(amount));
            buffer.resize(amount, 0);
            let read = read_full(file, &mut buffer, u64::from(from))?;
            buffer.truncate(read);
            self.window = buffer.freeze();
            self.window_start = from;
        }
        let start = to_usize(from.saturating_sub(self.window_start));
        let rest = self.window.get(start..).unwrap_or_default();
        Ok(rest.get(..to_usize(wanted)).unwrap_or(rest))
    }

    fn header_at(&mut self, file: &dyn File, at: u32) -> io::Result<Option<FrameHeader>> {
        let seed = self.seed;
        let bytes = self.view(file, at, HEADER)?.first_chunk();
        Ok(bytes.and_then(|bytes| FrameHeader::from_bytes(bytes, seed, at).ok()))
    }

    fn payload_is_intact(&mut self, file: &dyn File, frame: &Frame) -> io::Result<bool> {
        let (seed, expected) = (self.seed, frame.header.payload_checksum);
        let from = frame.offset.saturating_add(HEADER);
        let bytes = frame.end().saturating_sub(from);
        if bytes <= CHUNK_BYTES.saturating_sub(HEADER) {
            // Filled from the frame's start, so that header and payload are in one window.
            let whole = self.view(file, frame.offset, bytes.saturating_add(HEADER))?;
            let payload = whole.get(FrameHeader::BYTES..).unwrap_or_default();
            return Ok(payload.len() == to_usize(bytes)
                && seed.checksum(frame.offset, payload) == expected);
        }
        let mut checksum = seed.hasher(frame.offset);
        let mut at = from;
        while at < frame.end() {
            let piece = self.view(file, at, CHUNK_BYTES.min(frame.end().saturating_sub(at)))?;
            if piece.is_empty() {
                return Ok(false);
            }
            checksum.update(piece);
            at = at.saturating_add(to_u32(piece.len()));
        }
        Ok(checksum.finalize() == expected)
    }

    fn damage(&mut self, file: &dyn File, header: Option<FrameHeader>) -> io::Result<Step> {
        let from = self.at;
        let zeros = header.is_none() && self.skip_zeros(file, from)? >= self.limit;
        let found = if zeros { None } else { self.next_header(file, from.saturating_add(1))? };
        self.at = found.map_or(self.limit, |frame| frame.offset);
        Ok(Step::Damage(Damage { from, to: self.at, header, zeros }))
    }

    /// As [`next_header`], but what is in the window is not read again.
    fn next_header(&self, file: &dyn File, from: u32) -> io::Result<Option<Frame>> {
        let start = from.checked_sub(self.window_start).map(to_usize);
        let bytes = start.and_then(|start| self.window.get(start..)).unwrap_or_default();
        if let Some(frame) = header_in(bytes, self.seed, from) {
            return Ok(Some(frame));
        }
        let starts = bytes.len().saturating_sub(FrameHeader::BYTES.saturating_sub(1));
        next_header(file, self.seed, from.saturating_add(to_u32(starts)), self.limit)
    }

    /// The first offset from `from` on that does not hold a zero, or the limit.
    fn skip_zeros(&mut self, file: &dyn File, from: u32) -> io::Result<u32> {
        let mut at = from;
        // A frame header was looked for here, so that much is in the window.
        let mut amount = HEADER;
        while at < self.limit {
            let bytes = self.view(file, at, amount)?;
            if bytes.is_empty() {
                break; // shorter than the limit says: what is missing is not data either
            }
            let zeros = bytes.iter().position(|byte| *byte != 0);
            at = at.saturating_add(to_u32(zeros.unwrap_or(bytes.len())));
            if zeros.is_some() {
                return Ok(at);
            }
            amount = CHUNK_BYTES;
        }
        Ok(self.limit)
    }
}

/// The first valid frame header that starts at `from` or later and ends before `limit`.
pub(crate) fn next_header(
    file: &dyn File,
    seed: Seed,
    from: u32,
    limit: u32,
) -> io::Result<Option<Frame>> {
    let mut buffer = Vec::new();
    let mut at = from;
    let mut amount = PROBE_BYTES;
    while at.saturating_add(HEADER) <= limit {
        buffer.resize(to_usize(amount.min(limit.saturating_sub(at))), 0);
        let read = read_full(file, &mut buffer, u64::from(at))?;
        let bytes = buffer.get(..read).unwrap_or_default();
        let Some(starts) = read.checked_sub(FrameHeader::BYTES) else { break };
        if let Some(frame) = header_in(bytes, seed, at) {
            return Ok(Some(frame));
        }
        at = at.saturating_add(to_u32(starts)).saturating_add(1);
        amount = CHUNK_BYTES;
    }
    Ok(None)
}

/// The first valid frame header in `bytes`, which start at `from`.
fn header_in(bytes: &[u8], seed: Seed, from: u32) -> Option<Frame> {
    let starts = bytes.len().checked_sub(FrameHeader::BYTES)?;
    let [first, ..] = SIGNATURE;
    let mut start = 0_usize;
    while let Some(found) = bytes.get(start..=starts)?.iter().position(|b| *b == first) {
        start = start.saturating_add(found);
        let offset = from.saturating_add(to_u32(start));
        let candidate = bytes.get(start..).and_then(|rest| rest.first_chunk())?;
        if let Ok(header) = FrameHeader::from_bytes(candidate, seed, offset) {
            return Some(Frame { offset, header });
        }
        start = start.saturating_add(1);
    }
    None
}

/// A frame at or before the first one for which `before` is false, near to it: where a walk has to
/// start to find that one. `before` must be true for a prefix of the frames. Reads a logarithmic
/// number of places; needs no index.
pub(crate) fn seek(
    file: &dyn File,
    seed: Seed,
    start: u32,
    end: u32,
    before: impl Fn(&FrameHeader) -> bool,
) -> io::Result<u32> {
    let (mut low, mut high) = (start, end);
    while high.saturating_sub(low) > PROBE_BYTES {
        let middle = low.midpoint(high);
        match next_header(file, seed, middle, high)? {
            Some(frame) if before(&frame.header) => low = frame.offset,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Where the valid part of a segment ends and what comes next there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) end: u32,
    /// Number of entries, counting those lost to damage.
    pub(crate) count: u32,
    /// Milliseconds between the segment's creation and its last entry.
    pub(crate) timestamp: u32,
    /// Why nothing more may be appended to the segment, or that it may.
    pub(crate) state: TailState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TailState {
    /// Ends with an entry; nothing but zeros may follow.
    Open,
    /// A mark stands at the end; the next frame goes over it.
    Marked,
    /// Ends with a seal.
    Sealed,
    /// Torn bytes follow.
    Torn,
}

/// What [`scan`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) tail: Tail,
    /// Bytes of the torn tail.
    pub(crate) torn_bytes: u32,
    /// Zeros behind the end: reserved space, or data that never arrived.
    pub(crate) zero_bytes: u32,
    /// The first damaged spans.
    pub(crate) damage: Vec<Damage>,
    /// All damaged spans.
    pub(crate) damaged_spans: u64,
}

/// Finds the end of a segment by its frames alone.
///
/// With `all_durable`, everything in the file is known to have been synced once, so nothing can be a
/// torn write. Otherwise the watermarks decide: one pass if all frames are valid, three if not.
pub(crate) fn scan(
    file: &dyn File,
    seed: Seed,
    frames_start: u32,
    file_bytes: u32,
    all_durable: bool,
) -> io::Result<Scanned> {
    scan_on(file, seed, Tail::start(frames_start), file_bytes, all_durable)
}

/// As [`scan`], of what comes behind an end that was found before.
pub(crate) fn scan_on(
    file: &dyn File,
    seed: Seed,
    start: Tail,
    file_bytes: u32,
    all_durable: bool,
) -> io::Result<Scanned> {
    if all_durable {
        return judge(file, seed, start, file_bytes, u32::MAX);
    }
    let found = judge(file, seed, start, file_bytes, 0)?;
    if found.torn_bytes == 0 {
        return Ok(found);
    }
    let mut watermark = 0;
    let mut walk = Walk::new(seed, start.end, file_bytes, CHUNK_BYTES);
    while let Some(step) = walk.next(file)? {
        let header = match step {
            Step::Frame(frame) => Some(frame.header),
            Step::Damage(damage) => damage.header,
        };
        watermark = watermark.max(header.map_or(0, |header| header.watermark));
    }
    judge(file, seed, start, file_bytes, watermark)
}

/// The second half of [`scan`]: everything before `durable` is known to have been synced.
fn judge(
    file: &dyn File,
    seed: Seed,
    start: Tail,
    limit: u32,
    durable: u32,
) -> io::Result<Scanned> {
    let mut tail = start;
    let mut found =
        Scanned { tail, torn_bytes: 0, zero_bytes: 0, damage: Vec::new(), damaged_spans: 0 };
    // The tail before the batch that is being walked, if one is.
    let mut before_batch: Option<Tail> = None;
    let mut damaged = false;
    let mut walk = Walk::new(seed, start.end, limit, CHUNK_BYTES);
    while let Some(step) = walk.next(file)? {
        match step.dense(&tail, damaged) {
            Step::Frame(frame) => {
                let mut before = tail;
                if damaged {
                    before.end = frame.offset;
                    before.count = frame.header.index;
                }
                damaged = false;
                tail = Tail::behind(&frame);
                if frame.header.flags.has(FrameFlags::CONTINUES) {
                    before_batch.get_or_insert(before);
                } else {
                    before_batch = None;
                }
                if tail.state == TailState::Sealed {
                    break;
                }
            }
            Step::Damage(damage) if damage.from >= durable => {
                if damaged {
                    // What was lost before it ends here.
                    tail.end = damage.from;
                    tail.count = damage.header.map_or(tail.count, |header| header.index);
                }
                let bytes = damage.to.saturating_sub(damage.from);
                if damage.zeros {
                    found.zero_bytes = bytes;
                } else {
                    found.torn_bytes = limit.saturating_sub(damage.from);
                }
                break;
            }
            Step::Damage(damage) => {
                damaged = true;
                before_batch = None;
                if damage.zeros && durable == u32::MAX {
                    // Reserved space that a clean end would have given back.
                    found.zero_bytes = damage.to.saturating_sub(damage.from);
                }
                found.damaged_spans = found.damaged_spans.saturating_add(1);
                if found.damage.len() < MAX_SPANS {
                    found.damage.push(damage);
                }
                if let Some(header) = damage.header {
                    tail.count = header.index.saturating_add(u32::from(!header.is_mark()));
                    tail.end = damage.to;
                }
            }
        }
    }
    if let Some(before) = before_batch {
        if before.end >= durable {
            // The end of the batch never arrived: none of it counts.
            found.torn_bytes = found.torn_bytes.saturating_add(tail.end.saturating_sub(before.end));
            tail = before;
        }
    }
    if found.torn_bytes > 0 {
        tail.state = TailState::Torn;
    }
    found.tail = tail;
    Ok(found)
}

impl Step {
    /// A frame whose index is not the next one counts as damage, unless damage before it explains that.
    /// It stands where a crash left out what came before: behind a mark that was about to be written
    /// over.
    fn dense(self, tail: &Tail, damaged: bool) -> Self {
        match self {
            Self::Frame(frame) if !damaged && frame.header.index != tail.count => {
                Self::Damage(Damage {
                    from: frame.offset,
                    to: frame.end(),
                    header: None,
                    zeros: false,
                })
            }
            step => step,
        }
    }
}

impl Tail {
    /// Of a segment without entries.
    pub(crate) fn start(frames_start: u32) -> Self {
        Self { end: frames_start, count: 0, timestamp: 0, state: TailState::Open }
    }

    fn behind(frame: &Frame) -> Self {
        let header = &frame.header;
        let state = match (header.is_mark(), header.flags.has(FrameFlags::SEAL)) {
            (true, true) => TailState::Sealed,
            (true, false) => TailState::Marked,
            (false, _) => TailState::Open,
        };
        let count = header.index.saturating_add(u32::from(!header.is_mark()));
        let end = if state == TailState::Marked { frame.offset } else { frame.end() };
        Self { end, count, timestamp: header.timestamp, state }
    }
}

fn to_usize(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// For lengths of buffers, which are far below 4 GiB.
fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// How much of a file of `bytes` bytes offsets can reach.
pub(crate) fn reach(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
