//! Everything that reads, against the model.

use std::collections::VecDeque;

use keywal::{Entry, EntryRef, WalError};

use super::{Handle, KEYS, World, text};
use crate::common::oracle::index;
use crate::common::{Check, mix};
use crate::ensure;

impl World {
    fn model_entries(&self, key: usize) -> Vec<Entry> {
        self.keys[key].kept.iter().map(|kept| kept.entry.clone()).collect()
    }

    /// The entry a reference leads to, if it leads to one that is kept.
    fn live(&self, handle: &Handle) -> Option<Entry> {
        let model = &self.keys[handle.key];
        let at = handle.index.checked_sub(model.first).filter(|_| model.life == handle.life)?;
        Some(model.kept[index(at)].entry.clone())
    }

    fn read_handle(&mut self, handle: Handle) -> Check {
        self.refs_read += 1;
        let reference = handle.reference;
        let result = self.wal().read_entry(reference);
        let Some(entry) = self.live(&handle) else {
            return match result {
                Err(WalError::Expired) => Ok(()),
                other => Err(format!("dropped {handle:?} gives {other:?}")),
            };
        };
        let read = result.map_err(|error| text(&format!("{handle:?}"), &error))?;
        ensure!(read == entry, "{handle:?} gives {read:?}, should be {entry:?}");
        let content = self.wal().read_entry_at(reference);
        let content = content.map_err(|error| text("read_entry_at", &error))?;
        ensure!(content == entry.content, "read_entry_at gives other bytes");
        let mut buffer = vec![0xEE; index(mix(reference.offset) % 100)];
        let slice = self.wal().read_entry_into(reference, &mut buffer);
        let slice = slice.map_err(|error| text("read_entry_into", &error))?;
        let same = slice.content == entry.content
            && slice.header == entry.header.as_deref()
            && (slice.index, slice.timestamp_ms) == (entry.index, entry.timestamp_ms);
        ensure!(same, "read_entry_into gives {slice:?}, should be {entry:?}");
        let packed = EntryRef::from_bytes(reference.to_bytes());
        ensure!(packed == reference, "packs to {packed:?}");
        Ok(())
    }

    pub(super) fn read_refs(&mut self, pick: u16) -> Check {
        for n in 0..4 {
            let Some(at) = usize::from(pick).wrapping_add(n * 7).checked_rem(self.handles.len())
            else {
                break;
            };
            self.read_handle(self.handles[at])?;
        }
        Ok(())
    }

    pub(super) fn read_all_refs(&mut self) -> Check {
        (0..self.handles.len()).try_for_each(|at| self.read_handle(self.handles[at]))
    }

    /// A reference that is nearly one, or not at all.
    pub(super) fn made_up_ref(&mut self, pick: u16, tweak: u16) -> Check {
        let nothing = EntryRef { key_hash: 1, sequence_number: 1, offset: 700 };
        let real = usize::from(pick).checked_rem(self.handles.len());
        let real = real.map_or(nothing, |at| self.handles[at].reference);
        let n = u64::from(tweak / 16) + 1;
        let reference = match tweak % 16 {
            0..=3 => EntryRef { offset: real.offset.wrapping_add(n % 64), ..real },
            4..=6 => EntryRef { offset: real.offset.wrapping_sub(n % 64), ..real },
            7 => EntryRef { offset: n, ..real },
            8 => EntryRef { offset: u64::MAX - n, ..real },
            9 => EntryRef { sequence_number: real.sequence_number.wrapping_add(n % 4), ..real },
            10 => EntryRef { sequence_number: real.sequence_number.wrapping_sub(n % 4), ..real },
            11 => EntryRef { sequence_number: mix(n), ..real },
            12 => EntryRef { key_hash: real.key_hash ^ (1 << (n % 64)), ..real },
            13 => EntryRef { key_hash: real.key_hash.wrapping_add(n % 3).wrapping_sub(1), ..real },
            14 => EntryRef { key_hash: mix(n), sequence_number: mix(n + 1), offset: mix(n + 2) },
            _ => EntryRef { key_hash: real.key_hash, sequence_number: n % 5, offset: n % 5000 },
        };
        if let Some(known) = self.handles.iter().find(|handle| handle.reference == reference) {
            return self.read_handle(*known);
        }
        match self.wal().read_entry(reference) {
            Err(WalError::InvalidRef | WalError::Expired) => Ok(()),
            other => Err(format!("made-up {reference:?} gives {other:?}")),
        }
    }

    pub(super) fn get(&mut self, key: usize, pick: u16) -> Check {
        let model = &self.keys[key];
        let at = u64::from(pick) % (model.next() + 2);
        let result = self.wal().get(KEYS[key], at);
        let right = match &result {
            Ok(None) => at >= model.next(),
            Ok(Some(entry)) => {
                let kept = at.checked_sub(model.first).and_then(|at| model.kept.get(index(at)));
                kept.is_some_and(|kept| kept.entry == *entry)
            }
            Err(WalError::Expired) => at < model.first,
            Err(_) => false,
        };
        ensure!(right, "get({at}) with {}..{} gives {result:?}", model.first, model.next());
        Ok(())
    }

    pub(super) fn range(&mut self, key: usize, from: u16, to: u16) -> Check {
        let end = self.keys[key].next() + 2;
        let (from, to) = (u64::from(from) % end, u64::from(to) % end);
        let wal = self.wal();
        let entries = || wal.entries(KEYS[key]).map_err(|error| text("entries", &error));
        let wanted = |range: &dyn Fn(u64) -> bool| -> Vec<Entry> {
            self.model_entries(key).into_iter().filter(|entry| range(entry.index)).collect()
        };
        same("range ..", entries()?.range(from..to), &wanted(&|i| (from..to).contains(&i)))?;
        same("range ..=", entries()?.range(from..=to), &wanted(&|i| (from..=to).contains(&i)))?;
        let backwards = entries()?.range(from..).range(..to).rev();
        let mut reversed = wanted(&|i| (from..to).contains(&i));
        reversed.reverse();
        same("range, backwards", backwards, &reversed)
    }

    pub(super) fn time_range(&mut self, key: usize, from: u16, to: u16) -> Check {
        let all = self.model_entries(key);
        // Moments at, just before and just behind entries, and the ends of time.
        let moment = |pick: u16| match usize::from(pick / 4).checked_rem(all.len()) {
            _ if pick % 32 == 15 => 0,
            _ if pick % 32 == 31 => u64::MAX,
            Some(at) => (all[at].timestamp_ms + u64::from(pick % 3)).saturating_sub(1),
            None => self.now_ms(),
        };
        let (from, to) = (moment(from), moment(to));
        let entries = self.wal().entries(KEYS[key]).map_err(|error| text("entries", &error))?;
        let entries = entries.time_range(from..=to).map_err(|error| text("time_range", &error))?;
        let wanted = |entry: &Entry| (from..=to).contains(&entry.timestamp_ms);
        same("time_range", entries, &all.into_iter().filter(wanted).collect::<Vec<_>>())
    }

    pub(super) fn last_n(&mut self, key: usize, n: u16, turns: u16) -> Check {
        let all = self.model_entries(key);
        let n = usize::from(n) % (all.len() + 2);
        let entries = self.wal().entries(KEYS[key]).map_err(|error| text("entries", &error))?;
        let wanted = all[all.len().saturating_sub(n)..].to_vec();
        alternate("last_n", entries.last_n(n as u64), wanted, turns)
    }

    pub(super) fn both_ends(&mut self, key: usize, turns: u16) -> Check {
        let entries = self.wal().entries(KEYS[key]).map_err(|error| text("entries", &error))?;
        alternate("both ends", entries, self.model_entries(key), turns)
    }

    /// One key, in every way it can be looked at.
    pub(super) fn check_key(&mut self, key: usize) -> Check {
        let (name, model, wal) = (KEYS[key], &self.keys[key], self.wal());
        let all = self.model_entries(key);
        let wrong = |error: WalError| text(&format!("key {key}"), &error);
        same("forwards", wal.entries(name).map_err(wrong)?, &all)?;
        let backwards: Vec<Entry> = all.iter().rev().cloned().collect();
        same("backwards", wal.entries(name).map_err(wrong)?.rev(), &backwards)?;
        let records: Result<Vec<_>, _> = wal.enumerate_records(name).map_err(wrong)?.collect();
        let contents = all.iter().map(|entry| &entry.content);
        ensure!(records.map_err(wrong)?.iter().eq(contents), "enumerate_records differs");
        let numbers = (
            wal.first_index(name).map_err(wrong)?,
            wal.next_index(name).map_err(wrong)?,
            wal.len(name).map_err(wrong)?,
        );
        let wanted = (model.first, model.next(), model.kept.len() as u64);
        ensure!(numbers == wanted, "first, next, len are {numbers:?}, should be {wanted:?}");
        let last = wal.last(name).map_err(wrong)?;
        ensure!(last.as_ref() == all.last(), "last is {last:?}, should be {:?}", all.last());
        if let Some(middle) = all.get(all.len() / 2) {
            let time_ms = middle.timestamp_ms;
            let first = all.iter().find(|entry| entry.timestamp_ms >= time_ms);
            let found = wal.index_at(name, time_ms).map_err(wrong)?;
            ensure!(first.is_some_and(|entry| entry.index == found), "index_at gives {found}");
        }
        let strict = wal.entries_from(name, model.first).map_err(wrong)?;
        same("strict", strict, &all)?;
        let behind = model.first.checked_sub(1).map(|index| wal.entries_from(name, index));
        let told = matches!(behind, None | Some(Err(WalError::Behind { .. })));
        ensure!(told, "what was dropped is no error: {behind:?}");
        let mut follow = wal.follow(name, model.first).map_err(wrong)?;
        same("following", std::iter::from_fn(|| follow.try_next().transpose()), &all)?;
        let mut durable = wal.follow(name, model.first).map_err(wrong)?.durable_only();
        let durable = std::iter::from_fn(|| durable.try_next().transpose());
        let durable: Vec<Entry> = durable.collect::<Result<_, _>>().map_err(wrong)?;
        ensure!(all.starts_with(&durable), "{durable:?} is no prefix of {all:?}");
        self.check_segments(key)
    }

    /// Segments cover the entries, in order, within their limits and windows.
    fn check_segments(&self, key: usize) -> Check {
        let (model, wal) = (&self.keys[key], self.wal());
        let segments = wal.segments(KEYS[key]).map_err(|error| text("segments", &error))?;
        let stats = wal.key_stats(KEYS[key]).map_err(|error| text("key_stats", &error))?;
        ensure!(segments.is_empty() != model.exists, "{} segments", segments.len());
        let (Some(oldest), Some(newest)) = (segments.first(), segments.last()) else {
            ensure!(stats == keywal::KeyStats::default(), "{stats:?} without segments");
            return Ok(());
        };
        let ends = (oldest.first_index, newest.next_index);
        ensure!(ends == (model.first, model.next()), "segments from and to {ends:?}");
        let counted = (stats.first_index, stats.next_index, stats.segments);
        let wanted = (model.first, model.next(), segments.len() as u64);
        ensure!(counted == wanted, "key_stats are {counted:?}, should be {wanted:?}");
        let times = (stats.oldest_ms, stats.newest_ms);
        ensure!(times == (oldest.created_ms, newest.created_ms), "key_stats times {times:?}");
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        ensure!(stats.bytes == bytes, "{} bytes in key_stats", stats.bytes);
        for pair in segments.windows(2) {
            let ordered = pair[0].next_index == pair[1].first_index
                && pair[0].sequence < pair[1].sequence
                && pair[0].created_ms <= pair[1].created_ms;
            ensure!(ordered && !pair[0].active, "segments out of order: {pair:?}");
        }
        ensure!(newest.active, "the newest segment is not active");
        let window_ms = self.limits.retention_ms / u64::from(self.limits.segments);
        for segment in &segments {
            let window = segment.expiration_ms - segment.created_ms;
            ensure!(window == window_ms, "window of {window} ms");
            let (from, to) = (segment.first_index - model.first, segment.next_index - model.first);
            let inside = &model.kept[index(from)..index(to)];
            for kept in inside {
                let time = kept.entry.timestamp_ms;
                let range = segment.created_ms..segment.expiration_ms;
                ensure!(range.contains(&time), "entry of {time} in the segment of {range:?}");
                let sequence = kept.entry.reference.sequence_number;
                ensure!(sequence == segment.sequence, "entry of segment {sequence} elsewhere");
            }
            let calls = inside.first().map(|kept| kept.call) != inside.last().map(|kept| kept.call);
            let limit = self.limits.max_segment_bytes + 32;
            ensure!(!calls || segment.bytes <= limit, "segment of {} bytes", segment.bytes);
        }
        Ok(())
    }
}

fn same(
    what: &str,
    found: impl Iterator<Item = Result<Entry, WalError>>,
    wanted: &[Entry],
) -> Check {
    let found: Vec<Entry> = found.collect::<Result<_, _>>().map_err(|error| text(what, &error))?;
    ensure!(found == wanted, "{what}: {found:?}, should be {wanted:?}");
    Ok(())
}

/// From both ends, as the bits of `turns` say, until nothing is left, and a little longer.
fn alternate(
    what: &str,
    mut entries: keywal::Entries<'_>,
    wanted: Vec<Entry>,
    turns: u16,
) -> Check {
    let mut wanted = VecDeque::from(wanted);
    for turn in 0..wanted.len() + 3 {
        let back = turns >> (turn % 16) & 1 == 1;
        let found = if back { entries.next_back() } else { entries.next() };
        let found = found.transpose().map_err(|error| text(what, &error))?;
        let next = if back { wanted.pop_back() } else { wanted.pop_front() };
        ensure!(found == next, "{what}, turn {turn}: {found:?}, should be {next:?}");
    }
    Ok(())
}
