//! Keys and contents as text that a terminal can show and a shell can hand back.

use std::fmt::Write;

/// An empty key, so that there is something to be seen. A shell makes an empty argument of it.
const EMPTY: &str = "''";

/// The key as text: itself where it is text that can be shown, with escapes (`\n`, `\\`, `\xff`,
/// `\u{202e}`) where not. [`parse_key`] has the key back, byte for byte.
pub fn show_key(key: &[u8]) -> String {
    match key {
        b"" => EMPTY.to_owned(),
        b"''" => r"\x27\x27".to_owned(),
        _ => escape(key, true),
    }
}

/// A content as one line of text. Made to be read: a backslash stays one, so this cannot be undone.
pub fn show_content(content: &[u8]) -> String {
    escape(content, false)
}

fn escape(bytes: &[u8], backslash: bool) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\'' => shown.push(letter),
                '\\' if !backslash => shown.push(letter),
                // What cannot be printed, and marks that would change how their neighbours are shown.
                _ => shown.extend(letter.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// The key that [`show_key`] shows as this text.
///
/// # Errors
/// What is wrong with the escapes.
pub fn parse_key(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut key = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'\\' {
            key.push(*byte);
            continue;
        }
        let Some((letter, behind)) = rest.split_first() else {
            return Err("a `\\` at the end; write `\\\\` for one".to_owned());
        };
        rest = behind;
        match letter {
            b'n' => key.push(b'\n'),
            b'r' => key.push(b'\r'),
            b't' => key.push(b'\t'),
            b'0' => key.push(0),
            b'\\' => key.push(b'\\'),
            b'x' => {
                let (digits, behind) =
                    rest.split_at_checked(2).ok_or("`\\x` needs two hexadecimal digits")?;
                rest = behind;
                key.extend(parse_hex(digits)?);
            }
            b'u' => {
                let end = rest.iter().position(|byte| *byte == b'}');
                let parts = end.and_then(|end| rest.split_at_checked(end));
                let letter = parts.and_then(|(digits, _)| {
                    let digits = std::str::from_utf8(digits.strip_prefix(b"{")?).ok()?;
                    char::from_u32(u32::from_str_radix(digits, 16).ok()?)
                });
                let letter = letter.ok_or("`\\u` needs a code point, as in `\\u{202e}`")?;
                key.extend(letter.encode_utf8(&mut [0; 4]).bytes());
                rest = parts.map_or(rest, |(_, behind)| &behind[1..]);
            }
            _ => {
                let letter = char::from(*letter).escape_debug();
                return Err(format!(
                    "`\\{letter}` is no escape; there are \\n \\r \\t \\0 \\\\ \\xff \\u{{202e}}"
                ));
            }
        }
    }
    Ok(key)
}

/// The bytes that hexadecimal digits stand for.
///
/// # Errors
/// What is wrong with them.
pub fn parse_hex(digits: &[u8]) -> Result<Vec<u8>, String> {
    let value =
        |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(value(*high)? << 4 | value(*low)?),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| {
            let given = digits.escape_ascii();
            format!(
                "`{given}` is not hexadecimal; give two digits, 0 to 9 or a to f, for each byte"
            )
        })
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// A number with its unit in the right number.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_shown_and_given_back() {
        let mut keys: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        keys.extend((0..=255).map(|byte| vec![b'\\', byte, 0xc3, byte, 0xa9]));
        for text in [
            "",
            "''",
            "topic-7",
            "a b",
            "é",
            "e\u{301}",
            "\u{301}e",
            "\u{202e}abc",
            "🦀",
            "\\x41",
            "'",
            "\"q\"",
        ] {
            keys.push(text.as_bytes().to_vec());
        }
        for key in keys {
            let shown = show_key(&key);
            assert!(shown.chars().all(|letter| !letter.is_control()), "{shown:?}");
            if !key.is_empty() {
                assert_eq!(parse_key(shown.as_bytes()).as_ref(), Ok(&key), "{shown}");
            }
        }
        assert_eq!(show_key("\u{202e}abc\u{1b}[1m".as_bytes()), r"\u{202e}abc\u{1b}[1m");
        assert_eq!(show_key(b"ab\xff\\"), r"ab\xff\\");
    }

    #[test]
    fn bad_escapes_are_refused() {
        for text in
            [r"\", r"\q", r"\x", r"\x4", r"\xg0", r"\u", r"\u{", r"\u{}", r"\u{110000}", r"\u41"]
        {
            assert!(parse_key(text.as_bytes()).is_err(), "{text}");
        }
        for digits in ["0", "0g", "zz", "+1"] {
            assert!(parse_hex(digits.as_bytes()).is_err(), "{digits}");
        }
        assert_eq!(parse_hex(b"00fF"), Ok(vec![0, 255]));
    }

    #[test]
    fn a_content_is_one_line_and_keeps_its_backslashes() {
        assert_eq!(
            show_content(b"{\"a\":\"\\n\"}\n\x1b[2J\xfe"),
            "{\"a\":\"\\n\"}\\n\\u{1b}[2J\\xfe"
        );
    }
}
