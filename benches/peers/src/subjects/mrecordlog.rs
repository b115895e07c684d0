//! mrecordlog 0.4: a queue for each key, all in one row of files. With the default policy an append is a
//! `write` in another thread that it waits for (`kill`); nothing in it calls `fsync`, although the policy
//! is called that of syncing. All entries are kept in memory, and reads come from there.

use mrecordlog::MultiRecordLog;
use tokio::runtime::{Builder, Runtime};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const LACKS: Failure = Failure::Lacks("has no call that syncs");
const NO_QUEUE: Failure = Failure::Lacks("the queue is missing");

pub struct Mrecordlog {
    runtime: Runtime,
    log: MultiRecordLog,
    keys: Vec<String>,
}

impl Subject for Mrecordlog {
    const NAME: &'static str = "mrecordlog 0.4";
    const SURVIVES: Survives = Survives::Kill;
    const READS_FROM_MEMORY: bool = true;
    type Place = (usize, u64);

    fn open(plan: &Plan) -> Result<Self> {
        if plan.durable {
            return Err(LACKS);
        }
        let runtime = Builder::new_current_thread().build()?;
        let mut log = runtime.block_on(MultiRecordLog::open(&plan.dir))?;
        for key in &plan.keys {
            if !log.queue_exists(key) {
                runtime.block_on(log.create_queue(key))?;
            }
        }
        Ok(Self { runtime, log, keys: plan.keys.clone() })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        let append = self.log.append_record(&self.keys[key], None, content);
        Ok((key, self.runtime.block_on(append)?.unwrap_or_default()))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], _durable: bool) -> Result<()> {
        let append = self.log.append_records(&self.keys[key], None, contents.iter().copied());
        self.runtime.block_on(append)?;
        Ok(())
    }

    fn append_durably(&self, _key: usize, _content: Content) -> Result<()> {
        Err(LACKS)
    }

    fn append_to_each_durably(&mut self, _content: Content) -> Result<()> {
        Err(LACKS)
    }

    fn fill(&mut self, key: usize, contents: &[Content]) -> Result<Vec<Self::Place>> {
        let append = self.log.append_records(&self.keys[key], None, contents.iter().copied());
        let last = self.runtime.block_on(append)?.unwrap_or_default();
        let first = last + 1 - contents.len() as u64;
        Ok((first..=last).map(|position| (key, position)).collect())
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        Ok(Box::new(|(key, position)| {
            let found = self.log.range(&self.keys[key], position..=position);
            let entry = found.map_err(|_| NO_QUEUE)?.next();
            let entry = entry.ok_or_else(|| Failure::Failed("no entry there".into()))?;
            Ok(entry.1.len())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let entries = self.log.range(&self.keys[key], ..).map_err(|_| NO_QUEUE)?;
        entries.for_each(|(_, content)| each(&content));
        Ok(())
    }
}
