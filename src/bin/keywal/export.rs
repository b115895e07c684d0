//! `export`: everything as JSON lines.

use std::io::Write;

use keywal::WalError;

use crate::args::Export;
use crate::entry::{Line, print_json};
use crate::failure::{Failure, Outcome, describe, say};
use crate::list::{own, sorted};
use crate::open;
use crate::progress::Progress;
use crate::read::{entries_of, pass_over};
use crate::text::show_key;

pub fn run(args: &Export, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let asked = args.keys.iter().map(|key| args.syntax.key(key)).collect::<Result<Vec<_>, _>>()?;
    let (log, found) = &open::read(&args.dir)?;
    let (keys, unreadable) = if asked.is_empty() {
        let (keys, unreadable) = sorted(log.enumerate_keys()?);
        (keys.iter().map(|key| key.to_vec()).collect(), unreadable)
    } else {
        (asked, 0)
    };
    let mut damaged = unreadable > 0;
    let progress = Progress::new("keys", keys.len() as u64);
    for key in keys {
        let entries = match log.entries(&key) {
            Ok(_) => entries_of(log, &key)?,
            Err(error @ WalError::Corrupted { .. }) => {
                say(format!("{}: {}", show_key(&key), describe(&error)));
                damaged = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(line) = Line::of_key(&key, &own(log, &key)?) {
            print_json(out, &line)?;
        }
        for entry in entries {
            match entry {
                Ok(entry) => print_json(out, &Line::new(&key, &entry))?,
                Err(error) => {
                    pass_over(&error)?;
                    damaged = true;
                }
            }
        }
        progress.step(1);
    }
    Ok(found.and(Outcome::of(damaged)))
}
