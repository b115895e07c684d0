//! How does keywal compare with other crates that keep logs, and with what the machine allows? The same
//! workloads over keywal, the floors (raw system calls with a checksum over the same bytes) and every
//! comparable crate that builds, interleaved in one run:
//!
//! ```console
//! $ cargo run --release --manifest-path benches/peers/Cargo.toml
//! ```
//!
//! Behind `--`: words that pick workloads and subjects by a part of their names or of the titles of the
//! tables (`durable`, `keywal`, `floor`, `"1,000 keys"`); `--rounds N`, 5 unless given; `--test`, which
//! runs everything once and small and fails if anything that should work does not. The data goes to
//! `KEYWAL_BENCH_DIR`, by default beside the program.
//!
//! In each round every subject runs, in an order that is rotated by one, each in a process and in a
//! directory of its own (reopening keeps the directory): so no subject meets threads, memory or open
//! files that another left behind. A figure is the median over the rounds, with the 10th and the 90th
//! percentile behind it; the ratios are those of one round, so that they hold when the machine is busy.
//!
//! A subject is marked with what an append survives that was not asked to be durable: nothing (`buf`),
//! the death of the process (`kill`), power loss (`disk`). The module of each peer names the calls that
//! this rests on, and how the peer was used: as its documentation advises, one log for each key where it
//! has no keys. Where that needs more descriptors than the process may have (`ulimit -n`), it fails.
//! `-` is where a subject has no such call; the reason is printed.
//!
//! Left out: rocksdb, whose build needs a C++ compiler and libclang.

mod child;
mod floors;
mod limits;
mod options;
mod run;
mod stats;
mod subject;
mod subjects;
mod table;
mod workloads;

use std::error::Error;
use std::process::ExitCode;

use options::Options;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if child::is_child(&arguments) {
        return child::main(&arguments).map(|()| ExitCode::SUCCESS);
    }
    let failures = run::run(&Options::parse(&arguments)?)?;
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
