//! What does a key cost? Descriptors, memory when idle, and nothing for each entry.
//!
//! The small run is part of `cargo test`. The large one, 100,000 keys under the usual limit of 1024
//! descriptors: `KEYWAL_KEYS=100000 cargo test --release --test many_keys -- --nocapture`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use keywal::{ManualClock, Wal, WalOptions};

/// Counts what is allocated, with what glibc spends on it: 8 bytes, and rounding up to 16, at least 32.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

fn cost(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: hands everything on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(cost(layout), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(cost(layout), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn key(number: usize) -> String {
    format!("key-{number:08}")
}

/// The limits are the whole process's, so there is one test.
#[test]
fn keys_cost_no_more_than_they_must() {
    let keys = std::env::var("KEYWAL_KEYS").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000);
    few_descriptors_serve_many_keys(keys);
    an_idle_key_is_small();
}

fn few_descriptors_serve_many_keys(keys: usize) {
    let (limit, open) = if keys < 10_000 { (64, 24) } else { (1024, 512) };
    let old = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let new = rustix::process::Rlimit { current: Some(limit), maximum: old.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, new).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions::default().max_open_files(open);
    let started = Instant::now();
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    let mut refs = Vec::new();
    for round in 0..2 {
        for number in 0..keys {
            let content = format!("{number} in round {round}");
            refs.push(wal.append_entry(key(number), None, content, false).unwrap());
        }
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(descriptors < open + 24, "{descriptors} descriptors");
    // Those of the journal and of the directory, as it is used again: none for a file that is closed.
    let syncs = wal.stats().syncs;
    assert!(syncs < 40, "{syncs} syncs");
    for at in (0..refs.len()).step_by(7) {
        let content = wal.read_entry_at(refs[at]).unwrap();
        assert_eq!(content, format!("{} in round {}", at % keys, at / keys));
    }
    assert!(wal.stats().open_files <= u64::try_from(open).unwrap());
    println!("{keys} keys twice and read, {limit} descriptors: {:.1?}", started.elapsed());
    let started = Instant::now();
    drop(wal);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    println!("opened after a drop: {:.1?}", started.elapsed());
    assert_eq!(wal.recovery_report().keys, u64::try_from(keys).unwrap());
    let started = Instant::now();
    wal.shutdown().unwrap();
    println!("shut down: {:.1?}", started.elapsed());
    let started = Instant::now();
    let wal = Wal::new(dir.path(), options).unwrap();
    println!("opened after a shutdown: {:.1?}", started.elapsed());
    assert!(wal.recovery_report().clean);
    assert_eq!(wal.enumerate_keys().unwrap().count(), keys);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, old).unwrap();
}

fn an_idle_key_is_small() {
    const KEYS: usize = 200;
    const SEGMENTS: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options =
        WalOptions::default().journal_bytes(16_384).clock(clock.clone()).max_open_files(4);
    let window = options.entry_retention / options.segments_per_retention_period;
    let fill = |wal: &Wal, entries: usize| {
        for _ in 0..SEGMENTS {
            for number in 0..KEYS {
                for _ in 0..entries {
                    wal.append_entry(key(number), None, "x", false).unwrap();
                }
            }
            clock.advance(window + Duration::from_millis(1));
        }
    };
    let per_key = |before: usize, wal: &Wal| {
        // What four open files, the journal and the log itself take does not grow with the keys.
        wal.sync().unwrap();
        let fixed = key(0).len();
        (LIVE.load(Relaxed) - before) / KEYS - fixed
    };

    let before = LIVE.load(Relaxed);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    let empty = LIVE.load(Relaxed) - before;
    fill(&wal, 1);
    assert_eq!(wal.key_stats(key(7)).unwrap().segments, u64::try_from(SEGMENTS).unwrap());
    let used = per_key(before + empty, &wal);
    println!("a key that was written, {SEGMENTS} segments: {used} bytes beyond the key");
    wal.shutdown().unwrap();
    drop(wal);

    let before = LIVE.load(Relaxed);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    let untouched = (LIVE.load(Relaxed) - before - empty) / KEYS;
    println!("a key that was not used since the directory was opened: {untouched} bytes in all");
    assert!(used <= 256 && untouched <= 256, "{used} and {untouched} bytes a key");

    // A hundred times the entries, not a byte more.
    let before = LIVE.load(Relaxed);
    for number in 0..KEYS {
        for _ in 0..100 {
            wal.append_entry(key(number), None, "x", false).unwrap();
        }
    }
    wal.sync().unwrap();
    let one = LIVE.load(Relaxed) - before;
    for number in 0..KEYS {
        for _ in 0..900 {
            wal.append_entry(key(number), None, "x", false).unwrap();
        }
    }
    wal.sync().unwrap();
    let many = LIVE.load(Relaxed) - before;
    assert!(many < one + 8 * KEYS, "{many} bytes for 180,000 entries more, {one} before");
}
