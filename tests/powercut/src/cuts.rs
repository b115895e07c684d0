//! Workload after workload, and many power cuts of each.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::check::{Found, check};
use crate::common::oracle::KeyModel;
use crate::common::progress::Progress;
use crate::common::{Check, Failures, Random, mix};
use crate::rig::{FileSystem, Rig};
use crate::workload::{History, World, pick};

const OPS: usize = 60;
const CUTS_PER_WORKLOAD: u64 = 50;
/// One in so many power cuts is followed by another, during recovery or after it.
const NESTED_ONE_IN: u64 = 8;
/// Rigs side by side: each of them mostly waits.
const RIGS: usize = 4;

/// One power cut.
#[derive(Clone, Copy)]
struct Cut {
    workload: u64,
    moment: u64,
    subset: u64,
}

/// A run on several rigs, and what was done.
struct Run {
    images: u64,
    seed: u64,
    only: Option<Cut>,
    progress: Progress,
    failures: Failures,
    workloads: AtomicU64,
    events: AtomicU64,
    /// Images in which entries that were not durable are missing.
    short: AtomicU64,
    torn: AtomicU64,
    nested: AtomicU64,
}

pub fn power_cuts(file_system: &'static FileSystem, images: u64, seed: u64) -> Check {
    if let Some(reason) = Rig::missing(file_system) {
        println!("skipped: {reason}");
        return Ok(());
    }
    let run = Run {
        images,
        seed,
        only: only_cut()?,
        progress: Progress::new(format!("powercut-{}", file_system.name), "images", images),
        failures: Failures::default(),
        workloads: AtomicU64::new(0),
        events: AtomicU64::new(0),
        short: AtomicU64::new(0),
        torn: AtomicU64::new(0),
        nested: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        let rigs = [(); RIGS].map(|()| scope.spawn(|| run.on(&Rig::new(file_system)?)));
        rigs.into_iter().try_for_each(|rig| rig.join().unwrap_or_else(|_| Err("panicked".into())))
    })?;
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    let numbers = [
        ("images", run.progress.done()),
        ("workloads", read(&run.workloads)),
        ("block_writes_and_flushes", read(&run.events)),
        ("images_without_some_undurable_entries", read(&run.short)),
        ("images_with_a_torn_tail", read(&run.torn)),
        ("cut_again", read(&run.nested)),
        ("seed", seed),
    ];
    run.progress.figures(&numbers, &run.failures);
    run.failures.finish();
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

impl Run {
    /// Takes workloads and cuts them until none is left, or there are enough failures.
    fn on(&self, rig: &Rig) -> Check {
        let cuts_per_workload = self.only.map_or(CUTS_PER_WORKLOAD, |_| 1);
        loop {
            let number = self.workloads.fetch_add(1, Relaxed);
            let left = self.images.saturating_sub(number * cuts_per_workload);
            if left == 0 {
                self.workloads.fetch_sub(1, Relaxed);
                return Ok(());
            }
            let workload = self.only.map_or(mix(self.seed ^ number << 32), |cut| cut.workload);
            let (history, log_length) = work(rig, workload)?;
            self.events.fetch_add(log_length, Relaxed);
            let mut random = Random(mix(workload));
            for _ in 0..cuts_per_workload.min(left) {
                let moment = history.moment(&mut random, rig, log_length)?;
                let cut = self.only.unwrap_or(Cut { workload, moment, subset: random.next() });
                let Err(text) = self.check_cut(rig, &history, cut) else { continue };
                let Cut { workload, moment, subset } = cut;
                let name = rig.file_system.name;
                let repro = format!(
                    "KEYWAL_CUT={workload}:{moment}:{subset} tests/soak.sh powercut-{name}"
                );
                if !self.failures.note(&text, &repro) {
                    return Ok(());
                }
            }
        }
    }

    fn check_cut(&self, rig: &Rig, history: &History, cut: Cut) -> Check {
        self.progress.step(|| format!("{} failures", self.failures.count()));
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
        self.short.fetch_add(issued.any(|(next, count)| *next < count).into(), Relaxed);
        self.torn.fetch_add(found.torn.into(), Relaxed);
        if random.next() % NESTED_ONE_IN > 0 {
            return Ok(());
        }
        self.nested.fetch_add(1, Relaxed);
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
