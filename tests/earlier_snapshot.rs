//! What an earlier snapshot has and the log has lost stays in the snapshot. Found by a hostile reviewer.

use std::sync::Arc;

use keywal::fs::sim::{CallKind, CrashBudget, FaultKind, SimDir};
use keywal::{Wal, WalError, WalOptions};

use common::hooked::{DIRECTORY, HookedDir};
use common::logs::{SEGMENT, contents, fail, options};

mod common;

const SECOND: &str = "k-af63e64c8601fd8a-0002.log";

fn small() -> WalOptions {
    options().max_segment_bytes(4_096)
}

fn open(sim: &SimDir) -> Wal {
    Wal::open_in(Arc::new(sim.clone()), small()).unwrap()
}

/// What a copy holds of `k`, opened on a disk of its own.
fn held(copy: &SimDir) -> Vec<String> {
    let wal = open(&SimDir::from_image(&copy.image(), 77));
    let entries = wal.entries("k").unwrap();
    entries
        .map(|entry| {
            entry.map_or_else(
                |error| error.to_string(),
                |entry| format!("{}:{}", entry.index, entry.content.len()),
            )
        })
        .collect()
}

/// A log whose second segment went with a power cut, and an earlier snapshot that has it.
fn after_a_power_cut(journal: u64) -> (Wal, SimDir, Vec<String>) {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let options = || small().journal_bytes(journal);
    let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    wal.append_entry("k", None, [2; 3_000], false).unwrap();
    wal.snapshot_in(&copy).unwrap();
    let before = held(&copy);
    assert_eq!(before, ["0:3000", "1:3000"]);
    let sim = SimDir::from_image(&sim.durable_image(), 3);
    (Wal::open_in(Arc::new(sim), options()).unwrap(), copy, before)
}

/// A snapshot onto an earlier one may be refused, but what the earlier one has and the log has lost has to stay.
fn nothing_goes_from_the_copy(wal: &Wal, copy: &SimDir, before: &[String]) {
    let result = wal.snapshot_in(copy);
    assert!(
        matches!(result, Err(WalError::Corrupted { .. })),
        "{result:?}\n before: {before:?}\n after: {:?}",
        held(copy)
    );
    assert_eq!(held(copy), before);
}

/// The newest segment has the length it had when it was copied, so nobody looks whether it is sound; but its end is
/// compared, differs, and what is damaged takes the place of what is not.
#[test]
fn an_earlier_snapshot_keeps_the_last_entry_that_is_damaged_in_the_log() {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 100], true).unwrap();
    wal.append_entry("k", None, [2; 100], true).unwrap();
    wal.shutdown().unwrap();
    let wal = open(&sim);
    wal.snapshot_in(&copy).unwrap();
    wal.shutdown().unwrap();
    let before = held(&copy);
    assert_eq!(before, ["0:100", "1:100"]);
    let mut image = sim.image();
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    // Right before the closing mark.
    let at = bytes.len() - 33;
    bytes[at] ^= 1;
    image.set(SEGMENT, bytes);
    let wal = open(&SimDir::from_image(&image, 3));
    nothing_goes_from_the_copy(&wal, &copy, &before);
}

/// All of the newest segment of the copy is lost in the log: it is taken for one that was dropped.
#[test]
fn an_earlier_snapshot_keeps_the_segment_that_a_power_cut_took() {
    for journal in [0, 65_536] {
        let (wal, copy, before) = after_a_power_cut(journal);
        assert_eq!(contents(&wal, "k").len(), 1, "{journal}");
        wal.append_entry("k", None, "new", true).unwrap();
        nothing_goes_from_the_copy(&wal, &copy, &before);
    }
}

/// Its name is left, and nothing else: it is taken for a creation that was cut off.
#[test]
fn an_earlier_snapshot_keeps_the_segment_of_which_a_power_cut_left_the_name() {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    wal.append_entry("k", None, [2; 3_000], false).unwrap();
    wal.snapshot_in(&copy).unwrap();
    let before = held(&copy);
    assert_eq!(before, ["0:3000", "1:3000"]);
    let mut image = sim.durable_image();
    image.set(SECOND, Vec::new());
    let sim = SimDir::from_image(&image, 3);
    for entries in 1..4 {
        let wal = open(&sim);
        assert_eq!(contents(&wal, "k").len(), entries);
        wal.append_entry("k", None, [3; 3_000], true).unwrap();
        nothing_goes_from_the_copy(&wal, &copy, &before);
        wal.shutdown().unwrap();
    }
}

/// The header of the newest segment is damaged, that was accepted, and the log closed: the good file goes from the
/// copy.
#[test]
fn an_earlier_snapshot_keeps_the_segment_whose_loss_was_accepted() {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    wal.append_entry("k", None, [2; 3_000], true).unwrap();
    wal.snapshot_in(&copy).unwrap();
    wal.shutdown().unwrap();
    let before = held(&copy);
    let mut image = sim.image();
    let mut bytes = image.get(SECOND).unwrap().to_vec();
    bytes[..1_024].fill(0);
    image.set(SECOND, bytes);
    let sim = SimDir::from_image(&image, 3);
    let wal = open(&sim);
    assert!(wal.accept_loss("k").unwrap().is_some());
    wal.append_entry("k", None, "new", true).unwrap();
    wal.shutdown().unwrap();
    let wal = open(&sim);
    nothing_goes_from_the_copy(&wal, &copy, &before);
}

/// A log that was restored from an older snapshot, and a newer one that has more.
#[test]
fn a_newer_snapshot_keeps_what_a_restored_log_has_not() {
    let (sim, older, newer) = (SimDir::new(1), SimDir::new(2), SimDir::new(3));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    wal.snapshot_in(&older).unwrap();
    wal.append_entry("k", None, [2; 3_000], true).unwrap();
    wal.snapshot_in(&newer).unwrap();
    let before = held(&newer);
    assert_eq!(before, ["0:3000", "1:3000"]);
    let wal = open(&older);
    nothing_goes_from_the_copy(&wal, &newer, &before);
}

/// The lost entry's frame is as long as the seal that came to stand there.
#[test]
fn an_earlier_snapshot_keeps_an_empty_entry_that_a_power_cut_took() {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 100], true).unwrap();
    wal.append_entry("k", None, "", false).unwrap();
    wal.snapshot_in(&copy).unwrap();
    let before = held(&copy);
    assert_eq!(before, ["0:100", "1:0"]);
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    assert_eq!(contents(&wal, "k").len(), 1);
    wal.append_entry("k", None, "new", true).unwrap();
    nothing_goes_from_the_copy(&wal, &copy, &before);
}

/// The log has decayed where nobody has looked, in the middle of a segment that is kept as long as it seems the same.
fn decayed(sim: &SimDir, at: usize) -> Wal {
    let mut image = sim.image();
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    bytes[at] ^= 1;
    image.set(SEGMENT, bytes);
    open(&SimDir::from_image(&image, 3))
}

/// A snapshot that is cut off compares everything afterwards, and would replace what is not the same.
#[test]
fn an_earlier_snapshot_that_was_cut_off_keeps_the_only_good_bytes() {
    for decayed_before in [false, true] {
        let (sim, copy) = (SimDir::new(1), SimDir::new(2));
        let mut wal = open(&sim);
        wal.append_entry("k", None, [1; 3_000], true).unwrap();
        wal.append_entry("k", None, [2; 3_000], true).unwrap();
        wal.snapshot_in(&copy).unwrap();
        let good = copy.image().get(SEGMENT).unwrap().to_vec();
        if decayed_before {
            wal.shutdown().unwrap();
            wal = decayed(&sim, 1_500);
        }
        wal.append_entry("k", None, [3; 3_000], true).unwrap();
        fail(&copy, CallKind::Create, 0, FaultKind::Error(28), "k-");
        assert!(matches!(wal.snapshot_in(&copy), Err(WalError::StorageFull { .. })));
        if !decayed_before {
            wal.shutdown().unwrap();
            wal = decayed(&sim, 1_500);
        }
        let second = wal.snapshot_in(&copy);
        assert!(matches!(second, Err(WalError::Corrupted { .. })), "{second:?}");
        assert_eq!(copy.image().get(SEGMENT).unwrap(), &good[..]);
    }
}

/// What is looked at is what is copied, whatever is appended meanwhile.
#[test]
fn an_append_during_a_snapshot_does_not_cost_the_earlier_one_the_only_good_bytes() {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 1_000], true).unwrap();
    wal.append_entry("k", None, [2; 1_000], true).unwrap();
    wal.shutdown().unwrap();
    let wal = open(&sim);
    wal.snapshot_in(&copy).unwrap();
    wal.shutdown().unwrap();
    let wal = Arc::new(decayed(&sim, 900));
    let (hooked, appender) = (HookedDir::new(&copy, DIRECTORY), Arc::clone(&wal));
    hooked.before_sync(move || {
        appender.append_entry("k", None, [3; 100], true).unwrap();
    });
    let _refused_or_not = wal.snapshot_in(&hooked);
    assert_eq!(held(&copy)[..2], ["0:1000", "1:1000"]);
}

/// A power cut took the second segment. That it was never part of what the log has now is forgotten with the first.
#[test]
fn an_earlier_snapshot_keeps_what_a_power_cut_took_after_a_truncation() {
    for journal in [0, 65_536] {
        let (wal, copy, before) = after_a_power_cut(journal);
        wal.append_entry("k", None, [3; 3_000], true).unwrap();
        nothing_goes_from_the_copy(&wal, &copy, &before);
        assert_eq!(wal.truncate_before("k", 1).unwrap().dropped_segments, 1);
        nothing_goes_from_the_copy(&wal, &copy, &before);
    }
}

/// The segment was sealed before it was synced, so that the seal proved nothing. The log took the damage for a torn write,
/// and the copy's file, the same but for the damage, would have stayed behind an end that comes before its entries.
#[test]
fn an_earlier_snapshot_keeps_what_the_log_takes_for_a_torn_write() {
    for journal in [0, 65_536] {
        let (sim, copy) = (SimDir::new(1), SimDir::new(2));
        let options = || small().journal_bytes(journal);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        wal.append_entry("k", None, [1; 1_000], false).unwrap();
        wal.append_entry("k", None, [2; 2_000], false).unwrap();
        wal.append_entry("k", None, [3; 3_000], false).unwrap();
        let mut image = sim.durable_image();
        let wal = Wal::open_in(Arc::new(SimDir::from_image(&image, 3)), options()).unwrap();
        assert_eq!(contents(&wal, "k").len(), 2);
        wal.snapshot_in(&copy).unwrap();
        let before = held(&copy);
        assert_eq!(before, ["0:1000", "1:2000"]);
        let mut bytes = copy.image().get(SEGMENT).unwrap().to_vec();
        bytes[900] ^= 1;
        image.set(SEGMENT, bytes);
        image.remove("JOURNAL");
        let sim = SimDir::from_image(&image, 3);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        assert!(contents(&wal, "k").is_empty(), "{:?}", wal.recovery_report());
        wal.shutdown().unwrap();
        let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
        nothing_goes_from_the_copy(&wal, &copy, &before);
    }
}

/// A power cut took a segment whose first entry had been refused: nothing is lost, nothing is missed.
#[test]
fn a_lost_segment_without_entries_is_no_reason_to_refuse() {
    let (sim, copy) = (SimDir::new(1), SimDir::new(2));
    let wal = open(&sim);
    wal.append_entry("k", None, [1; 3_000], true).unwrap();
    fail(&sim, CallKind::Write, 1, FaultKind::Error(28), "-0002");
    wal.append_entry("k", None, [2; 3_000], true).unwrap_err();
    assert_eq!(sim.faults_hit(), 1);
    wal.snapshot_in(&copy).unwrap();
    assert_eq!(held(&copy), ["0:3000"]);
    let wal = open(&SimDir::from_image(&sim.durable_image(), 3));
    wal.append_entry("k", None, [3; 10], true).unwrap();
    wal.snapshot_in(&copy).unwrap();
    assert_eq!(held(&copy), ["0:3000", "1:10"]);
}

/// A seal stands where the copy has the lost entry, whose frame was passed over as too short to reach behind it.
#[test]
fn an_earlier_snapshot_keeps_the_short_entry_whose_segment_is_dropped_since() {
    for journal in [0, 65_536] {
        let (sim, copy) = (SimDir::new(1), SimDir::new(2));
        let options = || small().journal_bytes(journal);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        wal.append_entry("k", None, "0", true).unwrap();
        wal.append_entry("k", None, "only in the snapshot", false).unwrap();
        wal.snapshot_in(&copy).unwrap();
        let before = held(&copy);
        assert_eq!(before, ["0:1", "1:20"]);
        let sim = SimDir::from_image(&sim.durable_image(), 3);
        let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
        wal.append_entry("k", None, "another", true).unwrap();
        wal.truncate_before("k", 1).unwrap();
        nothing_goes_from_the_copy(&wal, &copy, &before);
    }
}

/// A file that a snapshot shares may have a whole frame in a torn tail, which the snapshot does not count either.
#[test]
fn a_torn_tail_that_no_snapshot_had_is_no_reason_to_refuse() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "0", true).unwrap();
    wal.append_entry("k", None, [7; 900], false).unwrap();
    wal.append_entry("k", None, "x", false).unwrap();
    sim.crash_images(sim.trace_len(), &CrashBudget::default(), &mut |image, choice| {
        let sim = SimDir::from_image(image, 3);
        let wal = open(&sim);
        let kept = wal.len("k").unwrap();
        wal.append_entry("k", None, "new", true).unwrap();
        let copy = sim.folder("copy");
        wal.snapshot_in(&copy).unwrap();
        wal.truncate_before("k", kept).unwrap();
        let again = wal.snapshot_in(&copy);
        assert!(again.is_ok(), "{choice}: {again:?}");
    });
}
