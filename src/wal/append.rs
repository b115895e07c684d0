//! Appending: checks before the first byte, then the stream, then the sync.

use bytes::Bytes;

use super::Wal;
use super::read::check_key;
use crate::entry::EntryRef;
use crate::error::{Result, SizeLimit, WalError};
use crate::fs::len_u64;
use crate::options::Durability;
use crate::report::count;
use crate::store::Store;
use crate::stream::{Appended, Payload, Phase, Stream, Writer, frame_bytes};

impl Wal {
    /// Appends an entry to the key's log and returns a reference to it.
    ///
    /// `durable` is a [`Durability`], or `false` for `Os` and `true` for `Disk`. `Os` costs a copy into the
    /// [journal](crate::WalOptions::journal_bytes); `Disk` waits for a sync of it, shared with everyone who
    /// waits, whatever their keys. Without a journal, and for more than 64 KiB, `Os` costs one system call, and
    /// the sync is that of the key's segment. Nothing is allocated for small entries.
    ///
    /// # Errors
    /// [`KeyTooLong`](WalError::KeyTooLong), [`HeaderTooLarge`](WalError::HeaderTooLarge),
    /// [`TooLarge`](WalError::TooLarge), [`Forked`](WalError::Forked), [`Closed`](WalError::Closed):
    /// refused before anything was written. [`StorageFull`](WalError::StorageFull) and
    /// [`Io`](WalError::Io) of a write: the entry is not in the log, and the key can be used on.
    /// [`Io`](WalError::Io) of a sync: the entry's fate is unknown until the directory is reopened; from
    /// then on [`Poisoned`](WalError::Poisoned). [`Corrupted`](WalError::Corrupted): the end of the key's
    /// log is damaged, so it cannot be continued before [`accept_loss`](Self::accept_loss).
    /// [`Exhausted`](WalError::Exhausted): the key has used up its segment numbers.
    #[expect(clippy::needless_pass_by_value, reason = "as nano-wal has it; a `Bytes` is a handle")]
    pub fn append_entry(
        &self,
        key: impl AsRef<[u8]>,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
        durable: impl Into<Durability>,
    ) -> Result<EntryRef> {
        let payload = Payload { header: header.as_deref(), content: content.as_ref() };
        self.append(key.as_ref(), &[payload], durable.into(), None)
            .map(|appended| first_ref(&appended))
    }

    /// As [`append_entry`](Self::append_entry), and says which index the entry has got, at no cost: the offset
    /// that a broker answers its producer.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = keywal::Wal::new(dir.path(), keywal::WalOptions::default())?;
    /// let (offset, entry_ref) = wal.append_indexed("orders/3", None, "three pens", false)?;
    /// assert_eq!(wal.get("orders/3", offset)?, Some(wal.read_entry(entry_ref)?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`append_entry`](Self::append_entry).
    #[expect(clippy::needless_pass_by_value, reason = "as in `append_entry`")]
    pub fn append_indexed(
        &self,
        key: impl AsRef<[u8]>,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
        durable: impl Into<Durability>,
    ) -> Result<(u64, EntryRef)> {
        let payload = Payload { header: header.as_deref(), content: content.as_ref() };
        self.append(key.as_ref(), &[payload], durable.into(), None)
            .map(|appended| (appended.index, first_ref(&appended)))
    }

    /// Appends an entry with [`Durability::Disk`].
    ///
    /// # Errors
    /// As [`append_entry`](Self::append_entry).
    pub fn log_entry(
        &self,
        key: impl AsRef<[u8]>,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
    ) -> Result<EntryRef> {
        self.append_entry(key, header, content, Durability::Disk)
    }

    /// Appends several entries to one key: visible together, and all there after a crash or none. One
    /// write, at most one sync. An empty batch does nothing.
    ///
    /// # Errors
    /// As [`append_entry`](Self::append_entry); a batch larger than
    /// [`max_segment_bytes`](crate::WalOptions::max_segment_bytes) is [`TooLarge`](WalError::TooLarge).
    pub fn append_batch(
        &self,
        key: impl AsRef<[u8]>,
        entries: impl IntoIterator<Item = (Option<Bytes>, Bytes)>,
        durable: impl Into<Durability>,
    ) -> Result<Vec<EntryRef>> {
        let entries: Vec<(Option<Bytes>, Bytes)> = entries.into_iter().collect();
        if entries.is_empty() {
            self.store.check_writable()?;
            return Ok(Vec::new());
        }
        self.append_all(key.as_ref(), &entries, durable.into(), None)
            .map(|(_, references)| references)
    }

    /// As [`append_batch`](Self::append_batch), and says which index the first of the entries has got; the others
    /// have the next ones. Of an empty batch, the index that the key's next entry gets.
    ///
    /// # Errors
    /// As [`append_batch`](Self::append_batch).
    pub fn append_batch_indexed(
        &self,
        key: impl AsRef<[u8]>,
        entries: impl IntoIterator<Item = (Option<Bytes>, Bytes)>,
        durable: impl Into<Durability>,
    ) -> Result<(u64, Vec<EntryRef>)> {
        let entries: Vec<(Option<Bytes>, Bytes)> = entries.into_iter().collect();
        if entries.is_empty() {
            self.store.check_writable()?;
            return Ok((self.next_index(key)?, Vec::new()));
        }
        self.append_all(key.as_ref(), &entries, durable.into(), None)
    }

    /// As [`append_batch`](Self::append_batch), if the first entry gets the index `expected_next_index`. A
    /// key that has no entries yet expects 0. An empty batch only checks the index.
    ///
    /// # Errors
    /// [`Conflict`](WalError::Conflict) if the key is at another index; else as
    /// [`append_batch`](Self::append_batch).
    pub fn append_batch_if(
        &self,
        key: impl AsRef<[u8]>,
        expected_next_index: u64,
        entries: impl IntoIterator<Item = (Option<Bytes>, Bytes)>,
        durable: impl Into<Durability>,
    ) -> Result<Vec<EntryRef>> {
        let key = key.as_ref();
        let entries: Vec<(Option<Bytes>, Bytes)> = entries.into_iter().collect();
        if entries.is_empty() {
            self.store.check_writable()?;
            return match self.next_index(key)? {
                actual if actual == expected_next_index => Ok(Vec::new()),
                actual => Err(WalError::Conflict { expected: expected_next_index, actual }),
            };
        }
        let expected = Some(expected_next_index);
        self.append_all(key, &entries, durable.into(), expected).map(|(_, references)| references)
    }

    /// Appends a batch of at least one entry. Returns the index of the first, and all references.
    fn append_all(
        &self,
        key: &[u8],
        entries: &[(Option<Bytes>, Bytes)],
        durability: Durability,
        expected: Option<u64>,
    ) -> Result<(u64, Vec<EntryRef>)> {
        let payloads: Vec<Payload<'_>> = entries
            .iter()
            .map(|(header, content)| Payload { header: header.as_deref(), content })
            .collect();
        let appended = self.append(key, &payloads, durability, expected)?;
        Ok((appended.index, refs(&appended, &payloads).collect()))
    }

    /// Appends an entry if it gets the index `expected_next_index`: optimistic concurrency for event
    /// streams. A key that has no entries yet expects 0.
    ///
    /// # Errors
    /// [`Conflict`](WalError::Conflict) if the key is at another index; else as
    /// [`append_entry`](Self::append_entry).
    #[expect(clippy::needless_pass_by_value, reason = "as nano-wal has it; a `Bytes` is a handle")]
    pub fn append_if(
        &self,
        key: impl AsRef<[u8]>,
        expected_next_index: u64,
        header: Option<Bytes>,
        content: impl AsRef<[u8]>,
        durable: impl Into<Durability>,
    ) -> Result<EntryRef> {
        let payload = Payload { header: header.as_deref(), content: content.as_ref() };
        self.append(key.as_ref(), &[payload], durable.into(), Some(expected_next_index))
            .map(|appended| first_ref(&appended))
    }

    pub(super) fn append(
        &self,
        key: &[u8],
        payloads: &[Payload<'_>],
        durability: Durability,
        expected: Option<u64>,
    ) -> Result<Appended> {
        let result = self.try_append(key, payloads, durability, expected);
        if let Err(error) = &result {
            count(&self.store.counters.failed_appends, 1);
            let conflict = matches!(error, WalError::Conflict { .. });
            count(&self.store.counters.conflicts, u64::from(conflict));
            self.store.damage.note(error);
        }
        result
    }

    fn try_append(
        &self,
        key: &[u8],
        payloads: &[Payload<'_>],
        durability: Durability,
        expected: Option<u64>,
    ) -> Result<Appended> {
        let store = &self.store;
        store.check_writable()?;
        check_key(key)?;
        let bytes = self.check_sizes(payloads)?;
        let appended = self.change(key, |store, stream, writer| {
            if writer.phase == Phase::Damaged {
                return Err(stream.damaged(store));
            }
            if let Some(expected) = expected {
                check_index(store, stream, expected)?;
            }
            stream.append(store, writer, payloads, durability)
        })?;
        count(&store.counters.appended_entries, len_u64(payloads.len()));
        count(&store.counters.appended_bytes, bytes);
        if durability == Durability::Disk {
            store.make_durable(&appended.segment, appended.end)?;
        }
        Ok(appended)
    }

    /// Takes a stream that has not come to have a segment out of the map.
    pub(super) fn forget_if_empty(&self, stream: &Stream, writer: &mut Writer) {
        if writer.phase == Phase::Empty && !writer.has_tombstone() {
            writer.phase = Phase::Gone;
            self.streams.forget(stream, writer.highest());
        }
    }

    /// Checks every length; returns the bytes of all headers and contents.
    pub(super) fn check_sizes(&self, payloads: &[Payload<'_>]) -> Result<u64> {
        let options = &self.store.options;
        let mut all: u64 = 0;
        let mut frames: u64 = 0;
        for payload in payloads {
            let header = payload.header.map_or(0, <[u8]>::len);
            if header > usize::from(u16::MAX) {
                return Err(WalError::HeaderTooLarge { bytes: header });
            }
            let bytes = len_u64(header).saturating_add(len_u64(payload.content.len()));
            if bytes > options.max_entry_bytes {
                let max = options.max_entry_bytes;
                // Opening the directory has made it no more than `max_segment_bytes`.
                let bounded = max == options.max_segment_bytes;
                let limit = if bounded { SizeLimit::Segment } else { SizeLimit::Entry };
                return Err(WalError::TooLarge { bytes, max, limit });
            }
            all = all.saturating_add(bytes);
            frames = frames.saturating_add(frame_bytes(payload));
        }
        if payloads.len() > 1 && frames > options.max_segment_bytes {
            let (max, limit) = (options.max_segment_bytes, SizeLimit::Segment);
            return Err(WalError::TooLarge { bytes: frames, max, limit });
        }
        Ok(all)
    }
}

fn check_index(store: &Store, stream: &Stream, expected: u64) -> Result<()> {
    let actual = stream.next_index(store)?;
    if actual == expected { Ok(()) } else { Err(WalError::Conflict { expected, actual }) }
}

/// The references of entries that were appended in a row.
pub(super) fn refs(
    appended: &Appended,
    payloads: &[Payload<'_>],
) -> impl Iterator<Item = EntryRef> {
    payloads.iter().scan(first_ref(appended), |next, payload| {
        let reference = *next;
        next.offset = next.offset.saturating_add(frame_bytes(payload));
        Some(reference)
    })
}

fn first_ref(appended: &Appended) -> EntryRef {
    EntryRef {
        key_hash: appended.segment.id.key_hash,
        sequence_number: u64::from(appended.segment.id.sequence),
        offset: u64::from(appended.offset),
    }
}
