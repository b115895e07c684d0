//! What the threads of one schedule asked for and were told, and what a log may hold after that.
//!
//! A call happens at some moment between its begin and its end, so two that overlap may have happened in
//! either order. Every rule here asks only for what holds in both.

use bytes::Bytes;
use keywal::{Entry, EntryRef, Wal, WalError};

use crate::common::Check;
use crate::ensure;

/// A moment of a schedule.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// Counts begins and ends of calls.
    pub tick: u64,
    /// Operations of the simulated file system so far.
    pub trace: usize,
}

/// When a call began, and when it returned.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub begin: Moment,
    pub end: Moment,
}

#[derive(Debug)]
pub struct Append {
    pub key: usize,
    /// One entry, or a batch.
    pub contents: Vec<Bytes>,
    pub disk: bool,
    pub span: Span,
    pub result: Result<Vec<EntryRef>, WalError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    Sync,
    SyncKey(usize),
    Compact,
    Truncate(usize),
    Remove(usize),
    Shutdown,
}

#[derive(Debug)]
pub struct Done {
    pub what: Other,
    pub span: Span,
    pub result: Result<(), WalError>,
}

/// An entry that one who follows only what is durable was shown.
#[derive(Debug)]
pub struct Shown {
    pub key: usize,
    pub content: Bytes,
    pub moment: Moment,
}

/// All calls of a schedule.
#[derive(Debug, Default)]
pub struct History {
    pub appends: Vec<Append>,
    pub others: Vec<Done>,
    pub shown: Vec<Shown>,
}

/// What happened to the log before somebody looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing, or the process died: what was written is there.
    Kill,
    /// The power went before this operation of the file system.
    PowerCut(usize),
}

impl After {
    /// Whether what ended then ended before it happened.
    fn knows(self, moment: Moment) -> bool {
        match self {
            Self::Kill => true,
            Self::PowerCut(at) => moment.trace <= at,
        }
    }

    /// Whether what began then may have reached the disk.
    fn may_have(self, moment: Moment) -> bool {
        match self {
            Self::Kill => true,
            Self::PowerCut(at) => moment.trace < at,
        }
    }
}

impl Done {
    fn drops(&self, key: usize) -> bool {
        match self.what {
            Other::Compact => true,
            Other::Truncate(at) | Other::Remove(at) => at == key,
            Other::Sync | Other::SyncKey(_) | Other::Shutdown => false,
        }
    }

    fn syncs(&self, key: usize) -> bool {
        self.result.is_ok()
            && match self.what {
                Other::Sync | Other::Shutdown => true,
                Other::SyncKey(at) => at == key,
                _ => false,
            }
    }

    /// Whether the call may take an entry with it; one that failed may go on when the log is reopened.
    fn may_drop(&self, append: &Append, after: After) -> bool {
        let before = self.result.is_ok() && self.span.end.tick < append.span.begin.tick;
        self.drops(append.key) && after.may_have(self.span.begin) && !before
    }

    /// Whether no entry of this append can be there any more.
    fn dropped(&self, append: &Append, after: After) -> bool {
        self.result.is_ok()
            && self.what != Other::Compact
            && self.drops(append.key)
            && append.span.end.tick < self.span.begin.tick
            && after.knows(self.span.end)
    }
}

impl Append {
    /// Refused, or failed before any sync: the entry is not in the log and never will be.
    fn is_void(&self) -> bool {
        matches!(
            &self.result,
            Err(WalError::StorageFull { .. } | WalError::Io { operation: "append", .. })
        )
    }
}

impl History {
    fn droppable(&self, append: &Append, after: After) -> bool {
        self.others.iter().any(|other| other.may_drop(append, after))
    }

    /// Whether an entry has to be there.
    fn is_promised(&self, append: &Append, after: After) -> bool {
        let synced = |other: &Done| {
            other.syncs(append.key)
                && other.span.begin.tick > append.span.end.tick
                && after.knows(other.span.end)
        };
        append.result.is_ok()
            && !self.droppable(append, after)
            && match after {
                After::Kill => true,
                After::PowerCut(_) => {
                    append.disk && after.knows(append.span.end) || self.others.iter().any(synced)
                }
            }
    }

    /// What the calls said, by itself.
    pub fn check_calls(&self) -> Check {
        for append in &self.appends {
            let Ok(refs) = &append.result else { continue };
            for later in &self.appends {
                let in_order = append.key == later.key
                    && append.span.end.tick < later.span.begin.tick
                    && later.result.is_ok();
                let place = |at: &EntryRef| (at.sequence_number, at.offset);
                let last = refs.last().map(place);
                let next = later.result.as_ref().ok().and_then(|refs| refs.first()).map(place);
                ensure!(!in_order || last < next, "not in order: {append:?}, {later:?}");
            }
            // A key whose hash is taken waits for the sync of another one's file, too, and may get the
            // hash when that one is removed.
            if self.others.iter().any(|other| matches!(other.what, Other::Remove(_))) {
                continue;
            }
            let own = format!("{:016x}", refs[0].key_hash);
            let is_sync = |error: &WalError| match error {
                WalError::Io { path, operation: "sync the segment", .. } => {
                    path.to_string_lossy().contains(&own)
                }
                _ => false,
            };
            let earlier = self.appends.iter().find(|earlier| {
                earlier.key == append.key
                    && earlier.span.end.tick < append.span.begin.tick
                    && earlier.result.as_ref().is_err_and(is_sync)
                    && !self.droppable(earlier, After::Kill)
            });
            ensure!(earlier.is_none(), "accepted after a failed sync: {append:?}, {earlier:?}");
        }
        Ok(())
    }

    /// What the log holds, against all calls.
    pub fn check(&self, wal: &Wal, keys: &[&[u8]], after: After) -> Check {
        (0..).zip(keys).try_for_each(|(key, name)| {
            self.check_key(wal, key, name, after).map_err(|text| format!("key {key}: {text}"))
        })
    }

    fn check_key(&self, wal: &Wal, key: usize, name: &[u8], after: After) -> Check {
        let wrong = |what: &str, error: WalError| format!("{what}: {error}: {error:?}");
        let entries = wal.entries(name).map_err(|error| wrong("entries", error))?;
        let seen: Vec<Entry> =
            entries.collect::<Result<_, _>>().map_err(|error| wrong("reading in order", error))?;
        let first = wal.first_index(name).map_err(|error| wrong("first_index", error))?;
        let next = wal.next_index(name).map_err(|error| wrong("next_index", error))?;
        ensure!(
            seen.iter().map(|entry| entry.index).eq(first..next),
            "indices from {first} to {next}: {seen:?}"
        );
        let appends = || self.appends.iter().filter(|append| append.key == key);
        for entry in &seen {
            let issued = appends().any(|append| {
                append.contents.contains(&entry.content) && after.may_have(append.span.begin)
            });
            ensure!(issued, "invented: {entry:?}");
        }
        let keeps_all = !self.others.iter().any(|other| other.drops(key));
        for shown in self.shown.iter().filter(|shown| shown.key == key && keeps_all) {
            let there = seen.iter().any(|entry| entry.content == shown.content);
            ensure!(there || !after.knows(shown.moment), "shown as durable, and lost: {shown:?}");
        }
        let mut accepted = Vec::new();
        for append in appends() {
            let place = |content| seen.iter().position(|entry| entry.content == content);
            let places: Vec<Option<usize>> = append.contents.iter().map(place).collect();
            let there = places.first().is_some_and(Option::is_some);
            let whole = (0..).zip(&places).all(|(n, at)| *at == places[0].map(|at| at + n));
            ensure!(whole, "a batch is torn: {append:?}, {seen:?}");
            ensure!(!(there && append.is_void()), "failed, and there: {append:?}");
            ensure!(there || !self.is_promised(append, after), "lost: {append:?}, {seen:?}");
            let dropped = self.others.iter().find(|other| other.dropped(append, after));
            ensure!(!there || dropped.is_none(), "back from {dropped:?}: {append:?}");
            let Ok(refs) = &append.result else { continue };
            let droppable = self.droppable(append, after);
            for ((reference, content), at) in refs.iter().zip(&append.contents).zip(&places) {
                match (wal.read_entry(*reference), at) {
                    (Ok(entry), Some(at)) if entry == seen[*at] => {}
                    // While entries are dropped, a reference may still give what it always gave.
                    (Ok(entry), None) if droppable && entry.content == content => {}
                    (Err(WalError::Expired | WalError::InvalidRef), None) => {}
                    (got, _) => return Err(format!("{reference:?} gives {got:?}: {append:?}")),
                }
            }
            if !droppable {
                accepted.push((refs[0].sequence_number, refs[0].offset, there));
            }
        }
        accepted.sort_unstable();
        let prefix = accepted.iter().is_sorted_by_key(|(_, _, there)| !there);
        ensure!(prefix, "not a prefix: {accepted:?}");
        Ok(())
    }
}
