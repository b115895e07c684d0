//! What of a segment survives power loss, and when its file may be closed.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::cell::Cell;
use std::io;
use std::sync::PoisonError;

use super::{Pending, Segment};
use crate::error::{Result, WalError};
use crate::fs::File as _;
use crate::observe::{self, Synced};
use crate::primitives::atomic::Ordering;
use crate::report::Counters;
use crate::sync::SyncError;

impl Segment {
    /// Whether bytes would be lost with the power.
    pub(crate) fn is_dirty(&self) -> bool {
        self.gate.durable() < u64::from(self.extent().end)
    }

    /// Notes that its bytes are about to be promised to survive once the journal does.
    pub(crate) fn note_promise(&self) {
        self.promised.store(true, Ordering::Release);
    }

    /// Whether bytes of it may be promised that its file has yet to make durable.
    pub(crate) fn is_promised(&self) -> bool {
        self.promised.load(Ordering::Acquire)
    }

    /// Whether the file can be closed as it is, unsynced or not. For who knows that nobody works on it.
    pub(crate) fn may_be_closed(&self) -> bool {
        let settled = || self.pending().is_none_or(Pending::is_settled);
        !self.is_poisoned() && (!self.is_dirty() || !self.is_promised() && settled())
    }

    /// Makes everything up to `end` survive power loss; the name is another matter.
    pub(crate) fn sync_bytes(&self, end: u32, counters: &Counters) -> Result<()> {
        if self.durable_in_file() >= u64::from(end) {
            return Ok(());
        }
        // What comes behind may have no space there.
        if self.file_end() < end {
            self.settle()?;
        }
        self.dispel_doubt(counters)?;
        let written = || u64::from(self.file_end());
        let settled = Cell::new(0);
        let sync = || {
            let sync = || self.content.sync().map(|position| settled.set(position));
            observe::time_sync(counters, Synced::Segment, &self.path, sync)
        };
        match self.gate.wait_durable(u64::from(end), written, sync) {
            Ok(()) => {
                self.content.note_synced(settled.get());
                Ok(())
            }
            Err(SyncError::Failed(source)) => Err(self.sync_failed(source)),
            Err(SyncError::Poisoned) => Err(self.poisoned()),
        }
    }

    /// Makes sure that what a sync says of the file can be believed.
    fn dispel_doubt(&self, counters: &Counters) -> Result<()> {
        // Nobody else syncs meanwhile: what a sync that failed has lost would go from the page cache, too.
        let mut doubted = self.doubted.lock().unwrap_or_else(PoisonError::into_inner);
        if !*doubted || self.is_poisoned() {
            return Ok(());
        }
        let end = self.file_end();
        let sync = || self.content.sync_data();
        let lost = match observe::time_sync(counters, Synced::Segment, &self.path, sync) {
            Err(source) => Some(source),
            Ok(()) => self
                .lost_on_disk(end)
                .map_err(|source| self.io_error("read back what was synced", source))?
                .map(|what| io::Error::new(io::ErrorKind::InvalidData, what)),
        };
        if let Some(source) = lost {
            self.gate.poison();
            observe::poisoned(&self.path, &source);
            return Err(self.sync_failed(source));
        }
        *doubted = false;
        Ok(())
    }

    fn sync_failed(&self, source: io::Error) -> WalError {
        WalError::Io { path: self.path.clone(), operation: "sync the segment", source }
    }

    pub(crate) fn name_change(&self) -> u64 {
        self.name_change
    }
}
