//! `journal` and `gather`: one file for all keys, filled with zeros before in writes of 4 KiB. A leader
//! syncs for everyone who has written by then; in `gather` it waits a moment for company first.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;

use super::group_sync::GroupSync;
use super::{HEADER_BYTES, encode, encode_all};
use crate::subject::{Content, Failure, Plan, Reader, Result, Subject, Survives};

const LACKS: Failure = Failure::Lacks("`journal` is a floor of durable appends");

pub struct Journal<const GATHERS: bool> {
    file: File,
    end: GroupSync,
    keys: usize,
    capacity: u64,
    frame: Vec<u8>,
}

impl<const GATHERS: bool> Journal<GATHERS> {
    fn write_and_sync(&mut self) -> Result<()> {
        self.end.write_durably(&self.file, &self.frame)?;
        self.has_room()
    }

    /// A file that grew would be another measurement.
    fn has_room(&self) -> Result<()> {
        if self.end.end() > self.capacity {
            return Err(Failure::Failed("the journal is full".into()));
        }
        Ok(())
    }
}

impl<const GATHERS: bool> Subject for Journal<GATHERS> {
    const NAME: &'static str = if GATHERS { "floor gather" } else { "floor journal" };
    const SURVIVES: Survives = Survives::Kill;
    const NO_REOPEN: Option<&'static str> = Some("`write` is the floor of opening");
    type Place = ();

    fn open(plan: &Plan) -> Result<Self> {
        if !plan.durable {
            return Err(LACKS);
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create_new(true).open(plan.dir.join("journal"))?;
        let blocks = (plan.keys.len() * plan.bytes_per_key(HEADER_BYTES)).div_ceil(4096);
        for _ in 0..blocks {
            file.write_all(&[0; 4096])?;
        }
        file.sync_all()?;
        let end = if GATHERS { GroupSync::gathering() } else { GroupSync::default() };
        let capacity = 4096 * blocks as u64;
        Ok(Self { file, end, keys: plan.keys.len(), capacity, frame: Vec::new() })
    }

    fn append(&mut self, _key: usize, content: Content) -> Result<()> {
        self.frame.clear();
        encode(&mut self.frame, content);
        self.end.write(&self.file, &self.frame).map(drop)
    }

    fn append_batch(&mut self, _key: usize, contents: &[Content], _durable: bool) -> Result<()> {
        self.frame.clear();
        encode_all(&mut self.frame, contents);
        self.write_and_sync()
    }

    fn append_durably(&self, _key: usize, content: Content) -> Result<()> {
        thread_local! {
            static FRAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        FRAME.with_borrow_mut(|frame| {
            frame.clear();
            encode(frame, content);
            self.end.write_durably(&self.file, frame)
        })?;
        self.has_room()
    }

    fn append_to_each_durably(&mut self, content: Content) -> Result<()> {
        self.frame.clear();
        encode_all(&mut self.frame, &vec![content; self.keys]);
        self.write_and_sync()
    }

    fn reader(&self) -> Result<Reader<'_, ()>> {
        Err(LACKS)
    }

    fn scan(&self, _key: usize, _each: &mut dyn FnMut(&[u8])) -> Result<()> {
        Err(LACKS)
    }
}
