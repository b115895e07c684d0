//! The log that `import` writes to: what may go to which key, and what is there already.

use std::collections::HashMap;

use bytes::Bytes;
use keywal::{Entries, KeyOptions, Retention, Wal};
use serde::Serialize;

use crate::args::Import;
use crate::failure::Failure;
use crate::retention;
use crate::text::{counted, show_key};

/// What was imported.
#[derive(Default, Serialize)]
pub struct Done {
    pub keys: usize,
    pub entries: u64,
    pub content_bytes: u64,
    /// Entries that an earlier run had imported.
    pub found_entries: u64,
    pub rejected_lines: u64,
    /// Parts of the source that hold no entry that can be read.
    pub unreadable: usize,
}

/// What may be done with a key that has entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Refuse,
    Append,
    /// They have to be those of the source, from the first on; the rest is appended.
    Resume,
}

/// A key that has been met.
struct Met {
    /// Index of the entry that the next one of the source has to be, as long as that is below `there`.
    next: u64,
    /// How many entries of the source the log may have.
    there: u64,
}

pub struct Target<'w> {
    wal: &'w Wal,
    existing: Existing,
    keys: HashMap<Vec<u8>, Met>,
    /// The entries of the key that was compared last, from its `next` on.
    compared: Option<(Vec<u8>, Entries<'w>)>,
    pub done: Done,
}

impl<'w> Target<'w> {
    pub fn new(wal: &'w Wal, args: &Import) -> Self {
        let existing = match (args.append, args.resume) {
            (_, true) => Existing::Resume,
            (true, _) => Existing::Append,
            _ => Existing::Refuse,
        };
        Self { wal, existing, keys: HashMap::new(), compared: None, done: Done::default() }
    }

    /// Refuses a key that has entries, when it is met first.
    pub fn meet(&mut self, key: &[u8]) -> Result<(), Failure> {
        if self.keys.contains_key(key) {
            return Ok(());
        }
        let next_index = self.wal.next_index(key)?;
        if next_index > 0 && self.existing == Existing::Refuse {
            return Err(Failure::error(format!(
                "{} has entries already; give --resume to go on with an import that was cut off, or --append \
                 to append to what is there",
                show_key(key)
            )));
        }
        let there = if self.existing == Existing::Resume { next_index } else { 0 };
        self.keys.insert(key.to_vec(), Met { next: 0, there });
        self.done.keys = self.keys.len();
        Ok(())
    }

    /// Whether the key exists; refuses one that has something else of its own.
    pub fn has(&self, key: &[u8], own: &KeyOptions) -> Result<bool, Failure> {
        let Some(metadata) = self.wal.key_metadata(key)? else { return Ok(false) };
        let retention = self.wal.retention(key)?;
        let show = |retention: &Option<Retention>| {
            retention.as_ref().map_or_else(|| "none".to_owned(), retention::show)
        };
        let other = if retention != own.retention {
            let (is, should) = (show(&retention), show(&own.retention));
            format!("another retention than its line says ({is}, not {should})")
        } else if metadata != own.metadata {
            "other metadata than its line says".to_owned()
        } else {
            return Ok(true);
        };
        Err(Failure::error(format!(
            "{} exists with {other}; leave that line out to keep what the key has, or give it the same with \
             `keywal retention`",
            show_key(key)
        )))
    }

    /// Creates a key with what it has of its own, unless it is there.
    pub fn create(&mut self, key: &[u8], own: KeyOptions) -> Result<(), Failure> {
        self.meet(key)?;
        if !self.has(key, &own)? {
            self.wal.create_key(key, own)?;
        }
        Ok(())
    }

    pub fn append(
        &mut self,
        key: &[u8],
        header: Option<Bytes>,
        content: &[u8],
    ) -> Result<(), Failure> {
        self.meet(key)?;
        if let Some(met) = self.keys.get_mut(key).filter(|met| met.next < met.there) {
            let index = met.next;
            met.next += 1;
            return self.compare(key, index, header.as_deref(), content);
        }
        self.wal.append_entry(key, header, content, false)?;
        self.done.entries += 1;
        self.done.content_bytes += content.len() as u64;
        Ok(())
    }

    /// Refuses an entry that is another one than the source has.
    fn compare(
        &mut self,
        key: &[u8],
        index: u64,
        header: Option<&[u8]>,
        content: &[u8],
    ) -> Result<(), Failure> {
        let entries = match &mut self.compared {
            Some((of, entries)) if of == key => entries,
            compared => {
                let entries = self.wal.entries(key)?.range(index..);
                &mut compared.insert((key.to_vec(), entries)).1
            }
        };
        let entry = entries.next().transpose()?;
        let same = entry.is_some_and(|entry| {
            (entry.index, entry.header.as_deref(), &entry.content[..]) == (index, header, content)
        });
        if same {
            self.done.found_entries += 1;
            return Ok(());
        }
        Err(Failure::error(format!(
            "entry {index} of {} is not the one that is to be imported: --resume goes on with the same import \
             only, to keys that were new",
            show_key(key)
        )))
    }

    /// A failure, with what has been imported and how to go on. `from_line`: the line that was not imported.
    pub fn stopped(&self, failure: Failure, from_line: Option<u64>) -> Failure {
        let entries = counted(self.done.entries, "entry was", "entries were");
        let go_on = match (self.existing, from_line) {
            (Existing::Append, Some(line)) => format!("; go on with --append --from-line {line}"),
            (Existing::Append, None) => String::new(),
            _ => "; go on with --resume and the same source".to_owned(),
        };
        failure.context(format!("{entries} imported{go_on}: "))
    }
}
