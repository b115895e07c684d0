//! What the oracle asks of a log, whoever it is that reads it.

use keywal::{Entries, Entry, EntryRef, Keys, Result, Retention, Wal, WalReader};

/// A log that shows what it holds.
pub trait Shown {
    fn enumerate_keys(&self) -> Result<Keys>;
    fn entries(&self, key: &[u8]) -> Result<Entries<'_>>;
    fn get(&self, key: &[u8], index: u64) -> Result<Option<Entry>>;
    fn first_index(&self, key: &[u8]) -> Result<u64>;
    fn next_index(&self, key: &[u8]) -> Result<u64>;
    fn retention(&self, key: &[u8]) -> Result<Option<Retention>>;
    fn read_entry(&self, reference: EntryRef) -> Result<Entry>;
    fn read_entry_at(&self, reference: EntryRef) -> Result<bytes::Bytes>;
}

macro_rules! shown_by {
    ($log:ty) => {
        impl Shown for $log {
            fn enumerate_keys(&self) -> Result<Keys> {
                self.enumerate_keys()
            }

            fn entries(&self, key: &[u8]) -> Result<Entries<'_>> {
                self.entries(key)
            }

            fn get(&self, key: &[u8], index: u64) -> Result<Option<Entry>> {
                self.get(key, index)
            }

            fn first_index(&self, key: &[u8]) -> Result<u64> {
                self.first_index(key)
            }

            fn next_index(&self, key: &[u8]) -> Result<u64> {
                self.next_index(key)
            }

            fn retention(&self, key: &[u8]) -> Result<Option<Retention>> {
                self.retention(key)
            }

            fn read_entry(&self, reference: EntryRef) -> Result<Entry> {
                self.read_entry(reference)
            }

            fn read_entry_at(&self, reference: EntryRef) -> Result<bytes::Bytes> {
                self.read_entry_at(reference)
            }
        }
    };
}

shown_by!(Wal);
shown_by!(WalReader);
