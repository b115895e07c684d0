//! How to build on this crate: a page for each kind of user, a recipe for each kind of use. Documentation
//! only; the module is not there when the crate is used.
//!
//! | you | read |
//! |---|---|
//! | run a broker, with a key for each partition of a topic | [`brokers`] |
//! | have more data than memory: references in RAM, data on disk | [`refs`] |
//! | keep a stream of events for each entity | [`events`] |
//! | look for a recipe: database log, queue, audit log, time series, web server log, users | [`recipes`] |
//! | replicate, archive, back up, look at a moment of the past, change a schema, run it | [`operations`] |
//! | wonder whether this is the right tool | [`when_not`] |
//! | come from nano-wal 0.4 | [`from_nano_wal`] |
//! | have a question | [`faq`] |
//!
//! What is promised, and what each call costs, stands in the [crate documentation](crate); what each option
//! does, at [`WalOptions`](crate::WalOptions). The pages here say which of them belong together, and why. Their
//! programs run as tests, in a directory `dir`; `examples/` in the repository has longer ones.

pub mod brokers;
pub mod events;
pub mod faq;
pub mod from_nano_wal;
pub mod operations;
pub mod recipes;
pub mod refs;
pub mod when_not;
