//! A copy of a directory that is in use.
//!
//! The cut ([`crate::cuts`]) says where each stream ends in the copy. Sealed segments never change, and are
//! linked; of the one that was the newest, what comes before the cut is copied. Meanwhile nothing is
//! dropped: who wants to waits.

use std::path::Path;
use std::sync::PoisonError;
use std::time::Instant;

use ahash::HashMap;

use crate::cuts::{End, Ends};
use crate::error::{Result, WalError};
use crate::format::{SegmentName, label};
use crate::fs::Dir;
use crate::primitives::atomic::Ordering;
use crate::replica::{self, Earlier, Ending, Part, RawFiles, Replica, Target, mark};
use crate::report::{Finding, SnapshotReport};
use crate::segment::Segment;
use crate::store::Store;
use crate::stream::{Phase, Stream};
use crate::streams::Streams;

/// `damaged`: what was found when the directory was opened.
pub(crate) fn snapshot(
    store: &Store,
    streams: &Streams,
    damaged: &[Finding],
    dir: &dyn Dir,
) -> Result<SnapshotReport> {
    let started = Instant::now();
    let _nothing_is_dropped = store.discards.write().unwrap_or_else(PoisonError::into_inner);
    store.check_open()?;
    let mut raw = RawFiles::default();
    let ends = cut(store, streams, &mut raw)?;
    let mut replica = Replica::begin(dir, store.directory_id, Target::EmptyOrEarlier, |earlier| {
        match damaged.iter().chain(&store.damage.met()).next() {
            Some(finding) => Err(keep_earlier(&finding.path)),
            None => check_nothing_is_lost(store, streams, &ends, (dir, earlier)),
        }
    })?;
    for stream in streams.in_order() {
        if raw.has(stream.hash) {
            continue;
        }
        if let Some(Some(end)) = ends.get(&stream.hash) {
            take(store, &stream, end, &mut replica)?;
            replica.report.keys = replica.report.keys.saturating_add(1);
        }
    }
    raw.take(&*store.dir, &mut replica)?;
    let mut meta = store.meta().state().clone();
    meta.interrupted = store.interrupted.load(Ordering::Relaxed);
    // Where files are missing by which a key is found, opening has to look at all of them.
    meta.clean = !streams.has_filled_places();
    let mut report = replica.finish(&meta)?;
    report.elapsed = started.elapsed();
    Ok(report)
}

/// Refuses to go on if an earlier copy may have something that the original has lost. Of a key all of whose files
/// are gone, nobody knows whether it was removed.
fn check_nothing_is_lost(
    store: &Store,
    streams: &Streams,
    ends: &Ends,
    (dir, earlier): (&dyn Dir, Earlier),
) -> Result<()> {
    let mut copies: HashMap<u64, Vec<u32>> = HashMap::default();
    let listed = dir.list(&mut |name| {
        if let Some(parsed) = name.to_str().and_then(SegmentName::parse) {
            copies.entry(parsed.key_hash).or_default().push(parsed.sequence);
        }
    });
    listed.map_err(|source| WalError::io(dir.path(), "list the directory", source))?;
    for stream in streams.in_order() {
        let theirs = copies.remove(&stream.hash).unwrap_or_default();
        let end = ends.get(&stream.hash).and_then(Option::as_ref);
        match check_stream(store, &stream, end, &theirs, (dir, earlier)) {
            Err(WalError::Corrupted { path, .. }) => return Err(keep_earlier(&path)),
            // It is copied as it is.
            Err(WalError::UnsupportedVersion { .. }) => {}
            result => result?,
        }
    }
    Ok(())
}

/// `theirs`: the segments of the stream that the earlier copy has.
fn check_stream(
    store: &Store,
    stream: &Stream,
    end: Option<&End>,
    theirs: &[u32],
    (dir, earlier): (&dyn Dir, Earlier),
) -> Result<()> {
    stream.ensure_loaded(store)?;
    if stream.writer().phase == Phase::Damaged {
        return Err(stream.damaged(store));
    }
    let (Some((chain, _)), Some(end)) = (stream.chain(store)?, end) else { return Ok(()) };
    if let Some(lost) = chain.lost().next() {
        return Err(keep_earlier(&lost.path));
    }
    let present: Vec<u32> = chain.present().map(|present| present.sequence).collect();
    let is_here = |sequence| sequence == end.sequence || present.contains(&sequence);
    let oldest = present.first().copied().unwrap_or(end.sequence).min(end.sequence);
    let oldest = stream.segment(store, oldest)?;
    // The oldest are dropped first, and those before the first of all are a removed key's.
    let from = match oldest.previous_sequence {
        0 => oldest.id.sequence,
        dropped => dropped,
    };
    for sequence in theirs.iter().copied().filter(|sequence| *sequence >= from) {
        let (id, name) = (stream.id(sequence), stream.file_name(sequence));
        let is_lost = if is_here(sequence) {
            let segment = stream.segment(store, sequence)?;
            replica::has_more(dir, earlier, &part(store, &segment, &name, end))?
        } else {
            let label = label(stream.key().unwrap_or_default());
            let behind = theirs.iter().copied().filter(|other| *other > sequence).min();
            let from = (behind.map(|other| stream.id(other)), oldest.base_index);
            replica::has_entries(dir, store.directory_id, id, &label, from)?
        };
        if is_lost {
            return Err(keep_earlier(&store.dir.path().join(name)));
        }
    }
    Ok(())
}

fn keep_earlier(lost: &Path) -> WalError {
    let reason = "the earlier snapshot may have what is lost here, so it was left as it is: \
                  take one to an empty directory";
    WalError::Corrupted { path: lost.to_owned(), offset: 0, bytes: 0, reason }
}

/// Where all streams end. Those that cannot be read, and what removed keys have left, are noted apart.
fn cut(store: &Store, streams: &Streams, raw: &mut RawFiles) -> Result<Ends> {
    // Before the flag is raised, so that it is not up for long.
    for stream in streams.in_order() {
        readable(store, &stream, raw)?;
    }
    let mut removed = Vec::new();
    let cutting = store.cuts.begin();
    for stream in streams.in_order() {
        if !readable(store, &stream, raw)? {
            continue;
        }
        let writer = stream.writer();
        match writer.phase {
            Phase::Stuck => return Err(stream.stuck(store, &writer)),
            Phase::Damaged => raw.note_unreadable(stream.hash),
            _ => stream.note_end(store, &writer, cutting.cut),
        }
        removed.extend(writer.tombstone().map(|tombstone| (stream.hash, tombstone)));
    }
    let ends = cutting.finish();
    for (hash, tombstone) in removed {
        if let Some(None) = ends.get(&hash) {
            raw.note_removed(hash, tombstone);
        }
    }
    Ok(ends)
}

/// Whether the stream can be loaded.
fn readable(store: &Store, stream: &Stream, raw: &mut RawFiles) -> Result<bool> {
    match stream.ensure_loaded(store) {
        Ok(()) => Ok(true),
        Err(WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) => {
            raw.note_unreadable(stream.hash);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Puts what one stream has before its end into the copy.
fn take(store: &Store, stream: &Stream, end: &End, replica: &mut Replica<'_>) -> Result<()> {
    // Putting the segments in a row sorts out files that are none.
    let Some((chain, _)) = stream.chain(store)? else { return Ok(()) };
    for lost in chain.lost() {
        let (path, what) = (lost.path.clone(), lost.reason.to_owned());
        replica.note(Finding { path, offset: 0, bytes: 0, what });
    }
    for sequence in stream.sequences() {
        if sequence > end.sequence || chain.leftovers.contains(&sequence) {
            continue;
        }
        let name = stream.file_name(sequence);
        let segment = match stream.segment(store, sequence) {
            Err(WalError::Corrupted { .. }) => {
                replica.take_raw(&*store.dir, stream.id(sequence), &name, true)?;
                continue;
            }
            segment => segment?,
        };
        let part = part(store, &segment, &name, end);
        if part.share.is_some() {
            // The journal may have bytes of it, and the disk may not have all that the file has.
            store.make_file_durable(&segment, part.extent.end)?;
        }
        replica.take(stream.id(sequence), &part)?;
    }
    Ok(())
}

/// What of a segment is in the copy of a stream that ends there.
fn part<'a>(store: &'a Store, segment: &'a Segment, name: &'a str, end: &End) -> Part<'a> {
    if segment.id.sequence != end.sequence {
        let (extent, share) = (segment.extent(), Some(&*store.dir));
        return Part { segment, name, extent, ending: Ending::Original, share };
    }
    let extent = end.extent;
    let ending =
        if end.sealed { Ending::Cut(extent.end) } else { mark(segment, extent, end.last_ms) };
    Part { segment, name, extent, ending, share: None }
}
