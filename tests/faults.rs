//! What if a call to the operating system fails: any one of them, in any way, once or from then on?
//!
//! A workload of every operation is run once for every call it makes and every way in which that call
//! can go wrong. What returned an error must not be there, what returned `Ok` must; a failed sync must
//! be believed for ever; everything else must work on; and a kill, or a power cut after any later
//! operation, must leave what was promised.
//!
//! Besides, every short sequence of operations, with a power cut at every later moment; and both with
//! followers of each key, whose calls fail as well.
//!
//! All of it takes some minutes with `cargo test --release --test faults`; an unoptimised build runs a
//! sample. `KEYWAL_FAULT`: only the failures whose name contains this text, as a failure prints it.
//! `KEYWAL_FAULT_LEN`: length of the short sequences, 1 if not given.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use keywal::WalError;
use keywal::fs::sim::{CallKind, CrashBudget, Fault, FaultKind};

use common::ops::Op;
use common::oracle::Allowed;
use common::progress::Progress;
use common::recovered::{check_image, kill, live};
use common::run::{Run, Setup};
use common::{Check, Failures, env_number, guarded, image_hash, on_all_cores};

mod common;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

const WORKLOAD: &str = "small:0 large:0 batch:1 small:1 rotate:0 sync:1 large:1 compact small:0 large:0 \
     remove:1 small:1 batch:1 truncate:0 large:0 kill small:0 large:1 sync shutdown large:0 rotate:1 \
     batch:1 small:0 remove:0 large:0 last:1 small:1 rotate:1 forever:0 rotate:1 compact small:1";

/// Unoptimised, one case in so many is run, and fewer where keys are followed.
const DEBUG_ONE_IN: usize = 61;

/// After a fault that lasts, so many operations are tried before it is over.
const LASTS: usize = 4;

/// A failure to try: in operation `op`, at call `call` of it.
#[derive(Debug, Clone, Copy)]
struct Case {
    op: usize,
    call: usize,
    called: CallKind,
    kind: FaultKind,
    forever: bool,
    /// All calls from then on, not only those of the same kind.
    any: bool,
}

#[derive(Default)]
struct Counts {
    hit: AtomicU64,
    images: AtomicU64,
    /// To notice that nothing moves.
    progress: AtomicU64,
    done: AtomicBool,
}

/// The calls of each operation of the workload; the first opening is operation 0.
fn calls(setup: &Setup, ops: &[Op]) -> Vec<Vec<CallKind>> {
    let mut run = Run::unopened(setup);
    let mut calls = Vec::new();
    let mut known = 0;
    run.open_again().expect("checks").expect("opens");
    calls.push(run.calls_of_open.clone());
    for op in ops {
        if !op.dies() {
            known = run.sim.call_kinds().len();
        }
        run.succeed(*op).expect("no faults");
        let reopens = op.dies() || *op == Op::Shutdown;
        let kinds = if reopens { run.calls_of_open.clone() } else { run.sim.call_kinds() };
        let skip = if op.dies() { 0 } else { known };
        calls.push(kinds[skip..].to_vec());
    }
    calls
}

/// Every way in which calls of operation `from` or a later one can fail.
fn cases(setup: &Setup, ops: &[Op], from: usize) -> Vec<Case> {
    let once = [
        FaultKind::Error(EIO),
        FaultKind::Error(ENOSPC),
        FaultKind::Interrupted,
        FaultKind::Short(0),
        FaultKind::Short(1),
        FaultKind::Short(40),
        FaultKind::Short(600),
        FaultKind::ShortThenError { bytes: 1, error: ENOSPC },
        FaultKind::ShortThenError { bytes: 40, error: EIO },
        FaultKind::ShortThenError { bytes: 600, error: ENOSPC },
    ];
    let lasting = [
        FaultKind::Error(EIO),
        FaultKind::Error(ENOSPC),
        FaultKind::Error(EROFS),
        FaultKind::ShortThenError { bytes: 600, error: EIO },
    ];
    let mut cases = Vec::new();
    for (op, calls) in calls(setup, ops).into_iter().enumerate().skip(from) {
        for (call, called) in calls.into_iter().enumerate() {
            let moves = matches!(called, CallKind::Read | CallKind::Write);
            let fits = |kind: &FaultKind| {
                moves || matches!(kind, FaultKind::Error(_) | FaultKind::Interrupted)
            };
            let case = Case { op, call, called, kind: once[0], forever: false, any: true };
            cases.extend(once.into_iter().filter(fits).map(|kind| Case { kind, ..case }));
            for any in [true, false] {
                let lasting = lasting.into_iter().filter(fits);
                cases.extend(lasting.map(|kind| Case { kind, forever: true, any, ..case }));
            }
        }
    }
    cases
}

#[test]
fn every_call_fails_in_every_way() {
    one_long_workload(&Setup::plain(1));
}

#[test]
fn every_call_fails_in_every_way_under_tight_limits() {
    one_long_workload(&Setup::tight(1));
}

#[test]
fn every_call_fails_in_every_way_with_a_journal() {
    one_long_workload(&Setup::plain(1).with_journal());
}

#[test]
fn every_call_fails_in_every_way_while_keys_are_followed() {
    one_long_workload(&Setup::plain(1).followed());
}

#[test]
fn every_call_fails_in_every_way_with_a_journal_while_keys_are_followed() {
    one_long_workload(&Setup::plain(1).with_journal().followed());
}

fn one_long_workload(setup: &Setup) {
    let mut ops = Op::parse_all(WORKLOAD);
    if setup.journal_bytes > 0 {
        // Before an old life ends, and after.
        for at in [15, 8, 3] {
            ops.splice(at..at, [Op::Together(true), Op::Together(false)]);
        }
    }
    let cases = cases(setup, &ops, 0);
    let calls = calls(setup, &ops).iter().map(Vec::len).sum::<usize>() as u64;
    let workload = Workload { setup, ops: &ops, moments: Moments::BetweenOperations };
    let all = cases.iter().map(|case| (&workload, *case)).collect();
    everything(&format!("faults-{}", setup.name), calls, all);
}

#[test]
fn every_call_of_every_short_workload_fails_in_every_way() {
    short_workloads("faults-short", &Setup::plain(1));
}

#[test]
fn every_call_of_every_short_workload_fails_in_every_way_with_a_journal() {
    short_workloads("faults-short-journal", &Setup::plain(1).with_journal());
}

#[test]
fn every_call_of_every_short_workload_fails_in_every_way_under_tight_limits() {
    short_workloads("faults-short-tight", &Setup::tight(1));
}

#[test]
fn every_call_of_every_short_workload_fails_in_every_way_while_keys_are_followed() {
    short_workloads("faults-short-followed", &Setup::plain(1).followed());
}

#[test]
fn every_call_of_every_short_workload_fails_in_every_way_with_a_journal_and_followers() {
    short_workloads("faults-short-journal-followed", &Setup::plain(1).with_journal().followed());
}

/// In each sequence, the calls of the last operation fail; then there is a `Disk` append to each key, with
/// and without a shutdown before. Each sequence is tried on a new directory and on one that was closed.
fn short_workloads(run: &str, setup: &Setup) {
    let given = env_number("KEYWAL_FAULT_LEN").unwrap_or(1);
    let longest = if setup.followed { given.saturating_sub(1).max(1) } else { given };
    let mut sequences: Vec<Vec<Op>> = vec![Vec::new()];
    let mut all = Vec::new();
    for _ in 0..longest {
        let longer = sequences.iter().flat_map(|ops| {
            setup.ops().into_iter().map(move |op| ops.iter().copied().chain([op]).collect())
        });
        sequences = longer.collect();
        all.extend(sequences.iter().cloned());
    }
    let heads: [&[Op]; 2] = [&[], &[Op::Small(0), Op::Shutdown]];
    let tails: [&[Op]; 2] =
        [&[Op::Large(0), Op::Large(1)], &[Op::Shutdown, Op::Large(0), Op::Large(1)]];
    let workloads = all.iter().flat_map(|ops| {
        heads.into_iter().flat_map(move |head| {
            tails.map(|tail| (head.len() + ops.len(), [head, &ops[..], tail].concat()))
        })
    });
    let workloads: Vec<(usize, Vec<Op>)> = workloads.collect();
    let workloads: Vec<(usize, Workload<'_>)> = workloads
        .iter()
        .map(|(last, ops)| (*last, Workload { setup, ops, moments: Moments::BetweenAllChanges }))
        .collect();
    let mut calls_failed = 0;
    let mut all = Vec::new();
    for (last, workload) in &workloads {
        let of_last = cases(setup, &workload.ops[..*last], *last);
        calls_failed += of_last.iter().map(|case| case.call + 1).max().unwrap_or(0) as u64;
        all.extend(of_last.into_iter().map(|case| (workload, case)));
    }
    everything(run, calls_failed, all);
}

/// What is run once for each case, and when the power may be cut.
struct Workload<'a> {
    setup: &'a Setup,
    ops: &'a [Op],
    moments: Moments,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Moments {
    BetweenOperations,
    BetweenAllChanges,
}

fn everything(run: &str, calls: u64, mut cases: Vec<(&Workload<'_>, Case)>) {
    if let Ok(only) = std::env::var("KEYWAL_FAULT") {
        cases.retain(|(workload, case)| name(workload.ops, case).contains(&only));
    } else if cfg!(debug_assertions) {
        let followed = cases.iter().any(|(workload, _)| workload.setup.followed);
        let one_in = DEBUG_ONE_IN * if followed { 8 } else { 1 };
        cases = cases.into_iter().step_by(one_in).collect();
    }
    let (counts, failures) = (Counts::default(), Failures::default());
    let progress = Progress::new(run, "cases", cases.len() as u64);
    thread::scope(|scope| {
        scope.spawn(|| watch(&counts));
        on_all_cores(cases.len(), |at| {
            let (workload, case) = &cases[at];
            progress.step(|| format!("{} crash states", counts.images.load(Relaxed)));
            counts.progress.fetch_add(1, Relaxed);
            let Err(text) = guarded(|| play(workload, case, &counts)) else { return true };
            let name = name(workload.ops, case);
            let setup = workload.setup.name;
            failures.note(&text, &format!("{setup} setup: KEYWAL_FAULT=\"{name}\""))
        });
        counts.done.store(true, Relaxed);
    });
    let figures = [
        ("calls", calls),
        ("cases", cases.len() as u64),
        ("hit", counts.hit.load(Relaxed)),
        ("states", counts.images.load(Relaxed)),
    ];
    progress.figures(&figures, &failures);
    failures.finish();
}

fn name(ops: &[Op], case: &Case) -> String {
    let op = case.op.checked_sub(1).map_or("open".into(), |at| format!("{} {}", at, ops[at]));
    let forever = match (case.forever, case.any) {
        (false, _) => "once",
        (true, false) => "from then on",
        (true, true) => "from then on, all calls",
    };
    let ops = if ops.len() < 9 { Op::print_all(ops) + ": " } else { String::new() };
    format!("{ops}{op}, call {}, {:?} {:?} {forever}", case.call, case.called, case.kind)
}

/// A hang would otherwise be silent.
fn watch(counts: &Counts) {
    let (mut last, mut since) = (0, Instant::now());
    while !counts.done.load(Relaxed) {
        thread::sleep(Duration::from_millis(20));
        let now = counts.progress.load(Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(60) {
            eprintln!("a call hangs, near case {now}");
            std::process::abort();
        }
    }
}

fn play(workload: &Workload<'_>, case: &Case, counts: &Counts) -> Check {
    let Workload { setup, ops, moments } = *workload;
    let mut run = Run::unopened(setup);
    let mut hit = 0;
    for at in 0..=ops.len() {
        let op = at.checked_sub(1).map(|at| ops[at]);
        if at == case.op {
            arm(&mut run, case, op, ops);
        }
        let over = at > case.op + LASTS || (at > case.op && !case.forever);
        if over {
            run.sim.clear_faults();
        }
        let result = match op {
            None => run.open_again()?,
            Some(op) => run.apply(op)?,
        };
        let result_text = format!("{result:?}");
        let what = || op.map_or("open".into(), |op| op.to_string());
        if let Err(error) = result {
            let expected = at == case.op || !over || poisons(case, ops);
            ensure!(expected, "{} (operation {at}) fails long after: {error}: {error:?}", what());
            let damage = matches!(error, WalError::Corrupted { .. });
            ensure!(!damage, "{} (operation {at}): false damage: {error}: {error:?}", what());
        }
        hit += run.sim.faults_hit();
        if run.wal.is_none() {
            run.sim.clear_faults();
            let opened = run.open_again()?;
            opened.map_err(|error| format!("cannot be opened again: {error}: {error:?}"))?;
        }
        if std::env::var_os("KEYWAL_FAULT").is_some() {
            println!(
                "{}: {result_text}; from {}: {:?}",
                what(),
                run.start,
                &run.sim.trace()[run.start..]
            );
        }
        if at >= case.op {
            let wanted = format!("after {} (operation {at})", what());
            let first = match moments {
                Moments::BetweenOperations => run.sim.trace_len(),
                Moments::BetweenAllChanges => run.start + 1,
            };
            crash(&run, first, counts).map_err(|text| format!("{wanted}: {text}"))?;
        }
    }
    counts.hit.fetch_add(u64::from(hit > 0), Relaxed);
    run.sim.clear_faults();
    live(&run)?;
    kill(&run)
}

/// Lets the call go wrong that the case is about.
fn arm(run: &mut Run, case: &Case, op: Option<Op>, ops: &[Op]) {
    let lists = calls(&run.setup, &ops[..case.op]);
    let before = lists[case.op][..case.call].iter().filter(|called| **called == case.called);
    let (call, nth) =
        if case.any { (CallKind::Any, case.call) } else { (case.called, before.count()) };
    let fault = Fault {
        call,
        nth: nth as u64,
        kind: case.kind,
        forever: case.forever,
        name_contains: None,
    };
    if op.is_none_or(Op::dies) {
        run.faults = vec![fault];
    } else {
        run.sim.inject(fault);
    }
}

/// Whether the log may refuse work long after the fault: a sync failed, or a removal was cut off, or a
/// fault that lasted hit the way back from another one.
fn poisons(case: &Case, ops: &[Op]) -> bool {
    let removal = case.op.checked_sub(1).is_some_and(|at| matches!(ops[at], Op::Remove(_)));
    let two = matches!(case.kind, FaultKind::ShortThenError { .. });
    case.forever || removal || two || matches!(case.called, CallKind::SyncData | CallKind::SyncDir)
}

/// Some of the power cuts that may happen from this place in the trace on.
fn crash(run: &Run, first: usize, counts: &Counts) -> Check {
    let budget = CrashBudget { exhaustive_bits: 2, samples: 8, garbled: 1, seed: 1 };
    let end = run.sim.trace_len();
    let mut known = HashSet::new();
    let mut result = Ok(());
    for at in (first.min(end)..=end).rev() {
        let allowed: Vec<Allowed<'_>> = (0..run.keys.len())
            .map(|key| match (&run.before[key], &run.keys[key]) {
                (_, after) if at == end => after.after_power_cut(),
                (before, after) => match &run.attempted {
                    Some((of, attempted)) if *of == key => {
                        before.in_flight(attempted, before.durable)
                    }
                    _ => before.in_flight(after, before.durable),
                },
            })
            .collect();
        run.sim.crash_images(at, &budget, &mut |image, choice| {
            if result.is_ok() && known.insert(image_hash(image)) {
                counts.images.fetch_add(1, Relaxed);
                result = check_image(run, image, &allowed)
                    .map_err(|text| format!("power cut, {choice}: {text}"));
            }
        });
    }
    result
}

/// A full disk: everything that fits works, nothing that does not leaves a trace, and once there is
/// space, everything works again without reopening.
#[test]
fn a_full_disk_costs_nothing_but_what_does_not_fit() {
    let ops = Op::parse_all(WORKLOAD);
    let failures = Failures::default();
    let counts = Counts::default();
    for setup in [Setup::plain(1), Setup::tight(1)] {
        on_all_cores(200, |step| {
            let capacity = 4300 + 80 * step as u64;
            let result = guarded(|| {
                let mut run = Run::new(&setup)?;
                run.sim.set_capacity(Some(capacity));
                for op in &ops {
                    if *op == Op::Kill {
                        continue; // the limit is that of the disk, and may keep it from being opened
                    }
                    let _ = run.apply(*op)?;
                    run.sim.set_capacity(Some(u64::MAX));
                    let opened = run.open_again()?;
                    opened.map_err(|error| format!("cannot be opened again: {error}"))?;
                    run.sim.set_capacity(Some(capacity));
                }
                run.sim.set_capacity(None);
                live(&run)?;
                for key in 0..2 {
                    run.succeed(Op::Large(key))?;
                }
                crash(&run, usize::MAX, &counts)?;
                kill(&run)
            });
            let Err(text) = result else { return true };
            failures.note(&text, &format!("{} setup, capacity {capacity}", setup.name))
        });
    }
    failures.finish();
}
