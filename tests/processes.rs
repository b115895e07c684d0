//! What happens between processes: a second opener, a forked child.

mod common;

use std::io::{BufRead, BufReader};
use std::time::Duration;

use common::child;
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

mod forked {
    use super::{Wal, WalError, WalOptions};

    unsafe extern "C" {
        fn fork() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
        fn _exit(code: i32) -> !;
    }

    #[test]
    fn a_forked_child_may_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::new(dir.path(), WalOptions::default()).unwrap();
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
