//! What a log may hold after a crash: the model of one key, and the check against it.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use bytes::Bytes;
use keywal::{Entry, EntryRef, Retention, WalError};

use super::Check;
use super::shown::Shown;
use crate::ensure;

/// An entry that was issued. Its index is its place in [`KeyModel::items`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Item {
    /// `None` if the call that appended it returned an error.
    pub reference: Option<EntryRef>,
    /// `None`: it is not known.
    pub timestamp_ms: Option<u64>,
    pub header: Option<Bytes>,
    pub content: Bytes,
    /// Whether a log may end behind it: it is not the first of a batch of two, say.
    pub ends: bool,
    /// The same number for entries of several keys that are there together or not at all; else 0.
    pub together: u64,
}

/// All that is known about one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyModel {
    /// Counts removals: what was issued in an earlier life must never be seen again.
    pub life: u32,
    /// Whether anything was ever issued in this life: if not, the key must not be there.
    pub used: bool,
    pub items: Vec<Item>,
    /// So many of the last items were refused, but may be there after a crash: the way back failed.
    pub doubtful: usize,
    /// The oldest entry that is kept. A range after an error: some may be gone, or come back.
    pub first: (u64, u64),
    /// A call that was to drop the entries before this index returned an error. A power cut may bring files
    /// back that it had unlinked: they are not part of the log, but references into them read what they did.
    pub half_dropped: u64,
    /// Every entry before this index survives power loss, unless it is dropped.
    pub durable: u64,
    /// The retention of its own, and the one that a call that returned an error was to give it.
    pub retention: Option<Retention>,
    pub or_retention: Option<Retention>,
    /// The key survives power loss even without entries.
    pub named: bool,
    /// A removal ended with an error: the key may be gone.
    pub maybe_removed: bool,
    /// References that must never lead to anything again.
    pub ghosts: Vec<EntryRef>,
}

/// What one key may hold.
#[derive(Debug, Clone, Hash)]
pub struct Allowed<'a> {
    items: &'a [Item],
    first: RangeInclusive<u64>,
    half_dropped: u64,
    next: RangeInclusive<u64>,
    absent: bool,
    /// The key may have been removed, so that it says nothing about what others have.
    may_be_removed: bool,
    /// From this index on, references have not been returned yet.
    in_flight: u64,
    /// None at all: whichever it is.
    retentions: Vec<Option<Retention>>,
    /// Neither entries of the key nor its name may be seen.
    never_used: bool,
    ghosts: BTreeSet<EntryRef>,
    /// Or else this.
    or: Option<Box<Self>>,
}

/// What one key holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Observed {
    pub listed: bool,
    pub first: u64,
    pub next: u64,
    pub entries: Vec<Entry>,
    pub retention: Option<Retention>,
}

impl KeyModel {
    /// Number of entries that the log shows.
    pub fn count(&self) -> u64 {
        (self.items.len() - self.doubtful) as u64
    }

    fn retentions(&self) -> Vec<Option<Retention>> {
        let or = self.or_retention.map(|_| self.or_retention);
        [self.retention].into_iter().chain(or).collect()
    }

    /// After all calls have returned; `kept` entries at least.
    fn settled(&self, kept: u64) -> Allowed<'_> {
        Allowed {
            items: &self.items,
            first: self.first.0..=self.first.1,
            half_dropped: self.half_dropped,
            next: kept..=self.items.len() as u64,
            absent: kept == 0 && !self.named || self.maybe_removed,
            retentions: self.retentions(),
            may_be_removed: self.maybe_removed,
            in_flight: u64::MAX,
            never_used: !self.used,
            or: None,
            ghosts: self.ghosts.iter().copied().collect(),
        }
    }

    /// After a power cut.
    pub fn after_power_cut(&self) -> Allowed<'_> {
        self.settled(self.durable)
    }

    /// While nothing has happened to the process.
    pub fn live(&self) -> Allowed<'_> {
        Allowed { next: self.count()..=self.count(), ..self.settled(self.count()) }
    }

    /// After the death of the process.
    pub fn after_kill(&self) -> Allowed<'_> {
        self.settled(self.count())
    }

    /// While the call that leads from `self` to `after` was on its way, if at least `kept` entries of
    /// those before it are sure to be there.
    pub fn in_flight<'a>(&'a self, after: &'a Self, kept: u64) -> Allowed<'a> {
        let mut allowed = self.settled(kept);
        if after.life != self.life {
            allowed.absent = true;
            allowed.may_be_removed = true;
            // A removal that had failed turned out to be done, and the call began a new life.
            if after.used {
                let next_life = Allowed {
                    next: 0..=after.items.len() as u64,
                    absent: true,
                    in_flight: 0,
                    ..after.settled(0)
                };
                allowed.or = Some(Box::new(next_life));
            }
            return allowed;
        }
        if after.items.len() > self.items.len() {
            allowed.items = &after.items;
            allowed.next = kept..=after.items.len() as u64;
            allowed.in_flight = self.count();
        }
        allowed.first = self.first.0..=after.first.1.max(self.first.1);
        allowed.half_dropped = after.half_dropped;
        allowed.retentions.extend(after.retentions());
        allowed.never_used &= !after.used;
        allowed.absent |= after.maybe_removed;
        allowed.may_be_removed |= after.maybe_removed;
        allowed
    }

    /// The log was found to end at `next`, and to begin at `first`: that is so from now on.
    pub fn adopt(&mut self, seen: &Observed) {
        if self.maybe_removed && !seen.listed {
            self.remove();
            return;
        }
        let lost = self.items.split_off(usize::try_from(seen.next).unwrap_or(usize::MAX));
        self.ghosts.extend(lost.iter().filter_map(|item| item.reference));
        for (item, entry) in self.items.iter_mut().skip(index(seen.first)).zip(&seen.entries) {
            item.reference = Some(entry.reference);
        }
        self.first = (seen.first, seen.first);
        self.durable = seen.next;
        self.doubtful = 0;
        self.maybe_removed = false;
        self.used = seen.listed;
        self.named &= seen.listed;
        (self.retention, self.or_retention) = (seen.retention, None);
    }

    /// The key is gone.
    pub fn remove(&mut self) {
        let items = std::mem::take(&mut self.items);
        self.ghosts.extend(items.iter().filter_map(|item| item.reference));
        *self = Self {
            life: self.life + 1,
            ghosts: std::mem::take(&mut self.ghosts),
            ..Self::default()
        };
    }
}

impl Observed {
    pub fn of(wal: &impl Shown, key: &[u8], listed: &BTreeSet<Vec<u8>>) -> Check<Self> {
        let wrong = |what: &str, error: WalError| format!("{what}: {error}: {error:?}");
        let entries = wal.entries(key).map_err(|error| wrong("entries", error))?;
        let entries: Result<Vec<Entry>, WalError> = entries.collect();
        let entries = entries.map_err(|error| wrong("reading in order", error))?;
        let backward = wal.entries(key).map_err(|error| wrong("entries", error))?.rev();
        let backward: Result<Vec<Entry>, WalError> = backward.collect();
        let backward = backward.map_err(|error| wrong("reading backwards", error))?;
        ensure!(
            backward.iter().rev().eq(&entries),
            "backwards: {backward:?}, forwards {entries:?}"
        );
        for entry in &entries {
            let got = wal.get(key, entry.index).map_err(|error| wrong("get", error))?;
            ensure!(got.as_ref() == Some(entry), "get gives {got:?}, reading in order {entry:?}");
        }
        Ok(Self {
            listed: listed.contains(key),
            first: wal.first_index(key).map_err(|error| wrong("first_index", error))?,
            next: wal.next_index(key).map_err(|error| wrong("next_index", error))?,
            retention: wal.retention(key).map_err(|error| wrong("retention", error))?,
            entries,
        })
    }

    /// All keys at once.
    pub fn all<K: AsRef<[u8]>>(wal: &impl Shown, keys: &[K]) -> Check<Vec<Self>> {
        Self::each(wal, keys)?.into_iter().collect()
    }

    /// All keys at once, and what is wrong with each.
    pub fn each<K: AsRef<[u8]>>(wal: &impl Shown, keys: &[K]) -> Check<Vec<Check<Self>>> {
        let listed = wal.enumerate_keys().map_err(|error| format!("enumerate_keys: {error}"))?;
        ensure!(listed.unreadable() == 0, "{} keys cannot be told", listed.unreadable());
        let listed: BTreeSet<Vec<u8>> = listed.map(|key| key.as_bytes().to_vec()).collect();
        for key in &listed {
            let known = keys.iter().any(|known| known.as_ref() == key);
            ensure!(known, "invented key {}", key.escape_ascii());
        }
        Ok(keys.iter().map(|key| Self::of(wal, key.as_ref(), &listed)).collect())
    }
}

impl Allowed<'_> {
    /// Equal for equal demands.
    pub fn fingerprint(all: &[Self]) -> u64 {
        let mut hasher = DefaultHasher::new();
        all.hash(&mut hasher);
        hasher.finish()
    }

    /// The same without what comes from this index on, and without the retention: they may be seen or not.
    pub fn up_to(&self, index: u64) -> Self {
        let kept = (*self.next.start()).min(index);
        Self {
            next: kept..=*self.next.end(),
            absent: self.absent || kept == 0,
            retentions: Vec::new(),
            or: self.or.as_ref().map(|other| Box::new(other.up_to(index))),
            ..self.clone()
        }
    }

    /// The prefix rule: what is there is what was issued, from some first to some next index.
    pub fn check(&self, seen: &Observed) -> Check {
        self.matching(seen).map(drop)
    }

    /// As [`Self::check`]. References to what is there give it, all others give an error. Returns those
    /// that somebody may have and that lead nowhere: they never may.
    pub fn check_with_refs(&self, wal: &impl Shown, seen: &Observed) -> Check<Vec<EntryRef>> {
        self.matching(seen)?.check_refs(wal, seen)
    }

    fn matching(&self, seen: &Observed) -> Check<&Self> {
        let checked = self.check_prefix(seen);
        match &self.or {
            Some(other) if checked.is_err() => other.matching(seen).or(checked.map(|()| self)),
            _ => checked.map(|()| self),
        }
    }

    fn check_prefix(&self, seen: &Observed) -> Check {
        if self.never_used {
            ensure!(!seen.listed && seen.next == 0, "a key that is removed or unused exists");
        }
        // A removal that was cut off may turn out to be done, and the key to have begun anew.
        let absent =
            (!seen.listed || self.may_be_removed) && seen.next == 0 && seen.entries.is_empty();
        if self.absent && absent {
            return Ok(());
        }
        let known = self.retentions.is_empty() || self.retentions.contains(&seen.retention);
        ensure!(known, "retention {:?} is not in {:?}", seen.retention, self.retentions);
        let (first, next) = (seen.first, seen.next);
        let lost = *self.next.start() > 0 || *self.first.start() > 0;
        ensure!(seen.listed || !lost && self.absent, "acknowledged key is gone");
        ensure!(
            next >= *self.next.start(),
            "acknowledged entries lost: next {next}, {:?}",
            self.next
        );
        ensure!(next <= *self.next.end(), "invented entries: next {next}, {:?}", self.next);
        ensure!(self.first.contains(&first), "first {first} is not in {:?}", self.first);
        ensure!(first <= next, "first {first} behind next {next}");
        let wanted = self.items.get(index(first)..index(next)).unwrap_or_default();
        ensure!(
            wanted.len() == seen.entries.len(),
            "{} entries from {first} to {next}",
            seen.entries.len()
        );
        for ((at, item), entry) in (first..).zip(wanted).zip(&seen.entries) {
            ensure!(entry.index == at, "index {} where {at} should be", entry.index);
            ensure!(
                entry.header == item.header
                    && entry.content == item.content
                    && item.timestamp_ms.is_none_or(|issued| issued == entry.timestamp_ms),
                "entry {at} is altered: {entry:?}, issued {item:?}"
            );
            let same = item.reference.is_none_or(|reference| reference == entry.reference);
            ensure!(same, "entry {at} moved from {:?} to {:?}", item.reference, entry.reference);
        }
        let torn = next > first && !self.items.get(index(next - 1)).is_none_or(|item| item.ends);
        ensure!(!torn, "half of a batch: next {next}");
        Ok(())
    }

    fn check_refs(&self, wal: &impl Shown, seen: &Observed) -> Check<Vec<EntryRef>> {
        let mut lost: Vec<EntryRef> = self.ghosts.iter().copied().collect();
        for (at, item) in (0..).zip(self.items) {
            let Some(reference) = item.reference else { continue };
            // While entries are being dropped, a reference may still give what it always gave.
            let dropping = (*self.first.start()..seen.first).contains(&at)
                || at < seen.first.min(self.half_dropped);
            if !dropping && !(seen.first..seen.next).contains(&at) {
                check_lost(wal, &[reference])?;
                lost.extend((at < self.in_flight).then_some(reference));
                continue;
            }
            if dropping && check_lost(wal, &[reference]).is_ok() {
                continue;
            }
            let entry = wal
                .read_entry(reference)
                .map_err(|error| format!("reference to entry {at}: {error}: {reference:?}"))?;
            let same =
                (entry.index, &entry.header, &entry.content) == (at, &item.header, &item.content);
            ensure!(same, "reference to entry {at} gives {entry:?}");
        }
        check_lost(wal, &lost[..self.ghosts.len()])?;
        Ok(lost)
    }
}

/// What was appended to several keys together is there in all of them or in none, unless it was dropped.
pub fn check_together<O: Borrow<Observed>>(allowed: &[Allowed<'_>], seen: &[O]) -> Check {
    let mut first_seen: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
    for (key, (allowed, seen)) in allowed.iter().zip(seen).enumerate() {
        let seen = seen.borrow();
        if allowed.may_be_removed {
            continue;
        }
        let kept =
            (0..).zip(allowed.items).filter(|(at, item)| *at >= seen.first && item.together > 0);
        for (at, item) in kept {
            let there = at < seen.next;
            let (other, before) = *first_seen.entry(item.together).or_insert((key, there));
            ensure!(
                there == before,
                "appended together: key {key} has it: {there}, key {other}: {before}"
            );
        }
    }
    Ok(())
}

/// None of these references may give anything.
pub fn check_lost(wal: &impl Shown, lost: &[EntryRef]) -> Check {
    for reference in lost {
        match wal.read_entry_at(*reference) {
            Err(WalError::InvalidRef | WalError::Expired) => {}
            Err(error) => return Err(format!("lost reference: {error}: {reference:?}")),
            Ok(content) => {
                let bytes = content.len();
                return Err(format!("lost reference gives {bytes} bytes: {reference:?}"));
            }
        }
    }
    Ok(())
}

pub fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}
