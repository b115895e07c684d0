//! `ls`: the keys of a log, the segments of a key.

use std::io::Write;

use keywal::{Entry, Key, KeyOptions, Keys, SegmentInfo, WalError, WalReader};
use serde::Serialize;

use crate::args::Ls;
use crate::entry::{print_json, text_or_base64};
use crate::failure::{Failure, Outcome, describe, say};
use crate::retention::{self, Limits};
use crate::text::{counted, show_key};
use crate::{open, times};

/// A key, as a program reads it.
#[derive(Serialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    segments: usize,
    /// In the segments that are there.
    entries: u64,
    bytes: u64,
    first_index: u64,
    next_index: u64,
    /// Of the oldest and the newest entry; none if there is none, or if it cannot be read.
    first_time: Option<String>,
    last_time: Option<String>,
    /// Of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

#[derive(Serialize)]
struct SegmentRow {
    sequence: u64,
    first_index: u64,
    next_index: u64,
    bytes: u64,
    created: String,
    takes_entries_until: String,
    active: bool,
    path: String,
}

pub fn run(args: &Ls, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.as_ref().map(|key| args.syntax.key(key)).transpose()?;
    let (log, found) = open::read(&args.dir)?;
    let listed = match key {
        Some(key) => segments(&log, &key, args.json, out),
        None => keys(&log, args.json, out),
    };
    Ok(found.and(listed?))
}

fn keys(log: &WalReader, json: bool, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let (keys, unreadable) = sorted(log.enumerate_keys()?);
    let mut damaged = unreadable > 0;
    if !json {
        writeln!(
            out,
            "{:>8} {:>10} {:>12} {:>10} {:>10} {:24} {:24} {:9} KEY",
            "SEGMENTS", "ENTRIES", "BYTES", "FIRST", "NEXT", "FIRST TIME", "LAST TIME", "RETENTION"
        )?;
    }
    for key in keys {
        let row = Row::of(log, &key)?;
        damaged |= row.damage.is_some();
        if json {
            print_json(out, &row)?;
        } else {
            let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
            let retention = row.retention.map(|limits| retention::show(&limits.into()));
            let mark = if row.damage.is_some() { "!" } else { "" };
            writeln!(
                out,
                "{:>8} {:>10} {:>12} {:>10} {:>10} {:24} {:24} {:9} {}",
                row.segments,
                format!("{}{mark}", row.entries),
                row.bytes,
                row.first_index,
                row.next_index,
                time(&row.first_time),
                time(&row.last_time),
                time(&retention),
                show_key(&key)
            )?;
        }
        if let Some(damage) = row.damage {
            say(format!("{}: {damage}", show_key(&key)));
        }
    }
    Ok(Outcome::of(damaged))
}

impl Row {
    fn of(log: &WalReader, key: &[u8]) -> Result<Self, Failure> {
        let mut damage = None;
        let mut note = |result: Result<u64, WalError>| match result {
            Err(error @ WalError::Corrupted { .. }) => {
                damage.get_or_insert_with(|| describe(&error));
                Ok(())
            }
            result => result.map(drop),
        };
        note(log.next_index(key))?;
        let segments = match log.segments(key) {
            Err(WalError::Corrupted { .. }) => Vec::new(),
            result => result?,
        };
        let (entries, missing) = held(&segments);
        let first_index = segments.first().map_or(0, |oldest| oldest.first_index);
        let next_index = segments.last().map_or(0, |newest| newest.next_index);
        let mut time = |newest: bool| {
            let mut entries = log.entries(key)?;
            let end = if newest { entries.next_back() } else { entries.next() };
            match end {
                Some(Err(error @ (WalError::Corrupted { .. } | WalError::Expired))) => {
                    note(Err(error)).map(|()| None)
                }
                end => end.transpose(),
            }
        };
        let shown = |entry: Option<Entry>| entry.map(|entry| times::show(entry.timestamp_ms));
        let first_time = time(false).map(shown)?;
        let last_time = time(true).map(shown)?;
        let own = own(log, key).or_else(|error| match error {
            // Which has been noted.
            WalError::Corrupted { .. } => Ok(KeyOptions::default()),
            error => Err(error),
        })?;
        let damage = damage.or(missing);
        let metadata = Some(&own.metadata[..]).filter(|metadata| !metadata.is_empty());
        let (metadata, metadata_base64) = text_or_base64(metadata);
        let (key, key_base64) = text_or_base64(Some(key));
        Ok(Self {
            key,
            key_base64,
            segments: segments.len(),
            entries,
            bytes: segments.iter().map(|segment| segment.bytes).sum(),
            first_index,
            next_index,
            first_time,
            last_time,
            retention: own.retention.map(Limits::from),
            metadata,
            metadata_base64,
            damage,
        })
    }
}

/// How many entries the segments of a key have that are there, and which are missing between them. None is read, so
/// damaged ones count.
pub fn held(segments: &[SegmentInfo]) -> (u64, Option<String>) {
    let entries = segments.iter().map(|segment| segment.next_index - segment.first_index).sum();
    let gaps = segments.iter().zip(segments.iter().skip(1)).filter_map(|(before, behind)| {
        let (first, missing) =
            (before.next_index, behind.first_index.saturating_sub(before.next_index));
        (missing > 0).then_some((first, missing))
    });
    let missing = gaps.reduce(|(first, all), (_, missing)| (first, all + missing));
    let missing = missing.map(|(first, missing)| {
        let cannot = counted(missing, "entry cannot be read", "entries cannot be read");
        format!("{cannot}, the first at index {first}: segments are missing or damaged")
    });
    (entries, missing)
}

/// What a key has of its own.
pub fn own(log: &WalReader, key: &[u8]) -> Result<KeyOptions, WalError> {
    let mut own = KeyOptions::default().metadata(log.key_metadata(key)?.unwrap_or_default());
    own.retention = log.retention(key)?;
    Ok(own)
}

fn segments(
    log: &WalReader,
    key: &[u8],
    json: bool,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let segments = log.segments(key)?;
    if segments.is_empty() {
        return Err(no_such_key(key));
    }
    let missing = held(&segments).1;
    if !json {
        writeln!(
            out,
            "{:>8} {:>10} {:>10} {:>12} {:24} {:24} FILE",
            "SEQUENCE", "FIRST", "NEXT", "BYTES", "CREATED", "TAKES ENTRIES UNTIL"
        )?;
    }
    for segment in segments {
        let (created, until) =
            (times::show(segment.created_ms), times::show(segment.expiration_ms));
        if json {
            print_json(
                out,
                &SegmentRow {
                    sequence: segment.sequence,
                    first_index: segment.first_index,
                    next_index: segment.next_index,
                    bytes: segment.bytes,
                    created,
                    takes_entries_until: until,
                    active: segment.active,
                    path: segment.path.to_string_lossy().into_owned(),
                },
            )?;
            continue;
        }
        let until = if segment.active { &until } else { "-" };
        let file = segment.path.file_name().unwrap_or_default().to_string_lossy();
        writeln!(
            out,
            "{:>8} {:>10} {:>10} {:>12} {created:24} {until:24} {file}",
            segment.sequence, segment.first_index, segment.next_index, segment.bytes
        )?;
    }
    if let Some(missing) = &missing {
        say(format!("{}: {missing}", show_key(key)));
    }
    Ok(Outcome::of(missing.is_some()))
}

/// All keys in the order of their bytes, and how many cannot be listed. Says so if there are any.
pub fn sorted(keys: Keys) -> (Vec<Key>, usize) {
    let unreadable = keys.unreadable();
    if unreadable > 0 {
        let keys = counted(unreadable as u64, "key", "keys");
        say(format!(
            "{keys} cannot be listed: the newest file, which names the key, is damaged or of a newer format; \
             `keywal verify` says which"
        ));
    }
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    (keys, unreadable)
}

pub fn no_such_key(key: &[u8]) -> Failure {
    Failure::error(format!("there is no key {}; `keywal ls` lists the keys", show_key(key)))
}
