//! A file whose sync has failed: is what was readable still readable, and does what was dropped of it stay away?

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, FaultKind, SimDir};
use keywal::{ManualClock, Result, Wal, WalError, WalOptions};

use common::hooked::HookedDir;
use common::logs::{NOW, SEGMENT, TWINS, contents, fail, options};

mod common;

const EIO: FaultKind = FaultKind::Error(5);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(30);
/// In the name of the third file of a key.
const NEWEST: &str = "-0003.log";

/// Drops something of the key `k` just before its first file is synced, which fails, so that what the journal has of
/// the file goes round. That of another key cannot, once, so the journal still starts before the record of the drop;
/// the next time, it starts for a while between that and what went round. Looks at what a kill would leave until the
/// journal has come round: the entries with these numbers.
fn dropped_while_it_goes_round(entries: u8, drop: fn(&Wal) -> Result<()>, left: &[u8]) {
    // The journal starts then twice as far on as what is appended next is long.
    for bytes in (500..700).step_by(20) {
        dropped_before(bytes, entries, drop, left);
    }
}

fn dropped_before(bytes: usize, entries: u8, drop: fn(&Wal) -> Result<()>, left: &[u8]) {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, ".log");
    let options = || options().journal_bytes(65_536).max_segment_bytes(4_096);
    // The journal is read and written by position, so that this can fail, too.
    fail(&sim, CallKind::Map, 0, EIO, "JOURNAL");
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options()).unwrap());
    for number in 0..entries {
        wal.append_entry("k", None, [number; 1_200], true).unwrap();
    }
    // Its segment is looked at behind that of `k`.
    wal.append_entry("z", None, "z", true).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
    fail(&sim, CallKind::SyncData, 0, EIO, "z-");
    let (other, disk) = (Arc::downgrade(&wal), sim.clone());
    let first = AtomicBool::new(true);
    dir.at_each_call(move |kind, name| {
        if kind == CallKind::SyncData && name.starts_with("z-") {
            fail(&disk, CallKind::Read, 0, EIO, "JOURNAL");
        }
        if kind == CallKind::SyncData && name == SEGMENT && first.swap(false, Ordering::Relaxed) {
            let other = other.upgrade().unwrap();
            drop(&other).unwrap();
            // Each one waits for its own segment, so that the journal can start at any.
            for number in 0..4 {
                other.append_entry(format!("between {number}"), None, "x", false).unwrap();
            }
        }
    });
    let mut keys = (0..100).cycle().map(|number| format!("busy {number}"));
    let mut append = || wal.append_entry(keys.next().unwrap(), None, [7; 250], false).unwrap();
    while sim.faults_hit() < 4 {
        append();
    }
    let content = Bytes::from(vec![7; bytes]);
    // Their segments are there: a creation would make room first, and less.
    let entries = (0..20).map(|number| (format!("busy {number}"), None, content.clone()));
    wal.append_many(entries, false).unwrap();
    for after in 0..150 {
        let next = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
        let found: Vec<u8> = contents(&next, "k").iter().map(|content| content[0]).collect();
        assert_eq!(found, left, "{bytes}, and {after}");
        append();
    }
    assert_eq!(sim.faults_hit(), 4);
}

/// What was promised of a segment was appended to the journal once more behind the record of its drop. When the
/// journal started between the two, recovery made the file again.
#[test]
fn a_truncated_segment_does_not_go_round_with_the_journal() {
    dropped_while_it_goes_round(4, |wal| wal.truncate_before("k", 2).map(drop), &[2, 3]);
}

/// The same of a whole key, whose files are known to nobody by the time the journal has the record.
#[test]
fn a_removed_key_does_not_go_round_with_the_journal() {
    dropped_while_it_goes_round(1, |wal| wal.remove_key("k"), &[]);
}

/// A log that may have one file open. Of three files of the first twin the newest has been closed unsynced; another
/// key's is open, and cannot be closed. The next sync of the former fails.
fn closed_unsynced(dir: &HookedDir, sim: &SimDir, clock: &Arc<ManualClock>) -> Arc<Wal> {
    let options = options().max_open_files(1).max_segment_bytes(4_096).clock(clock.clone());
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options).unwrap());
    for number in 0..3 {
        wal.append_entry(TWINS[0], None, [number; 1_200], false).unwrap();
        clock.advance(Duration::from_secs(30));
    }
    wal.append_entry("other", None, "0", false).unwrap();
    assert_eq!((wal.stats().open_files, wal.health().unsynced_keys), (1, 2));
    fail(sim, CallKind::SyncData, 0, EIO, "other");
    wal.sync_key("other").unwrap_err();
    fail(sim, CallKind::SyncData, 0, EIO, NEWEST);
    wal
}

fn check_still_readable(wal: &Wal, when: &str) {
    let again = wal.sync_key(TWINS[0]);
    let found: Vec<_> = wal.entries(TWINS[0]).unwrap().collect();
    assert!(found.len() == 3 && found.iter().all(Result::is_ok), "{when}: {found:?}");
    assert!(matches!(again, Err(WalError::Poisoned { .. })), "{when}: {again:?}");
}

/// Whoever synced through a handle of its own, as the cache was full, took what the sync had met away with it: the
/// next one synced again, read back from the disk, and what had been readable was gone.
#[test]
fn what_a_failed_sync_lost_stays_readable_whoever_synced() {
    type Fails = fn(&Wal, &ManualClock) -> bool;
    let ways: [(&str, Fails); 3] = [
        ("truncate", |wal, _| wal.truncate_before(TWINS[0], 2).is_err()),
        ("compact", |wal, clock| {
            clock.advance(Duration::from_secs(65));
            !wal.compact().unwrap().failures.is_empty()
        }),
        ("create the twin", |wal, _| wal.append_entry(TWINS[1], None, "0", false).is_err()),
    ];
    for (what, way) in ways {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(NOW));
        let wal = closed_unsynced(&HookedDir::new(&sim, NEWEST), &sim, &clock);
        assert!(way(&wal, &clock), "{what} did not fail");
        assert_eq!(sim.faults_hit(), 2, "{what}");
        check_still_readable(&wal, what);
    }
}

/// Of two at once, one got the error, and the other read back what was lost.
#[test]
fn what_a_failed_sync_lost_stays_readable_when_two_sync_at_once() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, NEWEST);
    let wal = closed_unsynced(&dir, &sim, &Arc::new(ManualClock::new(NOW)));
    let (done, is_done) = mpsc::channel();
    let other = Arc::clone(&wal);
    dir.before_sync(move || {
        thread::spawn(move || done.send(other.sync_key(TWINS[0]).is_err()).unwrap());
        // It may as well wait until this one has ended: then the error is for this one.
        let _ = is_done.recv_timeout(Duration::from_millis(200));
    });
    wal.sync_key(TWINS[0]).unwrap_err();
    check_still_readable(&wal, "two at once");
}

/// Of a segment whose sync has failed, the journal starts at what is carried: behind the record that says that the
/// segment is dropped, what there was of it came back if the truncation ended before all of it stood there once more.
/// The process is killed, or the power cut, at the `nth` sync of the journal by who makes it come round.
fn truncated_while_it_is_carried(nth: usize, kill: bool) -> Option<(SimDir, Arc<ManualClock>)> {
    let sim = SimDir::new(1);
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(100))
        .journal_bytes(64 << 10)
        .clock(clock.clone());
    let dir = HookedDir::new(&sim, "");
    let (paused, is_paused) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (done, is_done) = mpsc::channel::<bool>();
    let (may_go_on, is_done) = (Mutex::new(may_go_on), Mutex::new(is_done));
    let (unlinked, has_paused) = (AtomicBool::new(false), AtomicBool::new(false));
    let (armed, count) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    let is_armed = Arc::clone(&armed);
    let cut: Arc<Mutex<Option<SimDir>>> = Arc::default();
    let (taken, disk, release) = (Arc::clone(&cut), sim.clone(), go_on.clone());
    dir.at_each_call(move |call, name| {
        if thread::current().name() == Some("truncates") {
            if call == CallKind::Remove && name.contains("-0002") {
                unlinked.store(true, Ordering::Relaxed);
            }
            if call == CallKind::SyncDir
                && unlinked.load(Ordering::Relaxed)
                && !has_paused.swap(true, Ordering::Relaxed)
            {
                paused.send(()).unwrap();
                let _ = may_go_on.lock().unwrap().recv_timeout(LONG);
            }
        } else if is_armed.load(Ordering::Relaxed)
            && call == CallKind::SyncData
            && name == "JOURNAL"
            && count.fetch_add(1, Ordering::Relaxed) == nth
        {
            release.send(()).unwrap();
            // Acknowledged: only then the process is killed, or the power cut.
            let done = is_done.lock().unwrap().recv_timeout(Duration::from_secs(5));
            if done == Ok(true) {
                let image = if kill {
                    disk.after_kill()
                } else {
                    SimDir::from_image(&disk.durable_image(), 3)
                };
                *taken.lock().unwrap() = Some(image);
            }
        }
    });
    let wal = Arc::new(Wal::open_in(Arc::new(dir), options).unwrap());
    for n in 0..4 {
        clock.advance(Duration::from_secs(15));
        wal.append_entry("k", None, vec![n; 3_000], false).unwrap();
        wal.sync().unwrap();
    }
    fail(&sim, CallKind::SyncData, 0, EIO, "k-af63e64c8601fd8a-0002");
    for _ in 0..2_000 {
        wal.append_entry("busy", None, "x", false).unwrap();
    }
    assert_eq!(sim.faults_hit(), 1);
    wal.sync().ok();
    let theirs = Arc::clone(&wal);
    let truncates = thread::Builder::new()
        .name("truncates".to_owned())
        .spawn(move || {
            let result = theirs.truncate_before("k", 3);
            let _ = done.send(result.is_ok());
            result
        })
        .unwrap();
    is_paused.recv_timeout(LONG).unwrap();
    armed.store(true, Ordering::Relaxed);
    for _ in 0..8_000 {
        wal.append_entry("busy", None, "x", false).unwrap();
        if cut.lock().unwrap().is_some() {
            break;
        }
    }
    let _ = go_on.send(());
    truncates.join().unwrap().unwrap();
    let cut = cut.lock().unwrap().take();
    cut.map(|cut| (cut, clock))
}

fn check_truncated(kill: bool) {
    let mut wrong = Vec::new();
    for nth in 0..24 {
        let Some((cut, clock)) = truncated_while_it_is_carried(nth, kill) else { continue };
        let options = WalOptions::with_retention(Duration::from_secs(100))
            .journal_bytes(64 << 10)
            .clock(clock);
        let wal = Wal::open_in(Arc::new(cut), options).unwrap();
        let found: Vec<_> = wal
            .entries("k")
            .unwrap()
            .map(|entry| entry.map(|entry| entry.index).map_err(|error| error.to_string()))
            .collect();
        if found != [Ok(3)] {
            wrong.push((nth, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_kill_brings_nothing_back_that_a_truncation_has_dropped() {
    check_truncated(true);
}

#[test]
fn a_power_cut_brings_nothing_back_that_a_truncation_has_dropped() {
    check_truncated(false);
}
