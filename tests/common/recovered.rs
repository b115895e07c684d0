//! Opening what a crash left, and checking everything that was promised about it.

use std::sync::Arc;
use std::time::Duration;

use keywal::fs::sim::{Image, SimDir};
use keywal::{Clock, Durability, EntryRef, ManualClock, Wal};

use super::oracle::{Allowed, Observed, check_lost};
use super::run::Run;
use super::{Check, EPOCH_MS, content, header};
use crate::ensure;

pub fn open(run: &Run, sim: &SimDir) -> Check<Wal> {
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    clock.advance(Duration::from_millis(run.clock.monotonic_ms()));
    let wal = run.setup.open(sim, &clock).map_err(|error| format!("open: {error}: {error:?}"))?;
    let damaged = &wal.recovery_report().damaged;
    if damaged.is_empty() { Ok(wal) } else { Err(format!("false damage: {damaged:?}")) }
}

/// Recovers what a power cut left, and checks everything that was promised.
pub fn check_image(run: &Run, image: &Image, allowed: &[Allowed<'_>]) -> Check {
    check(run, &SimDir::from_image(image, 7), allowed)
}

/// Recovers a directory, and checks everything that was promised.
pub fn check(run: &Run, sim: &SimDir, allowed: &[Allowed<'_>]) -> Check {
    let keys = &run.setup.keys;
    let wal = open(run, sim)?;
    let seen = Observed::all(&wal, keys)?;
    if std::env::var_os("KEYWAL_CRASH_AT").is_some() {
        println!("{sim:?}\n{:?}\n{seen:?}", wal.recovery_report());
    }
    let lost = check_all(&wal, allowed, &seen)?;

    // Opening it again, after a kill or a power cut, changes nothing.
    for (what, again) in
        [("a kill", sim.after_kill()), ("a power cut", SimDir::from_image(&sim.durable_image(), 8))]
    {
        let wal = open(run, &again).map_err(|text| format!("second time, after {what}: {text}"))?;
        let seen_again = Observed::all(&wal, keys)
            .map_err(|text| format!("second time, after {what}: {text}"))?;
        ensure!(seen_again == seen, "opened again after {what}: {seen_again:?}, before {seen:?}");
    }

    // Life goes on: entries get the next numbers, and no old reference leads to them.
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
    check_lost(&wal, &lost).map_err(|text| format!("after appending: {text}"))?;
    let sim = SimDir::from_image(&sim.durable_image(), 9);
    let wal = open(run, &sim).map_err(|text| format!("third time: {text}"))?;
    let after = Observed::all(&wal, keys).map_err(|text| format!("third time: {text}"))?;
    for (at, (mut before, after)) in (0..).zip(seen.into_iter().zip(after)) {
        let new = written.iter().filter(|(key, _)| *key == at).map(|(_, entry)| entry.clone());
        before.entries.extend(new);
        ensure!(before.entries == after.entries, "a `Disk` append after recovery lost something");
    }
    check_lost(&wal, &lost).map_err(|text| format!("after appending and a power cut: {text}"))
}

/// All keys against what they may hold; the references that lead nowhere.
fn check_all(wal: &Wal, allowed: &[Allowed<'_>], seen: &[Observed]) -> Check<Vec<EntryRef>> {
    let mut lost = Vec::new();
    for (key, (allowed, seen)) in allowed.iter().zip(seen).enumerate() {
        let checked = allowed.check(seen).and_then(|()| allowed.check_refs(wal, seen));
        lost.extend(checked.map_err(|text| format!("key {key}: {text}"))?);
    }
    Ok(lost)
}
