//! Bytes as a directory full of hostile files: every call on it returns, holds no more memory than it
//! should, and says the same when it is asked again. Where the files were damaged but not forged, what
//! is read is what was written.

use std::hash::{DefaultHasher, Hash, Hasher};

use keywal::fs::sim::SimDir;
use keywal::{Entry, EntryRef, Wal, WalError};

use super::Input;
use super::sample::{JOURNAL_BYTES, KEYS, MAX_ENTRY_BYTES, NOW_MS, Sample, open, samples};
use super::tamper::tamper;
use crate::common::heap;

/// What the disk has room for beside the files that were put there.
const FREE_BYTES: usize = 64 << 10;
/// So many small entries are kept to be read again later.
const MAX_KEPT: usize = 64;
const MAX_KEPT_BYTES: usize = 1 << 10;

pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let choices = usize::from(input.byte());
    let sample = &samples()[choices % 4];
    let journals = [0, JOURNAL_BYTES, 2 * JOURNAL_BYTES];
    let (journal_bytes, later_journal_bytes) =
        (journals[choices / 4 % 3], journals[choices / 12 % 3]);
    let later_ms = u64::from(input.byte()) * 1_000;
    let mut image = sample.image.clone();
    let forged = tamper(&mut image, input);
    let written = if forged { None } else { Some(sample) };
    let file_bytes: usize = image.files().map(|(_, file)| file.len()).sum();
    let first = || {
        let sim = SimDir::from_image(&image, 1);
        // A record of a journal may belong anywhere in a file, and the simulated disk has no holes.
        sim.set_capacity(Some((file_bytes + FREE_BYTES) as u64));
        let wal = open(&sim, NOW_MS, journal_bytes)?;
        Ok::<_, WalError>((sim, wal))
    };
    // The simulated disk keeps twice what is written to; a reference is no larger than a frame.
    let opened = heap::within(MAX_ENTRY_BYTES + (1 << 20) + 4 * (file_bytes + FREE_BYTES), || {
        let (sim, wal) = first()?;
        let seen = read(&wal, written);
        assert_eq!(seen, read(&wal, written), "read twice");
        Ok((sim, wal, seen))
    });
    let (sim, wal, seen) = match opened {
        Ok(opened) => opened,
        Err(error) => return refused_again(&error, first().err()),
    };
    drop(wal);
    let Ok(wal) = open(&sim, NOW_MS + later_ms, later_journal_bytes) else { return };
    let kept = use_on(&wal, &seen.kept);
    let _ = wal.shutdown();
    drop(wal);
    sim.set_capacity(None);
    let wal = open(&sim, NOW_MS + later_ms, journal_bytes).expect("what was open can be opened");
    let seen = read(&wal, None);
    assert_eq!(seen, read(&wal, None), "read twice after a shutdown");
    if !forged {
        unchanged(&wal, &kept);
    }
    let _ = wal.destroy();
}

fn refused_again(refused: &WalError, again: Option<WalError>) {
    assert_eq!(Some(refused.to_string()), again.map(|error| error.to_string()));
}

/// What a directory says.
#[derive(Debug, PartialEq, Eq, Default)]
struct Seen {
    /// Of everything, errors and all.
    digest: u64,
    kept: Vec<Entry>,
}

/// Reads everything in every way, and keeps next to nothing.
fn read(wal: &Wal, written: Option<&Sample>) -> Seen {
    let mut seen = Seen::default();
    let mut digest = DefaultHasher::new();
    let mut keys: Vec<_> = wal.enumerate_keys().into_iter().flatten().collect();
    keys.sort();
    for key in keys.iter().map(AsRef::as_ref).chain(KEYS) {
        let mut forwards = Vec::new();
        for entry in wal.entries(key).into_iter().flatten() {
            format!("{entry:?}").hash(&mut digest);
            let Ok(entry) = entry else { continue };
            let again = wal.read_entry(entry.reference).expect("an entry that was just read");
            assert_eq!(again, entry);
            if let Some(sample) = written {
                assert_eq!(sample.entries.get(&entry.reference), Some(&entry), "invented");
                assert_eq!(wal.get(key, entry.index).unwrap().as_ref(), Some(&entry));
            }
            forwards.push(entry.reference);
            if seen.kept.len() < MAX_KEPT && again.content.len() < MAX_KEPT_BYTES {
                seen.kept.push(again);
            }
        }
        let mut backwards: Vec<EntryRef> = Vec::new();
        for entry in wal.entries(key).into_iter().flatten().rev() {
            format!("{entry:?}").hash(&mut digest);
            backwards.extend(entry.ok().map(|entry| entry.reference));
        }
        backwards.reverse();
        assert!(written.is_none() || forwards == backwards, "{forwards:?} {backwards:?}");
        let times =
            wal.entries(key).and_then(|all| all.time_range(NOW_MS - 45_000..NOW_MS - 5_000));
        let between = times.map(|times| times.last_n(9).flatten().count());
        format!("{between:?} {:?} {:?}", wal.key_stats(key), wal.len(key)).hash(&mut digest);
    }
    if let Some(sample) = written {
        unchanged(wal, sample.entries.values());
    }
    seen.digest = digest.finish();
    seen
}

/// Appends to every key, then drops what can be dropped; returns what has to be readable as it was, or
/// not at all.
fn use_on(wal: &Wal, kept: &[Entry]) -> Vec<Entry> {
    let mut kept = kept.to_vec();
    for key in KEYS {
        if let Ok(reference) = wal.append_entry(key, None, "appended", true) {
            let entry = wal.read_entry(reference).expect("an entry that was just appended");
            assert_eq!(entry.content, "appended");
            kept.push(entry);
        }
    }
    let _ = wal.compact();
    let _ = wal.truncate_before(KEYS[0], 3);
    let _ = wal.remove_key(KEYS[1]);
    unchanged(wal, &kept);
    kept
}

/// Reads them as they were, or not at all.
fn unchanged<'a>(wal: &Wal, kept: impl IntoIterator<Item = &'a Entry>) {
    for entry in kept {
        match wal.read_entry(entry.reference) {
            Ok(read) => assert_eq!(read, *entry),
            Err(WalError::Io { source, .. }) => panic!("{source}"),
            Err(_) => {}
        }
    }
}
