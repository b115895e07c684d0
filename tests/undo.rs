//! A write that fails is taken back: who gets the error if the file is synced at the same moment? And what if there is
//! nothing to take back?

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use keywal::fs::sim::{CallKind, Fault, FaultKind, SimDir};
use keywal::{Wal, WalError, WalOptions};

use common::hooked::HookedDir;
use common::logs::{SEGMENT, contents, fail};

mod common;

const EIO: FaultKind = FaultKind::Error(5);
const ENOSPC: FaultKind = FaultKind::Error(28);
/// For what does not come where the threads wait for each other as they should.
const WAIT: Duration = Duration::from_millis(200);

fn options(journal_bytes: u64) -> WalOptions {
    WalOptions::default().journal_bytes(journal_bytes)
}

/// A log whose journal is written and read by position.
fn open_unmapped(sim: &SimDir, dir: &HookedDir) -> Arc<Wal> {
    fail(sim, CallKind::Map, 0, EIO, "JOURNAL");
    Arc::new(Wal::open_in(Arc::new(dir.clone()), options(65_536)).unwrap())
}

/// The kernel tells the error of a sync once. While one thread syncs the file for a durable entry of `k`, the write of
/// another, to the same file, fails after so many that go well, and the sync that takes it back gets the error. If the
/// first one's then comes back without, it must not count.
fn acknowledged_beside_an_undo(
    (sim, dir, wal): (&SimDir, &HookedDir, &Arc<Wal>),
    (file, writes): (&str, u64),
    refused: impl FnOnce(),
) {
    let undoer = thread::current().id();
    let (syncs, is_syncing) = mpsc::channel();
    let (undone, is_undone) = mpsc::channel();
    let (acknowledged, is_acknowledged) = mpsc::channel();
    let is_acknowledged = Mutex::new(is_acknowledged);
    dir.before_sync(move || {
        syncs.send(()).unwrap();
        let _ = is_undone.recv_timeout(WAIT);
    });
    dir.after_each_sync(move || {
        if thread::current().id() == undoer {
            let _ = undone.send(());
            let _ = is_acknowledged.lock().unwrap().recv_timeout(WAIT);
        }
    });
    let theirs = Arc::clone(wal);
    let other = thread::spawn(move || {
        let result = theirs.append_entry("k", None, "durable", true);
        let _ = acknowledged.send(());
        result
    });
    is_syncing.recv().unwrap();
    fail(sim, CallKind::Write, writes, EIO, file);
    fail(sim, CallKind::SyncData, 0, EIO, file);
    let faults = sim.faults_hit();
    refused();
    let acknowledged = other.join().unwrap();
    assert_eq!(sim.faults_hit(), faults + 2);
    let after = SimDir::from_image(&sim.durable_image(), 3);
    let after = Wal::open_in(Arc::new(after), options(65_536)).unwrap();
    assert!(
        acknowledged.is_err() || contents(&after, "k") == ["durable"],
        "acknowledged, and gone"
    );
}

#[test]
fn a_segments_sync_does_not_count_if_an_undo_got_its_error() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, SEGMENT);
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options(0)).unwrap());
    acknowledged_beside_an_undo((&sim, &dir, &wal), (SEGMENT, 0), || {
        wal.append_entry("k", None, "refused", false).unwrap_err();
    });
}

#[test]
fn the_journals_sync_does_not_count_if_an_undo_got_its_error() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "JOURNAL");
    let wal = open_unmapped(&sim, &dir);
    wal.append_entry("other", None, "0", true).unwrap();
    // The header of the frame and the content go well, but not the header of the record.
    acknowledged_beside_an_undo((&sim, &dir, &wal), ("JOURNAL", 2), || {
        let _ = wal.append_entry("other", None, "refused", false);
    });
}

/// As it is on a file system that never writes in place.
#[test]
fn a_full_disk_does_not_end_a_journal_that_is_not_mapped() {
    let sim = SimDir::new(1);
    let wal = open_unmapped(&sim, &HookedDir::new(&sim, "JOURNAL"));
    wal.append_entry("other", None, "0", true).unwrap();
    let together = || ["a", "b"].map(|key| (key, None, "together".into()));
    wal.append_many(together(), false).unwrap();
    let (call, nth, forever) = (CallKind::Write, 0, true);
    sim.inject(Fault { call, nth, kind: ENOSPC, forever, name_contains: None });
    for durable in [false, true] {
        let refused = wal.append_entry("other", None, "refused", durable);
        assert!(matches!(refused, Err(WalError::StorageFull { .. })), "{refused:?}");
        wal.append_many(together(), durable).unwrap_err();
    }
    sim.clear_faults();
    assert!(wal.health().poisoned.is_empty(), "{:?}", wal.health());
    wal.append_many(together(), true).unwrap();
    wal.append_entry("other", None, "1", true).unwrap();
    assert_eq!(contents(&wal, "a"), ["together", "together"]);
    wal.remove_key("a").unwrap();
    let after = SimDir::from_image(&sim.durable_image(), 3);
    let after = Wal::open_in(Arc::new(after), options(65_536)).unwrap();
    assert_eq!(contents(&after, "other"), ["0", "1"]);
    assert_eq!(contents(&after, "b"), ["together", "together"]);
    assert!(after.recovery_report().damaged.is_empty());
}

/// The record of a drop has no body: only its header was refused, and nothing of it was written.
#[test]
fn a_full_disk_does_not_end_an_unmapped_journal_that_notes_a_drop() {
    let sim = SimDir::new(1);
    fail(&sim, CallKind::Map, 0, EIO, "JOURNAL");
    let options = options(65_536).max_segment_bytes(4_096);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for content in [[0; 3_000], [1; 3_000]] {
        wal.append_entry("k", None, content, true).unwrap();
    }
    let (call, nth, forever) = (CallKind::Write, 0, true);
    let name_contains = Some("JOURNAL".to_owned());
    sim.inject(Fault { call, nth, kind: ENOSPC, forever, name_contains });
    wal.truncate_before("k", 1).unwrap_err();
    sim.clear_faults();
    assert!(wal.health().poisoned.is_empty(), "{:?}", wal.health());
    wal.truncate_before("k", 1).unwrap();
    wal.append_many(["a", "b"].map(|key| (key, None, "x".into())), true).unwrap();
}

/// The header of a frame, the content, and of the record's header a part: less than all of one is none.
#[test]
fn a_full_disk_does_not_end_an_unmapped_journal_in_the_middle_of_a_header() {
    let sim = SimDir::new(1);
    let wal = open_unmapped(&sim, &HookedDir::new(&sim, "JOURNAL"));
    wal.append_entry("k", None, "0", true).unwrap();
    for (nth, kind, forever) in
        [(2, FaultKind::ShortThenError { bytes: 40, error: 28 }, false), (3, ENOSPC, true)]
    {
        let (call, name_contains) = (CallKind::Write, Some("JOURNAL".to_owned()));
        sim.inject(Fault { call, nth, kind, forever, name_contains });
    }
    wal.append_entry("k", None, "refused", true).unwrap_err();
    sim.clear_faults();
    assert!(wal.health().poisoned.is_empty(), "{:?}", wal.health().poisoned);
    wal.append_many(["k", "b"].map(|key| (key, None, "1".into())), true).unwrap();
    let after = SimDir::from_image(&sim.durable_image(), 3);
    let after = Wal::open_in(Arc::new(after), options(65_536)).unwrap();
    assert_eq!(contents(&after, "k"), ["0", "1"]);
}

/// Of the last header so many bytes were written, whose rest are zeros, as they stood there: the record is whole. If it
/// cannot be taken back, what comes after it must not stand in its place, where recovery would write it over that.
#[test]
fn what_cannot_be_taken_back_is_in_doubt() {
    let is_written = |result: Result<_, WalError>| match result {
        Ok(()) => true,
        Err(WalError::Poisoned { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    for (keys, last, durable) in [(1, 2, false), (1, 2, true), (2, 3, false), (2, 3, true)] {
        let sim = SimDir::new(1);
        let wal = open_unmapped(&sim, &HookedDir::new(&sim, SEGMENT));
        let keys = &["k", "b"][..keys];
        for key in keys {
            wal.append_entry(key, None, "0", true).unwrap();
        }
        for (nth, kind, forever) in [
            (last, FaultKind::ShortThenError { bytes: 62, error: 28 }, false),
            (last + 1, ENOSPC, true),
        ] {
            let (call, name_contains) = (CallKind::Write, Some("JOURNAL".to_owned()));
            sim.inject(Fault { call, nth, kind, forever, name_contains });
        }
        let doubtful = keys.iter().map(|key| (key, None, "doubtful".into()));
        assert!(!is_written(wal.append_many(doubtful, durable).map(drop)));
        sim.clear_faults();
        let is_there: Vec<bool> = keys
            .iter()
            .map(|key| is_written(wal.append_entry(key, None, "1", true).map(drop)))
            .collect();
        let after = Wal::open_in(Arc::new(sim.after_kill()), options(65_536)).unwrap();
        for (key, is_there) in keys.iter().zip(is_there) {
            let found = contents(&after, key);
            assert!(!is_there || found == ["0", "1"], "{key}: {found:?}");
            assert!(found == ["0", "1"] || found == ["0"] || found == ["0", "doubtful"]);
        }
    }
}

/// The first record of this life, that of a creation, can neither be finished nor taken back; the segment is made
/// without it.
fn open_with_a_creation_in_doubt(options: WalOptions) -> (SimDir, Wal) {
    let sim = SimDir::new(1);
    fail(&sim, CallKind::Map, 0, EIO, "JOURNAL");
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for (nth, kind, forever) in
        [(1, FaultKind::ShortThenError { bytes: 62, error: 28 }, false), (2, ENOSPC, true)]
    {
        let (call, name_contains) = (CallKind::Write, Some("JOURNAL".to_owned()));
        sim.inject(Fault { call, nth, kind, forever, name_contains });
    }
    wal.append_entry("k", None, [0; 3_000], true).unwrap();
    sim.clear_faults();
    (sim, wal)
}

/// The journal was taken for empty, and what was dropped came back with that record.
#[test]
fn nothing_is_dropped_of_which_a_record_is_in_doubt() {
    let options = || options(65_536).max_segment_bytes(4_096);
    let is_refused = |result: Result<(), WalError>| {
        assert!(matches!(result, Err(WalError::Poisoned { .. })), "{result:?}");
    };
    let (sim, wal) = open_with_a_creation_in_doubt(options());
    for number in 1..3 {
        wal.append_entry("k", None, [number; 3_000], true).unwrap();
    }
    is_refused(wal.truncate_before("k", 2).map(drop));
    is_refused(wal.remove_key("k"));
    wal.append_entry("k", None, [3; 3_000], true).unwrap();
    let after = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
    assert_eq!(contents(&after, "k"), [0, 1, 2, 3].map(|number| vec![number; 3_000]));
}

/// No header of `b`'s was written, and no sync was asked for it: that `a`'s fails at this moment is nothing to it.
#[test]
fn a_write_that_fails_beside_a_sync_that_fails_leaves_nothing_in_doubt() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "JOURNAL");
    let wal = open_unmapped(&sim, &dir);
    for key in ["a", "b"] {
        wal.append_entry(key, None, "0", true).unwrap();
    }
    let (syncs, is_syncing) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    dir.before_sync(move || {
        syncs.send(()).unwrap();
        may_go_on.recv().unwrap();
    });
    let theirs = Arc::clone(&wal);
    let other = thread::spawn(move || theirs.append_entry("a", None, "doubtful", true).map(drop));
    is_syncing.recv().unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "JOURNAL");
    fail(&sim, CallKind::Write, 0, ENOSPC, "JOURNAL");
    dir.before_write(move || {
        go_on.send(()).unwrap();
        other.join().unwrap().unwrap_err();
    });
    let refused = wal.append_entry("b", None, "refused", false);
    assert!(matches!(refused, Err(WalError::StorageFull { .. })), "{refused:?}");
    wal.append_entry("b", None, "1", true).unwrap();
    assert_eq!(contents(&wal, "b"), ["0", "1"]);
}
