//! `snapshot`: a copy of the log.

use std::io::Write;

use crate::args::Snapshot;
use crate::entry::print_json;
use crate::failure::{Failure, Outcome, say};
use crate::open;
use crate::text::counted;

pub fn run(args: &Snapshot, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let report = open::existing(&args.dir, open::for_reading(), |wal| Ok(wal.snapshot(&args.to)?))?;
    for finding in &report.damaged {
        let (path, offset) = (finding.path.display(), finding.offset);
        say(format!("{path}: damaged from offset {offset}, as the original: {}", finding.what));
    }
    if args.json {
        print_json(out, &report)?;
    } else {
        writeln!(
            out,
            "{}: {} in {}; {} kept, {} linked, {} copied, {} removed",
            args.to.display(),
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
