//! A key's own limits and metadata: in the header of its newest segment, and handed on from there.

use super::{Phase, Stream, Writer};
use crate::error::{Result, WalError};
use crate::format::Limits;
use crate::segment::Segment;
use crate::store::Store;

impl Stream {
    /// Gives the key limits of its own, or takes them back. They survive power loss when this returns.
    ///
    /// It takes a new segment to say so. If a crash comes before that one survives, the old limits count.
    pub(crate) fn set_limits(
        &self,
        store: &Store,
        writer: &mut Writer,
        limits: Option<Limits>,
    ) -> Result<()> {
        match writer.phase {
            Phase::Unloaded | Phase::Gone => return Err(WalError::Closed),
            Phase::Damaged => return Err(self.damaged(store)),
            Phase::Stuck => return Err(self.stuck(store, writer)),
            Phase::Empty => return self.start(store, writer, limits, &[]),
            Phase::Active { .. } | Phase::Stale | Phase::Ended { .. } => {}
        }
        let old = self.segment_to_append(store, writer)?;
        if old.limits == limits {
            return secure(store, &old);
        }
        // With limits of its own, nothing explains a gap in the row any more: what was dropped must not come
        // back, though the journal could let the new segment survive before that is sure.
        self.unlink_leftovers(store, writer)?;
        store.sync_names(store.latest_name_change())?;
        self.seal(store, writer, &old)?;
        let facts = (limits, &*old.metadata);
        let new = self.create(store, writer, Some(&old), facts, store.now_ms())?;
        self.catalog().due = super::Due::default();
        secure(store, &new)?;
        self.unlink_if_first_and_empty(store, writer, &old)
    }

    /// Creates the key, unless it has a segment. It survives power loss when this returns `true`.
    pub(crate) fn create_key(
        &self,
        store: &Store,
        writer: &mut Writer,
        limits: Option<Limits>,
        metadata: &[u8],
    ) -> Result<bool> {
        match writer.phase {
            Phase::Unloaded | Phase::Gone => Err(WalError::Closed),
            // Perhaps half removed.
            Phase::Stuck => Err(self.stuck(store, writer)),
            Phase::Empty => self.start(store, writer, limits, metadata).map(|()| true),
            _ => Ok(false),
        }
    }

    fn start(
        &self,
        store: &Store,
        writer: &mut Writer,
        limits: Option<Limits>,
        metadata: &[u8],
    ) -> Result<()> {
        let first = self.create(store, writer, None, (limits, metadata), store.now_ms())?;
        secure(store, &first)
    }
}

/// Makes what the segment says survive power loss.
fn secure(store: &Store, segment: &Segment) -> Result<()> {
    if segment.is_poisoned() {
        return Err(segment.poisoned());
    }
    store.make_durable(segment, segment.extent().end)
}
