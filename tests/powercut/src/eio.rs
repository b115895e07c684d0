//! What if the disk fails writes? The call that needed them returns the error, nothing more is
//! acknowledged for that key, the others go on, unless it was the journal's; and once the disk is mended and
//! mounted again, all that had been acknowledged is there.

use keywal::WalError;

use crate::check::check;
use crate::common::ops::Op;
use crate::common::oracle::KeyModel;
use crate::common::progress::Progress;
use crate::common::{Check, Failures, Random};
use crate::ensure;
use crate::rig::{FileSystem, Rig};
use crate::workload::{World, pick};

/// Twice, so that one of them is in one piece even where two blocks meet.
const BAD_CONTENT: &[u8] = b"PLEASEFAIL PLEASEFAIL ";
const FAIL_BAD_CONTENT: &str = "fail PLEASEFAIL";

pub fn failing_disks(file_system: &'static FileSystem, disks: u64, seed: u64) -> Check {
    if let Some(reason) = Rig::missing(file_system) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let rig = Rig::new(file_system)?;
    let failures = Failures::default();
    let progress = Progress::new(format!("powercut-eio-{}", file_system.name), "disks", disks);
    let mut failed_writes = 0;
    for seed in seed..seed + disks {
        let repro = format!("KEYWAL_SEED={seed} KEYWAL_IMAGES=1 tests/soak.sh powercut-eio");
        let enough = match failing_disk(&rig, seed) {
            Ok(failed) => {
                failed_writes += failed;
                false
            }
            Err(text) => !failures.note(&text, &repro),
        };
        progress.step(|| format!("{} failures", failures.count()));
        if enough {
            break;
        }
    }
    drop(rig);
    let numbers =
        [("disks", progress.done()), ("failed_block_writes", failed_writes), ("seed", seed)];
    progress.figures(&numbers, &failures);
    failures.finish();
    Ok(())
}

/// How many writes failed.
fn failing_disk(rig: &Rig, seed: u64) -> Check<u64> {
    rig.ask("restart")?;
    let options = rig.file_system.options[0];
    let random = &mut Random(seed);
    let worked = rig.mounted(options, |place| {
        let mut world = World::new(place, Random(random.next()));
        if rig.file_system.shuts_down {
            // A store to the mapped journal would kill this process then.
            world.setup.journal_bytes = 0;
        }
        world.open()?.map_err(|error| format!("first open: {error}"))?;
        for _ in 0..12 {
            let op = world.any_op();
            world.apply(op)?.map_err(|error| format!("{op}: {error}: {error:?}"))?;
        }
        match random.next() % 4 {
            0 => no_write_succeeds(rig, &mut world)?,
            _ => one_key_fails(rig, &mut world, random)?,
        }
        world.wal = None;
        Ok(world)
    });
    let failed_writes = rig.ask("fail")?;
    let world = worked?;
    ensure!(failed_writes > 0, "the disk has not failed");
    let allowed: Vec<_> = world.keys.iter().map(KeyModel::after_power_cut).collect();
    let going_on = pick(random, allowed.len());
    rig.mounted(options, |_| {
        check(&world.dir, &world.setup, &world.clock, &allowed, going_on, || Ok(()))
    })
    .map_err(|text| format!("after mending: {text}"))?;
    Ok(failed_writes)
}

fn one_key_fails(rig: &Rig, world: &mut World, random: &mut Random) -> Check {
    let victim = pick(random, world.keys.len());
    // Every key exists: one cannot be created beside a failed key with the same hash. And nothing of
    // others waits to be written: the disk fails whole requests, which may hold blocks of several files.
    for op in (0..world.keys.len()).map(Op::Large).chain([Op::Sync]) {
        world.apply(op)?.map_err(|error| format!("before: {error}"))?;
    }
    rig.ask(FAIL_BAD_CONTENT)?;
    world.prefix = BAD_CONTENT;
    let how = random.next() % 6;
    if how > 0 {
        let accepted = world.apply(Op::Small(victim))?;
        accepted.map_err(|error| format!("nothing has failed yet: {error}"))?;
        world.prefix = b"";
    }
    let op = match how {
        0 | 1 => Op::Large(victim),
        2 => Op::SyncKey(victim),
        3 => Op::Sync,
        // What is kept for ever has no windows.
        4 if world.keys[victim].retention.is_none() => Op::Rotate(victim),
        _ => Op::Shutdown,
    };
    if random.next() % 2 == 0 {
        world.write_back()?;
    }
    let result = world.apply(op)?;
    world.prefix = b"";
    let of_a_sync = match &result {
        Err(WalError::Io { operation, .. }) => operation.starts_with("sync"),
        // It may have been synced on behalf of others: to close its file, or to use the journal again.
        Err(WalError::Poisoned { .. }) => {
            let setup = &world.setup;
            op == Op::Shutdown || setup.journal_bytes > 0 || setup.max_open_files < setup.keys.len()
        }
        _ => false,
    };
    ensure!(of_a_sync, "{op} of what the disk does not take: {result:?}");
    if op != Op::Shutdown {
        refused_from_now_on(world, victim)?;
    }
    // (Keys that are checked later are told later what a write-back has met.)
    if random.next() % 2 == 0 && world.setup.check_on_open {
        // What recovery finds on the failing disk holds from then on.
        let mut opened = world.reopen(KeyModel::after_power_cut)?;
        if opened.is_err() {
            // A write-back may have failed when the file was not open: that is told once.
            opened = world.reopen(KeyModel::after_power_cut)?;
        }
        match opened {
            // What the journal has cannot go to the segment.
            Err(WalError::Io { .. }) if world.setup.journal_bytes > 0 => return Ok(()),
            result => result.map_err(|error| format!("reopened: {error}: {error:?}"))?,
        }
        let result = world.apply(Op::Large(victim))?;
        result.map_err(|error| format!("append after reopening: {error}: {error:?}"))?;
    }
    Ok(())
}

fn refused_from_now_on(world: &mut World, victim: usize) -> Check {
    for op in [Op::Large(victim), Op::Small(victim), Op::SyncKey(victim)] {
        let result = world.apply(op)?;
        let poisoned = matches!(result, Err(WalError::Poisoned { .. }));
        ensure!(poisoned, "{op} after a failed sync: {result:?}");
    }
    let result = world.apply(Op::Sync)?;
    ensure!(result.is_err(), "sync after a failed sync is acknowledged");
    for other in (0..world.keys.len()).filter(|key| *key != victim) {
        match world.apply(Op::Large(other))? {
            // The journal had what was to be synced of it, too.
            Err(WalError::Poisoned { .. }) if world.setup.journal_bytes > 0 => {}
            result => {
                result
                    .map_err(|error| format!("another key does not go on: {error}: {error:?}"))?;
            }
        }
    }
    let model = &world.keys[victim];
    for item in &model.items[..usize::try_from(model.durable).unwrap_or(0)] {
        let Some(reference) = item.reference else { continue };
        match world.wal()?.read_entry(reference) {
            Ok(entry) => ensure!(entry.content == item.content, "altered: {entry:?}"),
            Err(WalError::Expired) => {}
            Err(error) => return Err(format!("reading what is durable: {error}: {error:?}")),
        }
    }
    Ok(())
}

/// The disk takes nothing any more: nothing may be acknowledged.
fn no_write_succeeds(rig: &Rig, world: &mut World) -> Check {
    rig.ask("fail all")?;
    let durable = |world: &World| world.keys.iter().map(|key| key.durable).collect::<Vec<_>>();
    let before = durable(world);
    for key in 0..world.keys.len() {
        for op in [Op::Small(key), Op::Large(key), Op::Batch(key), Op::Rotate(key), Op::Sync] {
            // Whatever it returns: if it was `Ok`, the model says what is promised.
            let _ = world.apply(op)?;
        }
    }
    ensure!(durable(world) == before, "acknowledged, and the disk took nothing");
    Ok(())
}
