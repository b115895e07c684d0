//! How are live figures made from events that arrive more than once? Raw events in a log with a short
//! retention, one aggregate a minute in a log with a long one; duplicates found by the identifier in the
//! header; after a restart everything goes on from what is stored.
//!
//! ```text
//! cargo run --example realtime_analytics
//! ```

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use keywal::{Clock, Entry, ManualClock, Wal, WalOptions};
use serde::{Deserialize, Serialize};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const START_MS: u64 = 1_700_000_040_000; // a full minute
const WINDOW_MS: u64 = 60_000;
/// A sender repeats an event for at most this long.
const DEDUP_MS: u64 = 5 * 60_000;
const RAW_RETENTION: Duration = Duration::from_secs(60 * 60);
const SUMMARY_RETENTION: Duration = Duration::from_secs(60 * 60 * 24 * 30);

#[derive(Serialize, Deserialize)]
enum Event {
    PageView { page: String },
    Purchase { cents: u64 },
    Error { code: u16 },
}

impl Event {
    /// The key of its stream.
    fn key(&self) -> &'static str {
        match self {
            Self::PageView { .. } => STREAMS[0],
            Self::Purchase { .. } => STREAMS[1],
            Self::Error { .. } => STREAMS[2],
        }
    }
}

const STREAMS: [&str; 3] = ["page_views", "purchases", "errors"];
const SUMMARIES: &str = "minutes";

/// What happened in a span of time. Sums only, so that two spans can be put together.
#[derive(Serialize, Deserialize, Default, Debug, Clone, PartialEq)]
struct Figures {
    views: BTreeMap<String, u64>,
    purchases: u64,
    revenue_cents: u64,
    errors: BTreeMap<u16, u64>,
}

impl Figures {
    fn add(&mut self, event: Event) {
        match event {
            Event::PageView { page } => *self.views.entry(page).or_default() += 1,
            Event::Purchase { cents } => {
                self.purchases += 1;
                self.revenue_cents += cents;
            }
            Event::Error { code } => *self.errors.entry(code).or_default() += 1,
        }
    }

    fn merge(&mut self, other: Self) {
        self.purchases += other.purchases;
        self.revenue_cents += other.revenue_cents;
        for (page, count) in other.views {
            *self.views.entry(page).or_default() += count;
        }
        for (code, count) in other.errors {
            *self.errors.entry(code).or_default() += count;
        }
    }
}

/// A closed window: the snapshot of an aggregate. The raw events may go.
#[derive(Serialize, Deserialize)]
struct Summary {
    from_ms: u64,
    to_ms: u64,
    figures: Figures,
}

struct Analytics {
    raw: Wal,
    summaries: Wal,
    clock: Arc<ManualClock>,
    /// When each event of the last minutes was seen.
    seen: HashMap<Bytes, u64>,
    /// Everything before has been summed up.
    summed_up_to_ms: u64,
    duplicates: u64,
}

impl Analytics {
    /// A log has one retention, so streams with different ones are in two logs.
    fn open(dir: &Path, clock: &Arc<ManualClock>) -> Result<Self> {
        let open = |name: &str, retention| {
            let options = WalOptions::with_retention(retention).clock(clock.clone());
            Wal::new(dir.join(name), options)
        };
        let mut analytics = Self {
            raw: open("raw", RAW_RETENTION)?,
            summaries: open("summaries", SUMMARY_RETENTION)?,
            clock: clock.clone(),
            seen: HashMap::new(),
            summed_up_to_ms: START_MS,
            duplicates: 0,
        };
        analytics.restore()?;
        Ok(analytics)
    }

    /// What the process knew: how far it had summed up, and which events it would call duplicates.
    fn restore(&mut self) -> Result {
        if let Some(newest) = self.summaries.last(SUMMARIES)? {
            self.summed_up_to_ms = summary_of(&newest)?.to_ms;
        }
        let since_ms = self.clock.now_ms().saturating_sub(DEDUP_MS);
        for key in STREAMS {
            for entry in self.raw.entries(key)?.time_range(since_ms..)? {
                let entry = entry?;
                let id = entry.header.ok_or("an event without an identifier")?;
                // A part of a larger buffer: copied, because it is kept.
                self.seen.insert(Bytes::copy_from_slice(&id), entry.timestamp_ms);
            }
        }
        Ok(())
    }

    /// Appends an event unless it is here already.
    fn ingest(&mut self, id: &str, event: &Event) -> Result {
        let now_ms = self.clock.now_ms();
        self.seen.retain(|_, seen_ms| *seen_ms + DEDUP_MS >= now_ms);
        let id = Bytes::copy_from_slice(id.as_bytes());
        if self.seen.contains_key(&id) {
            self.duplicates += 1;
            return Ok(());
        }
        self.raw.append_entry(event.key(), Some(id.clone()), serde_json::to_vec(event)?, false)?;
        self.seen.insert(id, now_ms);
        Ok(())
    }

    /// Figures of the raw events of a window.
    fn window(&self, from_ms: u64, to_ms: u64) -> Result<Figures> {
        let mut figures = Figures::default();
        for key in STREAMS {
            for entry in self.raw.entries(key)?.time_range(from_ms..to_ms)? {
                figures.add(serde_json::from_slice(&entry?.content)?);
            }
        }
        Ok(figures)
    }

    /// Stores the figures of all windows that are over. Only then may retention have their events.
    fn close_windows(&mut self) -> Result<u64> {
        let mut closed = 0;
        while self.summed_up_to_ms + WINDOW_MS <= self.clock.now_ms() {
            let (from_ms, to_ms) = (self.summed_up_to_ms, self.summed_up_to_ms + WINDOW_MS);
            let figures = self.window(from_ms, to_ms)?;
            if figures != Figures::default() {
                let summary = serde_json::to_vec(&Summary { from_ms, to_ms, figures })?;
                self.summaries.log_entry(SUMMARIES, None, summary)?;
            }
            self.summed_up_to_ms = to_ms;
            closed += 1;
        }
        Ok(closed)
    }

    /// Everything since `from_ms`: the summaries, and what is not summed up yet.
    fn since(&self, from_ms: u64) -> Result<Figures> {
        let mut figures = self.window(self.summed_up_to_ms.max(from_ms), u64::MAX)?;
        for entry in self.summaries.entries(SUMMARIES)?.time_range(from_ms..)? {
            let summary = summary_of(&entry?)?;
            if summary.from_ms >= from_ms {
                figures.merge(summary.figures);
            }
        }
        Ok(figures)
    }
}

fn summary_of(entry: &Entry) -> Result<Summary> {
    Ok(serde_json::from_slice(&entry.content)?)
}

/// Four events a second: mostly page views. Every tenth event is sent twice.
fn simulate(analytics: &mut Analytics, minutes: usize) -> Result {
    for number in 0..minutes * 240 {
        let event = match number % 20 {
            7 => Event::Purchase { cents: 1_999 },
            13 => Event::Error { code: 500 },
            rest => Event::PageView { page: ["/", "/shop", "/cart"][rest % 3].to_owned() },
        };
        let id = format!("event-{number}");
        analytics.ingest(&id, &event)?;
        if number % 10 == 0 {
            analytics.ingest(&id, &event)?;
        }
        analytics.clock.advance(Duration::from_millis(250));
    }
    Ok(())
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let clock = Arc::new(ManualClock::new(START_MS));
    let mut analytics = Analytics::open(dir.path(), &clock)?;

    simulate(&mut analytics, 10)?;
    let minute = analytics.window(START_MS, START_MS + WINDOW_MS)?;
    println!("the first minute: {minute:?}");
    assert_eq!((minute.purchases, minute.views.values().sum::<u64>()), (12, 216));
    assert_eq!(analytics.duplicates, 240);

    let live = analytics.since(START_MS)?;
    assert_eq!(analytics.close_windows()?, 10);
    println!("ten windows closed; the same figures from summaries: {} purchases", live.purchases);
    assert_eq!(analytics.since(START_MS)?, live);

    // A restart in the middle of a minute, and a sender that did not hear the answer to its last event.
    clock.advance(Duration::from_secs(30));
    drop(analytics);
    let mut analytics = Analytics::open(dir.path(), &clock)?;
    analytics.ingest("event-2399", &Event::PageView { page: "/".to_owned() })?;
    println!(
        "after a restart: {} events known, {} duplicate",
        analytics.seen.len(),
        analytics.duplicates
    );
    assert_eq!((analytics.duplicates, analytics.since(START_MS)?), (1, live.clone()));

    // Two hours later the raw events are gone, and the figures are not.
    analytics.close_windows()?;
    clock.advance(Duration::from_secs(2 * 60 * 60));
    let dropped = analytics.raw.compact()?.dropped_entries;
    let kept = analytics.summaries.compact()?.dropped_entries;
    println!("two hours later: {dropped} raw events dropped, {kept} summaries");
    assert_eq!((dropped, kept), (2_400, 0));
    assert_eq!(analytics.window(START_MS, START_MS + WINDOW_MS)?, Figures::default());
    assert_eq!(analytics.since(START_MS)?, live);
    println!("all time: {live:?}");
    analytics.raw.shutdown()?;
    Ok(analytics.summaries.shutdown()?)
}
