//! A new directory from what another one held at some time.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ahash::HashMap;

use crate::chains::{Node, Present};
use crate::error::{Result, WalError};
use crate::format::{FrameFlags, FrameHeader};
use crate::fs::{Dir, OsDir, read_full};
use crate::options::WalOptions;
use crate::primitives::atomic::Ordering;
use crate::recovery::{View, view};
use crate::replica::{Ending, Part, RawFiles, Replica, Target, mark};
use crate::report::{Finding, SnapshotReport};
use crate::scan::{CHUNK_BYTES, Step, Walk};
use crate::segment::{Extent, Segment};
use crate::store::Store;
use crate::stream::{Phase, Stream};

/// Copies a log to a new directory: all of it, or of each key the entries that had been appended up to the
/// moment `until_ms` (milliseconds since 1970, that one included). The target must be empty, and is created
/// if it is missing; the copy is independent of its original and a log like any other.
///
/// The original is only read. It is usually a [snapshot](crate::Wal::snapshot), but may be any directory: one
/// that is in use, too, of which each key then comes as it was at some moment, not all at the same one.
/// Times are those of the clock that the entries were appended with, so between keys they tell the order only
/// as far as that clock does. What had been dropped from the original does not come back. A key of which
/// nothing is old enough is left out; if older entries of it had been dropped, it is there without
/// entries, and its indexes go on. (So is, without entries, one whose hash another key has, too.)
///
/// When this returns, the copy survives power loss. If it is cut off, opening the copy answers
/// [`Incomplete`](WalError::Incomplete): remove it and begin again.
///
/// Damage is no error: what can be read is copied, and the report says the rest. A key of which the newest
/// segment cannot be read, or has lost its end, is copied as it is, whatever the moment.
///
/// ```
/// use keywal::{Wal, WalOptions};
/// # let dir = tempfile::tempdir()?;
/// # std::env::set_current_dir(&dir)?;
/// let wal = Wal::new("./live", WalOptions::default())?;
/// let good = wal.append_entry("orders", None, "as it should be", false)?;
/// let until_ms = wal.read_entry(good)?.timestamp_ms;
/// # std::thread::sleep(std::time::Duration::from_millis(5));
/// wal.append_entry("orders", None, "a mistake", false)?;
/// wal.snapshot("./backup")?;
///
/// keywal::restore("./backup", "./restored", Some(until_ms))?;
/// let restored = Wal::new("./restored", WalOptions::default())?;
/// let records: Vec<_> = restored.enumerate_records("orders")?.collect::<Result<_, _>>()?;
/// assert_eq!(records, ["as it should be"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`NotEmpty`](WalError::NotEmpty) and [`Locked`](WalError::Locked) for the target, which was not touched;
/// [`Incomplete`](WalError::Incomplete) for the original, if that is a snapshot that was not finished;
/// [`StorageFull`](WalError::StorageFull) and [`Io`](WalError::Io): the copy is incomplete.
pub fn restore(
    from: impl AsRef<Path>,
    to: impl AsRef<Path>,
    until_ms: Option<u64>,
) -> Result<SnapshotReport> {
    let (from, to) = (from.as_ref(), to.as_ref());
    let original =
        OsDir::existing(from).map_err(|source| WalError::io(from, "open the directory", source))?;
    let options = WalOptions::default();
    let target = OsDir::open(to, options.dir_mode, options.file_mode)
        .map_err(|source| WalError::io(to, "open the directory", source))?;
    restore_in(Arc::new(original), &target, until_ms)
}

/// As [`restore`], with directories of another file system.
pub fn restore_in(
    from: Arc<dyn Dir>,
    to: &dyn Dir,
    until_ms: Option<u64>,
) -> Result<SnapshotReport> {
    let started = Instant::now();
    let View { store, streams, report: found, .. } =
        view(from, WalOptions::default(), HashMap::default())?;
    let mut replica = Replica::begin(to, store.directory_id, Target::Empty, |_| Ok(()))?;
    for finding in found.damaged {
        replica.note(finding);
    }
    let mut raw = RawFiles::default();
    for stream in streams.in_order() {
        if readable(&store, &stream, &mut raw)? {
            let moment = Moment {
                until_ms: until_ms.unwrap_or(u64::MAX),
                // Whoever looks for another key with the same hash comes by.
                needed: streams.next_is_taken(stream.hash),
            };
            let there = take(&store, &stream, moment, &mut replica)?;
            replica.report.keys = replica.report.keys.saturating_add(u64::from(there));
        }
        // Reading many keys is not to keep many files open.
        store.files.clear();
    }
    raw.take(&*store.dir, &mut replica)?;
    let mut lost = false;
    for stream in streams.in_order() {
        lost |= streams.fill_the_way_to(&stream) > 0;
    }
    let mut meta = store.meta().state().clone();
    meta.interrupted = store.interrupted.load(Ordering::Relaxed);
    // Where files are missing by which a key is found, opening has to look at all of them.
    meta.clean = !lost;
    let mut report = replica.finish(&meta)?;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Whether the stream's segments can be put in a row. Notes those of which the files are copied as they are.
fn readable(store: &Store, stream: &Stream, raw: &mut RawFiles) -> Result<bool> {
    match stream.ensure_loaded(store) {
        Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => {
            raw.note_unreadable(stream.hash);
            return Ok(false);
        }
        result => result?,
    }
    let writer = stream.writer();
    match (writer.phase, writer.tombstone()) {
        (Phase::Damaged, _) => raw.note_unreadable(stream.hash),
        (Phase::Empty, Some(tombstone)) => raw.note_removed(stream.hash, tombstone),
        _ => return Ok(true),
    }
    Ok(false)
}

/// What is wanted of a stream.
#[derive(Clone, Copy)]
struct Moment {
    until_ms: u64,
    /// It has to be there, if without entries.
    needed: bool,
}

/// Puts what one stream had at that moment into the copy; `false` if that is nothing. One file after the other is
/// open, the newest first: who finds that a segment has been dropped meanwhile needs those before it no more.
fn take(store: &Store, stream: &Stream, moment: Moment, replica: &mut Replica<'_>) -> Result<bool> {
    let Some((chain, newest)) = stream.chain(store)? else { return Ok(false) };
    let mut row = Vec::new();
    for node in &chain.nodes {
        match node {
            Node::Present(present) => row.push(*present),
            Node::Lost(lost) => note(replica, lost.error())?,
        }
    }
    row.push(Present::of(&newest));
    let mut count = row.iter().take_while(|present| present.created_ms <= moment.until_ms).count();
    if count == 0 {
        // Something must carry the numbers on.
        count =
            usize::from(row.first().is_some_and(|first| moment.needed || first.first_index > 0));
    }
    let mut there = false;
    for present in row.iter().take(count).rev() {
        let segment = match stream.segment(store, present.sequence) {
            _ if present.sequence == newest.id.sequence => Arc::clone(&newest),
            // The newest one is still there.
            Err(WalError::Expired) if !there => {
                return put_last(stream, &newest, moment, replica);
            }
            Err(WalError::Expired) => break,
            Err(error) => {
                note(replica, error)?;
                continue;
            }
            Ok(segment) => segment,
        };
        if there {
            let extent = segment.extent();
            put(stream, &segment, extent, Ending::Cut(extent.end), replica)?;
        } else {
            there = put_last(stream, &segment, moment, replica)?;
        }
    }
    Ok(there)
}

/// Notes damage.
fn note(replica: &mut Replica<'_>, error: WalError) -> Result<()> {
    let WalError::Corrupted { path, offset, bytes, reason } = error else { return Err(error) };
    replica.note(Finding { path, offset, bytes, what: reason.to_owned() });
    Ok(())
}

/// Puts what the last segment had at that moment into the copy, unless it was only begun then.
fn put_last(
    stream: &Stream,
    segment: &Segment,
    moment: Moment,
    replica: &mut Replica<'_>,
) -> Result<bool> {
    let (extent, last_ms) = extent_at(segment, moment.until_ms)?;
    let begun_later = extent.count == 0 && segment.base_index == 0 && segment.extent().count > 0;
    if begun_later && !moment.needed {
        return Ok(false);
    }
    let sealed = extent.end == segment.extent().end && ends_with_seal(segment, extent.end)?;
    let ending = if sealed { Ending::Cut(extent.end) } else { mark(segment, extent, last_ms) };
    put(stream, segment, extent, ending, replica)?;
    Ok(true)
}

fn put(
    stream: &Stream,
    segment: &Segment,
    extent: Extent,
    ending: Ending,
    replica: &mut Replica<'_>,
) -> Result<()> {
    let name = stream.file_name(segment.id.sequence);
    replica.take(segment.id, &Part { segment, name: &name, extent, ending, share: None })
}

/// What a segment held at that moment, and the timestamp of its last entry then.
fn extent_at(segment: &Segment, until_ms: u64) -> Result<(Extent, u64)> {
    let whole = segment.extent();
    let mut extent = Extent { end: segment.frames_start, count: 0 };
    let mut last_ms = segment.created_ms;
    let mut walk = Walk::new(segment.seed, segment.frames_start, whole.end, CHUNK_BYTES);
    let read = |source| segment.io_error("read the segment", source);
    while let Some(step) = walk.next(segment.file()).map_err(read)? {
        match step {
            Step::Frame(frame) => {
                let at_ms = segment.created_ms.saturating_add(u64::from(frame.header.timestamp));
                if at_ms > until_ms {
                    return Ok((extent, last_ms));
                }
                let entry = u32::from(!frame.header.is_mark());
                extent =
                    Extent { end: frame.end(), count: frame.header.index.saturating_add(entry) };
                last_ms = at_ms;
            }
            // Kept if something behind it is old enough, and at the end.
            Step::Damage(_) => {}
        }
    }
    Ok((whole, last_ms))
}

fn ends_with_seal(segment: &Segment, end: u32) -> Result<bool> {
    let offset = end.saturating_sub(FrameHeader::BYTES_U32).max(segment.frames_start);
    let mut bytes = [0; FrameHeader::BYTES];
    let read = read_full(segment.file(), &mut bytes, u64::from(offset))
        .map_err(|source| segment.io_error("read the segment", source))?;
    let header = FrameHeader::from_bytes(&bytes, segment.seed, offset).ok();
    let sealed = header.is_some_and(|header| header.flags.has(FrameFlags::SEAL));
    Ok(read == bytes.len() && sealed)
}
