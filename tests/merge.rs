//! Are several keys read as one in time order, and can one key be read in parts?

mod common;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::{EPOCH_MS, Random};
use keywal::fs::sim::SimDir;
use keywal::{Entry, Key, ManualClock, Wal, WalError, WalOptions};

const KEYS: [&str; 4] = ["b", "a", "", "idle"];

/// A log with entries that have the same timestamp in threes, on the average.
fn filled(options: WalOptions, entries: u64) -> Wal {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let options = options.clock(clock.clone());
    let wal = Wal::open_in(Arc::new(SimDir::new(1)), options).unwrap();
    let mut random = Random(1);
    for number in 0..entries {
        let key = KEYS[usize::try_from(random.next() % 3).unwrap()];
        wal.append_entry(key, None, number.to_string(), false).unwrap();
        clock.advance(Duration::from_millis(u64::from(random.next() % 3 == 0)));
    }
    wal
}

/// Without a journal, unless a test gives it one.
fn direct() -> WalOptions {
    WalOptions::default().journal_bytes(0)
}

fn small_segments() -> WalOptions {
    direct().max_segment_bytes(4_096)
}

/// What merging should give: sorted by time, then by the order of keys, then by index.
fn sorted(wal: &Wal, keys: &[&str], keep: impl Fn(&Entry) -> bool) -> Vec<(Key, Entry)> {
    let mut all = Vec::new();
    for key in keys {
        let entries = wal.entries(key).unwrap().map(|entry| (Key::from(*key), entry.unwrap()));
        all.extend(entries.filter(|(_, entry)| keep(entry)));
    }
    all.sort_by_key(|(_, entry)| entry.timestamp_ms);
    all
}

#[test]
fn merging_is_sorting_by_time() {
    let wal = filled(small_segments(), 1_000);
    for keys in [&KEYS[..], &["a"], &[], &["idle"], &["a", "b", "a"]] {
        let merged: Result<Vec<_>, _> = wal.merge(keys).unwrap().collect();
        assert_eq!(merged.unwrap(), sorted(&wal, keys, |_| true), "{keys:?}");
    }
    assert!(matches!(wal.merge([vec![0; 65_536]]), Err(WalError::KeyTooLong { .. })));
    assert_eq!(wal.merge([b"a"]).unwrap().count(), wal.entries("a").unwrap().count());
}

#[test]
fn it_reads_until_a_moment_and_from_one() {
    let wal = filled(small_segments(), 1_000);
    let end_ms = wal.last("a").unwrap().unwrap().timestamp_ms;
    for moment_ms in [0, EPOCH_MS, EPOCH_MS + 7, EPOCH_MS + 100, end_ms, u64::MAX] {
        let until = wal.merge(KEYS).unwrap().time_range(..=moment_ms).unwrap();
        let until: Vec<_> = until.map(Result::unwrap).collect();
        assert_eq!(until, sorted(&wal, &KEYS, |entry| entry.timestamp_ms <= moment_ms));
        let from = wal.merge(KEYS).unwrap().time_range(moment_ms..).unwrap();
        let from: Vec<_> = from.map(Result::unwrap).collect();
        assert_eq!(from, sorted(&wal, &KEYS, |entry| entry.timestamp_ms >= moment_ms));
    }
}

#[test]
fn damage_to_one_key_is_told_once_and_costs_the_others_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    let mut refs = Vec::new();
    for number in 0..30 {
        let key = KEYS[number % 2];
        refs.push(wal.append_entry(key, None, number.to_string(), false).unwrap());
    }
    let path = wal.segments(KEYS[0]).unwrap()[0].path.clone();
    wal.shutdown().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[usize::try_from(refs[10].offset).unwrap() + 33] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    let (good, bad): (Vec<_>, Vec<_>) =
        wal.merge([KEYS[0], KEYS[1]]).unwrap().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (29, 1));
    assert!(matches!(bad[0], Err(WalError::Corrupted { .. })));
    let mut merge = wal.merge([KEYS[0], KEYS[1]]).unwrap();
    merge.next().unwrap().unwrap();
    wal.shutdown().unwrap();
    let rest: Vec<_> = merge.by_ref().take(10).collect();
    assert!(rest.iter().any(|item| matches!(item, Err(WalError::Closed))), "{rest:?}");
    assert!(merge.next().is_none());
}

#[test]
fn segments_are_read_side_by_side() {
    let wal = filled(small_segments(), 1_000);
    let whole: Vec<Entry> = wal.entries("a").unwrap().collect::<Result<_, _>>().unwrap();
    let segments = wal.segments("a").unwrap();
    assert!(segments.len() > 3);
    let parts: Vec<Vec<Entry>> = thread::scope(|scope| {
        let threads: Vec<_> = segments
            .iter()
            .map(|segment| {
                let read = || wal.entries("a").unwrap().range(segment.indexes());
                scope.spawn(move || read().collect::<Result<_, _>>().unwrap())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(parts.concat(), whole);
}

#[test]
fn a_strict_reader_is_told_what_was_dropped() {
    let wal = filled(small_segments(), 1_000);
    wal.truncate_before("a", 100).unwrap();
    let (first, next) = (wal.first_index("a").unwrap(), wal.next_index("a").unwrap());
    assert!(first > 0);
    match wal.entries_from("a", first - 1) {
        Err(WalError::Behind { wanted, oldest }) => {
            assert_eq!((wanted, oldest), (first - 1, first));
        }
        other => panic!("{other:?}"),
    }
    for from in [first, first + 1, next - 1, next, next + 1, u64::MAX] {
        let strict = wal.entries_from("a", from).unwrap();
        let lax = wal.entries("a").unwrap().range(from..);
        assert!(strict.map(Result::unwrap).eq(lax.map(Result::unwrap)));
    }
    assert!(wal.entries_from("none", 7).unwrap().next().is_none());
    // The numbers go on, and so does the answer, when nothing is left.
    wal.truncate_before("a", next).unwrap();
    assert!(matches!(wal.entries_from("a", next - 1), Err(WalError::Behind { .. })));
    assert!(wal.entries_from("a", next).unwrap().next().is_none());
}

#[test]
fn the_last_entry_and_the_first_one_at_a_moment_are_found() {
    let wal = filled(small_segments(), 1_000);
    wal.truncate_before("a", 100).unwrap();
    let entries: Vec<Entry> = wal.entries("a").unwrap().map(Result::unwrap).collect();
    assert_eq!(wal.last("a").unwrap().as_ref(), entries.last());
    assert_eq!(wal.last("none").unwrap(), None);
    let (oldest, newest) = (&entries[0], &entries[entries.len() - 1]);
    for time_ms in oldest.timestamp_ms - 5..newest.timestamp_ms + 5 {
        let expected = entries.iter().find(|entry| entry.timestamp_ms >= time_ms);
        let expected = expected.map_or(newest.index + 1, |entry| entry.index);
        assert_eq!(wal.index_at("a", time_ms).unwrap(), expected, "{time_ms}");
    }
    assert_eq!(wal.index_at("a", 0).unwrap(), oldest.index);
    assert_eq!(wal.index_at("a", u64::MAX).unwrap(), newest.index + 1);
    assert_eq!(wal.index_at("none", 0).unwrap(), 0);
    wal.truncate_before("a", u64::MAX).unwrap();
    assert_eq!(wal.last("a").unwrap(), None);
    assert_eq!(wal.index_at("a", 0).unwrap(), newest.index + 1);
}

#[test]
fn an_owned_entry_shares_nothing() {
    let wal = filled(direct(), 100);
    let entries: Vec<Entry> = wal.entries("a").unwrap().map(Result::unwrap).collect();
    let owned: Vec<Entry> = entries.iter().cloned().map(Entry::into_owned).collect();
    assert_eq!(owned, entries);
    assert!(entries.iter().all(|entry| !entry.content.is_unique()));
    assert!(owned.iter().all(|entry| entry.content.is_unique()));
    let empty_header = wal.append_entry("h", Some("".into()), "", false).unwrap();
    let entry = wal.read_entry(empty_header).unwrap();
    assert_eq!(entry.clone().into_owned(), entry);
}
