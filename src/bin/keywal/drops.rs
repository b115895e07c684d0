//! `compact`, `remove`, `destroy`: what takes entries away.

use std::io::Write;

use keywal::{Wal, WalOptions};

use crate::args::{Compact, Destroy, Remove};
use crate::entry::print_json;
use crate::failure::{Failure, Outcome, say};
use crate::list::no_such_key;
use crate::open;
use crate::text::{counted, show_key};

pub fn compact(args: &Compact, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let options = WalOptions { entry_retention: args.retention, ..open::for_reading() };
    let (report, found) = open::existing(&args.dir, options, |wal| Ok(wal.compact()?))?;
    let failed = !report.failures.is_empty() || report.refused.is_some();
    for failure in &report.failures {
        let path = failure.path.display().to_string();
        // Most say it themselves.
        let before = if failure.what.starts_with(&path) { String::new() } else { path + ": " };
        say(format!("{before}{}", failure.what));
    }
    if let Some(trouble) = report.refused {
        say(format!("the clock cannot be trusted, nothing was dropped: {trouble:?}"));
    }
    if args.json {
        print_json(out, &report)?;
    } else {
        writeln!(
            out,
            "{}: {} looked at, {} with {} dropped, {} bytes",
            args.dir.display(),
            counted(report.keys, "key", "keys"),
            counted(report.dropped_segments, "segment", "segments"),
            counted(report.dropped_entries, "entry", "entries"),
            report.dropped_bytes
        )?;
    }
    if failed { Err(Failure::error("not everything was dropped that is to go")) } else { Ok(found) }
}

pub fn remove(args: &Remove, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.key()?;
    let (entries, found) = open::existing(&args.key.dir, open::for_reading(), |wal| {
        let segments = wal.segments(&key)?;
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Err(no_such_key(&key));
        };
        let entries = counted(last.next_index - first.first_index, "entry", "entries");
        open::confirm(&format!("Remove {} with {entries} for good?", show_key(&key)), args.yes)?;
        wal.remove_key(&key)?;
        Ok(entries)
    })?;
    writeln!(out, "{}: removed, {entries}", show_key(&key))?;
    Ok(found)
}

pub fn destroy(args: &Destroy, out: &mut dyn Write) -> Result<Outcome, Failure> {
    open::check_exists(&args.dir)?;
    open::confirm(&format!("Remove the log in {} for good?", args.dir.display()), args.yes)?;
    Wal::new(&args.dir, open::for_reading())?.destroy()?;
    writeln!(out, "{}: the log was removed", args.dir.display())?;
    Ok(Outcome::Done)
}
