//! Snapshots onto earlier ones, of a log that loses nothing: are they never refused, and always what the log is?
//!
//! `KEYWAL_CASES`: so many random lives, 300 unless given; `KEYWAL_SEED`: the first one's seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, Fault, FaultKind, SimDir};
use keywal::{KeyOptions, ManualClock, Retention, Wal, WalOptions};

use common::logs::{NOW, TWINS};
use common::{Random, env_number};

mod common;

type All = BTreeMap<Vec<u8>, Vec<(u64, Bytes)>>;

fn all(wal: &Wal) -> All {
    let keys = wal.enumerate_keys().unwrap();
    assert_eq!(keys.unreadable(), 0);
    keys.map(|key| {
        let entries = wal.entries(&key).unwrap().map(|e| e.map(|e| (e.index, e.content)));
        let entries = entries.collect::<Result<_, _>>().unwrap();
        (key.to_vec(), entries)
    })
    .collect()
}

/// One of these, by chance.
fn one<T: Copy>(random: &mut Random, of: &[T]) -> T {
    of[usize::try_from(random.next()).unwrap() % of.len()]
}

fn run(seed: u64) {
    let mut random = Random(seed);
    let clock = Arc::new(ManualClock::new(NOW));
    let options = WalOptions::with_retention(Duration::from_secs(100))
        .clock(clock.clone())
        .journal_bytes(one(&mut random, &[0, 4096, 16 << 10, 64 << 10]))
        .max_segment_bytes(4_096)
        .max_open_files(one(&mut random, &[1, 2, 3, 4]))
        .preallocate_bytes(one(&mut random, &[0, 0, 700]));
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    let mut sim = SimDir::new(seed);
    let mut wal = open(&sim);
    let mut steps = Vec::new();
    for _ in 0..60 {
        let key = one(&mut random, &["a", "b", TWINS[0], TWINS[1]]);
        let step = random.next() % 24;
        steps.push((step, &key[..1]));
        let copy = sim.folder("copy");
        match step {
            0..=7 => {
                let bytes = usize::try_from(random.next() % 2_500).unwrap();
                wal.append_entry(key, None, vec![7; bytes], true).unwrap();
            }
            8 => {
                wal.append_entry(key, None, vec![8; 3_200], true).unwrap();
            }
            9 => wal.remove_key(key).unwrap(),
            10 => {
                let next = wal.next_index(key).unwrap();
                wal.truncate_before(key, next.saturating_sub(random.next() % 3)).unwrap();
            }
            11 => {
                clock.advance(Duration::from_secs(random.next() % 120));
                wal.compact().unwrap();
            }
            12 => {
                wal.set_retention(key, one(&mut random, &[None, Some(Retention::keep_last(2))]))
                    .unwrap();
            }
            13 => {
                wal.create_key(key, KeyOptions::default().metadata("m")).unwrap();
            }
            14 => {
                wal.shutdown().unwrap();
                wal = open(&sim);
            }
            15 => {
                sim = sim.after_kill();
                wal = open(&sim);
            }
            16 => {
                sim = SimDir::from_image(&sim.durable_image(), random.next());
                wal = open(&sim);
            }
            17 => {
                sim.inject(Fault {
                    call: CallKind::Any,
                    nth: random.next() % 60,
                    kind: FaultKind::Error(28),
                    forever: true,
                    name_contains: Some("copy".to_owned()),
                });
                let _cut_off = wal.snapshot_in(&copy);
                sim.clear_faults();
            }
            18 => clock.advance(Duration::from_secs(12)),
            19 => wal.sync().unwrap(),
            _ => {
                let report = wal.snapshot_in(&copy);
                let report =
                    report.unwrap_or_else(|e| panic!("{seed}: refused: {e} after {steps:?}"));
                assert_eq!(report.damaged, [], "{seed}: {steps:?}");
                let apart = SimDir::from_image(&sim.durable_image(), 2).folder("copy");
                let copied = Wal::open_in(Arc::new(apart), options.clone()).unwrap();
                let found = copied.recovery_report();
                assert!(
                    found.damaged.is_empty() && found.torn.is_empty(),
                    "{seed}: {found:?} {steps:?}"
                );
                assert_eq!(all(&copied), all(&wal), "{seed}: {steps:?}");
            }
        }
    }
}

#[test]
fn a_log_that_loses_nothing_is_never_refused() {
    let from = env_number("KEYWAL_SEED").unwrap_or(1);
    for seed in from..from + env_number("KEYWAL_CASES").unwrap_or(300) {
        run(seed);
    }
}
