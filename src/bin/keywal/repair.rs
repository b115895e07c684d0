//! `repair`: what is lost is given up, after it has been copied.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keywal::{Finding, Key, Wal, WalError};
use serde::Serialize;

use crate::args::Repair;
use crate::entry::{print_json, text_or_base64};
use crate::failure::{Failure, Outcome, describe, say, show_finding};
use crate::list::sorted;
use crate::progress::Progress;
use crate::text::{counted, show_key};
use crate::{open, times};

/// A key that takes no appends, because the end of its log is damaged.
struct Damaged {
    key: Key,
    path: PathBuf,
    what: String,
}

#[derive(Serialize)]
struct Repaired {
    keys: Vec<Row>,
    unreadable_keys: usize,
    copies: Option<PathBuf>,
    /// What opening found damaged, which is not what is given up here.
    lost: Vec<Finding>,
    /// What else is damaged, and stays so.
    untreated: Vec<Finding>,
}

#[derive(Serialize)]
struct Row {
    /// As text shows it.
    #[serde(skip)]
    shown: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// Index of the next entry.
    next_index: u64,
    given_up: String,
}

pub fn run(args: &Repair, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let (mut done, _) = open::existing(&args.dir, open::for_reading(), |wal| {
        let lost = wal.recovery_report().damaged.clone();
        let (keys, unreadable_keys) = sorted(wal.enumerate_keys()?);
        let mut done = Repaired {
            keys: Vec::new(),
            unreadable_keys,
            copies: None,
            lost,
            untreated: Vec::new(),
        };
        let damaged = damaged_ends(wal, keys)?;
        if damaged.is_empty() {
            return Ok(done);
        }
        let copies = copies_dir(args)?;
        for damaged in &damaged {
            say(format!("{}: {}", show_key(&damaged.key), damaged.what));
        }
        let keys = counted(damaged.len() as u64, "key", "keys");
        let question = format!(
            "Copy the damaged files to {} and give up the damaged ends of {keys}?",
            copies.display()
        );
        open::confirm(&question, args.yes)?;
        copy(&damaged, &copies)?;
        done.copies = Some(copies);
        for damaged in damaged {
            wal.accept_loss(&damaged.key)?;
            let shown = show_key(&damaged.key);
            let (key, key_base64) = text_or_base64(Some(&damaged.key));
            let next_index = wal.next_index(&damaged.key)?;
            done.keys.push(Row { shown, key, key_base64, next_index, given_up: damaged.what });
        }
        Ok(done)
    })?;
    // What was given up is told even if the rest cannot be read.
    let failed = match untreated(args, &done.lost) {
        Ok(found) => {
            done.untreated = found;
            None
        }
        Err(failure) => Some(failure),
    };
    if args.json {
        print_json(out, &done)?;
    } else {
        print(args, &done, out)?;
    }
    out.flush()?;
    advise(&done);
    match failed {
        Some(failure) => Err(failure),
        None => Ok(Outcome::of(!done.keys.is_empty() || done.has_damage())),
    }
}

impl Repaired {
    /// Whether there is any that was not given up.
    fn has_damage(&self) -> bool {
        self.unreadable_keys > 0 || !self.lost.is_empty() || !self.untreated.is_empty()
    }
}

/// The damage that is left, but for what opening has found already.
fn untreated(args: &Repair, lost: &[Finding]) -> Result<Vec<Finding>, Failure> {
    let _progress = Progress::waiting("reading everything");
    let mut damaged = keywal::verify(&args.dir)?.damaged;
    let place = |finding: &Finding| (finding.path.clone(), finding.offset);
    damaged.retain(|finding| !lost.iter().any(|known| place(known) == place(finding)));
    Ok(damaged)
}

fn print(args: &Repair, done: &Repaired, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(copies) = &done.copies {
        for Row { shown, next_index, .. } in &done.keys {
            writeln!(
                out,
                "{shown} goes on at index {next_index}: later indexes, if any were given, will be given again"
            )?;
        }
        let keys = counted(done.keys.len() as u64, "key takes", "keys take");
        writeln!(out, "{keys} appends again; the damaged files are also in {}", copies.display())?;
    } else {
        let nothing = if done.has_damage() { "" } else { "nothing to repair: " };
        writeln!(out, "{}: {nothing}no key's end is damaged", args.dir.display())?;
    }
    Ok(())
}

/// Says what is damaged all the same, and what can be done.
fn advise(done: &Repaired) {
    for finding in &done.untreated {
        say(format!("damage that repair does not treat: {}", show_finding(finding)));
    }
    let lost = done.lost.iter().filter(|finding| open::may_lose_entries(finding)).count();
    if lost > 0 {
        let places = counted(lost as u64, "damaged place", "damaged places");
        say(format!(
            "{places} found on opening, and named above: repair cannot bring back what is lost there, `keywal restore` \
             can, from a snapshot. Later commands may not find it again"
        ));
    } else if !done.untreated.is_empty() {
        say("what is lost there comes back from a snapshot only, with `keywal restore`");
    }
    if done.unreadable_keys > 0 {
        say(
            "keys that cannot be listed are left alone: restore their files from a snapshot, or move them away",
        );
    }
}

fn damaged_ends(wal: &Wal, keys: Vec<Key>) -> Result<Vec<Damaged>, Failure> {
    let mut damaged = Vec::new();
    for key in keys {
        match wal.next_index(&key) {
            Ok(_) => {}
            Err(error) => {
                let what = describe(&error);
                let WalError::Corrupted { path, .. } = error else {
                    return Err(error.into());
                };
                damaged.push(Damaged { key, path, what });
            }
        }
    }
    Ok(damaged)
}

/// Where the copies go: beside the log, under a name that was never used.
fn copies_dir(args: &Repair) -> Result<PathBuf, Failure> {
    if let Some(dir) = &args.copy_to {
        return Ok(dir.clone());
    }
    let dir = fs::canonicalize(&args.dir)
        .map_err(|error| Failure::file(&args.dir, "find the directory", &error))?;
    let name = dir.file_name().ok_or_else(|| Failure::usage("give --copy-to"))?;
    let mut name = name.to_owned();
    name.push(format!(".damaged-{}", times::now_for_names()));
    Ok(dir.with_file_name(name))
}

fn copy(damaged: &[Damaged], copies: &Path) -> Result<(), Failure> {
    // Logs hold data of others.
    DirBuilder::new()
        .mode(0o700)
        .create(copies)
        .map_err(|error| Failure::file(copies, "create the directory", &error))?;
    for Damaged { path, .. } in damaged {
        let to = copies.join(path.file_name().unwrap_or_default());
        copy_file(path, &to)
            .map_err(|error| Failure::file(&to, "copy the damaged file", &error))?;
    }
    let synced = File::open(copies).and_then(|dir| dir.sync_all());
    synced.map_err(|error| Failure::file(copies, "sync the directory", &error))
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut File::open(from)?, &mut copy)?;
    copy.sync_all()
}
