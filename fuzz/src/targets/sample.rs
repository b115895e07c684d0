//! A small directory with everything in it that a directory can have, as a crash and as a shutdown
//! leave it, and as a crash leaves it if there is a journal.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use keywal::fs::sim::{Image, SimDir};
use keywal::{Entry, EntryRef, ManualClock, Wal, WalOptions};

use crate::common::{COLLIDING, EPOCH_MS, content, header};

pub const MAX_ENTRY_BYTES: usize = 64 << 10;
/// So little that the journal comes round in the sample.
pub const JOURNAL_BYTES: u64 = 4096;
/// Entries are kept for ten windows of ten seconds.
pub const RETENTION: Duration = Duration::from_secs(100);
/// When the samples were left.
pub const NOW_MS: u64 = EPOCH_MS + 50_000;
pub const KEYS: [&[u8]; 6] = [b"k", b"", b"truncated", b"removed", COLLIDING[0], COLLIDING[1]];

pub struct Sample {
    pub image: Image,
    /// Every entry there ever was.
    pub entries: BTreeMap<EntryRef, Entry>,
}

/// The empty directory, that left by a crash, that left by a shutdown, and that with a journal.
pub fn samples() -> &'static [Sample; 4] {
    static SAMPLES: OnceLock<[Sample; 4]> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let empty = Sample { image: Image::default(), entries: BTreeMap::new() };
        [empty, sample(false, 0), sample(true, 0), sample(false, JOURNAL_BYTES)]
    })
}

pub fn open(sim: &SimDir, now_ms: u64, journal_bytes: u64) -> keywal::Result<Wal> {
    let options = WalOptions::with_retention(RETENTION)
        .max_entry_bytes(MAX_ENTRY_BYTES as u64)
        .journal_bytes(journal_bytes)
        .clock(Arc::new(ManualClock::new(now_ms)));
    Wal::open_in(Arc::new(sim.clone()), options)
}

fn sample(shutdown: bool, journal_bytes: u64) -> Sample {
    let mut sim = SimDir::new(1);
    let mut entries = BTreeMap::new();
    for round in 0..3 {
        // Each life begins with a kill, and with a new window.
        sim = sim.after_kill();
        let wal = open(&sim, EPOCH_MS + 20_000 * round, journal_bytes).unwrap();
        for (key, name) in (0..).zip(KEYS) {
            let one = |n: u64, bytes| {
                let serial = 100 * round + 10 * key + n;
                (header(serial), content(serial, bytes))
            };
            let (header, content) = one(0, 20);
            let mut references = vec![wal.append_entry(name, header, content, false).unwrap()];
            let batch: [(Option<Bytes>, Bytes); 3] = [one(1, 0), one(2, 60), one(3, 5)];
            references.extend(wal.append_batch(name, batch, true).unwrap());
            entries.extend(references.iter().map(|at| (*at, wal.read_entry(*at).unwrap())));
        }
        if round == 1 {
            wal.truncate_before("truncated", 4).unwrap();
            wal.remove_key("removed").unwrap();
            wal.remove_key(COLLIDING[0]).unwrap();
        }
        if shutdown && round == 2 {
            wal.shutdown().unwrap();
        }
    }
    Sample { image: sim.image(), entries }
}
