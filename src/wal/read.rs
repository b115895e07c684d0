//! Reading: by reference, by index, in order.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;

use super::Wal;
use crate::chains::{Node, Present};
use crate::entries::{Entries, Merge, Records, entry_in};
use crate::entry::{Entry, EntryRef, EntrySlice, Key};
use crate::error::{Result, WalError};
use crate::format::{FrameFlags, FrameHeader, MAX_KEY_BYTES, SegmentId};
use crate::primitives::thread_local;
use crate::report::{SegmentInfo, count};
use crate::segment::Segment;
use crate::stream::Stream;

/// Entries above this size are returned in the buffer they were read into, smaller ones are copied out
/// of one that is used again.
const OWN_BUFFER_BYTES: usize = 16 << 10;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wal {
    /// Reads the content of the entry that a reference leads to. One read of the file in the common
    /// case, none of it under a lock that appenders hold.
    ///
    /// # Errors
    /// [`Expired`](WalError::Expired) if it has been dropped, [`InvalidRef`](WalError::InvalidRef) if it
    /// never was, [`Corrupted`](WalError::Corrupted) if its bytes are damaged.
    pub fn read_entry_at(&self, reference: EntryRef) -> Result<Bytes> {
        self.read(reference, |_, header, buffer| owned(buffer, header).1)
    }

    /// Reads an entry with its header, index and timestamp.
    ///
    /// # Errors
    /// As [`read_entry_at`](Self::read_entry_at).
    pub fn read_entry(&self, reference: EntryRef) -> Result<Entry> {
        self.read(reference, |segment, header, buffer| {
            let (entry_header, content) = owned(buffer, header);
            let (index, timestamp_ms) = place(segment, header);
            Entry { reference, index, timestamp_ms, header: entry_header, content }
        })
    }

    /// Reads an entry into a buffer of the caller's, which is grown if need be and can be used again
    /// and again: no allocation for the entry.
    ///
    /// # Errors
    /// As [`read_entry_at`](Self::read_entry_at).
    pub fn read_entry_into<'b>(
        &self,
        reference: EntryRef,
        buffer: &'b mut Vec<u8>,
    ) -> Result<EntrySlice<'b>> {
        let told = |error| self.store.damage.told(error);
        let segment = self.segment_of(reference).map_err(told)?;
        let max_bytes = self.store.options.max_entry_bytes;
        let header = segment.read_frame(reference.offset, max_bytes, buffer).map_err(told)?;
        count(&self.store.counters.read_entries, 1);
        let (entry_header, content) = parts(buffer, &header);
        let (index, timestamp_ms) = place(&segment, &header);
        Ok(EntrySlice { reference, index, timestamp_ms, header: entry_header, content })
    }

    fn read<T>(
        &self,
        reference: EntryRef,
        take: impl FnOnce(&Segment, &FrameHeader, &mut Vec<u8>) -> T,
    ) -> Result<T> {
        let told = |error| self.store.damage.told(error);
        let segment = self.segment_of(reference).map_err(told)?;
        READ_BUFFER.with(|buffer| {
            let buffer = &mut *buffer.borrow_mut();
            let max_bytes = self.store.options.max_entry_bytes;
            let header = segment.read_frame(reference.offset, max_bytes, buffer).map_err(told)?;
            count(&self.store.counters.read_entries, 1);
            Ok(take(&segment, &header, buffer))
        })
    }

    pub(super) fn segment_of(&self, reference: EntryRef) -> Result<Arc<Segment>> {
        self.store.check_open()?;
        let sequence =
            u32::try_from(reference.sequence_number).map_err(|_| WalError::InvalidRef)?;
        let id = SegmentId { key_hash: reference.key_hash, sequence };
        if let Some(segment) = self.store.files.get(id) {
            return Ok(segment);
        }
        if sequence == 0 {
            return Err(WalError::InvalidRef);
        }
        match self.streams.by_hash(reference.key_hash) {
            Some(stream) => {
                stream.ensure_loaded(&self.store)?;
                match stream.segment(&self.store, sequence) {
                    // Perhaps a number that was never used: putting the row together finds out.
                    Err(WalError::Corrupted { .. }) => {
                        stream.chain(&self.store)?;
                        stream.segment(&self.store, sequence)
                    }
                    result => result,
                }
            }
            // Only numbers up to the floor can have belonged to a key that was removed.
            None if sequence <= self.store.meta().state().floor => Err(WalError::Expired),
            None => Err(WalError::InvalidRef),
        }
    }

    /// The entry with this index, `None` if the key's log does not go that far yet. Found by a search
    /// of the segment: a logarithmic number of reads, no index in memory.
    ///
    /// # Errors
    /// [`Expired`](WalError::Expired) if it has been dropped, [`Corrupted`](WalError::Corrupted) if it
    /// was damaged.
    pub fn get(&self, key: impl AsRef<[u8]>, index: u64) -> Result<Option<Entry>> {
        self.store.damage.noted(self.get_entry(key.as_ref(), index))
    }

    fn get_entry(&self, key: &[u8], index: u64) -> Result<Option<Entry>> {
        let store = &self.store;
        let Some(stream) = self.find(key)? else { return Ok(None) };
        let Some(newest) = stream.newest(store)? else { return Ok(None) };
        let (segment, present) = if index >= newest.base_index {
            let present = Present::of(&newest);
            if index >= present.next_index {
                return store
                    .lost_tails
                    .get(stream.hash)
                    .map_or(Ok(None), |lost| Err(lost.error()));
            }
            (newest, present)
        } else {
            let Some((chain, _)) = stream.chain(store)? else { return Err(WalError::Expired) };
            let at = chain.nodes.partition_point(|node| node.next_index() <= index);
            match chain.nodes.get(at) {
                Some(Node::Present(present)) if present.first_index <= index => {
                    (stream.segment(store, present.sequence)?, *present)
                }
                Some(Node::Lost(lost)) if lost.first_index <= index => return Err(lost.error()),
                _ => return Err(WalError::Expired),
            }
        };
        let entry = entry_in(store, &segment, &present, index)?;
        count(&store.counters.read_entries, 1);
        Ok(Some(entry))
    }

    /// The entries of a key, oldest first; a key that does not exist has none. Narrow it with
    /// [`range`](Entries::range), [`time_range`](Entries::time_range) and
    /// [`last_n`](Entries::last_n), turn it round with [`rev`](Iterator::rev).
    ///
    /// ```
    /// # use keywal::{Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// for number in 0..10 {
    ///     wal.append_entry("count", None, format!("{number}"), false)?;
    /// }
    /// let newest: Vec<_> = wal.entries("count")?.last_n(2).rev().collect::<Result<_, _>>()?;
    /// assert_eq!(newest[0].content, "9");
    /// assert_eq!(newest[0].index, 9);
    /// assert_eq!(newest[1].content, "8");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of reading the headers of the key's segments. Damage to entries shows while iterating.
    pub fn entries(&self, key: impl AsRef<[u8]>) -> Result<Entries<'_>> {
        Entries::new(&self.store, self.find(key.as_ref())?)
    }

    /// As [`entries`](Self::entries), from this index on, and strict: for who must not miss any. An index that
    /// the log has not reached yet is no error: then there are no entries.
    ///
    /// # Errors
    /// [`Behind`](WalError::Behind) if the entry with this index has been dropped, else as
    /// [`entries`](Self::entries).
    pub fn entries_from(&self, key: impl AsRef<[u8]>, index: u64) -> Result<Entries<'_>> {
        self.entries(key)?.starting_at(index)
    }

    /// The entries of several keys in time order, as if they were one log. Narrow it with
    /// [`time_range`](Merge::time_range). A key that is given twice is read twice, and one that does not exist
    /// has no entries.
    ///
    /// Timestamps never fall within a key, but the clock may have been set back between appends to
    /// different ones.
    ///
    /// ```
    /// # use keywal::{Key, Wal, WalOptions};
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// wal.append_entry("orders", None, "ordered", false)?;
    /// wal.append_entry("stock", None, "reserved", false)?;
    /// wal.append_entry("orders", None, "paid", false)?;
    /// # let mut seen = Vec::new();
    /// for merged in wal.merge(["orders", "stock"])? {
    ///     let (key, entry) = merged?;
    ///     println!("{} {key}[{}]", entry.timestamp_ms, entry.index);
    /// #   seen.push((key, entry.index));
    /// }
    /// # seen.sort();
    /// # assert_eq!(seen, [(Key::from("orders"), 0), (Key::from("orders"), 1), (Key::from("stock"), 0)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`entries`](Self::entries) gives for any of the keys.
    pub fn merge(&self, keys: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<Merge<'_>> {
        self.store.check_open()?;
        let sources = keys.into_iter().map(|key| {
            let key = key.as_ref();
            Ok((Key::from(key.to_vec()), self.entries(key)?))
        });
        sources.collect::<Result<_>>().map(Merge::new)
    }

    /// The key's newest entry; `None` if it has none. Reads up to 64 KiB, and copies the entry out of them.
    ///
    /// # Errors
    /// [`Corrupted`](WalError::Corrupted) if the newest entry is damaged, else as [`entries`](Self::entries).
    pub fn last(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        Ok(self.entries(key)?.next_back().transpose()?.map(Entry::into_owned))
    }

    /// Index of the key's first entry that was appended at this time or later, in milliseconds since 1970, among
    /// those that are kept; [`next_index`](Self::next_index) if all are older; 0 for a key that does not
    /// exist. Costs a search of one segment: a logarithmic number of reads.
    ///
    /// # Errors
    /// As reading gives.
    pub fn index_at(&self, key: impl AsRef<[u8]>, time_ms: u64) -> Result<u64> {
        self.entries(key)?.index_at(time_ms)
    }

    /// The contents of a key's entries, oldest first: [`entries`](Self::entries) without the rest.
    ///
    /// # Errors
    /// As [`entries`](Self::entries).
    pub fn enumerate_records(&self, key: impl AsRef<[u8]>) -> Result<Records<'_>> {
        self.entries(key).map(Records)
    }

    /// All keys, in no order. Loads the keys that have not been used since the directory was opened:
    /// about two reads each.
    ///
    /// # Errors
    /// Those of opening and reading files. A key whose newest file is damaged so that it cannot be told
    /// does not make the others unreachable: [`Keys::unreadable`] counts such files.
    pub fn enumerate_keys(&self) -> Result<Keys> {
        self.store.check_open()?;
        let mut keys = Vec::new();
        let mut unreadable = 0;
        for stream in self.streams.all() {
            match stream.ensure_loaded(&self.store) {
                Err(error @ (WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. })) => {
                    self.store.damage.note(&error);
                    unreadable += 1;
                }
                result => result?,
            }
            if let Some(key) = stream.key().filter(|_| stream.exists()) {
                keys.push(Key::from(key.to_vec()));
            }
        }
        Ok(Keys { keys: keys.into_iter(), unreadable })
    }

    /// Index of the oldest entry that is kept; 0 for a key that does not exist.
    ///
    /// # Errors
    /// Those of reading the headers of the key's segments.
    pub fn first_index(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        self.find(key.as_ref())?.map_or(Ok(0), |stream| stream.first_index(&self.store))
    }

    /// Index that the key's next entry will get; 0 for a key that does not exist.
    ///
    /// # Errors
    /// Those of reading the newest segment; [`Corrupted`](WalError::Corrupted) if the end of the log was
    /// lost with it.
    pub fn next_index(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        let Some(stream) = self.find(key.as_ref())? else { return Ok(0) };
        match self.store.lost_tails.get(stream.hash) {
            Some(lost) => Err(lost.error()),
            None => stream.next_index(&self.store),
        }
    }

    /// Number of entries of the key that are kept, those lost to damage included.
    ///
    /// # Errors
    /// As [`first_index`](Self::first_index).
    pub fn len(&self, key: impl AsRef<[u8]>) -> Result<u64> {
        let key = key.as_ref();
        Ok(self.next_index(key)?.saturating_sub(self.first_index(key)?))
    }

    /// Public facts about the key's segments, oldest first. Segments that are missing or unreadable are
    /// not listed; reading their entries says so.
    ///
    /// To read a long log with several threads, let each take the
    /// [`entries`](Self::entries)` .range(`[`segment.indexes()`](SegmentInfo::indexes)`)` of a segment at a time.
    ///
    /// # Errors
    /// As [`first_index`](Self::first_index).
    pub fn segments(&self, key: impl AsRef<[u8]>) -> Result<Vec<SegmentInfo>> {
        let Some(stream) = self.find(key.as_ref())? else { return Ok(Vec::new()) };
        let Some((chain, newest)) = stream.chain(&self.store)? else { return Ok(Vec::new()) };
        let newest = Present::of(&newest);
        let sealed = chain.nodes.iter().filter_map(|node| match node {
            Node::Present(present) => Some(*present),
            Node::Lost(_) => None,
        });
        let info = |present: Present| SegmentInfo {
            sequence: u64::from(present.sequence),
            path: stream.path(&self.store, present.sequence),
            first_index: present.first_index,
            next_index: present.next_index,
            bytes: u64::from(present.end),
            created_ms: present.created_ms,
            expiration_ms: present.expiration_ms,
            active: present.sequence == newest.sequence,
        };
        Ok(sealed.chain([newest]).map(info).collect())
    }

    pub(super) fn find(&self, key: &[u8]) -> Result<Option<Arc<Stream>>> {
        self.store.check_open()?;
        check_key(key)?;
        self.store.damage.noted(self.streams.find(&self.store, key))
    }
}

/// All keys of a log; see [`Wal::enumerate_keys`].
#[derive(Debug)]
pub struct Keys {
    keys: std::vec::IntoIter<Key>,
    unreadable: usize,
}

impl Keys {
    /// Number of keys that exist but cannot be told, because their files are damaged or of a newer
    /// format.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }
}

impl Iterator for Keys {
    type Item = Key;

    fn next(&mut self) -> Option<Key> {
        self.keys.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.keys.size_hint()
    }
}

impl ExactSizeIterator for Keys {}

pub(super) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > MAX_KEY_BYTES { Err(WalError::KeyTooLong { bytes: key.len() }) } else { Ok(()) }
}

/// Index and timestamp of the entry behind a frame header.
fn place(segment: &Segment, header: &FrameHeader) -> (u64, u64) {
    let index = segment.base_index.saturating_add(u64::from(header.index));
    (index, segment.created_ms.saturating_add(u64::from(header.timestamp)))
}

/// Header and content in a frame.
fn parts<'b>(frame: &'b [u8], header: &FrameHeader) -> (Option<&'b [u8]>, &'b [u8]) {
    let payload = frame.get(FrameHeader::BYTES..).unwrap_or_default();
    let (entry_header, content) =
        payload.split_at_checked(usize::from(header.header_bytes)).unwrap_or((&[], payload));
    (header.flags.has(FrameFlags::HEADER).then_some(entry_header), content)
}

/// Header and content of a frame, as values of their own.
fn owned(frame: &mut Vec<u8>, header: &FrameHeader) -> (Option<Bytes>, Bytes) {
    let mut payload = if frame.len() > OWN_BUFFER_BYTES {
        Bytes::from(std::mem::take(frame)).split_off(FrameHeader::BYTES)
    } else {
        Bytes::copy_from_slice(frame.get(FrameHeader::BYTES..).unwrap_or_default())
    };
    let entry_header = payload.split_to(usize::from(header.header_bytes).min(payload.len()));
    (header.flags.has(FrameFlags::HEADER).then_some(entry_header), payload)
}
