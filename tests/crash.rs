//! Is every acknowledged entry there after a power cut or a kill at any moment, and nothing invented?
//!
//! All sequences of operations on two keys up to a length; of each, every crash point of its last
//! operation (those before belong to shorter sequences); of each point, every subset of what may have
//! reached the disk where that is feasible, and samples, with garbled sectors, otherwise. Long random
//! sequences besides. A state that is like one before, bytes, clock and demands, is not checked again.
//! Some states are read before recovery by who only reads; some workloads are followed.
//!
//! * `KEYWAL_CRASH_LEN`: length of the sequences, 2 if not given; one more for the core operations, one
//!   less under tight limits, with followers, and where keys are checked when they are first used.
//! * `KEYWAL_CRASH_STATES`: the random sequences go on until there were so many states.
//! * `KEYWAL_CRASH_BITS`: with so many units all subsets are visited, 8 if not given.
//! * `KEYWAL_CRASH_THOROUGH`: of so many states one is recovered a second time, and another one once
//!   more after appends to every key and another power cut. 2 if not given: all of them.
//! * `KEYWAL_SEED`: of the samples and the random sequences.
//! * `KEYWAL_CRASH_OPS`, `KEYWAL_CRASH_SETUP`, `KEYWAL_CRASH_AT`: one sequence, and one crash of it, as
//!   a failure prints them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use keywal::fs::sim::CrashBudget;

use common::ops::Op;
use common::progress::Progress;
use common::run::{Run, Setup};
use common::{Check, Random, env_number, guarded, mix, on_all_cores};
use explore::{Counts, Explorer, Plan};

mod common;
#[path = "crash/explore.rs"]
mod explore;

fn seed() -> u64 {
    env_number("KEYWAL_SEED").unwrap_or(1)
}

fn explorer(setup: Setup) -> Explorer {
    let bits = env_number("KEYWAL_CRASH_BITS").unwrap_or(8);
    let budget = CrashBudget {
        exhaustive_bits: u32::try_from(bits).unwrap_or(8),
        samples: 64,
        garbled: 6,
        seed: seed(),
    };
    let only = std::env::var("KEYWAL_CRASH_AT").ok();
    let thorough_one_in = env_number("KEYWAL_CRASH_THOROUGH").unwrap_or(2).max(2);
    Explorer::new(Plan { setup, budget, only, thorough_one_in })
}

/// Whether one sequence alone is to be seen.
fn one_only() -> bool {
    std::env::var("KEYWAL_CRASH_OPS").is_ok()
}

/// The length of the sequences.
fn length() -> usize {
    usize::try_from(env_number("KEYWAL_CRASH_LEN").unwrap_or(2)).unwrap_or(2)
}

#[test]
fn every_crash_of_every_short_workload() {
    exhaust("crash-all", Setup::plain(seed()), &Op::all(), length());
}

#[test]
fn every_crash_of_every_workload_of_the_core_operations() {
    exhaust("crash-core", Setup::plain(seed()), &Op::core(), length() + 1);
}

#[test]
fn every_crash_with_colliding_keys_and_tight_limits() {
    exhaust("crash-tight", Setup::tight(seed()), &Op::all(), length().saturating_sub(1).max(1));
}

#[test]
fn crashes_of_long_random_workloads() {
    walks("crash-long", Setup::plain(seed()));
}

#[test]
fn crashes_of_long_random_workloads_under_tight_limits() {
    walks("crash-long-tight", Setup::tight(seed()));
}

#[test]
fn every_crash_with_a_journal() {
    let setup = Setup::plain(seed()).with_journal();
    exhaust("crash-journal", setup, &Op::all_with_journal(), length());
}

#[test]
fn every_crash_with_a_journal_colliding_keys_and_tight_limits() {
    let setup = Setup::tight(seed()).with_journal();
    exhaust(
        "crash-journal-tight",
        setup,
        &Op::all_with_journal(),
        length().saturating_sub(1).max(1),
    );
}

#[test]
fn crashes_of_long_random_workloads_with_a_journal() {
    walks("crash-journal-long", Setup::plain(seed()).with_journal());
}

#[test]
fn crashes_of_long_random_workloads_with_a_journal_under_tight_limits() {
    walks("crash-journal-long-tight", Setup::tight(seed()).with_journal());
}

#[test]
fn every_crash_of_every_short_workload_that_is_followed() {
    let length = length().saturating_sub(1).max(1);
    exhaust("crash-followed", Setup::plain(seed()).followed(), &Op::all(), length);
    exhaust("crash-followed-tight", Setup::tight(seed()).followed(), &Op::all(), length);
}

#[test]
fn every_crash_with_a_journal_and_followers() {
    let length = length().saturating_sub(1).max(1);
    let setup = Setup::plain(seed()).with_journal().followed();
    exhaust("crash-journal-followed", setup, &Op::all_with_journal(), length);
}

#[test]
fn crashes_of_long_random_workloads_that_are_followed() {
    walks("crash-long-followed", Setup::plain(seed()).followed());
    walks("crash-long-followed-tight", Setup::tight(seed()).followed());
}

#[test]
fn crashes_of_long_random_workloads_with_a_journal_and_followers() {
    walks("crash-journal-long-followed-tight", Setup::tight(seed()).with_journal().followed());
}

/// Workloads that get to what is rare in random ones: segments that go one by one, and others that go at
/// once, in one run; limits that change with segments left over.
#[test]
fn crashes_of_workloads_with_limits() {
    const WORKLOADS: [&str; 6] = [
        "last:0 small:0 rotate:0 small:1 rotate:0 rotate:1 rotate:0 compact small:0 cut:3 compact",
        "small:0 rotate:0 rotate:0 last:0 compact small:0 compact kill rotate:0 compact",
        "small:0 rotate:0 cut:1 forever:0 small:0 compact remove:0 small:0 compact",
        "forever:0 forever:1 small:0 last:0 large:0 cut:2 forever:0 compact shutdown small:1",
        "small:0 rotate:0 rotate:0 small:1 rotate:1 compact cut:1 last:0 small:0 last:1 compact",
        "batch:0 last:0 batch:0 batch:0 batch:0 batch:0 large:0 large:0 compact cut:3 large:0 compact",
    ];
    if one_only() {
        return;
    }
    for setup in [Setup::plain(seed()), Setup::tight(seed()).with_journal()] {
        let explorer = explorer(setup);
        on_all_cores(WORKLOADS.len(), |at| {
            let mut ops = Vec::new();
            let mut run = Run::new(&explorer.plan.setup).expect("opens");
            for op in Op::parse_all(WORKLOADS[at]) {
                ops.push(op);
                if let Err(text) = guarded(|| run.succeed(op)) {
                    return explorer.note(&text, &ops, "no crash");
                }
                explorer.crashes(&run, &ops);
            }
            true
        });
        explorer.failures.finish();
    }
}

#[test]
fn every_crash_with_keys_that_are_checked_when_they_are_used() {
    let length = length().saturating_sub(1).max(1);
    exhaust("crash-lazy", Setup::plain(seed()).lazy(), &Op::all(), length);
    exhaust("crash-lazy-tight", Setup::tight(seed()).lazy(), &Op::all(), length);
}

#[test]
fn crashes_of_long_random_workloads_with_keys_that_are_checked_when_they_are_used() {
    walks("crash-lazy-long", Setup::plain(seed()).with_journal().lazy());
    walks("crash-lazy-long-tight", Setup::tight(seed()).with_journal().lazy());
}

/// `KEYWAL_CRASH_OPS`: prints what happens, too.
#[test]
fn one_workload() {
    let Ok(ops) = std::env::var("KEYWAL_CRASH_OPS") else { return };
    let setup = std::env::var("KEYWAL_CRASH_SETUP").unwrap_or_default();
    let explorer = explorer(Setup::named(&setup, seed()));
    let ops = Op::parse_all(&ops);
    let mut run = Run::new(&explorer.plan.setup).unwrap();
    for op in &ops {
        run.apply(*op).unwrap().unwrap();
        println!("{op}: {} to {}", run.start, run.sim.trace_len());
    }
    for (at, op) in run.sim.trace().iter().enumerate() {
        println!("{at:4} {op:?}");
    }
    run.verbose = explorer.plan.only.is_some();
    explorer.crashes(&run, &ops);
    let (states, kills) = (&explorer.counts.checked, &explorer.counts.kills);
    let (states, kills) = (states.load(Relaxed), kills.load(Relaxed));
    println!("{states} crash states, {kills} kills, {} failures", explorer.failures.count());
    assert!(states + kills > 0 || explorer.plan.only.is_none(), "no crash is called that");
    explorer.failures.finish();
}

/// All sequences of these operations, up to a length. Only those are continued whose last operation did
/// something: the others are as good as a shorter one.
fn exhaust(name: &str, setup: Setup, alphabet: &[Op], longest: usize) {
    if one_only() {
        return;
    }
    // Which key comes first does not matter, unless both have the same hash.
    let symmetric = setup.name == "plain";
    let explorer = explorer(setup);
    let mut alive: Vec<Vec<Op>> = vec![Vec::new()];
    let progress = Progress::new(name, "workloads", 0);
    for length in 1..=longest {
        let workloads: Vec<(&[Op], Op)> = alive
            .iter()
            .flat_map(|ops| {
                let key_used = ops.iter().any(|op| op.key().is_some());
                let mirrored = move |op: &Op| symmetric && !key_used && op.key() == Some(1);
                let next = alphabet.iter().copied().filter(move |op| !mirrored(op));
                next.map(|op| (ops.as_slice(), op))
            })
            .collect();
        progress.expect(workloads.len());
        let longer = Mutex::new(Vec::new());
        on_all_cores(workloads.len(), |at| {
            let (before, last) = workloads[at];
            progress.step(|| explorer.counts.to_string());
            let ops = [before, &[last]].concat();
            match guarded(|| run_all(&explorer.plan.setup, &ops)) {
                Err(text) => explorer.note(&text, &ops, "no crash"),
                Ok(None) => true,
                Ok(Some(run)) => {
                    let go_on = explorer.crashes(&run, &ops);
                    if length < longest {
                        longer.lock().unwrap().push(ops);
                    }
                    go_on
                }
            }
        });
        alive = longer.into_inner().unwrap();
        alive.sort_by_key(|ops| Op::print_all(ops));
    }
    let length = ("length", longest as u64);
    progress.figures(&explorer.counts.figures(&[length, ("seed", seed())]), &explorer.failures);
    explorer.failures.finish();
}

/// `None` if the last operation did nothing, or no other thing than another one would have.
fn run_all(setup: &Setup, ops: &[Op]) -> Check<Option<Run>> {
    let mut run = Run::new(setup)?;
    for (at, op) in ops.iter().enumerate() {
        let nothing_lost = run.sim.crash_units(usize::MAX) == 0;
        let clock_ms = run.clock_ms();
        run.succeed(*op)?;
        if at + 1 < ops.len() {
            continue;
        }
        let idle = run.start == run.sim.trace_len()
            && clock_ms == run.clock_ms()
            && run.before == run.keys;
        // Recovery takes every unclean stop for a power cut.
        let like_kill = matches!(op, Op::Cut(_)) && nothing_lost;
        if idle || like_kill {
            return Ok(None);
        }
    }
    Ok(Some(run))
}

/// Random sequences of all operations, with the crashes of each of their operations.
fn walks(name: &str, setup: Setup) {
    if one_only() {
        return;
    }
    let all = env_number("KEYWAL_CRASH_STATES").unwrap_or(1_000);
    let wanted = if setup.followed { all / 8 } else { all };
    let explorer = explorer(setup);
    let progress = Progress::new(name, "states", wanted);
    on_all_cores(usize::MAX, |at| {
        let go_on = walk(&explorer, mix(seed()) ^ at as u64, &|| {
            progress.reached(explorer.counts.states.load(Relaxed), || explorer.counts.to_string());
        });
        go_on && explorer.counts.states.load(Relaxed) < wanted
    });
    progress.figures(&explorer.counts.figures(&[("seed", seed())]), &explorer.failures);
    explorer.failures.finish();
}

fn walk(explorer: &Explorer, seed: u64, each: &dyn Fn()) -> bool {
    let mut random = Random(seed);
    let alphabet = explorer.plan.setup.ops();
    let mut ops = Vec::new();
    let mut run = Run::new(&explorer.plan.setup).expect("opens");
    for _ in 0..6 + random.next() % 30 {
        let op = alphabet[usize::try_from(random.next()).unwrap_or(0) % alphabet.len()];
        ops.push(op);
        if let Err(text) = guarded(|| run.succeed(op)) {
            return explorer.note(&text, &ops, "no crash");
        }
        let failures = explorer.failures.count();
        if !explorer.crashes(&run, &ops) {
            return false;
        }
        if explorer.failures.count() > failures {
            return shrink(explorer, ops);
        }
        each();
    }
    true
}

/// Leaves out one operation after the other, as long as crashes of the last one still fail. `false`:
/// there are enough failures.
fn shrink(explorer: &Explorer, mut ops: Vec<Op>) -> bool {
    let mut at = 0;
    while at + 1 < ops.len() {
        let mut fewer = ops.clone();
        fewer.remove(at);
        let fresh = Explorer::new(explorer.plan.clone());
        if let Ok(Some(run)) = guarded(|| run_all(&fresh.plan.setup, &fewer)) {
            fresh.crashes(&run, &fewer);
        }
        if fresh.failures.count() > 0 {
            (ops, at) = (fewer, 0);
            explorer.failures.take(&fresh.failures);
        } else {
            at += 1;
        }
    }
    explorer.failures.few()
}

impl Counts {
    fn figures<'a>(&self, first: &[(&'a str, u64)]) -> Vec<(&'a str, u64)> {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let mut figures = first.to_vec();
        figures.extend([
            ("workloads", get(&self.workloads)),
            ("points", get(&self.points)),
            ("states", get(&self.states)),
            ("checked", get(&self.checked)),
            ("nested", get(&self.nested)),
            ("kills", get(&self.kills)),
        ]);
        figures
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let figures = self.figures(&[]);
        let texts: Vec<String> =
            figures.iter().map(|(name, value)| format!("{value} {name}")).collect();
        f.write_str(&texts.join(", "))
    }
}
