//! What can be asked of a history? The state at any moment; what would have come out under another rule
//! (an A/B replay of the same trades by two reducers); and all of it at once, keys and segments replayed
//! in parallel.
//!
//! ```text
//! cargo run --release --example time_travel
//! ```

use std::collections::VecDeque;
use std::error::Error;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keywal::{Clock, Key, ManualClock, Wal, WalOptions};
use serde::{Deserialize, Serialize};

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// A trade, in whole shares and cents. Its key is the symbol.
#[derive(Serialize, Deserialize, Clone, Copy)]
enum Trade {
    Bought { shares: i64, cents: i64 },
    Sold { shares: i64, cents: i64 },
}

/// State made of trades, oldest first.
trait Reducer: Default {
    fn apply(&mut self, trade: Trade);
}

/// Reads a part of a key's history into a reducer.
fn replay<R: Reducer>(entries: keywal::Entries<'_>) -> Result<R> {
    let mut reducer = R::default();
    for entry in entries {
        reducer.apply(serde_json::from_slice(&entry?.content)?);
    }
    Ok(reducer)
}

/// The state at the end of this millisecond. Narrowing to times is a search, not a scan.
fn state_at<R: Reducer>(wal: &Wal, key: &str, moment_ms: u64) -> Result<R> {
    replay(wal.entries(key)?.time_range(..=moment_ms)?)
}

/// What is held.
#[derive(Default, Debug, PartialEq)]
struct Holding {
    shares: i64,
}

impl Reducer for Holding {
    fn apply(&mut self, trade: Trade) {
        match trade {
            Trade::Bought { shares, .. } => self.shares += shares,
            Trade::Sold { shares, .. } => self.shares -= shares,
        }
    }
}

/// A: profit if the shares bought first are sold first.
#[derive(Default)]
struct FirstInFirstOut {
    lots: VecDeque<(i64, i64)>,
    profit_cents: i64,
}

impl Reducer for FirstInFirstOut {
    fn apply(&mut self, trade: Trade) {
        match trade {
            Trade::Bought { shares, cents } => self.lots.push_back((shares, cents)),
            Trade::Sold { mut shares, cents } => {
                while let Some((held, bought_at)) = self.lots.front_mut().filter(|_| shares > 0) {
                    let sold = shares.min(*held);
                    self.profit_cents += sold * (cents - *bought_at);
                    shares -= sold;
                    *held -= sold;
                    if *held == 0 {
                        self.lots.pop_front();
                    }
                }
            }
        }
    }
}

/// B: profit over the average price paid.
#[derive(Default)]
struct AverageCost {
    shares: i64,
    cost_cents: i64,
    profit_cents: i64,
}

impl Reducer for AverageCost {
    fn apply(&mut self, trade: Trade) {
        match trade {
            Trade::Bought { shares, cents } => {
                self.shares += shares;
                self.cost_cents += shares * cents;
            }
            Trade::Sold { shares, cents } => {
                let cost = self.cost_cents * shares / self.shares.max(1);
                self.shares -= shares;
                self.cost_cents -= cost;
                self.profit_cents += shares * cents - cost;
            }
        }
    }
}

/// Sums, which do not mind in which order parts of a history are put together.
#[derive(Default, Debug, PartialEq, Clone, Copy)]
struct Volume {
    trades: u64,
    shares: i64,
    turnover_cents: i64,
}

impl Reducer for Volume {
    fn apply(&mut self, trade: Trade) {
        let (Trade::Bought { shares, cents } | Trade::Sold { shares, cents }) = trade;
        let turnover_cents = shares * cents;
        *self = self.merge(Self { trades: 1, shares, turnover_cents });
    }
}

impl Volume {
    fn merge(self, other: Self) -> Self {
        Self {
            trades: self.trades + other.trades,
            shares: self.shares + other.shares,
            turnover_cents: self.turnover_cents + other.turnover_cents,
        }
    }
}

/// What one thread replays at a time: the entries of one segment.
struct Part {
    key: Key,
    indexes: Range<u64>,
}

fn parts(wal: &Wal) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for key in wal.enumerate_keys()? {
        for segment in wal.segments(&key)? {
            parts.push(Part { key: key.clone(), indexes: segment.indexes() });
        }
    }
    Ok(parts)
}

/// Replays all parts with this many threads, each of which takes the next one when it is done with one.
fn volume(wal: &Wal, parts: &[Part], threads: usize) -> Result<Volume> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Volume> {
        let mut sum = Volume::default();
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            sum = sum.merge(replay(wal.entries(&part.key)?.range(part.indexes.clone()))?);
        }
        Ok(sum)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_fold(Volume::default(), |sum, worker| {
            Ok(sum.merge(worker.join().map_err(|_| "a thread panicked")??))
        })
    })
}

/// Trades on ten days in three symbols that nobody has to look at one by one.
fn trade_at_random(wal: &Wal, clock: &ManualClock) -> Result {
    for (number, key) in (0..30_000).zip(["GLOBEX", "HOOLI", "INITECH"].into_iter().cycle()) {
        append(wal, key, Trade::Bought { shares: 1 + number % 7, cents: 10_000 + number % 101 })?;
        clock.advance(Duration::from_millis(28_800));
    }
    Ok(())
}

fn append(wal: &Wal, key: &str, trade: Trade) -> Result {
    wal.append_entry(key, None, serde_json::to_vec(&trade)?, false)?;
    Ok(())
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let options = WalOptions::with_retention(Duration::from_secs(60 * 60 * 24 * 365))
        .max_segment_bytes(128 << 10)
        .clock(clock.clone());
    let wal = Wal::new(dir.path(), options)?;

    // One trade a day, and the moment before each of them.
    let trades = [
        Trade::Bought { shares: 100, cents: 10_000 },
        Trade::Bought { shares: 100, cents: 14_000 },
        Trade::Sold { shares: 100, cents: 15_000 },
        Trade::Sold { shares: 50, cents: 9_000 },
    ];
    let mut before_ms = Vec::new();
    for trade in trades {
        before_ms.push(clock.now_ms());
        clock.advance(Duration::from_secs(60 * 60 * 24));
        append(&wal, "ACME", trade)?;
    }
    let now_ms = clock.now_ms();

    let mut held = Vec::new();
    for moment_ms in before_ms.iter().copied().chain([now_ms]) {
        held.push(state_at::<Holding>(&wal, "ACME", moment_ms)?.shares);
    }
    println!("ACME held, day by day: {held:?}");
    assert_eq!(held, [0, 100, 200, 100, 50]);

    // The same history, twice: the profit depends on the rule, and the log decides for none.
    let mut profits = Vec::new();
    for moment_ms in [before_ms[3], now_ms] {
        let a: FirstInFirstOut = state_at(&wal, "ACME", moment_ms)?;
        let b: AverageCost = state_at(&wal, "ACME", moment_ms)?;
        println!(
            "profit: {} cents first in first out, {} by average",
            a.profit_cents, b.profit_cents
        );
        profits.push((a.profit_cents, b.profit_cents));
    }
    assert_eq!(profits, [(500_000, 300_000), (250_000, 150_000)]);

    trade_at_random(&wal, &clock)?;
    let parts = parts(&wal)?;
    let started = Instant::now();
    let mut expected = Volume::default();
    for key in wal.enumerate_keys()? {
        expected = expected.merge(replay(wal.entries(&key)?)?);
    }
    println!("key after key: {expected:?} in {:.1?}", started.elapsed());
    for threads in [1, 2, 4] {
        let started = Instant::now();
        let volume = volume(&wal, &parts, threads)?;
        println!("{} segments by {threads} threads: {:.1?}", parts.len(), started.elapsed());
        assert_eq!(volume, expected);
    }
    assert!(parts.len() > 4 && expected.trades == 30_004);
    Ok(wal.shutdown()?)
}
