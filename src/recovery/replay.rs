//! Replaying the journal: what it has and the segments have not goes to the segments.
//!
//! Nothing of the journal is believed but its records. Those of the newest epoch say themselves where the
//! oldest one that counts starts; from there, one follows on the other. Where none is valid, the journal
//! ends, unless a record behind says that this place had been durable: then it is damage, and the
//! walk goes on with the next record there is. Replaying is idempotent and may be cut off anywhere.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;

use ahash::{HashMap, HashSet};

use super::Listing;
use crate::error::{Result, WalError};
use crate::format::{Body, FileHeader, Meta, RecordHeader, SegmentId, label};
use crate::fs::{Dir, File, OpenMode, len_u64, read_full, write_full};
use crate::options::JOURNAL_BYTES;
use crate::parallel;
use crate::report::{Finding, RecoveryReport};
use crate::ring::JOURNAL_NAME;
use crate::scan::CHUNK_BYTES;
use crate::segment::{Access, OpenError, Overlay, Segment};

const JOURNAL_LOST: &str = "the journal is missing or cut off, and what only it had is lost";

/// What replaying did. It survives power loss.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// Of the records found.
    pub(super) epoch: u32,
    /// Files of segments were created.
    pub(super) created: bool,
}

/// The journal as a file that a crash has left.
struct Journal {
    file: Box<dyn File>,
    capacity: u64,
    key: u64,
}

/// What the headers of the newest epoch say, wherever they stand.
#[derive(Default)]
struct Survey {
    epoch: u32,
    tail: u64,
    durable: u64,
    positions: Vec<u64>,
}

pub(super) fn replay(
    dir: &dyn Dir,
    listing: &Listing,
    meta: &Meta,
    report: &mut RecoveryReport,
) -> Result<Replayed> {
    let path = dir.path().join(JOURNAL_NAME);
    let error = |source| WalError::io(&path, "read the journal", source);
    let (journal, bytes) = Journal::open(dir, meta, OpenMode::Write).map_err(error)?;
    if bytes < meta.journal_bytes {
        let what = JOURNAL_LOST.to_owned();
        let finding = Finding { path: path.clone(), offset: bytes, bytes: 0, what };
        RecoveryReport::note(&mut report.damaged, finding);
    }
    let Some(journal) = journal else { return Ok(Replayed::default()) };
    let survey = journal.survey(meta.epoch).map_err(error)?;
    let mut sound = bytes >= meta.journal_bytes;
    let records = journal.records(&survey, &mut |damaged, at: u64, bytes, what: &str| {
        sound &= !damaged;
        let list = if damaged { &mut report.damaged } else { &mut report.torn };
        let offset = at & journal.capacity.saturating_sub(1);
        let finding = Finding { path: path.clone(), offset, bytes, what: what.to_owned() };
        RecoveryReport::note(list, finding);
    });
    let mut replayed = Replayed { epoch: survey.epoch, created: false };
    let (segments, dropped) = by_segment(&records.map_err(error)?);
    let directory_id = meta.directory_id;
    let segments: Vec<(SegmentId, Vec<RecordHeader>)> = segments.into_iter().collect();
    let brought = parallel::for_each(&segments, |(id, records)| {
        let (id, journal) = (*id, &journal);
        let dropped = dropped.get(&id.key_hash).is_some_and(|through| id.sequence <= *through);
        Target { dir, listing, directory_id, journal, id, dropped, sound }.bring_up_to_date(records)
    });
    for (_, result) in brought.map_err(error)? {
        let brought = result?;
        report.journal_bytes = report.journal_bytes.saturating_add(brought.bytes);
        replayed.created |= brought.created;
        if let Some(finding) = brought.cut {
            RecoveryReport::note(&mut report.torn, finding);
        }
    }
    if !survey.positions.is_empty() {
        // The names of segments that are there may have been promised by the journal alone.
        dir.sync().map_err(|source| WalError::io(dir.path(), "sync the directory", source))?;
    }
    Ok(replayed)
}

/// How often a journal that somebody writes to is looked at until one look is as good as a moment.
const MAX_LOOKS: usize = 4;

/// What a look at a journal that somebody may be writing to has found.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) overlays: HashMap<SegmentId, Overlay>,
    pub(super) damaged: Vec<Finding>,
}

/// What the journal has of each segment, copied. Whatever was in it when this was called is in the copy, or
/// has been moved to its segment by the time this returns.
pub(super) fn copy_out(dir: &dyn Dir, meta: &Meta) -> Result<Copied> {
    let path = dir.path().join(JOURNAL_NAME);
    let error = |source| WalError::io(&path, "read the journal", source);
    let mut copied = Copied::default();
    let (journal, bytes) = Journal::open(dir, meta, OpenMode::Read).map_err(error)?;
    if bytes < meta.journal_bytes || journal.is_none() && meta.journal_bytes > 0 {
        let what = JOURNAL_LOST.to_owned();
        copied.damaged.push(Finding { path: path.clone(), offset: bytes, bytes: 0, what });
    }
    let Some(journal) = journal else { return Ok(copied) };
    let mut survey = journal.survey(meta.epoch).map_err(error)?;
    let mut in_order = None;
    for _ in 0..MAX_LOOKS {
        let mut damaged = Vec::new();
        let records = journal.records(&survey, &mut |damage, at: u64, bytes, what: &str| {
            if damage {
                let offset = at & journal.capacity.saturating_sub(1);
                let what = what.to_owned();
                RecoveryReport::note(
                    &mut damaged,
                    Finding { path: path.clone(), offset, bytes, what },
                );
            }
        });
        let records = records.map_err(error)?;
        let end = records.last().map_or(survey.tail, RecordHeader::next);
        let whole = survey.positions.last().is_none_or(|last| *last < end);
        // What has been written over meanwhile looks like damage, or like the end.
        let sure = whole && damaged.is_empty() || {
            let again = journal.survey(meta.epoch).map_err(error)?;
            let same = again.positions == survey.positions;
            survey = again;
            same
        };
        if sure {
            copied.damaged.append(&mut damaged);
            in_order = Some(records);
            break;
        }
    }
    let in_a_row = in_order.is_some();
    let records = if let Some(records) = in_order {
        records
    } else {
        // It changes too fast. Each record that is whole is what its segment has, or will have.
        let mut records = Vec::new();
        for position in survey.positions.iter().filter(|position| **position >= survey.tail) {
            records.extend(journal.record(&survey, *position).map_err(error)?);
        }
        records
    };
    let mut from_the_start = HashSet::default();
    for header in &records {
        if header.record.body == Body::Created {
            from_the_start.insert(header.record.segment);
        }
        let body = journal.body(header).map_err(error)?;
        // If it has been written over by now, the segment has it.
        if header.record.check(&body) && !body.is_empty() {
            let overlay = copied.overlays.entry(header.record.segment).or_default();
            overlay.insert(header.record.offset, body);
        }
    }
    let sound = copied.damaged.is_empty();
    for (id, overlay) in &mut copied.overlays {
        // As when it is replayed. Of records that were not seen in a row, one in between may be missing.
        if !sound || in_a_row && !from_the_start.contains(id) {
            overlay.go_on_behind_gaps();
        }
    }
    Ok(copied)
}

/// The records of each segment in the order of what they hold, and the newest dropped segment of each key.
fn by_segment(
    records: &[RecordHeader],
) -> (BTreeMap<SegmentId, Vec<RecordHeader>>, BTreeMap<u64, u32>) {
    let mut dropped: BTreeMap<u64, u32> = BTreeMap::new();
    let mut segments: BTreeMap<SegmentId, Vec<RecordHeader>> = BTreeMap::new();
    for header in records {
        let id = header.record.segment;
        match header.record.body {
            Body::Frames | Body::Created => segments.entry(id).or_default().push(*header),
            Body::Dropped => {
                let through = dropped.entry(id.key_hash).or_default();
                *through = id.sequence.max(*through);
            }
            Body::Nothing => {}
        }
    }
    for records in segments.values_mut() {
        // What has gone round with the journal stands behind records that came after it.
        records.sort_by_key(|header| header.record.offset);
    }
    (segments, dropped)
}

impl Journal {
    /// With the length of the file. `None`: there is none, or what there is cannot be one.
    fn open(dir: &dyn Dir, meta: &Meta, mode: OpenMode) -> io::Result<(Option<Self>, u64)> {
        let file = match dir.open(JOURNAL_NAME, mode) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                return Ok((None, 0));
            }
            result => result?,
        };
        if mode == OpenMode::Write {
            file.sync_data()?;
            file.drop_cache()?;
        }
        let bytes = file.len()?;
        // Where records stand depends on the length it had.
        let capacity = if meta.journal_bytes > 0 { meta.journal_bytes } else { bytes };
        let plausible = capacity.is_power_of_two() && JOURNAL_BYTES.contains(&capacity);
        Ok((plausible.then_some(Self { file, capacity, key: meta.directory_id }), bytes))
    }

    /// What a file that is too short does not have are zeros.
    fn read(&self, position: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = position & self.capacity.saturating_sub(1);
        let room = usize::try_from(self.capacity.saturating_sub(start)).unwrap_or(usize::MAX);
        let (first, rest) = buffer.split_at_mut(room.min(buffer.len()));
        for (part, at) in [(first, start), (rest, 0)] {
            let read = read_full(&*self.file, part, at)?;
            part.get_mut(read..).unwrap_or_default().fill(0);
        }
        Ok(())
    }

    /// Looks for headers everywhere.
    fn survey(&self, least_epoch: u32) -> io::Result<Survey> {
        let mut survey = Survey { epoch: least_epoch, ..Survey::default() };
        let chunk_bytes = self.capacity.min(u64::from(CHUNK_BYTES));
        let mut chunk = Vec::new();
        let mut start = 0;
        while start < self.capacity {
            let bytes = chunk_bytes.saturating_add(RecordHeader::BYTES_U64);
            chunk.resize(usize::try_from(bytes).unwrap_or(0), 0);
            self.read(start, &mut chunk)?;
            let places = usize::try_from(chunk_bytes).unwrap_or(0);
            for at in (0..places).step_by(RecordHeader::ALIGN) {
                let header = chunk.get(at..).and_then(|rest| rest.first_chunk());
                let header = header.map(|bytes| RecordHeader::from_bytes(bytes, self.key));
                let offset = start.saturating_add(len_u64(at));
                if let Some(Ok(header)) = header {
                    if header.position & self.capacity.saturating_sub(1) == offset {
                        survey.take(&header);
                    }
                }
            }
            start = start.saturating_add(chunk_bytes);
        }
        survey.positions.sort_unstable();
        Ok(survey)
    }

    /// The record at a position, if it is whole.
    fn record(&self, survey: &Survey, position: u64) -> io::Result<Option<RecordHeader>> {
        let mut bytes = [0; RecordHeader::BYTES];
        self.read(position, &mut bytes)?;
        let header = RecordHeader::from_bytes(&bytes, self.key).ok();
        let Some(header) = header.filter(|header| {
            header.position == position
                && header.epoch == survey.epoch
                && header.record.bytes() <= self.capacity
        }) else {
            return Ok(None);
        };
        let body = self.body(&header)?;
        Ok(header.record.check(&body).then_some(header))
    }

    /// Whether a record was begun at a position where none is whole. Older ones may lie about there.
    fn was_begun(&self, survey: &Survey, position: u64) -> io::Result<bool> {
        // Where the header of another one stands, this one's was never finished, and what looks like it is of an older epoch.
        let place = |other: u64| other.wrapping_sub(position) & self.capacity.saturating_sub(1);
        if survey
            .positions
            .iter()
            .any(|other| (1..RecordHeader::BYTES_U64).contains(&place(*other)))
        {
            return Ok(false);
        }
        let mut bytes = [0; RecordHeader::BYTES];
        self.read(position, &mut bytes)?;
        Ok(match RecordHeader::from_bytes(&bytes, self.key) {
            Ok(header) => (header.position, header.epoch) == (position, survey.epoch),
            Err(_) => RecordHeader::was_begun(&bytes, position, survey.epoch),
        })
    }

    fn body(&self, header: &RecordHeader) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(header.record.body_bytes).unwrap_or(usize::MAX);
        let mut body = Vec::new();
        body.try_reserve(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        body.resize(bytes, 0);
        self.read(header.position.saturating_add(RecordHeader::BYTES_U64), &mut body)?;
        Ok(body)
    }

    /// The records that count, in order. `found` hears of damage, and of a torn end.
    fn records(
        &self,
        survey: &Survey,
        found: &mut dyn FnMut(bool, u64, u64, &str),
    ) -> io::Result<Vec<RecordHeader>> {
        let mut records: Vec<RecordHeader> = Vec::new();
        // Behind the last record that ends a batch.
        let mut whole = 0;
        let mut position = survey.tail;
        let limit = survey.tail.saturating_add(self.capacity);
        while position < limit {
            if let Some(header) = self.record(survey, position)? {
                position = header.next();
                records.push(header);
                if !header.record.continues {
                    whole = records.len();
                }
                continue;
            }
            let later = survey.positions.partition_point(|other| *other <= position);
            let later = survey.positions.get(later).copied();
            let bytes = later.unwrap_or(survey.durable).saturating_sub(position);
            if position >= survey.durable {
                if self.was_begun(survey, position)? || later.is_some() {
                    found(false, position, bytes, "unfinished write to the journal");
                }
                break;
            }
            found(true, position, bytes, "durable records of the journal are damaged");
            // What was lost may have been the end of the batch before it.
            whole = records.len();
            match later {
                Some(later) => position = later,
                None => break,
            }
        }
        records.truncate(whole);
        Ok(records)
    }
}

impl Survey {
    fn take(&mut self, header: &RecordHeader) {
        if header.epoch > self.epoch {
            *self = Self { epoch: header.epoch, ..Self::default() };
        }
        if header.epoch == self.epoch {
            self.tail = self.tail.max(header.tail());
            self.durable = self.durable.max(header.durable());
            self.positions.push(header.position);
        }
    }
}

/// A segment's file.
struct Opened {
    file: Box<dyn File>,
    name: String,
    /// It was not there.
    new: bool,
    /// It is shared, and what is read of it comes from the disk.
    on_disk: bool,
}

impl Opened {
    /// A file that was there.
    fn existing(file: Box<dyn File>, name: String, path: &Path) -> Result<Self> {
        let error = |source| WalError::io(path, "look at the segment", source);
        let on_disk = file.is_shared().map_err(error)?;
        if on_disk {
            file.sync_data().and_then(|()| file.drop_cache()).map_err(error)?;
        }
        Ok(Self { file, name, new: false, on_disk })
    }
}

/// What a segment got from the journal.
#[derive(Default)]
struct Brought {
    bytes: u64,
    /// The file was created.
    created: bool,
    /// What it did not get.
    cut: Option<Finding>,
}

/// A segment that the journal has records of.
struct Target<'a> {
    dir: &'a dyn Dir,
    listing: &'a Listing,
    directory_id: u64,
    journal: &'a Journal,
    id: SegmentId,
    /// The segment may be gone, and is not to come back. While it is there, it has to be whole.
    dropped: bool,
    /// The journal has all that it is known to have had.
    sound: bool,
}

impl Target<'_> {
    /// Writes the records to the segment and syncs it, whether it has them or not: what the page cache
    /// holds need not be on the disk. A file that a snapshot shares is only written to if the disk has not got
    /// them: a power cut may garble what is being written, and the snapshot is finished.
    fn bring_up_to_date(&self, records: &[RecordHeader]) -> Result<Brought> {
        let path = self.dir.path().join(JOURNAL_NAME);
        let read_error = |source| WalError::io(&path, "read the journal", source);
        let mut brought = Brought::default();
        let mut opened: Option<Opened> = None;
        let from_the_start =
            records.first().is_some_and(|first| first.record.body == Body::Created);
        for header in records {
            let body = self.journal.body(header).map_err(read_error)?;
            if opened.is_none() {
                opened = match header.record.body {
                    Body::Created => self.created_file(&body)?,
                    _ => self.existing_file(header)?,
                };
            }
            // Lost with its name: nothing of it was promised.
            let Some(Opened { file, name, on_disk, .. }) = &opened else { return Ok(brought) };
            let path = self.dir.path().join(name);
            let offset = u64::from(header.record.offset);
            if from_the_start && self.sound && !reaches(&**file, offset, &path)? {
                let bytes =
                    records.last().map_or(0, |last| last.record.end().saturating_sub(offset));
                let what = "behind entries that were lost with the file's name".to_owned();
                brought.cut = Some(Finding { path, offset, bytes, what });
                break;
            }
            if !(*on_disk && holds(&**file, offset, &body)) {
                write_full(&**file, &mut [IoSlice::new(&body)], offset)
                    .map_err(|source| WalError::io(&path, "move entries to the segment", source))?;
            }
            brought.bytes = brought.bytes.saturating_add(len_u64(body.len()));
        }
        let Some(Opened { file, name, new, .. }) = opened else { return Ok(brought) };
        let path = self.dir.path().join(name);
        file.sync_data().map_err(|source| WalError::io(&path, "sync the segment", source))?;
        brought.created = new;
        Ok(brought)
    }

    /// The file of a segment whose creation the journal knows.
    fn created_file(&self, header_area: &[u8]) -> Result<Option<Opened>> {
        let key = FileHeader::from_bytes(header_area).map(|header| header.key).unwrap_or_default();
        let name = self.id.file_name(&label(&key));
        let open = || match self.dir.open(&name, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.dropped {
                    return Ok(None);
                }
                Ok(Some((self.dir.open(&name, OpenMode::CreateNew)?, true)))
            }
            result => Ok(Some((result?, false))),
        };
        let opened: io::Result<Option<(Box<dyn File>, bool)>> = open();
        let path = self.dir.path().join(&name);
        match opened.map_err(|source| WalError::io(&path, "open the segment", source))? {
            None => Ok(None),
            Some((file, true)) => Ok(Some(Opened { file, name, new: true, on_disk: false })),
            Some((file, false)) => Opened::existing(file, name, &path).map(Some),
        }
    }

    /// The file of a segment whose creation the journal has not, or not any more.
    fn existing_file(&self, header: &RecordHeader) -> Result<Option<Opened>> {
        let labels = self.listing.by_hash.get(&self.id.key_hash).into_iter().flatten();
        for (label, sequences) in labels {
            if !sequences.contains(&self.id.sequence) {
                continue;
            }
            let (id, access) = (self.id, Access::Write);
            match Segment::open(self.dir, id, label, self.directory_id, access, None, None) {
                Ok((segment, _)) if segment.seed == header.record.seed => {
                    let name = self.id.file_name(label);
                    let file = self.dir.open(&name, OpenMode::Write).map_err(|source| {
                        WalError::io(&segment.path, "open the segment", source)
                    })?;
                    return Opened::existing(file, name, &segment.path).map(Some);
                }
                Ok(_)
                | Err(OpenError::Header(_) | OpenError::Wal(WalError::UnsupportedVersion { .. })) =>
                    {}
                Err(OpenError::Wal(error)) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Whether the file has something right before this offset. One that was lost with its name, and is made
/// again from the journal, has nothing of what had been written past the journal. What came behind that
/// was not promised then; there it would look as if durable entries had been damaged.
fn reaches(file: &dyn File, offset: u64, path: &Path) -> Result<bool> {
    let bytes = file.len().map_err(|source| WalError::io(path, "ask for the length", source))?;
    Ok(bytes >= offset)
}

/// Whether the file has these bytes there. What cannot be read it has not.
fn holds(file: &dyn File, offset: u64, body: &[u8]) -> bool {
    let mut found = vec![0; body.len()];
    let read = read_full(file, &mut found, offset);
    read.is_ok_and(|read| read == body.len()) && found == body
}
