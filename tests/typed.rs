//! Are typed streams what they are said to be: events come back or say why not, old versions are upcast,
//! conflicts are told, and a snapshot changes nothing but the time it takes to load?

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keywal::fs::sim::{CrashBudget, SimDir};
use keywal::typed::{
    Aggregate, BoxError, Codec, Envelope, Event, EventStore, ExpectedVersion, Json, Loaded,
    Metadata, TypedError, Upcasters,
};
use keywal::{Durability, Wal, WalError, WalOptions};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use common::logs::options;

const STREAM: &str = "account:7";
const SNAPSHOTS: &str = "snapshots/account/account:7";

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
#[serde(rename_all = "snake_case")]
enum AccountEvent {
    Opened {
        given_name: String,
        family_name: String,
        country: Option<String>,
    },
    Deposited {
        cents: u64,
    },
    /// Not in `TYPES`: a mistake of the program.
    Forgotten,
}

impl Event for AccountEvent {
    const TYPES: &'static [(&'static str, u32)] = &[("opened", 3), ("deposited", 1)];

    fn event_type(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::Deposited { .. } => "deposited",
            Self::Forgotten => "forgotten",
        }
    }
}

#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Default)]
struct Account {
    owner: String,
    cents: u64,
    events: u64,
}

impl Aggregate for Account {
    type Event = AccountEvent;
    const NAME: &'static str = "account";

    fn apply(&mut self, event: AccountEvent) {
        self.events += 1;
        match event {
            AccountEvent::Opened { family_name, .. } => self.owner = family_name,
            AccountEvent::Deposited { cents } => self.cents += cents,
            AccountEvent::Forgotten => {}
        }
    }
}

/// As `Account`, after its schema changed.
#[derive(Serialize, Deserialize, Debug, PartialEq, Default)]
struct NewAccount(Account);

impl Aggregate for NewAccount {
    type Event = AccountEvent;
    const NAME: &'static str = "account";
    const SNAPSHOT_VERSION: u32 = 2;

    fn apply(&mut self, event: AccountEvent) {
        self.0.apply(event);
    }
}

type Store = EventStore<AccountEvent, Json>;

fn store_on(sim: &SimDir) -> Store {
    let small = options().max_segment_bytes(4_096);
    EventStore::new(Arc::new(Wal::open_in(Arc::new(sim.clone()), small).unwrap()), Json)
}

fn store() -> Store {
    store_on(&SimDir::new(1))
}

fn deposited(cents: u64) -> AccountEvent {
    AccountEvent::Deposited { cents }
}

fn deposit(store: &Store, times: u64) {
    for cents in 1..=times {
        let any = ExpectedVersion::Any;
        store.append(STREAM, any, [&deposited(cents)], &Metadata::default()).unwrap();
    }
}

/// What `load` gives is what all events give.
fn load(store: &Store) -> Loaded<Account> {
    let loaded = store.load::<Account>(STREAM).unwrap();
    let replayed = store.replay::<Account>(STREAM, u64::MAX).unwrap();
    assert_eq!((&loaded.aggregate, loaded.version), (&replayed.aggregate, replayed.version));
    loaded
}

/// An event as a program of that time wrote it.
fn put(store: &Store, event_type: &str, schema_version: u32, content: &Value) {
    let mut header = b"KE\x01\x00".to_vec();
    header.extend_from_slice(&schema_version.to_le_bytes());
    header.extend_from_slice(&u16::try_from(event_type.len()).unwrap().to_le_bytes());
    header.extend_from_slice(event_type.as_bytes());
    store.wal().append_entry(STREAM, Some(header.into()), content.to_string(), true).unwrap();
}

#[test]
fn events_come_back_with_what_is_known_of_them() {
    let store = store();
    let request = Metadata::correlated("req-1");
    let events = [deposited(1), deposited(2)];
    let first = store.append(STREAM, ExpectedVersion::NoStream, &events, &request).unwrap();
    assert_eq!((first.version, first.references.len()), (2, 2));
    let caused = request.caused_by("account:7@1");
    let second = store.append(STREAM, first.version, [&deposited(3)], &caused).unwrap();
    assert_eq!((second.version, store.version(STREAM).unwrap()), (3, 3));

    let all: Vec<_> = store.events(STREAM, ..).unwrap().collect::<Result<_, _>>().unwrap();
    let seen: Vec<_> = all.iter().map(|recorded| (&recorded.event, recorded.index)).collect();
    assert_eq!(seen, [(&deposited(1), 0), (&deposited(2), 1), (&deposited(3), 2)]);
    assert_eq!((&all[1].metadata, &all[2].metadata), (&request, &caused));
    assert_eq!(all[2].metadata.correlation_id.as_deref(), Some("req-1"));
    assert_eq!(all[2].schema_version, 1);
    assert_eq!(store.read(second.references[0]).unwrap(), all[2]);
    let newest = store.events(STREAM, 1..).unwrap().next_back().unwrap().unwrap();
    assert_eq!(newest, all[2]);
}

#[test]
fn conflicts_tell_what_a_retry_needs() {
    let store = store();
    deposit(&store, 2);
    let none = Metadata::default();
    for expected in [ExpectedVersion::NoStream, ExpectedVersion::Exact(1), 3.into()] {
        for events in [&[deposited(9), deposited(9)][..], &[]] {
            let conflict = store.append(STREAM, expected, events, &none).unwrap_err();
            assert!(matches!(conflict, TypedError::Conflict { actual: 2, .. }), "{conflict}");
        }
    }
    assert_eq!(store.version(STREAM).unwrap(), 2);
    let nothing = store.append(STREAM, 2, [], &none).unwrap();
    assert_eq!((nothing.version, nothing.references), (2, Vec::new()));
}

#[test]
fn a_command_decides_again_until_it_was_the_fastest() {
    let store = store();
    let attempts = AtomicU64::new(0);
    let decide = |account: &Account| {
        if attempts.fetch_add(1, Ordering::Relaxed) == 0 {
            deposit(&store, 1);
        }
        Ok::<_, TypedError>(vec![deposited(10 + account.cents)])
    };
    let appended = store.execute(STREAM, &Metadata::default(), decide).unwrap();
    assert_eq!((appended.version, attempts.load(Ordering::Relaxed)), (2, 2));
    assert_eq!(load(&store).aggregate.cents, 12, "decided on what the rival left");

    let refuse = |_: &Account| Err::<Vec<AccountEvent>, BoxError>("no".into());
    let refused = store.execute(STREAM, &Metadata::default(), refuse).unwrap_err();
    assert_eq!(refused.to_string(), "no");

    let writer = || {
        for _ in 0..20 {
            let one = |account: &Account| Ok::<_, TypedError>(vec![deposited(account.events)]);
            store.execute(STREAM, &Metadata::default(), one).unwrap();
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(writer))));
    assert_eq!(load(&store).version, 82);
}

#[test]
fn what_cannot_be_written_is_not() {
    let store = store();
    let none = Metadata::default();
    let mixed = [deposited(1), AccountEvent::Forgotten];
    let error = store.append(STREAM, 0, &mixed, &none).unwrap_err();
    assert!(matches!(error, TypedError::Encode { .. }), "{error}");
    let error = store.append(SNAPSHOTS, 0, [&deposited(1)], &none).unwrap_err();
    assert!(matches!(error, TypedError::ReservedName), "{error}");
    let error = store.save_snapshot(SNAPSHOTS, &load(&store)).unwrap_err();
    assert!(matches!(error, TypedError::ReservedName), "{error}");
    let long = Metadata::correlated("x".repeat(65_536));
    let error = store.append(STREAM, 0, [&deposited(1)], &long).unwrap_err();
    assert!(matches!(error, TypedError::Wal(WalError::HeaderTooLarge { .. })), "{error}");
    assert_eq!(store.wal().enumerate_keys().unwrap().count(), 0);
}

#[derive(Serialize, Deserialize)]
struct OpenedV1 {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct OpenedV2 {
    given_name: String,
    family_name: String,
}

/// 1 to 2: the name in two parts. 2 to 3: a country, which is not known.
fn upcasters() -> Upcasters<Json> {
    let to_2 = |old: OpenedV1| {
        let (given, family) = old.name.split_once(' ').ok_or("a name of one word")?;
        Ok(OpenedV2 { given_name: given.to_owned(), family_name: family.to_owned() })
    };
    let to_3 = |mut old: Value| {
        old["country"] = Value::Null;
        Ok(json!({ "opened": old }))
    };
    Upcasters::new().step("opened", 1, to_2).step("opened", 2, to_3)
}

#[test]
fn old_versions_are_upcast_one_step_after_the_other() {
    let store = store().upcasters(upcasters()).unwrap();
    let opened = |country: Option<&str>| AccountEvent::Opened {
        given_name: "Ada".to_owned(),
        family_name: "Lovelace".to_owned(),
        country: country.map(str::to_owned),
    };
    put(&store, "opened", 1, &json!({"name": "Ada Lovelace"}));
    put(&store, "opened", 2, &json!({"given_name": "Ada", "family_name": "Lovelace"}));
    store.append(STREAM, 2, [&opened(Some("UK"))], &Metadata::default()).unwrap();
    let all: Vec<_> = store.events(STREAM, ..).unwrap().map(Result::unwrap).collect();
    let envelopes = store.wal().entries(STREAM).unwrap();
    let envelopes = envelopes.map(|entry| Envelope::of(&entry.unwrap()).unwrap());
    let types: Vec<_> = envelopes.map(|of| (of.event_type, of.schema_version)).collect();
    assert_eq!(types, [1, 2, 3].map(|version| ("opened".to_owned(), version)));
    let seen: Vec<_> = all.iter().map(|event| (event.schema_version, &event.event)).collect();
    let (none, known) = (opened(None), opened(Some("UK")));
    assert_eq!(seen, [(1, &none), (2, &none), (3, &known)]);
    assert_eq!(load(&store).aggregate.owner, "Lovelace");
}

#[test]
fn what_cannot_be_read_says_why_and_is_not_passed_over() {
    type IsExpected = fn(&TypedError) -> bool;
    let table: [(&str, u32, Value, IsExpected); 6] = [
        (
            "closed",
            1,
            json!({}),
            |error| matches!(error, TypedError::UnknownType { index: 1, event_type } if event_type == "closed"),
        ),
        ("opened", 4, json!({}), |error| {
            matches!(error, TypedError::NewerSchema { index: 1, schema_version: 4, known: 3, .. })
        }),
        ("opened", 0, json!({}), |error| {
            matches!(error, TypedError::NoUpcaster { index: 1, schema_version: 0, .. })
        }),
        ("opened", 1, json!({"name": "Plato"}), |error| {
            matches!(error, TypedError::Upcast { index: 1, schema_version: 1, .. })
        }),
        ("deposited", 1, json!({"deposited": {"cents": -1}}), |error| {
            matches!(error, TypedError::Decode { index: 1, .. })
        }),
        ("opened", 3, json!({"deposited": {"cents": 1}}), |error| {
            matches!(error, TypedError::Decode { index: 1, .. })
        }),
    ];
    for (event_type, schema_version, content, is_expected) in table {
        let store = store().upcasters(upcasters()).unwrap();
        deposit(&store, 1);
        put(&store, event_type, schema_version, &content);
        deposit(&store, 1);
        let error = store.load::<Account>(STREAM).unwrap_err();
        assert!(is_expected(&error), "{event_type} {schema_version}: {error:?}");
        let kinds: Vec<_> = store.events(STREAM, ..).unwrap().map(|event| event.is_ok()).collect();
        assert_eq!(kinds, [true, false, true]);
    }
    for header in [None, Some(&b""[..]), Some(b"not ours"), Some(b"KE\x02\0\0\0\0\0\0\0")] {
        let store = store();
        let header = header.map(Bytes::from_static);
        let reference = store.wal().append_entry(STREAM, header, "{}", true).unwrap();
        let error = store.read(reference).unwrap_err();
        assert!(matches!(error, TypedError::NotAnEvent { index: 0, .. }), "{error}");
    }
}

#[test]
fn upcasters_that_lead_nowhere_are_refused() {
    let same = |old: Value| Ok(old);
    let none = || Upcasters::<Json>::new();
    for (upcasters, part) in [
        (none().step("closed", 1, same), "no event of type"),
        (none().step("opened", 3, same), "its newest is 3"),
        (none().step("opened", 1, same), "no step from version 2"),
        (none().step("opened", 2, same).step("opened", 2, same), "two steps"),
    ] {
        let error = store().upcasters(upcasters).unwrap_err();
        assert!(matches!(error, TypedError::Upcasters(_)) && error.to_string().contains(part));
    }
    assert!(store().upcasters(none().step("opened", 2, same)).is_ok(), "1 may be retired");
}

#[test]
fn loading_goes_on_from_the_newest_snapshot() {
    let sim = SimDir::new(1);
    let store = store_on(&sim);
    assert_eq!((load(&store).version, load(&store).snapshot), (0, None));
    store.save_snapshot(STREAM, &load(&store)).unwrap();
    assert_eq!(store.wal().next_index(SNAPSHOTS).unwrap(), 0, "nothing to save");
    for saved in [10, 20] {
        deposit(&store, 10);
        store.save_snapshot(STREAM, &load(&store)).unwrap();
        deposit(&store, 3);
        let loaded = load(&store);
        assert_eq!(loaded.snapshot, Some(saved + 3 * (saved / 10 - 1)));
        assert_eq!((loaded.replayed, loaded.passed_over.is_none()), (3, true));
    }
    assert_eq!(store.replay::<Account>(STREAM, 4).unwrap().aggregate.cents, 10);
    store.wal().shutdown().unwrap();
    drop(store);
    let mut loaded = load(&store_on(&sim));
    assert_eq!((loaded.snapshot, loaded.version, loaded.replayed), (Some(23), 26, 3));

    let store = store_on(&sim.after_kill());
    loaded.version = 99;
    let error = store.save_snapshot(STREAM, &loaded).unwrap_err();
    assert!(matches!(error, TypedError::SnapshotAhead { version: 99, actual: 26 }), "{error}");
}

#[test]
fn snapshots_of_no_use_are_passed_over_and_say_why() {
    let sim = SimDir::new(1);
    let store = store_on(&sim);
    deposit(&store, 5);
    store.save_snapshot(STREAM, &load(&store)).unwrap();
    deposit(&store, 5);
    let new = store.load::<NewAccount>(STREAM).unwrap();
    assert_eq!((new.snapshot, new.replayed, new.aggregate.0.events), (None, 10, 10));
    assert!(new.passed_over.unwrap().to_string().contains("version 1, not 2"));

    // An older one is better than none.
    let header = store.wal().get(SNAPSHOTS, 0).unwrap().unwrap().header;
    let cut = |bytes: usize| header.as_ref().map(|header| header.slice(..bytes));
    for (header, content) in [(None, "{}"), (cut(9), "{}"), (header.clone(), "not JSON")] {
        store.wal().append_entry(SNAPSHOTS, header, content, true).unwrap();
        let loaded = load(&store);
        assert_eq!((loaded.snapshot, loaded.replayed), (Some(5), 5));
        assert!(matches!(loaded.passed_over, Some(TypedError::Snapshot { .. })));
    }

    // Damage on the disk.
    let place = store.wal().get(SNAPSHOTS, 0).unwrap().unwrap().reference;
    let path = store.wal().segments(SNAPSHOTS).unwrap()[0].path.clone();
    store.wal().truncate_before(SNAPSHOTS, 0).unwrap();
    store.wal().shutdown().unwrap();
    drop(store);
    let mut image = sim.image();
    let name = path.file_name().unwrap().to_str().unwrap();
    let mut bytes = image.get(name).unwrap().to_vec();
    bytes[usize::try_from(place.offset).unwrap() + 40] ^= 1;
    image.set(name, bytes);
    let loaded = load(&store_on(&SimDir::from_image(&image, 1)));
    assert_eq!((loaded.snapshot, loaded.replayed), (None, 10));

    // Gone altogether.
    image.remove(name);
    let loaded = load(&store_on(&SimDir::from_image(&image, 1)));
    assert_eq!((loaded.snapshot, loaded.replayed), (None, 10));
}

#[test]
fn a_snapshot_of_another_history_is_of_no_use() {
    let store = store();
    deposit(&store, 5);
    store.save_snapshot(STREAM, &load(&store)).unwrap();
    store.wal().remove_key(STREAM).unwrap();
    for events in [1, 6] {
        deposit(&store, events);
        let loaded = load(&store);
        assert_eq!(loaded.snapshot, None);
        assert!(loaded.passed_over.unwrap().to_string().contains("not those of the stream"));
    }
    store.remove::<Account>(STREAM).unwrap();
    let loaded = load(&store);
    assert_eq!((loaded.version, loaded.passed_over.is_none()), (0, true));
    assert_eq!(store.wal().enumerate_keys().unwrap().count(), 0);
}

#[test]
fn what_a_snapshot_covers_can_go_and_it_takes_its_place() {
    let sim = SimDir::new(1);
    let store = store_on(&sim);
    assert_eq!(store.drop_covered::<Account>(STREAM).unwrap(), 0, "no snapshot");
    deposit(&store, 150);
    let early = load(&store);
    deposit(&store, 50);
    let all = load(&store);
    store.save_snapshot(STREAM, &all).unwrap();
    let dropped = store.drop_covered::<Account>(STREAM).unwrap();
    assert_eq!(store.wal().first_index(STREAM).unwrap(), dropped);
    assert!(dropped > 50, "{dropped}");
    // Exactly what is covered, in segments of their own, is gone, too.
    store.wal().truncate_before(STREAM, 200).unwrap();
    deposit(&store, 1);
    let loaded = store.load::<Account>(STREAM).unwrap();
    assert_eq!((loaded.version, loaded.replayed), (201, 1));
    assert_eq!(loaded.aggregate.cents, all.aggregate.cents + 1);
    for error in [
        store.replay::<Account>(STREAM, 3).unwrap_err(),
        store.load::<NewAccount>(STREAM).unwrap_err(),
    ] {
        assert!(matches!(error, TypedError::Gone { expected: 0, found: 200 }), "{error}");
    }
    // A slow one cannot save what leads nowhere.
    store.save_snapshot(STREAM, &early).unwrap_err();
    store.wal().shutdown().unwrap();
    drop(store);
    assert_eq!(store_on(&sim).load::<Account>(STREAM).unwrap().version, 201);
}

#[test]
fn a_power_cut_leaves_no_snapshot_ahead_of_its_events() {
    for journal_bytes in [0, 16 << 10] {
        cut_the_power(journal_bytes);
    }
}

fn cut_the_power(journal_bytes: u64) {
    let open = |sim: &SimDir| -> Store {
        let options = options().journal_bytes(journal_bytes);
        EventStore::new(Arc::new(Wal::open_in(Arc::new(sim.clone()), options).unwrap()), Json)
    };
    let sim = SimDir::new(1);
    let store = open(&sim).durability(Durability::Os);
    deposit(&store, 3);
    for _ in 0..2 {
        store.save_snapshot(STREAM, &load(&store)).unwrap();
        let batch = [deposited(5), deposited(6)];
        store.append(STREAM, ExpectedVersion::Any, &batch, &Metadata::default()).unwrap();
    }
    drop(store);
    let budget = CrashBudget { exhaustive_bits: 6, samples: 20, ..CrashBudget::default() };
    let mut snapshots_used = 0;
    for at in 0..=sim.trace_len() {
        sim.crash_images(at, &budget, &mut |image, choice| {
            let store = open(&SimDir::from_image(image, 1));
            let loaded = load(&store);
            let passed_over = loaded.passed_over.as_ref();
            assert!(passed_over.is_none(), "{choice}: {passed_over:?}");
            assert!(![4, 6].contains(&loaded.version), "{choice}: half a batch");
            snapshots_used += u64::from(loaded.snapshot.is_some());
            // And life goes on.
            deposit(&store, 1);
            load(&store);
        });
    }
    assert!(snapshots_used > 10, "{snapshots_used}");
}

#[test]
fn a_snapshot_whose_next_events_are_gone_is_of_no_use() {
    let store = store();
    deposit(&store, 150);
    let slow = load(&store);
    deposit(&store, 50);
    store.save_snapshot(STREAM, &load(&store)).unwrap();
    store.save_snapshot(STREAM, &slow).unwrap();
    assert_eq!(load(&store).snapshot, Some(150));
    store.wal().truncate_before(STREAM, 200).unwrap();
    let loaded = store.load::<Account>(STREAM).unwrap();
    assert_eq!((loaded.snapshot, loaded.version, loaded.aggregate.events), (Some(200), 200, 200));
    assert!(loaded.passed_over.unwrap().to_string().contains("are gone"));
}

/// Any format will do.
struct Upper;

impl Codec for Upper {
    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_string(value)?.to_uppercase().into_bytes())
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_str(&std::str::from_utf8(bytes)?.to_lowercase())?)
    }
}

/// Else `b/c` of `a` and `c` of `a/b` would have their snapshots under one key: what drops those of one drops
/// those of the other.
#[test]
fn an_aggregates_name_has_no_slash() {
    #[derive(Serialize, Deserialize, Debug, Default)]
    struct Slash;
    impl Aggregate for Slash {
        type Event = AccountEvent;
        const NAME: &'static str = "account/account:7";
        fn apply(&mut self, _: AccountEvent) {}
    }
    let store = store();
    let stream = "account:7/x";
    store.append(stream, 0, [&deposited(1)], &Metadata::default()).unwrap();
    store.save_snapshot(stream, &store.load::<Account>(stream).unwrap()).unwrap();
    // Its snapshots would be under the same key.
    store.append("x", 0, [&deposited(1)], &Metadata::default()).unwrap();
    let loaded = store.replay::<Slash>("x", 1).unwrap();
    let refused = [
        store.load::<Slash>("x").map(|_| ()),
        store.save_snapshot("x", &loaded),
        store.drop_covered::<Slash>("x").map(|_| ()),
        store.remove::<Slash>("x"),
    ];
    let told = |result: &Result<_, _>| matches!(result, Err(TypedError::AggregateName));
    assert!(refused.iter().all(told), "{refused:?}");
    assert_eq!(store.load::<Account>(stream).unwrap().snapshot, Some(1));
}

#[test]
fn the_format_is_the_users() {
    let dir = tempfile::tempdir().unwrap();
    let wal = Arc::new(Wal::new(dir.path(), WalOptions::default()).unwrap());
    let store: EventStore<AccountEvent, Upper> = EventStore::new(Arc::clone(&wal), Upper);
    store.append(STREAM, 0, [&deposited(1)], &Metadata::default()).unwrap();
    assert_eq!(wal.get(STREAM, 0).unwrap().unwrap().content, r#"{"DEPOSITED":{"CENTS":1}}"#);
    assert_eq!(store.load::<Account>(STREAM).unwrap().aggregate.cents, 1);
}

#[test]
fn a_batch_in_the_core_is_checked_against_the_index() {
    let sim = SimDir::new(1);
    let wal = common::logs::open(&sim);
    let batch = || [(None, Bytes::from("a")), (Some(Bytes::new()), Bytes::from("b"))];
    let refs = wal.append_batch_if("k", 0, batch(), true).unwrap();
    assert_eq!(wal.read_entry(refs[1]).unwrap().index, 1);
    let conflict = wal.append_batch_if("k", 0, batch(), true);
    assert!(matches!(conflict, Err(WalError::Conflict { expected: 0, actual: 2 })));
    assert!(wal.append_batch_if("k", 2, [], true).unwrap().is_empty());
    assert!(wal.append_batch_if("new", 1, [], true).is_err());
    assert_eq!(wal.next_index("k").unwrap(), 2);
    wal.shutdown().unwrap();
    assert!(matches!(wal.append_batch_if("k", 2, [], true), Err(WalError::Closed)));
}
