//! Does a directory that changes under an open log, or holds what no log made, ever hang it, lead it
//! elsewhere or cost entries?
//!
//! More rounds: `KEYWAL_ROUNDS=1000 cargo test --release --test races -- --nocapture`.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, abort};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::Duration;

use common::progress::Progress;
use common::{Check, Failures, env_number, guarded};
use keywal::{Wal, WalError, WalOptions};

const PATIENCE: Duration = Duration::from_secs(60);
const DECOY: &[u8] = b"not a log";

fn options() -> WalOptions {
    // What is planted in the place of a file that the journal knows is another matter.
    WalOptions::default()
        .journal_bytes(0)
        .max_segment_bytes(4_096)
        .max_entry_bytes(2_000)
        .max_open_files(2)
}

/// Runs `round` as often as wanted. Ends the process if one takes too long: nothing here may block.
fn rounds(name: &'static str, everyday: u64, round: impl Fn(u64) -> Check + Send + 'static) {
    let rounds = env_number("KEYWAL_ROUNDS").unwrap_or(everyday);
    let (done, wait) = mpsc::channel();
    let runner = thread::spawn(move || {
        for number in 0..rounds {
            done.send(guarded(|| round(number))).unwrap();
        }
    });
    let progress = Progress::new(name, "rounds", rounds);
    let failures = Failures::default();
    for number in 0..rounds {
        let Ok(result) = wait.recv_timeout(PATIENCE) else {
            // Not through `eprintln`: what a test captures goes with the process.
            let _ = writeln!(std::io::stderr(), "{name}: round {number} hangs");
            abort();
        };
        if let Err(text) = result {
            failures.note(&text, &format!("{name}, round {number}"));
        }
        progress.step(|| "");
    }
    runner.join().unwrap();
    progress.figures(&[("rounds", progress.done())], &failures);
    failures.finish();
}

fn contents(wal: &Wal, key: &str) -> Check<Vec<Vec<u8>>> {
    let records = wal.enumerate_records(key).map_err(|error| format!("{key}: {error}"))?;
    let contents = records.map(|record| record.map(|content| content.to_vec()));
    contents.collect::<Result<_, _>>().map_err(|error| format!("{key}: {error}"))
}

fn append(wal: &Wal, key: &str, number: u64) -> Result<Vec<u8>, WalError> {
    let content = format!("{number} {}", "x".repeat(1_500)).into_bytes();
    wal.append_entry(key, None, &content, number % 8 == 0).map(|_| content)
}

#[test]
fn one_of_two_who_open_at_once_gets_the_directory() {
    rounds("opens", 20, |_| {
        let dir = tempfile::tempdir().unwrap();
        let (start, end) = (Barrier::new(2), Barrier::new(2));
        let open = || {
            start.wait();
            let opened = Wal::new(dir.path(), options());
            end.wait();
            match opened {
                Ok(_) => Ok(1),
                Err(WalError::Locked { .. }) => Ok(0),
                Err(error) => Err(format!("{error}: {error:?}")),
            }
        };
        let winners = thread::scope(|scope| {
            let other = scope.spawn(open);
            Ok::<u32, String>(open()? + other.join().unwrap()?)
        })?;
        ensure!(winners == 1, "{winners} have the directory");
        Wal::new(dir.path(), options()).map(drop).map_err(|error| format!("afterwards: {error}"))
    });
}

/// Appends to two keys while `disturb` works on the directory; returns what was accepted.
fn append_while(wal: &Wal, disturb: impl FnOnce()) -> [Vec<Vec<u8>>; 2] {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers = ["a", "b"].map(|key| {
            let done = &done;
            scope.spawn(move || {
                let go_on = |number: &u64| *number < 20 || !done.load(Ordering::Relaxed);
                let numbers = (0..200).take_while(go_on);
                numbers.filter_map(|number| append(wal, key, number).ok()).collect()
            })
        });
        disturb();
        done.store(true, Ordering::Relaxed);
        writers.map(|writer| writer.join().unwrap())
    })
}

#[test]
fn a_directory_that_is_renamed_loses_nothing() {
    rounds("renamed", 3, |_| {
        let tree = tempfile::tempdir().unwrap();
        let [here, there] = ["here", "there"].map(|name| tree.path().join(name));
        let wal = Wal::new(&here, options()).unwrap();
        let accepted = append_while(&wal, || {
            for _ in 0..10 {
                fs::rename(&here, &there).unwrap();
                fs::rename(&there, &here).unwrap();
            }
            fs::rename(&here, &there).unwrap();
        });
        wal.shutdown().map_err(|error| format!("shutdown: {error}"))?;
        ensure!(!here.exists(), "the old name is back");
        let wal = Wal::new(&there, options()).map_err(|error| format!("open: {error}"))?;
        for (key, accepted) in ["a", "b"].iter().zip(accepted) {
            ensure!(accepted.len() >= 20, "refused: {} entries accepted", accepted.len());
            ensure!(contents(&wal, key)? == accepted, "{key} has other entries");
        }
        Ok(())
    });
}

#[test]
fn a_directory_that_is_removed_is_not_made_again() {
    rounds("removed", 5, |_| {
        let tree = tempfile::tempdir().unwrap();
        let path = tree.path().join("log");
        let wal = Wal::new(&path, options()).unwrap();
        // A file that is created meanwhile makes one attempt fail.
        append_while(&wal, || while fs::remove_dir_all(&path).is_err() {});
        let result = append(&wal, "new", 0);
        ensure!(matches!(result, Err(WalError::Io { .. })), "accepted: {result:?}");
        let _ = wal.shutdown();
        ensure!(!path.exists(), "the directory is back");
        let wal = Wal::new(&path, options()).map_err(|error| format!("open: {error}"))?;
        ensure!(contents(&wal, "a")?.is_empty(), "a new log has entries");
        append(&wal, "a", 0).map(drop).map_err(|error| format!("append: {error}"))
    });
}

/// Puts something that is no regular file there; `false` if this process may not.
fn plant(kind: u64, path: &Path, decoy: &Path) -> bool {
    let run = |program: &str, more: &[&str]| {
        Command::new(program).arg(path).args(more).stderr(std::process::Stdio::null()).status()
    };
    match kind {
        0 => symlink(decoy, path).is_ok(),
        1 => symlink(decoy.with_extension("missing"), path).is_ok(),
        2 => run("mkfifo", &[]).is_ok_and(|status| status.success()),
        3 => fs::create_dir(path).is_ok(),
        _ => run("mknod", &["c", "1", "3"]).is_ok_and(|status| status.success()),
    }
}

/// The path of the key's segment that has this number.
fn segment(dir: &Path, key: &str, number: u32) -> PathBuf {
    let start = format!("{key}-");
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let name = names.map(|name| name.into_string().unwrap()).find(|name| name.starts_with(&start));
    let name = name.unwrap();
    dir.join(format!("{}-{number:04}.log", &name[..name.len() - "-0001.log".len()]))
}

/// What was planted in place of LOCK, META, a segment or the next segment.
fn planted(kind: u64, place: u64, clean: bool) -> Check {
    let tree = tempfile::tempdir().unwrap();
    let decoy = tree.path().join("decoy");
    fs::write(&decoy, DECOY).unwrap();
    let dir = tree.path().join("log");
    let wal = Wal::new(&dir, options()).unwrap();
    let mut a = vec![append(&wal, "a", 0).unwrap()];
    let b = vec![append(&wal, "b", 0).unwrap()];
    if clean {
        wal.shutdown().unwrap();
    }
    drop(wal);
    let victim = match place {
        0 => dir.join("LOCK"),
        1 => dir.join("META"),
        2 => segment(&dir, "b", 1),
        _ => segment(&dir, "a", 2),
    };
    let aside = tree.path().join("aside");
    let existed = fs::rename(&victim, &aside).is_ok();
    if !plant(kind, &victim, &decoy) {
        println!("skipped: device nodes are for root");
        return Ok(());
    }
    let planted = fs::symlink_metadata(&victim).unwrap().file_type();
    match Wal::new(&dir, options()) {
        Ok(wal) => {
            ensure!(place > 1, "opened without its LOCK or META");
            for number in 1..6 {
                let content = append(&wal, "a", number).map_err(|error| format!("a: {error}"))?;
                a.push(content);
            }
            ensure!(contents(&wal, "a")? == a, "a has other entries");
            if place == 2 {
                ensure!(contents(&wal, "b").map_or(true, |b| b.is_empty()), "b has entries");
            }
        }
        Err(error) => ensure!(place < 2, "the log is lost: {error}: {error:?}"),
    }
    let now = fs::symlink_metadata(&victim).map(|metadata| metadata.file_type());
    ensure!(now.is_ok_and(|now| now == planted), "what was planted was replaced");
    ensure!(fs::read(&decoy).unwrap() == DECOY, "the link was followed");
    ensure!(!decoy.with_extension("missing").exists(), "the dangling link was followed");
    let removed = if planted.is_dir() { fs::remove_dir(&victim) } else { fs::remove_file(&victim) };
    removed.unwrap();
    if existed {
        fs::rename(&aside, &victim).unwrap();
    }
    let wal = Wal::new(&dir, options()).map_err(|error| format!("opening again: {error}"))?;
    ensure!(contents(&wal, "a")? == a, "a has lost entries");
    ensure!(contents(&wal, "b")? == b, "b has lost entries");
    Ok(())
}

#[test]
fn what_is_planted_is_refused_and_costs_nothing() {
    rounds("planted", 40, |number| {
        planted(number % 5, number / 5 % 4, number / 20 % 2 == 0)
            .map_err(|text| format!("kind {}, place {}: {text}", number % 5, number / 5 % 4))
    });
}
