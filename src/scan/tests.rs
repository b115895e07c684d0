//! Are frames, damage and ends where the specification says, whatever the sizes, and in few reads?

#![allow(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]

use super::*;
use crate::fs::sim::SimDir;
use crate::fs::{Dir, OpenMode};

/// Where the first frame of each segment stands.
const START: u32 = 100;
/// [`CHUNK_BYTES`] and [`PROBE_BYTES`] as lengths of buffers.
const CHUNK: usize = 64 << 10;
const PROBE: usize = 4 << 10;

fn seed() -> Seed {
    Seed::of_nonce(7)
}

/// The bytes of a segment, frame by frame.
#[derive(Clone)]
struct Segment {
    bytes: Vec<u8>,
    starts: Vec<u32>,
    /// Of the next entry.
    index: u32,
    watermark: u32,
}

impl Segment {
    fn new() -> Self {
        Self { bytes: vec![0; to_usize(START)], starts: Vec::new(), index: 0, watermark: 0 }
    }

    /// Of entries of these sizes.
    fn of(sizes: &[usize]) -> Self {
        sizes.iter().fold(Self::new(), |segment, bytes| segment.entry(*bytes))
    }

    fn end(&self) -> u32 {
        to_u32(self.bytes.len())
    }

    fn entry(self, bytes: usize) -> Self {
        let mut segment = self.frame(FrameFlags::default(), bytes);
        segment.index += 1;
        segment
    }

    fn batched(self, bytes: usize) -> Self {
        let mut segment = self.frame(FrameFlags::CONTINUES, bytes);
        segment.index += 1;
        segment
    }

    fn mark(self) -> Self {
        self.frame(FrameFlags::MARK, 0)
    }

    fn seal(self) -> Self {
        self.frame(FrameFlags::MARK.with(FrameFlags::SEAL), 0)
    }

    /// Later frames say that everything before the `frame`th is durable.
    fn durable_to(mut self, frame: usize) -> Self {
        self.watermark = self.starts.get(frame).copied().unwrap_or(self.end());
        self
    }

    /// The `frame`th was not written to its end, or decayed: its `byte`th byte is wrong.
    fn spoil(mut self, frame: usize, byte: u32) -> Self {
        self.bytes[to_usize(self.starts[frame] + byte)] ^= 1;
        self
    }

    fn then(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    fn frame(mut self, flags: FrameFlags, bytes: usize) -> Self {
        let offset = self.end();
        let payload = payload(self.starts.len(), bytes);
        let header = FrameHeader {
            flags,
            header_bytes: 0,
            content_bytes: to_u32(bytes),
            index: self.index,
            timestamp: 1000 + self.index,
            watermark: self.watermark,
            payload_checksum: seed().checksum(offset, &payload),
        };
        self.starts.push(offset);
        self.bytes.extend(header.to_bytes(seed(), offset));
        self.bytes.extend(payload);
        self
    }

    fn file(&self) -> (SimDir, Box<dyn File>) {
        let mut image = crate::fs::sim::Image::default();
        image.set("segment", self.bytes.clone());
        let dir = SimDir::from_image(&image, 1);
        let file = dir.open("segment", OpenMode::Read).unwrap();
        (dir, file)
    }

    fn steps(&self, limit: u32) -> Vec<Step> {
        let (_, file) = self.file();
        let mut walk = Walk::new(seed(), START, limit, CHUNK_BYTES);
        std::iter::from_fn(|| walk.next(&*file).unwrap()).collect()
    }

    fn scan(&self, all_durable: bool) -> Scanned {
        let (_, file) = self.file();
        scan(&*file, seed(), START, self.end(), all_durable).unwrap()
    }
}

fn payload(number: usize, bytes: usize) -> Vec<u8> {
    (number..number + bytes).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// A tail behind an entry.
fn open(end: u32, count: u32) -> Tail {
    let timestamp = if count == 0 { 0 } else { 999 + count };
    Tail { end, count, timestamp, state: TailState::Open }
}

fn sound(tail: Tail) -> Scanned {
    Scanned { tail, torn_bytes: 0, zero_bytes: 0, damage: Vec::new(), damaged_spans: 0 }
}

fn torn(tail: Tail, torn_bytes: u32) -> Scanned {
    Scanned { torn_bytes, ..sound(Tail { state: TailState::Torn, ..tail }) }
}

#[test]
fn every_frame_is_found_with_its_payload_whatever_is_read_at_a_time() {
    let fits = CHUNK - FrameHeader::BYTES;
    let sizes = [0, 1, 700, fits - 1, fits, fits + 1, 3, 2 * CHUNK, 5, 3 * CHUNK + 7, 40_000, 0];
    let segment = Segment::of(&sizes);
    let (dir, file) = segment.file();
    for chunk in [0, 1, HEADER, 4096, CHUNK_BYTES, 1 << 20] {
        let mut walk = Walk::new(seed(), START, segment.end(), chunk);
        for (number, bytes) in sizes.iter().enumerate() {
            assert_eq!(walk.position(), segment.starts[number]);
            let Step::Frame(frame) = walk.next(&*file).unwrap().unwrap() else { panic!() };
            assert_eq!(frame.offset, segment.starts[number], "chunk {chunk}");
            let end = segment.starts.get(number + 1).copied().unwrap_or(segment.end());
            assert_eq!((frame.end(), walk.position()), (end, end));
            walk.load(&*file, &frame).unwrap();
            assert_eq!(walk.payload(&frame).unwrap(), payload(number, *bytes));
            assert_eq!(walk.shared_payload(&frame).unwrap(), payload(number, *bytes));
            walk.rewind(&frame);
            assert_eq!(walk.next(&*file).unwrap(), Some(Step::Frame(frame)));
            // Loaded once, it is there.
            walk.load(&*file, &frame).unwrap();
            let calls = dir.calls();
            walk.load(&*file, &frame).unwrap();
            assert_eq!(dir.calls(), calls);
        }
        assert_eq!(walk.next(&*file).unwrap(), None);
    }
    let mut walk = Walk::new(seed(), START, segment.end(), CHUNK_BYTES);
    walk.stop();
    assert_eq!((walk.position(), walk.next(&*file).unwrap()), (segment.end(), None));
}

#[test]
fn what_is_in_the_window_is_not_read_again() {
    let segment = Segment::of(&[100; 400]);
    let (dir, file) = segment.file();
    let mut walk = Walk::new(seed(), START, segment.end(), CHUNK_BYTES);
    let mut frames = 0;
    while let Some(step) = walk.next(&*file).unwrap() {
        let Step::Frame(frame) = step else { panic!("{step:?}") };
        assert!(walk.payload(&frame).is_some());
        frames += 1;
    }
    // One chunk, and what is behind it.
    assert_eq!((frames, dir.read_bytes()), (400, u64::from(segment.end() - START)));
    // Nor while a header is looked for there.
    let segment = Segment::of(&[100; 8]).spoil(3, 0);
    let (dir, file) = segment.file();
    let mut walk = Walk::new(seed(), START, segment.end(), CHUNK_BYTES);
    while walk.next(&*file).unwrap().is_some() {}
    assert_eq!(dir.read_bytes(), u64::from(segment.end() - START));
}

#[test]
fn a_payload_that_another_read_finds_changed_is_an_error() {
    let segment = Segment::of(&[2 * CHUNK]);
    let (_, file) = segment.file();
    let mut walk = Walk::new(seed(), START, segment.end(), CHUNK_BYTES);
    let Some(Step::Frame(frame)) = walk.next(&*file).unwrap() else { panic!() };
    let (_, other) = segment.spoil(0, 40).file();
    assert!(walk.load(&*other, &frame).is_err());
}

#[test]
fn damage_ends_where_the_next_header_starts() {
    for bytes in [0, 20, 5_000, CHUNK, 3 * CHUNK + 1] {
        let whole = Segment::of(&[10, bytes, 10]);
        let [first, second, third] = whole.starts[..] else { panic!() };
        // Without its header, a frame's length is not known.
        let steps = whole.clone().spoil(1, 9).steps(whole.end());
        let damage = Damage { from: second, to: third, header: None, zeros: false };
        assert_eq!(steps[1], Step::Damage(damage), "{bytes}");
        assert!(matches!(steps[2], Step::Frame(frame) if frame.offset == third));
        assert_eq!(steps.len(), 3);
        let all = whole.clone().spoil(0, 0).spoil(1, 0).spoil(2, 0).steps(whole.end());
        let damage = Damage { from: first, to: whole.end(), header: None, zeros: false };
        assert_eq!(all, [Step::Damage(damage)]);
    }
    for bytes in [1, 20, 5_000, CHUNK, 3 * CHUNK + 1] {
        let whole = Segment::of(&[10, bytes, 10]);
        for byte in [0, bytes / 2, bytes - 1] {
            let steps = whole.clone().spoil(1, HEADER + to_u32(byte)).steps(whole.end());
            let Step::Damage(damage) = steps[1] else { panic!("{:?}", steps[1]) };
            assert_eq!((damage.from, damage.to), (whole.starts[1], whole.starts[2]));
            assert_eq!(damage.header.map(|header| header.index), Some(1));
            assert!(!damage.zeros);
            assert_eq!(steps.len(), 3);
        }
    }
}

#[test]
fn a_frame_that_the_limit_or_the_file_cuts_off_is_damage() {
    for bytes in [20, CHUNK, 2 * CHUNK] {
        let whole = Segment::of(&[10, bytes]);
        for missing in [1, 10, to_u32(bytes), to_u32(bytes) + 1, to_u32(bytes) + 31] {
            let limit = whole.end() - missing;
            let steps = whole.steps(limit);
            let Step::Damage(damage) = steps[1] else { panic!("{:?}", steps[1]) };
            assert_eq!((steps.len(), damage.from, damage.to), (2, whole.starts[1], limit));
            assert_eq!(damage.header.is_some(), missing <= to_u32(bytes), "{missing}");
            // The same where the file ends before the limit.
            let mut cut = whole.clone();
            cut.bytes.truncate(to_usize(limit));
            let steps = cut.steps(whole.end());
            let Step::Damage(damage) = steps[1] else { panic!("{:?}", steps[1]) };
            assert_eq!((steps.len(), damage.from, damage.to), (2, whole.starts[1], whole.end()));
        }
    }
}

#[test]
fn zeros_are_told_from_what_only_begins_with_them() {
    for zeros in [1, 31, 32, 33, 5_000, CHUNK, 2 * CHUNK + 5] {
        let reserved = Segment::of(&[10]).then(&vec![0; zeros]);
        let from = START + 42;
        let damage = Damage { from, to: reserved.end(), header: None, zeros: true };
        assert_eq!(reserved.steps(reserved.end())[1..], [Step::Damage(damage)], "{zeros}");
        let other = reserved.clone().then(b"x");
        let damage = Damage { from, to: other.end(), header: None, zeros: false };
        assert_eq!(other.steps(other.end())[1..], [Step::Damage(damage)], "{zeros}");
        // Missing bytes are as good as zeros.
        let beyond = reserved.end() + 500;
        let damage = Damage { from, to: beyond, header: None, zeros: true };
        assert_eq!(reserved.steps(beyond)[1..], [Step::Damage(damage)], "{zeros}");
        // A frame behind zeros is found.
        let hole = reserved.entry(10);
        let steps = hole.steps(hole.end());
        let to = *hole.starts.last().unwrap();
        let damage = Damage { from, to, header: None, zeros: false };
        assert_eq!(steps[1], Step::Damage(damage), "{zeros}");
        assert!(matches!(steps[2], Step::Frame(frame) if frame.offset == to));
    }
}

#[test]
fn a_header_is_found_wherever_it_starts() {
    let reach = FrameHeader::BYTES;
    let edges = [PROBE, PROBE + CHUNK];
    let near = edges.into_iter().flat_map(|edge| edge - reach - 2..edge + 3);
    for gap in [0, 1, 2].into_iter().chain(near) {
        // As many false starts as there are bytes.
        let segment = Segment::new().then(&vec![SIGNATURE[0]; gap]).entry(0);
        let (dir, file) = segment.file();
        let end = segment.end();
        let found = next_header(&*file, seed(), START, end).unwrap();
        assert_eq!(found.map(|frame| frame.offset), Some(segment.starts[0]), "gap {gap}");
        assert!(dir.calls() <= 4, "gap {gap}");
        assert_eq!(next_header(&*file, seed(), START, end - 1).unwrap(), None, "gap {gap}");
        assert_eq!(next_header(&*file, seed(), segment.starts[0] + 1, end).unwrap(), None);
    }
}

#[test]
fn a_search_ends_near_the_frame_and_reads_little() {
    let segment = Segment::of(&vec![90; 4_000]);
    let (dir, file) = segment.file();
    for wanted in [0, 1, 2, 1_000, 1_999, 2_000, 3_998, 3_999, 4_000_u32] {
        let calls = dir.calls();
        let before = |header: &FrameHeader| header.index < wanted;
        let found = seek(&*file, seed(), START, segment.end(), before).unwrap();
        let at = segment.starts.binary_search(&found).expect("the start of a frame");
        let next = segment.starts.get(to_usize(wanted)).copied().unwrap_or(segment.end());
        assert!(found <= next && at <= to_usize(wanted), "{wanted}: {at}");
        assert!(next - found <= 2 * PROBE_BYTES, "{wanted}: {found} is far from {next}");
        assert!(dir.calls() - calls <= 8, "{wanted}: {} calls", dir.calls() - calls);
    }
    // What is near enough needs no look at all.
    let calls = dir.calls();
    assert_eq!(seek(&*file, seed(), START, START + PROBE_BYTES, |_| true).unwrap(), START);
    assert_eq!(dir.calls(), calls);
}

#[test]
fn a_sound_segment_ends_with_its_last_frame() {
    for all_durable in [false, true] {
        let none = Segment::new();
        assert_eq!(none.scan(all_durable), sound(open(START, 0)));
        let three = Segment::of(&[5, 0, 300]);
        let end = three.end();
        assert_eq!(three.scan(all_durable), sound(open(end, 3)));
        let batch = three.clone().batched(4).batched(0).entry(9);
        assert_eq!(batch.scan(all_durable), sound(open(batch.end(), 6)));
        // The next frame goes over a mark; a mark's timestamp is its own.
        let marked = three.clone().mark();
        let tail = Tail { state: TailState::Marked, timestamp: 1003, ..open(end, 3) };
        assert_eq!(marked.scan(all_durable), sound(tail));
        let sealed = three.clone().seal();
        let state = TailState::Sealed;
        let tail = Tail { state, timestamp: 1003, ..open(end + HEADER, 3) };
        assert_eq!(sealed.scan(all_durable), sound(tail));
        // Nothing behind a seal counts.
        assert_eq!(sealed.clone().then(b"x").scan(all_durable), sound(tail));
        assert_eq!(sealed.clone().entry(4).scan(all_durable), sound(tail));
    }
}

#[test]
fn an_unfinished_write_is_no_damage_and_no_entry() {
    for byte in [0, HEADER + 1] {
        let segment = Segment::of(&[5, 6, 7]).spoil(2, byte);
        let end = segment.starts[2];
        assert_eq!(segment.scan(false), torn(open(end, 2), segment.end() - end));
        // It hides what is behind it, as far as that does not say otherwise.
        let more = segment.clone().durable_to(2).entry(4);
        assert_eq!(more.scan(false), torn(open(end, 2), more.end() - end));
    }
    let cut = Segment::of(&[5, 6]).then(&SIGNATURE);
    assert_eq!(cut.scan(false), torn(open(cut.end() - 4, 2), 4));
    let reserved = Segment::of(&[5, 6]).then(&[0; 100]);
    let end = reserved.end() - 100;
    assert_eq!(reserved.scan(false), Scanned { zero_bytes: 100, ..sound(open(end, 2)) });
}

#[test]
fn a_batch_without_its_end_does_not_count() {
    let whole = Segment::of(&[5]).batched(6).batched(7);
    let start = whole.starts[1];
    assert_eq!(whole.scan(false), torn(open(start, 1), whole.end() - start));
    assert_eq!(whole.clone().durable_to(9).scan(true), sound(open(whole.end(), 3)));
    // Zeros behind it are no part of it.
    let reserved = whole.clone().then(&[0; 50]);
    let expected = Scanned { zero_bytes: 50, ..torn(open(start, 1), whole.end() - start) };
    assert_eq!(reserved.scan(false), expected);
    // Its second frame was cut off.
    let cut = whole.clone().entry(8).spoil(3, HEADER);
    assert_eq!(cut.scan(false), torn(open(start, 1), cut.end() - start));
    // What is behind the damage starts anew, and an earlier damage ends where the batch starts.
    let later = Segment::of(&[5, 6]).spoil(1, 0).durable_to(9).batched(7).batched(8);
    let found = later.scan(false);
    let start = later.starts[2];
    let tail = Tail { timestamp: 1000, state: TailState::Torn, ..open(start, 2) };
    assert_eq!((found.tail, found.torn_bytes), (tail, later.end() - start));
    assert_eq!(found.damaged_spans, 1);
    // A batch with a lost frame ends there; the other frames stay valid.
    let lost = Segment::new().batched(5).entry(6).spoil(1, 0).durable_to(9).entry(7);
    let found = lost.scan(false);
    assert_eq!((found.tail, found.torn_bytes), (open(lost.end(), 3), 0));
    let damage = Damage { from: lost.starts[1], to: lost.starts[2], header: None, zeros: false };
    assert_eq!(found.damage, [damage]);
}

#[test]
fn what_was_durable_is_damage() {
    for byte in [0, HEADER + 1] {
        let segment = Segment::of(&[5, 6, 7]).spoil(1, byte).durable_to(2).entry(8);
        let found = segment.scan(false);
        assert_eq!((found.tail, found.torn_bytes), (open(segment.end(), 4), 0));
        assert_eq!((found.damaged_spans, found.zero_bytes), (1, 0));
        let [damage] = found.damage[..] else { panic!() };
        assert_eq!((damage.from, damage.to), (segment.starts[1], segment.starts[2]));
        // So says also a frame whose payload is lost.
        let found = segment.clone().spoil(3, HEADER).scan(false);
        assert_eq!((found.tail.end, found.tail.count), (segment.starts[3], 3));
        assert_eq!((found.damaged_spans, found.tail.state), (1, TailState::Torn));
        // One byte less, and nobody has said so.
        let mut less = Segment::of(&[5, 6, 7]).spoil(1, byte);
        less.watermark = less.starts[1];
        let less = less.entry(8);
        assert_eq!(less.scan(false), torn(open(less.starts[1], 1), less.end() - less.starts[1]));
    }
    // The last frame's header says how many there were.
    let last = Segment::of(&[5, 6]).spoil(1, HEADER);
    let found = last.scan(true);
    assert_eq!((found.tail.end, found.tail.count), (last.end(), 2));
    assert_eq!((found.torn_bytes, found.zero_bytes, found.damaged_spans), (0, 0, 1));
    let found = last.clone().then(&[0; 70]).scan(true);
    assert_eq!((found.zero_bytes, found.damaged_spans), (70, 2));
}

#[test]
fn what_is_lost_ends_where_the_unfinished_write_starts() {
    let segment = Segment::of(&[5, 6, 7]).spoil(1, 0).durable_to(2).entry(8).entry(9);
    let segment = segment.spoil(2, HEADER).spoil(3, HEADER).spoil(4, HEADER);
    let found = segment.scan(false);
    assert_eq!((found.tail.end, found.tail.count), (segment.starts[2], 2));
    assert_eq!((found.tail.state, found.damaged_spans), (TailState::Torn, 1));
    assert_eq!(found.torn_bytes, segment.end() - segment.starts[2]);
}

#[test]
fn a_frame_with_another_index_than_the_next_is_none() {
    let mut segment = Segment::of(&[5, 6]);
    segment.index = 7;
    let segment = segment.entry(8);
    let from = segment.starts[2];
    let damage = Damage { from, to: segment.end(), header: None, zeros: false };
    assert_eq!(segment.scan(true).damage, [damage]);
    assert_eq!(segment.scan(false), torn(open(from, 2), segment.end() - from));
    // Behind damage it tells how many were lost.
    let mut behind = Segment::of(&[5, 6]).spoil(1, 0).durable_to(9);
    behind.index = 7;
    let behind = behind.entry(8);
    let found = behind.scan(false);
    assert_eq!((found.tail, found.damaged_spans), (open(behind.end(), 8), 1));
    // But only the first one.
    let mut twice = behind.clone();
    twice.index = 20;
    let found = twice.entry(4).scan(true);
    assert_eq!(found.damaged_spans, 2);
}

#[test]
fn only_so_many_damaged_spans_are_remembered() {
    let mut segment = Segment::of(&[5; 141]);
    for frame in (1..141).step_by(2) {
        segment = segment.spoil(frame, 0);
    }
    let found = segment.scan(true);
    assert_eq!((found.damage.len(), found.damaged_spans), (MAX_SPANS, 70));
    assert_eq!(found.tail, open(segment.end(), 141));
}

#[test]
fn offsets_end_at_four_gibibytes() {
    assert_eq!(reach(0), 0);
    assert_eq!(reach(77), 77);
    assert_eq!(reach(u64::from(u32::MAX)), u32::MAX);
    assert_eq!(reach(1 << 40), u32::MAX);
}
