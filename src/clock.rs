//! Time of day and elapsed time, behind a trait so that tests and simulations can set them.

use std::fmt::Debug;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::primitives::atomic::{AtomicU64, Ordering};

/// Where a [`Wal`](crate::Wal) takes the time from.
///
/// Two clocks are asked because the time of day can be set: what retention may delete is decided by
/// the time of day, and a jump of it that the monotonic clock did not see stops
/// [`compact`](crate::Wal::compact) from deleting.
pub trait Clock: Send + Sync + Debug {
    /// Milliseconds since 1970-01-01T00:00:00Z; 0 for any earlier moment.
    fn now_ms(&self) -> u64;

    /// Milliseconds since any fixed moment; never falls and cannot be set.
    fn monotonic_ms(&self) -> u64;
}

/// The operating system's clocks. On Linux the time in which the machine sleeps is counted, else it would look like
/// a jump.
#[derive(Debug, Default)]
pub struct SystemClock {
    #[cfg(not(target_os = "linux"))]
    started: Started,
}

#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
struct Started(std::time::Instant);

#[cfg(not(target_os = "linux"))]
impl Default for Started {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(since_epoch)
    }

    #[cfg(target_os = "linux")]
    fn monotonic_ms(&self) -> u64 {
        let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        millis(Duration::try_from(since_boot).unwrap_or_default())
    }

    #[cfg(not(target_os = "linux"))]
    fn monotonic_ms(&self) -> u64 {
        millis(self.started.0.elapsed())
    }
}

/// A clock that stands still until it is told otherwise.
///
/// ```
/// use keywal::{Clock, ManualClock};
/// use std::time::Duration;
///
/// let clock = ManualClock::new(1_700_000_000_000);
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now_ms(), 1_700_000_060_000);
/// assert_eq!(clock.monotonic_ms(), 60_000);
/// ```
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicU64,
    monotonic_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now_ms` milliseconds since 1970.
    pub fn new(now_ms: u64) -> Self {
        Self { now_ms: AtomicU64::new(now_ms), monotonic_ms: AtomicU64::new(0) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.now_ms.fetch_add(millis(by), Ordering::SeqCst);
        self.monotonic_ms.fetch_add(millis(by), Ordering::SeqCst);
    }

    /// Sets the time of day, as an administrator would, without any time passing. To let entries grow
    /// old use [`advance`](Self::advance): a jump ahead of [more than little](crate::ClockTrouble::JumpedAhead)
    /// makes [`compact`](crate::Wal::compact) refuse until the directory is reopened.
    pub fn set(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }
}

/// A duration in whole milliseconds, at most `u64::MAX`.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
