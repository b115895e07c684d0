//! Following a key: its entries, and those that are still to come.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Wal;
use super::read::check_key;
use crate::entries::Tail;
use crate::entry::Entry;
use crate::error::{Result, WalError};
use crate::format::key_hash;
use crate::segment::Segment;
use crate::stream::{Phase, Stream};
use crate::watch::{End, Signal, Watcher};

/// The entries of one key from some index on, and then each new one as it is appended; see
/// [`Wal::follow`].
///
/// As an iterator it waits for the next entry as long as it takes; [`next_timeout`](Self::next_timeout) waits
/// for a while, and [`try_next`](Self::try_next) not at all. An append wakes whoever waits: nothing is asked
/// again and again, and there is no thread behind it. A [`Canceller`] ends it from another thread. With the
/// feature `async` it is a `futures_core::Stream` as well.
///
/// # What it shows
/// Every entry once, in order, as soon as it is visible to readers; a batch as a whole. With
/// [`durable_only`](Self::durable_only), as soon as it survives power loss. If the key does not exist yet,
/// it waits for its creation; if it is not as long yet, for the entry with the index asked for.
///
/// # Errors
/// These are told once, and the next call goes on behind what they cost, as [`Entries`](crate::Entries) does:
/// - [`Behind`](WalError::Behind): the next entry has been dropped by retention or truncation. It goes on with
///   the oldest entry there is.
/// - [`Corrupted`](WalError::Corrupted), [`TooLarge`](WalError::TooLarge): these entries cannot be had.
/// - [`Io`](WalError::Io): the rest of what was visible in this segment is given up; or a file could not be
///   opened, and the next call tries that again.
///
/// And these end it: nothing more can come. The iterator tells them once and then ends, the other calls
/// tell them each time.
/// - [`Expired`](WalError::Expired): the key was removed. What is appended to it later is another log: follow
///   it anew.
/// - [`Poisoned`](WalError::Poisoned): a sync failed, so the key takes no more entries until the log is
///   reopened. What is visible (or durable) is shown first.
/// - [`Corrupted`](WalError::Corrupted), if the end of the key's log is lost and it cannot be continued.
/// - [`Closed`](WalError::Closed): the log was shut down. What was not read by then is there when it is
///   opened again.
/// - [`Cancelled`](WalError::Cancelled); the iterator just ends.
/// - [`Forked`](WalError::Forked), where a forked child would have to wait: nothing can be appended there.
///
/// # Cost
/// Memory: some hundred bytes while it waits, and 64 KiB or an entry where that is longer, with an open file,
/// between entries that are there. A new entry costs one read, at the place where the last one ended. An
/// append to a key that nobody follows pays a look at a number; one that is followed, a lock and a wake-up.
///
/// `W` is how it holds the log: `&Wal`, or an `Arc<Wal>` where it has to live as long as it likes.
pub struct Follow<W: Deref<Target = Wal>> {
    wal: W,
    watcher: Watcher,
    tail: Tail,
    /// The stream, once it has been found.
    stream: Option<Arc<Stream>>,
    /// What ends it has been told.
    over: bool,
}

/// Ends a [`Follow`] from any thread; see [`Follow::canceller`].
#[derive(Debug, Clone)]
pub struct Canceller(Arc<Signal>);

/// What a look at the log comes to.
enum Look {
    Entry(Entry),
    NotYet,
    /// It goes on behind this.
    Failed(WalError),
    /// Nothing more can come.
    Over(WalError),
}

impl Wal {
    /// Follows a key: yields the entry with index `from_index`, those behind it, and then waits for new ones.
    /// See [`Follow`] for what it shows, when it ends, and what it costs.
    ///
    /// ```
    /// # use keywal::{Wal, WalOptions};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = Wal::new(dir.path(), WalOptions::default())?;
    /// let mut follow = wal.follow("jobs", 0)?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| wal.append_entry("jobs", None, "paint the fence", false));
    ///     let entry = follow.next_timeout(Duration::from_secs(60))?;
    ///     assert_eq!(entry.map(|entry| entry.content).as_deref(), Some(&b"paint the fence"[..]));
    ///     Ok::<(), keywal::WalError>(())
    /// })?;
    /// assert!(follow.try_next()?.is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyTooLong`](WalError::KeyTooLong), [`Closed`](WalError::Closed), and what reading the newest segment
    /// gives. That an index has been dropped is said by the first call for an entry.
    pub fn follow(&self, key: impl AsRef<[u8]>, from_index: u64) -> Result<Follow<&Self>> {
        Follow::new(self, key, from_index)
    }
}

impl<W: Deref<Target = Wal>> Follow<W> {
    /// As [`Wal::follow`], which borrows the log. With an `Arc` of it, this can go to another thread or into a
    /// task:
    ///
    /// ```
    /// # use keywal::{Follow, Wal, WalOptions};
    /// # use std::sync::Arc;
    /// # let dir = tempfile::tempdir()?;
    /// let wal = Arc::new(Wal::new(dir.path(), WalOptions::default())?);
    /// let mut follow = Follow::new(Arc::clone(&wal), "jobs", 0)?;
    /// let canceller = follow.canceller();
    /// let worker = std::thread::spawn(move || follow.by_ref().count());
    /// canceller.cancel();
    /// assert_eq!(worker.join().unwrap(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Wal::follow`].
    pub fn new(wal: W, key: impl AsRef<[u8]>, from_index: u64) -> Result<Self> {
        let key = key.as_ref();
        wal.store.check_open()?;
        check_key(key)?;
        let watcher = Watcher::new(&wal.store.watch, key, key_hash(key));
        let tail = Tail::new(from_index);
        let mut follow = Self { wal, watcher, tail, stream: None, over: false };
        follow.find()?;
        Ok(follow)
    }

    /// Shows entries only once they survive power loss, whoever it was that made them durable: a
    /// [`Disk`](crate::Durability::Disk) append to this key, [`sync_key`](Wal::sync_key) or [`sync`](Wal::sync), a
    /// full segment. (What a sync of the journal made durable for others on the way waits for one of these.) It
    /// makes none so itself, but for the directory entry of a segment, where that is all that is missing.
    ///
    /// What it has shown is there after a crash of the machine, so a copy made from it is never ahead of the
    /// log.
    #[must_use]
    pub fn durable_only(mut self) -> Self {
        self.tail.set_durable_only();
        self
    }

    /// A handle to end this from another thread. Ending takes effect at once, also on entries that have not
    /// been shown yet.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(self.watcher.signal()))
    }

    /// Everything before this index has been shown or reported: where to go on from with another `Follow`.
    pub fn next_index(&self) -> u64 {
        self.tail.next_index()
    }

    /// The next entry if there is one now; `None` if not. It waits for no appender, but reads files.
    ///
    /// # Errors
    /// See [`Follow`].
    pub fn try_next(&mut self) -> Result<Option<Entry>> {
        self.look().into_result()
    }

    /// The next entry, for which it waits so long at most; `None` if there is none by then.
    ///
    /// # Errors
    /// See [`Follow`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Entry>> {
        // A time that cannot be counted does not come.
        self.wait(Instant::now().checked_add(timeout)).into_result()
    }

    fn wait(&mut self, deadline: Option<Instant>) -> Look {
        if self.tail.is_reading() {
            match self.look() {
                Look::NotYet => {}
                found => return found,
            }
        }
        loop {
            self.watcher.signal().arm();
            match self.look() {
                Look::NotYet => {}
                found => return found,
            }
            if let Err(error) = self.wal.store.check_process() {
                return Look::Over(error);
            }
            if !self.watcher.signal().wait(deadline) {
                return Look::NotYet;
            }
        }
    }

    fn look(&mut self) -> Look {
        if let Err(closed) = self.wal.store.check_open() {
            return Look::Over(closed);
        }
        let mut stop = match self.watcher.signal().end() {
            None => None,
            Some(End::Cancelled) => return Look::Over(WalError::Cancelled),
            Some(End::Removed) => return Look::Over(WalError::Expired),
            Some(End::Stuck(path)) => Some(WalError::Poisoned { path }),
        };
        let store = &self.wal.store;
        if let Some(result) = self.tail.next_begun(store) {
            return result.into();
        }
        match self.newest() {
            Ok(Some((stream, newest))) => {
                // Asked before: what was accepted before it came to that is shown.
                stop = stop.or_else(|| self.stop(&stream, &newest));
                if let Some(result) = self.tail.next(&self.wal.store, &stream, &newest) {
                    return result.into();
                }
            }
            Ok(None) => {}
            Err(error @ (WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. })) => {
                return Look::Over(error);
            }
            Err(error) => return Look::Failed(error),
        }
        stop.map_or(Look::NotYet, Look::Over)
    }

    /// The stream with its newest segment; `None` if the key does not exist.
    fn newest(&mut self) -> Result<Option<(Arc<Stream>, Arc<Segment>)>> {
        if !self.stream.as_ref().is_some_and(|stream| stream.exists()) {
            self.find()?;
        }
        let Some(stream) = &self.stream else { return Ok(None) };
        let newest = stream.newest(&self.wal.store)?;
        Ok(newest.map(|newest| (Arc::clone(stream), newest)))
    }

    /// Looks the stream up. The order of what this does is what `src/watch.rs` builds on.
    fn find(&mut self) -> Result<()> {
        let signal = Arc::clone(self.watcher.signal());
        loop {
            let found = self.wal.find(signal.key())?;
            if let Some(stream) = &found {
                self.watcher.watch_also(stream.hash);
                let writer = stream.writer();
                match writer.phase {
                    Phase::Gone => continue,
                    Phase::Stuck => {
                        let path = stream.path(&self.wal.store, writer.highest());
                        signal.end_with(End::Stuck(path));
                    }
                    _ => {}
                }
            }
            self.stream = found;
            return Ok(());
        }
    }

    /// Why nothing comes behind what can be read now, if so.
    fn stop(&self, stream: &Stream, newest: &Segment) -> Option<WalError> {
        let store = &self.wal.store;
        if let Some(lost) = store.lost_tails.get(stream.hash) {
            return Some(lost.error());
        }
        // A segment that has a successor may be in doubt, because of the journal, without any harm to the key.
        let is_newest = || stream.sequences().last() == Some(&newest.id.sequence);
        if newest.is_poisoned() {
            return is_newest().then(|| newest.poisoned());
        }
        // The directory cannot be synced any more. What is only visible may come until the segment is full.
        let in_doubt = store.check_name(newest).err()?;
        let takes_entries = || matches!(stream.writer().phase, Phase::Active { .. });
        let over = self.tail.is_durable_only() || !takes_entries();
        (over && is_newest()).then_some(in_doubt)
    }
}

impl Look {
    fn into_result(self) -> Result<Option<Entry>> {
        match self {
            Self::Entry(entry) => Ok(Some(entry)),
            Self::NotYet => Ok(None),
            Self::Failed(error) | Self::Over(error) => Err(error),
        }
    }
}

impl From<Result<Entry>> for Look {
    fn from(result: Result<Entry>) -> Self {
        result.map_or_else(Self::Failed, Self::Entry)
    }
}

/// Waits for each entry. Ends only where [`Follow`] says so.
impl<W: Deref<Target = Wal>> Iterator for Follow<W> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let found = self.wait(None);
        self.item(found)
    }
}

impl<W: Deref<Target = Wal>> std::iter::FusedIterator for Follow<W> {}

impl<W: Deref<Target = Wal>> Follow<W> {
    /// What was found, as an iterator has it.
    fn item(&mut self, found: Look) -> Option<Result<Entry>> {
        match found {
            Look::Entry(entry) => Some(Ok(entry)),
            Look::Failed(error) => Some(Err(error)),
            Look::Over(error) => {
                self.over = true;
                Some(Err(error)).filter(|error| !matches!(error, Err(WalError::Cancelled)))
            }
            Look::NotYet => None,
        }
    }
}

#[cfg(feature = "async")]
impl<W: Deref<Target = Wal> + Unpin> futures_core::Stream for Follow<W> {
    type Item = Result<Entry>;

    /// The same as [`Iterator::next`] without waiting: an append, a sync, a [`Canceller`] wakes the task. Reads
    /// files, so it may take as long as the disk does. For the waker, see [`Wal::when_durable`].
    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        use std::task::Poll;

        if self.over {
            return Poll::Ready(None);
        }
        let mut found = if self.tail.is_reading() { self.look() } else { Look::NotYet };
        if matches!(found, Look::NotYet) {
            self.watcher.signal().arm_with(context.waker());
            found = self.look();
        }
        match found {
            Look::NotYet => match self.wal.store.check_process() {
                Ok(()) => Poll::Pending,
                Err(forked) => Poll::Ready(self.item(Look::Over(forked))),
            },
            found => Poll::Ready(self.item(found)),
        }
    }
}

impl<W: Deref<Target = Wal>> fmt::Debug for Follow<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("next_index", &self.next_index())
            .field("durable_only", &self.tail.is_durable_only())
            .finish_non_exhaustive()
    }
}

impl Canceller {
    /// Ends the following, and wakes who waits for an entry. Once is enough.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}
