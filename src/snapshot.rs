//! A copy of a directory that is in use.
//!
//! The cut ([`crate::cuts`]) says where each stream ends in the copy. Sealed segments never change, and are
//! linked; of the one that was the newest, what comes before the cut is copied. Meanwhile nothing is
//! dropped: who wants to waits.

use std::sync::PoisonError;
use std::time::Instant;

use crate::cuts::{End, Ends};
use crate::error::{Result, WalError};
use crate::fs::Dir;
use crate::primitives::atomic::Ordering;
use crate::replica::{Ending, Part, RawFiles, Replica, Target, mark};
use crate::report::SnapshotReport;
use crate::store::Store;
use crate::stream::{Phase, Stream};
use crate::streams::Streams;

pub(crate) fn snapshot(store: &Store, streams: &Streams, dir: &dyn Dir) -> Result<SnapshotReport> {
    let started = Instant::now();
    let _nothing_is_dropped = store.discards.write().unwrap_or_else(PoisonError::into_inner);
    store.check_open()?;
    let mut replica = Replica::begin(dir, store.directory_id, Target::EmptyOrEarlier)?;
    let mut raw = RawFiles::default();
    let ends = cut(store, streams, &mut raw)?;
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
        let newest = sequence == end.sequence;
        let extent = if newest { end.extent } else { segment.extent() };
        let share = if newest { None } else { Some(&*store.dir) };
        if !newest {
            // The journal may have bytes of it, and the disk may not have all that the file has.
            store.make_file_durable(&segment, extent.end)?;
        }
        let ending = match newest {
            true if end.sealed => Ending::Cut(extent.end),
            true => mark(&segment, extent, end.last_ms),
            false => Ending::Original,
        };
        replica.take(
            stream.id(sequence),
            &Part { segment: &segment, name: &name, extent, ending, share },
        )?;
    }
    Ok(())
}
