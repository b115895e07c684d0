//! Is what was appended together recovered together, though others come in the middle of it?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, FaultKind, SimDir};
use keywal::{Wal, WalOptions};

use common::hooked::HookedDir;
use common::logs::{contents, fail};

mod common;

const EIO: FaultKind = FaultKind::Error(5);

fn options() -> WalOptions {
    WalOptions::default().journal_bytes(65_536)
}

fn both(text: &'static str) -> [(&'static str, Option<Bytes>, Bytes); 2] {
    ["a", "b"].map(|key| (key, None, Bytes::from(text)))
}

/// Somebody reads `a`, so that what the journal has of it goes to its file, for which the journal has to be durable.
/// When it is, and before anything is written, another thread appends to both keys.
fn appended_while_another_one_becomes_durable() -> (SimDir, Arc<Wal>) {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, "JOURNAL");
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options()).unwrap());
    wal.append_many(both("0"), true).unwrap();
    wal.append_many(both("1"), false).unwrap();
    let (other, first) = (Arc::downgrade(&wal), AtomicBool::new(true));
    dir.after_each_sync(move || {
        if first.swap(false, Ordering::Relaxed) {
            let wal = other.upgrade().unwrap();
            let append = move || wal.append_many(both("2"), false).map(drop);
            thread::spawn(append).join().unwrap().unwrap();
        }
    });
    assert_eq!(contents(&wal, "a"), ["0", "1"]);
    (sim, wal)
}

/// What it has of both keys, which has to be the same.
fn check(image: SimDir) -> Vec<Bytes> {
    let after = Wal::open_in(Arc::new(image), options()).unwrap();
    let found = ["a", "b"].map(|key| contents(&after, key));
    assert_eq!(found[0], found[1]);
    let [found, _] = found;
    found
}

#[test]
fn a_power_cut_leaves_no_half_of_what_came_meanwhile() {
    let (sim, _wal) = appended_while_another_one_becomes_durable();
    let budget = CrashBudget { exhaustive_bits: 14, samples: 500, ..CrashBudget::default() };
    sim.crash_images(sim.trace_len(), &budget, &mut |image, _| {
        assert!(check(SimDir::from_image(image, 2)).starts_with(&["0".into(), "1".into()]));
    });
}

#[test]
fn a_failed_sync_leaves_no_half_of_what_came_meanwhile() {
    let (sim, wal) = appended_while_another_one_becomes_durable();
    fail(&sim, CallKind::SyncData, 0, EIO, "JOURNAL");
    wal.append_many(both("3"), true).unwrap_err();
    assert_eq!(sim.faults_hit(), 1);
    drop(wal);
    assert!(check(sim.after_kill()).starts_with(&["0".into(), "1".into()]));
}
