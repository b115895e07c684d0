//! One entry, as a line of text, as bytes or as a JSON object; and back from JSON.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use keywal::{Entry, EntryRef, KeyOptions, Retention};
use serde::{Deserialize, Serialize};

use crate::args::Form;
use crate::failure::Failure;
use crate::retention::Limits;
use crate::text::{hex, show_content};
use crate::times;

/// An entry, or what a key has of its own, as `export` prints it and `import` reads it. A misspelt field would
/// lose what it holds, so it is refused.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_base64: Option<String>,
}

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub enum Imported {
    Entry { key: Vec<u8>, header: Option<Bytes>, content: Vec<u8> },
    Key { key: Vec<u8>, own: KeyOptions },
}

impl Line {
    pub fn new(key: &[u8], entry: &Entry) -> Self {
        let (key, key_base64) = text_or_base64(Some(key));
        let (header, header_base64) = text_or_base64(entry.header.as_deref());
        let (content, content_base64) = text_or_base64(Some(&entry.content));
        Self {
            key,
            key_base64,
            index: Some(entry.index),
            time: Some(times::show(entry.timestamp_ms)),
            reference: Some(show_reference(entry.reference)),
            header,
            header_base64,
            content,
            content_base64,
            ..Self::default()
        }
    }

    /// What a key has of its own; `None`: nothing.
    pub fn of_key(key: &[u8], own: &KeyOptions) -> Option<Self> {
        if *own == KeyOptions::default() {
            return None;
        }
        let (key, key_base64) = text_or_base64(Some(key));
        let metadata = Some(&own.metadata[..]).filter(|metadata| !metadata.is_empty());
        let (metadata, metadata_base64) = text_or_base64(metadata);
        let retention = own.retention.map(Limits::from);
        Some(Self { key, key_base64, retention, metadata, metadata_base64, ..Self::default() })
    }

    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Imported, String> {
        let line: Self = serde_json::from_slice(line).map_err(|error| {
            // The parser counts the lines within its input: always the first.
            let text = error.to_string();
            text.replace(" at line 1 column ", " at column ")
        })?;
        let key = one_of("key", line.key, line.key_base64)?.ok_or("there is no `key`")?;
        let header = one_of("header", line.header, line.header_base64)?.map(Bytes::from);
        let content = one_of("content", line.content, line.content_base64)?;
        let metadata = one_of("metadata", line.metadata, line.metadata_base64)?;
        if line.retention.is_none() && metadata.is_none() {
            let content = content.ok_or("there is no `content`")?;
            return Ok(Imported::Entry { key, header, content });
        }
        if header.is_some() || content.is_some() {
            return Err("`retention` and `metadata` need a line without an entry".into());
        }
        let mut own = KeyOptions::default().metadata(metadata.unwrap_or_default());
        own.retention = line.retention.map(Retention::from);
        Ok(Imported::Key { key, own })
    }
}

/// Bytes as text if they are UTF-8, else as base64.
pub fn text_or_base64(bytes: Option<&[u8]>) -> (Option<String>, Option<String>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| STANDARD.encode(bytes))) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(base64)) => (None, Some(base64)),
    }
}

fn one_of(
    name: &str,
    text: Option<String>,
    base64: Option<String>,
) -> Result<Option<Vec<u8>>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_base64`")),
        (Some(text), None) => Ok(Some(text.into_bytes())),
        (None, Some(base64)) => {
            STANDARD.decode(base64).map(Some).map_err(|error| format!("`{name}_base64`: {error}"))
        }
        (None, None) => Ok(None),
    }
}

/// A reference as text: the 32 digits of its 16 bytes.
pub fn show_reference(reference: EntryRef) -> String {
    hex(&reference.to_bytes())
}

/// Prints an object and a newline.
pub fn print_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

impl Form {
    /// Prints an entry with a newline behind it.
    pub fn print(&self, out: &mut dyn Write, key: &[u8], entry: &Entry) -> Result<(), Failure> {
        if self.json {
            return print_json(out, &Line::new(key, entry));
        }
        if self.raw {
            out.write_all(&entry.content)?;
        } else {
            if self.long || self.headers {
                write!(out, "{}\t{}\t", entry.index, times::show(entry.timestamp_ms))?;
            }
            if self.headers {
                let header = entry.header.as_deref().map_or_else(|| "-".to_owned(), show_content);
                write!(out, "{header}\t")?;
            }
            out.write_all(show_content(&entry.content).as_bytes())?;
        }
        writeln!(out)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(header: Option<&[u8]>, content: &[u8]) -> Entry {
        Entry {
            reference: EntryRef { key_hash: 1, sequence_number: 2, offset: 3 },
            index: 7,
            timestamp_ms: 1_700_000_000_123,
            header: header.map(Bytes::copy_from_slice),
            content: Bytes::copy_from_slice(content),
        }
    }

    #[test]
    fn lines_hold_every_byte() {
        let parts: [&[u8]; 5] =
            [b"", b"text \"\\ \x00\n", "é\u{2028}".as_bytes(), b"\xff\x00", b"+/=="];
        for key in parts {
            for header in parts.map(Some).into_iter().chain([None]) {
                for content in parts {
                    let line = Line::new(key, &entry(header, content));
                    let text = serde_json::to_vec(&line).unwrap();
                    assert!(!text.contains(&b'\n'));
                    let imported = Imported::Entry {
                        key: key.to_vec(),
                        header: header.map(Bytes::copy_from_slice),
                        content: content.to_vec(),
                    };
                    assert_eq!(Line::parse(&text), Ok(imported));
                }
            }
        }
    }

    #[test]
    fn a_line_holds_what_a_key_has_of_its_own() {
        let parts: [&[u8]; 4] = [b"", b"schema=4", "é\n".as_bytes(), b"\xff\x00"];
        for key in parts {
            for metadata in parts {
                for retention in [None, Some(Retention::FOREVER), Some(Retention::keep_last(7))] {
                    let mut own = KeyOptions::default().metadata(metadata);
                    own.retention = retention;
                    let line = Line::of_key(key, &own);
                    assert_eq!(line.is_none(), metadata.is_empty() && retention.is_none());
                    if let Some(line) = line {
                        let text = serde_json::to_vec(&line).unwrap();
                        assert_eq!(
                            Line::parse(&text),
                            Ok(Imported::Key { key: key.to_vec(), own })
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        for (line, what) in [
            (&b""[..], "EOF"),
            (b"{}", "no `key`"),
            (b"[]", "length 0"),
            (br#"{"key":"k"}"#, "no `content`"),
            (br#"{"content":"c"}"#, "no `key`"),
            (br#"{"key":"k","content":"c","headr":"h"}"#, "unknown field `headr`"),
            (br#"{"key":"k","content":"c","content":"d"}"#, "duplicate field `content`"),
            (br#"{"key":"k","content":"c","content_base64":"AA=="}"#, "both `content`"),
            (br#"{"key":"k","content_base64":"A"}"#, "`content_base64`"),
            (br#"{"key":"k","content_base64":"AB=="}"#, "`content_base64`"),
            (br#"{"key":"k","content":"c","retention":{}}"#, "a line without an entry"),
            (br#"{"key":"k","header":"h","metadata":"m"}"#, "a line without an entry"),
            (br#"{"retention":{}}"#, "no `key`"),
            (br#"{"key":"k","retention":{"max_age":"7d"}}"#, "unknown field `max_age`"),
            (br#"{"key":"k","retention":{"max_entries":-1}}"#, "invalid value"),
            (br#"{"key":"k","metadata":"m","metadata_base64":"AA=="}"#, "both `metadata`"),
            (br#"{"key":"k","content":7}"#, "invalid type"),
            (br#"{"key":"k","content":"c"} x"#, "trailing"),
            (br#"{"key":"k","content":"c"#, "EOF"),
            (b"{\"key\":\"k\",\"content\":\"\xff\"}", "at column"),
        ] {
            let error = Line::parse(line).unwrap_err();
            assert!(error.contains(what), "{}: {error}", line.escape_ascii());
        }
    }
}
