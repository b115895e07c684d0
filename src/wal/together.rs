//! Appending to several keys at once.

use std::sync::Arc;

use bytes::Bytes;

use super::Wal;
use super::append::refs;
use super::read::check_key;
use crate::entry::EntryRef;
use crate::error::Result;
use crate::format::key_hash;
use crate::fs::len_u64;
use crate::options::Durability;
use crate::primitives::MutexGuard;
use crate::report::count;
use crate::store::Frames;
use crate::stream::{Appended, Payload, Phase, Prepared, Stream, Writer, frame_bytes};

/// What goes to one key.
struct Part<'a> {
    key: &'a [u8],
    payloads: Vec<Payload<'a>>,
    /// Where the entries stand among all of them.
    places: Vec<usize>,
}

/// A part and the stream it goes to.
type Target<'a> = (&'a Part<'a>, Arc<Stream>);

impl Wal {
    /// Appends entries to several keys: after a crash all of them are there or none, whatever the
    /// [`Durability`]; with `Disk` they share one sync. Entries of one key keep their order, and the
    /// references come in the order of the entries. Without entries it does nothing.
    ///
    /// Needs a [journal](crate::WalOptions::journal_bytes), unless all entries are of one key. While the log is
    /// open, a reader may see the entries of one key a moment before those of another; a
    /// [`snapshot`](Self::snapshot) has all of them or none, and [`restore`](crate::restore) of a log in use may not. With `Os`, a sync may
    /// come later: when one of the entries is read or leaves the journal before anybody else has synced it.
    ///
    /// # Errors
    /// [`NoJournal`](crate::WalError::NoJournal); [`TooLarge`](crate::WalError::TooLarge) if the entries of one key do not fit
    /// into a segment, or all of them, with about 64 bytes for each key and 32 for each entry, into a quarter of
    /// the journal. Else as [`append_entry`](Self::append_entry): after an error none of the entries is in
    /// the log, unless it was one of the sync: then the fate of all of them is unknown, and the same. Keys
    /// that were new may be there without entries. [`Poisoned`](crate::WalError::Poisoned), or
    /// [`StorageFull`](crate::WalError::StorageFull), also where another key's file cannot be synced or written to, and what
    /// the journal has of it leaves too little room.
    pub fn append_many<K: AsRef<[u8]>>(
        &self,
        entries: impl IntoIterator<Item = (K, Option<Bytes>, Bytes)>,
        durable: impl Into<Durability>,
    ) -> Result<Vec<EntryRef>> {
        let placed = self.append_many_indexed(entries, durable)?;
        Ok(placed.into_iter().map(|(_, reference)| reference).collect())
    }

    /// As [`append_many`](Self::append_many), and says which index each of the entries has got in its key.
    ///
    /// # Errors
    /// As [`append_many`](Self::append_many).
    pub fn append_many_indexed<K: AsRef<[u8]>>(
        &self,
        entries: impl IntoIterator<Item = (K, Option<Bytes>, Bytes)>,
        durable: impl Into<Durability>,
    ) -> Result<Vec<(u64, EntryRef)>> {
        let durability = durable.into();
        let entries: Vec<(K, Option<Bytes>, Bytes)> = entries.into_iter().collect();
        let parts = by_key(&entries);
        let appended = match &parts[..] {
            [] => {
                self.store.check_writable()?;
                Vec::new()
            }
            [part] => vec![(part, self.append(part.key, &part.payloads, durability, None)?)],
            parts => {
                let result = self.try_append_many(parts, durability);
                if let Err(error) = &result {
                    count(&self.store.counters.failed_appends, 1);
                    self.store.damage.note(error);
                }
                result?
            }
        };
        let mut placed: Vec<(usize, (u64, EntryRef))> = Vec::with_capacity(entries.len());
        for (part, appended) in &appended {
            let indexed = (appended.index..).zip(refs(appended, &part.payloads));
            placed.extend(part.places.iter().copied().zip(indexed));
        }
        placed.sort_unstable_by_key(|(place, _)| *place);
        Ok(placed.into_iter().map(|(_, entry)| entry).collect())
    }

    fn try_append_many<'a>(
        &self,
        parts: &'a [Part<'a>],
        durability: Durability,
    ) -> Result<Vec<(&'a Part<'a>, Appended)>> {
        let store = &self.store;
        store.check_writable()?;
        let mut bytes: u64 = 0;
        for part in parts {
            check_key(part.key)?;
            bytes = bytes.saturating_add(self.check_sizes(&part.payloads)?);
        }
        store
            .check_together(parts.iter().map(|part| part.payloads.iter().map(frame_bytes).sum()))?;
        let (appended, mark) = loop {
            let targets = parts.iter().map(|part| Ok((part, self.begin(part.key)?)));
            let mut targets: Vec<Target<'a>> = targets.collect::<Result<_>>()?;
            // Whoever locks several streams does it in this order.
            targets.sort_unstable_by_key(|(_, stream)| stream.hash);
            let writers: Vec<_> = targets.iter().map(|(_, stream)| stream.writer()).collect();
            if writers.iter().all(|writer| writer.phase != Phase::Gone) {
                break self.put_all(&targets, writers, durability)?;
            }
        };
        for (part, appended) in &appended {
            store.watch.changed(appended.segment.id.key_hash);
            // Who waited for a key that did not exist knows nothing but its own hash.
            store.watch.changed(key_hash(part.key));
        }
        let entries = parts.iter().map(|part| len_u64(part.payloads.len())).sum();
        count(&store.counters.appended_entries, entries);
        count(&store.counters.appended_bytes, bytes);
        if durability == Durability::Disk {
            let ends = appended.iter().map(|(_, appended)| (&*appended.segment, appended.end));
            store.make_durable_together(ends, mark)?;
        }
        Ok(appended)
    }

    /// The key's stream, with a segment in it.
    fn begin(&self, key: &[u8]) -> Result<Arc<Stream>> {
        loop {
            let stream = self.streams.find_or_create(&self.store, key)?;
            let mut writer = stream.writer();
            if writer.phase == Phase::Gone {
                continue;
            }
            let begun =
                self.store.check_open().and_then(|()| stream.begin(&self.store, &mut writer));
            self.forget_if_empty(&stream, &mut writer);
            drop(writer);
            return begun.map(|()| stream);
        }
    }

    fn put_all<'a>(
        &self,
        targets: &[Target<'a>],
        mut writers: Vec<MutexGuard<'_, Writer>>,
        durability: Durability,
    ) -> Result<(Vec<(&'a Part<'a>, Appended)>, u64)> {
        let store = &self.store;
        store.check_open()?;
        // Asked once: a snapshot has all of it or nothing.
        if let Some(cut) = store.cuts.wanted() {
            for ((_, stream), writer) in targets.iter().zip(&writers) {
                stream.note_end(store, writer, cut);
            }
        }
        // One moment for all of them.
        let now_ms = store.append_ms();
        let mut prepared: Vec<Prepared> = Vec::with_capacity(targets.len());
        for ((part, stream), writer) in targets.iter().zip(&mut writers) {
            prepared.push(stream.prepare(store, writer, &part.payloads, durability, now_ms)?);
        }
        let parts: Vec<[&[u8]; 1]> = prepared.iter().map(Prepared::parts).collect();
        let frames: Vec<Frames<'_>> =
            prepared.iter().zip(&parts).map(|(prepared, parts)| prepared.frames(parts)).collect();
        let mark = store.put_together(&frames)?;
        let stored = targets.iter().zip(&mut writers).zip(prepared);
        let appended = stored
            .map(|(((part, stream), writer), prepared)| (*part, stream.accept(writer, prepared)));
        Ok((appended.collect(), mark))
    }
}

/// The entries of each key, in their order.
fn by_key<K: AsRef<[u8]>>(entries: &[(K, Option<Bytes>, Bytes)]) -> Vec<Part<'_>> {
    let mut sorted: Vec<_> = entries.iter().enumerate().collect();
    sorted.sort_by(|(_, (one, ..)), (_, (other, ..))| one.as_ref().cmp(other.as_ref()));
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (place, (key, header, content)) in sorted {
        let key = key.as_ref();
        if parts.last().is_none_or(|part| part.key != key) {
            parts.push(Part { key, payloads: Vec::new(), places: Vec::new() });
        }
        if let Some(part) = parts.last_mut() {
            part.payloads.push(Payload { header: header.as_deref(), content });
            part.places.push(place);
        }
    }
    parts
}
