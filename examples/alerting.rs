//! When should somebody be woken? A rule for each trouble that `health` knows of, over two looks at a log:
//! disk space, failed writes and syncs, damage, compaction, the clock. Each trouble is then made to happen.
//!
//! ```text
//! cargo run --example alerting
//! ```

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keywal::{EntryRef, Health, ManualClock, Stats, Wal, WalOptions};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Space below this multiple of what the log will need is too little: others fill the disk, too.
const SPARE: u64 = 4;
/// `compact` is to run once a window; two that were missed are a broken timer.
const OVERDUE: Duration = Duration::from_secs(3 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Tomorrow is soon enough.
    Warning,
    /// Data is at risk, or is refused.
    Critical,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    DiskSpace,
    FailedAppends,
    Poisoned,
    Damage,
    CompactionFails,
    CompactionOverdue,
    Clock,
}

#[derive(Debug)]
struct Alert {
    rule: Rule,
    level: Level,
    text: String,
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}: {}", self.level, self.rule, self.text)
    }
}

/// Looks at a log now and then. Keeps what the counters said last, as only their growth tells anything.
#[derive(Default)]
struct Monitor {
    before: Stats,
}

impl Monitor {
    fn look(&mut self, wal: &Wal) -> Vec<Alert> {
        let (health, stats) = (wal.health(), wal.stats());
        let mut alerts = check(&health);
        // Conflicts are how optimistic concurrency works, and no trouble.
        let failed = |stats: &Stats| stats.failed_appends - stats.conflicts;
        let failed = failed(&stats).saturating_sub(failed(&self.before));
        if failed > 0 {
            let text = format!("{failed} appends were refused since the last look");
            alerts.push(Alert { rule: Rule::FailedAppends, level: Level::Critical, text });
        }
        self.before = stats;
        show(&alerts);
        alerts
    }
}

fn show(alerts: &[Alert]) {
    for alert in alerts {
        println!("  {alert}");
    }
}

/// The rules that need no memory.
fn check(health: &Health) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut alert = |rule, level, text| alerts.push(Alert { rule, level, text });

    let (needed, spare) = (health.needed_bytes, health.needed_bytes.saturating_mul(SPARE));
    match health.free_bytes {
        Some(free) if free < needed => {
            let text = format!("{free} bytes free, about {needed} needed in this window");
            alert(Rule::DiskSpace, Level::Critical, text);
        }
        Some(free) if free < spare => {
            let text = format!("{free} bytes free are less than {SPARE} times what is needed");
            alert(Rule::DiskSpace, Level::Warning, text);
        }
        _ => {}
    }
    for poisoned in &health.poisoned {
        let whose = poisoned.key.as_ref().map_or("all keys".to_owned(), ToString::to_string);
        let text = format!("{whose}: {} ({}); reopen the log", poisoned.why, name(&poisoned.path));
        alert(Rule::Poisoned, Level::Critical, text);
    }
    for found in &health.damaged {
        let text = format!("{} at {}: {}", name(&found.path), found.offset, found.what);
        alert(Rule::Damage, Level::Critical, text);
    }
    if let Some(last) = &health.last_compaction {
        if health.compactions_failed > 0 {
            let why = match &last.result {
                Ok(report) if report.refused.is_some() => "the clock cannot be trusted",
                Ok(report) => report.failures.first().map_or("", |failure| &failure.what),
                Err(error) => error,
            };
            // Once may be chance. More often, old entries fill the disk.
            let again = health.compactions_failed > 1;
            let level = if again { Level::Critical } else { Level::Warning };
            let text = format!("{} times in a row: {why}", health.compactions_failed);
            alert(Rule::CompactionFails, level, text);
        }
        if last.age > OVERDUE {
            let text = format!("the last one was {} minutes ago", last.age.as_secs() / 60);
            alert(Rule::CompactionOverdue, Level::Warning, text);
        }
    }
    if let Some(trouble) = health.clock {
        alert(Rule::Clock, Level::Warning, format!("{trouble:?}: nothing will be dropped"));
    }
    alerts
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn rules(alerts: &[Alert]) -> Vec<(Rule, Level)> {
    alerts.iter().map(|alert| (alert.rule, alert.level)).collect()
}

/// A log whose clock this program sets, with windows of an hour.
fn open(dir: &Path, clock: &Arc<ManualClock>) -> Result<Wal> {
    let options = WalOptions::with_retention(24 * HOUR).segments_per_retention_period(24);
    Ok(Wal::new(dir, options.clock(clock.clone()))?)
}

/// Disk space: what `health` would say on a disk with so much left. (To fill a real one is not nice.)
fn disk_space(wal: &Wal) {
    println!("disk space:");
    let mut health = wal.health();
    assert_eq!(rules(&check(&health)), []);
    for (free, level) in
        [(health.needed_bytes * 2, Level::Warning), (health.needed_bytes / 2, Level::Critical)]
    {
        health.free_bytes = Some(free);
        let alerts = check(&health);
        show(&alerts);
        assert_eq!(rules(&alerts), [(Rule::DiskSpace, level)]);
    }
}

/// Compaction: a timer that stopped, and a clock that somebody set.
fn compaction(wal: &Wal, clock: &ManualClock, monitor: &mut Monitor) -> Result {
    println!("compaction:");
    wal.compact()?;
    clock.advance(4 * HOUR);
    let overdue = (Rule::CompactionOverdue, Level::Warning);
    assert_eq!(rules(&monitor.look(wal)), [overdue]);
    wal.compact()?;
    assert_eq!(rules(&monitor.look(wal)), []);

    let right = keywal::Clock::now_ms(clock);
    clock.set(right - 60_000);
    assert_eq!(rules(&monitor.look(wal)), [(Rule::Clock, Level::Warning)]);
    for level in [Level::Warning, Level::Critical] {
        wal.compact()?;
        let expected = [(Rule::CompactionFails, level), (Rule::Clock, Level::Warning)];
        assert_eq!(rules(&monitor.look(wal)), expected);
    }
    clock.set(right);
    wal.compact()?;
    assert_eq!(rules(&monitor.look(wal)), []);
    Ok(())
}

/// Damage: a bit flips on the disk. It is told when somebody reads what it hit.
fn damage(dir: &Path, clock: &Arc<ManualClock>, hit: EntryRef, path: &Path) -> Result {
    println!("damage:");
    let mut bytes = fs::read(path)?;
    bytes[usize::try_from(hit.offset)? + 40] ^= 1;
    fs::write(path, bytes)?;
    let wal = open(dir, clock)?;
    let mut monitor = Monitor::default();
    assert_eq!(rules(&monitor.look(&wal)), []);
    let entries = wal.entries("orders")?.flatten().count();
    assert_eq!(rules(&monitor.look(&wal)), [(Rule::Damage, Level::Critical)]);
    println!("  {entries} of 3 entries can still be read");
    assert_eq!(entries, 2);
    Ok(wal.shutdown()?)
}

fn main() -> Result {
    let home = tempfile::tempdir()?;
    let dir = home.path().join("log");
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let wal = open(&dir, &clock)?;
    let mut monitor = Monitor::default();
    let refs: Vec<EntryRef> = ["shirt", "shoes", "hat"]
        .iter()
        .map(|order| wal.log_entry("orders", None, format!("an order of a {order}")))
        .collect::<Result<_, _>>()?;
    println!("all is well: {} alerts", monitor.look(&wal).len());
    assert_eq!(rules(&monitor.look(&wal)), []);

    disk_space(&wal);
    compaction(&wal, &clock, &mut monitor)?;

    println!("failed appends:");
    assert!(wal.log_entry("orders", None, vec![0; 17 << 20]).is_err());
    assert_eq!(rules(&monitor.look(&wal)), [(Rule::FailedAppends, Level::Critical)]);
    assert_eq!(rules(&monitor.look(&wal)), [], "told once");

    let segment: PathBuf = wal.segments("orders")?[0].path.clone();
    wal.shutdown()?;
    drop(wal);
    damage(&dir, &clock, refs[1], &segment)
}
