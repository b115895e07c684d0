//! What a long run says: every few seconds how far it is, and at its end one line of figures.

use std::fmt::{Display, Write};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::Failures;

/// How often progress is printed.
const EVERY: Duration = Duration::from_secs(5);

/// How far a run is. Shared by its threads.
pub struct Progress {
    run: String,
    unit: &'static str,
    /// Read at the start: the tree may go on meanwhile.
    commit: String,
    total: AtomicU64,
    done: AtomicU64,
    started: Instant,
    /// Milliseconds after the start at which the next line is due.
    due_ms: AtomicU64,
}

impl Progress {
    /// A run of `total` units of work, for example "kills".
    pub fn new(run: impl Into<String>, unit: &'static str, total: u64) -> Self {
        let due_ms = AtomicU64::new(millis(EVERY));
        let (done, total) = (AtomicU64::new(0), AtomicU64::new(total));
        Self {
            run: run.into(),
            unit,
            commit: commit(),
            total,
            done,
            started: Instant::now(),
            due_ms,
        }
    }

    /// Units done so far.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// So many more units are to be done.
    pub fn expect(&self, more: usize) {
        self.total.fetch_add(more as u64, Relaxed);
    }

    /// One more unit is done; `more` is what else to say if a line is due.
    pub fn step<T: Display>(&self, more: impl FnOnce() -> T) {
        self.done.fetch_add(1, Relaxed);
        self.say(more);
    }

    /// So many units are done in all.
    pub fn reached<T: Display>(&self, done: u64, more: impl FnOnce() -> T) {
        self.done.store(done, Relaxed);
        self.say(more);
    }

    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn say<T: Display>(&self, more: impl FnOnce() -> T) {
        let (done, total) = (self.done(), self.total.load(Relaxed));
        let elapsed = self.started.elapsed();
        let (now, due) = (millis(elapsed), self.due_ms.load(Relaxed));
        let next = now + millis(EVERY);
        if now < due || self.due_ms.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let Self { run, unit, .. } = self;
        let left = elapsed.as_secs_f64() * total.saturating_sub(done) as f64 / done.max(1) as f64;
        let rate = done as f64 / elapsed.as_secs_f64();
        eprintln!("{run}: {done} of {total} {unit}, {rate:.0}/s, {left:.0} s left; {}", more());
    }

    /// The last line of a run, and the only one a machine needs: `figures run=.. commit=.. name=value..`.
    pub fn figures(&self, numbers: &[(&str, u64)], failures: &Failures) {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut line = format!("figures run={} commit={}", self.run, self.commit);
        for (name, value) in numbers {
            let _ = write!(line, " {name}={value}");
        }
        for (name, value) in failures.by_nature() {
            let _ = write!(line, " {name}={value}");
        }
        // The test runner may have left a dot on this line.
        println!("\n{line} seconds={seconds:.1}");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The commit of the tree the tests were built from, with a `+` if files have changed since.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let directory = env!("CARGO_MANIFEST_DIR");
        let output = Command::new("git").current_dir(directory).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    let changed = if changed.is_some_and(|files| !files.is_empty()) { "+" } else { "" };
    git(&["rev-parse", "--short", "HEAD"]).map_or("unknown".into(), |commit| commit + changed)
}
