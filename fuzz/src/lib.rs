//! What the fuzzers run: the bodies of the targets, under an allocator with a limit.

#[path = "../../tests/common/mod.rs"]
pub mod common;
pub mod targets;

#[global_allocator]
static HEAP: common::heap::Counting = common::heap::Counting;
