//! Opening what a power cut left, and checking everything that was promised about it.

use std::path::Path;
use std::sync::Arc;

use keywal::{Durability, EntryRef, ManualClock, Wal};

use crate::common::oracle::{Allowed, Item, KeyModel, Observed, check_lost, check_together, index};
use crate::common::run::Setup;
use crate::common::{Check, content, header};
use crate::ensure;

/// What was found, and what is promised now that it has been found.
pub struct Found {
    pub models: Vec<KeyModel>,
    /// The next index of each key, as found.
    pub next: Vec<u64>,
    /// Bytes of unfinished writes were found.
    pub torn: bool,
}

/// Opens the log three times, and goes on with the key number `going_on`. `opened` is called when it is
/// known what the log holds.
pub fn check(
    dir: &Path,
    setup: &Setup,
    clock: &Arc<ManualClock>,
    allowed: &[Allowed<'_>],
    going_on: usize,
    opened: impl FnOnce() -> Check,
) -> Check<Found> {
    let wal = open(dir, setup, clock)?;
    let torn = !wal.recovery_report().torn.is_empty();
    let seen = Observed::all(&wal, &setup.keys)?;
    let mut models = Vec::new();
    for (key, (allowed, seen)) in allowed.iter().zip(&seen).enumerate() {
        let checked = allowed.check_with_refs(&wal, seen);
        models.push(model(seen, checked.map_err(|text| format!("key {key}: {text}"))?));
    }
    check_together(allowed, &seen)?;
    opened()?;
    drop(wal);

    let wal = open(dir, setup, clock).map_err(|text| format!("second time: {text}"))?;
    let again = Observed::all(&wal, &setup.keys)?;
    ensure!(again == seen, "opened again: {again:?}, before {seen:?}");

    go_on(&wal, setup.keys[going_on], going_on as u64, &mut models[going_on])?;
    drop(wal);
    let wal = open(dir, setup, clock).map_err(|text| format!("third time: {text}"))?;
    for (model, seen) in models.iter().zip(Observed::all(&wal, &setup.keys)?) {
        model.live().check(&seen).map_err(|text| format!("third time: {text}"))?;
        check_lost(&wal, &model.ghosts).map_err(|text| format!("third time: {text}"))?;
    }
    Ok(Found { models, next: seen.iter().map(|seen| seen.next).collect(), torn })
}

fn open(dir: &Path, setup: &Setup, clock: &Arc<ManualClock>) -> Check<Wal> {
    let wal = Wal::new(dir, setup.options(clock));
    let wal = wal.map_err(|error| format!("open: {error}: {error:?}"))?;
    let damaged = &wal.recovery_report().damaged;
    ensure!(damaged.is_empty(), "false damage: {damaged:?}");
    Ok(wal)
}

/// What opening the log has found is on the disk: from now on it is promised.
fn model(seen: &Observed, lost: Vec<EntryRef>) -> KeyModel {
    let dropped = Item {
        reference: None,
        timestamp_ms: None,
        header: None,
        content: [].as_slice().into(),
        ends: true,
        together: 0,
    };
    let mut items = vec![dropped; index(seen.first)];
    items.extend(seen.entries.iter().map(|entry| Item {
        reference: Some(entry.reference),
        timestamp_ms: Some(entry.timestamp_ms),
        header: entry.header.clone(),
        content: entry.content.clone(),
        ends: true,
        together: 0,
    }));
    KeyModel {
        used: seen.listed,
        items,
        first: (seen.first, seen.first),
        durable: seen.next,
        retention: seen.retention,
        ghosts: lost,
        ..KeyModel::default()
    }
}

/// Appends to the key: the entries get the next numbers, and can be read.
fn go_on(wal: &Wal, name: &[u8], key: u64, model: &mut KeyModel) -> Check {
    for (serial, durability) in [(1_000_000 + key, Durability::Os), (2_000_000, Durability::Disk)] {
        let (header, content) = (header(serial), content(serial, 700));
        let reference = wal
            .append_entry(name, header.clone(), &content, durability)
            .map_err(|error| format!("append after recovery: {error}: {error:?}"))?;
        let entry = wal.read_entry(reference).map_err(|error| format!("read: {error}"))?;
        ensure!(entry.index == model.count(), "{} is next: {entry:?}", model.count());
        ensure!(entry.content == content && entry.header == header, "altered: {entry:?}");
        model.items.push(Item {
            reference: Some(reference),
            timestamp_ms: None,
            header,
            content,
            ends: true,
            together: 0,
        });
    }
    (model.used, model.durable) = (true, model.count());
    Ok(())
}
