//! `snapshot` and `restore`: copies of a log.

use std::io::Write;
use std::path::Path;

use keywal::SnapshotReport;

use crate::args::{Restore, Snapshot};
use crate::entry::print_json;
use crate::failure::{Failure, Outcome, say, show_finding};
use crate::progress::Progress;
use crate::text::counted;
use crate::{open, times};

pub fn snapshot(args: &Snapshot, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let (report, found) = open::existing(&args.dir, open::for_reading(), |wal| {
        let _progress = Progress::waiting("copying");
        Ok(wal.snapshot(&args.to)?)
    })?;
    Ok(found.and(print(&report, &args.to, args.json, out)?))
}

pub fn restore(args: &Restore, out: &mut dyn Write) -> Result<Outcome, Failure> {
    open::check_exists(&args.from)?;
    let report = {
        let _progress = Progress::waiting("copying");
        keywal::restore(&args.from, &args.dir, args.until)?
    };
    let done = print(&report, &args.dir, args.json, out)?;
    if let Some(until) = args.until.filter(|_| report.entries == 0) {
        let (from, until) = (args.from.display(), times::show(until));
        out.flush()?;
        say(format!("nothing was appended before {until}, as far as {from} can be read"));
    }
    Ok(done)
}

fn print(
    report: &SnapshotReport,
    copy: &Path,
    json: bool,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    for finding in &report.damaged {
        say(format!("damaged, as the original: {}", show_finding(finding)));
    }
    if json {
        print_json(out, report)?;
    } else {
        writeln!(
            out,
            "{}: {} in {}; {} kept, {} linked, {} copied, {} removed",
            copy.display(),
            counted(report.entries, "entry", "entries"),
            counted(report.keys, "key", "keys"),
            counted(report.kept_segments, "segment", "segments"),
            report.linked_segments,
            report.copied_segments,
            report.removed_segments
        )?;
    }
    Ok(Outcome::of(!report.damaged.is_empty()))
}
