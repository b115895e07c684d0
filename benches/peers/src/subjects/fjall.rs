//! fjall 3, a store of sorted keys and values: one keyspace, whose keys are a key and an index behind it.
//! An insert is in the kernel (`kill`, its default); `persist(SyncData)`, or a batch with that, is an
//! `fdatasync`. At the sizes measured here its reads come from memory.

use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

pub struct Fjall {
    database: Database,
    entries: Keyspace,
    keys: Vec<(String, AtomicU64)>,
}

impl Fjall {
    fn next(&self, key: usize) -> (u64, Vec<u8>) {
        let index = self.keys[key].1.fetch_add(1, Ordering::Relaxed);
        (index, self.name(key, index))
    }

    fn name(&self, key: usize, index: u64) -> Vec<u8> {
        let mut name = Vec::with_capacity(32);
        name.extend_from_slice(self.keys[key].0.as_bytes());
        name.extend_from_slice(&index.to_be_bytes());
        name
    }

    fn commit(
        &self,
        entries: impl Iterator<Item = (usize, Content)>,
        mode: PersistMode,
    ) -> Result<()> {
        let mut batch = self.database.batch().durability(Some(mode));
        for (key, content) in entries {
            batch.insert(&self.entries, self.next(key).1, content);
        }
        Ok(batch.commit()?)
    }
}

impl Subject for Fjall {
    const NAME: &'static str = "fjall 3";
    const SURVIVES: Survives = Survives::Kill;
    const READS_FROM_MEMORY: bool = true;
    type Place = (usize, u64);

    fn open(plan: &Plan) -> Result<Self> {
        let database = Database::builder(&plan.dir).open()?;
        let entries = database.keyspace("entries", KeyspaceCreateOptions::default)?;
        let keys = plan.keys.iter().map(|key| (key.clone(), AtomicU64::new(0))).collect();
        Ok(Self { database, entries, keys })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        let (index, name) = self.next(key);
        self.entries.insert(name, content)?;
        Ok((key, index))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        let mode = if durable { PersistMode::SyncData } else { PersistMode::Buffer };
        self.commit(contents.iter().map(|content| (key, *content)), mode)
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        self.entries.insert(self.next(key).1, content)?;
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        self.commit((0..self.keys.len()).map(|key| (key, content)), PersistMode::SyncData)
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        Ok(Box::new(|(key, index)| {
            let found = self.entries.get(self.name(key, index))?;
            Ok(found.ok_or_else(|| Failure::Failed("no entry there".into()))?.len())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        for entry in self.entries.prefix(&self.keys[key].0) {
            each(&entry.value()?);
        }
        Ok(())
    }
}
