//! What the benches share: subject and floor in alternating rounds, one row of the table for each
//! pair, and where it was measured.

pub mod floor;
pub mod heap;

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use keywal::{Wal, WalOptions};
use tempfile::TempDir;

/// One run: its directory, its size, and which groups of workloads it is about.
pub struct Bench {
    /// Everything once and small, to see that it works.
    test: bool,
    filters: Vec<String>,
    root: TempDir,
    dirs: Cell<u32>,
}

impl Bench {
    /// As criterion decides it: measure with `--bench` (which `cargo bench` passes) and without
    /// `--test`. Any word is a filter for the groups.
    pub fn from_args() -> Self {
        let (flags, filters): (Vec<_>, Vec<_>) =
            std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
        let has = |flag: &str| flags.iter().any(|given| given == flag);
        let parent = std::env::var_os("KEYWAL_BENCH_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
        fs::create_dir_all(&parent).expect("create KEYWAL_BENCH_DIR");
        let root = tempfile::tempdir_in(parent).expect("create a directory for the data");
        if let Some(gibibytes) = std::env::var_os("KEYWAL_BENCH_TOUCH") {
            touch_memory(
                gibibytes
                    .to_str()
                    .and_then(|text| text.parse().ok())
                    .expect("KEYWAL_BENCH_TOUCH: a number"),
            );
        }
        Self { test: has("--test") || !has("--bench"), filters, root, dirs: Cell::new(0) }
    }

    pub fn wants(&self, group: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| group.contains(filter.as_str()))
    }

    /// `n`, or in a test a hundredth of it.
    pub fn scale(&self, n: usize) -> usize {
        if self.test { n.div_ceil(100) } else { n }
    }

    /// A new directory, removed with all others at the end.
    pub fn dir(&self) -> PathBuf {
        self.dirs.set(self.dirs.get() + 1);
        let dir = self.root.path().join(self.dirs.get().to_string());
        fs::create_dir(&dir).expect("create a directory");
        dir
    }

    pub fn wal(&self) -> Wal {
        Wal::new(self.dir(), options()).expect("open a new log")
    }

    pub fn print_head(&self) {
        let dir = self.root.path();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let cpu = cpu.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown CPU");
        let cores = thread::available_parallelism().map_or(0, usize::from);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!(
            "{} on {cores} x {cpu}, {}, {}; {}; commit {}; load {}, {} descriptors{}\n",
            run("df", &["--output=fstype", &dir.to_string_lossy()]),
            run("uname", &["-sr"]),
            run("rustc", &["--version"]),
            run("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            run("git", &["describe", "--always", "--dirty"]),
            load.split(' ').next().unwrap_or_default(),
            open_files(),
            if self.test { "; a test run, the figures mean nothing" } else { "" },
        );
        println!("| workload | keywal | floor | ratio (median, p10-p90 of rounds) | target |");
        println!("|---|---:|---:|---:|---:|");
    }

    /// Measures `subject` beside `floor` and prints the row. Both do one round of work and return its
    /// cost in nanoseconds an operation. A round is short and the two take turns in going first, so
    /// that whatever else the machine does hits both.
    pub fn compare(
        &self,
        name: &str,
        target: Option<f64>,
        rounds: usize,
        mut subject: impl FnMut() -> f64,
        mut floor: impl FnMut() -> f64,
    ) {
        let rounds = if self.test { 1 } else { rounds };
        if !self.test {
            // Creates files, fills caches.
            subject();
            floor();
        }
        let (mut subjects, mut floors) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            if round % 2 == 0 {
                subjects.push(subject());
                floors.push(floor());
            } else {
                floors.push(floor());
                subjects.push(subject());
            }
        }
        let mut ratios: Vec<f64> = subjects.iter().zip(&floors).map(|(s, f)| s / f).collect();
        let ratio = quantile(&mut ratios, 0.5);
        let (low, high) = (quantile(&mut ratios, 0.1), quantile(&mut ratios, 0.9));
        let (subject, floor) = (quantile(&mut subjects, 0.5), quantile(&mut floors, 0.5));
        println!(
            "| {name} | {} | {} | {ratio:.2} ({low:.2}-{high:.2}) | {} |",
            duration(subject),
            duration(floor),
            self.verdict(target, ratio, ""),
        );
    }

    /// A row for a size that has no floor.
    pub fn report_bytes(&self, name: &str, target: Option<f64>, bytes: f64) {
        println!("| {name} | {bytes:.1} B | - | - | {} |", self.verdict(target, bytes, " B"));
    }

    fn verdict(&self, target: Option<f64>, value: f64, unit: &str) -> String {
        match target {
            None => "-".to_owned(),
            Some(target) if self.test || value <= target => format!("<= {target}{unit}"),
            Some(target) => format!("<= {target}{unit}, missed"),
        }
    }
}

/// Writes to so much memory and gives it back: a virtual machine may get each page from its host only when it is
/// first used, which then costs more than what is measured.
fn touch_memory(gibibytes: usize) {
    std::hint::black_box(vec![1_u8; gibibytes << 30]);
}

/// The defaults, with enough descriptors for a thousand keys.
pub fn options() -> WalOptions {
    WalOptions::default().max_open_files(2048)
}

/// How many descriptors the process may have.
pub fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(1024)
}

pub fn key(n: usize) -> String {
    format!("key-{n:06}")
}

/// Does `work` `n` times; nanoseconds each.
pub fn each(n: usize, mut work: impl FnMut(usize)) -> f64 {
    let started = Instant::now();
    for i in 0..n {
        work(i);
    }
    nanos(started) / count(n)
}

/// Does `work` `n` times in each of several threads; nanoseconds each, all of them together.
pub fn each_in_threads(threads: usize, n: usize, work: impl Fn(usize, usize) + Sync) -> f64 {
    if threads == 1 {
        return each(n, |i| work(0, i));
    }
    let started = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || (0..n).for_each(|i| work(thread, i)));
        }
    });
    nanos(started) / count(threads * n)
}

/// The latency that one in a thousand of `n` calls exceeds.
pub fn p999(n: usize, mut work: impl FnMut()) -> f64 {
    let mut nanos: Vec<f64> = (0..n).map(|_| each(1, |_| work())).collect();
    quantile(&mut nanos, 0.999)
}

pub fn nanos(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e9
}

/// A number to divide by.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub fn count(n: usize) -> f64 {
    n as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(count(values.len() - 1) * q).round() as usize]
}

fn duration(nanos: f64) -> String {
    match nanos {
        ..1e3 => format!("{nanos:.0} ns"),
        ..1e6 => format!("{:.1} us", nanos / 1e3),
        _ => format!("{:.1} ms", nanos / 1e6),
    }
}

/// The last line that a command prints.
pub fn run(program: &str, args: &[&str]) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program).args(args).current_dir(here).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().last().unwrap_or("unknown").trim().to_owned()
}
