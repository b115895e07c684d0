//! What does it take to go on behind a damaged end of a key's log?

mod common;

use std::sync::Arc;

use bytes::Bytes;
use keywal::fs::sim::{CallKind, CrashBudget, FaultKind, Image, SimDir};
use keywal::{EntryRef, Wal, WalError};

use common::logs::{SEGMENT, contents, fail, open, options};

const EIO: FaultKind = FaultKind::Error(5);
const SECOND: &str = "k-af63e64c8601fd8a-0002.log";

/// A log that was closed cleanly, with five durable entries, of which the last two are damaged since, with the closing mark behind them.
fn damaged() -> (Image, Vec<EntryRef>) {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    let refs = (0..5).map(|n| wal.append_entry("k", None, vec![n; 100], true).unwrap()).collect();
    wal.append_entry("other", None, "entry", true).unwrap();
    wal.shutdown().unwrap();
    let mut image = sim.image();
    let mut bytes = image.get(SEGMENT).unwrap().to_vec();
    let from = bytes.len() - 32 - 2 * 132;
    bytes[from..].fill(0xAA);
    image.set(SEGMENT, bytes);
    (image, refs)
}

fn first_three() -> Vec<Bytes> {
    (0..3).map(|n| Bytes::from(vec![n; 100])).collect()
}

#[test]
fn nothing_is_accepted_where_nothing_is_lost() {
    let sim = SimDir::new(1);
    let wal = open(&sim);
    wal.append_entry("k", None, "sound", true).unwrap();
    let files = sim.image().files().count();
    assert_eq!(wal.accept_loss("k").unwrap(), None);
    assert_eq!(wal.accept_loss("missing").unwrap(), None);
    assert_eq!(sim.image().files().count(), files);
    assert!(matches!(wal.accept_loss(vec![0; 70_000]), Err(WalError::KeyTooLong { .. })));
    wal.shutdown().unwrap();
    assert!(matches!(wal.accept_loss("k"), Err(WalError::Closed)));
}

#[test]
fn a_key_with_a_damaged_end_goes_on_behind_what_can_be_read() {
    for journal_bytes in [0, 64 << 10] {
        let (image, refs) = damaged();
        let sim = SimDir::from_image(&image, 2);
        let options = options().journal_bytes(journal_bytes);
        let wal = Wal::open_in(Arc::new(sim.clone()), options).unwrap();
        let refused = wal.append_entry("k", None, "new", true);
        assert!(matches!(refused, Err(WalError::Corrupted { .. })), "{refused:?}");

        let lost = wal.accept_loss("k").unwrap().unwrap();
        assert!(lost.path.ends_with(SEGMENT) && lost.bytes >= 2 * 132, "{lost:?}");
        assert_eq!(wal.accept_loss("k").unwrap(), None);
        assert_eq!(wal.next_index("k").unwrap(), 3);
        let new = wal.append_entry("k", None, "new", true).unwrap();
        assert_eq!(wal.read_entry(new).unwrap().index, 3);
        let mut all = first_three();
        all.push(Bytes::from("new"));
        assert_eq!(contents(&wal, "k"), all);
        wal.shutdown().unwrap();

        // Nothing was cut off or written over, and nothing comes back.
        assert_eq!(sim.image().get(SEGMENT), image.get(SEGMENT));
        let wal = open(&sim);
        assert!(wal.recovery_report().clean);
        assert_eq!(contents(&wal, "k"), all);
        assert_eq!(wal.append_entry("k", None, "more", true).map(|_| ()).ok(), Some(()));
        for lost in &refs[3..] {
            assert!(wal.read_entry_at(*lost).is_err());
        }
        assert_eq!(wal.read_entry_at(new).unwrap(), "new");
    }
}

/// Of the newest of several segments nothing can be told to be an entry: it lost its header, or another file
/// came over it.
#[test]
fn a_newest_segment_that_is_none_is_passed_over() {
    let small = || options().max_segment_bytes(4_096).max_entry_bytes(4_000);
    let open = |sim: &SimDir| Wal::open_in(Arc::new(sim.clone()), small()).unwrap();
    for headless in [true, false] {
        let sim = SimDir::new(1);
        let wal = open(&sim);
        wal.append_entry("k", None, [1; 3_000], true).unwrap();
        let lost = wal.append_entry("k", None, [2; 3_000], true).unwrap();
        wal.shutdown().unwrap();
        let mut image = sim.image();
        let name = if headless { SECOND } else { SEGMENT };
        let mut bytes = image.get(name).unwrap().to_vec();
        bytes[..if headless { 1_024 } else { 0 }].fill(0xAA);
        image.set(SECOND, bytes);

        let sim = SimDir::from_image(&image, 2);
        let wal = open(&sim);
        assert!(matches!(wal.append_entry("k", None, "no", true), Err(WalError::Corrupted { .. })));
        let given_up = wal.accept_loss("k").unwrap().unwrap();
        assert!(given_up.path.ends_with(SECOND), "{given_up:?}");
        // It survives power loss: nobody is asked again.
        let after = open(&SimDir::from_image(&sim.durable_image(), 3));
        after.append_entry("k", None, "after", true).unwrap();
        drop(after);
        let new = wal.append_entry("k", None, "new", true).unwrap();
        assert_eq!(new.sequence_number, 3);
        wal.shutdown().unwrap();
        let wal = open(&sim);
        assert_eq!(contents(&wal, "k"), [Bytes::from(vec![1; 3_000]), Bytes::from("new")]);
        assert!(wal.read_entry_at(lost).is_err());
        assert_eq!(sim.image().get(SECOND), image.get(SECOND));
    }
}

#[test]
fn power_cuts_meanwhile_cost_nothing_that_can_be_read() {
    let (image, refs) = damaged();
    let sim = SimDir::from_image(&image, 2);
    let wal = open(&sim);
    let start = sim.trace_len();
    wal.accept_loss("k").unwrap();
    let accepted = sim.trace_len();
    wal.append_entry("k", None, "new", true).unwrap();
    let appended = sim.trace_len();
    assert!(start < accepted && accepted < appended);
    let mut states = 0;
    for at in start..=appended {
        sim.crash_images(at, &CrashBudget::default(), &mut |image, choice| {
            states += 1;
            let sim = SimDir::from_image(image, 3);
            let wal = open(&sim);
            let what = format!("cut before {at}, {choice:?}");
            let mut found: Vec<_> = wal.entries("k").unwrap().filter_map(Result::ok).collect();
            if at == appended {
                assert_eq!(found.pop().unwrap().content, "new", "{what}");
            }
            found.truncate(3);
            let found: Vec<_> = found.into_iter().map(|entry| entry.content).collect();
            assert_eq!(found, first_three(), "{what}");
            assert_eq!(contents(&wal, "other"), ["entry"], "{what}");
            // Whatever the cut left: the key can be used, if need be once more with consent.
            wal.accept_loss("k").unwrap();
            wal.append_entry("k", None, "later", true).unwrap();
            for lost in &refs[3..] {
                assert!(wal.read_entry_at(*lost).is_err(), "{what}");
            }
        });
    }
    assert!(states > 10, "{states}");
}

#[test]
fn a_failed_call_leaves_the_end_as_it_was_or_the_key_in_doubt() {
    for call in [CallKind::Open, CallKind::Write, CallKind::SyncData, CallKind::SyncDir] {
        for nth in 0..4 {
            let (image, _) = damaged();
            let sim = SimDir::from_image(&image, 2);
            let wal = open(&sim);
            fail(&sim, call, nth, EIO, "");
            let accepted = wal.accept_loss("k");
            sim.clear_faults();
            let appended = wal.append_entry("k", None, "new", true);
            match accepted {
                Ok(lost) => assert!(lost.is_some() && appended.is_ok(), "{call:?} {nth}"),
                Err(_) => assert!(
                    matches!(appended, Err(WalError::Corrupted { .. } | WalError::Poisoned { .. })),
                    "{call:?} {nth}: {appended:?}"
                ),
            }
            drop(wal);
            let wal = open(&sim);
            wal.accept_loss("k").unwrap();
            wal.append_entry("k", None, "later", true).unwrap();
            let found = contents(&wal, "k");
            assert_eq!(found[..3], first_three(), "{call:?} {nth}");
            assert_eq!(found.last().unwrap(), "later", "{call:?} {nth}");
        }
    }
}
