//! `cat`, `get`, `tail`: entries of one key.

use std::io::Write;
use std::ops::Bound;
use std::thread;
use std::time::{Duration, Instant};

use keywal::{Entries, Entry, WalError, WalReader};

use crate::args::{Cat, Form, Get, Tail};
use crate::failure::{Failure, Outcome, describe, say};
use crate::list::no_such_key;
use crate::open;
use crate::text::{counted, show_key};

/// How often a log that is followed is looked at. A watch would not do: what is appended goes to the journal, which
/// is a mapped file, and the file system tells nobody of stores to memory.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);
/// How much longer than a look the pause before the next is at least: with very many files a look is long.
const PAUSE_FACTOR: u32 = 9;

pub fn cat(args: &Cat, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.key()?;
    let (log, found) = &open::read(&args.key.dir)?;
    let mut entries = entries_of(log, &key)?;
    entries = entries.range(bounds(args.from, args.to));
    if args.since.is_some() || args.until.is_some() {
        entries = entries.time_range(bounds(args.since, args.until))?;
    }
    if let Some(n) = args.last {
        entries = entries.last_n(n);
    }
    let printed = if args.reverse {
        print_all(&args.form, out, &key, entries.rev())
    } else {
        print_all(&args.form, out, &key, entries)
    };
    Ok(found.and(printed?))
}

pub fn tail(args: &Tail, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.key()?;
    let (log, found) = open::read(&args.key.dir)?;
    if args.follow {
        return follow(args, log, &key, out);
    }
    let entries = entries_of(&log, &key)?.last_n(args.last);
    Ok(found.and(print_all(&args.form, out, &key, entries)?))
}

/// Goes on for ever, or until something fails.
fn follow(
    args: &Tail,
    mut log: WalReader,
    key: &[u8],
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let end = |log: &WalReader| -> Result<u64, Failure> {
        Ok(log.segments(key)?.last().map_or(0, |newest| newest.next_index))
    };
    print_all(&args.form, out, key, log.entries(key)?.last_n(args.last))?;
    let mut next = end(&log)?;
    // Damage at the end is met each time, and said once.
    let mut said = String::new();
    let mut look = Duration::ZERO;
    loop {
        out.flush()?;
        thread::sleep(FOLLOW_INTERVAL.max(look * PAUSE_FACTOR));
        let mut explained = false;
        let started = Instant::now();
        log.refresh()?;
        let entries = log.entries(key)?.range(next..);
        look = started.elapsed();
        for entry in entries {
            match entry {
                Ok(entry) => {
                    if entry.index > next && !explained {
                        say(format!(
                            "{} are missing",
                            counted(entry.index - next, "entry", "entries")
                        ));
                    }
                    (next, explained) = (entry.index + 1, false);
                    args.form.print(out, key, &entry)?;
                }
                Err(error) => {
                    explained = true;
                    if describe(&error) != said {
                        pass_over(&error)?;
                        said = describe(&error);
                    }
                }
            }
        }
        let end = end(&log)?;
        if end < next {
            say(format!("{} was removed; going on with what comes now", show_key(key)));
            next = 0;
        } else {
            next = end;
        }
    }
}

pub fn get(args: &Get, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.as_ref().map(|key| args.syntax.key(key)).transpose()?;
    let (log, found) = &open::read(&args.dir)?;
    let entry = match (args.reference, &key, args.index) {
        (Some(reference), ..) => log.read_entry(reference).map_err(|error| match error {
            // The program cannot know where the reference is from.
            WalError::Expired => Failure::error(
                "the reference leads nowhere: its entry was dropped or lost, or was never here",
            ),
            error => error.into(),
        })?,
        (None, Some(key), Some(index)) => {
            entries_of(log, key)?;
            log.get(key, index)?.ok_or_else(|| {
                let next = log.next_index(key).unwrap_or(0);
                Failure::error(format!(
                    "{} has no entry {index} yet: the next one will be {next}",
                    show_key(key)
                ))
            })?
        }
        _ => return Err(Failure::usage("give a key and an index, or --ref")),
    };
    if args.form.raw {
        // Byte for byte.
        out.write_all(&entry.content)?;
    } else {
        // Only objects name the key.
        let key = if args.form.json { key_of(log, key, &entry)? } else { Vec::new() };
        args.form.print(out, &key, &entry)?;
    }
    Ok(*found)
}

/// The key of an entry, which a reference does not tell: it is searched for.
fn key_of(log: &WalReader, key: Option<Vec<u8>>, entry: &Entry) -> Result<Vec<u8>, Failure> {
    if let Some(key) = key {
        return Ok(key);
    }
    for key in log.enumerate_keys()? {
        if log
            .get(&key, entry.index)
            .is_ok_and(|found| found.is_some_and(|found| found.reference == entry.reference))
        {
            return Ok(key.to_vec());
        }
    }
    Err(Failure::error("the key of this entry cannot be told; leave out --json"))
}

/// The entries of a key that exists.
pub fn entries_of<'w>(log: &'w WalReader, key: &[u8]) -> Result<Entries<'w>, Failure> {
    if log.segments(key)?.is_empty() {
        return Err(no_such_key(key));
    }
    Ok(log.entries(key)?)
}

/// Prints all that can be read, and says what cannot.
pub fn print_all(
    form: &Form,
    out: &mut dyn Write,
    key: &[u8],
    entries: impl Iterator<Item = Result<Entry, WalError>>,
) -> Result<Outcome, Failure> {
    let mut damaged = false;
    for entry in entries {
        match entry {
            Ok(entry) => form.print(out, key, &entry)?,
            Err(error) => {
                pass_over(&error)?;
                damaged = true;
            }
        }
    }
    Ok(Outcome::of(damaged))
}

/// Says what cannot be read, where reading goes on behind it.
pub fn pass_over(error: &WalError) -> Result<(), Failure> {
    match error {
        WalError::Corrupted { .. } | WalError::Expired => say(describe(error)),
        _ => return Err(Failure::error(describe(error))),
    }
    Ok(())
}

fn bounds(from: Option<u64>, to: Option<u64>) -> (Bound<u64>, Bound<u64>) {
    let start = from.map_or(Bound::Unbounded, Bound::Included);
    (start, to.map_or(Bound::Unbounded, Bound::Excluded))
}
