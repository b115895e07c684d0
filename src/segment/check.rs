//! Looking for damage in all of a segment.

use std::io;

use super::{Extent, Segment, read_header};
use crate::error::{Result, WalError};
use crate::format::{FileHeader, Seed, find_header};
use crate::fs::{File, len_u64, read_full};
use crate::report::{Finding, RecoveryReport};
use crate::scan::{CHUNK_BYTES, Step, Walk, reach};

const HALF_OF_HEADER: &str =
    "one of two copies of the file header is damaged; the other one is good";

/// What [`Segment::check`] found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// Entries that can be read.
    pub(crate) entries: u32,
    /// What is wrong, as far as reports list it.
    pub(crate) damaged: Vec<Finding>,
}

impl Segment {
    /// What the disk has lost of the file before `end`, as far as that was not known to be durable.
    pub(super) fn lost_on_disk(&self, end: u32) -> io::Result<Option<&'static str>> {
        self.content.drop_cache()?;
        match read_header(&self.content, |_| true)? {
            Ok(header) if Seed::of_nonce(header.nonce) == self.seed => {}
            _ => return Ok(Some("the disk has lost the segment's header")),
        }
        let from = reach(self.gate.durable()).max(self.frames_start);
        let mut walk = Walk::new(self.seed, from, end, CHUNK_BYTES);
        while let Some(step) = walk.next(&self.content)? {
            if let Step::Damage(_) = step {
                return Ok(Some("the disk has lost entries of the segment"));
            }
        }
        Ok(None)
    }

    /// Which of the header and its copy is damaged, where the other one says what it was.
    pub(crate) fn damaged_header(&self) -> Result<Option<Finding>> {
        let mut bytes = vec![0; usize::try_from(self.frames_start).unwrap_or(usize::MAX)];
        let read = read_full(&self.content, &mut bytes, 0)
            .map_err(|source| self.io_error("read the segment", source))?;
        bytes.truncate(read);
        let is_own = |header: &FileHeader| {
            Seed::of_nonce(header.nonce) == self.seed
                && (header.key_hash, header.sequence) == (self.id.key_hash, self.id.sequence)
        };
        let Ok(header) = find_header(&bytes, is_own) else { return Ok(None) };
        let sound = header.to_bytes();
        let damaged = header
            .places()
            .into_iter()
            .find(|place| bytes.get(place.clone()) != sound.get(place.clone()));
        Ok(damaged.map(|place| Finding {
            path: self.path.clone(),
            offset: len_u64(place.start),
            bytes: len_u64(place.len()),
            what: HALF_OF_HEADER.to_owned(),
        }))
    }

    /// Reads all frames before the end of the segment, in its file or in a copy of it.
    pub(crate) fn check(&self, file: &dyn File, extent: Extent) -> Result<Checked> {
        let mut checked = Checked::default();
        let mut note = |from: u32, to: u32, what: &str| {
            let (path, bytes) = (self.path.clone(), u64::from(to.saturating_sub(from)));
            let finding = Finding { path, offset: u64::from(from), bytes, what: what.to_owned() };
            RecoveryReport::note(&mut checked.damaged, finding);
        };
        let mut walk = Walk::new(self.seed, self.frames_start, extent.end, CHUNK_BYTES);
        // Index that should come next; `None` behind damage.
        let mut expected = Some(0);
        let read = |source| WalError::io(&self.path, "read the segment", source);
        while let Some(step) = walk.next(file).map_err(read)? {
            match step {
                Step::Frame(frame) => {
                    let header = frame.header;
                    if expected.is_some_and(|expected| expected != header.index) {
                        note(frame.offset, frame.offset, "entries before this place are missing");
                    }
                    let entry = u32::from(!header.is_mark());
                    checked.entries = checked.entries.saturating_add(entry);
                    expected = Some(header.index.saturating_add(entry));
                }
                Step::Damage(damage) => {
                    note(damage.from, damage.to, "damaged");
                    expected = None;
                }
            }
        }
        if expected.is_some_and(|expected| expected != extent.count) {
            note(extent.end, extent.end, "entries before this place are missing");
        }
        Ok(checked)
    }
}
