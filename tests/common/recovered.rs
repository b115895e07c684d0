//! Opening what a crash left, and checking everything that was promised about it.

use std::sync::Arc;
use std::time::Duration;

use keywal::fs::sim::{Image, SimDir};
use keywal::{Clock, Durability, EntryRef, ManualClock, Retention, SegmentInfo, Wal, WalReader};

use super::oracle::{Allowed, Observed, check_lost, check_together, index};
use super::run::Run;
use super::shown::Shown;
use super::{Check, EPOCH_MS, content, header, image_hash, mix};
use crate::ensure;

pub fn open(run: &Run, sim: &SimDir) -> Check<Wal> {
    let wal = run.setup.open(sim, &clock(run));
    let wal = wal.map_err(|error| format!("open: {error}: {error:?}"))?;
    let damaged = &wal.recovery_report().damaged;
    if damaged.is_empty() { Ok(wal) } else { Err(format!("false damage: {damaged:?}")) }
}

/// One that shows the time the run has come to.
fn clock(run: &Run) -> Arc<ManualClock> {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    clock.advance(Duration::from_millis(run.clock.monotonic_ms()));
    clock
}

/// Of so many states in which life goes on, one is read before recovery by who only reads.
const READ_ONE_IN: u64 = 4;

/// What comes after the first recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Nothing,
    /// Another one: it changes nothing.
    Again,
    /// Appends to every key, a power cut, and another one.
    LifeGoesOn,
    /// The one, and the other instead.
    Both,
}

/// Recovers what a power cut left, and checks everything that was promised.
pub fn check_image(run: &Run, image: &Image, allowed: &[Allowed<'_>]) -> Check {
    check(run, &SimDir::from_image(image, 7), allowed, Next::Both)
}

/// Recovers a directory, and checks everything that was promised.
pub fn check(run: &Run, sim: &SimDir, allowed: &[Allowed<'_>], next: Next) -> Check {
    let goes_on = matches!(next, Next::LifeGoesOn | Next::Both);
    let read = goes_on && (run.verbose || mix(image_hash(&sim.image())) % READ_ONE_IN == 0);
    let reading = read.then(|| Reading::new(run, sim, allowed));
    let reading = reading.transpose().map_err(|text| format!("a reader: {text}"))?;
    let wal = open(run, sim)?;
    let seen = Observed::all(&wal, &run.setup.keys)?;
    if run.verbose {
        println!("{sim:?}\n{:?}\n{seen:?}", wal.recovery_report());
    }
    let lost = check_all(&wal, allowed, &seen)?;
    if matches!(next, Next::Again | Next::Both) {
        opens_again(run, sim, &seen)?;
    }
    if let Some(reading) = &reading {
        reading.check(run, &wal, allowed).map_err(|text| format!("a reader: {text}"))?;
    }
    if goes_on {
        life_goes_on(run, sim, &wal, seen, &lost, reading)?;
    }
    Ok(())
}

/// Who only reads what a crash left, before recovery, and goes on reading afterwards.
struct Reading {
    reader: WalReader,
    seen: Vec<Check<Observed>>,
    /// The directory before anybody has written to it.
    before: Image,
}

impl Reading {
    /// Reads all, and changes nothing. That nothing is missing is for [`Self::check`].
    fn new(run: &Run, sim: &SimDir, allowed: &[Allowed<'_>]) -> Check<Self> {
        let (before, changes) = (sim.image(), sim.trace_len());
        let reader = WalReader::open_in(Arc::new(sim.clone()), run.setup.options(&clock(run)));
        let reader = reader.map_err(|error| format!("open: {error}: {error:?}"))?;
        let seen = Observed::each(&reader, &run.setup.keys)?;
        if run.verbose {
            println!("a reader: {:?}\n{seen:?}", reader.report());
        }
        let seen = seen.into_iter().zip(allowed).map(|(seen, allowed)| {
            let seen = seen?;
            allowed.up_to(0).check_with_refs(&reader, &seen).map(|_| seen)
        });
        let seen = seen.collect();
        let damaged = &reader.report().damaged;
        ensure!(damaged.is_empty(), "false damage: {damaged:?}");
        let unchanged = sim.trace_len() == changes && sim.image() == before;
        ensure!(unchanged, "it has changed the directory: {:?}", &sim.trace()[changes..]);
        Ok(Self { reader, seen, before })
    }

    /// What was acknowledged was there, but for segments whose names only the journal knew.
    fn check(&self, run: &Run, wal: &Wal, allowed: &[Allowed<'_>]) -> Check {
        let mut all_named = true;
        for ((key, allowed), seen) in (0..).zip(allowed).zip(&self.seen) {
            let segments = wal.segments(run.setup.keys[key]).map_err(|error| error.to_string())?;
            let is_named = |segment: &SegmentInfo| {
                let name = segment.path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| self.before.get(name).is_some())
            };
            let named = segments.iter().take_while(|segment| is_named(segment)).count();
            let checked = match &segments[named..] {
                [] => seen.as_ref().map_err(Clone::clone).and_then(|seen| allowed.check(seen)),
                [made, rest @ ..] => {
                    ensure!(run.setup.journal_bytes > 0, "{:?} is made from nothing", made.path);
                    all_named = false;
                    // What comes behind one that does not show looks like the loss of that, or like all there is.
                    if named == 0 || rest.iter().any(is_named) {
                        continue;
                    }
                    let seen = seen.as_ref().map_err(Clone::clone);
                    seen.and_then(|seen| allowed.up_to(made.first_index).check(seen))
                }
            };
            checked.map_err(|text| format!("key {key}: {text}"))?;
        }
        let seen: Vec<&Observed> = self.seen.iter().flatten().collect();
        if all_named { check_together(allowed, &seen) } else { Ok(()) }
    }

    /// What it shows now that the log has been written to.
    fn goes_on(mut self, run: &Run) -> Check<Vec<Observed>> {
        let refreshed = self.reader.refresh();
        refreshed.map_err(|error| format!("refresh: {error}: {error:?}"))?;
        Observed::all(&self.reader, &run.setup.keys)
    }
}

/// Opening it once more, after a kill and after a power cut, changes nothing.
fn opens_again(run: &Run, sim: &SimDir, seen: &[Observed]) -> Check {
    let check = |what: &str, sim: &SimDir| {
        let again = open(run, sim).and_then(|wal| Observed::all(&wal, &run.setup.keys));
        let again = again.map_err(|text| format!("second time, after {what}: {text}"))?;
        ensure!(again == seen, "opened again after {what}: {again:?}, before {seen:?}");
        Ok(())
    };
    let durable = sim.durable_image();
    if durable != sim.image() {
        check("a kill", &sim.after_kill())?;
    }
    check("a power cut", &SimDir::from_image(&durable, 8))
}

/// Entries get the next numbers, survive another power cut, and no lost reference leads to them.
fn life_goes_on(
    run: &Run,
    sim: &SimDir,
    wal: &Wal,
    seen: Vec<Observed>,
    lost: &[EntryRef],
    reading: Option<Reading>,
) -> Check {
    let keys = &run.setup.keys;
    let mut written = Vec::new();
    for ((at, key), seen) in (0..).zip(keys).zip(&seen) {
        for (n, (bytes, durability)) in
            [(40, Durability::Os), (900, Durability::Disk)].into_iter().enumerate()
        {
            let serial = 1_000_000 + at * 10 + n as u64;
            let (header, content) = (header(serial), content(serial, bytes));
            let reference = wal
                .append_entry(key, header.clone(), &content, durability)
                .map_err(|error| format!("append after recovery: {error}: {error:?}"))?;
            let entry = wal.read_entry(reference).map_err(|error| format!("read: {error}"))?;
            let index = seen.next + n as u64;
            ensure!(entry.index == index, "index {} where {index} is next", entry.index);
            ensure!(entry.content == content && entry.header == header, "altered: {entry:?}");
            written.push((at, entry));
        }
    }
    // Whatever the crash has left of dropped segments, nothing may explain gaps any more.
    wal.set_retention(keys[0], Retention::FOREVER)
        .map_err(|error| format!("set_retention after recovery: {error}: {error:?}"))?;
    check_lost(wal, lost).map_err(|text| format!("after appending: {text}"))?;
    let shown = reading.map(|reading| reading.goes_on(run)).transpose();
    let shown = shown.map_err(|text| format!("a reader, refreshed: {text}"))?;
    let sim = SimDir::from_image(&sim.durable_image(), 9);
    let wal = open(run, &sim).map_err(|text| format!("third time: {text}"))?;
    let after = Observed::all(&wal, keys).map_err(|text| format!("third time: {text}"))?;
    for (at, (mut before, after)) in (0..).zip(seen.into_iter().zip(after)) {
        let new = written.iter().filter(|(key, _)| *key == at).map(|(_, entry)| entry.clone());
        before.entries.extend(new);
        ensure!(before.entries == after.entries, "a `Disk` append after recovery lost something");
        if let Some(shown) = shown.as_ref().map(|shown| &shown[index(at)]) {
            let same = shown.entries == before.entries && shown.first == before.first;
            ensure!(same, "a reader, refreshed, shows {shown:?} of {:?}", before.entries);
        }
    }
    check_lost(&wal, lost).map_err(|text| format!("after appending and a power cut: {text}"))
}

/// All keys against what they may hold; the references that lead nowhere.
fn check_all(wal: &impl Shown, allowed: &[Allowed<'_>], seen: &[Observed]) -> Check<Vec<EntryRef>> {
    let mut lost = Vec::new();
    for (key, (allowed, seen)) in allowed.iter().zip(seen).enumerate() {
        let checked = allowed.check_with_refs(wal, seen);
        lost.extend(checked.map_err(|text| format!("key {key}: {text}"))?);
    }
    check_together(allowed, seen)?;
    Ok(lost)
}

/// The log as it is, without reopening.
pub fn live(run: &Run) -> Check {
    let Some(wal) = run.wal.as_deref() else { return Ok(()) };
    let seen = Observed::all(wal, &run.setup.keys).map_err(|text| format!("live: {text}"))?;
    for (key, (model, seen)) in run.keys.iter().zip(&seen).enumerate() {
        if !model.maybe_removed {
            let allowed = model.live();
            let checked = allowed.check_with_refs(wal, seen);
            checked.map_err(|text| format!("live, key {key}: {text}"))?;
        }
    }
    Ok(())
}

/// The process dies: nothing is lost, unless a failed sync has lost pages.
pub fn kill(run: &Run) -> Check {
    let text = |text: String| format!("after a kill: {text}");
    let wal = open(run, &run.sim.after_kill()).map_err(text)?;
    let seen = Observed::all(&wal, &run.setup.keys).map_err(text)?;
    let lost_pages = run.lost_pages();
    let models = run.keys.iter();
    let allowed: Vec<Allowed<'_>> = models
        .map(|model| if lost_pages { model.after_power_cut() } else { model.after_kill() })
        .collect();
    check_all(&wal, &allowed, &seen).map(drop).map_err(text)
}
