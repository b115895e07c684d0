//! Does a reader beside a writer see a prefix of every key, whole batches, and never damage?

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::hooked::HookedDir;
use common::{EPOCH_MS, Random, content};
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, SimDir};
use keywal::{ManualClock, Wal, WalError, WalOptions, WalReader, restore_in, verify_in};

mod common;

const KEYS: usize = 4;
/// With and without a journal; a small one comes round often.
const JOURNALS: [u64; 3] = [0, 4096, 64 << 10];

fn options(journal_bytes: u64) -> WalOptions {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    WalOptions::default().max_segment_bytes(4096).journal_bytes(journal_bytes).clock(clock)
}

/// What the writer says of a key: entries that are sure to be there, and those that may be.
#[derive(Default)]
struct Said {
    acknowledged: AtomicU64,
    begun: AtomicU64,
}

/// Says which batch the entry is of, and where that starts and ends.
fn payload(index: u64, start: u64, end: u64) -> Bytes {
    let noise = content(index, usize::try_from(index * 37 % 300).unwrap());
    let text = format!("{index} {start} {end} ");
    [text.as_bytes(), &noise].concat().into()
}

/// Does something random again and again, now and then closing and opening the directory.
fn write(
    home: &Path,
    options: &WalOptions,
    clock: &ManualClock,
    said: &[Said],
    rounds: u64,
    seed: u64,
) {
    let mut random = Random(seed);
    let mut wal = Wal::new(home, options.clone()).unwrap();
    for _ in 0..rounds {
        let at = usize::try_from(random.next() % KEYS as u64).unwrap();
        let (key, durable) = (format!("key {at}"), random.next() % 8 == 0);
        let next = said[at].acknowledged.load(Ordering::SeqCst);
        match random.next() % 24 {
            0 => clock.advance(Duration::from_secs(86_400)),
            1 => drop(wal.compact().unwrap()),
            2 => drop(wal.truncate_before(&key, random.next() % (next + 1)).unwrap()),
            3 => {
                wal.shutdown().unwrap();
                drop(wal);
                wal = Wal::new(home, options.clone()).unwrap();
            }
            4 => {
                drop(wal);
                wal = Wal::new(home, options.clone()).unwrap();
            }
            5 => wal.sync().unwrap(),
            _ => {
                let end = next + 1 + random.next() % 3;
                said[at].begun.store(end, Ordering::SeqCst);
                let batch = (next..end).map(|index| (None, payload(index, next, end)));
                wal.append_batch(&key, batch, durable).unwrap();
                said[at].acknowledged.store(end, Ordering::SeqCst);
            }
        }
    }
}

/// Looks at all keys once. `bounds`: what is sure to be there, and what may be, asked before and after.
fn look(reader: &WalReader, at: usize, least: u64, most: &dyn Fn() -> u64) -> u64 {
    let key = format!("key {at}");
    let mut newest = None;
    let mut missed = false;
    for entry in reader.entries(&key).unwrap() {
        let entry = match entry {
            // Dropped under the reader.
            Err(WalError::Expired) => {
                missed = true;
                continue;
            }
            entry => entry.unwrap_or_else(|error| panic!("{key}: {error}: {error:?}")),
        };
        if let Some((index, _)) = newest {
            assert!(entry.index == index + 1 || missed, "{key}: {index} then {}", entry.index);
        }
        missed = false;
        let text = String::from_utf8_lossy(&entry.content).into_owned();
        let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(u64::MAX));
        let [index, start, end] = [0; 3].map(|_: i32| words.next().unwrap());
        assert_eq!(entry.content, payload(index, start, end), "{key}");
        assert_eq!(entry.index, index, "{key}");
        newest = Some((index, end));
    }
    if let Some((index, end)) = newest {
        assert_eq!(index + 1, end, "{key}: a part of a batch");
    }
    let next = match reader.next_index(&key) {
        // All that was listed of it is gone.
        Err(WalError::Expired) => return least,
        next => next.unwrap(),
    };
    assert!(next >= least, "{key}: {next} entries of {least}");
    assert!(next <= most(), "{key}: {next} entries of {}", most());
    next
}

fn beside(journal: u64, preallocate: u64, seed: u64) -> u64 {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let options = options(journal).clock(clock.clone()).preallocate_bytes(preallocate);
    let said: Vec<Said> = (0..KEYS).map(|_| Said::default()).collect();
    drop(Wal::new(home.path(), options.clone()).unwrap());
    let done = AtomicBool::new(false);
    let mut looks = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            struct Done<'a>(&'a AtomicBool);
            impl Drop for Done<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
            let _done = Done(&done);
            write(home.path(), &options, &clock, &said, 600, seed);
        });
        let mut reader = WalReader::open_with(home.path(), options.clone()).unwrap();
        let mut random = Random(seed ^ 1);
        let mut before = [0; KEYS];
        loop {
            let over = done.load(Ordering::SeqCst);
            let least: Vec<u64> =
                said.iter().map(|said| said.acknowledged.load(Ordering::SeqCst)).collect();
            if random.next() % 4 == 0 {
                reader = WalReader::open_with(home.path(), options.clone()).unwrap();
            } else {
                reader.refresh().unwrap();
            }
            assert_eq!(reader.report().damaged, []);
            for (at, before) in before.iter_mut().enumerate() {
                if !over && random.next() % 4 == 0 {
                    continue;
                }
                let most = || said[at].begun.load(Ordering::SeqCst);
                let next = look(&reader, at, least[at].max(*before), &most);
                *before = next;
                looks += 1;
            }
            if over {
                break;
            }
        }
    });
    looks
}

#[test]
fn a_reader_sees_a_prefix_whatever_the_writer_does() {
    let seed = common::env_number("KEYWAL_SEED").unwrap_or(1);
    let rounds = common::env_number("KEYWAL_READER_ROUNDS").unwrap_or(1);
    let mut looks = 0;
    for seed in seed..seed + rounds {
        for journal in JOURNALS {
            for preallocate in [0, 4096] {
                looks += beside(journal, preallocate, seed);
            }
        }
    }
    println!("{looks} looks at a key");
    assert!(looks > 100);
}

/// The writer of the next test: its own process.
#[test]
fn writer() {
    let Some(dir) = common::child::started_as("writer") else { return };
    let wal = Wal::new(&dir, options(64 << 10)).unwrap();
    println!("open");
    for index in 0..20_000_u64 {
        wal.append_entry(
            format!("key {}", index % 4),
            None,
            payload(index / 4, index / 4, index / 4 + 1),
            false,
        )
        .unwrap();
        if index % 500 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    println!("done");
    // Killed without a shutdown.
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn a_reader_follows_another_process_to_its_last_entry_and_beyond_its_death() {
    use std::io::{BufRead, BufReader};
    let home = tempfile::tempdir().unwrap();
    let dir: PathBuf = home.path().join("wal");
    let mut child = common::child::command("writer", &dir).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut wait = |wanted: &str| {
        while !lines.next().expect("the writer says so").unwrap().contains(wanted) {}
    };
    wait("open");
    let mut reader = WalReader::open(&dir).unwrap();
    let mut next = [0; 4];
    let read = |reader: &mut WalReader, next: &mut [u64; 4]| {
        for (at, next) in next.iter_mut().enumerate() {
            for entry in reader.entries_from(format!("key {at}"), *next).unwrap() {
                let entry = entry.unwrap();
                assert_eq!(entry.index, *next);
                assert_eq!(entry.content, payload(*next, *next, *next + 1));
                assert_eq!(reader_entry(&dir, &entry), entry.content);
                *next += 1;
            }
        }
    };
    while next.iter().sum::<u64>() < 10_000 {
        read(&mut reader, &mut next);
    }
    wait("done");
    child.kill().unwrap();
    child.wait().unwrap();
    read(&mut reader, &mut next);
    assert_eq!(next, [5000; 4]);
    let mut fresh = WalReader::open(&dir).unwrap();
    read(&mut fresh, &mut [0; 4]);
}

/// By reference, in one of a hundred.
fn reader_entry(dir: &Path, entry: &keywal::Entry) -> Bytes {
    if entry.index % 1000 != 17 {
        return entry.content.clone();
    }
    WalReader::open(dir).unwrap().read_entry_at(entry.reference).unwrap()
}

#[test]
fn nothing_is_locked_repaired_or_written() {
    for journal in JOURNALS {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options(journal)).unwrap();
        for index in 0..50_u64 {
            wal.append_entry(format!("key {}", index % 3), None, content(index, 200), false)
                .unwrap();
        }
        for live in [true, false] {
            let dir = if live { sim.clone() } else { sim.after_kill() };
            let before = (dir.trace_len(), dir.image());
            let mut reader = WalReader::open_in(Arc::new(dir.clone()), options(0)).unwrap();
            reader.refresh().unwrap();
            let mut entries = 0;
            for key in reader.enumerate_keys().unwrap() {
                entries += reader.entries(&key).unwrap().map(Result::unwrap).count();
                assert_eq!(reader.first_index(&key).unwrap(), 0);
                reader.get(&key, 3).unwrap().unwrap();
                assert!(!reader.segments(&key).unwrap().is_empty());
                assert_eq!(reader.key_stats(&key).unwrap().next_index, reader.len(&key).unwrap());
            }
            assert_eq!(entries, 50);
            assert_eq!((dir.trace_len(), dir.image()), before);
            if !live {
                // No lock either.
                assert_eq!(Wal::open_in(Arc::new(dir), options(journal)).unwrap().stats().keys, 3);
            }
        }
    }
}

/// Also not what a removal has left that is on its way, or that a kill cut off: the file that says so need not
/// survive power loss yet.
#[test]
fn what_a_removal_has_left_is_not_deleted() {
    for journal in JOURNALS {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options(journal)).unwrap();
        for index in 0..3 {
            wal.append_entry("key", None, content(index, 3000), true).unwrap();
        }
        let start = sim.trace_len();
        wal.remove_key("key").unwrap();
        let mut gone = 0;
        for at in start..=sim.trace_len() {
            let dir = sim.killed_before(at);
            let before = dir.image();
            let reader = WalReader::open_in(Arc::new(dir.clone()), options(0)).unwrap();
            let entries = reader.entries("key").unwrap().map(Result::unwrap).count();
            assert!(entries == 3 || entries == 0, "{entries}");
            gone += usize::from(entries == 0);
            let report = restore_in(Arc::new(dir.clone()), &SimDir::new(2), None).unwrap();
            assert_eq!(report.keys, u64::from(entries > 0));
            verify_in(Arc::new(dir.clone())).unwrap();
            assert_eq!((dir.trace_len(), dir.image()), (at, before), "something was written");
        }
        assert!(gone > 3, "{gone}");
    }
}

/// With few files open, the newest segment of a key may be gone when the key is used again.
#[test]
fn a_newest_segment_that_is_gone_has_expired() {
    for drop in ["remove", "truncate"] {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options(0)).unwrap();
        for key in ["key", "other"] {
            wal.append_entry(key, None, "entry", true).unwrap();
        }
        let options = options(0).max_open_files(1);
        let mut reader = WalReader::open_in(Arc::new(sim), options).unwrap();
        let reference = reader.get("key", 0).unwrap().unwrap().reference;
        reader.get("other", 0).unwrap().unwrap();
        match drop {
            "remove" => wal.remove_key("key").unwrap(),
            _ => assert_eq!(wal.truncate_before("key", 1).unwrap().dropped_segments, 1),
        }
        let (done, result) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let errors = [
                reader.get("key", 0).unwrap_err(),
                reader.entries("key").unwrap_err(),
                reader.read_entry_at(reference).unwrap_err(),
                reader.next_index("key").unwrap_err(),
                reader.segments("key").unwrap_err(),
            ];
            reader.refresh().unwrap();
            done.send((errors, reader.entries("key").unwrap().count())).unwrap();
        });
        let (errors, left) = result.recv_timeout(Duration::from_secs(60)).expect("no hang");
        assert!(errors.iter().all(|error| matches!(error, WalError::Expired)), "{errors:?}");
        assert_eq!(left, 0);
    }
}

#[test]
fn what_is_no_log_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("missing");
    assert!(matches!(WalReader::open(&missing), Err(WalError::Io { .. })));
    assert!(!missing.exists());
    std::fs::write(home.path().join("file"), "").unwrap();
    assert!(matches!(WalReader::open(home.path().join("file")), Err(WalError::Io { .. })));
    let options = WalOptions { max_entry_bytes: 0, ..WalOptions::default() };
    assert!(matches!(WalReader::open_with(home.path(), options), Err(WalError::InvalidOptions(_))));
    let mut empty = WalReader::open(home.path()).unwrap();
    assert_eq!(empty.enumerate_keys().unwrap().count(), 0);
    // A log that is begun later shows.
    let wal = Wal::new(home.path(), WalOptions::default()).unwrap();
    let first = wal.append_entry("key", None, "first", false).unwrap();
    assert!(matches!(empty.read_entry_at(first), Err(WalError::InvalidRef)));
    empty.refresh().unwrap();
    assert_eq!(empty.read_entry_at(first).unwrap(), "first");
    wal.remove_key("key").unwrap();
    empty.refresh().unwrap();
    assert_eq!(empty.entries("key").unwrap().count(), 0);
}

/// What a power cut leaves reads without damage, and no entry less than recovery keeps.
#[test]
fn a_power_cut_looks_to_a_reader_as_to_recovery() {
    let budget = CrashBudget { exhaustive_bits: 5, samples: 20, garbled: 2, seed: 3 };
    let mut states = 0;
    for journal in [0, 4096] {
        let sim = SimDir::new(5);
        let clock = Arc::new(ManualClock::new(EPOCH_MS));
        let options = options(journal).clock(clock.clone());
        let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        for index in 0..30_u64 {
            let key = format!("key {}", index % 2);
            let batch = (0..=index % 2).map(|at| (None, content(index + at, 150)));
            wal.append_batch(&key, batch, index % 5 == 0).unwrap();
            clock.advance(Duration::from_secs(8_000));
        }
        clock.advance(Duration::from_secs(8 * 86_400));
        wal.compact().unwrap();
        for at in (1..=sim.trace_len()).step_by(3) {
            sim.crash_images(at, &budget, &mut |image, choice| {
                states += 1;
                let booted = SimDir::from_image(image, 1);
                let reader = WalReader::open_in(Arc::new(booted.clone()), options.clone()).unwrap();
                let seen: Vec<Vec<(u64, Bytes)>> = (0..2)
                    .map(|key| {
                        let entries = reader.entries(format!("key {key}")).unwrap();
                        entries
                            .map(|entry| entry.unwrap_or_else(|error| panic!("{choice}: {error}")))
                            .map(|entry| (entry.index, entry.content))
                            .collect()
                    })
                    .collect();
                drop(reader);
                let wal = Wal::open_in(Arc::new(booted), options.clone()).unwrap();
                for (key, seen) in seen.iter().enumerate() {
                    let entries = wal.entries(format!("key {key}")).unwrap();
                    let kept: Vec<(u64, Bytes)> = entries
                        .map(|entry| entry.map(|entry| (entry.index, entry.content)).unwrap())
                        .collect();
                    let found = seen.get(..kept.len()) == Some(&kept);
                    // With its journal, recovery may bring back a whole segment that was lost with its name.
                    assert!(found || journal > 0 && kept.starts_with(seen), "{choice}: {key}");
                    assert!(journal > 0 || seen.len() == kept.len(), "{choice}: {key}");
                }
            });
        }
    }
    println!("{states} states");
    assert!(states > 500);
}

/// A power cut may leave the name of a segment and nothing else of it, and the journal all that it had.
#[test]
fn a_segment_of_which_only_the_name_is_left_reads_from_the_journal() {
    let sim = SimDir::new(5);
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let options = options(4096).clock(clock.clone());
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    for content in ["first", "second"] {
        wal.append_entry("key", None, content, true).unwrap();
        clock.advance(Duration::from_secs(100_000));
    }
    let segments = wal.segments("key").unwrap();
    let names = segments.iter().map(|segment| segment.path.file_name().unwrap().to_str().unwrap());
    let names: Vec<&str> = names.collect();
    for empty in [&names[..1], &names[1..], &names] {
        let mut image = sim.durable_image();
        for name in &names {
            let content = sim.image().get(name).unwrap().to_vec();
            image.set(name, if empty.contains(name) { Vec::new() } else { content });
        }
        let left = Arc::new(SimDir::from_image(&image, 1));
        let reader = WalReader::open_in(left.clone(), options.clone()).unwrap();
        let shown = reader.enumerate_records("key").unwrap().collect::<Result<Vec<_>, _>>();
        assert_eq!(shown.unwrap(), ["first", "second"], "{empty:?} are empty");
        let report = verify_in(left).unwrap();
        assert!(report.damaged.is_empty(), "{empty:?} are empty: {:?}", report.damaged);
    }
}

/// A call that fails is an error of reading, and neither damage nor the end of the log.
#[test]
fn failing_calls_are_no_damage() {
    let mut failed = 0;
    for journal in [0, 4096] {
        let sim = SimDir::new(1);
        let wal = Wal::open_in(Arc::new(sim.clone()), options(journal)).unwrap();
        for index in 0..30_u64 {
            wal.append_entry("key", None, content(index, 300), false).unwrap();
        }
        let read = || -> Result<usize, WalError> {
            let mut reader = WalReader::open_in(Arc::new(sim.clone()), options(0))?;
            let mut entries = 0;
            for entry in reader.entries("key")? {
                entry?;
                entries += 1;
            }
            reader.refresh()?;
            assert_eq!(reader.report().damaged, []);
            reader.get("key", 7)?.unwrap();
            assert_eq!(reader.next_index("key")?, 30);
            Ok(entries)
        };
        let before = sim.calls();
        assert_eq!(read().unwrap(), 30);
        for nth in 0..sim.calls() - before {
            for (kind, forever) in [
                (FaultKind::Error(5), false),
                (FaultKind::Error(5), true),
                (FaultKind::Error(24), false),
                (FaultKind::Interrupted, false),
                (FaultKind::Short(1), false),
                (FaultKind::Short(40), true),
            ] {
                let call = CallKind::Any;
                sim.inject(Fault { call, nth, kind, forever, name_contains: None });
                let result = read();
                sim.clear_faults();
                match result {
                    Ok(entries) => assert_eq!(entries, 30, "journal {journal}, {nth}, {kind:?}"),
                    Err(WalError::Io { .. }) => failed += 1,
                    Err(error) => panic!("journal {journal}, call {nth}, {kind:?}: {error:?}"),
                }
            }
        }
    }
    assert!(failed > 50, "{failed}");
}

/// Whoever only reads, a backup say, finds no less than whoever opens the log next, and says that something is wrong.
#[test]
fn damage_to_the_facts_and_to_the_journal_hides_nothing_from_a_reader() {
    let sim = SimDir::new(5);
    let options = options(64 << 10);
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    // The facts once said that the log was closed.
    open(&sim).shutdown().unwrap();
    let wal = open(&sim);
    for index in 0..100 {
        wal.append_entry(format!("key {}", index % 5), None, content(index, 60), true).unwrap();
    }
    let killed = sim.after_kill().image();
    let journal = killed.get("JOURNAL").unwrap();
    let used = journal.iter().rposition(|byte| *byte != 0).unwrap();
    let flipped = |name: &'static str, at: usize| {
        let mut bytes = killed.get(name).unwrap().to_vec();
        bytes[at] ^= 1;
        (name, Some(bytes))
    };
    let mut damaged = vec![("META", None), flipped("META", 0), flipped("META", 4096)];
    damaged.extend((0..used).step_by(97).map(|at| flipped("JOURNAL", at)));
    damaged.push(("JOURNAL", Some(journal[..journal.len() / 2].to_vec())));
    damaged.push(("JOURNAL", None));
    let count = |entries: keywal::Entries| entries.flatten().count();
    let mut behind_gaps = 0;
    for (name, bytes) in damaged {
        let mut image = killed.clone();
        match bytes {
            Some(bytes) => image.set(name, bytes),
            None => drop(image.remove(name)),
        }
        let sim = SimDir::from_image(&image, 3);
        let reader = WalReader::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        let key = |key: usize| format!("key {key}");
        let seen: Vec<usize> = (0..5).map(|at| count(reader.entries(key(at)).unwrap())).collect();
        let told = !reader.report().damaged.is_empty();
        drop(reader);
        let wal = open(&sim);
        let kept: Vec<usize> = (0..5).map(|at| count(wal.entries(key(at)).unwrap())).collect();
        assert_eq!(seen, kept, "{name}");
        assert_eq!(told, !wal.recovery_report().damaged.is_empty(), "{name}");
        behind_gaps += usize::from(told && kept.iter().sum::<usize>() == 99);
    }
    assert!(behind_gaps > 10);
}

/// Where only the journal had durable entries of a segment that was cut off, a reader ended at the gap, and called it
/// an unfinished write.
#[test]
fn a_cut_segment_looks_to_a_reader_as_to_recovery() {
    let sim = SimDir::new(5);
    let options = options(64 << 10);
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    let wal = open(&sim);
    let append = |wal: &Wal, index, durable| {
        wal.append_entry("key", None, content(index, 60), durable).unwrap();
    };
    (0..10).for_each(|index| append(&wal, index, false));
    wal.shutdown().unwrap();
    let wal = open(&sim);
    (10..20).for_each(|index| append(&wal, index, true));
    let killed = sim.after_kill().image();
    let name = killed.files().map(|(name, _)| name).find(|name| name.ends_with("-0001.log"));
    let (name, bytes) = (name.unwrap(), killed.get(name.unwrap()).unwrap());
    let mut damaged = 0;
    for end in (0..bytes.len()).step_by(7) {
        for zeroed in [false, true] {
            let mut image = killed.clone();
            let mut content = bytes[..end].to_vec();
            content.resize(if zeroed { bytes.len() } else { end }, 0);
            image.set(name, content);
            let sim = SimDir::from_image(&image, 3);
            let reader = WalReader::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
            let all = |entries: keywal::Result<keywal::Entries>| match entries {
                Ok(entries) => entries.map(|entry| entry.map(|entry| entry.index).ok()).collect(),
                Err(_) => vec![None],
            };
            let seen = all(reader.entries("key"));
            drop(reader);
            let kept = all(open(&sim).entries("key"));
            assert_eq!(seen, kept, "{end} {zeroed}");
            damaged += usize::from(kept.contains(&None) && kept.contains(&Some(19)));
        }
    }
    assert!(damaged > 50, "{damaged}");
}

#[test]
fn a_reader_is_told_when_what_it_wants_next_has_been_dropped() {
    let home = tempfile::tempdir().unwrap();
    let options = WalOptions::default().max_segment_bytes(4096).max_entry_bytes(4000);
    let wal = Wal::new(home.path(), options).unwrap();
    let mut reader = WalReader::open(home.path()).unwrap();
    for _ in 0..10 {
        wal.append_entry("key", None, [7; 1000], false).unwrap();
    }
    assert_eq!(reader.entries_from("key", 2).unwrap().count(), 8);
    wal.truncate_before("key", 6).unwrap();
    let oldest = wal.first_index("key").unwrap();
    assert!(oldest > 2);
    match reader.entries_from("key", 2) {
        Err(WalError::Behind { wanted: 2, oldest: told }) => assert_eq!(told, oldest),
        other => panic!("{:?}", other.map(Iterator::count)),
    }
    assert_eq!(reader.entries_from("key", oldest).unwrap().count() as u64, 10 - oldest);
    // Who wants whatever there is says so.
    assert_eq!(reader.entries("key").unwrap().range(2..).count() as u64, 10 - oldest);
}

/// The first segment of a key has no header yet when a reader comes by, and all of its entries, with the next one behind
/// it, when the reader looks again.
#[test]
fn a_reader_that_meets_a_creation_does_not_begin_behind_it() {
    for (journal, restored) in [(0, false), (0, true), (1 << 16, false), (1 << 16, true)] {
        let sim = SimDir::new(1);
        let options = || options(journal).max_entry_bytes(3_000);
        let dir = HookedDir::new(&sim, "k-");
        let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options()).unwrap());
        wal.append_entry("other", None, "x", true).unwrap();
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        dir.before_write(move || {
            begun.send(()).unwrap();
            may_go.recv().unwrap();
        });
        let writer = thread::spawn(move || {
            for _ in 0..3 {
                wal.append_entry("k", None, [7; 2_500], true).unwrap();
            }
        });
        has_begun.recv().unwrap();
        let seen = HookedDir::new(&sim, "k-");
        let finish = move || {
            go.send(()).unwrap();
            writer.join().unwrap();
        };
        let found: Vec<u64> = if restored {
            let (copy, again) = (SimDir::new(2), seen.clone());
            // Listed for the journal first, and then for the names.
            seen.before_list(move || again.before_list(finish));
            restore_in(Arc::new(seen), &copy, None).unwrap();
            let copy = Wal::open_in(Arc::new(copy), options()).unwrap();
            copy.entries("k").unwrap().map(|entry| entry.unwrap().index).collect()
        } else {
            let reader = WalReader::open_in(Arc::new(seen.clone()), options()).unwrap();
            seen.before_list(finish);
            reader.entries("k").unwrap().map(|entry| entry.unwrap().index).collect()
        };
        // What only the journal had then is not looked for again.
        assert!(journal > 0 || !found.is_empty(), "the hooks did not meet it");
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "{journal}, {restored}");
    }
}

/// A creation that was cut off lies among the segments of a key that has lost one: it was looked at, put aside, and found
/// when the reader looked again for what it missed, for ever.
#[test]
fn a_cut_off_creation_beside_a_lost_segment_is_looked_at_once() {
    let name = |number: u32| format!("k-af63e64c8601fd8a-{number:04}.log");
    let sim = SimDir::new(1);
    let options = || options(0).max_entry_bytes(3_000);
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    let wal = open(&sim);
    for _ in 0..2 {
        wal.append_entry("k", None, [7; 2_500], true).unwrap();
    }
    let mut image = sim.image();
    image.set(&name(3), Vec::new());
    let sim = SimDir::from_image(&image, 2);
    open(&sim).append_entry("k", None, [7; 2_500], true).unwrap();
    let mut image = sim.image();
    assert!(image.get(&name(3)).is_some(), "{image:?}");
    image.remove(&name(2));
    let reader = WalReader::open_in(Arc::new(SimDir::from_image(&image, 3)), options()).unwrap();
    let found: Vec<_> = reader.entries("k").unwrap().collect();
    assert!(matches!(found[..], [Ok(_), Err(WalError::Corrupted { .. }), Ok(_)]), "{found:?}");
}
