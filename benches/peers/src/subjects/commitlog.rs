//! commitlog 0.2: a directory for each key. An append is one `write` and a store to a mapped index
//! (`kill`). Nothing in it syncs the entries: `flush` calls `File::flush`, which does nothing, and
//! `msync` for the index.

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

/// The log and its index.
const DESCRIPTORS_PER_KEY: usize = 2;
const READ_BYTES: usize = 64 << 10;
/// In front of each payload. A limit of this and the payload should read one entry; the last one of a log
/// is only found with one more.
const HEADER_BYTES: usize = 20;
const LACKS: Failure = Failure::Lacks("has no call that syncs");

pub struct Commitlog {
    logs: Vec<CommitLog>,
    content_bytes: usize,
}

impl Subject for Commitlog {
    const NAME: &'static str = "commitlog 0.2";
    const SURVIVES: Survives = Survives::Kill;
    type Place = (usize, u64);

    fn open(plan: &Plan) -> Result<Self> {
        if plan.durable {
            return Err(LACKS);
        }
        plan.needs_descriptors(DESCRIPTORS_PER_KEY)?;
        let open = |key: &String| Ok(CommitLog::new(LogOptions::new(plan.dir.join(key)))?);
        let logs = plan.keys.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { logs, content_bytes: plan.content_bytes })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        Ok((key, self.logs[key].append_msg(content)?))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], _durable: bool) -> Result<()> {
        let mut messages = MessageBuf::default();
        for content in contents {
            let pushed = messages.push(content);
            pushed.map_err(|_| Failure::Failed("a message is too large".into()))?;
        }
        self.logs[key].append(&mut messages)?;
        Ok(())
    }

    fn append_durably(&self, _key: usize, _content: Content) -> Result<()> {
        Err(LACKS)
    }

    fn append_to_each_durably(&mut self, _content: Content) -> Result<()> {
        Err(LACKS)
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        let limit = ReadLimit::max_bytes(HEADER_BYTES + self.content_bytes + 1);
        Ok(Box::new(move |(key, offset)| {
            let messages = self.logs[key].read(offset, limit)?;
            Ok(messages.iter().map(|message| message.payload().len()).sum())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut offset = 0;
        loop {
            let messages = self.logs[key].read(offset, ReadLimit::max_bytes(READ_BYTES))?;
            if messages.is_empty() {
                return Ok(());
            }
            messages.iter().for_each(|message| each(message.payload()));
            offset += messages.len() as u64;
        }
    }
}
