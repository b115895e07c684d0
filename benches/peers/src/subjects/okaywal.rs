//! okaywal 0.3: one log, which knows no keys. Its only way to append is `commit`, which waits for an
//! `fdatasync` that concurrent callers share (`disk`). A batch is one entry of many chunks; each chunk
//! can be read at its position until it is checkpointed, which is put off here when reading is measured.

use std::io::Read;

use okaywal::{Configuration, LogPosition, LogVoid, WriteAheadLog};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

/// Around a chunk and around the entry.
const FRAME_BYTES: usize = 32;

pub struct Okaywal {
    log: WriteAheadLog,
    keys: usize,
}

impl Okaywal {
    fn commit(&self, contents: impl Iterator<Item = Content>) -> Result<Vec<LogPosition>> {
        let mut entry = self.log.begin_entry()?;
        let mut positions = Vec::new();
        for content in contents {
            positions.push(entry.write_chunk(content)?.position);
        }
        entry.commit()?;
        Ok(positions)
    }
}

impl Subject for Okaywal {
    const NAME: &'static str = "okaywal 0.3";
    const SURVIVES: Survives = Survives::PowerLoss;
    const NO_REOPEN: Option<&'static str> = Some("opening hands every entry over and keeps none");
    type Place = LogPosition;

    fn open(plan: &Plan) -> Result<Self> {
        let bytes = plan.keys.len() * plan.bytes_per_key(FRAME_BYTES);
        let bytes = u32::try_from(bytes.next_multiple_of(1 << 20))?;
        // As the defaults relate to each other, and no checkpoint while this is measured.
        let configuration = Configuration::default_for(&plan.dir)
            .preallocate_bytes(bytes / 3 * 4)
            .checkpoint_after_bytes(u64::from(bytes));
        Ok(Self { log: configuration.open(LogVoid)?, keys: plan.keys.len() })
    }

    fn append(&mut self, _key: usize, content: Content) -> Result<LogPosition> {
        let position = self.commit(std::iter::once(content))?.pop();
        position.ok_or_else(|| Failure::Failed("no position".into()))
    }

    fn append_batch(&mut self, _key: usize, contents: &[Content], _durable: bool) -> Result<()> {
        self.commit(contents.iter().copied()).map(drop)
    }

    fn append_durably(&self, _key: usize, content: Content) -> Result<()> {
        self.commit(std::iter::once(content)).map(drop)
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        self.commit(std::iter::repeat_n(content, self.keys)).map(drop)
    }

    fn fill(&mut self, _key: usize, contents: &[Content]) -> Result<Vec<LogPosition>> {
        self.commit(contents.iter().copied())
    }

    fn reader(&self) -> Result<Reader<'_, LogPosition>> {
        let mut content = Vec::new();
        Ok(Box::new(move |position| {
            content.clear();
            let mut chunk = self.log.read_at(position)?;
            chunk.read_to_end(&mut content)?;
            if !chunk.crc_is_valid()? {
                return Err(Failure::Failed("a checksum does not match".into()));
            }
            Ok(content.len())
        }))
    }

    fn scan(&self, _key: usize, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err(Failure::Lacks("reads in order only while opening"))
    }
}
