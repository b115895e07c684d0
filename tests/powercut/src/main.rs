//! Is every acknowledged entry there after a power cut on a real file system?
//!
//! The disk is a file that a FUSE server of ours provides. It remembers every write and every flush in
//! their order. A loop device makes it a disk, mkfs makes a file system on it, and a random workload runs
//! on a log there. Whenever a call returns, the length of the disk's memory is noted, and with it what
//! has been promised by then.
//!
//! Then the power is cut, afterwards and many times: a disk is made that holds all that was written before
//! the last flush before some moment, and a random subset of the sectors written between that flush and
//! the moment: sectors of 512 bytes under ext4, of 4096 under XFS. It is mounted, so that the real file
//! system replays its journal, and opened with keywal, and has to hold what had been promised at that
//! moment. Sometimes the power is cut again, during recovery or after it.
//!
//! `tests/soak.sh powercut-ext4`, `powercut-xfs` and `powercut-eio` run it, as root:
//! * `KEYWAL_IMAGES`: how many power cuts (for `eio`, how many failures of the disk).
//! * `KEYWAL_SEED`: of everything.
//! * `KEYWAL_CUT`: one power cut, as a failure prints it, again and again: the kernel decides on its own
//!   when it writes what, so the same one may take some tries.

use std::process::ExitCode;

use common::env_number;
use disk::Disk;
use rig::{EXT4, XFS};

mod check;
#[path = "../../common/mod.rs"]
mod common;
mod cuts;
mod disk;
mod eio;
mod fuse;
mod rig;
mod workload;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |name, default| env_number(name).unwrap_or(default);
    let seed = number("KEYWAL_SEED", 1);
    let done = match &arguments[..] {
        ["ext4"] => cuts::power_cuts(&EXT4, number("KEYWAL_IMAGES", 10_000), seed),
        ["xfs"] => cuts::power_cuts(&XFS, number("KEYWAL_IMAGES", 500), seed),
        ["eio"] => [&EXT4, &XFS].into_iter().try_for_each(|file_system| {
            eio::failing_disks(file_system, number("KEYWAL_IMAGES", 200), seed)
        }),
        ["serve", root, bytes, sector_bytes] => match (bytes.parse(), sector_bytes.parse()) {
            (Ok(bytes), Ok(sector_bytes)) => {
                rig::serve(&root.into(), Disk::new(bytes, sector_bytes))
            }
            _ => Err("these are no sizes".into()),
        },
        _ => Err("one of these is missing: ext4, xfs, eio".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
