//! `write`: a positional write to a file of the key, kept open. Reads one frame with one exact `pread`,
//! scans 64 KiB at a time, and opens by listing names and asking for the size of each.

use std::cell::RefCell;
use std::fs;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use super::files::Files;
use super::group_sync::GroupSync;
use super::{Place, decode, encode, encode_all};
use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const READ_BYTES: usize = 64 << 10;

pub struct Write {
    files: Files,
    ends: Vec<GroupSync>,
    frame: Vec<u8>,
}

impl Write {
    fn write(&mut self, key: usize) -> Result<u64> {
        let (frame, end) = (&self.frame, &mut self.ends[key]);
        self.files.with(key, |file| Ok(end.write(file, frame)))?
    }
}

impl Subject for Write {
    const NAME: &'static str = "floor write";
    const SURVIVES: Survives = Survives::Kill;
    type Place = Place;

    fn open(plan: &Plan) -> Result<Self> {
        for entry in fs::read_dir(&plan.dir)? {
            black_box(entry?.metadata()?.len());
        }
        let ends = plan.keys.iter().map(|_| GroupSync::default()).collect();
        Ok(Self { files: Files::new(plan), ends, frame: Vec::new() })
    }

    fn append(&mut self, key: usize, content: Content) -> Result<Place> {
        self.frame.clear();
        encode(&mut self.frame, content);
        Ok(Place { key, offset: self.write(key)?, frame_bytes: self.frame.len() })
    }

    fn append_batch(&mut self, key: usize, contents: &[Content], durable: bool) -> Result<()> {
        self.frame.clear();
        encode_all(&mut self.frame, contents);
        self.write(key)?;
        if durable {
            self.files.with(key, fs::File::sync_data)?;
        }
        Ok(())
    }

    fn append_durably(&self, key: usize, content: Content) -> Result<()> {
        thread_local! {
            static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        FRAME.with_borrow_mut(|frame| {
            frame.clear();
            encode(frame, content);
            self.ends[key].write_durably(self.files.get(key)?, frame)
        })
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        for key in 0..self.ends.len() {
            self.append(key, content)?;
        }
        for key in 0..self.ends.len() {
            self.files.with(key, fs::File::sync_data)?;
        }
        Ok(())
    }

    fn reader(&self) -> Result<Reader<'_, Place>> {
        let mut frame = Vec::new();
        Ok(Box::new(move |place| {
            frame.resize(place.frame_bytes, 0);
            self.files.get(place.key)?.read_exact_at(&mut frame, place.offset)?;
            let content = decode(&frame)?;
            content.map(<[u8]>::len).ok_or_else(|| Failure::Failed("a short frame".into()))
        }))
    }

    fn scan(&self, key: usize, each: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (file, mut read, mut at) = (self.files.get(key)?, vec![0; READ_BYTES], 0);
        loop {
            let n = file.read_at(&mut read, at)?;
            let mut rest = &read[..n];
            while let Some(content) = decode(rest)? {
                each(content);
                rest = &rest[super::HEADER_BYTES + content.len()..];
            }
            if rest.len() == n {
                return Ok(());
            }
            at += (n - rest.len()) as u64;
        }
    }
}
