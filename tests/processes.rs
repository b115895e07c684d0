//! What happens between processes: a second opener, a forked child.
//!
//! More rounds: `KEYWAL_ROUNDS=1000 cargo test --release --test processes -- --nocapture`.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use common::progress::Progress;
use common::{Failures, child, env_number};
use keywal::{Wal, WalError, WalOptions};

/// Not a test of its own: holds the directory until its input ends.
#[test]
fn holder() {
    let Some(dir) = child::started_as("holder") else { return };
    let _wal = Wal::new(dir, WalOptions::default()).unwrap();
    println!("holding");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn one_process_at_a_time_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child::command("holder", dir.path()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("holding")));
    assert!(matches!(Wal::new(dir.path(), WalOptions::default()), Err(WalError::Locked { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    Wal::new(dir.path(), WalOptions::default()).unwrap();
}

/// Not a test of its own: opens each directory it is told and says whether it got it. Lets go of it when it
/// is told the next.
#[test]
fn contender() {
    let Some(_) = child::started_as("contender") else { return };
    let mut held = None;
    for dir in std::io::stdin().lines() {
        drop(held.take());
        match Wal::new(dir.unwrap(), WalOptions::default()) {
            Ok(wal) => {
                held = Some(wal);
                println!("won");
            }
            Err(WalError::Locked { .. }) => println!("lost"),
            Err(error) => println!("failed: {error}"),
        }
    }
}

#[test]
fn one_of_two_processes_that_open_at_once_gets_the_directory() {
    let rounds = env_number("KEYWAL_ROUNDS").unwrap_or(50);
    let dir = tempfile::tempdir().unwrap();
    let mut contenders = [(); 2].map(|()| {
        let mut child =
            child::command("contender", dir.path()).stdin(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child.stdin.take().unwrap(), lines, child)
    });
    let progress = Progress::new("contenders", "rounds", rounds);
    for round in 0..rounds {
        let path = dir.path().join(round.to_string());
        for (tell, ..) in &mut contenders {
            writeln!(tell, "{}", path.display()).unwrap();
        }
        let answers = contenders.each_mut().map(|(_, lines, _)| {
            let answer = |line: &String| ["won", "lost", "failed"].iter().any(|a| line.contains(a));
            lines.map(Result::unwrap).find(answer).unwrap()
        });
        let winners = answers.iter().filter(|answer| answer.contains("won")).count();
        let losers = answers.iter().filter(|answer| answer.contains("lost")).count();
        assert_eq!((winners, losers), (1, 1), "round {round}: {answers:?}");
        progress.step(|| "");
    }
    progress.figures(&[("rounds", progress.done())], &Failures::default());
    for (tell, _, mut child) in contenders {
        drop(tell);
        child.wait().unwrap();
    }
}

mod forked {
    use std::mem::ManuallyDrop;
    use std::path::Path;

    use super::{Failures, Progress, Wal, WalError, WalOptions, env_number};

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(code: i32) -> !;
    }

    #[test]
    fn a_forked_child_may_not_write() {
        let rounds = env_number("KEYWAL_ROUNDS").unwrap_or(3);
        let progress = Progress::new("forks", "rounds", rounds);
        for _ in 0..rounds {
            fork_while_open();
            progress.step(|| "");
        }
        progress.figures(&[("rounds", progress.done())], &Failures::default());
    }

    fn fork_while_open() {
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
        wal.append_entry("k", None, "parent", false).unwrap();
        let mut follow = wal.follow("k", 1).unwrap();
        // SAFETY: the child only makes calls that are refused before they touch the heap, or a lock that
        // another thread could have, and leaves with `_exit`.
        let status = unsafe {
            match fork() {
                0 => {
                    let refused = matches!(wal.append_entry("k", None, "child", true), Err(WalError::Forked))
                            && matches!(wal.sync(), Err(WalError::Forked))
                            && matches!(wal.compact(), Err(WalError::Forked))
                            && matches!(wal.shutdown(), Err(WalError::Forked))
                            // Nothing can come, so it does not wait.
                            && matches!(follow.next(), Some(Err(WalError::Forked)));
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

    /// A child that lets the log go does not wait for threads that it has not, and does not keep the directory locked.
    #[test]
    fn a_forked_child_may_drop_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let options = || WalOptions::default().journal_bytes(4_096).maintenance_thread(true);
        let mut wal = ManuallyDrop::new(Wal::new(dir.path(), options()).unwrap());
        for round in 0..200 {
            // The log's own thread has something to do.
            for _ in 0..round % 7 {
                wal.append_entry("k", None, [7; 400], false).unwrap();
            }
            // SAFETY: nobody else is in a call, and the thread that is has no lock that dropping needs. The child leaves
            // with `_exit`, so it has one copy of the log to drop, and the parent has another.
            unsafe {
                match fork() {
                    0 => {
                        ManuallyDrop::drop(&mut wal);
                        _exit(i32::from(has_open(&dir.path().join("LOCK"))));
                    }
                    child => {
                        let mut status = -1;
                        assert_eq!(waitpid(child, &raw mut status, 0), child);
                        assert_eq!(status, 0, "the child keeps the lock");
                    }
                }
            }
        }
        drop(ManuallyDrop::into_inner(wal));
        Wal::new(dir.path(), options()).unwrap();
    }

    fn has_open(path: &Path) -> bool {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).any(|it| it == path)
    }
}
