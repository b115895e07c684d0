//! Does bad input, and a file system that misbehaves, give a clear error and cost nothing?

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, FaultKind, SimDir};
use keywal::{
    ClockTrouble, Durability, EntryRef, ManualClock, SizeLimit, SyncPolicy, Wal, WalError,
    WalOptions,
};

use common::logs::{SEGMENT, fail};

mod common;

const NOW: u64 = 1_700_000_000_000;
/// Two keys with one FNV-1a hash.
const TWINS: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];

fn options() -> (WalOptions, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(100)).clock(clock.clone());
    (options, clock)
}

/// Every append goes to its segment at once: for tests that look into the files of a log in use.
fn direct() -> WalOptions {
    WalOptions::default().journal_bytes(0)
}

fn contents(wal: &Wal, key: impl AsRef<[u8]>) -> Vec<Bytes> {
    wal.enumerate_records(key).unwrap().collect::<Result<_, _>>().unwrap()
}

fn segment_files(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
    logs.sort();
    logs
}

#[test]
fn keys_with_one_hash_outlive_each_other() {
    let dir = tempfile::tempdir().unwrap();
    for reopen in [false, true] {
        let mut wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
        for key in TWINS {
            wal.append_entry(key, None, key, true).unwrap();
        }
        wal.remove_key(TWINS[0]).unwrap();
        if reopen {
            drop(wal);
            wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
        }
        assert_eq!(contents(&wal, TWINS[1]), [TWINS[1]]);
        assert!(contents(&wal, TWINS[0]).is_empty());
        assert_eq!(wal.enumerate_keys().unwrap().collect::<Vec<_>>(), [TWINS[1]]);
        wal.append_entry(TWINS[0], None, "again", true).unwrap();
        assert_eq!(contents(&wal, TWINS[0]), ["again"]);
        wal.remove_key(TWINS[1]).unwrap();
        assert_eq!(contents(&wal, TWINS[0]), ["again"]);
        wal.remove_key(TWINS[0]).unwrap();
        assert_eq!(wal.active_segment_count(), 0);
    }
}

#[test]
fn sizes_are_checked_before_the_first_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions::default().max_entry_bytes(100_000).max_segment_bytes(150_000);
    let wal = Wal::new(dir.path(), options).unwrap();
    wal.append_entry("k", Some(Bytes::from(vec![1; 65_535])), "first", false).unwrap();
    let before = wal.key_stats("k").unwrap();
    let header = wal.append_entry("k", Some(Bytes::from(vec![1; 65_536])), "x", false);
    assert!(matches!(header, Err(WalError::HeaderTooLarge { bytes: 65_536 })));
    let entry = wal.append_entry("k", None, vec![0; 100_001], false);
    let error = entry.unwrap_err();
    assert!(matches!(error, WalError::TooLarge { limit: SizeLimit::Entry, .. }), "{error:?}");
    let text = "an entry has 100001 bytes, and max_entry_bytes allows 100000: split it, or raise that option";
    assert_eq!(error.to_string(), text);
    let half = || (None, Bytes::from(vec![0; 80_000]));
    let batch = wal.append_batch("k", [half(), half()], false);
    let segment = |error: &WalError| {
        matches!(error, WalError::TooLarge { max: 150_000, limit: SizeLimit::Segment, .. })
    };
    let error = batch.unwrap_err();
    assert!(segment(&error) && error.to_string().contains(" max_segment_bytes allows "), "{error}");
    let new = wal.append_entry("new", None, vec![0; 100_001], false);
    assert!(new.is_err());
    assert_eq!(wal.key_stats("k").unwrap(), before);
    assert_eq!(wal.active_segment_count(), 1);
    assert_eq!(segment_files(dir.path()).len(), 1);
    wal.append_entry("k", None, vec![7; 100_000], false).unwrap();
    assert_eq!(contents(&wal, "k")[1], vec![7; 100_000]);
    assert_eq!(wal.stats().failed_appends, 4);
    wal.shutdown().unwrap();

    // Where entries may be no less than a segment, that is what bounds them.
    let options = WalOptions::default().max_entry_bytes(200_000).max_segment_bytes(150_000);
    let wal = Wal::new(dir.path(), options).unwrap();
    let error = wal.append_entry("k", None, vec![0; 150_001], false).unwrap_err();
    assert!(segment(&error), "{error:?}");
    wal.shutdown().unwrap();

    // And what is there can be too much for who reads.
    let wal = Wal::new(dir.path(), WalOptions::default().max_entry_bytes(65_539)).unwrap();
    let read = wal.entries("k").unwrap().next().unwrap();
    for error in [read.unwrap_err(), wal.get("k", 0).unwrap_err()] {
        assert!(matches!(error, WalError::TooLarge { limit: SizeLimit::Read, .. }), "{error:?}");
        assert!(error.to_string().ends_with(": raise it to read the entry"), "{error}");
    }
}

#[test]
fn absurd_options_are_refused_by_name() {
    let default = WalOptions::default;
    let table = [
        (default().retention(Duration::ZERO), "entry_retention"),
        (default().segments_per_retention_period(0), "segments_per_retention_period"),
        (
            default().retention(Duration::from_millis(5)).segments_per_retention_period(10),
            "entry_retention",
        ),
        (
            default().retention(Duration::from_nanos(999_999)).segments_per_retention_period(1),
            "entry_retention",
        ),
        (default().max_segment_bytes(0), "max_segment_bytes"),
        (default().max_segment_bytes(u64::MAX), "max_segment_bytes"),
        (default().max_entry_bytes(0), "max_entry_bytes"),
        (default().max_entry_bytes(u64::MAX), "max_entry_bytes"),
        (default().max_open_files(0), "max_open_files"),
        (default().sync_policy(SyncPolicy::Every(Duration::ZERO)), "sync_policy"),
        (default().preallocate_bytes(u64::MAX), "preallocate_bytes"),
        (default().modes(0, 0o600), "dir_mode"),
        (default().modes(0o700, 0o10_600), "file_mode"),
    ];
    let tree = tempfile::tempdir().unwrap();
    let dir = tree.path().join("log");
    for (options, field) in table {
        match Wal::new(&dir, options) {
            Err(WalError::InvalidOptions(text)) => assert!(text.contains(field), "{field}: {text}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    assert!(!dir.exists());
    // Five seconds in ten segments is a window of half a second, not of nothing.
    let small = WalOptions::with_retention(Duration::from_secs(5));
    let wal = Wal::new(&dir, small).unwrap();
    for _ in 0..10 {
        wal.append_entry("k", None, "x", false).unwrap();
    }
    assert!(wal.segments("k").unwrap().len() <= 2);
    // For ever is a long time, but no overflow.
    let long =
        Wal::new(tree.path().join("long"), WalOptions::with_retention(Duration::MAX)).unwrap();
    long.append_entry("k", None, "x", false).unwrap();
    assert_eq!(long.compact().unwrap().dropped_segments, 0);
}

#[test]
fn made_up_references_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (options, clock) = options();
    let wal = Wal::new(dir.path(), options).unwrap();
    let first = wal.append_entry("k", None, "first", false).unwrap();
    let second = wal.append_entry("k", None, "second", false).unwrap();
    let invalid = |reference| {
        let result = wal.read_entry_at(reference);
        assert!(matches!(result, Err(WalError::InvalidRef)), "{reference:?}: {result:?}");
    };
    for offset in (0..second.offset + 50).filter(|at| ![first.offset, second.offset].contains(at)) {
        invalid(EntryRef { offset, ..first });
    }
    for sequence_number in [0, 2, 3, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        invalid(EntryRef { sequence_number, ..first });
    }
    invalid(EntryRef { key_hash: first.key_hash + 1, ..first });
    invalid(EntryRef { offset: u64::MAX, ..first });
    let mut state = 7_u64;
    for _ in 0..1_000 {
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56).to_le_bytes()[0];
        }
        invalid(EntryRef::from_bytes(bytes));
    }
    clock.advance(Duration::from_secs(111));
    let report = wal.compact().unwrap();
    assert_eq!((report.dropped_segments, report.dropped_entries), (1, 2));
    assert!(matches!(wal.read_entry_at(first), Err(WalError::Expired)));
    assert!(matches!(wal.get("k", 1), Err(WalError::Expired)));
    assert_eq!(wal.get("k", 2).unwrap(), None);
}

#[test]
fn payloads_that_look_like_segments_are_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), direct()).unwrap();
    wal.append_entry("k", Some(Bytes::from_static(b"h")), "inner", true).unwrap();
    let copy = fs::read(&segment_files(dir.path())[0]).unwrap();
    wal.append_entry("k", None, copy.clone(), true).unwrap();
    wal.append_entry("k", None, "last", true).unwrap();
    drop(wal);
    // A torn frame whose payload is the copy: nothing in it may come to life.
    let path = &segment_files(dir.path())[0];
    let bytes = fs::read(path).unwrap();
    fs::write(path, [&bytes[..], &copy[..], &bytes[600..]].concat()).unwrap();
    let wal = Wal::new(dir.path(), direct()).unwrap();
    assert_eq!(contents(&wal, "k"), [Bytes::from("inner"), Bytes::from(copy), Bytes::from("last")]);
    assert!(wal.recovery_report().damaged.is_empty());
    assert_eq!(wal.recovery_report().torn.len(), 1);
}

#[test]
fn a_directory_that_cannot_be_one() {
    let tree = tempfile::tempdir().unwrap();
    let file = tree.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(Wal::new(&file, WalOptions::default()), Err(WalError::Io { .. })));
    assert!(matches!(
        Wal::new(file.join("below"), WalOptions::default()),
        Err(WalError::Io { .. })
    ));
    assert_eq!(fs::read(&file).unwrap(), b"mine");

    let dir = tree.path().join("log");
    let wal = Wal::new(&dir, WalOptions::default()).unwrap();
    assert!(matches!(Wal::new(&dir, WalOptions::default()), Err(WalError::Locked { .. })));
    wal.shutdown().unwrap();
    assert!(matches!(wal.shutdown(), Err(WalError::Closed)));
    assert!(matches!(wal.sync(), Err(WalError::Closed)));
    assert!(matches!(wal.compact(), Err(WalError::Closed)));
    assert!(matches!(wal.entries("k"), Err(WalError::Closed)));
    // A shut log holds nothing back, though the value is still alive.
    drop(Wal::new(&dir, WalOptions::default()).unwrap());
}

#[test]
fn foreign_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::create_dir(dir.path().join("x-0000000000000001-0001.log")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("y-0000000000000002-0001.log"))
        .unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    let report = wal.recovery_report();
    assert_eq!(report.foreign_files, 2, "{report:?}");
    wal.append_entry("k", None, "x", true).unwrap();
    assert_eq!(contents(&wal, "k"), ["x"]);
    fs::remove_dir(dir.path().join("x-0000000000000001-0001.log")).unwrap();
    wal.destroy().unwrap();
    assert_eq!(fs::read(dir.path().join("notes.txt")).unwrap(), b"mine");
    assert!(dir.path().join("sub").is_dir());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert!(!fs::read("/etc/passwd").unwrap().is_empty());
}

#[test]
fn newer_formats_are_refused_by_version() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), direct()).unwrap();
    wal.append_entry("new", None, "x", true).unwrap();
    wal.append_entry("old", None, "x", true).unwrap();
    drop(wal);
    let files = segment_files(dir.path());
    let path = &files[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[6] = 9;
    let length = usize::try_from(u32::from_le_bytes(bytes[12..16].try_into().unwrap())).unwrap();
    let checksum = crc32fast::hash(&bytes[..length - 4]).to_le_bytes();
    bytes[length - 4..length].copy_from_slice(&checksum);
    fs::write(path, &bytes).unwrap();
    let wal = Wal::new(dir.path(), direct()).unwrap();
    assert_eq!(wal.recovery_report().ignored.len(), 1);
    let refused = wal.append_entry("new", None, "y", true);
    assert!(matches!(refused, Err(WalError::UnsupportedVersion { version: 9, .. })), "{refused:?}");
    assert_eq!(contents(&wal, "old"), ["x"]);
    assert_eq!(wal.enumerate_keys().unwrap().unreadable(), 1);
    drop(wal);
    assert_eq!(fs::read(path).unwrap(), bytes, "left alone");

    let meta = dir.path().join("META");
    let mut bytes = fs::read(&meta).unwrap();
    bytes[8] = 2;
    let checksum = crc32fast::hash(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&checksum);
    fs::write(&meta, &bytes).unwrap();
    let refused = Wal::new(dir.path(), direct());
    assert!(matches!(refused, Err(WalError::UnsupportedVersion { version: 2, .. })));
}

#[test]
fn a_full_disk_costs_nothing_and_ends_when_there_is_space() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().0.journal_bytes(0)).unwrap();
    wal.append_entry("k", None, "before", false).unwrap();
    let used: usize = sim.image().files().map(|(_, bytes)| bytes.len()).sum();
    for room in [0, 10, 31, 32, 40, 131] {
        sim.set_capacity(Some(u64::try_from(used).unwrap() + room));
        let full = wal.append_entry("k", None, [0; 100], true);
        assert!(matches!(full, Err(WalError::StorageFull { .. })), "{room}: {full:?}");
        let new_key = wal.append_entry("new", None, "x", false);
        assert!(matches!(new_key, Err(WalError::StorageFull { .. })), "{room}: {new_key:?}");
        assert_eq!(contents(&wal, "k"), ["before"]);
    }
    sim.set_capacity(None);
    wal.append_entry("k", None, "after", true).unwrap();
    wal.append_entry("new", None, "x", true).unwrap();
    drop(wal);
    let wal = Wal::open_in(Arc::new(sim.after_kill()), options().0.journal_bytes(0)).unwrap();
    assert_eq!(contents(&wal, "k"), ["before", "after"]);
    assert!(wal.recovery_report().damaged.is_empty() && wal.recovery_report().torn.is_empty());
}

#[test]
fn clocks_are_not_believed_against_the_data() {
    let dir = tempfile::tempdir().unwrap();
    let (options, clock) = options();
    clock.set(0);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    wal.append_entry("k", None, "in 1970", false).unwrap();
    drop(wal);
    clock.set(NOW);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    wal.append_entry("k", None, "today", false).unwrap();
    clock.set(NOW - 5_000);
    wal.append_entry("k", None, "after a step back", false).unwrap();
    let times: Vec<u64> =
        wal.entries("k").unwrap().map(|entry| entry.unwrap().timestamp_ms).collect();
    assert_eq!(times, [0, NOW, NOW]);
    assert_eq!(wal.compact().unwrap().refused, Some(ClockTrouble::WentBack));
    clock.set(NOW + 1_000_000);
    let report = wal.compact().unwrap();
    assert_eq!((report.refused, report.dropped_segments), (Some(ClockTrouble::JumpedAhead), 0));
    assert_eq!(contents(&wal, "k").len(), 3);
    drop(wal);
    // A new process believes the time of day, except against what a key has seen.
    clock.set(NOW - 1);
    let wal = Wal::new(dir.path(), options.clone()).unwrap();
    assert_eq!(wal.compact().unwrap().keys_from_the_future, 1);
    assert_eq!(contents(&wal, "k").len(), 3);
    drop(wal);
    clock.set(u64::MAX);
    let wal = Wal::new(dir.path(), options).unwrap();
    wal.append_entry("late", None, "at the end of time", false).unwrap();
    wal.append_entry("late", None, "and after it", false).unwrap();
    assert_eq!(contents(&wal, "late").len(), 2);
    wal.compact().unwrap();
}

#[test]
fn files_that_go_missing_underneath_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (options, clock) = options();
    let options = options.journal_bytes(0);
    let wal = Wal::new(dir.path(), options.clone().max_open_files(1)).unwrap();
    let mut refs = Vec::new();
    for number in 0..4 {
        refs.push(wal.append_entry("k", None, format!("{number}"), true).unwrap());
        clock.advance(Duration::from_secs(10));
    }
    wal.append_entry("other", None, "fine", true).unwrap();
    let files = segment_files(dir.path());
    fs::remove_file(&files[1]).unwrap();
    let results: Vec<_> = wal.enumerate_records("k").unwrap().collect();
    assert_eq!(results.len(), 4);
    assert!(matches!(&results[1], Err(WalError::Corrupted { path, .. }) if *path == files[1]));
    assert_eq!(results[2].as_ref().unwrap(), "2");
    assert!(matches!(wal.read_entry_at(refs[1]), Err(WalError::Corrupted { .. })));
    assert!(matches!(wal.get("k", 1), Err(WalError::Corrupted { .. })));
    assert_eq!(wal.get("k", 3).unwrap().unwrap().content, "3");
    let backward: Vec<_> = wal.enumerate_records("k").unwrap().rev().collect();
    assert_eq!(backward.iter().filter(|result| result.is_err()).count(), 1);
    assert_eq!(backward.len(), 4);
    drop(wal);
    // The same after a restart, and it does not spread.
    let wal = Wal::new(dir.path(), options).unwrap();
    assert_eq!(wal.enumerate_records("k").unwrap().filter(Result::is_err).count(), 1);
    assert_eq!(contents(&wal, "other"), ["fine"]);
}

#[test]
fn damage_costs_the_entry_it_hit_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    let refs: Vec<EntryRef> = (0..50)
        .map(|n| wal.append_entry("k", None, format!("entry {n}"), n == 49).unwrap())
        .collect();
    wal.shutdown().unwrap();
    let path = &segment_files(dir.path())[0];
    let good = fs::read(path).unwrap();
    let meta = fs::read(dir.path().join("META")).unwrap();
    for hit in [0, 7, 49] {
        // In the frame header, and in the payload.
        for within in [5, 33] {
            let mut bytes = good.clone();
            let at = usize::try_from(refs[hit].offset).unwrap() + within;
            bytes[at] ^= 0x10;
            fs::write(path, &bytes).unwrap();
            let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
            let forward: Vec<_> = wal.entries("k").unwrap().collect();
            let mut backward: Vec<_> = wal.entries("k").unwrap().rev().collect();
            backward.reverse();
            for results in [&forward, &backward] {
                assert_eq!(results.len(), 50);
                for (n, result) in results.iter().enumerate() {
                    match result {
                        Ok(entry) => assert_eq!(
                            (n != hit, &*entry.content),
                            (true, format!("entry {n}").as_bytes())
                        ),
                        Err(WalError::Corrupted { offset, .. }) => {
                            assert_eq!((n, *offset), (hit, refs[hit].offset));
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            assert!(matches!(wal.read_entry_at(refs[hit]), Err(WalError::Corrupted { .. })));
            assert_eq!(wal.read_entry_at(refs[20]).unwrap(), "entry 20");
            let index = u64::try_from(hit).unwrap();
            assert!(matches!(wal.get("k", index), Err(WalError::Corrupted { .. })));
            assert_eq!(
                wal.entries("k").unwrap().range(index + 1..).filter(Result::is_err).count(),
                0
            );
            // The numbers go on behind the damage.
            assert_eq!(wal.append_if("k", 50, None, "next", true).unwrap().sequence_number, 1);
            drop(wal);
            fs::write(path, &good).unwrap();
            fs::write(dir.path().join("META"), &meta).unwrap();
        }
    }
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    use keywal::fs::sim::{CallKind, Fault, FaultKind};
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().0.journal_bytes(0)).unwrap();
    wal.append_entry("k", None, "safe", true).unwrap();
    wal.append_entry("other", None, "safe", true).unwrap();
    sim.inject(Fault {
        call: CallKind::SyncData,
        nth: 0,
        kind: FaultKind::Error(5),
        forever: false,
        name_contains: None,
    });
    let failed = wal.append_entry("k", None, "doubtful", Durability::Disk);
    assert!(
        matches!(failed, Err(WalError::Io { operation: "sync the segment", .. })),
        "{failed:?}"
    );
    for _ in 0..3 {
        assert!(matches!(wal.append_entry("k", None, "x", true), Err(WalError::Poisoned { .. })));
        assert!(matches!(wal.append_entry("k", None, "x", false), Err(WalError::Poisoned { .. })));
        assert!(matches!(wal.sync_key("k"), Err(WalError::Poisoned { .. })));
        assert!(matches!(wal.sync(), Err(WalError::Poisoned { .. })));
    }
    wal.append_entry("other", None, "goes on", true).unwrap();
    assert!(matches!(wal.shutdown(), Err(WalError::Poisoned { .. })));
    let wal = Wal::open_in(Arc::new(sim.after_kill()), options().0.journal_bytes(0)).unwrap();
    assert!(!wal.recovery_report().clean);
    assert_eq!(contents(&wal, "k"), ["safe"], "the page that was lost is not believed");
    assert_eq!(contents(&wal, "other"), ["safe", "goes on"]);
    wal.append_entry("k", None, "works again", true).unwrap();
}

/// Beyond `max_open_files`, files are closed before they are synced. If the kernel fails to write one of these
/// out, the error may reach nobody.
#[test]
fn a_write_back_that_failed_unheard_is_not_taken_for_a_sync() {
    let frame = |sim: &SimDir| {
        let image = sim.image();
        let mut names = image.files().map(|(name, _)| name);
        names.find(|name| name.contains("first")).unwrap().to_owned()
    };
    for (journal_bytes, known, lose) in [
        (0, false, false),
        (0, false, true),
        (0, true, true),
        (4096, false, true),
        (4096, true, true),
    ] {
        let sim = SimDir::new(1);
        let few = options().0.max_open_files(1).journal_bytes(journal_bytes);
        let wal = Wal::open_in(Arc::new(sim.clone()), few).unwrap();
        if known {
            wal.append_entry("first", None, "durable", true).unwrap();
            wal.sync().unwrap();
            for _ in 0..20 {
                wal.append_entry("second", None, [7; 100], true).unwrap();
            }
        }
        wal.append_entry("first", None, "not yet", false).unwrap();
        for _ in 0..20 {
            wal.append_entry("second", None, [7; 100], false).unwrap();
        }
        assert_eq!((wal.stats().open_files, wal.health().unsynced_keys), (1, 2));
        if lose {
            sim.lose_unsynced(&frame(&sim));
        }
        let results = [
            wal.append_entry("first", None, "more", Durability::Disk).map(drop),
            wal.sync_key("first"),
            wal.sync(),
            wal.append_entry("first", None, "more", Durability::Os).map(drop),
        ];
        if lose {
            assert!(results.iter().all(Result::is_err), "{results:?}");
            assert!(matches!(results[1], Err(WalError::Poisoned { .. })), "{results:?}");
            assert_eq!(wal.health().poisoned.len(), 1);
        } else {
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
        wal.append_entry("second", None, "goes on", true).unwrap();
        drop(wal);
        let wal = Wal::open_in(Arc::new(sim.after_kill()), options().0).unwrap();
        let found = contents(&wal, "first");
        let kept: &[&str] = if known { &["durable"] } else { &[] };
        assert_eq!(found, if lose { kept } else { &["not yet", "more", "more"] });
        assert_eq!(contents(&wal, "second").last().unwrap(), "goes on");
    }
}

/// `META` knows the highest number that a removed key has used. Without it, or with one of its two slots
/// only, that may be lost: then numbers go on far behind.
#[test]
fn references_to_a_removed_key_stay_dead_when_meta_is_damaged() {
    let sim = SimDir::new(1);
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options().0).unwrap();
    let wal = open(&sim);
    let dead = wal.append_entry("k", None, "old", true).unwrap();
    wal.append_entry("other", None, "keeps the directory", true).unwrap();
    wal.remove_key("k").unwrap();
    wal.shutdown().unwrap();
    let meta = sim.image().get("META").unwrap().to_vec();
    for damaged in [Vec::new(), [&[0; 4096], &meta[4096..]].concat(), meta[..4096].to_vec()] {
        let mut image = sim.image();
        image.set("META", damaged);
        let wal = open(&SimDir::from_image(&image, 2));
        assert!(!wal.recovery_report().clean);
        let new = wal.append_entry("k", None, "new", true).unwrap();
        assert!(new.sequence_number > 1 << 16, "{new:?}");
        let refused = wal.read_entry(dead);
        assert!(matches!(refused, Err(WalError::InvalidRef | WalError::Expired)), "{refused:?}");
    }
}

/// So many keys are looked at by several threads.
#[test]
fn one_of_many_keys_that_cannot_be_compacted_holds_up_no_other() {
    for journal_bytes in [0, 256 << 10] {
        let sim = SimDir::new(1);
        let (options, clock) = options();
        let options = options.journal_bytes(journal_bytes);
        let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        let keys: Vec<String> = (0..100).map(|n| format!("key{n}")).collect();
        for key in &keys {
            wal.append_entry(key, None, "old", false).unwrap();
        }
        wal.sync().unwrap();
        clock.advance(Duration::from_secs(3600));
        fail(&sim, CallKind::Create, 0, FaultKind::Error(5), "key77-");
        let before = sim.trace_len();
        let report = wal.compact().unwrap();
        assert_eq!((report.keys, report.dropped_segments), (100, 99));
        let [failure] = report.failures.as_slice() else { panic!("{report:?}") };
        assert!(failure.path.to_string_lossy().contains("key77-"), "{failure:?}");
        let left: Vec<&String> =
            keys.iter().filter(|key| !contents(&wal, key).is_empty()).collect();
        assert_eq!(left, ["key77"]);

        let report = wal.compact().unwrap();
        assert_eq!((report.dropped_segments, report.failures.len()), (1, 0));
        let budget = CrashBudget { exhaustive_bits: 0, samples: 4, garbled: 0, seed: 7 };
        for at in (before..=sim.trace_len()).step_by(43) {
            sim.crash_images(at, &budget, &mut |image, choice| {
                let dir = SimDir::from_image(image, 2);
                let found = Wal::open_in(Arc::new(dir), options.clone()).unwrap();
                let recovered = found.recovery_report();
                assert!(recovered.damaged.is_empty(), "{choice}: {recovered:?}");
                let goes_on = |key: &String| found.next_index(key).unwrap() == 1;
                assert!(keys.iter().all(goes_on), "{choice}: numbers are used again");
            });
        }
    }
}

/// What lies before the mark that a shutdown leaves has been synced by then, and the mark says so.
#[test]
fn a_clean_shutdown_protects_a_key_until_it_is_used_again() {
    for journal_bytes in [0, 256 << 10] {
        let dir = tempfile::tempdir().unwrap();
        let options = options().0.journal_bytes(journal_bytes);
        let wal = Wal::new(dir.path(), options.clone()).unwrap();
        for number in 0..50 {
            wal.append_entry("cold", None, format!("entry {number}"), false).unwrap();
        }
        wal.shutdown().unwrap();
        let wal = Wal::new(dir.path(), options.clone()).unwrap();
        wal.append_entry("other", None, "durable", true).unwrap();
        drop(wal);
        let file = segment_files(dir.path()).into_iter().find(|file| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cold"))
        });
        let mut bytes = fs::read(file.as_ref().unwrap()).unwrap();
        let at = bytes.windows(8).position(|window| window == b"entry 20").unwrap();
        bytes[at] ^= 1;
        fs::write(file.unwrap(), bytes).unwrap();

        let wal = Wal::new(dir.path(), options).unwrap();
        let report = wal.recovery_report();
        assert!(!report.clean && report.torn.is_empty(), "{report:?}");
        let whole = wal.enumerate_records("cold").unwrap().flatten().count();
        assert_eq!((whole, wal.next_index("cold").unwrap()), (49, 50), "journal {journal_bytes}");
    }
}

/// A seal is written before its segment is synced, so that it proves nothing: if no successor could be created, or a power
/// cut took it, a shutdown makes one.
#[test]
fn a_clean_shutdown_protects_a_key_that_ends_with_a_seal() {
    for (journal_bytes, full) in [(0, true), (0, false), (65_536, true), (65_536, false)] {
        let sim = SimDir::new(1);
        let options = direct().max_segment_bytes(4_096).journal_bytes(journal_bytes);
        let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        let wal = open(&sim);
        for number in 1..3 {
            wal.append_entry("k", None, vec![number; 1_000], false).unwrap();
        }
        if full {
            fail(&sim, CallKind::Create, 0, FaultKind::Error(28), "k-");
        }
        assert_eq!(wal.append_entry("k", None, [3; 3_000], false).is_err(), full);
        let sim = if full { sim } else { SimDir::from_image(&sim.durable_image(), 2) };
        let wal = if full { wal } else { open(&sim) };
        assert_eq!(contents(&wal, "k").len(), 2);
        wal.shutdown().unwrap();
        let wal = open(&sim);
        assert!(wal.recovery_report().clean);
        drop(wal);
        let mut image = sim.after_kill().image();
        let mut bytes = image.get(SEGMENT).unwrap().to_vec();
        bytes[900] ^= 1;
        image.set(SEGMENT, bytes);
        let wal = open(&SimDir::from_image(&image, 4));
        let report = wal.recovery_report();
        assert!(!report.clean && report.torn.is_empty(), "{report:?}");
        let whole = wal.enumerate_records("k").unwrap().flatten().count();
        assert_eq!((whole, wal.next_index("k").unwrap()), (1, 2), "journal {journal_bytes}");
    }
}
