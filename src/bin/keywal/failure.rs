//! How a command ends: exit codes, and what is said on standard error.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use keywal::{Finding, WalError};

use crate::text::show_content;

const ERROR: u8 = 1;
const USAGE: u8 = 2;
const DAMAGE: u8 = 3;
const LOCKED: u8 = 4;

/// How a command that did its work ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Everything that can be read was, and some cannot.
    Damaged,
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    Error(String),
    Usage(String),
    Damage(String),
    Locked(String),
    /// Standard output could not be written.
    Output(io::Error),
}

impl Outcome {
    pub fn of(damaged: bool) -> Self {
        if damaged { Self::Damaged } else { Self::Done }
    }

    /// Of two things that were done.
    pub fn and(self, other: Self) -> Self {
        Self::of([self, other].contains(&Self::Damaged))
    }

    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Damaged => ExitCode::from(DAMAGE),
        }
    }
}

impl Failure {
    pub fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// A call of the operating system on a file that failed.
    pub fn file(path: &Path, operation: &str, error: &io::Error) -> Self {
        Self::Error(format!("{}: cannot {operation}: {error}", path.display()))
    }

    /// The same failure, with what has been done before it.
    pub fn context(self, before: impl Display) -> Self {
        match self {
            Self::Error(text) => Self::Error(format!("{before}{text}")),
            Self::Usage(text) => Self::Usage(format!("{before}{text}")),
            Self::Damage(text) => Self::Damage(format!("{before}{text}")),
            Self::Locked(text) => Self::Locked(format!("{before}{text}")),
            Self::Output(error) => Self::Output(error),
        }
    }

    pub fn report(self) -> ExitCode {
        let (text, code) = match self {
            // Whoever reads the output has had enough of it.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return ExitCode::SUCCESS;
            }
            Self::Output(error) => (format!("cannot write the output: {error}"), ERROR),
            Self::Error(text) => (text, ERROR),
            Self::Usage(text) => (text, USAGE),
            Self::Damage(text) => (text, DAMAGE),
            Self::Locked(text) => (text, LOCKED),
        };
        say(text);
        ExitCode::from(code)
    }
}

impl From<WalError> for Failure {
    fn from(error: WalError) -> Self {
        let text = describe(&error);
        match error {
            WalError::Corrupted { .. } => Self::Damage(text),
            WalError::Locked { .. } => {
                Self::Locked(format!("{text}; of a log in use, `keywal restore` makes a copy"))
            }
            _ => Self::Error(text),
        }
    }
}

/// Of writing the output: nothing else gives a bare `io::Error`.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The error with its causes.
pub fn describe(error: &WalError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A finding as a line of text.
pub fn show_finding(Finding { path, offset, bytes, what }: &Finding) -> String {
    let place = match bytes {
        0 => String::new(),
        _ => format!("from offset {offset}, {bytes} bytes: "),
    };
    format!("{}: {place}{what}", show_content(path.to_string_lossy().as_bytes()))
}

/// Says what is damaged, in the words of the error that reading it gives.
pub fn say_damaged(findings: &[Finding]) -> Outcome {
    say_found("damaged", findings);
    Outcome::of(!findings.is_empty())
}

/// Says where something was found, and what.
pub fn say_found(kind: &str, findings: &[Finding]) {
    for Finding { path, offset, bytes, what } in findings {
        let place = match bytes {
            0 => String::new(),
            _ => format!(" from offset {offset}, {bytes} bytes"),
        };
        say(format!("{}: {kind}{place}: {what}", path.display()));
    }
}

/// Says something on standard error, as long as somebody listens. What others made up (names of files, of
/// fields) is part of it, so control characters are shown, not sent.
pub fn say(text: impl Display) {
    let text = show_content(text.to_string().as_bytes());
    let _ = writeln!(io::stderr().lock(), "keywal: {text}");
}
