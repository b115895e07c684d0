//! Publishing counters and health through the `metrics` facade.

use metrics::{SharedString, Unit, counter, describe_counter, describe_gauge, gauge};

use super::Wal;
use crate::fs::len_u64;
use crate::report::{Health, Stats};

type Row<T> = (&'static str, Unit, T, &'static str);

impl Wal {
    /// Publishes [`stats`](Self::stats) and [`health`](Self::health) to the recorder of the `metrics` crate,
    /// labelled with the directory. Call it every few seconds, before the exporter reads; nothing is
    /// published otherwise but `keywal_sync_seconds`, a histogram that each sync adds to, labelled with what
    /// kind of file was synced.
    ///
    /// Counters, named as the fields of [`Stats`](crate::Stats): `keywal_appended_entries_total`,
    /// `keywal_appended_bytes_total`, `keywal_read_entries_total`, `keywal_syncs_total`,
    /// `keywal_failed_syncs_total`, `keywal_failed_appends_total`, `keywal_conflicts_total`,
    /// `keywal_created_segments_total`, `keywal_dropped_segments_total`, `keywal_dropped_entries_total`,
    /// `keywal_dropped_bytes_total`, `keywal_compactions_total`, `keywal_recoveries_total`.
    ///
    /// Gauges: `keywal_keys`, `keywal_segments`, `keywal_open_files`; and as the fields of
    /// [`Health`](crate::Health), lists as their lengths: `keywal_free_bytes`, `keywal_needed_bytes`,
    /// `keywal_poisoned`, `keywal_damaged`, `keywal_compactions_failed`, `keywal_clock_trouble` (1 if there
    /// is any), `keywal_unsynced_keys`, `keywal_unsynced_bytes`. `keywal_compaction_age_seconds` appears with
    /// the first `compact`.
    pub fn publish_metrics(&self) {
        let directory = SharedString::from(self.store.dir.path().display().to_string());
        let (stats, health) = (self.stats(), self.health());
        for (name, unit, value, description) in counters(&stats) {
            describe_counter!(name, unit, description);
            counter!(name, "directory" => directory.clone()).absolute(value);
        }
        for (name, unit, value, description) in gauges(&stats, &health) {
            describe_gauge!(name, unit, description);
            gauge!(name, "directory" => directory.clone()).set(value);
        }
    }
}

fn counters(stats: &Stats) -> [Row<u64>; 13] {
    use Unit::{Bytes, Count};
    [
        ("keywal_appended_entries_total", Count, stats.appended_entries, "Entries appended"),
        ("keywal_appended_bytes_total", Bytes, stats.appended_bytes, "Headers and contents"),
        ("keywal_read_entries_total", Count, stats.read_entries, "Entries read"),
        ("keywal_syncs_total", Count, stats.syncs, "Syncs of files and of the directory"),
        ("keywal_failed_syncs_total", Count, stats.failed_syncs, "Syncs that failed"),
        ("keywal_failed_appends_total", Count, stats.failed_appends, "Appends refused or failed"),
        (
            "keywal_conflicts_total",
            Count,
            stats.conflicts,
            "Appends at another index than expected",
        ),
        ("keywal_created_segments_total", Count, stats.created_segments, "Segments started"),
        ("keywal_dropped_segments_total", Count, stats.dropped_segments, "Segments dropped"),
        ("keywal_dropped_entries_total", Count, stats.dropped_entries, "Entries dropped"),
        ("keywal_dropped_bytes_total", Bytes, stats.dropped_bytes, "Disk space given back"),
        ("keywal_compactions_total", Count, stats.compactions, "Runs of compact"),
        ("keywal_recoveries_total", Count, stats.recoveries, "Opened without a shutdown before"),
    ]
}

fn gauges(stats: &Stats, health: &Health) -> impl Iterator<Item = Row<f64>> {
    use Unit::{Bytes, Count, Seconds};
    let trouble = u64::from(health.clock.is_some());
    let poisoned = len_u64(health.poisoned.len());
    let damaged = len_u64(health.damaged.len());
    let age = health.last_compaction.as_ref().map(|last| last.age.as_secs_f64());
    let always = [
        ("keywal_keys", Count, stats.keys, "Keys with a segment"),
        ("keywal_segments", Count, stats.segments, "Segment files"),
        ("keywal_open_files", Count, stats.open_files, "Segment files held open"),
        ("keywal_needed_bytes", Bytes, health.needed_bytes, "Estimate for one segment window"),
        ("keywal_poisoned", Count, poisoned, "What takes no more durable entries"),
        ("keywal_damaged", Count, damaged, "Damaged spans met"),
        ("keywal_compactions_failed", Count, health.compactions_failed, "In a row"),
        ("keywal_clock_trouble", Count, trouble, "1: compact would drop nothing"),
        ("keywal_unsynced_keys", Count, health.unsynced_keys, "Keys with unsynced entries"),
        ("keywal_unsynced_bytes", Bytes, health.unsynced_bytes, "Lost with the power"),
    ];
    let free = health.free_bytes;
    let free = free.map(|free| ("keywal_free_bytes", Bytes, free, "Free on the file system"));
    let age = age.map(|age| ("keywal_compaction_age_seconds", Seconds, age, "Since compact ended"));
    let exact = |(name, unit, value, description)| (name, unit, float(value), description);
    always.into_iter().chain(free).map(exact).chain(age)
}

#[expect(clippy::cast_precision_loss, clippy::as_conversions, reason = "a gauge is a float")]
fn float(value: u64) -> f64 {
    value as f64
}
