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
    /// Makes sure that records whose headers were written, at least in part, do not come back.
    pub(super) fn undo(&self, headers: impl Iterator<Item = RecordHeader>) {
        let zeros = [0; RecordHeader::BYTES];
        let mut begun = headers.filter(|header| self.is_begun(header)).peekable();
        if begun.peek().is_none() {
            return;
        }
        let mut take_back = || begun.try_for_each(|header| self.store(header.position, &zeros));
        let undo = || take_back().and_then(|()| self.file.sync_data());
        if self.gate.undo(undo).is_err() {
            observe::poisoned(&self.path, &"a failed write could not be undone");
        }
    }

    /// Whether as much of the header stands there as makes one: its first bytes are the signature and a checksum.
    fn is_begun(&self, header: &RecordHeader) -> bool {
        let mut found = [0; 8];
        let loaded = self.load(header.position, &mut found);
        loaded.is_err() || header.to_bytes(self.key).starts_with(&found)
    }
}
