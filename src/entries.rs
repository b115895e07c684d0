//! Reading a key in order, forwards and backwards, a chunk at a time.

mod cursor;
mod merge;
mod tail;

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use self::cursor::{Backward, Cursor, SINGLE_READ_BYTES, seek_index};
use crate::chains::{Chain, Node, Present};
use crate::entry::{Entry, EntrySlice};
use crate::error::{Result, WalError};
use crate::format::FrameHeader;
use crate::report::count;
use crate::scan::{self, Frame, seek};
use crate::segment::Segment;
use crate::store::Store;
use crate::stream::Stream;

pub(crate) use self::cursor::entry_in;
pub use self::merge::Merge;
pub(crate) use self::tail::Tail;

/// The entries of one key, oldest first; see [`Wal::entries`](crate::Wal::entries).
///
/// The iterator shows the entries that existed when it was made. It reads 64 KiB at a time, or an entry
/// where that is longer, and keeps no more, whatever the key holds; backwards it keeps the entries of one
/// such chunk in hand. An entry it returned shares the chunk it was read with: copy what you keep for
/// long.
///
/// Damage shows as one [`Corrupted`](WalError::Corrupted) error for each damaged span that held entries
/// of the range; the next call goes on behind it. Segments that retention drops while the iterator is
/// on its way show as one [`Expired`](WalError::Expired) each; an I/O error ends the reading of its
/// segment. So whoever stops at the first error misses nothing unnoticed, and whoever goes on gets
/// everything that can be had.
///
/// Entries that had been dropped before the iterator was made are no error: it starts at the oldest
/// one kept.
pub struct Entries<'a> {
    store: &'a Store,
    stream: Option<Arc<Stream>>,
    chain: Arc<Chain>,
    newest: Option<(Arc<Segment>, Present)>,
    /// Indexes still to be returned, seen from the front and from the back.
    from: u64,
    to: u64,
    /// Positions in the row of segments: the next one for the front, the one behind the next for the
    /// back.
    front_node: usize,
    back_node: usize,
    front: Option<Cursor>,
    back: Option<Backward>,
    /// The end of the newest segment is damaged, and that was not reported yet.
    lost_tail: Option<WalError>,
    /// Entries returned, counted once for all at the end.
    read: u64,
}

impl<'a> Entries<'a> {
    pub(crate) fn new(store: &'a Store, stream: Option<Arc<Stream>>) -> Result<Self> {
        let loaded = stream.as_ref().map(|stream| stream.chain(store)).transpose()?.flatten();
        let (chain, newest) = match loaded {
            Some((chain, segment)) => {
                let present = Present::of(&segment);
                (chain, Some((segment, present)))
            }
            None => (Arc::default(), None),
        };
        let lost_tail = stream.as_ref().and_then(|stream| store.lost_tails.get(stream.hash));
        let lost_tail = lost_tail.map(|lost| lost.error());
        let nodes = chain.nodes.len().saturating_add(usize::from(newest.is_some()));
        let to = newest.as_ref().map_or(0, |(_, present)| present.next_index);
        Ok(Self {
            store,
            stream,
            chain,
            newest,
            from: 0,
            to,
            front_node: 0,
            back_node: nodes,
            front: None,
            back: None,
            lost_tail,
            read: 0,
        })
    }

    /// Narrows to the entries with these indexes.
    #[must_use]
    pub fn range(mut self, indexes: impl RangeBounds<u64>) -> Self {
        self.from = self.from.max(lower(indexes.start_bound()));
        if let Some(end) = upper(indexes.end_bound()) {
            self.limit(end);
        }
        self
    }

    /// Narrows to the entries appended at these times, in milliseconds since 1970. Costs a search of a
    /// logarithmic number of reads.
    ///
    /// # Errors
    /// As reading gives.
    pub fn time_range(mut self, times_ms: impl RangeBounds<u64>) -> Result<Self> {
        let from = self.first_at(lower(times_ms.start_bound()))?;
        self.from = self.from.max(from);
        if let Some(end_ms) = upper(times_ms.end_bound()) {
            let end = self.first_at(end_ms)?;
            self.limit(end);
        }
        Ok(self)
    }

    /// Narrows to the last `n` entries of what is left.
    #[must_use]
    pub fn last_n(mut self, n: u64) -> Self {
        self.from = self.from.max(self.to.saturating_sub(n));
        self
    }

    /// Narrows to the entries from this index on, and is strict: for who must not miss any. An index that the log
    /// has not reached yet is no error: then there are no entries.
    ///
    /// # Errors
    /// [`Behind`](WalError::Behind) if the entry with this index has been dropped.
    pub fn starting_at(self, wanted: u64) -> Result<Self> {
        let oldest = self.oldest();
        if wanted < oldest {
            return Err(WalError::Behind { wanted, oldest });
        }
        Ok(self.range(wanted..))
    }

    /// Index of the first entry that is kept and not older than `time_ms`; behind the last if there is none.
    pub(crate) fn index_at(&self, time_ms: u64) -> Result<u64> {
        Ok(self.first_at(time_ms)?.max(self.oldest()))
    }

    /// Index of the oldest entry that was not dropped.
    fn oldest(&self) -> u64 {
        self.node(0).map_or(0, |node| node.first_index())
    }

    fn limit(&mut self, end: u64) {
        if end < self.to {
            self.to = end;
            self.lost_tail = None;
        }
    }

    fn node(&self, at: usize) -> Option<Node> {
        match self.chain.nodes.get(at) {
            Some(node) => Some(node.clone()),
            None if at == self.chain.nodes.len() => {
                self.newest.as_ref().map(|(_, present)| Node::Present(*present))
            }
            None => None,
        }
    }

    fn open(&self, present: &Present) -> Result<Arc<Segment>> {
        match (&self.newest, &self.stream) {
            (Some((segment, newest)), _) if newest.sequence == present.sequence => {
                Ok(Arc::clone(segment))
            }
            (_, Some(stream)) => stream.segment(self.store, present.sequence),
            _ => Err(WalError::Expired),
        }
    }

    /// Index of the first entry not older than `time_ms`; behind the last if there is none.
    fn first_at(&self, time_ms: u64) -> Result<u64> {
        // Only in the last segment created before that moment can there be entries on both sides of it.
        let nodes = self.chain.nodes.len().saturating_add(usize::from(self.newest.is_some()));
        for at in (0..nodes).rev() {
            let Some(Node::Present(present)) = self.node(at) else { continue };
            if present.created_ms >= time_ms {
                continue;
            }
            let segment = self.open(&present)?;
            let since = time_ms.saturating_sub(segment.created_ms);
            let before = |header: &FrameHeader| u64::from(header.timestamp) < since;
            let start =
                seek(segment.file(), segment.seed, segment.frames_start, present.end, before)
                    .map_err(|source| segment.io_error("read an entry", source))?;
            let mut cursor = Cursor::new(segment, &present, start, 0, SINGLE_READ_BYTES);
            while let Some(result) = cursor.next(self.store.options.max_entry_bytes) {
                match result {
                    Ok(frame) if u64::from(frame.header.timestamp) >= since => {
                        return Ok(cursor.index(&frame));
                    }
                    Ok(_) | Err(WalError::Corrupted { .. } | WalError::TooLarge { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(present.next_index);
        }
        Ok(0)
    }

    /// The next thing the front finds, up to `self.to`.
    fn next_front(&mut self) -> Option<Result<Frame>> {
        loop {
            if let Some(cursor) = &mut self.front {
                if self.from >= self.to {
                    return None;
                }
                match cursor.next(self.store.options.max_entry_bytes) {
                    Some(Ok(frame)) if cursor.index(&frame) >= self.to => {
                        self.from = self.to;
                        return None;
                    }
                    Some(result) => {
                        self.from = self.from.max(cursor.reached());
                        return Some(result);
                    }
                    None => {
                        self.from = self.from.max(cursor.present.next_index);
                        self.front = None;
                    }
                }
            }
            let node = self.node(self.front_node)?;
            if node.first_index() >= self.to {
                return None;
            }
            self.front_node = self.front_node.saturating_add(1);
            if node.next_index() <= self.from {
                continue;
            }
            match self.enter(&node) {
                Ok((segment, present)) => match self.cursor_from(segment, &present) {
                    Ok(cursor) => self.front = Some(cursor),
                    Err(error) => {
                        self.from = node.next_index();
                        return Some(Err(error));
                    }
                },
                Err(error) => {
                    self.from = node.next_index();
                    return Some(Err(error));
                }
            }
        }
    }

    fn enter(&self, node: &Node) -> Result<(Arc<Segment>, Present)> {
        match node {
            Node::Present(present) => Ok((self.open(present)?, *present)),
            Node::Lost(lost) => Err(lost.error()),
        }
    }

    fn cursor_from(&self, segment: Arc<Segment>, present: &Present) -> Result<Cursor> {
        let start = seek_index(&segment, present, self.from)?;
        Ok(Cursor::new(segment, present, start, self.from, scan::CHUNK_BYTES))
    }

    /// The next thing the back finds, down to `self.from`.
    fn next_back_inner(&mut self) -> Option<Result<Entry>> {
        loop {
            if self.from >= self.to {
                return None;
            }
            if let Some(back) = &mut self.back {
                match back.next(self.store, self.from, self.to) {
                    Some(Ok(entry)) => {
                        self.to = entry.index;
                        return Some(Ok(entry));
                    }
                    Some(error) => return Some(error),
                    None => {
                        self.to = self.to.min(back.present.first_index);
                        self.back = None;
                        continue;
                    }
                }
            }
            self.back_node = self.back_node.checked_sub(1)?;
            let node = self.node(self.back_node)?;
            if node.first_index() >= self.to {
                continue;
            }
            if node.next_index() <= self.from {
                return None;
            }
            match self.enter(&node) {
                Ok((segment, present)) => self.back = Some(Backward::new(segment, present)),
                Err(error) => {
                    self.to = self.to.min(node.first_index());
                    return Some(Err(error));
                }
            }
        }
    }
}

impl Entries<'_> {
    /// The next entry, borrowed from the read buffer: what [`next`](Iterator::next) returns, without its
    /// share in the chunk. The fastest way to read in order.
    ///
    /// ```
    /// # use keywal::{Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// # wal.append_entry("count", None, "12345", false)?;
    /// let mut bytes = 0;
    /// let mut entries = wal.entries("count")?;
    /// while let Some(entry) = entries.next_slice() {
    ///     bytes += entry?.content.len();
    /// }
    /// assert_eq!(bytes, 5);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_slice(&mut self) -> Option<Result<EntrySlice<'_>>> {
        if let Some(frame) = self.next_at_hand() {
            return self.front.as_ref().map(|cursor| Ok(cursor.borrowed(&frame)));
        }
        match self.next_frame()? {
            Ok(frame) => self.front.as_ref().map(|cursor| Ok(cursor.borrowed(&frame))),
            Err(error) => Some(Err(error)),
        }
    }

    /// The next entry in nearly every case; the rest is left to [`Self::next_frame`].
    #[inline]
    fn next_at_hand(&mut self) -> Option<Frame> {
        if self.from >= self.to || self.store.check_open().is_err() {
            return None;
        }
        let cursor = self.front.as_mut()?;
        let frame = cursor.next_at_hand(self.to, self.store.options.max_entry_bytes)?;
        self.from = cursor.reached();
        self.read = self.read.saturating_add(1);
        Some(frame)
    }

    fn next_frame(&mut self) -> Option<Result<Frame>> {
        if let Err(error) = self.store.check_open() {
            self.stop();
            return self.stream.take().map(|_| Err(error));
        }
        let found = self.next_front().or_else(|| self.lost_tail.take().map(Err));
        let found = found.map(|found| self.store.damage.noted(found));
        self.read = self.read.saturating_add(u64::from(matches!(found, Some(Ok(_)))));
        found
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(frame) = self.next_at_hand() {
            return self.front.as_ref().map(|cursor| Ok(cursor.owned(&frame)));
        }
        match self.next_frame()? {
            Ok(frame) => self.front.as_ref().map(|cursor| Ok(cursor.owned(&frame))),
            Err(error) => Some(Err(error)),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, None)
    }
}

impl DoubleEndedIterator for Entries<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.store.check_open() {
            self.stop();
            return self.stream.take().map(|_| Err(error));
        }
        let item = self.lost_tail.take().map(Err).or_else(|| self.next_back_inner());
        let item = item.map(|item| self.store.damage.noted(item));
        self.read = self.read.saturating_add(u64::from(matches!(item, Some(Ok(_)))));
        item
    }
}

impl std::iter::FusedIterator for Entries<'_> {}

impl Entries<'_> {
    fn stop(&mut self) {
        self.from = self.to;
        self.lost_tail = None;
        self.front = None;
        self.back = None;
    }
}

impl Drop for Entries<'_> {
    fn drop(&mut self) {
        count(&self.store.counters.read_entries, self.read);
    }
}

impl std::fmt::Debug for Entries<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entries")
            .field("from", &self.from)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// The contents of one key's entries; see [`Wal::enumerate_records`](crate::Wal::enumerate_records).
#[derive(Debug)]
pub struct Records<'a>(pub(crate) Entries<'a>);

impl Iterator for Records<'_> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|entry| entry.map(|entry| entry.content))
    }
}

impl DoubleEndedIterator for Records<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|entry| entry.map(|entry| entry.content))
    }
}

fn lower(bound: Bound<&u64>) -> u64 {
    match bound {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    }
}

/// The first value that is not in; `None`: all are.
fn upper(bound: Bound<&u64>) -> Option<u64> {
    match bound {
        Bound::Included(last) => last.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => None,
    }
}
