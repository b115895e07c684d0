//! walrus-rust 0.2, with both of its backends: a topic for each key. With `NoFsync` an append is a
//! `pwrite` (fd) or a store to a mapping (mmap), which survive the process (`kill`); with `SyncEach` it
//! is behind `fsync` (fd) or `msync` of the whole file (mmap). Reads go through one cursor per topic.
//! Its directory comes from `WALRUS_DATA_DIR`, which is set for the process of each measurement.

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus as Log};
use walrus_rust::{disable_fd_backend, enable_fd_backend};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

/// More than a block, which is 10 MiB. With less, a batch that ends within the last full block goes on
/// with the block behind it, and the entries between are never read. One entry at a time (`read_next`) is
/// slower still.
const READ_BYTES: usize = 16 << 20;

pub struct Walrus<const MAPPED: bool> {
    log: Log,
    keys: Vec<String>,
}

impl<const MAPPED: bool> Subject for Walrus<MAPPED> {
    const NAME: &'static str =
        if MAPPED { "walrus-rust 0.2 (mmap)" } else { "walrus-rust 0.2 (fd)" };
    const SURVIVES: Survives = Survives::Kill;
    type Place = ();

    fn open(plan: &Plan) -> Result<Self> {
        if MAPPED {
            disable_fd_backend();
        } else {
            enable_fd_backend();
        }
        let schedule = if plan.durable { FsyncSchedule::SyncEach } else { FsyncSchedule::NoFsync };
        // Where a reader has got to is not part of the comparison.
        let reads = ReadConsistency::AtLeastOnce { persist_every: u32::MAX };
        let log = Log::with_consistency_and_schedule(reads, schedule)?;
        Ok(Self { log, keys: plan.keys.clone() })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<()> {
        Ok(self.log.append_for_topic(&self.keys[key], content)?)
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], _durable: bool) -> Result<()> {
        Ok(self.log.batch_append_for_topic(&self.keys[key], contents)?)
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        Ok(self.log.append_for_topic(&self.keys[key], content)?)
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        (0..self.keys.len()).try_for_each(|key| self.append(key, content))
    }

    fn reader(&self) -> Result<Reader<'_, ()>> {
        Err(Failure::Lacks("reads at a cursor only"))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        loop {
            let entries = self.log.batch_read_for_topic(&self.keys[key], READ_BYTES, true)?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in &entries {
                each(&entry.data);
            }
        }
    }
}
