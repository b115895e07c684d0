//! What happens between processes: a second opener, a forked child, `kill -9`.
//!
//! More lives: `KEYWAL_KILLS=10000 cargo test --release --test processes -- --nocapture`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keywal::{Wal, WalError, WalOptions};

const ROLE: &str = "KEYWAL_TEST_ROLE";
const DIR: &str = "KEYWAL_TEST_DIR";

/// Starts this test program again, to run only `role`.
fn start(role: &str, dir: &std::path::Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", role, "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The directory to work in, if this process was started for `role`.
fn started_as(role: &str) -> Option<String> {
    (std::env::var(ROLE).ok()? == role).then(|| std::env::var(DIR).unwrap())
}

fn options() -> WalOptions {
    WalOptions::default().max_segment_bytes(16_384).max_entry_bytes(4_096).max_open_files(2)
}

fn key(number: u64) -> String {
    format!("key {}", number % 5)
}

fn content(number: u64) -> String {
    format!("{number} {}", "x".repeat(usize::try_from(number * 7919 % 700).unwrap()))
}

/// Not a test of its own: appends until it is killed, and says what has returned.
#[test]
fn appender() {
    let Some(dir) = started_as("appender") else { return };
    let wal = Wal::new(dir, options()).unwrap();
    let next: u64 = (0..5).map(|number| wal.next_index(key(number)).unwrap()).sum();
    let mut out = std::io::stdout().lock();
    for number in next.. {
        wal.append_entry(key(number), None, content(number), number % 11 == 0).unwrap();
        writeln!(out, "ack {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn every_acknowledged_entry_survives_kill_9() {
    let kills = std::env::var("KEYWAL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let dir = tempfile::tempdir().unwrap();
    let mut entries = 0;
    for life in 0..kills {
        let mut child = start("appender", dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Die at some moment after the first few acknowledgements.
        let patience = life * 7919 % 97;
        let mut acked = None;
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            if let Some(number) = line.split("ack ").nth(1) {
                acked = number.parse::<u64>().ok();
                seen += 1;
                if seen == patience + 1 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let wal = Wal::new(dir.path(), options()).unwrap();
        let report = wal.recovery_report();
        assert!(!report.clean && report.damaged.is_empty(), "{report:?}");
        let mut total = 0;
        for first in 0..5 {
            for (at, entry) in (0..).zip(wal.entries(key(first)).unwrap()) {
                let entry = entry.unwrap();
                assert_eq!(entry.index, at);
                assert_eq!(entry.content, content(first + 5 * at), "life {life}");
                total += 1;
            }
        }
        let acked = acked.map_or(0, |number| number + 1);
        // One more may have been written and not yet acknowledged.
        assert!(
            (acked..=acked + 1).contains(&total),
            "life {life}: {total} entries, {acked} acked"
        );
        entries = total;
    }
    println!("{kills} kills, {entries} entries, 0 lost");
}

/// Not a test of its own: holds the directory until its input ends.
#[test]
fn holder() {
    let Some(dir) = started_as("holder") else { return };
    let _wal = Wal::new(dir, options()).unwrap();
    println!("holding");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn one_process_at_a_time_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start("holder", dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")));
    assert!(matches!(Wal::new(dir.path(), options()), Err(WalError::Locked { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    Wal::new(dir.path(), options()).unwrap();
}

mod forked {
    use super::{Wal, WalError, options};

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(code: i32) -> !;
    }

    #[test]
    fn a_forked_child_may_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::new(dir.path(), options()).unwrap();
        wal.append_entry("k", None, "parent", false).unwrap();
        // SAFETY: the child only makes calls that are refused before they touch a lock or the heap, and
        // leaves with `_exit`.
        let status = unsafe {
            match fork() {
                0 => {
                    let refused =
                        matches!(wal.append_entry("k", None, "child", true), Err(WalError::Forked))
                            && matches!(wal.sync(), Err(WalError::Forked))
                            && matches!(wal.compact(), Err(WalError::Forked))
                            && matches!(wal.shutdown(), Err(WalError::Forked));
                    _exit(i32::from(!refused));
                }
                child => {
                    let mut status = -1;
                    assert_eq!(waitpid(child, &raw mut status, 0), child);
                    status
                }
            }
        };
        assert_eq!(status, 0, "the child was let through");
        wal.append_entry("k", None, "parent still", true).unwrap();
        assert_eq!(wal.len("k").unwrap(), 2);
    }
}
