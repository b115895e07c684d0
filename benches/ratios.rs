//! How far is keywal from what the machine allows? Each workload runs beside its floor (raw system
//! calls, checksums and copies) in the same run, a short round of one after a short round of the
//! other. The ratio is the result: absolute figures drift from hour to hour.
//!
//! `cargo bench --bench ratios [-- append|durable|read|scan|open|compact|memory ...]`; the data goes to
//! `KEYWAL_BENCH_DIR`, by default below the target directory. For 1,000 keys beside as many files of
//! the floor, `ulimit -n` has to be 2,300 or more; with less there are fewer keys. On a virtual machine that
//! has just been started, `KEYWAL_BENCH_TOUCH` says how many GiB of memory to write to first.

mod common;

use std::cell::RefCell;
use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keywal::{EntryRef, ManualClock, Wal};

use common::floor::{self, Growing, Shared};
use common::heap::Memory;
use common::{Bench, count, each, each_in_threads, key, nanos, options, p999};

/// What keywal stores in front of every entry.
const FRAME_HEADER_BYTES: usize = 32;
static CONTENT: [u8; 1024] = [7; 1024];
const BATCH: usize = 100;
/// Of the workloads that never wait. A round of theirs takes less than a millisecond, so that most
/// rounds are not interrupted even on a busy machine.
const ROUNDS: usize = 200;

type Group = fn(&Bench);

fn main() {
    let mut args = std::env::args().skip(1);
    if let (Some("--memory"), Some(dir)) = (args.next().as_deref(), args.next()) {
        return Memory::print(Path::new(&dir));
    }
    let bench = Bench::from_args();
    let groups: [(&str, Group); 7] = [
        ("append", append),
        ("durable", durable),
        ("read", read),
        ("scan", scan),
        ("open", open),
        ("compact", compact),
        ("memory", memory),
    ];
    bench.print_head();
    for (name, group) in groups {
        if bench.wants(name) {
            group(&bench);
        }
    }
}

// ---- appending ----

fn append(bench: &Bench) {
    append_os(bench, "100 B", 1, 100);
    append_os(bench, "1 KiB", 1, 1024);
    append_os(bench, "100 B", many(bench), 100);

    let (wal, frame) = (bench.wal(), frame(100));
    let mut file = Growing::create(&bench.dir().join("floor"));
    let n = bench.scale(5000);
    bench.compare(
        "append `Os` 100 B, 1 key, p99.9",
        None,
        60,
        || p999(n, || append_one(&wal, "k", 100, false)),
        || p999(n, || file.write(&frame)),
    );

    let (wal, frames) = (bench.wal(), frame.repeat(BATCH));
    let mut file = Growing::create(&bench.dir().join("floor"));
    let n = bench.scale(lap(100) / BATCH);
    bench.compare(
        "batch of 100 x 100 B `Os`, an entry",
        None,
        ROUNDS,
        || each(n, |_| append_batch(&wal, "k", 100, false)) / count(BATCH),
        || each(n, |_| file.write(&frames)) / count(BATCH),
    );
}

/// So many entries take the journal once round: what moving it on costs is in every round.
fn lap(bytes: usize) -> usize {
    (4 << 20) / (bytes + 96)
}

fn append_os(bench: &Bench, size: &str, keys: usize, bytes: usize) {
    let (wal, frame, dir) = (bench.wal(), frame(bytes), bench.dir());
    let names: Vec<String> = (0..keys).map(key).collect();
    let mut files: Vec<_> = names.iter().map(|name| Growing::create(&dir.join(name))).collect();
    let n = bench.scale(lap(bytes)).max(keys);
    bench.compare(
        &format!("append `Os` {size}, {}", plural(keys, "key")),
        Some(if bytes < 1_000 { 0.25 } else { 0.5 }),
        ROUNDS,
        || each(n, |i| append_one(&wal, &names[i % keys], bytes, false)),
        || each(n, |i| files[i % keys].write(&frame)),
    );
}

fn durable(bench: &Bench) {
    for (size, bytes) in [("100 B", 100), ("1 KiB", 1024)] {
        let (wal, frame) = (bench.wal(), frame(bytes));
        let mut file = Growing::create(&bench.dir().join("floor"));
        let n = bench.scale(25);
        bench.compare(
            &format!("append `Disk` {size}, 1 thread"),
            Some(1.1),
            40,
            || each(n, |_| append_one(&wal, "k", bytes, true)),
            || each(n, |_| file.write_durably(&frame)),
        );
    }

    for keys in [1, 16] {
        let (wal, frame, dir) = (bench.wal(), frame(100), bench.dir());
        let names: Vec<String> = (0..keys).map(key).collect();
        let files: Vec<_> = names.iter().map(|name| Shared::create(&dir.join(name))).collect();
        let n = bench.scale(25);
        bench.compare(
            &format!("append `Disk` 100 B, 16 threads, {}", plural(keys, "key")),
            None,
            40,
            || {
                each_in_threads(16, n, |thread, _| {
                    append_one(&wal, &names[thread % keys], 100, true);
                })
            },
            || each_in_threads(16, n, |thread, _| files[thread % keys].write_durably(&frame)),
        );
    }

    let (wal, frames) = (bench.wal(), frame(100).repeat(BATCH));
    let mut file = Growing::create(&bench.dir().join("floor"));
    let n = bench.scale(10);
    bench.compare(
        "batch of 100 x 100 B `Disk`, an entry",
        None,
        40,
        || each(n, |_| append_batch(&wal, "k", 100, true)) / count(BATCH),
        || each(n, |_| file.write_durably(&frames)) / count(BATCH),
    );
    many_together(bench);
}

/// The floor writes all of it to one file.
fn many_together(bench: &Bench) {
    const KEYS: usize = 256;
    let (wal, frames) = (bench.wal(), frame(100).repeat(KEYS));
    let names: Vec<String> = (0..KEYS).map(key).collect();
    let mut file = Growing::create(&bench.dir().join("floor"));
    let content = Bytes::from(vec![7; 100]);
    let append = || {
        let entries = names.iter().map(|name| (name, None, content.clone()));
        black_box(wal.append_many(entries, true).expect("append"));
    };
    append();
    let n = bench.scale(10);
    bench.compare(
        "100 B in each of 256 keys together `Disk`, an entry",
        None,
        40,
        || each(n, |_| append()) / count(KEYS),
        || each(n, |_| file.write_durably(&frames)) / count(KEYS),
    );
}

fn append_one(wal: &Wal, key: &str, bytes: usize, durable: bool) {
    black_box(wal.append_entry(key, None, &CONTENT[..bytes], durable).expect("append"));
}

fn append_batch(wal: &Wal, key: &str, bytes: usize, durable: bool) {
    let entry = || (None, Bytes::from_static(&CONTENT[..bytes]));
    let refs = wal.append_batch(key, std::iter::repeat_with(entry).take(BATCH), durable);
    black_box(refs.expect("append"));
}

/// As many bytes as keywal writes for one entry.
fn frame(bytes: usize) -> Vec<u8> {
    vec![7; bytes + FRAME_HEADER_BYTES]
}

/// A thousand keys, as far as their files and as many of the floor's can be open at the same time.
fn many(bench: &Bench) -> usize {
    bench.scale(1000).min(common::open_files().saturating_sub(100) / 2)
}

fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

// ---- reading ----

/// Entries to be read at random, and the files they are in.
struct Readable {
    wal: Wal,
    files: Vec<File>,
    refs: Vec<(EntryRef, usize)>,
    frame_bytes: usize,
}

impl Readable {
    fn new(bench: &Bench, keys: usize, bytes: usize, entries: usize) -> Self {
        let wal = bench.wal();
        let names: Vec<String> = (0..keys).map(key).collect();
        let append = |i: usize| {
            let appended = wal.append_entry(&names[i % keys], None, &CONTENT[..bytes], false);
            (appended.expect("append"), i % keys)
        };
        let mut refs: Vec<_> = (0..entries).map(append).collect();
        let mut random = Random(1);
        for i in (1..refs.len()).rev() {
            refs.swap(i, random.below(i + 1));
        }
        wal.sync().expect("sync");
        let files = names.iter().map(|name| {
            // Whoever reads moves what only the journal has to the file, which the floor reads.
            wal.last(name).expect("read");
            let segments = wal.segments(name).expect("list the segments");
            assert_eq!(segments.len(), 1, "the floor expects one file a key");
            File::open(&segments[0].path).expect("open a segment")
        });
        Self { files: files.collect(), wal, refs, frame_bytes: bytes + FRAME_HEADER_BYTES }
    }

    /// Measures a way to read through keywal beside one to read the file. Every round goes on where
    /// the last one ended.
    fn compare(
        &self,
        bench: &Bench,
        (name, target): (&str, Option<f64>),
        (threads, n): (usize, usize),
        subject: impl Fn(&Wal, EntryRef) + Sync,
        floor: impl Fn(&File, u64, &mut [u8]) + Sync,
    ) {
        let at = |round: usize, thread: usize, i: usize| {
            self.refs[((round * threads + thread) * n + i) % self.refs.len()]
        };
        // Half of the entries apart, so that neither finds in the processor's caches what the other has
        // just read.
        let (mut subjects, mut floors) = (0, self.refs.len() / (2 * threads * n));
        bench.compare(
            name,
            target,
            if threads == 1 { ROUNDS } else { ROUNDS / 4 },
            || {
                subjects += 1;
                each_in_threads(threads, n, |thread, i| {
                    subject(&self.wal, at(subjects, thread, i).0);
                })
            },
            || {
                floors += 1;
                each_in_threads(threads, n, |thread, i| {
                    let (reference, file) = at(floors, thread, i);
                    with_buffer(|buffer| {
                        buffer.resize(self.frame_bytes, 0);
                        floor(&self.files[file], reference.offset, buffer);
                    });
                })
            },
        );
    }
}

fn read(bench: &Bench) {
    let n = bench.scale(500);
    for (size, keys, bytes, entries) in [
        ("100 B", 1, 100, 200_000),
        ("1 KiB", 1, 1024, 50_000),
        ("100 B", many(bench), 100, 200_000),
    ] {
        let data = Readable::new(bench, keys, bytes, bench.scale(entries));
        let what = format!("{size}, {}", plural(keys, "key"));
        for threads in [1, 2] {
            data.compare(
                bench,
                (&format!("read by ref {what}, {}", plural(threads, "thread")), Some(1.2)),
                // Starting a thread takes as long as a hundred reads.
                (threads, if threads == 1 { n } else { 10 * n }),
                |wal, reference| drop(black_box(wal.read_entry_at(reference).expect("read"))),
                |file, offset, buffer| {
                    drop(black_box(floor::read_entry(file, offset, buffer, FRAME_HEADER_BYTES)));
                },
            );
        }
        data.compare(
            bench,
            (&format!("read into a buffer {what}, 1 thread"), Some(1.2)),
            (1, n),
            |wal, reference| {
                with_buffer(|buffer| {
                    black_box(wal.read_entry_into(reference, buffer).expect("read"));
                });
            },
            floor::read_frame,
        );
    }

    // As many as fit in a segment of the default size. The references are in random order.
    let data = Readable::new(bench, 1, 100, bench.scale(500_000));
    let entries = data.refs.len();
    data.compare(
        bench,
        ("`get` by index in a segment of 64 MiB; floor: one read", None),
        (1, bench.scale(30)),
        |wal, reference| {
            let index = reference.offset.wrapping_mul(0x9e37_79b9) % entries as u64;
            black_box(wal.get(key(0), index).expect("read"));
        },
        floor::read_frame,
    );
}

fn scan(bench: &Bench) {
    for (size, bytes, entries) in [("100 B", 100, 1_000_000), ("1 KiB", 1024, 100_000)] {
        let (wal, entries) = (bench.wal(), bench.scale(entries));
        for _ in 0..entries / BATCH {
            append_batch(&wal, "k", bytes, false);
        }
        wal.sync().expect("sync");
        let frame_bytes = bytes + FRAME_HEADER_BYTES;
        wal.last("k").expect("read");
        let segments = wal.segments("k").expect("list the segments");
        let files: Vec<(File, u64, u64)> = segments
            .iter()
            .map(|segment| {
                // A sealed segment ends with a mark.
                let mark = if segment.active { 0 } else { FRAME_HEADER_BYTES as u64 };
                let end = segment.bytes - mark;
                let frames = (segment.next_index - segment.first_index) * frame_bytes as u64;
                (File::open(&segment.path).expect("open a segment"), end - frames, end)
            })
            .collect();
        let floor = || {
            let all = |_| {
                let scan = |(file, start, end): &(File, u64, u64)| {
                    floor::scan(file, *start, *end, frame_bytes)
                };
                assert_eq!(files.iter().map(scan).sum::<usize>(), entries);
            };
            each(1, all) / count(entries)
        };
        let read = |backwards: bool| {
            let all = |_| {
                let mut n = 0;
                let take = |entry: keywal::Result<keywal::Entry>| {
                    black_box(entry.expect("read"));
                    n += 1;
                };
                let found = wal.entries("k").expect("read");
                if backwards {
                    found.rev().for_each(take);
                } else {
                    found.for_each(take);
                }
                assert_eq!(n, entries);
            };
            each(1, all) / count(entries)
        };
        let borrowed = || {
            let all = |_| {
                let mut found = wal.entries("k").expect("read");
                let mut n = 0;
                while let Some(entry) = found.next_slice() {
                    black_box(entry.expect("read"));
                    n += 1;
                }
                assert_eq!(n, entries);
            };
            each(1, all) / count(entries)
        };
        let name = format!("scan {size}, an entry of {entries}, borrowed (`next_slice`)");
        bench.compare(&name, Some(1.3), 30, borrowed, floor);
        let name = format!("scan {size}, an entry of {entries}, owned");
        bench.compare(&name, None, 30, || read(false), floor);
        let name = format!("scan backwards {size}; floor: forwards");
        bench.compare(&name, None, 10, || read(true), floor);
    }
}

/// Lends a buffer that is used again and again.
fn with_buffer(work: impl FnOnce(&mut Vec<u8>)) {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BUFFER.with_borrow_mut(work);
}

/// Numbers without a pattern (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((x ^ (x >> 31)) % n as u64).expect("below n")
    }
}

// ---- opening, compacting ----

fn open(bench: &Bench) {
    let (dir, keys) = (bench.dir(), bench.scale(10_000));
    let open = || Wal::new(&dir, options()).expect("open");
    let wal = open();
    for key in (0..keys).map(key) {
        append_batch(&wal, &key, 100, false);
    }
    wal.shutdown().expect("shut down");
    drop(wal);
    let stat_all = || {
        each(1, |_| {
            for entry in fs::read_dir(&dir).expect("list") {
                black_box(entry.and_then(|entry| entry.metadata()).expect("stat"));
            }
        })
    };
    bench.compare(
        &format!("open {keys} keys after a shutdown; floor: list + stat"),
        None, // later: 2
        20,
        || {
            let started = Instant::now();
            let wal = open();
            let elapsed = nanos(started);
            assert!(wal.recovery_report().clean);
            wal.shutdown().expect("shut down");
            elapsed
        },
        stat_all,
    );
    drop(open());
    for (how, check) in [("", true), (", `check_on_open(false)`", false)] {
        bench.compare(
            &format!("open {keys} keys after a kill{how}; floor: list + stat"),
            None,
            5,
            || {
                let started = Instant::now();
                let wal = Wal::new(&dir, options().check_on_open(check)).expect("open");
                let elapsed = nanos(started);
                assert!(!wal.recovery_report().clean);
                elapsed
            },
            stat_all,
        );
    }
}

const SEGMENTS: usize = 10;
const RETENTION: Duration = Duration::from_secs(1000);

/// A log in which every key has ten segments with one entry each, and the clock it goes by.
fn segmented(dir: &Path, keys: usize) -> (Wal, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options = options().retention(RETENTION).segments_per_retention_period(10);
    let wal = Wal::new(dir, options.clock(Arc::<ManualClock>::clone(&clock))).expect("open");
    for _ in 0..SEGMENTS {
        for key in (0..keys).map(key) {
            append_one(&wal, &key, 100, false);
        }
        clock.advance(RETENTION / 10);
    }
    (wal, clock)
}

fn compact(bench: &Bench) {
    let keys = bench.scale(1000);
    // A round deletes what it works on, so each has its own, made in the same way for both. The file
    // system gets the time to finish with what was made and deleted before.
    let prepare = || {
        let dir = bench.dir();
        let (wal, clock) = segmented(&dir, keys);
        clock.advance(RETENTION * 2);
        wal.sync().expect("sync");
        common::run("sync", &["-f", &dir.to_string_lossy()]);
        (wal, dir)
    };
    bench.compare(
        &format!("compact {keys} keys x {SEGMENTS} segments, a segment; floor: unlink"),
        None, // later: 1.3
        5,
        || {
            let (wal, dir) = prepare();
            let started = Instant::now();
            let report = wal.compact().expect("compact");
            let elapsed = nanos(started);
            assert_eq!(report.dropped_segments, (keys * SEGMENTS) as u64);
            drop(wal);
            fs::remove_dir_all(dir).expect("clean up");
            elapsed / count(keys * SEGMENTS)
        },
        || {
            let (wal, dir) = prepare();
            drop(wal);
            let names = fs::read_dir(&dir).expect("list").map(|entry| entry.expect("list").path());
            let mut files: Vec<PathBuf> = names.filter(|path| path.extension().is_some()).collect();
            files.sort(); // a key's segments one after the other, as keywal does it
            assert_eq!(files.len(), keys * SEGMENTS);
            let elapsed = each(files.len(), |i| fs::remove_file(&files[i]).expect("unlink"));
            fs::remove_dir_all(dir).expect("clean up");
            elapsed
        },
    );
}

// ---- memory ----

fn memory(bench: &Bench) {
    let keys = bench.scale(20_000);
    // Nothing is timed here, and 200,000 files take long to make on a disk.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("create");
    segmented(dir.path(), keys).0.shutdown().expect("shut down");
    let memory = Memory::of(dir.path());
    let a_key = |bytes: usize| count(bytes) / count(keys) - count(key(0).len());
    let name = format!("memory a key beyond its bytes, {keys} keys x {SEGMENTS} segments");
    bench.report_bytes(&format!("{name}, opened"), Some(256.0), a_key(memory.opened));
    bench.report_bytes(&format!("{name}, used once"), Some(256.0), a_key(memory.used));
    let anonymous = a_key(memory.used_anonymous);
    bench.report_bytes(&format!("{name}, as the process has it"), None, anonymous);

    let (dir, entries) = (bench.dir(), bench.scale(400_000));
    let wal = Wal::new(&dir, options()).expect("open");
    for _ in 0..entries / BATCH {
        append_batch(&wal, &key(0), 100, false);
    }
    wal.shutdown().expect("shut down");
    drop(wal);
    let used = count(Memory::of(&dir).used) / count(entries);
    bench.report_bytes(&format!("memory an entry, {entries} entries"), Some(1.0), used);
}
