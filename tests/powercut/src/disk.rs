//! A disk that remembers every write and flush, so that the power can be cut afterwards, at any moment
//! and as often as wanted.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::common::Random;

const BLOCK_BYTES: usize = 4096;
/// What an old disk may hold where nothing was written yet: the signature of a frame, again and again.
const GARBAGE: &[u8; 4] = b"\xF7\x4B\x57\xE5";

pub fn hold(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts the bytes from `offset` on at every multiple of `unit`: numbers of units, and bytes in each.
fn pieces(offset: usize, bytes: usize, unit: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let end = offset + bytes;
    (offset / unit..end.div_ceil(unit)).map(move |number| {
        let start = number * unit;
        (number, offset.max(start) - start..end.min(start + unit) - start)
    })
}

/// What a disk holds, in blocks. Those that are alike, or unchanged in a copy, are stored once.
#[derive(Clone)]
struct Image(Vec<Arc<[u8; BLOCK_BYTES]>>);

impl Image {
    fn unwritten(bytes: usize) -> Self {
        let mut block = [0; BLOCK_BYTES];
        block.chunks_mut(GARBAGE.len()).for_each(|chunk| chunk.copy_from_slice(GARBAGE));
        let block = Arc::new(block);
        Self(vec![block; bytes / BLOCK_BYTES])
    }

    fn read(&self, offset: usize, bytes: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(bytes);
        for (block, range) in pieces(offset, bytes, BLOCK_BYTES) {
            data.extend_from_slice(&self.0[block][range]);
        }
        data
    }

    fn write(&mut self, offset: usize, mut data: &[u8]) {
        for (block, range) in pieces(offset, data.len(), BLOCK_BYTES) {
            let (piece, rest) = data.split_at(range.len());
            Arc::make_mut(&mut self.0[block])[range].copy_from_slice(piece);
            data = rest;
        }
    }
}

enum Event {
    Write { offset: usize, data: Vec<u8> },
    Flush,
}

/// What happened to a disk since it was switched on.
struct Recording {
    start: Image,
    log: Vec<Event>,
}

impl Recording {
    fn new(start: Image) -> Self {
        Self { start, log: Vec::new() }
    }

    /// How many events there were before the last flush before this moment.
    fn last_flush(&self, moment: usize) -> usize {
        let log = &self.log[..moment.min(self.log.len())];
        log.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0)
    }

    /// What a power cut leaves after the first `moment` events: all up to the last flush, and of the
    /// sectors written behind it the subset with this number.
    fn cut(&self, moment: usize, sector_bytes: usize, subset: u64) -> Image {
        let log = &self.log[..moment.min(self.log.len())];
        let flushed = self.last_flush(moment);
        let sectors = |(offset, data): (usize, &[u8])| pieces(offset, data.len(), sector_bytes);
        let in_doubt = log[flushed..].iter().filter_map(Event::write).flat_map(sectors).count();
        let mut survives = survival(subset, in_doubt);
        let mut image = self.start.clone();
        for (at, event) in log.iter().enumerate() {
            let Some((offset, mut data)) = event.write() else { continue };
            for (sector, range) in sectors((offset, data)) {
                let (piece, rest) = data.split_at(range.len());
                let block = sector * sector_bytes / BLOCK_BYTES;
                // The first block is one sector: ext4 takes a torn superblock of its own for damage.
                let whole = if block == 0 { 0 } else { sector };
                if at < flushed || survives(at, whole, block) {
                    image.write(sector * sector_bytes + range.start, piece);
                }
                data = rest;
            }
        }
        image
    }
}

impl Event {
    fn write(&self) -> Option<(usize, &[u8])> {
        match self {
            Self::Write { offset, data } => Some((*offset, data)),
            Self::Flush => None,
        }
    }
}

/// Which of so many sectors survive, asked in the order they were written, by write, sector and block: a
/// prefix of them, or each sector, block or write on its own with a chance from never to always.
fn survival(subset: u64, sectors: usize) -> impl FnMut(usize, usize, usize) -> bool {
    let mut random = Random(subset);
    let together = random.next() % 4;
    let prefix = random.next() % (sectors as u64 + 1);
    let eighths = [0, 1, 4, 7, 8][(random.next() % 5) as usize];
    let (mut asked, mut last) = (0, None);
    move |write, sector, block| {
        asked += u64::from(last.replace((write, sector)) != Some((write, sector)));
        let unit = match together {
            0 => return asked <= prefix,
            1 => sector,
            2 => block,
            _ => 0,
        };
        Random(subset ^ (write as u64) << 40 ^ unit as u64).next() % 8 < eighths
    }
}

/// Which writes fail.
enum Fault {
    None,
    /// Those that hold this.
    Holding(Vec<u8>),
    All,
}

pub struct Disk {
    image: Image,
    /// A power cut leaves these whole, or not at all.
    sector_bytes: usize,
    /// The first since the disk was formatted, each other one since a power cut during the one before.
    recordings: Vec<Recording>,
    fault: Fault,
    failed_writes: u64,
}

impl Disk {
    pub fn new(bytes: usize, sector_bytes: usize) -> Self {
        let image = Image::unwritten(bytes);
        let recordings = vec![Recording::new(image.clone())];
        Self { image, sector_bytes, recordings, fault: Fault::None, failed_writes: 0 }
    }

    pub fn bytes(&self) -> u64 {
        (self.image.0.len() * BLOCK_BYTES) as u64
    }

    pub fn read(&self, offset: u64, bytes: u32) -> Vec<u8> {
        self.image.read(offset as usize, bytes as usize)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if offset + data.len() as u64 > self.bytes() {
            return Err(Errno::NOSPC);
        }
        let fails = match &self.fault {
            Fault::None => false,
            Fault::Holding(bytes) => data.windows(bytes.len()).any(|window| window == bytes),
            Fault::All => true,
        };
        if fails {
            self.failed_writes += 1;
            return Err(Errno::IO);
        }
        self.image.write(offset as usize, data);
        self.note(Event::Write { offset: offset as usize, data: data.to_vec() });
        Ok(())
    }

    pub fn flush(&mut self) {
        self.note(Event::Flush);
    }

    fn note(&mut self, event: Event) {
        if let Some(recording) = self.recordings.last_mut() {
            recording.log.push(event);
        }
    }

    /// Does what the other side asks for, while the file system is not mounted unless it says otherwise.
    pub fn obey(&mut self, command: &str) -> Result<u64, String> {
        let mut words = command.split(' ');
        let name = words.next().unwrap_or_default();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match name {
            // Length of the log. Mounted or not.
            "position" => Ok(self.recordings.last().map_or(0, |last| last.log.len() as u64)),
            // The moment just before the last flush before a moment.
            "last_flush" => {
                let moment = number().ok_or("no moment")? as usize;
                Ok(self.recordings[0].last_flush(moment) as u64)
            }
            // What the disk holds now is what `restart` goes back to.
            "formatted" => {
                self.recordings = vec![Recording::new(self.image.clone())];
                Ok(0)
            }
            "restart" => {
                self.image = self.recordings[0].start.clone();
                self.recordings = vec![Recording::new(self.image.clone())];
                Ok(0)
            }
            // Cuts the power `moment` events into the recording with the number `life`.
            "cut" => {
                let (Some(life), Some(moment), Some(subset)) = (number(), number(), number())
                else {
                    return Err(format!("three numbers are missing: {command}"));
                };
                self.recordings.truncate(life as usize + 1);
                self.image =
                    self.recordings[life as usize].cut(moment as usize, self.sector_bytes, subset);
                self.recordings.push(Recording::new(self.image.clone()));
                Ok(0)
            }
            // Which writes fail from now on: none, all, or those that hold a word. Mounted or not.
            "fail" => {
                self.fault = match words.next() {
                    None => Fault::None,
                    Some("all") => Fault::All,
                    Some(word) => Fault::Holding(word.into()),
                };
                Ok(std::mem::take(&mut self.failed_writes))
            }
            _ => Err(format!("unknown command {command}")),
        }
    }
}
