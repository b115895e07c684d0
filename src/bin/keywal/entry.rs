//! One entry, as a line of text, as bytes or as a JSON object; and back from JSON.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use keywal::{Entry, EntryRef};
use serde::{Deserialize, Serialize};

use crate::args::Form;
use crate::failure::Failure;
use crate::text::{hex, show_content};
use crate::times;

/// An entry as `export` prints it and `import` reads it. A misspelt field would lose what it holds, so it
/// is refused.
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
}

/// What an imported line appends.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    pub key: Vec<u8>,
    pub header: Option<Bytes>,
    pub content: Vec<u8>,
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
        }
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
        let content =
            one_of("content", line.content, line.content_base64)?.ok_or("there is no `content`")?;
        Ok(Imported { key, header, content })
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
                    let imported = Imported {
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
