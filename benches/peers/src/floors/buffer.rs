//! `buf`: a copy into 64 KiB of memory, written when full. Survives nothing.

use std::os::unix::fs::FileExt;

use super::files::Files;
use super::{encode, encode_all};
use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const BUFFER_BYTES: usize = 64 << 10;
const LACKS: Failure = Failure::Lacks("`buf` is a floor of appends that survive nothing");

pub struct Buffer {
    files: Files,
    keys: Vec<(Vec<u8>, u64)>,
}

impl Buffer {
    fn write_when_full(&mut self, key: usize) -> Result<()> {
        let (buffer, end) = &mut self.keys[key];
        if buffer.len() >= BUFFER_BYTES {
            self.files.with(key, |file| file.write_all_at(buffer, *end))?;
            *end += buffer.len() as u64;
            buffer.clear();
        }
        Ok(())
    }
}

impl Subject for Buffer {
    const NAME: &'static str = "floor buf";
    const SURVIVES: Survives = Survives::Nothing;
    const NO_REOPEN: Option<&'static str> = Some("`write` is the floor of opening");
    type Place = ();

    fn open(plan: &Plan) -> Result<Self> {
        let room = (BUFFER_BYTES + 2048).min(plan.bytes_per_key(super::HEADER_BYTES));
        let keys = plan.keys.iter().map(|_| (Vec::with_capacity(room), 0)).collect();
        Ok(Self { files: Files::new(plan), keys })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<()> {
        encode(&mut self.keys[key].0, content);
        self.write_when_full(key)
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        if durable {
            return Err(LACKS);
        }
        encode_all(&mut self.keys[key].0, contents);
        self.write_when_full(key)
    }

    fn append_durably(&self, _key: usize, _content: Content) -> Result<()> {
        Err(LACKS)
    }

    fn append_to_each_durably(&mut self, _content: Content) -> Result<()> {
        Err(LACKS)
    }

    fn reader(&self) -> Result<Reader<'_, ()>> {
        Err(LACKS)
    }

    fn scan(&self, _key: usize, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err(LACKS)
    }
}
