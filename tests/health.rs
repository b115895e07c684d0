//! Does `health` say what is wrong, and nothing where nothing is? Do `stats` count everything once?

mod common;

use std::sync::Arc;
use std::time::Duration;

use keywal::fs::sim::{CallKind, FaultKind, SimDir};
use keywal::{ClockTrouble, Health, ManualClock, Wal, WalError, WalOptions};

use common::hooked::HookedDir;
use common::logs::{NOW, SEGMENT, fail, open, open_small, options};

const EIO: FaultKind = FaultKind::Error(5);
const FRAME_BYTES: u64 = 32;

fn with_clock() -> (WalOptions, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(NOW));
    (options().clock(clock.clone()), clock)
}

fn poisoned(health: &Health) -> Vec<(Option<String>, String)> {
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let items = health.poisoned.iter();
    items.map(|item| (item.key.as_ref().map(ToString::to_string), name(&item.path))).collect()
}

#[test]
fn nothing_is_wrong_with_a_log_that_is_used() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let fresh = wal.health();
    assert_eq!((fresh.free_bytes, fresh.needed_bytes), (Some(u64::MAX), 0));
    wal.append_entry("k", None, "0123456789", false).unwrap();
    wal.append_entry("l", None, "durable", true).unwrap();
    let health = wal.health();
    assert!(health.poisoned.is_empty() && health.damaged.is_empty());
    assert_eq!((health.clock, health.last_compaction.as_ref()), (None, None));
    assert_eq!(health.unsynced_keys, 1);
    assert!(health.unsynced_bytes >= 10 + FRAME_BYTES);
    wal.sync().unwrap();
    let synced = wal.health();
    assert_eq!((synced.unsynced_keys, synced.unsynced_bytes), (0, 0));
    wal.shutdown().unwrap();
    assert_eq!(wal.health().poisoned, []);
}

#[test]
fn the_need_for_space_is_a_segment_a_key_and_a_window_of_appends() {
    let sim = SimDir::new(1);
    let (options, clock) = with_clock();
    let wal = Wal::open_in(Arc::new(sim.clone()), options.preallocate_bytes(8_192)).unwrap();
    for key in ["k", "l"] {
        wal.append_entry(key, None, vec![0; 968], false).unwrap();
    }
    // Ten windows in 100 seconds.
    assert_eq!(wal.health().needed_bytes, 2 * 8_192 + 2 * 1_000);
    clock.advance(Duration::from_secs(10));
    assert_eq!(wal.health().needed_bytes, 2 * 8_192 + 2 * 1_000);
    clock.advance(Duration::from_secs(30));
    assert_eq!(wal.health().needed_bytes, 2 * 8_192 + 500, "the average of four windows");

    sim.set_capacity(Some(40_000));
    let free = wal.health().free_bytes.unwrap();
    wal.append_entry("m", None, "one more", false).unwrap();
    assert_eq!(wal.health().free_bytes, Some(free - 8_192));
}

#[test]
fn a_journal_waits_for_space_in_the_segments() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(64 << 10)).unwrap();
    let before = wal.health().needed_bytes;
    wal.append_entry("k", None, vec![0; 968], true).unwrap();
    let health = wal.health();
    assert!(health.needed_bytes >= before + 4_096 + 2 * 1_000, "{health:?}");
    assert_eq!(health.unsynced_bytes, 0, "durable in the journal");
}

#[test]
fn a_file_system_that_cannot_tell_its_space_is_no_trouble() {
    let hooked = HookedDir::new(&SimDir::new(1), "k-");
    let wal = Wal::open_in(Arc::new(hooked), options()).unwrap();
    assert_eq!(wal.health().free_bytes, None);
    let dir = tempfile::tempdir().unwrap();
    let real = Wal::new(dir.path(), options()).unwrap();
    assert!(real.health().free_bytes.is_some_and(|free| free > 0));
}

#[test]
fn a_failed_sync_is_told_with_its_key_and_reason() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("l", None, "fine", true).unwrap();
    wal.append_entry("k", None, "first", false).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "k-");
    wal.sync_key("k").unwrap_err();
    let health = wal.health();
    assert_eq!(poisoned(&health), [(Some("k".to_owned()), SEGMENT.to_owned())]);
    assert!(health.poisoned[0].why.contains("os error 5"), "{}", health.poisoned[0].why);
    assert_eq!(wal.stats().failed_syncs, 1);
    drop(wal);
    let wal = open(&sim.after_kill());
    assert_eq!(wal.health().poisoned, []);
    assert_eq!((wal.stats().recoveries, wal.stats().failed_syncs), (1, 0));
}

#[test]
fn what_keys_share_is_told_without_a_key() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(64 << 10)).unwrap();
    wal.append_entry("k", None, "first", false).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "JOURNAL");
    wal.sync().unwrap_err();
    let told = poisoned(&wal.health());
    assert!(told.contains(&(None, "JOURNAL".to_owned())), "{told:?}");

    let sim = SimDir::new(1);
    let wal = open(&sim);
    sim.inject(keywal::fs::sim::Fault {
        call: CallKind::SyncDir,
        nth: 0,
        kind: EIO,
        forever: false,
        name_contains: None,
    });
    wal.append_entry("k", None, "first", true).unwrap_err();
    assert!(poisoned(&wal.health()).contains(&(None, "simulated".to_owned())));

    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "first", true).unwrap();
    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    wal.remove_key("k").unwrap_err();
    let told = poisoned(&wal.health());
    assert!(told.contains(&(None, "META".to_owned())), "{told:?}");
    assert_eq!(told.len(), 2, "the key is stuck: {told:?}");
    assert_eq!(told[1].0.as_deref(), Some("k"));
}

#[test]
fn damage_is_told_when_it_is_met_and_once() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let refs: Vec<_> =
        (0..3).map(|n| wal.append_entry("k", None, [n; 100], true).unwrap()).collect();
    wal.shutdown().unwrap();
    drop(wal);
    let mut image = sim.image();
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    bytes[usize::try_from(refs[1].offset).unwrap() + 40] ^= 1;
    image.set(SEGMENT, bytes);
    let wal = open(&SimDir::from_image(&image, 1));
    assert!(wal.recovery_report().damaged.is_empty());
    assert_eq!(wal.health().damaged, [], "nobody has looked");
    for _ in 0..2 {
        assert!(matches!(wal.read_entry_at(refs[1]), Err(WalError::Corrupted { .. })));
        assert_eq!(wal.entries("k").unwrap().filter(Result::is_err).count(), 1);
        assert_eq!(wal.entries("k").unwrap().rev().filter(Result::is_err).count(), 1);
        assert!(wal.get("k", 1).is_err());
    }
    let damaged = wal.health().damaged;
    assert_eq!(damaged.len(), 1, "{damaged:?}");
    assert_eq!((damaged[0].offset, damaged[0].bytes), (refs[1].offset, 132));
    assert!(wal.read_entry_at(refs[2]).is_ok());
}

#[test]
fn damage_found_on_opening_is_told() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    for _ in 0..2 {
        wal.append_entry("k", None, [7; 3_000], true).unwrap();
    }
    drop(wal);
    let mut image = sim.image();
    let newest = SEGMENT.replace("-0001", "-0002");
    let mut bytes = image.get(&newest).unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.extend_from_slice(&[0; 64]);
    image.set(&newest, bytes);
    image.set("META", b"not what it was".to_vec());
    let wal = open_small(&SimDir::from_image(&image, 1));
    let at_open = &wal.recovery_report().damaged;
    assert!(!at_open.is_empty());
    assert_eq!(&wal.health().damaged, at_open);
    let _ = wal.entries("k").unwrap().count();
    let _ = wal.append_entry("k", None, "more", true);
    assert!(wal.health().damaged.starts_with(at_open));
}

#[test]
fn damage_found_when_a_key_is_first_used_is_told() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let mut image_damage = Vec::new();
    for key in ["k", "l"] {
        let refs = [1, 2, 3].map(|n| wal.append_entry(key, None, [n; 100], true).unwrap());
        let path = wal.segments(key).unwrap()[0].path.clone();
        image_damage.push((path.file_name().unwrap().to_str().unwrap().to_owned(), refs[0].offset));
    }
    drop(wal);
    let mut image = sim.image();
    for (name, offset) in image_damage {
        let mut bytes = image.get(&name).unwrap().to_vec();
        bytes[usize::try_from(offset).unwrap() + 40] ^= 1;
        image.set(&name, bytes);
    }
    let lazy = options().check_on_open(false);
    let wal = Wal::open_in(Arc::new(SimDir::from_image(&image, 1)), lazy).unwrap();
    assert_eq!(wal.recovery_report().unchecked_keys, 1);
    assert_eq!(wal.health().damaged.len(), 1);
    for key in ["k", "l"] {
        assert_eq!(wal.next_index(key).unwrap(), 3);
    }
    assert_eq!(wal.health().damaged.len(), 2);
}

#[test]
fn compactions_are_told_with_their_age_and_failures() {
    let sim = SimDir::new(1);
    let (options, clock) = with_clock();
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for _ in 0..2 {
        wal.append_entry("k", None, [0; 100], true).unwrap();
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(wal.health().last_compaction, None);
    wal.compact().unwrap();
    clock.advance(Duration::from_secs(60));
    let health = wal.health();
    let last = health.last_compaction.unwrap();
    assert_eq!((last.age, health.compactions_failed), (Duration::from_secs(60), 0));

    fail(&sim, CallKind::Remove, 0, EIO, "k-");
    let report = wal.compact().unwrap();
    assert_eq!(report.failures.len(), 1);
    let health = wal.health();
    assert_eq!(health.last_compaction.unwrap().result, Ok(report));
    assert_eq!(health.compactions_failed, 1);
    fail(&sim, CallKind::SyncData, 0, EIO, "META");
    clock.advance(Duration::from_secs(1));
    wal.compact().unwrap_err();
    let health = wal.health();
    assert!(health.last_compaction.unwrap().result.unwrap_err().contains("META"));
    assert_eq!(health.compactions_failed, 2);
    assert_eq!(wal.stats().compactions, 3);
}

#[test]
fn a_clock_that_compact_would_not_believe_is_told_before() {
    let (options, clock) = with_clock();
    let wal = Wal::open_in(Arc::new(SimDir::new(1)), options).unwrap();
    assert_eq!(wal.health().clock, None);
    clock.set(NOW - 1);
    assert_eq!(wal.health().clock, Some(ClockTrouble::WentBack));
    clock.set(NOW + 60_000);
    assert_eq!(wal.health().clock, Some(ClockTrouble::JumpedAhead));
    clock.set(NOW);
    assert_eq!(wal.health().clock, None, "asking changes nothing");
    clock.set(NOW + 60_000);
    assert_eq!(wal.compact().unwrap().refused, Some(ClockTrouble::JumpedAhead));
    assert_eq!(wal.health().compactions_failed, 1);
    clock.set(NOW);
    assert_eq!(wal.health().clock, Some(ClockTrouble::JumpedAhead), "for good");
}

#[test]
fn drops_are_counted_with_what_they_gave_back() {
    let sim = SimDir::new(1);
    let wal = open_small(&sim);
    for _ in 0..3 {
        wal.append_entry("k", None, [0; 3_000], true).unwrap();
    }
    wal.append_if("k", 7, None, "late", true).unwrap_err();
    assert_eq!((wal.stats().failed_appends, wal.stats().conflicts), (1, 1));
    let report = wal.truncate_before("k", 2).unwrap();
    let stats = wal.stats();
    assert_eq!((stats.dropped_segments, stats.dropped_entries), (2, 2));
    assert_eq!(stats.dropped_bytes, report.dropped_bytes);
    assert_eq!((stats.recoveries, stats.failed_syncs, stats.compactions), (0, 0, 0));
}
