//! A file whose sync has failed: is what was readable still readable, and does what was dropped of it stay away?

use std::sync::Arc;

use keywal::fs::sim::{CallKind, FaultKind, SimDir};
use keywal::{Result, Wal};

use common::hooked::HookedDir;
use common::logs::{SEGMENT, contents, fail, options};

mod common;

const EIO: FaultKind = FaultKind::Error(5);

/// Drops something of the key `k` just before its first file is synced, which fails, so that what the journal has of
/// the file is about to go round. Then appends until the journal has come round, and looks each time at what a kill
/// would leave: the entries with these numbers.
fn dropped_while_it_goes_round(
    entries: u8,
    drop: impl Fn(&Wal) -> Result<()> + Send + 'static,
    left: &[u8],
) {
    let sim = SimDir::new(1);
    let dir = HookedDir::new(&sim, SEGMENT);
    let options = || options().journal_bytes(32_768).max_segment_bytes(4_096);
    let wal = Arc::new(Wal::open_in(Arc::new(dir.clone()), options()).unwrap());
    for number in 0..entries {
        wal.append_entry("k", None, [number; 1_200], true).unwrap();
    }
    fail(&sim, CallKind::SyncData, 0, EIO, SEGMENT);
    let other = Arc::clone(&wal);
    dir.before_sync(move || {
        drop(&other).unwrap();
        // The journal will start for a while at one of these, behind the record of the drop.
        for number in 0..12 {
            other.append_entry(format!("between {number}"), None, "x", false).unwrap();
        }
    });
    for round in 0..500 {
        wal.append_entry("busy", None, [7; 50], false).unwrap();
        if sim.faults_hit() > 0 {
            let next = Wal::open_in(Arc::new(sim.after_kill()), options()).unwrap();
            let found: Vec<u8> = contents(&next, "k").iter().map(|content| content[0]).collect();
            assert_eq!(found, left, "after {round}");
        }
    }
    assert_eq!(sim.faults_hit(), 1);
}

/// What was promised of a segment was appended to the journal once more behind the record of its drop. When the
/// journal started between the two, recovery made the file again.
#[test]
fn a_truncated_segment_does_not_go_round_with_the_journal() {
    dropped_while_it_goes_round(4, |wal| wal.truncate_before("k", 2).map(drop), &[2, 3]);
}

/// The same of a whole key, whose files are known to nobody by the time the journal has the record.
#[test]
fn a_removed_key_does_not_go_round_with_the_journal() {
    dropped_while_it_goes_round(1, |wal| wal.remove_key("k"), &[]);
}
