//! The files of nano-wal 0.4: `{label}-{hash}-{sequence}.log`, all numbers little-endian.
//!
//! ```text
//! file   "NANO-LOG", u64 always 0, u64 expiration in seconds, u64 length of key, key, entries
//! entry  "NANORC", u16 length of header, header, u64 length of content, content
//! ```
//!
//! There are no checksums: what has the form of an entry is one. A header of length 0 is none.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::failure::Failure;

const FILE_SIGNATURE: &[u8; 8] = b"NANO-LOG";
const ENTRY_SIGNATURE: &[u8; 6] = b"NANORC";
const FILE_HEADER_BYTES: usize = 8 + 8 + 8 + 8;

/// What a directory holds.
pub struct Found {
    /// By key, then in the order they were written.
    pub segments: Vec<Segment>,
    /// Files that are named like segments and are none.
    pub unreadable: Vec<String>,
}

pub struct Segment {
    pub key: Vec<u8>,
    sequence: u64,
    pub path: PathBuf,
    /// Length of the file when it was found: nothing behind is read.
    bytes: u64,
}

/// Lists the segments of a directory, and changes nothing in it.
pub fn list(dir: &Path) -> Result<Found, Failure> {
    let failed = |error| Failure::file(dir, "list the directory", &error);
    let mut found = Found { segments: Vec::new(), unreadable: Vec::new() };
    for file in fs::read_dir(dir).map_err(failed)? {
        let file = file.map_err(failed)?;
        let name = file.file_name();
        let Some(sequence) = name.to_str().and_then(sequence) else { continue };
        let path = file.path();
        // Not one that stands for another, nor one that would block.
        if !file.file_type().map_err(failed)?.is_file() {
            found.unreadable.push(format!("{}: not a regular file", path.display()));
            continue;
        }
        match read_key(&path).map_err(|error| Failure::file(&path, "read the file", &error))? {
            Ok((key, bytes)) => found.segments.push(Segment { key, sequence, path, bytes }),
            Err(what) => found.unreadable.push(format!("{}: {what}", path.display())),
        }
    }
    if found.segments.is_empty() {
        let what =
            found.unreadable.first().cloned().unwrap_or_else(|| "no file of nano-wal's".into());
        return Err(Failure::error(format!("{}: nothing to import: {what}", dir.display())));
    }
    found
        .segments
        .sort_by(|a, b| (&a.key, a.sequence, &a.path).cmp(&(&b.key, b.sequence, &b.path)));
    Ok(found)
}

/// The sequence in a segment's name. The one in its header is always 0.
fn sequence(name: &str) -> Option<u64> {
    let (rest, sequence) = name.strip_suffix(".log")?.rsplit_once('-')?;
    let (_, hash) = rest.rsplit_once('-')?;
    hash.parse::<u64>().ok()?;
    sequence.parse().ok()
}

/// The key in the header and the length of the file, or why it is no segment.
fn read_key(path: &Path) -> io::Result<Result<(Vec<u8>, u64), &'static str>> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let Some(behind) = bytes.checked_sub(FILE_HEADER_BYTES as u64) else {
        return Ok(Err("too short for a segment of nano-wal"));
    };
    let mut header = [0; FILE_HEADER_BYTES];
    file.read_exact(&mut header)?;
    let (signature, numbers) = header.split_at(FILE_SIGNATURE.len());
    if signature != FILE_SIGNATURE {
        return Ok(Err("not a segment of nano-wal"));
    }
    let key_bytes = numbers.iter().rev().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
    if key_bytes > behind {
        return Ok(Err("the header is cut off, or its key's length is damaged"));
    }
    let mut key = Vec::new();
    file.take(key_bytes).read_to_end(&mut key)?;
    Ok(Ok((key, bytes)))
}

impl Segment {
    /// Gives every entry to `each`. Says where the entries end, if that is not the end of the file.
    pub fn read(
        &self,
        each: &mut dyn FnMut(Option<Bytes>, Vec<u8>) -> Result<(), Failure>,
    ) -> Result<Option<String>, Failure> {
        let failed = |error| Failure::file(&self.path, "read the file", &error);
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut at = (FILE_HEADER_BYTES + self.key.len()) as u64;
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut input =
            Input { file: BufReader::with_capacity(1 << 16, file), left: self.bytes - at };
        while input.left > 0 {
            let Some((header, content)) = input.entry().map_err(failed)? else {
                let (path, bytes) = (self.path.display(), self.bytes - at);
                return Ok(Some(format!(
                    "{path}: no whole entry at offset {at}: {bytes} bytes are not imported"
                )));
            };
            each(header, content)?;
            at = self.bytes - input.left;
        }
        Ok(None)
    }
}

struct Input {
    file: BufReader<File>,
    left: u64,
}

impl Input {
    fn take(&mut self, n: u64) -> io::Result<Option<Vec<u8>>> {
        if n > self.left {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let read = self.file.by_ref().take(n).read_to_end(&mut bytes)?;
        self.left -= read as u64;
        Ok((read as u64 == n).then_some(bytes))
    }

    fn number(&mut self, bytes: u64) -> io::Result<Option<u64>> {
        let bytes = self.take(bytes)?;
        Ok(bytes.map(|bytes| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte))))
    }

    /// The next entry; `None` if there is no whole one.
    fn entry(&mut self) -> io::Result<Option<(Option<Bytes>, Vec<u8>)>> {
        if !self.signature()? {
            return Ok(None);
        }
        // A header that is too long was refused after the signature had been written. nano-wal itself
        // reads nothing behind that.
        while self.signature()? {}
        let Some(header_bytes) = self.number(2)? else { return Ok(None) };
        let Some(header) = self.take(header_bytes)? else { return Ok(None) };
        let Some(content_bytes) = self.number(8)? else { return Ok(None) };
        let Some(content) = self.take(content_bytes)? else { return Ok(None) };
        Ok(Some(((!header.is_empty()).then(|| header.into()), content)))
    }

    /// Passes over a signature, if one is next.
    fn signature(&mut self) -> io::Result<bool> {
        let before = self.left;
        if self.take(6)?.is_some_and(|bytes| bytes == ENTRY_SIGNATURE) {
            return Ok(true);
        }
        let back = i64::try_from(before - self.left).unwrap_or(0);
        self.file.seek_relative(-back)?;
        self.left = before;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is to be had from one file: entries, and whether something is left.
    fn import(content: &[u8]) -> Option<(Vec<Vec<u8>>, bool)> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("label-1-0001.log"), content).unwrap();
        let found = list(dir.path()).ok()?;
        let mut entries = Vec::new();
        let rest = found.segments[0].read(&mut |_, content| {
            entries.push(content);
            Ok(())
        });
        Some((entries, rest.unwrap().is_some()))
    }

    #[test]
    fn every_cut_and_every_flip_gives_what_is_before_it() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nano-wal-0.4");
        let whole = fs::read(golden.join("hits-10105088942366258826-0001.log")).unwrap();
        let (all, rest) = import(&whole).unwrap();
        assert_eq!((all.len(), rest), (3, false));
        // Where the header and each entry end.
        let ends = [36, 36 + 23, 36 + 23 + 28, whole.len()];
        let before = |at: usize| ends.iter().filter(|end| **end <= at).count().checked_sub(1);
        for cut in 0..whole.len() {
            let expected = before(cut).map(|n| (all[..n].to_vec(), !ends.contains(&cut)));
            assert_eq!(import(&whole[..cut]), expected, "cut at {cut}");
        }
        for at in 0..whole.len() {
            for mask in [1, 0x80, 0xFF] {
                let mut content = whole.clone();
                content[at] ^= mask;
                // Without checksums, an entry that was hit may be taken for one. Those before it are sure.
                if let (Some((entries, _)), Some(n)) = (import(&content), before(at)) {
                    assert_eq!(entries[..n], all[..n], "flip of {mask:#x} at {at}");
                }
            }
        }
    }
}
