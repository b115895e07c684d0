//! Bytes as operations on a log, at most one call that fails, and a power cut, checked against the model
//! of the crash tests: the same as they do, longer, and guided by coverage.

use keywal::fs::sim::{CallKind, CrashChoice, Fault, FaultKind};

use super::Input;
use crate::common::Check;
use crate::common::ops::Op;
use crate::common::oracle::{Allowed, KeyModel};
use crate::common::recovered::{check_image, kill, live};
use crate::common::run::{Run, Setup};

const MAX_OPERATIONS: usize = 32;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let setups = [
        Setup::plain(1),
        Setup::tight(1),
        Setup::plain(1).with_journal(),
        Setup::tight(1).with_journal(),
    ];
    let setup = &setups[usize::from(input.byte()) % setups.len()];
    let failing = input.byte() % 2 == 1;
    let mut run = Run::new(setup).unwrap();
    let mut done = Vec::new();
    let checked = if failing {
        one_call_fails(&mut run, &mut input, &mut done)
    } else {
        power_cut(&mut run, &mut input, &mut done)
    };
    if let Err(text) = checked {
        panic!("{} setup, {}: {text}", setup.name, Op::print_all(&done));
    }
}

/// What a power cut may leave in the middle of the last operation, or behind it.
fn power_cut(run: &mut Run, input: &mut Input, done: &mut Vec<Op>) -> Check {
    let (place, choice) = (input.short(), input.short());
    while let Some(op) = operation(input, done) {
        run.succeed(op)?;
    }
    let end = run.sim.trace_len();
    let at = end - usize::from(place) % (end - run.start).max(1);
    let allowed: Vec<Allowed<'_>> = (run.before.iter().zip(&run.keys))
        .map(|(before, after)| {
            if at == end {
                after.after_power_cut()
            } else {
                before.in_flight(after, before.durable)
            }
        })
        .collect();
    let choice = if choice % 2 == 0 {
        CrashChoice::Sample { at, sample: u64::from(choice / 2), seed: 1 }
    } else {
        CrashChoice::Mask { at, mask: u64::from(choice / 2) }
    };
    let image = run.sim.crash_image(at, &choice);
    check_image(run, &image, &allowed).map_err(|text| format!("{choice}: {text}"))
}

/// A call fails, once or for a while; afterwards the log does as it should again.
fn one_call_fails(run: &mut Run, input: &mut Input, done: &mut Vec<Op>) -> Check {
    let fault = fault(input);
    let (first, lasts) = (usize::from(input.byte() % 8), usize::from(input.byte() % 4));
    let sample = u64::from(input.byte());
    while let Some(op) = operation(input, done) {
        let number = done.len() - 1;
        match op {
            // If opening fails then, the model does not know that the power was cut.
            Op::Cut(_) if number == first => {}
            Op::Kill if number == first => run.faults = vec![fault.clone()],
            _ if number == first => run.sim.inject(fault.clone()),
            _ if number > first + lasts => run.sim.clear_faults(),
            _ => {}
        }
        // Which errors a fault may cause, and for how long, is for the tests of faults to say.
        let _ = run.apply(op)?;
        if run.wal.is_none() {
            run.sim.clear_faults();
            run.open_again()?.map_err(|error| format!("opening again: {error}: {error:?}"))?;
        }
    }
    run.sim.clear_faults();
    let at = run.sim.trace_len();
    let image = run.sim.crash_image(at, &CrashChoice::Sample { at, sample, seed: 1 });
    let allowed: Vec<Allowed<'_>> = run.keys.iter().map(KeyModel::after_power_cut).collect();
    check_image(run, &image, &allowed).map_err(|text| format!("{fault:?}, power cut: {text}"))?;
    live(run).and_then(|()| kill(run)).map_err(|text| format!("{fault:?}: {text}"))
}

fn operation(input: &mut Input, done: &mut Vec<Op>) -> Option<Op> {
    if input.is_empty() || done.len() == MAX_OPERATIONS {
        return None;
    }
    let byte = input.byte();
    let key = usize::from(byte >> 7);
    let op = match byte % 12 {
        0 => Op::Small(key),
        1 => Op::Large(key),
        2 => Op::Batch(key),
        3 => Op::Rotate(key),
        4 => Op::Truncate(key),
        5 => Op::Remove(key),
        6 => Op::SyncKey(key),
        7 => Op::Sync,
        8 => Op::Compact,
        9 => Op::Shutdown,
        10 => Op::Kill,
        _ => Op::Cut(input.byte().into()),
    };
    done.push(op);
    Some(op)
}

fn fault(input: &mut Input) -> Fault {
    let calls = [CallKind::Any, CallKind::Write, CallKind::SyncData, CallKind::SyncDir];
    let error = input.pick(&[5, 28, 30]);
    let bytes = usize::from(input.byte()) * 4;
    let kind = match input.byte() % 4 {
        0 => FaultKind::Error(error),
        1 => FaultKind::Interrupted,
        2 => FaultKind::Short(bytes),
        _ => FaultKind::ShortThenError { bytes, error },
    };
    // What is interrupted is tried again, for ever if need be.
    let forever = input.byte() % 4 == 0 && kind != FaultKind::Interrupted;
    let nth = u64::from(input.byte() % 32);
    Fault { call: input.pick(&calls), nth, kind, forever, name_contains: None }
}
