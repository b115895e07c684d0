//! A journal of which half is in use, and what cannot leave it: is anything refused for that which need not be, and is it
//! forgotten when it is over?

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, Fault, FaultKind, SimDir};
use keywal::{ManualClock, Wal, WalError, WalOptions};

use common::hooked::HookedDir;
use common::logs::{NOW, SEGMENT, fail, records};

mod common;

const EIO: FaultKind = FaultKind::Error(5);
const ENOSPC: FaultKind = FaultKind::Error(28);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(30);

fn for_ever(sim: &SimDir, call: CallKind, kind: FaultKind, name: &str) {
    let name_contains = Some(name.to_owned());
    sim.inject(Fault { call, nth: 0, kind, forever: true, name_contains });
}

/// The disk is full, and entries are durable in the journal only, up to each place of it. What is old is dropped, which
/// makes space.
fn dropped_on_a_full_disk(drop: impl Fn(&Wal) -> bool) {
    for bytes in (8..400).step_by(8) {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(NOW));
        let options = WalOptions::with_retention(Duration::from_secs(100))
            .clock(clock.clone())
            .journal_bytes(16_384)
            .max_segment_bytes(4_096)
            .max_entry_bytes(4_000);
        let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
        for number in 0..6_u8 {
            wal.append_entry("old", None, [number; 3_000], true).unwrap();
        }
        clock.advance(Duration::from_secs(1_000));
        for key in ["k", "k2"] {
            wal.append_entry(key, None, "0", true).unwrap();
        }
        for_ever(&sim, CallKind::Write, ENOSPC, ".log");
        let mut keys = ["k", "k2"].into_iter().cycle();
        while wal.append_entry(keys.next().unwrap(), None, vec![7; bytes], true).is_ok() {}
        assert!(drop(&wal), "{bytes}");
    }
}

#[test]
fn a_full_disk_is_no_reason_to_keep_what_is_truncated() {
    dropped_on_a_full_disk(|wal| wal.truncate_before("old", 3).is_ok());
}

#[test]
fn a_full_disk_is_no_reason_to_keep_what_has_expired() {
    dropped_on_a_full_disk(|wal| {
        let before = wal.first_index("old").unwrap();
        let _ = wal.compact();
        wal.first_index("old").unwrap() > before
    });
}

/// One key's file takes no writes any more. All is well with the others, and with that one once it is removed.
fn removed_beside_a_file_that_takes_no_writes(removed: &str) {
    for bytes in (8..400).step_by(8) {
        let sim = SimDir::new(1);
        let options = WalOptions::default().journal_bytes(16_384);
        let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
        for key in ["k", "other", "fine"] {
            wal.append_entry(key, None, "0", true).unwrap();
        }
        for_ever(&sim, CallKind::Write, EIO, SEGMENT);
        for _ in 0..1_000 {
            wal.append_entry("other", None, vec![7; bytes], true).unwrap();
        }
        wal.remove_key(removed).unwrap();
        wal.append_entry(removed, None, "again", false).unwrap();
    }
}

#[test]
fn another_key_is_removed_beside_a_file_that_takes_no_writes() {
    removed_beside_a_file_that_takes_no_writes("fine");
}

#[test]
fn the_key_is_removed_whose_file_takes_no_writes() {
    removed_beside_a_file_that_takes_no_writes("k");
}

/// There is no room left in the journal that could end a removal: none is begun, and the keys stay as they were.
#[test]
fn what_has_no_room_to_end_is_not_begun() {
    let sim = SimDir::new(1);
    let options = WalOptions::default().journal_bytes(16_384);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    wal.append_entry("k", None, "0", true).unwrap();
    let keys: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    for key in &keys {
        wal.append_entry(key, None, "0", true).unwrap();
    }
    for_ever(&sim, CallKind::Write, ENOSPC, SEGMENT);
    wal.append_entry("k", None, "1", true).unwrap();
    let refused: Vec<&String> = keys.iter().filter(|key| wal.remove_key(key).is_err()).collect();
    assert!(!refused.is_empty());
    for key in &refused {
        wal.append_entry(key, None, "1", false).unwrap();
    }
    sim.clear_faults();
    for key in refused {
        wal.remove_key(key).unwrap();
    }
}

/// Another key's file takes a write no more, once, just when room is to be made: the next try makes it.
#[test]
fn one_failed_write_of_another_key_is_no_reason_to_refuse() {
    let mut hit = 0;
    for (bytes, already) in (1..64).step_by(8).flat_map(|b| (246..256).map(move |n| (b, n))) {
        let sim = SimDir::new(1);
        let options = WalOptions::default().journal_bytes(16_384);
        let open = || Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        let keys: Vec<String> = (0..260).map(|number| number.to_string()).collect();
        let wal = open();
        for key in &keys {
            wal.append_entry(key, None, "0", false).unwrap();
        }
        wal.append_entry("k", None, "0", true).unwrap();
        wal.shutdown().unwrap();
        drop(wal);
        let wal = open();
        wal.append_entry("k", None, vec![7; bytes], false).unwrap();
        for key in &keys[..already] {
            wal.remove_key(key).unwrap();
        }
        fail(&sim, CallKind::Write, 0, EIO, SEGMENT);
        wal.remove_key(&keys[already]).unwrap();
        hit += sim.faults_hit();
    }
    assert!(hit > 0);
}

/// A journal that is of no use any more could not end a removal either.
#[test]
fn no_removal_is_begun_with_a_journal_that_has_failed() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), WalOptions::default()).unwrap();
    for key in ["k", "other"] {
        wal.append_entry(key, None, "0", true).unwrap();
    }
    fail(&sim, CallKind::SyncData, 0, EIO, "JOURNAL");
    wal.append_entry("k", None, "1", true).unwrap_err();
    let refused = wal.remove_key("other");
    assert!(matches!(refused, Err(WalError::Poisoned { .. })), "{refused:?}");
    wal.append_entry("other", None, "1", true).unwrap();
}

/// The journal was cramped; then the key for which it was is removed, and all is well. Later more than half of the
/// journal waits for another segment, which is synced, and then its file cannot be. (As
/// `more_than_half_of_the_journal_is_not_promised`, without threads of the log's own.) What was promised then finds no
/// room to go round: `append_many`, removals and `compact` are refused from then on.
fn more_than_half_of_another_one(cramped: bool) {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, ".log");
    let wal = Arc::new(
        Wal::open_in(Arc::new(dir.clone()), WalOptions::default().journal_bytes(65_536)).unwrap(),
    );
    let (log, stage) = (Arc::downgrade(&wal), Arc::new(AtomicUsize::new(0)));
    let (at, disk) = (Arc::clone(&stage), sim.clone());
    let head = move || {
        let (position, _, length) = *records(&disk).last().unwrap();
        position + length as u64
    };
    let (waits, is_waiting) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (waits, may_go_on) = (Mutex::new(waits), Mutex::new(may_go_on));
    let hooked_head = head.clone();
    dir.at_each_call(move |call, name| {
        if call == CallKind::SyncData
            && name == SEGMENT
            && at.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            // The key is appended to while it is synced, up to 46 % of the journal.
            let (wal, head) = (log.upgrade().unwrap(), hooked_head.clone());
            let append = move || {
                while head() < 65_536 * 46 / 100 {
                    wal.append_entry("k", None, [7; 208], false).unwrap();
                }
            };
            thread::spawn(append).join().unwrap();
        }
        if call == CallKind::Write
            && name.starts_with("slow")
            && at.compare_exchange(5, 6, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            waits.lock().unwrap().send(()).unwrap();
            let _ = may_go_on.lock().unwrap().recv_timeout(LONG);
        }
    });
    if cramped {
        wal.append_entry("trigger", None, "0", false).unwrap();
        wal.append_entry("k", None, [7; 208], true).unwrap();
        fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
        stage.store(1, Ordering::SeqCst);
        while head() < 65_536 / 4 - 700 {
            wal.append_entry("k", None, [7; 208], false).unwrap();
        }
        while stage.load(Ordering::SeqCst) == 1 {
            wal.append_entry("trigger", None, [7; 100], false).unwrap();
        }
        assert_eq!(sim.faults_hit(), 1);
        // Until one goes past the journal.
        let mut before = 0;
        while before != head() {
            before = head();
            wal.append_entry("beside", None, [7; 100], false).unwrap();
        }
        wal.remove_key("k").unwrap();
        // It makes room, and finds some.
        wal.append_many(["a", "b"].map(|key| (key, None, Bytes::from(vec![7; 1_000]))), false)
            .unwrap();
    }
    // The journal comes round some ten times, with nothing in it that was promised, and nothing that is carried.
    wal.append_entry("victim", None, "0", true).unwrap();
    for _ in 0..4_000 {
        wal.append_entry("slow", None, [7; 100], false).unwrap();
    }
    assert!(wal.health().poisoned.is_empty());
    stage.store(5, Ordering::SeqCst);
    let theirs = Arc::clone(&wal);
    let busy = thread::spawn(move || {
        loop {
            theirs.append_entry("slow", None, [7; 500], false).unwrap();
            if stage.load(Ordering::SeqCst) == 6 {
                break;
            }
        }
    });
    is_waiting.recv_timeout(LONG).unwrap();
    let start = head();
    while head() - start < 65_536 * 56 / 100 {
        wal.append_entry("victim", None, [7; 500], false).unwrap();
    }
    go_on.send(()).unwrap();
    busy.join().unwrap();
    let hits = sim.faults_hit();
    fail(&sim, CallKind::SyncData, 0, EIO, "victim");
    let _ = wal.sync_key("victim");
    for _ in 0..300 {
        wal.append_entry("busy", None, [7; 500], false).unwrap();
    }
    assert_eq!(sim.faults_hit() - hits, 1);
    for round in 0..100 {
        wal.append_many(["a", "b"].map(|key| (key, None, "x".into())), true).unwrap();
        let key = format!("fresh {round}");
        wal.append_entry(&key, None, "x", true).unwrap();
        wal.remove_key(&key).unwrap();
    }
}

#[test]
fn what_was_cramped_once_is_forgotten() {
    more_than_half_of_another_one(true);
}

/// The same without that passes.
#[test]
fn what_was_never_cramped() {
    more_than_half_of_another_one(false);
}
