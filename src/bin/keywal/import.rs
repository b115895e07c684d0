//! `import`: entries from JSON lines, or from nano-wal.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use bytes::Bytes;
use keywal::{KeyOptions, WalOptions};

use crate::append::read_line;
use crate::args::Import;
use crate::entry::{Imported, Line, print_json};
use crate::failure::{Failure, Outcome, say};
use crate::nano;
use crate::open;
use crate::progress::Progress;
use crate::target::{Done, Target};
use crate::text::{counted, show_key};

const MAX_KEY_OR_HEADER_BYTES: usize = 65_535;
/// A byte of a content is six of JSON at most, as in `\u0000`.
const JSON_FACTOR: u64 = 6;
/// For everything else on a line.
const JSON_SLACK_BYTES: u64 = 1 << 20;

pub fn run(args: &Import, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let (done, found) = match &args.from_nano_wal {
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
    if args.resume && !args.json {
        let entries = counted(done.found_entries, "entry was", "entries were");
        writeln!(out, "{}: {entries} there already", args.dir.display())?;
    }
    if let Some(path) = args.rejects.as_ref().filter(|_| done.rejected_lines > 0) {
        let lines = counted(done.rejected_lines, "line is", "lines are");
        say(format!("{lines} no entries, and in {}", path.display()));
    }
    Ok(found.and(Outcome::of(damaged)))
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
                return Ok(Some(parsed.and_then(|line| check(line, options))));
            }
        }
        Ok(None)
    }

    fn bad(&self, what: &str) -> Failure {
        Failure::error(format!("{}: line {}: {what}", self.name.display(), self.number))
    }
}

/// What the log would refuse, found before anything is appended.
fn check(line: Imported, options: &WalOptions) -> Result<Imported, String> {
    let (key, behind, name) = match &line {
        Imported::Entry { key, header, .. } => {
            (key, header.as_ref().map_or(0, Bytes::len), "header")
        }
        Imported::Key { key, own } => (key, own.metadata.len(), "metadata"),
    };
    for (name, bytes) in [("key", key.len()), (name, behind)] {
        if bytes > MAX_KEY_OR_HEADER_BYTES {
            return Err(format!(
                "the {name} has {bytes} bytes; {MAX_KEY_OR_HEADER_BYTES} are the most"
            ));
        }
    }
    match &line {
        Imported::Entry { content, .. } => {
            let (bytes, most) = ((behind + content.len()) as u64, options.max_entry_bytes);
            if bytes > most {
                return Err(format!(
                    "{bytes} bytes, {most} are the most; raise --max-segment-bytes"
                ));
            }
        }
        Imported::Key { own, .. } => {
            let check = own.retention.map_or(Ok(()), |retention| retention.validate(options));
            check.map_err(|error| error.to_string())?;
        }
    }
    Ok(line)
}

fn from_lines(args: &Import) -> Result<(Done, Outcome), Failure> {
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
        let mut target = Target::new(wal, args);
        let mut total = 0;
        if let Some((keys, lines)) = checked {
            for (key, own) in &keys {
                let met = target.meet(key);
                let fits =
                    met.and_then(|()| own.as_ref().map_or(Ok(false), |own| target.has(key, own)));
                fits.map_err(nothing_imported)?;
            }
            total = lines;
        }
        let mut rejects = args.rejects.as_deref().map(Rejects::create).transpose()?;
        let progress = Progress::new("lines", total);
        while let Some(parsed) = lines
            .next(&options)
            .map_err(|failure| target.stopped(failure, Some(lines.number.max(1))))?
        {
            progress.step(1);
            let result = match (parsed, &mut rejects) {
                (Ok(Imported::Entry { key, header, content }), _) => {
                    target.append(&key, header, &content)
                }
                (Ok(Imported::Key { key, own }), _) => target.create(&key, own),
                (Err(what), None) => Err(lines.bad(&what)),
                (Err(what), Some(rejects)) => {
                    lines.bad(&what).report();
                    target.done.rejected_lines += 1;
                    rejects.add(&lines.line)
                }
            };
            result.map_err(|failure| target.stopped(failure, Some(lines.number.max(1))))?;
        }
        if let Some(rejects) = rejects {
            rejects.finish()?;
        }
        Ok(target.done)
    })
}

fn nothing_imported(failure: Failure) -> Failure {
    failure.context("nothing was imported: ")
}

/// Keys, and what each is to have of its own, if there is a line that says so.
type KeysOfLines = BTreeMap<Vec<u8>, Option<KeyOptions>>;

/// Reads the whole file: its keys, and the number of its lines.
fn check_lines(
    args: &Import,
    limit: u64,
    options: &WalOptions,
) -> Result<(KeysOfLines, u64), Failure> {
    let mut lines = Lines::open(args, limit)?;
    let mut keys = KeysOfLines::new();
    let mut total = 0;
    while let Some(parsed) = lines.next(options).map_err(nothing_imported)? {
        total += 1;
        match parsed {
            Ok(Imported::Entry { key, .. }) => {
                keys.entry(key).or_default();
            }
            Ok(Imported::Key { key, own }) => match keys.entry(key) {
                btree_map::Entry::Vacant(new) => {
                    new.insert(Some(own));
                }
                btree_map::Entry::Occupied(known) if known.get().as_ref() == Some(&own) => {}
                btree_map::Entry::Occupied(known) => {
                    let key = show_key(known.key());
                    return Err(nothing_imported(lines.bad(&format!(
                        "what {key} has of its own has to come once, and before its entries"
                    ))));
                }
            },
            Err(_) if args.rejects.is_some() => {}
            Err(what) => return Err(nothing_imported(lines.bad(&what))),
        }
    }
    Ok((keys, total))
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

fn from_nano_wal(args: &Import, source: &Path) -> Result<(Done, Outcome), Failure> {
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
            let entry = Imported::Entry { key: segment.key.clone(), header, content };
            check(entry, &options).map(drop).map_err(|what| {
                nothing_imported(Failure::error(format!("{}: {what}", segment.path.display())))
            })
        })?;
        if let Some(what) = rest {
            say(what);
            unreadable += 1;
        }
    }
    open::or_create(&args.dir, options, |wal| {
        let mut target = Target::new(wal, args);
        for segment in &found.segments {
            target.meet(&segment.key).map_err(nothing_imported)?;
        }
        let progress = Progress::new("entries", total);
        for segment in &found.segments {
            let read = segment.read(&mut |header, content| {
                progress.step(1);
                target.append(&segment.key, header, &content)
            });
            read.map_err(|failure| target.stopped(failure, None))?;
        }
        target.done.unreadable = unreadable;
        Ok(target.done)
    })
}
