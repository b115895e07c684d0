//! The program `keywal`: looks into the directories of the library of that name, checks and repairs
//! them, moves what they hold in and out.

#![deny(unsafe_code)]

mod append;
mod args;
mod backup;
mod check;
mod drops;
mod entry;
mod export;
mod failure;
mod generate;
mod import;
mod list;
mod nano;
mod open;
mod progress;
mod read;
mod repair;
mod retention;
mod target;
mod text;
mod times;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use failure::{Failure, Outcome};

fn main() -> ExitCode {
    // Usage errors, help and version end here, with code 2 or 0.
    let args = Args::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = run(args.command, &mut out);
    let outcome = outcome.and_then(|done| out.flush().map(|()| done).map_err(Failure::from));
    match outcome {
        Ok(done) => done.exit_code(),
        Err(failure) => {
            // What was printed before the failure is as good as ever.
            let _ = out.flush();
            failure.report()
        }
    }
}

fn run(command: Command, out: &mut dyn Write) -> Result<Outcome, Failure> {
    match command {
        Command::Ls(args) => list::run(&args, out),
        Command::Cat(args) => read::cat(&args, out),
        Command::Get(args) => read::get(&args, out),
        Command::Tail(args) => read::tail(&args, out),
        Command::Append(args) => append::run(&args, out),
        Command::Snapshot(args) => backup::snapshot(&args, out),
        Command::Restore(args) => backup::restore(&args, out),
        Command::Stats(args) => check::stats(&args, out),
        Command::Verify(args) => check::verify(&args, out),
        Command::Repair(args) => repair::run(&args, out),
        Command::Compact(args) => drops::compact(&args, out),
        Command::Retention(args) => retention::run(&args, out),
        Command::Remove(args) => drops::remove(&args, out),
        Command::Destroy(args) => drops::destroy(&args, out),
        Command::Export(args) => export::run(&args, out),
        Command::Import(args) => import::run(&args, out),
        Command::Completions(args) => generate::completions(&args, out),
        Command::Man(args) => generate::man(&args, out),
    }
}
