//! Bugs that a review found, each as a test that failed then: combinations of damage, full disks, failed
//! calls, and keys with one hash.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, Image, SimDir};
use keywal::{ClockTrouble, EntryRef, ManualClock, Result, Wal, WalError, WalOptions};

use common::hooked::{DIRECTORY, HookedDir};
use common::logs::{NOW, SEGMENT, TWINS, contents, fail, open, open_small, options};

mod common;

const ENOSPC: FaultKind = FaultKind::Error(28);

/// The n-th segment of `k`.
fn seg(n: u32) -> String {
    format!("k-af63e64c8601fd8a-{n:04}.log")
}

/// What can be read, and the errors on the way.
fn all(wal: &Wal, key: &str) -> Vec<String> {
    match wal.entries(key) {
        Err(e) => vec![format!("E {e}")],
        Ok(entries) => entries
            .map(|e| match e {
                Ok(e) => format!(
                    "{}:{}",
                    e.index,
                    String::from_utf8_lossy(&e.content[..e.content.len().min(12)])
                ),
                Err(e) => format!("E {e}"),
            })
            .collect(),
    }
}

/// Takes the header and its copy away.
fn headless(image: &mut Image, name: &str) {
    let mut bytes = image.get(name).unwrap().to_vec();
    let n = bytes.len().min(1024);
    bytes[..n].fill(0);
    image.set(name, bytes);
}

fn boot(image: &Image) -> SimDir {
    SimDir::from_image(image, 77)
}

/// A seal that failed cut off the closing mark, and a shutdown that said `Ok` left it so: the next open
/// found damage.
#[test]
fn a_failed_seal_before_a_shutdown_is_no_damage() {
    for how in ["append", "compact", "truncate"] {
        let sim = SimDir::new(1);
        let wal = open_small(&sim);
        wal.append_entry("k", None, [1; 3_000], true).unwrap();
        wal.shutdown().unwrap();
        let clock = Arc::new(ManualClock::new(NOW));
        let options =
            options().max_segment_bytes(4_096).max_entry_bytes(4_000).clock(clock.clone());
        let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
        assert!(wal.recovery_report().clean);
        fail(&sim, CallKind::Write, 0, ENOSPC, "k-");
        match how {
            "append" => drop(wal.append_entry("k", None, [2; 3_000], true).unwrap_err()),
            "compact" => {
                clock.advance(Duration::from_secs(1_000));
                assert_eq!(wal.compact().unwrap().failures.len(), 1);
            }
            _ => drop(wal.truncate_before("k", 9).unwrap_err()),
        }
        sim.clear_faults();
        wal.shutdown().unwrap();
        let wal = open_small(&sim);
        let found: Vec<_> = wal.entries("k").unwrap().collect();
        assert!(found.iter().all(Result::is_ok), "{how}: false damage {found:?}");
        wal.append_entry("k", None, "on", true).unwrap();
    }
}

/// The same on a full disk.
#[test]
fn a_seal_without_space_before_a_shutdown_is_no_damage() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    wal.shutdown().unwrap();
    let wal = open_small(&sim);
    sim.set_capacity(Some(3_000));
    let full = wal.append_entry("k", None, [2; 3_000], true);
    assert!(matches!(full, Err(WalError::StorageFull { .. })), "{full:?}");
    sim.set_capacity(None);
    wal.shutdown().unwrap();
    let wal = open_small(&sim);
    let found: Vec<_> = wal.entries("k").unwrap().collect();
    assert!(found.iter().all(Result::is_ok), "false damage {found:?}");
}

/// A directory whose first segment of `k` ends in half a batch that a power cut tore (reported as
/// torn), followed by a second segment, closed cleanly.
fn torn_then_second(third: bool) -> (Image, Vec<Bytes>) {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    let start = sim.image().get(SEGMENT).unwrap().len();
    wal.append_batch("k", [(None, Bytes::from("TORN-1")), (None, Bytes::from("TORN-2"))], false)
        .unwrap();
    // Power cut: the first of the two frames arrives, the second does not.
    let mut image = sim.image();
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    bytes.truncate(start + 38 + 10);
    image.set(SEGMENT, bytes);
    let sim = boot(&image);
    let wal = open_small(&sim);
    assert_eq!(wal.recovery_report().torn.len(), 1, "{:?}", wal.recovery_report());
    assert_eq!(contents(&wal, "k"), ["zero"]);
    wal.append_entry("k", None, "real-one", true).unwrap();
    if third {
        wal.append_entry("k", None, vec![b'x'; 3_900], true).unwrap();
    }
    let real = contents(&wal, "k");
    wal.shutdown().unwrap();
    (sim.image(), real)
}

/// Without its successor, a segment that a power cut had torn was read to the last whole frame.
#[test]
fn a_lost_header_does_not_revive_a_torn_batch() {
    for in_the_middle in [false, true] {
        let (mut image, _) = torn_then_second(in_the_middle);
        let names = image.files().map(|(name, _)| name.to_owned());
        let second = names.filter(|name| name.starts_with("k-")).nth(1).unwrap();
        headless(&mut image, &second);
        let wal = open_small(&boot(&image));
        let torn = matches!(wal.get("k", 1), Ok(Some(entry)) if entry.content == "TORN-1");
        assert!(!torn, "half a batch, in place of another entry");
    }
}

/// The place of a key whose files are damaged was given up with a failed append, and its twin not found
/// any more.
#[test]
fn a_failed_append_does_not_hide_the_twin() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry(TWINS[0], None, "first", true).unwrap();
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    let mut image = sim.durable_image();
    let name = image.files().map(|f| f.0.to_owned()).find(|n| n.contains("8yn0")).unwrap();
    headless(&mut image, &name);
    let sim = boot(&image);
    let wal = open(&sim);
    assert_eq!(contents(&wal, TWINS[1]), ["second"]);
    fail(&sim, CallKind::Create, 0, ENOSPC, "8yn0");
    wal.append_entry(TWINS[0], None, "x", true).unwrap_err();
    wal.append_entry(TWINS[1], None, "third", true).unwrap();
    drop(wal);
    let wal = open(&sim.after_kill());
    assert_eq!(contents(&wal, TWINS[1]), ["second", "third"]);
}

/// After a clean shutdown, lost headers were forgiven in all keys once one was known.
#[test]
fn damage_is_not_forgotten_because_another_key_was_removed() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    for n in 0..2 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
        wal.append_entry("other", None, [n; 3_000], true).unwrap();
    }
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let newest: Vec<_> =
        image.files().map(|f| f.0.to_owned()).filter(|n| n.ends_with("0002.log")).collect();
    assert_eq!(newest.len(), 2);
    for name in &newest {
        headless(&mut image, name);
    }
    let sim = boot(&image);
    let wal = open_small(&sim);
    assert!(wal.entries("k").unwrap().any(|e| e.is_err()), "reported");
    wal.remove_key("other").unwrap();
    wal.shutdown().unwrap();
    let wal = open_small(&sim);
    assert!(wal.recovery_report().clean);
    let found: Vec<_> = wal.entries("k").unwrap().map(|e| e.map(|e| e.index)).collect();
    assert!(found.iter().any(Result::is_err), "an acknowledged entry is silently gone: {found:?}");
}

/// The same, after one creation that a crash had cut off.
#[test]
fn damage_is_not_forgotten_because_of_an_old_cut_off_creation() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    wal.append_entry("other", None, "x", false).unwrap();
    let mut image = sim.image();
    let other = image.files().map(|f| f.0.to_owned()).find(|n| n.starts_with("other")).unwrap();
    image.set(&other, []); // a power cut: the name is there, the data is not
    let sim = boot(&image);
    let wal = open_small(&sim);
    for n in 0..2 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
    }
    wal.shutdown().unwrap();
    let wal = open_small(&sim);
    assert!(wal.recovery_report().clean);
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let newest =
        image.files().map(|f| f.0.to_owned()).filter(|n| n.starts_with("k-")).last().unwrap();
    image.set(&newest, []); // cut to nothing at rest
    let wal = open_small(&boot(&image));
    let found: Vec<_> = wal.entries("k").unwrap().map(|e| e.map(|e| e.index)).collect();
    assert!(found.iter().any(Result::is_err), "silently gone: {found:?}");
}

/// A key that could not be told hid those behind it.
#[test]
fn damage_to_a_key_does_not_cost_its_twin() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry(TWINS[0], None, "first", true).unwrap();
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let name = image.files().map(|f| f.0.to_owned()).find(|n| n.contains("8yn0")).unwrap();
    headless(&mut image, &name);
    let wal = open(&boot(&image));
    assert_eq!(all(&wal, TWINS[1]), ["0:second"]);
}

/// A header inside a long key was taken for the copy.
#[test]
fn a_header_inside_a_key_is_not_the_copy() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("bait", None, "x", true).unwrap();
    let image = sim.image();
    let bait = image.files().find(|f| f.0.starts_with("bait")).unwrap().1;
    let header_bytes = u32::from_le_bytes(bait[12..16].try_into().unwrap()) as usize;
    // The key starts at 128: put the header at 512 of the file.
    let mut key = vec![b'p'; 512 - 128];
    key.extend_from_slice(&bait[..header_bytes]);
    key.extend(vec![b'q'; 600]);
    wal.append_entry(&key, None, "precious", true).unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let name = image.files().map(|f| f.0.to_owned()).find(|n| n.starts_with("pppp")).unwrap();
    let mut bytes = image.get(&name).unwrap().to_vec();
    bytes[..512].fill(0);
    image.set(&name, bytes);
    let wal = open(&boot(&image));
    let read = wal.enumerate_records(&key).map(Iterator::collect::<Vec<_>>);
    assert_eq!(read.unwrap().remove(0).unwrap(), "precious");
}

/// The next index went back when the newest segment was lost.
#[test]
fn the_next_index_is_unknown_when_the_newest_segment_is_lost() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    for n in 0..2 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
    }
    wal.shutdown().unwrap();
    let mut image = sim.image();
    headless(&mut image, &seg(2));
    let wal = open_small(&boot(&image));
    assert!(wal.next_index("k").map_or(true, |n| n == 2), "next_index goes back");
}

/// Segment of `k` with entries 0 and 1 durable, then what `more` appends with `Os`; where frames start.
fn two_and(more: impl Fn(&Wal)) -> (Image, usize, usize) {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    let one = sim.image().get(SEGMENT).unwrap().len();
    wal.append_entry("k", None, "one!", true).unwrap();
    let two = sim.image().get(SEGMENT).unwrap().len();
    more(&wal);
    (sim.image(), one, two)
}

/// A damaged entry right before a torn one was passed over, and its index given again.
#[test]
fn damage_right_before_a_torn_frame_is_noticed() {
    let (mut image, one, two) =
        two_and(|wal| drop(wal.append_entry("k", None, vec![7; 600], false)));
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    bytes[one] ^= 1; // decay
    bytes.truncate(two + 32 + 100); // the power cut
    image.set(SEGMENT, bytes);
    let wal = open_small(&boot(&image));
    let new = wal.append_entry("k", None, "new", true).unwrap();
    assert_eq!(wal.read_entry(new).unwrap().index, 2);
    assert_eq!(wal.recovery_report().damaged.len(), 1);
    assert!(wal.entries("k").unwrap().any(|e| e.is_err()), "silently skipped");
}

/// Behind a damaged entry, half a torn batch was taken for whole.
#[test]
fn damage_right_before_a_torn_batch_does_not_revive_it() {
    let (mut image, one, two) = two_and(|wal| {
        let batch = [(None, Bytes::from("HALF-1")), (None, Bytes::from("HALF-2"))];
        wal.append_batch("k", batch, false).unwrap();
    });
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    bytes[one] ^= 1; // decay
    bytes.truncate(two + 38 + 10); // the power cut
    image.set(SEGMENT, bytes);
    let wal = open_small(&boot(&image));
    assert!(!all(&wal, "k").iter().any(|e| e.contains("HALF-1")), "half a batch");
}

/// The entries of a lost segment were thought to be those of the torn batch before it.
#[test]
fn a_missing_segment_behind_a_torn_one_is_noticed() {
    let (mut image, real) = torn_then_second(true);
    assert_eq!(real.len(), 3);
    image.remove(&seg(3));
    let wal = open_small(&boot(&image));
    assert!(wal.entries("k").unwrap().any(|e| e.is_err()), "nothing is said of real-one");
}

/// A key was not found when the file of the one before it was lost.
#[test]
fn a_missing_file_does_not_hide_the_twin() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry(TWINS[0], None, "first", true).unwrap();
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    let mut image = sim.durable_image();
    let name = image.files().map(|f| f.0.to_owned()).find(|n| n.contains("8yn0")).unwrap();
    image.remove(&name);
    let sim = boot(&image);
    let wal = open(&sim);
    assert_eq!(wal.recovery_report().damaged.len(), 1);
    wal.append_entry(TWINS[1], None, "third", true).unwrap();
    assert_eq!(contents(&open(&sim.after_kill()), TWINS[1]), ["second", "third"]);
}

/// A shutdown did not sync a key whose removal had been cut off.
#[test]
fn a_shutdown_syncs_a_key_that_is_stuck() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    wal.append_entry("k", None, "one", false).unwrap();
    fail(&sim, CallKind::Write, 0, ENOSPC, "-0002.log");
    fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), "-0002.log");
    assert_eq!(contents(&wal, "k"), ["zero", "one"]);
    if wal.shutdown().is_err() {
        return;
    }
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert_eq!(contents(&wal, "k"), ["zero", "one"], "shutdown() was Ok");
}

/// A compaction with nothing to do said `Ok` though the one before could not make its drops durable.
#[test]
fn a_compaction_does_not_hide_the_failure_of_the_one_before() {
    let clock = Arc::new(ManualClock::new(NOW));
    let sim = SimDir::new(1);
    let options = WalOptions::with_retention(Duration::from_secs(100)).clock(clock.clone());
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    wal.append_entry("k", None, "old", true).unwrap();
    clock.advance(Duration::from_secs(1_000));
    let syncs = 1; // the first makes the successor's name durable, the second the drop
    sim.inject(Fault {
        call: CallKind::SyncDir,
        nth: syncs,
        kind: FaultKind::Error(5),
        forever: false,
        name_contains: None,
    });
    let second = wal.compact();
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert!(second.is_err() || contents(&wal, "k").is_empty(), "Ok, and it is back: {second:?}");
}

/// The same, where a sync had failed.
#[test]
fn a_shutdown_after_a_removal_whose_sync_failed_is_honest() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "zero", true).unwrap();
    wal.append_entry("k", None, "one", false).unwrap();
    fail(&sim, CallKind::SyncData, 0, FaultKind::Error(5), "-0002.log");
    wal.remove_key("k").unwrap_err();
    let closed = wal.shutdown();
    let image = sim.durable_image();
    let wal = open(&SimDir::from_image(&image, 3));
    assert!(closed.is_err() || contents(&wal, "k").len() != 1, "half of the key, after an Ok");
}

/// The same with what is left of a removed key.
#[test]
fn damage_to_a_removed_key_does_not_cost_its_twin() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry(TWINS[0], None, "first", true).unwrap();
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    wal.remove_key(TWINS[0]).unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let name = image.files().map(|f| f.0.to_owned()).find(|n| n.contains("8yn0")).unwrap();
    headless(&mut image, &name);
    let wal = open(&boot(&image));
    assert_eq!(all(&wal, TWINS[1]), ["0:second"], "a removed key's file costs the other key");
}

/// A creation that failed came back after a power cut, though the key had been removed.
#[test]
fn a_failed_creation_does_not_come_back_once_the_key_is_removed() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().preallocate_bytes(4_096)).unwrap();
    fail(&sim, CallKind::Write, 0, FaultKind::ShortThenError { bytes: 600, error: 5 }, SEGMENT);
    wal.append_entry("k", None, "x", true).unwrap_err();
    wal.remove_key("k").unwrap();
    let mut phantoms = 0;
    sim.crash_images(sim.trace_len(), &CrashBudget::default(), &mut |image, _| {
        let wal = open(&boot(image));
        phantoms += usize::from(wal.enumerate_keys().unwrap().len() > 0);
    });
    assert_eq!(phantoms, 0);
}

/// A creation that failed came back after the key had been removed, where an earlier removal had left a
/// tombstone.
#[test]
fn a_failed_creation_behind_a_tombstone_does_not_come_back() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().preallocate_bytes(4_096)).unwrap();
    wal.append_entry(TWINS[0], None, "first", true).unwrap();
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    wal.remove_key(TWINS[0]).unwrap();
    fail(&sim, CallKind::Write, 0, FaultKind::ShortThenError { bytes: 600, error: 5 }, "8yn0");
    wal.append_entry(TWINS[0], None, "x", true).unwrap_err();
    wal.remove_key(TWINS[0]).unwrap();
    sim.crash_images(sim.trace_len(), &CrashBudget::default(), &mut |image, choice| {
        let keys = open(&boot(image)).enumerate_keys().unwrap().len();
        assert_eq!(keys, 1, "{choice:?}");
    });
}

/// The twins on a disk from which the first one's file is gone.
fn without_the_first_twin() -> SimDir {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry(TWINS[0], None, "first", true).unwrap();
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    let mut image = sim.durable_image();
    let name = image.files().map(|f| f.0.to_owned()).find(|n| n.contains("8yn0")).unwrap();
    image.remove(&name);
    boot(&image)
}

/// A failed append gave up the place of a key whose file is missing, and its twin was not found.
#[test]
fn a_failed_append_in_place_of_a_missing_file_does_not_hide_the_twin() {
    let sim = without_the_first_twin();
    let wal = open(&sim);
    fail(&sim, CallKind::Create, 0, ENOSPC, "8yn0");
    wal.append_entry(TWINS[0], None, "x", true).unwrap_err();
    assert_eq!(contents(&wal, TWINS[1]), ["second"]);
    wal.append_entry(TWINS[1], None, "third", true).unwrap();
    assert_eq!(contents(&open(&sim.after_kill()), TWINS[1]), ["second", "third"]);
}

/// A twin whose predecessor's file is missing was found until the next clean shutdown.
#[test]
fn a_missing_file_does_not_hide_the_twin_after_a_shutdown() {
    let sim = without_the_first_twin();
    for round in 1..4 {
        let wal = open(&sim);
        assert_eq!(contents(&wal, TWINS[1]), ["second"], "opened {round} times");
        wal.shutdown().unwrap();
    }
    let wal = open(&sim);
    wal.append_entry(TWINS[0], None, "again", true).unwrap();
    wal.shutdown().unwrap();
    for clean in [false, true] {
        let wal = open(&sim);
        assert_eq!(wal.recovery_report().clean, clean);
        assert_eq!((contents(&wal, TWINS[0]).len(), contents(&wal, TWINS[1]).len()), (1, 1));
        wal.shutdown().unwrap();
    }
}

/// With the facts of a directory all of whose keys were removed, the numbers they had used were lost.
#[test]
fn references_to_the_only_key_stay_dead_when_the_facts_are_damaged() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let old = wal.append_entry("k", None, "old", true).unwrap();
    wal.remove_key("k").unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let bytes = image.get("META").unwrap().len();
    image.set("META", vec![0; bytes]);
    let wal = open(&boot(&image));
    wal.append_entry("k", None, "new", true).unwrap();
    let read = wal.read_entry_at(old);
    assert!(matches!(read, Err(WalError::Expired | WalError::InvalidRef)), "{read:?}");
}

/// Of a removal of everything that a power cut interrupted, the facts could be gone before a key was,
/// which counted as damage.
#[test]
fn a_destroy_that_was_cut_off_is_no_damage() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let start = sim.trace_len();
    wal.append_entry("k", None, "x", true).unwrap();
    wal.destroy().unwrap();
    for at in start..=sim.trace_len() {
        sim.crash_images(at, &CrashBudget::default(), &mut |image, choice| {
            let report = open(&boot(image)).recovery_report().clone();
            assert!(report.damaged.is_empty(), "{choice:?}: {:?}", report.damaged);
        });
    }
}

/// A reader that put the segments in a row while a compaction removed what a power cut had brought back
/// of dropped ones missed those in between.
#[test]
fn a_reader_beside_a_compaction_finds_no_damage() {
    let clock = Arc::new(ManualClock::new(NOW));
    // One open file and one row of segments are remembered.
    let options = options()
        .max_segment_bytes(4_096)
        .max_entry_bytes(4_000)
        .max_open_files(1)
        .clock(clock.clone());
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    for n in 0..3 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
    }
    let first = sim.image().get(SEGMENT).unwrap().to_vec();
    clock.advance(Duration::from_secs(1_000));
    wal.append_entry("k", None, "new", true).unwrap();
    assert_eq!(wal.compact().unwrap().dropped_segments, 3);
    let mut image = sim.durable_image();
    image.set(SEGMENT, first);
    // Who comes first is up to the scheduler.
    for round in 0..100 {
        let dir = HookedDir::new(&boot(&image), "META");
        let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options.clone()).unwrap());
        wal.append_entry("other", None, "x", true).unwrap();
        clock.advance(Duration::from_millis(1));
        let (came, has_come) = mpsc::channel();
        let (let_go, go_on) = mpsc::channel();
        let other = Arc::clone(&wal);
        dir.before_sync(move || {
            assert_eq!(contents(&other, "other"), ["x"]); // in place of the row of `k`
            came.send(()).unwrap();
            go_on.recv().unwrap();
        });
        thread::scope(|scope| {
            let compact = scope.spawn(|| wal.compact().unwrap());
            has_come.recv().unwrap();
            let read = scope.spawn(|| all(&wal, "k"));
            thread::sleep(Duration::from_millis(2)); // until it waits for the facts
            let_go.send(()).unwrap();
            assert_eq!(compact.join().unwrap().dropped_segments, 1);
            assert_eq!(read.join().unwrap(), ["3:new"], "round {round}");
        });
    }
}

/// What was appended while the clock had been set back looked old once it was right again, and a
/// compaction dropped it.
#[test]
fn what_is_appended_while_the_clock_is_behind_is_not_dropped_when_it_is_right_again() {
    for first in [false, true] {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(NOW));
        let options = options().clock(clock.clone());
        let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
        if !first {
            wal.append_entry("k", None, "before", true).unwrap();
        }
        clock.set(NOW - 1_000_000);
        clock.advance(Duration::from_secs(999));
        wal.append_entry("k", None, "new", true).unwrap();
        clock.set(NOW + 999_000);
        let report = wal.compact().unwrap();
        assert_eq!(contents(&wal, "k").last().unwrap(), "new", "dropped: {report:?}");
        assert_eq!(report.refused, Some(ClockTrouble::JumpedAhead));
    }
}

/// Once a clock had been far ahead, a missing segment looked as if retention had dropped it, and those
/// before it with it.
#[test]
fn a_missing_segment_is_noticed_though_a_clock_was_ahead_once() {
    let sim = SimDir::new(1);
    let at = |sim: &SimDir, now_ms| {
        let options = options().max_segment_bytes(4_096).max_entry_bytes(4_000);
        let options = options.clock(Arc::new(ManualClock::new(now_ms)));
        Wal::open_in(Arc::new(sim.clone()), options).unwrap()
    };
    let wal = at(&sim, NOW);
    wal.append_entry("other", None, "x", true).unwrap();
    wal.shutdown().unwrap();
    let wal = at(&sim, NOW + 31_000_000_000);
    assert_eq!(wal.compact().unwrap().dropped_segments, 1);
    wal.shutdown().unwrap();
    let wal = at(&sim, NOW);
    for n in 0..3 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
    }
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let names = image.files().map(|file| file.0.to_owned());
    let second = names.filter(|name| name.starts_with("k-")).nth(1).unwrap();
    image.remove(&second);
    let wal = at(&boot(&image), NOW);
    let found: Vec<_> = wal.entries("k").unwrap().map(|e| e.map(|e| e.index).ok()).collect();
    assert_eq!(found, [Some(0), None, Some(2)]);
}

/// An old tombstone of the key was taken for all there is of it when the segment it had elsewhere was
/// damaged: it read as empty, and began anew.
#[test]
fn an_old_tombstone_does_not_hide_damage_to_the_key() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let [first, second] = TWINS;
    let append = |key| assert!(wal.append_entry(key, None, "x", true).is_ok());
    let remove = |key| wal.remove_key(key).unwrap();
    append(first);
    append(second);
    remove(first);
    append(first);
    remove(second);
    remove(first);
    append(second);
    append(first);
    remove(second);
    wal.shutdown().unwrap();
    let segment = open(&sim.after_kill()).segments(first).unwrap().remove(0).path;
    let mut image = sim.image();
    headless(&mut image, segment.file_name().unwrap().to_str().unwrap());
    let wal = open(&boot(&image));
    let found = wal.enumerate_records(first).map(Iterator::count);
    assert!(matches!(found, Err(WalError::Corrupted { .. })), "{found:?}");
    let again = wal.append_entry(first, None, "again", true);
    assert!(matches!(again, Err(WalError::Corrupted { .. })), "{again:?}");
    wal.append_entry("k", None, "x", true).unwrap();
}

/// An old tombstone of another key won a hash from a key whose segment was damaged, which then counted as
/// a file of nobody's: it read as empty, and began anew.
#[test]
fn the_tombstone_of_another_key_does_not_hide_damage() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let [first, second] = TWINS;
    let append = |key| wal.append_entry(key, None, "x", true).unwrap();
    append(first);
    append(second);
    wal.remove_key(first).unwrap();
    append(first);
    wal.remove_key(second).unwrap();
    wal.remove_key(first).unwrap();
    append(second);
    wal.shutdown().unwrap();
    let segment = open(&sim.after_kill()).segments(second).unwrap().remove(0).path;
    let mut image = sim.image();
    headless(&mut image, segment.file_name().unwrap().to_str().unwrap());
    let wal = open(&boot(&image));
    let found = wal.enumerate_records(second).map(Iterator::count);
    assert!(matches!(found, Err(WalError::Corrupted { .. })), "{found:?}");
    let again = wal.append_entry(second, None, "again", true);
    assert!(matches!(again, Err(WalError::Corrupted { .. })), "{again:?}");
}

// ---- with a journal ----

fn journal() -> WalOptions {
    options().journal_bytes(4_096)
}

fn append(wal: &Wal, key: &str, bytes: usize) {
    wal.append_entry(key, None, vec![0; bytes], false).unwrap();
}

fn open_with(sim: &SimDir, options: WalOptions) -> Wal {
    Wal::open_in(Arc::new(sim.clone()), options).unwrap()
}

/// Between the journal's taking a record and the segment's showing it, the segment looked as if it needed
/// no sync, and the promise that it gets one was forgotten: acknowledged entries were lost. A matter of
/// threads that are stopped at the right moment, so not found by each run.
#[test]
fn a_promise_is_kept_while_somebody_moves_the_journal_on() {
    for round in 0..100 {
        let sim = SimDir::new(round);
        let wal = open_with(&sim, journal());
        let key = |n: usize| format!("k{n}");
        (0..64).for_each(|n| append(&wal, &key(n), 1));
        wal.shutdown().unwrap();
        let wal = open_with(&sim, journal());
        (0..64).for_each(|n| assert_eq!(wal.next_index(key(n)).unwrap(), 1));
        thread::scope(|scope| {
            for n in 0..32 {
                let wal = &wal;
                let entries = [2 * n, 2 * n + 1].map(|n| (key(n), None, Bytes::from(vec![1; 80])));
                scope.spawn(move || wal.append_many(entries, true).unwrap());
            }
            for n in 0..4 {
                let (wal, noise) = (&wal, format!("noise {n}"));
                scope.spawn(move || (0..100).for_each(|_| append(wal, &noise, 300)));
            }
        });
        (0..100).for_each(|_| append(&wal, "noise", 300));
        let wal = open_with(&boot(&sim.durable_image()), journal());
        (0..64).for_each(|n| assert_eq!(wal.next_index(key(n)).unwrap(), 2, "{round}, {n}"));
    }
}

/// A seal that was written through a segment which the full cache had not taken in left the journal without
/// ever reaching the file: after a clean shutdown that was damage, and the key took no more entries.
#[test]
fn a_seal_reaches_its_file_however_few_files_may_be_open() {
    let sim = SimDir::new(1);
    let options = || journal().max_open_files(1);
    let wal = open_with(&sim, options());
    wal.append_entry("k", None, "0", true).unwrap();
    wal.shutdown().unwrap();
    let wal = open_with(&sim, options());
    wal.append_entry("other", None, "0", true).unwrap();
    wal.sync().unwrap();
    wal.append_entry("other", None, "1", false).unwrap();
    // There is no space for the segment that is to come behind the seal.
    let used: usize = sim.image().files().map(|(_, bytes)| bytes.len()).sum();
    sim.set_capacity(Some(used.try_into().unwrap()));
    let full = wal.truncate_before("k", 1);
    assert!(matches!(full, Err(WalError::StorageFull { .. })), "{full:?}");
    sim.set_capacity(None);
    for n in 0..200 {
        wal.append_entry("other", None, "x", n % 10 == 0).unwrap();
    }
    wal.shutdown().unwrap();
    let wal = open_with(&sim, options());
    assert_eq!(contents(&wal, "k"), ["0"]);
    wal.append_entry("k", None, "1", true).unwrap();
}

/// A segment with entries that never were in the journal, whose file had been synced and whose name had not:
/// the journal alone was to bring it back. It came back with a hole, and what was acknowledged was lost.
#[test]
fn a_file_with_large_entries_needs_its_name_on_the_disk() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, DIRECTORY);
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), journal()).unwrap());
    wal.append_entry("k", None, [1; 3_000], false).unwrap();
    let (told, tells) = mpsc::channel();
    let (other, after) = (Arc::clone(&wal), sim.clone());
    dir.before_sync(move || {
        // The file has been synced, the directory has not.
        let (acknowledged, heard) = mpsc::channel();
        thread::spawn(move || {
            let appended = other.append_entry("k", None, "small", true);
            acknowledged.send(appended.is_ok()).unwrap_or_default();
        });
        // It may as well wait for the sync of the directory that this call delays.
        let early = heard.recv_timeout(Duration::from_millis(200));
        told.send((early.unwrap_or(false), after.durable_image())).unwrap();
    });
    wal.sync_key("k").unwrap();
    let (acknowledged, image) = tells.recv().unwrap();
    let wal = open_with(&boot(&image), journal());
    assert_eq!(wal.recovery_report().damaged, []);
    assert!(!acknowledged || wal.next_index("k").unwrap() == 2, "an acknowledged entry is lost");
}

/// The same tore entries apart that belong together, and what was lost with the name looked like damage.
#[test]
fn a_file_that_is_made_again_from_the_journal_has_no_hole() {
    let sim = SimDir::new(1);
    let options = || journal().journal_bytes(65_536);
    let wal = open_with(&sim, options());
    wal.append_entry("other", None, "0", true).unwrap();
    wal.sync().unwrap();
    wal.append_entry("k", None, vec![1; 20_000], false).unwrap();
    sim.inject(Fault {
        call: CallKind::SyncDir,
        nth: 0,
        kind: FaultKind::Error(5),
        forever: true,
        name_contains: None,
    });
    wal.sync_key("k").unwrap_err();
    wal.append_entry("k", None, "small", false).unwrap();
    let entry = |key| (key, None, Bytes::from("together"));
    let together = wal.append_many([entry("k"), entry("other")], false);
    assert!(together.is_err(), "{together:?}");
    wal.append_entry("other", None, "1", true).unwrap();
    let wal = open_with(&boot(&sim.durable_image()), options());
    assert_eq!(wal.recovery_report().damaged, []);
    assert!(wal.recovery_report().torn.iter().any(|finding| finding.path.ends_with(SEGMENT)));
    assert_eq!(contents(&wal, "other"), ["0", "1"]);
}

/// Many dropped keys used the space up that the journal needs to make room: nothing went through it ever
/// after, and no key could be dropped or removed.
#[test]
fn any_number_of_keys_can_be_dropped_at_once() {
    let sim = SimDir::new(1);
    let clock = Arc::new(ManualClock::new(NOW));
    let wal = open_with(&sim, journal().clock(clock.clone()));
    for key in 0..100 {
        wal.append_entry(format!("{key}"), None, "x", true).unwrap();
    }
    clock.advance(Duration::from_secs(200));
    let report = wal.compact().unwrap();
    assert_eq!((report.dropped_segments, report.failures), (100, vec![]));
    wal.remove_key("1").unwrap();
    wal.append_many([("2", None, Bytes::new()), ("3", None, Bytes::new())], true).unwrap();
}

/// Where others took the room in the journal that was made for it, `append_many` said that the disk is full.
#[test]
fn a_busy_journal_is_no_full_disk() {
    let sim = SimDir::new(1);
    let wal = open_with(&sim, journal());
    thread::scope(|scope| {
        for n in 0..8 {
            let wal = &wal;
            scope.spawn(move || {
                let entry = |key: &str| (format!("{n} {key}"), None, Bytes::from(vec![1; 380]));
                for _ in 0..100 {
                    wal.append_many([entry("a"), entry("b")], false).unwrap();
                }
            });
        }
    });
}

/// A journal that had been cut to another power of two was read as if it had always been as long: what was
/// lost counted as an unfinished write.
#[test]
fn a_journal_that_was_cut_is_reported() {
    let sim = SimDir::new(1);
    let wal = open_with(&sim, journal().journal_bytes(65_536));
    for n in 0..100 {
        wal.append_entry("k", None, format!("{n}"), true).unwrap();
    }
    let mut image = sim.durable_image();
    let whole = image.get("JOURNAL").unwrap().to_vec();
    for bytes in [0, 100, 4_096, 8_192, 32_768] {
        image.set("JOURNAL", &whole[..bytes]);
        let wal = open_with(&boot(&image), journal().journal_bytes(65_536));
        let damaged = &wal.recovery_report().damaged;
        assert!(damaged.iter().any(|finding| finding.path.ends_with("JOURNAL")), "{damaged:?}");
        let kept = contents(&wal, "k");
        assert!(kept.iter().zip(0..).all(|(content, n)| *content == format!("{n}")));
        assert!(kept.len() == 100 || bytes < 32_768);
    }
}

/// A file of zeros was searched for a journal, however large it is: one that exists only as a length took
/// hours.
#[test]
fn no_journal_is_larger_than_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    drop(Wal::new(dir.path(), options()).unwrap());
    let file = std::fs::File::create(dir.path().join("JOURNAL")).unwrap();
    file.set_len(1 << 43).unwrap();
    let wal = Wal::new(dir.path(), journal()).unwrap();
    wal.append_entry("k", None, "x", true).unwrap();
}

/// A journal that nothing was ever written to was reported as an unfinished write.
#[test]
fn an_unused_journal_is_no_unfinished_write() {
    let sim = SimDir::new(1);
    drop(open_with(&sim, journal()));
    assert_eq!(open_with(&sim, journal()).recovery_report().torn, []);
}

/// Who reads a key that is removed meanwhile got an error once the journal was used again.
#[test]
fn who_reads_a_removed_key_reads_on() {
    let sim = SimDir::new(1);
    let wal = open_with(&sim, journal());
    (0..5).for_each(|_| append(&wal, "k", 1));
    let entries = wal.entries("k").unwrap();
    wal.remove_key("k").unwrap();
    (0..200).for_each(|_| append(&wal, "other", 1));
    assert_eq!(entries.collect::<Result<Vec<_>>>().unwrap().len(), 5);
}

/// A copied directory may have a journal with holes: on a full disk, a store into one kills the process.
#[test]
fn a_journal_with_holes_is_filled() {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().unwrap();
    let options = || journal().journal_bytes(1 << 20);
    Wal::new(dir.path(), options()).unwrap().shutdown().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("JOURNAL")).unwrap();
    file.set_len(0).unwrap();
    file.set_len(1 << 20).unwrap();
    let _wal = Wal::new(dir.path(), options()).unwrap();
    assert!(file.metadata().unwrap().blocks() * 512 >= 1 << 20);
}

/// The journal knew of the creation, so a segment was ended as if its name survived. But the file that
/// replaying creates has only what went through the journal: the next segment then told of a loss.
#[test]
fn a_name_that_only_the_journal_has_is_not_enough_for_bytes_that_only_the_file_has() {
    let sim = SimDir::new(1);
    let wal =
        Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(4096).max_segment_bytes(4096));
    let wal = wal.unwrap();
    sim.inject(Fault {
        call: CallKind::SyncDir,
        nth: 0,
        kind: FaultKind::Error(5),
        forever: true,
        name_contains: None,
    });
    // Too large for the journal: the file gets it.
    wal.append_entry("k", None, vec![7; 2_000], false).unwrap();
    assert!(wal.sync_key("k").is_err());
    let next = wal.append_entry("k", None, vec![7; 2_000], false);
    assert!(matches!(next, Err(WalError::Poisoned { .. })), "a segment is begun: {next:?}");
}

/// A key whose file had been closed unsynced, and was opened again while others were synced, was in neither of
/// the lists of what there is to sync.
#[test]
fn a_sync_of_all_keys_does_not_miss_one_that_is_opened_meanwhile() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "later-");
    let options = options().journal_bytes(0).max_open_files(1);
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options).unwrap());
    append(&wal, "k", 1);
    append(&wal, "later", 1);
    assert_eq!((wal.stats().open_files, wal.health().unsynced_keys), (1, 2));
    let other = Arc::clone(&wal);
    dir.before_sync(move || append(&other, "k", 1));
    wal.sync().unwrap();
    let wal = open_with(&boot(&sim.durable_image()), journal());
    assert!(wal.next_index("k").unwrap() >= 1);
}

/// What was on its way to a file while the same went round with the journal was taken for older than what the file
/// lacks: from then on it never had everything, and whoever made room in the journal waited for that for ever.
#[test]
fn a_file_gets_nothing_while_its_records_go_round() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "broken-");
    let options = options().journal_bytes(32_768);
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options).unwrap());
    let append = |key: &str, durable| wal.append_entry(key, None, [7; 200], durable).unwrap();
    let first = append("broken", true);
    append("other", true);
    wal.read_entry_at(first).unwrap();
    // With a full disk the others stay in the journal.
    let used: usize = sim.image().files().map(|(_, bytes)| bytes.len()).sum();
    sim.set_capacity(Some(used.try_into().unwrap()));
    (0..30).for_each(|_| _ = append("other", false));
    let second = append("broken", false);
    (0..3).for_each(|_| _ = append("other", false));
    sim.set_capacity(None);
    fail(&sim, CallKind::SyncData, 0, FaultKind::Error(5), "broken-");
    let other = Arc::clone(&wal);
    dir.before_write(move || {
        let (made, room) = mpsc::channel();
        thread::spawn(move || {
            let entries = ["x", "y"].map(|key| (key, None, Bytes::from(vec![1; 1_750])));
            made.send(other.append_many(entries, false).is_ok()).unwrap_or_default();
        });
        // It may as well wait until this has been written.
        let _ = room.recv_timeout(Duration::from_millis(200));
    });
    wal.read_entry_at(second).unwrap();
    let (done, is_done) = mpsc::channel();
    let other = Arc::clone(&wal);
    thread::spawn(move || {
        for _ in 0..300 {
            other.append_entry("busy", None, [7; 200], false).unwrap();
        }
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(60)).expect("it waits for ever");
    assert_eq!(sim.faults_hit(), 1);
}

/// The unlink of a tombstone fails. The key is used and removed again: nobody knows of the first tombstone any more,
/// nor that the key before it in the row has to leave one.
#[test]
fn a_tombstone_whose_unlink_failed_goes_with_the_next_one() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let [first, second] = TWINS;
    wal.append_entry(first, None, "0", true).unwrap();
    wal.append_entry(second, None, "0", true).unwrap();
    fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), "-0002");
    wal.remove_key(second).unwrap_err();
    wal.append_entry(second, None, "1", true).unwrap();
    wal.remove_key(second).unwrap();
    wal.remove_key(first).unwrap();
    let image = sim.after_kill();
    let wal = open(&image);
    let names: Vec<_> = sim.image().files().map(|file| file.0.to_owned()).collect();
    assert_eq!(wal.recovery_report().damaged, [], "{names:?}");
}

/// Nor is one that somebody has deleted missed.
#[test]
fn a_tombstone_that_is_gone_keeps_no_key_from_being_removed() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    for key in TWINS {
        wal.append_entry(key, None, "0", true).unwrap();
    }
    for key in TWINS {
        wal.remove_key(key).unwrap();
    }
    let image = sim.image();
    let left: Vec<_> = image.files().filter(|(name, _)| name.contains("-0002")).collect();
    assert_eq!(left.len(), 1);
    keywal::fs::Dir::remove(&sim, left[0].0).unwrap();
    wal.remove_key(TWINS[0]).unwrap();
}

/// A removal that the process did not survive: what it was to unlink is there, and so is what says so. The first of these
/// moments after `at`, a reference to the entry that is gone, and the next moment.
fn half_removed(at: usize, others: u8) -> Option<(SimDir, EntryRef, usize)> {
    let sim = SimDir::new(1);
    let wal = open_with(&sim, lazy());
    let old = wal.append_entry("k", None, "old", true).unwrap();
    for number in 0..others {
        wal.append_entry("other", None, [number; 3_000], true).unwrap();
    }
    wal.sync().unwrap();
    let begun = sim.trace_len();
    wal.remove_key("k").unwrap();
    (at.max(begun)..sim.trace_len()).find_map(|at| {
        let after = sim.killed_before(at);
        fail(&after, CallKind::Remove, 0, FaultKind::Error(5), SEGMENT);
        let wal = open_with(&after, lazy());
        let found = contents(&wal, "k");
        let left = after.faults_hit() > 0;
        assert!(!left || found.is_empty(), "{at}: {found:?}");
        left.then(|| (sim.killed_before(at), old, at + 1))
    })
}

/// Of so many entries of another key, its name has a higher number: it is what is looked at when the directory is opened,
/// and the removed key is not.
const ENOUGH: u8 = 6;

fn lazy() -> WalOptions {
    journal().check_on_open(false).max_segment_bytes(4_096)
}

/// Whatever comes after that: the key's first life does not come back.
fn check_that_it_stays_gone(sim: &SimDir, wal: Wal, old: EntryRef) {
    wal.append_entry("k", None, "new", true).unwrap();
    let copy = SimDir::new(9);
    wal.snapshot_in(&copy).unwrap();
    assert_eq!(contents(&open_with(&copy, lazy()), "k"), ["new"]);
    let after = open_with(&sim.after_kill(), lazy());
    assert_eq!(contents(&after, "k"), ["new"]);
    assert!(matches!(after.read_entry_at(old), Err(WalError::Expired)));
    wal.remove_key("k").unwrap();
    let killed = sim.after_kill();
    let durable = SimDir::from_image(&sim.durable_image(), 5);
    wal.shutdown().unwrap();
    drop(wal);
    for left in [&killed, &durable, sim] {
        assert!(contents(&open_with(left, lazy()), "k").is_empty());
    }
    let image = sim.image();
    assert!(image.files().all(|(name, _)| !name.starts_with("k-")));
}

/// It could not be unlinked when the key was first used, and nobody knew of it any more: once the key was removed again,
/// its first life came back.
#[test]
fn what_is_left_of_a_removal_is_not_forgotten() {
    let (mut moments, mut at) = (0, 0);
    while let Some((sim, old, next)) = half_removed(at, ENOUGH) {
        (moments, at) = (moments + 1, next);
        fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), SEGMENT);
        let wal = open_with(&sim, lazy());
        assert!(contents(&wal, "k").is_empty());
        assert_eq!(sim.faults_hit(), 1);
        check_that_it_stays_gone(&sim, wal, old);
    }
    assert!(moments > 0);
}

/// A directory could not be opened that had such a thing in it, of any key that is checked then.
#[test]
fn what_is_left_of_a_removal_keeps_no_directory_closed() {
    for (check_on_open, others) in [(true, ENOUGH), (true, 0), (false, 0)] {
        let (mut moments, mut at) = (0, 0);
        while let Some((sim, old, next)) = half_removed(at, others) {
            (moments, at) = (moments + 1, next);
            fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), SEGMENT);
            let wal = open_with(&sim, lazy().check_on_open(check_on_open));
            assert_eq!(sim.faults_hit(), 1);
            let report = wal.recovery_report();
            let [left] = &report.ignored[..] else { panic!("{report:?}") };
            assert!(left.what.starts_with("left of a removed key: "), "{left:?}");
            assert_eq!(report.keys, u64::from(others > 0));
            fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), SEGMENT);
            let refused = wal.append_entry("k", None, "new", true);
            assert!(matches!(refused, Err(WalError::Io { .. })), "{refused:?}");
            wal.append_entry("other", None, "goes on", true).unwrap();
            check_that_it_stays_gone(&sim, wal, old);
        }
        assert!(moments > 0);
    }
}

/// Nor does a directory of that name, which the key's removal had stumbled over.
#[test]
fn a_directory_named_like_a_segment_is_passed_over() {
    for check_on_open in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let open = || {
            let options = lazy().max_entry_bytes(4_000).check_on_open(check_on_open);
            Wal::new(home.path(), options).unwrap()
        };
        let wal = open();
        for number in 0..3 {
            wal.append_entry("k", None, [number; 3_000], true).unwrap();
        }
        wal.truncate_before("k", 1).unwrap();
        wal.shutdown().unwrap();
        drop(wal);
        std::fs::create_dir(home.path().join(SEGMENT)).unwrap();
        for _ in 0..2 {
            let wal = open();
            wal.remove_key("k").unwrap();
            wal.append_entry("k", None, "new", true).unwrap();
            drop(wal);
            assert_eq!(contents(&open(), "k"), ["new"]);
        }
        open().destroy().unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }
}

/// A log was destroyed in the order in which its files were listed: what says that a key was removed could go before what
/// a crash, or an unlink that failed, had left of it.
#[test]
fn a_destroy_that_is_cut_off_brings_no_removed_key_back() {
    for (others, is_seen) in [(ENOUGH, false), (0, true)] {
        // The last of these moments: that the key is removed is durable.
        let (mut last, mut at) = (None, 0);
        while let Some((sim, old, next)) = half_removed(at, others) {
            (last, at) = (Some((sim, old)), next);
        }
        let (sim, old) = last.unwrap();
        fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), SEGMENT);
        let wal = open_with(&sim, lazy());
        assert_eq!(sim.faults_hit() > 0, is_seen);
        sim.clear_faults();
        let start = sim.trace_len();
        wal.destroy().unwrap();
        for at in start..=sim.trace_len() {
            sim.crash_images(at, &CrashBudget::default(), &mut |image, _| {
                let wal = open_with(&SimDir::from_image(image, 7), lazy());
                assert!(contents(&wal, "k").is_empty() && wal.read_entry_at(old).is_err(), "{at}");
            });
        }
    }
}

/// All is clean then, and the next life looks no closer.
#[test]
fn what_is_left_of_a_removal_is_not_forgotten_by_a_shutdown() {
    for lives in [1, 2] {
        let (sim, old, _) = half_removed(0, ENOUGH).unwrap();
        for _ in 0..lives {
            fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), SEGMENT);
            let wal = open_with(&sim, lazy());
            assert!(contents(&wal, "k").is_empty());
            wal.shutdown().unwrap();
        }
        assert_eq!(sim.faults_hit(), lives);
        let wal = open_with(&sim, lazy());
        assert!(wal.recovery_report().clean);
        check_that_it_stays_gone(&sim, wal, old);
    }
}
