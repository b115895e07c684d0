//! Is there always room in the journal, for what has to go round with it and for others beside that? And does what
//! nobody was promised take none?

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use keywal::fs::sim::{CallKind, FaultKind, Op, SimDir};
use keywal::{ManualClock, Wal, WalOptions};

use common::hooked::HookedDir;
use common::logs::{NOW, SEGMENT, fail, records};

mod common;

const EIO: FaultKind = FaultKind::Error(5);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(30);

fn options(journal_bytes: u64) -> WalOptions {
    WalOptions::default().journal_bytes(journal_bytes)
}

/// The sync of one key's file has failed, once: everything goes on with the other keys.
fn check_that_others_go_on(wal: &Wal) {
    for round in 0..200 {
        wal.append_entry("other", None, [7; 100], true).unwrap();
        wal.append_many(["a", "b"].map(|key| (key, None, "x".into())), true).unwrap();
        let key = format!("fresh {round}");
        wal.append_entry(&key, None, "x", true).unwrap();
        wal.remove_key(&key).unwrap();
    }
}

/// Removals, one after the other, had filled the half of the journal that is kept free to carry what was promised.
#[test]
fn removals_leave_the_room_to_carry_what_was_promised() {
    for journal_bytes in [4_096, 16_384] {
        let sim = SimDir::new(1);
        let open = || Wal::open_in(Arc::new(sim.clone()), options(journal_bytes)).unwrap();
        let keys: Vec<String> =
            (0..journal_bytes / 64 + 50).map(|number| format!("removed {number}")).collect();
        let wal = open();
        for key in &keys {
            wal.append_entry(key, None, "x", false).unwrap();
        }
        wal.append_entry("k", None, "first", true).unwrap();
        wal.shutdown().unwrap();
        drop(wal);
        let wal = open();
        wal.append_entry("k", None, [7; 200], true).unwrap();
        fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
        for key in &keys {
            wal.remove_key(key).unwrap();
        }
        assert_eq!(sim.faults_hit(), 1);
        check_that_others_go_on(&wal);
    }
}

/// The sync takes its time before it fails, and the key is appended to meanwhile: up to half of the journal is of one
/// segment, and stands there twice while the tail is in the middle of it.
#[test]
fn half_of_the_journal_finds_room_to_go_round() {
    for percent in [30, 42, 45, 48] {
        let sim = SimDir::new(1);
        let dir = HookedDir::new(&sim, SEGMENT);
        let options = options(65_536).maintenance_thread(true);
        let wal = Wal::open_in(Arc::new(dir.clone()), options).unwrap();
        fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
        let (syncs, is_syncing) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        let failed = Arc::new(AtomicBool::new(false));
        let has_failed = Arc::clone(&failed);
        dir.before_sync(move || {
            syncs.send(()).unwrap();
            let _ = may_go_on.recv_timeout(LONG);
        });
        dir.after_each_sync(move || has_failed.store(true, Ordering::Relaxed));
        wal.append_entry("k", None, [7; 208], true).unwrap();
        // In the journal, each one has 304 bytes. The sync begins at a quarter.
        let (quarter, end) = (65_536 / 4 / 304 + 2, 65_536 * percent / 100 / 304);
        let append = |_| wal.append_entry("k", None, [7; 208], false).map(drop).unwrap();
        (1..quarter).for_each(append);
        is_syncing.recv_timeout(LONG).unwrap();
        (quarter..end).for_each(append);
        go_on.send(()).unwrap();
        while !failed.load(Ordering::Relaxed) {
            thread::yield_now();
        }
        check_that_others_go_on(&wal);
    }
}

/// More than half of the journal waits for a segment, as its thread is busy elsewhere, when that is to be synced.
#[test]
fn more_than_half_of_the_journal_is_not_promised() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "other-");
    let options = options(65_536).maintenance_thread(true);
    let wal = Wal::open_in(Arc::new(dir.clone()), options).unwrap();
    dir.before_write(|| thread::sleep(Duration::from_millis(300)));
    wal.append_entry("other", None, "0", false).unwrap();
    for _ in 0..68 {
        wal.append_entry("k", None, [7; 500], false).unwrap();
    }
    fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
    let _ = wal.sync_key("k");
    for _ in 0..68 {
        wal.append_entry("busy", None, [7; 500], false).unwrap();
    }
    assert_eq!(sim.faults_hit(), 1);
    check_that_others_go_on(&wal);
}

/// A promise that was kept had been paid for again each time the journal came round, with a sync of the segment.
#[test]
fn what_is_appended_after_a_sync_needs_none() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim), options(256 << 10)).unwrap();
    for key in 0..200 {
        wal.append_entry(format!("key {key}"), None, "first", false).unwrap();
    }
    wal.sync().unwrap();
    let before = wal.stats().syncs;
    // Some fifteen times the journal.
    for number in 0..20_000 {
        wal.append_entry(format!("key {}", number % 200), None, [7; 100], false).unwrap();
    }
    let syncs = wal.stats().syncs - before;
    // Once for each of the promised segments, once or twice a turn for the journal's tail.
    assert!(syncs < 200 + 15 * 8, "{syncs} syncs for entries that nobody wants to be durable");
}

/// Half of the journal, less so many bytes, waits for a segment whose sync takes its time and then fails.
fn half_is_carried(journal_bytes: u64, less: u64) -> (SimDir, Wal) {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, SEGMENT);
    let options = options(journal_bytes).maintenance_thread(true);
    let wal = Wal::open_in(Arc::new(dir.clone()), options).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
    let (syncs, is_syncing) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    dir.before_sync(move || {
        syncs.send(()).unwrap();
        let _ = may_go_on.recv_timeout(LONG);
    });
    // Appends an entry, which has 96 bytes of headers, and says how much is left.
    let append = |bytes: u64, durable| {
        wal.append_entry("k", None, vec![7; usize::try_from(bytes).unwrap()], durable).unwrap();
        let (position, _, length) = *records(&sim).last().unwrap();
        journal_bytes / 2 - less - position - length as u64
    };
    append(208, true);
    while append(208, false) > journal_bytes / 4 - less - 1_000 {}
    is_syncing.recv_timeout(LONG).unwrap();
    while append(208, false) >= 700 {}
    let rest = append(8, false);
    assert_eq!(append(rest - 96, false), 0);
    go_on.send(()).unwrap();
    while sim.faults_hit() == 0 {
        thread::yield_now();
    }
    (sim, wal)
}

/// What is carried had been appended again for each entry of the others, or for each for which the room left by it was
/// too small.
#[test]
fn others_do_not_pay_for_what_is_carried() {
    for (less, entries, bytes) in [(1_000, 1_000, 100), (5_000, 200, 5_000)] {
        let (sim, wal) = half_is_carried(65_536, less);
        wal.append_entry("other", None, "0", false).unwrap();
        let (start, before) = (sim.trace_len(), wal.stats().syncs);
        for _ in 0..entries {
            wal.append_entry("other", None, vec![7; bytes], false).unwrap();
        }
        let written: usize = sim.trace()[start..]
            .iter()
            .map(|op| if let Op::Write { data, .. } = op { data.len() } else { 0 })
            .sum();
        let syncs = wal.stats().syncs - before;
        let few = syncs < entries as u64 && written < 10 * entries * (bytes + 100);
        assert!(few, "{written} bytes, {syncs} syncs for {entries} entries of {bytes} bytes");
    }
}

/// Each one takes room for what says so, and all that was promised is of one segment.
#[test]
fn removals_at_once_leave_the_room_to_carry() {
    for threads in [1, 8] {
        let (_sim, wal) = half_is_carried(65_536, 192);
        for round in 0..1_600 / threads {
            let key = |n: usize| format!("fresh {round} {n}");
            for n in 0..threads {
                wal.append_entry(key(n), None, "x", true).unwrap();
            }
            thread::scope(|scope| {
                for n in 0..threads {
                    let wal = &wal;
                    scope.spawn(move || wal.remove_key(key(n)).unwrap());
                }
            });
        }
    }
}

/// A directory of sixty keys, of each of which a segment has expired.
fn sixty_to_compact(options: &WalOptions, clock: &ManualClock) -> SimDir {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone().journal_bytes(0)).unwrap();
    for _ in 0..2 {
        for key in 0..60 {
            wal.append_entry(format!("key {key}"), None, "x", false).unwrap();
        }
        clock.advance(Duration::from_secs(11));
    }
    wal.shutdown().unwrap();
    // In a log that is open, it would not be trusted.
    clock.advance(Duration::from_secs(92));
    sim
}

/// The first sync of the journal in a life, a slow one, ended between the record that names its new start, in the last
/// space there was, and the look whether that was enough: another record was wanted, had no room, and nobody got any.
#[test]
fn a_sync_that_ends_as_the_last_room_is_taken_leaves_no_one_without() {
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(100)).clock(clock.clone());
    let sim = sixty_to_compact(&options, &clock);
    let writes = Arc::new(AtomicUsize::new(0));
    let mut ends_at = 0;
    while ends_at <= writes.load(Ordering::Relaxed) {
        let copy = sim.after_kill();
        // A write to the journal is a call then.
        fail(&copy, CallKind::Map, 0, FaultKind::Error(1), "JOURNAL");
        let dir = HookedDir::new(&copy, "JOURNAL");
        let options = options.clone().journal_bytes(4_096);
        let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options).unwrap());
        wal.append_entry("x", None, "0", false).unwrap();
        let (syncs, is_syncing) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel();
        dir.before_sync(move || {
            syncs.send(()).unwrap();
            let _ = may_go_on.recv_timeout(Duration::from_secs(1));
        });
        let (ended, has_ended) = mpsc::channel();
        let syncer = Arc::clone(&wal);
        thread::spawn(move || ended.send(syncer.sync_key("x")));
        is_syncing.recv_timeout(LONG).unwrap();
        // What was promised leaves the journal.
        for _ in 0..14 {
            wal.append_entry("filler", None, [7; 100], false).unwrap();
        }
        writes.store(0, Ordering::Relaxed);
        let (count, has_ended) = (Arc::clone(&writes), Mutex::new(has_ended));
        dir.at_each_call(move |call, name| {
            let is_write = call == CallKind::Write && name == "JOURNAL";
            if is_write && count.fetch_add(1, Ordering::Relaxed) == ends_at {
                let _ = go_on.send(());
                // Where it waits for this write itself, in vain.
                let _ = has_ended.lock().unwrap().recv_timeout(Duration::from_secs(1));
            }
        });
        let (done, is_done) = mpsc::channel();
        let compacting = Arc::clone(&wal);
        thread::spawn(move || done.send(compacting.compact()));
        let report = is_done.recv_timeout(LONG).expect("compacts for ever").unwrap();
        assert_eq!(report.failures, []);
        ends_at += 1;
    }
    assert!(ends_at > 60);
}

/// Once the journal's start was named, names were asked for once more, though nobody was promised any: a sync of the
/// directory too many, and if it failed, the room was taken and none was given back.
#[test]
fn names_are_made_durable_once_for_a_start() {
    let sim = SimDir::new(1);
    fail(&sim, CallKind::Map, 0, FaultKind::Error(1), "JOURNAL");
    let dir = HookedDir::new(&sim, "JOURNAL");
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options(4_096)).unwrap());
    wal.append_entry("p", None, "promised, with its name", true).unwrap();
    let (syncs, creates) = (Arc::new(AtomicUsize::new(0)), AtomicBool::new(true));
    let (counted, other) = (Arc::clone(&syncs), Arc::clone(&wal));
    dir.at_each_call(move |call, name| {
        let all = counted.fetch_add(usize::from(call == CallKind::SyncDir), Ordering::Relaxed);
        // The record that names the start.
        let is_named = all > 0 && call == CallKind::Write && name == "JOURNAL";
        if is_named && creates.swap(false, Ordering::Relaxed) {
            let other = Arc::clone(&other);
            let disk = sim.clone();
            thread::spawn(move || drop(other.append_entry("n", None, "x", false)));
            while !disk.image().files().any(|(name, _)| name.starts_with("n-")) {
                thread::yield_now();
            }
            // Until its name is noted.
            thread::sleep(Duration::from_millis(100));
        }
    });
    for _ in 0..20 {
        wal.append_entry("p", None, [7; 100], false).unwrap();
    }
    assert_eq!(syncs.load(Ordering::Relaxed), 1);
}
