//! What an earlier copy has: is it what it should be, and has it more?

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::io;
use std::ops::Range;

use super::{COPY_BYTES, Earlier, Part};
use crate::error::{Result, WalError};
use crate::format::SegmentId;
use crate::fs::{Dir, File, OpenMode, len_u64, read_full};
use crate::scan::{CHUNK_BYTES, Frame, Step, Walk, reach};
use crate::segment::{Access, OpenError, Segment};

/// How much of two segments is compared at the start, where their random numbers are, and at the end.
const HEAD_BYTES: u64 = 512;
const LAST_BYTES: u64 = 32;

/// Whether a file is there that is what it should be, and durable.
pub(super) fn is_there(dir: &dyn Dir, earlier: Earlier, part: &Part<'_>) -> Result<bool> {
    if earlier == Earlier::Nothing {
        return Ok(false);
    }
    let Some(file) = open_copy(dir, part.name, OpenMode::Write)? else { return Ok(false) };
    let (original, end, mark) = (part.segment.file(), part.bytes()?, part.ending.mark());
    let compare = || -> io::Result<bool> {
        if file.len()? != end.saturating_add(len_u64(mark.len())) {
            return Ok(false);
        }
        if earlier == Earlier::CutOff {
            file.sync_data()?;
            file.drop_cache()?;
            return Ok(is_same(&*file, original, 0..end)? && has(&*file, end, mark)?);
        }
        Ok(seems_same(&*file, original, end)? && has(&*file, end, mark)?)
    };
    compare().map_err(|source| compare_error(dir, part.name, source))
}

/// `None`: whatever has this name, if anything has, it is no copy.
fn open_copy(dir: &dyn Dir, name: &str, mode: OpenMode) -> Result<Option<Box<dyn File>>> {
    match dir.open(name, mode) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) =>
        {
            Ok(None)
        }
        Err(source) => Err(WalError::io(&dir.path().join(name), "open the copy", source)),
        Ok(copy) => Ok(Some(copy)),
    }
}

fn compare_error(dir: &dyn Dir, name: &str, source: io::Error) -> WalError {
    WalError::io(&dir.path().join(name), "compare the copy", source)
}

/// Whether an earlier copy of a segment has entries that the segment has not, and they would not be part of the copy
/// any more.
pub(crate) fn has_more(dir: &dyn Dir, earlier: Earlier, part: &Part<'_>) -> Result<bool> {
    let Some(copy) = open_copy(dir, part.name, OpenMode::Read)? else { return Ok(false) };
    let is_kept = is_there(dir, earlier, part)?;
    let (original, end) = (part.segment.file(), part.bytes()?);
    let compare = || -> io::Result<bool> {
        // What the log took for a torn write counts no more, and could be whole in the copy.
        let all_counts = end <= u64::from(part.extent.end);
        if is_kept && (all_counts || is_same(&*copy, original, 0..end)?) {
            return Ok(false);
        }
        Ok(!has_all(part, &*copy)?)
    };
    compare().map_err(|source| compare_error(dir, part.name, source))
}

/// Whether the part has every entry that can be read in an earlier copy of the segment.
fn has_all(part: &Part<'_>, copy: &dyn File) -> io::Result<bool> {
    let original = part.segment.file();
    let mut ours = entries(part.segment, original, 0..part.extent.end);
    for frame in entries(part.segment, copy, 0..reach(copy.len()?)) {
        let frame = frame?;
        let found =
            ours.find(|other| other.as_ref().map_or(true, |other| other.offset >= frame.offset));
        let found = found.transpose()?;
        if found.is_none_or(|other| (other.offset, other.header) != (frame.offset, frame.header)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The entries of a segment that can be read in a part of this file of it.
fn entries<'a>(
    segment: &Segment,
    file: &'a dyn File,
    range: Range<u32>,
) -> impl Iterator<Item = io::Result<Frame>> + 'a {
    let start = range.start.max(segment.frames_start);
    let mut walk = Walk::new(segment.seed, start, range.end, CHUNK_BYTES);
    std::iter::from_fn(move || {
        loop {
            match walk.next(file) {
                Ok(Some(Step::Frame(frame))) if !frame.header.is_mark() => return Some(Ok(frame)),
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    })
}

/// Whether an earlier copy of a segment, which the original has not, has entries from this index on. `behind`: the
/// next one that the earlier copy has.
pub(crate) fn has_entries(
    dir: &dyn Dir,
    directory_id: u64,
    id: SegmentId,
    label: &str,
    (behind, index): (Option<SegmentId>, u64),
) -> Result<bool> {
    let open = |id| match Segment::open(dir, id, label, directory_id, Access::Read, None, None) {
        Ok((copy, _)) => Ok(Some(copy)),
        Err(OpenError::Header(_)) => Ok(None),
        Err(OpenError::Wal(error)) => Err(error),
    };
    let Some(copy) = open(id)? else { return Ok(false) };
    // What the earlier copy itself counts of it.
    let behind = behind.map(open).transpose()?.flatten();
    let behind = behind.filter(|behind| behind.previous_sequence == id.sequence);
    let limit = behind.map_or(u32::MAX, |behind| behind.previous_end);
    let compare = || -> io::Result<bool> {
        let file = copy.file();
        for frame in entries(&copy, file, 0..reach(file.len()?).min(limit)) {
            if copy.base_index.saturating_add(u64::from(frame?.header.index)) >= index {
                return Ok(true);
            }
        }
        Ok(false)
    };
    compare().map_err(|source| compare_error(dir, &id.file_name(label), source))
}

/// Whether a copy of a segment, as long as it should be up to `end`, starts and ends like it there.
fn seems_same(copy: &dyn File, original: &dyn File, end: u64) -> io::Result<bool> {
    let head = 0..HEAD_BYTES.min(end);
    // A closing mark and a seal are of one length.
    let last = end.saturating_sub(LAST_BYTES)..end;
    Ok(is_same(copy, original, head)? && is_same(copy, original, last)?)
}

/// Whether two files have the same bytes in a range.
fn is_same(one: &dyn File, other: &dyn File, range: Range<u64>) -> io::Result<bool> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end.saturating_sub(at)).unwrap_or(usize::MAX);
        first.resize(left.min(COPY_BYTES), 0);
        second.resize(left.min(COPY_BYTES), 0);
        let read = read_full(one, &mut first, at)?;
        if read == 0 || read != read_full(other, &mut second, at)? || first != second {
            return Ok(false);
        }
        at = at.saturating_add(len_u64(read));
    }
    Ok(true)
}

/// Whether these bytes stand at `offset` of a file.
fn has(file: &dyn File, offset: u64, bytes: &[u8]) -> io::Result<bool> {
    let mut present = vec![0; bytes.len()];
    Ok(read_full(file, &mut present, offset)? == bytes.len() && present == bytes)
}
