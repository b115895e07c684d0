//! Where the lines come from: files under a directory, in the order of their names, or one file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::Result;

/// Longer lines become several entries.
const MAX_LINE_BYTES: u64 = 1 << 20;
const MAX_KEY_BYTES: usize = 65_535;

/// Lines that can be gone through again and again; none is kept in memory.
pub struct Source {
    root: PathBuf,
    files: Vec<PathBuf>,
    rule: KeyRule,
}

/// One line, its line end included, so that all lines together are the file.
pub struct Line<'a> {
    pub key: &'a [u8],
    /// File and line number.
    pub place: String,
    pub content: &'a [u8],
}

enum KeyRule {
    File,
    Field(usize, Option<u8>),
    Prefix(usize),
}

impl Source {
    /// The source, and the directory of the log if one is given.
    pub fn from_args(mut args: impl Iterator<Item = String>) -> Result<(Self, Option<PathBuf>)> {
        let mut root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (mut rule, mut dir) = (KeyRule::File, None);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--key" => rule = KeyRule::parse(&value()?)?,
                "--dir" => dir = Some(value()?.into()),
                _ if arg.starts_with('-') => {
                    return Err("[PATH] [--key file|field:N[:SEP]|prefix:N] [--dir DIR]".into());
                }
                _ => root = arg.into(),
            }
        }
        let mut files = Vec::new();
        let facts = fs::metadata(&root).map_err(|error| format!("{}: {error}", root.display()))?;
        if facts.is_dir() {
            walk(&root, &mut files)?;
        } else {
            files.push(root.clone());
            root.pop();
        }
        Ok((Self { root, files, rule }, dir))
    }

    /// Calls `each` for every line of every file.
    pub fn each_line(&self, each: &mut dyn FnMut(Line<'_>) -> Result) -> Result {
        let mut content = Vec::new();
        for path in &self.files {
            let name = path.strip_prefix(&self.root)?.to_string_lossy();
            let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let packed = path.extension().is_some_and(|extension| extension == "gz");
            let file: Box<dyn Read> =
                if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
            let mut reader = BufReader::with_capacity(1 << 16, file);
            for number in 1.. {
                content.clear();
                if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut content)? == 0 {
                    break;
                }
                let key = self.rule.key(&content, name.as_bytes());
                each(Line { key, place: format!("{name}:{number}"), content: &content })?;
            }
        }
        Ok(())
    }
}

impl KeyRule {
    fn parse(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, ':');
        let (kind, number) = (parts.next(), parts.next().map_or(Ok(0), str::parse)?);
        match (kind, number) {
            (Some("file"), 0) => Ok(Self::File),
            (Some("field"), 1..) => match parts.next().map(str::as_bytes) {
                None => Ok(Self::Field(number - 1, None)),
                Some([byte]) => Ok(Self::Field(number - 1, Some(*byte))),
                Some(_) => Err(format!("--key {text}: the separator is one character").into()),
            },
            (Some("prefix"), 1..) => Ok(Self::Prefix(number)),
            _ => Err(format!("--key {text}: give file, field:N[:SEP] or prefix:N").into()),
        }
    }

    fn key<'a>(&self, line: &'a [u8], file: &'a [u8]) -> &'a [u8] {
        let text = line.trim_ascii_end();
        let key = match self {
            Self::File => file,
            Self::Prefix(bytes) => &text[..text.len().min(*bytes)],
            Self::Field(at, separator) => field(text, *at, *separator),
        };
        &key[..key.len().min(MAX_KEY_BYTES)]
    }
}

/// The field number `at`, from 0; empty if there are not so many.
fn field(text: &[u8], at: usize, separator: Option<u8>) -> &[u8] {
    match separator {
        None => text
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty())
            .nth(at)
            .unwrap_or_default(),
        Some(byte) => text.split(|other| *other == byte).nth(at).unwrap_or_default(),
    }
}

/// All regular files under `dir`, links not followed.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result {
    let mut entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type()? {
            kind if kind.is_dir() => walk(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(())
}
