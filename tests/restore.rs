//! Is what is restored what was there at that moment, and does `verify` find damage and change nothing?

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fmt, fs};

use common::{COLLIDING, EPOCH_MS, content, header};
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, Image, SimDir};
use keywal::fs::{Dir, File, Lock, Mapping, OpenMode};
use keywal::{Entry, Key, ManualClock, Wal, WalError, WalOptions};
use keywal::{restore, restore_in, verify, verify_in};

mod common;

const JOURNALS: [u64; 2] = [0, 16 << 10];

fn options(journal_bytes: u64) -> (WalOptions, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let options = WalOptions::default().max_segment_bytes(4096).journal_bytes(journal_bytes);
    (options.clock(clock.clone()), clock)
}

type Contents = BTreeMap<Key, Vec<Entry>>;

fn all(wal: &Wal) -> Contents {
    let keys = wal.enumerate_keys().unwrap();
    keys.map(|key| {
        let entries = wal.entries(&key).unwrap().collect::<Result<_, _>>().unwrap();
        (key, entries)
    })
    .collect()
}

/// Keys that begin one after the other, batches, a collision, and time that passes.
fn fill(wal: &Wal, clock: &ManualClock) {
    for serial in 0..120_u64 {
        let key = format!("key {}", serial % (1 + serial / 30));
        let count = 1 + serial % 3;
        let batch = (0..count).map(|at| (header(serial + at), content(serial + at, 150)));
        wal.append_batch(&key, batch, serial % 9 == 0).unwrap();
        clock.advance(Duration::from_secs(3600));
    }
    for key in COLLIDING {
        wal.append_entry(key, None, "colliding", true).unwrap();
    }
    wal.remove_key(COLLIDING[0]).unwrap();
}

fn opened(path: &Path) -> Wal {
    let wal = Wal::new(path, options(0).0).unwrap();
    let report = wal.recovery_report();
    assert!(report.clean && report.damaged.is_empty(), "{report:?}");
    wal
}

#[test]
fn every_moment_can_be_restored() {
    for journal in JOURNALS {
        let home = tempfile::tempdir().unwrap();
        let (options, clock) = options(journal);
        let wal = Wal::new(home.path().join("wal"), options).unwrap();
        fill(&wal, &clock);
        wal.snapshot(home.path().join("backup")).unwrap();
        let now = all(&wal);
        let hours = [None, Some(u64::MAX)].into_iter().chain((0..125).step_by(6).map(Some));
        for (at, hours) in hours.enumerate() {
            let until = hours.map(|hours| EPOCH_MS.saturating_add(hours.saturating_mul(3_600_000)));
            let target = home.path().join(format!("restored {at}"));
            let report = restore(home.path().join("backup"), &target, until).unwrap();
            let mut wanted = now.clone();
            for entries in wanted.values_mut() {
                entries.retain(|entry| entry.timestamp_ms <= until.unwrap_or(u64::MAX));
            }
            wanted.retain(|_, entries| !entries.is_empty());
            assert_eq!(report.damaged, []);
            assert_eq!(report.keys, wanted.len() as u64);
            assert_eq!(report.linked_segments, 0);
            let restored = opened(&target);
            assert_eq!(all(&restored), wanted, "until {hours:?} hours");
            for (key, entries) in &wanted {
                let new = restored.append_entry(key, None, "new", false).unwrap();
                assert_eq!(restored.read_entry(new).unwrap().index, entries.len() as u64);
                assert!(matches!(wal.read_entry_at(new), Err(WalError::InvalidRef)));
            }
        }
        // The original, in use, does as well.
        restore(home.path().join("wal"), home.path().join("from live"), None).unwrap();
        assert_eq!(all(&opened(&home.path().join("from live"))), now);
        assert_eq!(all(&wal), now);
    }
}

#[test]
fn numbers_go_on_where_what_is_old_enough_has_been_dropped() {
    let home = tempfile::tempdir().unwrap();
    let (options, clock) = options(0);
    let wal = Wal::new(home.path().join("wal"), options).unwrap();
    fill(&wal, &clock);
    let next = wal.next_index("key 0").unwrap();
    wal.truncate_before("key 0", next).unwrap();
    clock.advance(Duration::from_secs(3600));
    wal.append_entry("key 0", None, "after", false).unwrap();
    for (hours, len) in [(1, 0), (100, 0), (1000, 1)] {
        let target = home.path().join(format!("{hours}"));
        restore(home.path().join("wal"), &target, Some(EPOCH_MS + hours * 3_600_000)).unwrap();
        let restored = opened(&target);
        assert_eq!(restored.len("key 0").unwrap(), len);
        assert_eq!(restored.next_index("key 0").unwrap(), next + len);
    }
}

/// A directory that counts the files of it that are open, and in which something happens before a file is opened.
#[derive(Debug)]
struct Watched {
    sim: SimDir,
    open: Arc<AtomicU64>,
    most: AtomicU64,
    before: Mutex<Option<Before>>,
}

/// What, and how many times the file is opened before that.
struct Before {
    name_contains: &'static str,
    after: u32,
    what: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name_contains)
    }
}

impl Watched {
    fn new(sim: &SimDir) -> Self {
        let (open, most, before) = (Arc::default(), AtomicU64::new(0), Mutex::default());
        Self { sim: sim.clone(), open, most, before }
    }
}

impl Dir for Watched {
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
        let mut before = self.before.lock().unwrap();
        if let Some(before) = before.as_mut().filter(|before| name.contains(before.name_contains)) {
            before.after = before.after.wrapping_sub(1);
        }
        if let Some(before) = before.take_if(|before| before.after == u32::MAX) {
            (before.what)();
        }
        let file = Dir::open(&self.sim, name, mode)?;
        self.most.fetch_max(self.open.fetch_add(1, SeqCst) + 1, SeqCst);
        Ok(Box::new(WatchedFile { file, open: Arc::clone(&self.open) }))
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

#[derive(Debug)]
struct WatchedFile {
    file: Box<dyn File>,
    open: Arc<AtomicU64>,
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        self.open.fetch_sub(1, SeqCst);
    }
}

/// Of a directory that is only read.
impl File for WatchedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn write_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
        unreachable!("written")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("synced")
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        unreachable!("cut")
    }

    fn allocate(&self, _: u64) -> io::Result<()> {
        unreachable!("extended")
    }

    fn drop_cache(&self) -> io::Result<()> {
        unreachable!("dropped from the cache")
    }

    fn map(&self, _: usize) -> io::Result<Box<dyn Mapping>> {
        unreachable!("mapped")
    }
}

/// A key with more segments than are held open, `k-af63e64c8601fd8a-0001` to `-0600`.
fn long() -> (SimDir, Wal, Arc<ManualClock>) {
    let sim = SimDir::new(1);
    let (options, clock) = options(0);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for serial in 0..600 {
        wal.append_entry("k", None, content(serial, 3000), false).unwrap();
        clock.advance(Duration::from_millis(1));
    }
    assert_eq!(wal.segments("k").unwrap().len(), 600);
    (sim, wal, clock)
}

#[test]
fn few_files_are_open_however_many_segments_a_key_has() {
    let (sim, wal, _) = long();
    let from = Arc::new(Watched::new(&sim));
    let to = SimDir::new(2);
    restore_in(from.clone(), &to, None).unwrap();
    assert!(from.most.load(SeqCst) < 520, "{:?}", from.most);
    let restored = Wal::open_in(Arc::new(to), options(0).0).unwrap();
    assert_eq!(all(&restored), all(&wal));
    let from = Arc::new(Watched::new(&sim));
    assert_eq!(verify_in(from.clone()).unwrap().entries, 600);
    assert!(from.most.load(SeqCst) < 520, "{:?}", from.most);
}

/// Whoever writes to the original drops segments while it is read: what is left has no hole.
#[test]
fn what_is_dropped_meanwhile_leaves_no_hole() {
    for (name_contains, before, until) in [
        ("-0550", 560, u64::MAX),
        ("-0550", 600, u64::MAX),
        ("-0550", 560, EPOCH_MS + 549),
        ("-0550", 600, EPOCH_MS + 549),
    ] {
        let (sim, wal, _) = long();
        let wal = Arc::new(wal);
        let from = Watched::new(&sim);
        let other = Arc::clone(&wal);
        let what = Box::new(move || drop(other.truncate_before("k", before).unwrap()));
        // The first time, the row is put together.
        *from.before.lock().unwrap() = Some(Before { name_contains, after: 1, what });
        let (from, to) = (Arc::new(from), SimDir::new(2));
        let report = restore_in(from.clone(), &to, Some(until)).unwrap();
        assert!(from.before.lock().unwrap().is_none(), "{name_contains} was opened again");
        assert_eq!(report.damaged, [], "{name_contains}, {before}, {until}");
        let restored = Wal::open_in(Arc::new(to), options(0).0).unwrap();
        let kept: Vec<u64> =
            restored.entries("k").unwrap().map(|entry| entry.unwrap().index).collect();
        let next = restored.next_index("k").unwrap();
        let first = kept.first().copied().unwrap_or(next);
        assert_eq!(kept, (first..next).collect::<Vec<_>>());
        assert!(next == 600 || until < u64::MAX, "{next}");
        assert!(verify_in(Arc::new(sim)).unwrap().damaged.is_empty());
    }
}

/// The file that says so is gone soon where nothing is found past it.
#[test]
fn a_key_that_is_being_removed_does_not_hinder() {
    let sim = SimDir::new(1);
    let wal = Wal::open_in(Arc::new(sim.clone()), options(0).0).unwrap();
    wal.append_entry("j", None, "stays", true).unwrap();
    wal.append_entry("k", None, "goes", true).unwrap();
    let start = sim.trace_len();
    wal.remove_key("k").unwrap();
    let tombstone = "k-af63e64c8601fd8a-0002.log";
    let mut gone = 0;
    for at in start..=sim.trace_len() {
        let dir = sim.killed_before(at);
        let from = Watched::new(&dir);
        let what = Box::new(move || drop(dir.remove(tombstone)));
        // The first time, it is found out that the key was removed.
        *from.before.lock().unwrap() = Some(Before { name_contains: tombstone, after: 1, what });
        let (from, to) = (Arc::new(from), SimDir::new(2));
        let report = restore_in(from.clone(), &to, None).unwrap();
        gone += u32::from(from.before.lock().unwrap().is_none());
        assert_eq!(report.damaged, []);
        let restored = Wal::open_in(Arc::new(to), options(0).0).unwrap();
        assert!(restored.recovery_report().clean);
        assert_eq!(restored.entries("j").unwrap().count(), 1);
    }
    assert!(gone > 3, "{gone}");
}

/// A key that has nothing old enough, but in whose place another one was found past it then.
#[test]
fn a_key_is_found_past_one_that_came_later() {
    let home = tempfile::tempdir().unwrap();
    let (options, clock) = options(0);
    let wal = Wal::new(home.path().join("wal"), options).unwrap();
    for key in COLLIDING {
        wal.append_entry(key, None, "early", true).unwrap();
    }
    wal.remove_key(COLLIDING[0]).unwrap();
    clock.advance(Duration::from_secs(1));
    wal.append_entry(COLLIDING[0], None, "late", true).unwrap();
    wal.shutdown().unwrap();
    let to = home.path().join("restored");
    restore(home.path().join("wal"), &to, Some(EPOCH_MS)).unwrap();
    for _ in 0..2 {
        let restored = opened(&to);
        assert_eq!(restored.entries(COLLIDING[0]).unwrap().count(), 0);
        assert_eq!(restored.entries(COLLIDING[1]).unwrap().count(), 1);
        restored.shutdown().unwrap();
    }
}

#[test]
fn what_cannot_be_restored_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let wal = Wal::new(at("wal"), options(0).0).unwrap();
    wal.append_entry("key", None, "x", true).unwrap();
    wal.snapshot(at("backup")).unwrap();
    assert!(matches!(restore(at("missing"), at("target"), None), Err(WalError::Io { .. })));
    assert!(!at("missing").exists() && !at("target").exists());
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full").join("file"), "theirs").unwrap();
    assert!(matches!(restore(at("backup"), at("full"), None), Err(WalError::NotEmpty { .. })));
    assert!(matches!(restore(at("backup"), at("backup"), None), Err(WalError::NotEmpty { .. })));
    assert!(matches!(restore(at("backup"), at("wal"), None), Err(WalError::Locked { .. })));
    restore(at("backup"), at("restored"), None).unwrap();
    assert!(matches!(restore(at("backup"), at("restored"), None), Err(WalError::NotEmpty { .. })));
    assert_eq!(fs::read(at("full").join("file")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(at("full")).unwrap().count(), 1);
}

#[test]
fn verify_counts_what_is_there_and_changes_nothing() {
    for journal in JOURNALS {
        let sim = SimDir::new(3);
        let (options, clock) = options(journal);
        let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
        fill(&wal, &clock);
        let contents = all(&wal);
        let check = |sim: &SimDir, clean: bool| {
            let before = (sim.trace_len(), sim.image());
            let report = verify_in(Arc::new(sim.clone())).unwrap();
            assert_eq!((sim.trace_len(), sim.image()), before);
            assert_eq!(
                (report.clean, &report.damaged[..], &report.torn[..], &report.weakened[..]),
                (clean, &[][..], &[][..], &[][..])
            );
            assert_eq!(report.keys.len(), contents.len());
            for key in &report.keys {
                assert_eq!(key.entries, contents[&key.key].len() as u64);
                assert_eq!((key.first_index, key.next_index), (0, key.entries));
                assert_eq!(key.segments, wal.segments(&key.key).unwrap().len() as u64);
                assert_eq!(key.damaged, 0);
            }
            assert_eq!(
                report.entries,
                contents.values().map(|entries| entries.len() as u64).sum::<u64>()
            );
        };
        check(&sim, false);
        // Its journal was not replayed.
        check(&sim.after_kill(), false);
        let closed = sim.after_kill();
        Wal::open_in(Arc::new(closed.clone()), options).unwrap().shutdown().unwrap();
        check(&closed, true);
    }
}

/// Every file but the lock and the journal, damaged at every place, a bit at a time.
#[test]
fn verify_finds_damage_wherever_it_is() {
    let sim = SimDir::new(3);
    let (options, clock) = options(0);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for serial in 0..9_u64 {
        wal.append_entry("key", None, content(serial, 900), false).unwrap();
        clock.advance(Duration::from_secs(60));
    }
    wal.shutdown().unwrap();
    let image = sim.image();
    let names: Vec<String> = image.files().map(|(name, _)| name.to_owned()).collect();
    let mut flips = 0;
    let is_segment = |name: &&String| Path::new(name).extension().is_some_and(|end| end == "log");
    for name in names.iter().filter(is_segment) {
        let bytes = image.get(name).unwrap();
        // Of a header, there are two: see below.
        for at in (1024..bytes.len()).step_by(41) {
            let mut damaged = image.clone();
            let mut content = bytes.to_vec();
            content[at] ^= 1 << (at % 8);
            damaged.set(name, content);
            let report = verify_in(Arc::new(SimDir::from_image(&damaged, 1))).unwrap();
            let found = report.damaged.iter().filter(|finding| finding.path.ends_with(name));
            assert_eq!(found.count(), 1, "{name} {at}: {report:?}");
            assert!(report.entries >= 8 && report.keys[0].damaged == 1, "{name} {at}: {report:?}");
            flips += 1;
        }
        let mut missing = image.clone();
        missing.remove(name);
        let report = verify_in(Arc::new(SimDir::from_image(&missing, 1))).unwrap();
        assert!(!report.damaged.is_empty(), "{name} is missing");
    }
    assert!(flips > 100);
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(verify(home.path().join("missing")), Err(WalError::Io { .. })));
    assert_eq!(verify(home.path()).unwrap().keys, []);
    assert!(!home.path().join("LOCK").exists());
}

/// One of two copies: nothing is lost, and the next damage there would be.
#[test]
fn verify_names_each_copy_that_is_damaged_where_the_other_one_is_good() {
    let sim = SimDir::new(3);
    let (options, _) = options(0);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for serial in 0..9_u64 {
        wal.append_entry("key", None, content(serial, 900), false).unwrap();
    }
    let segments = wal.segments("key").unwrap();
    assert!(segments.len() > 1);
    wal.shutdown().unwrap();
    let image = sim.image();
    // 128 bytes of facts; a header of 132 bytes and the key.
    let mut places = vec![("META".to_owned(), 0, 128), ("META".to_owned(), 4096, 128)];
    for segment in segments {
        let name = segment.path.file_name().unwrap().to_str().unwrap().to_owned();
        places.extend([0, 512].map(|offset| (name.clone(), offset, 132 + "key".len())));
    }
    for (name, offset, bytes) in places {
        for at in usize::saturating_sub(offset, 1)..=offset + bytes {
            let mut damaged = image.clone();
            let mut content = image.get(&name).unwrap().to_vec();
            let Some(byte) = content.get_mut(at).filter(|_| name == "META" || at < 512 + bytes)
            else {
                continue;
            };
            *byte ^= 1 << (at % 8);
            damaged.set(&name, content);
            let report = verify_in(Arc::new(SimDir::from_image(&damaged, 1))).unwrap();
            assert_eq!((report.entries, &report.damaged[..]), (9, &[][..]), "{name} {at}");
            let found: Vec<_> = report.weakened.iter().map(|it| (it.offset, it.bytes)).collect();
            let expected = [(offset as u64, bytes as u64)];
            // Between the copies there is nothing.
            let inside = (offset..offset + bytes).contains(&at);
            assert_eq!(found, expected[..usize::from(inside)], "{name} {at}");
            assert!(report.weakened.iter().all(|finding| finding.path.ends_with(&name)));
        }
    }
}

#[test]
fn verify_finds_damage_in_a_journal_that_was_not_replayed() {
    let sim = SimDir::new(3);
    let (options, _) = options(4096);
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    for serial in 0..5_u64 {
        wal.append_entry("key", None, content(serial, 100), true).unwrap();
    }
    let image = sim.image();
    let found = |image: &Image| verify_in(Arc::new(SimDir::from_image(image, 1))).unwrap();
    assert_eq!((found(&image).entries, found(&image).damaged.len()), (5, 0));
    let mut missing = image.clone();
    missing.remove("JOURNAL");
    assert_eq!((found(&missing).entries, found(&missing).damaged.len()), (0, 1));
    let mut damaged = image.clone();
    let mut journal = image.get("JOURNAL").unwrap().to_vec();
    let second = (8..journal.len()).step_by(8).filter(|at| journal[*at..].starts_with(b"KWJR"));
    // The creation, then one record for each entry.
    let at = second.clone().nth(1).unwrap() + 100;
    journal[at] ^= 1;
    damaged.set("JOURNAL", journal);
    let report = found(&damaged);
    assert!(!report.damaged.is_empty() && report.entries == 4, "{report:?}");
    let wal = Wal::open_in(Arc::new(SimDir::from_image(&damaged, 1)), options).unwrap();
    assert_eq!(wal.recovery_report().damaged.first(), report.damaged.first());
}

// ---- on the simulated disk ----

fn simulated() -> (SimDir, Contents) {
    let sim = SimDir::new(7);
    let (options, clock) = options(4096);
    let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
    for (key, bytes) in [("a", 3000), ("a", 3000), ("b", 10)] {
        wal.append_entry(key, None, content(1, bytes), true).unwrap();
        clock.advance(Duration::from_secs(1));
    }
    let mut contents = all(&wal);
    for entries in contents.values_mut() {
        entries.retain(|entry| entry.timestamp_ms <= UNTIL_MS);
    }
    contents.retain(|_, entries| !entries.is_empty());
    (sim, contents)
}

const UNTIL_MS: u64 = EPOCH_MS + 1000;

/// Whether the copy is there, which must be whole then.
fn judge(copy: &SimDir, wanted: &Contents) -> bool {
    let mut names = Vec::new();
    copy.list(&mut |name| names.push(name.to_owned())).unwrap();
    if names.iter().all(|name| name == "META" || name == "LOCK") {
        return false;
    }
    let incomplete = matches!(verify_in(Arc::new(copy.clone())), Err(WalError::Incomplete { .. }));
    match Wal::open_in(Arc::new(copy.clone()), options(0).0) {
        Err(WalError::Incomplete { .. }) => {
            assert!(incomplete);
            false
        }
        Err(error) => panic!("{error}"),
        Ok(wal) => {
            let report = wal.recovery_report();
            assert!(report.damaged.is_empty() && report.torn.is_empty(), "{report:?}");
            assert_eq!(&all(&wal), wanted);
            true
        }
    }
}

#[test]
fn a_restore_that_loses_power_is_whole_or_incomplete() {
    let budget = CrashBudget { exhaustive_bits: 6, samples: 24, garbled: 3, seed: 1 };
    let (sim, wanted) = simulated();
    let dead = sim.after_kill();
    let start = dead.trace_len();
    restore_in(Arc::new(dead.clone()), &dead.folder("copy"), Some(UNTIL_MS)).unwrap();
    let mut states = 0;
    for at in start..=dead.trace_len() {
        dead.crash_images(at, &budget, &mut |image, choice| {
            states += 1;
            let copy = SimDir::from_image(image, 1).folder("copy");
            let whole = judge(&copy, &wanted);
            assert!(whole || at < dead.trace_len(), "{choice}: incomplete when it had returned");
        });
    }
    println!("{states} states");
    assert!(states > 200);
}

#[test]
fn a_restore_of_which_a_call_fails_is_whole_or_incomplete() {
    let (sim, wanted) = simulated();
    let calls = {
        let dead = sim.after_kill();
        restore_in(Arc::new(dead.clone()), &dead.folder("copy"), Some(UNTIL_MS)).unwrap();
        dead.calls()
    };
    let mut failed = 0;
    for nth in 0..calls {
        for (kind, forever) in [
            (FaultKind::Error(5), false),
            (FaultKind::Error(28), true),
            (FaultKind::Interrupted, false),
            (FaultKind::Short(40), false),
            (FaultKind::ShortThenError { bytes: 600, error: 28 }, false),
        ] {
            let dead = sim.after_kill();
            let before = dead.durable_image();
            dead.inject(Fault { call: CallKind::Any, nth, kind, forever, name_contains: None });
            let result = restore_in(Arc::new(dead.clone()), &dead.folder("copy"), Some(UNTIL_MS));
            dead.clear_faults();
            failed += u64::from(result.is_err());
            let image = dead.durable_image();
            let whole = judge(&SimDir::from_image(&image, 1).folder("copy"), &wanted);
            let what = format!("call {nth}, {kind:?}: {result:?}");
            assert!(whole || result.is_err(), "{what}");
            assert!(!matches!(&result, Ok(report) if !report.damaged.is_empty()), "{what}");
            for (name, body) in before.files() {
                assert_eq!(image.get(name), Some(body), "{what}: {name} of the original");
            }
        }
    }
    println!("{failed} of {} restores failed", calls * 5);
    assert!(failed > 50);
}
