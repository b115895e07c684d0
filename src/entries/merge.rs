//! Reading several keys as one, in time order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};

use super::Entries;
use crate::entry::{Entry, Key};
use crate::error::Result;

/// The entries of several keys in time order, with the key of each; see
/// [`Wal::merge`](crate::Wal::merge).
///
/// Entries with the same timestamp come in the order in which their keys were given, those of one key in the
/// order of their indexes. It shows the entries that existed when it was made.
///
/// Memory: for each key what [`Entries`] takes, a chunk of 64 KiB or an entry where that is longer, and its
/// newest file stays open, beyond [`max_open_files`](crate::WalOptions::max_open_files). A step costs a
/// search of the logarithm of their number.
///
/// Errors are those of [`Entries`]: each is told once, as soon as its key comes to it, and the next call
/// goes on behind it.
pub struct Merge<'a> {
    sources: Vec<Source<'a>>,
    /// Time and place of the sources' heads, the next one on top.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// Places of the sources whose head has yet to be read.
    unread: Vec<usize>,
}

struct Source<'a> {
    key: Key,
    entries: Entries<'a>,
    head: Option<Entry>,
}

impl<'a> Merge<'a> {
    pub(crate) fn new(sources: Vec<(Key, Entries<'a>)>) -> Self {
        let unread = (0..sources.len()).rev().collect();
        let source = |(key, entries)| Source { key, entries, head: None };
        let sources = sources.into_iter().map(source).collect();
        Self { sources, heads: BinaryHeap::new(), unread }
    }

    /// Narrows to the entries appended at these times, in milliseconds since 1970; `..=moment` reads until a
    /// moment. To be called before anything is read. Costs a search of each key: a logarithmic number of
    /// reads.
    ///
    /// # Errors
    /// As reading gives.
    pub fn time_range(mut self, times_ms: impl RangeBounds<u64>) -> Result<Self> {
        let times: (Bound<u64>, Bound<u64>) =
            (times_ms.start_bound().cloned(), times_ms.end_bound().cloned());
        let narrowed = self.sources.into_iter().map(|source| {
            let entries = source.entries.time_range(times)?;
            Ok(Source { entries, ..source })
        });
        self.sources = narrowed.collect::<Result<_>>()?;
        Ok(self)
    }
}

impl Iterator for Merge<'_> {
    type Item = Result<(Key, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(place) = self.unread.pop() {
            let source = self.sources.get_mut(place)?;
            match source.entries.next() {
                Some(Ok(entry)) => {
                    self.heads.push(Reverse((entry.timestamp_ms, place)));
                    source.head = Some(entry);
                }
                Some(Err(error)) => {
                    self.unread.push(place);
                    return Some(Err(error));
                }
                None => {}
            }
        }
        let Reverse((_, place)) = self.heads.pop()?;
        self.unread.push(place);
        let source = self.sources.get_mut(place)?;
        source.head.take().map(|entry| Ok((source.key.clone(), entry)))
    }
}

impl FusedIterator for Merge<'_> {}

impl fmt::Debug for Merge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merge").field("keys", &self.sources.len()).finish_non_exhaustive()
    }
}
