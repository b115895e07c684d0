//! Does what the fuzzers have found interesting still hold?
//!
//! Runs the targets of `fuzz/` over the inputs in `fuzz/corpus/`, under the same limit on the heap. An
//! input that failed belongs there, too, once that is mended.

use std::fs;
use std::path::Path;

use targets::{directory, format, operations, references};

mod common;
#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

#[global_allocator]
static HEAP: common::heap::Counting = common::heap::Counting;

/// The limit on the heap is the whole process's, so there is one test.
#[test]
fn all_inputs_pass() {
    type Target = (&'static str, fn(&[u8]));
    let targets: [Target; 4] = [
        ("format", format::run),
        ("directory", directory::run),
        ("operations", operations::run),
        ("references", references::run),
    ];
    for (name, run) in targets {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut inputs: Vec<_> =
            fs::read_dir(folder).unwrap().map(|input| input.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name}: no inputs");
        for input in &inputs {
            // A failure in an optimised build may end the process: this says where.
            eprintln!("{}", input.display());
            run(&fs::read(input).unwrap());
        }
        println!("{name}: {} inputs", inputs.len());
    }
}
