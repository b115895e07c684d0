//! keywal. `append_entry(.., false)` hands the entry to the kernel; `append_entry(.., true)` waits for
//! `fdatasync`.

use bytes::Bytes;
use keywal::{EntryRef, Wal, WalOptions};

use crate::limits;
use crate::subject::{Content, Plan, Reader, Result, Subject, Survives};

pub struct Keywal {
    wal: Wal,
    keys: Vec<String>,
}

/// The defaults, and a descriptor for every key as far as the process may have them.
fn keywal_options(keys: usize) -> WalOptions {
    let journal_bytes = if keys > 1_000 { 64 << 20 } else { 4 << 20 };
    WalOptions::default()
        .max_open_files((keys + 16).min(limits::spare_descriptors()))
        .journal_bytes(journal_bytes)
}

impl Subject for Keywal {
    const NAME: &'static str = "keywal";
    const SURVIVES: Survives = Survives::Kill;
    type Place = EntryRef;

    fn open(plan: &Plan) -> Result<Self> {
        let wal = Wal::new(&plan.dir, keywal_options(plan.keys.len()))?;
        Ok(Self { wal, keys: plan.keys.clone() })
    }

    fn close(self) -> Result<()> {
        Ok(self.wal.shutdown()?)
    }

    fn append(&mut self, key: usize, content: Content) -> Result<EntryRef> {
        Ok(self.wal.append_entry(&self.keys[key], None, content, false)?)
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        let entries = contents.iter().map(|content| (None, Bytes::from_static(content)));
        self.wal.append_batch(&self.keys[key], entries, durable)?;
        Ok(())
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        self.wal.append_entry(&self.keys[key], None, content, true)?;
        Ok(())
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        let entries = self.keys.iter().map(|key| (key, None, Bytes::from_static(content)));
        self.wal.append_many(entries, true)?;
        Ok(())
    }

    fn reader(&self) -> Result<Reader<'_, EntryRef>> {
        Ok(Box::new(|place| Ok(self.wal.read_entry_at(place)?.len())))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut entries = self.wal.entries(&self.keys[key])?;
        while let Some(entry) = entries.next_slice() {
            each(entry?.content);
        }
        Ok(())
    }
}
