//! `import`: entries from JSON lines, or from nano-wal.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use bytes::Bytes;
use keywal::{Wal, WalOptions};
use serde::Serialize;

use crate::append::read_line;
use crate::args::Import;
use crate::entry::{Imported, Line, print_json};
use crate::failure::{Failure, Outcome, say};
use crate::nano;
use crate::open;
use crate::progress::Progress;
use crate::text::{counted, show_key};

const MAX_KEY_OR_HEADER_BYTES: usize = 65_535;
/// A byte of a content is six of JSON at most, as in `\u0000`.
const JSON_FACTOR: u64 = 6;
/// For everything else on a line.
const JSON_SLACK_BYTES: u64 = 1 << 20;

/// What was imported.
#[derive(Default, Serialize)]
struct Done {
    keys: usize,
    entries: u64,
    content_bytes: u64,
    rejected_lines: u64,
    /// Parts of the source that hold no entry that can be read.
    unreadable: usize,
}

/// The log that is imported into.
struct Target<'w> {
    wal: &'w Wal,
    /// Also to keys that have entries.
    append: bool,
    /// Keys that have been met.
    keys: HashSet<Vec<u8>>,
    done: Done,
}

pub fn run(args: &Import, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let done = match &args.from_nano_wal {
        Some(dir) => from_nano_wal(args, dir)?,
        None => from_lines(args)?,
    };
    let damaged = done.rejected_lines > 0 || done.unreadable > 0;
    if args.json {
        print_json(out, &done)?;
    } else {
        writeln!(
            out,
            "{}: {} imported to {}",
            args.dir.display(),
            counted(done.entries, "entry", "entries"),
            counted(done.keys as u64, "key", "keys")
        )?;
    }
    if let Some(path) = args.rejects.as_ref().filter(|_| done.rejected_lines > 0) {
        let lines = counted(done.rejected_lines, "line is", "lines are");
        say(format!("{lines} no entries, and in {}", path.display()));
    }
    Ok(Outcome::of(damaged))
}

impl<'w> Target<'w> {
    fn new(wal: &'w Wal, append: bool) -> Self {
        Self { wal, append, keys: HashSet::new(), done: Done::default() }
    }

    /// Refuses a key that has entries, when it is met first.
    fn meet(&mut self, key: &[u8]) -> Result<(), Failure> {
        if self.keys.contains(key) {
            return Ok(());
        }
        if self.wal.next_index(key)? > 0 && !self.append {
            let key = show_key(key);
            return Err(Failure::error(format!(
                "{key} has entries already; give --append to append to them"
            )));
        }
        self.keys.insert(key.to_vec());
        Ok(())
    }

    fn append(&mut self, key: &[u8], header: Option<Bytes>, content: &[u8]) -> Result<(), Failure> {
        self.meet(key)?;
        self.wal.append_entry(key, header, content, false)?;
        self.done.keys = self.keys.len();
        self.done.entries += 1;
        self.done.content_bytes += content.len() as u64;
        Ok(())
    }
}

/// Where lines come from. A file is read once before anything is appended; what cannot be read twice is not.
struct Lines<'a> {
    name: &'a Path,
    input: Box<dyn BufRead + 'a>,
    number: u64,
    limit: u64,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn open(args: &'a Import, limit: u64) -> Result<Self, Failure> {
        let (name, input): (&Path, Box<dyn BufRead>) = match &args.file {
            None => (Path::new("standard input"), Box::new(io::stdin().lock())),
            Some(path) => {
                let file = File::open(path)
                    .map_err(|error| Failure::file(path, "open the file", &error))?;
                (path, Box::new(BufReader::with_capacity(1 << 16, file)))
            }
        };
        let mut lines = Self { name, input, number: 0, limit, line: Vec::new() };
        while lines.number + 1 < args.from_line {
            if !lines.advance()? {
                let (name, had) = (lines.name.display(), lines.number);
                return Err(Failure::error(format!(
                    "{name}: has {}",
                    counted(had, "line", "lines")
                )));
            }
        }
        Ok(lines)
    }

    fn advance(&mut self) -> Result<bool, Failure> {
        let read = read_line(&mut *self.input, b'\n', self.limit, &mut self.line);
        let read = read.map_err(|error| Failure::file(self.name, "read", &error))?;
        self.number += u64::from(read);
        if self.line.len() as u64 > self.limit {
            return Err(self.bad(&format!("the line has more than {} bytes", self.limit)));
        }
        Ok(read)
    }

    /// The next line that is not empty, or what is wrong with it.
    fn next(&mut self, options: &WalOptions) -> Result<Option<Result<Imported, String>>, Failure> {
        while self.advance()? {
            if !self.line.trim_ascii().is_empty() {
                let parsed = Line::parse(&self.line);
                return Ok(Some(parsed.and_then(|entry| check_sizes(entry, options))));
            }
        }
        Ok(None)
    }

    fn bad(&self, what: &str) -> Failure {
        Failure::error(format!("{}: line {}: {what}", self.name.display(), self.number))
    }
}

/// What an append would refuse, found before anything is appended.
fn check_sizes(entry: Imported, options: &WalOptions) -> Result<Imported, String> {
    let header = entry.header.as_ref().map_or(0, Bytes::len);
    for (name, bytes) in [("key", entry.key.len()), ("header", header)] {
        if bytes > MAX_KEY_OR_HEADER_BYTES {
            return Err(format!(
                "the {name} has {bytes} bytes; {MAX_KEY_OR_HEADER_BYTES} are the most"
            ));
        }
    }
    let bytes = (header + entry.content.len()) as u64;
    if bytes > options.max_entry_bytes {
        let most = options.max_entry_bytes;
        return Err(format!("{bytes} bytes, {most} are the most; raise --max-segment-bytes"));
    }
    Ok(entry)
}

fn from_lines(args: &Import) -> Result<Done, Failure> {
    let options = args.writing.options();
    let limit =
        options.max_entry_bytes.saturating_mul(JSON_FACTOR).saturating_add(JSON_SLACK_BYTES);
    let is_file = args
        .file
        .as_ref()
        .is_some_and(|path| fs::metadata(path).is_ok_and(|found| found.is_file()));
    let checked = if is_file { Some(check_lines(args, limit, &options)?) } else { None };
    let mut lines = Lines::open(args, limit)?;
    open::or_create(&args.dir, options.clone(), |wal| {
        let mut target = Target::new(wal, args.append);
        let mut total = 0;
        if let Some((keys, entries)) = checked {
            keys.iter().try_for_each(|key| target.meet(key)).map_err(nothing_imported)?;
            total = entries;
        }
        let mut rejects = args.rejects.as_deref().map(Rejects::create).transpose()?;
        let progress = Progress::new("entries", total);
        while let Some(parsed) =
            lines.next(&options).map_err(|failure| target.stopped(failure, &lines))?
        {
            progress.step(1);
            let result = match (parsed, &mut rejects) {
                (Ok(entry), _) => target.append(&entry.key, entry.header, &entry.content),
                (Err(what), None) => Err(lines.bad(&what)),
                (Err(what), Some(rejects)) => {
                    lines.bad(&what).report();
                    target.done.rejected_lines += 1;
                    rejects.add(&lines.line)
                }
            };
            result.map_err(|failure| target.stopped(failure, &lines))?;
        }
        if let Some(rejects) = rejects {
            rejects.finish()?;
        }
        Ok(target.done)
    })
}

impl Target<'_> {
    /// A failure, with what has been imported and how to go on.
    fn stopped(&self, failure: Failure, lines: &Lines<'_>) -> Failure {
        let entries = counted(self.done.entries, "entry was", "entries were");
        let from = lines.number.max(1);
        failure.context(format!("{entries} imported; go on with --append --from-line {from}: "))
    }
}

fn nothing_imported(failure: Failure) -> Failure {
    failure.context("nothing was imported: ")
}

/// Reads the whole file: its keys, and the number of its entries.
fn check_lines(
    args: &Import,
    limit: u64,
    options: &WalOptions,
) -> Result<(BTreeSet<Vec<u8>>, u64), Failure> {
    let mut lines = Lines::open(args, limit)?;
    let mut keys = BTreeSet::new();
    let mut entries = 0;
    while let Some(parsed) = lines.next(options).map_err(nothing_imported)? {
        match parsed {
            Ok(entry) => {
                entries += 1;
                keys.insert(entry.key);
            }
            Err(_) if args.rejects.is_some() => {}
            Err(what) => return Err(nothing_imported(lines.bad(&what))),
        }
    }
    Ok((keys, entries))
}

/// Lines that are no entries, byte for byte.
struct Rejects<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Rejects<'a> {
    fn create(path: &'a Path) -> Result<Self, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let file = file.map_err(|error| Failure::file(path, "create the file", &error))?;
        Ok(Self { path, file })
    }

    fn add(&mut self, line: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(line).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|error| Failure::file(self.path, "write", &error))
    }

    fn finish(self) -> Result<(), Failure> {
        self.file.sync_all().map_err(|error| Failure::file(self.path, "sync", &error))
    }
}

fn from_nano_wal(args: &Import, source: &Path) -> Result<Done, Failure> {
    let options = args.writing.options();
    let found = nano::list(source)?;
    for what in &found.unreadable {
        say(what);
    }
    let mut unreadable = found.unreadable.len();
    // All of it is read before anything is appended.
    let mut total = 0;
    for segment in &found.segments {
        let rest = segment.read(&mut |header, content| {
            total += 1;
            let entry = Imported { key: segment.key.clone(), header, content };
            check_sizes(entry, &options).map(drop).map_err(|what| {
                nothing_imported(Failure::error(format!("{}: {what}", segment.path.display())))
            })
        })?;
        if let Some(what) = rest {
            say(what);
            unreadable += 1;
        }
    }
    open::or_create(&args.dir, options, |wal| {
        let mut target = Target::new(wal, args.append);
        for segment in &found.segments {
            target.meet(&segment.key).map_err(nothing_imported)?;
        }
        let progress = Progress::new("entries", total);
        for segment in &found.segments {
            let read = segment.read(&mut |header, content| {
                progress.step(1);
                target.append(&segment.key, header, &content)
            });
            read.map_err(|failure| {
                let entries = counted(target.done.entries, "entry was", "entries were");
                failure.context(format!("{entries} imported, then: "))
            })?;
        }
        target.done.unreadable = unreadable;
        Ok(target.done)
    })
}
