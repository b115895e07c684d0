//! While one thread works on its keys, another one appends in the middle of its calls to the file system, so that the
//! journal goes round there, and at that moment the power is cut: is everything there that was acknowledged, and
//! nothing of it taken for damage?
//!
//! `KEYWAL_CASES`: so many random lives, 40 unless given; `KEYWAL_SEED`: the first one's seed. Which thread is faster is
//! in no seed: a life that has failed may have to be tried some times until it does again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, FaultKind, Image, SimDir};
use keywal::{ManualClock, Retention, Wal, WalOptions};

use common::hooked::HookedDir;
use common::logs::{NOW, fail};
use common::{Check, Failures, Random, content, env_number, guarded, on_all_cores};

mod common;

const EIO: FaultKind = FaultKind::Error(5);
/// Those of the thread that is disturbed, and those of who appends in the middle of its calls.
const KEYS: [&str; 2] = ["k1", "k2"];
const OTHERS: [&str; 3] = ["b1", "b2", "b3"];
/// So long without an append, and the others wait for a lock of who is in the middle of a call.
const PATIENCE: Duration = Duration::from_millis(4);
const STEPS: usize = 40;

/// One of these, by chance.
fn one<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[usize::try_from(random.next()).unwrap() % of.len()]
}

/// What is known of a key.
#[derive(Clone, Default)]
struct Key {
    /// What appends have begun with, by index: several, if one has failed.
    begun: BTreeMap<u64, Vec<Bytes>>,
    /// Entries before this one survive.
    durable: u64,
    /// Entries before this one may have been dropped.
    dropped: u64,
    /// A removal has begun: nothing has to be there any more.
    removed: bool,
    /// What was appended together with entries of other keys, by index.
    together: BTreeMap<u64, Bytes>,
}

type Name = &'static str;
type Model = BTreeMap<Name, Key>;

impl Key {
    fn next(&self) -> u64 {
        self.begun.keys().last().map_or(0, |last| last + 1)
    }

    /// Compares it with what a power cut has left.
    fn check(&self, durable: u64, found: &[(u64, Bytes)]) -> Check {
        let in_order = found.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0);
        ensure!(in_order, "a gap: {:?}", found.iter().map(|(index, _)| index).collect::<Vec<_>>());
        if self.removed {
            return Ok(());
        }
        for (index, content) in found {
            let begun = self.begun.get(index).is_some_and(|begun| begun.contains(content));
            ensure!(begun, "invented: {index}, {} bytes", content.len());
        }
        let first = found.first().map_or(u64::MAX, |(index, _)| *index);
        let next = found.last().map_or(0, |(index, _)| index + 1);
        let complete = durable <= self.dropped || (first <= self.dropped && next >= durable);
        ensure!(complete, "lost: {first}..{next} of {}..{durable}", self.dropped);
        Ok(())
    }
}

/// The log, and what it has to hold.
struct Log {
    wal: Wal,
    model: Arc<Mutex<Model>>,
    serial: AtomicU64,
    clock: Arc<ManualClock>,
    sim: SimDir,
}

impl Log {
    fn change(&self, key: Name, change: impl FnOnce(&mut Key)) {
        change(self.model.lock().unwrap().entry(key).or_default());
    }

    /// No two are the same.
    fn entry(&self, bytes: u64) -> Bytes {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let noise = content(serial, usize::try_from(bytes).unwrap());
        Bytes::from([&noise[..], &serial.to_le_bytes()].concat())
    }

    /// Each key is of one thread.
    fn append(&self, key: Name, bytes: u64, durable: bool) {
        let Ok(index) = self.wal.next_index(key) else { return };
        let entry = self.entry(bytes);
        self.change(key, |key| key.begun.entry(index).or_default().push(entry.clone()));
        if self.wal.append_entry(key, None, entry, durable).is_ok() && durable {
            self.change(key, |key| key.durable = index + 1);
        }
    }

    /// An entry in each of the others' keys.
    fn append_together(&self, bytes: u64, durable: bool) {
        let entry = self.entry(bytes);
        let mut indexes = Vec::new();
        for key in OTHERS {
            let Ok(index) = self.wal.next_index(key) else { return };
            indexes.push((key, index));
        }
        for (key, index) in &indexes {
            self.change(key, |key| {
                key.begun.entry(*index).or_default().push(entry.clone());
                key.together.insert(*index, entry.clone());
            });
        }
        let entries = OTHERS.map(|key| (key, None, entry.clone()));
        if self.wal.append_many(entries, durable).is_ok() && durable {
            for (key, index) in indexes {
                self.change(key, |key| key.durable = index + 1);
            }
        }
    }

    /// What the others do while they are asked, until they are told to end.
    fn append_when_asked(&self, asked: &Receiver<Option<u64>>, done: &Sender<()>) {
        while let Ok(Some(seed)) = asked.recv() {
            let mut random = Random(seed);
            let most = one(&mut random, &[100, 700, 2_500]);
            // A durable one may wait for who is in the middle of a sync.
            let seldom = one(&mut random, &[8, u64::MAX]);
            for _ in 0..=random.next() % 60 {
                let (bytes, durable) = (random.next() % most, random.next() % seldom == 0);
                match random.next() % 4 {
                    0 => self.append_together(bytes, durable),
                    _ => self.append(one(&mut random, &OTHERS), bytes, durable),
                }
            }
            done.send(()).unwrap();
        }
    }

    fn truncate(&self, key: Name, but: u64) {
        let Ok(next) = self.wal.next_index(key) else { return };
        let index = next.saturating_sub(but);
        self.change(key, |key| key.dropped = key.dropped.max(index));
        let _ = self.wal.truncate_before(key, index);
    }

    fn compact(&self) {
        for key in self.model.lock().unwrap().values_mut() {
            key.dropped = key.dropped.max(key.next());
        }
        let _ = self.wal.compact();
    }

    fn remove(&self, key: Name) {
        self.change(key, |key| key.removed = true);
        if self.wal.remove_key(key).is_ok() {
            self.change(key, |key| *key = Key::default());
        }
    }

    fn set_retention(&self, key: Name, retention: Option<Retention>) {
        // From now on, it may drop any.
        self.change(key, |key| key.dropped = u64::MAX);
        let _ = self.wal.set_retention(key, retention);
    }
}

/// What a call to the file system is disturbed with.
struct Middle {
    random: Random,
    ask: Sender<Option<u64>>,
    done: Receiver<()>,
    /// The others are still at what they were asked for.
    busy: bool,
}

impl Middle {
    fn let_others_append(&mut self) {
        if !self.busy {
            self.ask.send(Some(self.random.next())).unwrap();
        }
        self.busy = self.done.recv_timeout(PATIENCE).is_err();
    }
}

/// A disk whose power is cut again and again.
struct Disk {
    sim: SimDir,
    options: WalOptions,
    model: Arc<Mutex<Model>>,
}

impl Disk {
    /// Everything that a power cut may leave right now, as far as some samples tell.
    fn cut(&self, seed: u64) -> Check {
        let before = self.model.lock().unwrap().clone();
        let at = self.sim.trace_len();
        let now = self.model.lock().unwrap().clone();
        let budget = CrashBudget { exhaustive_bits: 0, samples: 4, garbled: 0, seed };
        let mut checked = Ok(());
        self.sim.crash_images(at, &budget, &mut |image, choice| {
            if checked.is_ok() {
                checked = self.check(image, &before, &now).map_err(|e| format!("{e} ({choice})"));
            }
        });
        checked
    }

    fn check(&self, image: &Image, before: &Model, now: &Model) -> Check {
        let sim = SimDir::from_image(image, 77);
        let wal = Wal::open_in(Arc::new(sim), self.options.clone());
        let wal = wal.map_err(|error| format!("open: {error}"))?;
        let damaged = &wal.recovery_report().damaged;
        ensure!(damaged.is_empty(), "false damage: {damaged:?}");
        let mut together: BTreeMap<&Bytes, Vec<(Name, bool)>> = BTreeMap::new();
        for (name, key) in now {
            let entries = wal.entries(name).map_err(|error| format!("{name}: {error}"))?;
            let entries = entries.map(|entry| entry.map(|entry| (entry.index, entry.content)));
            let found: Result<Vec<_>, _> = entries.collect();
            let found = found.map_err(|error| format!("{name}: {error}"))?;
            let durable = before.get(name).map_or(0, |key| key.durable);
            key.check(durable, &found).map_err(|text| format!("{name}: {text}"))?;
            for (index, entry) in key.together.range(key.dropped..) {
                let is_there = found.iter().any(|found| found == &(*index, entry.clone()));
                together.entry(entry).or_default().push((name, is_there));
            }
        }
        for (entry, parts) in together {
            let halved = parts.iter().any(|part| part.1 != parts[0].1);
            ensure!(!halved, "half of a batch of {} bytes: {parts:?}", entry.len());
        }
        Ok(())
    }
}

/// From now on, one of four calls is disturbed, and the power is cut in half of those.
fn disturb(dir: &HookedDir, others: ThreadId, middle: Middle, disk: Disk) -> Arc<OnceLock<String>> {
    let wrong: Arc<OnceLock<String>> = Arc::default();
    let (found, middle) = (Arc::clone(&wrong), Mutex::new(middle));
    let disturb = Arc::new(move |call: CallKind, name: &str| {
        if thread::current().id() == others || name == "JOURNAL" || found.get().is_some() {
            return;
        }
        // One is disturbed at a time.
        let Ok(mut middle) = middle.try_lock() else { return };
        let often = matches!(call, CallKind::Remove | CallKind::SyncDir);
        if middle.random.next() % (if often { 2 } else { 6 }) > 0 {
            return;
        }
        middle.let_others_append();
        if middle.random.next() % 2 > 0 {
            return;
        }
        if let Err(text) = disk.cut(middle.random.next()) {
            found.set(format!("{text}, cut at {call:?} of {name}")).unwrap();
        }
    });
    let behind = Arc::clone(&disturb);
    dir.at_each_call(move |call, name| disturb(call, name));
    dir.after_each_sync(move || behind(CallKind::SyncData, "a file that is synced now"));
    wrong
}

/// A step of the thread that is disturbed, which is noted first. In two of three lives, syncs fail.
fn step(log: &Log, random: &mut Random, faulty: bool, steps: &mut Vec<String>) {
    let (key, kind) = (one(random, &KEYS), random.next() % 27);
    steps.push(format!("{kind} {key}"));
    match kind {
        0..=6 => log.append(key, random.next() % 2_500, true),
        7..=9 => log.append(key, random.next() % 2_500, false),
        10 => drop(log.wal.sync()),
        11..=13 => log.truncate(key, random.next() % 3),
        14..=15 => {
            log.clock.advance(Duration::from_secs(random.next() % 120));
            log.compact();
        }
        16 => log.remove(key),
        17 => log.set_retention(key, one(random, &[None, Some(Retention::keep_last(2))])),
        18 => log.clock.advance(Duration::from_secs(12)),
        // What the journal has of it goes to its file.
        19..=22 => drop(log.wal.enumerate_records(one(random, &OTHERS)).map(Iterator::count)),
        23.. if faulty => fail(&log.sim, CallKind::SyncData, random.next() % 2, EIO, key),
        _ => {}
    }
}

fn run(seed: u64) -> Check {
    let mut random = Random(seed);
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(100))
        .clock(clock.clone())
        .journal_bytes(one(&mut random, &[0, 4096, 16 << 10, 16 << 10, 16 << 10, 64 << 10]))
        .max_segment_bytes(4_096)
        .max_open_files(one(&mut random, &[1, 2, 4, 100]));
    let sim = SimDir::new(seed);
    let dir = HookedDir::new(&sim, "");
    let wal = Wal::open_in(Arc::new(dir.clone()), options.clone()).unwrap();
    let (model, serial) = (Arc::<Mutex<Model>>::default(), AtomicU64::new(1));
    let log = Log { wal, model: Arc::clone(&model), serial, clock, sim: sim.clone() };
    let log = Arc::new(log);
    let ((ask, asked), (tell, done)) = (mpsc::channel(), mpsc::channel());
    let theirs = Arc::clone(&log);
    let others = thread::spawn(move || theirs.append_when_asked(&asked, &tell));
    let middle = Middle { random: Random(!seed), ask: ask.clone(), done, busy: false };
    let disk = Disk { sim, options, model };
    let wrong = disturb(&dir, others.thread().id(), middle, disk);
    let mut steps = Vec::new();
    while steps.len() < STEPS && wrong.get().is_none() {
        step(&log, &mut random, seed % 3 > 0, &mut steps);
    }
    if random.next() % 2 == 0 {
        let _ = log.wal.shutdown();
    }
    ask.send(None).unwrap();
    others.join().map_err(|_| "panic: of the others")?;
    let last = &steps[steps.len().saturating_sub(6)..];
    wrong.get().map_or(Ok(()), |text| Err(format!("{text}, in the last of the steps {last:?}")))
}

#[test]
fn what_others_append_in_the_middle_of_a_call_costs_nothing() {
    let from = env_number("KEYWAL_SEED").unwrap_or(1);
    let cases = usize::try_from(env_number("KEYWAL_CASES").unwrap_or(40)).unwrap();
    let failures = Failures::default();
    on_all_cores(cases, |case| {
        let seed = from + case as u64;
        let run = guarded(|| run(seed));
        run.map_or_else(|text| failures.note(&text, &format!("KEYWAL_SEED={seed}")), |()| true)
    });
    failures.finish();
}
