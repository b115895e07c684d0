//! Small logs on a simulated disk, for tests of one thing each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, Fault, FaultKind, SimDir};
use keywal::{ManualClock, Result, Wal, WalOptions};

pub const NOW: u64 = 1_700_000_000_000;
/// Two keys with one FNV-1a hash.
pub const TWINS: [&str; 2] = ["8yn0iYCKYHlIj4-BwPqk", "GReLUrM4wMqfg9yzV3KQ"];
/// The first segment of the key `k`.
pub const SEGMENT: &str = "k-af63e64c8601fd8a-0001.log";

pub fn options() -> WalOptions {
    WalOptions::with_retention(Duration::from_secs(100))
        .clock(Arc::new(ManualClock::new(NOW)))
        .journal_bytes(0)
}

pub fn open(sim: &SimDir) -> Wal {
    Wal::open_in(Arc::new(sim.clone()), options()).unwrap()
}

/// With room for one entry of 3,000 bytes in a segment.
pub fn open_small(sim: &SimDir) -> Wal {
    let options = options().max_segment_bytes(4_096).max_entry_bytes(4_000);
    Wal::open_in(Arc::new(sim.clone()), options).unwrap()
}

/// Fails one call, after `nth` that go well.
pub fn fail(sim: &SimDir, call: CallKind, nth: u64, kind: FaultKind, name: &str) {
    sim.inject(Fault { call, nth, kind, forever: false, name_contains: Some(name.to_owned()) });
}

pub fn contents(wal: &Wal, key: &str) -> Vec<Bytes> {
    wal.enumerate_records(key).unwrap().collect::<Result<_>>().unwrap()
}
