//! Is every acknowledged entry there after a power cut on a real file system?
//!
//! The disk is a file that a FUSE server of ours provides. It remembers every write and every flush in
//! their order. A loop device makes it a disk, mkfs makes a file system on it, and a random workload runs
//! on a log there. Whenever a call returns, the length of the disk's memory is noted, and with it what
//! has been promised by then.
//!
//! Then the power is cut, afterwards and many times: a disk is made that holds all that was written before
//! the last flush before some moment, and a random subset of the sectors written between that flush and
//! the moment: sectors of 512 bytes under ext4, of 4096 under XFS. It is mounted, so that the real file
//! system replays its journal, and opened with keywal, and has to hold what had been promised at that
//! moment. Sometimes the power is cut again, during recovery or after it.
//!
//! `tests/soak.sh powercut-ext4`, `powercut-xfs` and `powercut-eio` run it, as root:
//! * `KEYWAL_IMAGES`: how many power cuts (for `eio`, how many failures of the disk).
//! * `KEYWAL_SEED`: of everything.
//! * `KEYWAL_CUT`: one power cut, as a failure prints it, again and again: the kernel decides on its own
//!   when it writes what, so the same one may take some tries.

use std::cell::Cell;
use std::process::ExitCode;

use check::{Found, check};
use common::oracle::KeyModel;
use common::progress::Progress;
use common::{Check, Failures, Random, env_number, mix};
use disk::Disk;
use rig::{EXT4, FileSystem, Rig, XFS};
use workload::{History, World, pick};

mod check;
#[path = "../../common/mod.rs"]
mod common;
mod disk;
mod eio;
mod fuse;
mod rig;
mod workload;

const OPS: usize = 60;
const CUTS_PER_WORKLOAD: u64 = 50;
/// One in so many power cuts is followed by another, during recovery or after it.
const NESTED_ONE_IN: u64 = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |name, default| env_number(name).unwrap_or(default);
    let seed = number("KEYWAL_SEED", 1);
    let done = match &arguments[..] {
        ["ext4"] => power_cuts(&EXT4, number("KEYWAL_IMAGES", 10_000), seed),
        ["xfs"] => power_cuts(&XFS, number("KEYWAL_IMAGES", 500), seed),
        ["eio"] => [&EXT4, &XFS].into_iter().try_for_each(|file_system| {
            eio::failing_disks(file_system, number("KEYWAL_IMAGES", 200), seed)
        }),
        ["serve", root, bytes, sector_bytes] => match (bytes.parse(), sector_bytes.parse()) {
            (Ok(bytes), Ok(sector_bytes)) => {
                rig::serve(&root.into(), Disk::new(bytes, sector_bytes))
            }
            _ => Err("these are no sizes".into()),
        },
        _ => Err("one of these is missing: ext4, xfs, eio".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// One power cut.
#[derive(Clone, Copy)]
struct Cut {
    workload: u64,
    moment: u64,
    subset: u64,
}

#[derive(Default)]
struct Counts {
    workloads: u64,
    writes: u64,
    /// Images in which entries that were not durable are missing.
    short: u64,
    torn: u64,
    nested: u64,
}

fn power_cuts(file_system: &'static FileSystem, images: u64, seed: u64) -> Check {
    if let Some(reason) = Rig::missing(file_system) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let rig = Rig::new(file_system)?;
    let (failures, mut counts) = (Failures::default(), Counts::default());
    let progress = Progress::new(format!("powercut-{}", file_system.name), "images", images);
    let only = only_cut()?;
    let cuts_per_workload = only.map_or(CUTS_PER_WORKLOAD, |_| 1);
    let mut enough = false;
    while progress.done() < images && !enough {
        let workload = only.map_or(mix(seed ^ counts.workloads << 32), |cut| cut.workload);
        let (history, log_length) = work(&rig, workload)?;
        counts.workloads += 1;
        counts.writes += log_length;
        let mut random = Random(mix(workload));
        for _ in 0..cuts_per_workload.min(images - progress.done()) {
            let moment = history.moment(&mut random, log_length);
            let cut = only.unwrap_or(Cut { workload, moment, subset: random.next() });
            if let Err(text) = check_cut(&rig, &history, cut, &mut counts) {
                let Cut { workload, moment, subset } = cut;
                let repro = format!(
                    "KEYWAL_CUT={workload}:{moment}:{subset} tests/soak.sh powercut-{}",
                    file_system.name
                );
                enough |= !failures.note(&text, &repro);
            }
            progress.step(|| format!("{} failures", failures.count()));
        }
    }
    drop(rig);
    let Counts { workloads, writes, short, torn, nested } = counts;
    let numbers = [
        ("images", progress.done()),
        ("workloads", workloads),
        ("block_writes_and_flushes", writes),
        ("images_without_some_undurable_entries", short),
        ("images_with_a_torn_tail", torn),
        ("cut_again", nested),
        ("seed", seed),
    ];
    progress.figures(&numbers, &failures);
    failures.finish();
    Ok(())
}

/// `KEYWAL_CUT`.
fn only_cut() -> Check<Option<Cut>> {
    let Ok(text) = std::env::var("KEYWAL_CUT") else { return Ok(None) };
    let numbers: Vec<u64> = text.split(':').map_while(|number| number.parse().ok()).collect();
    match numbers[..] {
        [workload, moment, subset] => Ok(Some(Cut { workload, moment, subset })),
        _ => Err(format!("KEYWAL_CUT={text} is not three numbers")),
    }
}

fn options(rig: &Rig, workload: u64) -> &'static str {
    let options = rig.file_system.options;
    options[pick(&mut Random(workload), options.len())]
}

/// Runs a workload on a fresh disk; what was done, and how long the disk's log is in the end.
fn work(rig: &Rig, workload: u64) -> Check<(History, u64)> {
    rig.ask("restart")?;
    let history = rig
        .mounted(options(rig, workload), |place| {
            World::new(place, Random(workload)).history(rig, OPS)
        })
        .map_err(|text| format!("workload {workload}: {text}"))?;
    Ok((history, rig.ask("position")?))
}

fn check_cut(rig: &Rig, history: &History, cut: Cut, counts: &mut Counts) -> Check {
    let allowed = history.allowed(cut.moment);
    let mut random = Random(cut.subset);
    let going_on = pick(&mut random, allowed.len());
    let opened_at = Cell::new(0);
    let options = options(rig, cut.workload);
    rig.ask(&format!("cut 0 {} {}", cut.moment, cut.subset))?;
    let checked = |allowed: &[_], opened_at: &Cell<u64>| -> Check<Found> {
        rig.mounted(options, |place| {
            let dir = place.join("log");
            check(&dir, &history.setup, &history.clock, allowed, going_on, || {
                opened_at.set(rig.ask("position")?);
                Ok(())
            })
        })
    };
    let found = checked(&allowed, &opened_at)?;
    let mut issued = found.next.iter().zip(history.counts(cut.moment));
    counts.short += u64::from(issued.any(|(next, count)| *next < count));
    counts.torn += u64::from(found.torn);
    if random.next() % NESTED_ONE_IN > 0 {
        return Ok(());
    }
    counts.nested += 1;
    let again = |moment: u64| rig.ask(&format!("cut 1 {moment} {}", random.0));
    if random.0 % 2 == 0 {
        again(random.0 % (opened_at.get() + 1))?;
        checked(&allowed, &opened_at).map_err(|text| format!("cut during recovery: {text}"))?;
    } else {
        again(rig.ask("position")?)?;
        let allowed: Vec<_> = found.models.iter().map(KeyModel::after_power_cut).collect();
        checked(&allowed, &opened_at).map_err(|text| format!("cut after recovery: {text}"))?;
    }
    Ok(())
}
