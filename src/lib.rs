//! keywal

#![forbid(unsafe_code)]

mod cache;
mod chains;
mod clock;
mod entries;
mod entry;
mod error;
mod format;
#[cfg(any(test, feature = "sim"))]
#[doc(hidden)]
pub mod fs;
#[cfg(not(any(test, feature = "sim")))]
mod fs;
mod options;
mod recovery;
mod report;
mod retention;
mod scan;
mod segment;
mod store;
mod stream;
mod streams;
mod sync;
mod wal;

pub use clock::{Clock, ManualClock, SystemClock};
pub use entries::{Entries, Records};
pub use entry::{Entry, EntryRef, EntrySlice, Key};
pub use error::{Result, WalError};
pub use options::{Durability, WalOptions};
pub use report::{CompactionReport, Finding, KeyStats, RecoveryReport, SegmentInfo, Stats};
pub use retention::ClockTrouble;
pub use wal::{Keys, Wal};
