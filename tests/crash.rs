//! Is every acknowledged entry there after a power cut or a kill at any moment, and nothing invented?
//!
//! All sequences of operations on two keys up to a length; of each, every crash point of its last
//! operation (those before belong to shorter sequences); of each point, every subset of what may have
//! reached the disk where that is feasible, and samples, with garbled sectors, otherwise.
//!
//! * `KEYWAL_CRASH_LEN`: length of the sequences, 2 if not given. 4 takes about ten minutes with
//!   `KEYWAL_CRASH_LEN=4 cargo test --release --test crash`.
//! * `KEYWAL_CRASH_BITS`: with so many units all subsets are visited.
//! * `KEYWAL_SEED`: of the samples.
//! * `KEYWAL_CRASH_OPS`, `KEYWAL_CRASH_SETUP`, `KEYWAL_CRASH_AT`: one sequence, and one crash of it, as
//!   a failure prints them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind, Image, SimDir};

use common::ops::Op;
use common::oracle::Allowed;
use common::recovered::{check, check_image, open};
use common::run::{Run, Setup};
use common::{Check, Failures, env_number, guarded, image_hash, mix, on_all_cores};

mod common;

/// One in so many crash states is followed by crashes during its recovery.
const NESTED_ONE_IN: u64 = 64;

/// What was done; printed at the end.
#[derive(Default)]
struct Counts {
    workloads: AtomicU64,
    points: AtomicU64,
    states: AtomicU64,
    repeated: AtomicU64,
    nested: AtomicU64,
    kills: AtomicU64,
}

/// How to go about it.
struct Plan {
    setup: Setup,
    budget: CrashBudget,
    /// A failure's `AT`, to see only that one.
    only: Option<String>,
}

fn seed() -> u64 {
    env_number("KEYWAL_SEED").unwrap_or(1)
}

fn plan(setup: Setup) -> Plan {
    let bits = env_number("KEYWAL_CRASH_BITS").unwrap_or(8);
    let budget = CrashBudget {
        exhaustive_bits: u32::try_from(bits).unwrap_or(8),
        samples: 64,
        garbled: 6,
        seed: seed(),
    };
    Plan { setup, budget, only: std::env::var("KEYWAL_CRASH_AT").ok() }
}

/// All operations. The keys are alike unless their hashes collide: then the order matters.
fn alphabet() -> Vec<Op> {
    let mut ops = vec![Op::Sync, Op::Compact, Op::Shutdown, Op::Kill, Op::Cut(0), Op::Cut(3)];
    for key in 0..2 {
        ops.extend([Op::Small(key), Op::Large(key), Op::Batch(key), Op::Rotate(key)]);
        ops.extend([Op::Truncate(key), Op::Remove(key), Op::SyncKey(key)]);
    }
    ops
}

/// All sequences of this length; with `symmetric`, the first key used is 0.
fn sequences(length: usize, symmetric: bool) -> Vec<Vec<Op>> {
    let mut all = vec![Vec::new()];
    for _ in 0..length {
        let longer = all.iter().flat_map(|ops: &Vec<Op>| {
            let key_used = ops.iter().any(|op| op.key().is_some());
            alphabet().into_iter().filter_map(move |op| {
                let mirrored = symmetric && !key_used && op.key() == Some(1);
                (!mirrored).then(|| ops.iter().copied().chain([op]).collect())
            })
        });
        all = longer.collect();
    }
    all
}

#[test]
fn every_crash_of_every_short_workload() {
    if std::env::var("KEYWAL_CRASH_OPS").is_ok() {
        return;
    }
    let length = usize::try_from(env_number("KEYWAL_CRASH_LEN").unwrap_or(2)).unwrap_or(2);
    explore(&plan(Setup::plain(seed())), length, true);
}

#[test]
fn every_crash_with_colliding_keys_and_tight_limits() {
    if std::env::var("KEYWAL_CRASH_OPS").is_ok() {
        return;
    }
    let length = usize::try_from(env_number("KEYWAL_CRASH_LEN").unwrap_or(2)).unwrap_or(2);
    explore(&plan(Setup::tight(seed())), (length - 1).max(1), false);
}

/// `KEYWAL_CRASH_OPS`: prints what happens, too.
#[test]
fn one_workload() {
    let Ok(ops) = std::env::var("KEYWAL_CRASH_OPS") else { return };
    let tight = std::env::var("KEYWAL_CRASH_SETUP").is_ok_and(|name| name == "tight");
    let plan = plan(if tight { Setup::tight(seed()) } else { Setup::plain(seed()) });
    let (failures, counts) = (Failures::default(), Counts::default());
    let ops = Op::parse_all(&ops);
    let mut run = Run::new(&plan.setup).unwrap();
    for op in &ops {
        run.apply(*op).unwrap().unwrap();
        println!("{op}: {} to {}", run.start, run.sim.trace_len());
    }
    for (at, op) in run.sim.trace().iter().enumerate() {
        println!("{at:4} {op:?}");
    }
    explore_one(&plan, &ops, &counts, &failures);
    println!("{} crash states, {} failures", counts.states.load(Relaxed), failures.count());
    failures.finish();
}

fn explore(plan: &Plan, longest: usize, symmetric: bool) {
    let started = Instant::now();
    let (failures, counts) = (Failures::default(), Counts::default());
    for length in 1..=longest {
        let all = sequences(length, symmetric);
        on_all_cores(all.len(), |at| explore_one(plan, &all[at], &counts, &failures));
    }
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    let states = get(&counts.states);
    println!(
        "crash, {} setup, length <= {longest}, seed {}: {} workloads, {} crash points, {states} crash \
         states ({} more were repetitions), {} of them nested, {} kills, {:.1} s, {} states/s, {} \
         violations",
        plan.setup.name,
        plan.budget.seed,
        get(&counts.workloads),
        get(&counts.points),
        get(&counts.repeated),
        get(&counts.nested),
        get(&counts.kills),
        started.elapsed().as_secs_f64(),
        u128::from(states) * 1000 / started.elapsed().as_millis().max(1),
        failures.count(),
    );
    failures.finish();
}

/// The crashes of the last operation of a sequence. `false`: enough failures.
fn explore_one(plan: &Plan, ops: &[Op], counts: &Counts, failures: &Failures) -> bool {
    let fail = |what: &str, at: &str| {
        let (name, seed, ops) = (plan.setup.name, plan.budget.seed, Op::print_all(ops));
        let repro = format!(
            "SEED={seed} OPS=\"{ops}\" {}\n    KEYWAL_SEED={seed} KEYWAL_CRASH_SETUP={name} \
             KEYWAL_CRASH_OPS=\"{ops}\" KEYWAL_CRASH_AT=\"{at}\" cargo test --test crash one_workload \
             -- --nocapture",
            at.to_uppercase()
        );
        failures.note(what, &repro)
    };
    counts.workloads.fetch_add(1, Relaxed);
    let run = match guarded(|| run_all(plan, ops)) {
        Ok(run) => run,
        // A shorter sequence has failed the same way, unless it is the last operation.
        Err(text) => return fail(&text, "no crash"),
    };
    let mut enough = false;
    power_cuts(plan, &run, counts, &mut |text, at| enough |= !fail(text, at));
    if plan.only.is_none() {
        if let Err(text) = guarded(|| kills(plan, ops, &run, counts)) {
            enough |= !fail(&text, "a kill");
        }
    }
    !enough
}

fn run_all(plan: &Plan, ops: &[Op]) -> Check<Run> {
    let mut run = Run::new(&plan.setup)?;
    for op in ops {
        run.succeed(*op)?;
    }
    Ok(run)
}

/// The states before each traced operation of the last call, and after its end.
fn power_cuts(plan: &Plan, run: &Run, counts: &Counts, fail: &mut dyn FnMut(&str, &str)) {
    let end = run.sim.trace_len();
    let mut known = HashSet::new();
    for at in run.start + 1..=end {
        counts.points.fetch_add(1, Relaxed);
        let in_flight =
            |key: usize| run.before[key].in_flight(&run.keys[key], run.before[key].durable);
        let done = |key: usize| run.keys[key].after_power_cut();
        if at == end {
            known.clear();
        }
        let allowed: Vec<Allowed<'_>> = (0..run.keys.len())
            .map(|key| if at == end { done(key) } else { in_flight(key) })
            .collect();
        run.sim.crash_images(at, &plan.budget, &mut |image, choice| {
            let choice = choice.to_string();
            if plan.only.as_ref().is_some_and(|only| !only.starts_with(&choice)) {
                return;
            }
            let hash = image_hash(image);
            if !known.insert(hash) {
                counts.repeated.fetch_add(1, Relaxed);
                return;
            }
            counts.states.fetch_add(1, Relaxed);
            let checked = guarded(|| check_image(run, image, &allowed));
            if let Err(text) = checked {
                return fail(&text, &choice);
            }
            let wanted = plan.only.is_some() || mix(hash ^ plan.budget.seed) % NESTED_ONE_IN == 0;
            if wanted {
                if let Err(text) = guarded(|| nested(plan, run, image, &allowed, counts)) {
                    fail(&text, &choice);
                }
            }
        });
    }
}

/// Crashes during recovery.
fn nested(
    plan: &Plan,
    run: &Run,
    image: &Image,
    allowed: &[Allowed<'_>],
    counts: &Counts,
) -> Check {
    let sim = SimDir::from_image(image, 7);
    drop(open(run, &sim)?);
    let budget =
        CrashBudget { exhaustive_bits: 5, samples: 16, garbled: 2, seed: plan.budget.seed };
    let mut known = HashSet::from([image_hash(image)]);
    let mut result = Ok(());
    for at in 1..=sim.trace_len() {
        sim.crash_images(at, &budget, &mut |image, choice| {
            if result.is_err() || !known.insert(image_hash(image)) {
                return;
            }
            counts.nested.fetch_add(1, Relaxed);
            counts.states.fetch_add(1, Relaxed);
            if let Err(text) = check_image(run, image, allowed) {
                result = Err(format!("crash during recovery, {choice}: {text}"));
            }
        });
    }
    result
}

/// The process dies before each call of the last operation: nothing that had returned is lost.
fn kills(plan: &Plan, ops: &[Op], whole: &Run, counts: &Counts) -> Check {
    let Some((last, before)) = ops.split_last() else { return Ok(()) };
    for at in 0.. {
        let mut run = run_all(plan, before)?;
        let calls = dies_at(&whole.sim, &run, *last, at);
        let Some(faults) = calls else { break };
        if matches!(last, Op::Kill | Op::Cut(_)) {
            run.faults = faults;
        } else {
            for fault in faults {
                run.sim.inject(fault);
            }
        }
        // What is returned, nobody hears any more.
        let _ = run.apply(*last);
        counts.kills.fetch_add(1, Relaxed);
        let sim = run.sim.after_kill();
        let kept = |key: usize| match last {
            Op::Cut(_) => whole.before[key].durable,
            _ => whole.before[key].count(),
        };
        let allowed: Vec<Allowed<'_>> = (0..whole.keys.len())
            .map(|key| whole.before[key].in_flight(&whole.keys[key], kept(key)))
            .collect();
        check(whole, &sim, &allowed).map_err(|text| format!("killed at call {at}: {text}"))?;
    }
    Ok(())
}

/// Faults after which no call does anything from the `at`-th of the operation on; `None` if there is
/// no such call. A failed sync would lose pages, which a kill does not: those are interrupted.
fn dies_at(whole: &SimDir, before: &Run, op: Op, at: usize) -> Option<Vec<Fault>> {
    let kinds = whole.call_kinds();
    let skip = match op {
        Op::Kill | Op::Cut(_) => 0,
        _ => before.sim.call_kinds().len(),
    };
    let kinds = &kinds[skip..];
    kinds.get(at)?;
    let syncs = kinds[..at].iter().filter(|kind| **kind == CallKind::SyncData).count();
    let fault = |call, nth: usize, kind| Fault {
        call,
        nth: nth as u64,
        kind,
        forever: true,
        name_contains: None,
    };
    Some(vec![
        fault(CallKind::SyncData, syncs, FaultKind::Interrupted),
        fault(CallKind::Any, at, FaultKind::Error(5)),
    ])
}
