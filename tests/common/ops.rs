//! The operations of the crash and fault workloads, and their names on the command line.

use std::fmt;
use std::str::FromStr;

use super::oracle::index;

/// What a workload is made of. The number is that of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Appends 40 bytes, `Os`.
    Small(usize),
    /// Appends 900 bytes, `Disk`: over two or three sectors.
    Large(usize),
    /// Appends three entries, `Disk`.
    Batch(usize),
    /// Lets the window pass and appends, `Os`.
    Rotate(usize),
    /// Drops everything by `truncate_before`.
    Truncate(usize),
    Remove(usize),
    SyncKey(usize),
    /// Appends to both keys with `append_many`, `Disk` or `Os`: needs a journal.
    Together(bool),
    Sync,
    /// From now on, nothing is dropped for its age.
    Forever(usize),
    /// From now on, the last entry is kept, and no segment before it.
    Last(usize),
    /// Lets the retention pass and compacts.
    Compact,
    /// Shuts down and opens again.
    Shutdown,
    /// The process dies; another one opens.
    Kill,
    /// The power is cut, and of what was not durable this sample is there.
    Cut(u64),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small(key) => write!(f, "small:{key}"),
            Self::Large(key) => write!(f, "large:{key}"),
            Self::Batch(key) => write!(f, "batch:{key}"),
            Self::Rotate(key) => write!(f, "rotate:{key}"),
            Self::Truncate(key) => write!(f, "truncate:{key}"),
            Self::Remove(key) => write!(f, "remove:{key}"),
            Self::SyncKey(key) => write!(f, "sync:{key}"),
            Self::Forever(key) => write!(f, "forever:{key}"),
            Self::Last(key) => write!(f, "last:{key}"),
            Self::Together(durable) => write!(f, "together:{}", u8::from(*durable)),
            Self::Sync => write!(f, "sync"),
            Self::Compact => write!(f, "compact"),
            Self::Shutdown => write!(f, "shutdown"),
            Self::Kill => write!(f, "kill"),
            Self::Cut(sample) => write!(f, "cut:{sample}"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let number: u64 = number.parse().map_err(|_| format!("no number in {text}"))?;
        let key = index(number);
        Ok(match (name, text.contains(':')) {
            ("small", _) => Self::Small(key),
            ("large", _) => Self::Large(key),
            ("batch", _) => Self::Batch(key),
            ("rotate", _) => Self::Rotate(key),
            ("truncate", _) => Self::Truncate(key),
            ("remove", _) => Self::Remove(key),
            ("forever", _) => Self::Forever(key),
            ("last", _) => Self::Last(key),
            ("together", _) => Self::Together(number == 1),
            ("sync", true) => Self::SyncKey(key),
            ("sync", false) => Self::Sync,
            ("compact", _) => Self::Compact,
            ("shutdown", _) => Self::Shutdown,
            ("kill", _) => Self::Kill,
            ("cut", _) => Self::Cut(number),
            _ => return Err(format!("unknown operation {text}")),
        })
    }
}

impl Op {
    /// All operations, on two keys, that need no journal.
    pub fn all() -> Vec<Self> {
        let mut ops = Self::core();
        ops.extend([Self::Sync, Self::Cut(0), Self::Cut(3)]);
        for key in 0..2 {
            ops.extend([Self::Batch(key), Self::Truncate(key), Self::Remove(key)]);
            ops.extend([Self::Forever(key), Self::Last(key)]);
        }
        ops
    }

    /// All operations there are.
    pub fn all_with_journal() -> Vec<Self> {
        [Self::all(), vec![Self::Together(false), Self::Together(true)]].concat()
    }

    /// Those that every log has, and retention.
    pub fn core() -> Vec<Self> {
        let mut ops = vec![Self::Compact, Self::Shutdown, Self::Kill];
        for key in 0..2 {
            ops.extend([Self::Small(key), Self::Large(key), Self::SyncKey(key), Self::Rotate(key)]);
        }
        ops
    }

    pub fn key(self) -> Option<usize> {
        match self {
            Self::Small(key)
            | Self::Large(key)
            | Self::Batch(key)
            | Self::Rotate(key)
            | Self::Truncate(key)
            | Self::Remove(key)
            | Self::Forever(key)
            | Self::Last(key)
            | Self::SyncKey(key) => Some(key),
            _ => None,
        }
    }

    /// Whether the process does not live to see the end of it.
    pub fn dies(self) -> bool {
        matches!(self, Self::Kill | Self::Cut(_))
    }

    pub fn parse_all(text: &str) -> Vec<Self> {
        text.split_whitespace().map(|op| op.parse().unwrap_or_else(|e| panic!("{e}"))).collect()
    }

    pub fn print_all(ops: &[Self]) -> String {
        ops.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
