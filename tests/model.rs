//! Does the log behave like a map of vectors?
//!
//! Random operations on random options, against a model that holds everything in memory. No faults and
//! no power cuts here: so everything is exact, and not even the death of the process loses an entry.
//!
//! * `KEYWAL_CASES`: number of cases, 300 if not given.
//! * `KEYWAL_OPS`: length of the one long case, 2,000 if not given.
//! * `KEYWAL_SEED`: runs only the case with this seed, as a failure prints it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use common::progress::Progress;
use common::{Failures, Random, env_number, guarded, mix, on_all_cores};
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
    let limits = (0u8..4, 0u8..3, 0u8..4, 0u8..4, 0u8..3, 0u8..4).prop_map(Limits::from);
    let raw = (0u8..100, 0u8..5, any::<u16>(), any::<u16>()).prop_map(Raw::from);
    (limits, prop::collection::vec(raw, 1..=MAX_OPS))
}

#[test]
fn a_log_is_a_map_of_vectors() {
    let (counts, failures) = (Counts::default(), Failures::default());
    let only = env_number("KEYWAL_SEED");
    let cases = only.map_or(env_number("KEYWAL_CASES").unwrap_or(300), |_| 1);
    let progress = Progress::new("model", "cases", cases);
    on_all_cores(usize::try_from(cases).unwrap_or(usize::MAX), |at| {
        progress.step(|| format!("{} operations", counts.ops.load(Relaxed)));
        one_case(only.unwrap_or_else(|| mix(at as u64 + 1)), &counts, &failures)
    });
    progress.figures(&counts.figures(), &failures);
    failures.finish();
}

/// So many operations, then a clean shutdown and a new boot, so that the simulation forgets the past.
const OPS_BETWEEN_BOOTS: u64 = 2_000;

#[test]
fn a_long_life() {
    let (counts, failures) = (Counts::default(), Failures::default());
    let seed = env_number("KEYWAL_SEED").unwrap_or(1);
    let ops = env_number("KEYWAL_OPS").unwrap_or(2_000);
    let progress = Progress::new("model-long", "operations", ops);
    let limits: Vec<Limits> =
        (0..4).map(|n| Limits::from((n, n % 3, (n + 1) % 4, n, n % 3, n))).collect();
    on_all_cores(limits.len(), |at| {
        let mut random = Random(mix(seed) ^ at as u64);
        let mut world = World::new(limits[at]).expect("opens");
        let result = guarded(|| {
            for op in 0..ops / 4 {
                progress.step(|| "");
                let [kind, key, a, a2, b, b2, ..] = random.next().to_le_bytes();
                let numbers = (u16::from_le_bytes([a, a2]), u16::from_le_bytes([b, b2]));
                let raw = Raw::from((kind % 100, key % 5, numbers.0, numbers.1));
                let result = world.apply(raw.decode());
                result.map_err(|text| format!("{text} (operation {op}, {:?})", raw.decode()))?;
                if op % OPS_BETWEEN_BOOTS == OPS_BETWEEN_BOOTS - 1 {
                    world.check_all()?;
                    world.reboot()?;
                }
            }
            world.check_all()
        });
        counts.add(&world, ops / 4);
        let Err(text) = result else { return true };
        failures.note(&text, &format!("KEYWAL_SEED={seed} KEYWAL_OPS={ops}, {:?}", limits[at]))
    });
    progress.figures(&counts.figures(), &failures);
    failures.finish();
}

impl Counts {
    fn add(&self, world: &World, ops: u64) {
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Relaxed);
        add(&self.cases, 1);
        add(&self.ops, ops);
        add(&self.appended, world.appended);
        add(&self.reopened, world.reopened);
        add(&self.dropped, world.dropped);
        add(&self.refs_read, world.refs_read);
    }

    fn figures(&self) -> [(&'static str, u64); 6] {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        [
            ("cases", get(&self.cases)),
            ("operations", get(&self.ops)),
            ("appended", get(&self.appended)),
            ("dropped", get(&self.dropped)),
            ("refs_read", get(&self.refs_read)),
            ("reopened", get(&self.reopened)),
        ]
    }
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
        counts.add(&world, raws.len() as u64);
    }
    result
}
