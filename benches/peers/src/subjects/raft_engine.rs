//! raft-engine 0.4: a raft group for each key, all in one log. `write(.., false)` is one `pwrite` for all
//! who write at the moment (`kill`), `write(.., true)` has an `fdatasync` behind it. An index of all
//! entries is in memory, the entries are not. Compression is off, as in its example.

use protobuf::descriptor::UninterpretedOption;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

/// How many entries a scan asks for at a time.
const SCANNED: u64 = 1000;

pub struct RaftEngine {
    engine: Engine,
    /// Of the next entry of each group.
    indexes: Vec<u64>,
}

struct Entries;

/// A message that comes with the protobuf crate and has what an entry needs: a number and bytes.
impl MessageExt for Entries {
    type Entry = UninterpretedOption;

    fn index(entry: &UninterpretedOption) -> u64 {
        entry.get_positive_int_value()
    }
}

fn group(key: usize) -> u64 {
    key as u64 + 1
}

impl RaftEngine {
    fn add(&mut self, batch: &mut LogBatch, key: usize, contents: &[Content]) -> Result<u64> {
        let first = self.indexes[key];
        let entry = |(index, content): (u64, &Content)| {
            let mut entry = UninterpretedOption::new();
            entry.set_positive_int_value(index);
            entry.set_string_value(content.to_vec());
            entry
        };
        let entries: Vec<_> = (first..).zip(contents).map(entry).collect();
        batch.add_entries::<Entries>(group(key), &entries)?;
        self.indexes[key] += contents.len() as u64;
        Ok(first)
    }
}

impl Subject for RaftEngine {
    const NAME: &'static str = "raft-engine 0.4";
    const SURVIVES: Survives = Survives::Kill;
    type Place = (usize, u64);

    fn open(plan: &Plan) -> Result<Self> {
        let engine = Engine::open(Config {
            dir: plan.dir.to_string_lossy().into_owned(),
            batch_compression_threshold: ReadableSize(0),
            ..Config::default()
        })?;
        Ok(Self { engine, indexes: vec![1; plan.keys.len()] })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        let mut batch = LogBatch::default();
        let index = self.add(&mut batch, key, &[content])?;
        self.engine.write(&mut batch, false)?;
        Ok((key, index))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        let mut batch = LogBatch::with_capacity(contents.len());
        self.add(&mut batch, key, contents)?;
        self.engine.write(&mut batch, durable)?;
        Ok(())
    }

    /// Entries of a group have to arrive in the order of their indexes, which would keep threads from
    /// sharing a sync; a pair of key and value need not. No pair overwrites what another was for.
    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        let mut batch = LogBatch::default();
        batch.put(group(key), b"entry".to_vec(), content.to_vec())?;
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        let mut batch = LogBatch::with_capacity(self.indexes.len());
        for key in 0..self.indexes.len() {
            self.add(&mut batch, key, &[content])?;
        }
        self.engine.write(&mut batch, true)?;
        Ok(())
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        Ok(Box::new(|(key, index)| {
            let entry = self.engine.get_entry::<Entries>(group(key), index)?;
            let entry = entry.ok_or_else(|| Failure::Failed("no entry there".into()))?;
            Ok(entry.get_string_value().len())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (mut entries, mut at, end) = (Vec::new(), 1, self.indexes[key]);
        while at < end {
            let to = end.min(at + SCANNED);
            self.engine.fetch_entries_to::<Entries>(group(key), at, to, None, &mut entries)?;
            entries.drain(..).for_each(|entry| each(entry.get_string_value()));
            at = to;
        }
        Ok(())
    }
}
