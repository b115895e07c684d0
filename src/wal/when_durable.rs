//! Waiting for an entry to become durable without a thread that waits.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use super::Wal;
use crate::entry::EntryRef;
use crate::error::{Result, WalError};
use crate::watch::{End, Watcher};

/// After an error that may last.
const PAUSE: Duration = Duration::from_millis(10);

/// Ready once an entry survives power loss, as if it had been appended with
/// [`Disk`](crate::Durability::Disk); see [`Wal::when_durable`].
#[must_use = "futures do nothing unless polled"]
pub struct WhenDurable<W: Deref<Target = Wal>> {
    wal: W,
    reference: EntryRef,
    watcher: Option<Watcher>,
}

impl Wal {
    /// Waits, as a future, until an entry and all before it of its key survive power loss. Of a batch, take the
    /// last reference.
    ///
    /// A future cannot sync without holding up the thread that polls it. So this one asks for a sync, which a
    /// thread does that is in [`serve_syncs`](Self::serve_syncs). Any number of futures share one sync of
    /// their key, or with a [journal](crate::WalOptions::journal_bytes), of all keys. The syncs of others count as
    /// well; but if there is no such thread and nobody syncs, this waits until somebody does.
    ///
    /// The waker is called by whoever syncs, in the middle of a call, under locks of the log: it may let the future and
    /// the log go, but whoever runs the task at once, in the waker itself, must not call the log from there. A log
    /// that is let go on a thread of a log's own, this one's or another's, stays locked until its own threads have
    /// ended, a moment later.
    ///
    /// The append before it may itself take as long as creating a file does, and the sync of a full segment.
    ///
    /// ```
    /// # use keywal::{EntryRef, Wal, WalOptions, WhenDurable};
    /// # use std::sync::Arc;
    /// # let dir = tempfile::tempdir()?;
    /// let wal = Arc::new(Wal::new(dir.path(), WalOptions::default())?);
    /// let server = Arc::clone(&wal);
    /// let server = std::thread::spawn(move || server.serve_syncs());
    ///
    /// async fn log(wal: &Wal, content: &str) -> keywal::Result<EntryRef> {
    ///     let reference = wal.append_entry("jobs", None, content, false)?;
    ///     wal.when_durable(reference).await?;
    ///     Ok(reference)
    /// }
    /// # struct Unpark(std::thread::Thread);
    /// # impl std::task::Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark() } }
    /// # let waker = Arc::new(Unpark(std::thread::current())).into();
    /// # let mut context = std::task::Context::from_waker(&waker);
    /// # let mut future = std::pin::pin!(log(&wal, "paint the fence"));
    /// # while future.as_mut().poll(&mut context).is_pending() { std::thread::park() }
    ///
    /// wal.shutdown()?;
    /// server.join().unwrap()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`Poisoned`](WalError::Poisoned): the sync failed. Whether the entry survives is unknown until the log
    ///   is reopened.
    /// - [`Expired`](WalError::Expired): the entry was dropped, or its key removed.
    /// - [`InvalidRef`](WalError::InvalidRef): there is no such entry.
    /// - [`Closed`](WalError::Closed): the log was shut down, and whether that has made the entry durable is what
    ///   [`shutdown`](Self::shutdown) has told its caller.
    /// - [`Forked`](WalError::Forked), and what reading a segment's header gives.
    pub fn when_durable(&self, reference: EntryRef) -> WhenDurable<&Self> {
        WhenDurable::new(self, reference)
    }

    /// Lends the calling thread to the log: it does the syncs that futures of
    /// [`when_durable`](Self::when_durable) ask for, until the log is shut down. Waiting costs nothing. More than
    /// one thread helps where there is no journal and many keys are waited for at once.
    ///
    /// # Errors
    /// [`Closed`](WalError::Closed) if the log was shut down before, [`Forked`](WalError::Forked). That a sync
    /// fails is told to those who wait for it, and to everybody who uses the key later.
    pub fn serve_syncs(&self) -> Result<()> {
        let store = &self.store;
        store.check_open()?;
        store.check_process()?;
        while let Some(hash) = store.watch.wanted() {
            let Some(stream) = self.streams.by_hash(hash) else { continue };
            // An error stays with the segment or the directory, unless the file could not even be opened.
            if stream.sync(store).is_err() {
                // Whoever waits may ask again at once, and for as long as it lasts.
                thread::sleep(PAUSE);
                store.watch.changed(hash);
            }
        }
        Ok(())
    }
}

impl<W: Deref<Target = Wal>> WhenDurable<W> {
    /// As [`Wal::when_durable`], which borrows the log. With an `Arc` of it, this can be moved into a task.
    pub fn new(wal: W, reference: EntryRef) -> Self {
        Self { wal, reference, watcher: None }
    }

    /// Whether the entry is durable; an error if it will not be.
    fn look(&self) -> Result<bool> {
        let store = &self.wal.store;
        store.check_writable()?;
        let end = self.watcher.as_ref().and_then(|watcher| watcher.signal().end());
        if end == Some(End::Removed) {
            return Err(WalError::Expired);
        }
        let segment = self.wal.segment_of(self.reference)?;
        let offset = self.reference.offset;
        if offset < u64::from(segment.frames_start) || offset >= u64::from(segment.extent().end) {
            return Err(WalError::InvalidRef);
        }
        // Marks stand between entries.
        if u64::from(store.durable_end(&segment)) > offset {
            return Ok(true);
        }
        if segment.is_poisoned() {
            return Err(segment.poisoned());
        }
        store.check_name(&segment).map(|()| false)
    }

    fn watch(&mut self) {
        let hash = self.reference.key_hash;
        let stream = self.wal.streams.by_hash(hash);
        let key = stream.as_ref().and_then(|stream| stream.key()).unwrap_or_default();
        self.watcher = Some(Watcher::new(&self.wal.store.watch, key, hash));
    }
}

impl<W: Deref<Target = Wal> + Unpin> Future for WhenDurable<W> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match self.look() {
            Ok(false) => {}
            done => return Poll::Ready(done.map(|_| ())),
        }
        if self.watcher.is_none() {
            self.watch();
        }
        if let Some(watcher) = &self.watcher {
            watcher.signal().arm_with(context.waker());
        }
        match self.look() {
            Ok(false) => {
                self.wal.store.watch.want(self.reference.key_hash);
                Poll::Pending
            }
            done => Poll::Ready(done.map(|_| ())),
        }
    }
}

impl<W: Deref<Target = Wal>> fmt::Debug for WhenDurable<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhenDurable").field("reference", &self.reference).finish_non_exhaustive()
    }
}
