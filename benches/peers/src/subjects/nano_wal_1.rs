//! nano-wal 1.0: a log for each key, sharing a directory. An append is one `writev` (`kill`), and with
//! `durable` an `fdatasync` behind it. The caller gives the time, here that of the system.

use std::time::{Duration, SystemTime};

use nano_wal_1::{EntryRef, Wal, WalOptions, WriteEntry};

use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const DAY: Duration = Duration::from_hours(24);
/// To write with, and a duplicate to read with.
const DESCRIPTORS_PER_KEY: usize = 2;

pub struct NanoWal1 {
    wals: Vec<Wal>,
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

impl Subject for NanoWal1 {
    const NAME: &'static str = "nano-wal 1.0";
    const SURVIVES: Survives = Survives::Kill;
    type Place = (usize, EntryRef);

    fn open(plan: &Plan) -> Result<Self> {
        plan.needs_descriptors(DESCRIPTORS_PER_KEY)?;
        let options = || WalOptions { retention: 7 * DAY, segment_duration: DAY };
        let open = |key: &String| Ok(Wal::new(&plan.dir, key, options())?);
        Ok(Self { wals: plan.keys.iter().map(open).collect::<Result<_>>()? })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        Ok((key, self.wals[key].append(None, content, now_ms(), false)?))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        let entry = |content: &Content| WriteEntry { header: None, content };
        let entries: Vec<WriteEntry<'_>> = contents.iter().map(entry).collect();
        self.wals[key].append_batch(&entries, now_ms(), durable)?;
        Ok(())
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        self.wals[key].append(None, content, now_ms(), true)?;
        Ok(())
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        for key in 0..self.wals.len() {
            self.append(key, content)?;
        }
        self.wals.iter().try_for_each(|wal| Ok(wal.sync()?))
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        let segment = |wal: &Wal| Ok(wal.ensure_segment(now_ms())?);
        let segments: Vec<_> = self.wals.iter().map(segment).collect::<Result<_>>()?;
        Ok(Box::new(move |(key, entry)| {
            let EntryRef { file_offset, byte_size } = entry;
            let record = self.wals[key].read_at(&segments[key], file_offset, byte_size)?;
            Ok(record.content.len())
        }))
    }

    fn scan(&self, _key: usize, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err(Failure::Lacks("reads by reference only"))
    }
}
