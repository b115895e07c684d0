//! Dropping segments: retention, truncation, removal of a key.
//!
//! The oldest go first, the newest never goes, and before anything is unlinked, whatever takes its
//! place survives power loss. A crash in between leaves more files, never fewer entries.

use std::ffi::OsStr;

use super::expire::Due;
use super::{Catalog, Phase, Stream, Writer};
use crate::chains::{Chain, Node, Present};
use crate::error::{Result, WalError};
use crate::format::FileHeader;
use crate::fs::is_no_file;
use crate::report::{CompactionReport, count};
use crate::segment::Segment;
use crate::store::Store;

/// A segment that is to be dropped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doomed {
    pub(super) sequence: u32,
    bytes: u32,
    entries: u64,
    /// 0: a crash has left it of earlier drops.
    pub(super) expiration_ms: u64,
    /// If others that are to be dropped survive a crash instead of this one, recovery knows why.
    pub(super) explained: bool,
}

impl Stream {
    /// Nothing is dropped once the log is closed, nor while a removal waits for recovery.
    pub(super) fn check_discardable(&self, store: &Store, writer: &Writer) -> Result<()> {
        store.check_open()?;
        if writer.phase == Phase::Stuck { Err(self.stuck(store, writer)) } else { Ok(()) }
    }

    /// Starts an empty segment that carries the numbers on. A full disk is not the end: the error is
    /// returned as a value, because to drop the other segments makes space.
    pub(super) fn succeed(
        &self,
        store: &Store,
        writer: &mut Writer,
        now_ms: u64,
    ) -> Result<Option<WalError>> {
        // One that a reader has opened need not be in the cache, and if its sync failed, nobody would know.
        let newest = self.segment_to_append(store, writer)?;
        match self.rotate(store, writer, &newest, now_ms) {
            Ok(_) => Ok(None),
            Err(full @ WalError::StorageFull { .. }) => Ok(Some(full)),
            Err(error) => Err(error),
        }
    }

    /// [`Store::sync_unlinked`] comes next.
    pub(super) fn unlink_one(
        &self,
        store: &Store,
        doomed: Doomed,
        report: &mut CompactionReport,
    ) -> Result<()> {
        let Doomed { sequence, bytes, entries, .. } = doomed;
        let mut catalog = self.catalog();
        if catalog.sequences.binary_search(&sequence).is_err() {
            return Ok(());
        }
        store.dir.remove(&self.file_name(sequence)).map_err(|source| {
            WalError::io(&self.path(store, sequence), "remove the segment", source)
        })?;
        store.note_unlinked(self.id(sequence));
        catalog.remove(sequence);
        catalog.due = Due::default();
        drop(catalog);
        count(&store.counters.dropped_segments, 1);
        count(&store.counters.dropped_bytes, u64::from(bytes));
        count(&store.counters.dropped_entries, entries);
        report.dropped_segments = report.dropped_segments.saturating_add(1);
        report.dropped_bytes = report.dropped_bytes.saturating_add(u64::from(bytes));
        report.dropped_entries = report.dropped_entries.saturating_add(entries);
        Ok(())
    }

    /// Drops the segments that hold only entries before `index`.
    pub(crate) fn truncate_before(&self, store: &Store, index: u64) -> Result<CompactionReport> {
        let mut report = CompactionReport { keys: 1, ..CompactionReport::default() };
        let mut writer = self.writer();
        self.check_discardable(store, &writer)?;
        let Some((chain, newest)) = self.chain(store)? else { return Ok(report) };
        let mut drop = leftovers(&chain);
        let sealed = droppable(&chain);
        let before = sealed.iter().take_while(|present| present.next_index <= index);
        drop.extend(before.map(Doomed::of));
        let all = drop.len() == chain.leftovers.len().saturating_add(chain.nodes.len());
        let mut full = None;
        if all
            && newest.next_index() <= index
            && newest.extent().count > 0
            && writer.phase != Phase::Damaged
        {
            full = self.succeed(store, &mut writer, store.now_ms())?;
            drop.extend(full.is_none().then(|| Doomed::of(&Present::of(&newest))));
        }
        self.unlink_in_order(store, &writer, &drop, &mut report)?;
        full.map_or(Ok(report), Err)
    }

    /// Unlinks segments, the oldest first, by who holds the writer lock. Recovery cannot know the reason for
    /// a gap, so a crash must not leave one: the unlinks survive one after the other.
    fn unlink_in_order(
        &self,
        store: &Store,
        writer: &Writer,
        all: &[Doomed],
        report: &mut CompactionReport,
    ) -> Result<()> {
        if let Some(last) = all.iter().map(|doomed| doomed.sequence).max() {
            // When the others are gone, the newest alone carries the numbers on.
            self.sync_locked(store, writer)?;
            // A name that is lost with the power and not brought back would leave a gap.
            store.sync_names(store.latest_name_change())?;
            store.note_dropped(self.id(last))?;
            store.sync_dropped()?;
        }
        for doomed in all {
            store.sync_unlinked()?;
            self.unlink_one(store, *doomed, report)?;
        }
        store.sync_unlinked()
    }

    /// Unlinks what crashes have left of earlier drops, by who holds the writer lock.
    pub(super) fn unlink_leftovers(&self, store: &Store, writer: &Writer) -> Result<()> {
        let Some((chain, _)) = self.chain(store)? else { return Ok(()) };
        let leftovers = leftovers(&chain);
        if leftovers.is_empty() {
            return Ok(());
        }
        self.unlink_in_order(store, writer, &leftovers, &mut CompactionReport::default())
    }

    /// Unlinks a segment without entries that nothing comes before, by who holds the writer lock.
    pub(super) fn unlink_if_first_and_empty(
        &self,
        store: &Store,
        writer: &Writer,
        segment: &Segment,
    ) -> Result<()> {
        if segment.extent().count > 0 || self.sequences().first() != Some(&segment.id.sequence) {
            return Ok(());
        }
        let doomed = Doomed::of(&Present::of(segment));
        self.unlink_in_order(store, writer, &[doomed], &mut CompactionReport::default())
    }

    /// Removes the key with everything it has. `keep_tombstone`: a key with the next hash value may
    /// exist, and is found only past this one.
    pub(crate) fn remove(
        &self,
        store: &Store,
        writer: &mut Writer,
        keep_tombstone: bool,
    ) -> Result<()> {
        self.check_discardable(store, writer)?;
        let mut sequences = self.sequences();
        if sequences.is_empty() {
            self.unlink_leftovers_of_removal(store, writer)?;
            // A creation that failed and was undone may come back until then.
            store.sync_names(store.latest_name_change())?;
            return self.forget_tombstone(store, writer, keep_tombstone);
        }
        // Of an earlier removal, which nobody would know of afterwards.
        let earlier = writer.tombstone().filter(|earlier| !sequences.contains(earlier));
        sequences.splice(..0, earlier);
        store.check_room_to_drop()?;
        let now_ms = store.now_ms();
        let tombstone = self.create_file(store, writer, |header| FileHeader {
            removed: true,
            created_ms: now_ms,
            // Nothing to keep: it goes as soon as there is something else.
            expiration_ms: 0,
            ..header
        })?;
        // Once the tombstone is on disk, a crash removes the key. Until it is gone here, too, nothing may
        // be appended.
        writer.phase = Phase::Stuck;
        let sequence = tombstone.id.sequence;
        writer.tombstone = sequence;
        store.make_durable(&tombstone, tombstone.extent().end)?;
        store.meta().update(&*store.dir, |meta| meta.floor = meta.floor.max(sequence))?;
        self.finish_removal(store, &sequences)?.map_or(Ok(()), Err)?;
        writer.phase = Phase::Empty;
        writer.last_ms = 0;
        self.forget_tombstone(store, writer, keep_tombstone)
    }

    fn forget_tombstone(&self, store: &Store, writer: &mut Writer, keep: bool) -> Result<()> {
        if let Some(tombstone) = writer.tombstone().filter(|_| !keep) {
            self.unlink_tombstone(store, tombstone)?;
            writer.tombstone = 0;
        }
        Ok(())
    }

    /// Finishes a removal that a crash has cut off; the last of `sequences` is the tombstone. What cannot be
    /// unlinked now, as the value says, is before the key gets a new file.
    pub(crate) fn finish_cut_off_removal(
        &self,
        store: &Store,
        writer: &mut Writer,
        sequences: &[u32],
    ) -> Result<Option<WalError>> {
        let (_, left) = sequences.split_last().unwrap_or((&0, &[]));
        let finished = store.check_writable().and_then(|()| self.finish_removal(store, left));
        writer.leftovers = !matches!(finished, Ok(None));
        finished
    }

    /// Unlinks what the removal of the key should have.
    pub(super) fn unlink_leftovers_of_removal(
        &self,
        store: &Store,
        writer: &mut Writer,
    ) -> Result<()> {
        if writer.leftovers {
            let mut left = self.list_again(store, 0..=writer.tombstone)?;
            left.retain(|sequence| *sequence != writer.tombstone);
            self.finish_removal(store, &left)?.map_or(Ok(()), Err)?;
            writer.leftovers = false;
        }
        Ok(())
    }

    /// Unlinks everything a removed key has left but its tombstone. An unlink that fails does not keep the
    /// others: its error is returned as a value.
    fn finish_removal(&self, store: &Store, left: &[u32]) -> Result<Option<WalError>> {
        let mut catalog = self.catalog();
        // All entries go at once for readers, as they do for recovery.
        *catalog = Catalog::default();
        if let Some(lost) = store.lost_tails.remove(self.hash).filter(|lost| lost.offset == 0) {
            // A file without a header may be anything, and stays.
            let name = lost.path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            store.note_interrupted(name);
        }
        if let Some(last) = left.last() {
            store.note_dropped(self.id(*last))?;
            for sequence in left {
                store.files.remove(self.id(*sequence));
            }
            store.sync_dropped()?;
        }
        let mut failed = None;
        for sequence in left {
            match store.dir.remove(&self.file_name(*sequence)) {
                Ok(()) => count(&store.counters.dropped_segments, 1),
                Err(error) if is_no_file(&error) => {}
                Err(error) => {
                    let path = self.path(store, *sequence);
                    failed.get_or_insert(WalError::io(&path, "remove the segment", error));
                }
            }
            store.name_changed();
        }
        drop(catalog);
        store.sync_names(store.latest_name_change())?;
        Ok(failed)
    }

    /// Unlinks the tombstone of a removed key. It may come back after a crash, which does no harm.
    pub(crate) fn unlink_tombstone(&self, store: &Store, sequence: u32) -> Result<()> {
        let removed = store.dir.remove(&self.file_name(sequence));
        store.name_changed();
        match removed {
            Err(error) if !is_no_file(&error) => {
                Err(WalError::io(&self.path(store, sequence), "remove the segment", error))
            }
            _ => Ok(()),
        }
    }
}

impl Doomed {
    pub(super) fn of(present: &Present) -> Self {
        let entries = present.next_index.saturating_sub(present.first_index);
        Self {
            sequence: present.sequence,
            bytes: present.end,
            entries,
            expiration_ms: present.expiration_ms,
            explained: false,
        }
    }
}

/// What a crash left of earlier drops; counted then.
pub(super) fn leftovers(chain: &Chain) -> Vec<Doomed> {
    let doomed = |sequence: &u32| Doomed {
        sequence: *sequence,
        bytes: 0,
        entries: 0,
        expiration_ms: 0,
        explained: false,
    };
    chain.leftovers.iter().map(doomed).collect()
}

/// The segments at the old end of a chain that can be told to be complete: not those behind one that
/// cannot be read.
pub(super) fn droppable(chain: &Chain) -> Vec<Present> {
    let present = chain.nodes.iter().map_while(|node| match node {
        Node::Present(present) => Some(*present),
        Node::Lost(_) => None,
    });
    present.collect()
}
