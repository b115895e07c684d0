//! `stats` and `verify`: what a directory holds, and whether all of it can be read.

use std::io::Write;
use std::path::Path;

use keywal::{Finding, WalError, WalReader};
use serde::Serialize;

use crate::args::{Stats, Verify};
use crate::entry::{print_json, text_or_base64};
use crate::failure::{Failure, Outcome, describe, say};
use crate::list::sorted;
use crate::progress::Progress;
use crate::text::{counted, show_key};
use crate::{open, times};

#[derive(Default, Serialize)]
struct Totals {
    keys: u64,
    /// Keys that cannot be told, because their newest file is damaged.
    unreadable_keys: usize,
    segments: u64,
    entries: u64,
    /// Valid bytes in the segments, their headers included.
    bytes: u64,
    oldest_segment: Option<String>,
    newest_segment: Option<String>,
    closed_cleanly: bool,
    foreign_files: u64,
}

pub fn stats(args: &Stats, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let (totals, damaged) = totals(&open::read(&args.dir)?)?;
    if args.json {
        print_json(out, &totals)?;
        return Ok(Outcome::of(damaged));
    }
    let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
    let closed = if totals.closed_cleanly { "yes" } else { "no, or it is in use" };
    for (name, value) in [
        ("keys", totals.keys.to_string()),
        ("keys that cannot be told", totals.unreadable_keys.to_string()),
        ("segments", totals.segments.to_string()),
        ("entries", totals.entries.to_string()),
        ("bytes", totals.bytes.to_string()),
        ("oldest segment", time(&totals.oldest_segment)),
        ("newest segment", time(&totals.newest_segment)),
        ("closed cleanly", closed.to_owned()),
        ("foreign files", totals.foreign_files.to_string()),
    ] {
        writeln!(out, "{name:<25}{value}")?;
    }
    Ok(Outcome::of(damaged))
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
    for finding in &report.damaged {
        say(format!("{}: {}", finding.path.display(), finding.what));
    }
    let mut damaged = unreadable_keys > 0 || !report.damaged.is_empty();
    let (mut oldest, mut newest) = (None, None);
    for key in keys {
        let segments = match log.segments(&key) {
            Err(WalError::Corrupted { .. }) => {
                damaged = true;
                continue;
            }
            segments => segments?,
        };
        damaged |= matches!(log.next_index(&key), Err(WalError::Corrupted { .. }));
        totals.segments += segments.len() as u64;
        totals.bytes += segments.iter().map(|segment| segment.bytes).sum::<u64>();
        if let (Some(first), Some(last)) = (segments.first(), segments.last()) {
            totals.entries += last.next_index.saturating_sub(first.first_index);
            oldest = oldest.into_iter().chain([first.created_ms]).min();
            newest = newest.max(Some(last.created_ms));
        }
    }
    totals.oldest_segment = oldest.map(times::show);
    totals.newest_segment = newest.map(times::show);
    Ok((totals, damaged))
}

#[derive(Default, Serialize)]
struct Verified {
    keys: usize,
    unreadable_keys: usize,
    entries: u64,
    content_bytes: u64,
    damage: Vec<Damage>,
}

/// A span that cannot be read.
#[derive(Serialize)]
struct Damage {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    what: String,
}

pub fn verify(args: &Verify, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let verified = read_everything(&open::read(&args.dir)?)?;
    let damaged = verified.unreadable_keys > 0 || !verified.damage.is_empty();
    if args.json {
        print_json(out, &verified)?;
    } else {
        print(&args.dir, &verified, out)?;
    }
    Ok(Outcome::of(damaged))
}

fn read_everything(log: &WalReader) -> Result<Verified, Failure> {
    let (keys, unreadable_keys) = sorted(log.enumerate_keys()?);
    let mut verified = Verified { keys: keys.len(), unreadable_keys, ..Verified::default() };
    verified.damage.extend(log.report().damaged.iter().map(Damage::of_the_directory));
    let progress = Progress::new("keys", keys.len() as u64);
    for key in keys {
        let mut entries = match log.entries(&key) {
            Ok(entries) => entries,
            Err(error) => {
                verified.note(&key, error)?;
                continue;
            }
        };
        loop {
            match entries.next_slice() {
                None => break,
                Some(Ok(entry)) => {
                    verified.entries += 1;
                    verified.content_bytes += entry.content.len() as u64;
                }
                Some(Err(error)) => verified.note(&key, error)?,
            }
        }
        progress.step(1);
    }
    Ok(verified)
}

impl Damage {
    fn of_the_directory(finding: &Finding) -> Self {
        let what = format!("{}: {}", finding.path.display(), finding.what);
        Self { key: None, key_base64: None, what }
    }
}

impl Verified {
    fn note(&mut self, key: &[u8], error: WalError) -> Result<(), Failure> {
        if !matches!(error, WalError::Corrupted { .. } | WalError::UnsupportedVersion { .. }) {
            return Err(error.into());
        }
        let (key, key_base64) = text_or_base64(Some(key));
        self.damage.push(Damage { key, key_base64, what: describe(&error) });
        Ok(())
    }
}

fn print(dir: &Path, verified: &Verified, out: &mut dyn Write) -> Result<(), Failure> {
    for damage in &verified.damage {
        if let Some(key) = damage.key.as_ref().or(damage.key_base64.as_ref()) {
            write!(out, "{}: ", show_key(key.as_bytes()))?;
        }
        writeln!(out, "{}", damage.what)?;
    }
    let spans = verified.damage.len() as u64;
    writeln!(
        out,
        "{}: {} in {} can be read; {}",
        dir.display(),
        counted(verified.entries, "entry", "entries"),
        counted(verified.keys as u64, "key", "keys"),
        match spans + verified.unreadable_keys as u64 {
            0 => "no damage".to_owned(),
            n => counted(n, "damage", "damages"),
        }
    )?;
    Ok(())
}
