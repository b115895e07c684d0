//! What the journal carries on, or what a segment that left it still finds there: bugs of a third review.

use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use keywal::fs::sim::{CallKind, FaultKind, Op, SimDir};
use keywal::{ManualClock, Retention, Verdict, Wal, WalOptions};

use common::hooked::{DIRECTORY, HookedDir};
use common::logs::{NOW, RECORD, contents, fail, records};

mod common;

const EIO: FaultKind = FaultKind::Error(5);
/// How long the header of a frame is.
const FRAME: usize = 32;

fn options(journal_bytes: u64) -> WalOptions {
    WalOptions::default().journal_bytes(journal_bytes)
}

/// The file could not take what the journal had when the key was removed; the reader who works on it looks for it
/// in a journal that others have written over since.
#[test]
fn the_header_of_a_record_that_is_gone_is_not_believed() {
    let journal_bytes = 16 << 10;
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options(journal_bytes)).unwrap();
    wal.append_entry("other", None, "0", false).unwrap();
    wal.append_entry("gone", None, "0", false).unwrap();
    let (position, at, _) = *records(&sim).last().unwrap();
    let image = sim.image();
    // The record's header, of a body of 16 MiB.
    let mut forged = image.get("JOURNAL").unwrap()[at..at + RECORD].to_vec();
    forged[36..40].copy_from_slice(&(16_u32 << 20).to_le_bytes());
    let mut entries = wal.entries("gone").unwrap();
    fail(&sim, CallKind::Write, 0, EIO, "gone-9ce8fb720ea0b8ce-0001");
    wal.remove_key("gone").unwrap();
    assert_eq!(sim.faults_hit(), 1);
    sim.clear_faults();
    let over = position + journal_bytes;
    loop {
        let (last, _, bytes) = *records(&sim).last().unwrap();
        let head = last + bytes as u64;
        let Some(room) = over.checked_sub(head + (RECORD + FRAME) as u64) else {
            panic!("the place was missed")
        };
        if room < 2000 {
            let mut content = vec![7; usize::try_from(room).unwrap()];
            content.extend_from_slice(&forged);
            content.extend_from_slice(&[7; 100]);
            wal.append_entry("other", None, content, false).unwrap();
            break;
        }
        wal.append_entry("other", None, [7; 500], false).unwrap();
    }
    let start = sim.trace_len();
    let read = entries.next().unwrap();
    assert!(read.is_err());
    let trace = sim.trace();
    let longest = trace[start..].iter().map(|op| match op {
        Op::Write { data, .. } => data.len(),
        _ => 0,
    });
    assert_eq!(longest.max().unwrap_or(0), 0, "what others have written is no record: {read:?}");
}

/// The journal says that the segment is dropped before it is looked at once more whether it may go. It stays, as the
/// key has another retention by then, and what was promised of it goes round with the journal no more.
#[test]
fn what_was_to_be_dropped_and_is_kept_survives_though_its_file_cannot_be_synced() {
    for verdict in [Verdict::Keep, Verdict::Drop] {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(NOW));
        let log: Arc<OnceLock<Arc<Wal>>> = Arc::default();
        let hooked = Arc::clone(&log);
        let options = || {
            WalOptions::with_retention(Duration::from_secs(100))
                .clock(clock.clone())
                .journal_bytes(64 << 10)
        };
        let with_hook = options().before_drop(move |_| {
            hooked.get().unwrap().set_retention("k", Retention::FOREVER).unwrap();
            Ok(verdict)
        });
        let wal = Arc::new(Wal::open_in(Arc::new(sim.clone()), with_hook).unwrap());
        log.set(Arc::clone(&wal)).unwrap();
        wal.append_entry("k", None, "0", true).unwrap();
        clock.advance(Duration::from_secs(15));
        wal.append_entry("k", None, "1", true).unwrap();
        clock.advance(Duration::from_secs(100));
        let report = wal.compact().unwrap();
        assert_eq!(report.dropped_segments, 0, "{report:?}");
        assert_eq!(wal.retention("k").unwrap(), Some(Retention::FOREVER));
        assert_eq!(contents(&wal, "k"), ["0", "1"]);
        fail(&sim, CallKind::SyncData, 0, EIO, "k-af63e64c8601fd8a-0001");
        for _ in 0..2000 {
            wal.append_entry("busy", None, "x", false).unwrap();
        }
        assert_eq!(sim.faults_hit(), 1);
        let sim = SimDir::from_image(&sim.durable_image(), 3);
        let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
        let found = wal.enumerate_records("k").unwrap().collect::<Result<Vec<_>, _>>();
        assert!(found.as_ref().is_ok_and(|found| *found == ["0", "1"]), "{verdict:?}: {found:?}");
    }
}

/// Between the record that says that segments are dropped, and the unlink of the last of them, what was promised of one
/// left the journal, though a power cut still finds its file.
#[test]
fn a_power_cut_before_the_unlink_finds_no_damage_in_what_was_to_be_dropped() {
    for nth in 0..2 {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(NOW));
        let options = || {
            WalOptions::with_retention(Duration::from_secs(100))
                .clock(clock.clone())
                .journal_bytes(64 << 10)
        };
        let dir = HookedDir::new(&sim, DIRECTORY);
        let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options()).unwrap());
        let busy = |wal: &Wal, n: usize| {
            for _ in 0..n {
                wal.append_entry("busy", None, "x", false).unwrap();
            }
        };
        for n in 0..3 {
            clock.advance(Duration::from_secs(15));
            wal.append_entry("k", None, vec![n; 3000], true).unwrap();
        }
        wal.sync().unwrap();
        let broken = ["k-af63e64c8601fd8a-0002", "no file"][nth];
        fail(&sim, CallKind::SyncData, 0, EIO, broken);
        busy(&wal, 2000);
        wal.sync().ok();
        let (hooked, disk) = (Arc::clone(&wal), sim.clone());
        let cut: Arc<OnceLock<SimDir>> = Arc::default();
        let meanwhile = Arc::clone(&cut);
        dir.before_sync(move || {
            busy(&hooked, 2000);
            meanwhile.set(SimDir::from_image(&disk.durable_image(), 3)).unwrap();
        });
        wal.truncate_before("k", 2).unwrap();
        let cut = cut.get().unwrap().clone();
        let wal = Wal::open_in(Arc::new(cut), options()).unwrap();
        let found: Vec<_> =
            wal.entries("k").unwrap().map(|entry| entry.map(|entry| entry.index)).collect();
        assert!(found.iter().all(Result::is_ok), "{broken}: {found:?}");
    }
}

/// Half of the journal waits, all but a little of it for one segment. Its sync fails when it has moved on: what is to
/// be carried is as much as is left, and with what nobody may use of that, more.
#[test]
fn a_journal_that_waits_for_one_segment_has_room_to_carry_it() {
    let sim = SimDir::new(1);
    let options = options(64 << 10);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    wal.append_entry("other", None, "0", true).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "k-af63e64c8601fd8a-0001");
    for _ in 0..2_000 {
        if sim.faults_hit() > 0 {
            break;
        }
        // It is the last one that fails, if the sync does before it.
        let _ = wal.append_entry("k", None, [7; 1_000], true);
    }
    assert_eq!(sim.faults_hit(), 1);
    // Everything else goes on as before.
    for round in 0..500 {
        wal.append_entry("other", None, [7; 1_000], true).unwrap();
        let together = wal.append_many(["a", "b"].map(|key| (key, None, "x".into())), true);
        assert!(together.is_ok(), "{round}: {together:?}");
        let removed = wal.remove_key("a");
        assert!(removed.is_ok(), "{round}: {removed:?}");
    }
}

/// The sync that fails takes its time. Meanwhile somebody else goes on with the same key, until the journal has no room
/// to carry all of that.
#[test]
fn a_journal_that_fills_while_a_sync_fails_has_room_to_carry_what_is_in_it() {
    for thread in [false, true] {
        let sim = SimDir::new(1);
        let dir = HookedDir::new(&sim, "k-af63e64c8601fd8a-0001");
        let options = options(64 << 10).maintenance_thread(thread);
        let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options).unwrap());
        wal.append_entry("other", None, "0", true).unwrap();
        wal.append_entry("k", None, "0", true).unwrap();
        fail(&sim, CallKind::SyncData, 0, EIO, "k-af63e64c8601fd8a-0001");
        let (appender, (done, is_done)) = (Arc::clone(&wal), mpsc::channel());
        dir.before_sync(move || {
            let append = move || (0..200).try_for_each(|_| append_1_kb(&appender, "k"));
            let thread = thread::spawn(append);
            // Until it has no room any more, or is done.
            thread::sleep(Duration::from_millis(200));
            done.send(thread).unwrap();
        });
        let thread = loop {
            append_1_kb(&wal, "other").unwrap();
            if let Ok(thread) = is_done.try_recv() {
                break thread;
            }
        };
        let _refused = thread.join().unwrap();
        assert_eq!(sim.faults_hit(), 1);
        for round in 0..100 {
            append_1_kb(&wal, "other").unwrap();
            let together = wal.append_many(["a", "b"].map(|key| (key, None, "x".into())), true);
            assert!(together.is_ok(), "{round}: {together:?}");
            let removed = wal.remove_key("a");
            assert!(removed.is_ok(), "{round}: {removed:?}");
        }
    }
}

fn append_1_kb(wal: &Wal, key: &str) -> keywal::Result<()> {
    wal.append_entry(key, None, [7; 1_000], false).map(drop)
}

/// Between the unlink of a segment and the sync that makes it last, the journal comes round without what was promised
/// of the segment, whose sync has failed or is yet to come: a power cut then finds the file again, and damage in it.
#[test]
fn a_power_cut_behind_the_unlink_finds_no_damage_in_what_was_dropped() {
    for (at, broken) in (1..6).flat_map(|at| [(at, true), (at, false)]) {
        for dropped_by in ["truncate_before", "compact"] {
            let sim = SimDir::new(1);
            let clock = Arc::new(ManualClock::new(NOW));
            let options = || {
                WalOptions::with_retention(Duration::from_secs(100))
                    .journal_bytes(64 << 10)
                    .clock(clock.clone())
            };
            let dir = HookedDir::new(&sim, DIRECTORY);
            let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options()).unwrap());
            for n in 0..4 {
                clock.advance(Duration::from_secs(15));
                wal.append_entry("k", None, vec![n; 3_000], false).unwrap();
                wal.sync().unwrap();
            }
            if broken {
                fail(&sim, CallKind::SyncData, 0, EIO, "k-af63e64c8601fd8a-0002");
                for _ in 0..2_000 {
                    wal.append_entry("busy", None, "x", false).unwrap();
                }
                assert_eq!(sim.faults_hit(), 1);
                wal.sync().ok();
            }
            let cut = Arc::new(Mutex::new(None));
            if dropped_by == "compact" {
                clock.advance(Duration::from_secs(90));
            }
            wal.append_entry("busy", None, "x", false).unwrap();
            arm(&dir, at, &wal, &sim, &cut);
            match dropped_by {
                "compact" => wal.compact(),
                _ => wal.truncate_before("k", 3),
            }
            .unwrap();
            let Some(cut) = cut.lock().unwrap().take() else { continue };
            let wal = Wal::open_in(Arc::new(cut), options()).unwrap();
            let found: Vec<_> =
                wal.entries("k").unwrap().map(|entry| entry.map(|entry| entry.index)).collect();
            assert!(
                found.iter().all(Result::is_ok),
                "{dropped_by}, sync {at}, {broken}: {found:?}"
            );
        }
    }
}

type Cut = Arc<Mutex<Option<SimDir>>>;

/// Before the sync of the directory with this number, makes the journal come round, and cuts the power.
fn arm(dir: &HookedDir, at: usize, wal: &Arc<Wal>, sim: &SimDir, cut: &Cut) {
    let (next, wal, sim, cut) = (dir.clone(), Arc::clone(wal), sim.clone(), Arc::clone(cut));
    dir.before_sync(move || {
        if at > 1 {
            return arm(&next, at - 1, &wal, &sim, &cut);
        }
        for _ in 0..4_000 {
            wal.append_entry("busy", None, "x", false).unwrap();
        }
        *cut.lock().unwrap() = Some(SimDir::from_image(&sim.durable_image(), 3));
    });
}

/// The sync of a segment, for which its promised entry is to leave the journal, succeeds, as somebody else has got the
/// error that the kernel reports once. The segment knows; what goes round with the journal has to, too.
#[test]
fn a_sync_whose_error_somebody_else_got_lets_nothing_leave_the_journal() {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "k-");
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options(16 << 10)).unwrap());
    wal.append_entry("k", None, "0", true).unwrap();
    wal.append_entry("busy", None, "x", true).unwrap();
    // The file has it: the next write is that of the append.
    assert_eq!(contents(&wal, "k"), ["0"]);
    fail(&sim, CallKind::Write, 0, EIO, "k-");
    fail(&sim, CallKind::SyncData, 0, EIO, "k-");
    let (begun, is_begun) = mpsc::channel();
    dir.before_sync(move || {
        begun.send(()).unwrap();
        // Until the segment, which is not poisoned yet, is about to be synced.
        thread::sleep(Duration::from_millis(200));
    });
    let theirs = Arc::clone(&wal);
    let other = thread::spawn(move || {
        // Too large for the journal; what was written is cut off, and that synced.
        theirs.append_entry("k", None, vec![7; 100_000], false).unwrap_err();
    });
    is_begun.recv().unwrap();
    for _ in 0..2_000 {
        wal.append_entry("busy", None, [1; 100], true).unwrap();
    }
    other.join().unwrap();
    assert_eq!(sim.faults_hit(), 2);
    let cut = SimDir::from_image(&sim.durable_image(), 3);
    let wal = Wal::open_in(Arc::new(cut), options(16 << 10)).unwrap();
    assert_eq!(contents(&wal, "k"), ["0"], "{:?}", wal.recovery_report());
}
