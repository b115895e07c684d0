//! What is different with a journal, and what must not be?

use std::fs;
use std::sync::Arc;

use keywal::fs::sim::{CallKind, Fault, FaultKind, SimDir};
use keywal::{Durability, Wal, WalError, WalOptions};

use common::forge;

mod common;

fn options() -> WalOptions {
    WalOptions::default().journal_bytes(4096)
}

fn contents(wal: &Wal, key: &str) -> Vec<String> {
    let records = wal.enumerate_records(key).unwrap();
    records.map(|record| String::from_utf8(record.unwrap().to_vec()).unwrap()).collect()
}

fn numbers(n: usize) -> Vec<String> {
    (0..n).map(|number| number.to_string()).collect()
}

#[test]
fn durable_appends_of_any_number_of_keys_share_the_journals_sync() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default().journal_bytes(1 << 20)).unwrap();
    for key in 0..100 {
        wal.append_entry(format!("key {key}"), None, "x", false).unwrap();
    }
    let before = wal.stats().syncs;
    wal.append_entry("one more", None, "x", true).unwrap();
    assert_eq!(wal.stats().syncs - before, 1, "nor does a new segment need a sync of its own");
    wal.sync().unwrap();
    assert!(wal.stats().syncs - before <= 3, "the journal, and the directory");
}

#[test]
fn a_journal_that_comes_round_many_times_loses_nothing() {
    for durable in [Durability::Os, Durability::Disk] {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        wal.append_entry("idle", None, "0", durable).unwrap();
        for number in 0..200 {
            wal.append_entry("busy", None, number.to_string(), durable).unwrap();
        }
        // What it had in the journal has long been written over.
        wal.append_entry("idle", None, "1", durable).unwrap();
        assert_eq!(contents(&wal, "busy"), numbers(200));
        drop(wal);
        let wal = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
        assert_eq!(contents(&wal, "busy"), numbers(200));
        assert_eq!(contents(&wal, "idle"), numbers(2));
        wal.shutdown().unwrap();
    }
}

#[test]
fn an_idle_key_is_closed_long_after_its_entries_have_left_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    wal.append_entry("idle", None, "0", false).unwrap();
    for number in 0..200 {
        wal.append_entry("busy", None, number.to_string(), false).unwrap();
    }
    wal.shutdown().unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    assert!(wal.recovery_report().clean);
    assert_eq!(contents(&wal, "idle"), numbers(1));
}

#[test]
fn the_size_can_be_changed_whenever_the_directory_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    for (written, journal_bytes) in [0, 4096, 4096, 65_536, 0, 8192].into_iter().enumerate() {
        let options = WalOptions::default().journal_bytes(journal_bytes);
        let wal = Wal::new(dir.path(), options).unwrap();
        assert!(wal.recovery_report().damaged.is_empty(), "{:?}", wal.recovery_report());
        assert_eq!(contents(&wal, "k"), numbers(written));
        wal.append_entry("k", None, written.to_string(), true).unwrap();
        let length = fs::metadata(dir.path().join("JOURNAL")).map_or(0, |file| file.len());
        assert_eq!(length, journal_bytes);
    }
    for journal_bytes in [1, 4095, 5000, 2 << 30] {
        let refused = WalOptions::default().journal_bytes(journal_bytes).validate();
        assert!(matches!(refused, Err(WalError::InvalidOptions(_))), "{journal_bytes}");
    }
}

#[test]
fn what_lies_about_of_an_older_life_is_no_unfinished_write() {
    let sim = SimDir::new(1);
    for life in 0..3 {
        let wal = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
        drop(wal);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        assert!(wal.recovery_report().torn.is_empty(), "{:?}", wal.recovery_report());
        wal.append_entry("k", None, life.to_string(), true).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_mapped_is_written() {
    let sim = SimDir::new(1);
    let no_mapping = Fault {
        call: CallKind::Map,
        nth: 0,
        kind: FaultKind::Error(12),
        forever: true,
        name_contains: None,
    };
    sim.inject(no_mapping);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    for number in 0..100 {
        wal.append_entry("k", None, number.to_string(), number % 7 == 0).unwrap();
    }
    assert_eq!(contents(&wal, "k"), numbers(100));
    drop(wal);
    let wal = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
    assert_eq!(contents(&wal, "k"), numbers(100));
}

#[test]
fn a_journal_whose_sync_failed_is_done_without() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(65_536)).unwrap();
    wal.append_entry("k", None, "0", true).unwrap();
    wal.append_entry("other", None, "0", false).unwrap();
    sim.inject(Fault {
        call: CallKind::SyncData,
        nth: 0,
        kind: FaultKind::Error(5),
        forever: false,
        name_contains: Some("JOURNAL".into()),
    });
    let failed = wal.append_entry("k", None, "doubtful", true);
    assert!(
        matches!(failed, Err(WalError::Io { operation: "sync the journal", .. })),
        "{failed:?}"
    );
    assert!(matches!(wal.append_entry("k", None, "x", false), Err(WalError::Poisoned { .. })));
    for number in 1..50 {
        wal.append_entry("other", None, number.to_string(), number % 5 == 0).unwrap();
    }
    assert_eq!(contents(&wal, "other"), numbers(50));
    drop(wal);
    let wal = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
    assert_eq!(contents(&wal, "k"), ["0"]);
    assert_eq!(contents(&wal, "other"), numbers(50));
}

#[test]
fn entries_that_the_full_disk_has_no_room_for_are_read_from_the_journal() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("k", None, "0", true).unwrap();
    let used: usize = sim.image().files().map(|(_, bytes)| bytes.len()).sum();
    sim.set_capacity(Some(u64::try_from(used).unwrap()));
    let mut written = 1;
    let full = loop {
        match wal.append_entry("k", None, written.to_string(), true) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, WalError::StorageFull { .. }), "{full:?}");
    assert!(written > 1);
    assert_eq!(contents(&wal, "k"), numbers(written));
    sim.set_capacity(None);
    wal.append_entry("k", None, written.to_string(), true).unwrap();
    assert_eq!(contents(&wal, "k"), numbers(written + 1));
}

#[test]
fn a_journal_that_is_gone_after_a_crash_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    wal.append_entry("k", None, "0", true).unwrap();
    drop(wal);
    fs::remove_file(dir.path().join("JOURNAL")).unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    let damaged = &wal.recovery_report().damaged;
    assert!(damaged.iter().any(|finding| finding.path.ends_with("JOURNAL")), "{damaged:?}");
}

#[test]
fn a_flipped_bit_costs_no_more_than_the_entry_it_hit_and_is_reported() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    for number in 0..5 {
        wal.append_entry("k", None, number.to_string(), true).unwrap();
    }
    drop(wal);
    let image = sim.after_kill().image();
    let journal = image.get("JOURNAL").unwrap().to_vec();
    for bit in (0..journal.len() * 8).step_by(7) {
        let mut flipped = journal.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let mut image = image.clone();
        image.set("JOURNAL", flipped);
        let wal = Wal::open_in(Arc::new(SimDir::from_image(&image, 2)), options()).unwrap();
        let report = wal.recovery_report();
        let told = !report.damaged.is_empty() || !report.torn.is_empty();
        let read: Vec<_> = wal.enumerate_records("k").unwrap().collect();
        let good = read.iter().filter_map(|record| record.as_ref().ok());
        let good: Vec<String> =
            good.map(|record| String::from_utf8(record.to_vec()).unwrap()).collect();
        assert!(good.iter().all(|content| numbers(5).contains(content)), "bit {bit}: {good:?}");
        assert!(good == numbers(5) || told, "bit {bit}: {good:?}, and no word");
    }
}

/// The fuzzers' hostile journals are made with these checksums.
#[test]
fn forged_records_have_the_checksums_of_the_specification() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    for _ in 0..3 {
        wal.append_batch("key", [(None, "x".into()), (None, "y".into())], true).unwrap();
    }
    wal.remove_key("key").unwrap();
    let image = sim.image();
    let directory_id = image.get("META").unwrap()[24..32].try_into().unwrap();
    let mut journal = image.get("JOURNAL").unwrap().to_vec();
    forge::reseal_journal(&mut journal, u64::from_le_bytes(directory_id));
    assert!(journal == image.get("JOURNAL").unwrap());
    let frame = journal.windows(4).position(|bytes| bytes == forge::SIGNATURE).unwrap();
    for at in [4, 40, frame + 24, frame + 28] {
        let mut spoilt = journal.clone();
        spoilt[at] ^= 1;
        forge::reseal_journal(&mut spoilt, u64::from_le_bytes(directory_id));
        assert!(spoilt == journal, "byte {at}");
    }
}
