//! Keeping what was promised of a segment that cannot be synced any more.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use super::Store;
use super::upkeep::sync_journal;
use crate::error::{Result, WalError};
use crate::format::{Body, Record, RecordHeader};
use crate::ring::{Outcome, Piece, Previous, Ring, bare};
use crate::segment::{Pending, Segment};

impl Store {
    /// Appends to the journal once more what it has of a segment whose sync failed, so that it can use the
    /// space of the older records again. Recovery writes them to the file anew, as if they were the first ones.
    ///
    /// Such a segment takes no more entries, so this is the same each time the journal comes round. What is
    /// carried survives power loss when this returns: the next record may already say that the journal starts
    /// behind the older ones, and may be all that a power cut leaves. A segment that is noted as dropped may stay
    /// (its key got other limits, its unlink failed), or its unlink may not survive: it is carried, too.
    pub(super) fn carry(&self, ring: &Ring, segment: &Segment) -> Result<()> {
        let Some(pending) = segment.pending() else { return Ok(()) };
        self.append_again(ring, segment, pending)?;
        sync_journal(ring, pending.next())
    }

    fn append_again(&self, ring: &Ring, segment: &Segment, pending: &Pending) -> Result<()> {
        // Who writes to the file notes at the end up to which record it has everything: of those there were.
        let _settling = pending.settling();
        loop {
            let (newest, dropped) = (pending.previous(), pending.is_dropped());
            let records = pending
                .not_durable(segment.durable_in_file())
                .map_err(|source| WalError::io(&ring.path, "read the journal", source))?;
            let parts: Vec<[&[u8]; 1]> =
                records.iter().map(|(_, body)| [body.as_slice()]).collect();
            let mut previous = Previous::None;
            let mut pieces = Vec::with_capacity(records.len().saturating_add(1));
            if dropped {
                // Without the record that says so, those of the segment would bring it back.
                pieces.push(bare(Body::Dropped, segment.id));
            }
            for ((header, _), parts) in records.iter().zip(&parts) {
                // Those it was recovered together with have left the journal.
                let record = Record { continues: false, ..header.record };
                pieces.push(Piece { record, previous, parts });
                if record.body == Body::Frames {
                    previous = Previous::Piece;
                }
            }
            let promise = [self.promise_of(segment)];
            let unchanged = |_| pending.previous() == newest && pending.is_dropped() == dropped;
            let mut first = true;
            let placed = |_: usize, header: &RecordHeader| {
                pending.note_carried(header, std::mem::take(&mut first));
                false
            };
            match ring.append_again(&pieces, (&promise, &unchanged), placed) {
                Ok(Outcome::Appended) => return Ok(()),
                // An append was on its way when the sync failed, or a removal.
                Ok(Outcome::NotAllowed) => {}
                Ok(Outcome::NoRoom | Outcome::InDoubt) => return Err(segment.poisoned()),
                Err(source) => {
                    return Err(WalError::io(&ring.path, "write to the journal", source));
                }
            }
        }
    }
}
