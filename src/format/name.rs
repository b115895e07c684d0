//! The key hash and the names of segment files (section 1 of the specification).

use super::MAX_SEQUENCE;

const MAX_LABEL_BYTES: usize = 32;
const HASH_DIGITS: usize = 16;
const SUFFIX: &str = ".log";

/// 64-bit FNV-1a of the key's bytes.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finalizer of `SplitMix64`: spreads the bits of `x` over the whole word.
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The part of a file name that is for people.
pub(crate) fn label(key: &[u8]) -> String {
    if key.is_empty() {
        return "_".to_owned();
    }
    let mapped = key.iter().take(MAX_LABEL_BYTES).enumerate().map(|(at, byte)| match byte {
        b'.' if at == 0 => '_',
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' => char::from(byte.to_ascii_lowercase()),
        _ => '_',
    });
    mapped.collect()
}

/// Names a segment within a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId {
    pub(crate) key_hash: u64,
    pub(crate) sequence: u32,
}

impl SegmentId {
    pub(crate) fn file_name(self, label: &str) -> String {
        SegmentName { label, key_hash: self.key_hash, sequence: self.sequence }.to_string()
    }
}

/// The name of a segment file, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentName<'a> {
    pub(crate) label: &'a str,
    pub(crate) key_hash: u64,
    pub(crate) sequence: u32,
}

impl<'a> SegmentName<'a> {
    /// `None` for every name that [`Display`](std::fmt::Display) would not have produced.
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        let stem = name.strip_suffix(SUFFIX)?;
        let (rest, digits) = stem.rsplit_once('-')?;
        let (label, hash) = rest.rsplit_once('-')?;
        let legal = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'z' | b'.' | b'_');
        let plain_label = (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('.');
        let plain_hash = hash.len() == HASH_DIGITS
            && hash.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
        let plain_digits = digits.len() >= 4
            && digits.bytes().all(|c| c.is_ascii_digit())
            && (digits.len() == 4 || !digits.starts_with('0'));
        if !plain_label || !plain_hash || !plain_digits {
            return None;
        }
        let sequence = digits.parse().ok().filter(|n| (1..=MAX_SEQUENCE).contains(n))?;
        Some(Self { label, key_hash: u64::from_str_radix(hash, 16).ok()?, sequence })
    }
}

impl std::fmt::Display for SegmentName<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:016x}-{:04}{SUFFIX}", self.label, self.key_hash, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(key_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(key_hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(key_hash(b"foobar"), 0x8594_4171_f739_67e8);
        // Two real keys with one hash; the tests of the whole library rest on this pair.
        assert_eq!(key_hash(b"8yn0iYCKYHlIj4-BwPqk"), key_hash(b"GReLUrM4wMqfg9yzV3KQ"));
    }

    /// `SplitMix64` started from 0 gives these numbers.
    #[test]
    fn the_mixer_is_the_published_one() {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        assert_eq!(mix(step), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(step.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn labels_are_those_of_the_specification() {
        let cases: [(&[u8], &str); 6] = [
            (b"", "_"),
            (b"..", "_."),
            (b"Az09.-_ /~", "az09._____"),
            (b"\xff\0", "__"),
            (&[b'x'; 32], "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
            (&[b'x'; 33], "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        ];
        for (key, expected) in cases {
            assert_eq!(label(key), expected, "{key:?}");
        }
    }

    #[test]
    fn names_read_back_whatever_the_key() {
        let keys: [&[u8]; 9] = [
            b"",
            b"..",
            b".",
            b"../../etc/passwd",
            b"/abs",
            b"a\0b\n",
            b"\xff\xfe",
            b"Hits",
            &[b'x'; 999],
        ];
        for key in keys {
            for sequence in [1, 9999, 10_000, MAX_SEQUENCE] {
                let label = label(key);
                let name = SegmentName { label: &label, key_hash: key_hash(key), sequence };
                let text = name.to_string();
                assert_eq!(SegmentName::parse(&text), Some(name.clone()), "{text}");
                assert!(
                    text.len() <= 64 && !text.starts_with('.') && !text.contains('/'),
                    "{text}"
                );
            }
        }
        let hits = SegmentName { label: "hits", key_hash: 0x1f, sequence: 1 };
        assert_eq!(hits.to_string(), "hits-000000000000001f-0001.log");
    }

    #[test]
    fn other_names_are_foreign() {
        let good = "hits-000000000000001f-0001.log";
        assert!(SegmentName::parse(good).is_some());
        for bad in [
            "",
            "LOCK",
            "META",
            ".log",
            "-000000000000001f-0001.log",
            "hits-000000000000001f-0001.txt",
            "hits-000000000000001F-0001.log",
            "hits-00000000000001f-0001.log",
            "hits-000000000000001f-1.log",
            "hits-000000000000001f-00001.log",
            "hits-000000000000001f-0000.log",
            "Hits-000000000000001f-0001.log",
            ".its-000000000000001f-0001.log",
            "hits-000000000000001f-4294967295.log",
            "hits-000000000000001f-+001.log",
            "h/ts-000000000000001f-0001.log",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx-000000000000001f-0001.log",
            "hits-000000000000001g-0001.log",
            "hits-0000000000000001f-0001.log",
        ] {
            assert_eq!(SegmentName::parse(bad), None, "{bad}");
        }
        assert_eq!(SegmentName::parse(good).unwrap().to_string(), good);
    }
}
