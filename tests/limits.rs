//! Is of each key kept what its limits say, no less and not much more, and is the hook asked first?

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, SimDir};
use keywal::{
    ClockTrouble, CompactionReport, DueSegment, EntryRef, HookResult, KeyOptions, ManualClock,
    Retention, Verdict, Wal, WalError, WalOptions,
};

const NOW: u64 = 1_700_000_000_000;
/// Three entries of this many bytes fill a segment.
const BYTES: usize = 1000;

struct Log {
    sim: SimDir,
    clock: Arc<ManualClock>,
    options: WalOptions,
}

impl Log {
    /// Retention of 100 s in windows of 10 s, segments of 4 KiB. No journal, which would bring lost files
    /// back.
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(NOW));
        let options = WalOptions::with_retention(Duration::from_secs(100))
            .max_segment_bytes(4096)
            .journal_bytes(0)
            .clock(clock.clone());
        Self { sim: SimDir::new(1), clock, options }
    }

    fn open(&self) -> Wal {
        Wal::open_in(Arc::new(self.sim.clone()), self.options.clone()).unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn fill(wal: &Wal, key: &str, entries: usize) -> Vec<EntryRef> {
    (0..entries).map(|_| wal.append_entry(key, None, [7; BYTES], false).unwrap()).collect()
}

fn compact(wal: &Wal) -> CompactionReport {
    let report = wal.compact().unwrap();
    assert!(report.failures.is_empty(), "{report:?}");
    report
}

/// The index range that is left.
fn left(wal: &Wal, key: &str) -> (u64, u64) {
    let read: Vec<u64> = wal.entries(key).unwrap().map(|entry| entry.unwrap().index).collect();
    let (first, next) = (wal.first_index(key).unwrap(), wal.next_index(key).unwrap());
    assert_eq!(read, (first..next).collect::<Vec<_>>());
    (first, next)
}

#[test]
fn keep_last_keeps_so_many_and_at_most_a_segment_more() {
    let log = Log::new();
    let wal = log.open();
    wal.set_retention("k", Retention::keep_last(5)).unwrap();
    for appended in 1..=30 {
        fill(&wal, "k", 1);
        compact(&wal);
        let (first, next) = left(&wal, "k");
        assert_eq!(next, appended);
        let kept = next - first;
        assert!(kept >= appended.min(5) && kept < 5 + 3, "{kept} of {appended}");
    }
    // Not for its age, either: however old, five are left.
    log.pass(1_000_000);
    let before = left(&wal, "k");
    assert_eq!(compact(&wal).dropped_segments, 0);
    assert_eq!(left(&wal, "k"), before);
}

#[test]
fn a_limit_by_bytes_keeps_so_many_and_at_most_a_segment_more() {
    let log = Log::new();
    let wal = log.open();
    wal.set_retention("k", Retention::FOREVER.max_bytes(10_000)).unwrap();
    for _ in 0..30 {
        fill(&wal, "k", 1);
        let before = wal.key_stats("k").unwrap().bytes;
        compact(&wal);
        let bytes = wal.key_stats("k").unwrap().bytes;
        assert!(bytes >= before.min(10_000) && bytes < 10_000 + 4096 + 32, "{bytes} of {before}");
    }
}

#[test]
fn streams_with_different_retention_live_in_one_log() {
    let log = Log::new();
    let wal = log.open();
    let hour = Retention::keep_for(Duration::from_secs(3600));
    wal.set_retention("hour", hour).unwrap();
    wal.set_retention("ever", Retention::FOREVER).unwrap();
    wal.set_retention("short", Retention::keep_for(Duration::from_secs(10))).unwrap();
    let refs = ["hour", "ever", "short", "default"].map(|key| fill(&wal, key, 1)[0]);
    let alive = |wal: &Wal| refs.map(|reference| wal.read_entry_at(reference).is_ok());
    // Each key has windows of its own.
    let window = |key| {
        let segment = wal.segments(key).unwrap().pop().unwrap();
        segment.expiration_ms - segment.created_ms
    };
    assert_eq!(["hour", "short", "default"].map(window), [360_000, 1_000, 10_000]);
    for (seconds, expected) in [
        (9, [true, true, true, true]),
        (2, [true, true, false, true]),
        (98, [true, true, false, true]),
        (1, [true, true, false, false]),
        (3849, [true, true, false, false]),
        (1, [false, true, false, false]),
        (1_000_000, [false, true, false, false]),
    ] {
        log.pass(seconds);
        compact(&wal);
        assert_eq!(alive(&wal), expected, "{seconds} seconds later");
    }
    drop(wal);
    let wal = log.open();
    assert_eq!(alive(&wal), [false, true, false, false]);
    assert_eq!(wal.retention("hour").unwrap(), Some(hour));
    assert_eq!(wal.retention("default").unwrap(), None);
}

#[test]
fn a_retention_is_stored_with_its_key_and_goes_with_it() {
    let log = Log::new();
    for clean in [false, true] {
        let wal = log.open();
        let policy = Retention::keep_for(Duration::from_secs(77)).max_bytes(1 << 30).min_entries(3);
        fill(&wal, "k", 1);
        wal.set_retention("k", policy).unwrap();
        // It goes on from segment to segment.
        fill(&wal, "k", 10);
        log.pass(50);
        fill(&wal, "k", 1);
        if clean {
            wal.shutdown().unwrap();
        }
        drop(wal);
        let wal = log.open();
        assert_eq!(wal.retention("k").unwrap(), Some(policy));
        assert_eq!(left(&wal, "k"), (0, 12));
        wal.remove_key("k").unwrap();
        assert_eq!(wal.retention("k").unwrap(), None);
        fill(&wal, "k", 1);
        assert_eq!(wal.retention("k").unwrap(), None);
        wal.remove_key("k").unwrap();
    }
}

#[test]
fn a_retention_survives_power_loss_when_the_call_returns() {
    for journal_bytes in [0, 4096] {
        let mut log = Log::new();
        log.options = log.options.journal_bytes(journal_bytes);
        let wal = log.open();
        fill(&wal, "k", 1);
        wal.set_retention("k", Retention::keep_last(1)).unwrap();
        wal.set_retention("new", Retention::FOREVER).unwrap();
        assert!(wal.create_key("made", KeyOptions::default().metadata("m")).unwrap());
        fill(&wal, "k", 5); // not durable, and in segments after the one that has it
        log.sim = SimDir::from_image(&log.sim.durable_image(), 2);
        let wal = log.open();
        assert_eq!(wal.retention("k").unwrap(), Some(Retention::keep_last(1)));
        assert_eq!(wal.retention("new").unwrap(), Some(Retention::FOREVER));
        assert_eq!(wal.key_metadata("made").unwrap().as_deref(), Some(&b"m"[..]));
        assert!(wal.next_index("k").unwrap() >= 1);
    }
}

/// Whether the key has all that it was to be created with; `false`: it does not exist.
fn is_created(wal: &Wal, own: &KeyOptions, when: &str) -> bool {
    let Some(metadata) = wal.key_metadata("k").unwrap() else {
        assert_eq!(wal.retention("k").unwrap(), None, "{when}");
        return false;
    };
    assert_eq!(
        (metadata, wal.retention("k").unwrap()),
        (own.metadata.clone(), own.retention),
        "{when}"
    );
    true
}

#[test]
fn a_key_is_created_with_all_of_its_own_or_not_at_all() {
    let own = KeyOptions::default().retention(Retention::keep_last(3)).metadata(vec![7; 2000]);
    for journal_bytes in [0, 4096] {
        let log = || {
            let mut log = Log::new();
            log.options = log.options.journal_bytes(journal_bytes);
            let wal = log.open();
            (log, wal)
        };
        let after_crash = |log: &Log, image: &_| Log {
            sim: SimDir::from_image(image, 2),
            clock: log.clock.clone(),
            options: log.options.clone(),
        };
        let (log_of_crashes, wal) = log();
        let before = log_of_crashes.sim.trace_len();
        assert!(wal.create_key("k", own.clone()).unwrap());
        let after = log_of_crashes.sim.trace_len();
        let mut found = [0, 0];
        for at in before..=after {
            log_of_crashes.sim.crash_images(at, &CrashBudget::default(), &mut |image, choice| {
                let wal = after_crash(&log_of_crashes, image).open();
                let created = is_created(&wal, &own, &format!("cut before {at}, {choice:?}"));
                assert!(created || at < after, "cut at the end, {choice:?}");
                found[usize::from(created)] += 1;
                assert_eq!(wal.create_key("k", own.clone()).unwrap(), !created);
            });
        }
        assert!(found[0] > 0 && found[1] > 0, "{found:?}");

        // And where a call fails.
        let mut failed = 0;
        for nth in 0.. {
            let (log, wal) = log();
            let (call, kind, name_contains) = (CallKind::Any, FaultKind::Error(5), None);
            log.sim.inject(Fault { call, nth, kind, forever: false, name_contains });
            let hits = log.sim.faults_hit();
            let result = wal.create_key("k", own.clone());
            if log.sim.faults_hit() == hits {
                assert!(result.unwrap());
                break;
            }
            log.sim.clear_faults();
            failed += usize::from(result.is_err());
            drop(wal);
            let wal = after_crash(&log, &log.sim.durable_image()).open();
            let when = format!("call {nth} fails: {result:?}");
            assert!(is_created(&wal, &own, &when) || result.is_err(), "{when}");
        }
        assert!(failed > 0);
    }
}

#[test]
fn a_changed_retention_counts_for_what_is_there() {
    let log = Log::new();
    let wal = log.open();
    fill(&wal, "k", 12);
    wal.set_retention("k", Retention::FOREVER).unwrap();
    log.pass(1_000);
    assert_eq!(compact(&wal).dropped_segments, 0);
    assert_eq!(left(&wal, "k"), (0, 12));
    wal.set_retention("k", Retention::keep_last(4)).unwrap();
    compact(&wal);
    assert_eq!(left(&wal, "k"), (6, 12));
    wal.set_retention("k", None).unwrap();
    compact(&wal);
    assert_eq!(left(&wal, "k"), (12, 12));
    assert_eq!(wal.key_stats("k").unwrap().segments, 1);
}

#[test]
fn what_was_to_be_kept_for_ever_goes_in_time_when_it_no_longer_is() {
    for own in [Some(Retention::keep_for(Duration::from_secs(100))), None] {
        let log = Log::new();
        let wal = log.open();
        wal.set_retention("k", Retention::FOREVER).unwrap();
        fill(&wal, "k", 4);
        log.pass(50);
        fill(&wal, "k", 4);
        log.pass(50);
        wal.set_retention("k", own).unwrap();
        fill(&wal, "k", 1);
        compact(&wal);
        assert_eq!(left(&wal, "k"), (3, 9));
        // The second segment took its last entries after 50 seconds.
        for (seconds, first) in [(49, 3), (1, 6), (49, 6), (1, 8), (9, 8), (1, 9)] {
            log.pass(seconds);
            compact(&wal);
            assert_eq!(left(&wal, "k"), (first, 9), "{own:?}, {seconds} seconds later");
        }
    }
}

#[test]
fn setting_what_is_set_writes_nothing_and_empty_segments_do_not_pile_up() {
    let log = Log::new();
    let wal = log.open();
    wal.set_retention("k", Retention::FOREVER).unwrap();
    let changes = log.sim.trace_len();
    wal.set_retention("k", Retention::FOREVER).unwrap();
    assert_eq!(log.sim.trace_len(), changes);
    for n in 1..10 {
        wal.set_retention("k", Retention::keep_last(n)).unwrap();
    }
    assert_eq!(wal.key_stats("k").unwrap().segments, 1);
    fill(&wal, "k", 1);
    assert_eq!(left(&wal, "k"), (0, 1));
}

#[test]
fn limits_of_the_options_are_those_of_keys_without_their_own() {
    let mut log = Log::new();
    log.options = log.options.max_entries_per_key(4).min_entries_per_key(2);
    let wal = log.open();
    fill(&wal, "k", 12);
    wal.set_retention("own", Retention::FOREVER).unwrap();
    fill(&wal, "own", 12);
    compact(&wal);
    assert_eq!(left(&wal, "k"), (6, 12));
    assert_eq!(left(&wal, "own"), (0, 12));
    // By age the rest would go, but two are to be left.
    log.pass(1_000);
    compact(&wal);
    assert_eq!(left(&wal, "k"), (9, 12));
    drop(wal);
    log.options.min_entries_per_key = 0;
    let wal = log.open();
    compact(&wal);
    assert_eq!(left(&wal, "k"), (12, 12));
}

#[test]
fn an_age_and_a_least_number_go_together() {
    let log = Log::new();
    let wal = log.open();
    let policy = Retention::keep_for(Duration::from_secs(100)).min_entries(4);
    wal.set_retention("k", policy).unwrap();
    fill(&wal, "k", 9);
    log.pass(200);
    compact(&wal);
    assert_eq!(left(&wal, "k"), (3, 9));
    // What is appended makes others expendable, though nothing gets older.
    fill(&wal, "k", 1);
    compact(&wal);
    assert_eq!(left(&wal, "k"), (6, 10));
}

#[test]
fn a_clock_in_trouble_does_not_hold_up_counts() {
    let log = Log::new();
    let wal = log.open();
    wal.set_retention("counted", Retention::keep_last(1)).unwrap();
    wal.set_retention("aged", Retention::keep_for(Duration::from_secs(10))).unwrap();
    fill(&wal, "counted", 7);
    fill(&wal, "aged", 7);
    log.clock.set(NOW + 86_400_000);
    let report = compact(&wal);
    assert_eq!(report.refused, Some(ClockTrouble::JumpedAhead));
    assert_eq!((left(&wal, "counted"), left(&wal, "aged")), ((6, 7), (0, 7)));

    // Set back before the newest segment was made.
    let wal = {
        drop(wal);
        log.open()
    };
    fill(&wal, "counted", 3);
    drop(wal);
    log.clock.set(NOW);
    let wal = log.open();
    let report = compact(&wal);
    assert_eq!(report.refused, None);
    assert_eq!((left(&wal, "counted"), left(&wal, "aged")), ((7, 10), (0, 7)));
}

#[test]
fn a_tolerated_correction_of_the_clock_takes_nothing_from_a_short_retention() {
    let log = Log::new();
    let wal = log.open();
    wal.set_retention("short", Retention::keep_for(Duration::from_millis(500))).unwrap();
    fill(&wal, "short", 1);
    log.clock.advance(Duration::from_millis(100));
    log.clock.set(NOW + 1_100); // a second ahead: a hundredth of the directory's retention
    assert_eq!(compact(&wal).refused, None);
    assert_eq!(left(&wal, "short"), (0, 1));
    log.clock.advance(Duration::from_millis(450));
    compact(&wal);
    assert_eq!(left(&wal, "short"), (1, 1));
}

#[test]
fn a_lost_segment_of_a_key_with_limits_is_damage_and_what_is_older_stays() {
    let log = Log::new();
    let wal = log.open();
    fill(&wal, "k", 9);
    fill(&wal, "other", 1);
    wal.set_retention("k", Retention::FOREVER).unwrap();
    log.pass(120);
    // Retention notes how far it dropped: farther than the segments of the key go.
    assert_eq!(compact(&wal).dropped_entries, 1);
    let lost = wal.segments("k").unwrap()[1].path.clone();
    drop(wal);
    keywal::fs::Dir::remove(&log.sim, lost.file_name().unwrap().to_str().unwrap()).unwrap();
    let wal = log.open();
    let read: Vec<_> = wal.entries("k").unwrap().collect();
    let indexes: Vec<u64> = read.iter().flatten().map(|entry| entry.index).collect();
    assert_eq!(indexes, [0, 1, 2, 6, 7, 8]);
    assert!(read.iter().any(Result::is_err), "nothing is said of the lost segment");
    compact(&wal);
    assert_eq!(wal.first_index("k").unwrap(), 0);
}

#[test]
fn what_cannot_be_kept_is_refused_and_changes_nothing() {
    let log = Log::new();
    let wal = log.open();
    for refused in [
        Retention::keep_last(0),
        Retention::FOREVER.max_entries(0),
        Retention::FOREVER.max_bytes(0),
        Retention::keep_for(Duration::from_millis(9)),
    ] {
        for result in [
            wal.set_retention("k", refused),
            wal.create_key("k", KeyOptions::default().retention(refused)).map(drop),
        ] {
            assert!(matches!(result, Err(WalError::InvalidOptions(_))), "{refused:?}: {result:?}");
        }
    }
    let too_much = KeyOptions::default().metadata(vec![0; 65_536]);
    assert!(matches!(wal.create_key("k", too_much), Err(WalError::InvalidOptions(_))));
    let key = vec![b'k'; 65_536];
    let too_long = |result: keywal::Result<()>| {
        assert!(matches!(result, Err(WalError::KeyTooLong { bytes: 65_536 })), "{result:?}");
    };
    too_long(wal.set_retention(&key, None));
    too_long(wal.create_key(&key, KeyOptions::default()).map(drop));
    too_long(wal.retention(&key).map(drop));
    too_long(wal.key_metadata(&key).map(drop));
    assert_eq!(wal.enumerate_keys().unwrap().count(), 0);
    for options in
        [WalOptions::default().max_entries_per_key(0), WalOptions::default().max_bytes_per_key(0)]
    {
        assert!(matches!(options.validate(), Err(WalError::InvalidOptions(_))));
    }
    wal.shutdown().unwrap();
    assert!(matches!(wal.set_retention("k", None), Err(WalError::Closed)));
    assert!(matches!(wal.create_key("k", KeyOptions::default()), Err(WalError::Closed)));
    assert!(matches!(wal.retention("k"), Err(WalError::Closed)));
}

#[test]
fn a_key_whose_files_are_in_doubt_is_refused() {
    let log = Log::new();
    let wal = log.open();
    for call in [CallKind::Write, CallKind::Remove] {
        let kind = FaultKind::Error(5);
        log.sim.inject(Fault { call, nth: 0, kind, forever: true, name_contains: None });
    }
    // The first segment can be neither written nor removed.
    assert!(wal.append_entry("k", None, "x", false).is_err());
    log.sim.clear_faults();
    for result in [
        wal.create_key("k", KeyOptions::default()).map(drop),
        wal.set_retention("k", Retention::FOREVER),
    ] {
        assert!(matches!(result, Err(WalError::Poisoned { .. })), "{result:?}");
    }
    drop(wal);
    let wal = log.open();
    assert!(wal.create_key("k", KeyOptions::default()).unwrap());
}

#[test]
fn a_disk_that_is_full_leaves_the_old_retention_and_the_entries() {
    let log = Log::new();
    let wal = log.open();
    fill(&wal, "k", 2);
    let kind = FaultKind::Error(28);
    let (nth, forever, name_contains) = (0, true, None);
    log.sim.inject(Fault { call: CallKind::Create, nth, kind, forever, name_contains });
    let result = wal.set_retention("k", Retention::FOREVER);
    assert!(matches!(result, Err(WalError::StorageFull { .. })), "{result:?}");
    let result = wal.create_key("new", KeyOptions::default());
    assert!(matches!(result, Err(WalError::StorageFull { .. })), "{result:?}");
    assert_eq!(wal.retention("k").unwrap(), None);
    assert_eq!(wal.enumerate_keys().unwrap().count(), 1);
    log.sim.clear_faults();
    wal.set_retention("k", Retention::FOREVER).unwrap();
    fill(&wal, "k", 1);
    assert_eq!(left(&wal, "k"), (0, 3));
}

#[test]
fn metadata_are_in_every_segment_from_the_first_to_the_last() {
    let log = Log::new();
    let wal = log.open();
    let bytes: Bytes = (0..65_535_u32).map(|n| n.to_le_bytes()[0]).collect();
    let options = KeyOptions::default().metadata(bytes.clone()).retention(Retention::keep_last(2));
    assert!(wal.create_key("k", options).unwrap());
    assert!(!wal.create_key("k", KeyOptions::default().metadata("other")).unwrap());
    assert_eq!(left(&wal, "k"), (0, 0));
    fill(&wal, "k", 9);
    wal.set_retention("k", None).unwrap();
    log.pass(200);
    compact(&wal); // an empty successor carries them on
    assert_eq!(left(&wal, "k"), (9, 9));
    fill(&wal, "plain", 1);
    drop(wal);
    let wal = log.open();
    assert_eq!(wal.key_metadata("k").unwrap(), Some(bytes));
    assert_eq!(wal.key_metadata("plain").unwrap(), Some(Bytes::new()));
    assert_eq!(wal.key_metadata("nobody").unwrap(), None);
    assert_eq!(fill(&wal, "k", 1).len(), 1);
    assert_eq!(left(&wal, "k"), (9, 10));
}

/// What a hook was told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    path: PathBuf,
    key: Vec<u8>,
    indexes: (u64, u64),
    checksum: u32,
}

type Answer = Box<dyn FnMut(&DueSegment<'_>) -> HookResult + Send>;

/// A hook that notes what it is told, and answers as it is set to.
#[derive(Clone, Default)]
struct Hook {
    told: Arc<Mutex<Vec<Told>>>,
    answer: Arc<Mutex<Option<Answer>>>,
}

impl Hook {
    fn answer(&self, answer: impl FnMut(&DueSegment<'_>) -> HookResult + Send + 'static) {
        *self.answer.lock().unwrap_or_else(|error| error.into_inner()) = Some(Box::new(answer));
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }

    fn log(&self) -> Log {
        let hook = self.clone();
        let mut log = Log::new();
        log.options = log.options.before_drop(move |segment| {
            hook.told.lock().unwrap().push(Told {
                path: segment.path.to_owned(),
                key: segment.key.to_vec(),
                indexes: (segment.first_index, segment.next_index),
                checksum: segment.checksum()?,
            });
            let mut answer = hook.answer.lock().unwrap_or_else(|error| error.into_inner());
            answer.as_mut().map_or(Ok(Verdict::Drop), |answer| answer(segment))
        });
        log
    }
}

#[test]
fn the_hook_is_told_of_each_segment_before_it_goes() {
    for journal_bytes in [0, 4096] {
        let hook = Hook::default();
        let mut log = hook.log();
        log.options = log.options.journal_bytes(journal_bytes);
        let wal = log.open();
        fill(&wal, "k", 7);
        let segments = wal.segments("k").unwrap();
        let sim = log.sim.clone();
        let archive: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let archived = archive.clone();
        hook.answer(move |segment| {
            assert_eq!(segment.expiration_ms - segment.created_ms, 10_000);
            let mut copy = Vec::new();
            let checksum = segment.copy_to(&mut copy)?;
            assert_eq!(checksum, crc32fast::hash(&copy));
            // By its path there is the same.
            let image = sim.image();
            let name = segment.path.file_name().unwrap().to_str().unwrap();
            let (_, file) = image.files().find(|(file, _)| *file == name).unwrap();
            assert_eq!(file[..copy.len()], copy);
            archived.lock().unwrap().push(copy);
            Ok(Verdict::Drop)
        });
        compact(&wal);
        assert_eq!(hook.told(), []);
        log.pass(110);
        assert_eq!(compact(&wal).dropped_entries, 7);
        let archive = archive.lock().unwrap();
        let told = hook.told();
        assert_eq!(told.len(), 3);
        for ((told, segment), copy) in told.iter().zip(&segments).zip(&*archive) {
            assert_eq!((&told.path, &*told.key), (&segment.path, &b"k"[..]));
            assert_eq!(told.indexes, (segment.first_index, segment.next_index));
            assert_eq!(told.checksum, crc32fast::hash(copy));
        }
        // What holds nothing is not asked about.
        log.pass(500);
        compact(&wal);
        fill(&wal, "k", 1);
        compact(&wal);
        assert_eq!(hook.told(), []);
    }
}

#[test]
fn a_hook_that_fails_or_says_keep_keeps_the_segment_and_the_newer_ones() {
    for fails in [true, false] {
        let hook = Hook::default();
        let log = hook.log();
        let wal = log.open();
        let refs = fill(&wal, "k", 9);
        fill(&wal, "other", 1);
        log.pass(110);
        hook.answer(move |segment| match segment.first_index {
            3 if fails => Err("the archive is closed".into()),
            3 => Ok(Verdict::Keep),
            _ => Ok(Verdict::Drop),
        });
        let report = wal.compact().unwrap();
        assert_eq!((report.dropped_segments, report.held_segments), (2, 2), "{report:?}");
        assert_eq!(report.failures.len(), usize::from(fails));
        if let Some(failure) = report.failures.first() {
            assert_eq!(failure.path, wal.segments("k").unwrap()[0].path);
            assert!(failure.what.contains("the archive is closed"), "{}", failure.what);
        }
        assert_eq!((left(&wal, "k"), left(&wal, "other")), ((3, 9), (1, 1)));
        assert!(refs[3..].iter().all(|reference| wal.read_entry_at(*reference).is_ok()));
        // It asks again, in this process and in the next.
        hook.told();
        assert_eq!(wal.compact().unwrap().held_segments, 2);
        assert_eq!(hook.told().len(), 1);
        wal.shutdown().unwrap();
        drop(wal);
        let wal = log.open();
        assert_eq!(left(&wal, "k"), (3, 9));
        hook.answer(|_| Ok(Verdict::Drop));
        assert_eq!(compact(&wal).held_segments, 0);
        assert_eq!(left(&wal, "k"), (9, 9));
    }
}

#[test]
fn a_segment_that_was_held_back_is_not_taken_for_a_dropped_one_when_another_is_lost() {
    let hook = Hook::default();
    let log = hook.log();
    let wal = log.open();
    fill(&wal, "k", 9);
    fill(&wal, "other", 1);
    log.pass(110);
    hook.answer(|segment| Ok(if segment.key == b"k" { Verdict::Keep } else { Verdict::Drop }));
    assert_eq!(compact(&wal).dropped_segments, 1);
    let lost = wal.segments("k").unwrap()[1].path.clone();
    drop(wal);
    keywal::fs::Dir::remove(&log.sim, lost.file_name().unwrap().to_str().unwrap()).unwrap();
    let wal = log.open();
    let read: Vec<_> = wal.entries("k").unwrap().collect();
    assert!(read.iter().any(Result::is_err));
    assert_eq!(read.iter().flatten().count(), 6);
    compact(&wal);
    assert_eq!(wal.first_index("k").unwrap(), 0);
}

#[test]
fn a_hook_that_panics_takes_nothing_with_it() {
    let hook = Hook::default();
    let log = hook.log();
    let wal = log.open();
    fill(&wal, "k", 4);
    log.pass(110);
    hook.answer(|_| panic!("the hook's own fault"));
    let compacted = catch_unwind(AssertUnwindSafe(|| wal.compact()));
    assert!(compacted.is_err());
    assert_eq!(left(&wal, "k"), (0, 4));
    // Every lock can be taken, and nobody takes this thread for the hook's.
    fill(&wal, "k", 1);
    hook.answer(|_| Ok(Verdict::Drop));
    assert_eq!(compact(&wal).dropped_entries, 4);
    assert_eq!(left(&wal, "k"), (4, 5));
    wal.shutdown().unwrap();
    drop(wal);
    assert!(log.open().recovery_report().clean);
}

/// The hook has a way to the log that has the hook.
fn with_wal(hook: &Hook, log: &Log, mut call: impl FnMut(&Wal) + Send + 'static) -> Arc<Wal> {
    let slot: Arc<OnceLock<Weak<Wal>>> = Arc::default();
    let inner = slot.clone();
    hook.answer(move |_| {
        call(&inner.get().and_then(Weak::upgrade).expect("it runs the hook"));
        Ok(Verdict::Drop)
    });
    let wal = Arc::new(log.open());
    slot.set(Arc::downgrade(&wal)).unwrap();
    wal
}

#[test]
fn a_hook_may_use_the_log_but_not_wait_for_itself() {
    let hook = Hook::default();
    let log = hook.log();
    let wal = with_wal(&hook, &log, |wal| {
        let entry = wal.entries("k").unwrap().next().unwrap().unwrap();
        wal.append_entry("archive", None, &entry.content, true).unwrap();
        wal.append_entry("k", None, "while it is being compacted", true).unwrap();
        wal.sync().unwrap();
        assert_eq!(wal.segments("k").unwrap()[0].first_index, 0);
        assert!(matches!(wal.compact(), Err(WalError::InDropHook)));
        assert!(matches!(wal.shutdown(), Err(WalError::InDropHook)));
    });
    fill(&wal, "k", 2);
    log.pass(110);
    assert_eq!(compact(&wal).dropped_entries, 2);
    assert_eq!((left(&wal, "k"), left(&wal, "archive")), ((2, 3), (0, 1)));
    compact(&wal);
    wal.shutdown().unwrap();
}

#[test]
fn what_is_promised_for_ever_while_compact_runs_is_not_dropped_by_it() {
    let hook = Hook::default();
    let log = hook.log();
    let wal = with_wal(&hook, &log, |wal| {
        wal.set_retention("k", Retention::FOREVER).unwrap();
    });
    fill(&wal, "k", 7);
    log.pass(110);
    assert_eq!(compact(&wal).dropped_segments, 0);
    assert_eq!(left(&wal, "k"), (0, 7));
}

#[test]
fn a_hook_may_drop_what_it_is_asked_about() {
    for remove in [true, false] {
        let hook = Hook::default();
        let log = hook.log();
        let wal = with_wal(&hook, &log, move |wal| {
            if remove {
                wal.remove_key("k").unwrap();
            } else {
                wal.truncate_before("k", 7).unwrap();
            }
        });
        fill(&wal, "k", 7);
        log.pass(110);
        assert_eq!(compact(&wal).dropped_segments, 0);
        assert_eq!(left(&wal, "k"), if remove { (0, 0) } else { (7, 7) });
    }
}
