//! `retention`: what is kept of a key; and how that is shown, and written as JSON.

use std::io::Write;
use std::time::Duration;

use keywal::{Retention, WalError};
use serde::{Deserialize, Serialize};

use crate::args;
use crate::entry::{print_json, text_or_base64};
use crate::failure::{Failure, Outcome};
use crate::list::no_such_key;
use crate::text::{counted, show_key};
use crate::{open, times};

/// A retention as JSON. A limit that is not there is none, so `{}` keeps everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    min_entries: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Retention> for Limits {
    fn from(retention: Retention) -> Self {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            max_age_ms: retention.max_age.map(millis),
            max_entries: retention.max_entries,
            max_bytes: retention.max_bytes,
            min_entries: retention.min_entries,
        }
    }
}

impl From<Limits> for Retention {
    fn from(limits: Limits) -> Self {
        let mut retention = Self::FOREVER.min_entries(limits.min_entries);
        retention.max_age = limits.max_age_ms.map(Duration::from_millis);
        retention.max_entries = limits.max_entries;
        retention.max_bytes = limits.max_bytes;
        retention
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// Of its own, or null.
    retention: Option<Limits>,
}

pub fn run(args: &args::Retention, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let key = args.key.key()?;
    let limits = args.limits();
    let (retention, found) = if args.none || limits.is_some() {
        change(args, &key, limits)?
    } else {
        let (log, found) = open::read(&args.key.dir)?;
        if log.segments(&key)?.is_empty() {
            return Err(no_such_key(&key));
        }
        (log.retention(&key)?, found)
    };
    if args.json {
        let (key, key_base64) = text_or_base64(Some(&key));
        print_json(out, &Shown { key, key_base64, retention: retention.map(Limits::from) })?;
    } else {
        let retention =
            retention.map_or_else(|| "none of its own".to_owned(), |retention| show(&retention));
        writeln!(out, "{}: {retention}", show_key(&key))?;
    }
    Ok(found)
}

fn change(
    args: &args::Retention,
    key: &[u8],
    retention: Option<Retention>,
) -> Result<(Option<Retention>, Outcome), Failure> {
    let options = open::for_reading();
    let check = retention.map_or(Ok(()), |retention| retention.validate(&options));
    check.map_err(|error| Failure::usage(error.to_string()))?;
    let set = |wal: &keywal::Wal| {
        if !args.create && wal.segments(key)?.is_empty() {
            return Err(no_such_key(key).context("nothing was changed: "));
        }
        wal.set_retention(key, retention).map_err(|error| {
            let is_damage = matches!(error, WalError::Corrupted { .. });
            let before = if is_damage { "nothing was changed; see `keywal repair`: " } else { "" };
            Failure::from(error).context(before)
        })?;
        Ok(wal.retention(key)?)
    };
    if args.create {
        open::or_create(&args.key.dir, options, set)
    } else {
        open::existing(&args.key.dir, options, set)
    }
}

impl args::Retention {
    /// What was asked for; `None`: nothing.
    fn limits(&self) -> Option<Retention> {
        let mut retention = Retention::FOREVER;
        retention.max_age = self.max_age;
        retention.max_entries = self.max_entries.or(self.keep_last);
        retention.max_bytes = self.max_bytes;
        retention.min_entries = self.min_entries.or(self.keep_last).unwrap_or(0);
        (self.forever || retention != Retention::FOREVER).then_some(retention)
    }
}

/// A retention in a few words.
pub fn show(retention: &Retention) -> String {
    let limits = Limits::from(*retention);
    let mut parts = Vec::new();
    parts.extend(limits.max_age_ms.map(times::show_duration));
    match limits.max_entries {
        Some(n) if n == limits.min_entries => parts.push(format!("last {n}")),
        Some(n) => parts.push(counted(n, "entry", "entries")),
        None => {}
    }
    parts.extend(limits.max_bytes.map(|n| counted(n, "byte", "bytes")));
    if parts.is_empty() {
        parts.push("forever".to_owned());
    }
    if limits.min_entries > 0 && limits.max_entries != Some(limits.min_entries) {
        parts.push(format!("at least {}", counted(limits.min_entries, "entry", "entries")));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_shown_in_a_few_words_and_comes_back_from_json() {
        let hour = Duration::from_secs(60 * 60);
        for (retention, shown, json) in [
            (Retention::FOREVER, "forever", "{}"),
            (Retention::keep_for(hour), "1h", r#"{"max_age_ms":3600000}"#),
            (Retention::keep_last(1), "last 1", r#"{"max_entries":1,"min_entries":1}"#),
            (
                Retention::keep_for(hour).max_entries(9).max_bytes(1 << 30).min_entries(2),
                "1h, 9 entries, 1073741824 bytes, at least 2 entries",
                r#"{"max_age_ms":3600000,"max_entries":9,"max_bytes":1073741824,"min_entries":2}"#,
            ),
        ] {
            assert_eq!(show(&retention), shown);
            let limits = Limits::from(retention);
            assert_eq!(serde_json::to_string(&limits).unwrap(), json);
            assert_eq!(Retention::from(serde_json::from_str::<Limits>(json).unwrap()), retention);
        }
        assert!(serde_json::from_str::<Limits>(r#"{"max_age":"1h"}"#).is_err());
    }
}
