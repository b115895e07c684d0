//! Reading on where the log ended: what [`Follow`](crate::Follow) reads with.

use std::sync::Arc;

use super::cursor::{Cursor, seek_index};
use crate::chains::{Node, Present};
use crate::entry::Entry;
use crate::error::{Result, WalError};
use crate::report::count;
use crate::scan::{self, next_header, reach};
use crate::segment::Segment;
use crate::store::Store;
use crate::stream::Stream;

/// Reads a stream that grows. Keeps a file open and a chunk in memory only between entries that are there.
pub(crate) struct Tail {
    /// Everything before this index has been returned or reported.
    next_index: u64,
    durable_only: bool,
    cursor: Option<Cursor>,
    /// Where the last cursor came to its end.
    place: Option<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    sequence: u32,
    offset: u32,
    /// Of the entry that comes there.
    index: u64,
}

impl Tail {
    pub(crate) fn new(next_index: u64) -> Self {
        Self { next_index, durable_only: false, cursor: None, place: None }
    }

    pub(crate) fn set_durable_only(&mut self) {
        self.durable_only = true;
    }

    pub(crate) fn is_durable_only(&self) -> bool {
        self.durable_only
    }

    /// Whether there may be an entry that can be had without looking at the stream.
    pub(crate) fn is_reading(&self) -> bool {
        self.cursor.is_some()
    }

    pub(crate) fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The next entry of those that the last [`Self::next`] has begun to read.
    pub(crate) fn next_begun(&mut self, store: &Store) -> Option<Result<Entry>> {
        let cursor = self.cursor.as_mut()?;
        match cursor.next(store.options.max_entry_bytes) {
            Some(Ok(frame)) => {
                self.next_index = cursor.reached();
                count(&store.counters.read_entries, 1);
                Some(Ok(cursor.owned(&frame)))
            }
            Some(Err(error)) => {
                self.next_index = self.next_index.max(cursor.reached());
                Some(Err(error))
            }
            None => {
                let Present { sequence, end: offset, next_index: index, .. } = cursor.present;
                self.place = Some(Place { sequence, offset, index });
                self.next_index = self.next_index.max(index);
                self.cursor = None;
                None
            }
        }
    }

    /// The next entry, up to the end of `newest`, the newest segment; `None` if there is none yet.
    pub(crate) fn next(
        &mut self,
        store: &Store,
        stream: &Stream,
        newest: &Arc<Segment>,
    ) -> Option<Result<Entry>> {
        loop {
            if let Some(result) = self.next_begun(store) {
                return Some(result);
            }
            match self.begin(store, stream, newest) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Begins to read the segment where the next entry is; `false` if it is not there yet.
    fn begin(&mut self, store: &Store, stream: &Stream, newest: &Arc<Segment>) -> Result<bool> {
        if self.next_index < newest.base_index {
            return self.begin_sealed(store, stream);
        }
        let known = self.place.filter(|place| place.sequence == newest.id.sequence);
        let from = known.map_or(newest.frames_start, |place| place.offset);
        let present = if self.durable_only {
            durable_part(store, newest, from)
        } else {
            Ok(Present::of(newest))
        };
        match present {
            Ok(present) if present.end <= from => Ok(false),
            Ok(present) => self.begin_at(newest, &present),
            Err(error) => self.give_up(&Present::of(newest), error),
        }
    }

    /// As [`Self::begin`], in segments that take no more entries. All that is in them is durable.
    fn begin_sealed(&mut self, store: &Store, stream: &Stream) -> Result<bool> {
        let Some((chain, newest)) = stream.chain(store)? else { return Ok(false) };
        let at = chain.nodes.partition_point(|node| node.next_index() <= self.next_index);
        let first_index = chain.nodes.get(at).map_or(newest.base_index, Node::first_index);
        if first_index > self.next_index {
            let wanted = std::mem::replace(&mut self.next_index, first_index);
            return Err(WalError::Behind { wanted, oldest: first_index });
        }
        match chain.nodes.get(at) {
            Some(Node::Present(present)) => match stream.segment(store, present.sequence) {
                Ok(segment) => self.begin_at(&segment, present),
                // Dropped meanwhile: the row has changed.
                Err(WalError::Expired) => Ok(true),
                Err(error) => self.give_up(present, error),
            },
            Some(Node::Lost(lost)) => {
                self.next_index = lost.next_index;
                Err(lost.error())
            }
            None => Ok(true),
        }
    }

    fn begin_at(&mut self, segment: &Arc<Segment>, present: &Present) -> Result<bool> {
        match self.cursor_in(segment, present) {
            Ok(cursor) => {
                self.cursor = Some(cursor);
                Ok(true)
            }
            Err(error) => self.give_up(present, error),
        }
    }

    /// Goes on behind what cannot be read, so that nobody is told the same for ever.
    fn give_up(&mut self, present: &Present, error: WalError) -> Result<bool> {
        self.next_index = self.next_index.max(present.next_index);
        Err(error)
    }

    fn cursor_in(&self, segment: &Arc<Segment>, present: &Present) -> Result<Cursor> {
        let segment = Arc::clone(segment);
        let wanted = self.next_index;
        let place = self.place.filter(|place| place.sequence == present.sequence);
        if let Some(Place { offset, index, .. }) = place {
            return Ok(Cursor::resume(segment, present, offset, index, wanted));
        }
        let start = seek_index(&segment, present, wanted)?;
        Ok(Cursor::new(segment, present, start, wanted, scan::CHUNK_BYTES))
    }
}

/// The part of the newest segment that survives power loss, as far as it goes beyond `from`.
fn durable_part(store: &Store, segment: &Segment, from: u32) -> Result<Present> {
    // A mark that is read before the extent is not beyond it.
    let (in_file, proven) = (reach(segment.durable_in_file()), segment.proven());
    let present = Present::of(segment);
    let mut end = proven;
    // The name is mostly known to be durable. Else whoever synced the file is about to sync that, or the file
    // was opened again since, and what became of its name was forgotten. A failure wakes and ends who follows.
    if in_file > proven.max(from)
        && store.check_process().is_ok()
        && store.sync_names(segment.name_change()).is_ok()
    {
        end = in_file;
    }
    if end <= from {
        return Ok(Present { end: from, ..present });
    }
    if end >= present.end {
        return Ok(present);
    }
    // What comes behind the durable part knows its index.
    let behind = next_header(segment.file(), segment.seed, end, present.end)
        .map_err(|source| segment.io_error("read an entry", source))?;
    let next_index = behind.map_or(present.next_index, |frame| {
        segment.base_index.saturating_add(u64::from(frame.header.index))
    });
    Ok(Present { next_index, end, ..present })
}
