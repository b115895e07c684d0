//! The options and operations of a case, made of small numbers that shrink.

/// The options of a case, as small numbers that shrink to the plainest.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub retention_ms: u64,
    pub segments: u32,
    pub max_segment_bytes: u64,
    pub max_open_files: usize,
    pub preallocate_bytes: u64,
    pub journal_bytes: u64,
    pub max_entries_per_key: Option<u64>,
    pub max_bytes_per_key: Option<u64>,
    pub min_entries_per_key: u64,
}

impl From<(u8, u8, u8, u8, u8, u8)> for Limits {
    fn from(
        (retention, segments, bytes, files, preallocate, per_key): (u8, u8, u8, u8, u8, u8),
    ) -> Self {
        let max_segment_bytes = [1 << 20, 4096, 5000, 16 << 10][usize::from(bytes)];
        Self {
            retention_ms: [1000, 10, 60_000, 600_000][usize::from(retention)],
            segments: [4, 1, 10][usize::from(segments)],
            max_segment_bytes,
            max_open_files: [512, 1, 2, 3][usize::from(files)],
            preallocate_bytes: [0, 1, max_segment_bytes / 2][usize::from(preallocate)],
            journal_bytes: [64 << 10, 0, 4 << 10][usize::from((files + segments) % 3)],
            max_entries_per_key: [None, None, Some(7), None][usize::from(per_key)],
            max_bytes_per_key: [None, None, None, Some(9000)][usize::from(per_key)],
            min_entries_per_key: [0, 2, 0, 3][usize::from(per_key)],
        }
    }
}

/// An operation as four numbers, which shrink to 0: an append.
#[derive(Debug, Clone, Copy)]
pub struct Raw {
    kind: u8,
    key: usize,
    a: u16,
    b: u16,
}

impl From<(u8, u8, u16, u16)> for Raw {
    fn from((kind, key, a, b): (u8, u8, u16, u16)) -> Self {
        Self { kind, key: usize::from(key), a, b }
    }
}

#[derive(Debug, Clone, Copy)]
pub enum Op {
    Append {
        key: usize,
        size: u16,
        disk: bool,
    },
    LogEntry {
        key: usize,
        size: u16,
    },
    Batch {
        key: usize,
        entries: u16,
        size: u16,
        disk: bool,
    },
    AppendIf {
        key: usize,
        off: u16,
        size: u16,
    },
    /// To this key, to another one or the same, and to this one again.
    Many {
        key: usize,
        step: u16,
        size: u16,
        disk: bool,
    },
    Sync,
    SyncKey {
        key: usize,
    },
    ReadRefs {
        pick: u16,
    },
    MadeUpRef {
        pick: u16,
        tweak: u16,
    },
    Get {
        key: usize,
        pick: u16,
    },
    Range {
        key: usize,
        from: u16,
        to: u16,
    },
    TimeRange {
        key: usize,
        from: u16,
        to: u16,
    },
    LastN {
        key: usize,
        n: u16,
        turns: u16,
    },
    BothEnds {
        key: usize,
        turns: u16,
    },
    CheckKey {
        key: usize,
    },
    CheckAll,
    Advance {
        how: u16,
        n: u16,
    },
    StepBack {
        how: u16,
    },
    JumpAhead {
        how: u16,
    },
    Compact,
    Truncate {
        key: usize,
        pick: u16,
    },
    Remove {
        key: usize,
    },
    SetRetention {
        key: usize,
        how: u16,
        n: u16,
    },
    CreateKey {
        key: usize,
        how: u16,
        n: u16,
    },
    Shutdown,
    Kill,
    DropAndReopen,
}

impl Raw {
    pub fn decode(self) -> Op {
        let Self { kind, key, a, b } = self;
        match kind {
            0..=18 => Op::Append { key, size: a, disk: b % 4 == 1 },
            19..=20 => Op::SetRetention { key, how: a, n: b },
            21 => Op::CreateKey { key, how: a, n: b },
            22..=23 => Op::LogEntry { key, size: a },
            24..=26 => Op::Batch { key, entries: b / 2 % 5, size: a, disk: b % 2 == 1 },
            27..=29 => Op::Many { key, step: b / 2, size: a, disk: b % 2 == 1 },
            30..=32 => Op::AppendIf { key, off: b % 3, size: a },
            33 => Op::Sync,
            34 => Op::SyncKey { key },
            35..=38 => Op::ReadRefs { pick: a },
            39..=42 => Op::MadeUpRef { pick: a, tweak: b },
            43..=45 => Op::Get { key, pick: a },
            46..=48 => Op::Range { key, from: a, to: b },
            49..=51 => Op::TimeRange { key, from: a, to: b },
            52..=53 => Op::LastN { key, n: a, turns: b },
            54..=56 => Op::BothEnds { key, turns: a },
            57..=59 => Op::CheckKey { key },
            60 => Op::CheckAll,
            61..=70 => Op::Advance { how: a, n: b },
            71 => Op::StepBack { how: a },
            72 => Op::JumpAhead { how: a },
            73..=79 => Op::Compact,
            80..=83 => Op::Truncate { key, pick: a },
            84..=86 => Op::Remove { key },
            87..=91 => Op::Shutdown,
            92..=96 => Op::Kill,
            _ => Op::DropAndReopen,
        }
    }
}
