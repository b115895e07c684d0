//! How much memory, and how much reading, does a hostile file cost?
//!
//! The files have right checksums where that makes them worse. Opening and reading them, forwards and
//! backwards, may hold one entry of the largest size that is allowed and 1 MiB; and four times the bytes
//! may cost four times the reading.

use std::sync::Arc;

use keywal::fs::sim::{Image, SimDir};
use keywal::{ManualClock, Wal, WalError, WalOptions};

use common::forge::{Frame, SIGNATURE};
use common::heap::{Counting, peak_of};
use common::{EPOCH_MS, forge};

mod common;

#[global_allocator]
static HEAP: Counting = Counting;

/// The largest entry allowed; of the runs with few, large entries.
const MAX_ENTRY_BYTES: usize = 256 << 10;
const MAX_LARGE_ENTRY_BYTES: usize = 4 << 20;
/// What may be held beside an entry.
const MIB: usize = 1 << 20;
const SMALL: usize = 256 << 10;
const LARGE: usize = 4 * SMALL;
/// Four times the bytes, with a margin; where each byte cost a look at all others, it would be 16.
const LINEAR: u64 = 5;

fn options(max_entry_bytes: usize) -> WalOptions {
    WalOptions::default()
        .journal_bytes(0)
        .max_entry_bytes(max_entry_bytes as u64)
        .clock(Arc::new(ManualClock::new(EPOCH_MS)))
}

/// A directory left by a crash, with one segment that has no frames yet.
fn empty_segment(key: &[u8]) -> (Image, String) {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options(MAX_ENTRY_BYTES)).unwrap();
    wal.append_entry(key, None, "", true).unwrap();
    drop(wal);
    let mut image = sim.image();
    let name = image.files().map(|(name, _)| name).find(|name| name.contains('-')).unwrap();
    let name = name.to_owned();
    let mut segment = image.get(&name).unwrap().to_vec();
    let frames_start = forge::reseal_headers(&mut segment).unwrap();
    segment.truncate(frames_start);
    image.set(&name, segment);
    (image, name)
}

/// A segment filled with something, and behind it a frame that proves that all of it was durable once.
fn image(fill: impl FnOnce(&mut Vec<u8>)) -> Image {
    let (mut image, name) = empty_segment(b"k");
    let mut segment = image.get(&name).unwrap().to_vec();
    fill(&mut segment);
    let watermark = u32::try_from(segment.len()).unwrap();
    Frame { index: 1 << 20, watermark, ..Frame::default() }.append_to(&mut segment, b"");
    image.set(&name, segment);
    image
}

/// What reading everything cost.
#[derive(Debug)]
struct Cost {
    peak: usize,
    read_bytes: u64,
    calls: u64,
    entries: usize,
}

/// Opens the directory and reads it. Nothing that is read is kept.
fn read_all(image: &Image, max_entry_bytes: usize) -> Cost {
    let sim = SimDir::from_image(image, 1);
    let (entries, peak) = peak_of(|| {
        let wal = Wal::open_in(Arc::new(sim.clone()), options(max_entry_bytes)).unwrap();
        let mut entries = 0;
        for key in wal.enumerate_keys().unwrap() {
            let forwards = wal.entries(&key).unwrap().filter_map(accept).count();
            let backwards = wal.entries(&key).unwrap().rev().filter_map(accept).count();
            assert_eq!(forwards, backwards);
            entries += forwards;
        }
        entries
    });
    Cost { peak, read_bytes: sim.read_bytes(), calls: sim.calls(), entries }
}

fn accept<T>(result: Result<T, WalError>) -> Option<T> {
    match result {
        Ok(entry) => Some(entry),
        Err(WalError::Corrupted { .. } | WalError::TooLarge { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap()
}

/// Entries of these sizes, one behind the other, until the segment is full.
fn entries(segment: &mut Vec<u8>, bytes: usize, sizes: impl IntoIterator<Item = usize>) {
    for (index, size) in (0..).zip(sizes) {
        if segment.len() >= bytes {
            break;
        }
        let frame = Frame { content_bytes: length(size), index, ..Frame::default() };
        frame.append_to(segment, &vec![b'e'; size]);
    }
}

type Fill = fn(&mut Vec<u8>, usize);

/// Each fills a segment with so many bytes.
const SHAPES: &[(&str, Fill)] = &[
    ("zeros", |segment, bytes| segment.resize(bytes, 0)),
    ("signatures", |segment, bytes| segment.extend(SIGNATURE.iter().cycle().take(bytes))),
    ("first bytes of signatures", |segment, bytes| segment.resize(bytes, SIGNATURE[0])),
    ("frame headers that claim 4 GiB", |segment, bytes| {
        while segment.len() < bytes {
            Frame { content_bytes: u32::MAX, ..Frame::default() }.append_to(segment, b"");
        }
    }),
    ("frame headers that claim all the rest", |segment, bytes| {
        while segment.len() < bytes {
            let content_bytes = length(bytes - segment.len());
            Frame { content_bytes, ..Frame::default() }.append_to(segment, b"");
        }
    }),
    ("frames, every other one without a signature", |segment, bytes| {
        for index in 0.. {
            let at = segment.len();
            if at >= bytes {
                break;
            }
            Frame { index, ..Frame::default() }.append_to(segment, b"");
            segment[at] ^= u8::from(index % 2 == 0);
        }
    }),
    ("small entries, then zeros", |segment, bytes| {
        entries(segment, bytes / 2, std::iter::repeat(0));
        segment.resize(bytes, 0);
    }),
    ("small entries, then large ones", |segment, bytes| {
        let small = std::iter::repeat_n(0, bytes / 2 / forge::FRAME_HEADER_BYTES);
        entries(segment, bytes, small.chain(std::iter::repeat(MAX_ENTRY_BYTES)));
    }),
    ("entries above the limit", |segment, bytes| {
        entries(segment, bytes, std::iter::repeat(MAX_ENTRY_BYTES * 3 / 2));
    }),
];

/// The heap is the whole process's, so there is one test.
#[test]
fn hostile_files_cost_what_their_size_justifies() {
    for (shape, fill) in SHAPES {
        let [small, large] = [SMALL, LARGE]
            .map(|bytes| read_all(&image(|segment| fill(segment, bytes)), MAX_ENTRY_BYTES));
        println!("{shape}: {small:?}, {large:?}");
        for cost in [&small, &large] {
            assert!(cost.peak <= MAX_ENTRY_BYTES + MIB, "{shape}: {} bytes held", cost.peak);
        }
        assert!(large.read_bytes <= LINEAR * small.read_bytes, "{shape}: not linear");
        assert!(large.calls <= LINEAR * small.calls, "{shape}: not linear");
    }
    entries_that_grow();
    headers_that_claim_huge_lengths();
    the_longest_keys();
}

/// A buffer that is too small for the next entry is not held beside the new one.
fn entries_that_grow() {
    let sizes = (1..=8).map(|n| MAX_LARGE_ENTRY_BYTES * n / 8);
    let cost =
        read_all(&image(|segment| entries(segment, usize::MAX, sizes)), MAX_LARGE_ENTRY_BYTES);
    println!("entries that grow: {cost:?}");
    assert_eq!(cost.entries, 8);
    assert!(cost.peak <= MAX_LARGE_ENTRY_BYTES + MIB, "{} bytes held", cost.peak);
}

fn headers_that_claim_huge_lengths() {
    for (at, what) in [(12, "header"), (120, "metadata"), (124, "key")] {
        for claimed in [65_535, 131_202, 1 << 30, u32::MAX] {
            let (mut image, name) = empty_segment(b"k");
            let mut segment = image.get(&name).unwrap().to_vec();
            segment[at..at + 4].copy_from_slice(&u32::to_le_bytes(claimed));
            segment.resize(MIB, 0);
            forge::reseal(&name, &mut segment);
            image.set(&name, segment);
            let cost = read_all(&image, MAX_ENTRY_BYTES);
            assert!(cost.peak <= MAX_ENTRY_BYTES + MIB, "{what} of {claimed}: {} held", cost.peak);
            assert_eq!(cost.entries, 0);
        }
    }
}

/// Keys are held: by the log, by the list of them and by who looks at it.
fn the_longest_keys() {
    const KEYS: usize = 16;
    const KEY_BYTES: usize = 65_535;
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options(MAX_ENTRY_BYTES)).unwrap();
    for number in 0..KEYS {
        let key = [vec![b'k'; KEY_BYTES - 1], vec![u8::try_from(number).unwrap()]].concat();
        wal.append_entry(&key, None, "content", true).unwrap();
    }
    drop(wal);
    let cost = read_all(&sim.image(), MAX_ENTRY_BYTES);
    println!("the longest keys: {cost:?}");
    assert_eq!(cost.entries, KEYS);
    assert!(cost.peak <= MAX_ENTRY_BYTES + MIB + 2 * KEYS * KEY_BYTES, "{} bytes held", cost.peak);
}
