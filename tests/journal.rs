//! What is different with a journal, and what must not be?

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, SimDir};
use keywal::{Durability, SizeLimit, SyncPolicy, Wal, WalError, WalOptions, WalReader};

use common::forge;
use common::logs::{SEGMENT, fail, records};

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

/// A full disk had let the journal fill up, then there was space. The next entry was written over the place from
/// which on, as all records said, the journal counts: who died in the middle of that lost all that came behind.
#[test]
fn a_kill_while_an_old_record_is_written_over_costs_nothing() {
    for bytes in [60, 400, 600, 900] {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        let keys = ["a", "b"];
        for key in keys {
            wal.append_entry(key, None, "0", false).unwrap();
        }
        sim.set_capacity(Some(0));
        let mut entries = keys.len();
        let append = |key| wal.append_entry(key, None, [7; 60], false);
        while append(keys[entries / 8]).is_ok() {
            entries += 1;
        }
        assert!(entries > 10, "{entries}");
        sim.set_capacity(None);
        let start = sim.trace_len();
        wal.append_entry("a", None, vec![8; bytes], false).unwrap();
        for at in start..=sim.trace_len() {
            let killed = sim.killed_before(at);
            let reader = WalReader::open_in(Arc::new(killed.clone()), options()).unwrap();
            let seen = |key| reader.entries(key).unwrap().map(Result::unwrap).count();
            let seen: usize = keys.into_iter().map(seen).sum();
            assert!(seen >= entries, "{bytes}, {at}: {seen} of {entries}");
            let wal = Wal::open_in(Arc::new(killed), options()).unwrap();
            let kept = |key| wal.entries(key).unwrap().map(Result::unwrap).count();
            let kept: usize = keys.into_iter().map(kept).sum();
            assert!(kept >= entries, "{bytes}, {at}: {kept} of {entries}");
        }
    }
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
fn many_keys_in_turn_are_moved_on_many_entries_at_a_time_and_few_keys_at_a_time() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(128 << 10)).unwrap();
    let writes = || sim.call_kinds().iter().filter(|kind| **kind == CallKind::Write).count();
    let append = |number: usize| {
        let before = writes();
        wal.append_entry((number % 100).to_string(), None, [7; 100], false).unwrap();
        writes() - before
    };
    // Each of them creates its file.
    for number in 0..100 {
        append(number);
    }
    let each: Vec<usize> = (0..5000).map(append).collect();
    assert!(each.iter().sum::<usize>() <= 5000 / 3, "{each:?}");
    assert!(each.iter().all(|writes| *writes <= 32), "{each:?}");
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
    for (written, journal_bytes) in [0, 4096, 4096, 65_536, 8192, 0, 8192].into_iter().enumerate() {
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
fn a_journal_that_is_not_wanted_any_more_has_to_go_unless_it_is_gone() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("k", None, "0", true).unwrap();
    wal.shutdown().unwrap();
    drop(wal);
    let without = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(0));
    let mut image = sim.image();
    image.remove("JOURNAL").unwrap();
    let gone = SimDir::from_image(&image, 2);
    assert_eq!(contents(&without(&gone).unwrap(), "k"), ["0"]);
    fail(&sim, CallKind::Remove, 0, FaultKind::Error(5), "JOURNAL");
    let error = without(&sim).unwrap_err();
    assert!(error.to_string().contains("JOURNAL"), "{error}");
    assert_eq!(contents(&without(&sim).unwrap(), "k"), ["0"]);
}

/// A copy of a directory may have holes where the journal was, and a mapped store into one kills.
#[test]
fn a_journal_whose_space_is_not_there_is_not_used() {
    let sim = SimDir::new(1);
    drop(Wal::open_in(Arc::new(sim.clone()), options()).unwrap());
    for (error, used) in [(28, false), (95, true)] {
        fail(&sim, CallKind::Allocate, 0, FaultKind::Error(error), "JOURNAL");
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        let together = wal.append_many(["a", "b"].map(|key| (key, None, "0".into())), true);
        assert_eq!(together.is_ok(), used, "{together:?}");
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

/// Of an older life's record that goes over the end of the file, only what is at the start is written over.
#[test]
fn half_a_header_of_an_older_life_is_no_unfinished_write() {
    for bytes in (1..200).step_by(8) {
        let sim = SimDir::new(1);
        for life in 0..2 {
            let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
            for _ in 0..50 {
                // As long as in the life before, so that it stands at the same places.
                wal.append_entry(format!("{life}"), None, vec![7; bytes], false).unwrap();
                if life > 0 {
                    let wal = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
                    let report = wal.recovery_report();
                    assert!(report.torn.is_empty(), "{bytes}: {report:?}");
                }
            }
        }
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

/// Also if the file is made again from the journal alone, which then has a hole.
#[test]
fn damage_to_the_journal_costs_one_entry_of_a_file_that_is_lost() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    for number in 0..5 {
        wal.append_entry("k", None, number.to_string(), true).unwrap();
    }
    let mut image = sim.durable_image();
    image.remove(SEGMENT);
    let mut journal = image.get("JOURNAL").unwrap().to_vec();
    // The creation, and two entries; the content is behind two headers.
    let (_, third, length) = records(&sim)[3];
    let content = journal[third..third + length].iter().rposition(|byte| *byte == b'2').unwrap();
    journal[third + content] ^= 1;
    image.set("JOURNAL", journal);
    let wal = Wal::open_in(Arc::new(SimDir::from_image(&image, 2)), options()).unwrap();
    assert!(!wal.recovery_report().damaged.is_empty(), "{:?}", wal.recovery_report());
    let read = wal.enumerate_records("k").unwrap().filter_map(Result::ok);
    assert_eq!(read.collect::<Vec<_>>(), ["0", "1", "3", "4"]);
}

/// What is in the journal alone, and cannot be read there, is no damage to the file.
#[test]
fn an_error_of_reading_the_journal_is_one_of_reading() {
    let sim = SimDir::new(1);
    fail(&sim, CallKind::Map, 0, FaultKind::Error(12), "JOURNAL");
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("k", None, "0", true).unwrap();
    let reference = wal.append_entry("k", None, "1", true).unwrap();
    for (call, name) in [(CallKind::Write, SEGMENT), (CallKind::Read, "JOURNAL")] {
        let name_contains = Some(name.to_owned());
        sim.inject(Fault { call, nth: 0, kind: FaultKind::Error(5), forever: true, name_contains });
    }
    let failed = wal.read_entry_at(reference);
    assert!(matches!(failed, Err(WalError::Io { .. })), "{failed:?}");
    sim.clear_faults();
    assert_eq!(wal.read_entry_at(reference).unwrap(), "1");
}

#[test]
fn what_stands_in_a_segments_place_keeps_the_journal_from_being_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    let reference = wal.append_entry("k", None, "0", true).unwrap();
    drop(wal);
    let file = dir.path().join(format!("k-{:016x}-0001.log", reference.key_hash));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let refused = Wal::new(dir.path(), options());
    assert!(matches!(&refused, Err(WalError::Io { path, .. }) if *path == file), "{refused:?}");
    fs::remove_dir(&file).unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    assert_eq!(contents(&wal, "k"), numbers(1));
}

/// What a process that was killed had appended may not be on the disk yet.
#[test]
fn a_sync_covers_keys_that_have_not_been_used_since_a_crash() {
    for shut_down in [false, true] {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        for key in ["a", "b", "c"] {
            wal.append_entry(key, None, vec![b'0'; 2_000], false).unwrap();
        }
        drop(wal);
        let sim = sim.after_kill();
        let lazy = options().check_on_open(false);
        let wal = Wal::open_in(Arc::new(sim.clone()), lazy.clone()).unwrap();
        assert_eq!(wal.recovery_report().unchecked_keys, 2);
        if shut_down { wal.shutdown() } else { wal.sync() }.unwrap();
        let disk = SimDir::from_image(&sim.durable_image(), 2);
        let wal = Wal::open_in(Arc::new(disk), lazy).unwrap();
        assert_eq!(wal.recovery_report().clean, shut_down);
        assert!(["a", "b", "c"].iter().all(|key| wal.len(key).unwrap() == 1));
    }
}

// ---- a thread of its own ----

#[test]
fn a_maintenance_thread_moves_entries_on_and_ends_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions::default().journal_bytes(65_536).maintenance_thread(true);
    for ends in ["dropped", "shut down", "destroyed"] {
        let wal = Wal::new(dir.path(), options.clone()).unwrap();
        let written = contents(&wal, "k").len();
        for number in written..written + 2_000 {
            wal.append_entry("k", None, number.to_string(), number % 100 == 0).unwrap();
        }
        assert_eq!(contents(&wal, "k"), numbers(written + 2_000));
        match ends {
            "dropped" => drop(wal),
            "shut down" => wal.shutdown().unwrap(),
            _ => wal.destroy().unwrap(),
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_log_that_syncs_by_itself_makes_all_keys_durable_and_stops_with_the_log() {
    for journal_bytes in [0, 65_536] {
        let sim = SimDir::new(1);
        let options = options().journal_bytes(journal_bytes).max_open_files(1);
        let often = SyncPolicy::Every(Duration::from_millis(1));
        let open = |policy| {
            Wal::open_in(Arc::new(sim.clone()), options.clone().sync_policy(policy)).unwrap()
        };
        let wal = open(often);
        for key in ["a", "b", "c"] {
            wal.append_entry(key, None, "0", false).unwrap();
        }
        for key in ["a", "b", "c"] {
            let mut follow = wal.follow(key, 0).unwrap().durable_only();
            assert!(follow.next_timeout(Duration::from_secs(60)).unwrap().is_some(), "{key}");
        }
        let image = sim.durable_image();
        let found = Wal::open_in(Arc::new(SimDir::from_image(&image, 2)), options.clone()).unwrap();
        assert!(["a", "b", "c"].iter().all(|key| contents(&found, key) == numbers(1)));
        // It ends with the log, whichever way that ends.
        drop(wal);
        let wal = open(often);
        wal.append_entry("a", None, "1", false).unwrap();
        wal.shutdown().unwrap();
        open(SyncPolicy::OnDemand).destroy().unwrap();
    }
}

/// What a killed process has left in a key that nobody has used since may not be on the disk yet.
#[test]
fn a_log_that_syncs_by_itself_covers_keys_that_have_not_been_used_since_a_crash() {
    let sim = SimDir::new(1);
    let options = options().journal_bytes(0).check_on_open(false);
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    let keys = ["a", "b", "c"];
    for key in keys {
        wal.append_entry(key, None, "0", false).unwrap();
    }
    let sim = sim.after_kill();
    let often = SyncPolicy::Every(Duration::from_millis(1));
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone().sync_policy(often)).unwrap();
    let all_durable = || {
        let disk = SimDir::from_image(&sim.durable_image(), 2);
        let found = Wal::open_in(Arc::new(disk), options.clone()).unwrap();
        keys.iter().all(|key| found.len(key).unwrap() == 1)
    };
    let started = Instant::now();
    while !all_durable() {
        assert!(started.elapsed() < Duration::from_secs(60));
    }
    drop(wal);
}

// ---- several keys at once ----

fn entry(key: impl AsRef<[u8]>, content: &str) -> (Vec<u8>, Option<Bytes>, Bytes) {
    (key.as_ref().to_vec(), None, Bytes::copy_from_slice(content.as_bytes()))
}

#[test]
fn entries_of_several_keys_come_back_in_their_order_with_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default().journal_bytes(1 << 20)).unwrap();
    let entries: Vec<_> = (0..256).map(|n| entry(format!("{}", n % 100), &n.to_string())).collect();
    wal.append_many(entries.clone(), false).unwrap();
    let before = wal.stats();
    let refs = wal.append_many(entries.clone(), true).unwrap();
    let after = wal.stats();
    assert_eq!(after.syncs - before.syncs, 1);
    assert_eq!(after.appended_entries - before.appended_entries, 256);
    for (reference, (_, _, content)) in refs.iter().zip(&entries) {
        assert_eq!(wal.read_entry_at(*reference).unwrap(), content);
    }
    assert_eq!(contents(&wal, "55"), ["55", "155", "255", "55", "155", "255"]);
    assert_eq!(contents(&wal, "99"), ["99", "199", "99", "199"]);
    assert!(wal.append_many(Vec::<(&str, _, _)>::new(), true).unwrap().is_empty());
}

#[test]
fn entries_of_several_keys_need_a_journal_and_those_of_one_key_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default().journal_bytes(0)).unwrap();
    wal.append_many([entry("a", "0"), entry("a", "1")], true).unwrap();
    let refused = wal.append_many([entry("a", "x"), entry("b", "x")], true);
    assert!(matches!(refused, Err(WalError::NoJournal)), "{refused:?}");
    assert_eq!(contents(&wal, "a"), numbers(2));
    assert_eq!(wal.enumerate_keys().unwrap().count(), 1);
    assert_eq!(wal.stats().failed_appends, 1);
}

#[test]
fn a_quarter_of_the_journal_is_not_too_much() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for bytes in 300..600 {
        let content = "x".repeat(bytes);
        match wal.append_many([entry("a", &content), entry("b", &content)], false) {
            Err(WalError::TooLarge { bytes, max: max @ 1024, .. }) => {
                assert!(bytes > max, "{bytes}");
                refused += 1;
            }
            result => accepted += result.unwrap().len(),
        }
    }
    assert!(accepted > 0 && refused > 0);
}

#[test]
fn what_is_refused_leaves_nothing_in_any_key() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), options().max_segment_bytes(4096)).unwrap();
    wal.append_entry("a", None, "0", false).unwrap();
    let large = "x".repeat(700);
    let refused = wal.append_many([entry("a", &large), entry("b", &large)], false);
    assert!(
        matches!(refused, Err(WalError::TooLarge { max: 1024, limit: SizeLimit::Journal, .. })),
        "{refused:?}"
    );
    let refused = wal.append_many([entry("a", "x"), entry(vec![0; 65_536], "x")], false);
    assert!(matches!(refused, Err(WalError::KeyTooLong { .. })), "{refused:?}");
    let header = Some(Bytes::from(vec![0; 65_536]));
    let refused = wal.append_many([entry("a", "x"), (b"b".to_vec(), header, Bytes::new())], false);
    assert!(matches!(refused, Err(WalError::HeaderTooLarge { .. })), "{refused:?}");
    assert_eq!((contents(&wal, "a"), contents(&wal, "b")), (numbers(1), numbers(0)));
    wal.append_many([entry("a", "1"), entry("b", "0")], false).unwrap();
    assert_eq!((contents(&wal, "a"), contents(&wal, "b")), (numbers(2), numbers(1)));
    wal.shutdown().unwrap();
    let refused = wal.append_many([entry("a", "x"), entry("b", "x")], false);
    assert!(matches!(refused, Err(WalError::Closed)), "{refused:?}");
}

#[test]
fn new_keys_with_one_hash_can_begin_together() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), options()).unwrap();
    let [one, other] = common::COLLIDING;
    wal.append_many([entry(other, "0"), entry(one, "0"), entry(other, "1")], true).unwrap();
    wal.append_many([entry(one, "1"), entry(other, "2")], true).unwrap();
    drop(wal);
    let wal = Wal::new(dir.path(), options()).unwrap();
    assert_eq!(wal.len(one).unwrap(), 2);
    assert_eq!(wal.len(other).unwrap(), 3);
}

#[test]
fn threads_whose_keys_overlap_in_other_orders_get_done() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Wal::new(dir.path(), WalOptions::default().journal_bytes(65_536)).unwrap();
    thread::scope(|scope| {
        for thread in 0..4 {
            let wal = &wal;
            scope.spawn(move || {
                for round in 0..200 {
                    let keys = (0..4).map(|n| (n * (thread + 1) + round) % 7);
                    let entries = keys.map(|key| entry(format!("{key}"), "x"));
                    wal.append_many(entries, round % 16 == 0).unwrap();
                    if round % 50 == 49 {
                        wal.remove_key(format!("{thread}")).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(wal.stats().appended_entries, 4 * 200 * 4);
}

#[test]
fn what_belongs_together_waits_for_the_journals_sync_before_it_is_moved_on() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(65_536)).unwrap();
    wal.append_many([entry("a", "0"), entry("b", "0")], false).unwrap();
    let before = wal.stats().syncs;
    assert_eq!(contents(&wal, "a"), numbers(1));
    assert_eq!(wal.stats().syncs, before + 1);
    assert_eq!(contents(&wal, "b"), numbers(1));
    assert_eq!(wal.stats().syncs, before + 1);
}

#[test]
fn if_the_journals_sync_fails_entries_of_several_keys_are_in_doubt_together() {
    for durable in [true, false] {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(65_536)).unwrap();
        wal.append_many([entry("a", "0"), entry("b", "0")], true).unwrap();
        sim.inject(Fault {
            call: CallKind::SyncData,
            nth: 0,
            kind: FaultKind::Error(5),
            forever: false,
            name_contains: Some("JOURNAL".into()),
        });
        let appended = wal.append_many([entry("a", "doubtful"), entry("b", "doubtful")], durable);
        assert_eq!(appended.is_err(), durable, "{appended:?}");
        assert_eq!(contents(&wal, "a"), ["0", "doubtful"], "it is read from the journal");
        for key in ["a", "b"] {
            let refused = wal.append_entry(key, None, "x", false);
            assert!(matches!(refused, Err(WalError::Poisoned { .. })), "{refused:?}");
        }
        wal.append_entry("c", None, "0", true).unwrap();
        let refused = wal.append_many([entry("c", "x"), entry("d", "x")], false);
        assert!(matches!(refused, Err(WalError::Poisoned { .. })), "{refused:?}");
        drop(wal);
        let wal = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
        assert_eq!(contents(&wal, "a"), contents(&wal, "b"));
        assert_eq!(contents(&wal, "c"), numbers(1));
    }
}

/// Those that had survived are not, also where their segment cannot take them at once.
#[test]
fn entries_of_several_keys_that_are_durable_are_never_in_doubt() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options().journal_bytes(65_536)).unwrap();
    wal.append_many([entry("a", "0"), entry("b", "0")], true).unwrap();
    fail(&sim, CallKind::SyncData, 0, FaultKind::Error(5), "JOURNAL");
    wal.append_entry("c", None, "doubtful", true).unwrap_err();
    for key in ["a", "b"] {
        fail(&sim, CallKind::Write, 0, FaultKind::Error(28), ".log");
        let full = wal.append_entry(key, None, "x", true);
        assert!(matches!(full, Err(WalError::StorageFull { .. })), "{full:?}");
        wal.append_entry(key, None, "1", true).unwrap();
        assert_eq!(contents(&wal, key), numbers(2));
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

/// The file of such a segment cannot be trusted any more, whatever is synced later; its key takes no entries.
#[test]
fn what_was_promised_of_a_segment_that_cannot_be_synced_goes_round_with_the_journal() {
    let sim = SimDir::new(1);
    let options = || options().journal_bytes(16_384);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("broken", None, "0", true).unwrap();
    wal.append_many([("broken", None, Bytes::from("1")), ("other", None, Bytes::from("0"))], true)
        .unwrap();
    break_the_sync_of(&sim, "broken");
    for number in 0..200 {
        let content = Bytes::from(number.to_string());
        wal.append_entry("busy", None, content.clone(), true).unwrap();
        // Only the journal can take this, and the removal.
        wal.append_many([("many", None, content.clone()), ("more", None, content)], true).unwrap();
        if number % 50 == 7 {
            wal.remove_key("more").unwrap();
        }
    }
    assert_eq!(sim.faults_hit(), 1);
    let refused = wal.append_entry("broken", None, "2", false);
    assert!(matches!(refused, Err(WalError::Poisoned { .. })), "{refused:?}");
    let reopen = |sim: SimDir| {
        let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
        assert_eq!(contents(&wal, "broken"), numbers(2));
        assert_eq!(contents(&wal, "other"), numbers(1));
        assert_eq!(contents(&wal, "many"), numbers(200));
        wal.append_entry("broken", None, "2", true).unwrap();
    };
    sim.crash_images(sim.trace_len(), &CrashBudget::default(), &mut |image, _| {
        reopen(SimDir::from_image(image, 3));
    });
    reopen(sim.after_kill());
}

/// What the journal still has then must not be taken for done.
#[test]
fn a_directory_with_a_segment_that_could_not_be_synced_is_not_closed_cleanly() {
    not_closed_cleanly(200);
    // The shutdown itself syncs it, and is the first to.
    not_closed_cleanly(0);
}

fn not_closed_cleanly(appended_since: usize) {
    let sim = SimDir::new(1);
    let options = || options().journal_bytes(32_768).max_segment_bytes(4096);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    let contents_of = |wal: &Wal| contents(wal, "k").len();
    for _ in 0..4 {
        // Two segments.
        wal.append_entry("k", None, "x".repeat(1200), true).unwrap();
    }
    // Of the newest one, the shutdown would say it anyway.
    break_the_sync_of(&sim, SEGMENT);
    for _ in 0..appended_since {
        wal.append_entry("busy", None, "x", true).unwrap();
    }
    let refused = wal.shutdown();
    assert_eq!(sim.faults_hit(), 1);
    assert!(matches!(refused, Err(WalError::Poisoned { .. })), "{refused:?}");
    drop(wal);
    sim.crash_images(sim.trace_len(), &CrashBudget::default(), &mut |image, _| {
        let wal = Wal::open_in(Arc::new(SimDir::from_image(image, 3)), options()).unwrap();
        assert!(!wal.recovery_report().clean);
        assert_eq!(contents_of(&wal), 4);
    });
}

/// The sync of a file with this in its name fails, once.
fn break_the_sync_of(sim: &SimDir, name: &str) {
    sim.inject(Fault {
        call: CallKind::SyncData,
        nth: 0,
        kind: FaultKind::Error(5),
        forever: false,
        name_contains: Some(name.to_owned()),
    });
}

/// Recovery could find the record that names the new start of the journal, and not what had gone round before it.
#[test]
fn what_goes_round_is_durable_before_the_journal_starts_behind_what_it_was_copied_from() {
    let sim = SimDir::new(1);
    let options = || options().journal_bytes(16_384);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("broken", None, "0", true).unwrap();
    break_the_sync_of(&sim, "broken");
    // Not `Disk`: nothing syncs the journal but its own upkeep.
    for lap in 0..3 {
        let began = sim.trace_len();
        for _ in 0..200 {
            wal.append_entry("busy", None, "x", false).unwrap();
        }
        assert_eq!(sim.faults_hit(), 1);
        let budget = CrashBudget { exhaustive_bits: 6, samples: 24, ..CrashBudget::default() };
        for at in began..=sim.trace_len() {
            sim.crash_images(at, &budget, &mut |image, choice| {
                let sim = SimDir::from_image(image, 3);
                let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
                assert_eq!(contents(&wal, "broken"), numbers(1), "lap {lap}, {choice}");
            });
        }
    }
}

/// What a segment got past the journal made the journal forget where the file's header stands in it: the file had
/// none, and what was promised of it could not be written anywhere.
#[test]
fn the_header_of_a_segment_that_cannot_be_synced_goes_round_too() {
    let sim = SimDir::new(1);
    let options = || options().journal_bytes(16_384);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("broken", None, "0", true).unwrap();
    wal.append_entry("broken", None, vec![b'x'; 10_000], false).unwrap();
    break_the_sync_of(&sim, "broken");
    for _ in 0..300 {
        wal.append_entry("busy", None, "x", true).unwrap();
    }
    assert_eq!(sim.faults_hit(), 1);
    let sim = SimDir::from_image(&sim.durable_image(), 3);
    let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
    assert_eq!(contents(&wal, "broken"), numbers(1));
}

/// The newest of its records were still in the journal as they had been, before the header: with them first, the
/// file had no header, and was taken for one that was lost with its name.
#[test]
fn what_had_no_need_to_go_round_yet_does_not_hide_what_did() {
    let options = || options().journal_bytes(16_384);
    for gap in 0..60 {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        break_the_sync_of(&sim, "broken");
        let mut written = 0;
        for round in 0..200 {
            if sim.faults_hit() > 0 {
                break;
            }
            if round % 60 == 0 || round % 60 == gap {
                wal.append_entry(format!("late {round}"), None, "x", false).unwrap();
                let appended = wal.append_entry("broken", None, written.to_string(), true);
                written += usize::from(appended.is_ok());
            }
            wal.append_entry("busy", None, "x", false).unwrap();
        }
        assert_eq!(sim.faults_hit(), 1);
        let sim = SimDir::from_image(&sim.durable_image(), 3);
        let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
        let found = contents(&wal, "broken");
        assert!(found.len() >= written && found == numbers(found.len()), "{gap}: {found:?}");
    }
}

/// An entry that made the room for itself, and thereby found out that its key's file cannot be synced, was tied to
/// the older records instead of those that had gone round: these did not go round a second time.
#[test]
fn an_entry_on_its_way_when_the_sync_fails_does_not_hide_those_before_it() {
    let sim = SimDir::new(1);
    let options = || options().journal_bytes(32_768);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("other", None, "0", true).unwrap();
    wal.append_entry("broken", None, "0", true).unwrap();
    // With a full disk nothing leaves the journal.
    sim.set_capacity(Some(0));
    for _ in 0..45 {
        wal.append_entry("other", None, [7; 200], false).unwrap();
    }
    sim.set_capacity(None);
    break_the_sync_of(&sim, "broken");
    let large = Bytes::from(vec![b'x'; 3_500]);
    let entries = [("broken", None, large.clone()), ("other", None, Bytes::from("1"))];
    wal.append_many(entries, true).unwrap();
    assert_eq!(sim.faults_hit(), 1);
    for lap in 0..4 {
        let sim = SimDir::from_image(&sim.durable_image(), 3);
        let reopened = Wal::open_in(Arc::new(sim), options()).unwrap();
        let found = contents(&reopened, "broken");
        assert_eq!(found.len(), 2, "lap {lap}");
        assert!(found[0] == "0" && found[1] == large, "lap {lap}");
        for _ in 0..100 {
            wal.append_entry("busy", None, "x", true).unwrap();
        }
    }
}
