//! Do threads that append, read, compact and remove at once see only whole, ordered, true entries?
//!
//! `KEYWAL_ROUNDS` is how often a key is raced for, `KEYWAL_SECONDS` how long the stress lasts; see also
//! the run `tsan` of `tests/soak.sh`.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::progress::Progress;
use common::{Failures, Random, env_number};
use keywal::{EntryRef, ManualClock, Wal, WalError, WalOptions};

const THREADS: u64 = 8;
/// Two keys with one FNV-1a hash.
const TWINS: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];

fn content(thread: u64, number: u64) -> String {
    format!("{thread}:{number}:{}", "x".repeat(usize::try_from(number % 300).unwrap()))
}

#[test]
fn the_public_types_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Wal>();
    crosses::<keywal::Entries<'_>>();
    crosses::<keywal::Merge<'_>>();
    crosses::<keywal::Follow<Arc<Wal>>>();
    crosses::<keywal::Canceller>();
    crosses::<WalError>();
}

#[test]
fn appends_from_many_threads_are_all_there_in_each_thread_s_order() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        WalOptions::default().max_segment_bytes(20_000).max_entry_bytes(1_000).max_open_files(3);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    let keys = ["shared", TWINS[0], TWINS[1]];
    let refs: Vec<Vec<(&str, u64, u64, EntryRef)>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let wal = &wal;
                scope.spawn(move || {
                    let append = |number: u64| {
                        let key = keys[usize::try_from(number % 3).unwrap()];
                        let durable = number % 50 == 0;
                        let made = wal.append_entry(key, None, content(thread, number), durable);
                        let reference = made.unwrap();
                        assert_eq!(wal.read_entry_at(reference).unwrap(), content(thread, number));
                        (key, thread, number, reference)
                    };
                    (0..300).map(append).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let all: Vec<_> = refs.into_iter().flatten().collect();
    let distinct: HashSet<EntryRef> = all.iter().map(|(.., reference)| *reference).collect();
    assert_eq!(distinct.len(), all.len());
    for reopened in [false, true] {
        let again = reopened.then(|| {
            wal.shutdown().unwrap();
            Wal::new(dir.path(), options.clone()).unwrap()
        });
        let wal = again.as_ref().unwrap_or(&wal);
        for (_, thread, number, reference) in &all {
            assert_eq!(wal.read_entry_at(*reference).unwrap(), content(*thread, *number));
        }
        for key in keys {
            let mut last = vec![None; usize::try_from(THREADS).unwrap()];
            for (index, entry) in (0..).zip(wal.entries(key).unwrap()) {
                let entry = entry.unwrap();
                assert_eq!(entry.index, index);
                let text = String::from_utf8(entry.content.to_vec()).unwrap();
                let mut fields = text.split(':').map(str::parse::<u64>);
                let thread = usize::try_from(fields.next().unwrap().unwrap()).unwrap();
                let number = fields.next().unwrap().unwrap();
                assert!(last[thread] < Some(number));
                last[thread] = Some(number);
            }
        }
    }
}

#[test]
fn eight_threads_race_to_create_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    for round in 0..env_number("KEYWAL_ROUNDS").unwrap_or(100) {
        let key = format!("key {round}");
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (wal, key) = (&wal, &key);
                scope
                    .spawn(move || wal.append_entry(key, None, content(thread, 0), false).unwrap());
            }
        });
        assert_eq!(wal.len(&key).unwrap(), THREADS);
        assert_eq!(wal.segments(&key).unwrap().len(), 1);
    }
}

#[test]
fn one_of_those_who_expect_the_same_index_wins() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    for index in 0..100 {
        let won = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| match wal.append_if("k", index, None, "x", false) {
                    Ok(_) => drop(won.fetch_add(1, Ordering::Relaxed)),
                    Err(WalError::Conflict { expected, actual }) => {
                        assert_eq!((expected, actual), (index, index + 1));
                    }
                    Err(other) => panic!("{other}"),
                });
            }
        });
        assert_eq!(won.into_inner(), 1);
    }
}

#[test]
fn readers_and_retention_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options = WalOptions::with_retention(Duration::from_secs(10))
        .clock(clock.clone())
        .max_open_files(4)
        .max_segment_bytes(8_192)
        .max_entry_bytes(1_000);
    let wal = Wal::new(dir.path(), options).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..3_000_u64 {
                let batch = (0..2).map(|half| (None, Bytes::from(format!("{number}.{half}"))));
                wal.append_batch("k", batch, false).unwrap();
                clock.advance(Duration::from_millis(20));
            }
            done.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let report = wal.compact().unwrap();
                assert!(report.failures.is_empty(), "{report:?}");
                wal.truncate_before("other", u64::MAX).unwrap();
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                wal.append_entry("other", None, "x", false).unwrap();
                wal.remove_key("other").unwrap();
            }
        });
        for backward in [false, true] {
            let (wal, done) = (&wal, &done);
            scope.spawn(move || {
                let check = |index: u64, content: &[u8]| {
                    assert_eq!(content, format!("{}.{}", index / 2, index % 2).as_bytes());
                };
                while !done.load(Ordering::Relaxed) {
                    let entries = wal.entries("k").unwrap();
                    let mut last = None;
                    let mut see = |result: keywal::Result<keywal::Entry>| match result {
                        Ok(entry) => {
                            check(entry.index, &entry.content);
                            let ordered = last.is_none_or(|last| (last < entry.index) != backward);
                            assert!(ordered, "{last:?} {}", entry.index);
                            last = Some(entry.index);
                        }
                        Err(WalError::Expired) => {}
                        Err(other) => panic!("{other}"),
                    };
                    if backward {
                        entries.rev().for_each(&mut see);
                    } else {
                        entries.for_each(&mut see);
                    }
                    let next = wal.next_index("k").unwrap();
                    assert_eq!(next % 2, 0, "half a batch is visible");
                    match wal.get("k", next.saturating_sub(1)) {
                        Ok(Some(entry)) => check(entry.index, &entry.content),
                        Ok(None) => assert_eq!(next, 0),
                        Err(other) => assert!(matches!(other, WalError::Expired), "{other}"),
                    }
                }
            });
        }
        writer.join().unwrap();
    });
}

/// One call of a thread that does everything; what is there may be dropped at any moment.
fn disturb(wal: &Wal, clock: &ManualClock, random: &mut Random, last: &mut Option<EntryRef>) {
    let key = TWINS[usize::try_from(random.next() % 2).unwrap()];
    let content = |n| content(n % THREADS, n % 1_000);
    match random.next() % 32 {
        0..20 => {
            let durable = random.next() % 8 == 0;
            *last = Some(wal.append_entry(key, None, content(random.next()), durable).unwrap());
        }
        20 => wal.sync().unwrap(),
        21 => wal.sync_key(key).unwrap(),
        22 => drop(wal.truncate_before(key, wal.next_index(key).unwrap()).unwrap()),
        23 => wal.remove_key(key).unwrap(),
        24 => {
            clock.advance(Duration::from_secs(3));
            assert!(wal.compact().unwrap().failures.is_empty());
        }
        25 => drop((wal.stats(), wal.segments(key), wal.enumerate_keys().unwrap().count())),
        26..29 => {
            let read = last.map(|reference| wal.read_entry_at(reference));
            assert!(matches!(read, None | Some(Ok(_) | Err(WalError::Expired))), "{read:?}");
        }
        _ => {
            let entries = wal.entries(key).unwrap();
            let wrong =
                |entry: &keywal::Result<_>| !matches!(entry, Ok(()) | Err(WalError::Expired));
            assert!(!entries.map(|entry| entry.map(drop)).any(|entry| wrong(&entry)));
        }
    }
}

#[test]
fn stress() {
    let seconds = env_number("KEYWAL_SECONDS").unwrap_or(1);
    let seed = env_number("KEYWAL_SEED").unwrap_or(1);
    println!("stress: KEYWAL_SEED={seed}");
    let progress = Progress::new("stress", "seconds", seconds);
    let (started, calls) = (Instant::now(), AtomicU64::new(0));
    for round in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let options = WalOptions::with_retention(Duration::from_secs(10))
            .clock(clock.clone())
            .max_open_files(2)
            .max_segment_bytes(4_096)
            .max_entry_bytes(1_000);
        let wal = Wal::new(dir.path(), options.clone()).unwrap();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (wal, clock, calls) = (&wal, &clock, &calls);
                scope.spawn(move || {
                    let mut random = Random(seed ^ (round * THREADS + thread));
                    let mut last = None;
                    for _ in 0..100 {
                        disturb(wal, clock, &mut random, &mut last);
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        wal.shutdown().unwrap();
        let wal = Wal::new(dir.path(), options).unwrap();
        assert!(wal.recovery_report().clean && wal.recovery_report().damaged.is_empty());
        let elapsed = started.elapsed().as_secs();
        (progress.done()..elapsed.min(seconds))
            .for_each(|_| progress.step(|| format!("round {round}")));
        if elapsed >= seconds {
            break;
        }
    }
    progress.figures(&[("calls", calls.into_inner()), ("seed", seed)], &Failures::default());
}
