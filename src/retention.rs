//! What may be dropped, and when. Pure: no I/O, no clock.
//!
//! The contract has two sides. A segment is appended to until its `expiration`, one window after its
//! creation, and may be dropped once `expiration + entry_retention` has come: so no entry goes before
//! it is `entry_retention` old, and none outlives that by more than one window. A clock that cannot be
//! trusted deletes nothing.

#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

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
pub(crate) fn drop_through_ms(now_ms: u64, retention_ms: u64) -> Option<u64> {
    now_ms.checked_sub(retention_ms)
}

/// How many of a key's segments, oldest first, may be dropped. `expirations` are those of all segments
/// but the newest, which is never dropped.
pub(crate) fn expired(expirations: &[u64], drop_through_ms: u64) -> usize {
    expirations.iter().take_while(|expiration| **expiration <= drop_through_ms).count()
}

/// Why a run of [`compact`](crate::Wal::compact) deletes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ClockTrouble {
    /// The time of day is before a moment that was seen earlier. Wait until it has caught up.
    WentBack,
    /// The time of day moved ahead of the monotonic clock since the directory was opened, or since an
    /// append met a clock that had been set back, by more than a hundredth of the retention or ten
    /// seconds. If the new time is right, reopen the directory to accept it.
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

    /// Looks at both clocks.
    pub(crate) fn check(&mut self, now_ms: u64, monotonic_ms: u64) -> Result<(), ClockTrouble> {
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_goes_when_its_youngest_possible_entry_is_old_enough_and_not_before() {
        let (created, window, retention) = (1_000, 100, 1_000);
        let expiration = expiration_ms(created, window);
        // The youngest entry may be as young as 1 ms before the expiration.
        let youngest = expiration - 1;
        let table = [(expiration + retention - 1, 0), (expiration + retention, 1)];
        for (now, dropped) in table {
            let through = drop_through_ms(now, retention).unwrap_or(0);
            assert_eq!(expired(&[expiration], through), dropped, "now {now}");
            assert!(dropped == 0 || now - youngest > retention);
        }
        assert_eq!(drop_through_ms(999, 1_000), None);
        assert_eq!(expiration_ms(u64::MAX, 5), u64::MAX);
    }

    #[test]
    fn the_oldest_go_first_and_the_row_is_never_broken() {
        assert_eq!(expired(&[10, 20, 30], 20), 2);
        assert_eq!(expired(&[10, 40, 30], 35), 1);
        assert_eq!(expired(&[], 35), 0);
    }

    #[test]
    fn clocks_that_cannot_be_trusted_are_noticed() {
        let mut guard = ClockGuard::new(1_000_000, 0, 100_000);
        assert_eq!(guard.check(1_005_000, 5_000), Ok(()));
        assert_eq!(guard.check(1_004_000, 6_000), Err(ClockTrouble::WentBack));
        assert_eq!(guard.check(1_061_000, 60_000), Ok(()), "a correction of a second");
        assert_eq!(guard.check(1_062_001, 61_000), Err(ClockTrouble::JumpedAhead), "and another");
        assert_eq!(guard.check(1_070_000, 70_000), Err(ClockTrouble::JumpedAhead), "for good");
        let mut week = ClockGuard::new(0, 0, 7 * 24 * 60 * 60 * 1000);
        assert_eq!(week.check(10_000, 0), Ok(()));
        assert_eq!(week.check(10_001, 0), Err(ClockTrouble::JumpedAhead));
    }
}
