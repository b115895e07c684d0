//! What the quick start did, and what it took.

use std::time::Duration;

use keywal::{Key, Wal, WalOptions};

use super::Result;

/// Counts and times, in the order in which they are taken.
#[derive(Default)]
pub struct Account {
    pub first_key: Option<Key>,
    pub keys: usize,
    pub entries: u64,
    pub content_bytes: u64,
    pub header_bytes: u64,
    pub append_time: Duration,
    pub random_reads: u64,
    pub random_time: Duration,
    pub scan_time: Duration,
    /// Of the segments, with all that is still in the journal.
    pub segment_bytes: u64,
    pub journal_bytes: u64,
}

impl Account {
    pub fn measure_disk(&mut self, wal: &Wal, options: &WalOptions) -> Result {
        for key in wal.enumerate_keys()? {
            self.segment_bytes += wal.key_stats(&key)?.bytes;
        }
        self.journal_bytes = options.journal_bytes;
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn print(&self) {
        let payload = self.content_bytes + self.header_bytes;
        let overhead = self.segment_bytes.saturating_sub(payload) as f64;
        let per_second = |n: u64, time: Duration| n as f64 / time.as_secs_f64();
        let megabytes = per_second(payload, self.append_time) / 1e6;
        let appends = per_second(self.entries, self.append_time);
        println!("account");
        println!("  keys          {}", self.keys);
        println!("  entries       {}", self.entries);
        println!(
            "  bytes         {payload}: {} of contents and {} of headers",
            self.content_bytes, self.header_bytes
        );
        println!(
            "  segments      {} bytes: {:.1} % more than the entries, {:.1} bytes for each",
            self.segment_bytes,
            100.0 * overhead / payload as f64,
            overhead / self.entries as f64
        );
        println!("  journal       {} bytes, however much is in the log", self.journal_bytes);
        println!("  appended      {appends:.0} entries/s, {megabytes:.1} MB/s");
        println!(
            "  read by ref   {:.0} entries/s",
            per_second(self.random_reads, self.random_time)
        );
        println!("  read in order {:.0} entries/s", per_second(self.entries, self.scan_time));
    }
}
