//! The side of the broker: what a message carries, where it goes, and how it is published.

use std::sync::Arc;

use bytes::Bytes;
use keywal::{Entry, ManualClock, Wal};
use serde::{Deserialize, Serialize};

use super::Result;

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub enum Priority {
    High,
    Normal,
}

/// What the broker has to know of a message: the entry's header. The content is the application's.
#[derive(Serialize, Deserialize, Clone)]
pub struct Envelope {
    pub routing_key: String,
    pub priority: Priority,
    /// Nobody wants the message from then on.
    pub expires_ms: Option<u64>,
    /// How often it has been tried.
    pub attempts: u32,
    /// Why it became a dead letter.
    pub reason: Option<String>,
}

impl Envelope {
    pub fn new(routing_key: &str) -> Self {
        let routing_key = routing_key.to_owned();
        Self {
            routing_key,
            priority: Priority::Normal,
            expires_ms: None,
            attempts: 0,
            reason: None,
        }
    }

    pub fn urgent(self) -> Self {
        Self { priority: Priority::High, ..self }
    }

    pub fn expires(self, at_ms: u64) -> Self {
        Self { expires_ms: Some(at_ms), ..self }
    }
}

/// One key is one partition of a topic at one priority, so that urgent messages overtake the others.
pub struct Topic {
    pub name: &'static str,
    pub partitions: u64,
}

impl Topic {
    fn key(&self, partition: u64, priority: Priority) -> String {
        format!("{}/{partition}/{priority:?}", self.name)
    }

    /// The same partition for the same routing key, so its messages stay in order. FNV-1a, because the
    /// standard library's hash may change with its version.
    fn partition_of(&self, routing_key: &str) -> u64 {
        let hash = routing_key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash % self.partitions
    }

    pub fn dead_letters(&self) -> String {
        format!("{}.dead", self.name)
    }

    /// All keys of the topic, urgent ones first.
    pub fn keys(&self) -> Vec<String> {
        let of = |priority| (0..self.partitions).map(move |number| self.key(number, priority));
        of(Priority::High).chain(of(Priority::Normal)).collect()
    }
}

pub struct Broker {
    pub wal: Wal,
    pub clock: Arc<ManualClock>,
}

impl Broker {
    pub fn publish(&self, topic: &Topic, envelope: &Envelope, content: &[u8]) -> Result {
        let partition = topic.partition_of(&envelope.routing_key);
        self.append(&topic.key(partition, envelope.priority), envelope, content)
    }

    pub fn append(&self, key: &str, envelope: &Envelope, content: &[u8]) -> Result {
        let header = Bytes::from(serde_json::to_vec(envelope)?);
        self.wal.append_entry(key, Some(header), content, true)?;
        Ok(())
    }
}

pub fn envelope_of(entry: &Entry) -> Result<Envelope> {
    let header = entry.header.as_deref().ok_or("a message without an envelope")?;
    Ok(serde_json::from_slice(header)?)
}
