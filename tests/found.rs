//! Bugs that were found once, each as a test that failed then.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, CrashChoice, Fault, FaultKind, Image, SimDir};
use keywal::fs::{Dir, File, Lock, OpenMode};
use keywal::{ClockTrouble, EntryRef, ManualClock, Result, Wal, WalError, WalOptions};

const NOW: u64 = 1_700_000_000_000;
/// Two keys with one FNV-1a hash.
const TWINS: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
/// Where the first frame of a segment of a key with one letter begins, and what a frame adds to its
/// payload.
const FIRST_FRAME: usize = 645;
const FRAME: usize = 32;
const EIO: FaultKind = FaultKind::Error(5);
const ENOSPC: i32 = 28;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> WalOptions {
    WalOptions::with_retention(Duration::from_secs(100)).clock(Arc::new(ManualClock::new(NOW)))
}

/// With room for one entry of 300 bytes in a segment.
fn small_segments() -> WalOptions {
    options().max_segment_bytes(1_024).max_entry_bytes(400)
}

fn open(sim: &SimDir) -> Wal {
    Wal::open_in(Arc::new(sim.clone()), options()).unwrap()
}

fn open_small(sim: &SimDir) -> Wal {
    Wal::open_in(Arc::new(sim.clone()), small_segments()).unwrap()
}

/// Fails one call, after `nth` that go well.
fn fail(sim: &SimDir, call: CallKind, nth: u64, kind: FaultKind, name: &str) {
    sim.inject(Fault { call, nth, kind, forever: false, name_contains: Some(name.to_owned()) });
}

fn contents(wal: &Wal, key: &str) -> Vec<Bytes> {
    wal.enumerate_records(key).unwrap().collect::<Result<_>>().unwrap()
}

fn segment_of(image: &Image, key: &str) -> String {
    let start = format!("{key}-");
    image.files().map(|(name, _)| name).find(|name| name.starts_with(&start)).unwrap().to_owned()
}

fn assert_invalid(wal: &Wal, reference: EntryRef) {
    let result = wal.read_entry_at(reference);
    assert!(matches!(result, Err(WalError::InvalidRef)), "{reference:?}: {result:?}");
}

fn assert_expired(wal: &Wal, reference: EntryRef) {
    let result = wal.read_entry_at(reference);
    assert!(matches!(result, Err(WalError::Expired)), "{reference:?}: {result:?}");
}

// ---- a reference never meets another entry ----

/// The next entry took the place of the one whose sync had failed.
#[test]
fn a_reference_to_what_a_failed_sync_lost_meets_nothing_else() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    let lost = wal.append_entry("k", None, "one", false).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "k-");
    assert!(matches!(wal.sync(), Err(WalError::Io { operation: "sync the segment", .. })));
    drop(wal);
    let wal = open(&sim.after_kill());
    assert_invalid(&wal, lost);
    let next = wal.append_entry("k", None, "two", true).unwrap();
    assert_invalid(&wal, lost);
    assert_eq!(wal.read_entry_at(next).unwrap(), "two");
    assert_eq!(contents(&wal, "k"), ["zero", "two"]);
}

/// The tombstone was there, the floor below which numbers are used was not.
#[test]
fn a_reference_into_a_key_whose_removal_was_cut_off_stays_expired() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let removed = wal.append_entry("k", None, "secret", true).unwrap();
    fail(&sim, CallKind::Write, 0, EIO, "META");
    let result = wal.remove_key("k");
    assert!(matches!(result, Err(WalError::Io { .. })), "{result:?}");
    drop(wal);
    let wal = open(&sim.after_kill());
    assert_expired(&wal, removed);
    let next = wal.append_entry("k", None, "newer!", true).unwrap();
    assert_expired(&wal, removed);
    assert_eq!(wal.read_entry_at(next).unwrap(), "newer!");
    assert_eq!(contents(&wal, "k"), ["newer!"]);
}

/// `META` was read through the page cache, which showed what a failed sync had left there.
#[test]
fn a_mark_of_an_unclean_stop_counts_only_once_it_is_on_disk() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    drop(wal);
    let sim = SimDir::from_image(&sim.durable_image(), 2);
    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    let refused = Wal::open_in(Arc::new(sim.clone()), options());
    assert!(matches!(refused, Err(WalError::Io { .. })), "{refused:?}");
    let wal = open(&sim);
    let lost = wal.append_entry("k", None, "lost", false).unwrap();
    drop(wal);
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert_invalid(&wal, lost);
    wal.append_entry("k", None, "new!", true).unwrap();
    assert_invalid(&wal, lost);
    assert_eq!(contents(&wal, "k"), ["zero", "new!"]);
}

/// The same with the floor: it was in the page cache only when the tombstone was unlinked.
#[test]
fn a_floor_counts_only_once_it_is_on_disk() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    let old: Vec<EntryRef> =
        (0..10).map(|n| wal.append_entry("k", None, [n; 300], true).unwrap()).collect();
    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    let result = wal.remove_key("k");
    assert!(matches!(result, Err(WalError::Io { .. })), "{result:?}");
    drop(wal);
    // The next process finishes the removal.
    let sim = sim.after_kill();
    let wal = open_small(&sim);
    assert_eq!(wal.active_segment_count(), 0);
    drop(wal);
    // Everything that was ever written has reached the disk, but for what the sync lost.
    let all = CrashChoice::Sample { at: sim.trace_len(), sample: 1, seed: 0 };
    let wal = open_small(&SimDir::from_image(&sim.crash_image(sim.trace_len(), &all), 3));
    for n in 100..110 {
        wal.append_entry("k", None, [n; 300], true).unwrap();
    }
    for reference in old {
        assert_expired(&wal, reference);
    }
    assert_eq!(contents(&wal, "k").len(), 10);
}

/// What was left was a log whose floor knew nothing of the keys that were gone.
#[test]
fn a_reference_into_a_log_whose_removal_was_cut_off_stays_expired() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let gone = wal.append_entry("k", None, "old", true).unwrap();
    wal.append_entry("z", None, "kept", true).unwrap();
    fail(&sim, CallKind::Remove, 0, EIO, "z-");
    let result = wal.destroy();
    assert!(matches!(result, Err(WalError::Io { operation: "remove the file", .. })), "{result:?}");
    let wal = open(&sim.after_kill());
    assert_eq!(contents(&wal, "z"), ["kept"]);
    wal.append_entry("k", None, "new", true).unwrap();
    assert_expired(&wal, gone);
    assert_eq!(contents(&wal, "k"), ["new"]);
}

mod forked {
    use super::{Path, PathBuf, Wal, WalError, WalOptions, fs};

    /// Where a segment's header has its random number and that of its directory.
    const NUMBERS: [std::ops::Range<usize>; 2] = [16..24, 24..32];

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn alarm(seconds: u32) -> u32;
        fn _exit(code: i32) -> !;
    }

    fn write_log(dir: &Path) -> bool {
        let wal = Wal::new(dir, WalOptions::default());
        wal.is_ok_and(|wal| {
            wal.append_entry("k", None, "x", true).is_ok() && wal.shutdown().is_ok()
        })
    }

    fn segment(dir: &Path) -> PathBuf {
        let mut paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        paths.find(|path| path.extension().is_some()).unwrap()
    }

    /// They came from `RandomState`, which every thread seeds once: children of one parent drew the
    /// same, and a segment of one passed for the other's.
    #[test]
    fn children_of_one_process_draw_different_numbers() {
        let tree = tempfile::tempdir().unwrap();
        std::hint::black_box(std::collections::HashMap::<u8, u8>::new());
        let dirs = ["a", "b"].map(|name| tree.path().join(name));
        for dir in &dirs {
            // SAFETY: the child takes no lock that another thread may have held but that of the heap,
            // which `fork` takes care of, does not unwind, and leaves with `_exit`.
            let status = unsafe {
                match fork() {
                    0 => {
                        alarm(10);
                        _exit(i32::from(!write_log(dir)));
                    }
                    child => {
                        let mut status = -1;
                        assert_eq!(waitpid(child, &raw mut status, 0), child);
                        status
                    }
                }
            };
            assert_eq!(status, 0);
        }
        let [a, b] = dirs.each_ref().map(|dir| segment(dir));
        let (first, second) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
        for number in NUMBERS {
            assert_ne!(first[number.clone()], second[number]);
        }
        fs::copy(&a, &b).unwrap();
        let wal = Wal::new(&dirs[1], WalOptions::default()).unwrap();
        let swapped = wal.enumerate_records("k").map(Iterator::collect::<Vec<_>>);
        assert!(
            matches!(&swapped, Err(WalError::Corrupted { path, .. }) if *path == b),
            "{swapped:?}"
        );
    }
}

// ---- what was refused does not come back, what was acknowledged stays ----

/// The batch was written in part, cut off, and its sectors could come back with the length that the
/// next entries gave the file.
#[test]
fn a_batch_that_was_refused_never_comes_back() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, vec![b'0'; 1_024 - FIRST_FRAME - FRAME], true).unwrap();
    assert_eq!(wal.segments("k").unwrap()[0].bytes, 1_024);
    // Frames of one sector each.
    let frame = |letter| Bytes::from(vec![letter; 512 - FRAME]);
    fail(&sim, CallKind::Write, 0, FaultKind::ShortThenError { bytes: 512, error: ENOSPC }, "k-");
    let refused = wal.append_batch("k", [(None, frame(b'X')), (None, frame(b'Y'))], false);
    assert!(matches!(refused, Err(WalError::StorageFull { .. })), "{refused:?}");
    wal.append_entry("k", None, frame(b'1'), false).unwrap();
    wal.append_entry("k", None, frame(b'2'), false).unwrap();
    let budget = CrashBudget { exhaustive_bits: 10, ..CrashBudget::default() };
    let units = sim.crash_units(sim.trace_len());
    let visits = sim.crash_images(sim.trace_len(), &budget, &mut |image, choice| {
        let wal = open(&SimDir::from_image(image, 9));
        let letters: Vec<u8> = contents(&wal, "k").iter().map(|content| content[0]).collect();
        let letters = String::from_utf8(letters).unwrap();
        assert!(["0", "01", "012"].contains(&&*letters), "{choice}: {letters}");
    });
    assert_eq!(visits, 1 << units);
}

/// The error of writing the closing mark left out the sync behind it.
#[test]
fn a_shutdown_without_room_for_a_mark_syncs() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    wal.append_entry("k", None, "one", false).unwrap();
    fail(&sim, CallKind::Write, 0, FaultKind::Error(ENOSPC), "k-");
    let result = wal.shutdown();
    assert!(matches!(result, Err(WalError::StorageFull { .. })), "{result:?}");
    drop(wal);
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert_eq!(contents(&wal, "k"), ["zero", "one"]);
}

/// A file with a damaged header was taken for an interrupted creation, and those were deleted.
#[test]
fn a_segment_with_a_damaged_header_is_never_deleted() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    for n in 0..100 {
        wal.append_entry("k", None, format!("durable {n}"), n == 99).unwrap();
    }
    drop(wal);
    let mut image = sim.durable_image();
    let name = segment_of(&image, "k");
    let mut bytes = image.remove(&name).unwrap();
    // A bit in the header, and one in its copy.
    bytes[8] ^= 1;
    bytes[520] ^= 1;
    image.set(&name, bytes.clone());
    let sim = SimDir::from_image(&image, 2);
    let wal = open(&sim);
    assert_eq!(wal.recovery_report().ignored.len(), 1);
    wal.append_entry("k", None, "new", true).unwrap();
    wal.shutdown().unwrap();
    drop(wal);
    let sim = sim.after_kill();
    let wal = open(&sim);
    assert_eq!(contents(&wal, "k"), ["new"]);
    for index in [0, 1] {
        wal.truncate_before("k", index).unwrap();
        assert_eq!(sim.image().get(&name), Some(&*bytes), "truncated before {index}");
    }
}

/// One that was below a fixed minute was let through, whatever the retention.
#[test]
fn a_jump_of_the_clock_beyond_the_retention_drops_nothing() {
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(10)).clock(clock.clone());
    let wal = Wal::open_in(Arc::new(SimDir::new(1)), options).unwrap();
    wal.append_entry("k", None, "x", true).unwrap();
    clock.set(NOW + 59_000);
    let report = wal.compact().unwrap();
    assert_eq!((report.refused, report.dropped_entries), (Some(ClockTrouble::JumpedAhead), 0));
    assert_eq!(contents(&wal, "k"), ["x"]);
}

/// Each was measured from the one before it.
#[test]
fn small_jumps_of_the_clock_do_not_add_up() {
    let sim = SimDir::new(1);
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(1_000)).clock(clock.clone());
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    wal.append_entry("k", None, "x", true).unwrap();
    for n in 1..=120 {
        clock.set(NOW + n * 10_000);
        let report = wal.compact().unwrap();
        let refused = (n > 1).then_some(ClockTrouble::JumpedAhead);
        assert_eq!((report.refused, report.dropped_entries), (refused, 0), "jump {n}");
    }
    drop(wal);
    let wal = Wal::open_in(Arc::new(sim), options).unwrap();
    assert_eq!(wal.compact().unwrap().dropped_entries, 1, "reopening accepts the time");
}

// ---- what is there is readable ----

/// The search from the middle landed in the long entry behind the range, and ended it.
#[test]
fn a_range_before_one_long_entry_is_whole_backwards() {
    let wal = open(&SimDir::new(1));
    let first = wal.append_entry("k", None, vec![0; 200_000], false).unwrap().offset;
    let second = wal.append_entry("k", None, vec![1; 100], false).unwrap().offset;
    // So long that the middle of the segment is 10 bytes behind the start of the second.
    let end = 2 * (second + 10) - first;
    let long = usize::try_from(end - second).unwrap() - 100 - 2 * FRAME;
    wal.append_entry("k", None, vec![2; long], false).unwrap();
    assert_eq!(wal.segments("k").unwrap()[0].bytes, end);
    let range = || wal.entries("k").unwrap().range(..2).map(|entry| entry.unwrap().index);
    assert_eq!(range().collect::<Vec<_>>(), [0, 1]);
    let backward = wal.entries("k").unwrap().range(..2).rev().map(|entry| entry.unwrap().index);
    assert_eq!(backward.collect::<Vec<_>>(), [1, 0]);
}

/// Any range gives the same both ways, and what damage takes is an error in its place.
#[test]
fn every_range_is_the_same_backwards() {
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below).unwrap()
    };
    for round in 0..8 {
        let sim = SimDir::new(round);
        let wal = open(&sim);
        let entries = 3 + u64::from(round > 3) * 2;
        for _ in 0..entries {
            let longest = [50, 5_000, 70_000, 300_000][random(4)];
            wal.append_entry("k", None, vec![0; random(longest)], false).unwrap();
        }
        wal.shutdown().unwrap();
        let mut image = sim.image();
        if round % 2 == 1 {
            let name = segment_of(&image, "k");
            let mut bytes = image.remove(&name).unwrap();
            let room = u64::try_from(bytes.len() - FIRST_FRAME - 50).unwrap();
            bytes[FIRST_FRAME + random(room)] ^= 1;
            image.set(&name, bytes);
        }
        let wal = open(&SimDir::from_image(&image, 1));
        for (from, to) in (0..=entries).flat_map(|to| (0..to).map(move |from| (from, to))) {
            let range = || wal.entries("k").unwrap().range(from..to);
            let index = |entry: Result<keywal::Entry>| entry.ok().map(|entry| entry.index);
            let forward: Vec<_> = range().map(index).collect();
            let mut backward: Vec<_> = range().rev().map(index).collect();
            backward.reverse();
            assert_eq!(forward, backward, "round {round}: {from}..{to} of {entries}");
            let whole: Vec<_> = (from..to).map(Some).collect();
            assert!(round % 2 == 1 || forward == whole, "round {round}: {forward:?}");
        }
    }
}

/// Recovery passed the empty file over; after a clean restart it was damage.
#[test]
fn a_key_is_readable_after_a_cut_off_creation_and_a_clean_restart() {
    // Of the next segment, and of the first.
    for (number, kept) in [("-0002.log", &["durable"][..]), ("-0001.log", &[])] {
        let sim = SimDir::new(1);
        let wal = open(&sim);
        wal.append_entry("k", None, "durable", !kept.is_empty()).unwrap();
        let name = segment_of(&sim.image(), "k").replace("-0001.log", number);
        drop(wal);
        // The power cut left the name and nothing else.
        let mut image = sim.durable_image();
        image.set(&name, []);
        let sim = SimDir::from_image(&image, 2);
        let wal = open(&sim);
        assert_eq!(contents(&wal, "k"), kept);
        wal.shutdown().unwrap();
        drop(wal);
        let wal = open(&sim.after_kill());
        assert!(wal.recovery_report().clean);
        assert_eq!(contents(&wal, "k"), kept);
        wal.append_entry("k", None, "more", true).unwrap();
        assert_eq!(contents(&wal, "k"), [kept, &["more"]].concat());
    }
}

/// The same, wherever the power is cut.
#[test]
fn a_clean_restart_after_any_crash_changes_nothing() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    wal.append_entry("k", None, [1; 300], true).unwrap();
    wal.append_entry("k", None, [2; 300], false).unwrap();
    assert_eq!(wal.segments("k").unwrap().len(), 2);
    let budget = CrashBudget { exhaustive_bits: 5, samples: 20, ..CrashBudget::default() };
    for at in 0..=sim.trace_len() {
        sim.crash_images(at, &budget, &mut |image, choice| {
            let sim = SimDir::from_image(image, 5);
            let wal = open_small(&sim);
            let before = contents(&wal, "k");
            wal.shutdown().unwrap();
            let wal = open_small(&sim);
            let after = wal.enumerate_records("k").and_then(Iterator::collect::<Result<Vec<_>>>);
            assert_eq!(after.ok().as_ref(), Some(&before), "{choice}");
            wal.append_entry("k", None, "more", true).unwrap();
            assert_eq!(contents(&wal, "k").len(), before.len() + 1, "{choice}");
        });
    }
}

/// An error of opening the file counted as no file, and another label got the key.
#[test]
fn an_error_of_telling_labels_apart_is_one_of_opening() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "durable", true).unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.durable_image();
    let name = segment_of(&image, "k");
    image.set(&name.replace("k-", "a-"), []);
    let sim = SimDir::from_image(&image, 2);
    fail(&sim, CallKind::Open, 0, FaultKind::Error(24), &name);
    let refused = Wal::open_in(Arc::new(sim.clone()), options());
    assert!(
        matches!(refused, Err(WalError::Io { operation: "open the segment", .. })),
        "{refused:?}"
    );
    assert_eq!(contents(&open(&sim), "k"), ["durable"]);
}

/// The key could be neither read nor appended to.
#[test]
fn a_directory_with_the_name_of_a_segment_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    wal.append_entry("k", None, "x", true).unwrap();
    drop(wal);
    let planted = dir.path().join("k-af63e64c8601fd8a-0007.log");
    fs::create_dir(&planted).unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    assert_eq!(contents(&wal, "k"), ["x"]);
    wal.append_entry("k", None, "y", true).unwrap();
    assert_eq!(contents(&wal, "k"), ["x", "y"]);
    assert!(planted.is_dir());
}

/// The highest number of any name was the floor of all keys, for good.
#[test]
fn a_file_with_a_huge_number_uses_up_nobodys_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let reopen = || Wal::new(dir.path(), WalOptions::default()).unwrap();
    let wal = reopen();
    wal.append_entry("k", None, "before", true).unwrap();
    wal.shutdown().unwrap();
    let planted = dir.path().join("x-0000000000000000-4294967294.log");
    fs::write(&planted, "").unwrap();
    let wal = reopen();
    wal.append_entry("k", None, "beside it", true).unwrap();
    drop(wal);
    fs::remove_file(planted).unwrap();
    let wal = reopen();
    wal.append_entry("k", None, "after", true).unwrap();
    wal.append_entry("other", None, "first", true).unwrap();
    assert_eq!(contents(&wal, "k"), ["before", "beside it", "after"]);
    assert_eq!(contents(&wal, "other"), ["first"]);
}

// ---- keys with one hash ----

/// The append waited for ever for a removal that had already failed.
#[test]
fn a_key_whose_removal_failed_does_not_hang_its_twin() {
    let sim = SimDir::new(1);
    let wal = Arc::new(open(&sim));
    wal.append_entry(TWINS[0], None, "a", true).unwrap();
    // The segment goes, its tombstone does not.
    fail(&sim, CallKind::Remove, 1, EIO, ".log");
    let result = wal.remove_key(TWINS[0]);
    assert!(matches!(result, Err(WalError::Io { .. })), "{result:?}");
    let (sender, receiver) = mpsc::channel();
    let other = Arc::clone(&wal);
    thread::spawn(move || sender.send(other.append_entry(TWINS[1], None, "b", true)));
    receiver.recv_timeout(PATIENCE).expect("the append returns").unwrap();
    assert_eq!(contents(&wal, TWINS[1]), ["b"]);
    assert!(contents(&wal, TWINS[0]).is_empty());
}

/// The tombstone of the first removal stayed beside the new segments, and was taken for one of them.
#[test]
fn a_key_that_was_removed_and_used_again_can_be_truncated() {
    for [first, second] in [TWINS, [TWINS[1], TWINS[0]]] {
        let sim = SimDir::new(1);
        let wal = open(&sim);
        wal.append_entry(first, None, "old", true).unwrap();
        wal.append_entry(second, None, "displaced", true).unwrap();
        wal.remove_key(first).unwrap();
        wal.append_entry(first, None, "again", true).unwrap();
        assert_eq!(wal.truncate_before(first, 1).unwrap().dropped_entries, 1);
        wal.shutdown().unwrap();
        let wal = open(&sim);
        assert!(contents(&wal, first).is_empty());
        assert_eq!(wal.next_index(first).unwrap(), 1);
        assert_eq!(contents(&wal, second), ["displaced"]);
    }
}

// ---- two threads ----

/// A simulated directory that holds up the next `open` of a file until it is told to go on.
#[derive(Debug)]
struct GatedDir {
    sim: SimDir,
    gate: Mutex<Option<Gate>>,
}

#[derive(Debug)]
struct Gate {
    name_starts: String,
    reached: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Dir for GatedDir {
    fn path(&self) -> &Path {
        Dir::path(&self.sim)
    }

    fn lock(&self) -> io::Result<Box<dyn Lock>> {
        self.sim.lock()
    }

    fn list(&self, each: &mut dyn FnMut(&OsStr)) -> io::Result<()> {
        self.sim.list(each)
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let gate = self.gate.lock().unwrap().take_if(|gate| name.starts_with(&gate.name_starts));
        if let Some(gate) = gate {
            gate.reached.send(()).and_then(|()| Ok(gate.go_on.recv())).unwrap().unwrap();
        }
        Dir::open(&self.sim, name, mode)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.sim.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        Dir::sync(&self.sim)
    }

    fn random(&self) -> u64 {
        self.sim.random()
    }
}

/// A `compact` on its way wrote `META` after the directory had been released, over that of the next
/// owner, whose crash then looked like a clean stop.
#[test]
fn a_shutdown_waits_for_a_compact() {
    // In the first shard and in the last: `compact` comes to them in this order.
    let (first, second) = ("e", "p");
    let clock = Arc::new(ManualClock::new(NOW));
    let options = options().clock(clock.clone());
    let sim = SimDir::new(1);
    let reopen = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    let wal = reopen(&sim);
    wal.append_entry(first, None, "old", true).unwrap();
    wal.append_entry(second, None, "old", true).unwrap();
    wal.shutdown().unwrap();
    clock.advance(Duration::from_secs(1_000));

    let dir = Arc::new(GatedDir { sim: sim.clone(), gate: Mutex::new(None) });
    let wal = Arc::new(Wal::open_in(dir.clone(), options.clone().max_open_files(1)).unwrap());
    // The file of the second is closed when `compact` comes to it.
    for key in [second, first] {
        assert_eq!(contents(&wal, key), ["old"]);
    }
    let (reached, is_reached) = mpsc::channel();
    let (let_go, go_on) = mpsc::channel();
    *dir.gate.lock().unwrap() = Some(Gate { name_starts: format!("{second}-"), reached, go_on });
    let other = Arc::clone(&wal);
    let compact = thread::spawn(move || other.compact());
    is_reached.recv_timeout(PATIENCE).expect("compact opens the second key's file");
    let (sender, shut) = mpsc::channel();
    let other = Arc::clone(&wal);
    thread::spawn(move || sender.send(other.shutdown()));
    while !matches!(wal.sync(), Err(WalError::Closed)) {
        thread::yield_now();
    }
    let early = shut.recv_timeout(Duration::from_millis(100));
    assert!(matches!(early, Err(mpsc::RecvTimeoutError::Timeout)), "{early:?}");
    let_go.send(()).unwrap();
    assert_eq!(compact.join().unwrap().unwrap().dropped_segments, 0);
    shut.recv_timeout(PATIENCE).expect("shutdown returns").unwrap();

    let wal = reopen(&sim);
    assert!(wal.recovery_report().clean);
    wal.append_entry(first, None, "by the next owner", true).unwrap();
    drop(wal);
    let wal = reopen(&sim.after_kill());
    assert!(!wal.recovery_report().clean);
    assert_eq!(contents(&wal, first), ["old", "by the next owner"]);
}
