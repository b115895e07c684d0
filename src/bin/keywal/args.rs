//! What can be typed. The comments are the help and the man page.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, Subcommand};
use keywal::{EntryRef, WalOptions};

use crate::failure::Failure;
use crate::text::{parse_hex, parse_key};
use crate::times::{parse_duration, parse_moment};

const AFTER_HELP: &str = "\
To begin with:
  seq 3 | keywal append ./log orders    make a log, and a key with three entries
  keywal ls ./log                       its keys
  keywal cat ./log orders --long        the entries of one, with index and time
  keywal get ./log orders 0             one entry, by its index
  keywal verify ./log                   is all of it sound?

Keys that hold control characters, backslashes or bytes that are not UTF-8 are shown with the escapes \
\\n \\r \\t \\0 \\\\ \\xff \\u{202e}, and are given in the same way; an empty key is ''. With --hex, KEY is \
hexadecimal digits.

Exit codes: 0 done; 1 an error; 2 wrong usage; 3 damage was found, in the log or in what was to be \
imported, and everything else was done; 4 the directory is in use by another program. A reader that goes \
away (`keywal cat .. | head`) is no error.

ls, cat, get, tail, stats, verify, export, restore, and retention without options change nothing in a log, and \
read it beside a program that writes to it. The others need the log for themselves; after a crash they recover \
it first. The first of them that opens a log of which files are missing says so, with code 3 (append: only in \
words); later commands do not know it any more.

A DURATION is 500ms, 10s, 2h, 7d or 2w. A TIME is RFC 3339 as in 2026-11-25T14:30:00Z, a date, or a DURATION \
before now.";

const GET_USAGE: &str = "\
keywal get [OPTIONS] <DIR> <KEY> <INDEX>
       keywal get [OPTIONS] <DIR> --ref <REF>";

/// Options that limit what is kept of a key.
const LIMITS: [&str; 4] = ["max_age", "max_entries", "max_bytes", "keep_last"];

/// Look into keywal directories, check and repair them, move entries in and out.
#[derive(Debug, Parser)]
#[command(name = "keywal", version, after_help = AFTER_HELP)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Ls(Ls),
    Cat(Cat),
    Get(Get),
    Tail(Tail),
    Append(Append),
    Snapshot(Snapshot),
    Restore(Restore),
    Stats(Stats),
    Verify(Verify),
    Repair(Repair),
    Compact(Compact),
    Retention(Retention),
    Remove(Remove),
    Destroy(Destroy),
    Export(Export),
    Import(Import),
    Completions(Completions),
    Man(Man),
}

/// List the keys, or the segments of one key.
///
/// ENTRIES counts those in the segments that are there. With a `!` behind it, some entries of the key cannot be read,
/// and standard error says why. Of each key the oldest and the newest entry are read; damage to others is for `verify`.
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// The log's directory
    pub dir: PathBuf,
    /// List the segments of this key
    pub key: Option<String>,
    #[command(flatten)]
    pub syntax: KeySyntax,
    /// Print a JSON object for each line
    #[arg(long)]
    pub json: bool,
}

/// Print the entries of a key, one a line, oldest first.
#[derive(Debug, clap::Args)]
pub struct Cat {
    #[command(flatten)]
    pub key: OneKey,
    /// Start at this index
    #[arg(long, value_name = "INDEX")]
    pub from: Option<u64>,
    /// End before this index
    #[arg(long, value_name = "INDEX")]
    pub to: Option<u64>,
    /// Start at this time: RFC 3339, a date, or a time before now such as 2h
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub since: Option<u64>,
    /// End before this time
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub until: Option<u64>,
    /// Only the last N of these
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<u64>,
    /// Newest first
    #[arg(long)]
    pub reverse: bool,
    #[command(flatten)]
    pub form: Form,
}

/// Print one entry, by its index or its reference.
///
/// Indexes count the entries of a key from 0 on; `keywal cat DIR KEY --long` prints them. A reference is the
/// `EntryRef` that the library returns for an append, as 32 hexadecimal digits such as
/// 00125d9250be8b4c00000001000002de: those of its `to_bytes`. `get`, `cat`, `tail` with --json, and `export`, print it
/// as `ref`; `append --json` prints that of the last entry as `last_ref`. It needs no key.
#[derive(Debug, clap::Args)]
#[command(override_usage = GET_USAGE)]
#[command(group = ArgGroup::new("which").required(true).args(["index", "reference"]))]
pub struct Get {
    /// The log's directory
    pub dir: PathBuf,
    /// The key
    #[arg(requires = "index", conflicts_with = "reference")]
    pub key: Option<String>,
    /// The entry's index
    pub index: Option<u64>,
    /// The entry's reference, instead of key and index: 32 hexadecimal digits
    #[arg(long = "ref", value_name = "REF", value_parser = parse_reference)]
    pub reference: Option<EntryRef>,
    #[command(flatten)]
    pub syntax: KeySyntax,
    #[command(flatten)]
    pub form: Form,
}

/// Print the last entries of a key, and with -f those that follow.
#[derive(Debug, clap::Args)]
pub struct Tail {
    #[command(flatten)]
    pub key: OneKey,
    /// How many of the last
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub last: u64,
    /// Go on with each new entry, until it is interrupted. Looks four times a second, less often where a look
    /// takes long: it lists the directory and reads the journal. Waits for a key that does not exist yet
    #[arg(short, long)]
    pub follow: bool,
    #[command(flatten)]
    pub form: Form,
}

/// Append standard input to a key, each line an entry.
///
/// When it ends with code 0, everything is on the disk. After an error, what it says has been appended
/// is, too. With code 3 the key's end is damaged, and nothing is; of other damage that was found when the log was
/// opened it only says so.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is typed")]
pub struct Append {
    #[command(flatten)]
    pub key: OneKey,
    /// The header of each entry
    #[arg(long, value_name = "TEXT")]
    pub header: Option<String>,
    /// All of standard input is one entry, byte for byte
    #[arg(long, conflicts_with = "null")]
    pub whole: bool,
    /// Entries end with a NUL byte, not with a newline
    #[arg(short = 'z', long)]
    pub null: bool,
    /// Each entry is on the disk before the next is read
    #[arg(long)]
    pub durable: bool,
    #[command(flatten)]
    pub writing: Writing,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Copy the log to another directory, or bring an earlier copy up to date.
///
/// The copy is a log like any other. Segments that do not change any more are hard links if both directories
/// are on one file system. The log must not be in use: a program that has it open takes its snapshots itself.
#[derive(Debug, clap::Args)]
pub struct Snapshot {
    /// The log's directory
    pub dir: PathBuf,
    /// The directory of the copy; made if it is missing
    pub to: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Copy a snapshot, or any log, to a new directory: all of it, or as it was at a moment.
///
/// What can be read of a damaged log is copied. The original is only read, and may be in use.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The directory of the snapshot
    pub from: PathBuf,
    /// The new directory; made if it is missing
    pub dir: PathBuf,
    /// Of each key only what had been appended at this time: RFC 3339, a date, or a time before now such as 2h. If
    /// that is nothing, the copy has no entries, and standard error says so
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub until: Option<u64>,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Print what the directory holds, in numbers. Reads no entries, so that damaged ones count; `verify` does.
#[derive(Debug, clap::Args)]
pub struct Stats {
    /// The log's directory
    pub dir: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Read everything and check it. Ends with code 3 if anything is damaged.
///
/// What is there twice, and damaged once, is `weakened`: nothing is lost, and a power cut may leave the facts about the
/// directory so. That alone is no damage.
///
/// With --json, damage is in `damaged` and nowhere else: `closed_cleanly` is also false of a log that is in use, or
/// was left by a crash.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The log's directory
    pub dir: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Let keys take appends again whose end is damaged.
///
/// Only what is lost for certain is given up: the end of a key that is damaged although it was stored
/// safely. Nothing is cut off or written over, and damage elsewhere stays as it is: it keeps nobody from
/// reading and appending. The damaged files are copied before anything is changed. To have entries back,
/// restore a snapshot instead. What opening finds lost, such as missing files, is named as what repair cannot bring
/// back; then all of the log is read, and damage that repair does not treat is named, too.
///
/// Nobody knows how many entries the damaged end had. The key goes on behind the last one that can be read, at the
/// index that is printed: later indexes, if any were given, will be given again. Whoever has noted one, rather than a
/// reference, may find another entry there. Ends with code 3 if anything was given up, or is damaged.
#[derive(Debug, clap::Args)]
pub struct Repair {
    /// The log's directory
    pub dir: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Copy the damaged files to this directory. Default: DIR.damaged-TIME
    #[arg(long, value_name = "DIR")]
    pub copy_to: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Drop the segments that have outlived the retention.
///
/// A segment takes entries for a while, its window: `keywal ls DIR KEY` shows until when. It is dropped as a whole, once
/// that end is older than the retention. Segments keep the window that they were made with, by default a tenth of the
/// retention that the program had then. With a shorter one here, a segment counts as ended when its successor began, and
/// the newest one stays until its window is over. Of a key that has a retention of its own (`keywal retention`), that
/// counts.
#[derive(Debug, clap::Args)]
pub struct Compact {
    /// The log's directory
    pub dir: PathBuf,
    /// What the program that writes to the log keeps, such as 7d: no entry goes that is younger. Has to be given,
    /// because a shorter one drops what that program wants
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub retention: Duration,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Show what is kept of a key, or change it.
///
/// Without options, prints the retention that the key has of its own; a key without one is kept as the program
/// says that compacts the log. With options, these and no others are the key's limits from then on. They are stored with
/// the key, and the next compaction drops what passes any of them, oldest first and whole segments only: those
/// that a program that has the log open runs, or `keywal compact`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("limit").multiple(true).args(LIMITS))]
#[command(group = ArgGroup::new("change").multiple(true).args(LIMITS).args(["forever", "none"]))]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is typed")]
pub struct Retention {
    #[command(flatten)]
    pub key: OneKey,
    /// Entries that are older go, such as 7d or 12h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_age: Option<Duration>,
    /// The oldest segments go while the others have at least N entries
    #[arg(long, value_name = "N")]
    pub max_entries: Option<u64>,
    /// The oldest segments go while the others have so many bytes
    #[arg(long, value_name = "BYTES")]
    pub max_bytes: Option<u64>,
    /// N entries stay whatever the limits say
    #[arg(long, value_name = "N", requires = "limit")]
    pub min_entries: Option<u64>,
    /// The last N stay and older ones go, whole segments only, so that up to a segment more stays: as `--max-entries N --min-entries N`
    #[arg(long, value_name = "N", conflicts_with_all = ["max_entries", "min_entries"])]
    pub keep_last: Option<u64>,
    /// Nothing goes
    #[arg(long, conflicts_with_all = ["limit", "none"])]
    pub forever: bool,
    /// Take back what the key has of its own
    #[arg(long, conflicts_with = "limit")]
    pub none: bool,
    /// Create the key, and the log, if it does not exist
    #[arg(long, requires = "change")]
    pub create: bool,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Remove a key with all its entries.
#[derive(Debug, clap::Args)]
pub struct Remove {
    #[command(flatten)]
    pub key: OneKey,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Remove the log: its own files in the directory, and nothing else.
#[derive(Debug, clap::Args)]
pub struct Destroy {
    /// The log's directory
    pub dir: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// Print entries as JSON lines, for `import` and other programs.
///
/// Each line has `key`, `index`, `time`, `ref`, `header` (if there is one) and `content`. What is not
/// UTF-8 is in base64 instead, as `key_base64`, `header_base64`, `content_base64`.
///
/// Before the entries of a key that has a retention or metadata of its own comes a line with `key`,
/// `retention` (an object with those of `max_age_ms`, `max_entries`, `max_bytes` and `min_entries` that
/// there are; `{}` keeps everything) and `metadata` or `metadata_base64`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The log's directory
    pub dir: PathBuf,
    /// Only these keys. Default: all, in the order of their bytes
    pub keys: Vec<String>,
    #[command(flatten)]
    pub syntax: KeySyntax,
}

/// Append the entries that `export` printed, or those of a nano-wal directory.
///
/// Entries get new indexes, references and times (`snapshot` and `restore` keep those). A key gets the retention and
/// the metadata that the file has for it; one that exists has to have the same. A line that is wrong is refused with its number: of a
/// file nothing is appended then; of standard input the lines before it have been.
///
/// If it is cut off, whatever the reason, run it again with `--resume`: each entry is there once in the end. That needs
/// keys that were new. Before an import with `--append` to others, take a `snapshot`: only if it ends with a message
/// does that say from which line to go on.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("source").args(["file", "from_nano_wal"]))]
pub struct Import {
    /// The log's directory; made if it is missing
    pub dir: PathBuf,
    /// The file with the lines. Default: standard input
    pub file: Option<PathBuf>,
    /// Read the segments of nano-wal 0.4 in this directory, which stays as it is
    #[arg(long, value_name = "DIR")]
    pub from_nano_wal: Option<PathBuf>,
    /// Also append to keys that have entries. Run twice, it appends twice
    #[arg(long)]
    pub append: bool,
    /// Go on with the same import, which was cut off: compare the entries that are there, and append the rest
    #[arg(long, conflicts_with = "append")]
    pub resume: bool,
    /// Start at this line, the first is 1
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "from_nano_wal")]
    pub from_line: u64,
    /// Write lines that are wrong to this new file and go on
    #[arg(long, value_name = "FILE", conflicts_with = "from_nano_wal")]
    pub rejects: Option<PathBuf>,
    #[command(flatten)]
    pub writing: Writing,
    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// Print completions for a shell.
#[derive(Debug, clap::Args)]
pub struct Completions {
    pub shell: clap_complete::Shell,
}

/// Print the man page, or write one for each command into a directory.
#[derive(Debug, clap::Args)]
pub struct Man {
    /// The directory, which has to exist
    pub dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct OneKey {
    /// The log's directory
    pub dir: PathBuf,
    /// The key
    #[arg(value_name = "KEY")]
    pub name: String,
    #[command(flatten)]
    pub syntax: KeySyntax,
}

#[derive(Debug, clap::Args)]
pub struct KeySyntax {
    /// KEY is hexadecimal digits
    #[arg(long)]
    pub hex: bool,
}

/// How entries are printed.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option that is typed")]
pub struct Form {
    /// Index and time before each content
    #[arg(short, long, conflicts_with_all = ["raw", "json"])]
    pub long: bool,
    /// Index, time and header before each content; `-` where there is no header
    #[arg(long, conflicts_with_all = ["raw", "json"])]
    pub headers: bool,
    /// Contents byte for byte, each but that of `get` with a newline behind it. Control characters reach
    /// the terminal
    #[arg(long, conflicts_with = "json")]
    pub raw: bool,
    /// A JSON object for each entry, as `export` prints it
    #[arg(long)]
    pub json: bool,
}

/// How segments are made by commands that append.
#[derive(Debug, clap::Args)]
pub struct Writing {
    /// How long entries are kept by the program that compacts the log; new segments end accordingly. Default: 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub retention: Option<Duration>,
    /// Segments end at this size. Default: 64 MiB, as a number of bytes
    #[arg(long, value_name = "BYTES")]
    pub max_segment_bytes: Option<u64>,
}

impl KeySyntax {
    /// The key that is meant.
    pub fn key(&self, text: &str) -> Result<Vec<u8>, Failure> {
        let key = if self.hex { parse_hex(text.as_bytes()) } else { parse_key(text.as_bytes()) };
        key.map_err(|what| Failure::Usage(format!("KEY: {what}")))
    }
}

impl OneKey {
    pub fn key(&self) -> Result<Vec<u8>, Failure> {
        self.syntax.key(&self.name)
    }
}

impl Writing {
    pub fn options(&self) -> WalOptions {
        let mut options = WalOptions::default();
        if let Some(retention) = self.retention {
            options.entry_retention = retention;
        }
        if let Some(bytes) = self.max_segment_bytes {
            options.max_segment_bytes = bytes;
        }
        // As large as a segment allows.
        options.max_entry_bytes = options.max_segment_bytes;
        options
    }
}

fn parse_reference(text: &str) -> Result<EntryRef, String> {
    let bytes = parse_hex(text.as_bytes())?;
    let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| {
        "a reference has 32 digits; `keywal cat DIR KEY --json` prints those of a key's entries"
    })?;
    Ok(EntryRef::from_bytes(bytes))
}
