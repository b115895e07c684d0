//! seglog 0.3: a file of fixed size for each key, a buffered writer and any number of readers. An append
//! stays in the buffer (`buf`): even flushed to the kernel it is rolled back by the next open unless a
//! commit marker follows, and `commit`, the only call that writes one, syncs with `fdatasync`.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use seglog::RECORD_HEAD_SIZE;
use seglog::read::{ReadHint, Reader as Segment};
use seglog::write::Writer;

use crate::subject::{Content, Plan, Reader, Result, Subject, Survives};

/// A record, and at worst a marker behind each.
const FRAME_BYTES: usize = 2 * RECORD_HEAD_SIZE + seglog::COMMIT_MARKER_PAYLOAD;

pub struct Seglog {
    keys: Vec<Key>,
}

struct Key {
    path: PathBuf,
    writer: Mutex<(Writer<0>, u64)>,
}

impl Key {
    fn open(plan: &Plan, name: &str) -> Result<Self> {
        let (path, size) = (plan.dir.join(name), plan.bytes_per_key(FRAME_BYTES));
        let writer = if path.exists() {
            Writer::open(&path, size, 0)
        } else {
            Writer::create(&path, size, 0)
        };
        Ok(Self { path, writer: Mutex::new((writer?, 0)) })
    }

    fn writer(&mut self) -> &mut (Writer<0>, u64) {
        self.writer.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn commit(&mut self) -> Result<()> {
        let (writer, position) = self.writer();
        writer.commit(*position)?;
        Ok(())
    }

    /// For one thread to read with.
    fn segment(&self) -> Result<Segment<0>> {
        Ok(Segment::open_read_only(&self.path, Some(self.lock().0.flushed_offset()))?)
    }

    fn lock(&self) -> MutexGuard<'_, (Writer<0>, u64)> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subject for Seglog {
    const NAME: &'static str = "seglog 0.3";
    const SURVIVES: Survives = Survives::Nothing;
    type Place = (usize, u64);

    fn open(plan: &Plan) -> Result<Self> {
        plan.needs_descriptors(1)?;
        let open = |name: &String| Key::open(plan, name);
        Ok(Self { keys: plan.keys.iter().map(open).collect::<Result<_>>()? })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Self::Place> {
        let (writer, position) = self.keys[key].writer();
        *position += 1;
        Ok((key, writer.append_data(content)?.0))
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        for content in contents {
            self.append(key, content)?;
        }
        if durable { self.keys[key].commit() } else { Ok(()) }
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        let mut guard = self.keys[key].lock();
        let (writer, position) = &mut *guard;
        *position += 1;
        writer.append_data(content)?;
        writer.commit(*position)?;
        Ok(())
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        for key in 0..self.keys.len() {
            self.append(key, content)?;
        }
        self.publish()
    }

    fn publish(&mut self) -> Result<()> {
        self.keys.iter_mut().try_for_each(Key::commit)
    }

    fn close(mut self) -> Result<()> {
        self.publish()
    }

    fn reader(&self) -> Result<Reader<'_, Self::Place>> {
        let mut segments: Vec<Segment<0>> =
            self.keys.iter().map(Key::segment).collect::<Result<_>>()?;
        Ok(Box::new(move |(key, offset)| {
            Ok(segments[key].read_record(offset, ReadHint::Random)?.data.len())
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let mut segment = self.keys[key].segment()?;
        let mut records = segment.iter(0);
        while let Some(record) = records.next_record()? {
            each(&record.data);
        }
        Ok(())
    }
}
