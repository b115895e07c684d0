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
/// How long the header of a record of the journal is.
pub const RECORD: usize = 64;

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

/// Where the records of the journal are: position, place in the file, length. By their signature.
pub fn records(sim: &SimDir) -> Vec<(u64, usize, usize)> {
    let image = sim.image();
    let journal = image.get("JOURNAL").unwrap();
    let mut found = Vec::new();
    for at in (0..journal.len() - RECORD).step_by(8) {
        if journal[at..].starts_with(b"KWJR") {
            let position = u64::from_le_bytes(journal[at + 8..at + 16].try_into().unwrap());
            let body = u32::from_le_bytes(journal[at + 36..at + 40].try_into().unwrap());
            found.push((position, at, (RECORD + body as usize).next_multiple_of(8)));
        }
    }
    found.sort_unstable();
    found
}
