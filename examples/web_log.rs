//! How does a web server keep its log? Requests and errors in one stream, typed by their headers: read
//! all of it, one type, a span of time, the newest few; statistics of the responses; rotation.
//!
//! ```text
//! cargo run --example web_log
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::{Clock, Entries, Entry, ManualClock, Wal, WalOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const SITE: &str = "www.example.org";
const NO_REQUESTS: &str = "there are no requests";

/// What stands in the log; the kind goes into the header, so that it is known without parsing.
trait Logged: Serialize + DeserializeOwned {
    const KIND: &'static str;
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Request {
    method: String,
    path: String,
    status: u16,
    millis: u32,
}

impl Logged for Request {
    const KIND: &'static str = "request";
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Failure {
    kind: String,
    message: String,
}

impl Logged for Failure {
    const KIND: &'static str = "error";
}

struct WebLog {
    wal: Wal,
}

impl WebLog {
    fn append<T: Logged>(&self, item: &T) -> Result {
        let header = Some(Bytes::from_static(T::KIND.as_bytes()));
        self.wal.append_entry(SITE, header, serde_json::to_vec(item)?, false)?;
        Ok(())
    }

    /// Everything, oldest first. Narrow it to a span of time or to the newest.
    fn all(&self) -> Result<Entries<'_>> {
        Ok(self.wal.entries(SITE)?)
    }

    /// Statistics of the requests among these entries.
    fn statistics(entries: Entries<'_>) -> Result<Statistics> {
        let mut statistics = Statistics::default();
        for request in of_type::<Request>(entries) {
            statistics.add(request?);
        }
        statistics.millis.sort_unstable();
        Ok(statistics)
    }
}

/// The entries of one type, parsed; the others are skipped by their headers.
fn of_type<T: Logged>(entries: Entries<'_>) -> impl Iterator<Item = Result<T>> {
    entries.filter_map(|entry| match entry {
        Ok(entry) if kind(&entry) == T::KIND => {
            Some(serde_json::from_slice(&entry.content).map_err(Into::into))
        }
        Ok(_) => None,
        // Damage is no entry of another type: the reader has to hear of it.
        Err(error) => Some(Err(error.into())),
    })
}

fn kind(entry: &Entry) -> &str {
    entry.header.as_deref().and_then(|header| std::str::from_utf8(header).ok()).unwrap_or_default()
}

#[derive(Default)]
struct Statistics {
    /// How long the requests took, the fastest first.
    millis: Vec<u32>,
    /// By hundreds: 2 is for 200 to 299.
    statuses: BTreeMap<u16, usize>,
    paths: BTreeMap<String, usize>,
}

impl Statistics {
    fn add(&mut self, request: Request) {
        self.millis.push(request.millis);
        *self.statuses.entry(request.status / 100).or_default() += 1;
        *self.paths.entry(request.path).or_default() += 1;
    }

    fn count(&self) -> usize {
        self.millis.len()
    }

    /// The time that this many of a hundred requests did not exceed.
    fn percentile(&self, percent: usize) -> Result<u32> {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        self.millis.get(rank - 1).copied().ok_or_else(|| NO_REQUESTS.into())
    }

    fn mean(&self) -> Result<u64> {
        let sum: u64 = self.millis.iter().copied().map(u64::from).sum();
        sum.checked_div(self.count() as u64).ok_or_else(|| NO_REQUESTS.into())
    }

    fn busiest(&self) -> Result<&str> {
        let busiest = self.paths.iter().max_by_key(|(_, count)| **count);
        busiest.map(|(path, _)| path.as_str()).ok_or_else(|| NO_REQUESTS.into())
    }
}

/// Traffic that only looks random: the n-th request is always the same.
fn request(number: u32) -> Request {
    let noise = number.wrapping_mul(2_654_435_761) >> 8;
    let (method, path) = match noise % 10 {
        0..=4 => ("GET", "/"),
        5..=7 => ("GET", "/api/orders"),
        8 => ("POST", "/api/orders"),
        _ => ("GET", "/missing"),
    };
    let status = match (path, number % 50) {
        ("/missing", _) => 404,
        (_, 49) => 500,
        _ => 200,
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    Request { method, path, status, millis: 5 + noise / 10 % 200 }
}

/// A request a second; those that fail leave an error, too. Returns what was logged, to compare with.
fn serve(log: &WebLog, clock: &ManualClock, seconds: u32) -> Result<(Vec<Request>, Vec<Failure>)> {
    let (mut requests, mut failures) = (Vec::new(), Vec::new());
    for request in (0..seconds).map(request) {
        log.append(&request)?;
        if request.status == 500 {
            let message = format!("connection lost: {}", request.path);
            let failure = Failure { kind: "database".to_owned(), message };
            log.append(&failure)?;
            failures.push(failure);
        }
        requests.push(request);
        clock.advance(Duration::from_secs(1));
    }
    Ok((requests, failures))
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let start_ms = clock.now_ms();
    // A new segment every ten minutes, or when one is full; a day is kept.
    let options = WalOptions::with_retention(Duration::from_secs(24 * 60 * 60))
        .segments_per_retention_period(144)
        .max_segment_bytes(64 << 10)
        .clock(clock.clone());
    let log = WebLog { wal: Wal::new(dir.path(), options)? };
    let (requests, failures) = serve(&log, &clock, 3_600)?;

    // All, and by type: nothing is lost and nothing is in the wrong order.
    let all = log.all()?.count();
    let by_type: Vec<Request> = of_type(log.all()?).collect::<Result<_>>()?;
    let errors: Vec<Failure> = of_type(log.all()?).collect::<Result<_>>()?;
    println!("{all} entries: {} requests, {} errors", by_type.len(), errors.len());
    assert_eq!((&by_type, &errors), (&requests, &failures));
    assert_eq!(all, requests.len() + failures.len());

    let hour = WebLog::statistics(log.all()?)?;
    let [p50, p95, p99] = [hour.percentile(50)?, hour.percentile(95)?, hour.percentile(99)?];
    println!("response time: mean {} ms, p50 {p50}, p95 {p95}, p99 {p99}", hour.mean()?);
    println!("statuses by hundreds: {:?}, busiest path: {}", hour.statuses, hour.busiest()?);
    assert_eq!(hour.count(), 3_600);
    assert!(hour.percentile(0)? >= 5 && hour.percentile(100)? < 205 && p50 <= p95 && p95 <= p99);
    assert_eq!(hour.statuses.get(&5).copied(), Some(failures.len()));
    assert_eq!(hour.busiest()?, "/");

    // The third quarter of an hour: found by a search, not by reading what comes before.
    let (from_ms, to_ms) = (start_ms + 1_800_000, start_ms + 2_700_000);
    let before = log.wal.stats().read_entries;
    let quarter = WebLog::statistics(log.all()?.time_range(from_ms..to_ms)?)?;
    let read = log.wal.stats().read_entries - before;
    println!("a quarter of an hour: {} requests, {read} entries read of {all}", quarter.count());
    assert_eq!(quarter.count(), 900);
    let expected = requests.get(1_800..2_700).ok_or("too few requests")?;
    let mut millis: Vec<u32> = expected.iter().map(|request| request.millis).collect();
    millis.sort_unstable();
    assert_eq!(quarter.millis, millis);

    // The newest first, as somebody looks at a log.
    println!("the newest entries:");
    for entry in log.all()?.last_n(3).rev() {
        let entry = entry?;
        let second = (entry.timestamp_ms - start_ms) / 1_000;
        println!("  {second} s {} {}", kind(&entry), String::from_utf8_lossy(&entry.content));
    }
    let newest = log.wal.last(SITE)?.ok_or("the log is empty")?;
    assert_eq!(newest.index, log.wal.next_index(SITE)? - 1);

    let segments = log.wal.segments(SITE)?;
    println!(
        "{} segments, of {:?} entries",
        segments.len(),
        segments.iter().map(|segment| segment.next_index - segment.first_index).collect::<Vec<_>>()
    );
    assert!(segments.len() >= 6 && segments.iter().all(|segment| segment.bytes <= 64 << 10));

    // A day later the oldest hour goes.
    clock.advance(Duration::from_secs(24 * 60 * 60 + 600));
    let report = log.wal.compact()?;
    println!("a day later: {} entries dropped", report.dropped_entries);
    assert_eq!((report.dropped_entries, log.wal.len(SITE)?), (log.wal.next_index(SITE)?, 0));
    Ok(log.wal.shutdown()?)
}
