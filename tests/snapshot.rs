//! Is a snapshot what the log was at one moment, does it open, and is the original unharmed?

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::hooked::HookedDir;
use common::logs::{SEGMENT, fail};
use common::{COLLIDING, EPOCH_MS, Random, content, env_number, header};
use keywal::fs::Dir;
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, Image, Op, SimDir};
use keywal::{
    Entry, Key, KeyOptions, ManualClock, Retention, Wal, WalError, WalOptions, verify_in,
};

mod common;

fn options(journal_bytes: u64) -> WalOptions {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    WalOptions::default().max_segment_bytes(4096).journal_bytes(journal_bytes).clock(clock)
}

/// With and without a journal.
const JOURNALS: [u64; 2] = [0, 16 << 10];

/// All that a log holds.
fn all(wal: &Wal) -> BTreeMap<Key, Vec<Entry>> {
    let keys = wal.enumerate_keys().unwrap();
    assert_eq!(keys.unreadable(), 0);
    keys.map(|key| {
        let entries = wal.entries(&key).unwrap().collect::<Result<_, _>>().unwrap();
        (key, entries)
    })
    .collect()
}

/// Some keys with some segments each.
fn fill(wal: &Wal, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..200 {
        let key = format!("key {}", random.next() % 5);
        let bytes = usize::try_from(random.next() % 500).unwrap();
        let (serial, durable) = (random.next(), random.next() % 8 == 0);
        if serial % 7 == 0 {
            let batch = (0..3).map(|at| (header(serial + at), content(serial + at, bytes / 3)));
            wal.append_batch(&key, batch, durable).unwrap();
        } else {
            wal.append_entry(&key, header(serial), content(serial, bytes), durable).unwrap();
        }
    }
    wal.append_entry("", None, "the empty key", false).unwrap();
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments = entries.filter(|path| path.extension().is_some_and(|end| end == "log"));
    segments
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn a_snapshot_is_a_log_like_any_other() {
    for journal in JOURNALS {
        let home = tempfile::tempdir().unwrap();
        let wal = Wal::new(home.path().join("wal"), options(journal)).unwrap();
        fill(&wal, 1);
        // The second key is found only past what the first one has left.
        for key in COLLIDING {
            wal.append_entry(key, None, "colliding", true).unwrap();
        }
        wal.remove_key(COLLIDING[0]).unwrap();
        let before = all(&wal);
        let report = wal.snapshot(home.path().join("a/b/copy")).unwrap();
        assert_eq!(report.keys, 7);
        assert_eq!(
            report.entries,
            before.values().map(|entries| entries.len() as u64).sum::<u64>()
        );
        assert!(report.linked_segments > 5 && report.copied_segments >= 7, "{report:?}");
        assert_eq!(report.damaged, []);
        wal.append_entry("key 0", None, "later", true).unwrap();

        let copy = Wal::new(home.path().join("a/b/copy"), options(journal)).unwrap();
        let opened = copy.recovery_report();
        assert!(opened.clean && opened.damaged.is_empty(), "{opened:?}");
        assert_eq!(opened.segments, report.segments);
        assert_eq!(all(&copy), before);
        let next = copy.next_index("key 0").unwrap();
        let new = copy.append_entry("key 0", None, "elsewhere", true).unwrap();
        assert_eq!(copy.read_entry(new).unwrap().index, next);
        // No reference of the one leads to an entry of the other.
        assert!(matches!(wal.read_entry_at(new), Err(WalError::InvalidRef)));
        copy.shutdown().unwrap();
        wal.shutdown().unwrap();
        let copy = Wal::new(home.path().join("a/b/copy"), options(0)).unwrap();
        assert!(copy.recovery_report().clean);
        assert_eq!(copy.entries("key 0").unwrap().count() as u64, next + 1);
    }
}

#[test]
fn sealed_segments_are_shared_and_the_newest_is_not() {
    let home = tempfile::tempdir().unwrap();
    let (live, copy) = (home.path().join("wal"), home.path().join("copy"));
    let wal = Wal::new(&live, options(0)).unwrap();
    fill(&wal, 2);
    wal.snapshot(&copy).unwrap();
    for key in wal.enumerate_keys().unwrap() {
        for segment in wal.segments(key).unwrap() {
            let name = segment.path.file_name().unwrap();
            let inode = |dir: &Path| fs::metadata(dir.join(name)).unwrap().ino();
            assert_eq!(inode(&live) == inode(&copy), !segment.active, "{}", segment.path.display());
        }
    }
}

/// Whatever is done to the copy, no byte of the original changes.
#[test]
fn the_copy_cannot_harm_the_original() {
    for journal in JOURNALS {
        let home = tempfile::tempdir().unwrap();
        let (live, copy) = (home.path().join("wal"), home.path().join("copy"));
        let wal = Wal::new(&live, options(journal)).unwrap();
        fill(&wal, 3);
        wal.sync().unwrap();
        wal.snapshot(&copy).unwrap();
        let content = all(&wal);
        let before = files(&live);
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let open = || {
            let options = options(journal).clock(clock.clone());
            Wal::new(&copy, options).unwrap()
        };
        let other = open();
        fill(&other, 4);
        other.truncate_before("key 1", other.next_index("key 1").unwrap()).unwrap();
        other.remove_key("key 2").unwrap();
        other.sync().unwrap();
        drop(other);
        assert_eq!(files(&live), before);
        // Recovered after a kill; and with sealed segments as the newest ones, as the others are missing.
        let mut newest: BTreeMap<String, String> = BTreeMap::new();
        for name in files(&copy).into_keys() {
            newest.insert(name.rsplit_once('-').unwrap().0.to_owned(), name);
        }
        for name in newest.values() {
            fs::remove_file(copy.join(name)).unwrap();
        }
        let other = open();
        fill(&other, 5);
        clock.advance(Duration::from_secs(1_000 * 86_400));
        other.shutdown().unwrap();
        assert_eq!(files(&live), before);
        let other = open();
        assert!(other.compact().unwrap().dropped_segments > 0);
        fill(&other, 6);
        assert_eq!(files(&live), before);
        other.destroy().unwrap();
        assert_eq!(files(&live), before);
        assert_eq!(all(&wal), content);
    }
}

#[test]
fn a_snapshot_onto_an_earlier_one_does_only_what_is_new() {
    for journal in JOURNALS {
        let home = tempfile::tempdir().unwrap();
        let copy = home.path().join("copy");
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let wal = Wal::new(home.path().join("wal"), options(journal).clock(clock.clone())).unwrap();
        fill(&wal, 1);
        let first = wal.snapshot(&copy).unwrap();
        let again = wal.snapshot(&copy).unwrap();
        assert_eq!((again.linked_segments, again.copied_segments), (0, 0), "{again:?}");
        assert_eq!((again.kept_segments, again.segments), (first.segments, first.segments));
        assert_eq!((again.entries, again.bytes), (first.entries, first.bytes));

        wal.append_entry("key 3", None, "x", false).unwrap();
        let one = wal.snapshot(&copy).unwrap();
        assert_eq!((one.linked_segments, one.copied_segments), (0, 1), "{one:?}");
        // A seal now stands where the copy has its closing mark.
        clock.advance(Duration::from_secs(2 * 86_400));
        wal.append_entry("key 3", None, "y", false).unwrap();
        let sealed = wal.snapshot(&copy).unwrap();
        assert_eq!((sealed.linked_segments, sealed.copied_segments), (1, 1), "{sealed:?}");

        clock.advance(Duration::from_secs(8 * 86_400));
        let dropped = wal.compact().unwrap().dropped_segments;
        assert!(dropped > 5);
        let fewer = wal.snapshot(&copy).unwrap();
        assert_eq!(fewer.removed_segments, dropped, "{fewer:?}");
        let before = all(&wal);
        wal.shutdown().unwrap();
        let opened = Wal::new(&copy, options(0).clock(clock)).unwrap();
        assert!(opened.recovery_report().clean);
        assert_eq!(all(&opened), before);
    }
}

#[test]
fn what_is_not_an_earlier_snapshot_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let wal = Wal::new(at("wal"), options(0)).unwrap();
    fill(&wal, 1);
    assert!(matches!(wal.snapshot(at("wal")), Err(WalError::Locked { .. })));

    fs::create_dir(at("somebody")).unwrap();
    fs::write(at("somebody").join("file"), "theirs").unwrap();
    assert!(matches!(wal.snapshot(at("somebody")), Err(WalError::NotEmpty { .. })));
    assert_eq!(fs::read(at("somebody").join("file")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(at("somebody")).unwrap().count(), 1);

    let other = Wal::new(at("other"), options(0)).unwrap();
    fill(&other, 2);
    assert!(matches!(wal.snapshot(at("other")), Err(WalError::Locked { .. })));
    other.snapshot(at("copy of other")).unwrap();
    other.shutdown().unwrap();
    for name in ["other", "copy of other"] {
        let before = files(&at(name));
        assert!(matches!(wal.snapshot(at(name)), Err(WalError::NotEmpty { .. })), "{name}");
        assert_eq!(files(&at(name)), before);
    }
    // One that was opened may have entries of its own.
    wal.snapshot(at("copy")).unwrap();
    let copy = Wal::new(at("copy"), options(0)).unwrap();
    assert!(matches!(wal.snapshot(at("copy")), Err(WalError::Locked { .. })));
    copy.append_entry("key 1", None, "new", true).unwrap();
    copy.shutdown().unwrap();
    assert!(matches!(wal.snapshot(at("copy")), Err(WalError::NotEmpty { .. })));
    fs::write(at("a file"), "").unwrap();
    assert!(matches!(wal.snapshot(at("a file")), Err(WalError::Io { .. })));
    wal.shutdown().unwrap();
    assert!(matches!(wal.snapshot(at("late")), Err(WalError::Closed)));
    assert!(!at("late").exists());
}

/// Stops the writers, whatever happens.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writers go from key to key, old ones and new ones, each acknowledged before the next. While a
/// copy is looked at they pause: there would be more to look at each time.
/// `KEYWAL_SNAPSHOTS`: so many, 6 if not given.
#[test]
fn the_cut_goes_through_all_keys_at_one_moment() {
    let snapshots = env_number("KEYWAL_SNAPSHOTS").unwrap_or(6);
    for journal in JOURNALS {
        let home = tempfile::tempdir().unwrap();
        let wal = Wal::new(home.path().join("wal"), options(journal)).unwrap();
        let (done, paused) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            for writer in 0..3 {
                let (wal, done, paused) = (&wal, &done, &paused);
                scope.spawn(move || {
                    let mut round = 0_usize;
                    while !done.load(Ordering::Relaxed) {
                        if paused.load(Ordering::Relaxed) {
                            thread::sleep(Duration::from_millis(2));
                            continue;
                        }
                        for key in 0..7 {
                            let key = format!("{writer} {key}");
                            wal.append_entry(&key, None, vec![0; 100], false).unwrap();
                        }
                        if round % 16 == 0 {
                            let key = format!("{writer} new {}", round / 16);
                            wal.append_entry(key, None, "", false).unwrap();
                        }
                        round += 1;
                        thread::sleep(Duration::from_millis(2));
                    }
                });
            }
            let _stop = Stop(&done);
            for at in 0..snapshots {
                paused.store(false, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
                let path = home.path().join(format!("copy {}", at % 2));
                wal.snapshot(&path).unwrap();
                paused.store(true, Ordering::Relaxed);
                let from = home.path().join(format!("open {at}"));
                fs::create_dir(&from).unwrap();
                for entry in fs::read_dir(&path).unwrap() {
                    let entry = entry.unwrap();
                    fs::copy(entry.path(), from.join(entry.file_name())).unwrap();
                }
                let copy = Wal::new(&from, options(0)).unwrap();
                assert!(copy.recovery_report().clean);
                for writer in 0..3 {
                    let len = |key: String| copy.entries(key).unwrap().map(Result::unwrap).count();
                    let lens: Vec<usize> =
                        (0..7).map(|key| len(format!("{writer} {key}"))).collect();
                    let rounds = (0..usize::MAX)
                        .take_while(|n| len(format!("{writer} new {n}")) > 0)
                        .count();
                    assert_eq!(len(format!("{writer} new {}", rounds + 1)), 0);
                    let falls = lens.windows(2).all(|pair| pair[0] >= pair[1]);
                    assert!(falls && lens[0] <= lens[6] + 1, "{lens:?}");
                    assert!(rounds <= lens[6].div_ceil(16), "{lens:?}, {rounds} new keys");
                    assert!(
                        rounds >= lens[0].saturating_sub(1).div_ceil(16),
                        "{lens:?}, {rounds} new keys"
                    );
                }
            }
        });
    }
}

/// An append that takes its time holds up who comes by every key to note where it ends; the others go on meanwhile.
#[test]
fn the_cut_is_one_moment_though_it_is_held_up() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "slow-");
    let wal = Wal::open_in(Arc::new(dir.clone()), options(0)).unwrap();
    // Some hashes are above that of the slow one, some below.
    let key = |number: usize| format!("{number} key");
    wal.append_entry("slow", None, "", false).unwrap();
    let (begins, begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    dir.before_write(move || {
        begins.send(()).unwrap();
        may_go_on.recv().unwrap();
    });
    let copy = SimDir::new(2);
    thread::scope(|scope| {
        scope.spawn(|| wal.append_entry("slow", None, "", false).unwrap());
        begun.recv().unwrap();
        let snapshot = scope.spawn(|| wal.snapshot_in(&copy).unwrap());
        for _ in 0..100 {
            (0..20).for_each(|number| drop(wal.append_entry(key(number), None, "", false)));
            thread::sleep(Duration::from_millis(2));
        }
        go_on.send(()).unwrap();
        snapshot.join().unwrap();
    });
    let copy = Wal::open_in(Arc::new(copy), options(0)).unwrap();
    let lens: Vec<u64> = (0..20).map(|number| copy.len(key(number)).unwrap()).collect();
    let falls = lens.windows(2).all(|pair| pair[0] >= pair[1]);
    assert!(falls && lens[0] <= lens[19] + 1, "{lens:?}");
}

#[test]
fn damage_is_copied_and_reported() {
    let home = tempfile::tempdir().unwrap();
    let wal = Wal::new(home.path().join("wal"), options(0)).unwrap();
    fill(&wal, 1);
    wal.sync().unwrap();
    let segments = wal.segments("key 1").unwrap();
    for segment in [&segments[0], segments.last().unwrap()] {
        let mut bytes = fs::read(&segment.path).unwrap();
        let at = bytes.len() * 3 / 4;
        bytes[at] ^= 1;
        fs::write(&segment.path, bytes).unwrap();
    }
    let report = wal.snapshot(home.path().join("copy")).unwrap();
    assert_eq!(report.damaged.len(), 2, "{report:?}");
    assert_eq!(report.damaged[0].path, segments[0].path);
    let wanted: Vec<String> =
        wal.entries("key 1").unwrap().map(|entry| short(entry, "wal")).collect();
    let copy = Wal::new(home.path().join("copy"), options(0)).unwrap();
    let found: Vec<String> =
        copy.entries("key 1").unwrap().map(|entry| short(entry, "copy")).collect();
    assert_eq!(found, wanted);
    assert_eq!(all_but(&copy, "key 1"), all_but(&wal, "key 1"));
}

/// What the log has lost may be in the copy still: that was removed, or overwritten.
#[test]
fn an_earlier_snapshot_of_what_is_lost_is_left_as_it_is() {
    for damage in ["missing", "cut", "missing, opened before", "flipped", "newest cut"] {
        let home = tempfile::tempdir().unwrap();
        let (dir, copy) = (home.path().join("wal"), home.path().join("copy"));
        let wal = Wal::new(&dir, options(0)).unwrap();
        fill(&wal, 1);
        wal.append_entry("key 1", None, "durable", true).unwrap();
        wal.snapshot(&copy).unwrap();
        let segments = wal.segments("key 1").unwrap();
        wal.shutdown().unwrap();
        let before = files(&copy);
        let middle = &segments[segments.len() / 2].path;
        let newest = &segments.last().unwrap().path;
        let cut = |path: &Path, by: u64| {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - by).unwrap();
        };
        match damage {
            "missing" => fs::remove_file(middle).unwrap(),
            "missing, opened before" => {
                fs::remove_file(middle).unwrap();
                drop(Wal::new(&dir, options(0)).unwrap());
            }
            "cut" => cut(newest, 40),
            "newest cut" => {
                // As a power cut takes what was not synced.
                drop(Wal::new(&dir, options(0)).unwrap());
                cut(newest, 72);
            }
            _ => {
                let mut bytes = fs::read(newest).unwrap();
                let at = bytes.len() - 70;
                bytes[at] ^= 1;
                fs::write(newest, bytes).unwrap();
            }
        }
        let wal = Wal::new(&dir, options(0)).unwrap();
        let appended = wal.append_entry("key 1", None, "more", false);
        let refused = wal.snapshot(&copy);
        assert!(matches!(refused, Err(WalError::Corrupted { .. })), "{damage}: {refused:?}");
        assert_eq!(files(&copy), before, "{damage}");
        let fresh = wal.snapshot(home.path().join("fresh")).unwrap();
        let silent = damage == "newest cut" && appended.is_ok();
        assert!(silent || !fresh.damaged.is_empty(), "{damage}: {fresh:?}");
    }
}

fn short(entry: Result<Entry, WalError>, dir: &str) -> String {
    entry.map_or_else(
        |error| error.to_string().replace(&format!("/{dir}/"), "/"),
        |entry| format!("{} {:?}", entry.index, entry.content),
    )
}

fn all_but(wal: &Wal, but: &str) -> BTreeMap<Key, Vec<Entry>> {
    let keys = wal.enumerate_keys().unwrap().filter(|key| key != but);
    keys.map(|key| {
        let entries = wal.entries(&key).unwrap().map(Result::unwrap).collect();
        (key, entries)
    })
    .collect()
}

// ---- on the simulated disk ----

type Contents = BTreeMap<Key, Vec<Bytes>>;

fn contents(wal: &Wal) -> Contents {
    all(wal)
        .into_iter()
        .map(|(key, entries)| (key, entries.into_iter().map(|entry| entry.content).collect()))
        .collect()
}

/// A log on a simulated disk, with an earlier snapshot in the folder `copy` if wanted, that has
/// something new for the next one. Everything is durable.
fn simulated(journal: u64, earlier: bool) -> (SimDir, Wal) {
    let sim = SimDir::new(7);
    let wal = Wal::open_in(Arc::new(sim.clone()), options(journal)).unwrap();
    for (key, bytes) in [("a", 3000), ("a", 3000), ("b", 10)] {
        wal.append_entry(key, None, content(1, bytes), true).unwrap();
    }
    if earlier {
        wal.snapshot_in(&sim.folder("copy")).unwrap();
    }
    wal.append_entry("a", None, content(4, 3000), true).unwrap();
    wal.append_entry("c", None, content(5, 100), true).unwrap();
    (sim, wal)
}

/// What is to be said of the copy, after whatever went wrong: it is not there yet, or is known to be
/// incomplete, or holds exactly one of these.
fn judge(copy: &SimDir, complete: &[&Contents]) -> bool {
    let mut names = Vec::new();
    copy.list(&mut |name| names.push(name.to_owned())).unwrap();
    if names.iter().all(|name| name == "META" || name == "LOCK") {
        return false;
    }
    match Wal::open_in(Arc::new(copy.clone()), options(0)) {
        Err(WalError::Incomplete { .. }) => false,
        Err(error) => panic!("{error}"),
        Ok(wal) => {
            let report = wal.recovery_report();
            // Where the last write to `META` was cut off, it is checked once more.
            assert!(report.damaged.is_empty() && report.torn.is_empty(), "{report:?}");
            assert!(complete.contains(&&contents(&wal)), "complete, but not what it was");
            true
        }
    }
}

#[test]
fn power_cuts_leave_the_original_whole_and_the_copy_whole_or_incomplete() {
    let budget = CrashBudget { exhaustive_bits: 6, samples: 24, garbled: 3, seed: 1 };
    let (mut states, mut whole) = (0, 0);
    for (journal, earlier) in [(0, false), (0, true), (4096, false), (4096, true)] {
        let (sim, wal) = simulated(journal, earlier);
        let before = contents(&wal);
        let old = if earlier {
            let image = sim.image();
            contents(
                &Wal::open_in(Arc::new(SimDir::from_image(&image, 1).folder("copy")), options(0))
                    .unwrap(),
            )
        } else {
            Contents::new()
        };
        let start = sim.trace_len();
        wal.snapshot_in(&sim.folder("copy")).unwrap();
        for at in start..=sim.trace_len() {
            sim.crash_images(at, &budget, &mut |image, choice| {
                states += 1;
                let booted = SimDir::from_image(image, 1);
                let original = Wal::open_in(Arc::new(booted.clone()), options(journal)).unwrap();
                let report = original.recovery_report();
                assert!(report.damaged.is_empty(), "{choice}: {report:?}");
                assert_eq!(contents(&original), before, "{choice}");
                // On a disk of its own: opening it makes it another log.
                let apart = SimDir::from_image(image, 2).folder("copy");
                let complete = judge(&apart, &[&old, &before]);
                whole += u64::from(complete);
                assert!(
                    complete || at < sim.trace_len(),
                    "{choice}: incomplete when it had returned"
                );
                original.snapshot_in(&booted.folder("copy")).unwrap();
                drop(original);
                let durable = SimDir::from_image(&booted.durable_image(), 1);
                assert!(judge(&durable.folder("copy"), &[&before]), "{choice}: not completed");
            });
        }
    }
    println!("{states} states, {whole} of them whole");
    assert!(states > 1000 && whole > 10);
}

#[test]
fn failing_calls_leave_the_original_usable_and_the_copy_whole_or_incomplete() {
    let (mut cases, mut failed) = (0, 0);
    for (journal, earlier) in [(0, false), (0, true), (4096, true)] {
        let calls = {
            let (sim, wal) = simulated(journal, earlier);
            let before = sim.calls();
            wal.snapshot_in(&sim.folder("copy")).unwrap();
            sim.calls() - before
        };
        for nth in 0..calls {
            for (kind, forever) in [
                (FaultKind::Error(5), false),
                (FaultKind::Error(28), false),
                (FaultKind::Error(28), true),
                (FaultKind::Error(13), false),
                (FaultKind::Interrupted, false),
                (FaultKind::Short(40), false),
                (FaultKind::ShortThenError { bytes: 600, error: 28 }, false),
            ] {
                let (sim, wal) = simulated(journal, earlier);
                let before = contents(&wal);
                let image = SimDir::from_image(&sim.image(), 1).folder("copy");
                let old = if earlier {
                    contents(&Wal::open_in(Arc::new(image), options(0)).unwrap())
                } else {
                    Contents::new()
                };
                let call = keywal::fs::sim::CallKind::Any;
                sim.inject(Fault { call, nth, kind, forever, name_contains: None });
                let result = wal.snapshot_in(&sim.folder("copy"));
                sim.clear_faults();
                let what = format!("journal {journal}, call {nth}, {kind:?}: {result:?}");
                cases += 1;
                failed += u64::from(result.is_err());
                assert!(!matches!(result, Err(WalError::Corrupted { .. })), "{what}");
                let image = SimDir::from_image(&sim.durable_image(), 3).folder("copy");
                let complete = judge(&image, &[&old, &before]);
                assert!(complete || result.is_err(), "{what}");
                assert_eq!(contents(&wal), before, "{what}");
                let _ = wal.append_entry("d", None, "new", true);
                let reopened = Wal::open_in(Arc::new(sim.after_kill()), options(journal)).unwrap();
                let report = reopened.recovery_report();
                assert!(report.damaged.is_empty(), "{what}: {report:?}");
                let now = contents(&reopened);
                assert!(
                    before.iter().all(|(key, entries)| now.get(key) == Some(entries)),
                    "{what}"
                );
            }
        }
    }
    println!("{cases} cases, {failed} snapshots failed");
    assert!(failed > 100);
}

/// A log, and what happens in the middle of its snapshot: behind the cut, while the files of `a` are copied, and
/// before those of keys with greater hashes are. It may have to wait for the end of the snapshot.
fn meanwhile(wal: &Arc<Wal>, dir: &HookedDir, what: impl FnOnce(&Wal) + Send + 'static) -> SimDir {
    let (begun, ended) = mpsc::channel();
    let (other, copy) = (Arc::clone(wal), SimDir::new(9));
    dir.before_sync(move || {
        let (done, is_done) = mpsc::channel();
        let thread = thread::spawn(move || {
            what(&other);
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(Duration::from_millis(200));
        begun.send(thread).unwrap();
    });
    wal.snapshot_in(&copy).unwrap();
    ended.try_recv().expect("it happened").join().unwrap();
    copy
}

/// With a sealed segment of `a` that only the journal has.
fn hooked() -> (Arc<Wal>, HookedDir) {
    let dir = HookedDir::new(&SimDir::new(1), "a-af63dc4c8601ec8c-0001");
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options(1 << 20)).unwrap());
    for number in 0..2 {
        wal.append_entry("a", None, content(number, 3000), false).unwrap();
    }
    assert_eq!(wal.segments("a").unwrap().len(), 2);
    (wal, dir)
}

/// Changing a retention drops an empty segment, which the snapshot may be about to copy.
#[test]
fn a_key_whose_retention_changes_meanwhile_is_there() {
    let (wal, dir) = hooked();
    wal.create_key("k", KeyOptions::default().metadata("facts")).unwrap();
    let copy = meanwhile(&wal, &dir, |wal| wal.set_retention("k", Retention::FOREVER).unwrap());
    let copy = Wal::open_in(Arc::new(copy), options(0)).unwrap();
    assert_eq!(copy.key_metadata("k").unwrap().as_deref(), Some(&b"facts"[..]));
    assert_eq!(copy.retention("k").unwrap(), None);
    assert_eq!(wal.retention("k").unwrap(), Some(Retention::FOREVER));
}

/// What a removed key has left, because a key with the same hash is found past it, is in the copy; what the key
/// gets when it is used again behind the cut is not.
#[test]
fn a_removed_key_that_is_used_again_meanwhile_is_still_removed() {
    let (wal, dir) = hooked();
    for key in COLLIDING {
        wal.append_entry(key, None, "before", true).unwrap();
    }
    wal.remove_key(COLLIDING[0]).unwrap();
    let copy = meanwhile(&wal, &dir, |wal| {
        wal.append_entry(COLLIDING[0], None, "behind", false).unwrap();
    });
    for _ in 0..2 {
        let copy = Wal::open_in(Arc::new(copy.clone()), options(0)).unwrap();
        assert!(copy.recovery_report().clean);
        assert_eq!(copy.entries(COLLIDING[0]).unwrap().count(), 0);
        assert_eq!(copy.next_index(COLLIDING[1]).unwrap(), 1);
        copy.shutdown().unwrap();
    }
}

/// A file system without hard links, or another one: everything is copied.
#[test]
fn what_cannot_be_linked_is_copied() {
    for journal in JOURNALS {
        let (_, wal) = simulated(journal, false);
        let elsewhere = SimDir::new(9);
        let report = wal.snapshot_in(&elsewhere).unwrap();
        assert_eq!((report.linked_segments, report.copied_segments), (0, report.segments));
        let again = wal.snapshot_in(&elsewhere).unwrap();
        assert_eq!((again.kept_segments, again.copied_bytes), (report.segments, 0));
        let before = contents(&wal);
        assert!(judge(&SimDir::from_image(&elsewhere.durable_image(), 1), &[&before]));
    }
}

/// An image in which the copy's folder is a directory of its own.
#[test]
fn one_damaged_slot_of_the_facts_costs_nothing() {
    let (sim, wal) = simulated(0, false);
    wal.snapshot_in(&sim.folder("copy")).unwrap();
    let before = contents(&wal);
    for at in [0, 4096] {
        let mut image: Image = sim.image();
        let mut facts = image.get("copy/META").unwrap().to_vec();
        facts[at + 20] ^= 1;
        image.set("copy/META", facts);
        let copy = SimDir::from_image(&image, 1).folder("copy");
        let opened = Wal::open_in(Arc::new(copy), options(0)).unwrap();
        assert_eq!(opened.recovery_report().damaged, []);
        assert_eq!(contents(&opened), before);
    }
}

/// Torn tails, segments that take no more entries, left-overs of what was dropped: whatever a power cut
/// leaves of the original, its snapshot is a sound log with the same entries.
#[test]
fn a_log_that_was_recovered_can_be_copied() {
    let budget = CrashBudget { exhaustive_bits: 4, samples: 10, garbled: 3, seed: 1 };
    let mut states = 0;
    for journal in [0, 4096] {
        let sim = SimDir::new(7);
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let options = options(journal).clock(clock.clone()).preallocate_bytes(1024);
        let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        for serial in 0..14_u64 {
            let batch = (0..=serial % 2).map(|at| (None, content(serial + at, 700)));
            wal.append_batch(COLLIDING[usize::from(serial % 3 == 0)], batch, serial % 4 == 0)
                .unwrap();
        }
        clock.advance(Duration::from_secs(8 * 86_400));
        wal.compact().unwrap();
        wal.remove_key(COLLIDING[1]).unwrap();
        for at in (1..=sim.trace_len()).step_by(2) {
            sim.crash_images(at, &budget, &mut |image, choice| {
                states += 1;
                let booted = SimDir::from_image(image, 1);
                let wal = Wal::open_in(Arc::new(booted.clone()), options.clone()).unwrap();
                let copy = booted.folder("copy");
                for round in 0..2 {
                    let report = wal.snapshot_in(&copy).unwrap();
                    assert_eq!(report.damaged, [], "{choice}, round {round}");
                    // On a disk of its own: opening it makes it another log.
                    let apart = SimDir::from_image(&booted.durable_image(), 2).folder("copy");
                    let opened = Wal::open_in(Arc::new(apart), options.clone()).unwrap();
                    let found = opened.recovery_report();
                    assert!(found.clean && found.damaged.is_empty(), "{choice}: {found:?}");
                    assert_eq!(contents(&opened), contents(&wal), "{choice}, round {round}");
                    for key in COLLIDING {
                        wal.append_entry(key, None, content(99, 10), false).unwrap();
                    }
                }
            });
        }
    }
    println!("{states} states");
    assert!(states > 500);
}

/// Found by a newcomer: replaying the journal wrote what was there already, to files that a snapshot shares.
#[test]
fn a_finished_snapshot_is_not_harmed_by_a_power_cut_during_the_next_recovery() {
    let sim = SimDir::new(7);
    let open = |sim: &SimDir| {
        let options = options(64 << 10).max_entry_bytes(4000);
        Wal::open_in(Arc::new(sim.clone()), options).unwrap()
    };
    let wal = open(&sim);
    for n in 0..12 {
        wal.append_entry("k", None, [n; 1000], false).unwrap();
    }
    assert!(wal.snapshot_in(&sim.folder("copy")).unwrap().linked_segments > 1);
    let killed = sim.after_kill();
    drop(wal);
    let before = killed.trace_len();
    drop(open(&killed));
    let budget = CrashBudget { garbled: 8, ..CrashBudget::default() };
    for at in before + 1..=killed.trace_len() {
        killed.crash_images(at, &budget, &mut |image, choice| {
            let copy = SimDir::from_image(image, 2).folder("copy");
            let found = verify_in(Arc::new(copy)).unwrap();
            assert!(found.damaged.is_empty(), "{choice}: {found:?}");
            assert_eq!(found.entries, 12, "{choice}");
        });
    }
    let trace = killed.trace();
    let shared: Vec<usize> = trace
        .iter()
        .filter_map(|op| if let Op::Link { inode, .. } = op { Some(*inode) } else { None })
        .collect();
    let written = |op: &Op| matches!(op, Op::Write { inode, .. } if shared.contains(inode));
    assert!(!trace[before..].iter().any(written));
}

/// What recovery looks for in a shared file is written if it cannot be read: a bad sector keeps no log from opening.
#[test]
fn a_read_that_fails_in_a_shared_file_keeps_no_log_from_opening() {
    let failed = |shared: bool| {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options(65_536)).unwrap();
        for content in [[1; 3_000], [2; 3_000]] {
            wal.append_entry("k", None, content, true).unwrap();
        }
        if shared {
            wal.snapshot_in(&sim.folder("copy")).unwrap();
        }
        drop(wal);
        let opens = |nth: &u64| {
            let sim = sim.after_kill();
            fail(&sim, CallKind::Read, *nth, FaultKind::Error(5), SEGMENT);
            Wal::open_in(Arc::new(sim), options(65_536)).is_ok()
        };
        (0..10).filter(|nth| !opens(nth)).count()
    };
    assert_eq!(failed(true), failed(false));
}
