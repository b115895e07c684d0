//! What retention wants to drop of a key, and dropping it.
//!
//! A run over all keys finds out first, has the hook asked without a lock, and then drops: of each key the
//! oldest segments first, in one go where recovery knows why some are missing, else one by one.

use super::discard::{Doomed, droppable, leftovers};
use super::{Phase, Stream};
use crate::chains::{Node, Present};
use crate::error::{Result, WalError};
use crate::format::{Limits, NO_LIMIT};
use crate::hook::{DropHook, DueSegment, Verdict};
use crate::report::CompactionReport;
use crate::retention::{self, Span};
use crate::store::Store;

/// What retention wants of a stream. May be carried out once all names created so far survive power loss.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    /// What can go, oldest first.
    segments: Vec<Doomed>,
    /// Why the newest stays, if that could go: there was no space for its successor.
    pub(crate) full: Option<WalError>,
    /// Something is old enough, but the time of day is before the creation of the newest segment.
    pub(crate) from_the_future: bool,
    /// The newest segment, and the limits of the key, when it was found out.
    newest: u32,
    limits: Option<Limits>,
}

impl Expired {
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Whether some of it can go in any order, if recovery is told why first.
    pub(crate) fn has_explained(&self) -> bool {
        self.segments.iter().any(|doomed| doomed.explained)
    }
}

/// A moment as retention sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now_ms: u64,
    /// What time it is at least; `None`: the clock cannot be trusted, and nothing goes for its age.
    pub(crate) sure_ms: Option<u64>,
}

impl Moment {
    /// Segments that expired up to this moment have outlived the key's retention.
    pub(crate) fn drop_through_ms(&self, store: &Store, own: Option<Limits>) -> Option<u64> {
        let sure_ms = self.sure_ms?;
        match own {
            Some(limits) => retention::drop_through_ms(sure_ms, limits.max_age_ms),
            None => retention::drop_through_ms(self.now_ms, store.limits.max_age_ms),
        }
    }
}

/// When retention has to look at a stream again, which costs reads. Not before something is old enough,
/// nor, where counts matter, before something is appended. Small, because every idle key has one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Due {
    /// The moment in units of 1,024 ms, rounded down: to look too early does no harm. 0: not known.
    at: u32,
    /// Where the tail ended when the stream was looked at; [`ANYWHERE`]: that does not matter.
    end: u32,
}

/// No moment that comes.
const NEVER: u32 = u32::MAX;
/// No segment ends there.
const ANYWHERE: u32 = u32::MAX;

impl Due {
    /// A stream with one segment.
    pub(super) fn of_the_only(limits: &Limits, expiration_ms: u64) -> Self {
        let end = if counts_matter(limits) { 0 } else { ANYWHERE };
        Self { at: Self::moment(limits, expiration_ms), end }
    }

    /// A stream of which nothing could go.
    fn next(limits: &Limits, sealed: &[Span], newest: Span) -> Self {
        let behind: u64 = sealed.iter().skip(1).chain([&newest]).map(|span| span.entries).sum();
        let oldest = match sealed.first() {
            Some(oldest) => (behind >= limits.min_entries).then_some(oldest),
            // It could only go if there is something in it, and nothing has to be left.
            None => (newest.entries > 0 && limits.min_entries == 0).then_some(&newest),
        };
        let at = oldest.map_or(NEVER, |oldest| Self::moment(limits, oldest.expiration_ms));
        let fixed = oldest.is_some() && !counts_matter(limits);
        Self { at, end: if fixed { ANYWHERE } else { crate::scan::reach(newest.bytes) } }
    }

    /// When a segment that expires then is old enough.
    fn moment(limits: &Limits, expiration_ms: u64) -> u32 {
        if limits.max_age_ms == NO_LIMIT {
            return NEVER;
        }
        Self::units(expiration_ms.saturating_add(limits.max_age_ms))
    }

    fn units(ms: u64) -> u32 {
        u32::try_from(ms / 1024).unwrap_or(NEVER).min(NEVER - 1)
    }

    pub(super) fn depends_on_the_end(self) -> bool {
        self.end != ANYWHERE
    }

    fn is_known(self) -> bool {
        self.at != 0
    }

    fn has_come(self, moment: &Moment, end: u32) -> bool {
        let old_enough = moment.sure_ms.is_some() && self.at <= Self::units(moment.now_ms);
        !self.is_known() || old_enough || (self.depends_on_the_end() && self.end != end)
    }
}

fn counts_matter(limits: &Limits) -> bool {
    limits.max_entries != NO_LIMIT || limits.max_bytes != NO_LIMIT || limits.min_entries > 0
}

impl Stream {
    /// Finds what can be dropped now. Starts an empty segment to carry the numbers on if the newest
    /// one has expired, too.
    pub(crate) fn expire(&self, store: &Store, moment: &Moment) -> Result<Expired> {
        let mut found = Expired::default();
        if self.due(store)?.is_none_or(|due| !self.has_come(due, moment)) {
            return Ok(found);
        }
        let mut writer = self.writer();
        self.check_discardable(store, &writer)?;
        let Some((chain, newest)) = self.chain(store)? else { return Ok(found) };
        found.limits = newest.limits;
        let limits = newest.limits.unwrap_or(store.limits);
        let sealed = droppable(&chain);
        let window_ms = store.options.window_ms(limits.max_age_ms);
        let sound = sealed.len() == chain.nodes.len();
        let spans = spans(&sealed, sound.then_some(newest.created_ms), window_ms);
        let tail = Present::of(&newest).span();
        let mut through_ms = moment.drop_through_ms(store, newest.limits);
        let future = moment.now_ms < newest.created_ms;
        let timely = moment.sure_ms.is_some() && !future;
        if future {
            let oldest = spans.first().unwrap_or(&tail).expiration_ms;
            found.from_the_future = through_ms
                .is_some_and(|through_ms| oldest <= through_ms || !chain.leftovers.is_empty());
            through_ms = None;
        }
        let count = retention::droppable(&limits, &spans, tail, through_ms);
        let idle = through_ms.is_some_and(|through_ms| newest.expiration_ms <= through_ms)
            && count == chain.nodes.len()
            && limits.min_entries == 0;
        if timely || count > 0 {
            found.segments = leftovers(&chain);
        }
        found.segments.extend(sealed.iter().take(count).map(Doomed::of));
        if idle && tail.entries > 0 && writer.phase != Phase::Damaged {
            found.full = self.succeed(store, &mut writer, moment.now_ms)?;
            let gone = found.full.is_none().then(|| Doomed::of(&Present::of(&newest)));
            found.segments.extend(gone);
        }
        found.newest = writer.newest;
        if found.segments.is_empty() {
            if timely && sound && found.full.is_none() {
                self.catalog().due = Due::next(&limits, &spans, tail);
            }
            return found.full.take().map_or(Ok(found), Err);
        }
        // Where nothing that is old enough may stay, one moment for all keys tells recovery what was to go.
        if newest.limits.is_none() && limits.min_entries == 0 && store.options.before_drop.is_none()
        {
            let old_enough = |doomed: &&mut Doomed| {
                through_ms.is_some_and(|through_ms| doomed.expiration_ms <= through_ms)
            };
            let explained = found.segments.iter_mut().take_while(old_enough);
            explained.for_each(|doomed| doomed.explained = true);
        }
        // When the others are gone, the newest alone carries the numbers on.
        self.sync_locked(store, &writer)?;
        Ok(found)
    }

    /// Whether [`Self::expire`] could find anything, as far as that is known without a look at the disk.
    pub(crate) fn may_expire(&self, moment: &Moment) -> bool {
        self.known_due().is_some_and(|due| self.has_come(due, moment))
    }

    fn has_come(&self, due: Due, moment: &Moment) -> bool {
        due.has_come(moment, self.tail.load().end)
    }

    /// When the stream has to be looked at, if that is known; `None` if there is no segment.
    fn known_due(&self) -> Option<Due> {
        let catalog = self.catalog();
        (!catalog.sequences.is_empty()).then_some(catalog.due)
    }

    /// As [`Self::known_due`], but known. Reads headers if need be.
    fn due(&self, store: &Store) -> Result<Option<Due>> {
        match self.known_due() {
            Some(due) if !due.is_known() => {}
            known => return Ok(known),
        }
        self.ensure_loaded(store)?;
        let Some(oldest) = self.sequences().first().copied() else { return Ok(None) };
        let Some(newest) = self.newest(store)? else { return Ok(None) };
        let limits = newest.limits.unwrap_or(store.limits);
        if counts_matter(&limits) {
            return Ok(Some(Due::default()));
        }
        let window_ms = store.options.window_ms(limits.max_age_ms);
        let expiration_ms = match self.segment(store, oldest) {
            Ok(segment)
                if oldest != newest.id.sequence
                    && segment.expiration_ms.saturating_sub(segment.created_ms) > window_ms =>
            {
                return Ok(Some(Due::default()));
            }
            Ok(segment) => segment.expiration_ms,
            Err(WalError::Expired) => return Ok(None), // somebody else is at it
            // Perhaps not part of the row at all.
            Err(WalError::Corrupted { .. }) => match self.chain(store)? {
                // They go whatever their age.
                Some((chain, _)) if !chain.leftovers.is_empty() => return Ok(Some(Due::default())),
                Some((chain, newest)) => match chain.nodes.first() {
                    Some(Node::Present(present)) => present.expiration_ms,
                    Some(Node::Lost(lost)) => return Err(lost.error()),
                    None => newest.expiration_ms,
                },
                None => return Ok(None),
            },
            Err(error) => return Err(error),
        };
        let due = Due::of_the_only(&limits, expiration_ms);
        let mut catalog = self.catalog();
        if catalog.sequences.first() == Some(&oldest) {
            catalog.due = due;
        }
        Ok(Some(due))
    }

    /// Has the hook asked about each segment, the oldest first. From the first that is to be kept on, none
    /// is to be dropped any more.
    pub(crate) fn ask(
        &self,
        store: &Store,
        hook: &DropHook,
        expired: &mut Expired,
        report: &mut CompactionReport,
    ) -> Result<()> {
        let all = expired.segments.len();
        let mut result = Ok(());
        let kept = expired.segments.iter().position(|doomed| {
            let verdict = self.ask_about(store, hook, doomed.sequence);
            let drop = matches!(verdict, Ok(Verdict::Drop));
            result = verdict.map(|_| ());
            !drop
        });
        expired.segments.truncate(kept.unwrap_or(all));
        let held = crate::fs::len_u64(all.saturating_sub(expired.segments.len()));
        report.held_segments = report.held_segments.saturating_add(held);
        result
    }

    fn ask_about(&self, store: &Store, hook: &DropHook, sequence: u32) -> Result<Verdict> {
        let segment = match self.segment(store, sequence) {
            // Somebody else has dropped it.
            Err(WalError::Expired) => return Ok(Verdict::Drop),
            result => result?,
        };
        let present = Present::of(&segment);
        if segment.removed || present.first_index == present.next_index {
            return Ok(Verdict::Drop);
        }
        segment.settle()?;
        let due = DueSegment {
            path: &segment.path,
            key: self.key().unwrap_or_default(),
            sequence: u64::from(present.sequence),
            first_index: present.first_index,
            next_index: present.next_index,
            created_ms: present.created_ms,
            expiration_ms: present.expiration_ms,
            bytes: u64::from(present.end),
            file: segment.file(),
        };
        hook.ask(&due).map_err(|error| {
            let source = std::io::Error::other(error);
            let operation = "drop the segment: the hook before it failed";
            WalError::Io { path: segment.path.clone(), operation, source }
        })
    }

    /// Says in the journal that these segments are dropped. Takes effect with `Store::sync_dropped`.
    pub(crate) fn note_dropped(&self, store: &Store, expired: &Expired) -> Result<()> {
        let last = expired.segments.iter().map(|doomed| doomed.sequence).max();
        last.map_or(Ok(()), |last| store.note_dropped(self.id(last)))
    }

    /// Unlinks those of the segments that a crash may bring back in any combination, or else the oldest
    /// one. `false`: there are no more. The names survive, or come back, until the directory is synced, and
    /// this must be before the next call.
    pub(crate) fn unlink(
        &self,
        store: &Store,
        expired: &mut Expired,
        report: &mut CompactionReport,
    ) -> Result<bool> {
        let writer = self.writer();
        self.check_discardable(store, &writer)?;
        if writer.newest != expired.newest
            && self.newest(store)?.is_none_or(|newest| newest.limits != expired.limits)
        {
            // The key was given another retention meanwhile.
            return Ok(false);
        }
        let explained = expired.segments.iter().take_while(|doomed| doomed.explained).count();
        let now = explained.max(1).min(expired.segments.len());
        let mut doomed = expired.segments.drain(..now);
        doomed.try_for_each(|doomed| self.unlink_one(store, doomed, report))?;
        drop(doomed);
        Ok(!expired.segments.is_empty())
    }
}

/// The sealed segments as retention sees them. The last one's successor was created at `end_ms`, if it has
/// one. With a longer window than the retention gives now, a segment counts as expired when its successor
/// was created: there are no younger entries in it.
fn spans(sealed: &[Present], end_ms: Option<u64>, window_ms: u64) -> Vec<Span> {
    let created = sealed.iter().skip(1).map(|next| Some(next.created_ms));
    let span = |(present, end_ms): (&Present, Option<u64>)| {
        let longer = present.expiration_ms.saturating_sub(present.created_ms) > window_ms;
        let end_ms = end_ms.filter(|_| longer).unwrap_or(present.expiration_ms);
        Span { expiration_ms: present.expiration_ms.min(end_ms), ..present.span() }
    };
    sealed.iter().zip(created.chain([end_ms])).map(span).collect()
}
