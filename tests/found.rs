//! Bugs that were found once, each as a test that failed then.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, CrashChoice, Fault, FaultKind, SimDir};
use keywal::fs::{Dir, File, Lock, OpenMode};
use keywal::{ClockTrouble, EntryRef, ManualClock, Result, Retention, Wal, WalError, WalOptions};

use common::logs::{NOW, SEGMENT, TWINS, contents, fail, open, open_small, options};

mod common;

/// Where the first frame begins in a segment of `k`, and what a frame adds to its payload.
const FIRST_FRAME: usize = 645;
const FRAME: usize = 32;
const EIO: FaultKind = FaultKind::Error(5);
const ENOSPC: i32 = 28;
const INVALID: &str = "the reference does not lead to an entry";
const EXPIRED: &str = "the entry has been dropped";
const META_NOT_SYNCED: &str = "/simulated/META: cannot sync the directory's facts";
const PATIENCE: Duration = Duration::from_secs(20);

/// A new directory and its log.
fn fresh() -> (SimDir, Wal) {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    (sim, wal)
}

fn error<T: Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

/// Does something in a thread of its own; the result is to be waited for.
fn start<T: Send + 'static>(wal: &Arc<Wal>, work: fn(&Wal) -> T) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    let wal = Arc::clone(wal);
    thread::spawn(move || sender.send(work(&wal)));
    receiver
}

/// The next entry took the place of the one whose sync had failed.
#[test]
fn a_reference_to_what_a_failed_sync_lost_meets_nothing_else() {
    let (sim, wal) = fresh();
    wal.append_entry("k", None, "zero", true).unwrap();
    let lost = wal.append_entry("k", None, "one", false).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "k-");
    assert_eq!(error(wal.sync()), format!("/simulated/{SEGMENT}: cannot sync the segment"));
    let wal = open(&sim.after_kill());
    assert_eq!(error(wal.read_entry_at(lost)), INVALID);
    wal.append_entry("k", None, "two", true).unwrap();
    assert_eq!(error(wal.read_entry_at(lost)), INVALID);
    assert_eq!(contents(&wal, "k"), ["zero", "two"]);
}

/// The tombstone was there, the floor below which numbers are used was not.
#[test]
fn a_reference_into_a_key_whose_removal_was_cut_off_stays_expired() {
    let (sim, wal) = fresh();
    let removed = wal.append_entry("k", None, "secret", true).unwrap();
    fail(&sim, CallKind::Write, 0, EIO, "META");
    assert!(error(wal.remove_key("k")).ends_with("META: cannot write the directory's facts"));
    let wal = open(&sim.after_kill());
    assert_eq!(error(wal.read_entry_at(removed)), EXPIRED);
    wal.append_entry("k", None, "newer!", true).unwrap();
    assert_eq!(error(wal.read_entry_at(removed)), EXPIRED);
    assert_eq!(contents(&wal, "k"), ["newer!"]);
}

/// `META` was read through the page cache, which showed what a failed sync had left there.
#[test]
fn a_mark_of_an_unclean_stop_counts_only_once_it_is_on_disk() {
    let (sim, wal) = fresh();
    wal.append_entry("k", None, "zero", true).unwrap();
    let sim = SimDir::from_image(&sim.durable_image(), 2);
    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    assert_eq!(error(Wal::open_in(Arc::new(sim.clone()), options())), META_NOT_SYNCED);
    let wal = open(&sim);
    let lost = wal.append_entry("k", None, "lost", false).unwrap();
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert_eq!(error(wal.read_entry_at(lost)), INVALID);
    wal.append_entry("k", None, "new!", true).unwrap();
    assert_eq!(error(wal.read_entry_at(lost)), EXPIRED);
    assert_eq!(contents(&wal, "k"), ["zero", "new!"]);
}

/// The same with the floor: it was in the page cache only when the tombstone was unlinked.
#[test]
fn a_floor_counts_only_once_it_is_on_disk() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    let append = |wal: &Wal| [0; 10].map(|n| wal.log_entry("k", None, [n; 3_000]).unwrap());
    let old = append(&wal);
    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    assert_eq!(error(wal.remove_key("k")), META_NOT_SYNCED);
    // The next process finishes the removal.
    let sim = sim.after_kill();
    let wal = open_small(&sim);
    assert_eq!(wal.active_segment_count(), 0);
    // Everything that was ever written has reached the disk, but for what the sync lost.
    let all = CrashChoice::Sample { at: sim.trace_len(), sample: 1, seed: 0 };
    let wal = open_small(&SimDir::from_image(&sim.crash_image(sim.trace_len(), &all), 3));
    append(&wal);
    assert_eq!(old.map(|reference| error(wal.read_entry_at(reference))), [EXPIRED; 10]);
    assert_eq!(contents(&wal, "k").len(), 10);
}

/// What was left was a log whose floor knew nothing of the keys that were gone.
#[test]
fn a_reference_into_a_log_whose_removal_was_cut_off_stays_expired() {
    let (sim, wal) = fresh();
    let gone = wal.append_entry("k", None, "old", true).unwrap();
    wal.append_entry("z", None, "kept", true).unwrap();
    fail(&sim, CallKind::Remove, 0, EIO, "z-");
    assert!(error(wal.destroy()).ends_with("cannot remove the file"));
    let wal = open(&sim.after_kill());
    assert_eq!(contents(&wal, "z"), ["kept"]);
    wal.append_entry("k", None, "new", true).unwrap();
    assert_eq!(error(wal.read_entry_at(gone)), EXPIRED);
    assert_eq!(contents(&wal, "k"), ["new"]);
}

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(code: i32) -> !;
}

/// They came from what a thread draws once: a child's segment passed for one of its sibling.
#[test]
fn children_of_one_process_draw_different_numbers() {
    let tree = tempfile::tempdir().unwrap();
    std::hint::black_box(HashMap::<u8, u8>::new());
    let segments = ["a", "b"].map(|name| {
        let dir = tree.path().join(name);
        let write = || {
            let wal = Wal::new(&dir, WalOptions::default())?;
            wal.append_entry("k", None, name, true)?;
            wal.shutdown()
        };
        let mut status = -1;
        // SAFETY: the child takes no lock that another thread may have held but that of the heap,
        // which `fork` takes care of, does not unwind, and leaves with `_exit`.
        let waited = unsafe {
            match fork() {
                0 => _exit(i32::from(write().is_err())),
                child => waitpid(child, &raw mut status, 0),
            }
        };
        assert!(waited > 0 && status == 0, "{status}");
        dir.join(SEGMENT)
    });
    let [a, b] = segments.each_ref().map(|path| fs::read(path).unwrap());
    // The segment's number in its header, and that of the directory.
    assert!(a[16..24] != b[16..24] && a[24..32] != b[24..32]);
    fs::write(&segments[1], a).unwrap();
    let wal = Wal::new(tree.path().join("b"), WalOptions::default()).unwrap();
    assert!(error(wal.entries("k")).ends_with("the file belongs to another directory"));
}

/// The batch was written in part, cut off, and its sectors could come back with the length that the
/// next entries gave the file.
#[test]
fn a_batch_that_was_refused_never_comes_back() {
    let (sim, wal) = fresh();
    wal.append_entry("k", None, vec![b'0'; 1_024 - FIRST_FRAME - FRAME], true).unwrap();
    assert_eq!(wal.segments("k").unwrap()[0].bytes, 1_024);
    // Frames of one sector each.
    let frame = |letter| Bytes::from(vec![letter; 512 - FRAME]);
    fail(&sim, CallKind::Write, 0, FaultKind::ShortThenError { bytes: 512, error: ENOSPC }, "k-");
    let refused = wal.append_batch("k", [(None, frame(b'X')), (None, frame(b'Y'))], false);
    assert_eq!(error(refused), format!("/simulated/{SEGMENT}: no space left"));
    wal.append_entry("k", None, frame(b'1'), false).unwrap();
    wal.append_entry("k", None, frame(b'2'), false).unwrap();
    let budget = CrashBudget { exhaustive_bits: 10, ..CrashBudget::default() };
    let visits = sim.crash_images(sim.trace_len(), &budget, &mut |image, choice| {
        let wal = open(&SimDir::from_image(image, 9));
        let letters: Vec<u8> = contents(&wal, "k").iter().map(|content| content[0]).collect();
        assert!([&b"0"[..], b"01", b"012"].contains(&&*letters), "{choice}: {letters:?}");
    });
    assert_eq!(visits, 1 << sim.crash_units(sim.trace_len()));
}

/// The error of writing the closing mark left out the sync behind it.
#[test]
fn a_shutdown_without_room_for_a_mark_syncs() {
    let (sim, wal) = fresh();
    wal.append_entry("k", None, "zero", true).unwrap();
    wal.append_entry("k", None, "one", false).unwrap();
    fail(&sim, CallKind::Write, 0, FaultKind::Error(ENOSPC), "k-");
    assert_eq!(error(wal.shutdown()), format!("/simulated/{SEGMENT}: no space left"));
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert_eq!(contents(&wal, "k"), ["zero", "one"]);
}

/// A file with a damaged header was taken for an interrupted creation, and those were deleted.
#[test]
fn a_segment_with_a_damaged_header_is_never_deleted() {
    let (sim, wal) = fresh();
    wal.append_entry("k", None, vec![7; 5_000], true).unwrap();
    let mut image = sim.durable_image();
    let mut bytes = image.remove(SEGMENT).unwrap();
    // A bit in the header, and one in its copy.
    bytes[8] ^= 1;
    bytes[520] ^= 1;
    image.set(SEGMENT, bytes.clone());
    let sim = SimDir::from_image(&image, 2);
    let wal = open(&sim);
    assert_eq!(wal.recovery_report().ignored.len(), 1);
    wal.append_entry("k", None, "new", true).unwrap();
    wal.shutdown().unwrap();
    let wal = open(&sim);
    assert_eq!(contents(&wal, "k"), ["new"]);
    for index in [0, 1] {
        wal.truncate_before("k", index).unwrap();
        assert_eq!(sim.image().get(SEGMENT), Some(&*bytes), "truncated before {index}");
    }
}

/// Less than a minute was let through each time, whatever the retention.
#[test]
fn small_jumps_of_the_clock_do_not_add_up() {
    // What is tolerated is a hundredth of the retention.
    for (retention, jump, tolerated) in [(1_000, 10_000, 1), (10, 59_000, 0)] {
        let sim = Arc::new(SimDir::new(1));
        let clock = Arc::new(ManualClock::new(NOW));
        let options = WalOptions::with_retention(Duration::from_secs(retention));
        let reopen = || Wal::open_in(sim.clone(), options.clone().clock(clock.clone())).unwrap();
        let wal = reopen();
        wal.append_entry("k", None, "x", true).unwrap();
        for n in 1..=120 {
            clock.set(NOW + n * jump);
            let report = wal.compact().unwrap();
            let refused = (n > tolerated).then_some(ClockTrouble::JumpedAhead);
            assert_eq!((report.refused, report.dropped_entries), (refused, 0), "{n} times {jump}");
        }
        drop(wal);
        assert_eq!(reopen().compact().unwrap().dropped_entries, 1, "reopened to accept the time");
    }
}

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
    let backward = wal.entries("k").unwrap().range(..2).rev().map(|entry| entry.unwrap().index);
    assert_eq!(backward.collect::<Vec<_>>(), [1, 0]);
}

/// Recovery passed the empty file over; after a clean restart it was damage.
#[test]
fn a_key_is_readable_after_a_cut_off_creation_and_a_clean_restart() {
    // Of the next segment, and of the first.
    for (number, kept) in [("-0002.log", &["durable"][..]), ("-0001.log", &[])] {
        let (sim, wal) = fresh();
        wal.append_entry("k", None, "durable", !kept.is_empty()).unwrap();
        // The power cut left the name and nothing else.
        let mut image = sim.durable_image();
        image.set(&SEGMENT.replace("-0001.log", number), []);
        let sim = SimDir::from_image(&image, 2);
        let wal = open(&sim);
        assert_eq!(contents(&wal, "k"), kept);
        wal.shutdown().unwrap();
        let wal = open(&sim);
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
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    wal.append_entry("k", None, [2; 3_000], false).unwrap();
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

/// A closed log with one entry, and a file with another label that claims its key.
fn claimed_twice() -> SimDir {
    let (sim, wal) = fresh();
    wal.append_entry("k", None, "durable", true).unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.durable_image();
    image.set(&SEGMENT.replace("k-", "a-"), []);
    SimDir::from_image(&image, 2)
}

/// An error of opening the file counted as no file, and another label got the key.
#[test]
fn an_error_of_telling_labels_apart_is_one_of_opening() {
    let sim = claimed_twice();
    fail(&sim, CallKind::Open, 0, FaultKind::Error(24), SEGMENT);
    let refused = error(Wal::open_in(Arc::new(sim.clone()), options()));
    let advice = "too many open files; raise `ulimit -n`, or lower the option `max_open_files`";
    assert_eq!(refused, format!("/simulated/{SEGMENT}: cannot open the segment: {advice}"));
    assert_eq!(contents(&open(&sim), "k"), ["durable"]);
}

/// Which of two labels has the key is not known where a header is lost, but that it is lost has to be.
#[test]
fn a_lost_header_is_damage_whatever_else_claims_the_key() {
    let sim = claimed_twice();
    open(&sim).shutdown().unwrap();
    let mut image = sim.durable_image();
    let bytes = image.get(SEGMENT).unwrap().len();
    image.set(SEGMENT, vec![0; bytes]);
    let wal = open(&SimDir::from_image(&image, 3));
    let read: Result<Vec<_>> = wal.enumerate_records("k").and_then(Iterator::collect);
    assert!(matches!(read, Err(WalError::Corrupted { .. })), "{read:?}");
    assert!(wal.append_entry("k", None, "new", true).is_err());
}

/// The key could be neither read nor appended to.
#[test]
fn a_directory_with_the_name_of_a_segment_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
    wal.append_entry("k", None, "x", true).unwrap();
    drop(wal);
    let planted = dir.path().join(SEGMENT.replace("1.log", "7.log"));
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

/// The append waited for ever for a removal that had already failed.
#[test]
fn a_key_whose_removal_failed_does_not_hang_its_twin() {
    let (sim, wal) = fresh();
    wal.append_entry(TWINS[0], None, "a", true).unwrap();
    // The segment goes, its tombstone does not.
    fail(&sim, CallKind::Remove, 1, EIO, ".log");
    assert!(error(wal.remove_key(TWINS[0])).ends_with("-0002.log: cannot remove the segment"));
    let wal = Arc::new(wal);
    let append = start(&wal, |wal| wal.append_entry(TWINS[1], None, "b", true));
    append.recv_timeout(PATIENCE).expect("the append returns").unwrap();
    assert_eq!(contents(&wal, TWINS[1]), ["b"]);
    assert!(contents(&wal, TWINS[0]).is_empty());
}

/// The tombstone stayed in front of the new segments; after a restart, one behind it was "missing".
#[test]
fn a_key_that_was_removed_and_used_again_can_be_truncated() {
    let [second, first] = TWINS;
    let (sim, wal) = fresh();
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

/// At its gate, the next `open` of a file of `p` says that it has come, and waits to be let go.
#[derive(Debug)]
struct GatedDir {
    sim: SimDir,
    gate: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
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
        let gate = self.gate.lock().unwrap().take_if(|_| name.starts_with("p-"));
        if let Some((came, go_on)) = gate {
            came.send(()).unwrap();
            go_on.recv().unwrap();
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
    let (sim, wal) = fresh();
    wal.append_entry(first, None, "old", true).unwrap();
    wal.append_entry(second, None, "old", true).unwrap();
    wal.shutdown().unwrap();
    let dir = Arc::new(GatedDir { sim: sim.clone(), gate: Mutex::new(None) });
    let later = options().clock(Arc::new(ManualClock::new(NOW + 1_000_000))).max_open_files(1);
    let wal = Arc::new(Wal::open_in(dir.clone(), later).unwrap());
    // The file of the second is closed when `compact` comes to it.
    assert_eq!([contents(&wal, second), contents(&wal, first)], [["old"], ["old"]]);
    let (came, has_come) = mpsc::channel();
    let (let_go, go_on) = mpsc::channel();
    *dir.gate.lock().unwrap() = Some((came, go_on));
    let compact = start(&wal, Wal::compact);
    has_come.recv_timeout(PATIENCE).expect("compact opens the second key's file");
    let shutdown = start(&wal, Wal::shutdown);
    let early = shutdown.recv_timeout(Duration::from_millis(100));
    assert_eq!(early.unwrap_err(), mpsc::RecvTimeoutError::Timeout);
    let closed = (0..100).any(|n| {
        thread::sleep(Duration::from_millis(n));
        matches!(wal.sync(), Err(WalError::Closed))
    });
    assert!(closed, "nothing new begins");
    let_go.send(()).unwrap();
    assert_eq!(compact.recv_timeout(PATIENCE).unwrap().unwrap().dropped_segments, 0);
    shutdown.recv_timeout(PATIENCE).unwrap().unwrap();
    let wal = open(&sim);
    assert!(wal.recovery_report().clean);
    wal.append_entry(first, None, "by the next owner", true).unwrap();
    let wal = open(&sim.after_kill());
    assert!(!wal.recovery_report().clean);
    assert_eq!(contents(&wal, first), ["old", "by the next owner"]);
}

/// The file that said so came back with the power, and its key's label hid the other key's files.
#[test]
fn a_removed_key_that_comes_back_does_not_hide_the_key_that_took_its_hash() {
    let remove_first = |unlink_fails: bool| {
        let (sim, wal) = fresh();
        wal.append_entry(TWINS[0], None, "first", true).unwrap();
        if unlink_fails {
            fail(&sim, CallKind::Remove, 1, EIO, "8yn0");
        }
        assert_eq!(wal.remove_key(TWINS[0]).is_err(), unlink_fails);
        (sim, wal)
    };
    let (with_tombstone, _) = remove_first(true);
    let (sim, wal) = remove_first(false);
    wal.append_entry(TWINS[1], None, "second", true).unwrap();
    let mut image = sim.image();
    for (name, bytes) in with_tombstone.image().files().filter(|(name, _)| name.contains("8yn0")) {
        image.set(name, bytes.to_vec());
    }
    let sim = SimDir::from_image(&image, 2);
    for _ in 0..3 {
        let wal = open(&sim);
        assert_eq!(contents(&wal, TWINS[1]), ["second"]);
        assert!(contents(&wal, TWINS[0]).is_empty());
    }
}

/// After a failed sync of the directory, a `Disk` append to a new key was refused as poisoned, and in
/// the log.
#[test]
fn what_is_refused_as_poisoned_is_not_written() {
    let (sim, wal) = fresh();
    let call = CallKind::SyncDir;
    sim.inject(Fault { call, nth: 0, kind: EIO, forever: false, name_contains: None });
    wal.append_entry("k", None, "in doubt", true).unwrap_err();
    let refused = wal.append_entry("k", None, "refused", true);
    assert!(matches!(refused, Err(WalError::Poisoned { .. })), "{refused:?}");
    assert_eq!(contents(&wal, "k"), ["in doubt"]);
    wal.append_entry("k", None, "at the mercy of the kernel", false).unwrap();
    assert_eq!(wal.len("k").unwrap(), 2);
}

/// Without space for the successor of an idle key, none of its segments went, and so no space came.
#[test]
fn an_idle_key_gives_space_back_on_a_full_disk() {
    let sim = SimDir::new(1);
    let clock = Arc::new(ManualClock::new(NOW));
    let options = options().max_segment_bytes(4_096).max_entry_bytes(4_000).clock(clock.clone());
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for key in ["compacted", "truncated"] {
        for n in 0..3 {
            wal.append_entry(key, None, [n; 3_000], true).unwrap();
        }
    }
    let used: usize = sim.image().files().map(|(_, bytes)| bytes.len()).sum();
    sim.set_capacity(Some(u64::try_from(used).unwrap()));
    let truncated = wal.truncate_before("truncated", 3);
    assert!(matches!(truncated, Err(WalError::StorageFull { .. })), "{truncated:?}");
    assert_eq!(wal.first_index("truncated").unwrap(), 2);
    assert_eq!(wal.truncate_before("truncated", 3).unwrap().dropped_entries, 1);

    let used: usize = sim.image().files().map(|(_, bytes)| bytes.len()).sum();
    sim.set_capacity(Some(u64::try_from(used).unwrap()));
    clock.advance(Duration::from_secs(1_000));
    let report = wal.compact().unwrap();
    assert_eq!((report.dropped_entries, report.failures.len()), (2, 1), "{report:?}");
    let report = wal.compact().unwrap();
    assert_eq!((report.dropped_entries, report.failures.len()), (1, 0), "{report:?}");
    assert_eq!(wal.next_index("compacted").unwrap(), 3);
}

/// The removed key's numbers began behind the empty file; once they were gone, it counted as damage.
#[test]
fn a_cut_off_creation_does_not_outlive_the_removal_of_its_key_as_damage() {
    for closed in [false, true] {
        let (sim, wal) = fresh();
        wal.append_entry("other", None, "x", true).unwrap();
        let mut image = sim.durable_image();
        image.set(SEGMENT, []);
        let sim = SimDir::from_image(&image, 2);
        let wal = open(&sim);
        wal.append_entry("k", None, "behind it", true).unwrap();
        // The next one knows of the empty file only what its name says.
        drop(wal);
        let sim = sim.after_kill();
        let mut wal = open(&sim);
        if closed {
            wal.shutdown().unwrap();
            wal = open(&sim);
        }
        assert_eq!(contents(&wal, "k"), ["behind it"]);
        wal.remove_key("k").unwrap();
        wal.shutdown().unwrap();
        let wal = open(&sim);
        assert!(wal.recovery_report().clean);
        assert!(contents(&wal, "k").is_empty());
        wal.append_entry("k", None, "again", true).unwrap();
        assert_eq!(contents(&wal, "k"), ["again"]);
    }
}

/// A nightly compiler switches on a shortcut of `ahash` for integers, and then a stream and the number it
/// is looked up by had different hashes: `cargo +nightly test --test found`.
#[test]
fn a_key_is_found_again_whatever_the_compiler() {
    let wal = open(&SimDir::new(1));
    for index in 0..20 {
        wal.append_if("k", index, None, "x", false).unwrap();
    }
    assert_eq!(wal.len("k").unwrap(), 20);
}

/// A crash in the middle of a compaction had left, of three dropped segments, all but the newest, and
/// with them a creation that an earlier crash had cut off: that one counted as damage.
#[test]
fn a_cut_off_creation_among_dropped_segments_is_no_damage() {
    let clock = Arc::new(ManualClock::new(NOW));
    let open = |sim: &SimDir| {
        let options = WalOptions::with_retention(Duration::from_secs(100))
            .journal_bytes(0)
            .clock(clock.clone());
        Wal::open_in(Arc::new(sim.clone()), options).unwrap()
    };
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "one", true).unwrap();
    let mut image = sim.durable_image();
    image.set(&SEGMENT.replace("0001", "0002"), []);
    let sim = SimDir::from_image(&image, 2);
    let wal = open(&sim);
    wal.append_entry("k", None, "two", true).unwrap();
    clock.advance(Duration::from_secs(1_000));
    assert_eq!(wal.compact().unwrap().dropped_segments, 2);
    let at = sim.trace_len() - 1;
    assert_eq!(sim.crash_units(at), 2, "two names are being removed");
    let only_the_newer = CrashChoice::Mask { at, mask: 2 };
    let wal = open(&SimDir::from_image(&sim.crash_image(at, &only_the_newer), 3));
    assert_eq!((wal.first_index("k").unwrap(), wal.next_index("k").unwrap()), (2, 2));
    assert!(contents(&wal, "k").is_empty());
    wal.append_entry("k", None, "three", true).unwrap();
    assert_eq!(contents(&wal, "k"), ["three"]);
}

/// A key with limits of its own had been removed before, and a creation cut off since. As its first segment, an
/// empty one, was gone, the row did not reach the tombstone: the file without a header between them counted as damage.
#[test]
fn a_cut_off_creation_behind_a_tombstone_is_no_damage() {
    let (sim, wal) = fresh();
    let [first, second] = TWINS;
    wal.append_entry(first, None, "1", true).unwrap();
    wal.append_entry(second, None, "2", true).unwrap();
    wal.remove_key(first).unwrap();
    let mut image = sim.durable_image();
    let mut names = image.files().map(|(name, _)| name.to_owned());
    let tombstone = names.find(|name| name.ends_with("-0002.log")).unwrap();
    drop(names);
    image.set(&tombstone.replace("-0002", "-0003"), []);
    let sim = SimDir::from_image(&image, 2);
    let wal = open(&sim);
    wal.set_retention(first, Retention::FOREVER).unwrap();
    wal.set_retention(first, Retention::keep_last(5)).unwrap();
    let wal = open(&sim.after_kill());
    let kept = wal.append_entry(first, None, "3", true).unwrap();
    assert_eq!(contents(&wal, first), ["3"]);
    let lost = EntryRef { sequence_number: 3, ..kept };
    assert_eq!(error(wal.read_entry_at(lost)), EXPIRED);
}

/// In a closed directory, the newest segment's header was all that told whose the older ones are, and a
/// header from another file was believed before the copy of the right one.
#[test]
fn a_damaged_header_costs_no_other_segment() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    for n in 0..2 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
    }
    wal.shutdown().unwrap();
    let second = SEGMENT.replace("0001", "0002");
    let first_header = &sim.image().get(SEGMENT).unwrap()[..512].to_vec();

    let mut image = sim.image();
    image.set(&second, [first_header, &image.get(&second).unwrap()[512..]].concat());
    let wal = open_small(&SimDir::from_image(&image, 2));
    assert_eq!(contents(&wal, "k"), [vec![0; 3_000], vec![1; 3_000]]);

    image.set(&second, vec![0; 5_000]);
    let sim = SimDir::from_image(&image, 2);
    for _ in 0..2 {
        let wal = open_small(&sim);
        let found: Vec<_> = wal.entries("k").unwrap().collect();
        assert_eq!((found.len(), found[0].as_ref().unwrap().index), (2, 0));
        let at_second = |error: &WalError| matches!(error, WalError::Corrupted { path, .. } if path.ends_with(&second));
        assert!(at_second(found[1].as_ref().unwrap_err()), "{found:?}");
        assert!(at_second(&wal.get("k", 1).unwrap_err()));
        assert!(at_second(&wal.append_entry("k", None, "x", true).unwrap_err()));
        wal.shutdown().unwrap();
    }
    let wal = open_small(&sim);
    wal.remove_key("k").unwrap();
    wal.append_entry("k", None, "again", true).unwrap();
    wal.shutdown().unwrap();
    assert_eq!(contents(&open_small(&sim), "k"), ["again"]);
}

/// A creation that fails takes its file back, and nobody synced that: after a shutdown and a power cut the
/// file was there again, and counted as added while the directory was closed.
#[test]
fn a_failed_creation_does_not_come_back_after_a_shutdown() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    fail(&sim, CallKind::Write, 0, FaultKind::Error(ENOSPC), SEGMENT);
    assert!(wal.append_entry("k", None, "x", false).is_err());
    wal.shutdown().unwrap();
    sim.crash_images(sim.trace_len(), &CrashBudget::default(), &mut |image, choice| {
        let wal = open(&SimDir::from_image(image, 2));
        let report = wal.recovery_report();
        assert!(report.clean && report.damaged.is_empty(), "{choice}: {report:?}");
    });
}

/// Backwards, the entries before two lost segments in a row were not returned.
#[test]
fn two_lost_segments_in_a_row_hide_nothing_before_them() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    for n in 0..4 {
        wal.append_entry("k", None, [n; 3_000], true).unwrap();
    }
    wal.shutdown().unwrap();
    let mut image = sim.image();
    for number in ["0002", "0003"] {
        image.set(&SEGMENT.replace("0001", number), vec![0; 4_000]);
    }
    let wal = open_small(&SimDir::from_image(&image, 2));
    let forwards: Vec<_> = wal.entries("k").unwrap().map(Result::ok).collect();
    let mut backwards: Vec<_> = wal.entries("k").unwrap().rev().map(Result::ok).collect();
    backwards.reverse();
    for found in [forwards, backwards] {
        let indexes: Vec<_> = found.iter().flatten().map(|entry| entry.index).collect();
        assert_eq!(indexes, [0, 3]);
        assert!(found.contains(&None), "damage passed over in silence");
    }
}

/// Of a key that was removed, a cut-off creation was left. The key that then took its hash hid it, and once
/// that one was removed and the log shut down, it counted as damage.
#[test]
fn what_a_hidden_label_left_is_no_damage_once_the_other_key_is_gone() {
    let (sim, wal) = fresh();
    wal.append_entry(TWINS[0], None, "x", true).unwrap();
    let name = sim.image().files().map(|(name, _)| name.to_owned()).find(|name| name.contains('-'));
    let mut image = sim.durable_image();
    image.set(&name.unwrap().replace("-0001", "-0002"), []);
    let sim = SimDir::from_image(&image, 2);
    let wal = open(&sim);
    wal.remove_key(TWINS[0]).unwrap();
    wal.append_entry(TWINS[1], None, "y", true).unwrap();
    drop(wal);
    let wal = open(&sim);
    wal.remove_key(TWINS[1]).unwrap();
    wal.shutdown().unwrap();
    let wal = open(&sim);
    assert!(wal.recovery_report().clean);
    let keys = wal.enumerate_keys().unwrap();
    assert_eq!((keys.unreadable(), keys.count()), (0, 0));
}

/// A key was removed, used again and removed again, and left its first tombstone where another key came to
/// be. Then that one was removed, too: two tombstones, and the first key next to them. (The second removal unlinks
/// the first tombstone, which a power cut brings back.)
fn two_tombstones() -> SimDir {
    let (sim, wal) = fresh();
    let [first, second] = TWINS;
    wal.append_entry(first, None, "1", true).unwrap();
    wal.append_entry(second, None, "2", true).unwrap();
    wal.remove_key(first).unwrap();
    let before = sim.durable_image();
    let mut tombstones = before.files().filter(|(name, _)| name.contains("67e4-"));
    let (name, bytes) = tombstones.next().unwrap();
    wal.append_entry(first, None, "3", true).unwrap();
    wal.remove_key(second).unwrap();
    wal.remove_key(first).unwrap();
    wal.append_entry(second, None, "4", true).unwrap();
    wal.append_entry(first, None, "5", true).unwrap();
    wal.remove_key(second).unwrap();
    let mut image = sim.durable_image();
    assert!(image.get(name).is_none());
    image.set(name, bytes);
    SimDir::from_image(&image, 2)
}

/// The tombstone was taken for the key, which had entries elsewhere.
#[test]
fn an_old_tombstone_does_not_hide_where_the_key_is_now() {
    let sim = two_tombstones();
    let [first, second] = TWINS;
    for clean in [false, true] {
        if clean {
            open(&sim).shutdown().unwrap();
        }
        let wal = open(&sim);
        assert_eq!(contents(&wal, first), ["5"]);
        assert!(contents(&wal, second).is_empty());
    }
}

/// A creation of the key whose tombstone was passed over had been cut off. Nobody noted that, and after a shutdown it
/// was damage.
#[test]
fn a_cut_off_creation_behind_a_hidden_tombstone_is_no_damage() {
    let image = two_tombstones().image();
    let tombstones = image.files().map(|(name, _)| name.to_owned());
    let tombstones: Vec<String> = tombstones.filter(|name| name.contains("67e4-")).collect();
    assert_eq!(tombstones.len(), 2);
    for tombstone in tombstones {
        let mut image = image.clone();
        let (before, sequence) = tombstone.trim_end_matches(".log").rsplit_once('-').unwrap();
        let next: u32 = sequence.parse::<u32>().unwrap() + 20;
        image.set(&format!("{before}-{next:04}.log"), []);
        let sim = SimDir::from_image(&image, 2);
        open(&sim).shutdown().unwrap();
        let wal = open(&sim);
        assert_eq!(contents(&wal, TWINS[0]), ["5"], "{tombstone}");
        let keys = wal.enumerate_keys().unwrap();
        assert_eq!((keys.unreadable(), keys.count()), (0, 1), "{tombstone}");
    }
}

/// Where the cache was full of a file with unsynced bytes, the segment that was to be sealed was not in it: its
/// failed sync was forgotten, and the shutdown afterwards called the directory closed.
#[test]
fn a_seal_whose_sync_failed_is_not_forgotten_while_other_files_are_open() {
    for compact in [false, true] {
        let sim = SimDir::new(1);
        let clock = Arc::new(ManualClock::new(NOW));
        let open = || {
            let options = options().max_open_files(1).clock(clock.clone());
            Wal::open_in(Arc::new(sim.clone()), options).unwrap()
        };
        let wal = open();
        wal.append_entry("idle", None, "synced", true).unwrap();
        wal.shutdown().unwrap();
        let wal = open();
        wal.append_entry("busy", None, "not synced", false).unwrap();
        fail(&sim, CallKind::SyncData, 0, EIO, "idle-");
        if compact {
            clock.advance(options().entry_retention * 3);
            assert_eq!(wal.compact().unwrap().failures.len(), 1);
        } else {
            wal.truncate_before("idle", 1).unwrap_err();
        }
        let closed = wal.shutdown();
        assert!(matches!(closed, Err(WalError::Poisoned { .. })), "{closed:?}");
    }
}
