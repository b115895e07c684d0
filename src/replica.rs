//! A directory that is put together from the files of another one.
//!
//! Its `META` says that it is incomplete, durably, before the first file comes, and that it is complete
//! once all of them are durable, with their names. In between it is no log, and nobody can take it for one.
//! What an earlier run left is used again as far as it is what it should be: files of a complete copy are
//! told by their headers, lengths and ends, those of one that was cut off are compared byte for byte with
//! what the disk has.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

mod compare;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::thread;

use self::compare::is_there;
pub(crate) use self::compare::{has_entries, has_more};
use crate::error::{Result, WalError};
use crate::format::{
    FrameFlags, FrameHeader, MAX_SEQUENCE, Meta, SLOT_OFFSETS, SegmentId, SegmentName,
};
use crate::fs::{Dir, File, LOCK_NAME, Lock, OpenMode, len_u64, read_full, write_full};
use crate::primitives::atomic::{AtomicUsize, Ordering};
use crate::recovery::{LOST_FLOOR_GAP, fingerprint};
use crate::report::{Finding, RecoveryReport, SnapshotReport};
use crate::scan::reach;
use crate::segment::{Extent, Segment};
use crate::store::{META_NAME, MetaFile, read_slots};

/// How much is copied at a time.
const COPY_BYTES: usize = 256 << 10;
/// So many copies are synced together, by so many threads: then their syncs share what the file system has to
/// write for each.
const SYNCED_TOGETHER: usize = 128;
const SYNC_THREADS: usize = 16;
/// What may be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Empty,
    EmptyOrEarlier,
}

/// What an earlier run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    Nothing,
    Complete,
    CutOff,
}

/// How a file of the copy ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// As its original.
    Original,
    /// Nothing comes behind these bytes, the last of which are a seal.
    Cut(u32),
    /// Behind these bytes comes this frame, a mark.
    Mark(u32, [u8; FrameHeader::BYTES]),
}

impl Ending {
    /// What comes behind the bytes of the original.
    fn mark(&self) -> &[u8] {
        match self {
            Self::Original | Self::Cut(_) => &[],
            Self::Mark(_, mark) => mark,
        }
    }
}

/// A segment that is to be in the copy.
pub(crate) struct Part<'a> {
    pub(crate) segment: &'a Segment,
    pub(crate) name: &'a str,
    /// How much of it counts.
    pub(crate) extent: Extent,
    pub(crate) ending: Ending,
    /// The original never changes, and may be shared.
    pub(crate) share: Option<&'a dyn Dir>,
}

impl Part<'_> {
    /// How much of the original's file goes into the copy.
    fn bytes(&self) -> Result<u64> {
        match self.ending {
            Ending::Original => Ok(u64::from(reach(self.segment.file_bytes()?))),
            Ending::Cut(end) | Ending::Mark(end, _) => Ok(u64::from(end)),
        }
    }
}

pub(crate) struct Replica<'a> {
    dir: &'a dyn Dir,
    _lock: Box<dyn Lock>,
    meta: MetaFile,
    earlier: Earlier,
    taken: Vec<SegmentId>,
    /// Copies that have yet to be made durable.
    unsynced: Vec<(Box<dyn File>, PathBuf)>,
    pub(crate) report: SnapshotReport,
}

impl<'a> Replica<'a> {
    /// Locks the directory, refuses what must not be touched, and says that it is incomplete. `may_change`
    /// is asked before an earlier copy is changed, and told which.
    pub(crate) fn begin(
        dir: &'a dyn Dir,
        directory_id: u64,
        target: Target,
        may_change: impl FnOnce(Earlier) -> Result<()>,
    ) -> Result<Self> {
        // Before the lock's file is made in somebody's directory.
        let facts = dir.open(META_NAME, OpenMode::Read);
        if facts.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && !is_empty(dir)? {
            return Err(WalError::NotEmpty { path: dir.path().to_owned() });
        }
        let lock = dir.lock().map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => WalError::Locked { path: dir.path().to_owned() },
            _ => WalError::io(&dir.path().join(LOCK_NAME), "lock the directory", source),
        })?;
        let path = dir.path().join(META_NAME);
        let meta_error = |operation| {
            let path = &path;
            move |source| WalError::io(path, operation, source)
        };
        let file = match dir.open(META_NAME, OpenMode::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            result => Some(result.map_err(meta_error("open the directory's facts"))?),
        };
        let slots = file.as_deref().map_or(Ok([None, None]), |file| {
            let fresh = file.sync_data().and_then(|()| file.drop_cache());
            fresh.map_err(meta_error("sync the directory's facts"))?;
            read_slots(file, &path)
        })?;
        let before = slots.into_iter().flatten().max_by_key(|meta| meta.generation);
        let earlier = match &before {
            None if is_empty(dir)? => Earlier::Nothing,
            Some(meta)
                if target == Target::EmptyOrEarlier
                    && meta.copy
                    && meta.directory_id == directory_id =>
            {
                if meta.incomplete {
                    Earlier::CutOff
                } else {
                    Earlier::Complete
                }
            }
            _ => return Err(WalError::NotEmpty { path: dir.path().to_owned() }),
        };
        if earlier != Earlier::Nothing {
            may_change(earlier)?;
        }
        let file = match file {
            Some(file) => file,
            None => dir
                .open(META_NAME, OpenMode::CreateNew)
                .map_err(meta_error("create the directory's facts"))?,
        };
        let generation = before.map_or(0, |meta| meta.generation);
        let state =
            Meta { copy: true, incomplete: true, directory_id, generation, ..Meta::default() };
        let mut meta = MetaFile::new(file, state);
        for _ in SLOT_OFFSETS {
            meta.rewrite(dir)?;
        }
        sync_names(dir)?;
        let report = SnapshotReport::default();
        let (taken, unsynced) = (Vec::new(), Vec::new());
        Ok(Self { dir, _lock: lock, meta, earlier, taken, unsynced, report })
    }

    /// Puts a segment there, unless it is, and checks every entry that was not checked by an earlier run.
    pub(crate) fn take(&mut self, id: SegmentId, part: &Part<'_>) -> Result<()> {
        let (original, end) = (part.segment.file(), part.bytes()?);
        let error = |operation| move |source| part.segment.io_error(operation, source);
        let there = is_there(self.dir, self.earlier, part)?;
        if !there {
            self.make_way(part.name)?;
            let linked = match part.share {
                Some(from) => self.link(from, part.name)?,
                None => false,
            };
            if linked {
                self.report.linked_segments = self.report.linked_segments.saturating_add(1);
            } else {
                self.copy(original, end, part.name, part.ending.mark())?;
            }
        }
        let file = self.open(part.name)?;
        let bytes = file.len().map_err(error("ask for the length of the copy"))?;
        if there && self.earlier == Earlier::Complete {
            self.report.kept_segments = self.report.kept_segments.saturating_add(1);
        } else {
            for finding in part.segment.check(&*file, part.extent)?.damaged {
                self.note(finding);
            }
        }
        self.report.segments = self.report.segments.saturating_add(1);
        self.report.entries = self.report.entries.saturating_add(u64::from(part.extent.count));
        self.report.bytes = self.report.bytes.saturating_add(bytes);
        self.taken.push(id);
        Ok(())
    }

    /// Puts a file there as it is. `unreadable`: nobody can tell what it holds.
    pub(crate) fn take_raw(
        &mut self,
        from: &dyn Dir,
        id: SegmentId,
        name: &str,
        unreadable: bool,
    ) -> Result<()> {
        let path = from.path().join(name);
        let file = match from.open(name, OpenMode::Read) {
            // None of ours, whatever its name; or gone since, which in a directory that is in use may be.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(());
            }
            file => file.map_err(|source| WalError::io(&path, "open the segment", source))?,
        };
        let bytes =
            file.len().map_err(|source| WalError::io(&path, "ask for the length", source))?;
        self.make_way(name)?;
        self.copy(&*file, bytes, name, &[])?;
        if unreadable {
            let what = "copied as it is and not counted, since its key is damaged: verify says what of it can be read"
                .to_owned();
            self.note(Finding { path, offset: 0, bytes, what });
        }
        self.report.segments = self.report.segments.saturating_add(1);
        self.report.bytes = self.report.bytes.saturating_add(bytes);
        self.taken.push(id);
        Ok(())
    }

    pub(crate) fn note(&mut self, finding: Finding) {
        RecoveryReport::note(&mut self.report.damaged, finding);
    }

    /// Removes what is no part of the copy, and says that it is complete. `original`: the facts of the
    /// directory it was made from.
    pub(crate) fn finish(mut self, original: &Meta) -> Result<SnapshotReport> {
        self.sync_copies()?;
        self.taken.sort_unstable();
        let mut stale = Vec::new();
        list(self.dir, &mut |name| {
            if let Some(parsed) = SegmentName::parse(name) {
                let id = SegmentId { key_hash: parsed.key_hash, sequence: parsed.sequence };
                if self.taken.binary_search(&id).is_err() {
                    stale.push(name.to_owned());
                }
            }
        })?;
        for name in stale {
            self.make_way(&name)?;
            self.report.removed_segments = self.report.removed_segments.saturating_add(1);
        }
        sync_names(self.dir)?;
        let (segments, digest) = fingerprint(self.dir)?;
        let highest = self.taken.iter().map(|id| id.sequence).max().unwrap_or(0);
        // What the original goes on with is not used here: no reference into it meets entries of the copy.
        let floor = original.floor.max(highest).saturating_add(LOST_FLOOR_GAP).min(MAX_SEQUENCE);
        self.meta.update(self.dir, |meta| {
            let (copy, incomplete) = (true, false);
            let generation = meta.generation;
            *meta =
                Meta { copy, incomplete, floor, generation, segments, digest, ..original.clone() };
            meta.journal_bytes = 0;
        })?;
        // Both slots, so that one that is damaged later does not say that the copy is incomplete.
        self.meta.rewrite(self.dir)?;
        Ok(self.report)
    }

    /// Removes a file that has this name.
    fn make_way(&self, name: &str) -> Result<()> {
        match self.dir.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(WalError::io(&self.dir.path().join(name), "remove the file", error))
            }
            _ => Ok(()),
        }
    }

    /// `false` where the two directories cannot share files.
    fn link(&self, from: &dyn Dir, name: &str) -> Result<bool> {
        match self.dir.link(from, name) {
            Ok(()) => Ok(true),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::CrossesDevices
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::PermissionDenied
                        | io::ErrorKind::TooManyLinks
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(WalError::io(&self.dir.path().join(name), "link the file", error)),
        }
    }

    fn copy(&mut self, from: &dyn File, end: u64, name: &str, behind: &[u8]) -> Result<()> {
        let path = self.dir.path().join(name);
        let file = self
            .dir
            .open(name, OpenMode::CreateNew)
            .map_err(|source| WalError::io(&path, "create the copy", source))?;
        let copy = || -> io::Result<()> {
            let mut buffer = Vec::new();
            let mut at = 0;
            while at < end {
                let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
                buffer.resize(left.min(COPY_BYTES), 0);
                let read = read_full(from, &mut buffer, at)?;
                let Some(bytes @ [_, ..]) = buffer.get(..read) else { break };
                write_full(&*file, &mut [IoSlice::new(bytes)], at)?;
                at = at.saturating_add(len_u64(read));
            }
            if !behind.is_empty() {
                write_full(&*file, &mut [IoSlice::new(behind)], end)?;
            }
            Ok(())
        };
        copy().map_err(|source| WalError::io(&path, "copy the segment", source))?;
        self.unsynced.push((file, path));
        if self.unsynced.len() >= SYNCED_TOGETHER {
            self.sync_copies()?;
        }
        self.report.copied_segments = self.report.copied_segments.saturating_add(1);
        let bytes = end.saturating_add(len_u64(behind.len()));
        self.report.copied_bytes = self.report.copied_bytes.saturating_add(bytes);
        Ok(())
    }

    /// Makes the copies durable but for their names.
    fn sync_copies(&mut self) -> Result<()> {
        let copies = std::mem::take(&mut self.unsynced);
        let next = AtomicUsize::new(0);
        let sync = || -> Result<()> {
            while let Some((file, path)) = copies.get(next.fetch_add(1, Ordering::Relaxed)) {
                file.sync_data().map_err(|source| WalError::io(path, "sync the copy", source))?;
            }
            Ok(())
        };
        if copies.len() < SYNC_THREADS {
            return sync();
        }
        let panicked =
            || WalError::io(self.dir.path(), "sync the copy", io::ErrorKind::Other.into());
        thread::scope(|scope| {
            let threads: Vec<_> = (0..SYNC_THREADS).map(|_| scope.spawn(sync)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| thread.join();
            // All of them, so that none is left when the first failure is reported.
            let results: Vec<_> = threads.into_iter().map(join).collect();
            results.into_iter().try_for_each(|result| result.unwrap_or_else(|_| Err(panicked())))
        })
    }

    fn open(&self, name: &str) -> Result<Box<dyn File>> {
        self.dir
            .open(name, OpenMode::Read)
            .map_err(|source| WalError::io(&self.dir.path().join(name), "open the copy", source))
    }
}

/// Files that are copied as they are, by key hash.
#[derive(Default)]
pub(crate) struct RawFiles(BTreeMap<u64, Raw>);

struct Raw {
    /// Nobody can tell what they hold; else they are what a removed key has left.
    unreadable: bool,
    /// Those with other numbers are not meant.
    sequences: RangeInclusive<u32>,
    names: Vec<(u32, String)>,
}

impl RawFiles {
    pub(crate) fn has(&self, key_hash: u64) -> bool {
        self.0.contains_key(&key_hash)
    }

    pub(crate) fn note_unreadable(&mut self, key_hash: u64) {
        self.0
            .insert(key_hash, Raw { unreadable: true, sequences: 0..=u32::MAX, names: Vec::new() });
    }

    /// Of a removed key the file that says so: the key may be used again meanwhile.
    pub(crate) fn note_removed(&mut self, key_hash: u64, tombstone: u32) {
        let sequences = tombstone..=tombstone;
        self.0.insert(key_hash, Raw { unreadable: false, sequences, names: Vec::new() });
    }

    /// Puts all of them into a copy of their directory.
    pub(crate) fn take(mut self, from: &dyn Dir, replica: &mut Replica<'_>) -> Result<()> {
        list(from, &mut |name| {
            if let Some(parsed) = SegmentName::parse(name) {
                let raw = self.0.get_mut(&parsed.key_hash);
                if let Some(raw) = raw.filter(|raw| raw.sequences.contains(&parsed.sequence)) {
                    raw.names.push((parsed.sequence, name.to_owned()));
                }
            }
        })?;
        for (key_hash, raw) in self.0 {
            for (sequence, name) in raw.names {
                replica.take_raw(from, SegmentId { key_hash, sequence }, &name, raw.unreadable)?;
            }
        }
        Ok(())
    }
}

/// The frame that ends the copy of a segment, of which `extent` counts.
pub(crate) fn mark(segment: &Segment, extent: Extent, last_ms: u64) -> Ending {
    let timestamp = u32::try_from(last_ms.saturating_sub(segment.created_ms)).unwrap_or(u32::MAX);
    let header = FrameHeader {
        flags: FrameFlags::MARK,
        header_bytes: 0,
        content_bytes: 0,
        index: extent.count,
        timestamp,
        watermark: extent.end,
        payload_checksum: segment.seed.checksum(extent.end, &[]),
    };
    Ending::Mark(extent.end, header.to_bytes(segment.seed, extent.end))
}

/// Whether there is nothing in the directory but what [`Replica::begin`] itself may have left.
fn is_empty(dir: &dyn Dir) -> Result<bool> {
    let mut empty = true;
    dir.list(&mut |name| empty &= name == LOCK_NAME || name == META_NAME)
        .map_err(|source| WalError::io(dir.path(), "list the directory", source))?;
    Ok(empty)
}

fn list(dir: &dyn Dir, each: &mut dyn FnMut(&str)) -> Result<()> {
    dir.list(&mut |name| name.to_str().into_iter().for_each(&mut *each))
        .map_err(|source| WalError::io(dir.path(), "list the directory", source))
}

fn sync_names(dir: &dyn Dir) -> Result<()> {
    dir.sync().map_err(|source| WalError::io(dir.path(), "sync the directory", source))
}
