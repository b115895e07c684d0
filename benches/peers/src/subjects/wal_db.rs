//! wal-db 1.1: a file for each key. `append` is one `pwrite` (`kill`); `append_and_sync` waits for an
//! `fdatasync` that concurrent callers share.

use wal_db::{FileStore, Lsn, Wal};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

pub struct WalDb {
    wals: Vec<Wal<FileStore>>,
}

impl Subject for WalDb {
    const NAME: &'static str = "wal-db 1.1";
    const SURVIVES: Survives = Survives::Kill;
    type Place = (usize, Lsn);

    fn open(plan: &Plan) -> Result<Self> {
        plan.needs_descriptors(1)?;
        let open = |key: &String| Ok(Wal::open(plan.dir.join(key))?);
        Ok(Self { wals: plan.keys.iter().map(open).collect::<Result<_>>()? })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        Ok((key, self.wals[key].append(content)?))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        if !durable {
            return Err(Failure::Lacks("no batches"));
        }
        for content in contents {
            let _lsn = self.wals[key].append(content)?;
        }
        Ok(self.wals[key].sync()?)
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        let _lsn = self.wals[key].append_and_sync(content)?;
        Ok(())
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        for wal in &self.wals {
            let _lsn = wal.append(content)?;
        }
        self.wals.iter().try_for_each(|wal| Ok(wal.sync()?))
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        Ok(Box::new(|(key, lsn)| {
            let record = self.wals[key].iter_from(lsn)?.next();
            let record = record.ok_or_else(|| Failure::Failed("no entry there".into()))?;
            Ok(record?.len())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        for record in self.wals[key].iter()? {
            each(record?.data());
        }
        Ok(())
    }
}
