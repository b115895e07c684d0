//! What the quick start did, and what it took.

use std::fs;
use std::path::Path;
use std::time::Duration;

use keywal::Key;

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
    pub disk_bytes: u64,
}

impl Account {
    pub fn measure_disk(&mut self, path: &Path) -> Result {
        for file in fs::read_dir(path)? {
            self.disk_bytes += file?.metadata()?.len();
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn print(&self) {
        let payload = self.content_bytes + self.header_bytes;
        let overhead = self.disk_bytes.saturating_sub(payload) as f64;
        let per_second = |n: u64, time: Duration| n as f64 / time.as_secs_f64();
        let megabytes = per_second(payload, self.append_time) / 1e6;
        let appends = per_second(self.entries, self.append_time);
        println!("account");
        println!("  keys          {}", self.keys);
        println!("  entries       {}", self.entries);
        println!("  bytes         {} and {} of headers", self.content_bytes, self.header_bytes);
        println!("  appended      {appends:.0} entries/s, {megabytes:.1} MB/s");
        println!(
            "  read by ref   {:.0} entries/s",
            per_second(self.random_reads, self.random_time)
        );
        println!("  read in order {:.0} entries/s", per_second(self.entries, self.scan_time));
        println!(
            "  on disk       {} bytes: {:.1} % more, {:.1} bytes an entry",
            self.disk_bytes,
            100.0 * overhead / payload as f64,
            overhead / self.entries as f64
        );
    }
}
