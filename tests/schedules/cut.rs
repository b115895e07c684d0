//! A snapshot under shuttle: whichever thread goes on, it holds what was acknowledged before it was begun,
//! and with an entry everything that was acknowledged before that one was begun.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keywal::fs::sim::SimDir;
use keywal::{ManualClock, Wal, WalOptions};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use crate::common::{COLLIDING, Check, EPOCH_MS, Failures, env_number, guarded, mix, on_all_cores};
use crate::ensure;

/// Old ones, and others that are created while the cut is taken.
const KEYS: [&[u8]; 5] = [b"k", COLLIDING[0], COLLIDING[1], b"new", b"newer"];
const WRITERS: usize = 2;
const ROUNDS: usize = 3;
const CHUNK: usize = 500;

/// An entry, and when its append was begun and acknowledged.
struct Appended {
    content: Vec<u8>,
    begin: u64,
    end: u64,
}

fn run(journal_bytes: u64) -> Check {
    let sim = SimDir::new(1);
    let clock = Arc::new(ManualClock::new(EPOCH_MS));
    let options = WalOptions::with_retention(Duration::from_secs(10))
        .max_segment_bytes(4096)
        .journal_bytes(journal_bytes)
        .clock(clock.clone());
    let wal = Wal::open_in(Arc::new(sim.clone()), options.clone()).unwrap();
    let ticks = AtomicU64::new(0);
    let log: Mutex<Vec<Appended>> = Mutex::default();
    let append = |key: usize, content: Vec<u8>| {
        let begin = ticks.fetch_add(1, SeqCst);
        wal.append_entry(KEYS[key], None, &content, false).unwrap();
        let end = ticks.fetch_add(1, SeqCst);
        log.lock().unwrap().push(Appended { content, begin, end });
    };
    append(0, vec![200; 1500]);
    append(1, vec![201; 1500]);
    let copies = [SimDir::new(2), SimDir::new(3)];
    let begun = thread::scope(|scope| {
        for writer in 0..WRITERS {
            let append = &append;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let key = (writer * 2 + round * 3) % KEYS.len();
                    append(key, [writer, round].map(|n| n.to_le_bytes()[0]).repeat(750));
                }
            });
        }
        scope.spawn(|| {
            // Neither is owed to the snapshot, and neither may tear a hole in it.
            clock.advance(Duration::from_secs(1));
            wal.compact().unwrap();
        });
        let snapshots = scope.spawn(|| {
            [0, 1].map(|at: usize| {
                let begun = ticks.fetch_add(1, SeqCst);
                wal.snapshot_in(&copies[at]).unwrap();
                begun
            })
        });
        snapshots.join().unwrap()
    });
    let log = log.into_inner().unwrap();
    for (copy, begun) in copies.iter().zip(begun) {
        let copy = Wal::open_in(Arc::new(copy.clone()), options.clone()).unwrap();
        let report = copy.recovery_report();
        ensure!(report.clean && report.damaged.is_empty(), "{report:?}");
        let mut held = HashSet::new();
        for key in KEYS {
            let mut next = 0;
            for entry in copy.entries(key).unwrap() {
                let entry = entry.map_err(|error| format!("{error}"))?;
                ensure!(entry.index == next, "a hole before {}", entry.index);
                next += 1;
                held.insert(entry.content.to_vec());
            }
        }
        let is_in = |entry: &&Appended| held.contains(&entry.content);
        for later in log.iter().filter(is_in) {
            let missing = log.iter().find(|entry| entry.end < later.begin && !is_in(entry));
            ensure!(missing.is_none(), "an entry is in, and not one that was there before it");
        }
        let missing = log.iter().find(|entry| entry.end < begun && !is_in(entry));
        ensure!(missing.is_none(), "an entry from before the snapshot is missing");
    }
    Ok(())
}

fn explore(scheduler: impl Scheduler + 'static, journal_bytes: u64) -> Check {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    config.silence_warnings = true;
    let schedule = move || run(journal_bytes).unwrap_or_else(|text| panic!("broken: {text}"));
    guarded(|| {
        Runner::new(scheduler, config).run(schedule);
        Ok(())
    })
}

#[test]
fn schedules_of_a_snapshot() {
    let wanted = env_number("KEYWAL_SCHEDULES").unwrap_or(5_000);
    let chunks = usize::try_from(wanted).unwrap().div_ceil(CHUNK);
    let failures = Failures::default();
    on_all_cores(chunks, |chunk| {
        let seed = mix(env_number("KEYWAL_SEED").unwrap_or(1).wrapping_add(mix(chunk as u64)));
        let journal_bytes = [0, 4096][chunk / 2 % 2];
        let explored = if chunk % 2 == 0 {
            explore(RandomScheduler::new_from_seed(seed, CHUNK), journal_bytes)
        } else {
            explore(PctScheduler::new_from_seed(seed, 2 + chunk / 2 % 4, CHUNK), journal_bytes)
        };
        explored.map_or_else(|text| failures.note(&text, "see the schedule above"), |()| true)
    });
    failures.finish();
}
