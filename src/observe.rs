//! What is told while it happens: spans and events for the feature `tracing`, the time of syncs for the
//! feature `metrics`. Without them these functions are empty. None is called for an append that goes well.

use std::fmt::Display;
use std::io;
use std::path::Path;
#[cfg(feature = "tracing")]
use std::time::Duration;
use std::time::Instant;

use crate::error::{Result, WalError};
use crate::report::{CompactionReport, Counters, Finding, RecoveryReport};

/// Events for the findings of one kind; the report has the others.
#[cfg(feature = "tracing")]
const MAX_FINDINGS: usize = 16;
/// From then on an append has waited long for the journal.
#[cfg(feature = "tracing")]
const SLOW: Duration = Duration::from_millis(100);

/// What is synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Synced {
    Segment,
    Directory,
    Journal,
    Meta,
}

impl Synced {
    #[cfg(any(feature = "tracing", feature = "metrics"))]
    fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Directory => "directory",
            Self::Journal => "journal",
            Self::Meta => "META",
        }
    }
}

/// A span that ends when this is dropped.
#[must_use]
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    _entered: tracing::span::EnteredSpan,
}

/// The directory is being opened.
pub(crate) fn opening(dir: &Path) -> Span {
    #[cfg(not(feature = "tracing"))]
    let _ = dir;
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::info_span!("keywal.open", dir = %dir.display()).entered(),
    }
}

/// The directory is being compacted.
pub(crate) fn compacting(dir: &Path) -> Span {
    #[cfg(not(feature = "tracing"))]
    let _ = dir;
    Span {
        #[cfg(feature = "tracing")]
        _entered: tracing::info_span!("keywal.compact", dir = %dir.display()).entered(),
    }
}

/// Empty without the feature; the arguments are then used by nothing.
macro_rules! event {
    ($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        #[cfg(feature = "tracing")]
        pub(crate) fn $name($($argument: $type),*) $body

        $(#[$doc])*
        #[cfg(not(feature = "tracing"))]
        #[inline]
        pub(crate) fn $name($(_: $type),*) {}
    };
}

event! {
    /// The directory is open.
    fn opened(report: &RecoveryReport) {
        for torn in report.torn.iter().take(MAX_FINDINGS) {
            let Finding { path, offset, bytes, what } = torn;
            tracing::warn!(path = %path.display(), offset, bytes, %what, "unfinished write");
        }
        for ignored in report.ignored.iter().take(MAX_FINDINGS) {
            tracing::warn!(path = %ignored.path.display(), what = %ignored.what, "file ignored");
        }
        report.damaged.iter().take(MAX_FINDINGS).for_each(damaged);
        tracing::info!(
            clean = report.clean,
            keys = report.keys,
            segments = report.segments,
            entries_checked = report.entries_checked,
            journal_bytes = report.journal_bytes,
            torn = report.torn.len(),
            damaged = report.damaged.len(),
            ignored = report.ignored.len(),
            elapsed_ms = millis(report.elapsed),
            "opened"
        );
    }
}

event! {
    /// Damage, when it is met first.
    fn damaged(found: &Finding) {
        let Finding { path, offset, bytes, what } = found;
        tracing::error!(path = %path.display(), offset, bytes, %what, "damaged");
    }
}

event! {
    /// A run of `compact` has ended.
    fn compacted(result: &Result<CompactionReport>) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(error = %Chain(error), "compaction failed");
                return;
            }
        };
        for failure in report.failures.iter().take(MAX_FINDINGS) {
            tracing::warn!(path = %failure.path.display(), what = %failure.what, "not compacted");
        }
        if let Some(trouble) = report.refused {
            tracing::warn!(?trouble, "compaction refused: the clock cannot be trusted");
            return;
        }
        tracing::info!(
            keys = report.keys,
            dropped_segments = report.dropped_segments,
            dropped_bytes = report.dropped_bytes,
            dropped_entries = report.dropped_entries,
            failures = report.failures.len(),
            "compacted"
        );
    }
}

event! {
    /// A segment was started: the first of its key, or the next one.
    fn segment_started(path: &Path, rotated: bool) {
        tracing::debug!(path = %path.display(), rotated, "segment started");
    }
}

event! {
    /// Something takes no more durable entries, without a sync that failed.
    fn poisoned(path: &Path, why: &dyn Display) {
        tracing::error!(path = %path.display(), %why, "poisoned");
    }
}

event! {
    /// The journal's upkeep failed; it is tried again when the space is needed.
    fn journal_upkeep_failed(error: &WalError) {
        tracing::warn!(error = %Chain(error), "the journal cannot be emptied");
    }
}

/// An append has to wait for space in the journal, until this is dropped.
#[must_use]
pub(crate) struct Waiting {
    #[cfg(feature = "tracing")]
    since: Instant,
}

pub(crate) fn waiting_for_the_journal() -> Waiting {
    Waiting {
        #[cfg(feature = "tracing")]
        since: Instant::now(),
    }
}

#[cfg(feature = "tracing")]
impl Drop for Waiting {
    fn drop(&mut self) {
        let elapsed = self.since.elapsed();
        if elapsed >= SLOW {
            tracing::warn!(elapsed_ms = millis(elapsed), "an append waited for the journal");
        } else {
            tracing::debug!(elapsed_ms = millis(elapsed), "an append waited for the journal");
        }
    }
}

event! {
    /// The log was shut down.
    fn closed(dir: &Path, result: &Result<()>) {
        match result {
            Ok(()) => tracing::info!(dir = %dir.display(), "shut down"),
            Err(error) => {
                tracing::error!(dir = %dir.display(), error = %Chain(error), "shutdown failed");
            }
        }
    }
}

/// Does a sync, counts it and takes its time.
pub(crate) fn time_sync(
    counters: &Counters,
    what: Synced,
    path: &Path,
    sync: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let started = Instant::now();
    let result = sync();
    let elapsed = started.elapsed();
    counters.count_sync(elapsed, &result);
    #[cfg(feature = "metrics")]
    metrics::histogram!("keywal_sync_seconds", "file" => what.name()).record(elapsed);
    if let Err(error) = &result {
        sync_failed(what, path, error);
    }
    result
}

event! {
    /// A sync failed: nothing more can be made durable through the file.
    fn sync_failed(what: Synced, path: &Path, error: &io::Error) {
        tracing::error!(path = %path.display(), what = what.name(), %error, "sync failed");
    }
}

#[cfg(feature = "tracing")]
fn millis(elapsed: Duration) -> u64 {
    crate::clock::millis(elapsed)
}

/// An error with its sources.
#[cfg(feature = "tracing")]
struct Chain<'a>(&'a WalError);

#[cfg(feature = "tracing")]
impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
