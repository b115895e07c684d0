//! How is a message broker built on a log? Topics with partitions chosen by routing key, priorities with
//! expiry, consumer groups that keep an offset for each partition, retries, dead letters, replay.
//!
//! ```text
//! cargo run --example messaging
//! ```

#[path = "messaging/broker.rs"]
mod broker;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use keywal::{Clock, Entry, ManualClock, Wal, WalOptions};

use broker::{Broker, Envelope, Topic, envelope_of};

type Result<T = (), E = Box<dyn Error>> = std::result::Result<T, E>;

const MAX_ATTEMPTS: u32 = 3;

#[derive(Default, Debug, PartialEq)]
struct Counts {
    acked: u64,
    retried: u64,
    dead: u64,
    expired: u64,
}

/// A consumer group: its offset in each partition is the index of the next message to deliver.
///
/// Delivery is at least once. A crash between what was done with a message and the note of its offset
/// delivers it again.
struct Consumer<'a> {
    broker: &'a Broker,
    topic: &'a Topic,
    group: &'static str,
    counts: Counts,
}

impl<'a> Consumer<'a> {
    fn new(broker: &'a Broker, topic: &'a Topic, group: &'static str) -> Self {
        Self { broker, topic, group, counts: Counts::default() }
    }

    fn offset_key(&self, key: &str) -> String {
        format!("offsets/{}/{key}", self.group)
    }

    /// The newest offset noted. What retention has dropped cannot be delivered any more.
    fn offset(&self, key: &str) -> Result<u64> {
        let noted = match self.broker.wal.last(self.offset_key(key))? {
            Some(entry) => u64::from_le_bytes(entry.content.as_ref().try_into()?),
            None => 0,
        };
        Ok(noted.max(self.broker.wal.first_index(key)?))
    }

    fn note_offset(&self, key: &str, offset: u64) -> Result {
        self.broker.wal.append_entry(self.offset_key(key), None, offset.to_le_bytes(), false)?;
        Ok(())
    }

    /// Messages that were published and not yet consumed.
    fn lag(&self) -> Result<u64> {
        let lag = |key: &String| Ok(self.broker.wal.next_index(key)? - self.offset(key)?);
        self.topic.keys().iter().map(lag).sum()
    }

    /// The next message: the most urgent one, and where it is.
    fn poll(&self) -> Result<Option<(String, Entry)>> {
        for key in self.topic.keys() {
            if let Some(entry) = self.broker.wal.get(&key, self.offset(&key)?)? {
                return Ok(Some((key, entry)));
            }
        }
        Ok(None)
    }

    /// Delivers messages until there are none. A handler that returns `Ok` acks the message.
    fn consume(&mut self, mut handler: impl FnMut(&[u8]) -> Result<(), String>) -> Result {
        while let Some((key, entry)) = self.poll()? {
            let envelope = envelope_of(&entry)?;
            let now_ms = self.broker.clock.now_ms();
            if envelope.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
                self.counts.expired += 1;
            } else if let Err(reason) = handler(&entry.content) {
                self.retry_or_bury(&key, envelope, &entry.content, reason)?;
            } else {
                self.counts.acked += 1;
            }
            self.note_offset(&key, entry.index + 1)?;
        }
        Ok(())
    }

    /// A failed message goes back to the end of its partition, and after the last attempt to the dead letters.
    fn retry_or_bury(
        &mut self,
        key: &str,
        mut envelope: Envelope,
        content: &[u8],
        reason: String,
    ) -> Result {
        envelope.attempts += 1;
        if envelope.attempts < MAX_ATTEMPTS {
            self.counts.retried += 1;
            return self.broker.append(key, &envelope, content);
        }
        self.counts.dead += 1;
        envelope.reason = Some(reason);
        self.broker.append(&self.topic.dead_letters(), &envelope, content)
    }

    /// Sets the offsets back to the first message that was published at `from_ms` or later.
    fn replay_from(&self, from_ms: u64) -> Result {
        for key in self.topic.keys() {
            self.note_offset(&key, self.broker.wal.index_at(&key, from_ms)?)?;
        }
        Ok(())
    }
}

/// Ten orders of three customers, an urgent one, one that nobody will want any more, and a bad one.
fn publish_all(broker: &Broker, topic: &Topic) -> Result {
    for number in 0..10 {
        let customer = ["ada", "bob", "cleo"][number % 3];
        broker.publish(
            topic,
            &Envelope::new(customer),
            format!("{customer} {number}").as_bytes(),
        )?;
    }
    let stale = Envelope::new("bob").expires(broker.clock.now_ms() + 1_000);
    broker.publish(topic, &stale, b"bob's offer of the minute")?;
    broker.publish(topic, &Envelope::new("cleo"), b"cleo bad")?;
    broker.publish(topic, &Envelope::new("ada").urgent(), b"ada urgent")
}

fn main() -> Result {
    let dir = tempfile::tempdir()?;
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let wal = Wal::new(dir.path(), WalOptions::default().clock(clock.clone()))?;
    let broker = Broker { wal, clock };
    let topic = Topic { name: "orders", partitions: 4 };
    publish_all(&broker, &topic)?;
    broker.clock.advance(Duration::from_secs(60));

    let mut billing = Consumer::new(&broker, &topic, "billing");
    let lag = billing.lag()?;
    let mut delivered = Vec::new();
    billing.consume(|content| {
        let text = String::from_utf8_lossy(content).into_owned();
        let result = if text.ends_with("bad") { Err("no such item".to_owned()) } else { Ok(()) };
        delivered.push(text);
        result
    })?;
    println!("billing had a lag of {lag}; now {}, {:?}", billing.lag()?, billing.counts);
    assert_eq!((lag, billing.lag()?), (13, 0));
    assert_eq!(billing.counts, Counts { acked: 11, retried: 2, dead: 1, expired: 1 });

    println!("delivered: {delivered:?}");
    assert_eq!(delivered[0], "ada urgent");
    let of_ada = delivered.iter().filter(|text| text.starts_with("ada "));
    assert!(of_ada.eq(&["ada urgent", "ada 0", "ada 3", "ada 6", "ada 9"]));

    for letter in broker.wal.entries(topic.dead_letters())? {
        let letter = letter?;
        let Envelope { routing_key, attempts, reason, .. } = envelope_of(&letter)?;
        println!("dead letter of {routing_key} after {attempts} attempts: {reason:?}");
        assert_eq!((&letter.content[..], attempts), (&b"cleo bad"[..], MAX_ATTEMPTS));
    }
    assert_eq!(broker.wal.len(topic.dead_letters())?, 1);

    // A group of its own starts at the beginning, and does not move the offsets of others.
    let mut audit = Consumer::new(&broker, &topic, "audit");
    audit.consume(|_| Ok(()))?;
    broker.clock.advance(Duration::from_secs(6 * 60 * 60));
    let evening_ms = broker.clock.now_ms();
    broker.publish(&topic, &Envelope::new("ada"), b"ada in the evening")?;
    audit.consume(|_| Ok(()))?;
    audit.replay_from(evening_ms)?;
    println!("audit acked {}; the evening to be replayed: {}", audit.counts.acked, audit.lag()?);
    assert_eq!((audit.counts.acked, audit.lag()?, billing.lag()?), (15, 1, 1));

    let mut published = BTreeMap::new();
    for key in topic.keys() {
        published.insert(key.clone(), broker.wal.len(&key)?);
    }
    println!("entries of each partition: {published:?}");
    assert_eq!(published.values().sum::<u64>(), 16);
    Ok(broker.wal.shutdown()?)
}
