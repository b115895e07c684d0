//! Completions and man pages, made from the arguments.

use std::io::Write;

use clap::CommandFactory;

use crate::args::{Args, Completions, Man};
use crate::failure::{Failure, Outcome};

pub fn completions(args: &Completions, out: &mut dyn Write) -> Result<Outcome, Failure> {
    // The generator panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "keywal", &mut script);
    out.write_all(&script)?;
    Ok(Outcome::Done)
}

pub fn man(args: &Man, out: &mut dyn Write) -> Result<Outcome, Failure> {
    let command = Args::command();
    let Some(dir) = &args.dir else {
        clap_mangen::Man::new(command).render(out)?;
        return Ok(Outcome::Done);
    };
    clap_mangen::generate_to(command, dir)
        .map_err(|error| Failure::file(dir, "write the pages", &error))?;
    Ok(Outcome::Done)
}
