//! `append`: entries from standard input. And lines of bounded length, for `import`, too.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use bytes::Bytes;
use keywal::{EntryRef, Wal};
use serde::Serialize;

use crate::args::Append;
use crate::entry::{print_json, show_reference};
use crate::failure::{Failure, Outcome};
use crate::open;
use crate::text::{counted, show_key};

/// What was appended.
#[derive(Default, Serialize)]
struct Appended {
    entries: u64,
    /// Index of the first of these, and the one behind the last.
    first_index: u64,
    next_index: u64,
    last_ref: Option<String>,
}

pub fn run(args: &Append, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.key()?;
    let options = args.writing.options();
    let limit = options.max_entry_bytes;
    // What opening has found is said, and no reason to append once more.
    let (appended, _) = open::or_create(&args.key.dir, options, |wal| {
        let first_index = wal.next_index(&key).map_err(|error| match Failure::from(error) {
            Failure::Damage(text) => Failure::Damage(format!(
                "{text}; restore a snapshot, or see what `keywal repair` can do"
            )),
            failure => failure,
        })?;
        let mut appended = Appended { first_index, next_index: first_index, ..Appended::default() };
        match feed(args, wal, &key, limit, &mut appended) {
            Ok(()) => Ok(appended),
            Err(failure) => {
                let entries = counted(appended.entries, "entry was", "entries were");
                Err(failure.context(format!("{entries} appended, then: ")))
            }
        }
    })?;
    if args.json {
        print_json(out, &appended)?;
    } else {
        let entries = counted(appended.entries, "entry", "entries");
        write!(out, "{}: {entries} appended", show_key(&key))?;
        match appended.entries {
            0 => {}
            1 => write!(out, ", index {}", appended.first_index)?,
            _ => write!(out, ", indexes {} to {}", appended.first_index, appended.next_index - 1)?,
        }
        writeln!(out)?;
    }
    Ok(Outcome::Done)
}

fn feed(
    args: &Append,
    wal: &Wal,
    key: &[u8],
    limit: u64,
    appended: &mut Appended,
) -> Result<(), Failure> {
    let header = args.header.as_ref().map(|header| Bytes::copy_from_slice(header.as_bytes()));
    let mut append = |content: &[u8]| -> Result<(), Failure> {
        let reference: EntryRef = wal.append_entry(key, header.clone(), content, args.durable)?;
        appended.entries += 1;
        appended.next_index += 1;
        appended.last_ref = Some(show_reference(reference));
        Ok(())
    };
    let mut input = io::stdin().lock();
    let mut content = Vec::new();
    if args.whole {
        let read = input.take(limit + 1).read_to_end(&mut content);
        read.map_err(|error| Failure::file(Path::new("standard input"), "read", &error))?;
        return append(&content);
    }
    let end = if args.null { 0 } else { b'\n' };
    while read_line(&mut input, end, limit, &mut content)
        .map_err(|error| Failure::file(Path::new("standard input"), "read", &error))?
    {
        append(&content)?;
    }
    Ok(())
}

/// Reads up to a byte that ends a line and takes that off; the last line needs none. `false` at the end of
/// the input. Of a line that is longer than `limit`, one byte more than that is read.
pub fn read_line(
    input: &mut dyn BufRead,
    end: u8,
    limit: u64,
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    if input.take(limit.saturating_add(1)).read_until(end, line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&end) {
        line.pop();
    }
    Ok(true)
}
