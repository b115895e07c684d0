//! Taking back records whose write has failed.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::Ring;
use crate::format::RecordHeader;
use crate::observe;

impl Ring {
    /// Makes sure that records whose headers may have been written do not come back. `false`: they may.
    pub(super) fn undo(&self, headers: impl Iterator<Item = RecordHeader>) -> bool {
        let zeros = [0; RecordHeader::BYTES];
        let mut whole = headers.filter(|header| self.is_whole(header)).peekable();
        if whole.peek().is_none() {
            return true;
        }
        let mut take_back = || whole.try_for_each(|header| self.store(header.position, &zeros));
        let undo = || take_back().and_then(|()| self.file.sync_data());
        let undone = self.gate.undo(undo).is_ok();
        if !undone {
            observe::poisoned(&self.path, &"a failed write could not be undone");
        }
        undone
    }

    /// Whether all of the header stands there: less is none, as its checksum says.
    fn is_whole(&self, header: &RecordHeader) -> bool {
        let mut found = [0; RecordHeader::BYTES];
        let loaded = self.load(header.position, &mut found);
        loaded.is_err() || header.to_bytes(self.key) == found
    }
}
