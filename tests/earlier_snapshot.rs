//! What an earlier snapshot has and the log has lost stays in the snapshot. Found by a hostile reviewer.

use std::sync::Arc;

use keywal::fs::sim::SimDir;
use keywal::{Wal, WalError, WalOptions};

use common::logs::{SEGMENT, contents, options};

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
        let (sim, copy) = (SimDir::new(1), SimDir::new(2));
        let options = || small().journal_bytes(journal);
        let wal = Wal::open_in(Arc::new(sim.clone()), options()).unwrap();
        wal.append_entry("k", None, [1; 3_000], true).unwrap();
        wal.append_entry("k", None, [2; 3_000], false).unwrap();
        wal.snapshot_in(&copy).unwrap();
        let before = held(&copy);
        assert_eq!(before, ["0:3000", "1:3000"]);
        let sim = SimDir::from_image(&sim.durable_image(), 3);
        let wal = Wal::open_in(Arc::new(sim), options()).unwrap();
        assert_eq!(contents(&wal, "k").len(), 1, "{journal}");
        wal.append_entry("k", None, "new", true).unwrap();
        nothing_goes_from_the_copy(&wal, &copy, &before);
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
