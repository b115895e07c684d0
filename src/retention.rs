//! What may be dropped, and when. Pure: no I/O, no clock.
//!
//! The contract has two sides, for each limit. A segment is appended to until its `expiration`, one window
//! after its creation, and may be dropped for its age once `expiration + max_age` has come: so no entry goes
//! before it is `max_age` old, and none outlives that by more than one window. It may be dropped for a count
//! or for bytes once the segments behind it alone have as much as the limit says: so no less than that is
//! left, and no more than that and one segment, which ends at a share of the limit. A clock that cannot be
//! trusted deletes nothing; the other limits do not ask it.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use std::time::Duration;

use crate::clock::millis;
use crate::error::{Result, WalError};
use crate::format::{Limits, NO_LIMIT};
use crate::options::WalOptions;

/// What is kept of a key: given to one with [`Wal::set_retention`](crate::Wal::set_retention), and stored
/// with it. A key without one is kept as the [`WalOptions`] say.
///
/// [`compact`](crate::Wal::compact) drops whole segments, the oldest first. Each limit has two sides:
///
/// | limit | never gone before | after `compact`, what is left is at most |
/// |---|---|---|
/// | [`max_age`](Self::max_age) | an entry is this old | this old, and one window |
/// | [`max_entries`](Self::max_entries) | so many newer entries are there | so many entries, and one segment |
/// | [`max_bytes`](Self::max_bytes) | so many bytes of newer segments are there | so many bytes, and one segment |
///
/// What passes any of the limits goes, but never so much that fewer than
/// [`min_entries`](Self::min_entries) are left. A window is `max_age` divided by
/// [`segments_per_retention_period`](WalOptions::segments_per_retention_period), at most 49 days; a segment
/// also ends at that share of the other limits, though not before it has 64 KiB. Counts and bytes are
/// counted without a clock, so no trouble with the clock holds them up.
///
/// ```
/// use keywal::Retention;
/// use std::time::Duration;
///
/// let audit = Retention::FOREVER;
/// let clicks = Retention::keep_for(Duration::from_secs(60 * 60));
/// let latest = Retention::keep_last(1);
/// // A day, the last hundred whatever their age, and not much more than a GiB.
/// let orders = Retention::keep_for(Duration::from_secs(60 * 60 * 24)).min_entries(100).max_bytes(1 << 30);
/// # assert_ne!((audit, clicks), (latest, orders));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Retention {
    /// Entries older than this go. `None`: no age is too old. Counted in milliseconds; at least one for
    /// each segment of a retention period.
    pub max_age: Option<Duration>,
    /// The oldest segments go while the others have at least so many: up to a segment more stays, of small
    /// entries some 64 KiB. At least 1. `None`: no limit.
    pub max_entries: Option<u64>,
    /// The oldest segments go while the others have at least so many bytes, as
    /// [`KeyStats::bytes`](crate::KeyStats::bytes) counts them. At least 1. `None`: no limit.
    pub max_bytes: Option<u64>,
    /// So many entries are left whatever the limits say, those in segments that are lost not counted.
    pub min_entries: u64,
}

impl Retention {
    /// Nothing is dropped.
    pub const FOREVER: Self =
        Self { max_age: None, max_entries: None, max_bytes: None, min_entries: 0 };

    /// Entries are kept until they are this old.
    pub const fn keep_for(max_age: Duration) -> Self {
        Self { max_age: Some(max_age), ..Self::FOREVER }
    }

    /// At least the last `entries` entries are kept, however old, and
    /// [not many more](Self::max_entries). The newest one is [`Wal::last`](crate::Wal::last).
    pub const fn keep_last(entries: u64) -> Self {
        Self { max_entries: Some(entries), min_entries: entries, ..Self::FOREVER }
    }

    /// Sets [`max_age`](Self::max_age).
    #[must_use]
    pub const fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// Sets [`max_entries`](Self::max_entries).
    #[must_use]
    pub const fn max_entries(mut self, entries: u64) -> Self {
        self.max_entries = Some(entries);
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub const fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets [`min_entries`](Self::min_entries).
    #[must_use]
    pub const fn min_entries(mut self, entries: u64) -> Self {
        self.min_entries = entries;
        self
    }

    /// Checks whether a key can have it with these options, as
    /// [`set_retention`](crate::Wal::set_retention) does.
    ///
    /// # Errors
    /// [`InvalidOptions`](WalError::InvalidOptions): a limit of 0, or an age that gives windows under a
    /// millisecond.
    pub fn validate(&self, options: &WalOptions) -> Result<()> {
        self.limits(options).map(drop)
    }

    /// As they are stored, if they can be kept with these options.
    pub(crate) fn limits(&self, options: &WalOptions) -> Result<Limits> {
        let limits = Limits {
            max_age_ms: self.max_age.map_or(NO_LIMIT, millis),
            max_entries: self.max_entries.unwrap_or(NO_LIMIT),
            max_bytes: self.max_bytes.unwrap_or(NO_LIMIT),
            min_entries: self.min_entries,
        };
        let segments = options.segments_per_retention_period;
        if limits.max_age_ms < u64::from(segments) {
            let given = limits.max_age_ms;
            return Err(WalError::InvalidOptions(format!(
                "max_age of {given} ms in {segments} segments gives windows under 1 ms; give at least \
                 {segments} ms"
            )));
        }
        for (name, given) in [("max_entries", limits.max_entries), ("max_bytes", limits.max_bytes)]
        {
            if given == 0 {
                let text = format!("{name} is 0; give at least 1, or no limit");
                return Err(WalError::InvalidOptions(text));
            }
        }
        Ok(limits)
    }

    /// What is stored.
    pub(crate) fn of(limits: &Limits) -> Self {
        let limit = |limit| (limit != NO_LIMIT).then_some(limit);
        Self {
            max_age: limit(limits.max_age_ms).map(Duration::from_millis),
            max_entries: limit(limits.max_entries),
            max_bytes: limit(limits.max_bytes),
            min_entries: limits.min_entries,
        }
    }
}

/// How far the time of day may run ahead of the monotonic clock before a jump is assumed: what
/// corrections of a clock that is kept in step add up to, and little against the retention.
fn tolerated_jump_ms(retention_ms: u64) -> u64 {
    (retention_ms / 100).min(10_000)
}

/// When a segment created at `created_ms` stops taking entries.
pub(crate) fn expiration_ms(created_ms: u64, window_ms: u64) -> u64 {
    created_ms.saturating_add(window_ms)
}

/// Segments that expired up to this moment may be dropped; `None`: nothing can be old enough.
pub(crate) fn drop_through_ms(now_ms: u64, max_age_ms: u64) -> Option<u64> {
    if max_age_ms == NO_LIMIT { None } else { now_ms.checked_sub(max_age_ms) }
}

/// What limits need to know of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) expiration_ms: u64,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// How many of a key's segments, oldest first, may be dropped. `sealed` are all but the newest, which is
/// never dropped here. `through_ms`: as [`drop_through_ms`] has it; `None`: none is dropped for its age.
pub(crate) fn droppable(
    limits: &Limits,
    sealed: &[Span],
    newest: Span,
    through_ms: Option<u64>,
) -> usize {
    let (mut entries, mut bytes) = (newest.entries, newest.bytes);
    for span in sealed {
        entries = entries.saturating_add(span.entries);
        bytes = bytes.saturating_add(span.bytes);
    }
    let mut may_go = |span: &&Span| {
        entries = entries.saturating_sub(span.entries);
        bytes = bytes.saturating_sub(span.bytes);
        let due = through_ms.is_some_and(|through_ms| span.expiration_ms <= through_ms)
            || entries >= limits.max_entries
            || bytes >= limits.max_bytes;
        span.entries == 0 || (due && entries >= limits.min_entries)
    };
    sealed.iter().take_while(|span| may_go(span)).count()
}

/// How far a segment goes, so that a limit by count or bytes is not passed by much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    bytes: u64,
    entries: u64,
}

impl Share {
    /// Smaller segments would cost more than what they spare.
    const MIN_BYTES: u64 = 64 << 10;

    /// The limits divided into so many segments.
    pub(crate) fn of(limits: &Limits, segments: u32) -> Self {
        let divide = |limit: u64| {
            if limit == NO_LIMIT { NO_LIMIT } else { limit.div_ceil(u64::from(segments.max(1))) }
        };
        let bytes = divide(limits.max_bytes).max(Self::MIN_BYTES);
        Self { bytes, entries: divide(limits.max_entries) }
    }

    /// Whether a segment with so many entries, that would go to `end` with the next one, ends before it.
    pub(crate) fn is_full(self, entries: u32, end: u64) -> bool {
        end > self.bytes || (u64::from(entries) >= self.entries && end > Self::MIN_BYTES)
    }
}

/// Why a run of [`compact`](crate::Wal::compact) deletes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ClockTrouble {
    /// The time of day is before a moment that was seen earlier. Wait until it has caught up.
    WentBack,
    /// The time of day moved ahead of the monotonic clock, in all since the directory was opened, or since an
    /// append met a clock that had been set back, by more than a hundredth of the retention or ten seconds, whichever
    /// is less. It stays so, also if the clock is put right: reopen the directory, once the time is right. (The time
    /// in which the machine sleeps is counted on Linux, as its hardware clock has it; that in which its host has
    /// stopped it is not.)
    JumpedAhead,
}

/// Watches the time of day against the monotonic clock and against itself.
#[derive(Debug, Clone)]
pub(crate) struct ClockGuard {
    anchor_now_ms: u64,
    anchor_monotonic_ms: u64,
    latest_ms: u64,
    tolerated_ms: u64,
    jumped: bool,
}

impl ClockGuard {
    pub(crate) fn new(now_ms: u64, monotonic_ms: u64, retention_ms: u64) -> Self {
        Self {
            anchor_now_ms: now_ms,
            anchor_monotonic_ms: monotonic_ms,
            latest_ms: now_ms,
            tolerated_ms: tolerated_jump_ms(retention_ms),
            jumped: false,
        }
    }

    /// Takes in what both clocks said at a moment when the time of day was behind: from then on it may
    /// run ahead no more than it may since the directory was opened.
    pub(crate) fn saw(&mut self, now_ms: u64, monotonic_ms: u64) {
        let elapsed = monotonic_ms.saturating_sub(self.anchor_monotonic_ms);
        if now_ms < self.anchor_now_ms.saturating_add(elapsed) {
            (self.anchor_now_ms, self.anchor_monotonic_ms) = (now_ms, monotonic_ms);
        }
    }

    /// Looks at both clocks. Returns what time it is at least: a correction that is tolerated is little
    /// against the retention of the directory, but may be much against that of a key.
    pub(crate) fn check(&mut self, now_ms: u64, monotonic_ms: u64) -> Result<u64, ClockTrouble> {
        let elapsed = monotonic_ms.saturating_sub(self.anchor_monotonic_ms);
        let expected = self.anchor_now_ms.saturating_add(elapsed);
        self.jumped |= now_ms > expected.saturating_add(self.tolerated_ms);
        if self.jumped {
            return Err(ClockTrouble::JumpedAhead);
        }
        if now_ms < self.latest_ms {
            return Err(ClockTrouble::WentBack);
        }
        self.latest_ms = now_ms;
        Ok(now_ms.min(expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Limits =
        Limits { max_age_ms: NO_LIMIT, max_entries: NO_LIMIT, max_bytes: NO_LIMIT, min_entries: 0 };

    fn aged(expirations: &[u64], through_ms: u64) -> usize {
        let span =
            |expiration_ms: &u64| Span { expiration_ms: *expiration_ms, entries: 1, bytes: 1 };
        let sealed: Vec<Span> = expirations.iter().map(span).collect();
        droppable(&NONE, &sealed, Span::default(), Some(through_ms))
    }

    #[test]
    fn a_segment_goes_when_its_youngest_possible_entry_is_old_enough_and_not_before() {
        let (created, window, retention) = (1_000, 100, 1_000);
        let expiration = expiration_ms(created, window);
        // The youngest entry may be as young as 1 ms before the expiration.
        let youngest = expiration - 1;
        let table = [(expiration + retention - 1, 0), (expiration + retention, 1)];
        for (now, dropped) in table {
            let through = drop_through_ms(now, retention).unwrap_or(0);
            assert_eq!(aged(&[expiration], through), dropped, "now {now}");
            assert!(dropped == 0 || now - youngest > retention);
        }
        assert_eq!(drop_through_ms(999, 1_000), None);
        assert_eq!(drop_through_ms(u64::MAX, NO_LIMIT), None);
        assert_eq!(expiration_ms(u64::MAX, 5), u64::MAX);
    }

    #[test]
    fn the_oldest_go_first_and_the_row_is_never_broken() {
        assert_eq!(aged(&[10, 20, 30], 20), 2);
        assert_eq!(aged(&[10, 40, 30], 35), 1);
        assert_eq!(aged(&[], 35), 0);
    }

    #[test]
    fn each_limit_leaves_what_it_says_and_no_segment_more() {
        let sealed =
            [10, 20, 30].map(|expiration_ms| Span { expiration_ms, entries: 5, bytes: 100 });
        let newest = Span { expiration_ms: 40, entries: 2, bytes: 50 };
        let table = [
            (NONE, None, 0),
            (Limits { max_entries: 12, ..NONE }, None, 1),
            (Limits { max_entries: 13, ..NONE }, None, 0),
            (Limits { max_entries: 7, ..NONE }, None, 2),
            (Limits { max_entries: 2, ..NONE }, None, 3),
            (Limits { max_entries: 1, ..NONE }, None, 3),
            (Limits { max_bytes: 250, ..NONE }, None, 1),
            (Limits { max_bytes: 251, ..NONE }, None, 0),
            (Limits { max_bytes: 50, ..NONE }, None, 3),
            // Any of the limits is enough.
            (Limits { max_bytes: 250, ..NONE }, Some(20), 2),
            (Limits { max_entries: 12, max_bytes: 150, ..NONE }, None, 2),
            // And none goes below what was promised.
            (Limits { min_entries: 7, ..NONE }, Some(40), 2),
            (Limits { min_entries: 8, ..NONE }, Some(40), 1),
            (Limits { min_entries: 8, max_entries: 1, max_bytes: 1, ..NONE }, Some(40), 1),
            (Limits { min_entries: 18, max_entries: 1, max_bytes: 1, ..NONE }, Some(40), 0),
        ];
        for (limits, through_ms, dropped) in table {
            let found = droppable(&limits, &sealed, newest, through_ms);
            assert_eq!(found, dropped, "{limits:?} through {through_ms:?}");
        }
        let empty = Span { expiration_ms: 50, entries: 0, bytes: 900 };
        assert_eq!(
            droppable(&NONE, &[empty, sealed[0]], newest, None),
            1,
            "nothing is lost with it"
        );
        assert_eq!(droppable(&NONE, &[sealed[0], empty], newest, None), 0);
    }

    #[test]
    fn a_segment_ends_at_its_share_but_not_before_it_is_worth_a_file() {
        let share = Share::of(&Limits { max_entries: 1_000, max_bytes: 10 << 20, ..NONE }, 10);
        assert!(!share.is_full(99, 1 << 20) && share.is_full(100, 1 << 20));
        assert!(share.is_full(1, (1 << 20) + 1));
        assert!(!share.is_full(100, 64 << 10), "too small");
        let tiny = Share::of(&Limits { max_entries: 1, max_bytes: 1, ..NONE }, 10);
        assert!(!tiny.is_full(1_000, 64 << 10) && tiny.is_full(1, (64 << 10) + 1));
        assert!(!Share::of(&NONE, 1).is_full(u32::MAX, u64::from(u32::MAX)));
    }

    #[test]
    fn what_is_stored_is_what_was_given() {
        let options = WalOptions::default();
        let age = Duration::from_millis(12_345);
        for given in [
            Retention::FOREVER,
            Retention::keep_last(1),
            Retention::keep_for(age).max_entries(7).max_bytes(8).min_entries(9),
        ] {
            assert_eq!(Retention::of(&given.limits(&options).unwrap()), given);
        }
        for refused in [
            Retention::keep_last(0),
            Retention::FOREVER.max_bytes(0),
            Retention::keep_for(Duration::from_millis(9)),
            Retention::keep_for(Duration::ZERO),
        ] {
            let result = refused.limits(&options);
            assert!(matches!(result, Err(WalError::InvalidOptions(_))), "{refused:?}: {result:?}");
        }
    }

    #[test]
    fn clocks_that_cannot_be_trusted_are_noticed() {
        let mut guard = ClockGuard::new(1_000_000, 0, 100_000);
        assert_eq!(guard.check(1_005_000, 5_000), Ok(1_005_000));
        assert_eq!(guard.check(1_004_000, 6_000), Err(ClockTrouble::WentBack));
        assert_eq!(guard.check(1_061_000, 60_000), Ok(1_060_000), "a correction of a second");
        assert_eq!(guard.check(1_062_001, 61_000), Err(ClockTrouble::JumpedAhead), "and another");
        assert_eq!(guard.check(1_070_000, 70_000), Err(ClockTrouble::JumpedAhead), "for good");
        let mut week = ClockGuard::new(0, 0, 7 * 24 * 60 * 60 * 1000);
        assert_eq!(week.check(10_000, 0), Ok(0));
        assert_eq!(week.check(10_001, 0), Err(ClockTrouble::JumpedAhead));
    }
}
