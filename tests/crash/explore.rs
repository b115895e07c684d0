//! The crashes of the last operation of a run, each of them checked once.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use keywal::fs::sim::{CrashBudget, Image, Op as TraceOp, SimDir};

use crate::common::ops::Op;
use crate::common::oracle::Allowed;
use crate::common::recovered::{Next, check, open};
use crate::common::run::{Run, Setup};
use crate::common::{Check, Failures, guarded, image_hash, mix};

/// One in so many crash states is followed by crashes during its recovery, and one in so many of those
/// by crashes during the recovery from that.
const NESTED_ONE_IN: u64 = 64;
/// Crashes within crashes.
const MAX_DEPTH: u32 = 2;

/// How to go about it.
#[derive(Clone)]
pub struct Plan {
    pub setup: Setup,
    pub budget: CrashBudget,
    /// A failure's `AT`, to see only that one.
    pub only: Option<String>,
    /// Of so many states, one is recovered twice, and another one once more after appends.
    pub thorough_one_in: u64,
}

/// What was done.
#[derive(Default)]
pub struct Counts {
    pub workloads: AtomicU64,
    /// Moments of a power cut.
    pub points: AtomicU64,
    /// Crash states: subsets of what may have reached the disk, and samples.
    pub states: AtomicU64,
    /// Of these, how many were recovered and checked. The others were like one of them in every byte,
    /// and in what is demanded.
    pub checked: AtomicU64,
    /// Of `checked`, those in which recovery was cut off by another crash.
    pub nested: AtomicU64,
    pub kills: AtomicU64,
}

/// Explores operations; shared by all threads.
pub struct Explorer {
    pub plan: Plan,
    pub counts: Counts,
    pub failures: Failures,
    known: Known,
}

impl Explorer {
    pub fn new(plan: Plan) -> Self {
        let (counts, failures) = (Counts::default(), Failures::default());
        Self { plan, counts, failures, known: Known::default() }
    }

    /// All crashes during the last operation of `run`, which did `ops`, and just after it. `false`:
    /// there are enough failures.
    pub fn crashes(&self, run: &Run, ops: &[Op]) -> bool {
        self.counts.workloads.fetch_add(1, Relaxed);
        let mut go_on = true;
        self.power_cuts(run, &mut |text, at| go_on &= self.note(text, ops, at));
        self.kills(run, ops, &mut |text, at| go_on &= self.note(text, ops, at));
        go_on
    }

    /// Notes a failure with all that is needed to see it again. `false`: there are enough.
    pub fn note(&self, what: &str, ops: &[Op], at: &str) -> bool {
        let (name, seed) = (self.plan.setup.name, self.plan.budget.seed);
        let ops = Op::print_all(ops);
        let repro = format!(
            "KEYWAL_SEED={seed} KEYWAL_CRASH_SETUP={name} KEYWAL_CRASH_OPS=\"{ops}\" \
             KEYWAL_CRASH_AT=\"{at}\" cargo test --release --test crash one_workload -- --nocapture"
        );
        self.failures.note(what, &repro)
    }

    fn power_cuts(&self, run: &Run, fail: &mut dyn FnMut(&str, &str)) {
        let end = run.sim.trace_len();
        let trace = run.sim.trace();
        // What holds after the operation is more than is demanded during it.
        let mut known = HashSet::new();
        for at in (run.start + 1..=end).rev() {
            // Whatever the disk may hold before an operation that makes nothing durable, it may hold
            // after it too.
            let durable = |op: &TraceOp| {
                matches!(op, TraceOp::SyncFile { .. } | TraceOp::SyncDir | TraceOp::LoseFile { .. })
            };
            let all_visited =
                |at| run.sim.crash_units(at) <= self.plan.budget.exhaustive_bits as usize;
            if at < end && !durable(&trace[at]) && all_visited(at + 1) && self.plan.only.is_none() {
                continue;
            }
            self.counts.points.fetch_add(1, Relaxed);
            let allowed: Vec<Allowed<'_>> = (0..run.keys.len())
                .map(|key| match (&run.before[key], &run.keys[key]) {
                    (_, after) if at == end => after.after_power_cut(),
                    (before, after) => before.in_flight(after, before.durable),
                })
                .collect();
            let demands = Allowed::fingerprint(&allowed) ^ mix(run.clock_ms());
            let states = run.sim.crash_images(at, &self.plan.budget, &mut |image, choice| {
                let other = |only: &String| !only.starts_with(&choice.to_string());
                if self.plan.only.as_ref().is_some_and(other) {
                    return;
                }
                let hash = image_hash(image);
                if !known.insert(hash) || !self.known.insert(hash ^ demands) {
                    return;
                }
                self.counts.checked.fetch_add(1, Relaxed);
                let nested = self.plan.only.is_some()
                    || mix(hash ^ self.plan.budget.seed) % NESTED_ONE_IN == 0;
                let checked = guarded(|| {
                    self.check_image(run, image, hash, &allowed)?;
                    if nested { self.nested(run, image, &allowed, 1) } else { Ok(()) }
                });
                if let Err(text) = checked {
                    fail(&text, &choice.to_string());
                }
            });
            self.counts.states.fetch_add(states, Relaxed);
        }
    }

    /// Crashes during the recovery of `image`.
    fn nested(&self, run: &Run, image: &Image, allowed: &[Allowed<'_>], depth: u32) -> Check {
        let sim = SimDir::from_image(image, 7);
        drop(open(run, &sim)?);
        let seed = self.plan.budget.seed;
        let budget = CrashBudget { exhaustive_bits: 5, samples: 16, garbled: 2, seed };
        let mut known = HashSet::from([image_hash(image)]);
        let mut result = Ok(());
        for at in 1..=sim.trace_len() {
            let states = sim.crash_images(at, &budget, &mut |image, choice| {
                let hash = image_hash(image);
                if result.is_err() || !known.insert(hash) {
                    return;
                }
                self.counts.nested.fetch_add(1, Relaxed);
                self.counts.checked.fetch_add(1, Relaxed);
                let deeper = depth < MAX_DEPTH && mix(hash ^ seed) % NESTED_ONE_IN == 0;
                result = self
                    .check_image(run, image, hash, allowed)
                    .and_then(|()| {
                        if deeper { self.nested(run, image, allowed, depth + 1) } else { Ok(()) }
                    })
                    .map_err(|text| format!("crash during recovery, {choice}: {text}"));
            });
            self.counts.states.fetch_add(states, Relaxed);
        }
        result
    }

    /// Recovers what a power cut left, and checks everything that was promised.
    fn check_image(&self, run: &Run, image: &Image, hash: u64, allowed: &[Allowed<'_>]) -> Check {
        check(run, &SimDir::from_image(image, 7), allowed, self.next(hash))
    }

    fn next(&self, hash: u64) -> Next {
        match mix(hash ^ 1) % self.plan.thorough_one_in {
            _ if self.plan.only.is_some() => Next::Both,
            0 => Next::Again,
            1 => Next::LifeGoesOn,
            _ => Next::Nothing,
        }
    }

    /// The process dies before or after each change of the last operation: nothing that had returned is
    /// lost.
    fn kills(&self, run: &Run, ops: &[Op], fail: &mut dyn FnMut(&str, &str)) {
        let end = run.sim.trace_len();
        for at in run.start + 1..=end {
            let name = format!("kill={at}");
            if self.plan.only.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            self.counts.kills.fetch_add(1, Relaxed);
            let allowed: Vec<Allowed<'_>> = (0..run.keys.len())
                .map(|key| match (&run.before[key], &run.keys[key]) {
                    (_, after) if at == end => after.after_kill(),
                    // The power was cut before.
                    (before, after) if matches!(ops.last(), Some(Op::Cut(_))) => {
                        before.in_flight(after, before.durable)
                    }
                    (before, after) => before.in_flight(after, before.count()),
                })
                .collect();
            let checked = guarded(|| {
                let sim = run.sim.killed_before(at);
                check(run, &sim, &allowed, self.next(image_hash(&sim.image())))
            });
            if let Err(text) = checked {
                fail(&format!("killed before a change: {text}"), &name);
            }
        }
    }
}

/// Hashes of what has been checked.
struct Known {
    shards: Vec<Mutex<HashSet<u64, BuildHasherDefault<Hashed>>>>,
}

impl Default for Known {
    fn default() -> Self {
        Self { shards: (0..64).map(|_| Mutex::default()).collect() }
    }
}

impl Known {
    /// `false` if it has been there before.
    fn insert(&self, hash: u64) -> bool {
        let shard = &self.shards[(hash >> 58) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(hash)
    }
}

/// What is hashed is a hash.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("numbers only")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
