//! Opening directories: never one that is none, and never leaving one in a worse state.

use std::fs;
use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use keywal::{Finding, Wal, WalOptions, WalReader};

use crate::failure::{Failure, Outcome, say, say_damaged, say_found};
use crate::progress::Progress;

/// The file that every directory of keywal's has.
const META_NAME: &str = "META";
/// The file that comes before it.
const LOCK_NAME: &str = "LOCK";

/// Opens a log that exists for a command that only reads: beside a program that writes to it, or after it
/// has died. Nothing in the directory is changed. Says what is damaged as far as opening shows it; the outcome is
/// part of the command's.
pub fn read(dir: &Path) -> Result<(WalReader, Outcome), Failure> {
    check_exists(dir)?;
    let log = WalReader::open_with(dir, for_reading())?;
    let found = say_damaged(&log.report().damaged);
    Ok((log, found))
}

/// Runs `work` on a log that exists. Says what is damaged as [`read`] does: some of it, such as missing files,
/// nobody can find again once the log has been opened for writing.
pub fn existing<T>(
    dir: &Path,
    options: WalOptions,
    work: impl FnOnce(&Wal) -> Result<T, Failure>,
) -> Result<(T, Outcome), Failure> {
    check_exists(dir)?;
    with(dir, options, work)
}

/// As [`existing`], on a log that is created if need be.
pub fn or_create<T>(
    dir: &Path,
    options: WalOptions,
    work: impl FnOnce(&Wal) -> Result<T, Failure>,
) -> Result<(T, Outcome), Failure> {
    if !is_new(dir)? {
        check_exists(dir)?;
    }
    with(dir, options, work)
}

/// The options of commands that append nothing: they refuse no entry for its size.
pub fn for_reading() -> WalOptions {
    let largest = u64::from(u32::MAX - (1 << 20));
    WalOptions::default().max_segment_bytes(largest).max_entry_bytes(largest)
}

fn with<T>(
    dir: &Path,
    options: WalOptions,
    work: impl FnOnce(&Wal) -> Result<T, Failure>,
) -> Result<(T, Outcome), Failure> {
    options.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let wal = {
        // After a crash of a program with many keys.
        let _progress = Progress::waiting("opening the log");
        Wal::new(dir, options)?
    };
    // Nobody can find them again: what was unfinished is over now.
    say_found("unfinished", &wal.recovery_report().torn);
    say_found("ignored", &wal.recovery_report().ignored);
    let found = say_damaged(&wal.recovery_report().damaged);
    let result = work(&wal);
    // Leaves a log that was closed cleanly as one, so that its end stays proven.
    let closed = {
        let _progress = Progress::waiting("closing the log");
        wal.shutdown().map_err(Failure::from)
    };
    match (result, closed) {
        (Ok(done), closed) => closed.map(|()| (done, found)),
        (Err(failure), Ok(())) => Err(failure),
        (Err(failure), Err(closing)) => {
            closing.report();
            Err(failure)
        }
    }
}

/// Whether nothing is there yet: no directory, an empty one, or one whose creation was cut off.
fn is_new(dir: &Path) -> Result<bool, Failure> {
    match fs::read_dir(dir) {
        Ok(mut files) => Ok(files.all(|file| file.is_ok_and(|file| file.file_name() == LOCK_NAME))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(Failure::file(dir, "list the directory", &error)),
    }
}

/// Refuses what is no directory of keywal's: opening it would make it one.
pub fn check_exists(dir: &Path) -> Result<(), Failure> {
    let files =
        fs::read_dir(dir).map_err(|error| Failure::file(dir, "list the directory", &error))?;
    for file in files {
        let name =
            file.map_err(|error| Failure::file(dir, "list the directory", &error))?.file_name();
        if name.to_str().is_some_and(|name| name == META_NAME || is_segment(name)) {
            return Ok(());
        }
    }
    Err(Failure::error(format!("{}: not a keywal directory: it has no {META_NAME}", dir.display())))
}

/// Whether entries may be lost where this is damaged. Those of a log whose facts are lost are all there: they are
/// put together anew.
pub fn may_lose_entries(finding: &Finding) -> bool {
    finding.path.file_name().is_none_or(|name| name != META_NAME)
}

/// Whether a file is named like a segment: `{label}-{hash in 16 hexadecimal digits}-{sequence}.log`.
fn is_segment(name: &str) -> bool {
    let parts = name.strip_suffix(".log").and_then(|name| {
        let (name, sequence) = name.rsplit_once('-')?;
        Some((name.rsplit_once('-')?.1, sequence))
    });
    parts.is_some_and(|(hash, sequence)| {
        hash.len() == 16
            && hash.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
            && sequence.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// Asks whether to go on; without a terminal to ask on, `--yes` has to be given.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("{question} Nothing was changed; give --yes to do it")));
    }
    say(format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::error("nothing was changed"))
}
