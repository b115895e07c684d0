//! `stats` and `verify`: what a directory holds, and whether all of it can be read.

use std::io::Write;

use keywal::{Finding, VerifyReport, WalError, WalReader};
use serde::Serialize;

use crate::args::{Stats, Verify};
use crate::entry::{print_json, text_or_base64};
use crate::failure::{Failure, Outcome, describe, say, show_finding};
use crate::list::{held, sorted};
use crate::progress::Progress;
use crate::text::{counted, show_key};
use crate::{open, times};

#[derive(Default, Serialize)]
struct Totals {
    keys: u64,
    /// Keys that cannot be listed, because their newest file is damaged.
    unreadable_keys: usize,
    /// Keys that have a retention of their own.
    keys_with_retention: u64,
    segments: u64,
    /// In the segments that are there.
    entries: u64,
    /// Valid bytes in the segments, their headers included.
    bytes: u64,
    oldest_segment: Option<String>,
    newest_segment: Option<String>,
    closed_cleanly: bool,
    foreign_files: u64,
}

pub fn stats(args: &Stats, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let (log, found) = open::read(&args.dir)?;
    let (totals, damaged) = totals(&log)?;
    let outcome = found.and(Outcome::of(damaged));
    if args.json {
        print_json(out, &totals)?;
        return Ok(outcome);
    }
    let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
    let closed = if totals.closed_cleanly { "yes" } else { "no, or it is in use" };
    for (name, value) in [
        ("keys", totals.keys.to_string()),
        ("unreadable keys", totals.unreadable_keys.to_string()),
        ("with own retention", totals.keys_with_retention.to_string()),
        ("segments", totals.segments.to_string()),
        ("entries", totals.entries.to_string()),
        ("bytes of segments", totals.bytes.to_string()),
        ("oldest segment", time(&totals.oldest_segment)),
        ("newest segment", time(&totals.newest_segment)),
        ("closed cleanly", closed.to_owned()),
        ("files not of keywal", totals.foreign_files.to_string()),
    ] {
        writeln!(out, "{name:<25}{value}")?;
    }
    Ok(outcome)
}

fn totals(log: &WalReader) -> Result<(Totals, bool), Failure> {
    let report = log.report();
    let (keys, unreadable_keys) = sorted(log.enumerate_keys()?);
    let mut totals = Totals {
        keys: keys.len() as u64,
        unreadable_keys,
        closed_cleanly: report.clean,
        foreign_files: report.foreign_files,
        ..Totals::default()
    };
    let mut damaged = unreadable_keys > 0;
    let (mut oldest, mut newest) = (None, None);
    for key in keys {
        let segments = match log.segments(&key) {
            Err(error @ WalError::Corrupted { .. }) => {
                say(format!("{}: {}", show_key(&key), describe(&error)));
                damaged = true;
                continue;
            }
            segments => segments?,
        };
        let (entries, missing) = held(&segments);
        let end = match log.next_index(&key) {
            Err(error @ WalError::Corrupted { .. }) => Some(describe(&error)),
            _ => None,
        };
        for what in end.into_iter().chain(missing) {
            say(format!("{}: {what}", show_key(&key)));
            damaged = true;
        }
        let retention = match log.retention(&key) {
            Err(WalError::Corrupted { .. }) => None,
            retention => retention?,
        };
        totals.keys_with_retention += u64::from(retention.is_some());
        totals.entries += entries;
        totals.segments += segments.len() as u64;
        totals.bytes += segments.iter().map(|segment| segment.bytes).sum::<u64>();
        if let (Some(first), Some(last)) = (segments.first(), segments.last()) {
            oldest = oldest.into_iter().chain([first.created_ms]).min();
            newest = newest.max(Some(last.created_ms));
        }
    }
    totals.oldest_segment = oldest.map(times::show);
    totals.newest_segment = newest.map(times::show);
    Ok((totals, damaged))
}

/// What `verify` found, as a program reads it.
#[derive(Serialize)]
struct Verified<'r> {
    /// As `stats` has it: it says nothing of damage.
    closed_cleanly: bool,
    keys: usize,
    segments: u64,
    entries: u64,
    bytes: u64,
    damaged_keys: Vec<DamagedKey>,
    damaged: &'r [Finding],
    unfinished_writes: &'r [Finding],
    /// Damaged once, and good in another copy.
    weakened: &'r [Finding],
    ignored_files: &'r [Finding],
    foreign_files: u64,
}

#[derive(Serialize)]
struct DamagedKey {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// How many of the findings are of this key.
    findings: u64,
    /// Entries that can be read all the same.
    entries: u64,
}

pub fn verify(args: &Verify, out: &mut dyn Write) -> Result<Outcome, Failure> {
    open::check_exists(&args.dir)?;
    let report = {
        let _progress = Progress::waiting("reading everything");
        keywal::verify(&args.dir)?
    };
    if args.json {
        print_json(out, &Verified::of(&report))?;
    } else {
        print(args, &report, out)?;
    }
    Ok(Outcome::of(!report.damaged.is_empty()))
}

impl<'r> Verified<'r> {
    fn of(report: &'r VerifyReport) -> Self {
        let damaged_keys = report.keys.iter().filter(|key| key.damaged > 0).map(|facts| {
            let (key, key_base64) = text_or_base64(Some(&facts.key));
            DamagedKey { key, key_base64, findings: facts.damaged, entries: facts.entries }
        });
        Self {
            closed_cleanly: report.clean,
            keys: report.keys.len(),
            segments: report.segments,
            entries: report.entries,
            bytes: report.bytes,
            damaged_keys: damaged_keys.collect(),
            damaged: &report.damaged,
            unfinished_writes: &report.torn,
            weakened: &report.weakened,
            ignored_files: &report.ignored,
            foreign_files: report.foreign_files,
        }
    }
}

fn print(args: &Verify, report: &VerifyReport, out: &mut dyn Write) -> Result<(), Failure> {
    for (kind, findings) in [
        ("unfinished", &report.torn),
        ("ignored", &report.ignored),
        ("weakened", &report.weakened),
        ("damaged", &report.damaged),
    ] {
        for finding in findings {
            writeln!(out, "{kind}: {}", show_finding(finding))?;
        }
    }
    for key in report.keys.iter().filter(|key| key.damaged > 0) {
        let left = counted(key.entries, "entry can be read", "entries can be read");
        writeln!(out, "damaged: key {}: {left}", show_key(&key.key))?;
    }
    let damaged = match report.damaged.len() as u64 {
        0 if report.clean => "no damage".to_owned(),
        0 => "no damage; it is in use or was not closed, and what a crash takes from the ends of keys leaves no trace"
            .to_owned(),
        n => counted(n, "damaged place", "damaged places"),
    };
    let dir = args.dir.display();
    let entries = counted(report.entries, "entry", "entries");
    let keys = counted(report.keys.len() as u64, "key", "keys");
    writeln!(out, "{dir}: {entries} in {keys} can be read; {damaged}")?;
    if report.damaged.iter().any(open::may_lose_entries) {
        // What it is about comes first, on a terminal, too.
        out.flush()?;
        say(
            "what is lost comes back from a snapshot only, with `keywal restore`; see `keywal repair --help` for keys \
             that take no appends",
        );
    }
    Ok(())
}
