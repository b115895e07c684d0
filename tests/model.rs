//! Does the log behave like a map of vectors?
//!
//! Random operations on random options, against a model that holds everything in memory. No faults and
//! no power cuts here: so everything is exact, and not even the death of the process loses an entry.
//!
//! * `KEYWAL_CASES`: number of cases, 300 if not given. 100,000 take about a minute with
//!   `KEYWAL_CASES=100000 cargo test --release --test model`.
//! * `KEYWAL_SEED`: runs only the case with this seed, as a failure prints it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use common::{Failures, env_number, guarded, mix, on_all_cores};
use world::{Limits, Raw, World};

mod common;
#[path = "model/world.rs"]
mod world;

const MAX_OPS: usize = 60;

#[derive(Default)]
struct Counts {
    cases: AtomicU64,
    ops: AtomicU64,
    appended: AtomicU64,
    reopened: AtomicU64,
    dropped: AtomicU64,
    refs_read: AtomicU64,
}

fn cases() -> impl Strategy<Value = (Limits, Vec<Raw>)> {
    let limits = (0u8..4, 0u8..3, 0u8..4, 0u8..4, 0u8..3).prop_map(Limits::from);
    let raw = (0u8..100, 0u8..5, any::<u16>(), any::<u16>()).prop_map(Raw::from);
    (limits, prop::collection::vec(raw, 1..=MAX_OPS))
}

#[test]
fn a_log_is_a_map_of_vectors() {
    let started = Instant::now();
    let (counts, failures) = (Counts::default(), Failures::default());
    if let Some(seed) = env_number("KEYWAL_SEED") {
        one_case(seed, &counts, &failures);
    } else {
        let cases = usize::try_from(env_number("KEYWAL_CASES").unwrap_or(300)).unwrap_or(300);
        on_all_cores(cases, |at| one_case(mix(at as u64 + 1), &counts, &failures));
    }
    let get = |counter: &AtomicU64| counter.load(Relaxed);
    println!(
        "model: {} cases, {} operations, {} entries appended, {} dropped, {} references read, {} \
         times reopened, {:.1} s, {} failures",
        get(&counts.cases),
        get(&counts.ops),
        get(&counts.appended),
        get(&counts.dropped),
        get(&counts.refs_read),
        get(&counts.reopened),
        started.elapsed().as_secs_f64(),
        failures.count(),
    );
    failures.finish();
}

/// Runs, and shrinks if it fails, the case with this seed. `false`: enough failures.
fn one_case(seed: u64, counts: &Counts, failures: &Failures) -> bool {
    let mut bytes = [0; 32];
    for (at, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&mix(seed ^ mix(at as u64)).to_le_bytes());
    }
    let config = Config { failure_persistence: None, max_shrink_iters: 4096, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let mut tree = cases().new_tree(&mut runner).expect("nothing is filtered");
    let Err(first) = play(&tree.current(), counts) else { return true };
    let mut smallest = (tree.current(), first);
    let mut steps = 0;
    let mut more = tree.simplify();
    while more && steps < 4096 {
        steps += 1;
        let case = tree.current();
        more = match play(&case, counts) {
            Err(text) => {
                smallest = (case, text);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    let ((limits, raws), text) = smallest;
    let ops: Vec<String> = raws.iter().map(|raw| format!("{:?}", raw.decode())).collect();
    let repro = format!(
        "SEED={seed:#x} {limits:?} OPS={}\n    KEYWAL_SEED={seed:#x} cargo test --test model",
        ops.join(", ")
    );
    failures.note(&text, &repro)
}

fn play((limits, raws): &(Limits, Vec<Raw>), counts: &Counts) -> Result<(), String> {
    let mut world = None;
    let result = guarded(|| {
        let world = world.insert(World::new(*limits)?);
        for (at, raw) in raws.iter().enumerate() {
            let op = raw.decode();
            world.apply(op).map_err(|text| format!("{text} (operation {at}, {op:?})"))?;
        }
        world.check_all().map_err(|text| format!("{text} (at the end)"))
    });
    if let Some(world) = world {
        let add = |counter: &AtomicU64, n: u64| {
            counter.fetch_add(n, Relaxed);
        };
        add(&counts.cases, 1);
        add(&counts.ops, raws.len() as u64);
        add(&counts.appended, world.appended);
        add(&counts.reopened, world.reopened);
        add(&counts.dropped, world.dropped);
        add(&counts.refs_read, world.refs_read);
    }
    result
}
