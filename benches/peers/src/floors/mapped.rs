//! `mmap`: a copy into a file that was allocated, mapped and touched before. What is in the mapping
//! belongs to the kernel, so it survives the process.

use std::fs::OpenOptions;

use memmap2::MmapMut;
use rustix::fs::{FallocateFlags, fallocate};

use super::{HEADER_BYTES, Place, decode, encode, encode_all};
use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const PAGE_BYTES: usize = 4096;

pub struct Mapped {
    keys: Vec<(MmapMut, usize)>,
    frame: Vec<u8>,
}

impl Mapped {
    fn copy(&mut self, key: usize) -> Result<usize> {
        let (map, end) = &mut self.keys[key];
        let offset = *end;
        *end += self.frame.len();
        let room = map.get_mut(offset..*end);
        let room = room.ok_or_else(|| Failure::Failed("the mapping is full".into()))?;
        room.copy_from_slice(&self.frame);
        Ok(offset)
    }
}

impl Subject for Mapped {
    const NAME: &'static str = "floor mmap";
    const SURVIVES: Survives = Survives::Kill;
    const NO_REOPEN: Option<&'static str> = Some("`write` is the floor of opening");
    type Place = Place;

    fn open(plan: &Plan) -> Result<Self> {
        let bytes = plan.bytes_per_key(HEADER_BYTES).next_multiple_of(PAGE_BYTES);
        let create = |name| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(plan.dir.join(name))?;
            fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
            // SAFETY: the file is new and in a directory of our own: nobody else changes it.
            let mut map = unsafe { MmapMut::map_mut(&file)? };
            map.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 0);
            Ok((map, 0))
        };
        Ok(Self { keys: plan.keys.iter().map(create).collect::<Result<_>>()?, frame: Vec::new() })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Place> {
        self.frame.clear();
        encode(&mut self.frame, content);
        let offset = self.copy(key)? as u64;
        Ok(Place { key, offset, frame_bytes: self.frame.len() })
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        if durable {
            return Err(Failure::Lacks("`journal` is the floor of durable appends"));
        }
        self.frame.clear();
        encode_all(&mut self.frame, contents);
        self.copy(key).map(drop)
    }

    fn append_durably(&self, _key: usize, _content: Content) -> Result<()> {
        Err(Failure::Lacks("`journal` is the floor of durable appends"))
    }

    fn append_to_each_durably(&mut self, _content: Content) -> Result<()> {
        Err(Failure::Lacks("`journal` is the floor of durable appends"))
    }

    fn reader(&self) -> Result<Reader<'_, Place>> {
        Ok(Box::new(|place| {
            let offset = usize::try_from(place.offset)?;
            let content = decode(&self.keys[place.key].0[offset..offset + place.frame_bytes])?;
            content.map(<[u8]>::len).ok_or_else(|| Failure::Failed("a short frame".into()))
        }))
    }

    fn scan(&self, _key: usize, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err(Failure::Lacks("`write` is the floor of scans"))
    }
}
