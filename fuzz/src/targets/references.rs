//! Bytes as a reference, in every way a reference can come from outside, to two small directories: the
//! very entry, or the error that says that there is none. Nothing is damaged, so nothing may seem so.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use keywal::fs::sim::SimDir;
use keywal::{Entry, EntryRef, Wal, WalError};

use super::Input;
use super::sample::{MAX_ENTRY_BYTES, NOW_MS, Sample, open, samples};
use crate::common::heap;

struct Log {
    wal: Wal,
    /// What there is to be read.
    entries: BTreeMap<EntryRef, Entry>,
    /// Leads, or led, to an entry.
    known: Vec<EntryRef>,
}

fn log(sample: &Sample) -> Log {
    let wal = open(&SimDir::from_image(&sample.image, 1), NOW_MS, 0).unwrap();
    let mut entries = BTreeMap::new();
    for key in wal.enumerate_keys().unwrap() {
        let found = wal.entries(key).unwrap().map(Result::unwrap);
        entries.extend(found.map(|entry| (entry.reference, entry)));
    }
    Log { wal, entries, known: sample.entries.keys().copied().collect() }
}

pub fn run(data: &[u8]) {
    static LOGS: OnceLock<[Log; 2]> = OnceLock::new();
    let [_, crashed, closed, _] = samples();
    let logs = LOGS.get_or_init(|| [log(crashed), log(closed)]);
    let mut input = Input(data);
    let log = &logs[usize::from(input.byte() % 2)];
    if let Some(reference) = reference(&mut input, &log.known) {
        heap::within(MAX_ENTRY_BYTES + (1 << 20), || check(log, reference));
    }
}

fn reference(input: &mut Input, known: &[EntryRef]) -> Option<EntryRef> {
    let way = input.byte() % 5;
    let near = known[usize::from(input.byte()) % known.len()];
    Some(match way {
        0 => EntryRef::from_bytes(input.array()),
        1 => EntryRef::from_position(near.key_hash, input.long()),
        2 => serde_json::from_slice(input.0).ok()?,
        3 => {
            EntryRef { key_hash: input.long(), sequence_number: input.long(), offset: input.long() }
        }
        _ => {
            let [hash, sequence, offset] =
                [input.byte(), input.byte(), input.byte()].map(u64::from);
            EntryRef {
                key_hash: near.key_hash.wrapping_add(hash),
                sequence_number: (near.sequence_number + sequence).saturating_sub(128),
                offset: (near.offset + offset).saturating_sub(128),
            }
        }
    })
}

fn check(log: &Log, reference: EntryRef) {
    let json = serde_json::to_string(&reference).unwrap();
    assert_eq!(serde_json::from_str::<EntryRef>(&json).unwrap(), reference);
    for reference in [reference, EntryRef::from_bytes(reference.to_bytes())] {
        let mut buffer = Vec::new();
        let slice = log.wal.read_entry_into(reference, &mut buffer);
        let content = log.wal.read_entry_at(reference);
        match (log.entries.get(&reference), log.wal.read_entry(reference)) {
            (Some(stored), Ok(read)) => {
                assert_eq!(read, *stored);
                assert_eq!(content.unwrap(), stored.content);
                let slice = slice.unwrap();
                assert_eq!(
                    (slice.header, slice.content),
                    (stored.header.as_deref(), &stored.content[..])
                );
            }
            (None, Err(WalError::InvalidRef | WalError::Expired)) => {
                assert!(content.is_err() && slice.is_err(), "{reference:?}");
            }
            (stored, read) => panic!("{reference:?} gives {read:?}, stored is {stored:?}"),
        }
    }
}
